//! Accept, settle and change as SQL. An operation can be applied again after a rollback; what it
//! means for the world outside waits in [`Effects`] until the commit is durable.

use std::collections::HashMap;

use atrn_shared::smtp::address::Domain;
use atrn_shared::steady::{Mark, Moment};
use rusqlite::{Connection, OptionalExtension, params};

use super::super::body::Body;
use super::super::envelope::{Judge, State, Target};
use super::super::id::{DeliveryKey, QueueId};
use super::super::retry;
use super::operation::{Accept, Change, Effects, Settle, Verdict};
use super::row::{self, SPOOLED};

/// Ids are marked as given this far ahead, so that the mark is written once a minute, not each time.
const MARK_AHEAD_MILLIS: i64 = 60_000;

/// One transaction under way.
pub(super) struct Transaction<'a> {
    pub(super) connection: &'a Connection,
    pub(super) domains: &'a HashMap<Domain, i64>,
    pub(super) mark: QueueId,
    pub(super) effects: Effects,
}

impl<'a> Transaction<'a> {
    pub(super) fn begin(
        connection: &'a Connection,
        domains: &'a HashMap<Domain, i64>,
        mark: QueueId,
    ) -> rusqlite::Result<Self> {
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        Ok(Self {
            connection,
            domains,
            mark,
            effects: Effects::default(),
        })
    }

    pub(super) fn commit(self) -> rusqlite::Result<Effects> {
        let update = "INSERT INTO total (domain, state, deliveries, octets) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET deliveries = deliveries + ?3, octets = octets + ?4";
        let mut update = self.connection.prepare_cached(update)?;
        for ((domain, state), delta) in &self.effects.totals {
            let (deliveries, octets) = (delta.deliveries, delta.octets);
            update.execute(params![domain, state.code(), deliveries, octets])?;
        }
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        Ok(self.effects)
    }

