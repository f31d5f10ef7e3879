//! The customer's side of ODMR: from the greeting to the reply to ATRN (RFC 2645 §5).
//!
//! One command is under way at a time, and each positive reply must come alone: octets behind it were sent before
//! the provider could know our next command, so they are an attack or a bug (R5321-25, R3207-3).

mod outcome;

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use super::{Atrn, WAIT_MAX};
use crate::sasl::{self, ClientContext, ClientError, ClientSettings, Mechanism, base64};
use crate::smtp::address::Domain;
use crate::smtp::extension::Extensions;
use crate::smtp::line::Input;
use crate::smtp::reply::{Reply, parse_reply};

pub use outcome::{Awaited, Fault, Missing, Outcome};

/// When the customer speaks TLS. There is no falling back from one to another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TlsMode {
    /// From the first octet; the machine starts inside it.
    Implicit,
    /// After STARTTLS, which must be offered and granted.
    StartTls,
    /// Never: loopback only.
    Off,
}

/// What a customer is and wants, at whichever provider.
#[derive(Clone, Debug)]
pub struct Config {
    /// The name in EHLO.
    pub hostname: String,
    /// When TLS is spoken.
    pub tls: TlsMode,
    /// Who we are.
    pub credentials: ClientSettings,
    /// What to ask for; none means all of the account's.
    pub domains: Vec<Domain>,
    /// The longest silence to wait in for mail, where the provider offers XWAIT; none: plain ATRN.
    pub wait: Option<Duration>,
}

/// What the driver must do before the session can go on. Whatever it is, it sends the output first.
#[derive(Debug)]
#[must_use]
pub enum Event {
    /// Read, call again. [`Customer::awaited`] says how long to wait.
    NeedInput,
    /// Shake hands and verify the peer, then call [`Customer::tls_started`].
    StartTls,
    /// Compute the answer to a challenge with [`Challenge::respond`], off the runtime; hand it to [`Customer::responded`].
    Prove(Challenge),
    /// The time that [`Customer::wait`] says has passed without mail: [`Customer::ask_again`] on this connection, or
    /// [`Customer::quit`]. Without XWAIT no mail is an end.
    NoMailYet,
    /// It is decided. After [`Outcome::Turned`] the connection is ours to greet on; else close it.
    Ended(Outcome),
}

/// A challenge of the provider and all that answers it: a value that can go to another thread.
#[derive(Debug)]
pub struct Challenge {
    exchange: sasl::Client,
    octets: Vec<u8>,
}

impl Challenge {
    /// Computes the response. SCRAM runs PBKDF2 here: up to half a second, so never on a runtime worker.
    pub fn respond(mut self) -> Response {
        let octets = self.exchange.step(&self.octets);
        Response {
            exchange: self.exchange,
            octets,
        }
    }
}

/// An answered [`Challenge`].
#[derive(Debug)]
#[must_use]
pub struct Response {
    exchange: sasl::Client,
    octets: Result<Vec<u8>, ClientError>,
}

#[derive(Debug)]
enum State {
    Greeting,
    Ehlo,
    StartTls,
    Handshake,
    Auth(sasl::Client),
    /// The driver computes a response.
    Proving,
    /// We gave the proof up, and await the reply to `*`.
    Cancelled(ClientError),
    Atrn,
    /// The wait was over, and the driver is asked whether to go on.
    NoMailYet,
    /// It is decided, and we say goodbye.
    Quit(Outcome),
    Ended(Outcome),
}

/// How far to go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Purpose {
    /// To the end of AUTH, to see whether it would work.
    Authenticate,
    /// To ATRN.
    Turn,
}

/// The customer's side of one connection.
#[derive(Debug)]
pub struct Customer {
    config: Arc<Config>,
    context: ClientContext,
    extensions: Extensions,
    mechanism: Option<Mechanism>,
    purpose: Purpose,
    state: State,
    /// Commands to be sent.
    pub output: Vec<u8>,
}

impl Customer {
    /// A session that waits for the greeting. With [`TlsMode::Implicit`] the context is that of the TLS session.
    #[must_use]
    pub fn new(config: Arc<Config>, context: ClientContext) -> Self {
        Self {
            config,
            context,
            extensions: Extensions::default(),
            mechanism: None,
            purpose: Purpose::Turn,
            state: State::Greeting,
            output: Vec::new(),
        }
    }

    /// The same session without ATRN: it says goodbye once the provider has accepted our proof.
    #[must_use]
    pub fn only_authenticate(self) -> Self {
        Self {
            purpose: Purpose::Authenticate,
            ..self
        }
    }

    /// What must happen next.
    pub fn next(&mut self, input: &mut Input) -> Event {
        loop {
            match &self.state {
                State::Handshake => return Event::StartTls,
                State::Proving => return Event::NeedInput,
                State::NoMailYet => return Event::NoMailYet,
                State::Ended(outcome) => return Event::Ended(outcome.clone()),
                _ => {}
            }
            let reply = match parse_reply(input.bytes()) {
                Ok(None) => return Event::NeedInput,
                Ok(Some((reply, octets))) => {
                    input.take(octets);
                    reply
                }
                Err(error) => {
                    self.abandon(error.into());
                    continue;
                }
            };
            if let Some(event) = self.reply(reply, input.is_empty()) {
                return event;
            }
        }
    }

