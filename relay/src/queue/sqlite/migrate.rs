//! Makes and updates the database, and refuses one that is not ours, newer than we are, or damaged.
//!
//! The check at start costs the same for a million messages as for none: the file's header and schema,
//! both ends of every tree, and for a small file the whole structure. A defect in the middle of a large
//! one shows when it is read, and then concerns that message ([`super::super::error::StoreError::Damaged`]).

use std::path::Path;

use rusqlite::{Connection, ErrorCode};
use rusqlite_migration::{Error, M, Migrations};

use super::super::error::OpenError;

/// "atrn" in the header of the file: opening somebody else's database must not add tables to it.
const APPLICATION_ID: i64 = 0x6174_726e;
/// Up to this size every page is checked at start (some 50 ms).
const WHOLE_CHECK_BYTES: i64 = 32 * 1024 * 1024;
/// Only ever appended to.
const STEPS: &[M<'static>] = &[
    M::up(include_str!("schema.sql")),
    M::up(include_str!("schema_2.sql")),
    M::up(include_str!("schema_3.sql")),
];

/// Both ends of each tree, and with them the way down to the leaves. Each end is a query of its own:
/// only then does SQLite go straight there.
const ENDS: [&str; 5] = [
    "SELECT (SELECT min(key) FROM message), (SELECT max(key) FROM message)",
    "SELECT (SELECT min(message) FROM body), (SELECT max(message) FROM body)",
    "SELECT (SELECT min(message) FROM delivery), (SELECT max(message) FROM delivery)",
    "SELECT (SELECT min(domain) FROM delivery INDEXED BY delivery_order),
            (SELECT max(domain) FROM delivery INDEXED BY delivery_order)",
    "SELECT count(*) FROM total JOIN domain ON domain.key = total.domain",
];

/// Refuses a database that is not for us, before anything is written into it.
pub(super) fn examine(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let sqlite = |error| OpenError::sqlite(path, error);
    let number = |pragma| -> Result<i64, OpenError> {
        let value = connection.pragma_query_value(None, pragma, |row| row.get(0));
        value.map_err(sqlite)
    };
    let tables = "SELECT count(*) FROM sqlite_schema";
    let tables: i64 = connection
        .query_row(tables, [], |row| row.get(0))
        .map_err(sqlite)?;
    if tables > 0 && number("application_id")? != APPLICATION_ID {
        return Err(OpenError::damaged(path, "made by another program"));
    }
    if number("user_version")? > STEPS.len() as i64 {
        let path = path.to_owned();
        return Err(OpenError::Newer { path });
    }
    Ok(())
}

/// Brings the database to the schema of this version.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    let owned = connection.pragma_update(None, "application_id", APPLICATION_ID);
    owned.map_err(|error| OpenError::sqlite(path, error))?;
    let migrated = Migrations::from_slice(STEPS).to_latest(connection);
    migrated.map_err(|error| match error {
        Error::RusqliteError { err, .. } => OpenError::sqlite(path, err),
        other => OpenError::damaged(path, other.to_string()),
    })
}

/// Refuses what is visibly damaged; nothing is repaired.
pub(super) fn check(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let damaged = |error: rusqlite::Error| match error.sqlite_error_code() {
        Some(ErrorCode::Unknown) | None => OpenError::damaged(path, error.to_string()),
        Some(_) => OpenError::sqlite(path, error),
    };
    reach_ends(connection).map_err(damaged)?;
    let size = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
    let size: i64 = connection
        .query_row(size, [], |row| row.get(0))
        .map_err(damaged)?;
    if size > WHOLE_CHECK_BYTES {
        return Ok(());
    }
    let found: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(damaged)?;
    match found.as_str() {
        "ok" => Ok(()),
        found => Err(OpenError::damaged(path, found)),
    }
}

pub(in super::super) fn reach_ends(connection: &Connection) -> rusqlite::Result<()> {
    ENDS.iter()
        .try_for_each(|query| connection.query_row(query, [], |_| Ok(())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_migrations_hold_together() {
        assert_eq!(Migrations::from_slice(STEPS).validate(), Ok(()));
    }
}
