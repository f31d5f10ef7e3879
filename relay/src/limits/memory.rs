//! Memory for the content of all messages on their way: taken before it is used, given back when it is free, and
//! never more than there is.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::queue::INLINE_BYTES;

/// How long content waits for others to make room. Below the patience of any client.
const PATIENCE: Duration = Duration::from_secs(5);

/// Content that is larger than what the database takes goes through two blocks on its way to a file, however large
/// it is.
const BLOCKS: u64 = 512 << 10;

/// What the content of a message takes while it comes, when so much of it came.
pub(crate) fn of_content(octets: u64) -> u64 {
    if octets > INLINE_BYTES as u64 {
        BLOCKS
    } else {
        // As a buffer grows.
        octets.next_power_of_two()
    }
}

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

    /// Gives all of it back.
    pub(crate) fn release(&mut self) {
        let octets = std::mem::take(&mut self.octets);
        if octets > 0 {
            self.memory.counts(|counts| counts.taken -= octets);
            self.memory.0.freed.notify_waiters();
        }
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
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_finds_none_waits_a_moment_and_gives_up() {
        let memory = Memory::new(100);
        let mut one = memory.share();
        let mut other = memory.share();
        one.grow_to(60).await.unwrap();
        one.grow_to(50).await.unwrap();
        other.grow_to(40).await.unwrap();
        assert_eq!(memory.taken(), 100);
        assert_eq!(other.grow_to(41).await, Err(Exhausted));
        assert_eq!((memory.taken(), memory.refused()), (100, 1));
        let waits = tokio::spawn(async move {
            other.grow_to(100).await.unwrap();
            other
        });
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        drop(one);
        let mut other = waits.await.unwrap();
        assert_eq!(memory.taken(), 100);
        other.release();
        assert_eq!(memory.taken(), 0);
    }

    #[test]
    fn large_content_takes_no_more_than_its_blocks() {
        for (octets, expected) in [
            (1, 1),
            (5_000, 8_192),
            (73_728, 131_072),
            (73_729, 524_288),
            (50_000_000, 524_288),
        ] {
            assert_eq!(of_content(octets), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_limit_holds_at_once() {
        let memory = Memory::new(10);
        let mut share = memory.share();
        assert_eq!(share.grow_to(20).await, Err(Exhausted));
        memory.set_limit(20);
        share.grow_to(20).await.unwrap();
        memory.set_limit(10);
        assert_eq!(share.grow_to(21).await, Err(Exhausted));
        share.grow_to(20).await.unwrap();
    }
}
