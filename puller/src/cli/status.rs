//! `status`: what runs, what the last pulls brought, and when the next ones are due.

use std::time::Duration;

use atrn_shared::cli::{Common, Failure, Table, age, size};
use atrn_shared::sandbox::InForce;
use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use super::{chosen, notes_on};
use crate::config::{Mode, PullerConfig};
use crate::journal::{Journal, Summary};
use crate::reversed::Tally;
use crate::status::{Connection, ConnectionState, DaemonLock, RelayStatus, StatusFiles};

/// Show each relay's sessions or its last pull, the next one, and what is wrong
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
    /// What it has given up.
    sandbox: Option<InForce>,
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
    mode: Mode,
    #[serde(skip)]
    every: Duration,
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
            // A daemon that is gone has no plans, and no sessions, whatever it left behind.
            status.next_at = status.next_at.filter(|_| running);
            status.connection = status.connection.filter(|_| running);
            if status.connection.is_some() {
                // What failed before is over.
                (status.failures, status.alarm) = (0, None);
            }
            Row {
                relay: relay.name.clone(),
                address: relay.address.to_string(),
                domains: relay.domains.iter().map(ToString::to_string).collect(),
                mode: relay.mode,
                every: relay.every,
                status,
            }
        });
        let status = Status {
            running,
            sandbox: files.read_daemon().filter(|_| running),
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
        "mode",
        "pull",
        "result",
        ">messages",
        ">size",
        ">deferred",
        ">refused",
        "last mail",
        "next pull",
        ">failures",
    ]);
    let mut notes = String::new();
    for row in &status.relays {
        table.row(cells(row, now));
        notes += &notes_below(row);
    }
    let daemon = if status.running {
        "daemon running"
    } else {
        "no daemon running"
    };
    let sandbox = status.sandbox.as_ref();
    let sandbox = sandbox.map(|in_force| format!("\nsandbox {in_force}"));
    let sandbox = sandbox.unwrap_or_default();
    let journal = match &status.journal {
        None => String::new(),
        Some(JournalState::Known(summary)) => format!(
            ", {} deliveries in the journal, {}",
            summary.entries,
            size(summary.octets)
        ),
        Some(JournalState::Unknown { error }) => format!("\nALARM journal: {error}"),
    };
    format!("{table}{notes}\n{daemon}{journal}{sandbox}")
}

/// The sessions that run; else the last pull.
fn cells(row: &Row, now: Timestamp) -> [String; 11] {
    let Row {
        relay,
        mode,
        status,
        ..
    } = row;
    let (pull, result, tally) = match (&status.connection, &status.last) {
        (Some(connection), _) => (
            format!("for {}", age(between(connection.since, now))),
            doing(connection),
            Some(connection.tally),
        ),
        (None, Some(last)) => (
            ago(last.at, now),
            last.outcome.word().to_owned(),
            Some(last.tally),
        ),
        (None, None) => ("never".to_owned(), "-".to_owned(), None),
    };
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let number = |show: &dyn Fn(Tally) -> String| or_dash(tally.map(show));
    [
        relay.clone(),
        mode.word().to_owned(),
        pull,
        result,
        number(&|tally| tally.messages.to_string()),
        number(&|tally| size(tally.octets)),
        number(&|tally| tally.deferred.to_string()),
        number(&|tally| tally.refused.to_string()),
        or_dash(status.last_mail_at.map(|at| ago(at, now))),
        or_dash(status.next_at.map(|at| ahead(at, now))),
        status.failures.to_string(),
    ]
}

fn doing(connection: &Connection) -> String {
    let word = match connection.state {
        ConnectionState::Receiving => "receiving",
        ConnectionState::Waiting => "waiting",
    };
    match connection.sessions {
        0 | 1 => word.to_owned(),
        sessions => format!("{word} ({sessions} sessions)"),
    }
}

/// What the row does not say: lines to put below, each with its break in front.
fn notes_below(row: &Row) -> String {
    let Row { relay, status, .. } = row;
    let mut notes = String::new();
    if row.mode == Mode::Instant && status.offers_xwait == Some(false) {
        notes += &format!(
            "\n{relay}: the relay cannot wait for mail (no XWAIT): polled every {}",
            age(row.every)
        );
    }
    if let Some(connection) = &status.connection {
        return notes + &notes_on(relay, &connection.tally);
    }
    let Some(last) = &status.last else {
        return notes;
    };
    if let Some(reason) = last.outcome.reason() {
        let word = if status.alarm.is_some() { "ALARM " } else { "" };
        notes += &format!("\n{word}{relay}: {reason}");
    }
    notes + &notes_on(relay, &last.tally)
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

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// One that failed, and will be pulled from again.
    fn refused() -> RelayStatus {
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
        RelayStatus {
            last: Some(pulled),
            last_mail_at: Some(at(10_001)),
            next_at: Some(at(10_300)),
            failures: 1,
            alarm: Some("x".into()),
            offers_xwait: Some(false),
            ..RelayStatus::default()
        }
    }

    fn pulling() -> RelayStatus {
        RelayStatus {
            next_at: Some(at(10_119)),
            ..RelayStatus::default()
        }
    }

    /// What was before does not count while sessions run.
    fn connected() -> RelayStatus {
        let connection = Connection {
            since: at(2_920),
            state: ConnectionState::Receiving,
            sessions: 3,
            tally: Tally {
                messages: 1_200,
                octets: 4_915_200,
                ..Tally::default()
            },
            last_mail_at: None,
            offers_wait: true,
        };
        RelayStatus {
            connection: Some(connection),
            offers_xwait: Some(true),
            last_mail_at: Some(at(10_115)),
            next_at: None,
            failures: 0,
            ..refused()
        }
    }

    #[test]
    fn the_table_is_for_people() {
        let row = |relay: &str, mode, status| Row {
            relay: relay.into(),
            address: "a:366".into(),
            domains: Vec::new(),
            mode,
            every: Duration::from_secs(300),
            status,
        };
        let status = Status {
            running: true,
            sandbox: None,
            relays: vec![
                row("mx1", Mode::Instant, refused()),
                row("mx22", Mode::Poll, RelayStatus::default()),
                row("mx3", Mode::Poll, pulling()),
                row("mx4", Mode::Instant, connected()),
            ],
            journal: Some(JournalState::Known(Summary {
                entries: 4_711,
                octets: 204_800,
            })),
        };
        let expected = "\
RELAY  MODE     PULL    RESULT                  MESSAGES     SIZE  DEFERRED  REFUSED  LAST MAIL  NEXT PULL  FAILURES
mx1    instant  2m ago  refused                       12  48.2 kB         3       16  1m ago     in 3m             1
mx22   poll     never   -                              -        -         -        -  -          -                 0
mx3    poll     never   -                              -        -         -        -  -          under way         0
mx4    instant  for 2h  receiving (3 sessions)      1200   4.9 MB         0        0  5s ago     -                 0
mx1: the relay cannot wait for mail (no XWAIT): polled every 5m
ALARM mx1: the relay says 535 5.7.8 no
mx1: the mail server refused 16 of 31 for good; the log has its replies
mx1: 2 more were offered again, and inside already
daemon running, 4711 deliveries in the journal, 204 kB";
        assert_eq!(table(&status, at(10_120)), expected);
    }
}
