//! The one writer of a process: a thread that owns the writing connection and commits in groups.
//!
//! It takes all entries that wait into one transaction, commits, then tells everybody. A commit starts at once and
//! takes what came while the last one ran: nobody waits for company. After a failed commit nothing is claimed: those
//! who wait hear of it, the database is opened anew, and the entries stay owed, for their messages are inside. No more
//! mail is asked for until they are written.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use atrn_shared::smtp::parameter::DeliveryId;
use atrn_shared::steady::SteadyClock;
use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode};
use tokio::sync::{mpsc, oneshot};

use super::JournalError;
use super::database::{self, Change, Opened};
use super::holds::Hold;
use super::recipient::Recipient;

/// Entries whose age is looked at for each that is added. So all are looked at once while a quarter of them is
/// replaced: none stays much longer than it should, and no commit waits for it.
const LOOKED_AT_FOR_EACH: usize = 4;
/// How often the state is left for the next process. A process that is killed leaves what was so much earlier.
const LEAVE_EVERY: Duration = Duration::from_secs(60);
/// Commits from one checkpoint to the next; the log has a few pages of each.
const CHECKPOINT_EVERY: u32 = 256;

/// The way to the writer.
#[derive(Debug)]
pub(super) struct Writer {
    /// Without a bound of its own: a session bounds what it has under way, and an entry must never be turned away.
    requests: mpsc::UnboundedSender<Request>,
    /// The last commit failed.
    trouble: Arc<AtomicBool>,
}

/// A delivery that is inside. It stays in our hands until the entry is durable.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: DeliveryId,
    /// `None`: everybody.
    pub(super) recipients: Option<BTreeSet<Recipient>>,
    #[expect(dead_code, reason = "the delivery is held as long as this lives")]
    pub(super) hold: Hold,
}

type Answer = oneshot::Sender<Result<(), JournalError>>;

#[derive(Debug)]
enum Request {
    Commit(Entry, Answer),
    /// Write what is owed, or anything at all.
    Ready(Answer),
    Stop,
}

impl Writer {
    pub(super) fn start(opened: Opened, path: PathBuf) -> io::Result<(Self, JoinHandle<()>)> {
        let (requests, waiting) = mpsc::unbounded_channel();
        let trouble = Arc::new(AtomicBool::new(false));
        let group = Group {
            connection: Some(opened.connection),
            path,
            clock: opened.clock,
            waiting,
            owed: Vec::new(),
            trouble: Arc::clone(&trouble),
            pruned: opened.pruned,
            more: 0,
            leave_at: Instant::now(),
            commits: 0,
        };
        let builder = std::thread::Builder::new().name("journal-writer".to_owned());
        let thread = builder.spawn(move || group.run())?;
        Ok((Self { requests, trouble }, thread))
    }

    /// The entry is on its way when this returns.
    pub(super) fn commit(
        &self,
        entry: Entry,
    ) -> impl Future<Output = Result<(), JournalError>> + Send + use<> {
        let (answer, wait) = oneshot::channel();
        // Where nobody listens any more, the answer does not come either.
        let _ = self.requests.send(Request::Commit(entry, answer));
        async move { wait.await.map_err(|_| JournalError::Closed)? }
    }

    pub(super) async fn ready(&self) -> Result<(), JournalError> {
        if self.requests.is_closed() {
            return Err(JournalError::Closed);
        }
        if !self.trouble.load(Ordering::Relaxed) {
            return Ok(());
        }
        let (answer, wait) = oneshot::channel();
        let sent = self.requests.send(Request::Ready(answer));
        sent.map_err(|_| JournalError::Closed)?;
        wait.await.map_err(|_| JournalError::Closed)?
    }

    /// Lets the thread finish what waits, and end.
    pub(super) fn stop(&self) {
        // It may have ended already.
        let _ = self.requests.send(Request::Stop);
    }
}

