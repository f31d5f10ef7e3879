//! What EHLO offers, and that each offer is kept, to the corporate server and back.

use atrn_tests::inside::Inside;
use atrn_tests::message::{self, Message, stuffed};
use atrn_tests::world::World;

use super::{MAIL, RCPT, ask_all, pulled, session};

// covers: R1870-1, R2034-1, R2920-1, R3030-1, R3461-1, R6152-1, R6531-1, R3207-1
#[test]
fn the_offer() {
    let world = World::setup()
        .relay("smtp.max_message_size", "20MB")
        .start();
    let mut peer = world.relay.smtp();
    peer.send("EHLO client.source.example");
    let lines = peer.reply();
    assert!(lines[0] == "250-relay.example.net", "{lines:?}");
    let mut offer: Vec<&str> = lines[1..].iter().map(|line| &line[4..]).collect();
    offer.sort_unstable();
    let expected = [
        "8BITMIME",
        "CHUNKING",
        "DSN",
        "ENHANCEDSTATUSCODES",
        "PIPELINING",
        "SIZE 20000000",
        "SMTPUTF8",
        "STARTTLS",
    ];
    assert_eq!(offer, expected);
}

/// What the sender declared and asked for is seen again at the corporate server.
// covers: R3461-1, R6152-1, R1870-2
#[test]
fn parameters_travel_with_the_message() {
    let world = World::start();
    let mut peer = session(&world);
    let envid = format!("q+2B{}", "e".repeat(96));
    let rcpts = [
        " NOTIFY=NEVER",
        " NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;Bob+2Bx@example.org",
        " NOTIFY=DELAY",
        " ORCPT=utf-8;j+5Cx{FC}rgen@example.org",
        "",
    ];
    peer.ask(
        &format!("{MAIL} body=8bitmime ret=hdrs envid={envid}"),
        "250",
    );
    for (number, parameters) in rcpts.iter().enumerate() {
        peer.ask(
            &format!("RCPT TO:<user{number}@example.org>{parameters}"),
            "250",
        );
    }
    peer.ask("DATA", "354");
    peer.send_octets(&stuffed(&message::eight_bit()));
    peer.expect("250");
    ask_all(
        &mut peer,
        &[
            (&format!("{MAIL} RET=FULL BODY=7BIT"), "250"),
            (RCPT, "250"),
            ("DATA", "354"),
        ],
    );
    peer.send_octets(&stuffed(&message::plain(2)));
    peer.expect("250");

    let arrived = pulled(&world);
    for parameter in [" BODY=8BITMIME", " RET=HDRS", &format!(" ENVID={envid}")] {
        assert!(
            arrived[0].mail.contains(parameter),
            "{parameter}: {}",
            arrived[0].mail
        );
    }
    for (number, parameters) in rcpts.iter().enumerate() {
        assert_eq!(
            arrived[0].recipients[number],
            format!("<user{number}@example.org>{parameters}")
        );
    }
    let mail = &arrived[1].mail;
    assert!(
        mail.contains(" RET=FULL") && !mail.contains("ENVID") && !mail.contains("8BITMIME"),
        "{mail}"
    );
}

/// A message that is 8-bit goes as such also when its sender forgot to say so; one that is not, does not.
// covers: R6152-1
#[test]
fn eight_bit_content_is_known_as_such() {
    let world = World::start();
    let mut peer = session(&world);
    for content in [message::eight_bit(), message::plain(1)] {
        ask_all(&mut peer, &[(MAIL, "250"), (RCPT, "250"), ("DATA", "354")]);
        peer.send_octets(&stuffed(&content));
        peer.expect("250");
    }
    let arrived = pulled(&world);
    let declared = arrived
        .iter()
        .map(|arrived| arrived.mail.contains("BODY=8BITMIME"));
    assert_eq!(declared.collect::<Vec<_>>(), [true, false]);
}

/// The corporate server offers nothing: what can be dropped is dropped, and the message goes.
// covers: R3461-1
#[test]
fn parameters_that_the_corporate_server_does_not_know_are_dropped() {
    let inside = Inside::offering(atrn_tests::inside::Offer::keywords(&[]));
    let world = World::setup().target(&inside.target()).start();
    let mut peer = session(&world);
    ask_all(
        &mut peer,
        &[
            (
                &format!("{MAIL} SIZE=100 BODY=7BIT RET=FULL ENVID=x"),
                "250",
            ),
            (
                "RCPT TO:<user@example.org> NOTIFY=FAILURE ORCPT=rfc822;user@example.org",
                "250",
            ),
            ("DATA", "354"),
        ],
    );
    peer.send_octets(&stuffed(&message::plain(1)));
    peer.expect("250");
    assert_eq!(world.puller.pull().code, 0);
    let arrived = &inside.messages()[0];
    assert_eq!(arrived.mail, "<sender@source.example>");
    assert_eq!(arrived.recipients, ["<user@example.org>"]);
}

/// What others found stays as it is: only what claims to be ours is removed (RFC 8601 §5).
// covers: R5321-19, R8601-1
#[test]
fn header_fields_are_left_alone() {
    let world = World::start();
    let content = b"Return-Path: <forged@source.example>\r\n\
        Authentication-Results: mx.elsewhere.example; spf=pass\r\n\
        Received: from x by y; Thu, 01 Jan 2026 12:00:00 +0000\r\n\
        bcc: hidden@example.org\r\n\
        Subject: =?broken\r\n\
        \tfolded  \r\n\
        not a header field\r\n\r\nText\r\n";
    world.send(&[Message::new("user@example.org", &content[..])]);
    let arrived = pulled(&world);
    let arrived = &arrived[0].content;
    assert!(arrived.ends_with(content), "{}", arrived.escape_ascii());
    let added = String::from_utf8_lossy(&arrived[..arrived.len() - content.len()]).into_owned();
    let fields = added
        .split("\r\n")
        .filter(|line| !line.is_empty() && !line.starts_with(['\t', ' ']));
    assert!(
        fields.clone().count() == 2 && fields.clone().all(|field| field.starts_with("Received: ")),
        "{added}"
    );
}
