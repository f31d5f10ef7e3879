//! Who is not let in for a while, and why. A ban ends by itself, and there is an end to how many there are.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use moka::Expiry;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::Offence;
use super::addresses::Origin;

/// Bans at a time: who would need more of them than this is not stopped by bans.
const BANS_MAX: u64 = 100_000;
/// Origins that proved who they are, and are remembered for it.
const PROVEN_MAX: u64 = 10_000;
/// … and for how long.
const PROVEN_TIME: Duration = Duration::from_secs(7 * 86_400);

/// Origins that delivered mail, and are remembered for it …
const DELIVERED_MAX: u64 = 50_000;
/// … so long after the last message.
const DELIVERED_TIME: Duration = Duration::from_secs(6 * 3_600);

/// A ban.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ban {
    /// For what.
    pub(crate) offence: Offence,
    /// Since when, for people.
    pub(crate) since: Timestamp,
    pub(super) until: Instant,
}

/// All bans, and who cannot be banned.
#[derive(Debug)]
pub(super) struct Bans {
    banned: Cache<Origin, Ban>,
    proven: Cache<Origin, ()>,
    delivered: Cache<Origin, ()>,
    total: AtomicU64,
}

impl Bans {
    pub(super) fn new() -> Self {
        Self {
            banned: Cache::builder()
                .max_capacity(BANS_MAX)
                // A new ban is worth more than an old one that nobody runs into.
                .eviction_policy(EvictionPolicy::lru())
                .expire_after(UntilItsEnd)
                .build(),
            proven: Cache::builder()
                .max_capacity(PROVEN_MAX)
                .eviction_policy(EvictionPolicy::lru())
                .time_to_live(PROVEN_TIME)
                .build(),
            delivered: Cache::builder()
                .max_capacity(DELIVERED_MAX)
                .eviction_policy(EvictionPolicy::lru())
                .time_to_live(DELIVERED_TIME)
                .build(),
            total: AtomicU64::new(0),
        }
    }

    /// Bans an origin; false when it is banned already.
    pub(super) fn ban(&self, origin: Origin, offence: Offence, time: Duration) -> bool {
        let until = Instant::now() + time;
        let since = Timestamp::now();
        let entry = self.banned.entry(origin).or_insert(Ban {
            offence,
            since,
            until,
        });
        if entry.is_fresh() {
            self.total.fetch_add(1, Relaxed);
        }
        entry.is_fresh()
    }

    pub(super) fn find(&self, origin: Origin) -> Option<Ban> {
        self.banned.get(&origin)
    }

    /// Ends a ban before its time; false when there is none.
    pub(super) fn lift(&self, origin: Origin) -> bool {
        self.banned.remove(&origin).is_some()
    }

    /// All in force, in no order.
    pub(super) fn all(&self) -> Vec<(Origin, Ban)> {
        let bans = self.banned.iter();
        bans.map(|(origin, ban)| (*origin, ban)).collect()
    }

    /// Somebody there proved to be a puller of ours.
    pub(super) fn prove(&self, origin: Origin) {
        self.proven.insert(origin, ());
    }

    pub(super) fn is_proven(&self, origin: Origin) -> bool {
        self.proven.get(&origin).is_some()
    }

    /// Mail from there was accepted, which ends a ban that honest servers can meet.
    pub(super) fn delivered(&self, origin: Origin) {
        self.delivered.insert(origin, ());
        let ban = self.find(origin);
        if ban.is_some_and(|ban| ban.offence.can_be_provoked()) {
            self.lift(origin);
        }
    }

    pub(super) fn has_delivered(&self, origin: Origin) -> bool {
        self.delivered.get(&origin).is_some()
    }

    /// How many are in force, and how many there were since the start.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.banned.iter().count() as u64, self.total.load(Relaxed))
    }

    /// Gives back the memory of what has ended.
    pub(super) fn tidy(&self) {
        self.banned.run_pending_tasks();
        self.proven.run_pending_tasks();
        self.delivered.run_pending_tasks();
    }
}

/// Each ban lasts as long as it was given, whatever the setting is later.
struct UntilItsEnd;

impl Expiry<Origin, Ban> for UntilItsEnd {
    fn expire_after_create(&self, _: &Origin, ban: &Ban, created: Instant) -> Option<Duration> {
        Some(ban.until.saturating_duration_since(created))
    }
}
