//! Reads the database for the command line: beside the running relay, or while none runs.

use std::collections::BTreeMap;
use std::path::Path;

use atrn_shared::sasl::Mechanism;
use jiff::Timestamp;
use rusqlite::{Connection, Row, params};
use serde::Serialize;

use super::network::Network;
use super::{path, store};

/// Why nothing can be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {path}: {source}")]
pub struct ReadError {
    path: String,
    source: rusqlite::Error,
}

/// Which names are wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// Only what was seen since.
    pub since: Option<Timestamp>,
    /// Only names that were not seen before.
    pub new_since: Option<Timestamp>,
}

/// All that was asked for.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Names that were tried, those most often first.
    pub names: Vec<Name>,
    /// Names that are closed to strangers now.
    pub locks: Vec<Lock>,
    /// What was refused, the most frequent first.
    pub refusals: Vec<Refusal>,
    /// Entries that were lost, ever: more came than could be written.
    pub lost: u64,
}

/// A name that was tried; empty where none was sent.
#[derive(Debug, Serialize)]
pub struct Name {
    /// The name, as it was kept.
    pub name: String,
    /// How often.
    pub tries: u64,
    /// When it was seen first.
    pub first: Timestamp,
    /// When it was seen last.
    pub last: Timestamp,
    /// Every mechanism that it was tried with.
    pub mechanisms: Vec<&'static str>,
    /// From where, most often first; those that were seldom and long ago are forgotten.
    pub addresses: Vec<Address>,
    /// The same by network, most often first.
    pub networks: Vec<Tries>,
}

/// An address that tried a name.
#[derive(Debug, Serialize)]
pub struct Address {
    /// The address.
    pub address: String,
    /// How often.
    pub tries: u64,
    /// When first.
    pub first: Timestamp,
    /// When last.
    pub last: Timestamp,
}

/// Tries from one network.
#[derive(Debug, Serialize)]
pub struct Tries {
    /// The network.
    pub network: String,
    /// How often.
    pub tries: u64,
}

/// A name that is closed to networks that never logged in to it.
#[derive(Debug, Serialize)]
pub struct Lock {
    /// The name.
    pub name: String,
    /// Until when.
    pub until: Timestamp,
}

/// Something that was refused.
#[derive(Debug, Serialize)]
pub struct Refusal {
    /// `edge` or `odmr`.
    pub service: String,
    /// Why.
    pub reason: String,
    /// How often.
    pub times: u64,
    /// When first.
    pub first: Timestamp,
    /// When last.
    pub last: Timestamp,
    /// How many networks it came from.
    pub networks: u64,
    /// The network that it came from most often.
    pub most_from: String,
}

/// Reads what is wanted; none where nothing was ever written.
///
/// # Errors
/// The database is there and cannot be read.
pub fn read(data_dir: &Path, wanted: Wanted) -> Result<Option<Report>, ReadError> {
    let path = path(data_dir);
    if !path.exists() {
        return Ok(None);
    }
    let read = store::open(&path).and_then(|connection| report(&connection, wanted));
    read.map(Some).map_err(|source| ReadError {
        path: path.display().to_string(),
        source,
    })
}

fn report(connection: &Connection, wanted: Wanted) -> rusqlite::Result<Report> {
    // One moment's view: the relay may write meanwhile.
    connection.execute_batch("BEGIN")?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(Report {
        names: names(connection, wanted)?,
        locks: locks(connection)?,
        refusals: refusals(connection, wanted.since.or(wanted.new_since))?,
        lost: store::lost_in_all(connection).unsigned_abs(),
    })
}

