//! Command lines: what ends one, how long it may be, and what happens to bad ones (RFC 5321 §2.3.8, §4.5.3.1).

use nix::sys::signal::Signal;

use atrn_tests::message;
use atrn_tests::peer::Peer;
use atrn_tests::world::World;

use super::{MAIL, RCPT, ask_all, expect_all, patient_world, session, transaction};

/// One refusal for a line, however many line ends somebody else would see in it; then the session goes on.
// covers: R5321-2
#[test]
fn only_crlf_ends_a_command() {
    let world = patient_world();
    let mut peer = session(&world);
    let bad: [&[u8]; 9] = [
        b"NOOP\n\r\n",
        b"NOOP\nNOOP\r\n",
        b"NOOP\rNOOP\r\n",
        b"NOOP\r\r\n",
        b"NO\0OP\r\n",
        b"NOOP \x07\r\n",
        b"NOOP \x1b[2J\r\n",
        b"NOOP \x7f\r\n",
        b"MAIL FROM:<a@b.example>\nRCPT TO:<user@example.org>\nDATA\r\n",
    ];
    for line in bad {
        peer.send_octets(line);
        peer.expect("500 5.5.2");
        peer.ask("NOOP", "250 2.0.0");
    }
    ask_all(
        &mut peer,
        &[("", "500 5.5.2"), (" ", "500 5.5.2"), (RCPT, "503")],
    );
    let good: [&[u8]; 4] = [
        b"NOOP  \r\n",
        b"noop\t \r\n",
        b"nOoP a\tb\r\n",
        b"rset \r\n",
    ];
    for line in good {
        peer.send_octets(line);
        peer.expect("250 2.0.0");
    }
    ask_all(
        &mut peer,
        &[
            ("mail from:<sender@source.example>", "250"),
            ("Rcpt To:<user@example.org>", "250"),
            ("dAtA", "354"),
            (".", "250"),
            ("quit", "221"),
        ],
    );
}

/// A line end that comes in two pieces is still one.
// covers: R5321-2
#[test]
fn framing_does_not_depend_on_segments() {
    let world = World::start();
    let mut peer = Peer::connect(world.relay.smtp_address()).paced(atrn_tests::peer::Pace::Octets);
    peer.expect("220 ");
    ask_all(
        &mut peer,
        &[
            ("EHLO client.source.example", "250 "),
            ("NO\nOP", "500"),
            (MAIL, "250"),
            (RCPT, "250"),
            ("DATA", "354"),
        ],
    );
    peer.send_octets(&message::stuffed(&message::dots()));
    peer.expect("250 ");
    ask_all(&mut peer, &[(MAIL, "250"), (RCPT, "250")]);
    peer.send_octets(b"BDAT 7\r\nSubject");
    peer.expect("250 ");
    peer.send_octets(b"BDAT 5 LAST\r\n: x\r\n");
    peer.expect("250 ");
    let arrived = super::pulled(&world);
    message::assert_same_content("by octets", &message::dots(), &arrived[0].content);
    assert!(
        arrived[1].content.ends_with(b"\r\nSubject: x\r\n"),
        "{}",
        arrived[1].content.escape_ascii()
    );
}

// covers: R5321-20, R5321-21
#[test]
fn a_line_has_4096_octets_at_most() {
    const ALLOWED: usize = 4096;
    let world = World::start();
    let mut peer = transaction(&world);
    let noop = |octets: usize| format!("NOOP {}", "x".repeat(octets - "NOOP \r\n".len()));
    peer.ask(&noop(512), "250 2.0.0");
    peer.ask(&noop(ALLOWED), "250 2.0.0");
    peer.ask(&noop(ALLOWED + 1), "500 5.5.2");
    // Refused once, whatever its length; and nothing in its tail is a command.
    peer.ask(&format!("{}{}", noop(3 * ALLOWED), "\nDATA"), "500 5.5.2");
    peer.ask(&noop(1_000_000), "500 5.5.2");
    ask_all(&mut peer, &[("DATA", "354"), (".", "250 2.0.0")]);
}

