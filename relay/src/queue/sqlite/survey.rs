//! The queue in numbers: totals that cost the same at any depth, and statistics that read it all.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::super::envelope::State;
use super::super::error::StoreError;
use super::super::query::{AGE_MINUTES, DomainTotal, StatsBy, StatsRow};
use super::Shared;
use super::reader::{FROM, failed};
use super::row::moment;

/// What every domain has in the queue.
pub(in super::super) fn totals(
    shared: &Shared,
    connection: &Connection,
) -> Result<Vec<DomainTotal>, StoreError> {
    let catalog = shared.catalog().clone();
    let mut totals = Vec::new();
    for (domain, name) in &catalog.names {
        let amounts = State::STORED.map(|state| catalog.amount(*domain, state));
        let [queued, deferred, held, failed, expired] =
            amounts.map(|amount| amount.deliveries.cast_unsigned());
        let mut oldest_waiting = None;
        // What an admin holds, and what has ended, may become as old as it likes.
        for state in [State::Queued, State::Deferred] {
            if catalog.amount(*domain, state).deliveries > 0 {
                let oldest = oldest(connection, *domain, state)?;
                oldest_waiting = [oldest, oldest_waiting].into_iter().flatten().min();
            }
        }
        totals.push(DomainTotal {
            domain: name.clone(),
            messages: queued + deferred + held + failed + expired,
            bytes: amounts
                .iter()
                .map(|amount| amount.octets.cast_unsigned())
                .sum(),
            oldest: oldest_waiting,
            queued,
            deferred,
            held,
            failed,
            expired,
        });
    }
    totals.sort_by(|one, other| one.domain.cmp(&other.domain));
    Ok(totals)
}

/// When the oldest delivery of a domain in one state was accepted.
fn oldest(
    connection: &Connection,
    domain: i64,
    state: State,
) -> Result<Option<Timestamp>, StoreError> {
    let query = "SELECT received_at FROM message WHERE key =
         (SELECT min(message) FROM delivery WHERE domain = ?1 AND state = ?2)";
    let found = connection.prepare_cached(query).and_then(|mut statement| {
        let place = params![domain, state.code()];
        statement.query_row(place, |row| row.get(0)).optional()
    });
    found.map(|millis| millis.map(moment)).map_err(failed)
}

/// Deliveries by age and something else. Looks at every delivery: for people, not for hot paths.
pub(in super::super) fn stats(
    connection: &Connection,
    by: StatsBy,
    now: Timestamp,
) -> Result<Vec<StatsRow>, StoreError> {
    let name = match by {
        StatsBy::Age => "'all'",
        StatsBy::Domain => "(SELECT name FROM domain WHERE key = d.domain)",
        // What follows the last @: everything else is trimmed off the end until an @ stops it.
        StatsBy::Sender => {
            "iif(m.reverse_path = '', '<>', lower(substr(m.reverse_path, 1 + length(
             rtrim(m.reverse_path, replace(m.reverse_path, '@', ''))))))"
        }
        StatsBy::State => "d.state",
    };
    let ages = AGE_MINUTES.iter().enumerate();
    let ages =
        ages.map(|(column, minutes)| format!("WHEN age <= {} THEN {column}", minutes * 60_000));
    let ages: String = ages.collect::<Vec<_>>().join(" ");
    let older = AGE_MINUTES.len();
    let query = format!(
        "SELECT CAST(name AS TEXT), CASE {ages} ELSE {older} END, count(*), sum(size) FROM
         (SELECT {name} AS name, ?1 - m.received_at AS age, m.size AS size {FROM}) GROUP BY 1, 2"
    );
    let mut rows: Vec<StatsRow> = Vec::new();
    let read = |row: &rusqlite::Row<'_>| -> rusqlite::Result<(String, u8, i64, i64)> {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
    };
    let mut statement = connection.prepare_cached(&query).map_err(failed)?;
    let cells = statement
        .query_map([now.as_millisecond()], read)
        .map_err(failed)?;
    for cell in cells {
        let (name, column, messages, bytes) = cell.map_err(failed)?;
        add_cell(
            &mut rows,
            name,
            usize::from(column),
            (messages.cast_unsigned(), bytes.cast_unsigned()),
        );
    }
    if by == StatsBy::State {
        rows.iter_mut().for_each(name_state);
    }
    rows.sort_by(|one, other| (other.messages, &one.name).cmp(&(one.messages, &other.name)));
    Ok(rows)
}

fn add_cell(rows: &mut Vec<StatsRow>, name: String, column: usize, found: (u64, u64)) {
    // The groups come in the order of their names, so a row is always the last one or a new one.
    if rows.last().is_none_or(|row| row.name != name) {
        rows.push(StatsRow {
            name,
            messages: 0,
            bytes: 0,
            ages: Default::default(),
        });
    }
    if let Some(row) = rows.last_mut() {
        row.messages += found.0;
        row.bytes += found.1;
        row.ages[column] += found.0;
    }
}

fn name_state(row: &mut StatsRow) {
    let state = row.name.parse().ok().and_then(State::from_code);
    row.name = state.map_or_else(|| row.name.clone(), |state| state.name().to_owned());
}
