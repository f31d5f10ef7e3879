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
use crate::queue::{Action, Delivery, DeliveryId, Outcome, Store, StoreError};
use crate::settings::Settings;
use crate::transaction_log::TransactionLog;

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
    pub(crate) log: TransactionLog,
}

impl Expiry {
    /// Looks at every domain again and again, until shutdown.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut is_waiting = false;
        while !shutdown.is_cancelled() {
            let settings = self.settings.load();
            let was_waiting = std::mem::replace(&mut is_waiting, self.store.is_owing());
            if is_waiting && !was_waiting {
                warn!(
                    "the queue could not be written; no mail is given up or forgotten until what is owed is settled"
                );
            }
            self.look(&settings.config, &shutdown).await;
            let pause = tokio::time::sleep(pause(&settings.config));
            shutdown.run_until_cancelled(pause).await;
        }
    }

    async fn look(&self, config: &RelayConfig, shutdown: &CancellationToken) {
        for domain in &config.domains {
            // Whatever is owed keeps its place in memory, and must not become more by itself.
            if shutdown.is_cancelled() || self.store.is_owing() {
                return;
            }
            if let Err(error) = self.give_up(domain, shutdown).await {
                error!(domain = %domain.name, %error, "cannot give up mail whose time is over; it waits");
            }
            let mut trail = self.log.relay();
            let noted = |ids: &[DeliveryId], changed| trail.changed(Action::Remove, ids, changed);
            let forget = self.store.forget(&domain.name, domain.keep_failed, noted);
            match shutdown.run_until_cancelled(forget).await {
                None | Some(Ok(0)) => {}
                Some(Ok(deliveries)) => info!(
                    domain = %domain.name, deliveries, keep = show_duration(domain.keep_failed),
                    "failed and expired mail was kept long enough, and is removed"
                ),
                Some(Err(error)) => {
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
    use crate::closing::tests::{Mail, World};
    use crate::config::tests::config;
    use crate::queue::State;

    const DAY: Duration = Duration::from_secs(86_400);

    impl World {
        /// One look of the clock at the queue.
        async fn look(&self) {
            let expiry = Expiry {
                store: self.store.clone(),
                closing: self.closing.clone(),
                settings: self.settings.clone(),
                log: TransactionLog::off(),
            };
            let config = &self.settings.load().config;
            expiry.look(config, &CancellationToken::new()).await;
        }

        /// The domain, the state and the sender of each delivery.
        async fn states(&self) -> Vec<String> {
            let items = self.all().await.into_iter();
            items
                .map(|item| format!("{} {} <{}>", item.domain, item.state, item.sender))
                .collect()
        }
    }

    // covers: R5321-30, R2645-24
    #[tokio::test]
    async fn mail_whose_time_is_over_is_given_up_and_reported() {
        let world = World::new("hold_for = \"2d\"\nkeep_failed = \"3d\"\nreports = \"sender\"");
        let id = world.accept(&Mail::default()).await;
        let elsewhere = ["bob@gone.example"];
        world
            .accept(&Mail {
                recipients: &elsewhere,
                ..Mail::default()
            })
            .await;
        let waits = [
            "example.com queued <alice@example.net>",
            "gone.example queued <alice@example.net>",
        ];
        world.look().await;
        assert_eq!(world.states().await, waits);
        world.make_older(DAY);
        world.look().await;
        assert_eq!(world.states().await, waits);
        world.make_older(DAY);
        world.look().await;
        let ended = [
            "example.com expired <alice@example.net>",
            "gone.example queued <alice@example.net>",
            "example.com queued <>",
        ];
        assert_eq!(world.states().await, ended);
        let delivery = world.shown(id).await;
        assert_eq!(
            delivery.item.last_reply.as_deref(),
            Some("554 5.4.7 Not delivered within 2d")
        );
        let reported_to = delivery.details[0].reported_to.as_deref();
        assert_eq!(reported_to, Some("alice@example.net"));

        // The report expires too, and begets none.
        world.make_older(DAY * 2);
        world.look().await;
        let ended = [
            "example.com expired <alice@example.net>",
            "gone.example queued <alice@example.net>",
            "example.com expired <>",
        ];
        assert_eq!(world.states().await, ended);
        world.make_older(DAY);
        world.look().await;
        assert_eq!(world.states().await, ended[1..]);
        // What is not configured any more stays, however long.
        world.make_older(DAY * 1_000);
        world.look().await;
        assert_eq!(world.states().await, ended[1..2]);
    }

    #[tokio::test]
    async fn more_than_one_step_is_given_up_at_one_look() {
        let world = World::new("hold_for = \"2d\"");
        for _ in 0..STEP * 2 + 1 {
            world.accept(&Mail::default()).await;
        }
        world.make_older(DAY * 2);
        world.look().await;
        let items = world.all().await;
        let expired = items.iter().filter(|item| item.state == State::Expired);
        assert_eq!(expired.count(), STEP * 2 + 1);
        assert_eq!(items.len(), 2 * (STEP * 2 + 1), "each has its report");
    }

    #[tokio::test]
    async fn while_settlements_are_owed_no_more_is_given_up() {
        let world = World::new("hold_for = \"2d\"\nkeep_failed = \"3d\"");
        for _ in 0..STEP + 1 {
            world.accept(&Mail::default()).await;
        }
        world.make_older(DAY * 2);
        // Reading goes on, as on a full disk.
        world.alter(
            "CREATE TRIGGER full BEFORE DELETE ON delivery BEGIN SELECT RAISE(ABORT, 'full'); END",
        );
        for _ in 0..3 {
            world.look().await;
            assert!(world.store.is_owing());
            assert_eq!(world.store.leased(), STEP);
        }
        world.alter("DROP TRIGGER full");
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while world.store.is_owing() {
            assert!(tokio::time::Instant::now() < deadline);
            tokio::task::yield_now().await;
        }
        world.look().await;
        let items = world.all().await;
        let expired = items.iter().filter(|item| item.state == State::Expired);
        assert_eq!(expired.count(), STEP + 1);
    }

    #[tokio::test]
    async fn an_idle_clock_ends_with_the_daemon() {
        let world = World::new("");
        let shutdown = CancellationToken::new();
        let expiry = Expiry {
            store: world.store.clone(),
            closing: world.closing.clone(),
            settings: world.settings.clone(),
            log: TransactionLog::off(),
        };
        let running = tokio::spawn(expiry.run(shutdown.clone()));
        shutdown.cancel();
        running.await.unwrap();
    }

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
