//! The journal: which deliveries are inside already, so that none is handed over twice (R-DUP).
//!
//! A relay that does not hear our `250` offers its delivery again, under the same id. The id is in the journal,
//! durably, before the `250` leaves us; offered again it is answered with `258`, and nothing is passed on. A delivery
//! can be taken in part: then the journal says by whom.
//!
//! One journal serves all sessions of a process, and all processes that share a data directory. A delivery in hand is
//! held with a lock of the kernel, so no two sessions hand it over side by side, and a process that dies lets go of it.

mod database;
mod error;
mod expected;
mod holds;
mod recipient;
mod writer;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use atrn_shared::smtp::address::ForwardPath;
use atrn_shared::smtp::parameter::DeliveryId;
use rusqlite::Connection;
use tokio::task::spawn_blocking;

use crate::private;
use database::Found;
pub use database::Summary;
pub use error::{JournalError, OpenError};
pub use expected::Expectation;
use expected::Expected;
use holds::{Hold, Holds};
use recipient::Recipient;
use writer::{Entry, Writer};

/// Entries are kept longer than any relay holds mail.
pub const KEEP: Duration = Duration::from_secs(60 * 86_400);
/// How often somebody who waits for a delivery in other hands looks again: at first, and at last.
const LOOK_AGAIN_FIRST: Duration = Duration::from_millis(2);
const LOOK_AGAIN_MAX: Duration = Duration::from_millis(100);
/// The end of a process waits so long for the last commit.
const END_TIMEOUT: Duration = Duration::from_secs(5);
const DATABASE: &str = "journal.db";
const LOCKS: &str = "journal.lock";

/// A handle on the journal of a data directory.
#[derive(Clone, Debug)]
pub struct Journal {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    database: PathBuf,
    holds: Arc<Holds>,
    readers: Mutex<Vec<Connection>>,
    expected: Expected,
    writer: Writer,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// `None`: others had the journal open when we came.
    alone: Option<Alone>,
}

/// What is known without a look as long as nobody else has the journal.
#[derive(Debug)]
struct Alone {
    /// How often it was opened, the last time by us.
    opened: u64,
    /// No entry has an id behind this one: ids grow with time, so most that are offered are.
    newest: Mutex<String>,
}

/// What is known of a delivery that is offered.
#[derive(Debug)]
pub enum Begun {
    /// Not taken yet, or not by everybody. Nobody else hands it over while the claim lives.
    Fresh(Claim),
    /// Another session is at it just now, of this process or of another.
    InHand,
    /// Inside, all of it.
    Taken,
}

/// A delivery in our hands.
#[derive(Debug)]
pub struct Claim {
    id: DeliveryId,
    taken: BTreeSet<Recipient>,
    journal: Journal,
    hold: Hold,
}

/// Who took a delivery.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Taken {
    /// These and nobody else.
    Recipients(Vec<ForwardPath>),
    /// Everybody it was for.
    Whole,
}