// covers: R5321-20, R5321-21
#[test]
fn paths_are_as_long_as_the_standard_wants_and_no_longer() {
    let world = patient_world();
    let mut peer = session(&world);
    let local_part = |octets: usize| "l".repeat(octets);
    // Labels of 63 octets, so that the whole name has the wanted length.
    let domain = |octets: usize| {
        let labels = [&"d".repeat(63)[..]; 4].join(".");
        labels[labels.len() - octets..]
            .trim_start_matches('.')
            .to_owned()
    };
    assert_eq!(domain(189).len(), 189);
    for (path, reply) in [
        (format!("{}@source.example", local_part(64)), "250"),
        (format!("{}@source.example", local_part(65)), "501 5.1.3"),
        (format!("{}@{}", local_part(64), domain(189)), "250"),
        (format!("{}@{}", local_part(64), domain(190)), "501 5.1.3"),
        (format!("a@{}", domain(252)), "250"),
        (format!("a@{}", domain(255)), "501 5.1.3"),
        (format!("a@{}.example", "d".repeat(64)), "501 5.1.3"),
    ] {
        peer.ask(&format!("MAIL FROM:<{path}>"), reply);
        peer.ask("RSET", "250");
    }
    peer.ask(MAIL, "250");
    peer.ask(&format!("RCPT TO:<{}@example.org>", local_part(64)), "250");
    peer.ask(
        &format!("RCPT TO:<{}@example.org>", local_part(65)),
        "501 5.1.3",
    );
}

/// Errors are counted, whoever noticed them: the machine, or the policy on recipients.
// covers: R5321-22
#[test]
fn after_too_many_errors_the_session_ends() {
    let world = World::setup().relay("smtp.max_errors", 4).start();
    let mut peer = transaction(&world);
    ask_all(
        &mut peer,
        &[
            ("XYZZY", "500"),
            ("RCPT TO:<a@elsewhere.example>", "550"),
            ("RCPT", "501"),
            (MAIL, "503"),
        ],
    );
    ask_all(
        &mut peer,
        &[("NOOP", "250"), ("RCPT TO:<more@example.org>", "250")],
    );
    peer.ask("EXPN staff", "502");
    peer.expect("421 4.7.0");
    peer.expect_close();
    assert!(world.queue_list().is_empty());
}

/// The relay is stopped while the client connects, so that what it sends is there before the greeting.
// covers: R5321-32
#[test]
fn a_client_that_speaks_before_the_greeting_gets_none() {
    let world = World::start();
    for early in [
        &b"EHLO client.source.example\r\n"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"E",
    ] {
        world.relay.pause();
        let mut peer = Peer::connect(world.relay.smtp_address());
        peer.send_octets(early);
        world.relay.signal(Signal::SIGCONT);
        assert_eq!(&peer.line()[..10], "554 5.5.1 ");
        peer.expect_close();
    }
    drop(world.relay.smtp());
}

/// What follows EHLO in the same segment was sent without knowing what is offered (RFC 2920 §3.1).
// covers: R2920-3, R5321-32
#[test]
fn nothing_may_be_pipelined_behind_a_hello_or_ahead_of_354() {
    let world = World::start();
    for hello in ["EHLO", "HELO"] {
        let mut peer = world.relay.smtp();
        peer.send_octets(format!("{hello} a.example\r\n{MAIL}\r\n").as_bytes());
        peer.expect("503 5.5.0");
        peer.expect_close();
    }
    let mut peer = transaction(&world);
    peer.send_octets(b"DATA\r\nSubject: early\r\n\r\n.\r\n");
    peer.expect("503 5.5.0");
    peer.expect_close();
    assert!(world.queue_list().is_empty());
}

/// Commands that came in one segment are answered one by one, in order.
// covers: R2920-1
#[test]
fn a_group_of_commands_is_answered_in_order() {
    let world = World::start();
    let mut peer = session(&world);
    for round in 0..3 {
        let foreign = "RCPT TO:<user@elsewhere.example>";
        let group = [
            "RSET",
            MAIL,
            RCPT,
            foreign,
            "NOOP",
            "RCPT TO:<other@example.org>",
            "DATA",
        ];
        peer.send_octets(format!("{}\r\n", group.join("\r\n")).as_bytes());
        expect_all(
            &mut peer,
            &[
                "250 2.0.0",
                "250 2.1.0",
                "250 2.1.5",
                "550 5.7.1",
                "250 2.0.0",
                "250 2.1.5",
                "354",
            ],
        );
        peer.send_octets(&message::stuffed(&message::plain(round)));
        peer.expect("250 2.0.0");
    }
    // The next transaction may ride behind the end of the last one's content, and QUIT behind everything.
    let message = "Subject: ridden\r\n\r\n.\r\n";
    peer.send_octets(format!("{MAIL}\r\n{RCPT}\r\nDATA\r\n").as_bytes());
    expect_all(&mut peer, &["250", "250", "354"]);
    peer.send_octets(format!("{message}{MAIL}\r\n{RCPT}\r\nDATA\r\n").as_bytes());
    expect_all(&mut peer, &["250", "250", "250", "354"]);
    peer.send_octets(format!("{message}QUIT\r\n").as_bytes());
    expect_all(&mut peer, &["250", "221"]);
    peer.expect_close();
    assert_eq!(world.queue_list().len(), 5);
}
