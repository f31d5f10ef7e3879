//! Directories that are still there after a power failure.
//!
//! A name is on the disk when the directory that it stands in was synced (POSIX promises no more), and that holds for
//! the name of a directory too: all that was synced below it is lost with it.

use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

/// Makes a directory that only its owner can enter, and those above it that are missing; where it is there already,
/// sees to it that it stays: whoever made it may have died before he had it synced.
///
/// # Errors
/// When it cannot be made, or is not known to be durable.
pub fn make_durable(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    let made = match builder.mode(0o700).create(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let above = path.parent().filter(|above| !above.as_os_str().is_empty());
            make_durable(above.ok_or(error)?)?;
            builder.create(path)
        }
        made => made,
    };
    let above = match path.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    };
    match made {
        Ok(()) => sync(above),
        Err(_) if path.is_dir() => match sync(above) {
            // Where we may not look we made nothing.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
            synced => synced,
        },
        Err(error) => Err(error),
    }
}

/// Makes the names in a directory durable.
///
/// # Errors
/// When they are not known to be.
pub fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_made_and_what_is_there_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b/c");
        make_durable(&deep).unwrap();
        make_durable(&deep).unwrap();
        assert!(deep.is_dir());
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(
            make_durable(&file).unwrap_err().kind(),
            ErrorKind::AlreadyExists
        );
        assert!(make_durable(&file.join("below")).is_err());
        assert!(make_durable(Path::new("/")).is_ok());
    }
}
