//! The clock's work on the queue: mail that nobody took in time is given up and reported, and what failed or expired is
//! forgotten after a while.
//!
//! Mail of a domain that is not configured any more has no hold time, so that it stays until an admin decides.

use std::time::Duration;

use atrn_shared::config::{Live, show_duration};
use atrn_shared::log::peer;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::closing::{By, Closing, given_up};
use crate::config::{DomainConfig, RelayConfig};
use crate::queue::{Delivery, Outcome, Store, StoreError};
use crate::settings::Settings;

/// Deliveries that are given up together. The writer takes them into one commit, and accepts that wait into the same.
const STEP: usize = 64;
/// Between two looks. A message waits days, so that a minute more is nothing.
const PAUSE_MAX: Duration = Duration::from_secs(60);
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// What the clock works with.
pub(crate) struct Expiry {
    pub(crate) store: Store,
    pub(crate) closing: Closing,
    pub(crate) settings: Live<Settings>,
}

impl Expiry {
    /// Looks at every domain again and again, until shutdown.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            let settings = self.settings.load();
            self.look(&settings.config, &shutdown).await;
            let pause = tokio::time::sleep(pause(&settings.config));
            shutdown.run_until_cancelled(pause).await;
        }
    }

    async fn look(&self, config: &RelayConfig, shutdown: &CancellationToken) {
        for domain in &config.domains {
            if shutdown.is_cancelled() {
                return;
            }
            if let Err(error) = self.give_up(domain, shutdown).await {
                error!(domain = %domain.name, %error, "cannot give up mail whose time is over; it waits");
            }
            match self.store.forget(&domain.name, domain.keep_failed).await {
                Ok(0) => {}
                Ok(deliveries) => info!(
                    domain = %domain.name, deliveries, keep = show_duration(domain.keep_failed),
                    "failed and expired mail was kept long enough, and is removed"
                ),
                Err(error) => {
                    error!(domain = %domain.name, %error, "cannot remove mail that failed; it is kept");
                }
            }
        }
    }

    async fn give_up(
        &self,
        domain: &DomainConfig,
        shutdown: &CancellationToken,
    ) -> Result<(), StoreError> {
        let why = format!("Not delivered within {}", show_duration(domain.hold_for));
        while !shutdown.is_cancelled() {
            let overdue = self
                .store
                .overdue(&domain.name, domain.hold_for, STEP)
                .await?;
            if overdue.is_empty() {
                break;
            }
            let ended = overdue.into_iter().map(|lease| {
                let outcomes = given_up(&lease, &why);
                log(&lease, &outcomes);
                (lease, outcomes)
            });
            self.closing.settle_all(ended, By::Clock).await?;
        }
        Ok(())
    }
}

/// Somebody should know: this mail reaches nobody.
fn log(delivery: &Delivery, outcomes: &[Outcome]) {
    let Some(Outcome::Expired(reply)) = outcomes.first() else {
        return;
    };
    let reverse_path = delivery.reverse_path.to_string();
    warn!(
        delivery_id = %delivery.id, domain = %delivery.domain, reverse_path = %peer(&reverse_path),
        recipients = outcomes.len(), attempts = delivery.attempts, reply = %peer(&reply.to_string()), "expired"
    );
}

/// Short enough that no domain's mail outstays its time by more than a quarter.
fn pause(config: &RelayConfig) -> Duration {
    let times = config
        .domains
        .iter()
        .flat_map(|domain| [domain.hold_for, domain.keep_failed]);
    times.min().map_or(PAUSE_MAX, |shortest| {
        (shortest / 4).clamp(PAUSE_MIN, PAUSE_MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::config;

    #[test]
    fn looks_are_as_frequent_as_the_shortest_time_asks_for() {
        for (domains, seconds) in [
            ("", 60),
            ("[[domain]]\nname = \"a.example\"\n", 60),
            ("[[domain]]\nname = \"a.example\"\nhold_for = \"2s\"\n", 1),
            (
                "[[domain]]\nname = \"a.example\"\nkeep_failed = \"40s\"\n",
                10,
            ),
            (
                "[[domain]]\nname = \"a.example\"\n[[domain]]\nname = \"b.example\"\nhold_for = \"2m\"\n",
                30,
            ),
        ] {
            let config = config(&format!("hostname = \"mx.example\"\n{domains}"));
            assert_eq!(pause(&config), Duration::from_secs(seconds), "{domains}");
        }
    }
}
