//! Files of the data directory. They are for our user only, whoever made the directory: who can open a lock file can hold
//! the lock, and keep our mail out.

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

const OURS: u32 = 0o600;

/// Makes a file if need be, and takes one that is there away from others.
///
/// That one is not opened: to close it again would free the locks that SQLite has on it in this process (fcntl(2)).
pub(crate) fn make(path: &Path) -> io::Result<()> {
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(OURS)
        .open(path);
    match made {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            take_away(path);
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn take_away(path: &Path) {
    let is_ours_only = |found: &fs::Metadata| found.permissions().mode() & 0o777 == OURS;
    let taken = fs::metadata(path).and_then(|found| match is_ours_only(&found) {
        true => Ok(()),
        // By a descriptor: the sandbox refuses it by a path.
        false => fs::File::open(path)?.set_permissions(Permissions::from_mode(OURS)),
    });
    if let Err(error) = taken {
        tracing::warn!(path = %path.display(), %error, "others may be able to open this file");
    }
}
