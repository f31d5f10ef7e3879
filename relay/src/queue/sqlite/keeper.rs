//! The keeper: a thread that writes the log into the database beside the writer, removes content
//! files that are no longer named, and at start sweeps those that never were.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::super::id::QueueId;
use super::writer::Writer;
use super::{Shared, connect, exists};

/// How often the log is looked at. It bounds what a start after a crash has to read again.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(500);
/// How often the clock is stored: so much of a wait is believed to the wall clock after a crash.
const CLOCK_EVERY: Duration = Duration::from_secs(60);
/// Pages in the log from which on it should begin anew: 64 MiB.
const LOG_PAGES_MAX: i64 = 16 * 1024;
/// So few pages the writer may write itself: some milliseconds.
const REST_PAGES_MAX: i64 = 1024;
/// Rounds in which the keeper may try to catch up with the writer before it looks at its chores.
const ROUNDS_MAX: usize = 8;
/// Chores that may wait; when there are more, who has one does it himself.
const CHORES_MAX: usize = 4096;

/// What others leave to the keeper.
#[derive(Debug)]
pub(in super::super) enum Chore {
    Remove(QueueId),
    Stop,
}

pub(in super::super) type Chores = Receiver<Chore>;

/// The way to the keeper; it exists before the thread does.
pub(in super::super) fn chores() -> (SyncSender<Chore>, Chores) {
    sync_channel(CHORES_MAX)
}

pub(in super::super) fn start(
    shared: Arc<Shared>,
    writer: Writer,
    chores: Chores,
) -> io::Result<JoinHandle<()>> {
    // Ids of this run are greater, so files that are being written now are never taken for orphans.
    let start = shared.ids.next(jiff::Timestamp::now());
    let connection = connect(&shared.database).map_err(io::Error::other)?;
    let builder = std::thread::Builder::new().name("queue-keeper".to_owned());
    builder.spawn(move || {
        if let Err(error) = sweep(&shared, &connection, start) {
            tracing::error!(%error, "cannot sweep the spool directory");
        }
        run(&shared, &connection, &writer, &chores);
    })
}

fn run(shared: &Shared, connection: &Connection, writer: &Writer, chores: &Chores) {
    let mut due = Instant::now() + CHECKPOINT_EVERY;
    // The first mark at once: a run that is killed within a minute has begun its clock all the same.
    let mut clock_due = Instant::now();
    loop {
        match chores.recv_timeout(due.saturating_duration_since(Instant::now())) {
            Ok(Chore::Remove(id)) => shared.spool().remove(id),
            Ok(Chore::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if Instant::now() >= due {
            writer.try_owed_again();
            if Instant::now() >= clock_due {
                writer.mark_clock(shared.clock.mark(jiff::Timestamp::now()));
                clock_due = Instant::now() + CLOCK_EVERY;
            }
            if let Err(error) = checkpoint(connection, writer) {
                tracing::warn!(%error, "cannot write the log into the database");
            }
            due = Instant::now() + CHECKPOINT_EVERY;
        }
    }
}

/// Writes what is committed into the database, without making the writer wait.
///
/// SQLite begins the log anew only in a moment when all of it is written and nobody reads it, which
/// under load never comes by itself: the writer is always a step ahead. So once the log is long, the
/// keeper catches up until little is left, and lets the writer do that little between two commits.
fn checkpoint(connection: &Connection, writer: &Writer) -> rusqlite::Result<()> {
    for _ in 0..ROUNDS_MAX {
        let (pages, written) =
            connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
                Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
            })?;
        if pages < LOG_PAGES_MAX {
            return Ok(());
        }
        if pages - written < REST_PAGES_MAX {
            writer.checkpoint();
            return Ok(());
        }
    }
    Ok(())
}

/// Removes files of messages that have no row: their session or the whole program ended too early.
fn sweep(shared: &Shared, connection: &Connection, start: QueueId) -> io::Result<()> {
    let mut swept = 0;
    for directory in shared.spool().directories() {
        swept += sweep_directory(&directory, shared, connection, start)?;
    }
    if swept > 0 {
        tracing::info!(files = swept, "removed content files without a message");
    }
    Ok(())
}

fn sweep_directory(
    directory: &Path,
    shared: &Shared,
    connection: &Connection,
    start: QueueId,
) -> io::Result<usize> {
    let mut swept = 0;
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        // A file that is not named as ours are is not ours to remove.
        let id = name.to_str().and_then(|name| name.parse().ok());
        let Some(id) = id.filter(|id: &QueueId| *id < start) else {
            continue;
        };
        if !exists(connection, id).map_err(io::Error::other)? {
            shared.spool().remove(id);
            swept += 1;
        }
    }
    Ok(swept)
}
