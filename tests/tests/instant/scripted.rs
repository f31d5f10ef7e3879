//! The real relay and pullers in the hands of the test.

use std::time::Duration;

use atrn_tests::message::{self, Message};
use atrn_tests::peer::Peer;
use atrn_tests::process::wait_until;
use atrn_tests::taker::{STREAMING, Taker};
use atrn_tests::world::{ACCOUNT, World};

fn send(world: &World, number: usize) {
    world.send(&[Message::new("user@example.org", message::plain(number))]);
}

#[track_caller]
fn wait_for_waiting(world: &World, count: u64) {
    wait_until("sessions wait", || {
        world.relay.account_status(ACCOUNT)["waiting"] == count
    });
}

/// Asks, and waits.
#[track_caller]
fn asking(world: &World, wait: u32) -> Peer {
    let mut peer = world.relay.odmr_authenticated();
    peer.send(&format!("ATRN XWAIT={wait}"));
    peer
}

// covers: R2920-3, R2645-13
#[test]
fn nothing_may_stand_behind_an_atrn_that_waits() {
    let world = World::start();
    let mut peer = asking(&world, 60);
    wait_for_waiting(&world, 1);
    peer.send("NOOP");
    peer.expect("554 5.5.");
    peer.expect_close();
    wait_for_waiting(&world, 0);
    send(&world, 1);
    assert_eq!(world.relay.queue_lines(), ["user@example.org queued 0"]);
}

/// Who came last is surely there; a connection that waits for long may be dead.
// covers: R2645-12
#[test]
fn who_came_last_is_told_and_nobody_else() {
    let world = World::start();
    let mut first = asking(&world, 60);
    wait_for_waiting(&world, 1);
    let mut second = asking(&world, 60);
    wait_for_waiting(&world, 2);
    send(&world, 1);
    second.expect("250 2.0.0");
    assert!(first.is_silent(Duration::from_millis(200)));
    // Who is at work may take what comes, or not; who waits does.
    send(&world, 2);
    first.expect("250 2.0.0");
    let mut takers = [first, second].map(|peer| Taker::turned(peer, &STREAMING));
    let mut taken = 0;
    for taker in &mut takers {
        for offered in taker.until_silence() {
            taker.take(&offered);
            taken += 1;
        }
    }
    assert_eq!(taken, 2);
    world.relay.wait_for_queue(&[]);
}

/// What a session had claimed that is gone is told to the next that waits.
// covers: OWN-2, R2645-12
#[test]
fn mail_of_a_session_that_is_gone_goes_to_the_next_that_waits() {
    let world = World::start();
    let mut first = asking(&world, 60);
    wait_for_waiting(&world, 1);
    let mut second = asking(&world, 60);
    wait_for_waiting(&world, 2);
    send(&world, 1);
    second.expect("250 2.0.0");
    let mut taker = Taker::turned(second, &STREAMING);
    let offered = taker.message();
    drop(taker);
    first.expect("250 2.0.0");
    let mut taker = Taker::turned(first, &STREAMING);
    let again = taker.message();
    assert_eq!(again.name(), offered.name());
    taker.take(&again);
    world.relay.wait_for_queue(&[]);
}

// covers: R5321-22
#[test]
fn a_relay_that_stops_tells_those_who_wait() {
    let mut world = World::start();
    let mut before = asking(&world, 60);
    wait_for_waiting(&world, 1);
    send(&world, 1);
    before.expect("250 2.0.0");
    let mut taker = Taker::turned(before, &STREAMING);
    let offered = taker.message();
    taker.take(&offered);
    let mut waiting = asking(&world, 60);
    wait_for_waiting(&world, 2);
    assert_eq!(world.relay.stop(), 0);
    waiting.expect("421 4.3.2");
    waiting.expect_close();
    taker.quit();
    assert!(
        !world.relay.log().contains("did not end in time"),
        "{}",
        world.relay.log()
    );
}

/// A session without XWAIT ends when there is no more, as it always did.
// covers: R2645-23
#[test]
fn who_does_not_ask_to_wait_is_let_go() {
    let world = World::start();
    let mut peer = world.relay.odmr_authenticated();
    peer.ask("ATRN", "453 ");
    send(&world, 1);
    let taken = Taker::open(&world.relay, &STREAMING).take_the_rest();
    assert_eq!(taken.len(), 1);
}

/// Whatever a puller says while nothing is asked of it ends its session.
// covers: R5321-25
#[test]
fn a_puller_that_speaks_unasked_in_an_idle_session_is_let_go() {
    for word in ["250 2.0.0 what?", "421 4.3.2 going down", "NOOP"] {
        let world = World::start();
        send(&world, 1);
        let mut peer = asking(&world, 60);
        peer.expect("250 2.0.0");
        let mut taker = Taker::turned(peer, &STREAMING);
        let offered = taker.message();
        taker.take(&offered);
        wait_for_waiting(&world, 1);
        taker.peer().send(word);
        while let Some(line) = taker.peer().try_line() {
            assert_eq!(line, "QUIT");
        }
        wait_for_waiting(&world, 0);
    }
}
