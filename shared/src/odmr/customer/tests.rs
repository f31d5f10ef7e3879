//! The customer against whatever a provider may say.

use proptest::prelude::*;

use super::*;
use crate::odmr::{ATRN_TIMEOUT_MIN, atrn_timeout};
use crate::sasl::{ChannelBinding, ClientCredentials, NONCE_OCTETS};
use crate::smtp::reply::ReplyError;

const GREETING: &str = "220 relay.example\r\n";
const OFFER: &str = "250-relay.example\r\n250-AUTH PLAIN\r\n250 ATRN\r\n";
const PROVEN: &str = "235 2.7.0 ok\r\n";
const BYE: &str = "221 bye\r\n";

fn config(tls: TlsMode) -> Config {
    let credentials = ClientCredentials {
        user: "corp".into(),
        secret: Some("pencil".into()),
        remembered: Default::default(),
        certificate: false,
    };
    Config {
        hostname: "puller.example".into(),
        tls,
        credentials: ClientSettings {
            credentials,
            weakest: Mechanism::Plain,
        },
        domains: vec![
            Domain::parse("corp.example").unwrap(),
            Domain::parse("corp.test").unwrap(),
        ],
        wait: None,
    }
}

fn context(tls: bool) -> ClientContext {
    ClientContext {
        tls,
        channel_binding: None,
        nonce: [3; NONCE_OCTETS],
    }
}

/// What became of a scripted provider: the lines we sent, and the outcome unless it waits for more.
#[derive(Debug, Eq, PartialEq)]
struct Played {
    sent: Vec<String>,
    outcome: Option<Outcome>,
    awaited: Awaited,
}

/// Plays a script: each part arrives when the customer wants to read.
fn play_with(config: Config, context: ClientContext, script: &[&str]) -> Played {
    play_again(config, context, script, 0)
}

/// The same with a customer that asks again so often.
fn play_again(config: Config, context: ClientContext, script: &[&str], again: usize) -> Played {
    let mut customer = Customer::new(Arc::new(config), context);
    let mut input = Input::new();
    let mut script = script.iter();
    let mut sent = Vec::new();
    let mut outcome = None;
    let mut again = again;
    loop {
        let event = customer.next(&mut input);
        let output = String::from_utf8(mem::take(&mut customer.output)).unwrap();
        sent.extend(output.lines().map(str::to_owned));
        match event {
            Event::NeedInput => match script.next() {
                Some(part) => input.push(part.as_bytes()),
                None => break,
            },
            Event::StartTls => customer.tls_started(self::context(true)),
            Event::Prove(challenge) => customer.responded(challenge.respond()),
            Event::NoMailYet if again > 0 => {
                again -= 1;
                customer.ask_again();
            }
            Event::NoMailYet => customer.quit(),
            Event::Ended(end) => {
                outcome = Some(end);
                break;
            }
        }
    }
    Played {
        sent,
        outcome,
        awaited: customer.awaited(),
    }
}

fn play(script: &[&str]) -> Played {
    play_with(config(TlsMode::Implicit), context(true), script)
}

fn play_start_tls(script: &[&str]) -> Played {
    play_with(config(TlsMode::StartTls), context(false), script)
}

fn reply(line: &str) -> Reply {
    parse_reply(format!("{line}\r\n").as_bytes())
        .unwrap()
        .unwrap()
        .0
}

// covers: R2645-15
#[test]
fn the_reply_to_atrn_is_waited_for_and_may_have_lines() {
    let waiting = play(&[GREETING, OFFER, PROVEN]);
    assert_eq!((waiting.outcome, waiting.awaited), (None, Awaited::Atrn));
    assert!(ATRN_TIMEOUT_MIN.as_secs() >= 600);
    for positive in [
        "250 go\r\n",
        "250\r\n",
        "250-OK now\r\n250-reversing\r\n250 the connection\r\n",
    ] {
        let played = play(&[GREETING, OFFER, PROVEN, positive]);
        assert_eq!(played.outcome, Some(Outcome::Turned), "{positive:?}");
        assert_eq!(
            played.sent.last().unwrap(),
            "ATRN corp.example,corp.test",
            "nothing behind it, and no QUIT"
        );
    }
}

