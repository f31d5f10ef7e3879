//! `run`: the daemon.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use atrn_relay::Sockets;
use atrn_relay::accounts::decoy_key;
use atrn_relay::config::RelayConfig;
use atrn_relay::control::socket_path;
use atrn_relay::names::{self, Confinement, Resolver};
use atrn_relay::queue::{OpenError, Store};
use atrn_relay::sandbox::{self, Confined};
use atrn_relay::settings::Settings;
use atrn_shared::cli::{ExitCode, Failure};
use atrn_shared::log;
use atrn_shared::sandbox::Account;
use clap::Args;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime::Builder;
use tracing::{info, warn};

use super::{Call, keep_files_private};

/// Run the relay in the foreground until SIGTERM; SIGHUP reloads its files
///
/// Example: atrn-relay run
#[derive(Args, Debug)]
pub(super) struct RunCommand {}

impl RunCommand {
    /// Everything that can be wrong is found before the first session: files, then ports, then the queue. What needs
    /// more than the sandbox leaves comes before it, and every thread after it.
    pub(super) fn run(self, call: &Call) -> Result<(), Failure> {
        let decoy_key = decoy_key().map_err(|error| Failure::failed(error.to_string()))?;
        let settings = Settings::load(&call.config_path, decoy_key)?;
        log::start(settings.config.log, call.verbosity);
        settings.notes.log_warnings();
        settings.notes.log_changed();
        keep_files_private();
        raise_file_limit();
        let (sockets, confined) = confine(&settings.config, &call.config_path)?;
        let store = open(&settings.config.data_dir)?;
        let runtime = Builder::new_multi_thread()
            .thread_name("relay")
            .enable_all()
            .build()
            .map_err(|error| Failure::failed(format!("cannot start threads: {error}")))?;
        let ended = runtime.block_on(atrn_relay::run(settings, sockets, store, confined));
        // Tasks that did not end in time are dropped here, and the queue closes with the last of them.
        drop(runtime);
        ended.map_err(|error| Failure::from_error(ExitCode::Failed, &error))
    }
}

/// Takes what only the start may take, and gives up the right to take more.
fn confine(config: &RelayConfig, main: &Path) -> Result<(Sockets, Confined), Failure> {
    let account = Account::of(&config.sandbox)?;
    account
        .map_or(Ok(()), Account::may_be_taken)
        .map_err(|error| Failure::failed(error.to_string()))?;
    sandbox::check_reach(config, main, account)?;
    let sockets = atrn_relay::bind(config, account);
    let mut sockets = sockets.map_err(|error| Failure::failed(error.to_string()))?;
    sockets.resolver = start_resolver(config, account)?;
    let entered = sandbox::enter(config, main, account);
    let reported = entered.and_then(|confined| {
        sandbox::report(&confined, config)?;
        Ok(confined)
    });
    match reported {
        Ok(confined) => Ok((sockets, confined)),
        Err(error) => {
            nobody_answers(&config.data_dir);
            Err(Failure::failed(error.to_string()))
        }
    }
}

/// The one process that this one starts: it speaks to name servers, so that this one need not.
fn start_resolver(
    config: &RelayConfig,
    account: Option<Account>,
) -> Result<Option<Resolver>, Failure> {
    let confinement = Confinement {
        enforcement: config.sandbox.enforcement,
        account,
    };
    let resolver = config
        .dns
        .as_ref()
        .map(|dns| names::spawn(dns, confinement));
    resolver.transpose().map_err(|error| {
        nobody_answers(&config.data_dir);
        Failure::failed(error.to_string())
    })
}

/// A command that looks at the queue of a stopped relay, or the relay's own last run, may have it open for a
/// moment longer.
fn open(data_dir: &Path) -> Result<Store, Failure> {
    let end = Instant::now() + OPEN_PATIENCE;
    let mut told = false;
    loop {
        match Store::open(data_dir) {
            Err(OpenError::InUse { path }) if Instant::now() < end => {
                if !told {
                    info!(path = %path.display(), "waiting for another process to close the queue");
                    told = true;
                }
                thread::sleep(OPEN_PAUSE);
            }
            Err(error) => {
                nobody_answers(data_dir);
                return Err(Failure::failed(error.to_string()));
            }
            Ok(store) => return Ok(store),
        }
    }
}

/// On the control socket, so that a command need not find it out.
fn nobody_answers(data_dir: &Path) {
    let _ = fs::remove_file(socket_path(data_dir));
}

/// A session takes a file descriptor or two, and the usual soft limit of 1,024 is meant for `select`.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        Ok((soft, hard))
    });
    match raised {
        Ok((soft, hard)) if soft < hard => info!(from = soft, to = hard, "open files limit raised"),
        Ok(_) => {}
        Err(error) => warn!(%error, "cannot raise the limit of open files"),
    }
}

const OPEN_PATIENCE: Duration = Duration::from_secs(5);
const OPEN_PAUSE: Duration = Duration::from_millis(50);
