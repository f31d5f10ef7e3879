//! The receiving side of SMTP: commands in, questions to the driver, replies out.
//!
//! The machine knows order, syntax, framing and limits. What it can not know, it asks: each
//! [`Event::Mail`], [`Event::Recipient`], [`Event::Content`] and [`Event::EndOfMessage`] is answered once
//! with [`Server::answer`], in the order asked. Answers may wait while the machine reads on through what
//! the peer pipelined, so that a driver in lock-step with another server can pass a group of commands on
//! in one flight; before content flows all must be answered, or it is [read ahead](Server::read_ahead) of the answers.

use std::collections::VecDeque;
use std::sync::Arc;

use super::address::{ForwardPath, ReversePath};
use super::command::{self, Verb};
use super::content::{Fault, Inspector};
use super::exchange::{Exchange, Exchanges, What};
use super::extension::Extensions;
use super::limits::{COMMAND_LINE_OCTETS, HEADER_OCTETS, RECEIVED_FIELDS, RECIPIENTS_MIN};
use super::line::{Input, Line, Lines};
use super::parameter::{MailParameters, RcptParameters};
use super::reply::Reply;

mod commands;
mod content;

use content::{Body, Decoder};

/// What a server is, whoever connects.
#[derive(Clone, Debug)]
pub struct Config {
    /// Leads the greeting and the EHLO reply.
    pub hostname: String,
    /// The offer, apart from STARTTLS, which depends on the connection. `size` is the limit of a message.
    pub extensions: Extensions,
    /// Recipients of one transaction; more are refused one by one (R5321-21).
    pub recipients_max: usize,
    /// Refusals by the machine, and those that the driver counts, before 421.
    pub errors_max: u32,
    /// Command lines in a row that bring no message, before 421: a peer that keeps us busy and never says anything.
    pub commands_max: u32,
    /// Octets of a header section (R5321-20).
    pub header_octets_max: usize,
    /// `Received` fields of a message that is not looping (R5321-18).
    pub received_max: usize,
    /// Characters that no local-part of a recipient may have: some server on the way might take them for a
    /// route (R5321-7).
    pub local_part_forbidden: String,
}

/// The default of [`Config::local_part_forbidden`]: the signs themselves, and those that some server's normalisation
/// (NFKC) would turn into them.
pub const LOCAL_PART_FORBIDDEN: &str = "%!@/\\|％﹪！︕﹗＠﹫／＼﹨｜";

/// The default of [`Config::commands_max`]: far above what a large transaction and the signs of life of a day need.
pub const COMMANDS_MAX: u32 = 10_000;

/// Refusals kept for the driver between two of its looks.
const REFUSALS_KEPT: usize = 32;

impl Config {
    /// The limits that hold unless somebody says otherwise.
    #[must_use]
    pub fn new(hostname: &str, extensions: Extensions) -> Self {
        Self {
            hostname: hostname.to_owned(),
            extensions,
            recipients_max: RECIPIENTS_MIN,
            errors_max: 20,
            commands_max: COMMANDS_MAX,
            header_octets_max: HEADER_OCTETS,
            received_max: RECEIVED_FIELDS,
            local_part_forbidden: LOCAL_PART_FORBIDDEN.to_owned(),
        }
    }
}

/// Which of SMTP's two hellos the client said.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HelloKind {
    /// ESMTP
    Ehlo,
    /// RFC 821
    Helo,
}

/// The client's hello.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hello {
    /// EHLO or HELO.
    pub kind: HelloKind,
    /// The name that the client gave itself.
    pub name: String,
}

/// How content is framed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Framing {
    /// `BDAT`; the octets of the whole content when the first chunk is the last.
    Bdat {
        /// Octets of the content, if known.
        octets: Option<u64>,
    },
    /// `DATA`
    Data,
}

/// What is known of content at its end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Summary {
    /// Octets of content, framing undone.
    pub octets: u64,
    /// Whether any octet was above 127, whatever BODY said.
    pub eight_bit: bool,
}

