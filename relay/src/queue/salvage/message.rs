//! One message by its key: all of it that can be read, and what cannot.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use atrn_shared::smtp::address::{Domain, ForwardPath, ReversePath};
use atrn_shared::smtp::parameter::{MailParameters, RcptParameters};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::super::body::Digest;
use super::super::envelope::State;
use super::super::id::QueueId;
use super::super::spool::spool_path;
use super::super::sqlite::{SPOOLED, StoredRecipient};

const MESSAGE: &str =
    "SELECT received_at, received_from, reverse_path, parameters, flags, size, next_number,
     checksum, held_since FROM message WHERE key = ?1";
const DELIVERIES: &str = "SELECT number, domain, state, next_attempt, last_attempt, attempts, last_reply, recipients, since
     FROM delivery WHERE message = ?1 ORDER BY number";
const DELIVERY: &str = "SELECT number, domain, state, next_attempt, last_attempt, attempts, last_reply, recipients, since
     FROM delivery WHERE message = ?1 AND number = ?2";
const CONTENT: &str = "SELECT content FROM body WHERE message = ?1";
/// Everything that is asked here.
pub(super) const QUERIES: [&str; 4] = [MESSAGE, DELIVERIES, DELIVERY, CONTENT];
/// No message has more deliveries than an envelope can have recipients, a few times over.
const NUMBERS_MAX: u32 = 10_000;

/// A message as it stands in the database.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) id: QueueId,
    pub(super) received_at: i64,
    pub(super) received_from: String,
    pub(super) reverse_path: String,
    pub(super) parameters: String,
    pub(super) flags: i64,
    pub(super) size: i64,
    pub(super) next_number: u32,
    pub(super) checksum: Option<u32>,
    pub(super) held_since: i64,
    /// As far as it is in the database; `None`: nothing.
    pub(super) content: Option<Vec<u8>>,
    pub(super) deliveries: Vec<Delivery>,
}

impl Message {
    pub(super) fn is_spooled(&self) -> bool {
        self.flags & SPOOLED != 0
    }
}

/// A delivery as it stands in the database, with its domain by name.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) number: u32,
    pub(super) domain: Domain,
    pub(super) state: i64,
    pub(super) next_attempt: i64,
    pub(super) last_attempt: i64,
    pub(super) attempts: u32,
    pub(super) last_reply: Option<String>,
    pub(super) recipients: String,
    pub(super) since: i64,
}

/// What came of a look-up.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) message: Option<Message>,
    pub(super) lost: Vec<Lost>,
    /// Who sent it, where that can be read.
    pub(super) sender: Option<String>,
}

/// Content that belongs to no message which could be read.
#[derive(Debug)]
pub(super) enum Left {
    /// Without a head in the database, which is only what the relay said of the message.
    File(PathBuf),
    Inline(Vec<u8>),
}

/// What of a message cannot be read.
#[derive(Debug)]
pub(super) struct Lost {
    pub(super) reason: String,
    /// For whom it was, where that can be read.
    pub(super) recipients: Vec<String>,
}

pub(super) struct Reader<'a> {
    pub(super) connection: &'a Connection,
    pub(super) domains: &'a HashMap<i64, Domain>,
    pub(super) spool: &'a Path,
}

