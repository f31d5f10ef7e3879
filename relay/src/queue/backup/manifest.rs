//! The directory of a copy, and the manifest that makes it a backup.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::super::spool::spool_directories;
use super::BackupError;

/// Of this form; another one is refused.
const VERSION: u32 = 1;
const MANIFEST: &str = "backup.json";
pub(super) const DATABASE: &str = "queue.db";
pub(super) const SPOOL: &str = "spool";

/// What a finished backup says of itself.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Manifest {
    /// The form of the backup.
    pub version: u32,
    /// Where it comes from.
    pub kind: ManifestKind,
    /// The moment that it shows.
    pub taken_at: Timestamp,
    /// Messages in it.
    pub messages: u64,
    /// Their deliveries.
    pub deliveries: u64,
    /// Messages whose content is a file.
    pub files: u64,
    /// Octets of these files.
    pub file_octets: u64,
}

/// Where a backup comes from.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ManifestKind {
    /// A whole queue.
    Backup,
    /// What could be read of a damaged one.
    Salvage,
}

impl Manifest {
    /// Of the database in a copy, with what was counted of its files.
    pub(in super::super) fn of(
        kind: ManifestKind,
        connection: &rusqlite::Connection,
        (files, file_octets): (u64, u64),
    ) -> rusqlite::Result<Self> {
        let count = |table: &str| -> rusqlite::Result<u64> {
            let query = format!("SELECT count(*) FROM {table}");
            connection.query_row(&query, [], |row| {
                row.get::<_, i64>(0).map(i64::cast_unsigned)
            })
        };
        Ok(Self {
            version: VERSION,
            kind,
            taken_at: Timestamp::now(),
            messages: count("message")?,
            deliveries: count("delivery")?,
            files,
            file_octets,
        })
    }

    /// Reads that of a finished backup.
    pub(super) fn read(directory: &Path) -> Result<Self, BackupError> {
        let path = directory.join(MANIFEST);
        let text = fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => BackupError::damaged(
                directory,
                format!("no backup, or one that was not finished: there is no {MANIFEST}"),
            ),
            _ => BackupError::io(&path)(error),
        })?;
        let manifest: Self = serde_json::from_slice(&text)
            .map_err(|error| BackupError::damaged(&path, error.to_string()))?;
        if manifest.version != VERSION {
            let reason = format!(
                "a backup of form {}, and this program knows form {VERSION}; restore it with the version that made it",
                manifest.version
            );
            return Err(BackupError::damaged(&path, reason));
        }
        Ok(manifest)
    }
}

/// Makes the directory of a copy, for nobody else's eyes. One that is there must be empty.
///
/// # Errors
/// [`BackupError`]
pub fn prepare(directory: &Path) -> Result<(), BackupError> {
    let io = BackupError::io;
    make(directory).map_err(io(directory))?;
    let mut entries = fs::read_dir(directory).map_err(io(directory))?;
    if entries.next().is_some() {
        return Err(BackupError::refused(
            directory,
            "not empty; name a directory that does not exist yet",
        ));
    }
    let spool = directory.join(SPOOL);
    make(&spool).map_err(io(&spool))?;
    for path in spool_directories(&spool) {
        make(&path).map_err(io(&path))?;
    }
    Ok(())
}

fn make(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).recursive(true).create(path)
}

/// Syncs all of a copy, and says last of all that it is one.
pub(in super::super) fn finish(directory: &Path, manifest: &Manifest) -> Result<(), BackupError> {
    let io = BackupError::io;
    let spool = directory.join(SPOOL);
    let mut synced: Vec<PathBuf> = spool_directories(&spool).collect();
    synced.extend([directory.join(DATABASE), spool, directory.to_owned()]);
    for path in &synced {
        sync(path).map_err(io(path))?;
    }
    if let Some(parent) = directory.parent().filter(|parent| *parent != Path::new("")) {
        sync(parent).map_err(io(parent))?;
    }
    let path = directory.join(MANIFEST);
    write(directory, &path, manifest).map_err(io(&path))
}

fn write(directory: &Path, path: &Path, manifest: &Manifest) -> io::Result<()> {
    let unfinished = path.with_extension("unfinished");
    let mut options = File::options();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)?;
    serde_json::to_writer_pretty(&mut file, manifest)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    sync(directory)
}

pub(super) fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
