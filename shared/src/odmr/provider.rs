//! The provider's side of ODMR: what the listener answers until the connection turns (RFC 2645 §5).
//!
//! The machine knows commands, their order and every reply; the driver knows accounts and mail. There is no
//! event that carries mail, so the listener has no way to take any (R2645-3).

mod authentication;
mod reply;

use std::sync::Arc;
use std::time::Duration;

use super::Atrn;
use crate::sasl::{ChannelBinding, Mechanism};
use crate::smtp::command::{self, Verb};
use crate::smtp::exchange::{Exchange, Exchanges, What};
use crate::smtp::extension::Extensions;
use crate::smtp::limits::{AUTH_LINE_OCTETS, COMMAND_LINE_OCTETS};
use crate::smtp::line::{Input, Line, Lines};
use crate::smtp::reply::Reply;

use authentication::Dialogue;
pub use authentication::{Attempt, Checked};

/// Refused proofs on one connection; then 421 (R4954-2).
const AUTH_FAILURES_MAX: u32 = 3;

/// Lines that one connection may send before its ATRN is granted; then 421. A customer that polls on one connection
/// for hours and finds no mail connects again.
const LINES_MAX: u32 = 1_000;

/// When this listener speaks TLS.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TlsMode {
    /// From the first octet; the machine starts inside it.
    Implicit,
    /// After STARTTLS, and before it nothing that matters.
    StartTls,
    /// As the customer likes: for those that know CRAM-MD5 in clear and nothing else.
    Optional,
    /// Never: loopback only.
    Off,
}

/// What a provider is, whoever connects.
#[derive(Clone, Debug)]
pub struct Config {
    /// Leads the greeting and the EHLO reply.
    pub hostname: String,
    /// When TLS is spoken.
    pub tls: TlsMode,
    /// Whether there is a certificate; without one STARTTLS is neither offered nor granted (R3207-1).
    pub has_certificate: bool,
    /// The mechanisms that the site allows, in the order in which they are offered. Which of them are offered on a
    /// connection depends on its TLS.
    pub mechanisms: Vec<Mechanism>,
    /// Refusals before 421.
    pub errors_max: u32,
    /// How long an ATRN may wait for mail (XWAIT); none: it is not offered, and refused.
    pub wait: Option<Duration>,
}

/// What the TLS session of this connection proves.
#[derive(Clone, Debug, Default)]
pub struct TlsSession {
    /// All that tie an exchange to this session; the customer chooses.
    pub channel_bindings: Vec<ChannelBinding>,
    /// SPKI pin (`sha256/…`) of the certificate that the customer showed.
    pub certificate_pin: Option<String>,
}

/// What the driver must do before the session can go on. Whatever it is, it sends the output first.
#[derive(Debug)]
#[must_use]
pub enum Event {
    /// Read, call again.
    NeedInput,
    /// Shake hands, then call [`Provider::tls_started`].
    StartTls,
    /// Somebody sent a secret in clear where it is not taken. It is burnt, and its owner must hear so (R4954-3).
    SecretExposed(Option<String>),
    /// Question: is the proof good? [`Attempt::check`] finds out, off the runtime; answer with [`Provider::checked`].
    Authenticate(Attempt),
    /// Question: may the account have this, and is there mail? Answer with [`Provider::answer`]: quickly, or, where a wait is
    /// asked for and there is no mail, after so long at the latest. The wait is not longer than [`Config::wait`]. Meanwhile the
    /// customer must be silent: hand what comes to [`Provider::next`].
    Atrn(Atrn),
    /// The roles are reversed: the customer greets next.
    Turned,
    /// Close.
    Closed,
}

/// The answers to ATRN (RFC 2645 §5.2.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// There is mail: turn.
    Turn,
    /// There is none now.
    NoMail,
    /// A domain is not the account's, or does not exist, or the account is disabled; nobody learns which.
    NotPermitted,
    /// Asked too often.
    TooOften,
    /// What would decide it cannot be asked now.
    Unavailable,
}

#[derive(Debug)]
enum State {
    /// Commands come.
    Command,
    /// A STARTTLS was granted.
    Handshake,
    /// A mechanism waits for the customer's response.
    Response(Dialogue),
    /// The driver checks a proof.
    Checking,
    /// The driver is asked about ATRN.
    Asking,
    /// The driver is asked about an ATRN that may wait.
    Waiting,
    /// ATRN is granted, and nothing must have come behind it.
    Turning,
    Turned,
    Closed,
}

/// The provider's side of one connection.
#[derive(Debug)]
pub struct Provider {
    config: Arc<Config>,
    tls: Option<TlsSession>,
    client_name: Option<String>,
    account: Option<String>,
    lines: Lines,
    state: State,
    errors: u32,
    auth_failures: u32,
    lines_read: u32,
    exchanges: Exchanges,
    /// Replies to be sent.
    pub output: Vec<u8>,
}

