//! Name servers that are slow, silent or gone: mail goes on, and waits no longer than it must.

use std::time::Duration;

use atrn_tests::dns::{Answer, Dns, reverse_name};
use atrn_tests::process::wait_until;

use super::{ADDRESS, CLIENT, health, hello, hello_from, received_from, setup, timed};

/// The time that look-ups have when nothing is set.
const LIMIT: Duration = Duration::from_secs(5);

#[test]
fn silence_delays_a_message_by_five_seconds_and_no_more() {
    let dns = Dns::start();
    dns.answers_all(Answer::Silence);
    let world = setup(&dns).start();
    let mut peer = hello(&world, CLIENT);
    let (received, first) = timed(|| received_from(&world, &mut peer));
    assert!(
        received.ends_with(" ([192.0.2.1] RDNS failed)"),
        "{received}"
    );
    // A second message in the same session waits for nothing more: else this would take as long again.
    let (_, second) = timed(|| received_from(&world, &mut peer));
    assert!(first + second < 2 * LIMIT, "{first:?} and {second:?}");
}

#[test]
fn a_name_server_that_comes_back_is_asked_again() {
    let mut dns = Dns::start();
    for number in 1..=2 {
        let (address, name) = (format!("192.0.2.{number}"), format!("host{number}.example"));
        dns.ptr(&address, &name);
        dns.a(&name, &address);
    }
    let world = setup(&dns).start();
    dns.stop();
    let received = |number: u8| {
        let name = format!("host{number}.example");
        let mut peer = hello_from(&world, &format!("192.0.2.{number}"), &name);
        received_from(&world, &mut peer)
    };
    assert!(received(1).ends_with(" ([192.0.2.1] RDNS failed)"));
    dns.resume();
    assert!(received(2).ends_with(" (host2.example [192.0.2.2])"));
    // A failure is believed for some seconds, not for good.
    let expected = " (host1.example [192.0.2.1])";
    wait_until("another try", || received(1).ends_with(expected));
}

#[test]
fn a_connection_that_the_server_closed_costs_nothing() {
    let mut dns = Dns::start();
    for number in 1..=3 {
        let (address, name) = (format!("192.0.3.{number}"), format!("host{number}.example"));
        dns.ptr(&address, &name);
        dns.a(&name, &address);
    }
    let world = setup(&dns).start();
    for number in 1..=3 {
        let name = format!("host{number}.example");
        let mut peer = hello_from(&world, &format!("192.0.3.{number}"), &name);
        let received = received_from(&world, &mut peer);
        assert!(received.contains(&format!("({name} [")), "{received}");
        // Every connection ends, as after the time that name servers keep idle ones.
        dns.stop();
        dns.resume();
    }
}

#[test]
fn what_many_ask_at_once_is_asked_once() {
    let dns = Dns::start();
    dns.ptr(ADDRESS, CLIENT);
    dns.a(CLIENT, ADDRESS);
    let name = reverse_name(ADDRESS.parse().unwrap());
    let world = setup(&dns).start();
    let mut peers: Vec<_> = (0..20).map(|_| hello(&world, CLIENT)).collect();
    for peer in &mut peers {
        let received = received_from(&world, peer);
        assert!(received.contains("(client.source.example ["), "{received}");
    }
    assert_eq!(dns.asked(&name), 1);
    // Once for each family.
    assert_eq!(dns.asked(CLIENT), 2);
}

#[test]
fn status_says_how_look_ups_go() {
    let dns = Dns::start();
    dns.answers_all(Answer::ServFail);
    let world = setup(&dns).start();
    received_from(&world, &mut hello(&world, CLIENT));
    let health = health(&world);
    assert_eq!(health["state"], "running");
    assert_eq!(health["servers"][0], dns.address().to_string());
    assert_eq!(health["transport"], "tcp");
    assert!(health["failed"].as_u64() > Some(0), "{health}");
    assert!(health["last_failure"].is_string(), "{health}");
    assert!(health["last_answer"].is_null(), "{health}");
    let screen = world.relay.cli(&["status"]).expect_code(0).stdout;
    let line = screen.lines().find(|line| line.starts_with("names "));
    let line = line.expect("a line about names");
    assert!(line.contains(&dns.address().to_string()), "{line}");
    assert!(line.contains("no answer yet"), "{line}");
}