const WAITING_OFFER: &str = "250-relay.example\r\n250-AUTH PLAIN\r\n250-XWAIT 240\r\n250 ATRN\r\n";
const NO_MAIL: &str = "453 4.7.0 You have no mail\r\n";

/// A customer that wants to wait up to ten minutes.
fn play_waiting(script: &[&str], again: usize) -> Played {
    let config = Config {
        wait: Some(Duration::from_secs(600)),
        ..config(TlsMode::Implicit)
    };
    play_again(config, context(true), script, again)
}

// covers: R2645-16
#[test]
fn no_mail_after_a_wait_is_a_question_and_not_an_end() {
    let later = Outcome::Later(reply("421 closing"));
    let refused = Outcome::Refused(reply("450 4.7.1 no"));
    for (again, replies, outcome, sent) in [
        (0, "453|221", Some(Outcome::NoMail), "ATRN QUIT"),
        (1, "453", None, "ATRN ATRN"),
        (2, "453|453|250", Some(Outcome::Turned), "ATRN ATRN ATRN"),
        (1, "453|453|221", Some(Outcome::NoMail), "ATRN ATRN QUIT"),
        (1, "453|421 closing|221", Some(later), "ATRN ATRN QUIT"),
        (1, "453|450 4.7.1 no|221", Some(refused), "ATRN ATRN QUIT"),
    ] {
        let lines: Vec<_> = replies
            .split('|')
            .map(|line| format!("{line}\r\n"))
            .collect();
        let mut script = vec![GREETING, WAITING_OFFER, PROVEN];
        script.extend(lines.iter().map(String::as_str));
        let played = play_waiting(&script, again);
        assert_eq!(played.outcome, outcome, "{replies:?}");
        // Capped by what the provider offers.
        let atrn = "ATRN corp.example,corp.test XWAIT=240";
        let expected = sent.replace("ATRN", atrn).replace(" QUIT", "|QUIT");
        let expected = expected.replace(" ATRN", "|ATRN");
        assert_eq!(played.sent[2..].join("|"), expected, "{replies:?}");
    }
}

// covers: R2645-16
#[test]
fn a_provider_without_xwait_is_asked_plainly() {
    let played = play_waiting(&[GREETING, OFFER, PROVEN, NO_MAIL, BYE], 1);
    assert_eq!(played.outcome, Some(Outcome::NoMail));
    assert_eq!(played.sent[2..], ["ATRN corp.example,corp.test", "QUIT"]);
}

#[test]
fn a_connection_that_is_lost_between_two_waits_is_no_fault() {
    let config = Config {
        wait: Some(Duration::from_secs(60)),
        ..config(TlsMode::Implicit)
    };
    let mut customer = Customer::new(Arc::new(config), context(true));
    let mut input = Input::new();
    for part in [GREETING, WAITING_OFFER, PROVEN, NO_MAIL] {
        assert!(matches!(customer.next(&mut input), Event::NeedInput));
        input.push(part.as_bytes());
    }
    assert!(matches!(customer.next(&mut input), Event::NoMailYet));
    assert_eq!(customer.wait(), Some(Duration::from_secs(60)));
    // It is asked until it is answered.
    assert!(matches!(customer.next(&mut input), Event::NoMailYet));
    assert_eq!(customer.lost(), Outcome::NoMail);
}

// covers: R2645-15
#[test]
fn a_reply_that_may_wait_is_waited_for_longer() {
    let seconds = Duration::from_secs;
    for (wait, expected) in [
        (None, 600),
        (Some(1), 600),
        (Some(240), 600),
        (Some(3600), 3660),
    ] {
        assert_eq!(
            atrn_timeout(wait.map(seconds)),
            seconds(expected),
            "{wait:?}"
        );
    }
}