/// What the driver must do before the session can go on.
#[derive(Debug, Eq, PartialEq)]
#[must_use]
pub enum Event<'a> {
    /// Send what is in the output, read, call again. Where [`Server::needs_answers`], answer what was asked before that.
    NeedInput,
    /// Question: a transaction from this sender? Where it has a delivery id, 258 says that it was taken before: then
    /// no transaction is opened, and what was pipelined behind it is answered with 503 and dropped (R-DUP).
    Mail(ReversePath, MailParameters),
    /// Question: this recipient? Where the delivery has an id, 258 says that the recipient has it already: the content
    /// is not for him, and if nobody else is left there is none (R-DUP).
    Recipient(ForwardPath, RcptParameters),
    /// Question: may content come? 354 lets it, also for BDAT, where the peer does not see it.
    Content(Framing),
    /// Content, framing undone: pass it on, keep none of it.
    Body(&'a [u8]),
    /// Question: was the message taken? A positive answer means durable.
    EndOfMessage(Summary),
    /// The transaction is over without a message; forget what was taken of it. The machine itself answers;
    /// the reply is there when its refusal is the reason.
    Abandoned(Option<Reply>),
    /// Send the output, shake hands, then call [`Server::tls_started`].
    StartTls,
    /// Send the output and close.
    Closed,
}

/// A transaction from the MAIL that opened it on. Verdicts on its first commands may still be open.
#[derive(Debug, Default)]
struct Transaction {
    number: u64,
    /// MAIL had a delivery id: only then has 258 its meaning.
    named: bool,
    smtputf8: bool,
    accepted: usize,
    asked: usize,
    /// Recipients that took the delivery before: the content is not for them.
    had_already: usize,
    /// BDAT was used: DATA may not follow (RFC 3030 §2).
    chunking: bool,
    /// Its content came before the answers to its envelope.
    is_ahead: bool,
}

#[derive(Debug)]
enum State {
    /// Commands come.
    Command,
    /// The driver is asked whether content may come.
    Asking(Body),
    /// Content comes.
    Content(Body),
    /// Content that was read ahead has a fault. What is said of it depends on the answers that are due before.
    Faulty(Body, Fault),
    /// Content comes and is dropped; the reply is due at its end.
    Swallow(Body, Reply),
    /// A STARTTLS was granted.
    Handshake,
    /// Say so once the answers are out, then nothing.
    Closing,
}

/// How the machine goes on after it looked at the input once.
enum Step {
    Again,
    /// So many octets at the front of the input are content.
    Body(usize),
    Event(Event<'static>),
}

impl From<Option<Event<'static>>> for Step {
    fn from(event: Option<Event<'static>>) -> Self {
        event.map_or(Self::Again, Self::Event)
    }
}

/// Why MAIL opened no transaction.
#[derive(Clone, Copy, Debug)]
enum Unopened {
    AlreadyDelivered,
    Refused,
}

impl Unopened {
    /// To what was pipelined behind that MAIL.
    fn reply(self) -> Reply {
        match self {
            Self::AlreadyDelivered => {
                Reply::new(503, "5.5.1", "Nothing more is wanted of this delivery")
            }
            Self::Refused => Reply::new(503, "5.5.1", "The sender was refused"),
        }
    }
}

/// A reply's place in the order of commands: known, or waiting for the driver.
#[derive(Debug)]
enum Slot {
    Known(Reply),
    /// `named`: it had a delivery id, and 258 means what it means there.
    Mail {
        number: u64,
        named: bool,
    },
    Recipient(u64),
    Content(u64),
    EndOfMessage(u64),
}

/// The receiving side of one connection.
#[derive(Debug)]
pub struct Server {
    config: Arc<Config>,
    tls: Tls,
    hello: Option<Hello>,
    lines: Lines,
    state: State,
    transaction: Option<Transaction>,
    /// Whose content was read ahead, up to the verdict.
    ahead: VecDeque<Transaction>,
    transactions: u64,
    /// The last transaction that its MAIL did not open, and why.
    unopened: Option<(u64, Unopened)>,
    /// A message in several BDAT chunks: what was seen of it so far.
    between_chunks: Option<Inspector>,
    slots: VecDeque<Slot>,
    exchanges: Exchanges,
    errors: u32,
    /// Command lines so far …
    lines_read: u64,
    /// … and how many of them there were when they last brought anything.
    lines_at_message: u64,
    refusals: Vec<Reply>,
    /// Replies to be sent.
    pub output: Vec<u8>,
}