    /// The reply that is due, for the choice of the deadline.
    #[must_use]
    pub fn awaited(&self) -> Awaited {
        match self.state {
            State::Greeting => Awaited::Greeting,
            State::Ehlo => Awaited::Ehlo,
            State::StartTls | State::Handshake => Awaited::StartTls,
            State::Auth(_) | State::Proving | State::Cancelled(_) => Awaited::Auth,
            State::Atrn | State::NoMailYet => Awaited::Atrn,
            State::Quit(_) | State::Ended(_) => Awaited::Quit,
        }
    }

    /// What the provider offers, as of its last EHLO reply.
    #[must_use]
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// The mechanism that was chosen.
    #[must_use]
    pub fn mechanism(&self) -> Option<Mechanism> {
        self.mechanism
    }

    /// The wait that ATRN asks for: the shorter of ours and of what the provider offers, as of its last EHLO reply. None where either
    /// has none: then mail is there at once or not at all, and a customer that wants it soon asks again on a clock.
    #[must_use]
    pub fn wait(&self) -> Option<Duration> {
        let offered = Duration::from_secs(self.extensions.wait?);
        let shorter = self.config.wait?.min(offered).min(WAIT_MAX);
        // Seconds is what the command can say.
        Some(Duration::from_secs(shorter.as_secs().max(1)))
    }

    /// Answers [`Event::NoMailYet`]: the same ATRN once more.
    pub fn ask_again(&mut self) {
        if matches!(self.state, State::NoMailYet) {
            self.atrn();
        } else {
            debug_assert!(false, "nothing was asked");
        }
    }

    /// Answers [`Event::NoMailYet`]: goodbye, and [`Outcome::NoMail`].
    pub fn quit(&mut self) {
        if matches!(self.state, State::NoMailYet) {
            self.leave(Outcome::NoMail);
        } else {
            debug_assert!(false, "nothing was asked");
        }
    }

    /// TLS is there and its peer verified: the session begins anew (RFC 3207 §4.2, R3207-3).
    pub fn tls_started(&mut self, context: ClientContext) {
        self.context = context;
        self.extensions = Extensions::default();
        self.ehlo();
    }

    /// Takes the answer to [`Event::Prove`].
    pub fn responded(&mut self, response: Response) {
        match response.octets {
            Ok(octets) => {
                self.say(&base64::encode(&octets));
                self.state = State::Auth(response.exchange);
            }
            Err(error) => self.cancel(error),
        }
    }

    /// The connection ended, or a deadline passed. The goodbye is a courtesy: it changes nothing that is decided.
    #[must_use]
    pub fn lost(self) -> Outcome {
        let awaited = self.awaited();
        match self.state {
            State::Quit(outcome) | State::Ended(outcome) => outcome,
            State::Cancelled(error) => Outcome::AuthFailed(error),
            State::NoMailYet => Outcome::NoMail,
            _ => Outcome::Lost(awaited),
        }
    }

    fn reply(&mut self, reply: Reply, is_last: bool) -> Option<Event> {
        let awaited = self.awaited();
        if let State::Quit(outcome) = &self.state {
            self.state = State::Ended(outcome.clone());
            return None;
        }
        if !is_last && !reply.is_transient() && !reply.is_permanent() {
            self.abandon(Fault::Unsolicited);
            return None;
        }
        // R5321-22: 421 goes together with closing, whatever it answers.
        if reply.code() == 421 {
            self.leave(Outcome::Later(reply));
            return None;
        }
        match mem::replace(&mut self.state, State::Handshake) {
            State::Greeting => self.greeted(reply),
            State::Ehlo => self.ehlo_answered(reply),
            State::StartTls => self.start_tls_answered(reply),
            State::Auth(exchange) => return self.auth_answered(exchange, reply),
            State::Cancelled(error) => self.leave(Outcome::AuthFailed(error)),
            State::Atrn => self.atrn_answered(reply),
            State::Handshake
            | State::Proving
            | State::NoMailYet
            | State::Quit(_)
            | State::Ended(_) => {
                self.abandon(Fault::Unexpected { awaited, reply });
            }
        }
        None
    }

    fn greeted(&mut self, reply: Reply) {
        match reply.code() {
            220 => self.ehlo(),
            _ => self.refused(Awaited::Greeting, reply, Outcome::Refused),
        }
    }

    fn ehlo(&mut self) {
        self.say(&format!("EHLO {}", self.config.hostname));
        self.state = State::Ehlo;
    }

