//! Load balancers that say whose connection they pass on.

use atrn_tests::inside::Inside;
use atrn_tests::peer::Peer;
use atrn_tests::world::World;

use super::{content, greeted, world};

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Sends a message behind this header.
#[track_caller]
fn send(world: &World, header: &[u8]) {
    let mut peer = Peer::connect(world.relay.smtp_address());
    peer.send_octets(header);
    peer.expect("220 ");
    content(&mut peer);
    peer.send("Subject: s");
    peer.send("");
    peer.ask(".", "250 2.0.0");
    peer.ask("QUIT", "221");
}

// covers: RPROXY-1, R5321-16
#[test]
fn the_client_is_who_the_load_balancer_says() {
    let world = world().start();
    let v2_local = [V2, &[0x20, 0, 0, 0]].concat();
    let v2 = [
        V2,
        &[
            0x21, 0x11, 0, 12, 203, 0, 113, 9, 192, 0, 2, 1, 0x9c, 0x40, 0, 25,
        ],
    ]
    .concat();
    let cases: [(&[u8], &str); 5] = [
        (
            b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 25\r\n",
            "[203.0.113.7]",
        ),
        (
            b"PROXY TCP6 2001:db8::7 2001:db8::1 40000 25\r\n",
            "[IPv6:2001:db8::7]",
        ),
        (&v2, "[203.0.113.9]"),
        (&v2_local, "[127.0.0.1]"),
        (b"PROXY UNKNOWN\r\n", "[127.0.0.1]"),
    ];
    for (header, _) in cases {
        send(&world, header);
    }
    let inside = Inside::smtp();
    world.puller.set_target(&inside.target());
    assert_eq!(world.puller.pull().code, 0);
    let messages = inside.messages();
    for (message, (_, address)) in messages.iter().zip(cases) {
        let text = String::from_utf8_lossy(&message.content);
        let line = format!("from client.source.example ({address})");
        assert!(text.contains(&line), "{line}: {text}");
    }
    assert_eq!(messages.len(), cases.len());
    let log = world.relay.log();
    assert!(log.contains("peer=203.0.113.7:40000"), "{log}");
}

// covers: RPROXY-1
#[test]
fn who_says_nothing_of_it_is_not_heard() {
    let world = world().start();
    for octets in [
        b"EHLO client.example\r\n".as_slice(),
        b"PROXY TCP4 nobody 192.0.2.1 40000 25\r\nEHLO client.example\r\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 25 and more of it that never ends, so that it is longer than such a line may be by far\r\n",
        &[V2, &[0x21, 0x11, 0xff, 0xff]].concat(),
    ] {
        let mut peer = Peer::connect(world.relay.smtp_address());
        // It may be gone before the last octet.
        let _ = peer.try_send_octets(octets);
        peer.expect_close();
    }
    // One that never comes is not waited for either.
    Peer::connect(world.relay.smtp_address()).expect_close();
    let log = world.relay.log();
    for reason in [
        "not a PROXY header",
        "it is too long",
        "it did not come in time",
    ] {
        assert!(log.contains(reason), "{reason}\n{log}");
    }
}

// covers: RPROXY-1
#[test]
fn nobody_else_may_say_so() {
    let world = World::setup()
        .relay("smtp.proxy_protocol", vec!["192.0.2.0/24"])
        .start();
    let mut peer = world.relay.smtp();
    peer.ask("PROXY TCP4 203.0.113.7 192.0.2.1 40000 25", "500");
    peer.ehlo("client.example");
    assert!(!world.relay.log().contains("203.0.113.7"));
}

/// Places are counted from the accept on, or a load balancer could be made to hold any number.
#[test]
fn a_connection_without_its_header_takes_a_place() {
    let world = world().relay("smtp.max_connections", 2).start();
    let mut held = greeted(&world, "203.0.113.1");
    let silent = Peer::connect(world.relay.smtp_address());
    atrn_tests::process::wait_until("all places are taken", || {
        let mut peer = Peer::connect(world.relay.smtp_address());
        let _ = peer.try_send_octets(b"PROXY TCP4 203.0.113.2 192.0.2.1 40000 25\r\n");
        peer.try_line()
            .is_some_and(|line| line.starts_with("421 4.3.2 relay.example.net is busy"))
    });
    held.ask("NOOP", "250");
    drop(silent);
}
