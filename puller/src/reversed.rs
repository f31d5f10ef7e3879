//! The reversed session: the relay sends, we receive, and its answers are the target's verdicts (R5321-28).
//!
//! The relay may be hostile. What it sends is parsed, held to the limits, and written anew for the target; only the
//! domains that we asked for are taken (the REV rules). Small messages that come whole go on side by side (`stream`), all
//! else in lock-step with the target (`in_step`); either way the relay is answered in the order of its commands.
//!
//! A delivery that the relay names (XDELIVERYID) is ours to hand over from MAIL on, and in the journal before its `250`
//! goes out (R-DUP). What is there already is not passed on again.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use atrn_shared::smtp::address::{Domain, ReversePath};
use atrn_shared::smtp::pace;
use atrn_shared::smtp::parameter::MailParameters;
use atrn_shared::smtp::reply::Reply;
use atrn_shared::smtp::server::{Event, Framing, Server, Tls};
use atrn_shared::wire::{Wire, WireError};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::config::Limits;
use crate::flow::Flow;
use crate::handover::{Handover, REST_AFTER};
use crate::journal::{Journal, JournalError};
use crate::reports::{Reports, Switch};

/// Silence within content (R5321-47).
const DATA_TIMEOUT: Duration = Duration::from_secs(3 * 60);
/// What goes out when a session ends has this long.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(5);

mod delivery;
mod in_step;
mod lane;
mod lanes;
mod message;
mod offer;
mod pause;
mod stream;
mod transaction;

use in_step::pass;
use lanes::Lanes;
pub use message::Tally;
use stream::Stream;
use transaction::{Asked, Stage, Transaction};

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
    session.settle_begun().await;
    session.count_envelope();
    let Session {
        wire,
        stream,
        server,
        open,
        tally,
        ..
    } = session;
    // Inside a transaction the target must see the connection end, and nothing else (OWN-2, OWN-3).
    if !(server.in_transaction() && matches!(open.stage, Stage::InStep)) {
        stream.lanes.quit().await;
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
    switch: Switch,
    /// Whole messages on their way.
    stream: Stream,
    /// The transaction that the relay speaks of.
    open: Transaction,
    /// Messages so far, whatever became of them: part of their ids.
    count: u64,
    tally: Tally,
    started: Instant,
    /// When the relay last said a whole command, or heard from us: from then on it is its turn.
    heard_at: Instant,
    /// Command lines by then.
    lines_heard: u64,
    /// When connections to the target are closed, unless mail comes before.
    rest_at: Option<Instant>,
    /// The connection failed while something else was waited for.
    lost: Option<WireError>,
    /// No more mail is taken: what is said when all that is under way has come to its end, and why.
    failing: Option<(Reply, End)>,
    /// Why we closed, if we did.
    closing: Option<End>,
}

impl<'t> Session<'t> {
    fn new(wire: Wire, handover: Handover, terms: &'t Terms) -> Self {
        let tls = if wire.is_tls() {
            Tls::Active
        } else {
            Tls::Unavailable
        };
        let switch = Switch::new(terms.reports.as_ref(), &terms.domains);
        let server = Server::new(Arc::new(offer::machine(terms, &handover)), tls);
        let lanes = Lanes::new(handover, switch.outside(), terms.journal.clone());
        let now = Instant::now();
        Self {
            terms,
            server,
            wire,
            switch,
            stream: Stream::new(lanes),
            open: Transaction::none(),
            count: 0,
            tally: Tally::default(),
            started: now,
            heard_at: now,
            lines_heard: 0,
            rest_at: Some(now + REST_AFTER),
            lost: None,
            failing: None,
            closing: None,
        }
    }

    async fn run(&mut self) -> End {
        loop {
            if let Some(error) = self.lost.take() {
                return self.give_up(error).await;
            }
            if let Some((reply, end)) = self.failing.take() {
                self.settle_begun().await;
                self.server.close(reply);
                self.closing = Some(end);
            }
            let outcome = match self.server.next(&mut self.wire.input) {
                Event::NeedInput => self.need_input().await,
                Event::Mail(path, parameters) => self.mail(path, parameters).await,
                Event::Recipient(path, parameters) => {
                    self.open.recipient(&self.switch, path, parameters);
                    Ok(())
                }
                Event::Content(framing) => {
                    self.on_content(framing).await;
                    Ok(())
                }
                Event::Body(part) => {
                    if let Some(content) = &mut self.open.message.content {
                        content.octets += part.len() as u64;
                    }
                    pass(&mut self.open, &mut self.stream.lanes, part).await;
                    Ok(())
                }
                Event::EndOfMessage(summary) => {
                    match std::mem::replace(&mut self.open.stage, Stage::InStep) {
                        Stage::Ahead(content) => self.submit(content).await,
                        Stage::Collecting | Stage::InStep => self.end_of_message(summary).await,
                    }
                    Ok(())
                }
                Event::Abandoned(refusal) => {
                    self.abandoned(refusal).await;
                    Ok(())
                }
                Event::StartTls | Event::Closed => return self.closed().await,
            };
            if let Err(error) = outcome {
                return self.give_up(error).await;
            }
        }
    }

    /// The machine has read all that came. What came in part is passed on when the relay waits for its answer; a
    /// command that was cut in the middle, or content, is still to come.
    async fn need_input(&mut self) -> Result<(), WireError> {
        let is_asked = !self.open.asked.is_empty();
        let is_due = match self.open.stage {
            _ if self.server.needs_answers() => true,
            Stage::Ahead(_) => false,
            Stage::Collecting => is_asked && self.stream.is_empty() && self.wire.input.is_empty(),
            Stage::InStep => is_asked,
        };
        if !is_due {
            return self.listen().await;
        }
        self.settle().await;
        if is_asked && self.is_well() {
            self.pass_on().await;
        }
        Ok(())
    }

