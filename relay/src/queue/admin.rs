//! The admin's verbs of the store: what is in the queue, and what is done to it by hand.

use std::sync::Arc;

use jiff::Timestamp;

use super::body::{ContentReader, Stored};
use super::envelope::{Action, Lease};
use super::error::StoreError;
use super::id::{DeliveryId, DeliveryKey, QueueId, Reference};
use super::lease::{Entry, Held, SessionId};
use super::query::{
    Changed, DomainTotal, Filter, Found, Item, Message, Seized, Selection, StatsBy, StatsRow,
};
use super::sqlite::reader::{Deliveries, DeliveryRow};
use super::sqlite::writer::Change;
use super::sqlite::{list, reader, survey};
use super::{Store, claiming};

/// Deliveries of one change in one commit: a change of the whole queue must not stall accepts.
pub(super) const CHANGE_MAX: usize = 500;

impl Store {
    /// Deliveries that match, oldest first, behind `after`: page by page with the last id of the one before.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn list(
        &self,
        filter: Filter,
        after: Option<DeliveryId>,
        limit: usize,
    ) -> Result<Vec<Item>, StoreError> {
        let after = after.map(|id| id.key);
        let items = self.shared.read(move |shared, connection| {
            let rows = list::page(shared, connection, &filter, after, limit)?;
            rows.iter().map(|row| reader::item(shared, row)).collect()
        });
        items.await
    }

    /// How many deliveries match: what a change with this filter would look at.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn count(&self, filter: Filter) -> Result<Found, StoreError> {
        let found = self
            .shared
            .read(move |shared, connection| list::count(shared, connection, &filter));
        found.await
    }

    /// All that is known of one message; `None` when it is not in the queue.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn show(&self, message: QueueId) -> Result<Option<Message>, StoreError> {
        let shown = self
            .shared
            .read(move |shared, connection| reader::show(shared, connection, message));
        shown.await
    }

    /// The content of one message, whoever has it leased, and also one that changed: that is known behind its end
    /// ([`ContentReader::has_changed`]).
    ///
    /// # Errors
    /// When it cannot be read, or is damaged.
    pub async fn content(&self, message: QueueId) -> Result<Option<ContentReader>, StoreError> {
        let found = self
            .shared
            .read(move |_, connection| reader::content(connection, message));
        let Some((stored, is_spooled)) = found.await? else {
            return Ok(None);
        };
        let checksum = stored.checksum;
        let unverified = Stored {
            checksum: None,
            ..stored
        };
        let content = if is_spooled {
            let head = self.shared.head_of_content(message).await?;
            ContentReader::open(self.shared.spool(), unverified, head).await?
        } else {
            unverified.verified(self.shared.inline_content(message).await?)?
        };
        Ok(Some(content.compared_with(checksum)))
    }

    /// Deliveries by age and something else. Reads the whole queue.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn stats(&self, by: StatsBy) -> Result<Vec<StatsRow>, StoreError> {
        let now = Timestamp::now();
        self.shared
            .read(move |_, connection| survey::stats(connection, by, now))
            .await
    }

    /// What every domain has in the queue, also one that is not configured any more. Costs the same
    /// at any depth.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn totals(&self) -> Result<Vec<DomainTotal>, StoreError> {
        self.shared.read(survey::totals).await
    }

    /// Does an admin's action to all that is selected. `noted` hears of those that were looked at, some at a time, and how
    /// many of them it fitted. A delivery that a session holds is left alone
    /// and counted: what is being sent can no longer be kept back, and its outcome must find its row.
    ///
    /// # Errors
    /// When the database fails; what was done before that is durable.
    pub async fn change(
        &self,
        action: Action,
        selection: Selection,
        mut noted: impl FnMut(&[DeliveryId], u64),
    ) -> Result<Changed, StoreError> {
        let mut done = Changed::default();
        match selection {
            Selection::Ids(ids) => {
                for ids in ids.chunks(CHANGE_MAX) {
                    let keys = self.resolve(ids.to_vec(), &mut done).await?;
                    let (ids, changed) = self.change_keys(action, keys, &mut done).await?;
                    noted(&ids, changed);
                }
            }
            Selection::Filter(filter) => {
                let mut after = None;
                loop {
                    let keys = self.page(filter.clone(), after, CHANGE_MAX).await?;
                    let Some(last) = keys.last() else {
                        break;
                    };
                    after = Some(last.key);
                    let (ids, changed) = self.change_keys(action, keys, &mut done).await?;
                    noted(&ids, changed);
                }
            }
        }
        Ok(done)
    }

    /// Leases what is selected, whatever its state, so that no session sends it while it is being ended. Of a
    /// filter at most `max`, behind `after`; named ones all.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn seize(
        &self,
        selection: &Selection,
        after: Option<DeliveryId>,
        max: usize,
    ) -> Result<Seized, StoreError> {
        let mut done = Changed::default();
        let (keys, last) = match selection {
            Selection::Ids(ids) => (self.resolve(ids.clone(), &mut done).await?, None),
            Selection::Filter(filter) => {
                let after = after.map(|id| id.key);
                let keys = self.page(filter.clone(), after, max).await?;
                let last = keys.last().map(|entry| self.shared.delivery_id(entry.key));
                (keys, last)
            }
        };
        let named = keys.len() as u64;
        let held = self.hold(keys);
        Ok(Seized {
            leased: named - held.len() as u64,
            leases: self.leases(held).await?,
            unknown: done.unknown,
            last,
        })
    }

    /// Takes what nobody else holds.
    fn hold(&self, keys: Vec<Entry>) -> Vec<Held> {
        let leases = &self.shared.leases;
        let held = keys.into_iter();
        held.filter_map(|entry| leases.hold(entry, SessionId::ADMIN))
            .collect()
    }

    /// Reads what was taken; what is gone meanwhile is left out.
    pub(super) async fn leases(&self, held: Vec<Held>) -> Result<Vec<Lease>, StoreError> {
        let shared = Arc::clone(&self.shared);
        let leases = self.shared.read(move |_, connection| {
            let mut leases = Vec::with_capacity(held.len());
            let mut deliveries = Deliveries::of(connection)?;
            for mut held in held {
                match deliveries.read(held.key())? {
                    Some(row) => leases.extend(claiming::lease(&shared, held, row)?),
                    None => held.end(),
                }
            }
            Ok(leases)
        });
        leases.await
    }

    async fn resolve(
        &self,
        ids: Vec<Reference>,
        done: &mut Changed,
    ) -> Result<Vec<Entry>, StoreError> {
        let found = self.shared.read(move |_, connection| {
            let mut keys = Vec::new();
            let mut unknown = Vec::new();
            for id in ids {
                match reader::keys_of(connection, id)? {
                    found if found.is_empty() => unknown.push(id),
                    found => keys.extend(found),
                }
            }
            Ok((keys, unknown))
        });
        let (keys, mut unknown) = found.await?;
        done.unknown.append(&mut unknown);
        Ok(keys)
    }

    async fn page(
        &self,
        filter: Filter,
        after: Option<DeliveryKey>,
        max: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let rows = self.shared.read(move |shared, connection| {
            let rows = list::page(shared, connection, &filter, after, max)?;
            Ok(rows.iter().map(DeliveryRow::entry).collect())
        });
        rows.await
    }

    async fn change_keys(
        &self,
        action: Action,
        keys: Vec<Entry>,
        done: &mut Changed,
    ) -> Result<(Vec<DeliveryId>, u64), StoreError> {
        let named = keys.len() as u64;
        let held = self.hold(keys);
        let ids = held
            .iter()
            .map(|held| self.shared.delivery_id(held.key()))
            .collect();
        let free = held.len() as u64;
        let now = self.shared.clock.now();
        let change = Change {
            action,
            ended_until: None,
            now,
            held,
        };
        let changed = self.writer.change(change).await?;
        done.leased += named - free;
        done.unsuitable += free - changed;
        done.changed += changed;
        Ok((ids, changed))
    }
}
