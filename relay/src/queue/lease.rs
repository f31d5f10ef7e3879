//! Who is working on which delivery. In memory only: a claim writes nothing, and a crash frees all.
//!
//! A claim reads the database and this table at two moments. A delivery that is settled in between
//! is still in the claim's view of the database and no longer in the table: it would be sent twice.
//! So what is freed while a claim runs stays in limbo until that claim ends.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atrn_shared::steady::Moment;

use super::id::DeliveryKey;
use super::news::News;
use super::sqlite::candidates::Line;

/// The session that holds a lease; unique in the process, and the same number as in the logs.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, serde::Serialize)]
pub struct SessionId(pub u64);

impl SessionId {
    /// An admin's change holds what it changes, so that no session sends it at the same time.
    pub(super) const ADMIN: Self = Self(u64::MAX);
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// A delivery that was found in the database, with its domain's key there.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Entry {
    pub(super) key: DeliveryKey,
    pub(super) domain: i64,
}

/// All leases of a store.
#[derive(Debug, Default)]
pub(super) struct Leases {
    news: Arc<News>,
    /// One claim at a time: two would race for the same rows and both come back short.
    turns: Mutex<Turns>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    held: HashMap<DeliveryKey, SessionId>,
    claiming: bool,
    limbo: HashSet<DeliveryKey>,
    /// Domains in which a claim found nothing, and nothing happened since: until when that is so, if ever something
    /// comes of it by itself.
    quiet: HashMap<i64, Option<Moment>>,
    /// Domains in which something happened while a claim runs.
    told: HashSet<i64>,
}

/// When each domain was served last: a number that only grows.
#[derive(Debug, Default)]
struct Turns {
    served: HashMap<i64, u64>,
    last: u64,
}

/// One lease; dropping it frees the delivery, which is news to whoever waits for its domain.
#[derive(Debug)]
pub(super) struct Held {
    key: DeliveryKey,
    domain: i64,
    /// The delivery is free already.
    has_ended: bool,
    leases: Arc<Leases>,
}

/// A claim that runs: take its view of the database after this exists.
pub(super) struct Claim<'a> {
    leases: &'a Arc<Leases>,
    turns: MutexGuard<'a, Turns>,
    nothing: Vec<(i64, Option<Moment>)>,
}

impl Leases {
    pub(super) fn new(news: Arc<News>) -> Self {
        Self {
            news,
            ..Self::default()
        }
    }