    fn ehlo_answered(&mut self, reply: Reply) {
        if !reply.is_positive() {
            let no_ehlo = |reply| Outcome::NotOffered(Missing::Ehlo, Some(reply));
            return self.refused(Awaited::Ehlo, reply, no_ehlo);
        }
        self.extensions = Extensions::parse(&reply);
        if self.config.tls == TlsMode::StartTls && !self.context.tls {
            if !self.extensions.starttls {
                return self.leave(Outcome::NotOffered(Missing::StartTls, None));
            }
            self.say("STARTTLS");
            self.state = State::StartTls;
            return;
        }
        self.auth();
    }

    fn start_tls_answered(&mut self, reply: Reply) {
        match reply.code() {
            220 => self.state = State::Handshake,
            _ => self.refused(Awaited::StartTls, reply, |reply| {
                Outcome::NotOffered(Missing::StartTls, Some(reply))
            }),
        }
    }

    /// R2645-17: AUTH and ATRN only if both are offered now. Who has no ATRN need not learn who we are.
    fn auth(&mut self) {
        if !self.extensions.atrn {
            return self.leave(Outcome::NotOffered(Missing::Atrn, None));
        }
        if self.extensions.auth.is_empty() {
            return self.leave(Outcome::NotOffered(Missing::Auth, None));
        }
        let names = self.extensions.auth.iter();
        let offered: Vec<_> = names
            .filter_map(|name| Mechanism::from_name(name))
            .collect();
        let exchange = match sasl::Client::choose(&offered, &self.config.credentials, &self.context)
        {
            Ok(exchange) => exchange,
            Err(error) => return self.leave(Outcome::AuthFailed(error)),
        };
        self.mechanism = Some(exchange.mechanism());
        let command = match exchange.initial_response() {
            None => format!("AUTH {}", exchange.mechanism()),
            // RFC 4954 §4: a response of no octets is a single equals sign.
            Some([]) => format!("AUTH {} =", exchange.mechanism()),
            Some(initial) => format!("AUTH {} {}", exchange.mechanism(), base64::encode(initial)),
        };
        self.say(&command);
        self.state = State::Auth(exchange);
    }

    fn auth_answered(&mut self, exchange: sasl::Client, reply: Reply) -> Option<Event> {
        if reply.code() == 334 {
            let Some(octets) = base64::decode(reply.text().as_bytes()) else {
                self.cancel(ClientError::Malformed);
                return None;
            };
            self.state = State::Proving;
            return Some(Event::Prove(Challenge { exchange, octets }));
        }
        if !reply.is_positive() {
            self.refused(Awaited::Auth, reply, Outcome::AuthRefused);
        } else if exchange.may_succeed() && self.purpose == Purpose::Authenticate {
            self.leave(Outcome::Authenticated);
        } else if exchange.may_succeed() {
            self.atrn();
        } else {
            // RFC 5802 §5: a success without the server's proof is none.
            self.leave(Outcome::AuthFailed(ClientError::ServerNotProven));
        }
        None
    }

    fn atrn(&mut self) {
        let atrn = Atrn {
            domains: self.config.domains.clone(),
            wait: self.wait(),
        };
        self.say(&atrn.to_string());
        self.state = State::Atrn;
    }

    /// R2645-16.
    fn atrn_answered(&mut self, reply: Reply) {
        match reply.code() {
            250 => self.state = State::Ended(Outcome::Turned),
            453 if self.wait().is_some() => self.state = State::NoMailYet,
            453 => self.leave(Outcome::NoMail),
            450 => self.leave(Outcome::Refused(reply)),
            500 | 502 => self.leave(Outcome::NotOffered(Missing::Atrn, Some(reply))),
            _ => self.refused(Awaited::Atrn, reply, Outcome::Refused),
        }
    }

    /// Any reply that is not the one hoped for: later, for good, or no answer at all.
    fn refused(
        &mut self,
        awaited: Awaited,
        reply: Reply,
        permanent: impl FnOnce(Reply) -> Outcome,
    ) {
        if reply.is_transient() {
            self.leave(Outcome::Later(reply));
        } else if reply.is_permanent() {
            self.leave(permanent(reply));
        } else {
            self.abandon(Fault::Unexpected { awaited, reply });
        }
    }

    /// RFC 4954 §4: an asterisk ends an exchange that the client does not trust.
    fn cancel(&mut self, error: ClientError) {
        self.say("*");
        self.state = State::Cancelled(error);
    }

    fn leave(&mut self, outcome: Outcome) {
        self.say("QUIT");
        self.state = State::Quit(outcome);
    }

    /// Who does not speak the protocol is not told goodbye.
    fn abandon(&mut self, fault: Fault) {
        self.state = match mem::replace(&mut self.state, State::Handshake) {
            State::Quit(outcome) => State::Ended(outcome),
            State::Cancelled(error) => State::Ended(Outcome::AuthFailed(error)),
            _ => State::Ended(Outcome::Protocol(fault)),
        };
    }

    fn say(&mut self, line: &str) {
        self.output.extend_from_slice(line.as_bytes());
        self.output.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests;