impl Reader<'_> {
    pub(super) fn read(&self, id: QueueId) -> Read {
        let mut lost = Vec::new();
        let found = self.message(id);
        let (next_number, sender) = match &found {
            Ok(Some(message)) => (message.next_number, Some(message.reverse_path.clone())),
            _ => (2, None),
        };
        let deliveries = self.deliveries(id, next_number, &mut lost);
        let none = |mut lost: Vec<Lost>, deliveries: &[Delivery], reason| {
            let recipients = deliveries
                .iter()
                .flat_map(|delivery| addresses(&delivery.recipients))
                .collect();
            lost.push(Lost { reason, recipients });
            Read {
                message: None,
                lost,
                sender: sender.clone(),
            }
        };
        let mut message = match found {
            Ok(Some(message)) => message,
            Ok(None) if deliveries.is_empty() && lost.is_empty() => {
                // In a whole queue it is what a crash left; in a damaged one it may be mail.
                if matches!(self.left_of_content(id), Ok(None)) {
                    return Read::default();
                }
                let reason =
                    "its content is all that is left: no message of this id is in the database";
                return none(lost, &deliveries, reason.to_owned());
            }
            Ok(None) => {
                let reason = "the message is not to be found, and deliveries of it are";
                return none(lost, &deliveries, reason.to_owned());
            }
            Err(reason) => return none(lost, &deliveries, reason),
        };
        if deliveries.is_empty() {
            let reason = "no delivery of it can be read";
            return none(lost, &deliveries, reason.to_owned());
        }
        match self.content(&message) {
            Ok(content) => message.content = content,
            Err(reason) => return none(lost, &deliveries, reason),
        }
        message.deliveries = deliveries;
        Read {
            message: Some(message),
            lost,
            sender,
        }
    }

    /// The content of a message that is not whole, as far as it is there: nothing of it is verified.
    pub(super) fn left_of_content(&self, id: QueueId) -> Result<Option<Left>, String> {
        let path = spool_path(self.spool, id);
        match File::open(&path) {
            Ok(_) => return Ok(Some(Left::File(path))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("its content file: {error}")),
        }
        let content = self.inline(id)?;
        Ok(content.map(Left::Inline))
    }

    fn message(&self, id: QueueId) -> Result<Option<Message>, String> {
        let row = |row: &Row<'_>| -> rusqlite::Result<Message> {
            Ok(Message {
                id,
                received_at: row.get(0)?,
                received_from: row.get(1)?,
                reverse_path: row.get(2)?,
                parameters: row.get(3)?,
                flags: row.get(4)?,
                size: row.get(5)?,
                next_number: row.get(6)?,
                checksum: row.get(7)?,
                held_since: row.get(8)?,
                content: None,
                deliveries: Vec::new(),
            })
        };
        let found = self
            .connection
            .prepare_cached(MESSAGE)
            .and_then(|mut statement| statement.query_row([id.0], row).optional());
        let found = found.map_err(|error| format!("its envelope: {error}"))?;
        if let Some(message) = &found {
            ReversePath::from_address(&message.reverse_path)
                .map_err(|error| format!("its reverse-path: {error}"))?;
            MailParameters::parse(&message.parameters)
                .map_err(|error| format!("its parameters: {error}"))?;
            if message.size < 0 {
                return Err("its size is negative".to_owned());
            }
        }
        Ok(found)
    }

    /// The deliveries one after the other, and behind a damaged one each by its number.
    fn deliveries(&self, id: QueueId, next_number: u32, lost: &mut Vec<Lost>) -> Vec<Delivery> {
        let mut found = Vec::new();
        let mut read = || -> rusqlite::Result<()> {
            let mut statement = self.connection.prepare_cached(DELIVERIES)?;
            let mut rows = statement.query([id.0])?;
            while let Some(row) = rows.next()? {
                found.push(raw(row)?);
            }
            Ok(())
        };
        if let Err(error) = read() {
            found.clear();
            for number in 1..next_number.min(NUMBERS_MAX) {
                let one = self
                    .connection
                    .prepare_cached(DELIVERY)
                    .and_then(|mut statement| {
                        statement.query_row(params![id.0, number], raw).optional()
                    });
                match one {
                    Ok(one) => found.extend(one),
                    Err(_) => lost.push(Lost {
                        reason: format!("delivery {number}: {error}"),
                        recipients: Vec::new(),
                    }),
                }
            }
        }
        let mut deliveries = Vec::new();
        for (domain, mut delivery) in found {
            match self.checked(domain, &delivery) {
                Ok(domain) => {
                    delivery.domain = domain;
                    deliveries.push(delivery);
                }
                Err(reason) => lost.push(Lost {
                    reason: format!("delivery {}: {reason}", delivery.number),
                    recipients: addresses(&delivery.recipients),
                }),
            }
        }
        deliveries
    }

    /// The domain of a delivery whose values can be what was once written.
    fn checked(&self, domain: i64, delivery: &Delivery) -> Result<Domain, String> {
        if State::from_code(delivery.state).is_none() {
            return Err(format!("there is no state {}", delivery.state));
        }
        let recipients: Vec<StoredRecipient> = serde_json::from_str(&delivery.recipients)
            .map_err(|error| format!("its recipients: {error}"))?;
        let mut of_recipients = None;
        for recipient in &recipients {
            let path = ForwardPath::from_address(&recipient.to)
                .map_err(|error| format!("a recipient: {error}"))?;
            RcptParameters::parse(&recipient.parameters)
                .map_err(|error| format!("a recipient: {error}"))?;
            of_recipients = of_recipients.or_else(|| path.domain().cloned());
        }
        if recipients.is_empty() {
            return Err("it has no recipients".to_owned());
        }
        let domain = self.domains.get(&domain).cloned().or(of_recipients);
        domain.ok_or_else(|| "its domain is not known".to_owned())
    }

    /// What the database has of it; with what is in a file it is whole.
    fn content(&self, message: &Message) -> Result<Option<Vec<u8>>, String> {
        let content = self.inline(message.id)?;
        let mut found = content.as_deref().map(Digest::of);
        if message.is_spooled() {
            let path = spool_path(self.spool, message.id);
            let whole = found.get_or_insert_default();
            let added = whole.add_file(&path);
            added.map_err(|error| format!("its content file: {error}"))?;
        }
        let found = found.ok_or_else(|| "its content is not to be found".to_owned())?;
        verify(message, &found)?;
        Ok(content)
    }

    /// The content that the database has of a message.
    fn inline(&self, id: QueueId) -> Result<Option<Vec<u8>>, String> {
        let content = self
            .connection
            .prepare_cached(CONTENT)
            .and_then(|mut statement| {
                statement
                    .query_row([id.0], |row| row.get::<_, Vec<u8>>(0))
                    .optional()
            });
        content.map_err(|error| format!("its content: {error}"))
    }
}

/// The addresses of a delivery's recipients, as far as they can be read.
fn addresses(recipients: &str) -> Vec<String> {
    let recipients: Vec<StoredRecipient> = serde_json::from_str(recipients).unwrap_or_default();
    let recipients = recipients.into_iter();
    recipients.map(|recipient| recipient.to).collect()
}

/// A delivery, and the key of its domain.
fn raw(row: &Row<'_>) -> rusqlite::Result<(i64, Delivery)> {
    let delivery = Delivery {
        number: row.get(0)?,
        domain: Domain::parse("unknown.invalid").map_err(|_| rusqlite::Error::InvalidQuery)?,
        state: row.get(2)?,
        next_attempt: row.get(3)?,
        last_attempt: row.get(4)?,
        attempts: row.get(5)?,
        last_reply: row.get(6)?,
        recipients: row.get(7)?,
        since: row.get(8)?,
    };
    Ok((row.get(1)?, delivery))
}

fn verify(message: &Message, found: &Digest) -> Result<(), String> {
    let size = found.size;
    if size != message.size.cast_unsigned() {
        return Err(format!("its content has {size} octets of {}", message.size));
    }
    match message.checksum {
        Some(expected) if expected != found.checksum() => {
            Err("its content is not what was accepted (checksum)".to_owned())
        }
        _ => Ok(()),
    }
}
