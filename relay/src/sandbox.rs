//! What the process that holds mail may still do once it runs: answer who connects, read its settings, write its data.
//!
//! The order of the start is that of binding ports, [`prepare`], the admin's socket, the resolver child, [`enter`], and only then the queue and the
//! threads. Before [`enter`] nothing has been taken from the network; after it no socket can be made, whatever code runs.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use atrn_shared::config::{ConfigErrors, Problem, reason};
use atrn_shared::directory;
use atrn_shared::sandbox::{
    self, Account, InForce, PrivilegeError, Rules, SandboxError, State, check_readable,
    closed_above, directories_of,
};
use nix::unistd::{AccessFlags, access};
use tracing::{info, warn};

use crate::config::RelayConfig;

/// Why the relay does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A directory that it writes to.
    #[error("cannot make {}: {}", path.display(), reason(source))]
    Directory {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// What the user of the settings cannot use.
    #[error("{} cannot be written by user {uid}; run: chown -R {uid} {}", path.display(), path.display())]
    NotWritable {
        /// Which.
        path: PathBuf,
        /// The user.
        uid: u32,
    },
    /// It cannot become another user.
    #[error(transparent)]
    Privileges(#[from] PrivilegeError),
    /// It cannot be confined.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

/// The walls that are up.
#[derive(Clone, Debug)]
pub struct Confined {
    /// What holds.
    pub in_force: InForce,
    rules: Rules,
}

/// Whether the user that the relay will be can read its files, and get to its data: root, who starts it, can in any case.
///
/// # Errors
/// One line for each thing that is out of reach, with what to do.
pub fn check_reach(
    config: &RelayConfig,
    main: &Path,
    account: Option<Account>,
) -> Result<(), ConfigErrors> {
    check_readable(account, main, config.named_files())?;
    let closed = sandbox::acting_as(account, || closed_above(&config.data_dir));
    let Some(account) = account else {
        return Ok(());
    };
    match closed {
        Ok(None) => Ok(()),
        Ok(Some(closed)) => {
            let (name, data, closed) =
                (account.name(), config.data_dir.display(), closed.display());
            Err(Problem::new(format!(
                "{data}: user {name} of [sandbox] cannot get into {closed}; run: chmod go+x {closed}"
            ))
            .into())
        }
        Err(error) => Err(Problem::new(error.to_string()).into()),
    }
}

/// Makes the directories that the relay writes to, for the user that it will be.
///
/// # Errors
/// [`StartError`]
pub fn prepare(config: &RelayConfig, account: Option<Account>) -> Result<(), StartError> {
    let data_dir = &config.data_dir;
    // The log makes its own where that is within: a start that fails leaves nothing behind.
    let directories = written(config).into_iter();
    for directory in directories.filter(|each| each == data_dir || !each.starts_with(data_dir)) {
        directory::make_durable(&directory).map_err(|source| StartError::Directory {
            path: directory.clone(),
            source,
        })?;
        if let Some(account) = account
            && Account::own().uid.is_root()
        {
            let entries = sandbox::make_over(&directory, account)?;
            if entries > 0 {
                let path = directory.display();
                info!(%path, entries, uid = account.uid.as_raw(), "handed over to the user of the relay");
            }
        }
    }
    Ok(())
}

/// Gives up root, if a user is named, and everything that the relay does not need. `main` is the configuration's main file.
///
/// # Errors
/// [`StartError`]. Parts may be given up already: the process is of no other use.
pub fn enter(
    config: &RelayConfig,
    main: &Path,
    account: Option<Account>,
) -> Result<Confined, StartError> {
    // Looked up while everything can still be read.
    let rules = rules(config, main);
    sandbox::drop_privileges(account)?;
    let in_force = sandbox::confine(config.sandbox.enforcement, &rules)?;
    Ok(Confined { in_force, rules })
}

/// Tells the operator what holds.
///
/// # Errors
/// [`StartError::NotWritable`]: no mail could be taken.
pub fn report(confined: &Confined, config: &RelayConfig) -> Result<(), StartError> {
    let in_force = &confined.in_force;
    match in_force.state {
        State::Enforced => info!(sandbox = %in_force, "confined"),
        State::Partial | State::Off => warn!(sandbox = %in_force, "not confined as it should be"),
    }
    if in_force.uid == 0 {
        // `check` warns of it; here it is one of the facts of the start.
        info!("the relay runs as root; name a user of its own in [sandbox]");
    }
    let can = |path: &Path, how: AccessFlags| access(path, how).is_ok();
    for directory in written(config) {
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        let files = entries.map(|entry| entry.path());
        for path in files.chain([directory]) {
            let is_ours = path.exists() && !path.is_symlink();
            if is_ours && !can(&path, AccessFlags::W_OK) {
                let uid = in_force.uid;
                return Err(StartError::NotWritable { path, uid });
            }
        }
    }
    Ok(())
}

impl Confined {
    /// What is wrong with new settings that name files which the walls hide. They were put up for the old ones.
    #[must_use]
    pub fn hidden(&self, config: &RelayConfig) -> Option<ConfigErrors> {
        self.in_force.landlock_abi?;
        let readable = |path: &Path| {
            let Ok(path) = path.canonicalize() else {
                // Not there, or hidden: which of them only its directory tells.
                let directories = directories_of(path);
                return directories.iter().all(|directory| self.reads(directory));
            };
            self.reads(&path)
        };
        let named = config.named_files();
        let hidden = named.into_iter().filter(|path| !readable(path));
        let problems: Vec<_> = hidden
            .map(|path| {
                let path = path.display();
                Problem::new(format!(
                    "{path}: in a directory that the sandbox of the running relay does not have; restart it"
                ))
            })
            .collect();
        (!problems.is_empty()).then(|| ConfigErrors::new(problems))
    }

    fn reads(&self, path: &Path) -> bool {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let mut allowed = self.rules.read.iter().chain(&self.rules.write);
        allowed.any(|directory| {
            let directory = directory.canonicalize();
            directory.is_ok_and(|directory| path.starts_with(directory))
        })
    }
}

/// What the mail process needs, and nothing that leads out of it: no socket, no port.
#[must_use]
pub fn rules(config: &RelayConfig, main: &Path) -> Rules {
    let fragments = main.parent().map(|parent| parent.join("conf.d"));
    let fragments = fragments.and_then(|directory| fs::read_dir(directory).ok());
    let fragments = fragments.into_iter().flatten().flatten();
    let mut files: BTreeSet<PathBuf> = fragments.map(|entry| entry.path()).collect();
    files.extend(config.named_files());
    files.insert(main.to_owned());
    let directories: BTreeSet<_> = files.iter().flat_map(|file| directories_of(file)).collect();
    let mut read: Vec<_> = directories.into_iter().collect();
    read.extend(sandbox::time_zones());
    // SQLite takes its random numbers from it.
    read.push(PathBuf::from("/dev/urandom"));
    Rules {
        read,
        write: written(config),
        ..Rules::default()
    }
}

/// The directories that the relay writes to.
fn written(config: &RelayConfig) -> Vec<PathBuf> {
    let mut directories = vec![config.data_dir.clone()];
    let log = &config.transaction_log;
    if log.enabled {
        directories.push(log.directory(&config.data_dir));
    }
    directories
}