    pub(super) fn accept(&mut self, accept: &Accept) -> rusqlite::Result<()> {
        self.advance_mark(accept.id)?;
        let insert = "INSERT INTO message (key, received_at, received_from, reverse_path,
             parameters, flags, size, next_number, checksum, held_since)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
        let flags = match accept.body {
            Body::Inline(_) => accept.flags,
            Body::Spool(..) => accept.flags | SPOOLED,
        };
        self.connection.prepare_cached(insert)?.execute(params![
            accept.id.0,
            accept.received_at.as_millisecond(),
            accept.received_from,
            accept.reverse_path,
            accept.parameters,
            flags,
            accept.size.cast_signed(),
            accept.deliveries.len() as u32 + 1,
            accept.checksum,
            accept.held_since.millis(),
        ])?;
        let (Body::Inline(content) | Body::Spool(content, _)) = &accept.body;
        if !content.is_empty() || matches!(accept.body, Body::Inline(_)) {
            let insert = "INSERT INTO body (message, content) VALUES (?1, ?2)";
            self.connection
                .prepare_cached(insert)?
                .execute(params![accept.id.0, content])?;
        }
        for (number, (domain, recipients)) in (1..).zip(&accept.deliveries) {
            let (message, domain) = (accept.id, self.domain(domain)?);
            let delivery = NewDelivery {
                key: DeliveryKey { message, number },
                domain,
                state: State::Queued,
                next_attempt: Moment::default(),
                last_attempt: 0,
                attempts: 0,
                since: Moment::default(),
                last_reply: None,
                recipients,
            };
            self.insert(&delivery, accept.size)?;
        }
        Ok(())
    }

    /// A delivery that is not there was settled before by a commit whose answer was lost, and its report is
    /// in the queue.
    pub(super) fn settle(&mut self, settle: &Settle) -> rusqlite::Result<()> {
        let is_applied = match &settle.verdict {
            Verdict::Delivered => self.remove(settle.held.key(), settle.size)?,
            Verdict::Left { .. } => self.split(settle)?,
        };
        match &settle.report {
            Some(report) if is_applied => self.accept(report),
            _ => Ok(()),
        }
    }

    /// Replaces a delivery by what is left of it.
    fn split(&mut self, settle: &Settle) -> rusqlite::Result<bool> {
        let Verdict::Left {
            some_delivered,
            released,
            deferred,
            expired,
            failed,
        } = &settle.verdict
        else {
            return Ok(false);
        };
        let key = settle.held.key();
        let query = "DELETE FROM delivery WHERE message = ?1 AND number = ?2
             RETURNING domain, state, attempts, since, last_attempt";
        let found = self.connection.prepare_cached(query)?;
        let rest = |row: &rusqlite::Row<'_>| {
            Ok((row.get::<_, u32>(2)?, row.get(3)?, row.get::<_, i64>(4)?))
        };
        let Some((domain, state, (attempts, since, last_attempt))) = first_row(found, key, rest)?
        else {
            return Ok(false);
        };
        self.effects.count(domain, state, -1, settle.size);
        // What can still be sent is one delivery, and keeps its id as long as it lives: an older flight under that id
        // may still be under way on a connection that we have given up, and only under one id does the puller know
        // the two for the same (docs/decisions/0004-delivery-ids.md). It goes on at once when somebody is
        // done with and somebody else was only put off to the next transaction; else it waits.
        let is_smaller = *some_delivered || !expired.is_empty() || !failed.is_empty();
        let next = match !released.is_empty() && (is_smaller || deferred.is_empty()) {
            true => State::Queued,
            false => State::Deferred,
        };
        let sendable: Vec<_> = released.iter().chain(deferred).cloned().collect();
        let groups = [
            (next, &sendable),
            (State::Expired, expired),
            (State::Failed, failed),
        ];
        let mut own_number = Some(key.number);
        for (state, group) in groups.into_iter().filter(|(_, group)| !group.is_empty()) {
            let number = match own_number.take() {
                Some(number) => number,
                None => self.next_number(key.message)?,
            };
            let is_attempt =
                settle.judge == Judge::Puller && matches!(state, State::Deferred | State::Failed);
            let attempts = attempts.saturating_add(u32::from(is_attempt));
            let now = settle.now.steady;
            let delivery = NewDelivery {
                key: DeliveryKey { number, ..key },
                domain,
                state,
                next_attempt: match state {
                    State::Deferred => now.after(retry::retry_delay(attempts)),
                    _ => Moment::default(),
                },
                last_attempt: match is_attempt {
                    true => settle.now.wall.as_millisecond(),
                    false => last_attempt,
                },
                attempts,
                since: match state {
                    State::Expired | State::Failed => now,
                    _ => Moment::from_millis(since),
                },
                last_reply: group[0].reply.as_deref(),
                recipients: &row::json(group),
            };
            self.insert(&delivery, settle.size)?;
        }
        Ok(true)
    }

    pub(super) fn change(&mut self, change: &Change) -> rusqlite::Result<()> {
        let query = "SELECT d.domain, d.state, m.size, d.since FROM delivery d
             JOIN message m ON m.key = d.message WHERE d.message = ?1 AND d.number = ?2";
        let mut changed = 0;
        for held in &change.held {
            let key = held.key();
            let found = self.connection.prepare_cached(query)?;
            // One that is gone, or in a state that the action has no meaning for, is left alone.
            let rest = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(2)?, row.get(3)?));
            let Some((domain, state, (size, since))) = first_row(found, key, rest)? else {
                continue;
            };
            if !change.is_about(state, Moment::from_millis(since)) {
                self.effects.tell(domain, state);
                continue;
            }
            match change.action.target(state) {
                // While it was held for this, a claim may have missed it.
                None => {
                    self.effects.tell(domain, state);
                    continue;
                }
                Some(Target::Gone) => {
                    self.remove(key, size.cast_unsigned())?;
                }
                Some(Target::State(to)) => {
                    // Whatever was decided about it by hand, it has its whole time again.
                    let update = "UPDATE delivery SET state = ?3, next_attempt = 0, since = ?4
                         WHERE message = ?1 AND number = ?2";
                    let update = self.connection.prepare_cached(update);
                    let since = change.now.millis();
                    update?.execute(params![key.message.0, key.number, to.code(), since])?;
                    self.effects.count(domain, state, -1, size.cast_unsigned());
                    self.effects.count(domain, to, 1, size.cast_unsigned());
                    self.effects.tell(domain, to);
                }
            }
            changed += 1;
        }
        self.effects.changed.push(changed);
        Ok(())
    }

    pub(super) fn mark_clock(&mut self, mark: Mark) -> rusqlite::Result<()> {
        let update = "UPDATE setting SET value = ?2 WHERE name = ?1";
        let mut update = self.connection.prepare_cached(update)?;
        update.execute(params!["steady", mark.steady.millis()])?;
        update.execute(params!["wall", mark.wall])?;
        Ok(())
    }

    fn insert(&mut self, delivery: &NewDelivery<'_>, size: u64) -> rusqlite::Result<()> {
        let insert = "INSERT INTO delivery (message, number, domain, state, next_attempt,
             last_attempt, attempts, last_reply, recipients, since)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
        self.connection.prepare_cached(insert)?.execute(params![
            delivery.key.message.0,
            delivery.key.number,
            delivery.domain,
            delivery.state.code(),
            delivery.next_attempt.millis(),
            delivery.last_attempt,
            delivery.attempts,
            delivery.last_reply,
            delivery.recipients,
            delivery.since.millis(),
        ])?;
        self.effects.count(delivery.domain, delivery.state, 1, size);
        self.effects.tell(delivery.domain, delivery.state);
        Ok(())
    }

    /// Removes a delivery, and with the last one of a message its content. Whether it was there.
    fn remove(&mut self, key: DeliveryKey, size: u64) -> rusqlite::Result<bool> {
        let delete = "DELETE FROM delivery WHERE message = ?1 AND number = ?2
             RETURNING domain, state";
        let delete = self.connection.prepare_cached(delete)?;
        let Some((domain, state, ())) = first_row(delete, key, |_| Ok(()))? else {
            return Ok(false);
        };
        self.effects.count(domain, state, -1, size);
        let message = key.message;
        let delete = "DELETE FROM message WHERE key = ?1
             AND NOT EXISTS (SELECT 1 FROM delivery WHERE message = ?1) RETURNING flags";
        let mut delete = self.connection.prepare_cached(delete)?;
        let flags = delete.query_row([message.0], |row| row.get(0)).optional()?;
        let Some(flags): Option<i64> = flags else {
            return Ok(true);
        };
        if flags & SPOOLED != 0 {
            self.effects.files.push(message);
        }
        let delete = "DELETE FROM body WHERE message = ?1";
        self.connection
            .prepare_cached(delete)?
            .execute([message.0])?;
        Ok(true)
    }

    fn next_number(&self, message: QueueId) -> rusqlite::Result<u32> {
        let update = "UPDATE message SET next_number = next_number + 1 WHERE key = ?1
             RETURNING next_number - 1";
        self.connection
            .prepare_cached(update)?
            .query_row([message.0], |row| row.get(0))
    }

    fn domain(&mut self, domain: &Domain) -> rusqlite::Result<i64> {
        let known = self
            .domains
            .get(domain)
            .or_else(|| self.effects.domains.get(domain));
        if let Some(key) = known {
            return Ok(*key);
        }
        let insert = "INSERT INTO domain (name) VALUES (?1)";
        let key = self
            .connection
            .prepare_cached(insert)?
            .insert([domain.as_str()])?;
        self.effects.domains.insert(domain.clone(), key);
        Ok(key)
    }

    fn advance_mark(&mut self, id: QueueId) -> rusqlite::Result<()> {
        if id <= self.effects.mark.unwrap_or(self.mark) {
            return Ok(());
        }
        let mark = id.later(MARK_AHEAD_MILLIS);
        let update = "UPDATE setting SET value = ?1 WHERE name = 'mark'";
        self.connection.prepare_cached(update)?.execute([mark.0])?;
        self.effects.mark = Some(mark);
        Ok(())
    }
}

struct NewDelivery<'a> {
    key: DeliveryKey,
    domain: i64,
    state: State,
    next_attempt: Moment,
    /// On the wall clock; 0: none yet.
    last_attempt: i64,
    attempts: u32,
    since: Moment,
    last_reply: Option<&'a str>,
    recipients: &'a str,
}

/// Domain and state of the delivery `key`, and what else is asked of its row.
fn first_row<T>(
    mut statement: rusqlite::CachedStatement<'_>,
    key: DeliveryKey,
    rest: impl Fn(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Option<(i64, State, T)>> {
    statement
        .query_row(params![key.message.0, key.number], |row| {
            Ok((row.get(0)?, state(row)?, rest(row)?))
        })
        .optional()
}

/// The state in the second column.
fn state(row: &rusqlite::Row<'_>) -> rusqlite::Result<State> {
    let code = row.get(1)?;
    State::from_code(code).ok_or(rusqlite::Error::IntegralValueOutOfRange(1, code))
}
