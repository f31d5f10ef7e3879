//! The grammar of ATRN, and both machines against each other in memory.

use std::collections::VecDeque;
use std::sync::Arc;

use proptest::prelude::*;

use super::customer::{self, Customer, Outcome};
use super::provider::{self, Provider, TlsSession, Verdict};
use super::*;
use crate::sasl::tests::{Accounts, fresh};
use crate::sasl::{
    ChannelBinding, ClientContext, ClientCredentials, ClientError, ClientSettings, Mechanism,
    NONCE_OCTETS,
};
use crate::smtp::line::Input;

fn domains(names: &[&str]) -> Vec<Domain> {
    names
        .iter()
        .map(|name| Domain::parse(name).unwrap())
        .collect()
}

// covers: R2645-7, R2645-8
#[test]
fn atrn_takes_a_list_of_domains_or_none() {
    let table: [(&str, &[&str]); 7] = [
        ("", &[]),
        ("example.org", &["example.org"]),
        ("Example.ORG,a.b", &["example.org", "a.b"]),
        ("a.b,A.B,a.b", &["a.b"]),
        ("1.2", &["1.2"]),
        ("x-y.a--b.org", &["x-y.a--b.org"]),
        ("xn--mnchen-3ya.example", &["xn--mnchen-3ya.example"]),
    ];
    for (argument, expected) in table {
        assert_eq!(
            Atrn::parse(argument),
            Ok(Atrn {
                domains: domains(expected),
                wait: None,
            }),
            "{argument:?}"
        );
    }
}

// covers: R2645-7
#[test]
fn a_wait_stands_behind_the_domains() {
    let table: [(&str, &[&str], u64); 6] = [
        ("XWAIT=240", &[], 240),
        ("xWait=1", &[], 1),
        ("XWAIT=86400", &[], 86_400),
        ("example.org XWAIT=60", &["example.org"], 60),
        ("Example.org,a.b xwait=60", &["example.org", "a.b"], 60),
        ("xwait.example XWAIT=9", &["xwait.example"], 9),
    ];
    for (argument, expected, seconds) in table {
        let expected = Atrn {
            domains: domains(expected),
            wait: Some(Duration::from_secs(seconds)),
        };
        assert_eq!(Atrn::parse(argument), Ok(expected), "{argument:?}");
    }
}

// covers: R2645-7
#[test]
fn a_wait_is_a_number_of_seconds_up_to_a_day_and_stands_once() {
    for argument in [
        "XWAIT",
        "XWAIT=",
        "XWAIT=0",
        "XWAIT=060",
        "XWAIT=-1",
        "XWAIT=+1",
        "XWAIT=1.5",
        "XWAIT=4m",
        "XWAIT=86401",
        "XWAIT=99999",
        "XWAIT=100000",
        "XWAIT=18446744073709551616",
        "XWAIT =60",
        "XWAIT= 60",
        "XWAIT=60 ",
        " XWAIT=60",
        "XWAIT=60,a.b",
        "XWAIT=60 a.b",
        "XWAIT=60 XWAIT=60",
        "a.b,XWAIT=60",
        "a.b  XWAIT=60",
        "a.b\tXWAIT=60",
        "a.b, XWAIT=60",
        "a.b XWAIT=60 XWAIT=60",
        "a.b XWAIT=60 X=1",
        "a.b WAIT=60",
        "a.b XWAIT",
        "a.b c.d XWAIT=60",
        "XWAIT=\u{661}",
    ] {
        assert_eq!(Atrn::parse(argument), Err(AtrnSyntax), "{argument:?}");
    }
}

