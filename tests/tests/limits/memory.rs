//! Memory for content on its way is of one size, however many send.

use atrn_tests::peer::Peer;
use atrn_tests::process::wait_until;
use atrn_tests::world::World;

use super::{content, limits, times_logged, world};

/// More than the database takes: it goes through blocks on its way to a file.
const LINES: usize = 100;

/// A session within the content of a large message, as far as the relay has memory for it.
#[track_caller]
fn within_content(world: &World, address: &str) -> Peer {
    let mut peer = super::greeted(world, address);
    content(&mut peer);
    let line = format!("{}\r\n", "x".repeat(900));
    for _ in 0..LINES {
        peer.send_octets(line.as_bytes());
    }
    peer
}

// covers: R5321-22, R1870-2
#[test]
fn content_beyond_it_is_put_off_and_what_is_there_goes_on() {
    let world = world().relay("limits.memory", "1MiB").start();
    // A block of 256 KiB each, and the last quarter is for small mail.
    let mut first = within_content(&world, "203.0.113.1");
    let mut second = within_content(&world, "203.0.113.2");
    let mut third = within_content(&world, "203.0.113.3");
    wait_until("large content has its part", || {
        limits(&world)["memory_taken"] == 3 << 18
    });
    wait_until("that is stress", || limits(&world)["stressed"][0] == "edge");
    assert_eq!(times_logged(&world, STRESSED), 1);
    let mut fourth = within_content(&world, "203.0.113.4");
    fourth.ask(".", "452 4.3.1 Insufficient storage, try again later");
    let now = limits(&world);
    assert_eq!(now["memory_refused"], 1, "{now}");
    assert_eq!(now["memory_max"], 1 << 20, "{now}");

    // Small mail goes on, and large mail once there is room.
    small(&mut fourth);
    first.ask(".", "250 2.0.0");
    let mut fifth = within_content(&world, "203.0.113.4");
    for peer in [&mut second, &mut third, &mut fifth] {
        peer.ask(".", "250 2.0.0");
    }
    wait_until("all of it is free", || limits(&world)["memory_taken"] == 0);
    assert_eq!(world.queue_list().len(), 5);
}

/// Whoever opens many sessions leaves most of it to others.
#[test]
fn one_address_has_a_part_of_it() {
    let world = world().relay("limits.memory", "4MiB").start();
    let mut first = within_content(&world, "2001:db8::1");
    let mut second = within_content(&world, "2001:db8::2");
    second.ask(".", "452 4.3.1 Insufficient storage, try again later");
    let mut other = within_content(&world, "203.0.113.1");
    wait_until("both have theirs", || {
        limits(&world)["memory_taken"] == 1 << 19
    });
    for peer in [&mut first, &mut other] {
        peer.ask(".", "250 2.0.0");
    }
}

const STRESSED: &str = "nearly all memory for content is taken: less patience with everybody";

/// One more message in this session, of one line.
#[track_caller]
fn small(peer: &mut Peer) {
    peer.ask("MAIL FROM:<sender@source.example>", "250");
    peer.ask("RCPT TO:<user@example.org>", "250");
    peer.ask("DATA", "354");
    peer.send("Subject: small");
    peer.ask(".", "250 2.0.0");
}
