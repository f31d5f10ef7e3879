//! `pull`: one pull now.

use std::time::Duration;

use atrn_shared::cli::{Common, ExitCode, Failure, Table, age, print_error, size};
use atrn_shared::smtp::address::Domain;
use clap::Args;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{chosen, load, notes_on, runtime, stop_on_signals};
use crate::config::{Mode, PullerConfig, RelayConfig};
use crate::daemon::patience;
use crate::journal::Journal;
use crate::outcome::Outcome;
use crate::reports::{Reports, Traffic};
use crate::reversed::Tally;
use crate::sandbox;
use crate::session::{Pull, Purpose, Report};
use crate::sessions::Sessions;
use crate::status::StatusFiles;

/// Pull once, now: for cron and timers
///
/// Exit codes: 0 mail pulled, or none; 1 journal damaged, or it cannot be written; 69 relay unreachable; 71 hand-over target down; 75 try later; 76 no ATRN, or
/// protocol broken; 77 refused; 78 configuration.
///
/// Example: atrn-puller pull mx1 --domain example.com
#[derive(Args, Debug)]
pub(super) struct PullCommand {
    /// The relays, by their names; all of them when none is named.
    relays: Vec<String>,

    /// Ask for this domain only; may be given several times.
    #[arg(long, value_name = "DOMAIN", value_parser = Domain::parse)]
    domain: Vec<Domain>,

    /// Log in, say what would be asked for, and ask for nothing.
    #[arg(long)]
    dry_run: bool,
}

/// What is printed of a pull.
#[derive(Serialize)]
struct Row {
    relay: String,
    #[serde(flatten)]
    outcome: Outcome,
    domains: Vec<Domain>,
    #[serde(flatten)]
    tally: Tally,
    seconds: f64,
    #[serde(skip)]
    mode: Mode,
    /// Whether the relay waits for mail, as instant mode wants it; unknown where it did not come to say so.
    offers_xwait: Option<bool>,
}

impl PullCommand {
    pub(super) fn run(&self, common: &Common) -> Result<ExitCode, Failure> {
        let config = load(common)?.config;
        let relays = chosen(&config, &self.relays)?;
        let relays = self.with_domains(&relays)?;
        let stop = CancellationToken::new();
        let mut pulls = pulls(&config, &relays, &stop)?;
        let reports = Reports::load(&config, &Traffic::shared(&config.data_dir))?;
        // What is wrong with the files leaves nothing behind; and no thread is there yet.
        sandbox::enter(&config, &common.config())?;
        let runtime = runtime()?;
        let outcome = runtime.block_on(async {
            stop_on_signals(&stop)?;
            let status = StatusFiles::open(&config.data_dir)?;
            if self.dry_run {
                return pull_all(pulls, &stop, None, None).await;
            }
            let journal = Journal::open(&config.data_dir)?;
            for pull in &mut pulls {
                pull.reports.clone_from(&reports);
                pull.purpose = Purpose::Mail(journal.clone());
            }
            let rows = pull_all(pulls, &stop, Some(&status), Some(&journal)).await;
            journal.end().await;
            rows
        });
        runtime.shutdown_background();
        let rows = outcome?;
        common.output().show(&rows, |rows| table(rows))?;
        let mut code = ExitCode::Success;
        for row in &rows {
            if let Some(reason) = row.outcome.reason() {
                print_error(&Failure::failed(format!("{}: {reason}", row.relay)));
            }
            if code == ExitCode::Success {
                code = row.outcome.exit_code();
            }
        }
        Ok(code)
    }

    /// The relays that have any of the domains, and which of them to ask for.
    fn with_domains<'c>(
        &self,
        relays: &[&'c RelayConfig],
    ) -> Result<Vec<(&'c RelayConfig, Vec<Domain>)>, Failure> {
        if self.domain.is_empty() {
            return Ok(relays
                .iter()
                .map(|relay| (*relay, relay.domains.clone()))
                .collect());
        }
        for domain in &self.domain {
            if !relays.iter().any(|relay| relay.domains.contains(domain)) {
                let text =
                    format!("no relay has the domain {domain}; add it to the `domains` of one");
                return Err(Failure::new(ExitCode::Usage, text));
            }
        }
        let wanted = relays.iter().map(|relay| {
            let domains: Vec<_> = relay
                .domains
                .iter()
                .filter(|domain| self.domain.contains(domain))
                .cloned()
                .collect();
            (*relay, domains)
        });
        Ok(wanted.filter(|(_, domains)| !domains.is_empty()).collect())
    }
}