// covers: R2645-7
#[test]
fn nothing_else_is_an_argument_of_atrn() {
    let label = "a".repeat(64);
    let name = format!("{}a.b", "a.".repeat(127));
    for argument in [
        " ",
        "org",
        "a.b,",
        ",a.b",
        "a.b,,c.d",
        "a.b, c.d",
        "a.b ,c.d",
        "a.b c.d",
        " a.b",
        "a.b ",
        "a.b.",
        ".a.b",
        "a..b",
        "-a.b",
        "a-.b",
        "a.b-",
        "a_b.c",
        "*.b",
        "@a.b",
        "#a.b",
        "[192.0.2.1]",
        "a.b,[192.0.2.1]",
        "a@b.c",
        "m\u{fc}nchen.example",
        "xn--\u{fc}.b",
        "a.b\t",
        "a.b;c.d",
        "\"a.b\"",
        &label,
        &name,
    ] {
        assert_eq!(Atrn::parse(argument), Err(AtrnSyntax), "{argument:?}");
    }
}

proptest! {
    // covers: R2645-7
    #[test]
    fn what_is_printed_is_parsed(
        names in prop::collection::hash_set("[a-z0-9]{1,9}\\.[a-z]{2,5}", 0..9),
        wait in prop::option::of(1..=WAIT_MAX.as_secs()),
    ) {
        let wait = wait.map(Duration::from_secs);
        let atrn = Atrn { domains: names.iter().map(|name| Domain::parse(name).unwrap()).collect(), wait };
        let line = atrn.to_string();
        prop_assert_eq!(Atrn::parse(line.strip_prefix("ATRN").unwrap().trim_start()), Ok(atrn));
    }

    #[test]
    fn no_argument_panics(argument in any::<String>()) {
        is_sound(&argument)?;
    }

    /// The same with what an argument is made of: few of all strings come near one.
    #[test]
    fn no_argument_that_is_nearly_right_is_taken_for_another(
        argument in "(a\\.b|,| |XWAIT=|xwait=|[0-9]{1,6}|=|\\.|-|\u{661}){0,9}"
    ) {
        is_sound(&argument)?;
    }
}

/// What is taken has an argument's form, and means what it prints.
fn is_sound(argument: &str) -> Result<(), TestCaseError> {
    if let Ok(atrn) = Atrn::parse(argument) {
        prop_assert!(atrn.domains.iter().all(|domain| domain.labels() >= 2));
        prop_assert!(
            atrn.wait
                .is_none_or(|wait| !wait.is_zero() && wait <= WAIT_MAX)
        );
        let line = atrn.to_string();
        let printed = line.strip_prefix("ATRN").unwrap().trim_start();
        prop_assert_eq!(Atrn::parse(printed), Ok(atrn));
        prop_assert!(printed.len() <= argument.len());
    }
    Ok(())
}

/// What the two sides are, and what the provider's accounts say.
#[derive(Clone)]
struct Pair {
    provider: provider::Config,
    customer: customer::Config,
    binding: Option<ChannelBinding>,
    verdict: Verdict,
    /// How often the customer asks again after a wait that brought nothing.
    again: usize,
    /// Octets that arrive at once.
    piece: usize,
}

/// How a dialogue went: every line with its party, and both ends.
#[derive(Debug, Eq, PartialEq)]
struct Run {
    transcript: String,
    outcome: Outcome,
    turned: bool,
    account: Option<String>,
}

impl Pair {
    /// Implicit TLS with a channel binding, and a customer with a secret.
    fn new() -> Self {
        let credentials = ClientCredentials {
            user: "corp".into(),
            secret: Some("pencil".into()),
            remembered: Default::default(),
            certificate: false,
        };
        Self {
            provider: provider::Config {
                hostname: "relay.example".into(),
                tls: provider::TlsMode::Implicit,
                has_certificate: true,
                mechanisms: Mechanism::ALL.to_vec(),
                errors_max: 20,
                wait: None,
            },
            customer: customer::Config {
                hostname: "puller.example".into(),
                tls: customer::TlsMode::Implicit,
                credentials: ClientSettings {
                    credentials,
                    weakest: Mechanism::Plain,
                },
                domains: domains(&["corp.example", "corp.test"]),
                wait: None,
            },
            binding: Some(ChannelBinding::TlsExporter(b"keying material".to_vec())),
            verdict: Verdict::Turn,
            again: 0,
            piece: usize::MAX,
        }
    }

