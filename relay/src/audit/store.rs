//! The thread that owns the database: takes what comes, sums it up, writes it a few times a second.
//!
//! Its commits are not synced: a power cut may lose the last of them, and mail is not held up by any. Every table has a
//! bound; where it is reached, what was seen least often goes first, and of that the oldest. So a flood of made-up names
//! drives out other names that were tried once, and not those that somebody is after.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use atrn_shared::sasl::Mechanism;
use aws_lc_rs::rand;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use rusqlite_migration::{M, Migrations};
use tracing::{info, warn};

use super::batch::{Batch, Sum};
use super::{Network, Remembered};

/// An entry on its way.
#[derive(Debug)]
pub(super) enum Note {
    Failed {
        name: String,
        address: IpAddr,
        mechanism: Mechanism,
    },
    Refused {
        service: &'static str,
        reason: &'static str,
        network: Network,
    },
    LoggedIn {
        account: String,
        address: IpAddr,
    },
    Locked {
        name: String,
        until: Timestamp,
    },
    /// Write what there is, and answer.
    Flush(SyncSender<()>),
}

/// How long entries are gathered before they are written.
const GATHER: Duration = Duration::from_millis(250);
/// After a write that failed.
const RETRY: Duration = Duration::from_secs(30);
/// A login vouches for its network so long.
const LOGIN_DAYS: i64 = 90;
/// "aaud" in the header of the file.
const APPLICATION_ID: i64 = 0x6161_7564;
/// Only ever appended to.
const STEPS: &[M<'static>] = &[M::up(include_str!("schema.sql"))];

/// The bounds are looked at after so many new rows at most: counting takes time.
const BOUNDS_LOOK: usize = 1_000;

/// What a table holds at most, and who goes first.
#[derive(Clone, Copy)]
struct Bound {
    table: &'static str,
    rows: i64,
    key: &'static str,
    order: &'static str,
}

/// Together some 30 MB.
const BOUNDS: [Bound; 4] = [
    Bound {
        table: "name",
        rows: 50_000,
        key: "key",
        order: "tries, last",
    },
    Bound {
        table: "attempt",
        rows: 100_000,
        key: "name, address",
        order: "tries, last",
    },
    Bound {
        table: "refusal",
        rows: 50_000,
        key: "service, reason, network",
        order: "times, last",
    },
    Bound {
        table: "login",
        rows: 10_000,
        key: "account, network",
        order: "last",
    },
];

/// Opens the database, reads what an earlier run left, and starts the thread.
pub(super) fn start(path: PathBuf, inbox: Receiver<Note>, lost: Arc<AtomicU64>) -> Remembered {
    let opened = open_or_begin_anew(&path);
    let (connection, remembered) = match opened {
        Ok((connection, remembered)) => (Some(connection), remembered),
        Err(error) => {
            warn!(path = %path.display(), %error, "no audit of failed logins is kept");
            (None, Remembered::default())
        }
    };
    let keeper = Keeper {
        connection,
        lost,
        lost_before: 0,
        unbounded: 0,
        batch: Batch::default(),
        failing: false,
    };
    let started = thread::Builder::new()
        .name("audit".to_owned())
        .spawn(move || keeper.run(&inbox));
    if let Err(error) = started {
        warn!(%error, "no audit of failed logins is kept");
    }
    remembered
}

/// A database that is not ours or is damaged is put aside, with its log: it may be evidence.
fn open_or_begin_anew(path: &Path) -> rusqlite::Result<(Connection, Remembered)> {
    let opened = open(path).and_then(|connection| Ok((remembered(&connection)?, connection)));
    match opened {
        Ok((remembered, connection)) => Ok((connection, remembered)),
        Err(error) if is_unusable(&error) => {
            let aside = path.with_extension("db.damaged");
            warn!(path = %path.display(), %error, aside = %aside.display(), "the audit cannot be read; it is put aside and begun anew");
            for end in ["-wal", "-shm"] {
                let mut log = path.as_os_str().to_owned();
                log.push(end);
                let _ = fs::remove_file(log);
            }
            let _ = fs::rename(path, aside);
            let connection = open(path)?;
            let remembered = remembered(&connection)?;
            Ok((connection, remembered))
        }
        Err(error) => Err(error),
    }
}

/// Against trouble of the disk, which a new file would not mend.
fn is_unusable(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase, Unknown};
    error
        .sqlite_error_code()
        .is_none_or(|code| matches!(code, DatabaseCorrupt | NotADatabase | Unknown))
}

