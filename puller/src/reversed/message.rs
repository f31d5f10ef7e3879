//! The message under way, and what is counted and logged of it.

use std::time::{Duration, Instant};

use atrn_shared::log::peer;
use atrn_shared::smtp::address::{ForwardPath, ReversePath};
use atrn_shared::smtp::parameter::{DeliveryId, MailParameters};
use atrn_shared::smtp::reply::Reply;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::Terms;
use crate::handover::Verdict;
use crate::journal::{Claim, Taken};

/// Recipients that a log line names.
const PATHS_SHOWN: usize = 10;

/// What came of a session.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Tally {
    /// Messages that the target took.
    pub messages: u64,
    /// Octets of their content as it came from the relay.
    pub octets: u64,
    /// Messages that the target, or we, refused for now.
    pub deferred: u64,
    /// Messages that the target, or we, refused for good.
    pub refused: u64,
    /// Deliveries that were inside already, and so not taken again (R-DUP).
    pub already_there: u64,
}

impl Tally {
    /// Counts a message by its verdict.
    pub(super) fn count(&mut self, verdict: &Reply, octets: u64) {
        if verdict.is_positive() {
            self.messages += 1;
            self.octets += octets;
        } else if verdict.is_permanent() {
            self.refused += 1;
        } else {
            self.deferred += 1;
        }
    }
}

/// What several sessions brought together.
impl std::iter::Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies.fold(Self::default(), |all, one| Self {
            messages: all.messages + one.messages,
            octets: all.octets + one.octets,
            deferred: all.deferred + one.deferred,
            refused: all.refused + one.refused,
            already_there: all.already_there + one.already_there,
        })
    }
}

/// The transaction under way, for the trace header and the log.
pub(super) struct Message {
    pub(super) began: Instant,
    pub(super) reverse_path: ReversePath,
    pub(super) smtputf8: bool,
    delivery_id: Option<DeliveryId>,
    /// Ours to hand over, where the relay gave it an id.
    pub(super) claim: Option<Claim>,
    /// Those that the target accepted.
    pub(super) recipients: Vec<ForwardPath>,
    /// The first refusal of the envelope.
    pub(super) refusal: Option<Reply>,
    pub(super) content: Option<Content>,
    /// As in its trace header, behind the session.
    pub(super) count: u64,
    /// The machine refused something of it without asking us, which may have been a recipient.
    pub(super) refused_here: bool,
}

/// Content on its way.
#[derive(Default)]
pub(super) struct Content {
    pub(super) octets: u64,
    /// How long we waited for the relay: the time that the target takes is not held against it.
    pub(super) waited: Duration,
}

impl Message {
    pub(super) fn none() -> Self {
        Self::new(&ReversePath::Null, &MailParameters::default())
    }

    pub(super) fn new(reverse_path: &ReversePath, parameters: &MailParameters) -> Self {
        Self {
            began: Instant::now(),
            reverse_path: reverse_path.clone(),
            smtputf8: parameters.smtputf8,
            delivery_id: parameters.delivery_id.clone(),
            claim: None,
            recipients: Vec::new(),
            refusal: None,
            content: None,
            count: 0,
            refused_here: false,
        }
    }

    /// Whether the journal says that the recipient has it already.
    pub(super) fn was_taken_by(&self, recipient: &ForwardPath) -> bool {
        let claim = self.claim.as_ref();
        claim.is_some_and(|claim| claim.was_taken_by(recipient))
    }

    /// Who has it now that the target took it.
    pub(super) fn taken(&self) -> Taken {
        if self.refused_here || self.refusal.is_some() {
            Taken::Recipients(self.recipients.clone())
        } else {
            Taken::Whole
        }
    }

    /// The sender, a recipient or DATA was. What only follows from an earlier refusal is not told.
    pub(super) fn refused(
        &mut self,
        recipient: Option<&ForwardPath>,
        reply: &Reply,
        terms: &Terms,
    ) {
        if self.refusal.is_some() && (recipient.is_none() || reply.code() == 503) {
            return;
        }
        let Terms { relay, session, .. } = terms;
        let reverse_path = self.reverse_path.to_string();
        let forward_path = recipient.map(ForwardPath::to_string).unwrap_or_default();
        warn!(%relay, %session, reverse_path = ?peer(&reverse_path), forward_path = %peer(&forward_path), reply = ?peer(&reply.to_string()), "refused");
        self.refusal.get_or_insert_with(|| reply.clone());
    }

    /// The one line of a message that came to its end.
    pub(super) fn judged(&self, verdict: &Verdict, size: u64, terms: &Terms) {
        let id = self.count;
        let Terms { relay, session, .. } = terms;
        let delivery_id = self.delivery_id.as_ref().map(DeliveryId::as_str);
        let (reverse_path, said) = (self.reverse_path.to_string(), verdict.said.to_string());
        let (reverse_path, reply, delay) = (peer(&reverse_path), peer(&said), self.began.elapsed());
        let forward_path = Paths(&self.recipients);
        if verdict.reply.is_positive() {
            info!(%relay, %session, id, delivery_id, reverse_path = ?reverse_path, %forward_path, size, ?delay, ?reply, "handed over");
        } else {
            warn!(%relay, %session, id, delivery_id, reverse_path = ?reverse_path, %forward_path, size, ?delay, ?reply, "refused");
        }
    }
}

/// Recipients in one log field.
struct Paths<'p>(&'p [ForwardPath]);

impl std::fmt::Display for Paths<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = self.0.iter().take(PATHS_SHOWN);
        for (position, path) in shown.enumerate() {
            let separator = if position == 0 { "" } else { "," };
            write!(f, "{separator}{}", peer(&path.to_string()))?;
        }
        match self.0.len().saturating_sub(PATHS_SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}