impl Provider {
    /// A new session; its greeting is in the output. `tls` is there from the start with [`TlsMode::Implicit`].
    #[must_use]
    pub fn new(config: Arc<Config>, tls: Option<TlsSession>) -> Self {
        let mut output = Vec::new();
        reply::greeting(&config.hostname).write(&mut output);
        Self {
            config,
            tls,
            client_name: None,
            account: None,
            lines: Lines::default(),
            state: State::Command,
            errors: 0,
            auth_failures: 0,
            lines_read: 0,
            exchanges: Exchanges::default(),
            output,
        }
    }

    /// The account that the customer proved to be.
    #[must_use]
    pub fn account(&self) -> Option<&str> {
        self.account.as_deref()
    }

    /// The name in the customer's EHLO.
    #[must_use]
    pub fn client_name(&self) -> Option<&str> {
        self.client_name.as_deref()
    }

    /// From now on keeps what is said and answered, for [`Provider::take_exchanges`].
    pub fn keep_exchanges(&mut self) {
        self.exchanges.keep();
    }

    /// What was answered since it was last asked for, in order.
    pub fn take_exchanges(&mut self) -> Vec<Exchange> {
        self.exchanges.take()
    }

    /// What must happen next.
    pub fn next(&mut self, input: &mut Input) -> Event {
        loop {
            match self.state {
                State::Command | State::Response(_) => {
                    if let Some(event) = self.read(input) {
                        return event;
                    }
                }
                State::Handshake => return Event::StartTls,
                State::Checking | State::Asking => return Event::NeedInput,
                State::Waiting if input.is_empty() => return Event::NeedInput,
                // Who speaks now did not wait for its answer (R2645-13).
                State::Waiting => self.close(reply::pipelined()),
                State::Turning => self.turn(input.is_empty()),
                State::Turned => return Event::Turned,
                State::Closed => return Event::Closed,
            }
        }
    }

    /// Answers [`Event::Atrn`]. After [`Provider::close`] an answer comes too late and changes nothing.
    pub fn answer(&mut self, verdict: Verdict) {
        if !matches!(self.state, State::Asking | State::Waiting) {
            debug_assert!(matches!(self.state, State::Closed), "nothing was asked");
            return;
        }
        self.state = State::Command;
        match verdict {
            Verdict::Turn => self.state = State::Turning,
            // Who asks for what is not its own again and again tries names.
            Verdict::NotPermitted => self.refuse(&reply::atrn(verdict)),
            // No error of the customer: asking for mail that is not there is what customers do.
            Verdict::NoMail | Verdict::TooOften | Verdict::Unavailable => {
                self.say(&reply::atrn(verdict));
            }
        }
    }

    /// The handshake is done: all that was said before it is forgotten (RFC 3207 §4.2, R3207-2).
    pub fn tls_started(&mut self, session: TlsSession) {
        self.tls = Some(session);
        self.client_name = None;
        self.account = None;
        self.lines = Lines::default();
        self.state = State::Command;
    }

    /// Ends the session: the reply, mostly a 421, stands behind those that are due (R5321-22). Open questions stay unanswered.
    pub fn close(&mut self, reply: Reply) {
        if !matches!(self.state, State::Closed | State::Turned) {
            self.say(&reply);
            self.state = State::Closed;
        }
    }

    /// Takes one line; none is left when it returns [`Event::NeedInput`].
    fn read(&mut self, input: &mut Input) -> Option<Event> {
        let line = match self.lines.next(input, AUTH_LINE_OCTETS) {
            Line::Incomplete => return Some(Event::NeedInput),
            Line::Control => {
                self.exchanges.said(What::Garbage, 0);
                // It also ends the exchange that it was meant for.
                self.state = State::Command;
                self.refuse(&reply::not_printable());
                return None;
            }
            Line::TooLong => {
                self.exchanges.said(What::Garbage, 0);
                self.close(reply::auth_line_too_long());
                return None;
            }
            Line::Text(line) => line.to_vec(),
        };
        self.line(&line, input.is_empty())
    }

