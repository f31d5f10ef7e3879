//! One pull: the hand-over first, then the relay, AUTH and ATRN, and the reversed session on the same connection.

use std::io;
use std::time::Duration;

use atrn_shared::config::ConfigErrors;
use atrn_shared::odmr::customer::{self, TlsMode};
use atrn_shared::sasl::{ClientCredentials, ClientSettings};
use atrn_shared::smtp::address::Domain;
use atrn_shared::tls::trust_failure;
use atrn_shared::wire::{Wire, WireError};
use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::config::{Credentials, Limits, PullerConfig, RelayConfig, RelayTls};
use crate::flow::Flow;
use crate::handover::{self, Handover};
use crate::journal::Journal;
use crate::outcome::{Outcome, Severity};
use crate::reports::Reports;
use crate::reversed::{self, Tally, Terms};

mod asking;

pub(crate) use asking::Asked;
use asking::Asking;

/// What a sign of life may take beyond the silence that was agreed on, unless a reply has less.
const WAIT_GRACE: Duration = Duration::from_secs(60);
/// A connection that waited so long for mail was of use.
const USEFUL_WAIT: Duration = Duration::from_secs(60);

/// Everything that one pull needs.
#[derive(Clone, Debug)]
pub struct Pull {
    /// Our name.
    pub hostname: String,
    /// The relay.
    pub relay: RelayConfig,
    /// How we prove who we are, and whom we trust.
    pub credentials: Credentials,
    /// What to ask for: some of the relay's domains, or all.
    pub domains: Vec<Domain>,
    /// What the relay may do to us.
    pub limits: Limits,
    /// Where mail goes.
    pub handover: handover::Setup,
    /// Where reports to senders outside go.
    pub reports: Option<Reports>,
    /// Whether to ask for mail at all.
    pub purpose: Purpose,
    /// The longest silence in which to wait for mail that comes later, where the relay can do this (XWAIT).
    pub wait: Option<Duration>,
    /// Whether others stand beside it, or it beside another.
    pub rank: Rank,
    /// Ends the pull at the next message boundary.
    pub stop: CancellationToken,
    /// Ends the pull as long as the relay has not turned: what it was to help with is over.
    pub needless: CancellationToken,
}

/// What a session is to its relay.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Rank {
    /// The one that there always is.
    Main,
    /// One more while there is a backlog: its failures are nobody's business.
    Extra,
}

/// How far a pull goes.
#[derive(Clone, Debug)]
pub enum Purpose {
    /// All but ATRN.
    DryRun,
    /// Mail, which is written down in the journal.
    Mail(Journal),
}

/// What came of a pull.
#[derive(Clone, Debug)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// What it brought.
    pub tally: Tally,
    /// When it began.
    pub began_at: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// When the last message of the relay was taken, if any was since we know it.
    pub last_mail_at: Option<Timestamp>,
    /// Whether the relay waits for mail (XWAIT); `None` where it did not come to say what it offers.
    pub offers_wait: Option<bool>,
}

/// The relay waits for our greeting.
struct Turned {
    wire: Wire,
    handover: Handover,
    journal: Journal,
    /// The silence that was agreed on.
    wait: Option<Duration>,
}

impl Pull {
    /// A pull of all domains of a relay. Loads the secrets and certificates that the settings name.
    ///
    /// # Errors
    /// Every problem with those files.
    pub fn new(
        config: &PullerConfig,
        relay: &RelayConfig,
        purpose: Purpose,
        stop: CancellationToken,
    ) -> Result<Self, ConfigErrors> {
        let (credentials, handover) = match (
            relay.credentials(),
            handover::Setup::load(&config.handover, &config.hostname),
        ) {
            (Ok(credentials), Ok(handover)) => (credentials, handover),
            (Err(one), Err(other)) => {
                return Err(ConfigErrors::new(
                    [one.problems(), other.problems()].concat(),
                ));
            }
            (Err(errors), Ok(_)) | (Ok(_), Err(errors)) => return Err(errors),
        };
        Ok(Self {
            hostname: config.hostname.to_string(),
            relay: relay.clone(),
            credentials,
            domains: relay.domains.clone(),
            limits: config.limits,
            handover,
            reports: None,
            purpose,
            wait: None,
            rank: Rank::Main,
            stop,
            needless: CancellationToken::new(),
        })
    }

    /// The same pull to stand beside this one: it takes what mail there is, and does not wait for more.
    #[must_use]
    pub fn extra(&self) -> Self {
        Self {
            wait: None,
            rank: Rank::Extra,
            ..self.clone()
        }
    }

    /// Pulls, and logs how it went. `flow` learns what goes on meanwhile.
    pub async fn run(&self, flow: &Flow) -> Report {
        let session = format!("{:08x}", fastrand::u32(..));
        let (began_at, began) = (Timestamp::now(), Instant::now());
        let mut offers_wait = None;
        let mut tally = Tally::default();
        let outcome = match self.turn(&session, flow, &mut offers_wait).await {
            Err(outcome) => outcome,
            Ok(Turned {
                wire,
                handover,
                journal,
                wait,
            }) => {
                let terms = self.terms(session.clone(), flow, journal, wait);
                let (counted, end) = reversed::serve(wire, handover, &terms).await;
                tally = counted;
                flow.pause(tally);
                Outcome::of_session(&end, &tally)
            }
        };
        self.log(&session, began.elapsed(), &outcome, &tally);
        Report {
            outcome,
            tally,
            began_at,
            took: began.elapsed(),
            last_mail_at: flow.last_mail_at(),
            offers_wait,
        }
    }

