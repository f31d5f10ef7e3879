//! From the puller's verdicts to the queue: which refusals are believed, what is counted and logged, and which
//! settlements still wait for their commit.
//!
//! The commit that settles a delivery runs while the next ones are on their way. A refusal for good waits longer: until
//! the [breaker](super::breaker) rules on it. Its delivery stays leased meanwhile, so a crash only frees it.

use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use atrn_shared::log;
use atrn_shared::smtp::reply::Reply;
use tracing::{debug, error, info, warn};

use super::breaker::{Refusal, Ruling, Seat, Trip, Verdict};
use super::verdict::Judged;
use crate::activity::PullGuard;
use crate::closing::{By, Closing};
use crate::queue::{
    Delivery, DeliveryId, DeliveryRecipient, Lease, Outcome, SessionId, StoreError,
};
use crate::transaction_log::{Event, Subject, Trail};

/// Settlements that may wait for their commit while more messages are sent.
const SETTLING_MAX: usize = 256;
/// How long a refusal for good stays provisional in a session that waits for mail: what comes meanwhile may show that
/// the server inside is broken.
const PROVISIONAL_TIME: Duration = Duration::from_secs(30);

/// What one session moved.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) delivered: u64,
    pub(super) deferred: u64,
    pub(super) failed: u64,
}

/// A delivery that was refused for good, and nothing better, until that is ruled on.
#[derive(Debug)]
pub(super) struct Provisional {
    lease: Lease,
    outcomes: Vec<Outcome>,
}

/// Whose deliveries are settled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Puller<'s> {
    pub(super) session: SessionId,
    pub(super) account: &'s str,
    /// It offers DSN.
    pub(super) dsn: bool,
}

/// The settlements of one session.
pub(super) struct Settlements<'s> {
    puller: Puller<'s>,
    closing: &'s Closing,
    pull: &'s PullGuard,
    seat: Seat<Provisional>,
    waiting: VecDeque<(DeliveryId, Settling)>,
    pub(super) trail: &'s mut Trail,
    tally: Tally,
    /// The alarm was raised: once a session.
    is_alarmed: bool,
}

type Settling = Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>;

