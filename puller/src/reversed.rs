//! The reversed session: the relay sends, we receive, in lock-step with the hand-over (R5321-28).
//!
//! The relay may be hostile. What it sends is parsed, held to the limits, and written anew for the target; only the
//! domains that we asked for are taken (the REV rules). What the relay pipelines is collected and passed on as one
//! flight; its answers are the target's verdicts, in the order of its commands.
//!
//! A delivery that the relay names (XDELIVERYID) is ours to hand over from MAIL on, and in the journal before its `250`
//! goes out (R-DUP). What is there already is not passed on again.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atrn_shared::smtp::address::{Domain, ForwardPath, ReversePath};
use atrn_shared::smtp::pace;
use atrn_shared::smtp::parameter::{MailParameters, RcptParameters};
use atrn_shared::smtp::reply::Reply;
use atrn_shared::smtp::server::{Event, Framing, Hello, HelloKind, Server, Summary, Tls};
use atrn_shared::smtp::trace::Trace;
use atrn_shared::wire::{Wire, WireError};
use jiff::Zoned;
use tokio_util::sync::CancellationToken;

use crate::config::Limits;
use crate::flow::Flow;
use crate::handover::{Group, Handover, Verdict, Verdicts};
use crate::journal::{Journal, JournalError};
use crate::reports::{Reports, Switch};

/// Silence within content (R5321-47).
const DATA_TIMEOUT: Duration = Duration::from_secs(3 * 60);
/// What goes out when a session ends has this long.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(5);
/// A session that goes on and on is begun anew some time, between two messages.
const SESSION_TIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);

mod delivery;
mod message;
mod offer;

use delivery::already_delivered;
pub use message::Tally;
use message::{Content, Message};

/// What holds for a reversed session.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Name in greeting, EHLO reply and `Received`.
    pub hostname: String,
    /// How the logs call the relay.
    pub relay: String,
    /// How the logs call the session.
    pub session: String,
    /// What ATRN asked for: mail is taken for these domains only.
    pub domains: Vec<Domain>,
    /// What the relay may do to us.
    pub limits: Limits,
    /// How long the relay may be silent between two messages.
    pub idle_timeout: Duration,
    /// What is inside already.
    pub journal: Journal,
    /// Where reports to senders outside go.
    pub reports: Option<Reports>,
    /// Learns of each message and each silence.
    pub flow: Flow,
    /// Ends the session at the next message boundary.
    pub stop: CancellationToken,
}

/// How a session ended.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// The relay broke our limits or the protocol, and heard this.
    #[error("closed by us: {0}")]
    Closed(String),
    /// What is inside cannot be written down, so nothing more is taken.
    #[error("the journal failed: {0}")]
    JournalLost(JournalError),
    /// The connection ended without QUIT.
    #[error("lost: {0}")]
    Lost(#[from] WireError),
    /// QUIT: the good end.
    #[error("quit")]
    Quit,
    /// We are shutting down.
    #[error("stopped")]
    Stopped,
    /// The hand-over target is gone.
    #[error("the hand-over target failed")]
    TargetLost,
}

/// Serves the relay until one of us ends it.
pub async fn serve(wire: Wire, handover: Handover, terms: &Terms) -> (Tally, End) {
    let mut session = Session::new(wire, handover, terms);
    let end = session.run().await;
    session.count_envelope();
    let Session {
        wire,
        handover,
        server,
        tally,
        ..
    } = session;
    // Inside a transaction the target must see the connection end, and nothing else (OWN-2, OWN-3).
    if !server.in_transaction() {
        handover.quit().await;
    }
    if !matches!(end, End::Lost(_)) {
        wire.close(FAREWELL_TIMEOUT).await;
    }
    (tally, end)
}

struct Session<'t> {
    terms: &'t Terms,
    server: Server,
    wire: Wire,
    handover: Switch,
    started: Instant,
    /// What was asked and not yet passed on.
    group: Group,
    /// Everything that waits for an answer, in order.
    asked: Vec<Asked>,
    message: Message,
    /// Messages so far, whatever became of them: part of their ids.
    count: u64,
    tally: Tally,
    /// Why we closed, if we did.
    closing: Option<End>,
}

/// A question of the machine that waits for its answer.
enum Asked {
    Mail,
    Recipient,
    /// The recipient took the delivery when it was offered before; the target is not asked.
    TakenBefore,
    /// The refusal is ours, and the target is not asked.
    Refused(ForwardPath, Reply),
    Content,
}

impl<'t> Session<'t> {
    fn new(wire: Wire, handover: Handover, terms: &'t Terms) -> Self {
        let tls = if wire.is_tls() {
            Tls::Active
        } else {
            Tls::Unavailable
        };
        Self {
            server: Server::new(Arc::new(offer::machine(terms, &handover)), tls),
            terms,
            wire,
            handover: Switch::new(handover, terms),
            started: Instant::now(),
            group: Group::default(),
            asked: Vec::new(),
            message: Message::none(),
            count: 0,
            tally: Tally::default(),
            closing: None,
        }
    }