// covers: R2645-16
#[test]
fn each_reply_to_atrn_has_one_meaning() {
    let unexpected = |line: &str| {
        Outcome::Protocol(Fault::Unexpected {
            awaited: Awaited::Atrn,
            reply: reply(line),
        })
    };
    let table = [
        ("453 4.7.0 You have no mail", Outcome::NoMail, true),
        (
            "450 4.7.1 no",
            Outcome::Refused(reply("450 4.7.1 no")),
            true,
        ),
        ("451 later", Outcome::Later(reply("451 later")), true),
        ("421 closing", Outcome::Later(reply("421 closing")), true),
        ("455 what", Outcome::Later(reply("455 what")), true),
        ("530 who", Outcome::Refused(reply("530 who")), true),
        ("501 what", Outcome::Refused(reply("501 what")), true),
        ("503 not now", Outcome::Refused(reply("503 not now")), true),
        ("599 no", Outcome::Refused(reply("599 no")), true),
        (
            "500 unknown",
            Outcome::NotOffered(Missing::Atrn, Some(reply("500 unknown"))),
            true,
        ),
        (
            "502 not here",
            Outcome::NotOffered(Missing::Atrn, Some(reply("502 not here"))),
            true,
        ),
        ("251 other", unexpected("251 other"), false),
        ("220 hello", unexpected("220 hello"), false),
        ("354 go", unexpected("354 go"), false),
        (
            "EHLO relay.example",
            Outcome::Protocol(Fault::Reply(ReplyError::Malformed)),
            false,
        ),
        (
            "150 wait",
            Outcome::Protocol(Fault::Reply(ReplyError::Malformed)),
            false,
        ),
        (
            "250-a\r\n451 b",
            Outcome::Protocol(Fault::Reply(ReplyError::Mixed)),
            false,
        ),
    ];
    for (line, outcome, polite) in table {
        let played = play(&[GREETING, OFFER, PROVEN, &format!("{line}\r\n"), BYE]);
        assert_eq!(played.outcome, Some(outcome), "{line:?}");
        assert_eq!(played.sent.last().unwrap() == "QUIT", polite, "{line:?}");
        assert!(
            !played.sent.iter().any(|line| line.starts_with("220")),
            "never a greeting: {line:?}"
        );
    }
}

// covers: R2645-13
#[test]
fn a_provider_that_speaks_before_our_greeting_is_left() {
    for early in [
        "250 go\r\nEHLO relay.example\r\n",
        "250 go\r\n\r\n",
        "250-go\r\n250 now\r\n250 again\r\n",
        "250 go\r\nE",
    ] {
        let played = play(&[GREETING, OFFER, PROVEN, early]);
        assert_eq!(
            played.outcome,
            Some(Outcome::Protocol(Fault::Unsolicited)),
            "{early:?}"
        );
    }
}

// covers: R5321-25
#[test]
fn replies_that_are_not_due_are_a_fault() {
    let table: [&[&str]; 4] = [
        &["220 relay.example\r\n250 ATRN\r\n"],
        &[
            GREETING,
            "250-relay.example\r\n250 ATRN\r\n250 AUTH PLAIN\r\n",
        ],
        &[GREETING, OFFER, "235 ok\r\n250 go\r\n"],
        &[GREETING, OFFER, "334 \r\n235 ok\r\n"],
    ];
    for script in table {
        let played = play(script);
        assert_eq!(
            played.outcome,
            Some(Outcome::Protocol(Fault::Unsolicited)),
            "{script:?}"
        );
        assert_ne!(played.sent.last().map(String::as_str), Some("QUIT"));
    }
}

