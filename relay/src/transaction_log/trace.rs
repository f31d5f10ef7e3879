//! Follows a message through the log, from connect to settle: reads the files twice, first for what belongs to it, then for
//! its story. What is kept meanwhile is bounded, however long the log is.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use jiff::Timestamp;

use super::fields::Field;
use super::read::{Entry, Reader};
use super::rotate::{CURRENT, earlier};
use crate::queue::Reference;

/// Transactions, messages and sessions of one trace, each.
pub const FOUND_MAX: usize = 10_000;
/// Sessions hand their records over in blocks, so that those of two are not quite in order. So many are put in order.
const ORDERED: usize = 8_192;

/// What is looked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Needle {
    /// A connection's peer.
    Address(IpAddr),
    /// A delivery: its id as far as its number.
    Delivery {
        /// The message.
        message: String,
        /// The delivery's id up to the store's own part.
        start: String,
    },
    /// A sender, a recipient, or a Message-ID.
    Mailbox(String),
    /// A message by its queue id.
    Message(String),
}

/// Nothing that a trace could follow.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "neither a queue id, a delivery id, a mail address, an IP address nor a Message-ID; take one from the log, or from the queue"
)]
pub struct NeedleError;

impl FromStr for Needle {
    type Err = NeedleError;

    fn from_str(text: &str) -> Result<Self, NeedleError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Address(address.to_canonical()));
        }
        if text.contains('@') {
            return Ok(Self::Mailbox(bare(text).to_owned()));
        }
        match text.parse() {
            Ok(Reference::Message(id)) => Ok(Self::Message(id.to_string())),
            Ok(delivery @ Reference::Delivery { message, .. }) => Ok(Self::Delivery {
                message: message.to_string(),
                start: format!("{delivery}."),
            }),
            Err(_) => Err(NeedleError),
        }
    }
}

impl fmt::Display for Needle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Delivery { start, .. } => f.write_str(start.trim_end_matches('.')),
            Self::Mailbox(text) | Self::Message(text) => f.write_str(text),
        }
    }
}

/// A search of the log.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Where the files are.
    pub directory: PathBuf,
    /// What is looked for.
    pub needle: Needle,
    /// What is older is passed over.
    pub since: Option<Timestamp>,
}

/// What a trace told.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Told {
    /// Records of the story.
    pub records: u64,
    /// More was found than a trace follows.
    pub is_cut: bool,
    /// Fields that a trace needs, and that are missing in a file.
    pub missing: BTreeSet<&'static str>,
    /// Files that were read.
    pub files: usize,
}

/// What the first reading found to belong to the story.
#[derive(Debug, Default)]
struct Found {
    transactions: HashSet<(String, u32)>,
    messages: HashSet<String>,
    sessions: HashSet<String>,
    is_cut: bool,
    /// Of the header that was looked at last.
    fields: Vec<Option<Field>>,
    missing: BTreeSet<&'static str>,
    files: usize,
}

impl Trace {
    /// Tells every record of the story, in the order of time.
    ///
    /// # Errors
    /// When a file cannot be read, or what `each` says.
    pub fn run<E: From<io::Error>>(
        &self,
        mut each: impl FnMut(&Entry) -> Result<(), E>,
    ) -> Result<Told, E> {
        let mut found = Found::default();
        if let Needle::Message(message) | Needle::Delivery { message, .. } = &self.needle {
            found.messages.insert(message.clone());
        }
        self.read::<E>(|entry, fields| {
            self.look(&mut found, entry);
            if found.fields != fields {
                found.fields = fields.to_vec();
                found.missing.extend(missing(fields));
            }
            Ok(())
        })
        .map(|files| found.files = files)?;
        let mut records = 0;
        let mut window = BTreeMap::new();
        self.read::<E>(|entry, _| {
            if !self.tells(&found, entry) {
                return Ok(());
            }
            records += 1;
            window.insert((entry.time, records), entry.clone());
            if window.len() <= ORDERED {
                return Ok(());
            }
            window
                .pop_first()
                .map_or(Ok(()), |(_, oldest)| each(&oldest))
        })?;
        window.values().try_for_each(each)?;
        Ok(Told {
            records,
            is_cut: found.is_cut,
            missing: found.missing,
            files: found.files,
        })
    }

    /// Reads all files, oldest first; how many there are.
    fn read<E: From<io::Error>>(
        &self,
        mut each: impl FnMut(&Entry, &[Option<Field>]) -> Result<(), E>,
    ) -> Result<usize, E> {
        // The current file is opened before the others are listed: if it is put away meanwhile it is read under its new
        // name, and else it would be missed.
        let current = Reader::open(&self.directory.join(CURRENT));
        let mut files = Vec::new();
        for path in or_none(earlier(&self.directory))?.unwrap_or_default() {
            if !self.is_too_old(&path) {
                files.extend(or_none(Reader::open(&path))?);
            }
        }
        files.extend(or_none(current)?);
        let count = files.len();
        for mut reader in files {
            while let Some(entry) = reader.read()? {
                if self.since.is_none_or(|since| entry.time >= since) {
                    each(&entry, reader.fields())?;
                }
            }
        }
        Ok(count)
    }

