//! What an admin asks of the queue, and the answers. The same types fill tables and `--json`.

use std::time::Duration;

use atrn_shared::smtp::address::Domain;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::envelope::{Lease, State};
use super::id::{DeliveryId, QueueId, Reference};

/// Deliveries of one page of a list, unless the caller says otherwise.
pub const PAGE_DELIVERIES: usize = 100;

/// Which deliveries. An empty filter means all.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// For this domain; it need not be configured any more.
    pub domain: Option<Domain>,
    /// In this state.
    pub state: Option<State>,
    /// The reverse-path contains this, in any case; `<>` is the null reverse-path.
    pub sender: Option<String>,
    /// A forward-path contains this, in any case.
    pub recipient: Option<String>,
    /// Accepted before this moment.
    pub received_before: Option<Timestamp>,
    /// More octets than this.
    pub larger_than: Option<u64>,
}

/// What an admin's change applies to.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// All that match.
    Filter(Filter),
    /// These.
    Ids(Vec<Reference>),
}

/// A delivery in a list.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Item {
    /// The message's id, as the sender was told.
    pub id: QueueId,
    /// The delivery's id, as the puller is told.
    pub delivery_id: DeliveryId,
    /// Whose puller gets it.
    pub domain: Domain,
    /// `leased` while a session has it.
    pub state: State,
    /// When it was accepted.
    pub received_at: Timestamp,
    /// Octets of the content.
    pub size: u64,
    /// The reverse-path without brackets; empty: null.
    pub sender: String,
    /// The forward-paths that still wait.
    pub recipients: Vec<String>,
    /// Attempts that ended in a verdict.
    pub attempts: u32,
    /// When it may be claimed again, if deferred.
    pub next_attempt: Option<Timestamp>,
    /// When its wait began: accepted, or begun anew by an admin.
    #[serde(skip)]
    pub held_since: Timestamp,
    /// When it is given up; see [`Item::expire_after`].
    pub expires_at: Option<Timestamp>,
    /// The last verdict.
    pub last_reply: Option<String>,
}

/// A message with all that is known of it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Message {
    /// As the sender was told.
    pub id: QueueId,
    /// When it was accepted.
    pub received_at: Timestamp,
    /// Who brought it.
    pub received_from: String,
    /// The reverse-path without brackets; empty: null.
    pub sender: String,
    /// Parameters of MAIL.
    pub parameters: String,
    /// Octets of the content.
    pub size: u64,
    /// The content holds octets above 127.
    pub eight_bit: bool,
    /// It can only go where SMTPUTF8 is offered.
    pub needs_smtputf8: bool,
    /// What is left of it.
    pub deliveries: Vec<MessageDelivery>,
}

/// A delivery of a [`Message`].
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct MessageDelivery {
    /// As in lists.
    #[serde(flatten)]
    pub item: Item,
    /// When the last attempt ended.
    pub last_attempt: Option<Timestamp>,
    /// Each recipient with its own last verdict.
    pub details: Vec<RecipientDetail>,
}

/// A recipient of a [`MessageDelivery`].
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct RecipientDetail {
    /// The forward-path.
    pub recipient: String,
    /// Parameters of RCPT.
    pub parameters: String,
    /// What it was answered last.
    pub last_reply: Option<String>,
    /// Who was told last what became of it.
    pub reported_to: Option<String>,
}

/// How much of a domain is in the queue. Costs the same at any depth.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct DomainTotal {
    /// The domain.
    pub domain: Domain,
    /// Deliveries in all.
    pub messages: u64,
    /// Octets of their messages.
    pub bytes: u64,
    /// When the oldest that waits to be pulled was accepted.
    pub oldest: Option<Timestamp>,
    /// Deliveries by state; a leased one counts as what it is underneath.
    pub queued: u64,
    /// Waiting until a time.
    pub deferred: u64,
    /// Kept back by an admin.
    pub held: u64,
    /// Refused for good.
    pub failed: u64,
    /// Waited too long.
    pub expired: u64,
}

/// What the rows of a table of statistics are.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StatsBy {
    /// One row: all.
    Age,
    /// A row for each domain.
    Domain,
    /// A row for each domain that mail came from, the null reverse-path as `<>`.
    Sender,
    /// A row for each state.
    State,
}

/// Upper ends of the age columns in minutes, doubling as in Postfix's qshape; a last column has no end.
pub const AGE_MINUTES: [u64; 9] = [5, 10, 20, 40, 80, 160, 320, 640, 1280];

/// One row of statistics: deliveries by age.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct StatsRow {
    /// Domain, sender's domain or state.
    pub name: String,
    /// Deliveries in all.
    pub messages: u64,
    /// Octets of their messages.
    pub bytes: u64,
    /// Deliveries up to each of [`AGE_MINUTES`], and the older ones.
    pub ages: [u64; AGE_MINUTES.len() + 1],
}

/// How many deliveries a filter or a change found.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Found {
    /// Deliveries.
    pub messages: u64,
    /// Octets of their messages.
    pub bytes: u64,
}

/// Deliveries that were taken out of the hands of sessions, to be ended.
#[derive(Debug, Default)]
pub struct Seized {
    /// Those that nobody else holds.
    pub leases: Vec<Lease>,
    /// Deliveries that a session holds just now.
    pub leased: u64,
    /// Ids that name nothing in the queue.
    pub unknown: Vec<Reference>,
    /// The last one looked at, to go on behind it; `None` when that was all.
    pub last: Option<DeliveryId>,
}

/// What a change did.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Changed {
    /// Deliveries changed.
    pub changed: u64,
    /// Deliveries that a session holds just now: nothing was done to them.
    pub leased: u64,
    /// Deliveries in a state that the action does not apply to.
    pub unsuitable: u64,
    /// Ids that name nothing in the queue.
    pub unknown: Vec<Reference>,
}

impl Item {
    /// Fills in when it is given up, from its domain's setting: configuration is not in the queue.
    pub fn expire_after(&mut self, hold_for: Duration) {
        let waits = matches!(self.state, State::Queued | State::Deferred | State::Leased);
        let expires_at = self.held_since.checked_add(hold_for);
        self.expires_at = waits.then(|| expires_at.unwrap_or(Timestamp::MAX));
    }
}
