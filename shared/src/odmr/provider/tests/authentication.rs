//! TLS and AUTH.

use super::*;
use crate::sasl;

// covers: R2645-2, R3207-1, R4954-3, R4422-1, R5802-1, R4616-1
#[test]
fn what_ehlo_offers_depends_on_tls() {
    let all = "AUTH EXTERNAL SCRAM-SHA-256-PLUS SCRAM-SHA-256 CRAM-MD5 PLAIN";
    let table = [
        (
            TlsMode::Implicit,
            true,
            format!("{all} ATRN ENHANCEDSTATUSCODES"),
        ),
        (
            TlsMode::StartTls,
            false,
            "STARTTLS ENHANCEDSTATUSCODES".into(),
        ),
        (
            TlsMode::StartTls,
            true,
            format!("{all} ATRN ENHANCEDSTATUSCODES"),
        ),
        (
            TlsMode::Optional,
            false,
            "STARTTLS AUTH SCRAM-SHA-256 CRAM-MD5 ATRN ENHANCEDSTATUSCODES".into(),
        ),
        (
            TlsMode::Optional,
            true,
            format!("{all} ATRN ENHANCEDSTATUSCODES"),
        ),
        (
            TlsMode::Off,
            false,
            "AUTH SCRAM-SHA-256 CRAM-MD5 ATRN ENHANCEDSTATUSCODES".into(),
        ),
    ];
    for (mode, tls, expected) in table {
        let mut desk = Desk::new(config(mode));
        if tls && mode != TlsMode::Implicit {
            desk.say("EHLO puller.example");
            assert_eq!(desk.code("STARTTLS"), 220);
        }
        let reply = desk.say("EHLO puller.example");
        let lines: Vec<_> = reply.lines().map(|line| &line[4..]).collect();
        assert_eq!(lines[0], "relay.example");
        assert_eq!(lines[1..].join(" "), expected, "{mode:?} {tls}");
    }
}

// covers: R4422-1, R5802-1, R2645-5, R3207-1
#[test]
fn nothing_is_offered_that_can_not_work_here() {
    let mut desk = Desk::secure();
    desk.provider.tls_started(TlsSession::default());
    assert!(
        desk.say("EHLO a.b")
            .contains("250-AUTH SCRAM-SHA-256 CRAM-MD5 PLAIN\r\n")
    );
    assert_eq!(
        (
            desk.code("AUTH EXTERNAL ="),
            desk.code("AUTH SCRAM-SHA-256-PLUS")
        ),
        (504, 504)
    );

    let strong = vec![Mechanism::ScramSha256Plus, Mechanism::ScramSha256];
    let mut desk = Desk::new(Config {
        mechanisms: strong,
        ..config(TlsMode::Implicit)
    });
    assert!(
        desk.say("EHLO a.b")
            .contains("250-AUTH SCRAM-SHA-256-PLUS SCRAM-SHA-256\r\n")
    );
    assert_eq!(
        (desk.code("AUTH CRAM-MD5"), desk.code("AUTH PLAIN AA==")),
        (504, 504)
    );

    let mut desk = Desk::new(Config {
        has_certificate: false,
        ..config(TlsMode::Optional)
    });
    assert!(!desk.say("EHLO a.b").contains("STARTTLS"));
    assert_eq!(desk.say("STARTTLS"), "454 4.7.0 TLS not available now\r\n");
}

// covers: R2645-6, R4954-1
#[test]
fn an_exchange_that_is_not_finished_proves_nothing() {
    let mut desk = Desk::secure();
    desk.say("EHLO a.b");
    for end in [
        "*",
        "ATRN corp.example",
        "=",
        "AA",
        "\u{e9}",
        "A A=",
        "AA==\0",
    ] {
        assert!(desk.say("AUTH CRAM-MD5").starts_with("334 "));
        assert!(matches!(desk.code(end), 500 | 501), "{end:?}");
        assert_eq!(desk.code("ATRN corp.example"), 530, "{end:?}");
    }
    assert_eq!(desk.provider.account(), None);
    assert_eq!(desk.end, None);
}

