//! The transaction log: every connection from open to close, a record an event, for a trace and for other programs.
//!
//! A session notes events in its [`Trail`], which formats them into one block and hands that over when the session is
//! about to wait: nothing is locked and nothing is waited for. One thread writes the blocks. What cannot be written is
//! counted and said; mail never waits for it.

mod event;
mod fields;
pub mod json;
mod message_id;
pub mod ncsa;
mod read;
mod rotate;
mod text;
mod trace;
mod trail;
pub mod w3c;
mod writer;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};

use atrn_shared::smtp::address::Domain;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::error;

use self::writer::{Place, Writer};
use crate::config::TransactionLogConfig;
use crate::queue::SessionId;

pub use self::event::{Event, Origin, Record, Service, Subject};
pub use self::fields::{FORMATS, Field, Format};
pub use self::message_id::MessageId;
pub use self::read::{Entry, Reader};
pub use self::rotate::{CURRENT, earlier};
pub use self::trace::{FOUND_MAX, Needle, NeedleError, Told, Trace};
pub use self::trail::Trail;

/// Octets that may wait to be written, in all; what comes beyond is lost and counted.
const WAITING_OCTETS_MAX: usize = 8 << 20;
/// Blocks that may wait.
const BLOCKS_MAX: usize = 16_384;
/// The thread is woken when so much has gathered, and else looks by itself.
const WAKE_OCTETS: usize = 256 << 10;

/// The log. Clones are handles of the same one; it is written to its end with the last of them.
#[derive(Clone, Debug, Default)]
pub struct TransactionLog(Option<Arc<Handle>>);

/// Tells the time: the system's, or a test's own.
type Clock = Box<dyn Fn() -> Timestamp + Send + Sync>;

/// How the log does.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct LogState {
    /// Records written since the start.
    pub records: u64,
    /// Records lost since the start.
    pub lost: u64,
    /// Why it cannot be written now.
    pub failure: Option<String>,
}

/// Ends the thread with the last handle: what was handed over is still written.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    blocks: SyncSender<Block>,
    writer: Thread,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What sessions and the writing thread know together.
struct Shared {
    formatter: Formatter,
    hostname: String,
    clock: Clock,
    /// Octets handed over and not written.
    waiting: AtomicUsize,
    written: AtomicU64,
    lost: AtomicU64,
    stops: AtomicBool,
    failure: Mutex<Option<String>>,
}

/// Records of one session, formatted: whole lines.
#[derive(Debug)]
struct Block {
    octets: Vec<u8>,
}

/// How records become lines.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Formatter {
    /// The format.
    pub format: Format,
    /// What a record has, in order; the common log format has its own.
    pub fields: Vec<Field>,
}

impl Formatter {
    /// Appends a record: one line, whatever is in it.
    pub fn line(&self, record: &Record<'_>, output: &mut Vec<u8>) {
        match self.format {
            Format::Json => json::line(&self.fields, record, output),
            Format::Ncsa => ncsa::line(record, output),
            Format::W3c => w3c::line(&self.fields, record, output),
        }
    }

    /// What a file begins with.
    fn header(&self, now: Timestamp) -> Vec<u8> {
        match self.format {
            Format::Json | Format::Ncsa => Vec::new(),
            Format::W3c => w3c::header(&self.fields, now),
        }
    }

    /// Whether a file of this format may begin with this octet.
    fn may_begin_with(&self, first: u8) -> bool {
        match self.format {
            Format::Json => first == b'{',
            Format::Ncsa => !matches!(first, b'{' | b'#'),
            Format::W3c => first == b'#',
        }
    }
}

impl TransactionLog {
    /// A log that is not kept.
    #[must_use]
    pub fn off() -> Self {
        Self::default()
    }

    /// Starts the log, with its thread. Whatever is wrong with its files is said, and tried again: mail goes on.
    #[must_use]
    pub fn start(config: &TransactionLogConfig, data_dir: &Path, hostname: &Domain) -> Self {
        Self::with_clock(config, data_dir, hostname, Box::new(Timestamp::now))
    }

    fn with_clock(
        config: &TransactionLogConfig,
        data_dir: &Path,
        hostname: &Domain,
        clock: Clock,
    ) -> Self {
        if !config.enabled {
            return Self::off();
        }
        let shared = Arc::new(Shared {
            formatter: Formatter {
                format: config.format,
                fields: config.fields.clone(),
            },
            hostname: hostname.to_string(),
            clock,
            waiting: AtomicUsize::new(0),
            written: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            stops: AtomicBool::new(false),
            failure: Mutex::default(),
        });
        let (blocks, waiting) = sync_channel(BLOCKS_MAX);
        let place = Place {
            directory: config.directory(data_dir),
            rotate: config.rotate,
            keep: config.keep,
            max_size: config.max_size,
        };
        let writer = Writer::new(Arc::clone(&shared), waiting, place);
        let thread = thread::Builder::new().name("transactions".to_owned());
        match thread.spawn(move || writer.run()) {
            Ok(thread) => Self(Some(Arc::new(Handle {
                shared,
                blocks,
                writer: thread.thread().clone(),
                thread: Mutex::new(Some(thread)),
            }))),
            Err(error) => {
                error!(%error, "the transaction log has no thread; mail goes on without it");
                Self::off()
            }
        }
    }

    /// The records of a connection.
    #[must_use]
    pub fn session(
        &self,
        service: Service,
        id: SessionId,
        client: SocketAddr,
        server: Option<SocketAddr>,
    ) -> Trail {
        let origin = Origin {
            service,
            session: Some(id),
            client: Some(client),
            server,
            ..Origin::relay()
        };
        Trail::new(self.0.clone(), origin)
    }

    /// Records of what no connection asked for.
    #[must_use]
    pub fn relay(&self) -> Trail {
        Trail::new(self.0.clone(), Origin::relay())
    }

    /// How it does; none where it is not kept.
    #[must_use]
    pub fn state(&self) -> Option<LogState> {
        let shared = &self.0.as_ref()?.shared;
        Some(LogState {
            records: shared.written.load(Relaxed),
            lost: shared.lost.load(Relaxed),
            failure: shared.failure().clone(),
        })
    }
}

impl Handle {
    /// Hands a block over, if there is room for it.
    fn hand_over(&self, octets: Vec<u8>, records: u64) {
        let Shared { waiting, lost, .. } = &*self.shared;
        let count = octets.len();
        let before = waiting.fetch_add(count, Relaxed);
        let fits = before + count <= WAITING_OCTETS_MAX;
        if !fits || self.blocks.try_send(Block { octets }).is_err() {
            waiting.fetch_sub(count, Relaxed);
            lost.fetch_add(records, Relaxed);
        }
        if before / WAKE_OCTETS != (before + count) / WAKE_OCTETS {
            self.writer.unpark();
        }
    }
}

impl Shared {
    fn failure(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_failure(&self, failure: Option<String>) {
        *self.failure() = failure;
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.stops.store(true, Release);
        let thread = self
            .thread
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("formatter", &self.formatter)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