    fn line(&mut self, line: &[u8], is_last: bool) -> Option<Event> {
        self.lines_read += 1;
        if self.lines_read > LINES_MAX {
            self.close(reply::too_many_commands());
            return None;
        }
        if let State::Response(_) = self.state {
            self.exchanges.said(What::AuthResponse, line.len() + 2);
            return self.response(line, is_last);
        }
        self.exchanges.line(line);
        let Some((verb, argument)) = command::split(line) else {
            self.refuse(&reply::unknown_command());
            return None;
        };
        // Lines are cut at the length of the longest command; all others are shorter.
        if verb != Verb::Auth && line.len() + 2 > COMMAND_LINE_OCTETS {
            self.refuse(&reply::line_too_long());
            return None;
        }
        // What is sent behind these before their reply was not meant for whom it reaches (R2920-3, R3207-2).
        if !is_last && matches!(verb, Verb::Atrn | Verb::Auth | Verb::Ehlo | Verb::StartTls) {
            self.close(reply::pipelined());
            return None;
        }
        match verb {
            Verb::Ehlo => self.ehlo(argument),
            Verb::StartTls => self.start_tls(argument),
            Verb::Auth => return self.auth(argument),
            Verb::Atrn => return self.atrn(argument),
            Verb::Noop => self.say(&reply::ok()),
            Verb::Quit => self.quit(argument),
            Verb::Rset | Verb::Help if self.must_start_tls() => {
                self.refuse(&reply::must_start_tls())
            }
            Verb::Rset if argument.is_empty() => self.say(&reply::ok()),
            Verb::Rset => self.refuse(&reply::no_argument()),
            Verb::Help => self.say(&reply::help()),
            _ => self.refuse(&reply::not_here()),
        }
        None
    }

    fn ehlo(&mut self, argument: &str) {
        match command::parse_hello(argument) {
            Ok(name) => {
                self.client_name = Some(name.to_owned());
                let offer = self.offer().reply(&self.config.hostname);
                self.say(&offer);
            }
            Err(error) => self.refuse(&error.reply()),
        }
    }

    fn offer(&self) -> Extensions {
        let available = !self.must_start_tls();
        let mechanisms = self.offered().map(|mechanism| mechanism.name().to_owned());
        Extensions {
            atrn: available,
            auth: mechanisms.filter(|_| available).collect(),
            enhanced_status_codes: true,
            starttls: self.offers_start_tls(),
            wait: self.config.wait.filter(|_| available).map(whole_seconds),
            ..Extensions::default()
        }
    }

    fn offers_start_tls(&self) -> bool {
        let wanted = matches!(self.config.tls, TlsMode::StartTls | TlsMode::Optional);
        wanted && self.tls.is_none() && self.config.has_certificate
    }

    /// Nothing that matters is said in clear, except where the site chose so.
    fn must_start_tls(&self) -> bool {
        self.tls.is_none() && matches!(self.config.tls, TlsMode::Implicit | TlsMode::StartTls)
    }

    fn start_tls(&mut self, argument: &str) {
        let refusal = if self.tls.is_some() {
            reply::tls_already_active()
        } else if self.config.tls == TlsMode::Off {
            reply::not_here()
        } else if !argument.is_empty() {
            reply::no_argument()
        } else if !self.config.has_certificate {
            reply::tls_not_available()
        } else {
            self.say(&reply::ready_for_tls());
            self.state = State::Handshake;
            return;
        };
        self.refuse(&refusal);
    }

    fn atrn(&mut self, argument: &str) -> Option<Event> {
        // R2645-4: this comes first, also before TLS and without EHLO.
        if self.account.is_none() {
            self.refuse(&reply::authentication_required());
            return None;
        }
        let Some(atrn) = self.understood(argument) else {
            let refusal = match self.config.wait {
                Some(_) => reply::bad_waiting_atrn(),
                None => reply::bad_atrn(),
            };
            self.refuse(&refusal);
            return None;
        };
        self.state = match atrn.wait {
            Some(_) => State::Waiting,
            None => State::Asking,
        };
        Some(Event::Atrn(atrn))
    }

    /// R2645-7: a wait only where one is offered; what is asked beyond the offer is cut to it.
    fn understood(&self, argument: &str) -> Option<Atrn> {
        let atrn = Atrn::parse(argument).ok()?;
        let wait = match (atrn.wait, self.config.wait) {
            (Some(asked), Some(offered)) => Some(asked.min(offered)),
            (Some(_), None) => return None,
            (None, _) => None,
        };
        Some(Atrn { wait, ..atrn })
    }

    /// The customer may have spoken while the driver looked for mail, and must not have (R2645-13).
    fn turn(&mut self, is_last: bool) {
        if is_last {
            self.say(&reply::turning());
            self.state = State::Turned;
        } else {
            self.close(reply::pipelined());
        }
    }

    fn quit(&mut self, argument: &str) {
        if argument.is_empty() {
            self.close(reply::bye(&self.config.hostname));
        } else {
            self.refuse(&reply::no_argument());
        }
    }

    fn say(&mut self, reply: &Reply) {
        reply.write(&mut self.output);
        self.exchanges.answered_at_once(reply);
    }

    fn refuse(&mut self, reply: &Reply) {
        self.say(reply);
        self.errors += 1;
        if self.errors > self.config.errors_max {
            self.close(reply::too_many_errors());
        }
    }
}

/// At least one: an offer of none would be no offer.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs().max(1)
}

#[cfg(test)]
mod tests;
