//! What goes into the queue and what comes out of it, as types.

use std::ops::Deref;
use std::sync::Arc;

use atrn_shared::smtp::address::{Domain, ForwardPath, ReversePath};
use atrn_shared::smtp::parameter::{MailParameters, RcptParameters};
use atrn_shared::smtp::reply::Reply;
use atrn_shared::steady::Moment;
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::body::{ContentReader, Stored};
use super::error::StoreError;
use super::id::DeliveryId;
use super::lease::Held;
use super::sqlite::Shared;

/// What the edge knows of a message beside its content.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// Argument of MAIL.
    pub reverse_path: ReversePath,
    /// Parameters of MAIL, passed on inside where the puller offers the extension.
    pub mail_parameters: MailParameters,
    /// Who brought it, for people: EHLO name and address.
    pub received_from: String,
    /// The content holds octets above 127, declared or not (R6152-2).
    pub eight_bit: bool,
    /// It can only go where SMTPUTF8 is offered.
    pub needs_smtputf8: bool,
    /// A report of ours: it never begets another one.
    pub is_report: bool,
    /// The reverse-path was proven (SPF or DMARC): a report may go there.
    pub sender_verified: bool,
    /// At least one.
    pub recipients: Vec<Recipient>,
}

/// A message of our own, queued in the same commit as the settlement that is the reason for it.
#[derive(Clone, Debug)]
pub struct Report {
    /// Where it goes.
    pub envelope: Envelope,
    /// At most [`super::INLINE_BYTES`].
    pub content: Vec<u8>,
    /// The recipients that it is about, by their place in the delivery.
    pub about: Vec<usize>,
}

/// One accepted RCPT.
#[derive(Clone, Debug)]
pub struct Recipient {
    /// Argument of RCPT.
    pub forward_path: ForwardPath,
    /// Parameters of RCPT.
    pub parameters: RcptParameters,
    /// The configured domain whose puller gets it.
    pub domain: Domain,
}

/// A message's share for one domain.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Its name on the wire, for ever.
    pub id: DeliveryId,
    /// Whose puller gets it.
    pub domain: Domain,
    /// Argument of MAIL.
    pub reverse_path: ReversePath,
    /// Parameters of MAIL.
    pub mail_parameters: MailParameters,
    /// The content holds octets above 127.
    pub eight_bit: bool,
    /// It can only go where SMTPUTF8 is offered.
    pub needs_smtputf8: bool,
    /// Who brought it, for people.
    pub received_from: String,
    /// When it was accepted.
    pub received_at: Timestamp,
    /// Octets of the content.
    pub size: u64,
    /// Attempts that ended in a verdict.
    pub attempts: u32,
    /// Where it stands without the lease.
    pub state: State,
    /// A report of ours.
    pub is_report: bool,
    /// The reverse-path was proven.
    pub sender_verified: bool,
    /// Those who still wait for it, in the order of the envelope.
    pub recipients: Vec<DeliveryRecipient>,
}

/// One recipient of a delivery.
#[derive(Clone, Debug)]
pub struct DeliveryRecipient {
    /// Argument of RCPT.
    pub forward_path: ForwardPath,
    /// Parameters of RCPT.
    pub parameters: RcptParameters,
    /// What it was answered last.
    pub last_reply: Option<String>,
    /// Who was told last what became of it, without brackets.
    pub reported_to: Option<String>,
}

/// A delivery that one session holds; nobody else gets or changes it meanwhile. Dropping it frees the
/// delivery for the next claim with nothing changed: the right end for a link fault (OWN-7a).
#[derive(Debug)]
#[must_use = "a lease that is dropped is free again"]
pub struct Lease {
    pub(super) delivery: Delivery,
    pub(super) held: Held,
    pub(super) place: Place,
    /// When its present wait began.
    pub(super) held_since: Moment,
    /// CRC-32 of the content, where it has one.
    pub(super) checksum: Option<u32>,
    pub(super) shared: Arc<Shared>,
}

/// Where the content of a leased delivery is.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// Small, and read together with the claim.
    Here(Bytes),
    /// Small, in the database.
    Inline,
    /// In a file, below a head that is in the database; `None`: which was not read yet.
    Spool(Option<Bytes>),
}

/// What the puller's final word means for one recipient.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// 4yz: wait, then again (OWN-7).
    Deferred(Reply),
    /// 2yz: it is the other side's now (OWN-9).
    Delivered,
    /// Held longer than its domain allows (R5321-30).
    Expired(Reply),
    /// 5yz: refused for good (OWN-8).
    Failed(Reply),
    /// No verdict, as the link broke (OWN-7a): free again at once.
    Released,
}

/// Who says what is to become of a delivery.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Judge {
    /// The other side, in a session: an attempt was made.
    Puller,
    /// The relay itself, for an admin or the clock. Nobody was asked, so that attempts stay as they are.
    Relay,
}