impl<'s> Settlements<'s> {
    pub(super) fn new(
        puller: Puller<'s>,
        closing: &'s Closing,
        pull: &'s PullGuard,
        (seat, trail): (Seat<Provisional>, &'s mut Trail),
    ) -> Self {
        Self {
            puller,
            closing,
            pull,
            seat,
            waiting: VecDeque::new(),
            trail,
            tally: Tally::default(),
            is_alarmed: false,
        }
    }

    /// The puller judged a delivery.
    pub(super) async fn judged(&mut self, lease: Lease, judged: Judged, began: Instant) {
        self.log_inside(&lease, &judged, began.elapsed());
        let outcomes = judged.outcomes;
        let standing = if leaves_again(&lease) {
            Standing::Open
        } else {
            Standing::of(&outcomes)
        };
        let (id, now) = (lease.id, Instant::now());
        let ruling = match standing {
            Standing::Open => return self.settle(lease, outcomes).await,
            Standing::Refused => {
                let is_repeated = was_refused(&lease);
                let refusal = Refusal {
                    provisional: Provisional { lease, outcomes },
                    is_repeated,
                };
                let ruling = self.seat.note(id, Verdict::Refused(refusal), now);
                return self.rule(ruling).await;
            }
            Standing::Delivered => self.seat.note(id, Verdict::Delivered, now),
            Standing::Deferred => self.seat.note(id, Verdict::Deferred, now),
        };
        self.settle(lease, outcomes).await;
        self.rule(ruling).await;
    }

    /// There is more to send, so who ends meanwhile leaves the ruling to this session.
    pub(super) fn work(&mut self) {
        self.seat.work();
    }

    /// A delivery did not get as far as the puller.
    pub(super) async fn unsent(&mut self, lease: Lease, outcomes: Vec<Outcome>) {
        self.settle(lease, outcomes).await;
    }

    /// There is nothing more to send, so refusals are judged by what is known.
    pub(super) async fn conclude(&mut self) {
        let ruling = self.seat.conclude(Instant::now());
        self.rule(ruling).await;
    }

    /// There is nothing more to send at present, so refusals that are old enough are judged by what is known. When the
    /// next one will be.
    pub(super) async fn conclude_old(&mut self) -> Option<Instant> {
        let now = Instant::now();
        if let Some(by) = now.checked_sub(PROVISIONAL_TIME) {
            let ruling = self.seat.conclude(by);
            self.rule(ruling).await;
        }
        // While others have the say on it, it is looked at again.
        let oldest = self.seat.oldest()?;
        Some((oldest + PROVISIONAL_TIME).max(now + Duration::from_secs(1)))
    }

    /// Whether refusals of this session, or of one beside it, made the breaker trip.
    pub(super) fn has_tripped(&self) -> bool {
        self.seat.has_tripped()
    }

    /// Whether nothing waits for its commit.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Waits for the oldest commit; for ever when none runs. Cancel-safe.
    ///
    /// # Errors
    /// When it failed: the session should end.
    pub(super) async fn settled(&mut self) -> Result<(), StoreError> {
        if self.waiting.is_empty() {
            return pending().await;
        }
        poll_fn(|context| {
            let Some((id, oldest)) = self.waiting.front_mut() else {
                return Poll::Ready(Ok(()));
            };
            let settled = ready!(oldest.as_mut().poll(context));
            note_settled(self.trail, *id, &settled);
            self.waiting.pop_front();
            Poll::Ready(settled)
        })
        .await
    }

    /// Gives back the memory that a burst of mail needed.
    pub(super) fn release(&mut self) {
        self.waiting.shrink_to_fit();
    }

    /// Waits for the oldest commit, if too many run.
    ///
    /// # Errors
    /// When it failed: the session should end.
    pub(super) async fn relieve(&mut self) -> Result<(), StoreError> {
        if self.waiting.len() > SETTLING_MAX
            && let Some((id, oldest)) = self.waiting.pop_front()
        {
            let settled = oldest.await;
            note_settled(self.trail, id, &settled);
            settled?;
        }
        Ok(())
    }

    /// Waits for all commits.
    ///
    /// # Errors
    /// The first that failed.
    pub(super) async fn finish(&mut self) -> Result<(), StoreError> {
        for (id, settling) in self.waiting.drain(..) {
            let settled = settling.await;
            note_settled(self.trail, id, &settled);
            settled?;
        }
        Ok(())
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally
    }

    async fn rule(&mut self, ruling: Ruling<Provisional>) {
        if let Some(trip) = ruling.trip {
            self.alarm(trip, &ruling.doubted);
        }
        for Provisional { lease, outcomes } in ruling.believed {
            self.settle(lease, outcomes).await;
        }
        self.put_off(ruling.doubted).await;
    }

    /// As if the puller had said 4yz; the reply that is kept is the one that came.
    async fn put_off(&mut self, refused: Vec<Provisional>) {
        for Provisional { lease, outcomes } in refused {
            let outcomes = outcomes.into_iter().map(|outcome| match outcome {
                Outcome::Failed(reply) => Outcome::Deferred(reply),
                other => other,
            });
            self.settle(lease, outcomes.collect()).await;
        }
    }

    fn alarm(&mut self, trip: Trip, refused: &[Provisional]) {
        // What was under way when it tripped may be enough for it to trip again.
        if std::mem::replace(&mut self.is_alarmed, true) {
            return;
        }
        let last = refused.last().and_then(|last| last.reply());
        let reply = last.map(|reply| log::peer(&reply.to_string()).to_string());
        error!(
            session = %self.puller.session, account = self.puller.account, refused = trip.refused, verdicts = trip.verdicts,
            reply, "the server inside refuses most mail for good: the pull is stopped, nothing more is bounced"
        );
        self.pull.stopped(trip.refused, trip.verdicts, reply);
    }

    async fn settle(&mut self, lease: Lease, outcomes: Vec<Outcome>) {
        self.count(&lease, &outcomes);
        let id = lease.id;
        self.trail.outcomes(&lease, &outcomes);
        let by = By::Puller {
            dsn: self.puller.dsn,
        };
        let settled = self.closing.settle(lease, outcomes, by).await;
        self.waiting.push_back((id, Box::pin(settled)));
    }

    /// Counts how a delivery ended, and logs who does not have it.
    fn count(&mut self, delivery: &Delivery, outcomes: &[Outcome]) {
        for (recipient, outcome) in delivery.recipients.iter().zip(outcomes) {
            if let Outcome::Deferred(reply) | Outcome::Failed(reply) = outcome {
                let forward_path = recipient.forward_path.to_string();
                warn!(
                    session = %self.puller.session, account = self.puller.account, delivery_id = %delivery.id,
                    domain = %delivery.domain, forward_path = %log::peer(&forward_path), %reply,
                    state = state(outcome), "not delivered"
                );
            }
        }
        let any = |wanted: fn(&Outcome) -> bool| outcomes.iter().any(wanted);
        if any(|outcome| matches!(outcome, Outcome::Failed(_))) {
            self.tally.failed += 1;
            self.pull.failed();
        } else if any(|outcome| matches!(outcome, Outcome::Deferred(_))) {
            self.tally.deferred += 1;
            self.pull.deferred();
        } else if is_delivered(outcomes) {
            self.tally.delivered += 1;
            self.pull.delivered(delivery.size);
        } else {
            debug!(session = %self.puller.session, delivery_id = %delivery.id, "delivered in part; the rest follows at once");
        }
    }

    /// Logs what is inside: from now on, or since an earlier attempt whose `250` was lost on its way (OWN-5).
    fn log_inside(&self, delivery: &Delivery, judged: &Judged, delay: Duration) {
        let of = delivery.recipients.len();
        if judged.already > 0 {
            info!(
                session = %self.puller.session, account = self.puller.account, delivery_id = %delivery.id,
                domain = %delivery.domain, recipients = judged.already, of, ?delay, "already delivered"
            );
        }
        if judged.already < of && is_delivered(&judged.outcomes) {
            info!(
                session = %self.puller.session, account = self.puller.account, delivery_id = %delivery.id,
                domain = %delivery.domain, size = delivery.size, ?delay, "delivered"
            );
        }
    }
}

impl Provisional {
    fn reply(&self) -> Option<&Reply> {
        self.outcomes.iter().find_map(|outcome| match outcome {
            Outcome::Failed(reply) => Some(reply),
            _ => None,
        })
    }
}

/// That it is durable, or why that is not known.
fn note_settled(trail: &mut Trail, id: DeliveryId, settled: &Result<(), StoreError>) {
    let subject = Subject::Delivery(id);
    let text = settled.as_ref().err().map(ToString::to_string);
    trail.note(&Event {
        subject,
        text: text.unwrap_or_default().into(),
        ..Event::new("settled")
    });
}

/// What a delivery's outcomes tell of the server inside.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Standing {
    Deferred,
    /// To one recipient at least: a server that refuses the others means it.
    Delivered,
    /// Nothing.
    Open,
    Refused,
}

