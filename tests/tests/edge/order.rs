//! Which command may be said when, and what each is answered (RFC 5321 §4.1).

use atrn_tests::certs::trusting_client;
use atrn_tests::message;
use atrn_tests::peer::Peer;
use atrn_tests::world::World;

use super::{MAIL, RCPT, ask_all, patient_world, session, transaction, wait_for_no_session};

// covers: R5321-1
#[test]
fn the_greeting_names_the_host_first() {
    let world = World::start();
    let mut peer = Peer::connect(world.relay.smtp_address());
    assert_eq!(peer.line(), "220 relay.example.net ESMTP");
}

// covers: R5321-5, R3463-1
#[test]
fn commands_out_of_order_are_refused_and_change_nothing() {
    let world = patient_world();
    let mut peer = world.relay.smtp();
    ask_all(
        &mut peer,
        &[
            (MAIL, "503 5.5.1"),
            (RCPT, "503 5.5.1"),
            ("DATA", "503 5.5.1"),
            ("BDAT 0 LAST", "503 5.5.1"),
            ("EHLO client.source.example", "250 "),
            (RCPT, "503 5.5.1"),
            ("DATA", "503 5.5.1"),
            ("MAIL", "501 5.5.4"),
            (MAIL, "250 2.1.0"),
            (MAIL, "503 5.5.1"),
            ("DATA", "554 5.5.1"),
            ("RCPT TO:<user@elsewhere.example>", "550 5.7.1"),
            ("DATA", "554 5.5.1"),
            (RCPT, "250 2.1.5"),
            ("DATA now", "501 5.5.4"),
            ("RSET now", "501 5.5.4"),
            ("QUIT now", "501 5.5.4"),
            ("RCPT", "501 5.5.4"),
            ("DATA", "354 "),
            (".", "250 2.0.0"),
        ],
    );
}

// covers: R5321-4
#[test]
fn whatever_ends_a_transaction_forgets_its_recipients() {
    let world = patient_world();
    let mut peer = session(&world);
    for ending in ["RSET", "EHLO other.example", "HELO other.example"] {
        ask_all(&mut peer, &[(MAIL, "250"), (RCPT, "250")]);
        peer.ask(ending, "250");
        ask_all(&mut peer, &[(RCPT, "503 5.5.1"), ("DATA", "503 5.5.1")]);
    }
    // The end of data does, whatever came of it.
    for (content, reply) in [("Subject: x\r\n\r\n", "250 "), ("bare\nline\r\n", "550 ")] {
        ask_all(&mut peer, &[(MAIL, "250"), (RCPT, "250"), ("DATA", "354")]);
        peer.send_octets(format!("{content}.\r\n").as_bytes());
        peer.expect(reply);
        ask_all(&mut peer, &[(RCPT, "503 5.5.1"), ("DATA", "503 5.5.1")]);
    }
    // So does TLS, and with it the hello is forgotten (RFC 3207 §4.2).
    ask_all(
        &mut peer,
        &[(MAIL, "250"), (RCPT, "250"), ("STARTTLS", "220")],
    );
    peer.start_tls_client(&trusting_client());
    ask_all(&mut peer, &[(RCPT, "503 5.5.1"), (MAIL, "503 5.5.1")]);
    peer.ehlo("client.source.example");
    ask_all(&mut peer, &[(RCPT, "503 5.5.1"), (MAIL, "250")]);
}

// covers: R5321-11
#[test]
fn commands_beside_the_mail_disclose_nothing() {
    let world = patient_world();
    let mut peer = session(&world);
    ask_all(
        &mut peer,
        &[
            ("VRFY user", "252 2.5.2"),
            ("VRFY nobody@elsewhere.example", "252 2.5.2"),
            ("EXPN staff", "502 5.5.1"),
            ("HELP", "214 2.0.0"),
            ("HELP MAIL", "214 2.0.0"),
            ("NOOP", "250 2.0.0"),
            ("NOOP any words", "250 2.0.0"),
            ("SEND FROM:<a@source.example>", "502 5.5.1"),
            ("SOML FROM:<a@source.example>", "502 5.5.1"),
            ("SAML FROM:<a@source.example>", "502 5.5.1"),
            ("TURN", "502 5.5.1"),
            ("ETRN example.org", "502 5.5.1"),
            ("ATRN example.org", "502 5.5.1"),
            ("XYZZY", "500 5.5.2"),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 1 25", "500 5.5.2"),
            ("GET / HTTP/1.1", "500 5.5.2"),
        ],
    );
    assert!(
        !peer
            .ehlo("client.source.example")
            .iter()
            .any(|word| word.starts_with("AUTH"))
    );
    peer.ask("AUTH PLAIN AGEAYg==", "502 5.5.1");
    peer.ask("QUIT", "221 2.0.0");
    peer.expect_close();
}

