//! The reversed session: claims deliveries, sends them, settles what the puller said (RFC 2645 §5.3).
//!
//! A delivery is ours until its final 250 was read (OWN-6). The commit that removes it runs while the next
//! message is on its way; a link that breaks frees the rest with nothing changed.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Instant;

use atrn_shared::config::Live;
use atrn_shared::dialogue::{Dialogue, LinkFault, Part, PartVerdict};
use atrn_shared::log;
use atrn_shared::smtp::address::{Domain, ForwardPath, ReversePath};
use atrn_shared::smtp::client::{Dialect, Needs};
use atrn_shared::smtp::limits::ClientTimeouts;
use atrn_shared::smtp::parameter::{BodyType, MailParameters, RcptParameters};
use atrn_shared::smtp::reply::Reply;
use atrn_shared::wire::{Wire, WireError};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{permission, verdict};
use crate::activity::{PullGuard, PullResult};
use crate::queue::{ContentReader, Delivery, Lease, Outcome, SessionId, Store, StoreError};
use crate::settings::Settings;

/// Deliveries claimed at a time. They are held from other sessions, so not too many.
const CLAIM_MAX: usize = 64;
/// Settlements that may wait for their commit while more messages are sent.
const SETTLING_MAX: usize = 64;
/// Up to this size a message goes out in one flight with its envelope: to wait for the verdict on the
/// recipients would cost a round trip, and to be wrong costs no more than these octets.
const ONE_FLIGHT_OCTETS: u64 = 128 * 1024;

/// One reversed session.
pub(super) struct Drain<'a> {
    pub(super) store: &'a Store,
    pub(super) settings: &'a Live<Settings>,
    pub(super) session: SessionId,
    pub(super) peer: SocketAddr,
    pub(super) account: &'a str,
    pub(super) hostname: &'a str,
    pub(super) domains: &'a [Domain],
    pub(super) shutdown: &'a CancellationToken,
}

/// How a drain ended that nothing broke.
#[derive(Clone, Copy, Debug)]
enum Finish {
    AllSent,
    /// The account was disabled or removed, or a domain taken from it, while it was pulling.
    NotPermitted,
    Shutdown,
}

impl Finish {
    fn reason(self) -> &'static str {
        match self {
            Self::AllSent => "all sent",
            Self::NotPermitted => "the account may no longer pull these domains",
            Self::Shutdown => "the relay is shutting down",
        }
    }
}