impl Standing {
    fn of(outcomes: &[Outcome]) -> Self {
        let any = |wanted: fn(&Outcome) -> bool| outcomes.iter().any(wanted);
        if any(|outcome| matches!(outcome, Outcome::Delivered)) {
            Self::Delivered
        } else if any(|outcome| matches!(outcome, Outcome::Failed(_))) {
            Self::Refused
        } else if any(|outcome| matches!(outcome, Outcome::Deferred(_))) {
            Self::Deferred
        } else {
            Self::Open
        }
    }
}

/// Whether it is a report to a sender outside: it goes to another server than the rest, or to none, and tells
/// nothing of the server inside.
fn leaves_again(delivery: &Delivery) -> bool {
    let is_inside = |recipient: &DeliveryRecipient| {
        let domain = recipient.forward_path.domain();
        domain.is_none_or(|domain| *domain == delivery.domain)
    };
    delivery.is_report && !delivery.recipients.iter().all(is_inside)
}

/// Whether it was refused for good before: what was believed is not offered again, but by an admin.
fn was_refused(delivery: &Delivery) -> bool {
    let replies = delivery
        .recipients
        .iter()
        .map(|one| one.last_reply.as_deref());
    replies.flatten().any(|reply| reply.starts_with('5'))
}

fn is_delivered(outcomes: &[Outcome]) -> bool {
    outcomes
        .iter()
        .all(|outcome| matches!(outcome, Outcome::Delivered))
}

fn state(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Failed(_) => "failed",
        _ => "deferred",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_recipient_who_got_it_shows_that_the_server_works() {
        let reply = Reply::bare(550, "text");
        for (outcomes, expected) in [
            ("+", Standing::Delivered),
            ("+f", Standing::Delivered),
            ("f+d.", Standing::Delivered),
            ("f", Standing::Refused),
            ("ffd.", Standing::Refused),
            ("d.", Standing::Deferred),
            ("..", Standing::Open),
        ] {
            let outcome = |letter| match letter {
                '+' => Outcome::Delivered,
                'd' => Outcome::Deferred(reply.clone()),
                'f' => Outcome::Failed(reply.clone()),
                _ => Outcome::Released,
            };
            let listed: Vec<_> = outcomes.chars().map(outcome).collect();
            assert_eq!(Standing::of(&listed), expected, "{outcomes}");
        }
    }
}
