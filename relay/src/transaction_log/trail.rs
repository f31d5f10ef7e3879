//! What one connection leaves in the log: its events, formatted as they come, handed over before each wait.

use std::borrow::Cow;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use atrn_shared::smtp::command::Verb;
use atrn_shared::smtp::exchange::{Exchange, What};
use jiff::Timestamp;

use super::event::{Event, Origin, Record, Subject};
use super::{Handle, MessageId};
use crate::queue::{Action, Delivery, DeliveryId, Outcome, QueueId};

/// Room for the records of a usual flight, so that it is asked for once.
const BLOCK_OCTETS: usize = 1024;
/// A block is handed over when it has so many octets, also in the middle of a flight.
const BLOCK_OCTETS_MAX: usize = 16 << 10;

/// The records of one connection, or of what the relay does by itself. They are handed over with [`Trail::flush`], and when
/// it is dropped.
#[derive(Debug)]
pub struct Trail {
    log: Option<Arc<Handle>>,
    origin: Origin,
    /// We are the client: what goes out are commands.
    is_turned: bool,
    began: Timestamp,
    heard: Timestamp,
    message_id: Option<Box<MessageId>>,
    /// What is known of content whose reply was given just now.
    content: Option<Box<Content>>,
    block: Vec<u8>,
    records: u64,
}

#[derive(Debug)]
struct Content {
    octets: u64,
    accepted: Option<QueueId>,
    message_id: Option<String>,
    taken: Duration,
}

impl Trail {
    pub(super) fn new(log: Option<Arc<Handle>>, origin: Origin) -> Self {
        let now = log
            .as_ref()
            .map_or(Timestamp::UNIX_EPOCH, |log| (log.shared.clock)());
        Self {
            log,
            origin,
            is_turned: false,
            began: now,
            heard: now,
            message_id: None,
            content: None,
            block: Vec::new(),
            records: 0,
        }
    }

