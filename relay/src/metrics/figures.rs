//! What `status` knows, as figures: names, units and what they mean.

use std::fmt;

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::activity::{AccountActivity, Snapshot};
use crate::control::{AccountStatus, DomainStatus, Status};
use crate::limits::LimitsStatus;
use crate::queue::DomainTotal;
use crate::transaction_log::LogState;

/// All figures as OpenMetrics text.
pub(super) fn text(status: Status) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("atrn_relay");
    registry.register_collector(Box::new(Figures(status)));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Figures(Status);

impl Collector for Figures {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = &self.0;
        let mut families = Families(encoder);
        if let Some(activity) = &status.activity {
            write_activity(&mut families, activity)?;
        }
        if let Some(limits) = &status.limits {
            write_limits(&mut families, limits)?;
        }
        if let Some(log) = &status.transaction_log {
            write_log(&mut families, log)?;
        }
        families.one(
            "leased_deliveries",
            "deliveries that sessions hold",
            &level(status.leased),
        )?;
        if let Some(disk) = status.disk {
            let help = "free on the disk of the queue";
            families.one("disk_free_octets", help, &level(disk.free))?;
        }
        write_domains(&mut families, &status.domains)?;
        write_accounts(&mut families, &status.accounts)
    }
}

fn write_activity(families: &mut Families<'_>, activity: &Snapshot) -> fmt::Result {
    families.one(
        "start_time_seconds",
        "when the daemon started",
        &level(seconds(activity.started_at)),
    )?;
    for (name, help, count) in [
        (
            "accepted_messages",
            "messages answered 250",
            activity.accepted_messages,
        ),
        (
            "accepted_octets",
            "octets of these",
            activity.accepted_octets,
        ),
        (
            "authentication_failures",
            "AUTH that failed",
            activity.authentication_failures,
        ),
        ("reports", "reports that were queued", activity.reports),
        (
            "configuration_reloads",
            "reloads, refused ones among them",
            activity.configuration.reloads,
        ),
    ] {
        families.one(name, help, &ConstCounter::new(count))?;
    }
    families.counter(
        "refusals",
        "commands answered 4yz and 5yz",
        [
            ([("kind", "transient")], activity.refused_transient),
            ([("kind", "permanent")], activity.refused_permanent),
        ],
    )?;
    let sides = [("smtp", activity.smtp), ("odmr", activity.odmr)];
    families.gauge(
        "sessions",
        "sessions at this moment",
        sides.map(|(side, counts)| ([("side", side)], counts.now)),
    )?;
    families.counter(
        "sessions_begun",
        "sessions since the start",
        sides.map(|(side, counts)| ([("side", side)], counts.total)),
    )?;
    let is_refused = u64::from(activity.configuration.error.is_some());
    families.one(
        "configuration_refused",
        "1 while changed files are not in force because of a mistake",
        &level(is_refused),
    )
}

fn write_log(families: &mut Families<'_>, log: &LogState) -> fmt::Result {
    for (name, help, count) in [
        (
            "transaction_log_records",
            "records of the transaction log that were written",
            log.records,
        ),
        (
            "transaction_log_lost",
            "records that it lacks, because it could not be written",
            log.lost,
        ),
    ] {
        families.one(name, help, &ConstCounter::new(count))?;
    }
    families.one(
        "transaction_log_failing",
        "1 while it cannot be written",
        &level(u64::from(log.failure.is_some())),
    )
}

fn write_limits(families: &mut Families<'_>, limits: &LimitsStatus) -> fmt::Result {
    let kinds = |counts: &std::collections::BTreeMap<String, u64>| {
        let kinds = counts.iter();
        let kinds = kinds.map(|(kind, count)| ([("kind", kind.clone())], *count));
        kinds.collect::<Vec<_>>()
    };
    families.counter(
        "connections_denied",
        "connections that were not let in",
        kinds(&limits.denied),
    )?;
    families.counter(
        "offences",
        "what honest peers do seldom",
        kinds(&limits.offences),
    )?;
    families.gauge(
        "stress",
        "1 while nearly all connections of a side are taken",
        ["edge", "odmr"].map(|side| {
            let is_stressed = limits.stressed.iter().any(|stressed| stressed == side);
            ([("side", side)], u64::from(is_stressed))
        }),
    )?;
    for (name, help, value) in [
        ("bans", "addresses that are banned", limits.bans),
        (
            "content_memory_octets",
            "memory of content on its way in",
            limits.memory_taken,
        ),
        (
            "content_memory_octets_max",
            "limits.memory",
            limits.memory_max,
        ),
    ] {
        families.one(name, help, &level(value))?;
    }
    for (name, help, count) in [
        ("bans_begun", "bans since the start", limits.bans_begun),
        (
            "stress_begun",
            "how often stress began",
            limits.stress_begun,
        ),
        (
            "content_memory_refusals",
            "messages put off for want of memory",
            limits.memory_refused,
        ),
        (
            "greylist_deferred",
            "recipients that greylisting put off",
            limits.greylist_deferred,
        ),
        (
            "greylist_passed",
            "recipients that greylisting let pass",
            limits.greylist_passed,
        ),
    ] {
        families.one(name, help, &ConstCounter::new(count))?;
    }
    Ok(())
}

