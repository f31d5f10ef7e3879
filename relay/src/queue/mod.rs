//! The durable queue: accept, claim, settle, query, change.
//!
//! [`Store`] is the only way in, and a cheap handle. A message is accepted once with its content and
//! becomes a delivery for each domain; a session claims deliveries, which writes nothing, and settles
//! them; the content goes with the last delivery. What runs behind it, and why mail that was answered
//! `250` survives, is described in `sqlite::writer`; who reads configuration, speaks a protocol or
//! decides what a reply means, is not in here.

mod admin;
mod ageing;
pub mod backup;
mod block;
mod body;
mod claiming;
mod envelope;
mod error;
mod id;
mod lease;
mod news;
mod query;
pub mod retry;
pub mod salvage;
mod space;
mod spool;
mod sqlite;
#[cfg(test)]
mod tests;

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;

use atrn_shared::directory;
use jiff::Timestamp;
use rusqlite::Connection;
use tokio::task::spawn_blocking;

use self::body::Body;
use self::spool::Spool;
use self::sqlite::Shared;
use self::sqlite::keeper::{self, Chore};
use self::sqlite::writer::{Accept, Now, Settle, Verdict, Writer};

pub(crate) use self::block::BLOCK_BYTES;
pub use self::body::{BodyWriter, ContentReader, INLINE_BYTES};
pub use self::envelope::{
    Action, Delivery, DeliveryRecipient, Envelope, Judge, Lease, Outcome, Recipient, Report, State,
};
pub use self::error::{OpenError, StoreError};
pub use self::id::{DeliveryId, IdError, QueueId, Reference};
pub use self::lease::SessionId;
pub use self::news::Watch;
pub use self::query::{
    AGE_MINUTES, Changed, DomainTotal, Filter, Found, Item, Message, MessageDelivery,
    PAGE_DELIVERIES, RecipientDetail, Seized, Selection, StatsBy, StatsRow,
};
pub use self::space::{Disk, Room};

/// The queue. Clones are handles of the same one; it closes with the last of them.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
    writer: Writer,
    _threads: Arc<Threads>,
}

/// Ends the threads with the last handle: what was handed over is still written.
#[derive(Debug)]
struct Threads {
    shared: Arc<Shared>,
    writer: Writer,
    chores: SyncSender<Chore>,
    writer_thread: Option<JoinHandle<()>>,
    keeper_thread: Option<JoinHandle<()>>,
    /// Released last: nobody else may open the queue before all is written.
    _lock: File,
}

impl Store {
    /// Opens the queue in `data_dir`, and makes it where there is none. Only one process at a time
    /// can; one that was killed leaves nothing to repair.
    ///
    /// # Errors
    /// [`OpenError`] in one line for the operator. Nothing is left half-started.
    pub fn open(data_dir: &Path) -> Result<Self, OpenError> {
        make_directories(data_dir)?;
        let lock = lock(&data_dir.join("queue.lock"))?;
        let database = data_dir.join("queue.db");
        refuse_emptied(&database, &data_dir.join("spool"))?;
        let connection = sqlite::open_writer(&database)?;
        Self::start(data_dir, lock, connection)
    }

    fn start(data_dir: &Path, lock: File, connection: Connection) -> Result<Self, OpenError> {
        let io = |error| OpenError::io(data_dir, error);
        let (chores, chores_waiting) = keeper::chores();
        let spool = Spool::open(data_dir.join("spool"), chores.clone()).map_err(io)?;
        let database = data_dir.join("queue.db");
        let shared = Arc::new(Shared::load(&connection, database, spool)?);
        shared.reserve_ids(&connection);
        let (writer, thread) = Writer::start(connection, Arc::clone(&shared)).map_err(io)?;
        // From here on an error ends the writer too.
        let mut threads = Threads {
            shared: Arc::clone(&shared),
            writer: writer.clone(),
            chores,
            writer_thread: Some(thread),
            keeper_thread: None,
            _lock: lock,
        };
        let thread = keeper::start(Arc::clone(&shared), writer.clone(), chores_waiting);
        threads.keeper_thread = Some(thread.map_err(io)?);
        Ok(Self {
            shared,
            writer,
            _threads: Arc::new(threads),
        })
    }

    /// Room for the content of a message. It has the message's id already, for the trace header.
    pub fn body(&self) -> BodyWriter {
        let id = self.shared.ids.next(Timestamp::now());
        BodyWriter::new(id, Arc::clone(self.shared.spool()))
    }

    /// Whether a message of so many octets would find room now: worth asking before its content comes. Small ones may
    /// find room inside the database, which only the writer knows.
    #[must_use]
    pub fn has_room(&self, octets: u64) -> bool {
        let small = octets <= INLINE_BYTES as u64;
        small || self.shared.spool().space().room(octets, 0) != Room::Full
    }

    /// The disk under the queue, if its file system says how full it is.
    #[must_use]
    pub fn disk(&self) -> Option<Disk> {
        self.shared.spool().space().disk()
    }

    /// Takes a message. When this returns an id the message is durable, and only then (R5321-15).
    ///
    /// # Errors
    /// When it is not known to be durable. The content is discarded.
    pub async fn accept(
        &self,
        envelope: Envelope,
        body: BodyWriter,
    ) -> Result<QueueId, StoreError> {
        let (id, size, checksum) = (body.id(), body.len(), body.checksum());
        if envelope.recipients.is_empty() {
            return Err(StoreError::Damaged(format!("{id} has no recipients")));
        }
        let body = body.finish().await?;
        let accept = self.message(id, &envelope, body, (size, checksum));
        self.writer.accept(accept).await?;
        Ok(id)
    }

