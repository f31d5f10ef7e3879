//! Senders that nobody knows come back, and then they are known.

use atrn_tests::process::wait_until;
use atrn_tests::world::World;

use super::{greeted, limits, world};

const PUT_OFF: &str = "451 4.7.1 Not known here yet, try again in ";

/// The reply to RCPT.
#[track_caller]
fn reply(world: &World, address: &str, sender: &str, recipient: &str) -> String {
    let mut peer = greeted(world, address);
    peer.ehlo("client.source.example");
    peer.ask(&format!("MAIL FROM:<{sender}>"), "250");
    peer.ask(&format!("RCPT TO:<{recipient}>"), "")
}

#[test]
fn who_comes_back_is_known_also_after_a_restart() {
    let mut world = world().relay("smtp.greylist", "1s").start();
    let (sender, user) = ("sender@source.example", "user@example.org");
    let first = reply(&world, "203.0.113.1", sender, user);
    assert!(first.starts_with(PUT_OFF), "{first}");
    wait_until("it passes", || {
        reply(&world, "203.0.113.1", sender, user).starts_with("250 ")
    });
    // From a neighbour, from the same domain, to somebody else.
    let known = |world: &World| {
        reply(
            world,
            "203.0.113.77",
            "other@source.example",
            "postmaster@example.org",
        )
    };
    assert!(known(&world).starts_with("250 "));
    let other = reply(&world, "198.51.100.1", sender, user);
    assert!(other.starts_with(PUT_OFF), "{other}");
    let counted = limits(&world);
    assert!(
        counted["greylist_deferred"].as_u64() >= Some(2),
        "{counted}"
    );
    assert_eq!(counted["greylist_passed"], 2, "{counted}");

    assert_eq!(world.relay.stop(), 0);
    world.relay.start();
    assert!(known(&world).starts_with("250 "));
}

#[test]
fn who_is_exempt_never_waits_and_a_foreign_recipient_is_refused_for_good() {
    let world = world()
        .relay("smtp.greylist", "1h")
        .relay("limits.exempt", vec!["198.51.100.0/24"])
        .start();
    let (sender, user) = ("sender@source.example", "user@example.org");
    let exempt = reply(&world, "198.51.100.1", sender, user);
    assert!(exempt.starts_with("250 "), "{exempt}");
    let foreign = reply(&world, "203.0.113.1", sender, "user@elsewhere.example");
    assert!(foreign.starts_with("550 5.7.1"), "{foreign}");
    assert_eq!(limits(&world)["greylist_deferred"], 0);
}