// covers: R4954-1, R2195-1, R4422-1
#[test]
fn the_syntax_of_auth() {
    let mut desk = Desk::secure();
    assert_eq!(desk.say("AUTH EXTERNAL ="), "503 5.5.1 EHLO first\r\n");
    desk.say("EHLO a.b");
    for (line, reply) in [
        (
            "AUTH",
            "501 5.5.4 Syntax: AUTH mechanism [initial-response]",
        ),
        (
            "AUTH PLAIN AA== x",
            "501 5.5.4 Syntax: AUTH mechanism [initial-response]",
        ),
        ("AUTH PLAIN A", "501 5.5.2 Cannot decode base64"),
        ("AUTH PLAIN ==", "501 5.5.2 Cannot decode base64"),
        ("AUTH PLAIN *", "501 5.5.2 Cannot decode base64"),
        ("AUTH LOGIN", "504 5.5.4 Mechanism not offered"),
        ("AUTH SCRAM-SHA-1", "504 5.5.4 Mechanism not offered"),
        (
            "AUTH CRAM-MD5 AA==",
            "501 5.5.4 This mechanism takes no initial response",
        ),
        (
            "AUTH CRAM-MD5 =",
            "501 5.5.4 This mechanism takes no initial response",
        ),
    ] {
        assert_eq!(desk.say(line), format!("{reply}\r\n"), "{line:?}");
    }
    // RFC 4954 §4: an empty challenge is "334 " with nothing behind the space.
    assert_eq!(desk.say("auth plain"), "334 \r\n");
    assert_eq!(desk.say("*"), "501 5.7.0 Authentication cancelled\r\n");
    assert_eq!(desk.say("AUTH external"), "334 \r\n");
    assert_eq!(desk.say(""), "235 2.7.0 Authentication successful\r\n");
    for line in ["AUTH EXTERNAL =", "AUTH CRAM-MD5", "AUTH FOO"] {
        assert_eq!(
            desk.say(line),
            "503 5.5.1 Already authenticated\r\n",
            "{line:?}"
        );
    }
}

// covers: R4954-1
#[test]
fn one_reply_for_every_failure() {
    let attempts = [
        plain("corp", "pen"),
        plain("nobody", "pencil"),
        plain("", ""),
        base64::encode(b"x"),
    ];
    for attempt in attempts {
        let mut desk = Desk::secure();
        desk.say("EHLO a.b");
        let reply = desk.say(&format!("AUTH PLAIN {attempt}"));
        assert_eq!(reply, "535 5.7.8 Authentication credentials invalid\r\n");
        assert_eq!(desk.code("ATRN"), 530);
        // The customer may try again, and succeed.
        assert_eq!(
            desk.code(&format!("AUTH PLAIN {}", plain("corp", "pencil"))),
            235
        );
        assert_eq!(desk.provider.account(), Some("corp"));
    }
}

// covers: R4954-2
#[test]
fn three_failures_end_the_connection() {
    let mut desk = Desk::secure();
    desk.say("EHLO a.b");
    let wrong = format!("AUTH PLAIN {}", plain("corp", "pen"));
    for _ in 0..2 {
        assert_eq!(desk.code(&wrong), 535);
        desk.say("EHLO a.b");
    }
    let replies = desk.say(&wrong);
    assert_eq!(
        replies,
        "535 5.7.8 Authentication credentials invalid\r\n421 4.7.0 Too many failed attempts, closing\r\n"
    );
    assert_eq!(desk.end, Some("closed"));
    assert_eq!(desk.failures, [Failure::WrongSecret; 3]);
    assert_eq!(desk.say("NOOP"), "");
}

// covers: R4954-2
#[test]
fn accounts_that_can_not_be_asked_are_no_failure() {
    let mut desk = Desk::secure();
    desk.accounts.available = false;
    desk.say("EHLO a.b");
    for _ in 0..4 {
        let reply = desk.say(&format!("AUTH PLAIN {}", plain("corp", "pencil")));
        assert_eq!(reply, "454 4.7.0 Temporary authentication failure\r\n");
    }
    desk.accounts.available = true;
    assert_eq!(desk.code("AUTH EXTERNAL ="), 235);
}

// covers: R4954-3
#[test]
fn no_proof_before_tls_where_tls_must_come() {
    let secret = format!("AUTH PLAIN {}", plain("corp", "pencil"));
    for mode in [TlsMode::StartTls, TlsMode::Optional, TlsMode::Off] {
        let mut desk = Desk::new(config(mode));
        desk.say("EHLO a.b");
        let expected = match mode {
            TlsMode::Off => "504 5.5.4 Mechanism not offered\r\n",
            _ => "538 5.7.11 Encryption required for this mechanism\r\n",
        };
        assert_eq!(desk.say(&secret), expected, "{mode:?}");
        // The secret went over the line: its owner must hear so.
        assert_eq!(desk.exposed, [Some("corp".to_owned())], "{mode:?}");
        assert_eq!(desk.say("AUTH PLAIN"), expected, "{mode:?}");
        assert_eq!(desk.exposed.len(), 1, "nothing was shown this time");
    }
    let mut desk = Desk::new(config(TlsMode::StartTls));
    desk.say("EHLO a.b");
    for mechanism in [
        "EXTERNAL",
        "SCRAM-SHA-256-PLUS",
        "SCRAM-SHA-256",
        "CRAM-MD5",
    ] {
        assert_eq!(desk.code(&format!("AUTH {mechanism}")), 538, "{mechanism}");
    }
    assert_eq!(
        desk.say("AUTH LOGIN"),
        "530 5.7.0 Must issue a STARTTLS command first\r\n"
    );
}

