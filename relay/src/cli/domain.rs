//! `domain`: whose mail is accepted.

use std::time::Duration;

use atrn_relay::config::{DomainConfig, RelayConfig};
use atrn_relay::control::{DomainStatus, Status};
use atrn_relay::fragments::{FragmentError, NewDomain};
use atrn_shared::cli::{Destructive, ExitCode, Failure, Output, Table, confirm, size};
use atrn_shared::config::{show_duration, show_size};
use atrn_shared::smtp::address::Domain;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;

use super::apply::{Applied, apply};
use super::units::{counted, since};
use super::{Call, open, status, units};

/// The domains that mail is accepted and held for
#[derive(Debug, Subcommand)]
pub(super) enum DomainCommand {
    Add(Add),
    List(List),
    Show(Show),
    Remove(Remove),
}

/// Accept mail for a domain from now on
///
/// Example: atrn-relay domain add example.com --hold-for 7d
#[derive(Args, Debug)]
pub(super) struct Add {
    /// The domain; subdomains are domains of their own.
    #[arg(value_name = "DOMAIN", value_parser = units::remote_domain)]
    name: Domain,

    /// How long its mail waits to be pulled.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    hold_for: Option<Duration>,

    /// How much of it is held.
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    max_queue_size: Option<u64>,

    /// How many messages of it are held.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    max_queue_messages: Option<u32>,
}

/// List the domains and their mail, also those that only have mail left
#[derive(Args, Debug)]
pub(super) struct List {}

/// Show a domain: settings, accounts, mail
#[derive(Args, Debug)]
pub(super) struct Show {
    /// The domain.
    #[arg(value_name = "DOMAIN", value_parser = Domain::parse)]
    name: Domain,
}

/// Accept no more mail for a domain; what is queued stays until it is pulled or removed
///
/// Example: atrn-relay domain remove example.com
#[derive(Args, Debug)]
pub(super) struct Remove {
    /// The domain.
    #[arg(value_name = "DOMAIN", value_parser = Domain::parse)]
    name: Domain,

    #[command(flatten)]
    destructive: Destructive,
}

/// A domain as `--json` shows it.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    status: DomainStatus,
    accounts: Vec<String>,
    hold_for: Option<String>,
    reports: Option<&'static str>,
    keep_failed: Option<String>,
    /// File and line.
    place: Option<String>,
}

/// A change as `--json` shows it.
#[derive(Debug, Serialize)]
struct Changed<'c> {
    domain: &'c Domain,
    change: &'static str,
    applied: Applied,
}

impl DomainCommand {
    pub(super) fn run(self, call: &Call) -> Result<(), Failure> {
        let config = call.config()?;
        match self {
            Self::Add(command) => command.run(call, &config),
            Self::List(List {}) => list(call, config),
            Self::Show(command) => command.run(call, config),
            Self::Remove(command) => command.run(call, &config),
        }
    }
}

impl Add {
    fn run(self, call: &Call, config: &RelayConfig) -> Result<(), Failure> {
        let new = NewDomain {
            name: self.name,
            hold_for: self.hold_for,
            max_queue_size: self.max_queue_size,
            max_queue_messages: self.max_queue_messages,
        };
        let fragments = call.fragments(config)?;
        let file = fragments
            .add_domain(config, &new)
            .map_err(|error| failure(&error))?;
        // The file is ours, so what is wrong in it came from the command line: it does not stay.
        if let Err(errors) = RelayConfig::load(&call.config_path) {
            let _ = std::fs::remove_file(&file);
            return Err(errors.into());
        }
        let text = format!("Added {} in {}.", new.name, file.display());
        let changed = Changed {
            domain: &new.name,
            change: "added",
            applied: apply(&config.data_dir)?,
        };
        changed.show(call, &text)
    }
}

impl Remove {
    fn run(self, call: &Call, config: &RelayConfig) -> Result<(), Failure> {
        let name = &self.name;
        let fragments = call.fragments(config)?;
        fragments
            .removable_domain(config, name)
            .map_err(|error| failure(&error))?;
        let mut changed = Changed {
            domain: name,
            change: "removed",
            applied: Applied::DryRun,
        };
        if self.destructive.dry_run {
            return changed.show(call, &format!("Would remove {name}; its queue would stay."));
        }
        let question = format!("Refuse mail for {name} from now on? Its queue stays.");
        if !confirm(&question, self.destructive)? {
            return Err(Failure::failed("nothing was changed"));
        }
        fragments
            .remove_domain(config, name)
            .map_err(|error| failure(&error))?;
        changed.applied = apply(&config.data_dir)?;
        changed.show(call, &format!("Removed {name}; its queue stays."))
    }
}

