//! Content that belongs to no message which could be read, kept where somebody can look at it.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::super::backup::BackupError;
use super::super::id::QueueId;
use super::message::Left;
use super::source::copy_readable;

/// In the directory of the salvage.
const FOLDER: &str = "unread";

/// A directory that is made when there is something for it.
#[derive(Debug)]
pub(super) struct Unread {
    path: PathBuf,
    is_made: bool,
}

impl Unread {
    pub(super) fn inside(directory: &Path) -> Self {
        let path = directory.join(FOLDER);
        Self {
            path,
            is_made: false,
        }
    }

    /// Keeps it, and gives its name inside the salvage.
    pub(super) fn keep(&mut self, id: QueueId, left: &Left) -> Result<String, BackupError> {
        if !self.is_made {
            let made = DirBuilder::new().mode(0o700).create(&self.path);
            made.map_err(BackupError::io(&self.path))?;
            self.is_made = true;
        }
        let name = format!("{id}.eml");
        let to = self.path.join(&name);
        match left {
            // The same file under a second name keeps also what the disk does not give just now.
            Left::File(from) if fs::hard_link(from, &to).is_ok() => {}
            Left::File(from) => {
                copy_readable(from, &to)?;
                sync(&to).map_err(BackupError::io(&to))?;
            }
            Left::Inline(content) => write(&to, content).map_err(BackupError::io(&to))?,
        }
        Ok(format!("{FOLDER}/{name}"))
    }

    pub(super) fn finish(&self) -> Result<(), BackupError> {
        match self.is_made {
            true => sync(&self.path).map_err(BackupError::io(&self.path)),
            false => Ok(()),
        }
    }
}

fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
