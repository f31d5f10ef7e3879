//! One pull: the hand-over first, then the relay, AUTH and ATRN, and the reversed session on the same connection.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atrn_shared::config::ConfigErrors;
use atrn_shared::log::peer;
use atrn_shared::odmr::customer::{self, Awaited, Customer, Event, TlsMode};
use atrn_shared::sasl::{ClientCredentials, ClientSettings, Mechanism};
use atrn_shared::smtp::address::Domain;
use atrn_shared::smtp::extension::Extensions;
use atrn_shared::tls::trust_failure;
use atrn_shared::wire::{Wire, WireError};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::config::{Credentials, Limits, PullerConfig, RelayConfig, RelayTls};
use crate::dial::{self, CONNECT_TIMEOUT, resolve};
use crate::flow::Flow;
use crate::handover::{self, Handover};
use crate::journal::Journal;
use crate::login;
use crate::outcome::{Outcome, Severity};
use crate::reports::Reports;
use crate::reversed::{self, Tally, Terms};

/// A goodbye is a courtesy.
const QUIT_TIMEOUT: Duration = Duration::from_secs(5);

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
    /// Ends the pull at the next message boundary.
    pub stop: CancellationToken,
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
    /// When it ended.
    pub ended_at: Timestamp,
}

/// The asking came to its end.
pub(crate) struct Asked {
    pub(crate) outcome: customer::Outcome,
    pub(crate) extensions: Extensions,
    pub(crate) mechanism: Option<Mechanism>,
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
            stop,
        })
    }

    /// Pulls, and logs how it went.
    pub async fn run(&self) -> Report {
        let session = format!("{:08x}", fastrand::u32(..));
        let (began_at, began) = (Timestamp::now(), Instant::now());
        let mut tally = Tally::default();
        let outcome = match self.turn(&session).await {
            Err(outcome) => outcome,
            Ok((wire, handover, journal)) => {
                let terms = self.terms(session.clone(), journal);
                let (counted, end) = reversed::serve(wire, handover, &terms).await;
                tally = counted;
                Outcome::of_session(&end, &tally)
            }
        };
        self.log(&session, began.elapsed(), &outcome, &tally);
        Report {
            outcome,
            tally,
            began_at,
            ended_at: Timestamp::now(),
        }
    }

    /// Up to the reversal: a connection on which the relay waits for our greeting.
    async fn turn(&self, session: &str) -> Result<(Wire, Handover, Journal), Outcome> {
        if let Purpose::Mail(journal) = &self.purpose {
            // What could not be written down could come twice, so it is not asked for.
            let ready = journal.ready().await;
            ready.map_err(|error| Outcome::JournalDown(error.to_string()))?;
        }
        let handover = Handover::open(&self.handover).await.map_err(|error| {
            Outcome::TargetDown(format!(
                "{}: {}",
                self.handover.target(),
                peer(&error.to_string())
            ))
        })?;
        debug!(relay = %self.relay.name, %session, target = %self.handover.target(), "hand-over open");
        let asking = async {
            let wire = self.connect().await?;
            self.ask(wire).await
        };
        let asked = tokio::select! {
            asked = asking => asked,
            // Nothing was taken yet, so nothing is lost.
            () = self.stop.cancelled() => Err(Outcome::Stopped),
        };
        let ended = match (asked, &self.purpose) {
            (Ok((wire, asked)), Purpose::Mail(journal))
                if matches!(asked.outcome, customer::Outcome::Turned) =>
            {
                return Ok((wire, handover, journal.clone()));
            }
            (Ok((_, asked)), _) => Outcome::of_asking(&asked.outcome),
            (Err(outcome), _) => outcome,
        };
        handover.quit().await;
        Err(ended)
    }

    /// A connection to the relay, encrypted from its first octet where the settings say so.
    async fn connect(&self) -> Result<Wire, Outcome> {
        let address = &self.relay.address;
        let unreachable =
            |error: io::Error| Outcome::Unreachable(format!("cannot reach {address}: {error}"));
        let addresses = resolve(address).await.map_err(unreachable)?;
        let wire = dial::connect(&addresses).await.map_err(unreachable)?;
        match self.relay.tls {
            RelayTls::Implicit => self.shake_hands(wire).await,
            RelayTls::StartTls | RelayTls::Off => Ok(wire),
        }
    }

    pub(crate) async fn shake_hands(&self, wire: Wire) -> Result<Wire, Outcome> {
        let address = &self.relay.address;
        let (Some(tls), Ok(name)) = (&self.credentials.tls, address.server_name()) else {
            return Err(Outcome::Misconfigured(format!(
                "{address}: TLS cannot be used"
            )));
        };
        let wait = self.limits.reply_timeout.min(CONNECT_TIMEOUT);
        wire.connect_tls(tls, name, wait)
            .await
            .map_err(|error| tls_failed(&address.to_string(), &error))
    }

    /// The customer's part of ODMR, to the reply to ATRN and its consequence.
    pub(crate) async fn ask(&self, mut wire: Wire) -> Result<(Wire, Asked), Outcome> {
        let config = Arc::new(self.customer());
        let mut customer = Customer::new(config, login::context(&wire, wire.is_tls()));
        if matches!(self.purpose, Purpose::DryRun) {
            customer = customer.only_authenticate();
        }
        loop {
            match customer.next(&mut wire.input) {
                Event::NeedInput => {
                    let wait = self.wait(customer.awaited());
                    if let Err(error) = wire.exchange(&mut customer.output, wait).await {
                        return self.lost(wire, customer, &error);
                    }
                }
                Event::StartTls => {
                    wire = self.shake_hands(wire).await?;
                    customer.tls_started(login::context(&wire, true));
                }
                Event::Prove(challenge) => {
                    let response = tokio::task::spawn_blocking(|| challenge.respond()).await;
                    match response {
                        Ok(response) => customer.responded(response),
                        Err(_) => {
                            return Err(Outcome::Broken(
                                "the login could not be computed".to_owned(),
                            ));
                        }
                    }
                }
                Event::NoMailYet => customer.quit(),
                Event::Ended(outcome) => {
                    let asked = Asked::new(&customer, outcome);
                    return Ok((wire, asked));
                }
            }
        }
    }

    /// The connection ended first: what was decided before stays decided.
    fn lost(
        &self,
        wire: Wire,
        customer: Customer,
        error: &WireError,
    ) -> Result<(Wire, Asked), Outcome> {
        let asked = Asked::new(&customer, customer::Outcome::NoMail);
        match customer.lost() {
            customer::Outcome::Lost(awaited) => {
                let address = &self.relay.address;
                Err(Outcome::Broken(format!(
                    "{address}: {error} ({awaited:?} was due)"
                )))
            }
            outcome => Ok((wire, Asked { outcome, ..asked })),
        }
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
                    certificate: self.credentials.identity.is_some(),
                },
                weakest: self.relay.weakest_mechanism,
            },
            domains: self.domains.clone(),
            wait: None,
        }
    }

    fn wait(&self, awaited: Awaited) -> Duration {
        match awaited {
            Awaited::Atrn => self.limits.atrn_timeout(),
            Awaited::Quit => QUIT_TIMEOUT,
            Awaited::Greeting | Awaited::Ehlo | Awaited::StartTls | Awaited::Auth => {
                self.limits.reply_timeout
            }
        }
    }

    fn terms(&self, session: String, journal: Journal) -> Terms {
        Terms {
            hostname: self.hostname.clone(),
            relay: self.relay.name.clone(),
            session,
            domains: self.domains.clone(),
            limits: self.limits,
            journal,
            reports: self.reports.clone(),
            flow: Flow::default(),
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

impl Asked {
    fn new(customer: &Customer, outcome: customer::Outcome) -> Self {
        Self {
            outcome,
            extensions: customer.extensions().clone(),
            mechanism: customer.mechanism(),
        }
    }
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
