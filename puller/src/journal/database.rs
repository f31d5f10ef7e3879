//! The journal's database: made, checked, opened again after a failure; looked up and written.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use atrn_shared::smtp::parameter::DeliveryId;
use atrn_shared::steady::{Mark, Moment, SteadyClock};
use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, params};
use rusqlite_migration::{Error, M, Migrations};
use serde::Serialize;

use super::recipient::{self, Recipient};
use super::{KEEP, OpenError};

/// "atrj" in the header of the file: opening somebody else's database must not add tables to it.
const APPLICATION_ID: i64 = 0x6174_726a;
/// Up to this size every page is checked at start; some milliseconds.
const WHOLE_CHECK_BYTES: i64 = 8 * 1024 * 1024;
/// Another process that writes or begins the log anew is done by then.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
const CHECKPOINT_PATIENCE: Duration = Duration::from_millis(20);
/// Only ever appended to.
const STEPS: &[M<'static>] = &[M::up(include_str!("schema.sql"))];
/// Both ends of the tree, and with them the way down to the leaves.
const ENDS: [&str; 2] = [
    "SELECT (SELECT min(id) FROM taken), (SELECT max(id) FROM taken)",
    "SELECT steady FROM state",
];

/// A database that was opened for writing, and what the last process left in it.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) clock: SteadyClock,
    /// Old entries were looked for up to this id.
    pub(super) pruned: String,
    /// The last id in their order, or one behind it.
    pub(super) newest: String,
}

/// What the journal says of an id that it has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Found {
    Recipients(BTreeSet<Recipient>),
    Whole,
}

/// What a journal holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Summary {
    /// Delivery ids, as far as they were counted: a process that was killed has counted a minute less.
    pub entries: u64,
    /// Of the database, without its log.
    pub octets: u64,
}

/// Opens the database, makes it if need be, and verifies that commits are durable. One process at a time.
pub(super) fn open(path: &Path) -> Result<Opened, OpenError> {
    let sqlite = |error| OpenError::sqlite(path, error);
    let mut connection = connect(path, OpenFlags::SQLITE_OPEN_CREATE).map_err(sqlite)?;
    recognise(&connection, path)?;
    configure(&connection).map_err(sqlite)?;
    migrate(&mut connection, path)?;
    check(&connection, path)?;
    // As after a failed commit: a process that was killed right behind one has left the same pages. While another
    // process reads the log, it has kept them from being read anew.
    if let Err(error) = checkpoint(&connection) {
        tracing::warn!(%error, "cannot write the log of the journal into its database");
    }
    let (mark, pruned) = connection
        .query_row("SELECT steady, wall, pruned FROM state", [], |row| {
            let (steady, wall) = (Moment::from_millis(row.get(0)?), row.get(1)?);
            Ok((Mark { steady, wall }, row.get(2)?))
        })
        .map_err(sqlite)?;
    let newest = "SELECT coalesce(max(id), '') FROM taken";
    let newest = connection
        .query_row(newest, [], |row| row.get(0))
        .map_err(sqlite)?;
    Ok(Opened {
        newest,
        connection,
        clock: SteadyClock::resume(mark, Timestamp::now()),
        pruned,
    })
}

/// Opens it again after a commit failed, in a state that may be trusted.
///
/// After a failed fsync the kernel may call pages clean that never reached the disk. The log must not go on behind
/// such pages: a later power failure would cut it there, and entries behind the cut would be lost. So the log is
/// written into the database and begun anew.
pub(super) fn reopen(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect(path, OpenFlags::empty())?;
    configure(&connection)?;
    let busy: i64 =
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if busy != 0 {
        let text = "the log is in use and cannot be begun anew".to_owned();
        return Err(failure(rusqlite::ffi::SQLITE_BUSY, text));
    }
    Ok(connection)
}

