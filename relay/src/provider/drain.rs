//! The reversed session: claims deliveries, sends them, settles what the puller said (RFC 2645 §5.3).
//!
//! Several are under way at a time, as many as the [`window`](super::window) has room for, so that a long line costs
//! bandwidth and not round trips. A delivery is ours until its final 250 was read (OWN-6). The commit that removes it
//! runs while the next ones are on their way; a link that breaks frees the rest with nothing changed.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atrn_shared::config::Live;
use atrn_shared::dialogue::{Dialogue, LinkFault};
use atrn_shared::smtp::address::Domain;
use atrn_shared::smtp::client::Dialect;
use atrn_shared::smtp::limits::ClientTimeouts;
use atrn_shared::wire::{Wire, WireError};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::breaker::Breakers;
use super::permission;
use super::settlement::{Provisional, Puller, Settlements, Tally};
use super::transaction::{self, Begun, Broken, Flight};
use super::window::{self, Window};
use crate::activity::{PullGuard, PullResult};
use crate::closing::Closing;
use crate::queue::{Lease, SessionId, Store, Watch};
use crate::settings::Settings;
use crate::transaction_log::{Subject, Trail};

/// Deliveries claimed at a time. They are held from other sessions, so not too many.
const CLAIM_MAX: usize = 64;
/// A puller that was silent for so long while it owes a reply gets nothing more before it speaks: it may be stalled
/// behind a connection that lives, and what it was not sent yet is for another session.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// One reversed session.
pub(super) struct Drain<'a> {
    pub(super) store: &'a Store,
    pub(super) closing: &'a Closing,
    pub(super) settings: &'a Live<Settings>,
    pub(super) breakers: &'a Breakers<Provisional>,
    pub(super) session: SessionId,
    pub(super) peer: SocketAddr,
    pub(super) account: &'a str,
    pub(super) hostname: &'a str,
    pub(super) domains: &'a [Domain],
    /// It stays when all is sent, for mail that comes later, and breaks a silence of this length with NOOP.
    pub(super) wait: Option<Duration>,
    pub(super) shutdown: &'a CancellationToken,
}

/// How a drain ended that nothing broke.
#[derive(Clone, Copy, Debug)]
pub(super) enum Finish {
    AllSent,
    /// The account was disabled or removed, or a domain taken from it, while it was pulling.
    NotPermitted,
    Shutdown,
    /// The circuit breaker tripped.
    Stopped,
}

impl Finish {
    fn reason(self) -> &'static str {
        match self {
            Self::AllSent => "all sent",
            Self::NotPermitted => "the account may no longer pull these domains",
            Self::Shutdown => "the relay is shutting down",
            Self::Stopped => "the server inside refuses most mail for good",
        }
    }

    fn result(self) -> PullResult {
        match self {
            Self::AllSent | Self::Shutdown => PullResult::Complete,
            Self::NotPermitted => PullResult::Refused,
            Self::Stopped => PullResult::Stopped,
        }
    }
}

impl Drain<'_> {
    /// Sends what the account has until nothing is left, and says QUIT; or waits for more, and sends that.
    /// A watch of these domains that answers for the news that brought the session here does so until the first claim.
    pub(super) async fn run(
        self,
        mut wire: Wire,
        pull: PullGuard,
        watch: Option<Watch>,
        trail: &mut Trail,
    ) {
        let began = Instant::now();
        wire.hold_at_most(window::REPLY_OCTETS_MAX);
        let timeouts = timeouts(self.settings.load().config.odmr.command_timeout);
        let mut dialogue = Dialogue::new(wire, Dialect::Smtp, timeouts);
        if trail.is_on() {
            dialogue.keep_exchanges();
        }
        let (tally, ended) = self.send_all(&mut dialogue, &pull, watch, trail).await;
        note(&mut dialogue, trail, Subject::None);
        let reason = match &ended {
            Ok(finish) => finish.reason().to_owned(),
            Err(broken) => broken.to_string(),
        };
        info!(
            session = %self.session, peer = %self.peer, account = self.account, delivered = tally.delivered,
            deferred = tally.deferred, failed = tally.failed, delay = ?began.elapsed(), %reason, "drain ended"
        );
        trail.closed(&reason);
        match ended {
            Ok(finish) => {
                if matches!(finish, Finish::AllSent) && tally.delivered > 0 {
                    pull.ended_well();
                }
                pull.end(finish.result());
                dialogue.quit().await;
            }
            // Who waits for mail may go at any time.
            Err(Broken::Idle(_)) => pull.end(PullResult::Complete),
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
        watch: Option<Watch>,
        trail: &mut Trail,
    ) -> (Tally, Result<Finish, Broken>) {
        trail.heard();
        let greeted = self.greet(dialogue).await;
        note(dialogue, trail, Subject::None);
        trail.flush();
        if let Err(fault) = greeted {
            return (Tally::default(), Err(fault.into()));
        }
        // Who does not get as far, or only says goodbye yet, is not waited for.
        let seat = self.breakers.join(self.account);
        let puller = Puller {
            session: self.session,
            account: self.account,
            dsn: dialogue.client().extensions().dsn,
        };
        let mut turn = Turn {
            drain: self,
            pull,
            window: Window::new(dialogue.client().extensions()),
            dialogue,
            settlements: Settlements::new(puller, self.closing, pull, (seat, trail)),
            watch: watch.unwrap_or_else(|| self.store.watch(self.domains)),
            claimed: VecDeque::new(),
            is_dry: false,
            delivered: 0,
            permitted_by: None,
        };
        let sent = turn.run().await;
        // What was claimed and not begun is free for others at once.
        turn.claimed.clear();
        let mut settlements = turn.settlements;
        // What the puller said counts, however the session ended.
        settlements.conclude().await;
        let settled = settlements.finish().await;
        let ended = settled.map_err(Broken::from).and(sent);
        (settlements.tally(), ended)
    }

    async fn greet(&self, dialogue: &mut Dialogue) -> Result<(), LinkFault> {
        dialogue.greeting().await?;
        dialogue.hello(self.hostname).await
    }
}

