//! The transaction log of the real relay: what is in it of a message and of those who mean harm, and what never is.

use std::fs;
use std::path::PathBuf;

use atrn_tests::inside::Inside;
use atrn_tests::message::{self, Message};
use atrn_tests::process::wait_until;
use atrn_tests::taker::{STREAMING, Taker};
use atrn_tests::world::{ACCOUNT, World};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

fn folder(world: &World) -> PathBuf {
    world.relay.data_folder().join("log")
}

fn log(world: &World) -> String {
    fs::read_to_string(folder(world).join("transactions.log")).unwrap_or_default()
}

/// Every line but the directives: its fields by name.
fn records(log: &str) -> Vec<Vec<(String, String)>> {
    let mut names = Vec::new();
    let mut records = Vec::new();
    for line in log.lines() {
        if let Some(fields) = line.strip_prefix("#Fields: ") {
            names = fields.split(' ').map(str::to_owned).collect();
        } else if !line.starts_with('#') {
            let values: Vec<_> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(values.len(), names.len(), "{line}");
            records.push(names.iter().cloned().zip(values).collect());
        }
    }
    records
}

fn value<'r>(record: &'r [(String, String)], name: &str) -> &'r str {
    let found = record.iter().find(|(field, _)| field == name);
    &found.unwrap_or_else(|| panic!("no field {name}")).1
}

#[test]
fn a_session_is_there_from_open_to_close() {
    let inside = Inside::smtp();
    let mut world = World::setup().target(&inside.target()).start();
    let mut peer = world.relay.smtp();
    peer.ehlo("client.source.example");
    peer.ask("MAIL FROM:<sender@source.example>", "250 ");
    peer.ask("RCPT TO:<user@elsewhere.example>", "550 ");
    peer.ask("RCPT TO:<user@example.org>", "250 ");
    peer.ask("DATA", "354");
    peer.send_octets(b"Subject: x\r\nMessage-ID: <one@source.example>\r\n\r\ntext\r\n.\r\n");
    peer.expect("250 ");
    peer.ask("QUIT", "221 ");
    peer.expect_close();
    let _ = world.puller.pull().expect_code(0);
    // What was said is written at the latest when the relay ends.
    assert_eq!(world.relay.stop(), 0);
    let records = records(&log(&world));
    let methods = |service: &str| -> Vec<String> {
        let of = records.iter().filter(|record| {
            value(record, "s-sitename") == service && value(record, "sc-status") != "-"
        });
        of.map(|record| {
            format!(
                "{} {}",
                value(record, "cs-method"),
                value(record, "sc-status")
            )
        })
        .collect()
    };
    let edge = methods("smtp");
    let expected = [
        "EHLO 250",
        "MAIL 250",
        "RCPT 550",
        "RCPT 250",
        "DATA 354",
        "content 250",
        "QUIT 221",
    ];
    // Whether the relay answers was tried before.
    assert!(edge.ends_with(&expected.map(str::to_owned)), "{edge:?}");
    let odmr = methods("odmr");
    for said in ["AUTH 235", "ATRN 250", "MAIL 250", "RCPT 250"] {
        assert!(odmr.iter().any(|one| one == said), "{said}: {odmr:?}");
    }
    for event in [
        "connect",
        "tls",
        "login",
        "turned",
        "delivered",
        "settled",
        "close",
    ] {
        let is_there = |record: &Vec<_>| value(record, "cs-method") == event;
        assert!(records.iter().any(is_there), "{event}");
    }
    let content = records
        .iter()
        .find(|record| value(record, "cs-method") == "content");
    assert_eq!(
        value(content.unwrap(), "cs-uri-query"),
        "<one@source.example>"
    );
}

#[test]
fn no_secret_and_no_content_is_ever_in_it() {
    const SECRET: &str = "hunter2-correct-horse";
    const CONTENT: &str = "text-of-the-message-itself";
    let inside = Inside::smtp();
    let mut world = World::setup().target(&inside.target()).start();
    let initial = STANDARD.encode(format!("\0{ACCOUNT}\0{SECRET}"));
    // On the Internet side nobody may log in, and people try.
    let mut peer = world.relay.smtp();
    peer.ehlo("client.source.example");
    peer.ask(&format!("AUTH PLAIN {initial}"), "50");
    peer.ask(&format!("AUTH {SECRET}"), "50");
    peer.ask(&STANDARD.encode(SECRET), "500 ");
    peer.ask(SECRET, "500 ");
    peer.ask("QUIT", "221 ");
    let mut peer = world.relay.odmr();
    peer.ehlo("puller.example.org");
    peer.ask(&format!("AUTH PLAIN {initial}"), "535 ");
    peer.ask("AUTH PLAIN", "334");
    peer.ask(&initial, "535 ");
    peer.ask(&format!("AUTH {SECRET}"), "50");
    peer.ask(SECRET, "500 ");
    peer.ask("QUIT", "221 ");
    world.send(&[Message::new(
        "user@example.org",
        format!("Subject: x\r\n\r\n{CONTENT}\r\n").into_bytes(),
    )]);
    let real = world.relay.secret(ACCOUNT).to_owned();
    let _ = world.puller.pull().expect_code(0);
    let mut peer = world.relay.odmr_authenticated();
    peer.ask("QUIT", "221 ");
    assert_eq!(world.relay.stop(), 0);
    let log = log(&world);
    let both = STANDARD.encode(format!("\0{ACCOUNT}\0{real}"));
    let encoded = STANDARD.encode(&real);
    let wrong = STANDARD.encode(SECRET);
    for secret in [SECRET, &initial, &wrong, CONTENT, &real, &both, &encoded] {
        let bare = secret.trim_end_matches('=');
        assert!(!log.contains(bare), "{bare} in\n{log}");
    }
    let logins = records(&log).into_iter().filter(|record| {
        value(record, "cs-method") == "login" && value(record, "x-text").contains("accepted")
    });
    assert!(logins.count() >= 2, "the pull, and the last session");
}

