//! Connections cut at each step of a reversed session, on both hops: nothing is lost, `queue list` tells the truth,
//! the next pull delivers, and the corporate server never sees the end of a message that was cut.

use std::collections::BTreeSet;

use atrn_tests::inside::{Inside, Record, Step};
use atrn_tests::message::{self, Message, assert_same_content, without_trace};
use atrn_tests::peer::Peer;
use atrn_tests::world::{ACCOUNT, World};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const NONE: [&str; 0] = [];
const QUEUED: [&str; 1] = ["ann@example.org queued 0"];

/// The relay is alone with the mail again, and a pull brings it.
#[track_caller]
fn assert_nothing_lost(world: &World, inside: &Inside, content: &[u8], what: &str) {
    world.relay.wait_for_queue(&QUEUED);
    assert_eq!(world.relay.status()["leased"], 0, "{what}");
    inside.behave();
    let before = inside.messages().len();
    let _ = world.puller.pull().expect_code(0);
    let arrived = inside.messages();
    assert_eq!(arrived.len(), before + 1, "{what}");
    assert_same_content(what, content, &arrived[before].content);
    assert_eq!(world.relay.queue_lines(), NONE, "{what}");
}

/// Small messages go in one flight with their envelope, big ones wait for its verdict, and are in a spool file.
fn sizes() -> [Vec<u8>; 2] {
    [message::plain(1), message::big(5_000_000)]
}

/// What a scripted puller does before it goes.
type Steps = fn(&mut Peer);

/// A puller that is gone, step by step; a scripted one, as the real one cannot be stopped between two lines.
// covers: OWN-1, OWN-2, OWN-3, OWN-4, OWN-5, OWN-7a, R2645-19, R5321-26
#[test]
fn a_puller_that_goes_away_at_any_step_has_taken_nothing() {
    let inside = Inside::smtp();
    let world = World::setup().target(&inside.target()).start();
    let steps: [(&str, Steps); 11] = [
        ("before its greeting", |_| {}),
        ("after its greeting", |peer| {
            peer.send("220 puller.example.org ESMTP");
            peer.expect_command("EHLO ");
        }),
        ("after half a reply", |peer| {
            peer.send("220 puller.example.org ESMTP");
            peer.expect_command("EHLO ");
            peer.send("250-puller.example.org");
        }),
        ("after EHLO", |peer| open(peer, &[])),
        ("after MAIL", |peer| {
            open(peer, &[]);
            take(peer, 1);
        }),
        ("after RCPT", |peer| {
            open(peer, &[]);
            take(peer, 2);
        }),
        ("after DATA", |peer| {
            open(peer, &[]);
            take(peer, 2);
            peer.expect_command("DATA");
            peer.send("354 go ahead");
        }),
        ("in the content", |peer| {
            open(peer, &[]);
            take(peer, 2);
            peer.expect_command("DATA");
            peer.send("354 go ahead");
            peer.octets(100);
        }),
        ("after the dot", |peer| {
            open(peer, &[]);
            take(peer, 2);
            peer.expect_command("DATA");
            peer.send("354 go ahead");
            peer.content();
        }),
        ("in a chunk", |peer| {
            open(peer, &["PIPELINING", "CHUNKING"]);
            take(peer, 2);
            peer.expect_command("BDAT ");
            peer.octets(100);
        }),
        ("after a chunk", |peer| {
            open(peer, &["PIPELINING", "CHUNKING"]);
            take(peer, 2);
            let line = peer.expect_command("BDAT ");
            let octets = line.split(' ').nth(1).unwrap().parse().unwrap();
            peer.octets(octets);
        }),
    ];
    for content in sizes() {
        for (what, step) in &steps {
            world.send(&[Message::new("ann@example.org", content.clone())]);
            let mut peer = world.relay.odmr_authenticated();
            peer.ask("ATRN", "250 ");
            step(&mut peer);
            drop(peer);
            assert_nothing_lost(&world, &inside, &content, what);
        }
    }
}

/// The reversed session up to the first MAIL.
fn open(peer: &mut Peer, keywords: &[&str]) {
    peer.send("220 puller.example.org ESMTP");
    peer.expect_command("EHLO ");
    peer.send("250-puller.example.org");
    for keyword in keywords {
        peer.send(&format!("250-{keyword}"));
    }
    peer.send("250 8BITMIME");
}

/// Accepts so many commands of the envelope.
fn take(peer: &mut Peer, commands: usize) {
    for command in ["MAIL FROM:", "RCPT TO:"].iter().take(commands) {
        peer.expect_command(command);
        peer.send("250 ok");
    }
}

