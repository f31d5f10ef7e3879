//! What the writer is asked to do, as values, and what follows from it once it is durable.

use std::collections::{HashMap, HashSet};

use atrn_shared::smtp::address::Domain;
use atrn_shared::steady::Moment;
use jiff::Timestamp;

use super::super::body::Body;
use super::super::envelope::{Action, DeliveryRecipient, Judge, Outcome, State};
use super::super::id::QueueId;
use super::super::lease::Held;
use super::row::StoredRecipient;
use super::{Amount, Catalog};

/// A message to be stored.
#[derive(Debug)]
pub(in super::super) struct Accept {
    pub(in super::super) id: QueueId,
    pub(in super::super) received_at: Timestamp,
    pub(in super::super) received_from: String,
    pub(in super::super) reverse_path: String,
    pub(in super::super) parameters: String,
    pub(in super::super) flags: i64,
    pub(in super::super) size: u64,
    pub(in super::super) checksum: u32,
    pub(in super::super) held_since: Moment,
    /// Each domain with its recipients as JSON.
    pub(in super::super) deliveries: Vec<(Domain, String)>,
    pub(in super::super) body: Body,
}

/// The end of a lease. It frees the delivery when it is dropped, so after the commit.
#[derive(Debug)]
pub(in super::super) struct Settle {
    pub(in super::super) held: Held,
    pub(in super::super) size: u64,
    pub(in super::super) now: Now,
    pub(in super::super) verdict: Verdict,
    pub(in super::super) judge: Judge,
    /// Tells somebody of what failed; durable with it or not at all.
    pub(in super::super) report: Option<Accept>,
}

/// The moment of an operation, on both clocks.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Now {
    pub(in super::super) wall: Timestamp,
    pub(in super::super) steady: Moment,
}

#[derive(Debug)]
pub(in super::super) enum Verdict {
    /// Delivered to all recipients: by far the most frequent, and the cheapest.
    Delivered,
    /// What is left, by what is to become of it.
    Left {
        /// Some were delivered: the puller may know the delivery id as taken, so it must not be used again.
        some_delivered: bool,
        released: Vec<StoredRecipient>,
        deferred: Vec<StoredRecipient>,
        expired: Vec<StoredRecipient>,
        failed: Vec<StoredRecipient>,
    },
}

/// An admin's action on deliveries that nobody else holds.
#[derive(Debug)]
pub(in super::super) struct Change {
    pub(in super::super) action: Action,
    /// Only what has failed or expired, and did so up to this moment. What was found is looked at before it is held,
    /// so that somebody may have decided otherwise in between.
    pub(in super::super) ended_until: Option<Moment>,
    pub(in super::super) now: Moment,
    pub(in super::super) held: Vec<Held>,
}

/// What follows from a transaction once it is durable.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub(super) domains: HashMap<Domain, i64>,
    pub(super) totals: HashMap<(i64, State), Amount>,
    /// Domains of which something is there to be claimed, now or when its time comes, that was not there before.
    pub(super) news: HashSet<i64>,
    /// Messages that are gone and had a spool file.
    pub(super) files: Vec<QueueId>,
    /// Deliveries that each change touched, in order.
    pub(super) changed: Vec<u64>,
    pub(super) mark: Option<QueueId>,
}

impl Accept {
    /// Octets that go into the database.
    pub(super) fn octets(&self) -> usize {
        match &self.body {
            Body::Inline(content) => content.len(),
            Body::Spool(head, _) => head.len(),
        }
    }
}

impl Settle {
    /// Octets that go into the database.
    pub(super) fn octets(&self) -> usize {
        self.report.as_ref().map_or(0, Accept::octets)
    }
}

impl Change {
    /// Whether a delivery that is in this state since then is meant.
    pub(super) fn is_about(&self, state: State, since: Moment) -> bool {
        let has_ended = matches!(state, State::Expired | State::Failed);
        self.ended_until
            .is_none_or(|until| has_ended && since <= until)
    }
}

impl Verdict {
    /// Sorts the outcomes, one for each recipient in order. A recipient without one is released:
    /// whatever went wrong, he must not fall out of the queue.
    pub(in super::super) fn of(recipients: &[DeliveryRecipient], outcomes: Vec<Outcome>) -> Self {
        let is_delivered = |outcome: &Outcome| matches!(outcome, Outcome::Delivered);
        if outcomes.len() >= recipients.len() && outcomes.iter().all(is_delivered) {
            return Self::Delivered;
        }
        let (mut released, mut deferred) = (Vec::new(), Vec::new());
        let (mut expired, mut failed) = (Vec::new(), Vec::new());
        let mut some_delivered = false;
        let mut outcomes = outcomes.into_iter();
        for recipient in recipients {
            let mut recipient = StoredRecipient::from(recipient);
            match outcomes.next().unwrap_or(Outcome::Released) {
                Outcome::Delivered => some_delivered = true,
                Outcome::Released => released.push(recipient),
                Outcome::Deferred(reply) => {
                    recipient.reply = Some(reply.to_string());
                    deferred.push(recipient);
                }
                Outcome::Expired(reply) => {
                    recipient.reply = Some(reply.to_string());
                    expired.push(recipient);
                }
                Outcome::Failed(reply) => {
                    recipient.reply = Some(reply.to_string());
                    failed.push(recipient);
                }
            }
        }
        let left = [&released, &deferred, &expired, &failed];
        if left.iter().all(|group| group.is_empty()) {
            return Self::Delivered;
        }
        Self::Left {
            some_delivered,
            released,
            deferred,
            expired,
            failed,
        }
    }

    /// No recipient has a verdict: the lease just ends.
    pub(in super::super) fn changes_nothing(&self) -> bool {
        match self {
            Self::Delivered => false,
            Self::Left {
                some_delivered,
                deferred,
                expired,
                failed,
                ..
            } => {
                let judged = [deferred, expired, failed];
                !some_delivered && judged.iter().all(|group| group.is_empty())
            }
        }
    }
}

impl Effects {
    /// Shows the world what was committed.
    pub(super) fn publish(&self, catalog: &mut Catalog) {
        for (domain, key) in &self.domains {
            catalog.add(domain.clone(), *key);
        }
        for (place, delta) in &self.totals {
            let total = catalog.totals.entry(*place).or_default();
            total.deliveries += delta.deliveries;
            total.octets += delta.octets;
        }
    }

    /// Something of the domain is in `state`, and nobody holds it.
    pub(super) fn tell(&mut self, domain: i64, state: State) {
        if matches!(state, State::Queued | State::Deferred) {
            self.news.insert(domain);
        }
    }

    pub(super) fn count(&mut self, domain: i64, state: State, deliveries: i64, size: u64) {
        let total = self.totals.entry((domain, state)).or_default();
        total.deliveries += deliveries;
        total.octets += deliveries * size.cast_signed();
    }
}