/// For look-ups.
pub(super) fn reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect(path, OpenFlags::empty())?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// What is in it, without making or migrating anything; `None` where there is none.
pub(super) fn examine(path: &Path) -> Result<Option<Summary>, OpenError> {
    if !path
        .try_exists()
        .map_err(|source| OpenError::io(path, source))?
    {
        return Ok(None);
    }
    let sqlite = |error| OpenError::sqlite(path, error);
    let connection = reader(path).map_err(sqlite)?;
    recognise(&connection, path)?;
    let tables = "SELECT count(*) FROM sqlite_schema";
    let tables: i64 = connection
        .query_row(tables, [], |row| row.get(0))
        .map_err(sqlite)?;
    if tables == 0 {
        // Somebody makes it just now.
        return Ok(None);
    }
    check(&connection, path)?;
    summary(&connection).map(Some).map_err(sqlite)
}

fn summary(connection: &Connection) -> rusqlite::Result<Summary> {
    // Kept by the writers: to count them would cost more with each.
    let known =
        "SELECT entries, page_count * page_size FROM state, pragma_page_count, pragma_page_size";
    connection.query_row(known, [], |row| {
        let number = |column| row.get::<_, i64>(column).map(i64::unsigned_abs);
        Ok(Summary {
            entries: number(0)?,
            octets: number(1)?,
        })
    })
}

fn connect(path: &Path, more: OpenFlags) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(connection)
}

/// Refuses a database that is not for us, before anything is written into it.
fn recognise(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let sqlite = |error| OpenError::sqlite(path, error);
    let number = |query| -> Result<i64, OpenError> {
        let value = connection.query_row(query, [], |row| row.get(0));
        value.map_err(sqlite)
    };
    let is_ours = number("PRAGMA application_id")? == APPLICATION_ID;
    if !is_ours && number("SELECT count(*) FROM sqlite_schema")? > 0 {
        return Err(OpenError::damaged(path, "made by another program"));
    }
    if number("PRAGMA user_version")? > STEPS.len() as i64 {
        let path = path.to_owned();
        return Err(OpenError::Newer { path });
    }
    Ok(())
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // A setting that did not take would break the promise behind every `250`, silently.
    let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    // The writer does it, so that the log begins anew: look-ups in a long one cost more.
    connection.query_row("PRAGMA wal_autocheckpoint = 0", [], |_| Ok(()))?;
    let synchronous: i64 = connection.pragma_query_value(None, "synchronous", |row| row.get(0))?;
    if mode == "wal" && synchronous == 2 {
        return Ok(());
    }
    let text =
        format!("journal_mode is {mode}, synchronous {synchronous}: not a local file system?");
    Err(failure(rusqlite::ffi::SQLITE_PROTOCOL, text))
}

fn failure(code: i32, text: String) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), Some(text))
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    let sqlite = |error| OpenError::sqlite(path, error);
    connection
        .pragma_update(None, "application_id", APPLICATION_ID)
        .map_err(sqlite)?;
    let migrated = Migrations::from_slice(STEPS).to_latest(connection);
    migrated.map_err(|error| match error {
        Error::RusqliteError { err, .. } => sqlite(err),
        other => OpenError::damaged(path, other.to_string()),
    })?;
    let mark = SteadyClock::begin(Timestamp::now()).mark(Timestamp::now());
    let first = "INSERT OR IGNORE INTO state (key, steady, wall, entries, pruned) VALUES (1, ?1, ?2, 0, '')";
    let begun = connection.execute(first, params![mark.steady.millis(), mark.wall]);
    begun.map(drop).map_err(sqlite)
}

/// Refuses what is visibly damaged; nothing is repaired.
fn check(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let damaged = |error: rusqlite::Error| match error.sqlite_error_code() {
        Some(ErrorCode::Unknown) | None => OpenError::damaged(path, error.to_string()),
        Some(_) => OpenError::sqlite(path, error),
    };
    for query in ENDS {
        connection
            .query_row(query, [], |_| Ok(()))
            .map_err(damaged)?;
    }
    let size = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
    let size: i64 = connection
        .query_row(size, [], |row| row.get(0))
        .map_err(damaged)?;
    if size > WHOLE_CHECK_BYTES {
        return Ok(());
    }
    let found: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(damaged)?;
    match found.as_str() {
        "ok" => Ok(()),
        found => Err(OpenError::damaged(path, found)),
    }
}

