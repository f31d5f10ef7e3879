//! What the user of the settings can use of what root found for it: at a reload it is that user who reads.

use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, eaccess};

use super::{Account, acting_as};
use crate::config::{ConfigErrors, Problem, files_of};

/// Whether the account, if the process will become one, can read the main file, `conf.d` beside it, and the files that they
/// name.
///
/// # Errors
/// One line for each that it cannot, with the command that mends it.
pub fn check_readable(
    account: Option<Account>,
    main: &Path,
    named: impl IntoIterator<Item = PathBuf>,
) -> Result<(), ConfigErrors> {
    let Some(account) = account else {
        return Ok(());
    };
    let mut files = files_of(main)?;
    files.extend(named);
    let fragments = main.with_file_name("conf.d");
    files.extend(fragments.is_dir().then_some(fragments));
    // What is missing is for who reads it to say.
    files.retain(|file| file.exists());
    let look = || {
        let problems = files.iter().filter_map(|file| unreadable(file, account));
        problems.collect::<Vec<_>>()
    };
    let problems = acting_as(Some(account), look)
        .map_err(|error| ConfigErrors::from(Problem::new(error.to_string())))?;
    match problems.is_empty() {
        true => Ok(()),
        false => Err(ConfigErrors::new(problems)),
    }
}

/// Asked as the account itself.
fn unreadable(file: &Path, account: Account) -> Option<Problem> {
    if eaccess(file, AccessFlags::R_OK).is_ok() {
        return None;
    }
    let (shown, name) = (file.display(), account.name());
    let problem = match closed_above(file) {
        Some(closed) => {
            let closed = closed.display();
            format!("user {name} of [sandbox] cannot get into {closed}; run: chmod go+x {closed}")
        }
        None => format!("user {name} of [sandbox] cannot read it; run: chown {name} {shown}"),
    };
    Some(Problem::new(format!("{shown}: {problem}")))
}

/// The first directory on the way to a path that the process cannot get into.
#[must_use]
pub fn closed_above(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    let mut above: Vec<_> = path.ancestors().skip(1).collect();
    above.reverse();
    let closed = above
        .into_iter()
        .find(|directory| eaccess(*directory, AccessFlags::X_OK).is_err());
    closed
        .filter(|directory| directory.is_dir())
        .map(Path::to_owned)
}