/// The real puller is killed while the corporate server is at a step of the message.
// covers: OWN-2, OWN-3, OWN-4, R3030-3, R5321-23
#[test]
fn a_killed_puller_leaves_no_end_of_data_behind() {
    for content in sizes() {
        for step in [
            Step::Mail,
            Step::Rcpt,
            Step::Data,
            Step::Content,
            Step::EndOfData,
        ] {
            let what = format!("killed at {step:?}");
            let (mut world, inside) = stalled_at(step, &content);
            world.puller.kill();
            world.relay.wait_for_queue(&QUEUED);
            inside.release();
            let record = inside.wait_until("the session ends", |record| record.ended == 1);
            // Whoever has the end of the data may keep it: that is the window in which a duplicate is possible. A
            // small message is in the socket with its end when its first line is read.
            let has_end = match step {
                Step::Content => content.len() < 100_000,
                step => step == Step::EndOfData,
            };
            let is_torn = step == Step::Content && !has_end;
            assert_eq!(record.messages.len(), usize::from(has_end), "{what}");
            assert_eq!(record.torn.len(), usize::from(is_torn), "{what}");
            assert_nothing_lost(&world, &inside, &content, &what);
        }
    }
}

/// A world in whose first pull the corporate server stalls at a step.
fn stalled_at(step: Step, content: &[u8]) -> (World, Inside) {
    let inside = Inside::smtp();
    inside.on(step).once().stall();
    let mut world = World::setup().target(&inside.target()).start();
    world.send(&[Message::new("ann@example.org", content)]);
    world.puller.begin_pull();
    inside.wait_until("a stalled session", |record| record.stalled == 1);
    assert_eq!(world.relay.queue_lines(), ["ann@example.org leased 0"]);
    (world, inside)
}

// covers: OWN-3, R3030-3
#[test]
fn a_killed_relay_leaves_no_end_of_data_behind() {
    let content = message::big(20_000_000);
    let (mut world, inside) = stalled_at(Step::Content, &content);
    world.relay.kill();
    inside.release();
    let record = inside.wait_until("the session ends", |record| record.ended == 1);
    assert_eq!((record.messages.len(), record.torn.len()), (0, 1));
    assert_eq!(world.puller.pulled(), 75);
    world.relay.start();
    assert_nothing_lost(&world, &inside, &content, "relay killed");
}

/// Killed at no moment in particular: what was acknowledged inside may come again, and nothing is missing.
// covers: OWN-5, OWN-6
#[test]
fn a_relay_that_is_killed_again_and_again_delivers_everything() {
    const COUNT: usize = 400;
    let inside = Inside::smtp();
    let mut world = World::setup().target(&inside.target()).start();
    let sent: Vec<_> = (0..COUNT).map(message::plain).collect();
    let messages: Vec<_> = sent
        .iter()
        .map(|content| Message::new("ann@example.org", content.clone()))
        .collect();
    world.send(&messages);
    for part in 1..=3 {
        world.puller.begin_pull();
        let enough = move |record: &Record| record.messages.len() >= part * COUNT / 5;
        inside.wait_until("some messages", enough);
        world.relay.kill();
        assert_eq!(world.puller.pulled(), 75);
        world.relay.start();
    }
    let _ = world.puller.pull().expect_code(0);
    let arrived: BTreeSet<_> = inside
        .messages()
        .iter()
        .map(|message| without_trace(&message.content).to_vec())
        .collect();
    assert_eq!(arrived, sent.into_iter().collect());
    assert_eq!(world.relay.queue_lines(), NONE);
}

/// The corporate server hangs up at a step, on every connection: the relay hears 451, and waits.
// covers: OWN-3, OWN-7, R5321-27
#[test]
fn a_target_that_hangs_up_at_any_step_has_taken_nothing() {
    let inside = Inside::smtp();
    let world = World::setup().target(&inside.target()).start();
    for content in sizes() {
        for step in [
            Step::Mail,
            Step::Rcpt,
            Step::Data,
            Step::Content,
            Step::EndOfData,
        ] {
            let what = format!("hangs up at {step:?}");
            let before = inside.record();
            inside.on(step).hang_up();
            world.send(&[Message::new("ann@example.org", content.clone())]);
            let _ = world.puller.pull().expect_code(0);
            assert_eq!(
                world.relay.queue_lines(),
                ["ann@example.org deferred 1"],
                "{what}"
            );
            let said = world.queue_list()[0]["last_reply"]
                .as_str()
                .unwrap()
                .to_owned();
            assert!(said.starts_with("451 4.4.2 "), "{what}: {said}");
            let after = inside.record();
            assert_eq!(after.messages.len(), before.messages.len(), "{what}");
            world.relay.retry_all();
            inside.behave();
            let _ = world.puller.pull().expect_code(0);
            let arrived = inside.messages();
            assert_eq!(arrived.len(), before.messages.len() + 1, "{what}");
            assert_same_content(&what, &content, &arrived.last().unwrap().content);
            assert_eq!(world.relay.queue_lines(), NONE, "{what}");
        }
    }
}

