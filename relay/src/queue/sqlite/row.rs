//! Rows as the database has them, and their way from and to the queue's types.

use atrn_shared::smtp::address::{ForwardPath, ReversePath};
use atrn_shared::smtp::parameter::{MailParameters, RcptParameters};
use atrn_shared::steady::{Mark, Moment};
use jiff::Timestamp;
use rusqlite::types::FromSql;
use rusqlite::{Connection, Row};
use serde::{Deserialize, Serialize};

use super::super::envelope::{Delivery, DeliveryRecipient, Recipient, State};
use super::super::error::StoreError;
use super::super::id::{DeliveryKey, Instances, QueueId};
use super::super::lease::Entry;
use super::{Amount, Shared};

pub(super) const EIGHT_BIT: i64 = 1;
pub(super) const NEEDS_SMTPUTF8: i64 = 2;
pub(in super::super) const SPOOLED: i64 = 4;
pub(super) const REPORT: i64 = 8;
pub(super) const SENDER_VERIFIED: i64 = 16;

/// One recipient in the JSON of a delivery.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(in super::super) struct StoredRecipient {
    pub(in super::super) to: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(in super::super) parameters: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reply: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reported_to: Option<String>,
}

/// A delivery beside its message: what every query of deliveries selects, in this order.
pub(super) const COLUMNS: &str = "d.message, d.number, d.domain, d.state, d.next_attempt, \
     d.last_attempt, d.attempts, d.last_reply, d.recipients, \
     m.received_at, m.received_from, m.reverse_path, m.parameters, m.flags, m.size, m.checksum, \
     max(m.held_since, d.since)";

/// See [`COLUMNS`].
#[derive(Debug)]
pub(in super::super) struct DeliveryRow {
    pub(super) key: DeliveryKey,
    pub(super) domain: i64,
    pub(super) state: i64,
    pub(super) next_attempt: i64,
    pub(super) last_attempt: i64,
    pub(super) attempts: u32,
    pub(super) last_reply: Option<String>,
    recipients: String,
    pub(super) received_at: i64,
    pub(super) received_from: String,
    pub(super) reverse_path: String,
    parameters: String,
    flags: i64,
    pub(super) size: u64,
    checksum: Option<u32>,
    /// When its present wait began, or ended for good.
    pub(super) held_since: Moment,
}

impl DeliveryRow {
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            key: key(row)?,
            domain: row.get(2)?,
            state: row.get(3)?,
            next_attempt: row.get(4)?,
            last_attempt: row.get(5)?,
            attempts: row.get(6)?,
            last_reply: row.get(7)?,
            recipients: row.get(8)?,
            received_at: row.get(9)?,
            received_from: row.get(10)?,
            reverse_path: row.get(11)?,
            parameters: row.get(12)?,
            flags: row.get(13)?,
            size: row.get::<_, i64>(14)?.cast_unsigned(),
            checksum: row.get(15)?,
            held_since: Moment::from_millis(row.get(16)?),
        })
    }

    pub(in super::super) fn size(&self) -> u64 {
        self.size
    }

    pub(in super::super) fn entry(&self) -> Entry {
        let (key, domain) = (self.key, self.domain);
        Entry { key, domain }
    }

    pub(in super::super) fn is_spooled(&self) -> bool {
        self.flags & SPOOLED != 0
    }

    pub(in super::super) fn checksum(&self) -> Option<u32> {
        self.checksum
    }

    pub(in super::super) fn held_since(&self) -> Moment {
        self.held_since
    }

    pub(super) fn stored_recipients(&self) -> Result<Vec<StoredRecipient>, StoreError> {
        serde_json::from_str(&self.recipients).map_err(|error| self.damaged("recipients", &error))
    }

    pub(super) fn stored_state(&self) -> Result<State, StoreError> {
        let unknown = || self.damaged("state", &self.state);
        State::from_code(self.state).ok_or_else(unknown)
    }

    /// The row as a delivery; a value that does not parse is damage, since only parsed ones go in.
    pub(in super::super) fn into_delivery(self, shared: &Shared) -> Result<Delivery, StoreError> {
        let recipients = self.stored_recipients()?.into_iter();
        let recipients = recipients.map(|stored| self.recipient(stored));
        let recipients = recipients.collect::<Result<_, _>>()?;
        let domain = shared.catalog().names.get(&self.domain).cloned();
        let state = self.stored_state()?;
        Ok(Delivery {
            id: shared.delivery_id(self.key),
            domain: domain.ok_or_else(|| self.damaged("domain", &self.domain))?,
            reverse_path: ReversePath::from_address(&self.reverse_path)
                .map_err(|error| self.damaged("reverse-path", &error))?,
            mail_parameters: MailParameters::parse(&self.parameters)
                .map_err(|error| self.damaged("parameters", &error))?,
            eight_bit: self.flags & EIGHT_BIT != 0,
            needs_smtputf8: self.flags & NEEDS_SMTPUTF8 != 0,
            received_at: moment(self.received_at),
            size: self.size,
            attempts: self.attempts,
            state,
            is_report: self.flags & REPORT != 0,
            sender_verified: self.flags & SENDER_VERIFIED != 0,
            recipients,
            received_from: self.received_from,
        })
    }

    fn recipient(&self, stored: StoredRecipient) -> Result<DeliveryRecipient, StoreError> {
        Ok(DeliveryRecipient {
            forward_path: ForwardPath::from_address(&stored.to)
                .map_err(|error| self.damaged("forward-path", &error))?,
            parameters: RcptParameters::parse(&stored.parameters)
                .map_err(|error| self.damaged("parameters", &error))?,
            last_reply: stored.reply,
            reported_to: stored.reported_to,
        })
    }

    fn damaged(&self, what: &str, why: &dyn std::fmt::Display) -> StoreError {
        StoreError::Damaged(format!("{what} of {}: {why}", self.key))
    }
}

