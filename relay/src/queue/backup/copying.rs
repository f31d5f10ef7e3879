//! Makes a copy of a queue that is in use.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::super::id::QueueId;
use super::super::spool::spool_path;
use super::super::sqlite::{self, Shared};
use super::manifest::{DATABASE, Manifest, ManifestKind, SPOOL, finish, prepare, sync};
use super::{BackupError, Phase, Progress};

/// Pages between two looks at whether anybody still waits: some megabytes.
const PAGES_A_STEP: i32 = 1024;
/// The database is locked for moments only, while its log begins anew.
const BUSY_PAUSE: Duration = Duration::from_millis(20);
const BUSY_MAX: u32 = 500;
/// Content files between two words about them.
const FILES_A_STEP: u64 = 64;

/// Whether to go on.
type Watch<'w> = &'w mut dyn FnMut(Progress) -> bool;

/// Copies the queue into `directory`. Blocks; writers are not in its way, nor it in theirs.
pub(in super::super) fn copy(
    shared: &Arc<Shared>,
    directory: &Path,
    watch: Watch<'_>,
) -> Result<Manifest, BackupError> {
    prepare(directory)?;
    // Before the view is taken: whatever it names is there until the copy has it.
    let kept = shared.spool().keep_all();
    let target = directory.join(DATABASE);
    database(shared, &target, watch)?;
    let copied = open_copy(&target)?;
    let counted = files(&copied, shared, directory, watch)?;
    drop(kept);
    check(&copied, &target, watch)?;
    let manifest = Manifest::of(ManifestKind::Backup, &copied, counted);
    let manifest = manifest.map_err(BackupError::sqlite(&target))?;
    finish(directory, &manifest)?;
    Ok(manifest)
}

/// The database as it is at one moment. The view is held open by a transaction that reads: SQLite would else begin
/// the copy again after each commit of the writer, and never come to an end.
fn database(shared: &Shared, target: &Path, watch: Watch<'_>) -> Result<(), BackupError> {
    let failed = BackupError::sqlite;
    let source = &shared.database;
    let reopened = shared.times_reopened();
    let from = sqlite::open_reader(source).map_err(failed(source))?;
    let view = "BEGIN; SELECT count(*) FROM setting;";
    from.execute_batch(view).map_err(failed(source))?;
    let mut to = Connection::open(target).map_err(failed(target))?;
    // Synced as a whole when all of it is there.
    to.pragma_update(None, "synchronous", "OFF")
        .map_err(failed(target))?;
    let backup = Backup::new(&from, &mut to).map_err(failed(target))?;
    let mut busy = 0;
    say(watch, Phase::Database, 0, 1)?;
    loop {
        if shared.times_reopened() != reopened {
            // The writer waits for us to begin its log anew; mail comes first.
            return Err(BackupError::refused(
                source,
                "the queue had trouble with its disk; try again",
            ));
        }
        match backup.step(PAGES_A_STEP).map_err(failed(target))? {
            StepResult::Done => break,
            StepResult::More => busy = 0,
            _ if busy == BUSY_MAX => {
                let error = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
                return Err(failed(source)(rusqlite::Error::SqliteFailure(error, None)));
            }
            _ => {
                busy += 1;
                std::thread::sleep(BUSY_PAUSE);
            }
        }
        let state = backup.progress();
        let (total, left) = (
            state.pagecount.unsigned_abs(),
            state.remaining.unsigned_abs(),
        );
        say(
            watch,
            Phase::Database,
            u64::from(total.saturating_sub(left)),
            u64::from(total),
        )?;
    }
    Ok(())
}

fn open_copy(path: &Path) -> Result<Connection, BackupError> {
    let failed = BackupError::sqlite;
    let copied = Connection::open(path).map_err(failed(path))?;
    // One file, without a log beside it.
    copied
        .query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))
        .map_err(failed(path))?;
    Ok(copied)
}

/// The files that the copied database names.
fn files(
    copied: &Connection,
    shared: &Shared,
    directory: &Path,
    watch: Watch<'_>,
) -> Result<(u64, u64), BackupError> {
    let spool = directory.join(SPOOL);
    let (mut number, mut octets) = (0, 0);
    let listed = spooled(copied).map_err(BackupError::sqlite(&directory.join(DATABASE)))?;
    let total = listed.len() as u64;
    for (id, size) in listed {
        let from = shared.spool().file(id);
        // One that is missing or short is a damaged message, which its delivery will show; the copy shows the same.
        match fs::metadata(&from) {
            Ok(found) if found.len() == size => {
                put(&from, &spool_path(&spool, id))?;
                number += 1;
                octets += size;
            }
            Ok(_) => {
                tracing::error!(path = %from.display(), "a content file has another size than its message")
            }
            Err(error) => {
                tracing::error!(path = %from.display(), %error, "a content file cannot be copied")
            }
        }
        if number % FILES_A_STEP == 0 {
            say(watch, Phase::Files, number, total)?;
        }
    }
    Ok((number, octets))
}

/// Messages whose content is a file, with its size: the head is in the database.
pub(super) fn spooled(connection: &Connection) -> rusqlite::Result<Vec<(QueueId, u64)>> {
    let query = "SELECT key, size - coalesce((SELECT length(content) FROM body WHERE body.message = key), 0)
         FROM message WHERE flags & ?1 != 0";
    let mut statement = connection.prepare(query)?;
    let rows = statement.query_map([sqlite::SPOOLED], |row| {
        Ok((QueueId(row.get(0)?), row.get::<_, i64>(1)?.cast_unsigned()))
    })?;
    rows.collect()
}

/// The same file under a second name where that can be: content files are never written again once they are
/// complete. Else a copy, synced.
pub(in super::super) fn put(from: &Path, to: &Path) -> Result<(), BackupError> {
    if fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    let copied = || -> io::Result<()> {
        fs::copy(from, to)?;
        sync(to)
    };
    copied().map_err(BackupError::io(to))
}

/// A copy that nobody has read is a hope.
pub(in super::super) fn check(
    connection: &Connection,
    path: &Path,
    watch: Watch<'_>,
) -> Result<(), BackupError> {
    say(watch, Phase::Check, 0, 1)?;
    let found: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(BackupError::sqlite(path))?;
    if found != "ok" {
        return Err(BackupError::damaged(path, found));
    }
    say(watch, Phase::Check, 1, 1)
}

/// Opens a database to read it and nothing else: not even a log is made beside it.
pub(super) fn open_still(path: &Path) -> Result<Connection, BackupError> {
    let whole: PathBuf = path.canonicalize().map_err(BackupError::io(path))?;
    let mut name = String::from("file:");
    for octet in whole.as_os_str().as_encoded_bytes() {
        match octet {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                name.push(char::from(*octet))
            }
            _ => name += &format!("%{octet:02X}"),
        }
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(name + "?immutable=1", flags).map_err(BackupError::sqlite(path))
}

pub(super) fn say(
    watch: Watch<'_>,
    phase: Phase,
    done: u64,
    total: u64,
) -> Result<(), BackupError> {
    match watch(Progress { phase, done, total }) {
        true => Ok(()),
        false => Err(BackupError::Cancelled),
    }
}

/// Copies one file, synced; for what may not be the same file.
pub(super) fn copy_synced(from: &Path, to: &Path) -> Result<(), BackupError> {
    let copied = || -> io::Result<()> {
        let mut target = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .open(to)?;
        io::copy(&mut File::open(from)?, &mut target)?;
        target.sync_all()
    };
    copied().map_err(BackupError::io(to))
}