    async fn run(&mut self) -> End {
        loop {
            match self.server.next(&mut self.wire.input) {
                Event::NeedInput if self.asked.is_empty() => {
                    if let Err(error) = self.listen().await {
                        return self.give_up(error).await;
                    }
                }
                Event::NeedInput => self.pass_on().await,
                Event::Mail(path, parameters) => {
                    if let Err(error) = self.mail(path, parameters).await {
                        return self.give_up(error).await;
                    }
                }
                Event::Recipient(path, parameters) => self.recipient(path, parameters),
                Event::Content(framing) => {
                    self.content(framing);
                    self.pass_on().await;
                }
                Event::Body(part) => {
                    if let Some(content) = &mut self.message.content {
                        content.octets += part.len() as u64;
                    }
                    self.handover.body(part).await;
                }
                Event::EndOfMessage(summary) => self.end_of_message(summary).await,
                Event::Abandoned(refusal) => self.abandoned(refusal).await,
                Event::StartTls | Event::Closed => return self.closed().await,
            }
        }
    }

    /// Sends what is due and waits for more, but not for ever.
    async fn listen(&mut self) -> Result<(), WireError> {
        let limits = &self.terms.limits;
        self.wire
            .write(&mut self.server.output, limits.reply_timeout)
            .await?;
        let wait = match &self.message.content {
            None if self.server.in_transaction() => limits.reply_timeout,
            None => self.terms.idle_timeout,
            Some(content) => {
                let silence = limits.reply_timeout.min(DATA_TIMEOUT);
                pace::next_wait(content.waited, content.octets, silence)
                    .ok_or(WireError::TimedOut)?
            }
        };
        if self.server.in_transaction() {
            let began = Instant::now();
            self.wire.read(wait).await?;
            if let Some(content) = &mut self.message.content {
                content.waited += began.elapsed();
            }
            return Ok(());
        }
        if self.started.elapsed() > SESSION_TIME_MAX {
            self.close(
                Reply::new(421, "4.3.2", "This session has lasted long enough"),
                End::Quit,
            );
            return Ok(());
        }
        self.terms.flow.pause(self.tally);
        tokio::select! {
            biased;
            outcome = self.wire.read(wait) => outcome,
            () = self.terms.stop.cancelled() => {
                self.stop();
                Ok(())
            }
        }
    }

    async fn mail(
        &mut self,
        path: ReversePath,
        parameters: MailParameters,
    ) -> Result<(), WireError> {
        self.count_envelope();
        self.terms.flow.message(self.tally);
        self.message = Message::new(&path, &parameters);
        self.handover.mail(&path);
        // What was refused from here on concerns this message.
        drop(self.server.take_refusals());
        if let Some(id) = &parameters.delivery_id {
            match self.claim(id).await? {
                ControlFlow::Continue(claim) => {
                    self.group.was_abandoned = claim.was_abandoned();
                    self.message.claim = Some(claim);
                }
                ControlFlow::Break(()) => return Ok(()),
            }
        }
        self.group.mail = Some((path, parameters));
        self.asked.push(Asked::Mail);
        Ok(())
    }

    fn refuse_sender(&mut self, reply: Reply) {
        self.message.refused(None, &reply, self.terms);
        self.server.answer(reply);
    }

    fn recipient(&mut self, path: ForwardPath, parameters: RcptParameters) {
        let asked = if let Some(refusal) = self.handover.recipient(&path) {
            Asked::Refused(path, refusal)
        } else if self.message.was_taken_by(&path) {
            Asked::TakenBefore
        } else {
            self.group.recipients.push((path, parameters));
            Asked::Recipient
        };
        self.asked.push(asked);
    }

    fn content(&mut self, framing: Framing) {
        // With nobody to take it, the machine itself refuses the content.
        if !(self.message.recipients.is_empty() && self.group.recipients.is_empty()) {
            self.group.content = Some(framing);
        }
        self.asked.push(Asked::Content);
    }

    /// Asks the target everything that the relay asked, and answers it in the relay's order.
    async fn pass_on(&mut self) {
        if self.terms.stop.is_cancelled() && self.group.mail.is_some() {
            self.asked.clear();
            self.group.clear();
            return self.stop();
        }
        let verdicts = if self.group.is_empty() {
            Verdicts::default()
        } else {
            self.handover.begin(&self.group).await
        };
        let wants_content = verdicts
            .content
            .as_ref()
            .is_some_and(Reply::is_intermediate);
        self.answer(verdicts);
        if wants_content {
            self.message.content = Some(Content::default());
            let header = self.trace();
            // A report that goes outside is built anew, and tells nothing of the way in.
            if !self.handover.is_report() {
                self.handover.body(header.as_bytes()).await;
            }
        } else if self.handover.is_exhausted() {
            self.target_lost();
        }
    }

