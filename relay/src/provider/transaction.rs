//! One delivery as one transaction on the reversed session: MAIL, RCPT, content, and what the puller says to it.

use atrn_shared::dialogue::{Dialogue, LinkFault, Part, PartVerdict};
use atrn_shared::smtp::address::{ForwardPath, ReversePath};
use atrn_shared::smtp::client::Needs;
use atrn_shared::smtp::parameter::{BodyType, MailParameters, RcptParameters};
use atrn_shared::smtp::reply::Reply;
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
    #[error(transparent)]
    Link(#[from] LinkFault),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What became of a delivery that was to be sent.
#[derive(Debug)]
pub(super) enum Sent {
    /// The puller judged it.
    Judged(Judged),
    /// It never got there, for a reason of our own.
    Unsent(Vec<Outcome>),
}

/// Sends one delivery.
///
/// # Errors
/// There is no verdict, and the session is over.
pub(super) async fn send(dialogue: &mut Dialogue, lease: &Lease) -> Result<Sent, Broken> {
    let recipients = lease.recipients.len();
    if let Err(refusal) = dialogue.client().can_carry(&needs(lease)) {
        // What the puller does not offer to take it would refuse (R1870-3, R6152-2, R6531-2).
        return Ok(Sent::Judged(Judged::refused(&refusal, recipients)));
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
            return Ok(Sent::Unsent(vec![Outcome::Failed(reply); recipients]));
        }
        Err(error @ StoreError::Closed) => return Err(error.into()),
        Err(error) => return Ok(Sent::Unsent(unreadable(lease, &error))),
    };
    let envelope = Envelope::of(lease);
    let (verdict, last) = if dialogue.client().extensions().chunking {
        send_chunk(dialogue, &envelope.part(), content).await?
    } else {
        send_data(dialogue, &envelope.part(), content).await?
    };
    let is_over = verdict.is_already_delivered() || last.as_ref().is_some_and(Reply::is_positive);
    if !is_over {
        // Whatever the peer still holds of this transaction, the next one begins clean.
        dialogue.reset().await?;
    }
    let judged = verdict::judge(&verdict, recipients, last.as_ref());
    Ok(Sent::Judged(judged))
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

type Replies = (PartVerdict, Option<Reply>);

/// By BDAT: small messages in one flight with their envelope, large ones once somebody wants them.
async fn send_chunk(
    dialogue: &mut Dialogue,
    envelope: &Part<'_>,
    content: ContentReader,
) -> Result<Replies, Broken> {
    let octets = content.size();
    if octets <= ONE_FLIGHT_OCTETS && dialogue.client().extensions().pipelining {
        let due = dialogue.begin_flight(envelope, octets);
        send_content(dialogue, content).await?;
        let (verdict, replies) = dialogue.flight_verdict(due).await?;
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
) -> Result<Replies, Broken> {
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
