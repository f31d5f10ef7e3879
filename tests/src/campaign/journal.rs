//! A look into a puller's journal from outside, while the puller uses it, or is dead.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};

const PATIENCE: Duration = Duration::from_secs(20);

/// A journal by its file.
#[derive(Clone, Debug)]
pub(super) struct Journal(pub(super) PathBuf);

impl Journal {
    /// Whether the puller has noted that it handed the whole delivery of a message over.
    ///
    /// The connection is opened for each look: one that stays open would keep the log's index alive,
    /// and no puller would ever have to recover it after a kill. Being read-only, it cannot write the
    /// log into the database when it closes.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub(super) fn has(&self, queue_id: &str) -> Result<bool> {
        if !self.0.exists() {
            return Ok(false);
        }
        let connection = self.open()?;
        // A delivery id is the queue id, a dot, and more; `/` comes right behind the dot.
        let query =
            "SELECT 1 FROM taken WHERE id >= ?1 || '.' AND id < ?1 || '/' AND recipients IS NULL";
        let found = connection
            .query_row(query, [queue_id], |_| Ok(()))
            .optional();
        match found {
            Ok(found) => Ok(found.is_some()),
            // Killed before it was made.
            Err(error) if error.to_string().contains("no such table") => Ok(false),
            Err(error) => Err(error).with_context(|| self.0.display().to_string()),
        }
    }

    fn open(&self) -> Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.0, flags)
            .with_context(|| self.0.display().to_string())?;
        connection.busy_timeout(PATIENCE)?;
        Ok(connection)
    }
}
