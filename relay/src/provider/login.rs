//! AUTH on one connection: whether a proof is looked at, where, and what a failure leads to.

use std::net::IpAddr;
use std::pin::Pin;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use atrn_shared::log;
use atrn_shared::odmr::provider::{Attempt, Checked};
use atrn_shared::sasl::{Failure, Fresh, Mechanism, Nonce, ServerStep};
use atrn_shared::smtp::reply::Reply;
use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::WaitForCancellationFuture;
use tracing::{debug, error, info, warn};

use super::guard::Verdict;
use super::proofs::{self, Lane};
use super::session::{End, Place, Session};
use crate::audit::{FailedLogin, recorded_name};
use crate::limits::{Consequence, Offence};
use crate::transaction_log::Event;

/// A proof that was refused.
#[derive(Clone, Copy)]
struct Refused<'r> {
    user: Option<&'r str>,
    mechanism: Mechanism,
    reason: Failure,
    is_familiar: bool,
}

impl Session<'_> {
    /// Answers an attempt: with a check of its proof, or without.
    ///
    /// # Errors
    /// The relay is shutting down.
    pub(super) async fn authenticate(
        &mut self,
        attempt: Attempt,
        stop: Pin<&mut WaitForCancellationFuture<'_>>,
    ) -> Result<(), End> {
        let user = attempt.user();
        let limits = self.provider.limits.config();
        let verdict = {
            let guard = &self.provider.guard;
            guard.verdict(user.as_deref(), self.address(), &limits, Instant::now())
        };
        let lane = match verdict {
            Verdict::Familiar => Lane::Familiar,
            Verdict::Stranger => Lane::Strangers,
            Verdict::PutOff => {
                self.put_off("a login from elsewhere while the account is under attack");
                return Ok(());
            }
        };
        let checked = match self.check(attempt, lane).await {
            proofs::Checked::Done(Some(checked)) => checked,
            proofs::Checked::TooMany => {
                self.put_off("too many logins at a time");
                return Ok(());
            }
            proofs::Checked::Done(None) | proofs::Checked::Lost => {
                error!(session = %self.id, "a proof could not be checked: no randomness, or the check was lost");
                self.machine
                    .close(Reply::new(421, "4.3.0", "Internal fault, try again later"));
                return Ok(());
            }
        };
        let mut consequence = Consequence::Noted;
        match checked.step() {
            ServerStep::Success(account) => {
                let account = account.clone();
                if !self.log_in(&account, checked.mechanism()) {
                    return Ok(());
                }
            }
            ServerStep::Failure { user, reason } => {
                let refused = Refused {
                    user: user.as_deref(),
                    mechanism: checked.mechanism(),
                    reason: *reason,
                    is_familiar: lane == Lane::Familiar,
                };
                let name = refused.user.map(recorded_name).unwrap_or_default();
                let why = refused.reason.to_string();
                self.note_login(&name, refused.mechanism, &why);
                let delay = self.note_failure(refused);
                tokio::select! {
                    biased;
                    () = stop => return Err(End::Shutdown),
                    () = tokio::time::sleep(delay) => {}
                }
                consequence = self.offence(refused);
            }
            ServerStep::Unavailable => error!(session = %self.id, "accounts can not be looked up"),
            ServerStep::Challenge(_) => {}
        }
        self.machine.checked(checked);
        if consequence == Consequence::Banned {
            self.machine.close(Reply::new(
                421,
                "4.7.0",
                "Too many failed attempts, closing",
            ));
        }
        Ok(())
    }

    /// Without a check. Whoever asks hears the same for every name, whether there is such an account or not.
    fn put_off(&mut self, reason: &'static str) {
        debug!(session = %self.id, peer = %self.peer, reason, "authentication put off");
        self.provider.audit.refused("odmr", reason, self.address());
        self.trail.note(&Event {
            text: reason.into(),
            ..Event::new("login")
        });
        self.machine.put_off();
    }

    /// What takes microseconds is done here. PBKDF2 is work for milliseconds: not on a thread that serves others.
    async fn check(&self, attempt: Attempt, lane: Lane) -> proofs::Checked<Option<Checked>> {
        let settings = self.provider.settings.load();
        let is_costly = attempt.is_costly();
        let check = move || fresh().map(|fresh| attempt.check(&settings.accounts, fresh));
        if is_costly {
            self.provider.proofs.run(lane, check).await
        } else {
            proofs::Checked::Done(check())
        }
    }

    /// False when the account has as many connections as it may have: then the session is over.
    fn log_in(&mut self, account: &str, mechanism: Mechanism) -> bool {
        let settings = self.provider.settings.load();
        let odmr = &settings.config.odmr;
        let Some(login) = self.provider.visitors.log_in(account, odmr) else {
            warn!(
                session = %self.id, peer = %self.peer, %account, max = odmr.max_connections_per_account,
                "the account has too many connections; this one is closed"
            );
            self.provider.audit.refused(
                "odmr",
                "too many connections of one account",
                self.address(),
            );
            self.machine.close(Reply::new(
                421,
                "4.7.0",
                "Too many connections of this account, closing",
            ));
            return false;
        };
        self.place = Place::Login(login);
        let is_new_network = self.provider.guard.succeeded(account, self.address());
        self.provider.limits.authenticated(self.address());
        self.provider.audit.logged_in(account, self.address());
        info!(
            session = %self.id, peer = %self.peer, %account, %mechanism, is_new_network,
            "authenticated"
        );
        self.trail.is_account(account);
        self.note_login(account, mechanism, "accepted");
        true
    }

    fn note_login(&mut self, name: &str, mechanism: Mechanism, outcome: &str) {
        self.trail.note(&Event {
            argument: name,
            text: format!("{mechanism} {outcome}").into(),
            ..Event::new("login")
        });
    }

    /// Writes a failure down; how long its answer is held back.
    fn note_failure(&self, refused: Refused<'_>) -> Duration {
        let provider = self.provider;
        provider.activity.authentication_failed();
        provider.audit.login_failed(FailedLogin {
            name: refused.user,
            address: self.address(),
            mechanism: refused.mechanism,
        });
        let name = refused.user.map(recorded_name).unwrap_or_default();
        warn!(
            session = %self.id, peer = %self.peer, account = %log::peer(&name),
            mechanism = %refused.mechanism, reason = %refused.reason, "authentication refused"
        );
        let limits = provider.limits.config();
        // A certificate is not guessed, so that nobody is locked out for one.
        let guessed = refused
            .user
            .filter(|_| refused.mechanism != Mechanism::External);
        let failure = provider
            .guard
            .failed(guessed, self.address(), &limits, Instant::now());
        if failure.closes {
            let time = limits.account_lock_time;
            warn!(
                account = %log::peer(&name), ?time,
                "too many failures for this name; until then it is closed to networks that never logged in to it"
            );
            let until = SignedDuration::try_from(time)
                .ok()
                .and_then(|time| Timestamp::now().checked_add(time).ok());
            provider
                .audit
                .locked(&name, until.unwrap_or(Timestamp::MAX));
        }
        failure.delay
    }

    /// Counts against the address, but for one that is known to belong to the account: there somebody has an old secret.
    fn offence(&self, refused: Refused<'_>) -> Consequence {
        if refused.is_familiar {
            return Consequence::Noted;
        }
        let limits = &self.provider.limits;
        limits.offence(self.address(), Offence::AuthFailed)
    }

    fn address(&self) -> IpAddr {
        self.peer.ip()
    }
}

/// Randomness and time for one exchange; none when the system has no randomness.
fn fresh() -> Option<Fresh> {
    let mut nonce = Nonce::default();
    aws_lc_rs::rand::fill(&mut nonce).ok()?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Some(Fresh {
        nonce,
        unix_seconds: now.as_secs(),
    })
}
