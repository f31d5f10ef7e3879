//! Messages in lock-step with the target: what the relay asks is passed on in the groups in which it came, and its
//! answers are the target's. The way of everything that is not small and whole; nothing else is under way meanwhile.

use atrn_shared::smtp::reply::Reply;
use atrn_shared::smtp::server::{Framing, Summary};

use super::Session;
use super::lane::Stamp;
use super::lanes::Lanes;
use super::message::Content;
use super::transaction::{Answer, Asked, Stage, Transaction};
use crate::handover::{Verdict, Verdicts};
use crate::reports::Route;

impl Session<'_> {
    pub(super) async fn content(&mut self, framing: Framing) {
        // With nobody to take it, the machine itself refuses the content.
        let Transaction { message, group, .. } = &mut self.open;
        if !(message.recipients.is_empty() && group.recipients.is_empty()) {
            group.content = Some(framing);
        }
        self.open.asked.push(Asked::Content);
        self.pass_on().await;
    }

    /// Asks the target everything that the relay asked, and answers it in the relay's order.
    pub(super) async fn pass_on(&mut self) {
        self.settle().await;
        if !self.is_well() {
            return;
        }
        if self.terms.stop.is_cancelled() && self.open.group.mail.is_some() {
            return self.stop();
        }
        if matches!(self.open.stage, Stage::Ahead(_)) {
            // There was something wrong with it, or with the relay: it will not be a message.
            self.open.group.content = None;
        }
        self.open.stage = Stage::InStep;
        if matches!(self.open.asked.first(), Some(Asked::Known(_))) {
            // There is no transaction, so nothing of it is for the target; the machine knows what follows.
            self.open.group.clear();
        }
        let verdicts = self.ask().await;
        let wants_content = verdicts
            .content
            .as_ref()
            .is_some_and(Reply::is_intermediate);
        for Answer { reply, is_error } in self.open.answers(verdicts, None, self.terms) {
            self.server.answer(reply);
            if is_error {
                self.server.count_error();
            }
        }
        if wants_content {
            self.open.message.content = Some(Content::default());
            // A report that goes outside is built anew, and tells nothing of the way in.
            if !self.open.route.is_report() {
                let header = self.trace();
                pass(&mut self.open, &mut self.stream.lanes, header.as_bytes()).await;
            }
        } else {
            self.look_at_target();
        }
    }

    async fn ask(&mut self) -> Verdicts {
        let Transaction { group, route, .. } = &self.open;
        let Some(handover) = self.stream.lanes.first() else {
            return Verdicts::link_lost(group);
        };
        if group.is_empty() {
            Verdicts::default()
        } else if route.is_report() {
            // A MAIL that came alone has been passed on before anybody could know.
            handover.abandon().await;
            Verdicts::positive(group)
        } else {
            handover.begin(group).await
        }
    }

    /// R5321-17: our own trace header on top, and no other change.
    fn trace(&self) -> String {
        let message = &self.open.message;
        let only_recipient = match message.recipients.as_slice() {
            [only] => Some(only),
            _ => None,
        };
        let stamp = Stamp::new(&self.server, &self.wire, self.terms);
        stamp.header(message.count, message.smtputf8, only_recipient)
    }

    pub(super) async fn end_of_message(&mut self, summary: Summary) {
        // From here on the message may be inside: we are not cut off before that is known and written down (OWN-4).
        let expected = self.terms.journal.expect_entry();
        let verdict = match expected {
            Some(_) => self.finish().await,
            None => self.end_too_late().await,
        };
        let message = &mut self.open.message;
        message.judged(&verdict, summary.octets, self.terms);
        self.tally.count(&verdict.reply, summary.octets);
        let written = if verdict.reply.is_positive() {
            self.write_down().await
        } else {
            Ok(())
        };
        drop(expected);
        let message = &mut self.open.message;
        message.claim = None;
        message.refusal = None;
        message.content = None;
        // Whatever became of the entry: the message is inside, and to have it sent again would be wrong.
        self.server.answer(verdict.reply);
        if let Err(error) = written {
            self.journal_lost(error);
        } else {
            self.look_at_target();
        }
    }

    async fn finish(&mut self) -> Verdict {
        let lanes = &mut self.stream.lanes;
        match std::mem::replace(&mut self.open.route, Route::Inside) {
            Route::Report(draft) => lanes.judge(draft).await,
            Route::Open { .. } | Route::Inside => match lanes.first() {
                Some(handover) => handover.finish().await,
                None => Verdict::link_lost(),
            },
        }
    }

    /// The target gets no end of the message, so nothing was handed over (OWN-3).
    async fn end_too_late(&mut self) -> Verdict {
        self.open.route = Route::Inside;
        if let Some(handover) = self.stream.lanes.first() {
            handover.abandon().await;
        }
        Verdict::too_late()
    }

    pub(super) async fn abandoned(&mut self, refusal: Option<Reply>) {
        if !self.open.asked.is_empty() {
            self.pass_on().await;
        }
        let message = &mut self.open.message;
        if let (Some(reply), Some(_)) = (refusal, &message.content) {
            self.tally.count(&reply, 0);
            message.refusal = None;
            let verdict = Verdict {
                said: reply.clone(),
                reply,
            };
            message.judged(&verdict, 0, self.terms);
        }
        message.content = None;
        message.claim = None;
        self.count_envelope();
        self.open.route = Route::Inside;
        if let Some(handover) = self.stream.lanes.first() {
            handover.abandon().await;
        }
    }

    /// A transaction that came to its end with its envelope counts as well.
    pub(super) fn count_envelope(&mut self) {
        if let Some(reply) = self.open.message.refusal.take() {
            self.tally.count(&reply, 0);
        }
    }

    fn look_at_target(&mut self) {
        let handover = self.stream.lanes.first();
        if handover.is_some_and(|handover| handover.is_exhausted()) {
            self.target_lost();
        }
    }
}

/// Content on its way: to the target, or into what is kept of it.
pub(super) async fn pass(open: &mut Transaction, lanes: &mut Lanes, part: &[u8]) {
    match (&mut open.stage, &mut open.route) {
        // What nobody wants is not kept.
        (Stage::Ahead(content), _) if open.group.content.is_some() => {
            content.extend_from_slice(part);
        }
        (Stage::Ahead(_), _) => {}
        (_, Route::Report(draft)) => draft.add(part),
        (_, Route::Open { .. } | Route::Inside) => {
            if let Some(handover) = lanes.first() {
                handover.body(part).await;
            }
        }
    }
}