/// The state of the thread.
struct Group {
    /// `None` after a failure that could not be mended yet.
    connection: Option<Connection>,
    path: PathBuf,
    clock: SteadyClock,
    waiting: mpsc::UnboundedReceiver<Request>,
    /// Entries whose commit failed.
    owed: Vec<Entry>,
    trouble: Arc<AtomicBool>,
    /// Old entries were looked for up to this id.
    pruned: String,
    /// Entries that were added and not yet counted in the database, less those removed.
    more: i64,
    leave_at: Instant,
    /// Since the last checkpoint.
    commits: u32,
}

impl Group {
    fn run(mut self) {
        while let Some(first) = self.waiting.blocking_recv() {
            let mut answers = Vec::new();
            let mut stop = self.sort(first, &mut answers);
            while let Ok(next) = self.waiting.try_recv() {
                stop |= self.sort(next, &mut answers);
            }
            if stop {
                self.waiting.close();
            }
            if !answers.is_empty() {
                self.write(answers);
            }
        }
        if !self.owed.is_empty() || self.more != 0 {
            self.leave_at = Instant::now();
            self.write(Vec::new());
        }
    }

    /// Puts a request where it belongs; whether it says that this is the end.
    fn sort(&mut self, request: Request, answers: &mut Vec<Answer>) -> bool {
        match request {
            Request::Commit(entry, answer) => {
                self.owed.push(entry);
                answers.push(answer);
            }
            Request::Ready(answer) => answers.push(answer),
            Request::Stop => return true,
        }
        false
    }

    /// One commit of all that is owed, and the answer to everybody who waits for it.
    fn write(&mut self, answers: Vec<Answer>) {
        let written = self.transaction();
        if let Err(error) = &written {
            tracing::error!(%error, entries = self.owed.len(), "the journal cannot be written; no more mail is taken until it can");
        } else {
            // Only now may others have these deliveries.
            self.owed.clear();
        }
        let before = self.trouble.swap(written.is_err(), Ordering::Relaxed);
        if before && written.is_ok() {
            tracing::info!("the journal can be written again");
        }
        for answer in answers {
            // Who is gone does not want to know.
            let _ = answer.send(written.clone());
        }
    }

    fn transaction(&mut self) -> Result<(), JournalError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => database::reopen(&self.path)
                .map_err(|error| JournalError::sqlite("be opened again", &error))?,
        };
        match self.change(&connection) {
            Ok(()) => {
                self.commits += 1;
                if self.commits >= CHECKPOINT_EVERY {
                    self.commits = 0;
                    if let Err(error) = database::checkpoint(&connection) {
                        tracing::warn!(%error, "cannot write the log of the journal into its database");
                    }
                }
                self.connection = Some(connection);
                Ok(())
            }
            Err(error) => {
                self.give_up(connection, &error);
                Err(JournalError::sqlite("be written", &error))
            }
        }
    }

    fn change(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let now = Instant::now();
        let change = Change::begin(connection, self.clock.now())?;
        for entry in &self.owed {
            change.add(&entry.id, entry.recipients.as_ref())?;
        }
        let looked_at = LOOKED_AT_FOR_EACH * self.owed.len();
        let (removed, pruned) = change.prune(&self.pruned, looked_at)?;
        let more = self.more + self.owed.len() as i64 - removed as i64;
        // While there is trouble a commit must try the disk, whether there is something to say or not.
        let is_due = now >= self.leave_at || self.owed.is_empty();
        if is_due {
            change.leave(self.clock.mark(Timestamp::now()), more, &pruned)?;
        }
        change.commit()?;
        self.pruned = pruned;
        self.more = if is_due { 0 } else { more };
        if is_due {
            self.leave_at = now + LEAVE_EVERY;
        }
        Ok(())
    }

    /// Rolls back, and keeps the connection only when nothing speaks against it.
    fn give_up(&mut self, connection: Connection, error: &rusqlite::Error) {
        let rolled_back =
            connection.is_autocommit() || connection.execute_batch("ROLLBACK").is_ok();
        if rolled_back && is_harmless(error) {
            self.connection = Some(connection);
        }
    }
}

/// Whether what failed has left the file as it was: no room, or somebody else's turn. All else may have been the disk.
fn is_harmless(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}
