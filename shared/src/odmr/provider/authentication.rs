//! AUTH (RFC 4954) around the mechanisms of [`crate::sasl`].

use super::{Event, Provider, State, TlsMode, reply};
use crate::sasl::{self, Credentials, Fresh, Mechanism, ServerContext, ServerStep, base64};
use crate::smtp::reply::Reply;

/// How many octets of a user name are kept for the log.
const USER_OCTETS_LOGGED: usize = 255;

/// One message of the customer, with all that is needed to judge it: a value that can go to another thread.
#[derive(Debug)]
pub struct Attempt {
    dialogue: Dialogue,
    response: Vec<u8>,
}

impl Attempt {
    /// The mechanism in use.
    #[must_use]
    pub fn mechanism(&self) -> Mechanism {
        self.dialogue.mechanism
    }

    /// The user that this message is about, as far as it says so before anything is checked: for limits on the check itself.
    /// None with EXTERNAL, where nothing can be guessed, and before the first message that names one.
    #[must_use]
    pub fn user(&self) -> Option<String> {
        match &self.dialogue.exchange {
            Exchange::New(_) => sasl::Server::first_user(self.dialogue.mechanism, &self.response),
            Exchange::Open(exchange) => exchange.user(&self.response),
        }
    }

    /// Whether the check takes milliseconds (PBKDF2), and not microseconds.
    #[must_use]
    pub fn is_costly(&self) -> bool {
        self.dialogue.mechanism == Mechanism::Plain
    }

    /// Judges the message. PLAIN runs PBKDF2 here: milliseconds, so never on a runtime worker.
    pub fn check(self, credentials: &dyn Credentials, fresh: Fresh) -> Checked {
        let mechanism = self.dialogue.mechanism;
        let mut exchange = match self.dialogue.exchange {
            Exchange::New(context) => sasl::Server::start(mechanism, context, fresh),
            Exchange::Open(exchange) => exchange,
        };
        let step = exchange.step(&self.response, credentials);
        let dialogue = Dialogue {
            mechanism,
            exchange: Exchange::Open(exchange),
        };
        Checked { dialogue, step }
    }
}

/// An [`Attempt`] that was judged.
#[derive(Debug)]
#[must_use]
pub struct Checked {
    dialogue: Dialogue,
    step: ServerStep,
}

impl Checked {
    /// The mechanism in use.
    #[must_use]
    pub fn mechanism(&self) -> Mechanism {
        self.dialogue.mechanism
    }

    /// What came out, for the log: a failure has a reason and mostly a user, which the peer never hears.
    pub fn step(&self) -> &ServerStep {
        &self.step
    }
}

/// A mechanism on its way.
#[derive(Debug)]
pub(super) struct Dialogue {
    mechanism: Mechanism,
    exchange: Exchange,
}

#[derive(Debug)]
enum Exchange {
    /// The customer named it and has said nothing more.
    New(ServerContext),
    Open(sasl::Server),
}

impl Provider {
    /// What this connection may use (R4954-3, R5802-1, R4422-1).
    pub(super) fn offered(&self) -> impl Iterator<Item = Mechanism> {
        let allowed = self.config.mechanisms.iter().copied();
        allowed.filter(|mechanism| match (mechanism, &self.tls) {
            (Mechanism::External, tls) => tls
                .as_ref()
                .is_some_and(|tls| tls.certificate_pin.is_some()),
            (Mechanism::ScramSha256Plus, tls) => tls
                .as_ref()
                .is_some_and(|tls| !tls.channel_bindings.is_empty()),
            (Mechanism::Plain, tls) => tls.is_some(),
            (Mechanism::ScramSha256 | Mechanism::CramMd5, Some(_)) => true,
            (Mechanism::ScramSha256 | Mechanism::CramMd5, None) => !self.must_start_tls(),
        })
    }

    /// `AUTH mechanism [initial-response]`
    pub(super) fn auth(&mut self, argument: &str) -> Option<Event> {
        let (name, initial) = match argument.split_once(' ') {
            None => (argument, None),
            Some((name, initial)) => (name, Some(initial)),
        };
        if name.is_empty() || initial.is_some_and(|initial| initial.contains([' ', '\t'])) {
            self.refuse(&reply::auth_syntax());
            return None;
        }
        let mechanism = Mechanism::from_name(name);
        let dialogue = match self.may_authenticate(mechanism) {
            Ok(dialogue) => dialogue,
            Err(refusal) => {
                self.refuse(&refusal);
                return self.exposed(mechanism, initial);
            }
        };
        let Some(initial) = initial else {
            return self.without_initial_response(dialogue);
        };
        if !dialogue.mechanism.is_client_first() {
            // R2195-1: the challenge comes first.
            self.refuse(&reply::no_initial_response());
            return None;
        }
        // RFC 4954 §4: a single equals sign is a response of no octets.
        self.decoded(dialogue, if initial == "=" { "" } else { initial })
    }