    fn with_start_tls(self, mode: provider::TlsMode) -> Self {
        Self {
            provider: provider::Config {
                tls: mode,
                ..self.provider
            },
            customer: customer::Config {
                tls: customer::TlsMode::StartTls,
                ..self.customer
            },
            ..self
        }
    }

    fn in_clear(self, mode: provider::TlsMode) -> Self {
        Self {
            provider: provider::Config {
                tls: mode,
                ..self.provider
            },
            customer: customer::Config {
                tls: customer::TlsMode::Off,
                ..self.customer
            },
            ..self
        }
    }

    fn with_mechanisms(mut self, mechanisms: &[Mechanism]) -> Self {
        self.provider.mechanisms = mechanisms.to_vec();
        self
    }

    fn with_wait(mut self, ours: Option<u64>, theirs: Option<u64>) -> Self {
        self.customer.wait = ours.map(Duration::from_secs);
        self.provider.wait = theirs.map(Duration::from_secs);
        self
    }

    fn with_certificate(mut self) -> Self {
        self.customer.credentials.credentials.certificate = true;
        self
    }

    fn tls_session(&self) -> TlsSession {
        let certificate = self.customer.credentials.credentials.certificate;
        TlsSession {
            channel_bindings: self.binding.clone().into_iter().collect(),
            certificate_pin: certificate.then(|| "sha256/corp".into()),
        }
    }

    fn context(&self, tls: bool) -> ClientContext {
        ClientContext {
            tls,
            channel_binding: self.binding.clone().filter(|_| tls),
            nonce: [3; NONCE_OCTETS],
        }
    }

    /// Comes up empty where the customer will ask again.
    fn decide(&self, atrn: &Atrn, again: usize) -> Verdict {
        assert_eq!(atrn.domains, self.customer.domains);
        let both = self.customer.wait.zip(self.provider.wait);
        assert_eq!(atrn.wait, both.map(|(ours, theirs)| ours.min(theirs)));
        match atrn.wait {
            Some(_) if again > 0 => Verdict::NoMail,
            _ => self.verdict,
        }
    }

    fn run(self) -> Run {
        let implicit = self.provider.tls == provider::TlsMode::Implicit;
        let session = implicit.then(|| self.tls_session());
        let context = self.context(self.customer.tls == customer::TlsMode::Implicit);
        let mut provider = Provider::new(Arc::new(self.provider.clone()), session);
        let mut customer = Customer::new(Arc::new(self.customer.clone()), context);
        let (mut outward, mut inward) = (Line::new("P"), Line::new("C"));
        let mut transcript = String::new();
        let (mut handshake, mut turned, mut closed) = (false, false, false);
        let accounts = Accounts::corp();
        let mut again = self.again;
        loop {
            match provider.next(&mut inward.input) {
                provider::Event::NeedInput => {}
                provider::Event::StartTls => handshake = true,
                provider::Event::SecretExposed(_) => {
                    panic!("our customer shows no secret in clear")
                }
                provider::Event::Authenticate(attempt) => {
                    provider.checked(attempt.check(&accounts, fresh()));
                    continue;
                }
                provider::Event::Atrn(atrn) => {
                    provider.answer(self.decide(&atrn, again));
                    continue;
                }
                provider::Event::Turned => turned = true,
                provider::Event::Closed => closed = true,
            }
            outward.send(&mut provider.output, &mut transcript);
            let pending = outward.deliver(self.piece);
            match customer.next(&mut outward.input) {
                customer::Event::NeedInput => {
                    assert!(
                        pending || !inward.is_idle() || !customer.output.is_empty() || !closed,
                        "{transcript}"
                    );
                }
                customer::Event::StartTls => {
                    assert!(handshake, "{transcript}");
                    handshake = false;
                    provider.tls_started(self.tls_session());
                    customer.tls_started(self.context(true));
                    continue;
                }
                customer::Event::Prove(challenge) => {
                    customer.responded(challenge.respond());
                    // The response goes out below.
                }
                customer::Event::NoMailYet if again > 0 => {
                    again -= 1;
                    customer.ask_again();
                }
                customer::Event::NoMailYet => customer.quit(),
                customer::Event::Ended(outcome) => {
                    assert!(outward.is_idle() && inward.is_idle(), "{transcript}");
                    let account = provider.account().map(str::to_owned);
                    return Run {
                        transcript,
                        outcome,
                        turned,
                        account,
                    };
                }
            }
            inward.send(&mut customer.output, &mut transcript);
            inward.deliver(self.piece);
        }
    }
}

