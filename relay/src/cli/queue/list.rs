//! `queue list`.

use std::io::{self, Write};

use atrn_relay::control::{Client, ClientError, Reply, Request};
use atrn_relay::queue::{Item, State};
use atrn_shared::cli::{Failure, Output, Table, print, size};
use clap::Args;
use jiff::Timestamp;

use super::select::Filters;
use super::unexpected;
use crate::cli::units::{ADDRESS_CHARACTERS, sender, shown, since, until};
use crate::cli::{Call, client_failure};

/// List deliveries, oldest first
///
/// Example: atrn-relay queue list --domain example.com --state deferred
#[derive(Args, Debug)]
pub(in crate::cli) struct List {
    #[command(flatten)]
    filters: Filters,

    /// Show at most so many; 0 means all (default: 100 in a table, all as JSON).
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u64>,
}

impl List {
    pub(super) fn run(self, call: &Call, client: &mut Client) -> Result<(), Failure> {
        let now = Timestamp::now();
        let filter = self.filters.at(now)?;
        let limit = match (self.limit, call.output) {
            (Some(0), _) | (None, Output::Json) => None,
            (Some(limit), _) => Some(limit),
            (None, Output::Table) => Some(TABLE_ROWS),
        };
        match call.output {
            Output::Json => json(client, &Request::List { filter, limit }),
            Output::Table => {
                // One more than shown tells whether there are more.
                let limit = limit.map(|limit| limit.saturating_add(1));
                let found = all(client, &Request::List { filter, limit })?;
                self.print(found, limit, now)
            }
        }
    }

    fn print(
        &self,
        mut found: Vec<Item>,
        limit: Option<u64>,
        now: Timestamp,
    ) -> Result<(), Failure> {
        let cut = limit.is_some_and(|limit| found.len() as u64 == limit);
        if cut {
            found.pop();
        }
        match found.as_slice() {
            [] if cut => {}
            [] if self.filters.is_empty() => return print("The queue is empty."),
            [] => return print("Nothing in the queue matches."),
            found => print(&rows(found, now).to_string())?,
        }
        if cut {
            anstream::eprintln!("There are more; --limit 0 shows all.");
        }
        Ok(())
    }
}

/// Why a list ends early.
enum End {
    Client(ClientError),
    Failure(Failure),
    /// Whoever read it has gone (`| head`).
    Gone,
}

impl From<ClientError> for End {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

fn items(
    client: &mut Client,
    request: &Request,
    mut each: impl FnMut(Item) -> Result<(), End>,
) -> Result<(), Failure> {
    let ended = client.ask(request, |reply| match reply {
        Reply::Item(item) => each(*item),
        other => Err(End::Failure(unexpected(&other))),
    });
    match ended {
        Ok(()) | Err(End::Gone) => Ok(()),
        Err(End::Client(error)) => Err(client_failure(error)),
        Err(End::Failure(failure)) => Err(failure),
    }
}

/// One array, written as it comes: a long queue is never in memory.
fn json(client: &mut Client, request: &Request) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let mut before = "[\n";
    let mut gone = false;
    items(client, request, |item| {
        let item = serde_json::to_string(&item)
            .map_err(|error| End::Failure(Failure::failed(error.to_string())))?;
        let written = write!(out, "{before}  {item}");
        before = ",\n";
        written.map_err(|error| {
            gone = true;
            write_failure(&error)
        })
    })?;
    if gone {
        return Ok(());
    }
    let end = if before == "[\n" { "[]\n" } else { "\n]\n" };
    match out.write_all(end.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) => match write_failure(&error) {
            End::Failure(failure) => Err(failure),
            _ => Ok(()),
        },
    }
}

fn write_failure(error: &io::Error) -> End {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return End::Gone;
    }
    End::Failure(Failure::failed(format!(
        "cannot write to standard output: {error}"
    )))
}

fn all(client: &mut Client, request: &Request) -> Result<Vec<Item>, Failure> {
    let mut found = Vec::new();
    items(client, request, |item| {
        found.push(item);
        Ok(())
    })?;
    Ok(found)
}

/// A message with several deliveries is in several rows, then with the delivery's number.
fn rows(items: &[Item], now: Timestamp) -> Table {
    let mut table = Table::new(&[
        "id",
        "state",
        ">age",
        ">size",
        "domain",
        "sender",
        "recipients",
        ">tries",
        "last reply",
    ]);
    for item in items {
        let last_reply = item.last_reply.as_deref().unwrap_or_default();
        table.row([
            format!("{}.{}", item.id, item.delivery_id.number()),
            state(item, now),
            since(item.received_at, now),
            size(item.size),
            item.domain.to_string(),
            sender(&item.sender),
            recipients(&item.recipients),
            item.attempts.to_string(),
            shown(last_reply, REPLY_CHARACTERS),
        ]);
    }
    table
}

/// With what comes next, and when.
fn state(item: &Item, now: Timestamp) -> String {
    match (item.state, item.next_attempt) {
        (State::Deferred, Some(next)) => format!("deferred, {}", until(next, now)),
        (state, _) => state.to_string(),
    }
}

fn recipients(all: &[String]) -> String {
    match all {
        [] => "-".to_owned(),
        [only] => shown(only, ADDRESS_CHARACTERS),
        [first, more @ ..] => format!("{} +{}", shown(first, ADDRESS_CHARACTERS), more.len()),
    }
}

/// Rows of a table unless `--limit` says otherwise.
const TABLE_ROWS: u64 = 100;
const REPLY_CHARACTERS: usize = 48;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn item(id: &str, more: &serde_json::Value) -> Item {
        let mut value = json!({
            "id": id, "delivery_id": format!("{id}.1.000001"), "domain": "example.com", "state": "queued",
            "received_at": "2026-01-01T00:00:00Z", "size": 48_211, "sender": "a@example.net",
            "recipients": ["user@example.com"], "attempts": 0, "next_attempt": null, "expires_at": null,
            "last_reply": null,
        });
        value
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn rows_are_aligned_and_name_no_more_than_fits() {
        let now: Timestamp = "2026-01-01T02:00:00Z".parse().unwrap();
        let items = [
            item("00000000001", &json!({})),
            item(
                "00000000002",
                &json!({
                    "state": "deferred", "attempts": 3, "next_attempt": "2026-01-01T02:05:00Z", "sender": "",
                    "recipients": ["a@example.com", "b@example.com", "c@example.com"], "size": 5,
                    "last_reply": "451 4.3.0 \u{1b}[2J the corporate server is out of order until later today",
                }),
            ),
        ];
        let expected = "\
ID             STATE         AGE     SIZE  DOMAIN       SENDER         RECIPIENTS        TRIES  LAST REPLY
00000000001.1  queued         2h  48.2 kB  example.com  a@example.net  user@example.com      0
00000000002.1  deferred, 5m   2h      5 B  example.com  <>             a@example.com +2      3  451 4.3.0 \\u{1b}[2J the corporate server is out…";
        assert_eq!(rows(&items, now).to_string(), expected);
    }
}