    /// Up to the reversal: a connection on which the relay waits for our greeting.
    async fn turn(
        &self,
        session: &str,
        flow: &Flow,
        offers_wait: &mut Option<bool>,
    ) -> Result<Turned, Outcome> {
        if let Purpose::Mail(journal) = &self.purpose {
            // What could not be written down could come twice, so it is not asked for.
            let ready = journal.ready().await;
            ready.map_err(|error| Outcome::JournalDown(error.to_string()))?;
        }
        let opened = tokio::select! {
            biased;
            opened = Handover::open(&self.handover) => opened,
            () = self.needless.cancelled() => return Err(Outcome::Stopped),
        };
        let mut handover = opened.map_err(|error| Outcome::TargetDown(self.target_down(&error)))?;
        debug!(relay = %self.relay.name, %session, target = %self.handover.target(), "hand-over open");
        let mut asking = Asking::new(self, session, flow, &mut handover);
        let asked = tokio::select! {
            asked = asking.run() => asked,
            // Nothing was taken yet, so nothing is lost.
            () = self.stop.cancelled() => Err(Outcome::Stopped),
            () = self.needless.cancelled() => Err(Outcome::Stopped),
        };
        *offers_wait = asking.offers_wait();
        let ended = match (asked, &self.purpose) {
            (Ok((wire, asked)), Purpose::Mail(journal))
                if matches!(asked.outcome, customer::Outcome::Turned) =>
            {
                return Ok(Turned {
                    wire,
                    handover,
                    journal: journal.clone(),
                    wait: asked.wait,
                });
            }
            (Ok((_, asked)), _) => Outcome::of_asking(&asked.outcome),
            (Err(outcome), _) => outcome,
        };
        handover.quit().await;
        Err(ended)
    }

    /// [`Asking::ask`] on a connection that is there, of who wants to see what comes of it.
    pub(crate) async fn ask(&self, wire: Wire) -> Result<(Wire, Asked), Outcome> {
        let flow = Flow::default();
        Asking::without_handover(self, &flow).ask(wire).await
    }

    fn customer(&self) -> customer::Config {
        customer::Config {
            hostname: self.hostname.clone(),
            tls: match self.relay.tls {
                RelayTls::Implicit => TlsMode::Implicit,
                RelayTls::StartTls => TlsMode::StartTls,
                RelayTls::Off => TlsMode::Off,
            },
            credentials: ClientSettings {
                credentials: ClientCredentials {
                    user: self.relay.account.clone(),
                    secret: self.credentials.secret.clone().map(Into::into),
                    remembered: self.credentials.remembered.clone(),
                    certificate: self.credentials.identity.is_some(),
                },
                weakest: self.relay.weakest_mechanism,
            },
            domains: self.domains.clone(),
            wait: self.wait,
        }
    }

    fn terms(
        &self,
        session: String,
        flow: &Flow,
        journal: Journal,
        wait: Option<Duration>,
    ) -> Terms {
        Terms {
            hostname: self.hostname.clone(),
            relay: self.relay.name.clone(),
            session,
            domains: self.domains.clone(),
            limits: self.limits,
            idle_timeout: idle_timeout(self.limits.reply_timeout, wait),
            journal,
            reports: self.reports.clone(),
            flow: flow.clone(),
            stop: self.stop.clone(),
        }
    }

    /// The one line at the end of every session.
    fn log(&self, session: &str, took: Duration, outcome: &Outcome, tally: &Tally) {
        let (relay, reason) = (&self.relay.name, outcome.to_string());
        let Tally {
            messages,
            octets,
            deferred,
            refused,
            already_there,
        } = tally;
        match outcome.severity() {
            _ if self.rank == Rank::Extra => {
                info!(%relay, %session, messages, octets, deferred, refused, already_there, ?took, %reason, "extra session ended")
            }
            Severity::Fine => {
                info!(%relay, %session, messages, octets, deferred, refused, already_there, ?took, %reason, "pull ended")
            }
            Severity::Retry => {
                warn!(%relay, %session, messages, octets, deferred, refused, already_there, ?took, %reason, "pull ended")
            }
            Severity::Alarm => {
                error!(%relay, %session, messages, octets, deferred, refused, already_there, ?took, %reason, "pull ended")
            }
        }
    }
}

impl Report {
    /// Whether it went well, or brought mail before it broke, or was there for mail for a good while.
    #[must_use]
    pub fn was_of_use(&self) -> bool {
        let waited = self.offers_wait == Some(true) && self.took >= USEFUL_WAIT;
        self.outcome.severity() == Severity::Fine || self.tally.messages > 0 || waited
    }
}

/// How long the relay may say nothing between two messages. Where a silence was agreed on (XWAIT), it is longer than that.
fn idle_timeout(reply_timeout: Duration, wait: Option<Duration>) -> Duration {
    let agreed = wait.map(|wait| wait + reply_timeout.min(WAIT_GRACE));
    reply_timeout.max(agreed.unwrap_or_default())
}

fn tls_failed(address: &str, error: &WireError) -> Outcome {
    match error {
        WireError::Tls(source) => match trust_failure(source) {
            Some(reason) => Outcome::Refused(format!(
                "{address}: {reason}; is this the relay, and is pin or ca right?"
            )),
            // rustls speaks of invalid data when it does not like what it read.
            None if source.kind() == io::ErrorKind::InvalidData => {
                Outcome::Protocol(format!("{address}: {error}; is tls right for this port?"))
            }
            // A relay that is busy, or starts just now, cuts the handshake off: no reason to stay away for long.
            None => Outcome::Unreachable(format!("{address}: {error}")),
        },
        WireError::EarlyOctets => Outcome::Protocol(format!("{address}: {error}")),
        WireError::Closed | WireError::Io(_) | WireError::TimedOut => {
            Outcome::Unreachable(format!("{address}: {error}"))
        }
    }
}

#[cfg(test)]
mod tests;
