//! Commands, lines and limits.

use proptest::prelude::*;

use super::*;

// covers: R2645-3
#[test]
fn there_is_no_command_that_brings_mail() {
    let refused = [
        "HELO a.b",
        "LHLO a.b",
        "MAIL FROM:<a@b.c>",
        "RCPT TO:<a@b.c>",
        "DATA",
        "BDAT 0 LAST",
        "VRFY a",
        "EXPN a",
        "ETRN a.b",
        "TURN",
        "SEND FROM:<a@b.c>",
        "SOML FROM:<a@b.c>",
        "SAML FROM:<a@b.c>",
        "mail from:<a@b.c>",
    ];
    let unknown = [
        "",
        "FOO",
        "XRECIPIENTS a.b",
        "EHL",
        "ATRNX a.b",
        "GET / HTTP/1.1",
        "\u{e9}",
    ];
    let desks: [fn() -> Desk; 4] = [
        || Desk::new(config(TlsMode::StartTls)),
        || Desk::new(config(TlsMode::Off)),
        Desk::secure,
        Desk::authenticated,
    ];
    for desk in desks {
        for line in refused {
            assert_eq!(
                desk().say(line),
                "502 5.5.1 Command not implemented here\r\n",
                "{line:?}"
            );
        }
        for line in unknown {
            assert_eq!(
                desk().say(line),
                "500 5.5.2 Command not recognised\r\n",
                "{line:?}"
            );
        }
    }
}

// covers: R2645-3, R5321-2
#[test]
fn commands_that_change_nothing() {
    let mut desk = Desk::authenticated();
    for (line, code) in [
        ("NOOP", 250),
        ("noop with words", 250),
        ("NoOp \t ", 250),
        ("RSET", 250),
        ("RSET now", 501),
        ("HELP", 214),
        ("HELP ATRN", 214),
        ("QUIT now", 501),
    ] {
        assert_eq!(desk.code(line), code, "{line:?}");
    }
    // RSET ends a transaction, and there is none: whoever was authenticated still is.
    assert_eq!(desk.code("ATRN"), 250);
    // RFC 3207 §4: before TLS that must come, there is EHLO, STARTTLS, NOOP, QUIT.
    let mut desk = Desk::new(config(TlsMode::StartTls));
    for (line, code) in [
        ("NOOP", 250),
        ("RSET", 530),
        ("HELP", 530),
        ("ATRN", 530),
        ("QUIT", 221),
    ] {
        assert_eq!(desk.code(line), code, "{line:?}");
    }
}

// covers: R5321-3
#[test]
fn ehlo_needs_a_name() {
    let mut desk = Desk::secure();
    for line in [
        "EHLO",
        "EHLO ",
        "EHLO <a.b>",
        "EHLO a(b)",
        "EHLO m\u{fc}nchen.example",
    ] {
        assert_eq!(desk.code(line), 501, "{line:?}");
        assert_eq!(desk.provider.client_name(), None);
    }
    for name in ["a.b", "localhost", "[192.0.2.1]", "[IPv6:2001:db8::1]"] {
        assert!(
            desk.say(&format!("EHLO {name}"))
                .starts_with("250-relay.example\r\n"),
            "{name}"
        );
        assert_eq!(desk.provider.client_name(), Some(name));
    }
}

// covers: R4954-2, R5321-20, R5321-2
#[test]
fn lines_are_limited() {
    let mut desk = Desk::secure();
    desk.say("EHLO a.b");
    assert_eq!(desk.code(&format!("NOOP {}", "x".repeat(4096 - 7))), 250);
    assert_eq!(
        desk.say(&format!("NOOP {}", "x".repeat(4096 - 6))),
        "500 5.5.2 Line too long\r\n"
    );
    assert_eq!(desk.code("NOOP"), 250);
    // An AUTH line is not too long before 12288 octets: this one is only wrong.
    assert_eq!(
        desk.code(&format!("AUTH PLAIN {}", "A".repeat(12_288 - 13))),
        501
    );
    let too_long = format!("AUTH PLAIN {}", "A".repeat(12_288 - 12));
    assert_eq!(desk.say(&too_long), "500 5.5.6 Line too long, closing\r\n");
    assert_eq!(desk.end, Some("closed"));
    // The same for a response, also without its end.
    let mut desk = Desk::secure();
    desk.say("EHLO a.b");
    assert_eq!(desk.say("AUTH PLAIN"), "334 \r\n");
    assert_eq!(
        desk.hear("A".repeat(12_287).as_bytes()),
        "500 5.5.6 Line too long, closing\r\n"
    );
    assert_eq!(desk.end, Some("closed"));
}