impl From<&Recipient> for StoredRecipient {
    fn from(recipient: &Recipient) -> Self {
        Self {
            to: recipient.forward_path.to_string(),
            parameters: recipient.parameters.to_string().trim_start().to_owned(),
            reply: None,
            reported_to: None,
        }
    }
}

impl From<&DeliveryRecipient> for StoredRecipient {
    fn from(recipient: &DeliveryRecipient) -> Self {
        Self {
            to: recipient.forward_path.to_string(),
            parameters: recipient.parameters.to_string().trim_start().to_owned(),
            reply: recipient.last_reply.clone(),
            reported_to: recipient.reported_to.clone(),
        }
    }
}

/// The first two columns of a delivery.
pub(super) fn key(row: &Row<'_>) -> rusqlite::Result<DeliveryKey> {
    Ok(DeliveryKey {
        message: QueueId(row.get(0)?),
        number: row.get(1)?,
    })
}

/// The recipients as the delivery keeps them.
pub(super) fn json(recipients: &[StoredRecipient]) -> String {
    serde_json::to_string(recipients).expect("strings in a list can always be written as JSON")
}

/// A stored time; what lies outside the calendar is as old as can be, so that it shows.
pub(super) fn moment(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MIN)
}

pub(super) fn setting<T: FromSql>(connection: &Connection, name: &str) -> rusqlite::Result<T> {
    let query = "SELECT value FROM setting WHERE name = ?1";
    connection.query_row(query, [name], |row| row.get(0))
}

/// The instances under which messages were accepted.
pub(super) fn instances(connection: &Connection) -> rusqlite::Result<Instances> {
    let mut former = connection.prepare("SELECT until, instance FROM former_instance")?;
    let former = former.query_map([], |row| Ok((QueueId(row.get(0)?), row.get(1)?)))?;
    let former = former.collect::<rusqlite::Result<Vec<(QueueId, u32)>>>()?;
    Ok(Instances::new(setting(connection, "instance")?, former))
}

/// What the last run left of its clock; `None` before the first mark.
pub(super) fn clock_mark(connection: &Connection) -> rusqlite::Result<Option<Mark>> {
    let mark = Mark {
        steady: Moment::from_millis(setting(connection, "steady")?),
        wall: setting(connection, "wall")?,
    };
    Ok(Some(mark).filter(|mark| mark.steady != Moment::default()))
}

pub(super) fn domains(connection: &Connection) -> rusqlite::Result<Vec<(i64, String)>> {
    let mut statement = connection.prepare("SELECT key, name FROM domain")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

pub(super) fn totals(connection: &Connection) -> rusqlite::Result<Vec<(i64, i64, Amount)>> {
    let mut statement =
        connection.prepare("SELECT domain, state, deliveries, octets FROM total")?;
    let rows = statement.query_map([], |row| {
        let amount = Amount {
            deliveries: row.get(2)?,
            octets: row.get(3)?,
        };
        Ok((row.get(0)?, row.get(1)?, amount))
    })?;
    rows.collect()
}
