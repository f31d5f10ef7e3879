//! Memory for the content of all messages on their way: taken before it is used, given back when it is free, and
//! never more than there is.
//!
//! Nobody can have it all. Large content leaves a part of it to small content, which is most of all mail; and who
//! comes with many messages at once has a part of what the others leave, so that there is something left for those
//! who come next, however many hold as much as they may and send no more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::Origin;
use crate::queue::{BLOCK_BYTES, INLINE_BYTES};

/// How long one message waits in all for others to make room. Below the patience of any client.
const PATIENCE: Duration = Duration::from_secs(5);

/// One part in so many is for small content only.
const PART_FOR_SMALL: u64 = 4;

/// What an origin has beyond one message: one part in so many of what others leave.
const PART_OF_ORIGIN: u64 = 16;

/// Small is what the database takes.
fn is_small(octets: u64) -> bool {
    octets <= INLINE_BYTES as u64
}

/// What the content of a message takes while it comes, when so much of it came. What is large goes through two blocks
/// on its way to a file, however large it is.
fn of_content(octets: u64) -> u64 {
    let block = BLOCK_BYTES as u64;
    if is_small(octets) {
        // As a buffer grows.
        octets.next_power_of_two()
    } else if octets <= block {
        block
    } else {
        2 * block
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

#[derive(Debug, Default)]
struct Counts {
    taken: u64,
    limit: u64,
    refused: u64,
    by_origin: HashMap<Origin, u64>,
}

/// What one message has of it; it is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    memory: Memory,
    /// Whom it is counted for; `None`: only the limit of all holds.
    origin: Option<Origin>,
    octets: u64,
    /// How long it may still wait.
    patience: Duration,
}

/// There is no memory for more content just now: 452 4.3.1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Exhausted;

impl Counts {
    /// What content of a kind may take of all.
    fn limit_of(&self, is_small: bool) -> u64 {
        let reserve = self.limit / PART_FOR_SMALL;
        self.limit - if is_small { 0 } else { reserve }
    }

    /// Takes `more` for a share that has `has`, if it may have it.
    fn take(&mut self, share: &Share, more: u64, is_small: bool) -> bool {
        let limit = self.limit_of(is_small);
        if self.taken + more > limit {
            return false;
        }
        if let Some(origin) = share.origin {
            let own = self.by_origin.get(&origin).copied().unwrap_or(0);
            let left = limit.saturating_sub(self.taken - own);
            // One message is always let in: else nobody could bring a large one when memory is short.
            if own > share.octets && own + more > left / PART_OF_ORIGIN {
                return false;
            }
            self.by_origin.insert(origin, own + more);
        }
        self.taken += more;
        true
    }

    fn give_back(&mut self, origin: Option<Origin>, octets: u64) {
        self.taken -= octets;
        if let Some(origin) = origin
            && let Some(own) = self.by_origin.get_mut(&origin)
        {
            *own -= octets;
            if *own == 0 {
                self.by_origin.remove(&origin);
            }
        }
    }
}

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

    /// Nothing yet, of which more may be asked; counted for an origin, unless limits do not apply to it.
    pub(super) fn share(&self, origin: Option<Origin>) -> Share {
        Share {
            memory: self.clone(),
            origin,
            octets: 0,
            patience: PATIENCE,
        }
    }

    /// Octets that are taken at this moment.
    pub(super) fn taken(&self) -> u64 {
        self.counts(|counts| counts.taken)
    }

    /// Octets that are taken, and from how many on large content is put off.
    pub(super) fn fill(&self) -> (u64, u64) {
        self.counts(|counts| (counts.taken, counts.limit_of(false)))
    }

    /// How often there was not enough.
    pub(super) fn refused(&self) -> u64 {
        self.counts(|counts| counts.refused)
    }

    fn counts<T>(&self, work: impl FnOnce(&mut Counts) -> T) -> T {
        work(&mut self.0.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Share {
    /// Makes it large enough for so much content and for what is kept `beside` it, unless it is already; waits a
    /// moment for others to give some back.
    ///
    /// # Errors
    /// [`Exhausted`]: nothing was taken beyond what it had.
    pub(crate) async fn grow_to(&mut self, content: u64, beside: u64) -> Result<(), Exhausted> {
        let octets = of_content(content) + beside;
        let Some(more) = octets.checked_sub(self.octets).filter(|more| *more > 0) else {
            return Ok(());
        };
        let is_small = is_small(content);
        if !self.take(more, is_small) && !Box::pin(self.wait_for(more, is_small)).await {
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
            let origin = self.origin;
            self.memory
                .counts(|counts| counts.give_back(origin, octets));
            self.memory.0.freed.notify_waiters();
        }
    }

    fn take(&self, more: u64, is_small: bool) -> bool {
        self.memory
            .counts(|counts| counts.take(self, more, is_small))
    }

    /// In a box where it is called: it is rare, and its room would be in every session.
    async fn wait_for(&mut self, more: u64, is_small: bool) -> bool {
        let began = Instant::now();
        let shared = &self.memory.0;
        let taken = async {
            loop {
                let freed = shared.freed.notified();
                if self.take(more, is_small) {
                    return;
                }
                freed.await;
            }
        };
        let is_taken = timeout(self.patience, taken).await.is_ok();
        self.patience = self.patience.saturating_sub(began.elapsed());
        is_taken
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

    const KIB: u64 = 1 << 10;
    const LARGE: u64 = 1 << 20;

    fn origin(number: u32) -> Option<Origin> {
        Some(Origin::of(std::net::Ipv4Addr::from_bits(number).into()))
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_none_waits_a_moment_and_gives_up() {
        let memory = Memory::new(128);
        let mut one = memory.share(None);
        let mut other = memory.share(None);
        one.grow_to(64, 0).await.unwrap();
        one.grow_to(50, 0).await.unwrap();
        other.grow_to(32, 32).await.unwrap();
        assert_eq!(memory.taken(), 128);
        assert_eq!(other.grow_to(32, 33).await, Err(Exhausted));
        assert_eq!((memory.taken(), memory.refused()), (128, 1));
        let mut third = memory.share(None);
        let waits = tokio::spawn(async move {
            third.grow_to(64, 0).await.unwrap();
            third
        });
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        drop(one);
        let mut third = waits.await.unwrap();
        assert_eq!(memory.taken(), 128);
        third.release();
        other.release();
        assert_eq!(memory.taken(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_waits_so_long_in_all() {
        let memory = Memory::new(64);
        let mut share = memory.share(None);
        share.grow_to(64, 0).await.unwrap();
        let began = Instant::now();
        for _ in 0..9 {
            assert_eq!(share.grow_to(128, 0).await, Err(Exhausted));
        }
        assert!(began.elapsed() < 2 * PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn large_content_leaves_a_part_to_small() {
        let memory = Memory::new(4 << 20);
        let mut large: Vec<_> = (0..7).map(|number| memory.share(origin(number))).collect();
        for share in &mut large[..6] {
            share.grow_to(LARGE, 0).await.unwrap();
        }
        assert_eq!(memory.fill(), (3 << 20, 3 << 20));
        assert_eq!(large[6].grow_to(LARGE, 0).await, Err(Exhausted));
        let mut small = memory.share(origin(9));
        small.grow_to(INLINE_BYTES as u64, 0).await.unwrap();
        assert_eq!(
            small.grow_to(INLINE_BYTES as u64 + 1, 0).await,
            Err(Exhausted)
        );
        assert_eq!(memory.taken(), (3 << 20) + 128 * KIB);
    }

    /// As many as connect from one address, from as many addresses as once held all of it.
    #[tokio::test(start_paused = true)]
    async fn who_comes_next_finds_some_however_much_others_hold() {
        let memory = Memory::new(256 << 20);
        let mut held = Vec::new();
        for number in 0..27 {
            for _ in 0..20 {
                let mut share = memory.share(origin(number));
                share.patience = Duration::ZERO;
                if share.grow_to(LARGE, 0).await.is_ok() {
                    held.push(share);
                }
            }
        }
        assert!(held.len() > 200, "{}", held.len());
        let mut honest: Vec<_> = (0..4).map(|_| memory.share(origin(99))).collect();
        for share in &mut honest {
            share.grow_to(LARGE, 0).await.unwrap();
        }
        // One address alone has a sixteenth, unless limits do not apply to it.
        drop((held, honest));
        assert_eq!(memory.counts(|counts| counts.by_origin.len()), 0);
        for (from, expected) in [(origin(1), 24), (None, 384)] {
            let mut held = Vec::new();
            loop {
                let mut share = memory.share(from);
                share.patience = Duration::ZERO;
                if share.grow_to(LARGE, 0).await.is_err() {
                    break;
                }
                held.push(share);
            }
            assert_eq!(held.len(), expected, "{from:?}");
        }
    }

    #[test]
    fn large_content_takes_no_more_than_its_blocks() {
        for (octets, expected) in [
            (1, 1),
            (5_000, 8_192),
            (73_728, 131_072),
            (73_729, 262_144),
            (262_144, 262_144),
            (262_145, 524_288),
            (50_000_000, 524_288),
        ] {
            assert_eq!(of_content(octets), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_limit_holds_at_once() {
        let memory = Memory::new(16);
        let mut share = memory.share(origin(1));
        assert_eq!(share.grow_to(32, 0).await, Err(Exhausted));
        memory.set_limit(32);
        share.grow_to(32, 0).await.unwrap();
        memory.set_limit(16);
        assert_eq!(share.grow_to(33, 0).await, Err(Exhausted));
        share.grow_to(32, 0).await.unwrap();
    }
}