    fn is_too_old(&self, path: &Path) -> bool {
        let written = fs::metadata(path).and_then(|found| found.modified());
        let written = written.ok().and_then(|at| Timestamp::try_from(at).ok());
        matches!((self.since, written), (Some(since), Some(written)) if written < since)
    }

    /// The first reading: whether this belongs to the story, and what follows from it.
    fn look(&self, found: &mut Found, entry: &Entry) {
        if entry.session.is_empty() {
            return;
        }
        let session = session(entry);
        let transaction = (session, entry.transaction.unwrap_or_default());
        let is_known = found.messages.contains(&entry.queue_id)
            || (entry.service == "smtp" && found.transactions.contains(&transaction));
        if !is_known && !self.is_meant(entry) {
            return;
        }
        let is_full = found.sessions.len().max(found.transactions.len()) >= FOUND_MAX
            || found.messages.len() >= FOUND_MAX;
        if is_full && !is_known {
            found.is_cut = true;
            return;
        }
        if !entry.queue_id.is_empty() && !matches!(self.needle, Needle::Address(_)) {
            found.messages.insert(entry.queue_id.clone());
        }
        if !found.sessions.contains(&transaction.0) {
            found.sessions.insert(transaction.0.clone());
        }
        if entry.service == "smtp" && !is_of_session(entry) {
            found.transactions.insert(transaction);
        }
    }

    fn is_meant(&self, entry: &Entry) -> bool {
        match &self.needle {
            Needle::Address(address) => entry.client_ip.parse() == Ok(*address),
            Needle::Delivery { .. } | Needle::Message(_) => false,
            Needle::Mailbox(text) => {
                let said = match entry.event.as_str() {
                    "MAIL" | "RCPT" => path(&entry.argument),
                    "content" | "delivered" | "deferred" | "failed" | "expired" => {
                        bare(&entry.argument)
                    }
                    _ => return false,
                };
                said.eq_ignore_ascii_case(text)
            }
        }
    }

    /// The second reading: whether this is told.
    fn tells(&self, found: &Found, entry: &Entry) -> bool {
        if let Needle::Delivery { start, .. } = &self.needle
            && !entry.delivery_id.is_empty()
            && !entry.delivery_id.starts_with(start)
        {
            return false;
        }
        if let Needle::Address(_) = &self.needle {
            return found.sessions.contains(&session(entry));
        }
        if !entry.queue_id.is_empty() {
            return found.messages.contains(&entry.queue_id);
        }
        if entry.session.is_empty() {
            return false;
        }
        let session = session(entry);
        if is_of_session(entry) {
            return found.sessions.contains(&session);
        }
        let transaction = (session, entry.transaction.unwrap_or_default());
        found.transactions.contains(&transaction)
    }
}

/// Whether a record is about the connection, and not about one of the messages on it.
fn is_of_session(entry: &Entry) -> bool {
    const OF_SESSION: [&str; 15] = [
        "ATRN", "AUTH", "EHLO", "HELO", "LHLO", "QUIT", "STARTTLS", "close", "connect", "login",
        "refused", "reply", "tls", "turned", "garbage",
    ];
    OF_SESSION.contains(&entry.event.as_str())
}

/// Two runs may give a number twice, hardly to one address.
fn session(entry: &Entry) -> String {
    format!("{} {}", entry.session, entry.client_ip)
}

/// The address in `FROM:<…>` and `TO:<…>`.
fn path(argument: &str) -> &str {
    let inside = argument.split_once('<').map(|(_, behind)| behind);
    inside
        .and_then(|behind| behind.rsplit_once('>'))
        .map_or("", |(path, _)| path)
}

fn bare(text: &str) -> &str {
    let inside = text
        .strip_prefix('<')
        .and_then(|text| text.strip_suffix('>'));
    inside.unwrap_or(text)
}

/// Fields of a file with a header that a trace cannot do without. Message and delivery may both be in one.
fn missing(fields: &[Option<Field>]) -> impl Iterator<Item = &'static str> {
    const NEEDED: [Field; 6] = [
        Field::Date,
        Field::Time,
        Field::Session,
        Field::Transaction,
        Field::Method,
        Field::UriQuery,
    ];
    let has = |field: Field| fields.contains(&Some(field));
    let has_ids = has(Field::UriStem) || (has(Field::QueueId) && has(Field::DeliveryId));
    let ids = (!has_ids).then_some([Field::QueueId, Field::DeliveryId]);
    let needed = NEEDED.into_iter().chain(ids.into_iter().flatten());
    let is_header = !fields.is_empty();
    let lacking: Vec<_> = needed.filter(|field| is_header && !has(*field)).collect();
    lacking.into_iter().map(Field::name)
}

fn or_none<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}