#[test]
fn nobody_writes_a_line_of_his_own() {
    let mut world = World::setup().relay("smtp.max_errors", 1000).start();
    let mut peer = world.relay.smtp();
    peer.ehlo("client.source.example");
    for line in [
        &b"EHLO [forged] 250\r\n"[..],
        b"VRFY 2026-11-21 10:00:00 192.0.2.9 - smtp - - - forged - 250\r\n",
        b"NOOP #Fields: forged\r\n",
        b"MAIL FROM:<\"a b\\\" forged\"@source.example>\r\n",
        b"RCPT TO:<x%0Aforged@example.org>\r\n",
        b"VRFY {\"event\":\"forged\"}\r\n",
        b"VRFY a\x0bb\x1b[2J\r\n",
        b"VRFY \xff\xfe forged\r\n",
        "VRFY \u{202e}forged\r\n".as_bytes(),
        b"VRFY a\rforged\r\n",
        b"VRFY a\nforged\r\n",
    ] {
        peer.send_octets(line);
        peer.reply();
    }
    peer.send_octets(b"QUIT\r\n");
    drop(peer);
    assert_eq!(world.relay.stop(), 0);
    let log = log(&world);
    assert!(log.is_ascii() && !log.contains(|c: char| c.is_control() && c != '\n'));
    for record in records(&log) {
        let methods = ["smtp", "odmr", "relay"];
        assert!(
            methods.contains(&value(&record, "s-sitename")),
            "{record:?}"
        );
        assert_ne!(value(&record, "cs-method"), "forged");
    }
    let headers = log.lines().filter(|line| line.starts_with("#Fields"));
    assert_eq!(headers.count(), 1);
}

#[test]
fn whoever_is_turned_away_is_in_it() {
    let mut world = World::setup().relay("smtp.max_connections", 1).start();
    wait_until("the tries of the start are over", || {
        let status = world.relay.cli(&["status", "--json"]).expect_code(0).json();
        status["smtp"]["now"] == 0
    });
    let first = world.relay.smtp();
    let mut second = atrn_tests::peer::Peer::connect(world.relay.smtp_address());
    second.expect("421 ");
    drop((first, second));
    assert_eq!(world.relay.stop(), 0);
    let records = records(&log(&world));
    let refused = records
        .iter()
        .find(|record| value(record, "cs-method") == "refused");
    assert_eq!(value(refused.expect("a record"), "sc-status"), "421");
}

/// What breaks the silence of a session that waits is written then, not when mail comes.
#[test]
fn a_session_that_waits_is_written_while_it_waits() {
    let world = World::setup().relay("odmr.max_wait", "1s").start();
    world.send(&[Message::new("user@example.org", message::plain(1))]);
    let mut peer = world.relay.odmr_authenticated();
    peer.ask("ATRN XWAIT=1", "250 ");
    let mut taker = Taker::turned(peer, &STREAMING);
    let offered = taker.message();
    taker.take(&offered);
    taker.peer().expect_command("NOOP");
    taker.peer().send("250 2.0.0 here");
    wait_until("the record of NOOP", || {
        let records = records(&log(&world));
        let is_noop = |record: &&Vec<_>| value(record, "cs-method") == "NOOP";
        let noop = records.iter().find(is_noop).cloned();
        noop.is_some_and(|record| value(&record, "sc-status") == "250")
    });
}

#[test]
fn each_format_can_be_chosen_and_none() {
    for (format, begins) in [("ncsa", "127.0.0.1 "), ("json", "{\"time\":\"")] {
        let mut world = World::setup()
            .relay("transaction_log.format", format)
            .start();
        world.send(&[Message::new("user@example.org", message::plain(1))]);
        assert_eq!(world.relay.stop(), 0);
        let log = log(&world);
        assert!(log.contains("content"), "{log}");
        assert!(log.lines().all(|line| line.starts_with(begins)), "{log}");
    }
    let mut world = World::setup()
        .relay("transaction_log.enabled", false)
        .start();
    world.send(&[Message::new("user@example.org", message::plain(1))]);
    assert_eq!(world.relay.stop(), 0);
    assert!(!folder(&world).join("transactions.log").exists());
}