/// One direction of a connection.
struct Line {
    party: &'static str,
    under_way: VecDeque<u8>,
    input: Input,
}

impl Line {
    fn new(party: &'static str) -> Self {
        Self {
            party,
            under_way: VecDeque::new(),
            input: Input::new(),
        }
    }

    fn send(&mut self, output: &mut Vec<u8>, transcript: &mut String) {
        for line in String::from_utf8(output.clone()).unwrap().lines() {
            transcript.push_str(&format!("{}: {line}\n", self.party));
        }
        self.under_way.extend(output.drain(..));
    }

    /// Lets the next piece arrive; whether there was one.
    fn deliver(&mut self, piece: usize) -> bool {
        let count = self.under_way.len().min(piece);
        let octets: Vec<u8> = self.under_way.drain(..count).collect();
        self.input.push(&octets);
        count > 0
    }

    fn is_idle(&self) -> bool {
        self.under_way.is_empty() && self.input.is_empty()
    }
}

/// Runs the pair in pieces of every kind: framing may not matter.
fn run(pair: &Pair) -> Run {
    let whole = pair.clone().run();
    for piece in [1, 2, 7] {
        assert_eq!(
            Pair {
                piece,
                ..pair.clone()
            }
            .run(),
            whole,
            "pieces of {piece}"
        );
    }
    whole
}

// covers: R2645-1, R2645-2, R2645-13, R2645-15, R2645-17
#[test]
fn a_whole_dialogue_reads_as_the_rfc_has_it() {
    let pair = Pair::new()
        .with_mechanisms(&[Mechanism::External, Mechanism::Plain])
        .with_certificate();
    let expected = "\
P: 220 relay.example ODMR ready
C: EHLO puller.example
P: 250-relay.example
P: 250-AUTH EXTERNAL PLAIN
P: 250-ATRN
P: 250 ENHANCEDSTATUSCODES
C: AUTH EXTERNAL =
P: 235 2.7.0 Authentication successful
C: ATRN corp.example,corp.test
P: 250 2.0.0 OK now reversing the connection
";
    let run = run(&pair);
    assert_eq!(run.transcript, expected);
    assert_eq!(
        (run.outcome, run.turned, run.account.as_deref()),
        (Outcome::Turned, true, Some("corp"))
    );
}

// covers: R2645-2, R3207-1, R3207-3, R2645-17
#[test]
fn start_tls_comes_before_all_that_matters() {
    let expected = "\
P: 220 relay.example ODMR ready
C: EHLO puller.example
P: 250-relay.example
P: 250-STARTTLS
P: 250 ENHANCEDSTATUSCODES
C: STARTTLS
P: 220 2.0.0 Ready to start TLS
C: EHLO puller.example
P: 250-relay.example
P: 250-AUTH PLAIN
P: 250-ATRN
P: 250 ENHANCEDSTATUSCODES
C: AUTH PLAIN AGNvcnAAcGVuY2ls
P: 235 2.7.0 Authentication successful
C: ATRN corp.example,corp.test
P: 453 4.7.0 You have no mail
C: QUIT
P: 221 2.0.0 relay.example closing
";
    let pair = Pair {
        verdict: Verdict::NoMail,
        ..Pair::new()
    };
    let pair = pair
        .with_mechanisms(&[Mechanism::Plain])
        .with_start_tls(provider::TlsMode::StartTls);
    let run = run(&pair);
    assert_eq!(run.transcript, expected);
    assert_eq!((run.outcome, run.turned), (Outcome::NoMail, false));
}

