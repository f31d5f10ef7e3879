//! The trace field that the relay puts on top (RFC 5321 §4.4), and what it finds there (§6.3).

use atrn_tests::certs::trusting_client;
use atrn_tests::message::stuffed;
use atrn_tests::peer::Peer;
use atrn_tests::world::World;

use super::{MAIL, RCPT, ask_all, session};

/// Sends a message in a session that has said hello; returns the content as it is held, and the queue id.
#[track_caller]
fn held(world: &World, peer: &mut Peer, mail: &str, rcpts: &[&str]) -> (String, String) {
    peer.ask(mail, "250");
    for rcpt in rcpts {
        peer.ask(rcpt, "250");
    }
    peer.ask("DATA", "354");
    peer.send_octets(&stuffed(b"Subject: x\r\n\r\n"));
    let reply = peer.expect("250 2.0.0 ");
    let id = reply["250 2.0.0 ".len()..]
        .split(' ')
        .next()
        .unwrap_or_default()
        .to_owned();
    let content = world
        .relay
        .cli(&["queue", "cat", &id])
        .expect_code(0)
        .stdout;
    (content, id)
}

/// The field with its date taken off, which must be one.
#[track_caller]
fn without_date(content: &str) -> &str {
    let field = content
        .strip_suffix("Subject: x\r\n\r\n")
        .expect("the content as it was sent");
    let (rest, date) = field
        .rsplit_once(";\r\n\t")
        .expect("a date behind a semicolon");
    let words: Vec<&str> = date.trim_end_matches("\r\n").split(' ').collect();
    let [weekday, day, month, year, time, zone] = words[..] else {
        panic!("not a date: {date:?}")
    };
    assert!(weekday.len() == 4 && weekday.ends_with(','), "{date}");
    assert!(day.parse::<u8>().is_ok_and(|day| day <= 31), "{date}");
    assert!(
        "JanFebMarAprMayJunJulAugSepOctNovDec".contains(month),
        "{date}"
    );
    assert!(year.parse::<u16>().is_ok_and(|year| year >= 2025), "{date}");
    assert!(time.split(':').count() == 3 && time.len() == 8, "{date}");
    assert!(
        zone.len() == 5 && zone.starts_with(['+', '-']) && zone[1..].parse::<u16>().is_ok(),
        "{date}"
    );
    rest
}

// covers: R5321-16, R3848-1
#[test]
fn the_received_field_says_who_brought_what_how_and_when() {
    let world = World::start();
    let mut peer = session(&world);
    let (content, id) = held(&world, &mut peer, MAIL, &[RCPT]);
    assert_eq!(
        without_date(&content),
        format!(
            "Received: from client.source.example ([127.0.0.1])\r\n\tby relay.example.net with ESMTP id {id}\r\n\tfor <user@example.org>"
        )
    );
    // Several recipients are not told of each other.
    let (content, id) = held(
        &world,
        &mut peer,
        MAIL,
        &[RCPT, "RCPT TO:<other@example.org>"],
    );
    assert_eq!(
        without_date(&content),
        format!(
            "Received: from client.source.example ([127.0.0.1])\r\n\tby relay.example.net with ESMTP id {id}"
        )
    );
}

// covers: R3848-1
#[test]
fn the_received_field_names_the_protocol() {
    let world = World::start();
    let utf8 = format!("{MAIL} SMTPUTF8");
    let with = |peer: &mut Peer, mail: &str| {
        let (content, _) = held(&world, peer, mail, &[RCPT]);
        let (_, rest) = content.split_once(" with ").expect("a protocol");
        rest.split(' ').next().unwrap_or_default().to_owned()
    };
    let mut peer = session(&world);
    assert_eq!(with(&mut peer, MAIL), "ESMTP");
    assert_eq!(with(&mut peer, &utf8), "UTF8SMTP");
    peer.ask("STARTTLS", "220");
    peer.start_tls_client(&trusting_client());
    peer.ehlo("client.source.example");
    assert_eq!(with(&mut peer, MAIL), "ESMTPS");
    assert_eq!(with(&mut peer, &utf8), "UTF8SMTPS");
    peer.ask("HELO client.source.example", "250");
    assert!(["SMTP", "SMTPS"].contains(&&*with(&mut peer, MAIL)));
}

/// Lines have 78 characters at most where a name allows it (RFC 5322 §2.1.1), and no value can break out.
// covers: R5321-16
#[test]
fn the_received_field_is_folded() {
    let world = World::start();
    let mut peer = world.relay.smtp();
    let name = format!("{}.example", ["nnnnnnnnnnnnnnnnnnnn"; 10].join("."));
    peer.ehlo(&name);
    let rcpt = format!("RCPT TO:<{}@example.org>", "l".repeat(64));
    let (content, _) = held(&world, &mut peer, MAIL, &[&rcpt]);
    let field = content
        .strip_suffix("Subject: x\r\n\r\n")
        .expect("the content as it was sent");
    for line in field.trim_end_matches("\r\n").split("\r\n") {
        let longest = line
            .split(['\t', ' '])
            .map(str::len)
            .max()
            .unwrap_or_default();
        assert!(line.len() <= 78 || longest > 70, "{line}");
        assert!(
            line.starts_with("Received: ") || line.starts_with(['\t', ' ']),
            "{line}"
        );
    }
    assert!(
        field.contains(&name) && field.contains(&"l".repeat(64)),
        "{field}"
    );
}

// covers: R5321-18
#[test]
fn a_message_that_goes_in_circles_is_stopped() {
    let world = World::start();
    let mut peer = session(&world);
    let way = |count: usize| {
        "RECEIVED: from a\r\n\tby b; Thu, 01 Jan 2026 12:00:00 +0000\r\n".repeat(count)
    };
    let inner = format!("Subject: x\r\n\r\n{}", way(200));
    for (content, reply) in [
        (way(100) + "\r\nText\r\n", "250 2.0.0"),
        (way(101) + "\r\nText\r\n", "554 5.4.6"),
        (way(1000) + "\r\nText\r\n", "554 5.4.6"),
        // In the body they are text.
        (inner, "250 2.0.0"),
    ] {
        ask_all(&mut peer, &[(MAIL, "250"), (RCPT, "250"), ("DATA", "354")]);
        peer.send_octets(&stuffed(content.as_bytes()));
        peer.expect(reply);
    }
    assert_eq!(world.queue_list().len(), 2);
}

// covers: R5321-18
#[test]
fn the_length_of_the_way_is_configurable() {
    let world = World::setup().relay("smtp.max_received", 30).start();
    let mut peer = session(&world);
    for (count, reply) in [(30, "250 2.0.0"), (31, "554 5.4.6")] {
        ask_all(&mut peer, &[(MAIL, "250"), (RCPT, "250"), ("DATA", "354")]);
        peer.send_octets(&stuffed(
            format!("{}\r\nText\r\n", "Received: x\r\n".repeat(count)).as_bytes(),
        ));
        peer.expect(reply);
    }
}
