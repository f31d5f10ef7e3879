//! Brings a backup back into an empty queue.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, Row};
use serde::Serialize;

use super::super::body::Digest;
use super::super::id::QueueId;
use super::super::spool::{spool_directories, spool_path};
use super::super::sqlite::{SPOOLED, renew};
use super::super::{lock, make_directories};
use super::copying::{check, copy_synced, open_still, put, say, spooled};
use super::manifest::{DATABASE, Manifest, SPOOL, sync};
use super::{BackupError, Phase, Progress};

/// Messages between two words about them.
const MESSAGES_A_STEP: u64 = 256;

/// What was brought back.
#[derive(Clone, Debug, Serialize)]
pub struct Restored {
    /// What the backup says of itself.
    #[serde(flatten)]
    pub manifest: Manifest,
    /// Messages that came back with content that nobody wrote.
    pub damaged: Vec<Damaged>,
}

/// A message whose content in the backup is not what was accepted.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Damaged {
    /// The message.
    pub id: QueueId,
    /// What is wrong.
    pub reason: String,
}

/// Puts the backup in `from` in the place of the queue in `data_dir`, which must be empty and not in use. The
/// backup is checked first, and stays as it is.
///
/// # Errors
/// [`BackupError`]; then the queue is as before, or may be restored once more.
pub fn restore(
    data_dir: &Path,
    from: &Path,
    watch: &mut dyn FnMut(Progress) -> bool,
) -> Result<Restored, BackupError> {
    let manifest = Manifest::read(from)?;
    let source = from.join(DATABASE);
    let backup = open_still(&source)?;
    check(&backup, &source, watch)?;
    let files = spooled(&backup).map_err(BackupError::sqlite(&source))?;
    let damaged = read_contents(&backup, from, watch)?;
    drop(backup);

    make_directories(data_dir)?;
    let _lock = lock(&data_dir.join("queue.lock"))?;
    let database = data_dir.join(DATABASE);
    refuse_mail(&database)?;
    let spool = data_dir.join(SPOOL);
    refuse_contents(&spool, &files)?;
    for path in spool_directories(&spool) {
        let made = fs::create_dir(&path).or_else(there_already);
        made.map_err(BackupError::io(&path))?;
    }
    for (id, _) in &files {
        let to = spool_path(&spool, *id);
        // Left behind by the queue that was lost, or by a restore that was broken off.
        fs::remove_file(&to)
            .or_else(not_there)
            .map_err(BackupError::io(&to))?;
        put(&spool_path(&from.join(SPOOL), *id), &to)?;
    }
    for path in spool_directories(&spool).chain([spool.clone()]) {
        sync(&path).map_err(BackupError::io(&path))?;
    }
    take_place(&source, &database, data_dir)?;
    Ok(Restored { manifest, damaged })
}

/// Reads the content of every message. A file that is missing or of another length was lost on the way here, and may
/// be whole elsewhere; content that has changed may have been so in the queue already, and is better than none.
fn read_contents(
    backup: &Connection,
    from: &Path,
    watch: &mut dyn FnMut(Progress) -> bool,
) -> Result<Vec<Damaged>, BackupError> {
    let source = from.join(DATABASE);
    let failed = || BackupError::sqlite(&source);
    let total = backup.query_row("SELECT count(*) FROM message", [], |row| row.get(0));
    let total = total.map(i64::cast_unsigned).map_err(failed())?;
    let query = "SELECT key, size, flags & ?1 != 0, checksum, content
         FROM message LEFT JOIN body ON body.message = message.key ORDER BY key";
    let mut statement = backup.prepare(query).map_err(failed())?;
    let mut rows = statement.query([SPOOLED]).map_err(failed())?;
    let (mut done, mut damaged) = (0, Vec::new());
    while let Some(row) = rows.next().map_err(failed())? {
        if done % MESSAGES_A_STEP == 0 {
            say(watch, Phase::Messages, done, total)?;
        }
        done += 1;
        let message = Message::of(row).map_err(failed())?;
        let found = match message.is_spooled {
            true => Some(message.digest_file(&from.join(SPOOL))?),
            false => message.database,
        };
        let reason = match found {
            Some(found) if found.size == message.size => {
                let is_same = message.checksum.is_none_or(|sum| sum == found.checksum());
                (!is_same).then_some("its content is not what was accepted (checksum)")
            }
            _ => Some("its content is not whole"),
        };
        damaged.extend(reason.map(|reason| Damaged {
            id: message.id,
            reason: reason.to_owned(),
        }));
    }
    Ok(damaged)
}