// covers: R5321-3
#[test]
fn a_hello_needs_a_name_and_any_name_will_do() {
    let world = patient_world();
    let mut peer = world.relay.smtp();
    for verb in ["EHLO", "HELO"] {
        for bad in [
            "",
            " ",
            " a(b)",
            " <a>",
            " a b",
            " b\u{fc}cher.example",
            " [192.0.2",
            " [nowhere]",
        ] {
            peer.ask(&format!("{verb}{bad}"), "501 5.5.4");
        }
    }
    peer.ask(MAIL, "503 5.5.1");
    for verb in ["EHLO", "HELO"] {
        for good in [
            "does-not.resolve.invalid",
            "localhost",
            "[192.0.2.7]",
            "[IPv6:2001:db8::7]",
            "under_score.example",
        ] {
            peer.ask(&format!("{verb} {good}"), "250 ");
        }
    }
    peer.ask(MAIL, "250 2.1.0");
}

// covers: R5321-3, R3848-1
#[test]
fn a_client_that_says_helo_is_told_of_no_extension_and_can_send() {
    let world = World::start();
    let mut peer = world.relay.smtp();
    peer.send("HELO old.source.example");
    assert_eq!(peer.reply(), ["250 relay.example.net"]);
    ask_all(&mut peer, &[(MAIL, "250"), (RCPT, "250"), ("DATA", "354")]);
    peer.send_octets(&message::stuffed(&message::plain(1)));
    peer.expect("250 ");
    let arrived = super::pulled(&world);
    message::assert_same_content("HELO", &message::plain(1), &arrived[0].content);
    let trace = message::trace(&arrived[0].content);
    assert!(
        trace.contains(" by relay.example.net with SMTP id ")
            || trace.contains("\tby relay.example.net with SMTP id "),
        "{trace}"
    );
}

/// A connection that is lost inside the content leaves nothing: neither a message nor a file.
// covers: R5321-23
#[test]
fn content_that_was_cut_off_is_discarded() {
    let world = World::start();
    for size in [1000, 200_000] {
        let mut peer = transaction(&world);
        peer.ask("DATA", "354");
        let content = message::big(size);
        peer.send_octets(&content);
        drop(peer);
    }
    let mut peer = transaction(&world);
    peer.send("BDAT 100000 LAST");
    peer.send_octets(&message::big(50_000));
    drop(peer);
    wait_for_no_session(&world);
    assert!(world.queue_list().is_empty());
    assert_eq!(world.relay.spool_files(), 0);
}

/// Only QUIT ends a session that does nothing wrong (RFC 5321 §3.8).
// covers: R5321-23
#[test]
fn a_session_goes_on_until_quit() {
    let world = World::start();
    let mut peer = session(&world);
    for _ in 0..20 {
        peer.ask("XYZZY", "500");
    }
    for number in 0..50 {
        ask_all(&mut peer, &[(MAIL, "250"), (RCPT, "250"), ("DATA", "354")]);
        peer.send_octets(&message::stuffed(&message::plain(number)));
        peer.expect("250 2.0.0");
    }
    peer.ask("QUIT", "221 2.0.0");
    peer.expect_close();
    assert_eq!(world.queue_list().len(), 50);
}

/// Every reply but the greeting, those to a hello, 354 and 334 leads with a code of its own class.
// covers: R2034-1
#[test]
fn every_reply_has_an_enhanced_code_of_its_class() {
    let world = patient_world();
    let mut peer = session(&world);
    let lines = [
        "NOOP",
        "HELP",
        "VRFY a",
        "EXPN a",
        "RSET",
        "XYZZY",
        "AUTH PLAIN",
        "MAIL FROM:<",
        "MAIL FROM:<a@b.example> X=1",
        "MAIL FROM:<a@b.example> SIZE=99999999999",
        "RCPT TO:<a@example.org>",
        "BDAT 0",
        MAIL,
        MAIL,
        "RCPT TO:<a@b.example>",
        "RCPT TO:<@a.example:b@example.org>",
        "RCPT TO:<-a@example.org>",
        RCPT,
        "DATA x",
        "STARTTLS x",
        "QUIT x",
        "QUIT",
    ];
    for line in lines {
        peer.send(line);
        for reply in peer.reply() {
            let (code, text) = reply.split_at(4);
            let enhanced = text.split(' ').next().unwrap_or_default();
            let numbers: Vec<&str> = enhanced.split('.').collect();
            let is_code =
                numbers.len() == 3 && numbers.iter().all(|number| number.parse::<u16>().is_ok());
            assert!(is_code && enhanced[..1] == code[..1], "{line}: {reply}");
        }
    }
}
