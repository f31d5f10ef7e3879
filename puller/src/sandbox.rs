//! What the puller may still do once it runs: connect to the ports that its settings name, write its own data, read
//! its settings.
//!
//! Inside, on the safe side of the firewall, a puller that a hostile relay took over would be worth more than a relay. So it can reach
//! no port but those of relays and targets, take no connection, and start nothing. UDP is left to it for name look-ups, and that one the
//! kernel cannot hold to a port.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use atrn_shared::cli::Failure;
use atrn_shared::config::{ConfigErrors, Problem, reason};
use atrn_shared::directory;
use atrn_shared::sandbox::{
    self, Account, InForce, Rules, SocketKind, State, check_readable, directories_of,
};
use nix::errno::Errno;
use nix::unistd::{AccessFlags, eaccess};
use tracing::{info, warn};

use crate::config::{HandoverConfig, PullerConfig, Target};
use crate::status::cannot_be_written;

/// The port of name servers: answers that are too long for UDP come over TCP.
const DNS_PORT: u16 = 53;

/// The walls that are up.
#[derive(Clone, Debug)]
pub(crate) struct Confined {
    pub(crate) in_force: InForce,
    rules: Rules,
}

/// Whether the user that the puller will be can read its files: root, who starts it, can in any case.
pub(crate) fn check_reach(config: &PullerConfig, main: &Path) -> Result<(), ConfigErrors> {
    let account = Account::of(&config.sandbox)?;
    account
        .map_or(Ok(()), Account::may_be_taken)
        .map_err(|error| Problem::new(error.to_string()))?;
    check_readable(account, main, config.named_files())
}

/// Whether mail could be stored in a Maildir, by the user that the puller will be. Nothing is made.
pub(crate) fn check_maildir(config: &PullerConfig, maildir: &Path) -> Result<(), String> {
    let account = Account::of(&config.sandbox).map_err(|errors| errors.to_string())?;
    let folders = ["", "tmp", "new", "cur"].map(|name| maildir.join(name));
    let closed = || folders.iter().find_map(|folder| unusable(folder));
    let closed = sandbox::acting_as(account, closed).map_err(|error| error.to_string())?;
    let Some((folder, error)) = closed else {
        return Ok(());
    };
    let name = account.unwrap_or_else(Account::own).name();
    let folder = folder.display();
    Err(format!("user {name} cannot write to {folder}: {error}"))
}

/// The folder, or what it would be made in, where that cannot be written.
fn unusable(folder: &Path) -> Option<(PathBuf, String)> {
    let there = folder.ancestors().find(|above| above.exists());
    let there = there.unwrap_or_else(|| Path::new("."));
    let error = match there.is_dir() {
        true => eaccess(there, AccessFlags::W_OK | AccessFlags::X_OK).err()?,
        false => Errno::ENOTDIR,
    };
    Some((there.to_owned(), reason(&error.into())))
}

/// Gives up root, if a user is named, and everything that a pull does not need. `main` is the configuration's main
/// file. No thread may be there yet.
pub(crate) fn enter(config: &PullerConfig, main: &Path) -> Result<Confined, Failure> {
    let failed = |error: &dyn std::error::Error| Failure::failed(error.to_string());
    let account = Account::of(&config.sandbox)?;
    prepare(config, account)?;
    // Looked up while everything can still be read.
    let rules = rules(config, main);
    sandbox::drop_privileges(account).map_err(|error| failed(&error))?;
    let in_force = sandbox::confine(config.sandbox.enforcement, &rules);
    let in_force = in_force.map_err(|error| failed(&error))?;
    match in_force.state {
        State::Enforced => info!(sandbox = %in_force, "confined"),
        State::Partial | State::Off => warn!(sandbox = %in_force, "not confined as it should be"),
    }
    if in_force.uid == 0 {
        // `check` warns of it; here it is one of the facts of the start.
        info!("the puller runs as root; name a user of its own in [sandbox]");
    }
    Ok(Confined { in_force, rules })
}

