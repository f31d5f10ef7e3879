//! The first half of a pull: from the connection to the reply to ATRN, also where that reply is a long time coming.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atrn_shared::log::peer;
use atrn_shared::odmr::atrn_timeout;
use atrn_shared::odmr::customer::{self, Awaited, Customer, Event};
use atrn_shared::sasl::Mechanism;
use atrn_shared::smtp::extension::Extensions;
use atrn_shared::wire::{Wire, WireError};
use tracing::{debug, info};

use super::{Pull, Purpose, tls_failed};
use crate::config::RelayTls;
use crate::dial::{self, CONNECT_TIMEOUT, resolve};
use crate::flow::Flow;
use crate::handover::{ConnectError, Handover, REST_AFTER};
use crate::login;
use crate::outcome::Outcome;

/// Between two ATRN on one connection, however soon the relay says that there is no mail.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// A goodbye is a courtesy.
const QUIT_TIMEOUT: Duration = Duration::from_secs(5);

/// The asking came to its end.
pub(crate) struct Asked {
    pub(crate) outcome: customer::Outcome,
    pub(crate) extensions: Extensions,
    pub(crate) mechanism: Option<Mechanism>,
    /// The silence that was agreed on (XWAIT).
    pub(super) wait: Option<Duration>,
}

/// Asks a relay for mail.
pub(crate) struct Asking<'p> {
    pull: &'p Pull,
    /// How the logs call the session.
    session: &'p str,
    flow: &'p Flow,
    /// Where mail is to go; a dry run needs none.
    handover: Option<&'p mut Handover>,
    /// Whether the relay waits for mail (XWAIT), once it has said what it offers.
    offers_wait: Option<bool>,
    /// Since when the reply that is due is waited for.
    waits_since: Instant,
}

impl<'p> Asking<'p> {
    pub(super) fn new(
        pull: &'p Pull,
        session: &'p str,
        flow: &'p Flow,
        handover: &'p mut Handover,
    ) -> Self {
        Self {
            pull,
            session,
            flow,
            handover: Some(handover),
            offers_wait: None,
            waits_since: Instant::now(),
        }
    }

    /// Without ATRN nothing is to be handed over.
    pub(super) fn without_handover(pull: &'p Pull, flow: &'p Flow) -> Self {
        Self {
            pull,
            session: "",
            flow,
            handover: None,
            offers_wait: None,
            waits_since: Instant::now(),
        }
    }

    /// Whether the relay waits for mail; `None` as long as it has not said what it offers.
    pub(super) fn offers_wait(&self) -> Option<bool> {
        self.offers_wait
    }

    /// Connects and asks.
    pub(super) async fn run(&mut self) -> Result<(Wire, Asked), Outcome> {
        let wire = self.connect().await?;
        self.ask(wire).await
    }

    /// A connection to the relay, encrypted from its first octet where the settings say so.
    async fn connect(&self) -> Result<Wire, Outcome> {
        let address = &self.pull.relay.address;
        let unreachable =
            |error: io::Error| Outcome::Unreachable(format!("cannot reach {address}: {error}"));
        let addresses = resolve(address).await.map_err(unreachable)?;
        let wire = dial::connect(&addresses).await.map_err(unreachable)?;
        if self.pull.wait.is_some() {
            wire.probe_in_silence();
        }
        match self.pull.relay.tls {
            RelayTls::Implicit => self.pull.shake_hands(wire).await,
            RelayTls::StartTls | RelayTls::Off => Ok(wire),
        }
    }

