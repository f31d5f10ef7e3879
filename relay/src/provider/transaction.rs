//! One delivery as one transaction on the reversed session: MAIL, RCPT, content, and what the puller says to it.
//!
//! It goes out as far as the puller's extensions allow before anything of it is answered, so that more can follow
//! behind it ([`window`](super::window)).

use std::time::Instant;

use atrn_shared::dialogue::{Dialogue, Due, LinkFault, Part, PartVerdict};
use atrn_shared::smtp::address::{ForwardPath, ReversePath};
use atrn_shared::smtp::client::Needs;
use atrn_shared::smtp::parameter::{BodyType, MailParameters, RcptParameters};
use atrn_shared::smtp::reply::Reply;
use bytes::Bytes;
use tracing::error;

use super::verdict::{self, Judged};
use crate::queue::{ContentReader, Delivery, Lease, Outcome, StoreError};

/// Up to this size a message goes out in one flight with its envelope: to wait for the verdict on the
/// recipients would cost a round trip, and to be wrong costs no more than these octets.
const ONE_FLIGHT_OCTETS: u64 = 128 * 1024;

/// What broke a session off.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// Content that was on its way could not be read to its end, so the transaction was broken off (OWN-3).
    #[error("content was cut short: {0}")]
    Content(StoreError),
    /// The puller went while nothing was to be sent, as it may.
    #[error("while it waited for mail: {0}")]
    Idle(LinkFault),
    #[error(transparent)]
    Link(#[from] LinkFault),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What was made of a delivery that was to be sent.
#[derive(Debug)]
pub(super) enum Begun {
    /// It is under way.
    Flight(Flight),
    /// The puller cannot take it, and is not asked (R1870-3, R6152-2, R6531-2).
    Refused(Lease, Judged),
    /// It cannot be sent, for a reason of our own.
    Unsent(Lease, Vec<Outcome>),
}

/// How the line has to be left for the next transaction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Start {
    /// There is nothing of an earlier one.
    Clean,
    /// An earlier one was refused, or may be: RSET first.
    Reset,
}

/// A delivery that was begun, until its last reply.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) lease: Lease,
    pub(super) began: Instant,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// The envelope went out, and DATA with it where there is no BDAT; the content waits for the verdict on that.
    Announced(Due, ContentReader),
    /// The content is behind an envelope that was accepted.
    Content(PartVerdict),
    /// To a puller without PIPELINING nothing is sent before what was sent last is answered.
    Steps(ContentReader),
    /// All of it went out.
    Whole(Due),
}

/// What the puller said to a delivery.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) judged: Judged,
    /// Nothing of the transaction is left with the puller.
    pub(super) is_over: bool,
}

impl Flight {
    /// Begins a delivery: writes as much of it as may go out now, and waits for no reply but to RSET of a puller
    /// without PIPELINING.
    ///
    /// # Errors
    /// There is no verdict on what is under way, and the session is over.
    pub(super) async fn begin(
        dialogue: &mut Dialogue,
        lease: Lease,
        start: Start,
    ) -> Result<Begun, Broken> {
        let recipients = lease.recipients.len();
        if let Err(refusal) = dialogue.client().can_carry(&needs(&lease)) {
            return Ok(Begun::Refused(lease, Judged::refused(&refusal, recipients)));
        }
        let offered = dialogue.client().extensions();
        let flies = offered.pipelining && offered.chunking && is_small(&lease);
        let opened = match dialogue.meanwhile(lease.content()).await? {
            Ok(content) if flies => dialogue.meanwhile(Body::whole(content)).await?,
            opened => opened.map(Body::Waits),
        };
        let body = match opened {
            Ok(body) => body,
            Err(StoreError::Damaged(reason)) => {
                let outcomes = damaged(&lease, &reason);
                return Ok(Begun::Unsent(lease, outcomes));
            }
            Err(error @ StoreError::Closed) => return Err(error.into()),
            Err(error) => {
                let outcomes = unreadable(&lease, &error);
                return Ok(Begun::Unsent(lease, outcomes));
            }
        };
        let began = Instant::now();
        let stage = send(dialogue, &lease, body, start).await?;
        Ok(Begun::Flight(Self {
            lease,
            began,
            stage,
        }))
    }

