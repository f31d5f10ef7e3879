//! Queries of deliveries and messages. Each runs on a connection of its own, in one view of the database.

use std::ops::ControlFlow;

use atrn_shared::steady::Moment;
use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use super::super::body::Stored;
use super::super::envelope::State;
use super::super::error::StoreError;
use super::super::id::{DeliveryKey, QueueId, Reference};
use super::super::lease::Entry;
use super::super::query::{Item, Message, MessageDelivery, RecipientDetail};
use super::Shared;
pub(in super::super) use super::row::DeliveryRow;
use super::row::{COLUMNS, EIGHT_BIT, NEEDS_SMTPUTF8, key, moment};

/// The message is the inner table always: the order of deliveries is the order of the answer.
pub(super) const FROM: &str = "FROM delivery d CROSS JOIN message m ON m.key = d.message";

/// The content of a message, as far as it is in the database: all of it, or the head of what is in a file.
pub(in super::super) fn inline(
    connection: &Connection,
    message: QueueId,
) -> Result<Option<Bytes>, StoreError> {
    let content = "SELECT content FROM body WHERE message = ?1";
    let content = connection
        .prepare_cached(content)
        .and_then(|mut statement| {
            let content = |row: &rusqlite::Row<'_>| row.get::<_, Vec<u8>>(0);
            statement.query_row([message.0], content).optional()
        });
    content
        .map(|content| content.map(Bytes::from))
        .map_err(failed)
}

/// Which of the oldest deliveries of a domain to look at.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Oldest {
    pub(in super::super) domain: i64,
    pub(in super::super) state: State,
    /// Accepted up to this moment; those behind are younger, and are not looked at.
    pub(in super::super) until: Moment,
    /// Behind this one.
    pub(in super::super) after: Option<DeliveryKey>,
}

/// The oldest deliveries in the order of arrival, as long as `visitor` wants more.
pub(in super::super) fn oldest(
    connection: &Connection,
    oldest: Oldest,
    mut visitor: impl FnMut(DeliveryKey, Held) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    let query = format!(
        "SELECT d.message, d.number, m.held_since, d.since, m.received_at {FROM}
         WHERE d.domain = ?1 AND d.state = ?2 AND (d.message, d.number) > (?3, ?4)
         ORDER BY d.message, d.number"
    );
    let mut statement = connection.prepare_cached(&query).map_err(failed)?;
    let after = oldest
        .after
        .map_or((i64::MIN, 0), |key| (key.message.0, key.number));
    let values = params![oldest.domain, oldest.state.code(), after.0, after.1];
    let mut rows = statement.query(values).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        let read = |row: &rusqlite::Row<'_>| Ok((key(row)?, row.get(2)?, row.get(3)?, row.get(4)?));
        let (key, accepted, since, received_at) = read(row).map_err(failed)?;
        let (accepted, since) = (Moment::from_millis(accepted), Moment::from_millis(since));
        let held = Held {
            held_since: accepted.max(since),
            since,
            received_at: moment(received_at),
        };
        if accepted > oldest.until || visitor(key, held).is_break() {
            break;
        }
    }
    Ok(())
}

/// How long a delivery has been where it is.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Held {
    /// When its wait began.
    pub(in super::super) held_since: Moment,
    /// When it ended, if it has.
    pub(in super::super) since: Moment,
    pub(in super::super) received_at: Timestamp,
}

/// Reads deliveries beside their messages.
pub(in super::super) struct Deliveries<'c>(CachedStatement<'c>);

impl<'c> Deliveries<'c> {
    pub(in super::super) fn of(connection: &'c Connection) -> Result<Self, StoreError> {
        let query = format!("SELECT {COLUMNS} {FROM} WHERE d.message = ?1 AND d.number = ?2");
        connection.prepare_cached(&query).map(Self).map_err(failed)
    }

    pub(in super::super) fn read(
        &mut self,
        key: DeliveryKey,
    ) -> Result<Option<DeliveryRow>, StoreError> {
        let key = params![key.message.0, key.number];
        let row = self.0.query_row(key, DeliveryRow::read);
        row.optional().map_err(failed)
    }
}

