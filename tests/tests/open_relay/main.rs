//! Nobody gets the relay to take mail for a domain that is not ours: not by a spelling, not by an order of commands, not
//! with a puller's secret. Each form is tried in every way; what is in the queue afterwards, and what comes out of it at
//! the corporate server, is compared.

mod forms;
mod odmr;

use std::collections::BTreeMap;

use atrn_tests::certs;
use atrn_tests::inside::Inside;
use atrn_tests::peer::{Peer, shown};
use atrn_tests::world::World;

use forms::{FORMS, Fate};

/// Ours, in the form in which names are compared.
const OURS: [&str; 2] = ["example.org", "xn--bcher-kva.example"];
const MAIL: &str = "MAIL FROM:<sender@source.example> SMTPUTF8";
const RCPT: &str = "RCPT TO:<user@example.org>";
const CONTENT: &str = "Subject: x\r\n\r\nx\r\n";

// covers: R5321-6, R5321-7, R5321-8, R6531-1
#[test]
fn nothing_is_taken_for_others_however_it_is_spelt() {
    let world = world();
    let mut taken = 0;
    for way in WAYS {
        taken += try_all(&world, *way);
    }
    eprintln!(
        "{} forms in {} ways; {taken} messages taken, all for us",
        all_forms().len(),
        WAYS.len()
    );
    assert_queue_is_ours(&world, taken);
    assert_what_comes_out_is_ours(&world, taken);
}

/// The sender's name opens no door, and neither does a word about who sends.
// covers: R5321-8, R5321-10, R5321-12
#[test]
fn who_the_sender_claims_to_be_changes_nothing() {
    let world = world();
    let mut peer = session(&world);
    for mail in [
        "MAIL FROM:<>",
        "MAIL FROM:<user@example.org>",
        "MAIL FROM:<postmaster@example.org>",
        "MAIL FROM:<postmaster@relay.example.net>",
        "MAIL FROM:<corp@example.org>",
        "MAIL FROM:<@example.org:user@foreign.example>",
        "MAIL FROM:<sender@[127.0.0.1]>",
        "MAIL FROM:<sender@localhost>",
        "MAIL FROM:<user@foreign.example>",
        "MAIL FROM:<sender@source.example> SIZE=1 BODY=8BITMIME RET=HDRS ENVID=x",
    ] {
        peer.ask(mail, "250 2.1.0");
        peer.ask("RCPT TO:<user@foreign.example>", "550 5.7.1");
        peer.ask("RCPT TO:<postmaster@foreign.example>", "550 5.7.1");
        peer.ask("DATA", "554 5.5.1");
        peer.ask("RSET", "250");
    }
    for mail in [
        "MAIL FROM:<> AUTH=<>",
        "MAIL FROM:<sender@source.example> AUTH=corp",
        "MAIL FROM:<sender@source.example> AUTH=user@example.org",
        "MAIL FROM:<sender@source.example> XDELIVERYID=1",
        "MAIL FROM:<sender@source.example> RCPT=<user@foreign.example>",
    ] {
        peer.ask(mail, "555 5.5.4");
        peer.ask("RCPT TO:<user@foreign.example>", "503 5.5.1");
        peer.ask("DATA", "503 5.5.1");
    }
    // Nobody logs in here, and no other verb brings mail or mailboxes.
    for command in [
        "AUTH PLAIN AGNvcnAAc2VjcmV0",
        "ATRN foreign.example",
        "ETRN foreign.example",
        "TURN",
        "SEND FROM:<sender@source.example>",
        "SOML FROM:<sender@source.example>",
        "SAML FROM:<sender@source.example>",
        "EXPN user@foreign.example",
        "LHLO client.source.example",
    ] {
        peer.ask(command, "502 5.5.1");
    }
    assert!(world.queue_list().is_empty());
}