impl Journal {
    /// Opens the journal of a data directory, and makes it if need be.
    ///
    /// # Errors
    /// What is wrong with it. A damaged journal is refused, never mended silently.
    pub fn open(data_dir: &Path) -> Result<Self, OpenError> {
        let locks = data_dir.join(LOCKS);
        let make = |path: &Path| private::make(path).map_err(|source| OpenError::io(path, source));
        make(&locks)?;
        let holds = Holds::open(&locks).map_err(|source| OpenError::io(&locks, source))?;
        let database = data_dir.join(DATABASE);
        // Two processes that both make the schema would be in each other's way.
        let opening = holds
            .opening()
            .map_err(|source| OpenError::io(&locks, source))?;
        // Before the database is read: of those who are gone by now we find all that they wrote, and who is there still may
        // write behind our back, and so we are not alone.
        let alone = holds
            .enter()
            .map_err(|source| OpenError::io(&locks, source))?;
        // SQLite gives the files beside it the same mode.
        make(&database)?;
        let mut opened = database::open(&database)?;
        drop(opening);
        let newest = std::mem::take(&mut opened.newest);
        let (writer, thread) = Writer::start(opened, database.clone())
            .map_err(|source| OpenError::io(&database, source))?;
        let shared = Shared {
            database,
            holds,
            readers: Mutex::default(),
            expected: Expected::none(),
            writer,
            thread: Mutex::new(Some(thread)),
            alone: Alone::new(alone, newest),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// What a journal holds, without making or changing anything; `None` where there is none yet.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn examine(data_dir: &Path) -> Result<Option<Summary>, OpenError> {
        database::examine(&data_dir.join(DATABASE))
    }

    /// Whether entries can be written. Asked before mail is: what could not be journaled could come twice.
    ///
    /// # Errors
    /// Why not.
    pub async fn ready(&self) -> Result<(), JournalError> {
        self.shared.writer.ready().await
    }

    /// Takes a delivery into our hands, if it is not inside and not in others'.
    ///
    /// This does not leave the thread: the look-up reads the few pages where the last commits have been, which are in
    /// memory (4 µs of CPU measured, with any number of entries). To have it done on another thread cost five times
    /// as much. An id behind all that were taken needs none while nobody else has the journal open. Ids that do not grow
    /// with time cost the relay that invents them a read of the disk each.
    ///
    /// # Errors
    /// When the journal cannot be asked.
    pub fn begin(&self, id: &DeliveryId) -> Result<Begun, JournalError> {
        // The order matters: once it is held, nobody can add the entry that we do not find.
        let Some(hold) = self.shared.holds.take(id)? else {
            return Ok(Begun::InHand);
        };
        let found = if self.shared.is_new(id) {
            None
        } else {
            self.shared.find(id)?
        };
        let taken = match found {
            Some(Found::Whole) => return Ok(Begun::Taken),
            Some(Found::Recipients(taken)) => taken,
            None => BTreeSet::new(),
        };
        Ok(Begun::Fresh(Claim {
            id: id.clone(),
            taken,
            journal: self.clone(),
            hold,
        }))
    }

    /// [`Journal::begin`], and where the delivery is in other hands, waits so long for its end.
    ///
    /// # Errors
    /// When the journal cannot be asked.
    pub async fn begin_within(
        &self,
        id: &DeliveryId,
        patience: Duration,
    ) -> Result<Begun, JournalError> {
        let end = tokio::time::Instant::now() + patience;
        let mut pause = LOOK_AGAIN_FIRST;
        loop {
            let begun = self.begin(id)?;
            if !matches!(begun, Begun::InHand) || tokio::time::Instant::now() >= end {
                return Ok(begun);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK_AGAIN_MAX);
        }
    }

    /// Says that the target is about to have a whole message: until the guard is dropped, an entry may follow. `None`: the
    /// process is about to end, and nobody would wait for it; so the target must not get the end of the message.
    #[must_use]
    pub fn expect_entry(&self) -> Option<Expectation> {
        self.shared.expected.one_more()
    }

    /// From here on no more entries are expected than are now.
    pub fn expect_no_more(&self) {
        self.shared.expected.no_more();
    }

    /// How many entries may follow at any moment, over all sessions of the process.
    #[must_use]
    pub fn expected_entries(&self) -> usize {
        self.shared.expected.count()
    }

    /// Waits until there is no such entry.
    pub async fn no_entries_expected(&self) {
        self.shared.expected.met().await;
    }

    /// [`Journal::close`] for a process that is about to end: what a session has left behind is still written, but a
    /// disk that hangs does not keep the process.
    pub async fn end(self) {
        let closing = spawn_blocking(move || self.close());
        if tokio::time::timeout(END_TIMEOUT, closing).await.is_err() {
            tracing::error!("the journal could not be closed in time");
        }
    }

    /// Writes what is still to be written, and closes the database. Whoever comes later is refused.
    pub fn close(&self) {
        self.shared.writer.stop();
        let thread = lock(&self.shared.thread).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the writer of the journal panicked");
        }
        lock(&self.shared.readers).clear();
    }
}

impl Claim {
    /// Whether a recipient took the delivery when it was offered before.
    #[must_use]
    pub fn was_taken_by(&self, recipient: &ForwardPath) -> bool {
        self.taken.contains(&Recipient::of(recipient))
    }

    /// Whether a process was killed that had this delivery in hand: the target may have it already.
    #[must_use]
    pub fn was_abandoned(&self) -> bool {
        self.hold.was_abandoned()
    }

    /// Records that the delivery is inside. The entry is on its way when this returns; the future only waits until it
    /// is durable. Who drops the future does not take it back.
    ///
    /// Until it is durable, here or at a later attempt, nobody else gets the delivery.
    pub fn commit(
        self,
        taken: Taken,
    ) -> impl Future<Output = Result<(), JournalError>> + Send + use<> {
        let Self {
            id,
            taken: mut all,
            journal,
            hold,
        } = self;
        if let Some(alone) = &journal.shared.alone {
            alone.note(&id);
        }
        let recipients = match taken {
            Taken::Whole => None,
            Taken::Recipients(more) => {
                all.extend(more.iter().map(Recipient::of));
                Some(all)
            }
        };
        journal.shared.writer.commit(Entry {
            id,
            recipients,
            hold,
        })
    }
}

impl Alone {
    fn new((is_alone, opened): (bool, u64), newest: String) -> Option<Self> {
        is_alone.then_some(Self {
            opened,
            newest: Mutex::new(newest),
        })
    }

    /// An entry will have this id.
    fn note(&self, id: &DeliveryId) {
        let mut newest = lock(&self.newest);
        if newest.as_str() < id.as_str() {
            id.as_str().clone_into(&mut newest);
        }
    }
}

impl Shared {
    /// Whether no entry can have this id, which is held: what others could have added before that, they have not, for
    /// nobody else was there.
    fn is_new(&self, id: &DeliveryId) -> bool {
        self.alone.as_ref().is_some_and(|alone| {
            let is_behind = lock(&alone.newest).as_str() < id.as_str();
            is_behind
                && self
                    .holds
                    .opened()
                    .is_ok_and(|opened| opened == alone.opened)
        })
    }

    fn find(&self, id: &DeliveryId) -> Result<Option<Found>, JournalError> {
        let idle = lock(&self.readers).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => database::reader(&self.database)
                .map_err(|error| JournalError::sqlite("be opened", &error))?,
        };
        let found = database::find(&connection, id.as_str())
            .map_err(|error| JournalError::sqlite("be read", &error))?;
        // One that failed may be part of the trouble: the next look-up opens a fresh one.
        lock(&self.readers).push(connection);
        Ok(found)
    }
}

/// A thread that panicked with the lock has left a list of connections, which is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