// covers: R5321-2
#[test]
fn only_crlf_ends_a_command() {
    for octets in [
        b"NO\nOP\r\n".as_slice(),
        b"NO\rOP\r\n",
        b"NOOP\0\r\n",
        b"NOOP \x1b[2J\r\n",
        b"NOOP\n",
        b"ATRN\n250 ok\r\n",
    ] {
        let mut desk = Desk::secure();
        assert_eq!(
            desk.hear(octets),
            "500 5.5.2 Commands are printable and end with CRLF\r\n",
            "{octets:?}"
        );
    }
}

// covers: R2645-3, R5321-22
#[test]
fn too_many_errors_end_the_connection() {
    let mut desk = Desk::new(Config {
        errors_max: 3,
        ..config(TlsMode::Implicit)
    });
    for _ in 0..3 {
        assert_eq!(desk.code("DATA"), 502);
    }
    let replies = desk.say("DATA");
    assert!(
        replies.ends_with("\r\n421 4.7.0 Too many errors, closing\r\n"),
        "{replies:?}"
    );
    assert_eq!(desk.end, Some("closed"));
}

// covers: R2645-25
#[test]
fn quit_is_answered_in_every_state() {
    for mut desk in [
        Desk::secure(),
        Desk::new(config(TlsMode::StartTls)),
        Desk::new(config(TlsMode::Off)),
        Desk::authenticated(),
    ] {
        assert_eq!(desk.say("QUIT"), "221 2.0.0 relay.example closing\r\n");
        assert_eq!(desk.end, Some("closed"));
    }
    let mut desk = Desk::authenticated();
    desk.verdict = Verdict::NoMail;
    assert_eq!((desk.code("ATRN"), desk.code("quit")), (453, 221));
}

// covers: R5321-22
#[test]
fn a_stop_is_told_to_whoever_is_there() {
    let stop = || Reply::new(421, "4.3.2", "Shutting down");
    let mut desk = Desk::authenticated();
    desk.provider.close(stop());
    assert_eq!(desk.hear(b"NOOP\r\n"), "421 4.3.2 Shutting down\r\n");
    assert_eq!(desk.end, Some("closed"));
    // Also while the driver is asked: its answer comes too late.
    let mut desk = Desk::authenticated();
    desk.input.push(b"ATRN\r\n");
    let _ = desk.provider.next(&mut desk.input);
    desk.provider.close(stop());
    desk.provider.answer(Verdict::Turn);
    assert_eq!(desk.hear(b""), "421 4.3.2 Shutting down\r\n");
    assert_eq!(desk.end, Some("closed"));
}

// covers: R2034-1
#[test]
fn every_reply_has_an_enhanced_code_of_its_class() {
    let mut desk = Desk::new(Config {
        errors_max: 100,
        ..config(TlsMode::Optional)
    });
    desk.verdict = Verdict::NotPermitted;
    let wrong = format!("AUTH PLAIN {}", plain("corp", "pen"));
    for line in [
        "NOOP",
        "RSET",
        "HELP",
        "RSET x",
        "FOO",
        "DATA",
        "ATRN",
        "AUTH",
        "AUTH PLAIN",
        "AUTH FOO",
        "EHLO",
        "STARTTLS x",
        "STARTTLS",
        "AUTH EXTERNAL =",
        "AUTH PLAIN ?",
        wrong.as_str(),
        "STARTTLS",
        "ATRN a",
        "ATRN",
        "QUIT x",
        "QUIT",
    ] {
        if line == "AUTH" || line.starts_with("AUTH EXTERNAL") {
            desk.say("EHLO a.b");
        }
        let reply = desk.say(line);
        let (code, text) = reply.split_once(' ').unwrap();
        assert!(
            text.starts_with(&format!("{}.", &code[..1])),
            "{line:?}: {reply:?}"
        );
    }
    assert_eq!(desk.end, Some("closed"));
}