/// Content stays content, whatever it says.
// covers: R5321-8, R5321-17
#[test]
fn the_header_section_names_no_recipients() {
    let world = world();
    let mut peer = session(&world);
    peer.ask(MAIL, "250");
    peer.ask(RCPT, "250");
    peer.ask("DATA", "354");
    peer.send_octets(
        b"To: <user@foreign.example>\r\nCc: user@foreign.example\r\nBcc: user@foreign.example\r\n\
          Resent-To: user@foreign.example\r\nApparently-To: user@foreign.example\r\n\
          X-Original-To: user@foreign.example\r\nEnvelope-To: user@foreign.example\r\n\
          Return-Path: <user@foreign.example>\r\nErrors-To: user@foreign.example\r\n\r\nx\r\n.\r\n",
    );
    peer.expect("250");
    assert_queue_is_ours(&world, 1);
    assert_what_comes_out_is_ours(&world, 1);
}

/// How a form is brought.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    /// One command at a time, DATA behind it.
    InTurn,
    /// The same inside TLS.
    InTls,
    /// Greeted by HELO.
    AfterHelo,
    /// Behind a recipient of ours, which then gets the message alone.
    BehindOurs,
    /// In front of one.
    BeforeOurs,
    /// MAIL, RCPT and content in one flight.
    InOneFlight,
    /// Behind a transaction that was given up.
    AfterReset,
}

const WAYS: &[Way] = &[
    Way::InTurn,
    Way::InTls,
    Way::AfterHelo,
    Way::BehindOurs,
    Way::BeforeOurs,
    Way::InOneFlight,
    Way::AfterReset,
];

fn world() -> World {
    let mut setup = World::setup().relay("smtp.max_errors", 1000);
    for domain in OURS {
        setup = setup.domain(domain);
    }
    setup.start()
}

fn session(world: &World) -> Peer {
    let mut peer = world.relay.smtp();
    peer.ehlo("client.source.example");
    peer
}

fn all_forms() -> Vec<(Vec<u8>, Fate)> {
    let table = FORMS.iter().map(|(form, fate)| (form.to_vec(), *fate));
    table.chain(forms::over_long()).collect()
}

/// Tries every form in one way, over one connection; how many messages were taken.
#[track_caller]
fn try_all(world: &World, way: Way) -> usize {
    let mut peer = world.relay.smtp();
    match way {
        Way::AfterHelo => {
            peer.ask("HELO client.source.example", "250");
        }
        _ => {
            peer.ehlo("client.source.example");
        }
    }
    if way == Way::InTls {
        peer.ask("STARTTLS", "220");
        peer.start_tls_client(&certs::trusting_client());
        peer.ehlo("client.source.example");
    }
    let forms = all_forms();
    assert!(forms.len() >= 150, "{}", forms.len());
    let taken = forms
        .iter()
        .map(|(form, fate)| usize::from(brought(&mut peer, way, form, *fate)));
    let taken = taken.sum();
    peer.ask("QUIT", "221");
    taken
}