/// A puller has so long for each of its replies, and to take a block of content, which is not more than RFC 5321
/// §4.5.3.2.5 asks for. Only the end of a message may take its full time whatever is set: the server inside is at work.
fn timeouts(command: Duration) -> ClientTimeouts {
    let usual = ClientTimeouts::default();
    ClientTimeouts {
        greeting: command,
        command,
        mail: command,
        recipient: command,
        data: usual.data.min(command),
        block: usual.block.min(command),
        ..usual
    }
}

/// What the puller said since it was last asked for. What it says next took its time since now.
pub(super) fn note(dialogue: &mut Dialogue, trail: &mut Trail, subject: Subject) {
    trail.exchanges(dialogue.take_exchanges(), subject);
    trail.heard();
}

/// A reversed session behind its greeting.
pub(super) struct Turn<'t> {
    pub(super) drain: &'t Drain<'t>,
    pub(super) pull: &'t PullGuard,
    pub(super) dialogue: &'t mut Dialogue,
    pub(super) window: Window,
    pub(super) settlements: Settlements<'t>,
    pub(super) watch: Watch,
    /// Claimed and not begun, in order.
    pub(super) claimed: VecDeque<Lease>,
    /// The last claim brought nothing, and there was no news since.
    pub(super) is_dry: bool,
    /// Deliveries that were inside when there was nothing to send last.
    pub(super) delivered: u64,
    /// The settings that the account was last seen to be permitted by.
    permitted_by: Option<Arc<Settings>>,
}