/// What broke a drain off.
#[derive(Debug, thiserror::Error)]
enum Broken {
    /// Content that was on its way could not be read to its end, so the transaction was broken off (OWN-3).
    #[error("content was cut short: {0}")]
    Content(StoreError),
    #[error(transparent)]
    Link(#[from] LinkFault),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What one drain moved.
#[derive(Debug, Default)]
struct Tally {
    delivered: u64,
    deferred: u64,
    failed: u64,
}

type Settling = Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>;

impl Drain<'_> {
    /// Sends what the account has until nothing is left, and says QUIT.
    pub(super) async fn run(self, wire: Wire, pull: PullGuard) {
        let began = Instant::now();
        let mut tally = Tally::default();
        let mut dialogue = Dialogue::new(wire, Dialect::Smtp, ClientTimeouts::default());
        let ended = self.send_all(&mut dialogue, &pull, &mut tally).await;
        let reason = match &ended {
            Ok(finish) => finish.reason().to_owned(),
            Err(broken) => broken.to_string(),
        };
        info!(
            session = %self.session, peer = %self.peer, account = self.account, delivered = tally.delivered,
            deferred = tally.deferred, failed = tally.failed, delay = ?began.elapsed(), reason, "drain ended"
        );
        match ended {
            Ok(finish) => {
                pull.end(match finish {
                    Finish::AllSent | Finish::Shutdown => PullResult::Complete,
                    Finish::NotPermitted => PullResult::Refused,
                });
                dialogue.quit().await;
            }
            // A customer whose own server is down just closes: everybody's right, and nobody's fault.
            Err(Broken::Link(LinkFault::Unavailable(_) | LinkFault::Wire(WireError::TimedOut))) => {
                dialogue.quit().await
            }
            Err(_) => {}
        }
    }

    async fn send_all(
        &self,
        dialogue: &mut Dialogue,
        pull: &PullGuard,
        tally: &mut Tally,
    ) -> Result<Finish, Broken> {
        dialogue.greeting().await?;
        dialogue.hello(self.hostname).await?;
        let mut settling = VecDeque::new();
        let sent = self.send_claims(dialogue, pull, tally, &mut settling).await;
        // What the puller said counts, however the session ended.
        for settled in settling {
            settled.await?;
        }
        sent
    }

    async fn send_claims(
        &self,
        dialogue: &mut Dialogue,
        pull: &PullGuard,
        tally: &mut Tally,
        settling: &mut VecDeque<Settling>,
    ) -> Result<Finish, Broken> {
        loop {
            if let Some(finish) = self.must_end() {
                return Ok(finish);
            }
            let leases = self
                .store
                .claim(self.session, self.domains, CLAIM_MAX)
                .await?;
            if leases.is_empty() {
                if settling.is_empty() {
                    return Ok(Finish::AllSent);
                }
                // The rest of a delivery that was taken in part is free once its settlement is through.
                for settled in settling.drain(..) {
                    settled.await?;
                }
                continue;
            }
            for lease in leases {
                if let Some(finish) = self.must_end() {
                    return Ok(finish);
                }
                let began = Instant::now();
                let (outcomes, cut) = match send(dialogue, &lease).await {
                    Err(Broken::Content(error)) => {
                        let outcomes = unreadable(&lease, &error);
                        (outcomes, Some(Broken::Content(error)))
                    }
                    sent => (sent?, None),
                };
                self.note(&lease, &outcomes, began, pull, tally);
                settling.push_back(Box::pin(self.store.settle(lease, outcomes, None)));
                if let Some(broken) = cut {
                    return Err(broken);
                }
                if settling.len() > SETTLING_MAX
                    && let Some(oldest) = settling.pop_front()
                {
                    oldest.await?;
                }
            }
        }
    }

    /// Asked between two messages: what was changed meanwhile counts from the next one on.
    fn must_end(&self) -> Option<Finish> {
        if self.shutdown.is_cancelled() {
            return Some(Finish::Shutdown);
        }
        let settings = self.settings.load();
        let granted = permission::granted(settings.config.account(self.account), self.domains);
        granted.is_none().then_some(Finish::NotPermitted)
    }

    /// Counts and logs how a delivery ended.
    fn note(
        &self,
        delivery: &Delivery,
        outcomes: &[Outcome],
        began: Instant,
        pull: &PullGuard,
        tally: &mut Tally,
    ) {
        let mut worst = None;
        for (recipient, outcome) in delivery.recipients.iter().zip(outcomes) {
            if let Outcome::Deferred(reply) | Outcome::Failed(reply) = outcome {
                let forward_path = recipient.forward_path.to_string();
                warn!(
                    session = %self.session, account = self.account, delivery_id = %delivery.id, domain = %delivery.domain,
                    forward_path = %log::peer(&forward_path), %reply, state = state(outcome), "not delivered"
                );
                worst = Some(outcome);
            }
        }
        match worst {
            Some(Outcome::Failed(_)) => {
                tally.failed += 1;
                pull.failed();
            }
            Some(_) => {
                tally.deferred += 1;
                pull.deferred();
            }
            None if outcomes
                .iter()
                .all(|outcome| matches!(outcome, Outcome::Delivered)) =>
            {
                tally.delivered += 1;
                pull.delivered(delivery.size);
                info!(
                    session = %self.session, account = self.account, delivery_id = %delivery.id, domain = %delivery.domain,
                    size = delivery.size, delay = ?began.elapsed(), "delivered"
                );
            }
            None => {
                debug!(session = %self.session, delivery_id = %delivery.id, "delivered in part; the rest follows at once")
            }
        }
    }
}

fn state(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Failed(_) => "failed",
        _ => "deferred",
    }
}

/// Sends one delivery; the outcome for each of its recipients.
async fn send(dialogue: &mut Dialogue, lease: &Lease) -> Result<Vec<Outcome>, Broken> {
    let recipients = lease.recipients.len();
    if let Err(refusal) = dialogue.client().can_carry(&needs(lease)) {
        return Ok(vec![Outcome::Failed(refusal); recipients]);
    }
    let content = match lease.content().await {
        Ok(content) => content,
        Err(StoreError::Damaged(reason)) => {
            error!(delivery_id = %lease.id, reason, "the content of a message is damaged");
            let reply = Reply::new(
                554,
                "5.3.0",
                "The content of this message is damaged in the queue",
            );
            return Ok(vec![Outcome::Failed(reply); recipients]);
        }
        Err(error @ StoreError::Closed) => return Err(error.into()),
        Err(error) => return Ok(unreadable(lease, &error)),
    };
    let envelope = Envelope::of(lease);
    let (verdict, last) = if dialogue.client().extensions().chunking {
        send_chunk(dialogue, &envelope.part(), content).await?
    } else {
        send_data(dialogue, &envelope.part(), content).await?
    };
    if !last.as_ref().is_some_and(Reply::is_positive) {
        // Whatever the peer still holds of this transaction, the next one begins clean.
        dialogue.reset().await?;
    }
    Ok(verdict::outcomes(&verdict, recipients, last.as_ref()))
}