impl Changed<'_> {
    fn show(&self, call: &Call, text: &str) -> Result<(), Failure> {
        call.output.show(self, |_| text.to_owned())?;
        if call.output == Output::Table {
            self.applied.tell();
        }
        Ok(())
    }
}

fn list(call: &Call, config: RelayConfig) -> Result<(), Failure> {
    let all = all(config)?;
    let now = Timestamp::now();
    call.output.show(&all, |all| {
        if all.is_empty() {
            return format!(
                "No domains; add one: {} domain add example.com",
                call.again()
            );
        }
        let mut table = Table::new(&[
            "domain",
            "hold for",
            "accounts",
            ">deliveries",
            ">size",
            ">oldest",
        ]);
        for shown in all {
            let total = &shown.status.total;
            let hold_for = shown.hold_for.clone();
            table.row([
                total.domain.to_string(),
                hold_for.unwrap_or_else(|| "not configured".to_owned()),
                if shown.accounts.is_empty() {
                    "none".to_owned()
                } else {
                    shown.accounts.join(" ")
                },
                total.messages.to_string(),
                size(total.bytes),
                total
                    .oldest
                    .map_or_else(|| "-".to_owned(), |oldest| since(oldest, now)),
            ]);
        }
        table.to_string()
    })
}

impl Show {
    fn run(self, call: &Call, config: RelayConfig) -> Result<(), Failure> {
        let all = all(config)?;
        let found = all
            .into_iter()
            .find(|shown| shown.status.total.domain == self.name);
        let shown = found.ok_or_else(|| failure(&FragmentError::DomainUnknown(self.name)))?;
        call.output
            .show(&shown, |shown| describe(shown, Timestamp::now()))
    }
}

fn all(config: RelayConfig) -> Result<Vec<Shown>, Failure> {
    let status: Status = status::ask(&mut open(config.clone())?)?;
    let shown = status.domains.into_iter().map(|status| {
        let name = &status.total.domain;
        // A running relay that refuses its files has other domains than the files: then show what is there.
        let domain: Option<&DomainConfig> = config.domain(name);
        let accounts = config
            .accounts
            .iter()
            .filter(|account| account.domains.contains(name));
        Shown {
            accounts: accounts.map(|account| account.name.clone()).collect(),
            hold_for: domain.map(|domain| show_duration(domain.hold_for)),
            reports: domain.map(|domain| domain.reports.name()),
            keep_failed: domain.map(|domain| show_duration(domain.keep_failed)),
            place: domain.map(|domain| domain.place.to_string()),
            status,
        }
    });
    Ok(shown.collect())
}

fn describe(shown: &Shown, now: Timestamp) -> String {
    let total = &shown.status.total;
    let mut lines = vec![("domain", total.domain.to_string())];
    let quota = shown
        .status
        .max_queue_size
        .zip(shown.status.max_queue_messages);
    let ending = shown.reports.zip(shown.keep_failed.as_ref());
    match (&shown.hold_for, ending, quota, &shown.place) {
        (Some(hold_for), Some((reports, keep_failed)), Some((octets, messages)), Some(place)) => {
            lines.extend([
                ("hold for", hold_for.clone()),
                ("reports", reports.to_owned()),
                ("keep failed", keep_failed.clone()),
                (
                    "max queue",
                    format!("{}, {messages} messages", show_size(octets)),
                ),
                ("configured in", place.clone()),
            ])
        }
        _ => lines.push((
            "configured in",
            "nothing: no mail is accepted for it".to_owned(),
        )),
    }
    let accounts = if shown.accounts.is_empty() {
        "none: nobody can pull its mail".to_owned()
    } else {
        shown.accounts.join(" ")
    };
    let states = [
        ("queued", total.queued),
        ("deferred", total.deferred),
        ("held", total.held),
        ("failed", total.failed),
        ("expired", total.expired),
    ];
    let states = states.iter().filter(|(_, number)| *number > 0);
    let states: Vec<_> = states
        .map(|(state, number)| format!("{number} {state}"))
        .collect();
    let mut queue = counted(total.messages, "delivery", "deliveries");
    if total.messages > 0 {
        queue += &format!(" ({}), {}", states.join(", "), size(total.bytes));
    }
    if let Some(oldest) = total.oldest {
        queue += &format!(", the oldest waits for {}", since(oldest, now));
    }
    lines.extend([("accounts", accounts), ("queue", queue)]);
    let lines: Vec<_> = lines
        .iter()
        .map(|(key, value)| format!("{key:<16}{value}"))
        .collect();
    lines.join("\n")
}

fn failure(error: &FragmentError) -> Failure {
    Failure::from_error(ExitCode::Failed, error)
}
