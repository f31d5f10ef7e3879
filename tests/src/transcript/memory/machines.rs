//! The four ends: provider and customer up to the reversal, sending and receiving side behind
//! it. Each is a driver as short as it can be, with the verdicts of the directives.

use std::collections::VecDeque;

use atrn_shared::odmr::customer::{Customer, Event as Asked, Outcome};
use atrn_shared::odmr::provider::{Event as Served, Provider, TlsSession, Verdict};
use atrn_shared::sasl::{
    ClientContext, Credentials, DecoyKey, Fresh, NONCE_OCTETS, ScramVerifier, Unavailable,
};
use atrn_shared::smtp::address::{ForwardPath, ReversePath};
use atrn_shared::smtp::client::{Awaited, Client, Dialect, Needs};
use atrn_shared::smtp::line::Input;
use atrn_shared::smtp::parameter::{BodyType, MailParameters, RcptParameters};
use atrn_shared::smtp::reply::Reply;
use atrn_shared::smtp::server::{Event, Server, Tls as ServerTls};

use super::Machine;
use super::settings::{SECRET, Settings};
use crate::inside::Step;
use crate::message::Message;
use crate::world::{ACCOUNT, PULLER_NAME, RELAY_NAME, Tls};

/// The provider's machine, and after the reversal the sending one.
pub(super) struct ProviderEnd<'a> {
    settings: &'a Settings,
    provider: Provider,
    asked: Vec<String>,
    drain: Option<DrainEnd>,
    input: Input,
    closed: bool,
}

impl<'a> ProviderEnd<'a> {
    pub(super) fn new(settings: &'a Settings) -> Self {
        let tls = (settings.tls == Tls::Implicit).then(TlsSession::default);
        let provider = Provider::new(settings.provider(), tls);
        let asked = Vec::new();
        Self {
            settings,
            provider,
            asked,
            drain: None,
            input: Input::new(),
            closed: false,
        }
    }

    fn run(&mut self) {
        loop {
            match self.provider.next(&mut self.input) {
                Served::NeedInput | Served::StartTls => return,
                Served::SecretExposed(_) => {}
                Served::Authenticate(attempt) => {
                    let fresh = Fresh {
                        nonce: [7; NONCE_OCTETS],
                        unix_seconds: 1_767_268_800,
                    };
                    let checked = attempt.check(&OneAccount::default(), fresh);
                    self.provider.checked(checked);
                }
                Served::Atrn(atrn) => {
                    self.asked = atrn.domains.iter().map(ToString::to_string).collect();
                    if self.asked.is_empty() {
                        self.asked.clone_from(&self.settings.domains);
                    }
                    self.provider.answer(self.verdict());
                }
                Served::Turned => {
                    let mut drain = DrainEnd::new(self.settings);
                    drain
                        .messages
                        .retain(|message| is_asked(&self.asked, message));
                    drain
                        .client
                        .output
                        .splice(..0, self.provider.output.drain(..));
                    self.drain = Some(drain);
                    return;
                }
                Served::Closed => {
                    self.closed = true;
                    return;
                }
            }
        }
    }

    fn verdict(&self) -> Verdict {
        if !self
            .asked
            .iter()
            .all(|domain| self.settings.domains.contains(domain))
        {
            return Verdict::NotPermitted;
        }
        if self
            .settings
            .messages
            .iter()
            .any(|message| is_asked(&self.asked, message))
        {
            Verdict::Turn
        } else {
            Verdict::NoMail
        }
    }
}

/// Whether a message is for one of these domains.
fn is_asked(asked: &[String], message: &Message) -> bool {
    asked
        .iter()
        .any(|domain| message.forward_paths[0].ends_with(domain))
}

impl Machine for ProviderEnd<'_> {
    fn feed(&mut self, octets: &[u8]) {
        if let Some(drain) = &mut self.drain {
            return drain.feed(octets);
        }
        self.input.push(octets);
        self.run();
    }

    fn output(&mut self) -> &mut Vec<u8> {
        match &mut self.drain {
            Some(drain) => drain.output(),
            None => &mut self.provider.output,
        }
    }

    fn is_closed(&self) -> bool {
        self.drain.as_ref().map_or(self.closed, Machine::is_closed)
    }

    fn peer_ended(&mut self) {
        self.closed = true;
        if let Some(drain) = &mut self.drain {
            drain.peer_ended();
        }
    }

    fn tls_started(&mut self) {
        self.provider.tls_started(TlsSession::default());
    }

    fn is_turned(&self) -> bool {
        self.drain.is_some()
    }
}

/// The one account of the transcripts.
struct OneAccount(DecoyKey);

impl Default for OneAccount {
    fn default() -> Self {
        Self(DecoyKey::new(&[3; 32]))
    }
}