    pub(super) fn claim(self: &Arc<Self>) -> Claim<'_> {
        let turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        self.table().claiming = true;
        Claim {
            leases: self,
            turns,
            nothing: Vec::new(),
        }
    }

    /// Takes a delivery outside a claim, for a change that looks at the database only afterwards.
    pub(super) fn hold(self: &Arc<Self>, entry: Entry, session: SessionId) -> Option<Held> {
        self.insert(&mut self.table(), entry, session)
    }

    pub(super) fn holder(&self, key: DeliveryKey) -> Option<SessionId> {
        self.table().held.get(&key).copied()
    }

    /// What is leased now, oldest first.
    pub(super) fn keys(&self) -> Vec<DeliveryKey> {
        let mut keys: Vec<_> = self.table().held.keys().copied().collect();
        keys.sort_unstable();
        keys
    }

    pub(super) fn news(&self) -> &Arc<News> {
        &self.news
    }

    /// A claim of these domains may bring something that it did not bring before.
    pub(super) fn tell<'a>(&self, domains: impl IntoIterator<Item = &'a i64> + Clone) {
        let mut table = self.table();
        for domain in domains.clone() {
            table.quiet.remove(domain);
            if table.claiming {
                table.told.insert(*domain);
            }
        }
        drop(table);
        self.news.tell(domains);
    }

    /// Leaves out the domains in which a claim would find nothing.
    pub(super) fn retain_lively(&self, domains: &mut Vec<i64>, now: Moment) {
        let table = self.table();
        domains.retain(|domain| {
            let quiet = table.quiet.get(domain);
            quiet.is_none_or(|until| until.is_some_and(|until| until <= now))
        });
    }

    /// When something comes of these domains by themselves; and those of which that is not known.
    pub(super) fn quiet_until(&self, mut domains: Vec<i64>) -> (Option<Moment>, Vec<i64>) {
        let table = self.table();
        let mut first = None;
        domains.retain(|domain| match table.quiet.get(domain) {
            None => true,
            Some(until) => {
                first = first.into_iter().chain(*until).min();
                false
            }
        });
        (first, domains)
    }

    pub(super) fn count(&self) -> usize {
        self.table().held.len()
    }

    fn insert(
        self: &Arc<Self>,
        table: &mut Table,
        Entry { key, domain }: Entry,
        session: SessionId,
    ) -> Option<Held> {
        if table.held.contains_key(&key) {
            return None;
        }
        table.held.insert(key, session);
        Some(Held {
            key,
            domain,
            has_ended: false,
            leases: Arc::clone(self),
        })
    }

    /// Nothing in here panics with the lock held, so a poisoned one is still in order.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim<'_> {
    /// Whether the delivery may be taken.
    pub(super) fn is_free(&self, key: DeliveryKey) -> bool {
        let table = self.leases.table();
        !table.held.contains_key(&key) && !table.limbo.contains(&key)
    }

    /// Takes it, and with it the turn of its domain.
    pub(super) fn hold(&mut self, entry: Entry, session: SessionId) -> Option<Held> {
        let mut table = self.leases.table();
        if table.limbo.contains(&entry.key) {
            return None;
        }
        let held = self.leases.insert(&mut table, entry, session)?;
        self.turns.last += 1;
        let turn = self.turns.last;
        self.turns.served.insert(entry.domain, turn);
        Some(held)
    }

    /// First those whose turn was longest ago.
    pub(super) fn sort_by_turn(&self, lines: &mut [Line]) {
        let turn = |line: &Line| self.turns.served.get(&line.domain).copied();
        lines.sort_by_cached_key(|line| (turn(line), line.domain));
    }

    /// Nothing of this domain is free, until then if at all. It is believed if nothing happened in it during this claim.
    pub(super) fn found_nothing(&mut self, domain: i64, until: Option<Moment>) {
        self.nothing.push((domain, until));
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut table = self.leases.table();
        table.claiming = false;
        table.limbo.clear();
        let told = std::mem::take(&mut table.told);
        let nothing = self.nothing.drain(..);
        table
            .quiet
            .extend(nothing.filter(|(domain, _)| !told.contains(domain)));
    }
}

impl Held {
    pub(super) fn key(&self) -> DeliveryKey {
        self.key
    }

    /// Ends the lease of a delivery that is gone, or whose new state is told to those who wait by whoever stored it.
    pub(super) fn end(&mut self) {
        self.has_ended = true;
        let mut table = self.leases.table();
        table.held.remove(&self.key);
        if table.claiming {
            table.limbo.insert(self.key);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.has_ended {
            self.end();
            self.leases.tell(&[self.domain]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::id::QueueId;
    use super::*;

    const SESSION: SessionId = SessionId(1);

    fn key(number: u32) -> DeliveryKey {
        let message = QueueId(1);
        DeliveryKey { message, number }
    }

    fn entry(number: u32) -> Entry {
        let key = key(number);
        Entry { key, domain: 1 }
    }

    #[test]
    fn a_delivery_has_one_holder_until_it_is_freed() {
        let leases = Arc::new(Leases::default());
        let held = leases.hold(entry(1), SESSION).unwrap();
        assert!(leases.hold(entry(1), SessionId(2)).is_none());
        assert!(leases.hold(entry(2), SessionId(2)).is_some());
        assert_eq!(leases.holder(key(1)), Some(SESSION));
        drop(held);
        assert!(leases.hold(entry(1), SessionId(2)).is_some());
    }

    #[test]
    fn what_is_freed_during_a_claim_waits_for_its_end() {
        let leases = Arc::new(Leases::default());
        let settled = leases.hold(entry(1), SESSION).unwrap();
        let mut claim = leases.claim();
        drop(settled);
        assert!(!claim.is_free(key(1)));
        assert!(claim.hold(entry(1), SESSION).is_none());
        drop(claim);
        assert!(leases.claim().hold(entry(1), SESSION).is_some());
    }

    #[test]
    fn limbo_binds_only_claims() {
        let leases = Arc::new(Leases::default());
        let held = leases.hold(entry(1), SESSION).unwrap();
        let claim = leases.claim();
        drop(held);
        assert!(leases.hold(entry(1), SessionId::ADMIN).is_some());
        drop(claim);
        assert_eq!(leases.count(), 0);
    }
}
