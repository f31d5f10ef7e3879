//! Both sides of ODMR up to the reversal.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use atrn_shared::odmr::customer::{self, Customer, Outcome};
use atrn_shared::odmr::provider::{self, Provider, TlsSession, Verdict};
use atrn_shared::sasl::{
    ChannelBinding, ClientContext, ClientCredentials, ClientSettings, Mechanism, RememberedKeys,
};
use atrn_shared::smtp::limits::{AUTH_LINE_OCTETS, REPLY_OCTETS};
use atrn_shared::smtp::line::Input;
use atrn_shared::smtp::reply::Reply;

use crate::case::{Case, Cuts, pieces};
use crate::client::read_replies;
use crate::sasl::{Accounts, PIN, USER, fresh};

/// ATRN is asked about for an account only, nothing crosses a change of role or TLS, and the pieces change nothing.
pub fn odmr_provider(data: &[u8]) {
    let Some(case) = Case::read(data) else {
        return;
    };
    let whole = provide(case, Cuts::None);
    let cuts = if whole.replies.iter().any(is_about_pipelining) {
        Cuts::InsideLines
    } else {
        Cuts::Anywhere
    };
    assert_eq!(provide(case, cuts), whole, "the pieces made a difference");
}

#[derive(Debug, Default, Eq, PartialEq)]
struct Provided {
    replies: Vec<Reply>,
    account: Option<String>,
    asked: usize,
    exposed: usize,
    turned: bool,
    closed: bool,
}

fn is_about_pipelining(reply: &Reply) -> bool {
    reply.text().starts_with("Octets behind a command")
}

static PROVIDERS: LazyLock<Vec<Arc<provider::Config>>> = LazyLock::new(|| {
    use provider::TlsMode;
    let modes = [
        TlsMode::Implicit,
        TlsMode::StartTls,
        TlsMode::Optional,
        TlsMode::Off,
    ];
    let configs = modes.into_iter().flat_map(|tls| {
        [None, Some(Duration::from_secs(60))].map(|wait| {
            Arc::new(provider::Config {
                hostname: "relay.example".into(),
                tls,
                has_certificate: tls != TlsMode::Off,
                mechanisms: Mechanism::ALL.to_vec(),
                errors_max: 6,
                wait,
            })
        })
    });
    configs.collect()
});

fn tls_session() -> TlsSession {
    TlsSession {
        channel_bindings: vec![ChannelBinding::TlsExporter(vec![5; 32])],
        certificate_pin: Some(PIN.to_owned()),
    }
}

fn provide(case: Case<'_>, cuts: Cuts) -> Provided {
    let config = &PROVIDERS[usize::from(case.options() & 7)];
    let implicit = config.tls == provider::TlsMode::Implicit;
    let mut machine = Provider::new(config.clone(), implicit.then(tls_session));
    let mut seen = Provided::default();
    let mut verdicts = case.choices(1);
    let mut input = Input::new();
    let mut cut = case.choices(0);
    for flight in case.flights() {
        for piece in pieces(flight, cuts, cut.fork()) {
            input.push(piece);
            drive_provider(&mut machine, &mut input, &mut seen, &mut verdicts);
        }
        if seen.closed || seen.turned {
            break;
        }
    }
    seen.replies = read_replies(&machine.output);
    seen
}

fn drive_provider(
    machine: &mut Provider,
    input: &mut Input,
    seen: &mut Provided,
    verdicts: &mut fastrand::Rng,
) {
    use provider::Event;
    while !(seen.closed || seen.turned) {
        match machine.next(input) {
            Event::NeedInput => break,
            Event::StartTls => {
                assert!(input.is_empty(), "octets from before the handshake");
                machine.tls_started(tls_session());
                assert_eq!(machine.account(), None);
            }
            Event::SecretExposed(_) => seen.exposed += 1,
            Event::Authenticate(attempt) => {
                let accounts = Accounts {
                    is_plain: attempt.mechanism() == Mechanism::Plain,
                };
                machine.checked(attempt.check(&accounts, fresh()));
            }
            Event::Atrn(_) => {
                assert_eq!(machine.account(), Some(USER));
                seen.asked += 1;
                machine.answer(match verdicts.u8(..8) {
                    0..=2 => Verdict::Turn,
                    3 | 4 => Verdict::NoMail,
                    5 => Verdict::NotPermitted,
                    6 => Verdict::TooOften,
                    _ => Verdict::Unavailable,
                });
            }
            Event::Turned => {
                assert!(input.is_empty(), "octets from before the reversal");
                seen.turned = true;
            }
            Event::Closed => seen.closed = true,
        }
    }
    seen.account = machine.account().map(str::to_owned);
    assert!(seen.turned || seen.closed || input.bytes().len() <= AUTH_LINE_OCTETS);
}

