//! The clock's verbs of the store: what has waited too long, and what was kept long enough.

use std::ops::ControlFlow;
use std::time::Duration;

use atrn_shared::smtp::address::Domain;
use atrn_shared::steady::Moment;
use jiff::Timestamp;

use super::Store;
use super::envelope::{Action, Lease, State};
use super::error::StoreError;
use super::id::{DeliveryId, DeliveryKey};
use super::lease::{Entry, Held, SessionId};
use super::query::Found;
use super::retry::{self, Waiting};
use super::sqlite::reader::{self, Oldest};
use super::sqlite::writer::{Change, Now};

/// Deliveries that are looked at, or removed, at a time: ageing must not stall accepts.
const STEP: usize = 500;

impl Store {
    /// Leases up to `max` deliveries of a domain that have waited longer than `hold_for`, oldest first. What an
    /// admin holds back does not age, and what a session is sending has its chance.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn overdue(
        &self,
        domain: &Domain,
        hold_for: Duration,
        max: usize,
    ) -> Result<Vec<Lease>, StoreError> {
        let now = self.now();
        let mut held: Vec<Held> = Vec::new();
        for state in [State::Queued, State::Deferred] {
            let left = max - held.len();
            let found = self.oldest(domain, state, hold_for, left, move |entry| {
                let waiting = waiting(entry.held_since, entry.received_at, now);
                retry::is_overdue(&waiting, hold_for)
            });
            held.extend(found.await?);
        }
        self.still_overdue(held, hold_for).await
    }

    /// Reads what was found to be overdue once more, now that nobody else can change it: an admin may have kept it back,
    /// or given it its whole time again, before it was held.
    pub(super) async fn still_overdue(
        &self,
        held: Vec<Held>,
        hold_for: Duration,
    ) -> Result<Vec<Lease>, StoreError> {
        let mut leases = self.leases(held).await?;
        let now = self.now();
        leases.retain(|lease| {
            let waits = matches!(lease.state, State::Deferred | State::Queued);
            let waiting = waiting(lease.held_since, lease.received_at, now);
            waits && retry::is_overdue(&waiting, hold_for)
        });
        Ok(leases)
    }

    /// Removes failed and expired deliveries of a domain that ended longer ago than `keep`; how many.
    ///
    /// # Errors
    /// When the database fails; what was removed before that is gone.
    pub async fn forget(
        &self,
        domain: &Domain,
        keep: Duration,
        mut noted: impl FnMut(&[DeliveryId], u64),
    ) -> Result<u64, StoreError> {
        let limit = self.now().steady.before(keep);
        let mut forgotten = 0;
        for state in [State::Failed, State::Expired] {
            loop {
                let found =
                    self.oldest(domain, state, keep, STEP, move |entry| entry.since <= limit);
                let held = found.await?;
                if held.is_empty() {
                    break;
                }
                let ids: Vec<_> = held
                    .iter()
                    .map(|held| self.shared.delivery_id(held.key()))
                    .collect();
                let change = Change {
                    action: Action::Remove,
                    ended_until: Some(limit),
                    now: self.now().steady,
                    held,
                };
                let changed = self.writer.change(change).await?;
                noted(&ids, changed);
                forgotten += changed;
            }
        }
        Ok(forgotten)
    }

    /// What a domain has in the queue, in whatever state. In memory, so it may be asked for each recipient.
    #[must_use]
    pub fn amount(&self, domain: &Domain) -> Found {
        let catalog = self.shared.catalog();
        let mut found = Found::default();
        let Some(key) = catalog.keys.get(domain) else {
            return found;
        };
        for state in State::STORED {
            let amount = catalog.amount(*key, state);
            found.messages += amount.deliveries.max(0).cast_unsigned();
            found.bytes += amount.octets.max(0).cast_unsigned();
        }
        found
    }

    /// Holds up to `max` of the deliveries in a state that `wanted` wants, among those whose message has been here
    /// for `age` at least.
    async fn oldest(
        &self,
        domain: &Domain,
        state: State,
        age: Duration,
        max: usize,
        wanted: impl Fn(reader::Held) -> bool + Send + Copy + 'static,
    ) -> Result<Vec<Held>, StoreError> {
        let Some(domain) = self.place(domain, state) else {
            return Ok(Vec::new());
        };
        let until = self.now().steady.before(age);
        let mut after: Option<DeliveryKey> = None;
        let mut held = Vec::new();
        // A few at a time, each with a view of the database of its own: one that is kept long keeps the log long.
        while held.len() < max {
            let oldest = Oldest {
                domain,
                state,
                until,
                after,
            };
            let (keys, last) = self.step(oldest, max - held.len(), wanted).await?;
            let leases = &self.shared.leases;
            held.extend(
                keys.into_iter()
                    .filter_map(|key| leases.hold(Entry { key, domain }, SessionId::ADMIN)),
            );
            if last.is_none() {
                break;
            }
            after = last;
        }
        Ok(held)
    }

    /// The keys that are wanted among the next [`STEP`], and where to go on.
    async fn step(
        &self,
        oldest: Oldest,
        max: usize,
        wanted: impl Fn(reader::Held) -> bool + Send + Copy + 'static,
    ) -> Result<(Vec<DeliveryKey>, Option<DeliveryKey>), StoreError> {
        let step = self.shared.read(move |_, connection| {
            let (mut keys, mut last, mut seen) = (Vec::new(), None, 0);
            reader::oldest(connection, oldest, |key, entry| {
                seen += 1;
                if wanted(entry) {
                    keys.push(key);
                }
                if seen < STEP && keys.len() < max {
                    return ControlFlow::Continue(());
                }
                last = Some(key);
                ControlFlow::Break(())
            })?;
            Ok((keys, last))
        });
        step.await
    }

    /// Where deliveries of this state are, if there are any.
    fn place(&self, domain: &Domain, state: State) -> Option<i64> {
        let catalog = self.shared.catalog();
        let key = *catalog.keys.get(domain)?;
        (catalog.amount(key, state).deliveries > 0).then_some(key)
    }
}

fn waiting(held_since: Moment, received_at: Timestamp, now: Now) -> Waiting {
    Waiting {
        held_since,
        steady: now.steady,
        received_at,
        wall: now.wall,
    }
}
