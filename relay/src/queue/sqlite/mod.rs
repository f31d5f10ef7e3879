//! The queue on SQLite: one writer, many readers, and a keeper that moves the log into the database.

pub(super) mod candidates;
mod group;
pub(super) mod keeper;
pub(super) mod list;
pub(super) mod migrate;
mod operation;
pub(super) mod reader;
mod row;
pub(super) mod survey;
mod transaction;
pub(super) mod writer;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use atrn_shared::smtp::address::Domain;
use atrn_shared::steady::SteadyClock;
use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::envelope::{Envelope, Recipient, State};
use super::error::{OpenError, StoreError};
use super::id::{DeliveryId, DeliveryKey, IdSource, Instances, QueueId};
use super::lease::Leases;
use super::news::News;
use super::spool::Spool;

pub(super) use self::row::{SPOOLED, StoredRecipient};

/// Measured: docs/decisions/0002-queue-on-sqlite.md.
const PAGE_BYTES: i64 = 4096;
/// Of the writer, in KiB (negative: SQLite's way to say so): more than one commit ever changes.
const WRITER_CACHE: i64 = -32 * 1024;
/// The same of each reader, used as far as it is needed: a look at all of a thousand domains takes two pages of each, and
/// between two changes of the queue none is read twice.
const READER_CACHE: i64 = -12 * 1024;
/// The writer is alone, so it waits for a lock only while a log is recovered or truncated.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks whether the log is free.
const LOG_PAUSE: Duration = Duration::from_millis(5);
/// Queries at one time; more wait. A long list must not take all blocking threads.
const READERS_MAX: usize = 4;
/// Prepared statements kept by each connection; more than there are in this folder.
const STATEMENTS_MAX: usize = 64;

/// More numbers than a message can have been given since a backup of it: one for each recipient refused for good.
const NUMBERS_SKIPPED: u32 = 1_000;
/// Ids of so much time are reserved at start: a thousand for each millisecond.
const RESERVED_MILLIS: i64 = 1_000;

/// What all parts of one open store have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) database: PathBuf,
    pub(super) ids: IdSource,
    instances: Instances,
    pub(super) leases: Arc<Leases>,
    /// All waits that are stored are on it.
    pub(super) clock: SteadyClock,
    spool: Arc<Spool>,
    catalog: Arc<Mutex<Catalog>>,
    readers: Mutex<Vec<Connection>>,
    permits: Semaphore,
    /// How often the writer has opened the database again: who holds a view of it for long must then let it go.
    reopened: AtomicU64,
}

/// What the database says about domains, kept in memory too. The writer changes it after each commit.
#[derive(Clone, Debug, Default)]
pub(super) struct Catalog {
    pub(super) keys: HashMap<Domain, i64>,
    pub(super) names: HashMap<i64, Domain>,
    pub(super) totals: HashMap<(i64, State), Amount>,
}

/// A number of deliveries and the octets of their messages.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Amount {
    pub(super) deliveries: i64,
    pub(super) octets: i64,
}

impl Shared {
    pub(super) fn load(
        connection: &Connection,
        database: PathBuf,
        spool: Spool,
    ) -> Result<Self, OpenError> {
        let sqlite = |error| OpenError::sqlite(&database, error);
        let instances = row::instances(connection).map_err(sqlite)?;
        let mark = QueueId(row::setting(connection, "mark").map_err(sqlite)?);
        let catalog = Arc::new(Mutex::new(Catalog::load(connection, &database)?));
        let news = Arc::new(News::new(Arc::clone(&catalog)));
        let wall = Timestamp::now();
        let clock = match row::clock_mark(connection).map_err(sqlite)? {
            Some(mark) => SteadyClock::resume(mark, wall),
            None => SteadyClock::begin(wall),
        };
        Ok(Self {
            ids: IdSource::after(mark),
            instances,
            leases: Arc::new(Leases::new(news)),
            clock,
            spool: Arc::new(spool),
            catalog,
            readers: Mutex::default(),
            permits: Semaphore::new(READERS_MAX),
            reopened: AtomicU64::new(0),
            database,
        })
    }

    /// Moves the mark beyond the ids that this run gives before its first message is accepted.
    ///
    /// After a restart ids run ahead of the clock. One that was given to content whose message was never accepted must
    /// not be given again by the next run: its file may be there, and it is swept only if it is older than that run.
    /// On a full disk it cannot be written; mail must go out all the same.
    pub(super) fn reserve_ids(&self, connection: &Connection) {
        let ahead = self.ids.next(Timestamp::now()).later(RESERVED_MILLIS);
        let update = "UPDATE setting SET value = max(value, ?1) WHERE name = 'mark'";
        if let Err(error) = connection.execute(update, [ahead.0]) {
            tracing::warn!(%error, "cannot reserve ids");
        }
    }