fn names(connection: &Connection, wanted: Wanted) -> rusqlite::Result<Vec<Name>> {
    let mut query = connection.prepare(
        "SELECT key, name, tries, first, last FROM name WHERE last >= ?1 AND first >= ?2
         ORDER BY tries DESC, last DESC, name",
    )?;
    let bounds = params![second(wanted.since), second(wanted.new_since)];
    let rows = query.query_map(bounds, |row| {
        let name = Name {
            name: row.get(1)?,
            tries: count(row, 2)?,
            first: moment(row.get(3)?),
            last: moment(row.get(4)?),
            mechanisms: Vec::new(),
            addresses: Vec::new(),
            networks: Vec::new(),
        };
        Ok((row.get::<_, i64>(0)?, name))
    })?;
    let mut names = Vec::new();
    for row in rows {
        let (key, mut name) = row?;
        addresses(connection, key, second(wanted.since), &mut name)?;
        names.push(name);
    }
    Ok(names)
}

fn addresses(
    connection: &Connection,
    key: i64,
    since: i64,
    name: &mut Name,
) -> rusqlite::Result<()> {
    let mut query = connection.prepare_cached(
        "SELECT address, tries, first, last, mechanisms FROM attempt WHERE name = ?1 AND last >= ?2
         ORDER BY tries DESC, last DESC, address",
    )?;
    let rows = query.query_map([key, since], |row| {
        let address = Address {
            address: row.get(0)?,
            tries: count(row, 1)?,
            first: moment(row.get(2)?),
            last: moment(row.get(3)?),
        };
        Ok((address, row.get::<_, u8>(4)?))
    })?;
    let mut used = 0;
    let mut networks: BTreeMap<Network, u64> = BTreeMap::new();
    for row in rows {
        let (address, mechanisms) = row?;
        used |= mechanisms;
        if let Ok(parsed) = address.address.parse() {
            *networks.entry(Network::of(parsed)).or_default() += address.tries;
        }
        name.addresses.push(address);
    }
    let mut networks: Vec<_> = networks.into_iter().collect();
    networks.sort_by_key(|(_, tries)| std::cmp::Reverse(*tries));
    name.networks = networks
        .into_iter()
        .map(|(network, tries)| Tries {
            network: network.to_string(),
            tries,
        })
        .collect();
    name.mechanisms = mechanisms_of(used);
    Ok(())
}

fn mechanisms_of(bits: u8) -> Vec<&'static str> {
    let used = Mechanism::ALL
        .into_iter()
        .filter(|mechanism| bits & 1 << *mechanism as u8 != 0);
    used.map(Mechanism::name).collect()
}

fn locks(connection: &Connection) -> rusqlite::Result<Vec<Lock>> {
    let mut query =
        connection.prepare("SELECT name, until FROM lock WHERE until > ?1 ORDER BY name")?;
    let rows = query.query_map([Timestamp::now().as_second()], |row| {
        Ok(Lock {
            name: row.get(0)?,
            until: moment(row.get(1)?),
        })
    })?;
    rows.collect()
}

fn refusals(connection: &Connection, since: Option<Timestamp>) -> rusqlite::Result<Vec<Refusal>> {
    let mut query = connection.prepare(
        "SELECT service, reason, sum(times), min(first), max(last), count(*),
                (SELECT most.network FROM refusal AS most
                 WHERE most.service = refusal.service AND most.reason = refusal.reason AND most.last >= ?1
                 ORDER BY most.times DESC, most.network LIMIT 1)
         FROM refusal WHERE last >= ?1 GROUP BY service, reason ORDER BY 3 DESC, 1, 2",
    )?;
    let rows = query.query_map([second(since)], |row| {
        Ok(Refusal {
            service: row.get(0)?,
            reason: row.get(1)?,
            times: count(row, 2)?,
            first: moment(row.get(3)?),
            last: moment(row.get(4)?),
            networks: count(row, 5)?,
            most_from: row.get(6)?,
        })
    })?;
    rows.collect()
}

fn count(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::unsigned_abs)
}

fn second(time: Option<Timestamp>) -> i64 {
    time.map_or(i64::MIN, Timestamp::as_second)
}

fn moment(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap_or_default()
}
