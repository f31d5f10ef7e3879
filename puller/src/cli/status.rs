//! `status`: what the last pulls brought, and when the next ones are due.

use std::time::Duration;

use atrn_shared::cli::{Common, Failure, Table, age, size};
use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use super::{chosen, notes_on};
use crate::config::PullerConfig;
use crate::journal::{Journal, Summary};
use crate::reversed::Tally;
use crate::status::{DaemonLock, RelayStatus, StatusFiles};

/// Show each relay's last pull, its next one, and what is wrong
///
/// Example: atrn-puller status --json
#[derive(Args, Debug)]
pub(super) struct StatusCommand {
    /// The relays, by their names; all of them when none is named.
    relays: Vec<String>,
}

/// What is printed.
#[derive(Serialize)]
struct Status {
    /// Whether `atrn-puller run` runs.
    running: bool,
    relays: Vec<Row>,
    /// Absent before the first pull.
    journal: Option<JournalState>,
}

/// What is known of the journal, or why nothing is.
#[derive(Serialize)]
#[serde(untagged)]
enum JournalState {
    Known(Summary),
    Unknown { error: String },
}

#[derive(Serialize)]
struct Row {
    relay: String,
    address: String,
    domains: Vec<String>,
    #[serde(flatten)]
    status: RelayStatus,
}

impl StatusCommand {
    pub(super) fn run(&self, common: &Common) -> Result<(), Failure> {
        // Not through `load`: there is nothing to log about.
        let config = PullerConfig::load(&common.config())?.config;
        let running = DaemonLock::is_held(&config.data_dir);
        let files = StatusFiles::look(&config.data_dir);
        let relays = chosen(&config, &self.relays)?.into_iter().map(|relay| {
            let mut status = files.read(&relay.name);
            // A daemon that is gone has no plans.
            status.next_at = status.next_at.filter(|_| running);
            Row {
                relay: relay.name.clone(),
                address: relay.address.to_string(),
                domains: relay.domains.iter().map(ToString::to_string).collect(),
                status,
            }
        });
        let status = Status {
            running,
            relays: relays.collect(),
            journal: journal(&config),
        };
        common
            .output()
            .show(&status, |status| table(status, Timestamp::now()))
    }
}

fn table(status: &Status, now: Timestamp) -> String {
    let mut table = Table::new(&[
        "relay",
        "last pull",
        "result",
        ">messages",
        ">size",
        ">deferred",
        ">refused",
        "last mail",
        "next pull",
        ">failures",
    ]);
    let mut alarms = String::new();
    for Row { relay, status, .. } in &status.relays {
        let last = status.last.as_ref();
        let number = |show: &dyn Fn(&Tally) -> String| {
            last.map_or_else(|| "-".to_owned(), |last| show(&last.tally))
        };
        table.row([
            relay.clone(),
            last.map_or_else(|| "never".to_owned(), |last| ago(last.at, now)),
            last.map_or("-", |last| last.outcome.word()).to_owned(),
            number(&|tally| tally.messages.to_string()),
            number(&|tally| size(tally.octets)),
            number(&|tally| tally.deferred.to_string()),
            number(&|tally| tally.refused.to_string()),
            status
                .last_mail_at
                .map_or_else(|| "-".to_owned(), |at| ago(at, now)),
            status
                .next_at
                .map_or_else(|| "-".to_owned(), |at| ahead(at, now)),
            status.failures.to_string(),
        ]);
        let reason = last.and_then(|last| last.outcome.reason());
        if let Some(reason) = reason {
            let word = if status.alarm.is_some() { "ALARM " } else { "" };
            alarms += &format!("\n{word}{relay}: {reason}");
        }
        if let Some(last) = last {
            alarms += &notes_on(relay, &last.tally);
        }
    }
    let daemon = if status.running {
        "daemon running"
    } else {
        "no daemon running"
    };
    let journal = match &status.journal {
        None => String::new(),
        Some(JournalState::Known(summary)) => format!(
            ", {} deliveries in the journal, {}",
            summary.entries,
            size(summary.octets)
        ),
        Some(JournalState::Unknown { error }) => format!("\nALARM journal: {error}"),
    };
    format!("{table}{alarms}\n{daemon}{journal}")
}

fn journal(config: &PullerConfig) -> Option<JournalState> {
    match Journal::examine(&config.data_dir) {
        Ok(summary) => summary.map(JournalState::Known),
        Err(error) => Some(JournalState::Unknown {
            error: Failure::from(error).text,
        }),
    }
}

fn ago(then: Timestamp, now: Timestamp) -> String {
    format!("{} ago", age(between(then, now)))
}

fn ahead(then: Timestamp, now: Timestamp) -> String {
    if then <= now {
        // It is put forward when the pull has ended.
        "under way".to_owned()
    } else {
        format!("in {}", age(between(now, then)))
    }
}

fn between(from: Timestamp, to: Timestamp) -> Duration {
    to.duration_since(from).try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Outcome;
    use crate::status::LastPull;

    #[test]
    fn the_table_is_for_people() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let pulled = LastPull {
            at: at(10_000),
            seconds: 1.5,
            outcome: Outcome::Refused("the relay says 535 5.7.8 no".into()),
            tally: Tally {
                messages: 12,
                octets: 48_211,
                deferred: 3,
                refused: 16,
                already_there: 2,
            },
        };
        let known = RelayStatus {
            last: Some(pulled),
            last_mail_at: Some(at(10_001)),
            next_at: Some(at(10_300)),
            failures: 1,
            alarm: Some("x".into()),
        };
        let pulling = RelayStatus {
            next_at: Some(at(10_119)),
            ..RelayStatus::default()
        };
        let row = |relay: &str, status| Row {
            relay: relay.into(),
            address: "a:366".into(),
            domains: Vec::new(),
            status,
        };
        let status = Status {
            running: true,
            relays: vec![
                row("mx1", known),
                row("mx22", RelayStatus::default()),
                row("mx3", pulling),
            ],
            journal: Some(JournalState::Known(Summary {
                entries: 4_711,
                octets: 204_800,
            })),
        };
        let expected = "\
RELAY  LAST PULL  RESULT   MESSAGES     SIZE  DEFERRED  REFUSED  LAST MAIL  NEXT PULL  FAILURES
mx1    2m ago     refused        12  48.2 kB         3       16  1m ago     in 3m             1
mx22   never      -               -        -         -        -  -          -                 0
mx3    never      -               -        -         -        -  -          under way         0
ALARM mx1: the relay says 535 5.7.8 no
mx1: the mail server refused 16 of 31 for good; the log has its replies
mx1: 2 more were offered again, and inside already
daemon running, 4711 deliveries in the journal, 204 kB";
        assert_eq!(table(&status, at(10_120)), expected);
    }
}