/// The deliveries of a message, or the one that is named.
pub(in super::super) fn keys_of(
    connection: &Connection,
    reference: Reference,
) -> Result<Vec<Entry>, StoreError> {
    let (message, number) = match reference {
        Reference::Delivery { message, number } => (message, Some(number)),
        Reference::Message(message) => (message, None),
    };
    let query = "SELECT message, number, domain FROM delivery WHERE message = ?1
         AND number = coalesce(?2, number)";
    let entry = |row: &rusqlite::Row<'_>| {
        let (key, domain) = (key(row)?, row.get(2)?);
        Ok(Entry { key, domain })
    };
    let entries = connection.prepare_cached(query).and_then(|mut statement| {
        let entries = statement.query_map(params![message.0, number], entry)?;
        entries.collect()
    });
    entries.map_err(failed)
}

/// A message with what is left of it.
pub(in super::super) fn show(
    shared: &Shared,
    connection: &Connection,
    message: QueueId,
) -> Result<Option<Message>, StoreError> {
    let head = "SELECT received_at, received_from, reverse_path, parameters, flags, size
         FROM message WHERE key = ?1";
    let head = connection.query_row(head, [message.0], |row| {
        let flags: i64 = row.get(4)?;
        Ok(Message {
            id: message,
            received_at: moment(row.get(0)?),
            received_from: row.get(1)?,
            sender: row.get(2)?,
            parameters: row.get(3)?,
            size: row.get::<_, i64>(5)?.cast_unsigned(),
            eight_bit: flags & EIGHT_BIT != 0,
            needs_smtputf8: flags & NEEDS_SMTPUTF8 != 0,
            deliveries: Vec::new(),
        })
    });
    let Some(mut shown) = head.optional().map_err(failed)? else {
        return Ok(None);
    };
    let mut deliveries = Deliveries::of(connection)?;
    for entry in keys_of(connection, Reference::Message(message))? {
        if let Some(row) = deliveries.read(entry.key)? {
            shown.deliveries.push(details(shared, &row)?);
        }
    }
    Ok(Some(shown))
}

/// What is stored of a message's content, and whether that is a spool file; not verified, so that an admin sees
/// a damaged one too.
pub(in super::super) fn content(
    connection: &Connection,
    message: QueueId,
) -> Result<Option<(Stored, bool)>, StoreError> {
    let query = "SELECT size, flags, checksum FROM message WHERE key = ?1";
    let found = connection.query_row(query, [message.0], |row| {
        let (size, flags): (i64, i64) = (row.get(0)?, row.get(1)?);
        let stored = Stored {
            message,
            size: size.cast_unsigned(),
            checksum: row.get(2)?,
        };
        Ok((stored, flags & super::row::SPOOLED != 0))
    });
    found.optional().map_err(failed)
}

/// The row as an admin sees it.
pub(in super::super) fn item(shared: &Shared, row: &DeliveryRow) -> Result<Item, StoreError> {
    let state = match shared.leases.holder(row.key) {
        Some(_) => State::Leased,
        None => row.stored_state()?,
    };
    let recipients = row.stored_recipients()?;
    let domain = shared.catalog().names.get(&row.domain).cloned();
    let wall = Timestamp::now();
    let on_wall = |moment| shared.clock.on_wall(moment, wall);
    let no_domain = || StoreError::Damaged(format!("no domain {} ({})", row.domain, row.key));
    Ok(Item {
        id: row.key.message,
        delivery_id: shared.delivery_id(row.key),
        domain: domain.ok_or_else(no_domain)?,
        state,
        received_at: moment(row.received_at),
        size: row.size,
        sender: row.reverse_path.clone(),
        recipients: recipients
            .into_iter()
            .map(|recipient| recipient.to)
            .collect(),
        attempts: row.attempts,
        next_attempt: (row.next_attempt > 0)
            .then(|| on_wall(Moment::from_millis(row.next_attempt))),
        held_since: on_wall(row.held_since),
        expires_at: None,
        last_reply: row.last_reply.clone(),
    })
}

fn details(shared: &Shared, row: &DeliveryRow) -> Result<MessageDelivery, StoreError> {
    let details = row
        .stored_recipients()?
        .into_iter()
        .map(|stored| RecipientDetail {
            recipient: stored.to,
            parameters: stored.parameters,
            last_reply: stored.reply,
            reported_to: stored.reported_to,
        });
    Ok(MessageDelivery {
        item: item(shared, row)?,
        last_attempt: (row.last_attempt > 0).then(|| moment(row.last_attempt)),
        details: details.collect(),
    })
}

pub(super) fn failed(error: rusqlite::Error) -> StoreError {
    StoreError::sqlite("be read", error)
}