/// Lines of all kinds: commands, nonsense, octets.
fn any_line() -> impl Strategy<Value = Vec<u8>> {
    let lines = [
        "EHLO a.b",
        "STARTTLS",
        "AUTH PLAIN",
        "AUTH CRAM-MD5",
        "AUTH EXTERNAL",
        "AUTH SCRAM-SHA-256 biwsbj1jb3JwLHI9YWJj",
        "*",
        "=",
        "ATRN",
        "ATRN corp.example",
        "NOOP",
        "RSET",
        "HELP",
        "DATA",
        "MAIL FROM:<>",
        "AGNvcnAAcGVu",
        "AUTH PLAIN AGNvcnAAcGVu",
        "",
    ];
    prop_oneof![
        4 => prop::sample::select(lines.to_vec()).prop_map(|line| line.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    // Nobody who has no certificate and no secret is authenticated or turned, whatever he says, and framing does not matter.
    // covers: R2645-4, R2645-6, R5321-2
    #[test]
    fn no_stranger_is_turned(mode in 0..3_usize, lines in prop::collection::vec(any_line(), 0..16)) {
        let mode = [TlsMode::Implicit, TlsMode::Optional, TlsMode::Off][mode];
        let mechanisms = Mechanism::ALL.into_iter().filter(|one| *one != Mechanism::External).collect();
        let config = Config { mechanisms, ..config(mode) };
        let (mut whole, mut single) = (Desk::new(config.clone()), Desk::new(config));
        for line in &lines {
            let line = [line.as_slice(), b"\r\n"].concat();
            let at_once = whole.hear(&line);
            let mut one_by_one = String::new();
            for octet in &line {
                one_by_one.push_str(&single.hear(&[*octet]));
            }
            // Two lines in one go are a group, and some commands may not stand inside one.
            prop_assume!(line.windows(2).filter(|pair| *pair == b"\r\n").count() == 1);
            prop_assert_eq!(at_once, one_by_one);
            prop_assert_eq!(whole.provider.account(), None);
            prop_assert_eq!(single.end, whole.end);
            prop_assert!(whole.end != Some("turned") && whole.asked.is_empty());
        }
    }
}

#[test]
fn a_connection_that_asks_for_ever_ends() {
    for command in ["NOOP", "RSET", "ATRN"] {
        let mut desk = Desk::authenticated();
        desk.verdict = Verdict::NoMail;
        let mut answered = 0;
        while desk.end.is_none() {
            let reply = desk.say(command);
            answered += 1;
            assert!(answered <= LINES_MAX, "{command}: {reply}");
            if desk.end.is_some() {
                assert_eq!(reply, "421 4.7.0 Too many commands, closing\r\n");
            }
        }
    }
}

// covers: R2645-9
#[test]
fn who_asks_for_foreign_domains_again_and_again_is_sent_away() {
    let mut desk = Desk::authenticated();
    desk.verdict = Verdict::NotPermitted;
    let mut refused = 0;
    while desk.end.is_none() {
        let reply = desk.say("ATRN other.example");
        assert!(
            reply.starts_with("450 4.7.1 ATRN request refused\r\n"),
            "{reply}"
        );
        refused += 1;
        if desk.end.is_some() {
            assert!(reply.ends_with("421 4.7.0 Too many errors, closing\r\n"));
        }
    }
    assert_eq!(refused, config(TlsMode::Implicit).errors_max + 1);
}
