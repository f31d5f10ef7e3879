//! The sessions' side of the store: what may be sent now, by whom, and when to look again.

use std::sync::Arc;
use std::time::Duration;

use atrn_shared::smtp::address::Domain;
use atrn_shared::steady::Moment;
use rusqlite::Connection;

use super::Store;
use super::envelope::{Lease, Place, State};
use super::error::StoreError;
use super::lease::{Held, SessionId};
use super::news::Watch;
use super::sqlite::candidates::{self, Line};
use super::sqlite::reader::{self, Deliveries, DeliveryRow};
use super::sqlite::{Shared, in_one_view};

/// A claim ends with the message that reaches this: what one session has taken, those beside it cannot send. Small
/// content comes along, so that it needs no second look into the database.
pub(super) const CLAIM_OCTETS_MAX: u64 = 1024 * 1024;

impl Store {
    /// Takes up to `max` deliveries of these domains for a session, without those that another session has: of each
    /// domain in the order in which they came, and of the domains in turn, so that a long queue of one does not make the
    /// others wait. Nothing is written, so it may be called as often as need be; there may be more until nothing comes.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn claim(
        &self,
        session: SessionId,
        domains: &[Domain],
        max: usize,
    ) -> Result<Vec<Lease>, StoreError> {
        let domains = self.lively(domains);
        if domains.is_empty() || max == 0 {
            return Ok(Vec::new());
        }
        let shared = Arc::clone(&self.shared);
        let claimed = self.shared.read(move |_, connection| {
            in_one_view(connection, || {
                let taken = take(&shared, connection, session, &domains, max)?;
                let leases = taken.into_iter();
                let leases = leases.map(|(held, row)| with_content(&shared, connection, held, row));
                leases.filter_map(Result::transpose).collect()
            })
        });
        claimed.await
    }

    /// Whether a claim would bring anything now: the answer to ATRN.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn waiting(&self, domains: &[Domain]) -> Result<bool, StoreError> {
        let domains = self.lively(domains);
        if domains.is_empty() {
            return Ok(false);
        }
        let found = self.shared.read(move |shared, connection| {
            in_one_view(connection, || {
                let mut claim = shared.leases.claim();
                let lines = shared.lines(&domains);
                candidates::find(connection, &mut claim, lines, 1, shared.clock.now())
            })
        });
        Ok(!found.await?.is_empty())
    }

    /// Watches these domains from now on, for a session that finds nothing to claim. They may be domains that never had
    /// mail. The loop: make it, then claim until nothing comes, then wait for [`Watch::news`] or the time that
    /// [`Store::next_due`] says, then claim again.
    #[must_use]
    pub fn watch(&self, domains: &[Domain]) -> Watch {
        self.shared.leases.news().watch(domains)
    }

    /// How long until a deferred delivery of these domains may be tried again, which is no news to anybody. `None` when
    /// there is none that nobody holds. Costs nothing behind a claim that brought nothing.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn next_due(&self, domains: &[Domain]) -> Result<Option<Duration>, StoreError> {
        let keys = self.shared.catalog().keys_of(domains);
        let lines = self.shared.lines(&keys);
        let deferred = lines.iter().filter(|line| line.has_deferred);
        let deferred: Vec<i64> = deferred.map(|line| line.domain).collect();
        let (known, unknown) = self.shared.leases.quiet_until(deferred);
        let found = match unknown.is_empty() {
            true => None,
            false => {
                let due = self.shared.read(move |shared, connection| {
                    candidates::next_due(connection, &shared.leases, &unknown)
                });
                due.await?
            }
        };
        let now = self.shared.clock.now();
        let wait = |due: Moment| u64::try_from(due.millis() - now.millis()).unwrap_or(0);
        let due = known.into_iter().chain(found).min();
        Ok(due.map(|due| Duration::from_millis(wait(due))))
    }

    /// Deliveries that sessions hold now.
    #[must_use]
    pub fn leased(&self) -> usize {
        self.shared.leases.count()
    }

    /// Where a claim has to look. Not where one found nothing and nothing happened since: an account may have a
    /// thousand domains.
    pub(super) fn lively(&self, domains: &[Domain]) -> Vec<i64> {
        let keys = self.shared.catalog().keys_of(domains);
        let lines = self.shared.lines(&keys);
        let mut domains = lines.iter().map(|line| line.domain).collect();
        let now = self.shared.clock.now();
        self.shared.leases.retain_lively(&mut domains, now);
        domains
    }
}

impl Shared {
    /// What waits in these domains, where anything does. For a claim: to be asked when that has begun, for what comes
    /// later is then told to it.
    fn lines(&self, domains: &[i64]) -> Vec<Line> {
        let catalog = self.catalog();
        let lines = domains.iter().map(|domain| {
            let has = |state| catalog.amount(*domain, state).deliveries > 0;
            Line {
                domain: *domain,
                has_fresh: has(State::Queued),
                has_deferred: has(State::Deferred),
            }
        });
        lines
            .filter(|line| line.has_fresh || line.has_deferred)
            .collect()
    }
}

/// Holds what is next, with its rows.
fn take(
    shared: &Shared,
    connection: &Connection,
    session: SessionId,
    domains: &[i64],
    max: usize,
) -> Result<Vec<(Held, DeliveryRow)>, StoreError> {
    let mut claim = shared.leases.claim();
    let lines = shared.lines(domains);
    let entries = candidates::find(connection, &mut claim, lines, max, shared.clock.now())?;
    let mut deliveries = Deliveries::of(connection)?;
    let mut taken = Vec::with_capacity(entries.len());
    let mut octets = 0;
    for entry in entries {
        let Some(mut held) = claim.hold(entry, session) else {
            continue;
        };
        let Some(row) = deliveries.read(entry.key)? else {
            held.end();
            continue;
        };
        octets += row.size();
        taken.push((held, row));
        if octets >= CLAIM_OCTETS_MAX {
            break;
        }
    }
    Ok(taken)
}

/// The lease of a delivery that is held, with what is needed to send it but its content.
pub(super) fn lease(
    shared: &Arc<Shared>,
    held: Held,
    row: DeliveryRow,
) -> Result<Option<Lease>, StoreError> {
    let (is_spooled, held_since, checksum) = (row.is_spooled(), row.held_since(), row.checksum());
    let delivery = match row.into_delivery(shared) {
        Ok(delivery) => delivery,
        Err(error) => {
            // Nobody can send it, and it must not stop the others: it stays leased, so that it
            // shows in lists and is not claimed again, until somebody looks at it.
            tracing::error!(delivery_id = %shared.delivery_id(held.key()), %error, "cannot be delivered");
            std::mem::forget(held);
            return Ok(None);
        }
    };
    Ok(Some(Lease {
        delivery,
        held,
        place: match is_spooled {
            true => Place::Spool(None),
            false => Place::Inline,
        },
        held_since,
        checksum,
        shared: Arc::clone(shared),
    }))
}

fn with_content(
    shared: &Arc<Shared>,
    connection: &Connection,
    held: Held,
    row: DeliveryRow,
) -> Result<Option<Lease>, StoreError> {
    let Some(mut lease) = lease(shared, held, row)? else {
        return Ok(None);
    };
    let content = reader::inline(connection, lease.id.queue_id())?;
    lease.place = match lease.place {
        Place::Spool(_) => Place::Spool(Some(content.unwrap_or_default())),
        _ => {
            let whole = content.filter(|content| content.len() as u64 == lease.size);
            whole.map_or(Place::Inline, Place::Here)
        }
    };
    Ok(Some(lease))
}
