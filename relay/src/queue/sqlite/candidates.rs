//! What may be claimed: of each domain in the order of arrival, of the domains in turn.

use atrn_shared::steady::Moment;
use rusqlite::{CachedStatement, Connection};

use super::super::error::StoreError;
use super::super::id::DeliveryKey;
use super::super::lease::{Claim, Entry, Leases};
use super::reader::failed;
use super::row::key;

const FRESH: &str = "SELECT message, number FROM delivery WHERE domain = ?1 AND state = 0
     ORDER BY message, number";
const DEFERRED: &str = "SELECT message, number, next_attempt FROM delivery WHERE domain = ?1
     AND state = 1 ORDER BY next_attempt";

/// A domain that has mail waiting.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Line {
    pub(in super::super) domain: i64,
    pub(in super::super) has_fresh: bool,
    pub(in super::super) has_deferred: bool,
}

/// What was found of one domain in one state.
struct Part {
    domain: i64,
    found: Vec<Entry>,
    /// So many were asked for.
    wanted: usize,
    /// There are no more.
    is_done: bool,
    /// When the first that is not due yet will be.
    until: Option<Moment>,
}

/// Up to `max` deliveries that may be claimed, in the order in which they should go: from each domain one after the
/// other, first from those whose turn was longest ago. What is read is bounded by `max`, not by the number of domains or
/// their mail.
///
/// Of the deferred ones whose time has come at most half are taken while fresh mail waits too:
/// neither a pile of mail that is refused again and again nor a steady stream of new mail stops the
/// other.
pub(in super::super) fn find(
    connection: &Connection,
    claim: &mut Claim<'_>,
    mut lines: Vec<Line>,
    max: usize,
    now: Moment,
) -> Result<Vec<Entry>, StoreError> {
    claim.sort_by_turn(&mut lines);
    let parts = |has: fn(&Line) -> bool| -> Vec<Part> {
        let parts = lines.iter().map(|line| Part::new(line.domain, has(line)));
        parts.collect()
    };
    let mut fresh = parts(|line| line.has_fresh);
    let mut due = parts(|line| line.has_deferred);
    let mut read = || -> rusqlite::Result<()> {
        let mut statement = connection.prepare_cached(FRESH)?;
        share_out(&mut fresh, max, |part| {
            part.read_fresh(&mut statement, claim)
        })?;
        let mut statement = connection.prepare_cached(DEFERRED)?;
        share_out(&mut due, max, |part| {
            part.read_due(&mut statement, claim, now)
        })
    };
    read().map_err(failed)?;
    for (fresh, due) in fresh.iter().zip(&due) {
        if fresh.is_bare() && due.is_bare() {
            claim.found_nothing(fresh.domain, due.until);
        }
    }
    let (mut fresh, mut due) = (in_turn(&fresh, max), in_turn(&due, max));
    due.truncate(max.div_ceil(2).max(max.saturating_sub(fresh.len())));
    fresh.truncate(max - due.len());
    due.append(&mut fresh);
    Ok(due)
}

/// When the first of the deferred deliveries that nobody holds may be tried again.
pub(in super::super) fn next_due(
    connection: &Connection,
    leases: &Leases,
    domains: &[i64],
) -> Result<Option<Moment>, StoreError> {
    let first = |domain: &i64| -> rusqlite::Result<Option<i64>> {
        let mut statement = connection.prepare_cached(DEFERRED)?;
        let mut rows = statement.query([domain])?;
        while let Some(row) = rows.next()? {
            if leases.holder(key(row)?).is_none() {
                return row.get(2).map(Some);
            }
        }
        Ok(None)
    };
    let found = domains.iter().map(first);
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(failed)?;
    Ok(found.into_iter().flatten().min().map(Moment::from_millis))
}

impl Part {
    fn new(domain: i64, has_any: bool) -> Self {
        Self {
            domain,
            found: Vec::new(),
            wanted: 0,
            is_done: !has_any,
            until: None,
        }
    }

    /// It was looked at to the end, and nothing was there.
    fn is_bare(&self) -> bool {
        self.is_done && self.found.is_empty()
    }

    fn read_fresh(
        &mut self,
        statement: &mut CachedStatement<'_>,
        claim: &Claim<'_>,
    ) -> rusqlite::Result<()> {
        let mut rows = statement.query([self.domain])?;
        while self.found.len() < self.wanted {
            let Some(row) = rows.next()? else {
                self.is_done = true;
                break;
            };
            self.add(key(row)?, claim);
        }
        Ok(())
    }

    fn read_due(
        &mut self,
        statement: &mut CachedStatement<'_>,
        claim: &Claim<'_>,
        now: Moment,
    ) -> rusqlite::Result<()> {
        let mut rows = statement.query([self.domain])?;
        while self.found.len() < self.wanted {
            let Some(row) = rows.next()? else {
                self.is_done = true;
                break;
            };
            let (key, next_attempt) = (key(row)?, Moment::from_millis(row.get(2)?));
            if next_attempt <= now {
                self.add(key, claim);
            } else if claim.is_free(key) {
                self.until = Some(next_attempt);
                self.is_done = true;
                break;
            }
        }
        Ok(())
    }

    fn add(&mut self, key: DeliveryKey, claim: &Claim<'_>) {
        if claim.is_free(key) {
            let domain = self.domain;
            self.found.push(Entry { key, domain });
        }
    }
}

/// Reads from all parts the same, as far as they have it, until there are `max`. Who has less leaves his share to the
/// others; those are then read again from the beginning, to more.
fn share_out(
    parts: &mut [Part],
    max: usize,
    mut read: impl FnMut(&mut Part) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    loop {
        let found: usize = parts.iter().map(|part| part.found.len()).sum();
        let open = parts.iter().filter(|part| !part.is_done).count();
        let mut left = max.saturating_sub(found);
        if left == 0 || open == 0 {
            return Ok(());
        }
        let share = left.div_ceil(open);
        for part in parts.iter_mut().filter(|part| !part.is_done) {
            if left == 0 {
                break;
            }
            let before = part.found.len();
            part.wanted = before + share.min(left);
            part.found.clear();
            read(part)?;
            left = left.saturating_sub(part.found.len().saturating_sub(before));
        }
    }
}

/// The first of each part, then the second of each, up to `max`.
fn in_turn(parts: &[Part], max: usize) -> Vec<Entry> {
    let longest = parts.iter().map(|part| part.found.len()).max();
    let rounds = (0..longest.unwrap_or(0)).flat_map(|round| {
        let parts = parts.iter();
        parts.filter_map(move |part| part.found.get(round).copied())
    });
    rounds.take(max).collect()
}
