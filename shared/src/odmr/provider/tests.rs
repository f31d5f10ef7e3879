//! The provider against whatever a customer may say.

use proptest::prelude::*;

use super::*;
use crate::sasl::tests::{Accounts, fresh};
use crate::sasl::{Failure, ServerStep, base64};

/// A provider with its driver, in memory.
struct Desk {
    provider: Provider,
    input: Input,
    accounts: Accounts,
    verdict: Verdict,
    /// What ATRN asked for.
    asked: Vec<Atrn>,
    exposed: Vec<Option<String>>,
    failures: Vec<Failure>,
    end: Option<&'static str>,
}

fn config(tls: TlsMode) -> Config {
    Config {
        hostname: "relay.example".into(),
        tls,
        has_certificate: true,
        mechanisms: Mechanism::ALL.to_vec(),
        errors_max: 20,
    }
}

fn tls_session() -> TlsSession {
    TlsSession {
        channel_bindings: vec![ChannelBinding::TlsExporter(b"keying material".to_vec())],
        certificate_pin: Some("sha256/corp".into()),
    }
}

impl Desk {
    fn new(config: Config) -> Self {
        let tls = (config.tls == TlsMode::Implicit).then(tls_session);
        let mut desk = Self {
            provider: Provider::new(Arc::new(config), tls),
            input: Input::new(),
            accounts: Accounts::corp(),
            verdict: Verdict::Turn,
            asked: Vec::new(),
            exposed: Vec::new(),
            failures: Vec::new(),
            end: None,
        };
        assert_eq!(desk.hear(b""), "220 relay.example ODMR ready\r\n");
        desk
    }

    /// Inside TLS from the start.
    fn secure() -> Self {
        Self::new(config(TlsMode::Implicit))
    }

    /// Past EHLO and AUTH.
    fn authenticated() -> Self {
        let mut desk = Self::secure();
        desk.say("EHLO puller.example");
        assert_eq!(
            desk.say("AUTH EXTERNAL ="),
            "235 2.7.0 Authentication successful\r\n"
        );
        desk
    }

    /// One line of the customer; the replies.
    fn say(&mut self, line: &str) -> String {
        self.hear(format!("{line}\r\n").as_bytes())
    }

    /// The code of the only reply.
    fn code(&mut self, line: &str) -> u16 {
        let replies = self.say(line);
        assert_eq!(replies.lines().count(), 1, "{line:?}: {replies:?}");
        replies[..3].parse().unwrap()
    }

    fn hear(&mut self, octets: &[u8]) -> String {
        self.input.push(octets);
        loop {
            match self.provider.next(&mut self.input) {
                Event::NeedInput => break,
                Event::StartTls => {
                    self.provider.tls_started(tls_session());
                }
                Event::SecretExposed(user) => self.exposed.push(user),
                Event::Authenticate(attempt) => {
                    let checked = attempt.check(&self.accounts, fresh());
                    if let ServerStep::Failure { reason, .. } = checked.step() {
                        self.failures.push(*reason);
                    }
                    self.provider.checked(checked);
                }
                Event::Atrn(atrn) => {
                    self.asked.push(atrn);
                    self.provider.answer(self.verdict);
                }
                Event::Turned => {
                    self.end = Some("turned");
                    break;
                }
                Event::Closed => {
                    self.end = Some("closed");
                    break;
                }
            }
        }
        String::from_utf8(std::mem::take(&mut self.provider.output)).unwrap()
    }
}

fn plain(user: &str, secret: &str) -> String {
    base64::encode(format!("\0{user}\0{secret}").as_bytes())
}

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