    fn answer(&mut self, verdicts: Verdicts) {
        let Verdicts {
            mail,
            recipients,
            content,
        } = verdicts;
        let passed_on = self.group.recipients.drain(..).map(|(path, _)| path);
        let mut passed_on = passed_on.zip(recipients);
        for asked in self.asked.drain(..) {
            let reply = match asked {
                Asked::Mail => {
                    if let Some(refusal) = mail.as_ref().filter(|reply| !reply.is_positive()) {
                        self.message.refused(None, refusal, self.terms);
                        self.message.claim = None;
                    }
                    mail.clone()
                }
                Asked::Refused(path, refusal) => {
                    self.message.refused(Some(&path), &refusal, self.terms);
                    let is_error = refusal.is_permanent();
                    self.server.answer(refusal);
                    if is_error {
                        self.server.count_error();
                    }
                    continue;
                }
                Asked::TakenBefore => Some(already_delivered("2.1.5")),
                Asked::Recipient => passed_on.next().map(|(path, reply)| {
                    if reply.is_positive() {
                        self.message.recipients.push(path);
                    } else {
                        self.message.refused(Some(&path), &reply, self.terms);
                    }
                    reply
                }),
                Asked::Content => {
                    if let Some(refusal) = content.as_ref().filter(|reply| !reply.is_intermediate())
                    {
                        self.message.refused(None, refusal, self.terms);
                    }
                    // 354 to content for nobody: the machine turns it into its refusal.
                    content
                        .clone()
                        .or_else(|| Some(Reply::bare(354, "Go ahead")))
                }
            };
            self.server
                .answer(reply.unwrap_or_else(|| Reply::new(451, "4.3.0", "Try again later")));
        }
        drop(passed_on);
        self.group.clear();
    }

    /// R5321-17: our own trace header on top, and no other change.
    fn trace(&mut self) -> String {
        self.count += 1;
        let nameless = Hello {
            kind: HelloKind::Ehlo,
            name: "unknown".to_owned(),
        };
        let id = format_args!("{}-{}", self.terms.session, self.count).to_string();
        let only_recipient = match self.message.recipients.as_slice() {
            [only] => Some(only),
            _ => None,
        };
        let trace = Trace {
            hello: self.server.hello().unwrap_or(&nameless),
            address: self.wire.peer_address().map(|address| address.ip()),
            hostname: &self.terms.hostname,
            is_tls: self.wire.is_tls(),
            smtputf8: self.message.smtputf8,
            id: &id,
            only_recipient,
            now: &Zoned::now(),
        };
        trace.header()
    }

    async fn end_of_message(&mut self, summary: Summary) {
        // From here on the message may be inside: we are not cut off before that is known and written down (OWN-4).
        let expected = self.terms.journal.expect_entry();
        let verdict = self.handover.finish().await;
        self.message
            .judged(&verdict, summary.octets, self.count, self.terms);
        self.tally.count(&verdict.reply, summary.octets);
        let written = if verdict.reply.is_positive() {
            self.write_down().await
        } else {
            Ok(())
        };
        drop(expected);
        self.message.claim = None;
        self.message.refusal = None;
        self.message.content = None;
        // Whatever became of the entry: the message is inside, and to have it sent again would be wrong.
        self.server.answer(verdict.reply);
        if let Err(error) = written {
            self.journal_lost(error);
        } else if self.handover.is_exhausted() {
            self.target_lost();
        }
    }

    async fn abandoned(&mut self, refusal: Option<Reply>) {
        if !self.asked.is_empty() {
            self.pass_on().await;
        }
        if let (Some(reply), Some(_)) = (refusal, &self.message.content) {
            self.tally.count(&reply, 0);
            self.message.refusal = None;
            let verdict = Verdict {
                said: reply.clone(),
                reply,
            };
            self.message.judged(&verdict, 0, self.count, self.terms);
        }
        self.message.content = None;
        self.message.claim = None;
        self.count_envelope();
        self.handover.abandon().await;
    }

    /// A transaction that came to its end with its envelope counts as well.
    fn count_envelope(&mut self) {
        if let Some(reply) = self.message.refusal.take() {
            self.tally.count(&reply, 0);
        }
    }

    fn stop(&mut self) {
        self.close(Reply::new(421, "4.3.2", "Shutting down"), End::Stopped);
    }

    fn target_lost(&mut self) {
        self.close(
            Reply::new(421, "4.4.1", "The mail server inside cannot be reached"),
            End::TargetLost,
        );
    }

    fn close(&mut self, reply: Reply, end: End) {
        self.server.close(reply);
        self.closing = Some(end);
    }

    /// The machine has said its last word.
    async fn closed(&mut self) -> End {
        let last = last_line(&self.server.output);
        // The relay may be gone already: after QUIT that is its right.
        let _ = self
            .wire
            .write(&mut self.server.output, FAREWELL_TIMEOUT)
            .await;
        match self.closing.take() {
            Some(end) => end,
            None if last.starts_with("221") => End::Quit,
            None => End::Closed(last),
        }
    }

    /// The connection failed; a relay that is merely silent is told.
    async fn give_up(&mut self, error: WireError) -> End {
        if matches!(error, WireError::TimedOut) {
            self.server
                .close(Reply::new(421, "4.4.2", "Nothing came in time"));
            let _ = self
                .wire
                .write(&mut self.server.output, FAREWELL_TIMEOUT)
                .await;
        }
        End::Lost(error)
    }
}

fn last_line(output: &[u8]) -> String {
    String::from_utf8_lossy(output)
        .lines()
        .last()
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests;
