//! Memory for the content of all messages on their way: taken before it is used, given back when it is free, and
//! never more than there is.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

/// How long content waits for others to make room. Below the patience of any client.
const PATIENCE: Duration = Duration::from_secs(5);

/// What all share. Clones are handles of the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    counts: Mutex<Counts>,
    freed: Notify,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    taken: u64,
    limit: u64,
    refused: u64,
}

/// What one message has of it; it is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    memory: Memory,
    octets: u64,
}

/// There is no memory for more content just now: 452 4.3.1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Exhausted;

impl Memory {
    pub(super) fn new(limit: u64) -> Self {
        let memory = Self::default();
        memory.set_limit(limit);
        memory
    }

    pub(super) fn set_limit(&self, limit: u64) {
        self.counts(|counts| counts.limit = limit);
        self.0.freed.notify_waiters();
    }

    /// Nothing yet, of which more may be asked.
    pub(crate) fn share(&self) -> Share {
        Share {
            memory: self.clone(),
            octets: 0,
        }
    }

    /// Octets that are taken at this moment.
    pub(super) fn taken(&self) -> u64 {
        self.counts(|counts| counts.taken)
    }

    /// How often there was not enough.
    pub(super) fn refused(&self) -> u64 {
        self.counts(|counts| counts.refused)
    }

    fn take(&self, octets: u64) -> bool {
        self.counts(|counts| {
            let fits = counts.taken + octets <= counts.limit;
            counts.taken += if fits { octets } else { 0 };
            fits
        })
    }

    fn counts<T>(&self, work: impl FnOnce(&mut Counts) -> T) -> T {
        work(&mut self.0.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Share {
    /// Makes it as large as this, unless it is already; waits a moment for others to give some back.
    ///
    /// # Errors
    /// [`Exhausted`]: nothing was taken beyond what it had.
    pub(crate) async fn grow_to(&mut self, octets: u64) -> Result<(), Exhausted> {
        let Some(more) = octets.checked_sub(self.octets).filter(|more| *more > 0) else {
            return Ok(());
        };
        if !self.memory.take(more) && !self.wait_for(more).await {
            self.memory.counts(|counts| counts.refused += 1);
            return Err(Exhausted);
        }
        self.octets = octets;
        Ok(())
    }

    /// In a box: it is rare, and its room would be in every session.
    async fn wait_for(&self, more: u64) -> bool {
        let shared = &self.memory.0;
        let taken = async {
            loop {
                let freed = shared.freed.notified();
                if self.memory.take(more) {
                    return;
                }
                freed.await;
            }
        };
        Box::pin(timeout(PATIENCE, taken)).await.is_ok()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.octets > 0 {
            self.memory.counts(|counts| counts.taken -= self.octets);
            self.memory.0.freed.notify_waiters();
        }
    }
}
