//! The one writer: a thread that owns the writing connection and commits in groups.
//!
//! It takes all operations that wait into one transaction, commits, then answers them all. A commit
//! starts at once and takes what arrived while the last one ran, so nobody waits for company. When an
//! operation cannot be applied, the others are done again one by one: the bad one fails alone.
//!
//! After a failed commit nothing is claimed: acceptances are answered with an error, the connection
//! is opened anew, and settled deliveries stay leased and are tried again, because a mail that is
//! inside already must not be sent twice.

mod paying;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use atrn_shared::smtp::address::Domain;
use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode};
use tokio::sync::mpsc;

use super::super::body::Body;
use super::super::error::StoreError;
use super::super::id::QueueId;
use super::super::space::Room;
use super::operation::{Accept, Effects, Settle};
use super::transaction::Transaction;
use super::writer::Request;
use super::{Shared, exists, row};

/// Operations and octets of one commit: they bound how long it takes, and memory.
const BATCH_MAX: usize = 512;
const BATCH_OCTETS_MAX: usize = 8 * 1024 * 1024;

/// The state of the thread.
pub(super) struct Group {
    /// `None` after a failure that could not be mended yet.
    connection: Option<Connection>,
    domains: HashMap<Domain, i64>,
    mark: QueueId,
    shared: Arc<Shared>,
    requests: mpsc::Receiver<Request>,
    /// Ended leases whose commit failed; they hold their deliveries until it succeeds.
    owed: VecDeque<Settle>,
    owing: Arc<AtomicBool>,
    /// When paying failed last.
    unpaid_at: Option<Instant>,
}

/// What a failed transaction means for the operations in it.
enum Failure {
    /// The connection was no longer to be trusted; the commit may or may not have happened.
    Broken(StoreError),
    /// Somebody else has the database; nothing happened, and each operation alone would only wait as long again.
    Busy(StoreError),
    /// Rolled back because of one of the operations.
    Operation(StoreError),
}

impl Group {
    pub(super) fn new(
        connection: Connection,
        shared: Arc<Shared>,
        requests: mpsc::Receiver<Request>,
        owing: Arc<AtomicBool>,
    ) -> rusqlite::Result<Self> {
        let domains = shared.catalog().keys.clone();
        Ok(Self {
            mark: QueueId(row::setting(&connection, "mark")?),
            connection: Some(connection),
            domains,
            shared,
            requests,
            owed: VecDeque::new(),
            owing,
            unpaid_at: None,
        })
    }

    pub(super) fn run(mut self) {
        let mut stopping = false;
        while let Some(first) = self.next(stopping) {
            let batch = self.batch(first, &mut stopping);
            if !self.owed.is_empty() && !self.paid_in_vain_just_now() {
                self.pay();
            }
            if !batch.is_empty() {
                self.write(batch);
            }
        }
        if !self.owed.is_empty() {
            self.pay();
        }
        let mark = self.shared.clock.mark(Timestamp::now());
        if let Err(Failure::Operation(error) | Failure::Busy(error) | Failure::Broken(error)) =
            self.transaction(|transaction| transaction.mark_clock(mark))
        {
            tracing::warn!(%error, "cannot store the clock");
        }
    }

    fn next(&mut self, stopping: bool) -> Option<Request> {
        if stopping {
            self.requests.close();
        }
        self.requests.blocking_recv()
    }

    /// What waits now; orders to the thread itself are carried out on the way.
    fn batch(&mut self, first: Request, stopping: &mut bool) -> Vec<Request> {
        let mut batch = Vec::new();
        let mut octets = 0;
        let mut next = Some(first);
        while let Some(request) = next {
            octets += request.octets();
            match request {
                Request::Checkpoint => self.checkpoint(),
                Request::Stop => *stopping = true,
                Request::Tick => {}
                request => batch.push(request),
            }
            if batch.len() >= BATCH_MAX || octets >= BATCH_OCTETS_MAX {
                break;
            }
            next = self.requests.try_recv().ok();
        }
        batch
    }

    fn write(&mut self, batch: Vec<Request>) {
        let (batch, room) = self.within_room(batch);
        if batch.is_empty() {
            return;
        }
        self.write_group(batch);
        if room != Room::Ample {
            self.checkpoint();
        }
    }

    /// Refuses new mail when the disk is nearly full; all else needs little, and makes room.
    fn within_room(&mut self, mut batch: Vec<Request>) -> (Vec<Request>, Room) {
        let octets = batch.iter().map(Request::octets).sum::<usize>() as u64;
        let space = self.shared.spool().space();
        let mut room = space.room(octets, 0);
        if room != Room::Ample {
            room = space.room(octets, self.connection.as_ref().map_or(0, spare_octets));
        }
        if room == Room::Full {
            let is_new = |request: &mut Request| matches!(request, Request::Accept(..));
            let refused: Vec<_> = batch.extract_if(.., is_new).collect();
            if !refused.is_empty() {
                let messages = refused.len();
                tracing::error!(messages, "refused new mail: the disk is nearly full");
            }
            refused
                .into_iter()
                .for_each(|request| self.refuse(request, &StoreError::Full));
        }
        (batch, room)
    }

