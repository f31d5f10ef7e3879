//! What can still be read of a damaged queue, as a backup that can be restored.
//!
//! The damaged files are never written to: everything happens on a copy. Each message is looked up by its key, so
//! one that cannot be read costs itself and no other. Keys come from every tree that has them (messages, deliveries
//! and their index, contents) by a walk that hops over what is damaged, and from the names of the content files.
//! What comes out keeps its ids, states, delivery numbers and the store's part of the delivery ids, so that the
//! journals of the pullers still know what they have taken. Content that cannot be placed any more is kept beside it.

mod message;
mod scan;
mod source;
mod target;
mod unread;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::Serialize;

use super::backup::{BackupError, Manifest, Progress};
use super::id::QueueId;
use super::spool::spool_directories;

use self::message::{Read, Reader};
use self::source::Source;
use self::target::Target;
use self::unread::Unread;

const REPORT: &str = "salvage.txt";
/// Ids have 55 bits; anything else in a tree of keys is damage.
const KEY_MAX: i64 = (1 << 55) - 1;
/// Messages between two words about them.
const MESSAGES_A_STEP: u64 = 256;

/// What came out, and what did not.
#[derive(Clone, Debug, Serialize)]
pub struct Salvaged {
    /// Of the backup that was made.
    #[serde(flatten)]
    pub manifest: Manifest,
    /// What the operator should know of the whole.
    pub notes: Vec<String>,
    /// Messages and deliveries that could not be read, or of which a part could not.
    pub unreadable: Vec<Unreadable>,
}

/// Something that is lost.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Unreadable {
    /// The message.
    pub id: QueueId,
    /// What of it could not be read, and why.
    pub reason: String,
    /// Its reverse-path, where that can be read; empty: the null reverse-path.
    pub sender: Option<String>,
    /// Those who do not get it from what came out, where they can be read.
    pub recipients: Vec<String>,
    /// Where in the directory its content is, as it was found.
    pub content: Option<String>,
}

/// Copies what can be read of the queue in `data_dir` into `directory`, which must be empty or not exist yet. No relay
/// may be running on it.
///
/// # Errors
/// [`BackupError`], when nothing at all can be read, or the copy cannot be written.
pub fn salvage(
    data_dir: &Path,
    directory: &Path,
    watch: &mut dyn FnMut(Progress) -> bool,
) -> Result<Salvaged, BackupError> {
    let source = Source::open(data_dir, directory)?;
    let mut notes = source.notes.clone();
    let mut target = Target::create(directory)?;
    let settings = source.settings(&mut notes);
    let domains = source.domains(&mut notes);
    let spool = data_dir.join("spool");
    let (keys, holes) = keys(
        &source,
        &domains.keys().copied().collect::<Vec<_>>(),
        &spool,
    );
    if holes > 0 {
        let were = if holes == 1 { "was" } else { "were" };
        let places = counted(holes, "damaged place", "damaged places");
        notes.push(format!(
            "{places} in the trees of the database {were} hopped over"
        ));
    }
    let reader = Reader {
        connection: &source.connection,
        domains: &domains,
        spool: &spool,
    };
    let mut unreadable = Vec::new();
    let mut unread = Unread::inside(directory);
    let total = keys.len() as u64;
    for (done, key) in (0..).zip(&keys) {
        if done % MESSAGES_A_STEP == 0 {
            target.progress(watch, done, total)?;
        }
        let id = QueueId(*key);
        let read = reader.read(id);
        if let Some(message) = &read.message {
            target.add(message, &spool)?;
        }
        unreadable.extend(name_lost(id, read, &reader, &mut unread)?);
    }
    unread.finish()?;
    let newest = keys.last().copied().unwrap_or(0);
    source.remove()?;
    let manifest = target.finish(directory, settings, newest, watch, |manifest| {
        let salvaged = Salvaged {
            manifest: manifest.clone(),
            notes: notes.clone(),
            unreadable: unreadable.clone(),
        };
        let path = directory.join(REPORT);
        fs::write(&path, salvaged.to_string()).map_err(BackupError::io(&path))
    })?;
    Ok(Salvaged {
        manifest,
        notes,
        unreadable,
    })
}

/// Keeps the content of a message that is not whole, and says what is known of it.
fn name_lost(
    id: QueueId,
    read: Read,
    reader: &Reader<'_>,
    unread: &mut Unread,
) -> Result<Vec<Unreadable>, BackupError> {
    if read.lost.is_empty() {
        return Ok(Vec::new());
    }
    // One that cannot be read at all is named as lost already.
    let content = match reader.left_of_content(id) {
        Ok(Some(left)) => Some(unread.keep(id, &left)?),
        Ok(None) | Err(_) => None,
    };
    let lost = read.lost.into_iter();
    let lost = lost.map(|lost| Unreadable {
        id,
        reason: lost.reason,
        sender: read.sender.clone(),
        recipients: lost.recipients,
        content: content.clone(),
    });
    Ok(lost.collect())
}

/// Every key that anything in the database or the spool directory names, and the number of damaged places.
fn keys(source: &Source, domains: &[i64], spool: &Path) -> (BTreeSet<i64>, u64) {
    let mut keys = BTreeSet::new();
    let mut holes = 0;
    for query in scan::TREES {
        holes += scan::walk(&source.connection, query, &[], &mut keys);
    }
    for domain in domains {
        for state in 0..5 {
            holes += scan::walk(
                &source.connection,
                scan::ORDER,
                &[*domain, state],
                &mut keys,
            );
        }
    }
    for directory in spool_directories(spool) {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name());
        keys.extend(
            names
                .filter_map(|name| name.to_str()?.parse::<QueueId>().ok())
                .map(|id| id.0),
        );
    }
    keys.retain(|key| (1..=KEY_MAX).contains(key));
    (keys, holes)
}

impl std::fmt::Display for Salvaged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Manifest {
            messages,
            deliveries,
            files,
            ..
        } = &self.manifest;
        writeln!(
            f,
            "Read: {} with {} and {}.",
            counted(*messages, "message", "messages"),
            counted(*deliveries, "delivery", "deliveries"),
            counted(*files, "content file", "content files"),
        )?;
        for note in &self.notes {
            writeln!(f, "Note: {note}.")?;
        }
        if self.unreadable.is_empty() {
            return writeln!(f, "Nothing that the queue names is missing.");
        }
        writeln!(f, "What could not be read:")?;
        for lost in &self.unreadable {
            writeln!(f, "{lost}")?;
        }
        Ok(())
    }
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let address = |address: &String| format!("<{}>", address.escape_debug());
        write!(f, "{}: {}", self.id, self.reason)?;
        if let Some(sender) = &self.sender {
            write!(f, "; from {}", address(sender))?;
        }
        if !self.recipients.is_empty() {
            let recipients: Vec<_> = self.recipients.iter().map(address).collect();
            write!(f, "; to {}", recipients.join(", "))?;
        }
        match &self.content {
            Some(path) => write!(f, "; content in {path}"),
            None => Ok(()),
        }
    }
}

fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}