/// It asks in the order of RFC 2645, believes nothing that came too early, and the pieces change nothing.
pub fn odmr_customer(data: &[u8]) {
    let Some(case) = Case::read(data) else {
        return;
    };
    // A reply must come alone, and what is said then may be the same as without: so no piece ends with a line.
    let (whole, again) = (ask(case, Cuts::None), ask(case, Cuts::InsideLines));
    assert_eq!(again, whole, "the pieces made a difference");
}

#[derive(Debug, Default, Eq, PartialEq)]
struct Asked {
    commands: Vec<u8>,
    outcome: Option<Outcome>,
}

static CUSTOMERS: LazyLock<Vec<Arc<customer::Config>>> = LazyLock::new(|| {
    use customer::TlsMode;
    let modes = [
        TlsMode::Implicit,
        TlsMode::StartTls,
        TlsMode::Off,
        TlsMode::StartTls,
    ];
    let configs = modes.into_iter().flat_map(|tls| {
        [None, Some(Duration::from_secs(60))].map(|wait| {
            Arc::new(customer::Config {
                hostname: "puller.example".into(),
                tls,
                credentials: ClientSettings {
                    credentials: ClientCredentials {
                        user: USER.to_owned(),
                        secret: Some("secret".into()),
                        remembered: RememberedKeys::default(),
                        certificate: wait.is_some(),
                    },
                    weakest: Mechanism::Plain,
                },
                domains: vec!["example.com".parse().expect("a domain")],
                wait,
            })
        })
    });
    configs.collect()
});

fn ask(case: Case<'_>, cuts: Cuts) -> Asked {
    let config = &CUSTOMERS[usize::from(case.options() & 7)];
    let context = |tls| ClientContext {
        tls,
        channel_binding: None,
        nonce: [9; 18],
    };
    let implicit = config.tls == customer::TlsMode::Implicit;
    let mut machine = Customer::new(config.clone(), context(implicit));
    if case.option(3) {
        machine = machine.only_authenticate();
    }
    let mut input = Input::new();
    let mut cut = case.choices(0);
    let mut seen = Asked::default();
    let mut encrypted = config.tls != customer::TlsMode::StartTls;
    let mut rounds = 0;
    for flight in case.flights() {
        for piece in pieces(flight, cuts, cut.fork()) {
            input.push(piece);
            assert!(input.bytes().len() <= REPLY_OCTETS);
            loop {
                match machine.next(&mut input) {
                    customer::Event::NeedInput => break,
                    customer::Event::StartTls => {
                        assert!(input.is_empty(), "octets from before the handshake");
                        assert!(!std::mem::replace(&mut encrypted, true));
                        machine.tls_started(context(true));
                    }
                    // What SCRAM does is the business of another target, and slow.
                    customer::Event::Prove(_)
                        if machine.mechanism() == Some(Mechanism::ScramSha256) =>
                    {
                        seen.outcome = Some(machine.lost());
                        return seen;
                    }
                    customer::Event::Prove(challenge) => machine.responded(challenge.respond()),
                    customer::Event::NoMailYet if rounds == 0 => {
                        rounds += 1;
                        machine.ask_again();
                    }
                    customer::Event::NoMailYet => machine.quit(),
                    customer::Event::Ended(outcome) => {
                        assert!(outcome != Outcome::Turned || input.is_empty());
                        seen.commands.append(&mut machine.output);
                        seen.outcome = Some(outcome);
                        return seen;
                    }
                }
            }
            let secret = |line: &[u8]| line.starts_with(b"AUTH") || line.starts_with(b"ATRN");
            let clear = !encrypted && machine.output.split(|octet| *octet == b'\n').any(secret);
            assert!(!clear, "said in clear");
            seen.commands.append(&mut machine.output);
        }
    }
    seen.outcome = Some(machine.lost());
    seen
}