/// Whether TLS is there, or could be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tls {
    /// The connection is encrypted.
    Active,
    /// STARTTLS is offered.
    Offered,
    /// There is no certificate, or it is not wanted here.
    Unavailable,
}

impl Server {
    /// A new session; its greeting is in the output.
    #[must_use]
    pub fn new(config: Arc<Config>, tls: Tls) -> Self {
        let greeting = Reply::bare(220, format!("{} ESMTP", config.hostname));
        let mut server = Self {
            config,
            tls,
            hello: None,
            lines: Lines::default(),
            state: State::Command,
            transaction: None,
            ahead: VecDeque::new(),
            transactions: 0,
            unopened: None,
            between_chunks: None,
            slots: VecDeque::new(),
            exchanges: Exchanges::default(),
            errors: 0,
            lines_read: 0,
            lines_at_message: 0,
            refusals: Vec::new(),
            output: Vec::new(),
        };
        server.say(greeting);
        server
    }

    /// The client's last hello.
    #[must_use]
    pub fn hello(&self) -> Option<&Hello> {
        self.hello.as_ref()
    }

    /// Whether the connection is encrypted.
    #[must_use]
    pub fn tls(&self) -> Tls {
        self.tls
    }

    /// Whether a question waits for its answer.
    #[must_use]
    pub fn is_asking(&self) -> bool {
        self.slots
            .iter()
            .any(|slot| !matches!(slot, Slot::Known(_)))
    }

    /// Whether nothing more is read before a question is answered.
    #[must_use]
    pub fn needs_answers(&self) -> bool {
        let waits = matches!(
            self.state,
            State::Asking(_) | State::Faulty(..) | State::Handshake | State::Closing
        );
        waits && self.is_asking()
    }

    /// Replies that wait for their turn, behind a question or as one.
    #[must_use]
    pub fn replies_due(&self) -> usize {
        self.slots.len()
    }

    /// In place of the answer to [`Event::Content`] where [`Framing::Bdat`] tells the octets of the whole: the content
    /// comes now, although its envelope was not answered yet. [`Event::EndOfMessage`] is a question as ever, but its answer
    /// counts only if the envelope's let the message in: if not, the machine itself refuses the content.
    pub fn read_ahead(&mut self) {
        let Some(Slot::Content(_)) = self.slots.back() else {
            return;
        };
        match std::mem::replace(&mut self.state, State::Command) {
            State::Asking(body) if matches!(body.framing, Decoder::Bdat(_)) => {
                self.slots.pop_back();
                self.exchanges.withdrawn(self.slots.len());
                self.state = State::Content(body);
                if let Some(transaction) = &mut self.transaction {
                    transaction.is_ahead = true;
                }
            }
            other => self.state = other,
        }
    }

    /// Whether the client is inside a transaction: its MAIL was not refused, nor answered with 258.
    #[must_use]
    pub fn in_transaction(&self) -> bool {
        self.is_open()
    }

    /// Octets of the content under way, also of one that is refused already and dropped up to its end.
    #[must_use]
    pub fn content_octets(&self) -> Option<u64> {
        match &self.state {
            State::Content(body) => Some(body.inspector.octets()),
            State::Swallow(body, _) => Some(body.swallowed),
            _ => None,
        }
    }

    /// Refusals that were errors of the client, so far.
    #[must_use]
    pub fn errors(&self) -> u32 {
        self.errors
    }

    /// Command lines so far. Who waits for a command goes by this and not by octets, or a line that comes drop by drop
    /// would never be late.
    #[must_use]
    pub fn lines_read(&self) -> u64 {
        self.lines_read
    }

    /// What the machine itself refused since it was last asked: for the log, as every refusal has a reason that
    /// somebody will ask for.
    pub fn take_refusals(&mut self) -> Vec<Reply> {
        std::mem::take(&mut self.refusals)
    }

    /// From now on keeps what is said and answered, for [`Server::take_exchanges`].
    pub fn keep_exchanges(&mut self) {
        self.exchanges.keep();
    }

    /// What was answered since it was last asked for, in order.
    pub fn take_exchanges(&mut self) -> Vec<Exchange> {
        self.exchanges.take()
    }