// covers: R2645-7, R2645-11, R2645-16
#[test]
fn a_customer_that_waits_asks_again_on_the_same_connection() {
    let pair = Pair::new()
        .with_mechanisms(&[Mechanism::External])
        .with_certificate()
        .with_wait(Some(600), Some(240));
    let expected = "\
P: 220 relay.example ODMR ready
C: EHLO puller.example
P: 250-relay.example
P: 250-AUTH EXTERNAL
P: 250-ATRN
P: 250-XWAIT 240
P: 250 ENHANCEDSTATUSCODES
C: AUTH EXTERNAL =
P: 235 2.7.0 Authentication successful
C: ATRN corp.example,corp.test XWAIT=240
P: 453 4.7.0 You have no mail
C: ATRN corp.example,corp.test XWAIT=240
P: 453 4.7.0 You have no mail
C: ATRN corp.example,corp.test XWAIT=240
P: 250 2.0.0 OK now reversing the connection
";
    let run = run(&Pair { again: 2, ..pair });
    assert_eq!(run.transcript, expected);
    assert_eq!((run.outcome, run.turned), (Outcome::Turned, true));
}

// covers: R2645-7, R2645-11
#[test]
fn a_wait_is_asked_for_where_both_want_it() {
    for (ours, theirs, asked) in [
        (Some(60), Some(240), Some("XWAIT=60")),
        (Some(240), Some(60), Some("XWAIT=60")),
        (Some(240), None, None),
        (None, Some(240), None),
    ] {
        let pair = Pair {
            verdict: Verdict::NoMail,
            ..Pair::new()
        };
        let run = run(&pair.with_wait(ours, theirs));
        let atrn = run.transcript.lines().find(|line| line.contains(": ATRN"));
        let expected = format!(
            "C: ATRN corp.example,corp.test{}{}",
            if asked.is_some() { " " } else { "" },
            asked.unwrap_or_default()
        );
        assert_eq!(atrn, Some(expected.as_str()), "{ours:?} {theirs:?}");
        assert_eq!(run.outcome, Outcome::NoMail);
    }
}

// covers: R2645-5, R2195-1
#[test]
fn a_legacy_customer_turns_in_clear_with_cram_md5() {
    for mode in [provider::TlsMode::Optional, provider::TlsMode::Off] {
        let pair = Pair::new()
            .with_mechanisms(&[Mechanism::Plain, Mechanism::CramMd5])
            .in_clear(mode);
        let run = run(&pair);
        assert!(
            run.transcript.contains("\nC: AUTH CRAM-MD5\nP: 334 "),
            "{}",
            run.transcript
        );
        assert!(
            run.transcript.contains("\nP: 250-AUTH CRAM-MD5\n"),
            "PLAIN is not offered: {}",
            run.transcript
        );
        assert_eq!(
            (run.outcome, run.account.as_deref()),
            (Outcome::Turned, Some("corp"))
        );
    }
}

// covers: R5802-1, R4422-1, R4616-1, R2195-1, R2645-6
#[test]
fn every_mechanism_leads_to_the_reversal() {
    for mechanism in Mechanism::ALL {
        let pair = Pair::new().with_mechanisms(&[mechanism]).with_certificate();
        for pair in [
            pair.clone(),
            pair.with_start_tls(provider::TlsMode::Optional),
        ] {
            let run = run(&pair);
            assert!(
                run.transcript.contains(&format!("C: AUTH {mechanism}")),
                "{}",
                run.transcript
            );
            assert_eq!(
                (run.outcome, run.turned, run.account.as_deref()),
                (Outcome::Turned, true, Some("corp"))
            );
        }
    }
}

// covers: R5802-1
#[test]
fn the_strongest_mechanism_of_both_is_used() {
    let run = run(&Pair::new().with_certificate());
    assert!(
        run.transcript.contains("C: AUTH EXTERNAL ="),
        "{}",
        run.transcript
    );
    let run = self::run(&Pair::new());
    assert!(
        run.transcript.contains("C: AUTH SCRAM-SHA-256-PLUS "),
        "{}",
        run.transcript
    );
    let run = self::run(&Pair {
        binding: None,
        ..Pair::new()
    });
    assert!(
        run.transcript.contains("C: AUTH SCRAM-SHA-256 "),
        "{}",
        run.transcript
    );
}

