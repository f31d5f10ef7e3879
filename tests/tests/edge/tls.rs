//! STARTTLS at the edge (RFC 3207): offered to all, asked of nobody.

use atrn_tests::certs::{trusting_client, trusting_client_of, trusting_client_with_alpn};
use atrn_tests::message::{self, Message};
use atrn_tests::peer::Peer;
use atrn_tests::sender::Sender;
use atrn_tests::world::{Tls, World};

use super::{MAIL, RCPT, ask_all, session, transaction};

// covers: R3207-1
#[test]
fn starttls_is_offered_once_and_works_from_tls_1_2_on() {
    let world = World::start();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut peer = world.relay.smtp();
        assert!(
            peer.ehlo("client.source.example")
                .contains(&"STARTTLS".to_owned())
        );
        peer.ask("STARTTLS now", "501 5.5.4");
        peer.ask("STARTTLS", "220 2.0.0");
        peer.start_tls_client(&trusting_client_of(version));
        assert!(peer.tls_version().is_some());
        assert!(
            !peer
                .ehlo("client.source.example")
                .contains(&"STARTTLS".to_owned())
        );
        peer.ask("STARTTLS", "503 5.5.1");
        ask_all(
            &mut peer,
            &[
                (MAIL, "250"),
                (RCPT, "250"),
                ("DATA", "354"),
                (".", "250"),
                ("QUIT", "221"),
            ],
        );
        peer.expect_close();
    }
}

// covers: R3207-1
#[test]
fn starttls_is_not_offered_without_a_certificate() {
    let mut world = World::setup().tls(Tls::Off).start();
    let relay = &mut world.relay;
    relay.stop();
    relay.configure(|settings| {
        settings.table().remove("tls").expect("a [tls] table");
    });
    relay.start();
    let mut peer = relay.smtp();
    assert!(
        !peer
            .ehlo("client.source.example")
            .contains(&"STARTTLS".to_owned())
    );
    peer.ask("STARTTLS", "502 5.5.1");
}

/// What an attacker on the way puts behind STARTTLS in the clear must not be said inside TLS.
// covers: R3207-2
#[test]
fn nothing_said_behind_starttls_is_ever_used() {
    let world = World::start();
    for injected in [
        &b"RSET\r\n"[..],
        b"MAIL FROM:<evil@source.example>\r\n",
        b"\r\n",
        b"x",
    ] {
        let mut peer = session(&world);
        peer.send_octets(&[b"STARTTLS\r\n", injected].concat());
        peer.expect("554 5.5.1");
        peer.expect_close();
    }
    // The same in a segment of its own, before the handshake.
    let mut peer = session(&world);
    peer.ask("STARTTLS", "220");
    peer.send("MAIL FROM:<evil@source.example>");
    assert!(peer.try_start_tls_client(&trusting_client()).is_err());
}

// covers: R3207-2
#[test]
fn what_was_said_before_tls_is_forgotten() {
    let world = World::start();
    let mut peer = transaction(&world);
    peer.ask("STARTTLS", "220");
    peer.start_tls_client(&trusting_client());
    ask_all(
        &mut peer,
        &[
            ("DATA", "503"),
            (RCPT, "503"),
            (MAIL, "503 5.5.1"),
            ("EHLO secure.source.example", "250 "),
        ],
    );
    ask_all(
        &mut peer,
        &[
            ("DATA", "503"),
            (MAIL, "250"),
            (RCPT, "250"),
            ("DATA", "354"),
            (".", "250"),
        ],
    );
    let listed = world.queue_list();
    assert_eq!(listed.len(), 1);
    let id = listed[0]["id"].as_str().expect("an id");
    let content = world.relay.cli(&["queue", "cat", id]).expect_code(0).stdout;
    assert!(
        content.starts_with("Received: from secure.source.example "),
        "{content}"
    );
}

/// A handshake that fails is an error of that client alone: others go on, and it may come again without.
// covers: R3207-4
#[test]
fn a_failed_handshake_hurts_nobody() {
    let world = World::start();
    let mut other = transaction(&world);
    for garbage in [&b"\x16\x03\x01\xff\xff"[..], b"GET / HTTP/1.1\r\n\r\n", b""] {
        for _ in 0..3 {
            let mut peer = session(&world);
            peer.ask("STARTTLS", "220");
            peer.send_octets(garbage);
            drop(peer);
        }
    }
    let mut peer = session(&world);
    peer.ask("STARTTLS", "220");
    assert!(
        peer.try_start_tls_client(&trusting_client_with_alpn("h2"))
            .is_err(),
        "another protocol's client"
    );
    ask_all(
        &mut other,
        &[("DATA", "354"), (".", "250"), ("QUIT", "221")],
    );
    world.send(&[Message::new("user@example.org", message::plain(1))]);
    Sender::connect_starttls(world.relay.smtp_address())
        .send(&Message::new("user@example.org", message::plain(2)));
    assert_eq!(world.queue_list().len(), 3);
}

/// TLS is for those who can: the public Internet is not asked for it (RFC 3207 §4).
// covers: R3207-4
#[test]
fn tls_is_not_required() {
    let world = World::start();
    let mut peer = Peer::connect(world.relay.smtp_address());
    peer.expect("220");
    peer.ehlo("client.source.example");
    ask_all(
        &mut peer,
        &[(MAIL, "250"), (RCPT, "250"), ("DATA", "354"), (".", "250")],
    );
}
