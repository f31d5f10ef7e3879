//! How often an address may connect, and how many connections it may have.

use atrn_tests::peer::Peer;
use atrn_tests::ports::Port;
use atrn_tests::process::wait_until;

use super::{from, greeted, limits, world};

const TOO_OFTEN: &str =
    "421 4.7.0 relay.example.net hears from your address too often, try again later";
const TOO_MANY: &str =
    "421 4.7.0 relay.example.net has too many connections from your address, try again later";

// covers: R5321-22
#[test]
fn an_address_connects_so_often_in_a_minute() {
    let world = world()
        .relay("limits.connection_rate", 3)
        .relay("limits.exempt", vec!["198.51.100.0/24"])
        .start();
    for [address, neighbour] in [
        ["203.0.113.1", "203.0.113.1"],
        // All of a /64 is one.
        ["2001:db8:1:2::1", "2001:db8:1:2:ffff::1"],
    ] {
        (0..3).for_each(|_| drop(greeted(&world, address)));
        let mut denied = from(&world, neighbour);
        denied.expect(TOO_OFTEN);
        denied.expect_close();
    }
    drop(greeted(&world, "203.0.113.2"));
    drop(greeted(&world, "2001:db8:1:3::1"));
    (0..9).for_each(|_| drop(greeted(&world, "198.51.100.1")));
    let limits = limits(&world);
    assert_eq!(limits["denied"]["too_often"], 2, "{limits}");
    assert_eq!(limits["bans"], 0);
}

#[test]
fn pullers_and_monitors_connect_so_often_too() {
    let metrics = Port::reserve();
    let world = world()
        .relay("limits.connection_rate", 2)
        .relay("metrics.listen", metrics.address().to_string())
        .start();
    for (address, source) in [
        (world.relay.odmr_address(), "127.0.0.7"),
        (metrics.address(), "127.0.0.8"),
    ] {
        let connect = || Peer::connect_from(source.parse().expect("an address"), address);
        let held: Vec<Peer> = (0..2).map(|_| connect()).collect();
        // Neither speaks SMTP from the first octet: the close says it.
        connect().expect_close();
        drop(held);
    }
}

#[test]
fn a_network_of_ipv6_has_the_connections_of_one_address() {
    let world = world().relay("smtp.max_connections_per_ip", 2).start();
    let mut first = greeted(&world, "2001:db8::1");
    let second = greeted(&world, "2001:db8::2");
    let mut third = from(&world, "2001:db8::3");
    third.expect(TOO_MANY);
    third.expect_close();
    drop(greeted(&world, "2001:db8:0:1::1"));
    first.ask("NOOP", "250");
    drop(second);
    wait_until("there is room again", || {
        from(&world, "2001:db8::3").line().starts_with("220 ")
    });
}

#[test]
fn new_limits_hold_at_once() {
    let world = world().relay("limits.connection_rate", 1).start();
    drop(greeted(&world, "203.0.113.1"));
    from(&world, "203.0.113.1").expect(TOO_OFTEN);
    world.relay.configure(|settings| {
        settings.set("limits.connection_rate", 0);
    });
    wait_until("the new settings hold", || {
        from(&world, "203.0.113.1").line().starts_with("220 ")
    });
}