    /// Nothing may be begun behind it before it was taken up once more.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Announced(..) | Stage::Steps(_))
    }

    /// Nothing of it went out.
    pub(super) fn is_unsent(&self) -> bool {
        matches!(self.stage, Stage::Steps(_))
    }

    /// Octets that are under way with it. The content of a large one has flowed before anything follows it.
    pub(super) fn octets(&self) -> u64 {
        self.lease.size.min(ONE_FLIGHT_OCTETS)
    }

    /// Replies that are due for it: to RSET, MAIL, each RCPT and the content.
    pub(super) fn replies(&self) -> usize {
        self.lease.recipients.len() + 3
    }

    /// Takes the replies to what went out of it, and sends what was waiting for them: `None` when more replies are to come.
    ///
    /// # Errors
    /// There is no verdict on it, and the session is over.
    pub(super) async fn advance(
        &mut self,
        dialogue: &mut Dialogue,
    ) -> Result<Option<Answer>, Broken> {
        match &mut self.stage {
            Stage::Whole(due) => {
                let (verdict, replies) = dialogue.flight_verdict(*due).await?;
                Ok(Some(self.answer(&verdict, replies.into_iter().next())))
            }
            Stage::Content(_) => {
                let replies = dialogue.verdicts().await?;
                Ok(self.content_answer(replies))
            }
            Stage::Announced(due, content) => {
                let verdict = dialogue.envelope_verdict(*due).await?;
                if !send_content(dialogue, &verdict, content).await? {
                    return Ok(Some(self.answer(&verdict, verdict.data.clone())));
                }
                self.stage = Stage::Content(verdict);
                Ok(None)
            }
            Stage::Steps(content) => {
                let envelope = Envelope::of(&self.lease);
                let verdict = dialogue.part(&envelope.part(dialogue)).await?;
                if !send_content(dialogue, &verdict, content).await? {
                    return Ok(Some(self.answer(&verdict, verdict.data.clone())));
                }
                let replies = dialogue.verdicts().await?;
                self.stage = Stage::Content(verdict);
                Ok(self.content_answer(replies))
            }
        }
    }

    fn content_answer(&self, replies: Vec<Reply>) -> Option<Answer> {
        let Stage::Content(verdict) = &self.stage else {
            return None;
        };
        Some(self.answer(verdict, replies.into_iter().next()))
    }

    fn answer(&self, verdict: &PartVerdict, last: Option<Reply>) -> Answer {
        let is_taken = last.as_ref().is_some_and(Reply::is_positive);
        Answer {
            judged: verdict::judge(verdict, self.lease.recipients.len(), last.as_ref()),
            is_over: is_taken || verdict.is_already_delivered(),
        }
    }
}

/// Content that is to be sent.
enum Body {
    /// Read to its end: it can no longer fail in the middle of a transaction.
    Whole(Vec<Bytes>),
    /// Large, or for later.
    Waits(ContentReader),
}

impl Body {
    async fn whole(mut content: ContentReader) -> Result<Self, StoreError> {
        let mut parts = Vec::with_capacity(1);
        while let Some(part) = content.next().await? {
            parts.push(part);
        }
        Ok(Self::Whole(parts))
    }
}

/// Sends as much as may go out before a reply.
async fn send(
    dialogue: &mut Dialogue,
    lease: &Lease,
    body: Body,
    start: Start,
) -> Result<Stage, LinkFault> {
    let pipelining = dialogue.client().extensions().pipelining;
    if start == Start::Reset {
        if !pipelining {
            dialogue.reset().await?;
        } else {
            dialogue.begin_reset();
        }
    }
    let envelope = Envelope::of(lease);
    let part = envelope.part(dialogue);
    match body {
        Body::Whole(parts) => {
            let due = dialogue.begin_flight(&part, lease.size);
            for octets in parts {
                dialogue.content(&octets).await?;
            }
            Ok(Stage::Whole(due))
        }
        Body::Waits(content) if pipelining => {
            Ok(Stage::Announced(dialogue.begin_envelope(&part), content))
        }
        Body::Waits(content) => Ok(Stage::Steps(content)),
    }
}

/// Sends the content of a message that has gone as far; whether somebody wants it.
async fn send_content(
    dialogue: &mut Dialogue,
    verdict: &PartVerdict,
    content: &mut ContentReader,
) -> Result<bool, Broken> {
    if verdict.accepted() == 0 {
        return Ok(false);
    }
    let chunking = dialogue.client().extensions().chunking;
    if chunking {
        dialogue.begin_chunk(content.size());
    } else if !verdict.awaits_content() {
        return Ok(false);
    }
    while let Some(part) = content.next().await.map_err(Broken::Content)? {
        dialogue.content(&part).await?;
    }
    if !chunking {
        dialogue.begin_end_of_data(verdict.accepted())?;
    }
    Ok(true)
}

/// A message that cannot be read now waits like one that the puller deferred: if it stayed in front it would end
/// each drain before those behind it.
pub(super) fn unreadable(delivery: &Delivery, error: &StoreError) -> Vec<Outcome> {
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

fn damaged(delivery: &Delivery, reason: &str) -> Vec<Outcome> {
    error!(delivery_id = %delivery.id, reason, "the content of a message is damaged");
    let reply = Reply::new(
        554,
        "5.3.0",
        "The content of this message is damaged in the queue",
    );
    vec![Outcome::Failed(reply); delivery.recipients.len()]
}

fn is_small(delivery: &Delivery) -> bool {
    delivery.size <= ONE_FLIGHT_OCTETS
}

fn needs(delivery: &Delivery) -> Needs {
    Needs {
        octets: delivery.size,
        eight_bit: delivery.eight_bit
            || delivery.mail_parameters.body == Some(BodyType::EightBitMime),
        smtputf8: delivery.needs_smtputf8,
    }
}

/// What goes out before the content: printed from parsed values, with the real size and the name of the delivery.
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
                // Every id of ours is one on the wire (a test of the queue's ids).
                delivery_id: delivery.id.to_string().parse().ok(),
                ..delivery.mail_parameters.clone()
            },
            recipients: recipients
                .map(|recipient| (recipient.forward_path.clone(), recipient.parameters.clone()))
                .collect(),
        }
    }

    /// All of it, and DATA where content does not go by BDAT.
    fn part(&self, dialogue: &Dialogue) -> Part<'_> {
        Part {
            mail: Some((self.reverse_path, &self.parameters)),
            recipients: &self.recipients,
            data: !dialogue.client().extensions().chunking,
            accepted: 0,
        }
    }
}