/// A message that cannot be read now waits like one that the puller deferred: if it stayed in front it would end
/// each drain before those behind it.
fn unreadable(delivery: &Delivery, error: &StoreError) -> Vec<Outcome> {
    if matches!(error, StoreError::Closed) {
        return vec![Outcome::Released; delivery.recipients.len()];
    }
    error!(delivery_id = %delivery.id, %error, "the content of a message cannot be read now");
    let reply = Reply::new(
        451,
        "4.3.0",
        "The content of this message cannot be read now",
    );
    vec![Outcome::Deferred(reply); delivery.recipients.len()]
}

type Sent = (PartVerdict, Option<Reply>);

/// By BDAT: small messages in one flight with their envelope, large ones once somebody wants them.
async fn send_chunk(
    dialogue: &mut Dialogue,
    envelope: &Part<'_>,
    content: ContentReader,
) -> Result<Sent, Broken> {
    let octets = content.size();
    if octets <= ONE_FLIGHT_OCTETS && dialogue.client().extensions().pipelining {
        dialogue.begin_flight(envelope, octets);
        send_content(dialogue, content).await?;
        let (verdict, replies) = dialogue.flight_verdict(envelope).await?;
        return Ok((verdict, replies.into_iter().next()));
    }
    let verdict = dialogue.part(envelope).await?;
    if verdict.accepted() == 0 {
        return Ok((verdict, None));
    }
    dialogue.begin_chunk(octets);
    send_content(dialogue, content).await?;
    let replies = dialogue.verdicts().await?;
    Ok((verdict, replies.into_iter().next()))
}

async fn send_data(
    dialogue: &mut Dialogue,
    envelope: &Part<'_>,
    content: ContentReader,
) -> Result<Sent, Broken> {
    let with_data = Part {
        data: true,
        ..*envelope
    };
    let verdict = dialogue.part(&with_data).await?;
    if verdict.accepted() == 0 || !verdict.awaits_content() {
        let refused = verdict.data.clone();
        return Ok((verdict, refused));
    }
    send_content(dialogue, content).await?;
    let replies = dialogue.end_of_data(verdict.accepted()).await?;
    Ok((verdict, replies.into_iter().next()))
}

async fn send_content(dialogue: &mut Dialogue, mut content: ContentReader) -> Result<(), Broken> {
    while let Some(part) = content.next().await.map_err(Broken::Content)? {
        dialogue.content(&part).await?;
    }
    Ok(())
}

fn needs(delivery: &Delivery) -> Needs {
    Needs {
        octets: delivery.size,
        eight_bit: delivery.eight_bit
            || delivery.mail_parameters.body == Some(BodyType::EightBitMime),
        smtputf8: delivery.needs_smtputf8,
    }
}

/// What goes out before the content: printed from parsed values, with the real size.
struct Envelope<'d> {
    reverse_path: &'d ReversePath,
    parameters: MailParameters,
    recipients: Vec<(ForwardPath, RcptParameters)>,
}

impl<'d> Envelope<'d> {
    fn of(delivery: &'d Delivery) -> Self {
        let declared = delivery.mail_parameters.body;
        let found = delivery.eight_bit.then_some(BodyType::EightBitMime);
        let recipients = delivery.recipients.iter();
        Self {
            reverse_path: &delivery.reverse_path,
            parameters: MailParameters {
                size: Some(delivery.size),
                body: found.or(declared),
                ..delivery.mail_parameters.clone()
            },
            recipients: recipients
                .map(|recipient| (recipient.forward_path.clone(), recipient.parameters.clone()))
                .collect(),
        }
    }

    /// All of it, without DATA.
    fn part(&self) -> Part<'_> {
        Part {
            mail: Some((self.reverse_path, &self.parameters)),
            recipients: &self.recipients,
            data: false,
            accepted: 0,
        }
    }
}