// covers: R5321-24
#[test]
fn garbage_is_no_reply_in_any_state() {
    let states: [&[&str]; 5] = [
        &[],
        &[GREETING],
        &[GREETING, OFFER],
        &[GREETING, OFFER, PROVEN],
        &[GREETING, OFFER, "334 \r\n"],
    ];
    for state in states {
        for (garbage, error) in [
            ("HTTP/1.1 400 Bad Request\r\n", ReplyError::Malformed),
            ("\r\n", ReplyError::Malformed),
            ("250-a\r\n220 b\r\n", ReplyError::Mixed),
        ] {
            let script = [state, &[garbage]].concat();
            let played = play(&script);
            // An exchange that we gave up ends as that, whatever comes.
            let expected = if state.last() == Some(&"334 \r\n") {
                Outcome::AuthFailed(ClientError::Malformed)
            } else {
                Outcome::Protocol(error.into())
            };
            assert_eq!(played.outcome, Some(expected), "{script:?}");
        }
    }
}

// covers: R2645-16
#[test]
fn a_provider_that_does_not_want_us_now_or_ever() {
    let early: &[&str] = &[];
    let table = [
        (early, "421 busy", Outcome::Later(reply("421 busy")), "QUIT"),
        (early, "451 busy", Outcome::Later(reply("451 busy")), "QUIT"),
        (
            early,
            "554 no service",
            Outcome::Refused(reply("554 no service")),
            "QUIT",
        ),
        (
            &[GREETING],
            "421 busy",
            Outcome::Later(reply("421 busy")),
            "QUIT",
        ),
        (
            &[GREETING],
            "502 what",
            Outcome::NotOffered(Missing::Ehlo, Some(reply("502 what"))),
            "QUIT",
        ),
        (
            &[GREETING, OFFER],
            "454 later",
            Outcome::Later(reply("454 later")),
            "QUIT",
        ),
        (
            &[GREETING, OFFER],
            "535 no",
            Outcome::AuthRefused(reply("535 no")),
            "QUIT",
        ),
        (
            &[GREETING, OFFER],
            "504 no",
            Outcome::AuthRefused(reply("504 no")),
            "QUIT",
        ),
        (
            &[GREETING, OFFER],
            "421 too often",
            Outcome::Later(reply("421 too often")),
            "QUIT",
        ),
    ];
    for (before, line, outcome, last) in table {
        let line = format!("{line}\r\n");
        let script = [before, &[line.as_str(), BYE]].concat();
        let played = play(&script);
        assert_eq!(played.outcome, Some(outcome), "{script:?}");
        assert_eq!(played.sent.last().unwrap(), last, "{script:?}");
    }
}

// Our own provider says 535 and 421 in one go.
#[test]
fn what_stands_behind_a_refusal_does_not_matter() {
    let played = play(&[GREETING, OFFER, "535 5.7.8 no\r\n421 4.7.0 closing\r\n"]);
    assert_eq!(
        played.outcome,
        Some(Outcome::AuthRefused(reply("535 5.7.8 no")))
    );
}

// covers: R2645-17
#[test]
fn auth_and_atrn_are_sent_only_when_offered() {
    for (offer, missing) in [
        ("250 relay.example\r\n", Missing::Atrn),
        ("250-relay.example\r\n250 AUTH PLAIN\r\n", Missing::Atrn),
        ("250-relay.example\r\n250 ATRN\r\n", Missing::Auth),
        (
            "250-relay.example\r\n250-ATRN\r\n250 AUTH\r\n",
            Missing::Auth,
        ),
        ("250-ATRN\r\n250 AUTH PLAIN\r\n", Missing::Atrn),
    ] {
        let played = play(&[GREETING, offer, BYE]);
        assert_eq!(
            played.outcome,
            Some(Outcome::NotOffered(missing, None)),
            "{offer:?}"
        );
        assert_eq!(played.sent, ["EHLO puller.example", "QUIT"], "{offer:?}");
    }
    let played = play(&[
        GREETING,
        "250-relay.example\r\n250-ATRN\r\n250 AUTH LOGIN GSSAPI\r\n",
        BYE,
    ]);
    assert_eq!(
        played.outcome,
        Some(Outcome::AuthFailed(ClientError::NoMechanism))
    );
    assert_eq!(played.sent, ["EHLO puller.example", "QUIT"]);
}

