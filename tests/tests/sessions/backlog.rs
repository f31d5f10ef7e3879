//! The real puller opens sessions as the backlog warrants, and closes them.

use std::collections::BTreeMap;
use std::time::Duration;

use atrn_tests::inside::{Inside, Step};
use atrn_tests::message::{self, Message, without_trace};
use atrn_tests::process::wait_until;
use atrn_tests::sender;
use atrn_tests::tap::{End, Tap};
use atrn_tests::world::{Tls, World};

/// Several times what one session claims ahead.
const COUNT: usize = 1600;
const SENDERS: usize = 8;

/// Sent side by side, each eighth by one sender.
fn send(world: &World, numbers: std::ops::Range<usize>) {
    let lists = (0..SENDERS).map(|sender| {
        let own = numbers.clone().filter(|number| number % SENDERS == sender);
        let message = |number| {
            Message::new("user@example.org", message::plain(number))
                .from(&format!("s{sender}@source.example"))
        };
        own.map(message).collect()
    });
    sender::send_side_by_side(world.relay.smtp_address(), lists.collect());
}

#[track_caller]
fn assert_each_once(inside: &Inside, numbers: std::ops::Range<usize>) {
    let mut counts = BTreeMap::new();
    for arrived in inside.messages() {
        *counts
            .entry(without_trace(&arrived.content).to_vec())
            .or_insert(0) += 1;
    }
    let expected: BTreeMap<_, _> = numbers.map(|number| (message::plain(number), 1)).collect();
    assert_eq!(counts, expected);
}

/// A world, and a tap on the way to its relay.
fn world(inside: &Inside, mode: &str, sessions: i64) -> (World, Tap) {
    let world = World::setup()
        .tls(Tls::Off)
        .target(&inside.target())
        .relay("odmr.min_interval", "0s")
        .puller("relay.mode", mode)
        .puller("relay.sessions", sessions)
        .puller("relay.every", "1h")
        .puller("relay.jitter", "0s")
        .start();
    let tap = Tap::to(world.relay.odmr_address());
    world.puller.configure(|settings| {
        settings.set("relay.address", tap.address().to_string());
    });
    (world, tap)
}

/// Sessions that carried mail.
fn carriers(tap: &Tap) -> usize {
    let heard = tap.heard();
    let carries = |connection: &usize| {
        let mut said = heard.said.iter();
        said.any(|said| said.connection == *connection && said.line.starts_with("MAIL FROM:"))
    };
    (0..heard.connections).filter(carries).count()
}

// covers: R2645-12
#[test]
fn a_backlog_gets_more_sessions_and_each_message_takes_one_of_them() {
    for mode in ["poll", "instant"] {
        let inside = Inside::smtp();
        // A target that takes its time is what makes more sessions worth their while.
        inside
            .on(Step::EndOfData)
            .take_time(Duration::from_millis(2));
        let (mut world, tap) = world(&inside, mode, 3);
        send(&world, 0..COUNT);
        world.puller.start();
        inside.wait_for_messages(COUNT);
        world.relay.wait_for_queue(&[]);
        assert_each_once(&inside, 0..COUNT);
        let carriers = carriers(&tap);
        assert!(
            (2..=3).contains(&carriers),
            "{mode}: {carriers} sessions carried mail"
        );
        // The extra ones go by themselves, and one that waits stays.
        let stays = usize::from(mode == "instant");
        tap.wait_until("the extra sessions end", |heard| heard.open() == stays);
        let waits = tap.heard();
        let asked: Vec<_> = waits
            .said
            .iter()
            .filter(|said| said.by == End::Puller && said.line.contains(" XWAIT="))
            .map(|said| said.connection)
            .collect();
        assert!(
            asked.iter().all(|connection| *connection == 0),
            "{mode}: {asked:?}"
        );
        if mode == "instant" {
            send(&world, COUNT..COUNT + 10);
            inside.wait_for_messages(COUNT + 10);
            assert_each_once(&inside, 0..COUNT + 10);
        }
        assert_eq!(world.puller.stop(), 0);
    }
}

// covers: R2645-12
#[test]
fn one_session_is_all_where_one_is_configured_or_enough() {
    for (sessions, count) in [(1, COUNT / 2), (3, 60)] {
        let inside = Inside::smtp();
        let (mut world, tap) = world(&inside, "instant", sessions);
        send(&world, 0..count);
        world.puller.start();
        inside.wait_for_messages(count);
        world.relay.wait_for_queue(&[]);
        assert_each_once(&inside, 0..count);
        assert_eq!(
            tap.heard().connections,
            1,
            "{sessions} sessions, {count} messages"
        );
    }
}

/// A pull by hand does as the daemon does, and ends when all of its sessions have.
// covers: R2645-12, R2645-17
#[test]
fn a_pull_by_hand_has_more_sessions_too() {
    let inside = Inside::smtp();
    inside
        .on(Step::EndOfData)
        .take_time(Duration::from_millis(2));
    let (world, tap) = world(&inside, "poll", 3);
    send(&world, 0..COUNT);
    let _ = world.puller.pull().expect_code(0);
    assert_each_once(&inside, 0..COUNT);
    world.relay.wait_for_queue(&[]);
    let carriers = carriers(&tap);
    assert!(
        (2..=3).contains(&carriers),
        "{carriers} sessions carried mail"
    );
}

/// Killed in the middle of it, on either side, and gone on with.
// covers: R-DUP, OWN-4, OWN-5
#[test]
fn a_stop_in_the_middle_of_several_sessions_loses_and_doubles_nothing() {
    let inside = Inside::smtp();
    inside
        .on(Step::EndOfData)
        .take_time(Duration::from_millis(2));
    let (mut world, tap) = world(&inside, "instant", 3);
    send(&world, 0..COUNT);
    world.puller.start();
    tap.wait_until("sessions side by side", |heard| {
        heard.count(End::Relay, "EHLO ") >= 2
    });
    assert_eq!(world.puller.stop(), 0, "{}", world.puller.log());
    let taken = inside.messages().len();
    assert!(taken < COUNT, "{taken} were too many for this test");
    wait_until("no session has anything", || {
        world.relay.status()["leased"] == 0
    });
    // What overtook a message that was not begun yet is answered next time, by its name.
    let left = world.queue_list().len();
    assert!(
        left >= COUNT - taken && left < COUNT,
        "{left} left, {taken} taken"
    );
    world.puller.start();
    inside.wait_for_messages(taken + (COUNT - taken) / 2);
    world.relay.kill();
    world.relay.start();
    world.relay.wait_for_queue(&[]);
    // The journal knows what the killed relay did not hear of.
    assert_each_once(&inside, 0..COUNT);
}
