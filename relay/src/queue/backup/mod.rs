//! Copies of the queue that can take its place: made while the relay runs, checked, and brought back.
//!
//! A copy shows the queue at one moment: the database by SQLite's backup API from one view of it, and the content
//! files that this view names. Meanwhile mail is accepted and delivered as ever; only the removal of content files
//! is put off until the copy has them. The last thing that is written is the manifest: a directory without one is
//! no backup, whatever else is in it.

mod carrying;
mod copying;
mod manifest;
mod restoring;

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::{OpenError, StoreError};

pub use self::carrying::Passing;
pub use self::manifest::{Manifest, ManifestKind, prepare};
pub use self::restoring::{Damaged, Restored, restore};

pub(super) use self::copying::{check, copy, put};
pub(super) use self::manifest::finish;

/// How far a copy has come.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Progress {
    /// What is done just now.
    pub phase: Phase,
    /// How much of it is done …
    pub done: u64,
    /// … of how much.
    pub total: u64,
}

/// What a copy consists of.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The database, in pages.
    Database,
    /// Content files.
    Files,
    /// Reading all of the copied database, to see that it holds together.
    Check,
    /// Messages, one by one.
    Messages,
}

/// Why there is no copy, or none was brought back.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Nobody waits for it any more.
    #[error("given up")]
    Cancelled,
    /// A backup that cannot be used.
    #[error("{}: {reason}", path.display())]
    Damaged {
        /// What does not hold together.
        path: PathBuf,
        /// How.
        reason: String,
    },
    /// Files and directories.
    #[error("{}: {}", path.display(), atrn_shared::config::reason(source))]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A queue that is in use or cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is something where the copy would go.
    #[error("{}: {reason}", path.display())]
    Refused {
        /// Where.
        path: PathBuf,
        /// What is there.
        reason: String,
    },
    /// The queue that is copied.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A database, ours or the copy.
    #[error("{}: {source}", path.display())]
    Sqlite {
        /// Which.
        path: PathBuf,
        /// What came of it.
        source: rusqlite::Error,
    },
}

impl BackupError {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    pub(super) fn sqlite(path: &Path) -> impl FnOnce(rusqlite::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Sqlite { path, source }
    }

    pub(super) fn refused(path: &Path, reason: impl Into<String>) -> Self {
        Self::Refused {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }

    fn damaged(path: &Path, reason: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }
}
