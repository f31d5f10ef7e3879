//! What an ATRN gets: an answer at once, or, where it may wait (XWAIT), when there is mail or its time is up.

use std::pin::{Pin, pin};
use std::time::{Duration, Instant};

use atrn_shared::odmr::Atrn;
use atrn_shared::odmr::provider::Verdict;
use atrn_shared::smtp::address::Domain;
use atrn_shared::wire::{Wire, WireError};
use tokio_util::sync::WaitForCancellationFuture;
use tracing::{debug, error, info, warn};

use super::permission;
use super::session::{End, Session};
use super::wait::{Wait, Waited};
use crate::activity::{PullGuard, PullResult};
use crate::queue::{StoreError, Watch};

/// What the ATRN that turns a session asked for and got.
pub(super) struct Grant {
    pub(super) domains: Vec<Domain>,
    pub(super) pull: PullGuard,
    /// The longest silence, where it asked for one.
    pub(super) wait: Option<Duration>,
    /// Where it waited: answers for the news that ended the wait.
    pub(super) watch: Option<Watch>,
}

/// An ATRN that may wait.
struct Asked {
    /// The account's.
    name: String,
    atrn: Atrn,
    time: Duration,
}

impl Session<'_> {
    /// Whether the ATRN is granted: quick, whatever the queue holds (R2645-14), but where it may wait for mail. `None` when the
    /// customer spoke while it waited, which the machine answers.
    pub(super) async fn decide(
        &mut self,
        atrn: Atrn,
        wire: &mut Wire,
        stop: Pin<&mut WaitForCancellationFuture<'_>>,
    ) -> Result<Option<Verdict>, End> {
        let name = self.machine.account().unwrap_or_default().to_owned();
        let domains = match self.permitted(&name, &atrn) {
            Ok(domains) => domains,
            Err(refusal) => return Ok(Some(refusal)),
        };
        match atrn.wait {
            None => Ok(Some(self.look(&name, domains).await)),
            Some(time) => {
                let asked = Asked { name, atrn, time };
                self.wait_for_mail(asked, wire, stop).await
            }
        }
    }

    fn permitted(&self, name: &str, atrn: &Atrn) -> Result<Vec<Domain>, Verdict> {
        // What was changed since the connection began counts: a disabled account gets nothing more.
        let settings = self.provider.settings.load();
        let config = &settings.config;
        let Some(domains) = permission::granted(config.account(name), &atrn.domains) else {
            return Err(self.not_permitted(self.pull(name), name));
        };
        let interval = config.odmr.min_interval;
        let asked = &self.provider.asked;
        if asked.too_often(name, interval, Instant::now()) {
            return Err(Verdict::TooOften);
        }
        Ok(domains)
    }

    fn not_permitted(&self, pull: PullGuard, account: &str) -> Verdict {
        warn!(session = %self.id, peer = %self.peer, %account, "ATRN refused: not all domains are the account's, or it is disabled");
        self.provider
            .audit
            .refused("odmr", "ATRN for what is not the account's", self.peer.ip());
        pull.end(PullResult::Refused);
        Verdict::NotPermitted
    }

    fn pull(&self, account: &str) -> PullGuard {
        self.provider.activity.pull(account, self.peer.ip())
    }

    async fn look(&mut self, account: &str, domains: Vec<Domain>) -> Verdict {
        let pull = self.pull(account);
        match self.provider.store.waiting(&domains).await {
            Ok(true) => {
                self.grant = Some(Grant {
                    domains,
                    pull,
                    wait: None,
                    watch: None,
                });
                Verdict::Turn
            }
            Ok(false) => {
                debug!(session = %self.id, %account, "no mail");
                pull.end(PullResult::NoMail);
                Verdict::NoMail
            }
            Err(error) => self.unavailable(pull, &error),
        }
    }

    fn unavailable(&self, pull: PullGuard, error: &StoreError) -> Verdict {
        error!(session = %self.id, %error, "cannot look for mail");
        pull.end(PullResult::Refused);
        Verdict::Unavailable
    }

    async fn wait_for_mail(
        &mut self,
        Asked { name, atrn, time }: Asked,
        wire: &mut Wire,
        stop: Pin<&mut WaitForCancellationFuture<'_>>,
    ) -> Result<Option<Verdict>, End> {
        let pull = self.pull(&name);
        let wait = Wait {
            store: &self.provider.store,
            settings: &self.provider.settings,
            account: &name,
            wanted: &atrn.domains,
            pull: &pull,
        };
        debug!(session = %self.id, account = %name, ?time, "waits for mail");
        wire.input.release();
        wire.probe_in_silence();
        let waited = {
            let silence = pin!(wire.exchange(&mut self.machine.output, time));
            wait.run(silence, stop).await
        };
        let verdict = match waited {
            Waited::Mail(mail) => {
                pull.goes_on();
                self.grant = Some(Grant {
                    domains: mail.domains,
                    pull,
                    wait: Some(time),
                    watch: Some(mail.watch),
                });
                Verdict::Turn
            }
            Waited::NotPermitted => self.not_permitted(pull, &name),
            Waited::Unavailable(error) => self.unavailable(pull, &error),
            Waited::Wire(Err(WireError::TimedOut)) => {
                debug!(session = %self.id, account = %name, "no mail yet");
                self.provider.asked.waited(&name);
                pull.end(PullResult::NoMail);
                Verdict::NoMail
            }
            Waited::Wire(Err(error)) => return Err(error.into()),
            Waited::Wire(Ok(())) => {
                info!(session = %self.id, peer = %self.peer, account = %name, "the puller spoke while its ATRN waited");
                return Ok(None);
            }
            Waited::Shutdown => return Err(End::Shutdown),
        };
        Ok(Some(verdict))
    }
}
