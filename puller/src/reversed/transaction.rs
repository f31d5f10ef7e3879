//! A transaction of the relay: what it asked, in order, and the answers once the target has spoken.

use std::time::Duration;

use atrn_shared::smtp::address::{ForwardPath, ReversePath};
use atrn_shared::smtp::parameter::{MailParameters, RcptParameters};
use atrn_shared::smtp::reply::Reply;

use super::Terms;
use super::delivery::already_delivered;
use super::message::Message;
use crate::handover::{Group, Verdict, Verdicts};
use crate::reports::{Route, Switch};

/// From MAIL to the last answer.
pub(super) struct Transaction {
    pub(super) message: Message,
    pub(super) route: Route,
    /// What was asked and not yet passed on.
    pub(super) group: Group,
    /// Everything that waits for an answer, in order.
    pub(super) asked: Vec<Asked>,
    pub(super) stage: Stage,
    /// How long we have waited for the relay in it.
    pub(super) waited: Duration,
}

/// How far it has come.
#[derive(Debug)]
pub(super) enum Stage {
    /// Nothing of it was passed on.
    Collecting,
    /// Nothing of it was passed on, and its content comes already.
    Ahead(Vec<u8>),
    /// In lock-step with the target, or over.
    InStep,
}

/// A question of the machine that waits for its answer.
pub(super) enum Asked {
    Mail,
    /// To MAIL: the answer that needs no target.
    Known(Reply),
    Recipient,
    /// The recipient took the delivery when it was offered before; the target is not asked.
    TakenBefore,
    /// The refusal is ours, and the target is not asked.
    Refused(ForwardPath, Reply),
    Content,
    /// The verdict on a message that was read ahead.
    End,
}

/// For the machine.
pub(super) struct Answer {
    pub(super) reply: Reply,
    /// It counts as an error of the relay.
    pub(super) is_error: bool,
}

impl Transaction {
    /// No transaction yet.
    pub(super) fn none() -> Self {
        Self {
            message: Message::none(),
            route: Route::Inside,
            group: Group::default(),
            asked: Vec::new(),
            stage: Stage::InStep,
            waited: Duration::ZERO,
        }
    }

    pub(super) fn new(path: &ReversePath, parameters: &MailParameters) -> Self {
        Self {
            message: Message::new(path, parameters),
            route: Route::begin(path),
            stage: Stage::Collecting,
            ..Self::none()
        }
    }

    /// Whether all that was asked of it waits for its answer, and none of it is at the target.
    pub(super) fn is_untouched(&self) -> bool {
        matches!(self.stage, Stage::Collecting) && !self.asked.is_empty()
    }

    pub(super) fn recipient(
        &mut self,
        switch: &Switch,
        path: ForwardPath,
        parameters: RcptParameters,
    ) {
        let asked = if let Some(refusal) = switch.recipient(&mut self.route, &path) {
            Asked::Refused(path, refusal)
        } else if self.message.was_taken_by(&path) {
            Asked::TakenBefore
        } else {
            self.group.recipients.push((path, parameters));
            Asked::Recipient
        };
        self.asked.push(asked);
    }

    /// The answers to all that was asked, from what the target said to the group, and to the message if it got one.
    pub(super) fn answers(
        &mut self,
        verdicts: Verdicts,
        verdict: Option<&Verdict>,
        terms: &Terms,
    ) -> Vec<Answer> {
        let Verdicts {
            mail,
            recipients,
            content,
        } = verdicts;
        let passed_on = self.group.recipients.drain(..).map(|(path, _)| path);
        let mut passed_on = passed_on.zip(recipients);
        let message = &mut self.message;
        let mut answers = Vec::with_capacity(self.asked.len());
        for asked in self.asked.drain(..) {
            let mut is_error = false;
            let reply = match asked {
                Asked::Known(reply) => Some(reply),
                Asked::Mail => {
                    if let Some(refusal) = mail.as_ref().filter(|reply| !reply.is_positive()) {
                        message.refused(None, refusal, terms);
                        message.claim = None;
                    }
                    mail.clone()
                }
                Asked::Refused(path, refusal) => {
                    message.refused(Some(&path), &refusal, terms);
                    is_error = refusal.is_permanent();
                    Some(refusal)
                }
                Asked::TakenBefore => Some(already_delivered("2.1.5")),
                Asked::Recipient => passed_on.next().map(|(path, reply)| {
                    if reply.is_positive() {
                        message.recipients.push(path);
                    } else {
                        message.refused(Some(&path), &reply, terms);
                    }
                    reply
                }),
                Asked::Content | Asked::End => {
                    if let Some(refusal) = content.as_ref().filter(|reply| !reply.is_intermediate())
                    {
                        message.refused(None, refusal, terms);
                    }
                    match verdict {
                        Some(verdict) => Some(verdict.reply.clone()),
                        // 354 to content for nobody: the machine turns it into its refusal.
                        None => content
                            .clone()
                            .or_else(|| Some(Reply::bare(354, "Go ahead"))),
                    }
                }
            };
            let reply = reply.unwrap_or_else(|| Reply::new(451, "4.3.0", "Try again later"));
            answers.push(Answer { reply, is_error });
        }
        drop(passed_on);
        self.group.clear();
        answers
    }
}
