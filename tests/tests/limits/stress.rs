//! A relay that is nearly full has less patience, until it is not.

use atrn_tests::process::wait_until;

use super::{from, greeted, limits, times_logged, world};

const BEGINS: &str = "nearly all connections are taken: less patience with everybody";
const ENDS: &str = "there is room again: usual patience";

// covers: R5321-22, R5321-46
#[test]
fn under_stress_patience_is_short_and_then_it_is_not() {
    let world = world()
        .relay("smtp.max_connections", 10)
        .relay("smtp.max_connections_per_ip", 8)
        .start();
    let mut idle: Vec<_> = (0..7).map(|_| greeted(&world, "203.0.113.1")).collect();
    assert_eq!(limits(&world)["stressed"].as_array().map(Vec::len), Some(0));
    let mut wrong = greeted(&world, "203.0.113.2");
    let now = limits(&world);
    assert_eq!(now["stressed"][0], "edge", "{now}");
    let shown = world.relay.cli(&["status"]).expect_code(0).stdout;
    assert!(shown.contains("UNDER STRESS: edge"), "{shown}");
    // One address has a part of its connections only.
    let mut denied = from(&world, "203.0.113.1");
    denied.expect("421 4.7.0 relay.example.net has too many connections from your address");

    // Three errors are enough.
    for _ in 0..3 {
        wrong.ask("XYZZY", "500");
    }
    wrong.ask("XYZZY", "500");
    wrong.expect("421 4.7.0 Too many errors, closing");
    wrong.expect_close();

    // Those that said nothing before it began have less time from now on as well: until there is room.
    let last = greeted(&world, "203.0.113.3");
    wait_until("the stress is over", || times_logged(&world, ENDS) == 1);
    let lines: Vec<String> = idle
        .iter_mut()
        .map(|peer| {
            peer.send("NOOP");
            peer.line()
        })
        .collect();
    let gone = lines
        .iter()
        .filter(|line| *line == "421 4.4.2 Timeout, closing");
    assert!(gone.count() >= 2, "{lines:?}");
    drop(last);
    assert_eq!(times_logged(&world, BEGINS), 1);
    let after = limits(&world);
    assert_eq!(
        after["stressed"].as_array().map(Vec::len),
        Some(0),
        "{after}"
    );
    assert_eq!(after["stress_begun"], 1, "{after}");
    let mut peer = greeted(&world, "203.0.113.2");
    for _ in 0..6 {
        peer.ask("XYZZY", "500");
    }
}