// covers: R2645-17
#[test]
fn atrn_names_the_configured_domains() {
    let all = Config {
        domains: Vec::new(),
        ..config(TlsMode::Implicit)
    };
    let played = play_with(all, context(true), &[GREETING, OFFER, PROVEN]);
    assert_eq!(
        played.sent,
        ["EHLO puller.example", "AUTH PLAIN AGNvcnAAcGVuY2ls", "ATRN"]
    );
}

// covers: R3207-3
#[test]
fn tls_is_not_given_up_whatever_the_provider_says() {
    let offer = "250-relay.example\r\n250-STARTTLS\r\n250-AUTH PLAIN CRAM-MD5\r\n250 ATRN\r\n";
    let without = "250-relay.example\r\n250-AUTH CRAM-MD5\r\n250 ATRN\r\n";
    let missing = |words: Option<&str>| Outcome::NotOffered(Missing::StartTls, words.map(reply));
    let table: [(&[&str], Outcome); 5] = [
        (&[GREETING, without, BYE], missing(None)),
        (
            &[GREETING, offer, "454 not now\r\n", BYE],
            Outcome::Later(reply("454 not now")),
        ),
        (
            &[GREETING, offer, "502 no\r\n", BYE],
            missing(Some("502 no")),
        ),
        (
            &[GREETING, offer, "220 go\r\n250 injected\r\n"],
            Outcome::Protocol(Fault::Unsolicited),
        ),
        (
            &[GREETING, offer, "250 fine\r\n"],
            Outcome::Protocol(Fault::Unexpected {
                awaited: Awaited::StartTls,
                reply: reply("250 fine"),
            }),
        ),
    ];
    for (script, outcome) in table {
        let played = play_start_tls(script);
        assert_eq!(played.outcome, Some(outcome), "{script:?}");
        assert!(
            !played.sent.iter().any(|line| line.starts_with("AUTH")),
            "{script:?}"
        );
    }
}

// covers: R3207-3, R2645-17
#[test]
fn offers_made_before_tls_are_forgotten() {
    let offer = "250-relay.example\r\n250-STARTTLS\r\n250-AUTH PLAIN\r\n250 ATRN\r\n";
    let played = play_start_tls(&[
        GREETING,
        offer,
        "220 go\r\n",
        "250-relay.example\r\n250 STARTTLS\r\n",
        BYE,
    ]);
    assert_eq!(
        played.outcome,
        Some(Outcome::NotOffered(Missing::Atrn, None))
    );
    let hello = "EHLO puller.example";
    assert_eq!(played.sent, [hello, "STARTTLS", hello, "QUIT"]);
}

// covers: R5802-1
#[test]
fn success_without_the_proof_of_the_server_is_none() {
    let offer = "250-relay.example\r\n250-AUTH SCRAM-SHA-256\r\n250 ATRN\r\n";
    let scripts: [&[&str]; 2] = [
        &[GREETING, offer, "235 believe me\r\n", BYE],
        // Signature of nobody: "v=" and 32 zero octets.
        &[
            GREETING,
            offer,
            "334 dj1BQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE9\r\n",
            "501 ok\r\n",
            BYE,
        ],
    ];
    let errors = [ClientError::ServerNotProven, ClientError::Malformed];
    for (script, error) in scripts.into_iter().zip(errors) {
        let played = play(script);
        assert_eq!(
            played.outcome,
            Some(Outcome::AuthFailed(error)),
            "{script:?}"
        );
        assert!(
            !played.sent.iter().any(|line| line.starts_with("ATRN")),
            "{script:?}"
        );
    }
}

