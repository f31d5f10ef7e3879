//! What can go wrong in the queue, told apart by what the caller does about it.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use atrn_shared::log::one_line;
use rusqlite::ErrorCode;

/// Why a store did not do what it was asked. None of them claims or denies durability after the
/// fact: whoever waited for an acceptance must take it as "not accepted" (R5321-15).
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The store is shutting down.
    #[error("the queue is shut down")]
    Closed,
    /// Something stored cannot be read back; said of one message, the rest goes on.
    #[error("the queue is damaged: {0}")]
    Damaged(String),
    /// The disk (or a quota on it) is full: `452 4.3.1`.
    #[error("no space left for the queue")]
    Full,
    /// I/O error, lock held too long, or anything not understood: `451 4.3.0`.
    #[error("the queue cannot {attempt}: {source}")]
    Unavailable {
        /// What was tried.
        attempt: &'static str,
        /// What came of it.
        source: Arc<dyn Error + Send + Sync>,
    },
}

impl StoreError {
    pub(super) fn sqlite(attempt: &'static str, error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Damaged(one_line(&error.to_string()))
            }
            _ => Self::Unavailable {
                attempt,
                source: Arc::new(error),
            },
        }
    }

    pub(super) fn io(attempt: &'static str, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Unavailable {
                attempt,
                source: Arc::new(error),
            },
        }
    }
}

/// Why a store could not be opened: one clear line each, for the operator.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The database is not ours, or what is in it does not hold together.
    #[error("{}: damaged or not a queue database ({reason}); nothing was changed; `atrn-relay queue salvage --to DIR` copies what can still be read, `queue restore` brings back a backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// Two programs must not write one queue.
    #[error("{}: in use by another process (is the relay already running?)", path.display())]
    InUse {
        /// The lock file.
        path: PathBuf,
    },
    /// Directories cannot be made, files not opened.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was opened.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
    /// Content files without the database that they belong to, missing or without an octet.
    #[error("{}: {what}, and there is content of messages in spool/, which a new queue would remove; put the database back, or move spool/ away too; `atrn-relay queue salvage --to DIR` copies what can still be read, `queue restore` brings back a backup", path.display())]
    Lost {
        /// The database.
        path: PathBuf,
        /// Missing or empty.
        what: &'static str,
    },
    /// A later version of this program has been here.
    #[error("{}: written by a newer version of atrn-relay; install that version again", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
    },
    /// Anything else that SQLite says.
    #[error("{}: {}", path.display(), one_line(&source.to_string()))]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What came of it.
        source: rusqlite::Error,
    },
}

impl OpenError {
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            source,
        }
    }

    pub(super) fn damaged(path: &Path, reason: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.to_owned(),
            reason: one_line(&reason.into()),
        }
    }

    pub(super) fn sqlite(path: &Path, source: rusqlite::Error) -> Self {
        match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::damaged(path, source.to_string())
            }
            _ => Self::Sqlite {
                path: path.to_owned(),
                source,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    #[test]
    fn an_error_is_one_line() {
        let damaged = || {
            let error = ffi::Error::new(ffi::SQLITE_CORRUPT);
            rusqlite::Error::SqliteFailure(error, Some("*** in main ***\nTree 4: bad\n".to_owned()))
        };
        let path = Path::new("queue.db");
        let reason = "*** in main ***; Tree 4: bad";
        let store = StoreError::sqlite("be read", damaged());
        assert_eq!(store.to_string(), format!("the queue is damaged: {reason}"));
        let open = OpenError::sqlite(path, damaged()).to_string();
        let start = format!("queue.db: damaged or not a queue database ({reason});");
        assert!(
            open.starts_with(&start) && open.lines().count() == 1,
            "{open}"
        );
        let busy = ffi::Error::new(ffi::SQLITE_BUSY);
        let busy = rusqlite::Error::SqliteFailure(busy, Some("a\nb".to_owned()));
        assert_eq!(OpenError::sqlite(path, busy).to_string(), "queue.db: a; b");
    }
}
