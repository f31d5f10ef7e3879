//! The commands of the receiving side, one method each: may it be said now, and what follows.

use super::content::{Body, Decoder};
use super::{Event, Framing, Hello, HelloKind, Server, Slot, State, Tls, Transaction};
use crate::smtp::address::{ForwardPath, ReversePath};
use crate::smtp::bdat::Chunk;
use crate::smtp::command::{self, ArgumentError, Verb};
use crate::smtp::content::{ContentLimits, Fault, Inspector};
use crate::smtp::data;
use crate::smtp::parameter::{MailParameters, ParameterError, RcptParameters};
use crate::smtp::reply::Reply;

/// Octets from which on a chunk counts for something.
const CHUNK_OCTETS_MIN: u64 = 512;

impl Server {
    /// One command. `alone`: nothing arrived behind it.
    pub(super) fn command(
        &mut self,
        line: Option<(Verb, String)>,
        alone: bool,
    ) -> Option<Event<'static>> {
        let Some((verb, argument)) = line else {
            self.refuse(Reply::new(500, "5.5.2", "Command not recognised"));
            return None;
        };
        match verb {
            Verb::Ehlo => return self.on_hello(HelloKind::Ehlo, &argument, alone),
            Verb::Helo => return self.on_hello(HelloKind::Helo, &argument, alone),
            Verb::Mail => return self.on_mail(&argument),
            Verb::Rcpt => return self.on_rcpt(&argument),
            Verb::Data => return self.on_data(&argument, alone),
            Verb::Bdat if self.config.extensions.chunking => return self.on_bdat(&argument),
            Verb::Rset => return self.on_rset(&argument),
            Verb::Quit => return self.on_quit(&argument),
            Verb::StartTls => return self.on_starttls(&argument, alone),
            Verb::Noop => self.say(Reply::new(250, "2.0.0", "Ok")),
            Verb::Help => self.say(Reply::new(214, "2.0.0", "See RFC 5321")),
            Verb::Vrfy => self.say(Reply::new(252, "2.5.2", "Send mail and see")),
            Verb::Atrn
            | Verb::Auth
            | Verb::Bdat
            | Verb::Etrn
            | Verb::Expn
            | Verb::Lhlo
            | Verb::Send
            | Verb::Turn => self.refuse(Reply::new(502, "5.5.1", "Command not implemented")),
        }
        None
    }

    fn on_hello(&mut self, kind: HelloKind, argument: &str, alone: bool) -> Option<Event<'static>> {
        let name = match command::parse_hello(argument) {
            Ok(name) => name.to_owned(),
            Err(_) => {
                self.refuse(Reply::new(
                    501,
                    "5.5.4",
                    "A host name or address literal must follow",
                ));
                return None;
            }
        };
        if !alone {
            // What follows was sent without knowing what is offered (RFC 2920 §3.1).
            self.refuse_and_close(Reply::new(
                503,
                "5.5.0",
                "Nothing may be pipelined behind the hello",
            ));
            return self.abandon(None);
        }
        self.hello = Some(Hello { kind, name });
        let reply = match kind {
            HelloKind::Helo => Reply::bare(250, self.config.hostname.clone()),
            HelloKind::Ehlo => {
                let mut offer = self.config.extensions.clone();
                offer.starttls = self.tls == Tls::Offered;
                offer.reply(&self.config.hostname)
            }
        };
        self.say(reply);
        self.abandon(None)
    }

    fn on_mail(&mut self, argument: &str) -> Option<Event<'static>> {
        if self.hello.is_none() {
            self.refuse(Reply::new(503, "5.5.1", "Say EHLO first"));
            return None;
        }
        if self.is_open() {
            self.refuse(Reply::new(503, "5.5.1", "A transaction is open"));
            return None;
        }
        let (path, parameters) = match self.check_mail(argument) {
            Ok(mail) => mail,
            Err(reply) => {
                self.refuse(reply);
                return None;
            }
        };
        self.transactions += 1;
        let number = self.transactions;
        let named = parameters.delivery_id.is_some();
        self.transaction = Some(Transaction {
            number,
            named,
            smtputf8: parameters.smtputf8,
            ..Transaction::default()
        });
        self.between_chunks = None;
        self.due(Slot::Mail { number, named });
        Some(Event::Mail(path, parameters))
    }

    fn check_mail(&self, argument: &str) -> Result<(ReversePath, MailParameters), Reply> {
        let (path, parameters) = command::parse_mail(argument).map_err(ArgumentError::reply)?;
        let offer = &self.config.extensions;
        let asks_too_much = (parameters.size.is_some() && offer.size.is_none())
            || (parameters.body.is_some() && !offer.eight_bit_mime)
            || (parameters.smtputf8 && !offer.smtputf8)
            || ((parameters.ret.is_some() || parameters.envid.is_some()) && !offer.dsn)
            || (parameters.delivery_id.is_some() && !offer.delivery_id);
        if asks_too_much {
            return Err(ArgumentError::Parameter(ParameterError::Unknown).reply());
        }
        if !path.is_ascii() && !parameters.smtputf8 {
            return Err(needs_smtputf8());
        }
        if parameters
            .size
            .is_some_and(|size| size > self.message_octets_max())
        {
            return Err(Fault::TooLarge.reply());
        }
        Ok((path, parameters))
    }

    fn on_rcpt(&mut self, argument: &str) -> Option<Event<'static>> {
        if !self.is_open() {
            self.refuse_behind_refusal(Reply::new(503, "5.5.1", "Say MAIL first"));
            return None;
        }
        let (path, parameters) = match self.check_rcpt(argument) {
            Ok(recipient) => recipient,
            Err(reply) => {
                self.refuse(reply);
                return None;
            }
        };
        let recipients_max = self.config.recipients_max;
        let transaction = self.transaction.as_mut()?;
        if transaction.chunking {
            // The content has begun, and its trace field may name the only recipient already.
            self.refuse(Reply::new(503, "5.5.1", "RCPT can not follow BDAT"));
            return None;
        }
        let named = transaction.accepted + transaction.asked + transaction.had_already;
        if named >= recipients_max {
            let reply = Reply::new(
                452,
                "4.5.3",
                "Too many recipients; send the others in another transaction",
            );
            self.note(&reply);
            self.say(reply);
            return None;
        }
        transaction.asked += 1;
        let slot = Slot::Recipient(transaction.number);
        self.due(slot);
        Some(Event::Recipient(path, parameters))
    }

    fn check_rcpt(&self, argument: &str) -> Result<(ForwardPath, RcptParameters), Reply> {
        let (path, parameters) = command::parse_rcpt(argument).map_err(ArgumentError::reply)?;
        if parameters != RcptParameters::default() && !self.config.extensions.dsn {
            return Err(ArgumentError::Parameter(ParameterError::Unknown).reply());
        }
        let smtputf8 = self
            .transaction
            .as_ref()
            .is_some_and(|transaction| transaction.smtputf8);
        if !path.is_ascii() && !smtputf8 {
            return Err(needs_smtputf8());
        }
        if let ForwardPath::Mailbox(mailbox) = &path {
            let local_part = mailbox.local_part();
            let bare = local_part.trim_start_matches('"');
            let routes = local_part
                .contains(|c: char| c.is_control() || self.config.local_part_forbidden.contains(c));
            if routes || bare.starts_with(['-', '.']) {
                return Err(Reply::new(550, "5.1.1", "No mailbox has such a name here"));
            }
        }
        Ok((path, parameters))
    }

    fn on_data(&mut self, argument: &str, alone: bool) -> Option<Event<'static>> {
        if !argument.is_empty() {
            self.refuse(ArgumentError::Syntax.reply());
            return None;
        }
        if let Err(reply) = self.may_send_content() {
            self.refuse_behind_refusal(reply);
            return None;
        }
        let transaction = self.transaction.as_ref()?;
        if transaction.chunking {
            self.refuse(Reply::new(503, "5.5.1", "DATA can not follow BDAT"));
            return None;
        }
        if !alone {
            // Content before 354 is content that nobody waited to be asked for (R2920-3).
            self.refuse_and_close(Reply::new(503, "5.5.0", "Wait for 354 before the content"));
            return self.abandon(None);
        }
        let slot = Slot::Content(transaction.number);
        self.due(slot);
        let framing = Decoder::Data(data::Decoder::default());
        self.state = State::Asking(Body::new(framing, self.inspector()));
        Some(Event::Content(Framing::Data))
    }

    fn on_bdat(&mut self, argument: &str) -> Option<Event<'static>> {
        let Ok((octets, last)) = command::parse_bdat(argument) else {
            return self.unmeasured_chunk();
        };
        let inspector = self.between_chunks.take();
        let first = inspector.is_none();
        let inspector = inspector.unwrap_or_else(|| self.inspector());
        let over_limit = octets.saturating_add(inspector.octets()) > self.message_octets_max();
        let body = Body::new(Decoder::Bdat(Chunk::new(octets, last)), inspector);
        if over_limit {
            self.refuse_and_close(Fault::TooLarge.reply());
            return self.abandon(Some(Fault::TooLarge.reply()));
        }
        if let Err(reply) = self.may_send_content() {
            // The octets come all the same, and must not be taken for commands.
            self.state = State::Swallow(body, reply);
            self.errors += u32::from(self.transaction.is_none());
            return None;
        }
        let transaction = self.transaction.as_mut()?;
        transaction.chunking = true;
        // A chunk of some size brings a part of the message. A drop of it does not.
        self.lines_at_message += u64::from(octets >= CHUNK_OCTETS_MIN);
        if !first {
            self.state = State::Content(body);
            return None;
        }
        let slot = Slot::Content(transaction.number);
        self.due(slot);
        self.state = State::Asking(body);
        let octets = last.then_some(octets);
        Some(Event::Content(Framing::Bdat { octets }))
    }

    /// Nobody knows how many octets follow, so nothing behind can be told from a command.
    pub(super) fn unmeasured_chunk(&mut self) -> Option<Event<'static>> {
        self.refuse_and_close(Reply::new(
            501,
            "5.5.4",
            "BDAT takes a number of octets, and LAST; closing",
        ));
        self.abandon(None)
    }

    /// R5321-5: content needs a transaction with a recipient, if only one that is still being asked about.
    pub(super) fn may_send_content(&self) -> Result<(), Reply> {
        if !self.is_open() {
            return Err(Reply::new(503, "5.5.1", "Say MAIL and RCPT first"));
        }
        match &self.transaction {
            Some(transaction) if transaction.accepted + transaction.asked > 0 => Ok(()),
            _ => Err(no_recipients()),
        }
    }

    fn on_rset(&mut self, argument: &str) -> Option<Event<'static>> {
        if !argument.is_empty() {
            self.refuse(ArgumentError::Syntax.reply());
            return None;
        }
        self.say(Reply::new(250, "2.0.0", "Ok"));
        self.abandon(None)
    }

    fn on_quit(&mut self, argument: &str) -> Option<Event<'static>> {
        if !argument.is_empty() {
            self.refuse(ArgumentError::Syntax.reply());
            return None;
        }
        self.say(Reply::new(221, "2.0.0", "Bye"));
        self.state = State::Closing;
        self.abandon(None)
    }

    fn on_starttls(&mut self, argument: &str, alone: bool) -> Option<Event<'static>> {
        let refusal = match self.tls {
            _ if !argument.is_empty() => ArgumentError::Syntax.reply(),
            Tls::Active => Reply::new(503, "5.5.1", "TLS is active already"),
            Tls::Unavailable => Reply::new(502, "5.5.1", "Command not implemented"),
            Tls::Offered if !alone => {
                // What stands behind STARTTLS in the clear may be an attacker's (RFC 3207 §4.2).
                self.refuse_and_close(Reply::new(
                    554,
                    "5.5.1",
                    "Nothing may be pipelined behind STARTTLS",
                ));
                return self.abandon(None);
            }
            Tls::Offered => {
                self.say(Reply::new(220, "2.0.0", "Go ahead"));
                self.state = State::Handshake;
                return self.abandon(None);
            }
        };
        self.refuse(refusal);
        None
    }

    /// Ends the transaction, if one is open.
    pub(super) fn abandon(&mut self, reason: Option<Reply>) -> Option<Event<'static>> {
        self.between_chunks = None;
        let was_open = self.is_open();
        self.transaction = None;
        was_open.then_some(Event::Abandoned(reason))
    }

    /// Whether a transaction is open: MAIL was accepted, or has no answer yet.
    pub(super) fn is_open(&self) -> bool {
        self.transaction
            .as_ref()
            .is_some_and(|transaction| self.unopened(transaction.number).is_none())
    }

    fn inspector(&self) -> Inspector {
        Inspector::new(ContentLimits {
            octets: self.message_octets_max(),
            header_octets: self.config.header_octets_max,
            received_fields: self.config.received_max,
        })
    }

    pub(super) fn message_octets_max(&self) -> u64 {
        match self.config.extensions.size {
            None | Some(0) => u64::MAX,
            Some(limit) => limit,
        }
    }
}

fn needs_smtputf8() -> Reply {
    Reply::new(553, "5.6.7", "This address needs SMTPUTF8")
}

pub(super) fn no_recipients() -> Reply {
    Reply::new(554, "5.5.1", "No valid recipients")
}
