//! Brings a backup back into an empty queue.

use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

use super::super::body::{spool_directories, spool_path};
use super::super::sqlite::renew;
use super::super::{lock, make_directories};
use super::copying::{check, copy_synced, open_still, put, spooled};
use super::manifest::{DATABASE, Manifest, SPOOL, sync};
use super::{BackupError, Progress};

/// What was brought back.
#[derive(Clone, Debug, Serialize)]
pub struct Restored {
    /// What the backup says of itself.
    #[serde(flatten)]
    pub manifest: Manifest,
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
    for (id, size) in &files {
        let path = spool_path(&from.join(SPOOL), *id);
        let found = fs::metadata(&path).map_err(BackupError::io(&path))?;
        if found.len() != *size {
            let reason = format!("{} octets long, and the message says {size}", found.len());
            return Err(BackupError::damaged(&path, reason));
        }
    }
    drop(backup);

    make_directories(data_dir)?;
    let _lock = lock(&data_dir.join("queue.lock"))?;
    let database = data_dir.join(DATABASE);
    refuse_mail(&database)?;
    let spool = data_dir.join(SPOOL);
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
    Ok(Restored { manifest })
}

/// An empty queue may be replaced; mail, and what cannot be read, may not.
fn refuse_mail(database: &Path) -> Result<(), BackupError> {
    if !database.exists() {
        return Ok(());
    }
    let way_out = "move it and its -wal file away first, or salvage it";
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