    /// Whether records are kept: what is only there for them needs not be done else.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.log.is_some()
    }

    /// The connection is open.
    pub fn opened(&mut self) {
        self.note(&Event::new("connect"));
    }

    /// TLS began; what was said before does not count any more.
    pub fn encrypted(&mut self, session: &str) {
        self.origin.hello.clear();
        self.note(&Event {
            argument: session,
            ..Event::new("tls")
        });
    }

    /// The peer proved to be this account.
    pub fn is_account(&mut self, account: &str) {
        account.clone_into(&mut self.origin.account);
    }

    /// The roles are reversed: what is said from now on is said by us.
    pub fn turned(&mut self) {
        self.is_turned = true;
    }

    /// Something came, or, where we are the client, goes out or was answered: what is answered next took its time since.
    pub fn heard(&mut self) {
        if let Some(log) = &self.log {
            self.heard = (log.shared.clock)();
        }
    }

    /// Content comes next.
    pub fn content_begins(&mut self) {
        self.message_id = self.is_on().then(Box::default);
    }

    /// A piece of the content.
    pub fn content(&mut self, part: &[u8]) {
        if let Some(message_id) = &mut self.message_id {
            message_id.look(part);
        }
    }

    /// The content ended, and took so long; its reply is the next that is given. `accepted` where it is in the queue.
    pub fn content_ended(&mut self, octets: u64, accepted: Option<QueueId>, taken: Duration) {
        let message_id = self.message_id.take();
        if self.is_on() {
            self.content = Some(Box::new(Content {
                octets,
                accepted,
                message_id: message_id.and_then(|found| found.found()),
                taken,
            }));
        }
    }

    /// What was said and answered, about this.
    pub fn exchanges(&mut self, exchanges: Vec<Exchange>, subject: Subject) {
        let Some(log) = &self.log else { return };
        if exchanges.is_empty() {
            return;
        }
        let log = Arc::clone(log);
        let now = (log.shared.clock)();
        for exchange in &exchanges {
            self.exchange(&log, now, exchange, subject);
        }
    }

    fn exchange(&mut self, log: &Handle, now: Timestamp, exchange: &Exchange, subject: Subject) {
        let Exchange { said, answer } = exchange;
        let is_positive = answer.as_ref().is_some_and(|answer| answer.code / 100 == 2);
        match said.what {
            What::Command(Verb::Mail) => self.origin.transaction += 1,
            What::Command(Verb::Ehlo | Verb::Helo) if is_positive && !self.is_turned => {
                said.argument.clone_into(&mut self.origin.hello);
            }
            _ => {}
        }
        let (said_octets, answer_octets) = (
            said.octets as u64,
            answer.as_ref().map_or(0, |answer| answer.octets as u64),
        );
        let (received, sent) = if self.is_turned {
            (answer_octets, said_octets)
        } else {
            (said_octets, answer_octets)
        };
        let event = Event {
            method: method(said.what),
            argument: &said.argument,
            code: answer.as_ref().map(|answer| answer.code),
            enhanced: answer.as_ref().and_then(|answer| answer.enhanced),
            text: answer
                .as_ref()
                .map_or(Cow::Borrowed(""), |answer| Cow::Borrowed(&answer.text)),
            received,
            sent,
            taken: since(self.heard, now),
            subject,
        };
        let ends_content = matches!(said.what, What::Content | What::Command(Verb::Bdat));
        let content = if ends_content {
            self.content.take()
        } else {
            None
        };
        let Some(content) = content else {
            return self.write(log, now, &event);
        };
        if said.what != What::Content {
            self.write(log, now, &event);
        }
        let subject = content.accepted.map_or(Subject::None, Subject::Message);
        self.write(
            log,
            now,
            &Event {
                method: "content",
                argument: content.message_id.as_deref().unwrap_or_default(),
                received: content.octets,
                taken: content.taken,
                subject,
                ..event
            },
        );
    }

    /// What becomes of a delivery, a record for each recipient.
    pub(crate) fn outcomes(&mut self, delivery: &Delivery, outcomes: &[Outcome]) {
        if !self.is_on() {
            return;
        }
        for (recipient, outcome) in delivery.recipients.iter().zip(outcomes) {
            let (method, reply) = match outcome {
                Outcome::Deferred(reply) => ("deferred", Some(reply)),
                Outcome::Delivered => ("delivered", None),
                Outcome::Expired(reply) => ("expired", Some(reply)),
                Outcome::Failed(reply) => ("failed", Some(reply)),
                Outcome::Released => ("queued", None),
            };
            let forward_path = recipient.forward_path.to_string();
            let event = Event {
                argument: &forward_path,
                subject: Subject::Delivery(delivery.id),
                ..Event::new(method)
            };
            match reply {
                Some(reply) => self.note(&event.with_reply(reply)),
                None => self.note(&event),
            }
        }
    }

    /// What was done to deliveries that were looked at together. Of those that it did not fit only the number is known.
    pub(crate) fn changed(&mut self, action: Action, ids: &[DeliveryId], changed: u64) {
        let method = match action {
            Action::Hold => "held",
            Action::Release => "released",
            Action::Remove => "removed",
            Action::Retry => "retried",
        };
        let text = if changed == ids.len() as u64 {
            String::new()
        } else {
            format!("one of {}, of which {changed} were", ids.len())
        };
        for id in ids.iter().take_while(|_| changed > 0) {
            self.note(&Event {
                subject: Subject::Delivery(*id),
                text: Cow::Borrowed(&text),
                ..Event::new(method)
            });
        }
    }

    /// Notes an event.
    pub fn note(&mut self, event: &Event<'_>) {
        if let Some(log) = &self.log {
            let log = Arc::clone(log);
            self.write(&log, (log.shared.clock)(), event);
        }
    }

    /// The connection is closed, and why.
    pub fn closed(&mut self, reason: &str) {
        let Some(log) = &self.log else { return };
        let now = (log.shared.clock)();
        let event = Event {
            text: Cow::Borrowed(reason),
            taken: since(self.began, now),
            ..Event::new("close")
        };
        self.write(&Arc::clone(log), now, &event);
        self.flush();
    }

    fn write(&mut self, log: &Handle, at: Timestamp, event: &Event<'_>) {
        if self.block.capacity() == 0 {
            self.block.reserve(BLOCK_OCTETS);
        }
        let record = Record {
            at,
            hostname: &log.shared.hostname,
            origin: &self.origin,
            event,
        };
        log.shared.formatter.line(&record, &mut self.block);
        self.records += 1;
        if self.block.len() >= BLOCK_OCTETS_MAX {
            self.flush();
        }
    }

    /// Hands over what was noted. Before each wait.
    pub fn flush(&mut self) {
        if let Some(log) = &self.log
            && !self.block.is_empty()
        {
            log.hand_over(mem::take(&mut self.block), mem::take(&mut self.records));
        }
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        self.flush();
    }
}

fn method(what: What) -> &'static str {
    match what {
        What::AuthResponse => Verb::Auth.name(),
        What::Command(verb) => verb.name(),
        What::Content => "content",
        What::Garbage => "garbage",
        What::Nothing => "reply",
    }
}

fn since(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}
