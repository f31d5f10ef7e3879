//! `audit`: who tried to log in, and what was refused.

use std::time::Duration;

use atrn_relay::audit::query::{Lock, Name, Refusal, Report, Wanted, read};
use atrn_relay::config::RelayConfig;
use atrn_relay::control::act_as_owner;
use atrn_shared::cli::{Failure, Output, Table, print};
use atrn_shared::config::reason;
use atrn_shared::log::peer;
use clap::Args;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::units::{self, counted, shown, since, until};
use super::{Call, keep_files_private};

/// Show failed logins (names tried, addresses, counts, times) and refusals by reason
///
/// Names are what strangers sent. One that cannot be an account's is kept in part only, as it may be a password in the
/// wrong place. Works beside the running relay and while none runs; the relay writes a few times a second.
///
/// Example: atrn-relay audit --new-since 1d
#[derive(Args, Debug)]
pub(super) struct AuditCommand {
    /// Only what was tried or refused within so long (1d, 12h).
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    since: Option<Duration>,

    /// Only names that were never tried before that time (1d, 12h).
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    new_since: Option<Duration>,

    /// Print the names alone, one a line, and nothing of refusals.
    #[arg(long)]
    names_only: bool,

    /// Show at most so many names; 0 means all (default: 50 in a table, all otherwise).
    #[arg(long, value_name = "NUMBER")]
    limit: Option<usize>,
}

/// All that is shown, as JSON.
#[derive(Serialize)]
struct Audit<'r> {
    names: Vec<Tried<'r>>,
    locks: &'r [Lock],
    refusals: &'r [Refusal],
    lost: u64,
}

/// A name, and whether it is one of ours: known here only, where the configuration may be read.
#[derive(Serialize)]
struct Tried<'r> {
    #[serde(flatten)]
    name: &'r Name,
    is_account: bool,
}

impl AuditCommand {
    pub(super) fn run(self, call: &Call) -> Result<(), Failure> {
        let config = call.config()?;
        let now = Timestamp::now();
        let mut report = report(&config, self.wanted(now))?;
        let limit = match (self.limit, call.output, self.names_only) {
            (Some(0), ..) | (None, Output::Json, _) | (None, _, true) => usize::MAX,
            (Some(limit), ..) => limit,
            (None, Output::Table, false) => TABLE_ROWS,
        };
        if self.names_only {
            report.names.retain(|name| !name.name.is_empty());
        }
        let more = report.names.len().saturating_sub(limit);
        report.names.truncate(limit);
        if self.names_only {
            names_only(call.output, &report)?;
        } else {
            call.output.show(&Audit::of(&report, &config), |audit| {
                audit.to_text(now, self.is_limited())
            })?;
        }
        if more > 0 {
            let more = counted(more as u64, "name", "names");
            anstream::eprintln!("There are {more} more; --limit 0 shows all.");
        }
        Ok(())
    }

    fn wanted(&self, now: Timestamp) -> Wanted {
        let ago = |time: Option<Duration>| {
            let time = SignedDuration::try_from(time?).ok()?;
            now.checked_sub(time).ok()
        };
        Wanted {
            since: ago(self.since),
            new_since: ago(self.new_since),
        }
    }

    fn is_limited(&self) -> bool {
        self.since.is_some() || self.new_since.is_some()
    }
}

fn report(config: &RelayConfig, wanted: Wanted) -> Result<Report, Failure> {
    keep_files_private();
    let data_dir = &config.data_dir;
    if data_dir.exists() {
        act_as_owner(data_dir).map_err(|error| {
            let path = data_dir.display();
            Failure::failed(format!("cannot open {path}: {}", reason(&error)))
        })?;
    }
    let report = read(data_dir, wanted);
    let report = report.map_err(|error| Failure::failed(error.to_string()))?;
    Ok(report.unwrap_or_default())
}

fn names_only(output: Output, report: &Report) -> Result<(), Failure> {
    let names: Vec<_> = report.names.iter().map(|name| name.name.as_str()).collect();
    match output {
        Output::Json => output.show(&names, |_| String::new()),
        Output::Table => {
            let lines: Vec<_> = names.iter().map(|name| peer(name).to_string()).collect();
            print(&lines.join("\n"))
        }
    }
}

impl<'r> Audit<'r> {
    fn of(report: &'r Report, config: &RelayConfig) -> Self {
        let tried = report.names.iter().map(|name| Tried {
            name,
            is_account: config.account(&name.name).is_some(),
        });
        Self {
            names: tried.collect(),
            locks: &report.locks,
            refusals: &report.refusals,
            lost: report.lost,
        }
    }

    fn to_text(&self, now: Timestamp, is_limited: bool) -> String {
        let mut parts = Vec::new();
        if self.names.is_empty() {
            let when = if is_limited { " in that time" } else { "" };
            parts.push(format!("No failed logins{when}."));
        } else {
            parts.push(format!("Failed logins\n\n{}", self.logins(now)));
        }
        if !self.locks.is_empty() {
            parts.push(format!(
                "Closed to networks that never logged in\n\n{}",
                self.closed(now)
            ));
        }
        if !self.refusals.is_empty() {
            parts.push(format!("Refusals\n\n{}", self.refused(now)));
        }
        if self.lost > 0 {
            let entries = counted(self.lost, "entry", "entries");
            parts.push(format!(
                "{entries} could not be written: more came than there was time for."
            ));
        }
        parts.join("\n\n")
    }

