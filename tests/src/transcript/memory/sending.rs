//! The relay's ends: the provider up to the reversal, the sending side behind it. Each is a driver as short as it can be,
//! with the verdicts of the directives.

use std::collections::VecDeque;

use atrn_shared::odmr::provider::{Event, Provider, TlsSession, Verdict};
use atrn_shared::sasl::{Credentials, DecoyKey, Fresh, NONCE_OCTETS, ScramVerifier, Unavailable};
use atrn_shared::smtp::address::{ForwardPath, ReversePath};
use atrn_shared::smtp::client::{Awaited, Client, Dialect, Needs};
use atrn_shared::smtp::line::Input;
use atrn_shared::smtp::parameter::{BodyType, MailParameters, RcptParameters};
use atrn_shared::smtp::reply::Reply;

use super::Machine;
use super::settings::{SECRET, Settings};
use crate::message::Message;
use crate::world::{ACCOUNT, RELAY_NAME, Tls};

/// The provider's machine, and after the reversal the sending one.
pub(super) struct ProviderEnd<'a> {
    settings: &'a Settings,
    provider: Provider,
    asked: Vec<String>,
    /// See [`DrainEnd::stays`].
    stays: bool,
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
            stays: false,
            drain: None,
            input: Input::new(),
            closed: false,
        }
    }

    fn run(&mut self) {
        loop {
            match self.provider.next(&mut self.input) {
                Event::NeedInput | Event::StartTls => return,
                Event::SecretExposed(_) => {}
                Event::Authenticate(attempt) => {
                    let fresh = Fresh {
                        nonce: [7; NONCE_OCTETS],
                        unix_seconds: 1_767_268_800,
                    };
                    let checked = attempt.check(&OneAccount::default(), fresh);
                    self.provider.checked(checked);
                }
                Event::Atrn(atrn) => {
                    self.asked = atrn.domains.iter().map(ToString::to_string).collect();
                    if self.asked.is_empty() {
                        self.asked.clone_from(&self.settings.domains);
                    }
                    self.stays = atrn.wait.is_some();
                    let verdict = self.verdict();
                    if verdict != Verdict::NoMail || !self.stays || self.settings.time_passes() {
                        self.provider.answer(verdict);
                    }
                }
                Event::Turned => {
                    let mut drain = DrainEnd::new(self.settings);
                    drain.stays = self.stays;
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
                Event::Closed => {
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

/// The sending side: all messages in flights behind each other where the peer offers PIPELINING and CHUNKING, else one
/// command at a time.
pub(super) struct DrainEnd {
    client: Client,
    input: Input,
    messages: VecDeque<Message>,
    /// Messages so far: part of their delivery ids.
    count: usize,
    /// Flights without their last reply.
    under_way: usize,
    /// ATRN asked to wait (XWAIT): there is no end of it when all is sent, and a silence is over at once.
    stays: bool,
    closed: bool,
}

impl DrainEnd {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            client: Client::new(Dialect::Smtp),
            input: Input::new(),
            messages: settings.messages.clone().into(),
            count: 0,
            under_way: 0,
            stays: false,
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
            Awaited::Noop if reply.is_positive() => self.client.noop(),
            Awaited::Noop => self.closed = true,
            // R5321-26: the session is over, and the message stays.
            _ if reply.code() == 421 => {
                self.messages.clear();
                self.client.quit();
            }
            Awaited::Greeting if reply.is_positive() => self.client.hello(RELAY_NAME),
            Awaited::Greeting => self.client.quit(),
            Awaited::Hello if reply.code() / 100 == 5 => self.client.old_hello(RELAY_NAME),
            Awaited::Hello => self.next_message(),
            // Whatever they say: all of it is out.
            Awaited::Mail | Awaited::Recipient | Awaited::Reset if self.flies() => {}
            Awaited::EndOfData if self.flies() => {
                self.under_way -= 1;
                if self.under_way == 0 {
                    self.end();
                }
            }
            Awaited::Mail if self.has_it(reply) => self.next_but_one(),
            Awaited::Mail if reply.is_positive() => {
                let message = self.messages[0].clone();
                self.recipient(&message);
            }
            Awaited::Recipient if reply.is_positive() && !self.has_it(reply) => self.client.data(),
            Awaited::Data if reply.code() == 354 => {
                self.client.content(TRACE);
                self.client.content(&self.messages[0].content);
                self.client.end_of_data(1);
            }
            Awaited::EndOfData if reply.is_positive() => self.next_but_one(),
            Awaited::Reset => self.next_message(),
            // Refused: the transaction is given up.
            _ => {
                self.client.no_content();
                self.messages.pop_front();
                if self.messages.is_empty() && !self.stays {
                    self.client.quit();
                } else {
                    self.client.reset();
                }
            }
        }
    }

    fn flies(&self) -> bool {
        let offered = self.client.extensions();
        offered.pipelining && offered.chunking
    }

    /// R-DUP
    fn has_it(&self, reply: &Reply) -> bool {
        self.client.extensions().delivery_id && reply.is_already_delivered()
    }

    fn next_but_one(&mut self) {
        self.messages.pop_front();
        self.next_message();
    }

    fn next_message(&mut self) {
        while let Some(message) = self.messages.pop_front() {
            if !self.mail(&message) {
                continue;
            }
            if !self.flies() {
                self.messages.push_front(message);
                return;
            }
            self.recipient(&message);
            self.client
                .bdat((TRACE.len() + message.content.len()) as u64, true);
            self.client.content(TRACE);
            self.client.content(&message.content);
            self.under_way += 1;
        }
        if self.under_way == 0 {
            self.end();
        }
    }

    /// MAIL, if the peer can take the message.
    fn mail(&mut self, message: &Message) -> bool {
        let needs = Needs {
            octets: message.content.len() as u64,
            eight_bit: !message.content.is_ascii(),
            smtputf8: !message.reverse_path.is_ascii(),
        };
        if self.client.can_carry(&needs).is_err() {
            return false;
        }
        if self.under_way > 0 {
            self.client.reset();
        }
        let path = ReversePath::from_address(&message.reverse_path).expect("a reverse-path");
        self.count += 1;
        let parameters = MailParameters {
            size: Some(needs.octets),
            body: needs.eight_bit.then_some(BodyType::EightBitMime),
            smtputf8: needs.smtputf8,
            delivery_id: format!("delivery-{}", self.count).parse().ok(),
            ..MailParameters::default()
        };
        self.client.mail(&path, &parameters);
        true
    }

    fn recipient(&mut self, message: &Message) {
        let path = &message.forward_paths[0];
        let path = ForwardPath::from_address(path).expect("a forward-path");
        self.client.recipient(&path, &RcptParameters::default());
    }

    fn end(&mut self) {
        if self.stays {
            self.client.noop();
        } else {
            self.client.quit();
        }
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