    fn may_authenticate(&self, mechanism: Option<Mechanism>) -> Result<Dialogue, Reply> {
        if self.account.is_some() {
            return Err(reply::already_authenticated());
        }
        let allowed = mechanism.filter(|mechanism| self.config.mechanisms.contains(mechanism));
        let offered = allowed.filter(|mechanism| self.offered().any(|one| one == *mechanism));
        match (offered, allowed) {
            (Some(mechanism), _) if self.client_name.is_some() => Ok(Dialogue {
                mechanism,
                exchange: Exchange::New(self.context()),
            }),
            (Some(_), _) => Err(reply::hello_first()),
            (None, Some(_)) if self.tls.is_none() && self.config.tls != TlsMode::Off => {
                Err(reply::encryption_required())
            }
            (None, _) if self.must_start_tls() => Err(reply::must_start_tls()),
            (None, _) => Err(reply::unknown_mechanism()),
        }
    }

    fn context(&self) -> ServerContext {
        let tls = self.tls.clone().unwrap_or_default();
        ServerContext {
            hostname: self.config.hostname.clone(),
            plus_offered: self.offered().any(|one| one == Mechanism::ScramSha256Plus),
            certificate_pin: tls.certificate_pin,
            channel_bindings: tls.channel_bindings,
        }
    }

    /// R4954-3: PLAIN has the secret in its initial response, and it went over the line in clear.
    fn exposed(&self, mechanism: Option<Mechanism>, initial: Option<&str>) -> Option<Event> {
        if self.tls.is_some() || mechanism != Some(Mechanism::Plain) {
            return None;
        }
        let message = base64::decode(initial?.as_bytes())?;
        let user = message.split(|octet| *octet == 0).nth(1)?;
        let user = &user[..user.len().min(USER_OCTETS_LOGGED)];
        Some(Event::SecretExposed(
            (!user.is_empty()).then(|| String::from_utf8_lossy(user).into_owned()),
        ))
    }

    fn without_initial_response(&mut self, dialogue: Dialogue) -> Option<Event> {
        if dialogue.mechanism.is_client_first() {
            self.challenge(dialogue, b"");
            None
        } else {
            Some(self.attempt(dialogue, Vec::new()))
        }
    }

    /// A line that answers a challenge.
    pub(super) fn response(&mut self, line: &[u8], is_last: bool) -> Option<Event> {
        let State::Response(dialogue) = std::mem::replace(&mut self.state, State::Command) else {
            return None;
        };
        if !is_last {
            self.close(reply::pipelined());
            return None;
        }
        if line == b"*" {
            self.refuse(&reply::auth_cancelled());
            return None;
        }
        match std::str::from_utf8(line) {
            Ok(line) => self.decoded(dialogue, line),
            Err(_) => {
                self.refuse(&reply::bad_base64());
                None
            }
        }
    }

    fn decoded(&mut self, dialogue: Dialogue, text: &str) -> Option<Event> {
        let Some(response) = base64::decode(text.as_bytes()) else {
            self.refuse(&reply::bad_base64());
            return None;
        };
        Some(self.attempt(dialogue, response))
    }

    fn attempt(&mut self, dialogue: Dialogue, response: Vec<u8>) -> Event {
        self.state = State::Checking;
        Event::Authenticate(Attempt { dialogue, response })
    }

    /// A challenge may be longer than any other reply line, so it is not cut as they are (RFC 4954 §4).
    fn challenge(&mut self, dialogue: Dialogue, challenge: &[u8]) {
        self.output.extend_from_slice(b"334 ");
        self.output
            .extend_from_slice(base64::encode(challenge).as_bytes());
        self.output.extend_from_slice(b"\r\n");
        // Of a challenge nothing is kept but that there was one.
        self.exchanges.answered_at_once(&Reply::bare(334, ""));
        self.state = State::Response(dialogue);
    }

    /// Answers [`Event::Authenticate`]. After [`Provider::close`] an answer comes too late and changes nothing.
    pub fn checked(&mut self, checked: Checked) {
        if !matches!(self.state, State::Checking) {
            debug_assert!(matches!(self.state, State::Closed), "nothing was asked");
            return;
        }
        self.state = State::Command;
        match checked.step {
            ServerStep::Challenge(challenge) => self.challenge(checked.dialogue, &challenge),
            ServerStep::Success(account) => {
                self.say(&reply::authenticated());
                self.account = Some(account);
            }
            ServerStep::Failure { .. } => self.failed(&reply::not_authenticated()),
            ServerStep::Unavailable => self.say(&reply::accounts_unavailable()),
        }
    }

    /// Answers [`Event::Authenticate`] without a check: too many wait for theirs, or the account is closed to strangers for
    /// now. The words are those of accounts that cannot be looked up; whoever asks again and again is sent away as after a
    /// wrong secret.
    pub fn put_off(&mut self) {
        if !matches!(self.state, State::Checking) {
            debug_assert!(matches!(self.state, State::Closed), "nothing was asked");
            return;
        }
        self.state = State::Command;
        self.failed(&reply::accounts_unavailable());
    }

    fn failed(&mut self, reply: &Reply) {
        self.auth_failures += 1;
        self.refuse(reply);
        if self.auth_failures >= super::AUTH_FAILURES_MAX {
            self.close(reply::too_many_failures());
        }
    }
}