/// A connection gone stale between two messages is replaced before anybody notices; no content has flowed.
// covers: R5321-27
#[test]
fn a_connection_lost_before_the_content_costs_nothing() {
    for step in [Step::Mail, Step::Rcpt, Step::Data] {
        let inside = Inside::smtp();
        inside.on(step).after(1).once().hang_up();
        let world = World::setup().target(&inside.target()).start();
        let messages: Vec<_> = (0..3)
            .map(|number| Message::new("ann@example.org", message::plain(number)))
            .collect();
        world.send(&messages);
        let _ = world.puller.pull().expect_code(0);
        let arrived = inside.messages();
        assert_eq!(arrived.len(), 3, "{step:?}");
        for (sent, arrived) in messages.iter().zip(&arrived) {
            assert_same_content("reconnected", &sent.content, &arrived.content);
        }
        assert_eq!(inside.record().sessions, 2, "{step:?}");
    }
}

/// The corporate server has the message, and its answer is lost: it comes again rather than not at all.
// covers: OWN-4, OWN-7
#[test]
fn an_answer_that_is_lost_is_asked_for_again() {
    let inside = Inside::smtp();
    inside.on(Step::EndOfData).once().take_and_hang_up();
    let world = World::setup().target(&inside.target()).start();
    world.send(&[Message::new("ann@example.org", message::plain(1))]);
    let _ = world.puller.pull().expect_code(0);
    assert_eq!(world.relay.queue_lines(), ["ann@example.org deferred 1"]);
    world.relay.retry_all();
    let _ = world.puller.pull().expect_code(0);
    let arrived = inside.messages();
    assert_eq!(arrived.len(), 2);
    assert_eq!(
        without_trace(&arrived[0].content),
        without_trace(&arrived[1].content)
    );
}

/// Both programs, told to stop, end at a message boundary: what is under way is settled, the rest stays.
// covers: R5321-22
#[test]
fn a_stop_waits_for_the_message_under_way() {
    const COUNT: usize = 400;
    for stopped in ["puller", "relay"] {
        let inside = Inside::smtp();
        inside.on(Step::EndOfData).once().stall();
        let mut world = World::setup().target(&inside.target()).start();
        let messages: Vec<_> = (0..COUNT)
            .map(|number| Message::new("ann@example.org", message::plain(number)))
            .collect();
        world.send(&messages);
        world.puller.begin_pull();
        inside.wait_until("a stalled session", |record| record.stalled == 1);
        if stopped == "puller" {
            let id = i32::try_from(world.puller.id().unwrap()).unwrap();
            kill(Pid::from_raw(id), Signal::SIGTERM).unwrap();
            inside.release();
            assert_eq!(world.puller.pulled(), 75);
        } else {
            world.relay.signal(Signal::SIGTERM);
            inside.release();
            assert_eq!(world.puller.pulled(), 0);
            assert_eq!(world.relay.stop(), 0);
            world.relay.start();
        }
        let taken = inside.messages().len();
        assert!(taken < COUNT, "{stopped} does not stop");
        world.relay.wait_for_queue(&vec![QUEUED[0]; COUNT - taken]);
        let _ = world.puller.pull().expect_code(0);
        // None twice: what was taken before the stop had its answer.
        assert_eq!(inside.messages().len(), COUNT, "{stopped}");
    }
}

/// What the queue shows is what is so: leased while it is under way, and how the last pull ended.
// covers: OWN-1, OWN-7a
#[test]
fn status_tells_how_a_pull_ended() {
    let (mut world, inside) = stalled_at(Step::EndOfData, &message::plain(1));
    let result = |world: &World| world.relay.account_status(ACCOUNT)["last_pull"]["result"].clone();
    assert_eq!(world.relay.status()["leased"], 1);
    assert_eq!(result(&world), "running");
    world.puller.kill();
    world.relay.wait_for_queue(&QUEUED);
    assert_eq!(world.relay.status()["leased"], 0);
    assert_eq!(result(&world), "broken");
    inside.release();
    let _ = world.puller.pull().expect_code(0);
    assert_eq!(result(&world), "complete");
}