/// What is written to must be there: rules are about what exists.
fn prepare(config: &PullerConfig, account: Option<Account>) -> Result<(), Failure> {
    let data_dir = &config.data_dir;
    let made = match data_dir.metadata() {
        Ok(there) if !there.is_dir() => Err(Errno::ENOTDIR.into()),
        _ => directory::make_durable(data_dir),
    };
    made.map_err(|error| cannot_be_written(data_dir, &error))?;
    if let Some(account) = account
        && Account::own().uid.is_root()
    {
        let entries = sandbox::make_over(data_dir, account);
        let entries = entries.map_err(|error| Failure::failed(error.to_string()))?;
        if entries > 0 {
            let path = data_dir.display();
            info!(%path, entries, uid = account.uid.as_raw(), "handed over to the user of the puller");
        }
    }
    for path in maildirs(config) {
        let made = sandbox::acting_as(account, || directory::make_durable(path));
        let made = made.map_err(|error| Failure::failed(error.to_string()))?;
        if let Err(error) = made {
            let path = path.display();
            warn!(%path, %error, "the Maildir cannot be made; when it can, restart");
        }
    }
    Ok(())
}

impl Confined {
    /// What is wrong with new settings that name what the walls hide. They were put up for the old ones.
    pub(crate) fn check(&self, config: &PullerConfig, main: &Path) -> Result<(), ConfigErrors> {
        if self.in_force.landlock_abi.is_none() {
            return Ok(());
        }
        let new = rules(config, main);
        let restart = |what: String| {
            Problem::new(format!(
                "{what} is not open to the running puller, whose sandbox was made for its old settings; restart it"
            ))
        };
        let ports = new.connect.difference(&self.rules.connect);
        let ports = ports.map(|port| restart(format!("port {port}")));
        let sockets = new.sockets.difference(&self.rules.sockets);
        let sockets = sockets.map(|_| restart("a Unix socket".to_owned()));
        let written = maildirs(config).filter(|path| !within(path, &self.rules.write));
        let written = written.map(|path| restart(path.display().to_string()));
        let named = config.named_files();
        let all = [self.rules.read.as_slice(), &self.rules.write].concat();
        let hidden = named.iter().filter(|file| {
            let directories = directories_of(file);
            !directories.iter().all(|directory| within(directory, &all))
        });
        let hidden = hidden.map(|path| restart(path.display().to_string()));
        let problems: Vec<_> = ports.chain(sockets).chain(written).chain(hidden).collect();
        if problems.is_empty() {
            return Ok(());
        }
        Err(ConfigErrors::new(problems))
    }
}

/// Links are followed: rules are about where they end.
fn within(path: &Path, allowed: &[PathBuf]) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let path = real(path);
    allowed
        .iter()
        .any(|directory| path.starts_with(real(directory)))
}

fn rules(config: &PullerConfig, main: &Path) -> Rules {
    let mut sockets = BTreeSet::from([SocketKind::Tcp, SocketKind::Udp]);
    if targets(config).any(|target| matches!(target, Target::LmtpUnix(_))) {
        sockets.insert(SocketKind::Unix);
    }
    let relays = config.relays.iter().map(|relay| relay.address.port);
    let targets = targets(config).filter_map(|target| Some(target.address()?.port));
    let mut write = vec![config.data_dir.clone()];
    write.extend(maildirs(config).map(Path::to_owned));
    Rules {
        read: readable(config, main),
        write,
        connect: relays.chain(targets).chain([DNS_PORT]).collect(),
        sockets,
    }
}

fn readable(config: &PullerConfig, main: &Path) -> Vec<PathBuf> {
    let fragments = main.parent().map(|parent| parent.join("conf.d"));
    let fragments = fragments.and_then(|directory| fs::read_dir(directory).ok());
    let fragments = fragments.into_iter().flatten().flatten();
    let mut files: BTreeSet<PathBuf> = fragments.map(|entry| entry.path()).collect();
    files.extend(config.named_files());
    files.insert(main.to_owned());
    let directories: BTreeSet<_> = files.iter().flat_map(|file| directories_of(file)).collect();
    let mut read: Vec<_> = directories.into_iter().collect();
    read.extend(sandbox::resolver_files(
        Account::of(&config.sandbox).ok().flatten(),
    ));
    read.extend(sandbox::system_libraries());
    read.extend(sandbox::time_zones());
    read.extend(sandbox::trust_roots());
    // SQLite takes its random numbers from the one, the rate of reports its time from the other.
    read.extend(["/dev/urandom", "/proc/sys/kernel/random/boot_id"].map(PathBuf::from));
    read
}

fn targets(config: &PullerConfig) -> impl Iterator<Item = &Target> {
    let reports = config.reports.as_ref().map(|reports| &reports.handover);
    let all = [Some(&config.handover), reports].into_iter().flatten();
    all.map(|HandoverConfig { target, .. }| target)
}

fn maildirs(config: &PullerConfig) -> impl Iterator<Item = &Path> {
    targets(config).filter_map(|target| match target {
        Target::Maildir(path) => Some(path.as_path()),
        _ => None,
    })
}