    fn logins(&self, now: Timestamp) -> Table {
        let mut table = Table::new(&[
            "name",
            "account",
            ">tries",
            ">first",
            ">last",
            ">addresses",
            ">networks",
            "most from",
            "mechanisms",
        ]);
        for Tried { name, is_account } in &self.names {
            table.row([
                shown_name(&name.name),
                if *is_account { "yes" } else { "no" }.to_owned(),
                name.tries.to_string(),
                since(name.first, now),
                since(name.last, now),
                name.addresses.len().to_string(),
                name.networks.len().to_string(),
                most_from(name),
                name.mechanisms.join(" "),
            ]);
        }
        table
    }

    fn closed(&self, now: Timestamp) -> Table {
        let mut table = Table::new(&["name", ">for"]);
        for lock in self.locks {
            table.row([shown_name(&lock.name), until(lock.until, now)]);
        }
        table
    }

    fn refused(&self, now: Timestamp) -> Table {
        let mut table = Table::new(&[
            "service",
            "reason",
            ">times",
            ">first",
            ">last",
            ">networks",
            "most from",
        ]);
        for refusal in self.refusals {
            table.row([
                refusal.service.clone(),
                refusal.reason.clone(),
                refusal.times.to_string(),
                since(refusal.first, now),
                since(refusal.last, now),
                refusal.networks.to_string(),
                refusal.most_from.clone(),
            ]);
        }
        table
    }
}

fn shown_name(name: &str) -> String {
    if name.is_empty() {
        return "-".to_owned();
    }
    shown(name, NAME_CHARACTERS)
}

/// The address if there is one, else the network that most came from.
fn most_from(name: &Name) -> String {
    match (name.addresses.as_slice(), name.networks.as_slice()) {
        ([only], _) => only.address.clone(),
        (_, [first, ..]) => format!("{} ({})", first.network, first.tries),
        _ => "-".to_owned(),
    }
}

/// Names in a table unless `--limit` says otherwise.
const TABLE_ROWS: usize = 50;
const NAME_CHARACTERS: usize = 40;

#[cfg(test)]
mod tests {
    use atrn_relay::audit::query::{Address, Tries};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn name(name: &str, addresses: &[(&str, u64)]) -> Name {
        let tries = addresses.iter().map(|(_, tries)| tries).sum();
        let address = |(address, tries): &(&str, u64)| Address {
            address: (*address).to_owned(),
            tries: *tries,
            first: at(0),
            last: at(3_600),
        };
        Name {
            name: name.to_owned(),
            tries,
            first: at(0),
            last: at(3_600),
            mechanisms: vec!["CRAM-MD5", "PLAIN"],
            addresses: addresses.iter().map(address).collect(),
            networks: vec![Tries {
                network: "192.0.2.0/24".to_owned(),
                tries,
            }],
        }
    }

    #[test]
    fn the_tables_say_who_tried_what_from_where() {
        let names = [
            name("corp", &[("192.0.2.1", 900), ("192.0.2.77", 12)]),
            name("\u{1b}[2Jroot", &[("192.0.2.9", 1)]),
            name("", &[("192.0.2.9", 1)]),
        ];
        let refusals = [Refusal {
            service: "smtp".to_owned(),
            reason: "relaying".to_owned(),
            times: 17,
            first: at(0),
            last: at(7_000),
            networks: 2,
            most_from: "192.0.2.0/24".to_owned(),
        }];
        let locks = [Lock {
            name: "corp".to_owned(),
            until: at(7_500),
        }];
        let tried = names.iter().map(|name| Tried {
            name,
            is_account: name.name == "corp",
        });
        let audit = Audit {
            names: tried.collect(),
            locks: &locks,
            refusals: &refusals,
            lost: 3,
        };
        let expected = "\
Failed logins

NAME           ACCOUNT  TRIES  FIRST  LAST  ADDRESSES  NETWORKS  MOST FROM           MECHANISMS
corp           yes        912     2h    1h          2         1  192.0.2.0/24 (912)  CRAM-MD5 PLAIN
\\u{1b}[2Jroot  no           1     2h    1h          1         1  192.0.2.9           CRAM-MD5 PLAIN
-              no           1     2h    1h          1         1  192.0.2.9           CRAM-MD5 PLAIN

Closed to networks that never logged in

NAME  FOR
corp   5m

Refusals

SERVICE  REASON    TIMES  FIRST  LAST  NETWORKS  MOST FROM
smtp     relaying     17     2h    3m         2  192.0.2.0/24

3 entries could not be written: more came than there was time for.";
        assert_eq!(audit.to_text(at(7_200), false), expected);
    }

    #[test]
    fn nothing_is_said_in_words() {
        let audit = Audit {
            names: Vec::new(),
            locks: &[],
            refusals: &[],
            lost: 0,
        };
        assert_eq!(audit.to_text(at(0), false), "No failed logins.");
        assert_eq!(audit.to_text(at(0), true), "No failed logins in that time.");
    }
}