impl Credentials for OneAccount {
    fn scram_verifier(&self, user: &str) -> Result<Option<ScramVerifier>, Unavailable> {
        let derive = || ScramVerifier::derive(SECRET, &[5; 16]).expect("a usable secret");
        Ok((user == ACCOUNT).then(derive))
    }

    fn cram_md5_secret(&self, user: &str) -> Result<Option<secrecy::SecretString>, Unavailable> {
        Ok((user == ACCOUNT).then(|| SECRET.into()))
    }

    fn account_of_certificate(&self, _: &str) -> Result<Option<String>, Unavailable> {
        Ok(None)
    }

    fn decoy_key(&self) -> &DecoyKey {
        &self.0
    }
}

/// What the relay puts on top when it accepts a message.
const TRACE: &[u8] = b"Received: from a.example by b.example; Thu, 1 Jan 2026 12:00:00 +0000\r\n";

/// The sending side: every message in turn, one command at a time.
pub(super) struct DrainEnd {
    client: Client,
    input: Input,
    messages: VecDeque<Message>,
    closed: bool,
}

impl DrainEnd {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            client: Client::new(Dialect::Smtp),
            input: Input::new(),
            messages: settings.messages.clone().into(),
            closed: false,
        }
    }

    fn run(&mut self) {
        loop {
            match self.client.next(&mut self.input) {
                Ok(Some((awaited, reply))) => self.replied(awaited, &reply),
                Ok(None) => return,
                Err(_) => {
                    self.closed = true;
                    return;
                }
            }
        }
    }

    fn replied(&mut self, awaited: Awaited, reply: &Reply) {
        match awaited {
            Awaited::Quit => self.closed = true,
            // R5321-26: the session is over, and the message stays.
            _ if reply.code() == 421 => {
                self.messages.clear();
                self.client.quit();
            }
            Awaited::Greeting if reply.is_positive() => self.client.hello(RELAY_NAME),
            Awaited::Greeting => self.client.quit(),
            Awaited::Hello if reply.code() / 100 == 5 => self.client.old_hello(RELAY_NAME),
            Awaited::Hello => self.next_message(),
            Awaited::Mail if reply.is_positive() => {
                let path = &self.messages[0].forward_paths[0];
                let path = ForwardPath::from_address(path).expect("a forward-path");
                self.client.recipient(&path, &RcptParameters::default());
            }
            Awaited::Recipient if reply.is_positive() => self.client.data(),
            Awaited::Data if reply.code() == 354 => {
                self.client.content(TRACE);
                self.client.content(&self.messages[0].content);
                self.client.end_of_data(1);
            }
            Awaited::EndOfData if reply.is_positive() => {
                self.messages.pop_front();
                self.next_message();
            }
            Awaited::Reset => self.next_message(),
            // Refused: the transaction is given up.
            _ => {
                self.client.no_content();
                self.messages.pop_front();
                self.client.reset();
            }
        }
    }

    fn next_message(&mut self) {
        while let Some(message) = self.messages.front() {
            let needs = Needs {
                octets: message.content.len() as u64,
                eight_bit: !message.content.is_ascii(),
                smtputf8: !message.reverse_path.is_ascii(),
            };
            if self.client.can_carry(&needs).is_ok() {
                let path =
                    ReversePath::from_address(&message.reverse_path).expect("a reverse-path");
                let parameters = MailParameters {
                    size: Some(needs.octets),
                    body: needs.eight_bit.then_some(BodyType::EightBitMime),
                    smtputf8: needs.smtputf8,
                    ..MailParameters::default()
                };
                return self.client.mail(&path, &parameters);
            }
            self.messages.pop_front();
        }
        self.client.quit();
    }
}

impl Machine for DrainEnd {
    fn feed(&mut self, octets: &[u8]) {
        self.input.push(octets);
        self.run();
    }

    fn output(&mut self) -> &mut Vec<u8> {
        &mut self.client.output
    }

    fn is_closed(&self) -> bool {
        self.closed
    }

    fn peer_ended(&mut self) {
        self.closed = true;
    }

    fn tls_started(&mut self) {}

    fn is_turned(&self) -> bool {
        true
    }
}

/// The customer's machine, and after the reversal the receiving one.
pub(super) struct CustomerEnd<'a> {
    settings: &'a Settings,
    customer: Customer,
    server: Option<ServerEnd<'a>>,
    input: Input,
    closed: bool,
}

impl<'a> CustomerEnd<'a> {
    pub(super) fn new(settings: &'a Settings) -> Self {
        let tls = settings.tls == Tls::Implicit;
        let customer = Customer::new(settings.customer(), context(tls));
        Self {
            settings,
            customer,
            server: None,
            input: Input::new(),
            closed: false,
        }
    }

