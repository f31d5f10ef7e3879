//! Who is working on which delivery. In memory only: a claim writes nothing, and a crash frees all.
//!
//! A claim reads the database and this table at two moments. A delivery that is settled in between
//! is still in the claim's view of the database and no longer in the table: it would be sent twice.
//! So what is freed while a claim runs stays in limbo until that claim ends.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::id::DeliveryKey;
use super::news::News;

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
    claim: Mutex<()>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    held: HashMap<DeliveryKey, SessionId>,
    claiming: bool,
    limbo: HashSet<DeliveryKey>,
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
    _turn: MutexGuard<'a, ()>,
}

impl Leases {
    pub(super) fn new(news: Arc<News>) -> Self {
        Self {
            news,
            ..Self::default()
        }
    }

    pub(super) fn claim(self: &Arc<Self>) -> Claim<'_> {
        let turn = self.claim.lock().unwrap_or_else(PoisonError::into_inner);
        self.table().claiming = true;
        Claim {
            leases: self,
            _turn: turn,
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

    pub(super) fn hold(&self, entry: Entry, session: SessionId) -> Option<Held> {
        let mut table = self.leases.table();
        if table.limbo.contains(&entry.key) {
            return None;
        }
        self.leases.insert(&mut table, entry, session)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut table = self.leases.table();
        table.claiming = false;
        table.limbo.clear();
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
            self.leases.news.tell([self.domain]);
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
        let claim = leases.claim();
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