    /// Sends what is due and waits for more, of the relay or of what is under way, but not for ever.
    async fn listen(&mut self) -> Result<(), WireError> {
        if !self.may_read_on() {
            self.settle_one().await;
            return Ok(());
        }
        let is_idle = self.stream.is_empty() && !self.server.in_transaction();
        if is_idle {
            if self.is_long() {
                return Ok(());
            }
            self.terms.flow.pause(self.tally);
        }
        self.note_turn();
        let (wait, began) = (self.wait()?, Instant::now());
        let in_step = self.server.in_transaction() && matches!(self.open.stage, Stage::InStep);
        let rest_at = self.rest_at.filter(|_| is_idle);
        let is_busy = self.stream.is_busy();
        tokio::select! {
            biased;
            progressed = self.stream.progress(), if is_busy || self.stream.lanes.is_opening() => {
                self.progressed(progressed);
                if is_busy {
                    self.heard_at = Instant::now();
                }
            }
            outcome = self.wire.exchange(&mut self.server.output, wait) => self.heard(&outcome).map_or(outcome, Ok)?,
            () = self.terms.stop.cancelled(), if !in_step => self.stop(),
            () = sleep_until(rest_at.unwrap_or(began)), if rest_at.is_some() => {
                self.rest_at = None;
                self.stream.lanes.rest().await;
            }
        }
        if let Some(content) = &mut self.open.message.content {
            content.waited += began.elapsed();
        }
        if !is_idle && !is_busy {
            self.open.waited += began.elapsed();
        }
        Ok(())
    }

    /// From here on it is the relay's turn, if it said something whole, or is to hear something. Mere octets do not count:
    /// a command that comes drop by drop would never be late.
    fn note_turn(&mut self) {
        let lines = self.server.lines_read();
        if lines != self.lines_heard || !self.server.output.is_empty() {
            self.lines_heard = lines;
            self.heard_at = Instant::now();
        }
    }

    /// How long the relay may be silent.
    fn wait(&self) -> Result<Duration, WireError> {
        let limits = &self.terms.limits;
        let silence = self.heard_at.elapsed();
        let in_transaction = self.server.in_transaction();
        let wait = match &self.open.message.content {
            None if in_transaction || !self.stream.is_empty() => {
                limits.reply_timeout.saturating_sub(silence)
            }
            None => self.terms.idle_timeout.saturating_sub(silence),
            Some(content) => {
                let silence = limits.reply_timeout.min(DATA_TIMEOUT);
                let wait = pace::next_wait(content.waited, content.octets, silence);
                wait.ok_or(WireError::TimedOut)?
            }
        };
        let left = limits.transaction_timeout.checked_sub(self.open.waited);
        match left.filter(|left| !left.is_zero()) {
            _ if !in_transaction => Ok(wait),
            Some(left) => Ok(wait.min(left)),
            None => Err(WireError::TimedOut),
        }
    }

    /// Whether what came of the wait is no end: it is our turn, and the relay has nothing to say before it hears of what
    /// is under way.
    fn heard(&mut self, outcome: &Result<(), WireError>) -> Option<()> {
        let owes_content = self.open.message.content.is_some();
        let is_ours = !self.stream.is_empty() && self.server.output.is_empty() && !owes_content;
        let is_early = matches!(outcome, Err(WireError::TimedOut)) && is_ours;
        is_early.then(|| self.heard_at = Instant::now())
    }

    /// Whether the session has lasted long enough. It ends where a message ends, or before one begins.
    fn is_long(&mut self) -> bool {
        let is_long = self.started.elapsed() > self.terms.limits.session_timeout;
        if is_long {
            let reply = Reply::new(421, "4.3.2", "This session has lasted long enough");
            self.fail(reply, End::Quit);
        }
        is_long
    }

    async fn mail(
        &mut self,
        path: ReversePath,
        parameters: MailParameters,
    ) -> Result<(), WireError> {
        self.count_envelope();
        self.terms.flow.message(self.tally);
        self.rest_at = Some(Instant::now() + REST_AFTER);
        self.open = Transaction::new(&path, &parameters);
        // What was refused from here on concerns this message.
        drop(self.server.take_refusals());
        if self.terms.stop.is_cancelled() {
            self.stop();
            return Ok(());
        }
        if self.is_long() {
            return Ok(());
        }
        if let Some(id) = &parameters.delivery_id {
            match self.claim(id).await? {
                ControlFlow::Continue(claim) => {
                    self.open.group.was_abandoned = claim.was_abandoned();
                    self.open.message.claim = Some(claim);
                }
                ControlFlow::Break(()) => return Ok(()),
            }
        }
        self.open.group.mail = Some((path, parameters));
        self.open.asked.push(Asked::Mail);
        Ok(())
    }

    async fn on_content(&mut self, framing: Framing) {
        self.count += 1;
        self.open.message.count = self.count;
        if !self.read_ahead(framing).await {
            self.content(framing).await;
        }
    }

    /// Whether there is nothing that ends the session.
    fn is_well(&self) -> bool {
        self.lost.is_none() && self.failing.is_none()
    }

    fn stop(&mut self) {
        self.fail(Reply::new(421, "4.3.2", "Shutting down"), End::Stopped);
    }

    fn target_lost(&mut self) {
        self.fail(
            Reply::new(421, "4.4.1", "The mail server inside cannot be reached"),
            End::TargetLost,
        );
    }

    /// Nothing more is begun. What comes first counts.
    fn fail(&mut self, reply: Reply, end: End) {
        if self.closing.is_none() {
            self.failing.get_or_insert((reply, end));
        }
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