    /// The customer's part of ODMR, to the reply to ATRN and its consequence.
    pub(super) async fn ask(&mut self, mut wire: Wire) -> Result<(Wire, Asked), Outcome> {
        let config = Arc::new(self.pull.customer());
        let mut customer = Customer::new(config, login::context(&wire, wire.is_tls()));
        if matches!(self.pull.purpose, Purpose::DryRun) {
            customer = customer.only_authenticate();
        }
        let mut target_down = None;
        let mut asked_at = Instant::now();
        loop {
            match customer.next(&mut wire.input) {
                Event::NeedInput => {
                    if let Err(error) = self.listen(&mut wire, &mut customer).await {
                        return target_down.map_or_else(
                            || self.lost(wire, customer, &error),
                            |down| Err(Outcome::TargetDown(down)),
                        );
                    }
                }
                Event::StartTls => {
                    wire = self.pull.shake_hands(wire).await?;
                    customer.tls_started(login::context(&wire, true));
                }
                Event::Prove(challenge) => {
                    let response = tokio::task::spawn_blocking(|| challenge.respond()).await;
                    let failed = |_| Outcome::Broken("the login could not be computed".to_owned());
                    customer.responded(response.map_err(failed)?);
                }
                Event::NoMailYet => match self.target_is_ready().await {
                    Ok(()) => {
                        // Waits of a second and more are over by then.
                        let early = AGAIN_AFTER.saturating_sub(asked_at.elapsed());
                        tokio::time::sleep(early).await;
                        asked_at = Instant::now();
                        customer.ask_again();
                    }
                    Err(error) => {
                        target_down = Some(self.pull.target_down(&error));
                        customer.quit();
                    }
                },
                Event::Ended(outcome) => {
                    let asked = Asked::new(&customer, outcome);
                    return match target_down {
                        Some(down) => Err(Outcome::TargetDown(down)),
                        None => Ok((wire, asked)),
                    };
                }
            }
        }
    }

    /// Sends what is due and reads what comes.
    async fn listen(&mut self, wire: &mut Wire, customer: &mut Customer) -> Result<(), WireError> {
        let awaited = customer.awaited();
        // A reply that comes drop by drop has no longer than one that comes at once.
        if !customer.output.is_empty() || awaited == Awaited::Greeting && wire.input.is_empty() {
            self.waits_since = Instant::now();
        }
        let waited = self.waits_since.elapsed();
        if self.offers_wait.is_none() && customer.extensions().atrn {
            self.offers_wait = Some(customer.extensions().wait.is_some());
        }
        let timeout = match awaited {
            Awaited::Atrn => return self.await_atrn(wire, customer).await,
            Awaited::Quit => QUIT_TIMEOUT,
            Awaited::Greeting | Awaited::Ehlo | Awaited::StartTls | Awaited::Auth => {
                self.pull.limits.reply_timeout
            }
        };
        let left = timeout.saturating_sub(waited);
        wire.exchange(&mut customer.output, left).await
    }

    /// The reply to ATRN, which may take its time (R2645-15). A target that has nothing to do meanwhile is left alone.
    async fn await_atrn(
        &mut self,
        wire: &mut Wire,
        customer: &mut Customer,
    ) -> Result<(), WireError> {
        let wait = customer.wait();
        let waited = self.waits_since.elapsed();
        let timeout = self.pull.atrn_timeout(wait).saturating_sub(waited);
        if !customer.output.is_empty() && self.flow.connected(customer.extensions().wait) {
            let (relay, session) = (&self.pull.relay.name, self.session);
            match wait {
                Some(wait) => info!(%relay, %session, ?wait, "waiting for mail as it comes"),
                None => debug!(%relay, %session, "asking for mail"),
            }
        }
        let reply = wire.exchange(&mut customer.output, timeout);
        tokio::pin!(reply);
        tokio::select! {
            biased;
            outcome = &mut reply => return outcome,
            () = tokio::time::sleep(REST_AFTER) => {}
        }
        let resting = async {
            if let Some(handover) = &mut self.handover {
                handover.rest().await;
            }
            std::future::pending().await
        };
        tokio::select! {
            biased;
            outcome = reply => outcome,
            never = resting => never,
        }
    }

    /// No ATRN while the target does not greet, also not a repeated one.
    async fn target_is_ready(&mut self) -> Result<(), ConnectError> {
        match &mut self.handover {
            Some(handover) => handover.ready().await,
            None => Ok(()),
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
                let address = &self.pull.relay.address;
                Err(Outcome::Broken(format!(
                    "{address}: {error} ({awaited:?} was due)"
                )))
            }
            outcome => Ok((wire, Asked { outcome, ..asked })),
        }
    }
}

impl Asked {
    fn new(customer: &Customer, outcome: customer::Outcome) -> Self {
        Self {
            outcome,
            extensions: customer.extensions().clone(),
            mechanism: customer.mechanism(),
            wait: customer.wait(),
        }
    }
}

impl Pull {
    /// Ten minutes at least (RFC 2645 §5.2.1), and longer than the silence that was asked for.
    pub(super) fn atrn_timeout(&self, wait: Option<Duration>) -> Duration {
        atrn_timeout(wait).max(self.limits.reply_timeout)
    }

    pub(super) fn target_down(&self, error: &ConnectError) -> String {
        let target = self.handover.target();
        format!("{target}: {}", peer(&error.to_string()))
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
}
