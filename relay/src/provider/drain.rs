//! The reversed session: claims deliveries, sends them, settles what the puller said (RFC 2645 §5.3).
//!
//! A delivery is ours until its final 250 was read (OWN-6). The commit that removes it runs while the next
//! message is on its way; a link that breaks frees the rest with nothing changed.

use std::net::SocketAddr;
use std::time::Instant;

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
use super::transaction::{self, Broken, Sent};
use crate::activity::{PullGuard, PullResult};
use crate::closing::Closing;
use crate::queue::{SessionId, Store};
use crate::settings::Settings;

/// Deliveries claimed at a time. They are held from other sessions, so not too many.
const CLAIM_MAX: usize = 64;

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
    pub(super) shutdown: &'a CancellationToken,
}

/// How a drain ended that nothing broke.
#[derive(Clone, Copy, Debug)]
enum Finish {
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
    /// Sends what the account has until nothing is left, and says QUIT.
    pub(super) async fn run(self, wire: Wire, pull: PullGuard) {
        let began = Instant::now();
        let mut dialogue = Dialogue::new(wire, Dialect::Smtp, ClientTimeouts::default());
        let (tally, ended) = self.send_all(&mut dialogue, &pull).await;
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
                if matches!(finish, Finish::AllSent) && tally.delivered > 0 {
                    pull.ended_well();
                }
                pull.end(finish.result());
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
    ) -> (Tally, Result<Finish, Broken>) {
        if let Err(fault) = self.greet(dialogue).await {
            return (Tally::default(), Err(fault.into()));
        }
        // Who does not get as far, or only says goodbye yet, is not waited for.
        let seat = self.breakers.join(self.account);
        let puller = Puller {
            session: self.session,
            account: self.account,
            dsn: dialogue.client().extensions().dsn,
        };
        let mut settlements = Settlements::new(puller, self.closing, pull, seat);
        let sent = self.send_claims(dialogue, &mut settlements).await;
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

    async fn send_claims(
        &self,
        dialogue: &mut Dialogue,
        settlements: &mut Settlements<'_>,
    ) -> Result<Finish, Broken> {
        loop {
            if let Some(finish) = self.must_end(settlements) {
                return Ok(finish);
            }
            let leases = self
                .store
                .claim(self.session, self.domains, CLAIM_MAX)
                .await?;
            if leases.is_empty() {
                // Reports of what is refused go the same way, behind the last of it.
                settlements.conclude().await;
                if settlements.is_empty() {
                    return Ok(Finish::AllSent);
                }
                // The rest of a delivery that was taken in part is free once its settlement is through.
                settlements.finish().await?;
                continue;
            }
            settlements.work();
            for lease in leases {
                if let Some(finish) = self.must_end(settlements) {
                    return Ok(finish);
                }
                let began = Instant::now();
                match transaction::send(dialogue, &lease).await {
                    Ok(Sent::Judged(judged)) => settlements.judged(lease, judged, began).await,
                    Ok(Sent::Unsent(outcomes)) => settlements.unsent(lease, outcomes).await,
                    Err(Broken::Content(error)) => {
                        let outcomes = transaction::unreadable(&lease, &error);
                        settlements.unsent(lease, outcomes).await;
                        return Err(Broken::Content(error));
                    }
                    Err(broken) => return Err(broken),
                }
                settlements.relieve().await?;
            }
        }
    }

    /// Asked between two messages: what was changed meanwhile counts from the next one on.
    fn must_end(&self, settlements: &Settlements<'_>) -> Option<Finish> {
        if self.shutdown.is_cancelled() {
            return Some(Finish::Shutdown);
        }
        if settlements.has_tripped() {
            return Some(Finish::Stopped);
        }
        let settings = self.settings.load();
        let granted = permission::granted(settings.config.account(self.account), self.domains);
        granted.is_none().then_some(Finish::NotPermitted)
    }
}