/// What a backup says of the content of a message.
struct Message {
    id: QueueId,
    size: u64,
    is_spooled: bool,
    checksum: Option<u32>,
    /// Of what the database has.
    database: Option<Digest>,
}

impl Message {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        let content = row.get_ref(4)?.as_blob_or_null()?;
        Ok(Self {
            id: QueueId(row.get(0)?),
            size: row.get::<_, i64>(1)?.cast_unsigned(),
            is_spooled: row.get(2)?,
            checksum: row.get(3)?,
            database: content.map(Digest::of),
        })
    }

    /// Of the head and the file below it.
    fn digest_file(&self, spool: &Path) -> Result<Digest, BackupError> {
        let path = spool_path(spool, self.id);
        let mut found = self.database.clone().unwrap_or_default();
        let head = found.size;
        found.add_file(&path).map_err(BackupError::io(&path))?;
        if found.size == self.size {
            return Ok(found);
        }
        let (octets, size) = (found.size - head, self.size.saturating_sub(head));
        let reason = format!("{octets} octets long, and the message says {size}");
        Err(BackupError::damaged(&path, reason))
    }
}

/// A start behind it would take contents of the queue that was there for orphans.
fn refuse_contents(spool: &Path, files: &[(QueueId, u64)]) -> Result<(), BackupError> {
    let known: HashSet<PathBuf> = files.iter().map(|(id, _)| spool_path(spool, *id)).collect();
    let found = spool_directories(spool).flat_map(fs::read_dir).flatten();
    for entry in found {
        let path = entry.map_err(BackupError::io(spool))?.path();
        if !known.contains(&path) {
            let reason = "content of a message that the backup does not have, which the next start would remove; move spool/ away first";
            return Err(BackupError::refused(&path, reason));
        }
    }
    Ok(())
}

/// An empty queue may be replaced; mail, and what cannot be read, may not.
fn refuse_mail(database: &Path) -> Result<(), BackupError> {
    if !database.exists() {
        return Ok(());
    }
    let way_out = "move it, its -wal file and spool/ away first, or salvage it";
    let messages = super::super::sqlite::open_reader(database).and_then(|queue| {
        queue.query_row("SELECT count(*) FROM message", [], |row| {
            row.get::<_, i64>(0)
        })
    });
    match messages {
        Ok(0) => Ok(()),
        Ok(messages) => {
            let reason = format!("there is mail in this queue ({messages} messages); {way_out}");
            Err(BackupError::refused(database, reason))
        }
        Err(error) => {
            let reason = format!("there is a queue that cannot be read ({error}); {way_out}");
            Err(BackupError::refused(database, reason))
        }
    }
}

/// The database comes last and in one step: before it there is an empty queue, behind it the whole one.
fn take_place(source: &Path, database: &Path, data_dir: &Path) -> Result<(), BackupError> {
    let coming = database.with_extension("db.restoring");
    copy_synced(source, &coming)?;
    renew(&coming)?;
    sync(&coming).map_err(BackupError::io(&coming))?;
    // The log of the empty queue must not be read into the new one.
    for ending in ["db-wal", "db-shm"] {
        let path = database.with_extension(ending);
        fs::remove_file(&path)
            .or_else(not_there)
            .map_err(BackupError::io(&path))?;
    }
    sync(data_dir).map_err(BackupError::io(data_dir))?;
    fs::rename(&coming, database).map_err(BackupError::io(database))?;
    sync(data_dir).map_err(BackupError::io(data_dir))
}

fn there_already(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::AlreadyExists => Ok(()),
        _ => Err(error),
    }
}

fn not_there(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    }
}