/// What is known of an id.
pub(super) fn find(connection: &Connection, id: &str) -> rusqlite::Result<Option<Found>> {
    let mut statement = connection.prepare_cached("SELECT recipients FROM taken WHERE id = ?1")?;
    let found = statement.query_row([id], |row| row.get::<_, Option<Vec<u8>>>(0));
    let Some(recipients) = found.optional()? else {
        return Ok(None);
    };
    let Some(octets) = recipients else {
        return Ok(Some(Found::Whole));
    };
    let recipients = recipient::read(&octets).ok_or_else(|| {
        let text = "recipients that were cut short".to_owned();
        failure(rusqlite::ffi::SQLITE_CORRUPT, text)
    })?;
    Ok(Some(Found::Recipients(recipients)))
}

/// A transaction on the journal.
pub(super) struct Change<'c> {
    connection: &'c Connection,
    now: Moment,
}

impl<'c> Change<'c> {
    pub(super) fn begin(connection: &'c Connection, now: Moment) -> rusqlite::Result<Self> {
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        Ok(Self { connection, now })
    }

    pub(super) fn add(
        &self,
        id: &DeliveryId,
        recipients: Option<&BTreeSet<Recipient>>,
    ) -> rusqlite::Result<()> {
        let recipients = recipients.map(recipient::written);
        let add = "INSERT OR REPLACE INTO taken (id, at, recipients) VALUES (?1, ?2, ?3)";
        let mut statement = self.connection.prepare_cached(add)?;
        statement.execute(params![id.as_str(), self.now.millis(), recipients])?;
        Ok(())
    }

    /// Looks at so many entries behind the one where it stopped the last time, and removes those that are old; how
    /// many it was, and where it stops now.
    pub(super) fn prune(&self, behind: &str, at_most: usize) -> rusqlite::Result<(usize, String)> {
        let last = "SELECT max(id) FROM (SELECT id FROM taken WHERE id > ?1 ORDER BY id LIMIT ?2)";
        let mut statement = self.connection.prepare_cached(last)?;
        let last: Option<String> =
            statement.query_row(params![behind, at_most as i64], |row| row.get(0))?;
        let Some(last) = last else {
            return Ok((0, String::new()));
        };
        let remove = "DELETE FROM taken WHERE id > ?1 AND id <= ?2 AND at < ?3";
        let mut statement = self.connection.prepare_cached(remove)?;
        let old = self.now.before(KEEP).millis();
        let removed = statement.execute(params![behind, last, old])?;
        Ok((removed, last))
    }

    /// Leaves to the next process what it must know. The clock is that of several processes, and never goes back.
    pub(super) fn leave(&self, mark: Mark, more: i64, pruned: &str) -> rusqlite::Result<()> {
        let set = "UPDATE state SET steady = max(steady, ?1), wall = ?2, entries = max(entries + ?3, 0), pruned = ?4";
        let mut statement = self.connection.prepare_cached(set)?;
        statement.execute(params![mark.steady.millis(), mark.wall, more, pruned])?;
        Ok(())
    }

    pub(super) fn commit(self) -> rusqlite::Result<()> {
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }
}

/// Writes the log into the database and begins it anew. Others may be at it: then it is done another time.
pub(super) fn checkpoint(connection: &Connection) -> rusqlite::Result<()> {
    // Commits wait behind this, so it waits for nobody long: look-ups are done in microseconds.
    connection.busy_timeout(CHECKPOINT_PATIENCE)?;
    let done = connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()));
    connection.busy_timeout(BUSY_TIMEOUT)?;
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_migrations_hold_together() {
        assert_eq!(Migrations::from_slice(STEPS).validate(), Ok(()));
    }
}
