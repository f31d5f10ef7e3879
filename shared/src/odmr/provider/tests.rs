//! The provider against whatever a customer may say.

mod atrn;
mod authentication;
mod commands;

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
        wait: None,
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