/// The count of deliveries in a state.
type InState = (&'static str, fn(&DomainTotal) -> u64);

const STATES: [InState; 5] = [
    ("queued", |total| total.queued),
    ("deferred", |total| total.deferred),
    ("held", |total| total.held),
    ("failed", |total| total.failed),
    ("expired", |total| total.expired),
];

fn write_domains(families: &mut Families<'_>, domains: &[DomainStatus]) -> fmt::Result {
    let name = |domain: &'_ DomainStatus| [("domain", domain.total.domain.to_string())];
    families.gauge(
        "deliveries",
        "deliveries in the queue",
        domains.iter().flat_map(|domain| {
            STATES.map(|(state, count)| {
                let domain_name = domain.total.domain.to_string();
                let labels = [("domain", domain_name), ("state", state.to_owned())];
                (labels, count(&domain.total))
            })
        }),
    )?;
    families.gauge(
        "queue_octets",
        "octets in the queue",
        domains
            .iter()
            .map(|domain| (name(domain), domain.total.bytes)),
    )?;
    let limit = |value: fn(&DomainStatus) -> Option<u64>| {
        domains
            .iter()
            .filter_map(move |domain| Some((name(domain), value(domain)?)))
    };
    families.gauge(
        "queue_octets_max",
        "domain.max_queue_size",
        limit(|domain| domain.max_queue_size),
    )?;
    families.gauge(
        "deliveries_max",
        "domain.max_queue_messages",
        limit(|domain| domain.max_queue_messages),
    )?;
    families.gauge(
        "oldest_waiting_timestamp_seconds",
        "when the oldest mail that waits to be pulled was accepted",
        domains
            .iter()
            .filter_map(|domain| Some((name(domain), seconds(domain.total.oldest?)))),
    )
}

/// Name, meaning, and the figure of an account.
type OfAccount = (&'static str, &'static str, fn(&AccountActivity) -> u64);

const ACCOUNT_COUNTERS: [OfAccount; 6] = [
    ("account_pulls", "ATRN of the account", |account| {
        account.pulls.total
    }),
    ("account_delivered", "deliveries that it took", |account| {
        account.delivered
    }),
    ("account_octets", "octets of these", |account| {
        account.octets
    }),
    (
        "account_deferred",
        "deliveries to be tried again",
        |account| account.deferred,
    ),
    ("account_failed", "deliveries refused for good", |account| {
        account.failed
    }),
    (
        "account_stops",
        "pulls stopped because most was refused for good",
        |account| account.stops,
    ),
];

fn write_accounts(families: &mut Families<'_>, accounts: &[AccountStatus]) -> fmt::Result {
    let name = |account: &'_ AccountStatus| [("account", account.account.clone())];
    for (family, help, count) in ACCOUNT_COUNTERS {
        families.counter(
            family,
            help,
            accounts
                .iter()
                .map(|account| (name(account), count(&account.activity))),
        )?;
    }
    families.gauge(
        "account_waiting",
        "sessions of the account that wait for mail at this moment",
        accounts
            .iter()
            .map(|account| (name(account), account.activity.waiting)),
    )?;
    families.gauge(
        "account_alarm",
        "1 while the server inside refuses most mail for good and is not believed",
        accounts
            .iter()
            .map(|account| (name(account), u64::from(account.activity.alarm.is_some()))),
    )?;
    families.gauge(
        "account_last_pull_timestamp_seconds",
        "when the last pull ended, or the one that runs began",
        accounts.iter().filter_map(|account| {
            let last = account.activity.last_pull.as_ref()?;
            Some((name(account), seconds(last.at)))
        }),
    )
}

/// Writes families of figures that are the same but for their labels.
struct Families<'e>(DescriptorEncoder<'e>);

impl Families<'_> {
    fn counter<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        figures: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let figures = figures
            .into_iter()
            .map(|(labels, count)| (labels, ConstCounter::new(count)));
        self.write(name, help, figures)
    }

    fn gauge<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        figures: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let figures = figures
            .into_iter()
            .map(|(labels, value)| (labels, level(value)));
        self.write(name, help, figures)
    }

    /// A figure without labels.
    fn one(&mut self, name: &str, help: &str, figure: &impl EncodeMetric) -> fmt::Result {
        let family = self
            .0
            .encode_descriptor(name, help, None, figure.metric_type())?;
        figure.encode(family)
    }

    /// A family without figures is left out.
    fn write<L: EncodeLabelSet, M: EncodeMetric>(
        &mut self,
        name: &str,
        help: &str,
        figures: impl Iterator<Item = (L, M)>,
    ) -> fmt::Result {
        let mut figures = figures.peekable();
        let Some((_, first)) = figures.peek() else {
            return Ok(());
        };
        let kind = first.metric_type();
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, figure) in figures {
            figure.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// A gauge; the library has no room for the upper half of the numbers.
fn level(value: u64) -> ConstGauge {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}

/// Since 1970, as Prometheus has times.
fn seconds(moment: Timestamp) -> u64 {
    u64::try_from(moment.as_second()).unwrap_or(0)
}
