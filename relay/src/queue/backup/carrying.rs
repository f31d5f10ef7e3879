//! Takes a backup to where it is wanted.
//!
//! The running relay may write nowhere but in its own directories, so it makes the backup there, and the command that asked for it carries
//! it on. Within a file system that is a matter of names.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::super::spool::spool_directories;
use super::copying::{copy_synced, say};
use super::manifest::{DATABASE, Manifest, SPOOL, finish};
use super::{BackupError, Phase, Progress};

/// Between two words about how far it is.
const FILES_A_STEP: u64 = 64;
/// Before the number of the process that carries it on.
const PREFIX: &str = "backup.tmp-";

/// A backup on its way, in the relay's directory. It is removed with this value.
#[derive(Debug)]
pub struct Passing(PathBuf);

impl Passing {
    /// Where the relay shall make it. What commands left there that were killed is removed.
    #[must_use]
    pub fn through(data_dir: &Path) -> Self {
        let entries = fs::read_dir(data_dir).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| is_left_behind(&entry.file_name().to_string_lossy())) {
            let _ = fs::remove_dir_all(entry.path());
        }
        Self(data_dir.join(format!("{PREFIX}{}", std::process::id())))
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.0
    }

    /// Brings it to a directory that [`prepare`](super::prepare) has made.
    ///
    /// # Errors
    /// [`BackupError`]. Then there is no backup.
    pub fn carry(
        self,
        to: &Path,
        watch: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<Manifest, BackupError> {
        let manifest = Manifest::read(&self.0)?;
        let mut done = 0;
        let (ours, theirs) = (self.0.join(SPOOL), to.join(SPOOL));
        for (from, to) in spool_directories(&ours).zip(spool_directories(&theirs)) {
            for entry in fs::read_dir(&from).map_err(BackupError::io(&from))? {
                let entry = entry.map_err(BackupError::io(&from))?;
                take(&entry.path(), &to.join(entry.file_name()))?;
                done += 1;
                if done % FILES_A_STEP == 0 {
                    say(watch, Phase::Files, done, manifest.files)?;
                }
            }
        }
        take(&self.0.join(DATABASE), &to.join(DATABASE))?;
        finish(to, &manifest)?;
        Ok(manifest)
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        // Where nothing was made there is nothing to remove; what cannot be is the next one's to remove.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn is_left_behind(name: &str) -> bool {
    let process = name
        .strip_prefix(PREFIX)
        .and_then(|number| number.parse().ok());
    process.is_some_and(|process| kill(Pid::from_raw(process), None) == Err(Errno::ESRCH))
}

/// The file itself where that can be, else a copy of it, synced.
fn take(from: &Path, to: &Path) -> Result<(), BackupError> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => copy_synced(from, to),
        renamed => renamed.map_err(BackupError::io(to)),
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn only_what_nobody_carries_any_more_is_left_behind() {
        let own = std::process::id();
        // Numbers of processes end far below it.
        for (name, expected) in [
            ("backup.tmp-2000000000".to_owned(), true),
            (format!("{PREFIX}{own}"), false),
            ("backup.tmp-".to_owned(), false),
            ("spool".to_owned(), false),
        ] {
            assert_eq!(is_left_behind(&name), expected, "{name}");
        }
        let folder = TempDir::new().unwrap();
        let left = folder.path().join("backup.tmp-2000000000/spool");
        fs::create_dir_all(&left).unwrap();
        let passing = Passing::through(folder.path());
        assert!(!left.exists());
        fs::create_dir(passing.directory()).unwrap();
        drop(passing);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