/// Brings one form; whether a message was taken.
#[track_caller]
fn brought(peer: &mut Peer, way: Way, form: &[u8], fate: Fate) -> bool {
    let command = [b"RCPT TO:", form, b"\r\n"].concat();
    let expected = match fate {
        Fate::Refused(reply) => reply,
        Fate::Ours => "250 2.1.5",
    };
    let is_ours = matches!(fate, Fate::Ours);
    match way {
        Way::InOneFlight => {
            let content = format!("BDAT {} LAST\r\n{CONTENT}", CONTENT.len());
            let flight = [MAIL.as_bytes(), b"\r\n", &command, content.as_bytes()].concat();
            peer.send_octets(&flight);
            peer.expect("250 2.1.0");
            expect_of(peer, form, expected);
            peer.expect(if is_ours { "250" } else { "554 5.5.1" });
            if !is_ours {
                peer.ask("RSET", "250");
            }
            return is_ours;
        }
        Way::AfterReset => {
            for line in [MAIL, RCPT, "RSET"] {
                peer.ask(line, "250");
            }
            peer.send_octets(&command);
            let line = peer.reply().pop().unwrap_or_default();
            assert!(
                line.starts_with("503") || line.starts_with("50"),
                "{}: {line}",
                shown(form)
            );
            peer.ask("DATA", "503 5.5.1");
            return false;
        }
        _ => {}
    }
    peer.ask(MAIL, "250 2.1.0");
    if way == Way::BehindOurs {
        peer.ask(RCPT, "250 2.1.5");
    }
    peer.send_octets(&command);
    expect_of(peer, form, expected);
    if way == Way::BeforeOurs {
        peer.ask(RCPT, "250 2.1.5");
    }
    let has_ours = is_ours || matches!(way, Way::BehindOurs | Way::BeforeOurs);
    if has_ours {
        peer.ask("DATA", "354");
        peer.send_octets(format!("{CONTENT}.\r\n").as_bytes());
        peer.expect("250 2.0.0");
    } else {
        peer.ask("DATA", "554 5.5.1");
        peer.ask("RSET", "250");
    }
    has_ours
}

#[track_caller]
fn expect_of(peer: &mut Peer, form: &[u8], expected: &str) {
    let line = peer.reply().pop().unwrap_or_default();
    assert!(
        line.starts_with(expected),
        "{}: {line}, and not {expected}",
        shown(form)
    );
}

/// Everything in the queue is for a domain of ours, and there are so many messages.
#[track_caller]
fn assert_queue_is_ours(world: &World, messages: usize) {
    let listed = world.queue_list();
    let mut by_message: BTreeMap<String, usize> = BTreeMap::new();
    for delivery in &listed {
        let domain = delivery["domain"].as_str().expect("a domain");
        assert!(OURS.contains(&domain), "{delivery}");
        for recipient in delivery["recipients"].as_array().expect("recipients") {
            assert_is_ours(recipient.as_str().expect("a recipient"));
        }
        let id = delivery["id"].as_str().expect("an id").to_owned();
        *by_message.entry(id).or_default() += 1;
    }
    assert_eq!(by_message.len(), messages);
}

/// A mailbox of ours: its domain is what stands behind the *last* at-sign, in any reading.
#[track_caller]
fn assert_is_ours(path: &str) {
    if path.eq_ignore_ascii_case("postmaster") {
        return;
    }
    let (local_part, domain) = path.rsplit_once('@').expect("an at-sign");
    let domain = domain.to_lowercase();
    let is_ours = OURS.contains(&&*domain) || domain == "bücher.example";
    assert!(is_ours, "{path}");
    assert!(
        !local_part.contains(['%', '!', '@', '|', '/', '\\']),
        "{path}"
    );
}

/// Pulled through: the corporate server hears of the same mailboxes, and of no other.
#[track_caller]
fn assert_what_comes_out_is_ours(world: &World, messages: usize) {
    let inside = Inside::smtp();
    world.puller.set_target(&inside.target());
    let _ = world.puller.pull().expect_code(0);
    let mut transactions = 0;
    for arrived in inside.messages() {
        transactions += 1;
        for recipient in &arrived.recipients {
            let path = recipient
                .split_once("> ")
                .map_or(&**recipient, |(path, _)| path);
            assert_is_ours(path.trim_start_matches('<').trim_end_matches('>'));
        }
    }
    // A message for two domains of ours goes out twice.
    assert!(transactions >= messages, "{transactions} of {messages}");
    let commands = inside.commands();
    let foreign = |command: &&String| {
        let upper = command.to_ascii_uppercase();
        upper.starts_with("RCPT")
            && upper
                .split(" ORCPT=")
                .next()
                .is_some_and(|path| path.contains("@FOREIGN"))
    };
    assert_eq!(commands.iter().find(foreign), None);
    assert!(world.queue_list().is_empty());
}
