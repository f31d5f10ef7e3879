//! The one writer: a thread that owns the writing connection and commits in groups.
//!
//! It takes all operations that wait into one transaction, commits, then answers them all. A commit
//! starts at once and takes what arrived while the last one ran, so nobody waits for company. When an
//! operation cannot be applied, the others are done again one by one: the bad one fails alone.
//!
//! After a failed commit nothing is claimed: acceptances are answered with an error, the connection
//! is opened anew, and settled deliveries stay leased and are tried again, because a mail that is
//! inside already must not be sent twice.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

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
/// After paying in vain, what comes is not made to wait for the next try. Less than the keeper's pause.
const PAY_PAUSE: Duration = Duration::from_millis(400);

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

    fn publish(&mut self, effects: &Effects, batch: Vec<Request>) {
        self.note(effects);
        let mut changed = effects.changed.iter().copied();
        for request in batch {
            request.committed(&mut changed);
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

    fn paid_in_vain_just_now(&self) -> bool {
        self.unpaid_at
            .is_some_and(|unpaid_at| unpaid_at.elapsed() < PAY_PAUSE)
    }

    /// Settles what could not be settled before, as much in one commit as may be in any. What cannot be settled for
    /// a reason of its own goes to the end, and stops nothing else.
    fn pay(&mut self) {
        let before = self.owed.len();
        let mut unpaid = Vec::new();
        let mut trouble = None;
        while trouble.is_none() && !self.owed.is_empty() {
            let step = next_step(&mut self.owed, Settle::octets);
            let in_step = step.len();
            match self.pay_step(step) {
                Ok(bad) => {
                    // When none can be settled, it is not they that are bad.
                    if let Some((_, error)) = bad.last().filter(|_| bad.len() == in_step) {
                        trouble = Some(error.clone());
                    }
                    unpaid.extend(bad);
                }
                Err((left, error)) => {
                    left.into_iter()
                        .rev()
                        .for_each(|settle| self.owed.push_front(settle));
                    trouble = Some(error);
                }
            }
        }
        let trouble = trouble.or_else(|| unpaid.last().map(|(_, error)| error.clone()));
        self.owed
            .extend(unpaid.into_iter().map(|(settle, _)| settle));
        let left = self.owed.len();
        if left < before {
            tracing::info!(deliveries = before - left, "settled what was owed");
        }
        if let Some(error) = trouble {
            tracing::warn!(%error, deliveries = left, "cannot settle yet");
        }
        self.unpaid_at = (left > 0).then(Instant::now);
        self.owing.store(left > 0, Ordering::Relaxed);
    }

    /// Settles some in one commit, or where that fails because of one of them, each alone; gives back those that
    /// cannot be.
    ///
    /// # Errors
    /// When the database could not be written at all, with those that are left.
    fn pay_step(
        &mut self,
        step: Vec<Settle>,
    ) -> Result<Vec<(Settle, StoreError)>, (Vec<Settle>, StoreError)> {
        let paid = self.transaction(|transaction| {
            step.iter()
                .try_for_each(|settle| transaction.settle(settle))
        });
        match paid {
            Ok(effects) => {
                self.note(&effects);
                Ok(Vec::new())
            }
            Err(Failure::Operation(error)) if step.len() == 1 => {
                Ok(step.into_iter().map(|bad| (bad, error.clone())).collect())
            }
            Err(Failure::Operation(_)) => {
                let mut bad = Vec::new();
                let mut step = step.into_iter();
                while let Some(settle) = step.next() {
                    match self.pay_step(vec![settle]) {
                        Ok(unpaid) => bad.extend(unpaid),
                        Err((mut left, error)) => {
                            left.extend(step);
                            left.extend(bad.into_iter().map(|(settle, _)| settle));
                            return Err((left, error));
                        }
                    }
                }
                Ok(bad)
            }
            Err(Failure::Busy(error) | Failure::Broken(error)) => Err((step, error)),
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
        let Body::Spool(file) = &accept.body else {
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

/// As many from the front as one commit may take, and one at least.
fn next_step<T>(owed: &mut VecDeque<T>, octets: impl Fn(&T) -> usize) -> Vec<T> {
    let mut step = Vec::new();
    let mut total = 0;
    while let Some(next) = owed.pop_front() {
        total += octets(&next);
        if !step.is_empty() && total > BATCH_OCTETS_MAX {
            owed.push_front(next);
            break;
        }
        step.push(next);
        if step.len() >= BATCH_MAX {
            break;
        }
    }
    step
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_has_no_more_than_a_commit_may() {
        let steps = |octets: &[usize]| {
            let mut owed: VecDeque<usize> = octets.iter().copied().collect();
            let mut sizes = Vec::new();
            while !owed.is_empty() {
                sizes.push(next_step(&mut owed, |octets| *octets).len());
            }
            sizes
        };
        assert_eq!(steps(&[0; 2 * BATCH_MAX + 1]), [BATCH_MAX, BATCH_MAX, 1]);
        let half = BATCH_OCTETS_MAX / 2;
        assert_eq!(steps(&[half, half, 1, half]), [2, 2]);
        assert_eq!(steps(&[BATCH_OCTETS_MAX + 1, 1, 1]), [1, 2]);
    }
}
