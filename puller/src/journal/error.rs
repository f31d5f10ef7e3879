//! What can go wrong with the journal, told apart by what the caller does about it.

use std::io;
use std::path::{Path, PathBuf};

use atrn_shared::cli::{ExitCode, Failure};
use atrn_shared::log::one_line;
use rusqlite::ErrorCode;

/// Why the journal did not do what it was asked. Whoever waited for an entry must take it as not durable.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// The process is ending.
    #[error("the journal is closed")]
    Closed,
    /// I/O error, no space, damage, or anything not understood.
    #[error("the journal cannot {attempt}: {reason}")]
    Unavailable {
        /// What was tried.
        attempt: &'static str,
        /// What came of it.
        reason: String,
    },
}

impl JournalError {
    pub(super) fn sqlite(attempt: &'static str, error: &rusqlite::Error) -> Self {
        let reason = match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => "no space left on the disk".to_owned(),
            _ => error.to_string(),
        };
        Self::Unavailable { attempt, reason }
    }

    pub(super) fn locks(error: io::Error) -> Self {
        Self::Unavailable {
            attempt: "hold a delivery",
            reason: error.to_string(),
        }
    }
}

/// Why the journal could not be opened: one clear line each, for the operator.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The database is not ours, or what is in it does not hold together.
    #[error("{}: damaged or not a journal ({reason}); no mail is pulled with it; move it away with its -wal and -shm to begin a new one: deliveries whose answer was lost just then may come twice", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A directory that is not there, files that cannot be opened.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was opened.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
    /// A later version of this program has been here.
    #[error("{}: written by a newer version of atrn-puller; install that version again", path.display())]
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

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        // A file that somebody put there is a matter of the set-up; damage and I/O errors are not.
        let code = match error {
            OpenError::Newer { .. } => ExitCode::Config,
            OpenError::Damaged { .. } | OpenError::Io { .. } | OpenError::Sqlite { .. } => {
                ExitCode::Failed
            }
        };
        Self::from_error(code, &error)
    }
}