pub(super) fn open(path: &Path) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    let id: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables = "SELECT count(*) FROM sqlite_schema";
    let tables: i64 = connection.query_row(tables, [], |row| row.get(0))?;
    if tables > 0 && id != APPLICATION_ID {
        return Err(rusqlite::Error::InvalidQuery);
    }
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    Migrations::from_slice(STEPS)
        .to_latest(&mut connection)
        .map_err(|error| match error {
            rusqlite_migration::Error::RusqliteError { err, .. } => err,
            _ => rusqlite::Error::InvalidQuery,
        })?;
    Ok(connection)
}

fn remembered(connection: &Connection) -> rusqlite::Result<Remembered> {
    let now = Timestamp::now().as_second();
    let since = now - LOGIN_DAYS * 86_400;
    let mut logins = connection
        .prepare("SELECT account, address FROM login WHERE last >= ?1 ORDER BY last DESC")?;
    let logins = logins.query_map([since], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))?;
    let mut locks = connection.prepare("SELECT name, until FROM lock WHERE until > ?1")?;
    let locks = locks.query_map([now], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(Remembered {
        logins: logins
            .filter_map(|row| {
                row.map(|(account, address)| Some((account, address.parse().ok()?)))
                    .transpose()
            })
            .collect::<rusqlite::Result<_>>()?,
        locks: locks
            .filter_map(|row| {
                row.map(|(name, until)| Some((name, Timestamp::from_second(until).ok()?)))
                    .transpose()
            })
            .collect::<rusqlite::Result<_>>()?,
        decoy_key: Some(decoy_key(connection)?),
    })
}

/// The key of users that do not exist outlives the process: who compares salts before and after a restart would else
/// find out which users do.
fn decoy_key(connection: &Connection) -> rusqlite::Result<[u8; 32]> {
    let kept: Option<Vec<u8>> = connection
        .query_row(
            "SELECT value FROM setting WHERE name = 'decoy key'",
            [],
            |row| row.get(0),
        )
        .optional()?;
    if let Some(key) = kept.and_then(|key| key.try_into().ok()) {
        return Ok(key);
    }
    let mut key = [0; 32];
    rand::fill(&mut key).map_err(|_| rusqlite::Error::InvalidQuery)?;
    connection.execute(
        "INSERT OR REPLACE INTO setting (name, value) VALUES ('decoy key', ?1)",
        [&key[..]],
    )?;
    Ok(key)
}

/// The thread.
struct Keeper {
    /// None where there is no database: then all is lost, and counted.
    connection: Option<Connection>,
    lost: Arc<AtomicU64>,
    /// Lost in earlier runs, once that is read.
    lost_before: i64,
    /// Rows that may have been added since the bounds were looked at.
    unbounded: usize,
    batch: Batch,
    failing: bool,
}

impl Keeper {
    fn run(mut self, inbox: &Receiver<Note>) {
        self.lost_before = self.connection.as_ref().map_or(0, lost_in_all);
        while let Ok(note) = inbox.recv() {
            self.take(note);
            let pause = if self.failing { RETRY } else { GATHER };
            let end = Instant::now() + pause;
            let open = self.gather(inbox, end);
            self.write();
            if !open {
                return;
            }
        }
        self.write();
    }

