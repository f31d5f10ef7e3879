//! `queue stats`: age × something, as qshape prints it.

use atrn_relay::control::{Client, Reply, Request};
use atrn_relay::queue::{AGE_MINUTES, StatsBy, StatsRow};
use atrn_shared::cli::{Failure, Table, size};
use clap::{Args, ValueEnum};

use super::unexpected;
use crate::cli::units::{ADDRESS_CHARACTERS, shown};
use crate::cli::{Call, client_failure};

/// Count deliveries by age: how many are up to 5, 10, 20, … minutes old
///
/// Example: atrn-relay queue stats --by sender
#[derive(Args, Debug)]
pub(in crate::cli) struct Stats {
    /// What the rows are.
    #[arg(long, value_name = "WHAT", default_value = "domain")]
    by: By,
}

/// What the rows are.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum By {
    /// One row.
    Age,
    /// Domains that mail goes to.
    Domain,
    /// Domains that mail comes from.
    Sender,
    /// States.
    State,
}

impl Stats {
    pub(super) fn run(self, call: &Call, client: &mut Client) -> Result<(), Failure> {
        let by = match self.by {
            By::Age => StatsBy::Age,
            By::Domain => StatsBy::Domain,
            By::Sender => StatsBy::Sender,
            By::State => StatsBy::State,
        };
        match client
            .ask_one(&Request::Stats { by })
            .map_err(client_failure)?
        {
            Reply::Stats(rows) => call.output.show(&rows, |rows| describe(rows, self.by)),
            other => Err(unexpected(&other)),
        }
    }
}

fn describe(rows: &[StatsRow], by: By) -> String {
    if rows.iter().all(|row| row.messages == 0) {
        return "The queue is empty.".to_owned();
    }
    let name = match by {
        By::Age => "age",
        By::Domain => "domain",
        By::Sender => "sender",
        By::State => "state",
    };
    let mut headings = vec![name.to_owned(), ">total".to_owned(), ">size".to_owned()];
    headings.extend(AGE_MINUTES.iter().map(|minutes| format!(">{minutes}m")));
    headings.push(">older".to_owned());
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    let mut table = Table::new(&headings);
    for row in rows {
        let mut cells = vec![
            shown(&row.name, ADDRESS_CHARACTERS),
            row.messages.to_string(),
            size(row.bytes),
        ];
        cells.extend(row.ages.iter().map(ToString::to_string));
        table.row(cells);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_ages() {
        let row = StatsRow {
            name: "example.com".to_owned(),
            messages: 12,
            bytes: 4_150_000,
            ages: [10, 0, 0, 0, 0, 0, 0, 0, 0, 2],
        };
        let expected = "\
DOMAIN       TOTAL    SIZE  5M  10M  20M  40M  80M  160M  320M  640M  1280M  OLDER
example.com     12  4.1 MB  10    0    0    0    0     0     0     0      0      2";
        assert_eq!(describe(&[row], By::Domain), expected);
        assert_eq!(describe(&[], By::Domain), "The queue is empty.");
    }
}