// covers: R4954-1, R5802-1
#[test]
fn an_exchange_that_is_not_trusted_is_cancelled() {
    let offer = "250-relay.example\r\n250-AUTH SCRAM-SHA-256\r\n250 ATRN\r\n";
    // r=AwMDAwMDAwMDAwMDAwMDAwMDx,s=W22ZaA==,i=1
    let weak = "334 cj1Bd01EQXdNREF3TURBd01EQXdNREF3TURBd01EeCxzPVcyMlphQT09LGk9MQ==\r\n";
    for (challenge, error) in [
        (weak, ClientError::Iterations),
        ("334 \r\n", ClientError::Malformed),
        ("334 not base64\r\n", ClientError::Malformed),
        ("334-AA==\r\n334 AA==\r\n", ClientError::Malformed),
    ] {
        let played = play(&[GREETING, offer, challenge, "501 cancelled\r\n", BYE]);
        assert_eq!(
            played.outcome,
            Some(Outcome::AuthFailed(error)),
            "{challenge:?}"
        );
        assert_eq!(&played.sent[2..], ["*", "QUIT"], "{challenge:?}");
    }
}

#[test]
fn channel_binding_is_used_inside_start_tls_as_well() {
    let binding = ChannelBinding::TlsExporter(b"keying material".to_vec());
    let context = ClientContext {
        channel_binding: Some(binding),
        ..context(true)
    };
    let offer = "250-relay.example\r\n250-AUTH SCRAM-SHA-256-PLUS SCRAM-SHA-256\r\n250 ATRN\r\n";
    let played = play_with(config(TlsMode::Implicit), context, &[GREETING, offer]);
    assert!(
        played.sent[1].starts_with("AUTH SCRAM-SHA-256-PLUS cD10bHMtZXhwb3J0ZXIs"),
        "{:?}",
        played.sent
    );
}

// covers: R2645-16, R2645-25
#[test]
fn a_connection_that_ends_early_changes_nothing_that_is_decided() {
    let states: [(&[&str], Outcome); 8] = [
        (&[], Outcome::Lost(Awaited::Greeting)),
        (&[GREETING], Outcome::Lost(Awaited::Ehlo)),
        (&[GREETING, OFFER], Outcome::Lost(Awaited::Auth)),
        (&[GREETING, OFFER, PROVEN], Outcome::Lost(Awaited::Atrn)),
        (
            &[GREETING, OFFER, PROVEN, "250-half"],
            Outcome::Lost(Awaited::Atrn),
        ),
        (&[GREETING, OFFER, PROVEN, "453 none\r\n"], Outcome::NoMail),
        (
            &[GREETING, OFFER, "535 no\r\n"],
            Outcome::AuthRefused(reply("535 no")),
        ),
        (
            &[GREETING, OFFER, "334 AA==\r\n"],
            Outcome::AuthFailed(ClientError::Malformed),
        ),
    ];
    for (script, outcome) in states {
        let mut customer = Customer::new(Arc::new(config(TlsMode::Implicit)), context(true));
        let mut input = Input::new();
        for part in script {
            input.push(part.as_bytes());
            if let Event::Prove(challenge) = customer.next(&mut input) {
                customer.responded(challenge.respond());
            }
        }
        assert_eq!(customer.lost(), outcome, "{script:?}");
    }
}

proptest! {
    // Only a 250 to an ATRN that was sent turns, and no octets make the machine panic; framing does not matter.
    // covers: R2645-16, R5321-24
    #[test]
    fn only_a_250_to_atrn_turns(script in prop::collection::vec(any_reply(), 0..8)) {
        let parts: Vec<&str> = script.iter().map(String::as_str).collect();
        let played = play(&parts);
        let asked = played.sent.iter().any(|line| line.starts_with("ATRN"));
        prop_assert!(asked || played.outcome != Some(Outcome::Turned));
        let text = format!("{:?}", played.sent);
        prop_assert!(!text.contains("MAIL") && !text.contains("RCPT"));
    }
}

fn any_reply() -> impl Strategy<Value = String> {
    let replies = [
        GREETING,
        OFFER,
        PROVEN,
        BYE,
        "250 go\r\n",
        "453 none\r\n",
        "334 \r\n",
        "334 AA==\r\n",
        "535 no\r\n",
        "421 x\r\n",
        "250-",
        "\r\n",
    ];
    prop_oneof![6 => prop::sample::select(replies.to_vec()).prop_map(str::to_owned), 1 => any::<String>()]
}
