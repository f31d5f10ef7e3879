//! Where deliveries end: the one way to settle what somebody may have to be told of.
//!
//! A session, the clock and an admin end deliveries. Whoever does settles through [`Closing`], which decides whether a
//! report is due, builds it, and hands it over with the settlement: both are durable, or neither is.

#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use atrn_shared::config::Live;
use atrn_shared::log::peer;
use atrn_shared::smtp::parameter::Ret;
use atrn_shared::smtp::reply::Reply;
use jiff::Timestamp;
use tracing::{info, warn};

use crate::activity::Activity;
use crate::config::{RelayConfig, Reports};
use crate::queue::{Delivery, Judge, Lease, Outcome, Report, Store, StoreError};
use crate::report::{Case, Fate, Notice, Original, REPORT_OCTETS, Told, addressee};
use crate::settings::Settings;
use crate::transaction_log::{Event, Subject, TransactionLog};

/// Settles, and reports where that is due.
#[derive(Clone, Debug)]
pub(crate) struct Closing {
    store: Store,
    config: Source,
    log: TransactionLog,
}

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// A command that works on the queue while no daemon runs.
    Command(Arc<RelayConfig>),
    /// The daemon, which follows its files, and counts.
    Daemon(Live<Settings>, Activity),
}

/// Who ends a delivery.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum By {
    /// An admin, by hand.
    Admin,
    /// Its time is over.
    Clock,
    /// The puller's verdict.
    Puller {
        /// It offers DSN, so that what becomes of a delivered message is for those behind it to confirm.
        dsn: bool,
    },
}

impl Closing {
    pub(crate) fn new(store: Store, config: Source, log: TransactionLog) -> Self {
        Self { store, config, log }
    }

    /// Hands over the settlement of a delivery, an outcome for each recipient in order, with a report where somebody
    /// is to be told. What comes back waits for the commit, as with [`Store::settle`].
    pub(crate) async fn settle(
        &self,
        lease: Lease,
        outcomes: Vec<Outcome>,
        by: By,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let report = self.report(&lease, &outcomes, by).await;
        // What the puller said is in the records of its session.
        if matches!(by, By::Admin | By::Clock) {
            self.log.relay().outcomes(&lease, &outcomes);
        }
        let judge = match by {
            By::Admin | By::Clock => Judge::Relay,
            By::Puller { .. } => Judge::Puller,
        };
        self.store.settle_by(judge, lease, outcomes, report)
    }

    /// Settles several, and waits until all of them are durable: they share their commits.
    ///
    /// # Errors
    /// The first commit that failed.
    pub(crate) async fn settle_all(
        &self,
        ended: impl IntoIterator<Item = (Lease, Vec<Outcome>)>,
        by: By,
    ) -> Result<(), StoreError> {
        let mut settling = Vec::new();
        for (lease, outcomes) in ended {
            settling.push(self.settle(lease, outcomes, by).await);
        }
        for settled in settling {
            settled.await?;
        }
        Ok(())
    }

    async fn report(&self, lease: &Lease, outcomes: &[Outcome], by: By) -> Option<Report> {
        let ended: Vec<_> = ended(lease, outcomes, by).collect();
        if ended.is_empty() {
            return None;
        }
        let config = self.config.load();
        let case = Case {
            // Mail of a domain that is not configured any more: as if nothing had been said of it.
            policy: config
                .domain(&lease.domain)
                .map_or_else(Reports::default, |domain| domain.reports),
            reverse_path: &lease.reverse_path,
            sender_verified: lease.sender_verified,
            is_report: lease.is_report,
        };
        let whom = |told: &Told<'_>| addressee(case, told.recipient.parameters.notify, told.fate);
        let addressee = ended.iter().find_map(whom)?;
        let notice = Notice {
            hostname: &config.hostname,
            delivery: lease,
            addressee,
            recipients: ended
                .iter()
                .filter(|told| whom(told) == Some(addressee))
                .copied()
                .collect(),
            original: original(lease).await,
            last_attempt: matches!(by, By::Puller { .. }).then(Timestamp::now),
            now: Timestamp::now(),
            number: fastrand::u64(..),
        };
        let report = notice.report();
        if let Some(to) = report.envelope.recipients.first() {
            let forward_path = to.forward_path.to_string();
            info!(
                delivery_id = %lease.id, domain = %lease.domain, forward_path = %peer(&forward_path),
                recipients = notice.recipients.len(), "report queued"
            );
            self.log.relay().note(&Event {
                argument: &forward_path,
                subject: Subject::Delivery(lease.id),
                ..Event::new("report")
            });
        }
        if let Source::Daemon(_, activity) = &self.config {
            activity.reported();
        }
        Some(report)
    }
}