/// Where a delivery stands.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Waits until a time.
    Deferred,
    /// Waited longer than its domain allows.
    Expired,
    /// Refused for good inside.
    Failed,
    /// Kept back by an admin.
    Held,
    /// With a session right now. In memory only; underneath it is queued or deferred.
    Leased,
    /// Waits for the next claim.
    Queued,
}

/// What an admin does to deliveries.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Queued and deferred ones are kept back.
    Hold,
    /// Held ones are queued again.
    Release,
    /// Any, with the content once no delivery of the message is left.
    Remove,
    /// Deferred, failed and expired ones are queued at once.
    Retry,
}

impl Delivery {
    /// Keeps with the recipients that they are reported.
    pub(super) fn note(&mut self, report: &Report) {
        let to = report.envelope.recipients.first();
        let to = to.map(|to| to.forward_path.to_string());
        for index in &report.about {
            if let Some(recipient) = self.recipients.get_mut(*index) {
                recipient.reported_to.clone_from(&to);
            }
        }
    }
}

impl Deref for Lease {
    type Target = Delivery;

    fn deref(&self) -> &Delivery {
        &self.delivery
    }
}

impl Lease {
    /// Opens the content for reading; open it before MAIL is sent, since this may fail.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when the content is gone, cut short or not what was accepted, else as any read.
    pub async fn content(&self) -> Result<ContentReader, StoreError> {
        let message = self.delivery.id.queue_id();
        let stored = Stored {
            message,
            size: self.size,
            checksum: self.checksum,
        };
        match &self.place {
            Place::Here(content) => stored.verified(content.clone()),
            Place::Inline => stored.verified(self.shared.inline_content(message).await?),
            Place::Spool(head) => {
                let head = match head {
                    Some(head) => head.clone(),
                    None => self.shared.head_of_content(message).await?,
                };
                ContentReader::open(self.shared.spool(), stored, head).await
            }
        }
    }
}

impl State {
    /// Those that a row can have, by their number in the database.
    pub(super) const STORED: [Self; 5] = [
        Self::Queued,
        Self::Deferred,
        Self::Held,
        Self::Failed,
        Self::Expired,
    ];

    /// The number in the database. Part of the schema: never renumber. `Leased` has none of its own.
    pub(super) fn code(self) -> i64 {
        match self {
            Self::Queued | Self::Leased => 0,
            Self::Deferred => 1,
            Self::Held => 2,
            Self::Failed => 3,
            Self::Expired => 4,
        }
    }

    pub(super) fn from_code(code: i64) -> Option<Self> {
        Self::STORED.into_iter().find(|state| state.code() == code)
    }

    /// The word for it in commands and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Deferred => "deferred",
            Self::Expired => "expired",
            Self::Failed => "failed",
            Self::Held => "held",
            Self::Leased => "leased",
            Self::Queued => "queued",
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for State {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = Self::STORED.into_iter().chain([Self::Leased]);
        let mut all = all.filter(|state| state.name().eq_ignore_ascii_case(text));
        let names = "queued, leased, deferred, held, failed or expired";
        all.next()
            .ok_or_else(|| format!("{text:?} is no state; use {names}"))
    }
}

impl Action {
    /// Whether it would change a delivery in this state: what a dry run counts.
    #[must_use]
    pub fn applies_to(self, state: State) -> bool {
        self.target(state).is_some()
    }

    /// The state it leads to from `state`; `None` where it does not apply.
    pub(super) fn target(self, state: State) -> Option<Target> {
        match (self, state) {
            (Self::Remove, _) => Some(Target::Gone),
            (Self::Hold, State::Queued | State::Deferred) => Some(Target::State(State::Held)),
            (Self::Release, State::Held)
            | (Self::Retry, State::Deferred | State::Failed | State::Expired) => {
                Some(Target::State(State::Queued))
            }
            _ => None,
        }
    }
}

/// Where an action leads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Target {
    Gone,
    State(State),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_read_back_from_their_names_and_codes() {
        for state in State::STORED {
            assert_eq!(state.name().parse(), Ok(state));
            assert_eq!(State::from_code(state.code()), Some(state));
        }
        assert_eq!("Leased".parse(), Ok(State::Leased));
        assert_eq!(State::from_code(5), None);
        assert!("gone".parse::<State>().is_err());
    }

    #[test]
    fn actions_apply_where_they_make_sense() {
        let queued = Some(Target::State(State::Queued));
        let held = Some(Target::State(State::Held));
        let table = [
            (Action::Hold, [held, held, None, None, None]),
            (Action::Release, [None, None, queued, None, None]),
            (Action::Retry, [None, queued, None, queued, queued]),
            (Action::Remove, [Some(Target::Gone); 5]),
        ];
        for (action, targets) in table {
            assert_eq!(State::STORED.map(|state| action.target(state)), targets);
        }
    }
}