    /// Opens the database again for the writer. The log can be begun anew only when nobody reads it.
    pub(super) fn reopen(&self) -> rusqlite::Result<Connection> {
        self.reopened.fetch_add(1, Ordering::Relaxed);
        reopen_writer(&self.database)
    }

    pub(super) fn times_reopened(&self) -> u64 {
        self.reopened.load(Ordering::Relaxed)
    }

    pub(super) fn spool(&self) -> &Arc<Spool> {
        &self.spool
    }

    pub(super) fn catalog(&self) -> MutexGuard<'_, Catalog> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn delivery_id(&self, key: DeliveryKey) -> DeliveryId {
        let instance = self.instances.of(key.message);
        DeliveryId { key, instance }
    }

    /// Runs a query on a connection of its own, away from the runtime's workers.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        query: impl FnOnce(&Self, &Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let _permit = self
            .permits
            .acquire()
            .await
            .map_err(|_| StoreError::Closed)?;
        let shared = Arc::clone(self);
        let answer = spawn_blocking(move || {
            let connection = shared.reader()?;
            let answer = query(&shared, &connection);
            // One that failed may be part of the trouble: the next query opens a fresh one.
            if answer.is_ok() {
                shared.idle_readers().push(connection);
            }
            answer
        });
        answer.await.map_err(|_| StoreError::Closed)?
    }

    pub(super) async fn inline_content(
        self: &Arc<Self>,
        message: QueueId,
    ) -> Result<Bytes, StoreError> {
        let content = self.read(move |_, connection| reader::inline(connection, message));
        let missing = || StoreError::Damaged(format!("no content of {message}"));
        content.await?.ok_or_else(missing)
    }

    /// What the database has of content that is in a file. Content of an earlier version has no head.
    pub(super) async fn head_of_content(
        self: &Arc<Self>,
        message: QueueId,
    ) -> Result<Bytes, StoreError> {
        let head = self.read(move |_, connection| reader::inline(connection, message));
        Ok(head.await?.unwrap_or_default())
    }

    /// Connections are closed with the store, not with the last lease: the log goes with the last one.
    pub(super) fn close_readers(&self) {
        self.permits.close();
        self.idle_readers().clear();
    }

    fn reader(&self) -> Result<Connection, StoreError> {
        if let Some(connection) = self.idle_readers().pop() {
            return Ok(connection);
        }
        open_reader(&self.database).map_err(|error| StoreError::sqlite("open for reading", error))
    }

    fn idle_readers(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Catalog {
    fn load(connection: &Connection, path: &Path) -> Result<Self, OpenError> {
        let sqlite = |error| OpenError::sqlite(path, error);
        let mut catalog = Self::default();
        for (key, name) in row::domains(connection).map_err(sqlite)? {
            let domain = Domain::parse(&name)
                .map_err(|error| OpenError::damaged(path, format!("domain {name:?}: {error}")))?;
            catalog.add(domain, key);
        }
        for (domain, code, amount) in row::totals(connection).map_err(sqlite)? {
            let state = State::from_code(code)
                .ok_or_else(|| OpenError::damaged(path, format!("unknown state {code}")))?;
            catalog.totals.insert((domain, state), amount);
        }
        Ok(catalog)
    }

    pub(super) fn add(&mut self, domain: Domain, key: i64) {
        self.names.insert(key, domain.clone());
        self.keys.insert(domain, key);
    }

    pub(super) fn amount(&self, domain: i64, state: State) -> Amount {
        self.totals
            .get(&(domain, state))
            .copied()
            .unwrap_or_default()
    }

    /// The keys of those domains that ever had mail.
    pub(super) fn keys_of<'a>(&self, domains: impl IntoIterator<Item = &'a Domain>) -> Vec<i64> {
        let keys = domains.into_iter();
        let keys = keys.filter_map(|domain| self.keys.get(domain).copied());
        let mut keys: Vec<i64> = keys.collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

/// Opens the database for the writer, makes it if need be, and verifies that commits are durable.
pub(super) fn open_writer(path: &Path) -> Result<Connection, OpenError> {
    let sqlite = |error| OpenError::sqlite(path, error);
    let mut connection = connect(path).map_err(sqlite)?;
    migrate::examine(&connection, path)?;
    connection
        .pragma_update(None, "page_size", PAGE_BYTES)
        .map_err(sqlite)?;
    configure_writer(&connection).map_err(sqlite)?;
    migrate::migrate(&mut connection, path)?;
    migrate::check(&connection, path)?;
    // A process that was killed right after a failed fsync leaves pages behind that are not what the disk has (see
    // `reopen_writer`). Whoever has the log in use has kept it from being read anew, and with it those pages. On a full
    // disk there may be no room; mail must go out all the same.
    if let Err(error) = begin_log_anew(&connection) {
        tracing::warn!(%error, "cannot write the log into the database");
    }
    Ok(connection)
}

/// Has a copy of a queue go on under a new instance, and under delivery numbers that the queue has not given meanwhile.
/// What is in it keeps its ids. Not durable, and not to be used if it fails: the caller syncs the file.
pub(super) fn renew(path: &Path) -> Result<(), OpenError> {
    let sqlite = |error| OpenError::sqlite(path, error);
    let mut connection = connect(path).map_err(sqlite)?;
    migrate::examine(&connection, path)?;
    // No journal beside it that a later copy of this name would be rolled back with.
    connection
        .query_row("PRAGMA journal_mode = MEMORY", [], |_| Ok(()))
        .and_then(|()| connection.pragma_update(None, "synchronous", "OFF"))
        .map_err(sqlite)?;
    migrate::migrate(&mut connection, path)?;
    let renewed = connection.execute_batch(&format!(
        "BEGIN;
         -- One that is there already stays: no id was given since.
         INSERT OR IGNORE INTO former_instance (until, instance)
             SELECT mark.value, instance.value FROM setting mark, setting instance
             WHERE mark.name = 'mark' AND instance.name = 'instance';
         UPDATE setting SET value = abs(random() % 1073741824) WHERE name = 'instance';
         UPDATE message SET next_number = next_number + {NUMBERS_SKIPPED};
         COMMIT;"
    ));
    renewed.map_err(sqlite)
}

/// Opens the database again after a commit failed, in a state that may be trusted.
///
/// After a failed fsync the kernel may call pages clean that never reached the disk. The log must
/// not go on behind such pages: a later power failure would cut it there, and acknowledged mail
/// behind the cut would be lost. So the log is written into the database and begun anew.
pub(super) fn reopen_writer(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect(path)?;
    configure_writer(&connection)?;
    // For readers SQLite waits by itself; not for the keeper, when that is writing the log just now.
    let end = Instant::now() + BUSY_TIMEOUT;
    while !begin_log_anew(&connection)? {
        if Instant::now() >= end {
            let text = "the log is in use and cannot be begun anew".to_owned();
            return Err(failure(rusqlite::ffi::SQLITE_BUSY, text));
        }
        std::thread::sleep(LOG_PAUSE);
    }
    Ok(connection)
}

/// Writes the log into the database, syncs that, and empties the log; not while somebody reads it.
fn begin_log_anew(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
        Ok(row.get::<_, i64>(0)? == 0)
    })
}

pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect(path)?;
    connection.pragma_update(None, "query_only", true)?;
    connection.pragma_update(None, "cache_size", READER_CACHE)?;
    Ok(connection)
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(connection)
}

fn configure_writer(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // The keeper does it from its own connection, so that no accept waits for it.
    connection.query_row("PRAGMA wal_autocheckpoint = 0", [], |_| Ok(()))?;
    connection.pragma_update(None, "cache_size", WRITER_CACHE)?;
    // A setting that did not take would break the promise behind every `250`, silently.
    let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
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

/// Runs several queries in one view of the database, which costs less than a view for each.
pub(super) fn in_one_view<T>(
    connection: &Connection,
    queries: impl FnOnce() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let run = |statement| -> Result<(), StoreError> {
        let done = connection
            .prepare_cached(statement)
            .and_then(|mut statement| statement.execute([]));
        done.map(drop).map_err(reader::failed)
    };
    run("BEGIN")?;
    // After an error the connection is closed, and the view with it.
    let answer = queries()?;
    run("COMMIT")?;
    Ok(answer)
}

/// Each domain of an envelope with its recipients as a delivery keeps them, in the order of RCPT.
pub(super) fn by_domain(recipients: &[Recipient]) -> Vec<(Domain, String)> {
    let mut groups: Vec<(&Domain, Vec<StoredRecipient>)> = Vec::new();
    for recipient in recipients {
        let stored = StoredRecipient::from(recipient);
        match groups
            .iter_mut()
            .find(|(domain, _)| *domain == &recipient.domain)
        {
            Some((_, group)) => group.push(stored),
            None => groups.push((&recipient.domain, vec![stored])),
        }
    }
    let groups = groups.into_iter();
    groups
        .map(|(domain, group)| (domain.clone(), row::json(&group)))
        .collect()
}

pub(super) fn flags(envelope: &Envelope) -> i64 {
    let flags = [
        (envelope.eight_bit, row::EIGHT_BIT),
        (envelope.needs_smtputf8, row::NEEDS_SMTPUTF8),
        (envelope.is_report, row::REPORT),
        (envelope.sender_verified, row::SENDER_VERIFIED),
    ];
    let set = flags.iter().filter(|(is_set, _)| *is_set);
    set.map(|(_, flag)| flag).sum()
}

/// Whether a message has a row.
pub(super) fn exists(connection: &Connection, message: QueueId) -> rusqlite::Result<bool> {
    let mut statement = connection.prepare_cached("SELECT 1 FROM message WHERE key = ?1")?;
    let found = statement.query_row([message.0], |_| Ok(())).optional()?;
    Ok(found.is_some())
}