    fn write_group(&mut self, batch: Vec<Request>) {
        match self.transaction(|transaction| {
            batch
                .iter()
                .try_for_each(|request| request.apply(transaction))
        }) {
            Ok(effects) => self.publish(&effects, batch),
            Err(Failure::Operation(_)) if batch.len() > 1 => {
                batch
                    .into_iter()
                    .for_each(|request| self.write_group(vec![request]));
            }
            Err(Failure::Operation(error) | Failure::Busy(error) | Failure::Broken(error)) => {
                tracing::error!(%error, operations = batch.len(), "the queue could not be written");
                batch
                    .into_iter()
                    .for_each(|request| self.refuse(request, &error));
            }
        }
    }

    /// The world may know: leases end, then sessions that wait are woken, and then who handed it over is told.
    fn publish(&mut self, effects: &Effects, mut batch: Vec<Request>) {
        self.note(effects);
        batch.iter_mut().for_each(Request::committed);
        self.shared.leases.tell(&effects.news);
        let mut changed = effects.changed.iter().copied();
        for request in batch {
            request.answer(&mut changed);
        }
    }

    fn note(&mut self, effects: &Effects) {
        effects.publish(&mut self.shared.catalog());
        for (domain, key) in &effects.domains {
            self.domains.insert(domain.clone(), *key);
        }
        self.mark = effects.mark.unwrap_or(self.mark);
        for file in &effects.files {
            self.shared.spool().discard(*file);
        }
    }

    fn refuse(&mut self, request: Request, error: &StoreError) {
        match request {
            Request::Accept(accept, answer) => {
                self.keep_file_with_row(&accept);
                let _ = answer.send(Err(error.clone()));
            }
            Request::Change(change, answer) => {
                drop(change);
                let _ = answer.send(Err(error.clone()));
            }
            Request::Settle(settle, answer) => {
                self.owed.push_back(*settle);
                self.owing.store(true, Ordering::Relaxed);
                let _ = answer.send(Err(error.clone()));
            }
            Request::Checkpoint | Request::Clock(_) | Request::Stop | Request::Tick => {}
        }
    }

    /// A commit that was reported as failed may have reached the disk. A row without its content
    /// would be worse than a message that its sender sends again.
    fn keep_file_with_row(&self, accept: &Accept) {
        let Body::Spool(_, file) = &accept.body else {
            return;
        };
        let found = self
            .connection
            .as_ref()
            .map(|connection| exists(connection, accept.id));
        if !matches!(found, Some(Ok(false))) {
            file.keep();
        }
    }

    fn transaction(
        &mut self,
        work: impl Fn(&mut Transaction<'_>) -> rusqlite::Result<()>,
    ) -> Result<Effects, Failure> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self
                .shared
                .reopen()
                .map_err(|error| Failure::Broken(StoreError::sqlite("be opened again", error)))?,
        };
        let begun = Transaction::begin(&connection, &self.domains, self.mark);
        let result = begun.and_then(|mut transaction| {
            work(&mut transaction)?;
            transaction.commit()
        });
        match result {
            Ok(effects) => {
                self.connection = Some(connection);
                Ok(effects)
            }
            Err(error) => Err(self.give_up(connection, error)),
        }
    }

    /// Rolls back, and decides whether the connection is still good.
    fn give_up(&mut self, connection: Connection, error: rusqlite::Error) -> Failure {
        let (broken, busy) = (is_broken(&error), is_busy(&error));
        let rolled_back =
            connection.is_autocommit() || connection.execute_batch("ROLLBACK").is_ok();
        let error = StoreError::sqlite("be written", error);
        if rolled_back && !broken {
            self.connection = Some(connection);
            if busy {
                return Failure::Busy(error);
            }
            if matches!(error, StoreError::Full) {
                // The log begins anew after this, and settlements find room in it.
                self.checkpoint();
            }
            return Failure::Operation(error);
        }
        drop(connection);
        match self.shared.reopen() {
            Ok(connection) => self.connection = Some(connection),
            Err(error) => tracing::error!(%error, "the queue database cannot be opened again"),
        }
        Failure::Broken(error)
    }

    fn checkpoint(&mut self) {
        let Some(connection) = &self.connection else {
            return;
        };
        let done = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        if let Err(error) = done {
            tracing::warn!(%error, "cannot write the log into the database");
        }
    }
}

/// Room in the database file that new rows can use. Unknown counts as none.
fn spare_octets(connection: &Connection) -> u64 {
    let spare = "SELECT freelist_count * page_size FROM pragma_freelist_count, pragma_page_size";
    let spare = connection.query_row(spare, [], |row| row.get::<_, i64>(0));
    spare.unwrap_or(0).cast_unsigned()
}

/// Whether a lock was not to be had within the time-out.
fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

/// Whether what failed may have been the disk below, and not the operation.
fn is_broken(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::OutOfMemory
        )
    )
}
