//! Walks along a tree of keys, and hops over the places where it cannot be read.

use std::collections::BTreeSet;

use rusqlite::{Connection, params_from_iter};

/// Trees that begin with the key of a message. Each query takes a key last and gives those behind it.
pub(super) const TREES: [&str; 3] = [
    "SELECT key FROM message WHERE key > ?1 ORDER BY key LIMIT 1000",
    "SELECT message FROM delivery WHERE message > ?1 ORDER BY message LIMIT 1000",
    "SELECT message FROM body WHERE message > ?1 ORDER BY message LIMIT 1000",
];
/// The index, of one domain and state.
pub(super) const ORDER: &str = "SELECT message FROM delivery INDEXED BY delivery_order
     WHERE domain = ?1 AND state = ?2 AND message > ?3 ORDER BY message LIMIT 1000";

/// A tree with more damaged places than that has been hopped over enough.
const HOLES_MAX: u64 = 100_000;

/// Adds all keys that can be reached; the number of places where something cannot.
pub(super) fn walk(
    connection: &Connection,
    query: &str,
    fixed: &[i64],
    keys: &mut BTreeSet<i64>,
) -> u64 {
    let walk = Walk {
        connection,
        query,
        fixed,
    };
    let mut after = 0;
    let mut holes = 0;
    while holes < HOLES_MAX {
        let mut page = Vec::new();
        let read = walk.behind(after, &mut page);
        // Garbage may come in any order; the walk only ever goes on.
        let last = page.iter().copied().filter(|key| *key > after).max();
        let is_empty = last.is_none();
        keys.extend(page);
        after = last.unwrap_or(after);
        match read {
            Ok(()) if is_empty => break,
            Ok(()) => {}
            Err(_) => {
                holes += 1;
                match walk.next_readable(after) {
                    Some(beyond) => after = beyond,
                    None => break,
                }
            }
        }
    }
    holes
}

struct Walk<'a> {
    connection: &'a Connection,
    query: &'a str,
    fixed: &'a [i64],
}

impl Walk<'_> {
    /// Keys behind one, as far as they can be read.
    fn behind(&self, after: i64, page: &mut Vec<i64>) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare_cached(self.query)?;
        let parameters = self.fixed.iter().copied().chain([after]);
        let mut rows = statement.query(params_from_iter(parameters))?;
        while let Some(row) = rows.next()? {
            page.push(row.get(0)?);
        }
        Ok(())
    }

    /// The nearest place behind `after` from which on at least a key can be read again: first by ever longer
    /// hops, then halving the last one.
    fn next_readable(&self, after: i64) -> Option<i64> {
        let (mut blind, mut seeing) = (0_i64, 1_i64);
        while !self.can_read(after.saturating_add(seeing)) {
            blind = seeing;
            seeing = seeing.checked_mul(2)?;
        }
        while seeing - blind > 1 {
            let middle = blind + (seeing - blind) / 2;
            match self.can_read(after.saturating_add(middle)) {
                true => seeing = middle,
                false => blind = middle,
            }
        }
        Some(after.saturating_add(seeing))
    }

    fn can_read(&self, after: i64) -> bool {
        let mut page = Vec::new();
        self.behind(after, &mut page).is_ok() || !page.is_empty()
    }
}
