//! Who keeps a connection and brings nothing.

use std::time::Duration;

use super::{greeted, world};

// covers: R5321-22
#[test]
fn commands_without_a_message_come_to_an_end() {
    let world = world().relay("limits.max_commands", 20).start();
    let mut peer = greeted(&world, "203.0.113.1");
    // The last one brings what was too much.
    for _ in 0..=20 {
        peer.ask("NOOP", "250");
    }
    peer.expect("421 4.7.0 Too many commands, closing");
    peer.expect_close();
}

// covers: R5321-22
#[test]
fn who_only_says_noop_keeps_no_place_for_ever() {
    let world = world().relay("limits.max_idle_time", "2s").start();
    let mut peer = greeted(&world, "203.0.113.1");
    let reply = loop {
        peer.send("NOOP");
        let reply = peer.line();
        if !reply.starts_with("250") {
            break reply;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(reply, "421 4.4.2 Timeout, closing");
    peer.expect_close();
}

#[test]
fn a_transaction_has_a_time_in_all() {
    let world = world().relay("limits.max_transaction_time", "2s").start();
    let mut peer = greeted(&world, "203.0.113.1");
    super::content(&mut peer);
    // Content comes, and goes on coming.
    while peer.try_send_octets(&[b'x'; 900]).is_ok() && peer.try_send_octets(b"\r\n").is_ok() {
        if !peer.is_silent(Duration::from_millis(20)) {
            break;
        }
    }
    assert_eq!(peer.line(), "421 4.4.2 Timeout, closing");
}