/// Everything is loaded before the first connection is made.
fn pulls(
    config: &PullerConfig,
    relays: &[(&RelayConfig, Vec<Domain>)],
    stop: &CancellationToken,
) -> Result<Vec<Pull>, Failure> {
    let one = |(relay, domains): &(&RelayConfig, Vec<Domain>)| {
        let pull = Pull::new(config, relay, Purpose::DryRun, stop.clone())?;
        Ok(Pull {
            domains: domains.clone(),
            ..pull
        })
    };
    relays.iter().map(one).collect()
}

/// All at once: a relay that hangs must not keep the mail of the others.
async fn pull_all(
    pulls: Vec<Pull>,
    stop: &CancellationToken,
    status: Option<&StatusFiles>,
    journal: Option<&Journal>,
) -> Result<Vec<Row>, Failure> {
    let mut rows: Vec<Option<Row>> = pulls.iter().map(|_| None).collect();
    let mut tasks = JoinSet::new();
    for (position, pull) in pulls.into_iter().enumerate() {
        tasks.spawn(async move {
            let mut sessions = Sessions::default();
            let report = sessions.run(&pull).await;
            let report = sessions.finish(report).await;
            (position, pull, report)
        });
    }
    let deadline = async {
        stop.cancelled().await;
        patience(journal).await;
    };
    tokio::pin!(deadline);
    loop {
        let joined = tokio::select! {
            biased;
            joined = tasks.join_next() => joined,
            () = &mut deadline => return Err(Failure::new(ExitCode::TryLater, "stopped in the middle of a message")),
        };
        match joined {
            None => break,
            Some(Err(error)) => return Err(Failure::failed(format!("a pull failed: {error}"))),
            Some(Ok((position, pull, report))) => {
                if let Some(status) = status {
                    remember(status, &pull.relay.name, &report).await;
                }
                rows[position] = Some(row(&pull, report));
            }
        }
    }
    Ok(rows.into_iter().flatten().collect())
}

/// The daemon's plans and sessions, if there is one, stay as they are.
async fn remember(files: &StatusFiles, relay: &str, report: &Report) {
    let before = files.load(relay).await;
    let (next_at, connection) = (before.next_at, before.connection.clone());
    let mut after = before.after(report);
    after.next_at = next_at;
    after.connection = connection;
    if let Err(error) = files.save(relay, &after).await {
        warn!(relay, %error, "cannot write the status file");
    }
}

fn row(pull: &Pull, report: Report) -> Row {
    let Report {
        outcome,
        tally,
        took,
        offers_wait,
        ..
    } = report;
    Row {
        relay: pull.relay.name.clone(),
        outcome,
        domains: pull.domains.clone(),
        mode: pull.relay.mode,
        tally,
        seconds: took.as_secs_f64(),
        offers_xwait: offers_wait,
    }
}

fn table(rows: &[Row]) -> String {
    let mut table = Table::new(&[
        "relay",
        "result",
        ">messages",
        ">size",
        ">deferred",
        ">refused",
        ">took",
        "domains",
    ]);
    let mut notes = String::new();
    for row in rows {
        let domains: Vec<_> = row.domains.iter().map(Domain::as_str).collect();
        table.row([
            row.relay.clone(),
            row.outcome.word().to_owned(),
            row.tally.messages.to_string(),
            size(row.tally.octets),
            row.tally.deferred.to_string(),
            row.tally.refused.to_string(),
            age(Duration::from_secs_f64(row.seconds.max(0.0))),
            domains.join(","),
        ]);
        notes += &notes_on(&row.relay, &row.tally);
        if row.mode == Mode::Instant && row.offers_xwait == Some(false) {
            notes += &format!(
                "\n{}: the relay cannot wait for mail (no XWAIT): `atrn-puller run` polls it",
                row.relay
            );
        }
    }
    format!("{table}{notes}")
}