    fn run(&mut self) {
        loop {
            match self.customer.next(&mut self.input) {
                Asked::NeedInput | Asked::StartTls => return,
                Asked::Prove(challenge) => self.customer.responded(challenge.respond()),
                Asked::Ended(Outcome::Turned) => {
                    let server = ServerEnd::reversed(self.settings);
                    self.server = Some(server);
                    return;
                }
                Asked::Ended(_) => {
                    self.closed = true;
                    return;
                }
            }
        }
    }
}

fn context(tls: bool) -> ClientContext {
    ClientContext {
        tls,
        channel_binding: None,
        nonce: [9; NONCE_OCTETS],
    }
}

impl Machine for CustomerEnd<'_> {
    fn feed(&mut self, octets: &[u8]) {
        if let Some(server) = &mut self.server {
            return server.feed(octets);
        }
        self.input.push(octets);
        self.run();
    }

    fn output(&mut self) -> &mut Vec<u8> {
        match &mut self.server {
            Some(server) => server.output(),
            None => &mut self.customer.output,
        }
    }

    fn is_closed(&self) -> bool {
        self.server.as_ref().map_or(self.closed, Machine::is_closed)
    }

    fn peer_ended(&mut self) {
        self.closed = true;
        if let Some(server) = &mut self.server {
            server.peer_ended();
        }
    }

    fn tls_started(&mut self) {
        self.customer.tls_started(context(true));
        self.run();
    }

    fn is_turned(&self) -> bool {
        self.server.is_some()
    }
}

/// The receiving side, on the edge or behind the reversal.
pub(super) struct ServerEnd<'a> {
    settings: &'a Settings,
    server: Server,
    input: Input,
    closed: bool,
}

impl<'a> ServerEnd<'a> {
    pub(super) fn edge(settings: &'a Settings) -> Self {
        let server = Server::new(settings.server(RELAY_NAME), ServerTls::Offered);
        Self {
            settings,
            server,
            input: Input::new(),
            closed: false,
        }
    }

    pub(super) fn reversed(settings: &'a Settings) -> Self {
        // R2645-20: TLS is there already, and is not offered a second time.
        let tls = if settings.tls == Tls::Off {
            ServerTls::Unavailable
        } else {
            ServerTls::Active
        };
        let server = Server::new(settings.server(PULLER_NAME), tls);
        Self {
            settings,
            server,
            input: Input::new(),
            closed: false,
        }
    }

    fn run(&mut self) {
        loop {
            let answer = match self.server.next(&mut self.input) {
                Event::NeedInput | Event::StartTls => return,
                Event::Closed => {
                    self.closed = true;
                    return;
                }
                Event::Body(_) | Event::Abandoned(_) => continue,
                Event::Mail(path, _) => self.verdict(Step::Mail, &path.to_string()),
                Event::Recipient(path, _) => self.recipient(&path),
                Event::Content(_) => self
                    .ordered(Step::Data, "")
                    .unwrap_or_else(|| Reply::bare(354, "Go ahead")),
                Event::EndOfMessage(_) => self.verdict(Step::EndOfData, ""),
            };
            self.server.answer(answer);
        }
    }

    fn recipient(&self, path: &ForwardPath) -> Reply {
        let foreign = match path.domain() {
            Some(domain) => !self
                .settings
                .domains
                .iter()
                .any(|name| name == domain.as_str()),
            // Neither a literal nor anything else without a name is ours.
            None => !path.is_postmaster(),
        };
        if foreign {
            return Reply::new(550, "5.7.1", "relaying denied");
        }
        self.verdict(Step::Rcpt, &path.to_string())
    }

    fn verdict(&self, step: Step, argument: &str) -> Reply {
        self.ordered(step, argument)
            .unwrap_or_else(|| Reply::new(250, "2.0.0", "Ok"))
    }

    /// What the directives say of this step.
    fn ordered(&self, step: Step, argument: &str) -> Option<Reply> {
        let (_, _, reply) = self
            .settings
            .verdicts
            .iter()
            .find(|(at, text, _)| *at == step && argument.contains(text))?;
        let mut words = reply.splitn(3, ' ');
        let code = words.next()?.parse().ok()?;
        let (enhanced, text) = (words.next()?, words.next().unwrap_or_default());
        Some(Reply::new(code, enhanced, text.to_owned()))
    }
}

impl Machine for ServerEnd<'_> {
    fn feed(&mut self, octets: &[u8]) {
        self.input.push(octets);
        self.run();
    }

    fn output(&mut self) -> &mut Vec<u8> {
        &mut self.server.output
    }

    fn is_closed(&self) -> bool {
        self.closed
    }

    fn peer_ended(&mut self) {
        self.closed = true;
    }

    fn tls_started(&mut self) {
        self.server.tls_started();
    }

    fn is_turned(&self) -> bool {
        true
    }
}