    /// A message as the writer takes it. Its content's size and checksum are known already.
    fn message(
        &self,
        id: QueueId,
        envelope: &Envelope,
        body: Body,
        (size, checksum): (u64, u32),
    ) -> Accept {
        let now = self.now();
        Accept {
            id,
            received_at: now.wall,
            received_from: envelope.received_from.clone(),
            reverse_path: envelope.reverse_path.to_string(),
            parameters: envelope.mail_parameters.to_string().trim_start().to_owned(),
            flags: sqlite::flags(envelope),
            size,
            checksum,
            held_since: now.steady,
            deliveries: sqlite::by_domain(&envelope.recipients),
            body,
        }
    }

    fn now(&self) -> Now {
        Now {
            wall: Timestamp::now(),
            steady: self.shared.clock.now(),
        }
    }

    /// Records the end of a lease: an outcome for each recipient, in order. The settlement is handed
    /// over at once, so that the next message can be sent while the returned future waits for the
    /// commit; the delivery stays leased until then.
    ///
    /// Delivered recipients leave, deferred ones wait with back-off, failed ones are kept and shown.
    /// What can still be sent stays one delivery with its id; who ended otherwise leaves it. A report is queued by
    /// the same commit: whoever is told of a failure is told of it once, whenever the power fails.
    ///
    /// # Errors
    /// When the commit failed. The store keeps the lease and goes on trying, because mail that is
    /// inside must not be sent again; the caller should end its session.
    pub fn settle(
        &self,
        lease: Lease,
        outcomes: Vec<Outcome>,
        report: Option<Report>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        self.settle_by(Judge::Puller, lease, outcomes, report)
    }

    /// As [`Store::settle`], whoever said what is to become of the delivery.
    ///
    /// # Errors
    /// As there.
    pub fn settle_by(
        &self,
        judge: Judge,
        lease: Lease,
        outcomes: Vec<Outcome>,
        report: Option<Report>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let Lease {
            mut delivery, held, ..
        } = lease;
        if let Some(report) = &report {
            delivery.note(report);
        }
        let verdict = Verdict::of(&delivery.recipients, outcomes);
        let settled = (!verdict.changes_nothing()).then(|| {
            self.writer.settle(Settle {
                held,
                size: delivery.size,
                now: self.now(),
                verdict,
                judge,
                report: report.map(|report| self.report(report)),
            })
        });
        async move {
            match settled {
                Some(settled) => settled.await,
                None => Ok(()),
            }
        }
    }

    /// Whether settlements wait because the database could not be written: nothing more should be ended by the relay
    /// itself then, for each keeps its delivery and its report in memory.
    #[must_use]
    pub fn is_owing(&self) -> bool {
        self.writer.is_owing()
    }

    fn report(&self, report: Report) -> Accept {
        let id = self.shared.ids.next(Timestamp::now());
        let content = report.content;
        let stored = (content.len() as u64, crc32fast::hash(&content));
        self.message(id, &report.envelope, Body::Inline(content), stored)
    }

    /// Copies the queue, as it is now, into a directory that does not exist yet or is empty. Mail comes and goes
    /// meanwhile. `watch` hears how far it is, and says whether to go on.
    ///
    /// # Errors
    /// [`BackupError`](backup::BackupError); what is in the directory then is no backup.
    pub async fn backup(
        &self,
        directory: &Path,
        mut watch: impl FnMut(backup::Progress) -> bool + Send + 'static,
    ) -> Result<backup::Manifest, backup::BackupError> {
        let (shared, directory) = (Arc::clone(&self.shared), directory.to_owned());
        let copied = spawn_blocking(move || backup::copy(&shared, &directory, &mut watch));
        copied.await.map_err(|_| StoreError::Closed)?
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.writer.stop();
        if let Some(thread) = self.writer_thread.take() {
            let _ = thread.join();
        }
        let _ = self.chores.send(Chore::Stop);
        if let Some(thread) = self.keeper_thread.take() {
            let _ = thread.join();
        }
        self.shared.close_readers();
    }
}

/// Makes the directories of a queue, readable by nobody else: it is other people's mail.
fn make_directories(data_dir: &Path) -> Result<(), OpenError> {
    for path in [data_dir, &data_dir.join("spool")] {
        directory::make_durable(path).map_err(|error| OpenError::io(path, error))?;
    }
    Ok(())
}

/// To SQLite no file, or one without an octet, is a new database. Where there are content files it is one that lost
/// everything, and they would be taken for orphans.
fn refuse_emptied(database: &Path, spool: &Path) -> Result<(), OpenError> {
    let what = match std::fs::metadata(database) {
        Ok(found) if found.len() == 0 => "empty",
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => "missing",
        Err(error) => return Err(OpenError::io(database, error)),
    };
    if !spool::has_files(spool) {
        return Ok(());
    }
    let path = database.to_owned();
    Err(OpenError::Lost { path, what })
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let io = |error| OpenError::io(path, error);
    let mut options = File::options();
    let file = options
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let path = path.to_owned();
            Err(OpenError::InUse { path })
        }
        Err(TryLockError::Error(error)) => Err(io(error)),
    }
}