    /// What must happen next.
    pub fn next<'a>(&mut self, input: &'a mut Input) -> Event<'a> {
        loop {
            let step = match self.state {
                State::Handshake if !self.is_asking() => return Event::StartTls,
                State::Closing if !self.is_asking() => return Event::Closed,
                State::Faulty(..) if !self.is_asking() => self.faulty().into(),
                State::Asking(_) | State::Faulty(..) | State::Handshake | State::Closing => {
                    return Event::NeedInput;
                }
                State::Command => self.next_command(input),
                State::Content(_) | State::Swallow(..) => self.next_content(input),
            };
            match step {
                Step::Again => {}
                Step::Body(count) => return Event::Body(input.take(count)),
                Step::Event(event) => return event,
            }
        }
    }

    fn next_command(&mut self, input: &mut Input) -> Step {
        let commands_max = u64::from(self.config.commands_max);
        if self.lines_read - self.lines_at_message > commands_max {
            self.refuse_and_close(Reply::new(421, "4.7.0", "Too many commands, closing"));
            return self.abandon(None).into();
        }
        let line = self.lines.next(input, COMMAND_LINE_OCTETS);
        if line != Line::Incomplete {
            self.lines_read += 1;
            self.exchanges.said(What::Garbage, 0);
        }
        match line {
            Line::Incomplete => return Step::Event(Event::NeedInput),
            Line::Control => self.refuse(Reply::new(
                500,
                "5.5.2",
                "Commands are printable and end with CRLF",
            )),
            Line::TooLong => self.refuse(Reply::new(500, "5.5.2", "Line too long")),
            Line::Text(line) => {
                match command::garbled(line) {
                    None => {}
                    Some(Verb::Bdat) if self.config.extensions.chunking => {
                        return self.unmeasured_chunk().into();
                    }
                    Some(_) => {
                        self.refuse(command::ArgumentError::Syntax.reply());
                        return Step::Again;
                    }
                }
                let octets = line.len() + 2;
                let line = command::split(line).map(|(verb, argument)| (verb, argument.to_owned()));
                if let Some((verb, argument)) = &line {
                    self.exchanges.command(*verb, argument, octets);
                }
                return self.command(line, input.is_empty()).into();
            }
        }
        Step::Again
    }

    /// Answers the oldest open question. Nobody hears an answer after [`Server::close`].
    pub fn answer(&mut self, reply: Reply) {
        let Some(position) = self
            .slots
            .iter()
            .position(|slot| !matches!(slot, Slot::Known(_)))
        else {
            return;
        };
        let reply = match self.slots[position] {
            Slot::Mail { number, named } => self.answer_mail(number, named, reply),
            Slot::Recipient(number) => self.answer_recipient(number, reply),
            Slot::Content(number) => match self.answer_content(number, reply) {
                Some(reply) => reply,
                None => {
                    self.slots.remove(position);
                    self.exchanges.withdrawn(position);
                    return self.flush();
                }
            },
            Slot::EndOfMessage(number) => self.answer_end(number, reply),
            Slot::Known(_) => reply,
        };
        self.slots[position] = Slot::Known(reply);
        self.flush();
    }

    /// Counts a refusal that was the driver's as an error of the client.
    pub fn count_error(&mut self) {
        self.errors += 1;
        self.check_errors();
    }

    fn check_errors(&mut self) {
        if self.errors > self.config.errors_max {
            self.refuse_and_close(Reply::new(421, "4.7.0", "Too many errors, closing"));
        }
    }

    /// Ends the session from the driver's side: `reply`, a 421, goes out, questions that are open stay
    /// unanswered, and the next event is [`Event::Closed`].
    pub fn close(&mut self, reply: Reply) {
        if matches!(self.state, State::Closing) && !self.is_asking() {
            return;
        }
        // What is known already stands behind an open question, and would be taken for the answer to that.
        self.slots.clear();
        self.exchanges.given_up();
        self.ahead.clear();
        self.state = State::Command;
        self.refuse_and_close(reply);
        self.transaction = None;
    }

    /// The handshake is done: all that was said before it is forgotten (RFC 3207 §4.2).
    pub fn tls_started(&mut self) {
        self.tls = Tls::Active;
        self.hello = None;
        self.lines = Lines::default();
        self.state = State::Command;
    }

    fn say(&mut self, reply: Reply) {
        self.due(Slot::Known(reply));
        self.flush();
    }

    /// A reply to what was said last, behind those that are due.
    fn due(&mut self, slot: Slot) {
        self.slots.push_back(slot);
        self.exchanges.opened();
    }

    fn flush(&mut self) {
        while let Some(Slot::Known(reply)) = self.slots.front() {
            reply.write(&mut self.output);
            self.exchanges.answered(reply);
            self.slots.pop_front();
        }
    }

    fn refuse(&mut self, reply: Reply) {
        self.note(&reply);
        self.say(reply);
        self.count_error();
    }

    /// Keeps a refusal for [`Server::take_refusals`]. Who never asks for them must not pay for them without end.
    fn note(&mut self, reply: &Reply) {
        if self.refusals.len() < REFUSALS_KEPT {
            self.refusals.push(reply.clone());
        }
    }

    /// Refuses a command for what was refused before it. A client that pipelines could not know of that (RFC 2920
    /// §3.1), so it is no error of its own.
    fn refuse_behind_refusal(&mut self, reply: Reply) {
        if self.transaction.is_some() {
            self.say(reply);
        } else {
            self.refuse(reply);
        }
    }

    /// The last reply, behind those that are still due.
    fn refuse_and_close(&mut self, reply: Reply) {
        if !matches!(self.state, State::Closing) {
            self.note(&reply);
            self.say(reply);
            self.state = State::Closing;
        }
    }

    fn answer_mail(&mut self, number: u64, named: bool, reply: Reply) -> Reply {
        if !reply.is_positive() {
            self.unopened = Some((number, Unopened::Refused));
        } else if named && reply.is_already_delivered() {
            self.unopened = Some((number, Unopened::AlreadyDelivered));
        }
        reply
    }

    /// Why this transaction was never opened, if it was not.
    fn unopened(&self, number: u64) -> Option<Unopened> {
        self.unopened
            .and_then(|(unopened, why)| (unopened == number).then_some(why))
    }

    fn answer_recipient(&mut self, number: u64, reply: Reply) -> Reply {
        if let Some(why) = self.unopened(number) {
            return why.reply();
        }
        let mut transactions = self.transaction.iter_mut().chain(&mut self.ahead);
        if let Some(transaction) = transactions.find(|transaction| transaction.number == number) {
            transaction.asked -= 1;
            if transaction.named && reply.is_already_delivered() {
                transaction.had_already += 1;
            } else {
                transaction.accepted += usize::from(reply.is_positive());
            }
        }
        reply
    }

    /// The verdict on a message: of one that was read ahead, only if anybody was to have it.
    fn answer_end(&mut self, number: u64, reply: Reply) -> Reply {
        let front = self.ahead.front();
        if front.is_none_or(|transaction| transaction.number != number) {
            return reply;
        }
        match (self.unopened(number), self.ahead.pop_front()) {
            (Some(why), _) => why.reply(),
            (None, Some(Transaction { accepted: 0, .. })) => commands::no_recipients(),
            _ => reply,
        }
    }

    /// The reply to DATA, or to a BDAT that is refused; `None` when a BDAT goes ahead.
    fn answer_content(&mut self, number: u64, reply: Reply) -> Option<Reply> {
        let body = match std::mem::replace(&mut self.state, State::Command) {
            State::Asking(body) => body,
            // The session is over: what was asked before that is answered, and no content comes any more.
            other => {
                self.state = other;
                let closing = || Reply::new(421, "4.3.0", "Closing");
                return Some(if reply.is_intermediate() {
                    closing()
                } else {
                    reply
                });
            }
        };
        let accepted = self
            .transaction
            .as_ref()
            .map_or(0, |transaction| transaction.accepted);
        let reply = if let Some(why) = self.unopened(number) {
            why.reply()
        } else if accepted == 0 && reply.is_intermediate() {
            commands::no_recipients()
        } else {
            reply
        };
        let bdat = matches!(body.framing, Decoder::Bdat(_));
        if reply.is_intermediate() {
            self.state = State::Content(body);
            return (!bdat).then_some(reply);
        }
        if bdat {
            self.state = State::Swallow(body, reply);
            return None;
        }
        // RFC 5321 §4.1.1.4: DATA that was refused leaves the transaction as it was.
        Some(reply)
    }
}

#[cfg(test)]
mod tests;