    /// Whether more may come.
    fn gather(&mut self, inbox: &Receiver<Note>, end: Instant) -> bool {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match inbox.recv_timeout(left) {
                Ok(note) => self.take(note),
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    fn take(&mut self, note: Note) {
        if let Note::Flush(done) = note {
            self.write();
            let _ = done.send(());
            return;
        }
        if self.batch.add(note, Timestamp::now().as_second()).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
    }

    fn write(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let Some(connection) = &mut self.connection else {
            self.lost.fetch_add(self.batch.entries(), Relaxed);
            self.batch = Batch::default();
            return;
        };
        let lost = self.lost.load(Relaxed).cast_signed();
        let added = self.unbounded + self.batch.keys();
        let bounds: &[Bound] = if added >= BOUNDS_LOOK { &BOUNDS } else { &[] };
        match write(connection, &self.batch, self.lost_before + lost, bounds) {
            Ok(()) => {
                self.batch = Batch::default();
                self.unbounded = if bounds.is_empty() { added } else { 0 };
                if self.failing {
                    info!("the audit of failed logins is written again");
                }
                self.failing = false;
            }
            // What there is stays for another try, and what has no room beside it is counted.
            Err(error) => {
                if !self.failing {
                    warn!(%error, "the audit of failed logins cannot be written");
                }
                self.failing = true;
            }
        }
    }
}

fn write(
    connection: &mut Connection,
    batch: &Batch,
    lost: i64,
    bounds: &[Bound],
) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    write_attempts(&transaction, batch)?;
    write_others(&transaction, batch)?;
    set_lost(&transaction, lost)?;
    for bound in bounds {
        enforce(&transaction, bound)?;
    }
    transaction.execute(
        "DELETE FROM lock WHERE until < ?1",
        [Timestamp::now().as_second()],
    )?;
    transaction.commit()
}

fn write_attempts(transaction: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<()> {
    let mut name = transaction.prepare_cached(
        "INSERT INTO name (name, first, last, tries) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (name) DO UPDATE SET last = max(last, excluded.last), tries = tries + excluded.tries
         RETURNING key",
    )?;
    let mut attempt = transaction.prepare_cached(
        "INSERT INTO attempt (name, address, mechanisms, first, last, tries) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (name, address) DO UPDATE SET last = max(last, excluded.last),
             tries = tries + excluded.tries, mechanisms = mechanisms | excluded.mechanisms",
    )?;
    for ((tried, address), sum) in &batch.attempts {
        let Sum {
            first, last, times, ..
        } = *sum;
        let key: i64 = name.query_row(params![tried, first, last, times], |row| row.get(0))?;
        attempt.execute(params![
            key,
            address.to_string(),
            sum.mechanisms,
            first,
            last,
            times
        ])?;
    }
    Ok(())
}

fn write_others(transaction: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<()> {
    let mut refusal = transaction.prepare_cached(
        "INSERT INTO refusal (service, reason, network, first, last, times) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (service, reason, network) DO UPDATE SET last = max(last, excluded.last), times = times + excluded.times",
    )?;
    for ((service, reason, network), sum) in &batch.refusals {
        let network = network.to_string();
        refusal.execute(params![
            service, reason, network, sum.first, sum.last, sum.times
        ])?;
    }
    let mut login = transaction.prepare_cached(
        "INSERT INTO login (account, network, address, first, last, times) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (account, network) DO UPDATE SET address = excluded.address, last = max(last, excluded.last),
             times = times + excluded.times",
    )?;
    for ((account, network), (address, sum)) in &batch.logins {
        let (network, address) = (network.to_string(), address.to_string());
        login.execute(params![
            account, network, address, sum.first, sum.last, sum.times
        ])?;
    }
    let mut lock =
        transaction.prepare_cached("INSERT OR REPLACE INTO lock (name, until) VALUES (?1, ?2)")?;
    for (name, until) in &batch.locks {
        lock.execute(params![name, until])?;
    }
    Ok(())
}

/// Rows that are too many go, with a tenth of the bound so that it is not done at each write.
fn enforce(transaction: &Transaction<'_>, bound: &Bound) -> rusqlite::Result<()> {
    let Bound {
        table,
        rows,
        key,
        order,
    } = bound;
    let count = format!("SELECT count(*) FROM {table}");
    let count: i64 = transaction
        .prepare_cached(&count)?
        .query_row([], |row| row.get(0))?;
    if count > *rows {
        let excess = count - rows + rows / 10;
        transaction.execute(
            &format!(
                "DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table} ORDER BY {order} LIMIT ?1)"
            ),
            [excess],
        )?;
    }
    Ok(())
}

fn set_lost(transaction: &Transaction<'_>, lost: i64) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("INSERT OR REPLACE INTO setting (name, value) VALUES ('lost', ?1)")?
        .execute([lost])?;
    Ok(())
}

/// Entries that were lost, in this run and all before.
pub(super) fn lost_in_all(connection: &Connection) -> i64 {
    let query = "SELECT value FROM setting WHERE name = 'lost'";
    connection
        .query_row(query, [], |row| row.get(0))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests;
