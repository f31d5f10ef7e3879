//! Deliveries that the relay names: in our hands from MAIL on, in the journal before the `250`, and taken once (R-DUP).

use std::ops::ControlFlow;
use std::time::Duration;

use atrn_shared::smtp::parameter::DeliveryId;
use atrn_shared::smtp::reply::{ALREADY_DELIVERED, Reply};
use atrn_shared::wire::WireError;
use tracing::{error, info};

use super::transaction::{Asked, Stage};
use super::{End, Session, Terms};
use crate::journal::{Begun, Claim, JournalError};

/// A delivery that another session has in hand is waited for: mostly the relay lost that session, and its target is
/// about to answer. The relay itself waits five minutes for the answer to MAIL (R5321-41).
const IN_HAND_PATIENCE: Duration = Duration::from_secs(30);

impl Session<'_> {
    /// Takes a delivery into our hands, or tells the relay why not.
    pub(super) async fn claim(
        &mut self,
        id: &DeliveryId,
    ) -> Result<ControlFlow<(), Claim>, WireError> {
        match self.begin(id).await? {
            Ok(Begun::Fresh(claim)) => return Ok(ControlFlow::Continue(claim)),
            Ok(Begun::InHand) => self.refuse_sender(Reply::new(
                451,
                "4.3.0",
                "Another session has this delivery in hand",
            )),
            Ok(Begun::Taken) => {
                let Terms { relay, session, .. } = self.terms;
                info!(%relay, %session, delivery_id = %id, "already delivered");
                self.tally.already_there += 1;
                self.known(already_delivered("2.0.0"));
            }
            Err(error) => {
                self.refuse_sender(Reply::new(451, "4.3.0", "Mail cannot be taken now"));
                self.journal_lost(error);
            }
        }
        Ok(ControlFlow::Break(()))
    }

    fn refuse_sender(&mut self, reply: Reply) {
        self.open.message.refused(None, &reply, self.terms);
        self.known(reply);
    }

    /// The answer to MAIL, for which the target is not asked: said now, or when it is its turn.
    fn known(&mut self, reply: Reply) {
        if self.stream.is_empty() {
            self.server.answer(reply);
            self.open.stage = Stage::InStep;
        } else {
            self.open.asked.push(Asked::Known(reply));
        }
    }

    /// What we have in hand ourselves comes to its end, and what the relay waits for goes out, before we wait for others.
    async fn begin(&mut self, id: &DeliveryId) -> Result<Result<Begun, JournalError>, WireError> {
        let journal = &self.terms.journal;
        let begun = journal.begin(id);
        if !matches!(begun, Ok(Begun::InHand)) {
            return Ok(begun);
        }
        self.settle().await;
        if !self.is_well() {
            return Ok(begun);
        }
        let wait = self.terms.limits.reply_timeout;
        self.wire.write(&mut self.server.output, wait).await?;
        tokio::select! {
            begun = journal.begin_within(id, IN_HAND_PATIENCE) => Ok(begun),
            () = self.terms.stop.cancelled() => Ok(begun),
        }
    }

    /// The target has the message: that is durable before the relay hears of it (R-DUP), and also where the relay is
    /// gone meanwhile and offers it again to somebody else (OWN-4).
    pub(super) async fn write_down(&mut self) -> Result<(), JournalError> {
        let message = &mut self.open.message;
        message.refused_here = !self.server.take_refusals().is_empty();
        match message.claim.take() {
            Some(claim) => claim.commit(message.taken()).await,
            None => Ok(()),
        }
    }

    pub(super) fn journal_lost(&mut self, error: JournalError) {
        let Terms { relay, session, .. } = self.terms;
        error!(%relay, %session, %error, "no more mail is taken");
        self.fail(
            Reply::new(421, "4.3.0", "No more mail can be taken now"),
            End::JournalLost(error),
        );
    }
}

/// 258, to MAIL or RCPT.
pub(super) fn already_delivered(enhanced: &str) -> Reply {
    Reply::new(ALREADY_DELIVERED, enhanced, "already delivered")
}