// covers: R2645-9, R2645-10, R2645-11, R2645-12, R2645-16, R2645-25
#[test]
fn each_verdict_on_atrn_is_understood() {
    let reply =
        |code, enhanced, text: &'static str| crate::smtp::reply::Reply::new(code, enhanced, text);
    let table = [
        (Verdict::NoMail, Outcome::NoMail),
        (
            Verdict::NotPermitted,
            Outcome::Refused(reply(450, "4.7.1", "ATRN request refused")),
        ),
        (
            Verdict::TooOften,
            Outcome::Refused(reply(450, "4.7.0", "Too often, try again later")),
        ),
        (
            Verdict::Unavailable,
            Outcome::Later(reply(451, "4.3.0", "Unable to process ATRN request now")),
        ),
    ];
    for (verdict, outcome) in table {
        let run = run(&Pair {
            verdict,
            ..Pair::new()
        });
        assert_eq!((run.outcome, run.turned), (outcome, false));
        assert!(
            run.transcript
                .ends_with("C: QUIT\nP: 221 2.0.0 relay.example closing\n"),
            "{}",
            run.transcript
        );
    }
}

// covers: R4954-1
#[test]
fn wrong_secrets_and_unknown_users_end_alike() {
    for mechanism in [
        Mechanism::ScramSha256Plus,
        Mechanism::ScramSha256,
        Mechanism::CramMd5,
        Mechanism::Plain,
    ] {
        for (user, secret) in [("corp", "pen"), ("nobody", "pencil")] {
            let mut pair = Pair::new().with_mechanisms(&[mechanism]);
            pair.customer.credentials.credentials.user = user.into();
            pair.customer.credentials.credentials.secret = Some(secret.into());
            let run = run(&pair);
            let Outcome::AuthRefused(reply) = run.outcome else {
                panic!("{:?}", run.outcome)
            };
            assert_eq!(
                reply.to_string(),
                "535 5.7.8 Authentication credentials invalid"
            );
            assert_eq!(run.account, None);
        }
    }
}

// covers: R2645-17, R4954-3
#[test]
fn nothing_is_shown_to_a_provider_that_offers_too_little() {
    let mut in_clear = Pair::new().in_clear(provider::TlsMode::StartTls);
    in_clear.customer.tls = customer::TlsMode::Off;
    let plain_only = Pair::new()
        .with_mechanisms(&[Mechanism::Plain])
        .in_clear(provider::TlsMode::Off);
    let table = [
        (in_clear, Outcome::NotOffered(customer::Missing::Atrn, None)),
        (
            Pair::new().with_mechanisms(&[]),
            Outcome::NotOffered(customer::Missing::Auth, None),
        ),
        (
            plain_only,
            Outcome::NotOffered(customer::Missing::Auth, None),
        ),
        (
            Pair::new().with_mechanisms(&[Mechanism::External]),
            Outcome::NotOffered(customer::Missing::Auth, None),
        ),
        (
            Pair::new().with_start_tls(provider::TlsMode::Off),
            Outcome::NotOffered(customer::Missing::StartTls, None),
        ),
    ];
    for (pair, outcome) in table {
        let run = run(&pair);
        assert_eq!(run.outcome, outcome);
        assert!(
            !run.transcript.contains("C: AUTH") && !run.transcript.contains("C: ATRN"),
            "{}",
            run.transcript
        );
    }
    let mut strict = Pair::new().with_mechanisms(&[Mechanism::CramMd5, Mechanism::Plain]);
    strict.customer.credentials.weakest = Mechanism::ScramSha256;
    assert_eq!(
        run(&strict).outcome,
        Outcome::AuthFailed(ClientError::NoMechanism)
    );
}