// covers: R2645-4
#[test]
fn atrn_needs_authentication_before_anything_else() {
    for mode in [
        TlsMode::Implicit,
        TlsMode::StartTls,
        TlsMode::Optional,
        TlsMode::Off,
    ] {
        let mut desk = Desk::new(config(mode));
        for line in ["ATRN", "ATRN corp.example", "ATRN not valid"] {
            assert_eq!(
                desk.say(line),
                "530 5.7.0 Authentication required\r\n",
                "{mode:?} {line:?}"
            );
        }
        desk.say("EHLO a.b");
        assert_eq!(desk.code("ATRN corp.example"), 530, "{mode:?}");
        assert_eq!(desk.asked, []);
    }
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

fn cram_md5_client() -> crate::sasl::Client {
    let credentials = crate::sasl::ClientCredentials {
        user: "corp".into(),
        secret: Some("pencil".into()),
        certificate: false,
    };
    let settings = crate::sasl::ClientSettings {
        credentials,
        weakest: Mechanism::CramMd5,
    };
    let context = crate::sasl::ClientContext {
        tls: false,
        channel_binding: None,
        nonce: fresh().nonce,
    };
    crate::sasl::Client::choose(&[Mechanism::CramMd5], &settings, &context).unwrap()
}

// covers: R2920-3, R3207-2, R2645-13
#[test]
fn nothing_may_stand_behind_a_command_that_must_be_the_last() {
    let refusal = "554 5.5.1 Octets behind a command that must be the last, closing\r\n";
    let table = [
        (Desk::secure(), "EHLO a.b\r\nNOOP\r\n"),
        (Desk::secure(), "EHLO a.b\r\nN"),
        (
            Desk::new(config(TlsMode::StartTls)),
            "STARTTLS\r\nEHLO a.b\r\n",
        ),
        (
            Desk::new(config(TlsMode::Optional)),
            "STARTTLS\r\n\x16\x03\x01",
        ),
        (Desk::secure(), "AUTH EXTERNAL =\r\nATRN\r\n"),
        (Desk::secure(), "AUTH LOGIN\r\nNOOP\r\n"),
        (Desk::authenticated(), "ATRN\r\nNOOP\r\n"),
        (
            Desk::authenticated(),
            "ATRN corp.example\r\n220 puller.example\r\n",
        ),
        (Desk::authenticated(), "ATRN\r\n\n"),
    ];
    for (mut desk, octets) in table {
        assert_eq!(desk.hear(octets.as_bytes()), refusal, "{octets:?}");
        assert_eq!(
            (desk.end, desk.asked.len()),
            (Some("closed"), 0),
            "{octets:?}"
        );
    }
    let mut desk = Desk::secure();
    desk.say("EHLO a.b");
    desk.say("AUTH PLAIN");
    let octets = format!("{}\r\nATRN\r\n", plain("corp", "pencil"));
    assert_eq!(desk.hear(octets.as_bytes()), refusal);
    assert_eq!((desk.end, desk.provider.account()), (Some("closed"), None));
}

// covers: R2645-13
#[test]
fn who_speaks_while_mail_is_looked_for_is_not_turned() {
    let mut desk = Desk::authenticated();
    desk.input.push(b"ATRN\r\n");
    assert!(matches!(
        desk.provider.next(&mut desk.input),
        Event::Atrn(_)
    ));
    // The driver waits for its own answer: nothing else happens meanwhile.
    assert!(matches!(
        desk.provider.next(&mut desk.input),
        Event::NeedInput
    ));
    desk.input.push(b"220 early\r\n");
    desk.provider.answer(Verdict::Turn);
    assert_eq!(
        desk.hear(b""),
        "554 5.5.1 Octets behind a command that must be the last, closing\r\n"
    );
    assert_eq!(desk.end, Some("closed"));
}

// covers: R2645-7, R2645-8
#[test]
fn atrn_asks_for_the_domains_that_it_names() {
    let mut desk = Desk::authenticated();
    desk.verdict = Verdict::NoMail;
    assert_eq!(desk.code("ATRN"), 453);
    assert_eq!(desk.code("atrn Corp.Example,corp.test"), 453);
    let names: Vec<_> = desk.asked.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["ATRN", "ATRN corp.example,corp.test"]);
    for line in [
        "ATRN corp",
        "ATRN a.b, c.d",
        "ATRN  a.b",
        "ATRN a.b.",
        "ATRN a.b XWAIT=60",
        "ATRN [192.0.2.1]",
    ] {
        assert_eq!(
            desk.say(line),
            "501 5.5.4 Syntax: ATRN [domain[,domain]...]\r\n",
            "{line:?}"
        );
    }
    assert_eq!((desk.asked.len(), desk.code("ATRN corp.example")), (2, 453));
}

// covers: R2645-9, R2645-10, R2645-11, R2645-12
#[test]
fn a_refused_atrn_leaves_the_session_as_it_was() {
    let table = [
        (Verdict::NoMail, "453 4.7.0 You have no mail\r\n"),
        (Verdict::NotPermitted, "450 4.7.1 ATRN request refused\r\n"),
        (
            Verdict::TooOften,
            "450 4.7.0 Too often, try again later\r\n",
        ),
        (
            Verdict::Unavailable,
            "451 4.3.0 Unable to process ATRN request now\r\n",
        ),
    ];
    let mut desk = Desk::authenticated();
    for (verdict, reply) in table {
        desk.verdict = verdict;
        assert_eq!(desk.say("ATRN corp.example"), reply);
        assert_eq!((desk.end, desk.provider.account()), (None, Some("corp")));
    }
    desk.verdict = Verdict::Turn;
    assert_eq!(desk.code("ATRN corp.example"), 250);
}

// covers: R2645-13
#[test]
fn after_the_turn_the_provider_is_silent() {
    let mut desk = Desk::authenticated();
    assert_eq!(
        desk.say("ATRN"),
        "250 2.0.0 OK now reversing the connection\r\n"
    );
    assert_eq!(desk.end, Some("turned"));
    // What comes now belongs to the reversed session: it is not touched.
    assert_eq!(desk.say("220 puller.example ESMTP"), "");
    assert_eq!(desk.input.bytes(), b"220 puller.example ESMTP\r\n");
    desk.provider
        .close(Reply::new(421, "4.3.2", "Shutting down"));
    assert_eq!(desk.hear(b""), "");
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
