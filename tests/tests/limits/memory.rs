//! Memory for content on its way is of one size, however many send.

use atrn_tests::peer::Peer;
use atrn_tests::process::wait_until;
use atrn_tests::world::World;

use super::{content, limits, world};

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
    let mut first = within_content(&world, "203.0.113.1");
    let mut second = within_content(&world, "203.0.113.2");
    wait_until("all of it is taken", || {
        limits(&world)["memory_taken"] == 1 << 20
    });
    let mut third = within_content(&world, "203.0.113.3");
    third.ask(".", "452 4.3.1 Insufficient storage, try again later");
    let now = limits(&world);
    assert_eq!(now["memory_refused"], 1, "{now}");
    assert_eq!(now["memory_max"], 1 << 20, "{now}");

    // Who waits gets what becomes free.
    third.ask("MAIL FROM:<sender@source.example>", "250");
    third.ask("RCPT TO:<user@example.org>", "250");
    third.ask("DATA", "354");
    third.send("Subject: small");
    first.ask(".", "250 2.0.0");
    third.ask(".", "250 2.0.0");
    second.ask(".", "250 2.0.0");
    wait_until("all of it is free", || limits(&world)["memory_taken"] == 0);
    assert_eq!(world.queue_list().len(), 3);
}