// covers: R3207-1
#[test]
fn start_tls_is_granted_where_it_is_offered() {
    for (mode, line, code) in [
        (TlsMode::Implicit, "STARTTLS", 503),
        (TlsMode::Off, "STARTTLS", 502),
        (TlsMode::StartTls, "STARTTLS now", 501),
        (TlsMode::StartTls, "STARTTLS", 220),
        (TlsMode::Optional, "STARTTLS", 220),
    ] {
        let mut desk = Desk::new(config(mode));
        desk.say("EHLO a.b");
        assert_eq!(desk.code(line), code, "{mode:?} {line:?}");
        if code == 220 {
            assert_eq!(desk.code("STARTTLS"), 503, "{mode:?}");
        }
    }
}

// covers: R3207-2
#[test]
fn tls_begins_the_session_anew() {
    let mut desk = Desk::new(config(TlsMode::Optional));
    desk.say("EHLO a.b");
    let challenge = desk.say("AUTH CRAM-MD5");
    let challenge = base64::decode(
        challenge
            .trim_end()
            .strip_prefix("334 ")
            .unwrap()
            .as_bytes(),
    )
    .unwrap();
    let mut client = cram_md5_client();
    let response = base64::encode(&client.step(&challenge).unwrap());
    assert_eq!(desk.code(&response), 235);
    assert_eq!(desk.provider.account(), Some("corp"));
    assert_eq!(desk.code("STARTTLS"), 220);
    assert_eq!(
        (desk.provider.account(), desk.provider.client_name()),
        (None, None)
    );
    assert_eq!(desk.code("ATRN"), 530);
    assert_eq!(desk.code("AUTH EXTERNAL ="), 503);
}

fn cram_md5_client() -> sasl::Client {
    let credentials = sasl::ClientCredentials {
        user: "corp".into(),
        secret: Some("pencil".into()),
        remembered: Default::default(),
        certificate: false,
    };
    let settings = sasl::ClientSettings {
        credentials,
        weakest: Mechanism::CramMd5,
    };
    let context = sasl::ClientContext {
        tls: false,
        channel_binding: None,
        nonce: fresh().nonce,
    };
    sasl::Client::choose(&[Mechanism::CramMd5], &settings, &context).unwrap()
}

/// Whoever limits checks knows the user before anything is checked, and as the check will.
#[test]
fn an_attempt_names_its_user() {
    let scram = "n,,n=corp,r=abc";
    let table = [
        (Mechanism::External, "corp", None),
        (Mechanism::Plain, "\0corp\0secret", Some("corp")),
        (Mechanism::Plain, "\0co\u{ad}rp\0secret", Some("corp")),
        (Mechanism::Plain, "corp", None),
        (Mechanism::ScramSha256, scram, Some("corp")),
        (
            Mechanism::ScramSha256Plus,
            "p=x,,n=a=2Cb,r=abc",
            Some("a,b"),
        ),
        (Mechanism::ScramSha256, "n=corp", None),
        (Mechanism::CramMd5, "", None),
    ];
    for (mechanism, response, expected) in table {
        let user = sasl::Server::first_user(mechanism, response.as_bytes());
        assert_eq!(user.as_deref(), expected, "{mechanism} {response:?}");
    }
    let context = || sasl::ServerContext {
        hostname: "relay.example".into(),
        certificate_pin: None,
        channel_bindings: Vec::new(),
        plus_offered: false,
    };
    let accounts = Accounts::corp();
    for (mechanism, first, second) in [
        (Mechanism::ScramSha256, scram, "c=biws,r=abc,p=AAAA"),
        (
            Mechanism::CramMd5,
            "",
            "corp 00000000000000000000000000000000",
        ),
    ] {
        let mut exchange = sasl::Server::start(mechanism, context(), fresh());
        assert!(matches!(
            exchange.step(first.as_bytes(), &accounts),
            ServerStep::Challenge(_)
        ));
        assert_eq!(exchange.user(second.as_bytes()).as_deref(), Some("corp"));
    }
}

// covers: R4954-2
#[test]
fn who_is_put_off_hears_the_same_each_time_and_is_sent_away() {
    let mut desk = Desk::secure();
    desk.say("EHLO a.b");
    let mut replies = String::new();
    for _ in 0..3 {
        let line = format!("AUTH PLAIN {}\r\n", plain("corp", "secret"));
        desk.input.push(line.as_bytes());
        assert!(matches!(
            desk.provider.next(&mut desk.input),
            Event::Authenticate(_)
        ));
        desk.provider.put_off();
        replies += &String::from_utf8(std::mem::take(&mut desk.provider.output)).unwrap();
    }
    let put_off = "454 4.7.0 Temporary authentication failure\r\n";
    assert_eq!(
        replies,
        put_off.repeat(3) + "421 4.7.0 Too many failed attempts, closing\r\n"
    );
    assert_eq!(desk.provider.account(), None);
}