impl Source {
    /// The configuration now.
    pub(crate) fn load(&self) -> View {
        match self {
            Self::Command(config) => View::Read(Arc::clone(config)),
            Self::Daemon(settings, _) => View::Live(settings.load()),
        }
    }
}

/// The configuration at one moment.
pub(crate) enum View {
    Live(Arc<Settings>),
    Read(Arc<RelayConfig>),
}

impl std::ops::Deref for View {
    type Target = RelayConfig;

    fn deref(&self) -> &RelayConfig {
        match self {
            Self::Live(settings) => &settings.config,
            Self::Read(config) => config,
        }
    }
}

/// The recipients for whom something came to an end that a report can be about.
fn ended<'d>(
    delivery: &'d Delivery,
    outcomes: &'d [Outcome],
    by: By,
) -> impl Iterator<Item = Told<'d>> {
    let pairs = delivery.recipients.iter().zip(outcomes).enumerate();
    pairs.filter_map(move |(index, (recipient, outcome))| {
        let (fate, reply) = match outcome {
            Outcome::Expired(reply) => (Fate::Expired, Some(reply)),
            Outcome::Failed(reply) => (Fate::Failed, Some(reply)),
            // Without NOTIFY nobody waits for good news: most mail is done with here.
            Outcome::Delivered
                if by == By::Puller { dsn: false } && recipient.parameters.notify.is_some() =>
            {
                (Fate::Relayed, None)
            }
            Outcome::Deferred(_) | Outcome::Delivered | Outcome::Released => return None,
        };
        Some(Told {
            index,
            recipient,
            fate,
            reply,
        })
    })
}

/// As much of the message as a report can return. It goes without where that cannot be read: that it failed must be
/// told all the same.
async fn original(lease: &Lease) -> Original {
    match read(lease).await {
        Ok(original) => original,
        Err(error) => {
            warn!(delivery_id = %lease.id, %error, "a report cannot return the header of its message");
            Original::default()
        }
    }
}

async fn read(lease: &Lease) -> Result<Original, StoreError> {
    let wants_all = lease.mail_parameters.ret == Some(Ret::Full);
    let mut content = lease.content().await?;
    let mut octets = Vec::new();
    while let Some(part) = content.next().await? {
        // Enough to find the end of the header section across two parts.
        let from = octets.len().saturating_sub(3);
        let room = REPORT_OCTETS.saturating_sub(octets.len());
        if part.len() > room {
            octets.extend_from_slice(&part[..room]);
            return Ok(Original::new(octets, false));
        }
        octets.extend_from_slice(&part);
        if !wants_all && memchr::memmem::find(&octets[from..], b"\r\n\r\n").is_some() {
            return Ok(Original::new(octets, false));
        }
    }
    Ok(Original::new(octets, true))
}

/// What becomes of each recipient of a delivery that is given up. `why` is all that can be said of one that nobody ever
/// fetched; with another goes what stood in its way.
pub(crate) fn given_up(delivery: &Delivery, why: &str) -> Vec<Outcome> {
    let recipients = delivery.recipients.iter();
    let outcomes = recipients.map(|recipient| {
        let last_reply = recipient.last_reply.as_ref();
        let text = match last_reply.filter(|_| delivery.attempts > 0) {
            None => why.to_owned(),
            Some(reply) => format!("{why}; last reply: {reply}"),
        };
        Outcome::Expired(Reply::new(554, "5.4.7", text))
    });
    outcomes.collect()
}