impl Turn<'_> {
    async fn run(&mut self) -> Result<Finish, Broken> {
        let ended = self.work().await;
        if let Err(Broken::Store(_)) = &ended {
            // The puller is there, and what it says to what it was sent still counts. If it breaks off, that
            // is free as ever, and the queue remains the cause.
            let _ = self.wind_up().await;
        }
        ended
    }

    async fn work(&mut self) -> Result<Finish, Broken> {
        loop {
            if let Some(finish) = self.must_end() {
                self.wind_up().await?;
                return Ok(finish);
            }
            self.fill().await?;
            if !self.window.is_empty() {
                self.take().await?;
            } else if let Some(finish) = self.pause().await? {
                return Ok(finish);
            }
        }
    }

    /// Asked between two messages: what was changed meanwhile counts from the next one on.
    pub(super) fn must_end(&mut self) -> Option<Finish> {
        if self.drain.shutdown.is_cancelled() {
            return Some(Finish::Shutdown);
        }
        if self.settlements.has_tripped() {
            return Some(Finish::Stopped);
        }
        let settings = self.drain.settings.load();
        let is_known = |known: &Arc<Settings>| Arc::ptr_eq(known, &settings);
        if self.permitted_by.as_ref().is_some_and(is_known) {
            return None;
        }
        let account = settings.config.account(self.drain.account);
        if permission::granted(account, self.drain.domains).is_none() {
            return Some(Finish::NotPermitted);
        }
        self.permitted_by = Some(settings);
        None
    }

    /// Begins deliveries while there is room. What was answered meanwhile goes first, as it is free to be settled.
    async fn fill(&mut self) -> Result<(), Broken> {
        while self.window.has_room() && !self.dialogue.has_heard() && !self.is_stalled() {
            let Some(lease) = self.next_lease().await? else {
                break;
            };
            self.begin(lease).await?;
        }
        Ok(())
    }

    async fn next_lease(&mut self) -> Result<Option<Lease>, Broken> {
        if self.claimed.is_empty() && !self.is_dry {
            let Drain {
                store,
                session,
                domains,
                ..
            } = self.drain;
            let claim = store.claim(*session, domains, CLAIM_MAX);
            self.claimed = self.dialogue.meanwhile(claim).await??.into();
            self.is_dry = self.claimed.is_empty();
            if !self.is_dry {
                self.settlements.work();
            }
        }
        Ok(self.claimed.pop_front())
    }

    async fn begin(&mut self, lease: Lease) -> Result<(), Broken> {
        if self.window.is_empty() {
            // The puller owed nothing until now.
            self.settlements.trail.heard();
        }
        match Flight::begin(self.dialogue, lease, self.window.start()).await? {
            Begun::Flight(flight) => self.window.push(flight),
            Begun::Refused(lease, judged) => {
                self.settlements.judged(lease, judged, Instant::now()).await;
            }
            Begun::Unsent(lease, outcomes) => self.settlements.unsent(lease, outcomes).await,
        }
        Ok(self.settlements.relieve().await?)
    }

    /// The puller owes a reply, and has been silent for too long.
    fn is_stalled(&self) -> bool {
        self.dialogue.waited() >= SILENCE_MAX
    }

    /// Waits until the puller says something; false when there is something else to do before.
    async fn hear(&mut self) -> Result<bool, Broken> {
        if self.dialogue.client().awaits().is_none() || self.dialogue.has_heard() {
            return Ok(true);
        }
        let since = self.dialogue.waits_since();
        self.settlements.trail.flush();
        if self.is_stalled() {
            self.dialogue.hear().await?;
            return Ok(true);
        }
        tokio::select! {
            biased;
            heard = self.dialogue.hear() => {
                heard?;
                return Ok(true);
            }
            () = tokio::time::sleep_until(since + SILENCE_MAX) => self.claimed.clear(),
            () = self.watch.news(), if self.is_dry => {}
        }
        // Who no longer listens to news looks itself, once the puller has spoken.
        self.is_dry = false;
        Ok(false)
    }

    /// Takes what the puller said to the oldest delivery; or nothing, if there is news of more mail before.
    async fn take(&mut self) -> Result<(), Broken> {
        if !self.hear().await? {
            return Ok(());
        }
        let Some(oldest) = self.window.oldest() else {
            return Ok(());
        };
        let subject = Subject::Delivery(oldest.lease.id);
        let advanced = oldest.advance(self.dialogue).await;
        note(self.dialogue, self.settlements.trail, subject);
        match advanced {
            Ok(None) => Ok(()),
            Ok(Some(answer)) => {
                let delivered = self.settlements.tally().delivered;
                if let Some(flight) = self.window.answered(answer.is_over) {
                    let Flight { lease, began, .. } = flight;
                    self.settlements.judged(lease, answer.judged, began).await;
                }
                if self.settlements.tally().delivered > delivered {
                    self.window.widen();
                }
                Ok(self.settlements.relieve().await?)
            }
            Err(Broken::Content(error)) => {
                if let Some(Flight { lease, .. }) = self.window.answered(false) {
                    let outcomes = transaction::unreadable(&lease, &error);
                    self.settlements.unsent(lease, outcomes).await;
                }
                Err(Broken::Content(error))
            }
            Err(broken) => Err(broken),
        }
    }

    /// Nothing more is begun, and what is under way has its verdict. A queue that fails is told at the end.
    async fn wind_up(&mut self) -> Result<(), Broken> {
        self.claimed.clear();
        self.window.close();
        // News is for others.
        self.is_dry = false;
        let mut failed = None;
        while !self.window.is_empty() {
            match self.take().await {
                Err(Broken::Store(error)) => failed = failed.or(Some(error)),
                taken => taken?,
            }
        }
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    /// All that could be claimed was sent and answered: this is the end, or more may come.
    async fn pause(&mut self) -> Result<Option<Finish>, Broken> {
        if let Some(wait) = self.drain.wait {
            return self.idle(wait).await.map(|()| None);
        }
        // Reports of what is refused go the same way, behind the last of it.
        self.settlements.conclude().await;
        if self.settlements.is_empty() {
            return Ok(Some(Finish::AllSent));
        }
        // The rest of a delivery that was taken in part is free once its settlement is through.
        self.settlements.finish().await?;
        self.is_dry = false;
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
