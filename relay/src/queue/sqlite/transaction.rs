//! Accept, settle and change as SQL. An operation can be applied again after a rollback; what it
//! means for the world outside waits in [`Effects`] until the commit is durable.

use std::collections::HashMap;

use atrn_shared::smtp::address::Domain;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::super::body::Body;
use super::super::envelope::{State, Target};
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
             parameters, flags, size, next_number) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        let flags = match accept.body {
            Body::Inline(_) => accept.flags,
            Body::Spool(_) => accept.flags | SPOOLED,
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
        ])?;
        if let Body::Inline(content) = &accept.body {
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
                attempts: 0,
                last_reply: None,
                recipients,
            };
            self.insert(&delivery, accept.received_at, accept.size)?;
        }
        Ok(())
    }

    /// A delivery that is not there was settled before by a commit whose answer was lost.
    pub(super) fn settle(&mut self, settle: &Settle) -> rusqlite::Result<()> {
        let key = settle.held.key();
        let Verdict::Left {
            some_delivered,
            released,
            deferred,
            failed,
        } = &settle.verdict
        else {
            self.remove(key, settle.size)?;
            return Ok(());
        };
        let query =
            "SELECT domain, state, attempts FROM delivery WHERE message = ?1 AND number = ?2";
        let found = self.connection.prepare_cached(query)?;
        let Some((domain, state, attempts)) = first_row(found, key)? else {
            return Ok(());
        };
        self.delete(key)?;
        self.effects.count(domain, state, -1, settle.size);
        let groups = [
            (State::Queued, released),
            (State::Deferred, deferred),
            (State::Failed, failed),
        ];
        let groups = groups.into_iter().filter(|(_, group)| !group.is_empty());
        let whole = !some_delivered && groups.clone().count() == 1;
        for (state, group) in groups {
            let number = if whole {
                key.number
            } else {
                self.next_number(key.message)?
            };
            let delivery = NewDelivery {
                key: DeliveryKey { number, ..key },
                domain,
                state,
                attempts: attempts + i64::from(state != State::Queued),
                last_reply: group[0].reply.as_deref(),
                recipients: &row::json(group),
            };
            self.insert(&delivery, settle.now, settle.size)?;
        }
        Ok(())
    }

    pub(super) fn change(&mut self, change: &Change) -> rusqlite::Result<()> {
        let query = "SELECT d.domain, d.state, m.size FROM delivery d
             JOIN message m ON m.key = d.message WHERE d.message = ?1 AND d.number = ?2";
        let mut changed = 0;
        for held in &change.held {
            let key = held.key();
            let found = self.connection.prepare_cached(query)?;
            // One that is gone, or in a state that the action has no meaning for, is left alone.
            let Some((domain, state, size)) = first_row(found, key)? else {
                continue;
            };
            match change.action.target(state) {
                None => continue,
                Some(Target::Gone) => self.remove(key, size.cast_unsigned())?,
                Some(Target::State(to)) => {
                    let update = "UPDATE delivery SET state = ?3, next_attempt = 0
                         WHERE message = ?1 AND number = ?2";
                    let update = self.connection.prepare_cached(update);
                    update?.execute(params![key.message.0, key.number, to.code()])?;
                    self.effects.count(domain, state, -1, size.cast_unsigned());
                    self.effects.count(domain, to, 1, size.cast_unsigned());
                }
            }
            changed += 1;
        }
        self.effects.changed.push(changed);
        Ok(())
    }

    fn insert(
        &mut self,
        delivery: &NewDelivery<'_>,
        now: Timestamp,
        size: u64,
    ) -> rusqlite::Result<()> {
        let insert = "INSERT INTO delivery (message, number, domain, state, next_attempt,
             last_attempt, attempts, last_reply, recipients)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
        let next_attempt = match delivery.state {
            State::Deferred => {
                let attempts = u32::try_from(delivery.attempts).unwrap_or(u32::MAX);
                retry::next_attempt(attempts, now).as_millisecond()
            }
            _ => 0,
        };
        let last_attempt = match delivery.attempts {
            0 => 0,
            _ => now.as_millisecond(),
        };
        self.connection.prepare_cached(insert)?.execute(params![
            delivery.key.message.0,
            delivery.key.number,
            delivery.domain,
            delivery.state.code(),
            next_attempt,
            last_attempt,
            delivery.attempts,
            delivery.last_reply,
            delivery.recipients,
        ])?;
        self.effects.count(delivery.domain, delivery.state, 1, size);
        Ok(())
    }

    /// Removes a delivery, and with the last one of a message its content.
    fn remove(&mut self, key: DeliveryKey, size: u64) -> rusqlite::Result<()> {
        let Some((domain, state)) = self.delete(key)? else {
            return Ok(());
        };
        self.effects.count(domain, state, -1, size);
        let message = key.message;
        let others = "SELECT 1 FROM delivery WHERE message = ?1 LIMIT 1";
        if self
            .connection
            .prepare_cached(others)?
            .exists([message.0])?
        {
            return Ok(());
        }
        let delete = "DELETE FROM message WHERE key = ?1 RETURNING flags";
        let mut delete = self.connection.prepare_cached(delete)?;
        let flags: i64 = delete.query_row([message.0], |row| row.get(0))?;
        if flags & SPOOLED != 0 {
            self.effects.files.push(message);
        } else {
            let delete = "DELETE FROM body WHERE message = ?1";
            self.connection
                .prepare_cached(delete)?
                .execute([message.0])?;
        }
        Ok(())
    }

    fn delete(&self, key: DeliveryKey) -> rusqlite::Result<Option<(i64, State)>> {
        let delete = "DELETE FROM delivery WHERE message = ?1 AND number = ?2
             RETURNING domain, state";
        let mut delete = self.connection.prepare_cached(delete)?;
        delete
            .query_row(params![key.message.0, key.number], |row| {
                Ok((row.get(0)?, state(row)?))
            })
            .optional()
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
    attempts: i64,
    last_reply: Option<&'a str>,
    recipients: &'a str,
}

/// Domain, state and a number of the delivery `key`.
fn first_row(
    mut statement: rusqlite::CachedStatement<'_>,
    key: DeliveryKey,
) -> rusqlite::Result<Option<(i64, State, i64)>> {
    statement
        .query_row(params![key.message.0, key.number], |row| {
            Ok((row.get(0)?, state(row)?, row.get(2)?))
        })
        .optional()
}

/// The state in the second column.
fn state(row: &rusqlite::Row<'_>) -> rusqlite::Result<State> {
    let code = row.get(1)?;
    State::from_code(code).ok_or(rusqlite::Error::IntegralValueOutOfRange(1, code))
}
