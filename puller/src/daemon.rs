//! The daemon: a task for each relay that pulls when it is time, settings that change under it, and a clean end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use atrn_shared::cli::{ExitCode, Failure};
use atrn_shared::config::{ConfigErrors, Loaded, Trigger, Watch, WatchedFiles};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::PullerConfig;
use crate::journal::Journal;
use crate::reports::{Reports, Traffic};
use crate::sandbox::Confined;
use crate::session::{Pull, Purpose};
use crate::status::{DaemonLock, StatusFiles};

mod relay;

use relay::RelayTask;

/// Sessions have so long to end between two messages; then their connections are closed under them …
const STOP_TIMEOUT: Duration = Duration::from_secs(8);
/// … but while the target has a whole message and has not spoken yet, this long. With what comes before and behind it,
/// less than `TimeoutStopSec` in docs/operations.md.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(60);
/// What the target said is passed on, if the relay still listens.
const PASS_ON_TIMEOUT: Duration = Duration::from_secs(2);

struct Daemon {
    path: PathBuf,
    trigger: Trigger,
    config: PullerConfig,
    confined: Confined,
    status: StatusFiles,
    journal: Journal,
    /// Counts over all relays, and on across changes of the settings.
    traffic: Traffic,
    relays: BTreeMap<String, Relay>,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

/// A relay's task, seen from outside.
struct Relay {
    /// What the next pull goes by. The one under way keeps what it began with, and in instant mode it ends for this.
    settings: watch::Sender<Pull>,
    stop: CancellationToken,
}

/// Pulls from every relay of the configuration until `stop`, and follows its changes. `files` were about to be
/// read when the configuration was.
///
/// # Errors
/// What keeps it from starting.
pub(crate) async fn run(
    files: WatchedFiles,
    config: PullerConfig,
    confined: Confined,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let path = files.main().to_path_buf();
    let watched = files.with_named(config.named_files());
    let status = StatusFiles::open(&config.data_dir)?;
    let _lock = DaemonLock::take(&config.data_dir)?;
    status.write_daemon(&confined.in_force)?;
    let journal = Journal::open(&config.data_dir)?;
    let mut watch =
        Watch::start(watched).map_err(|error| Failure::from_error(ExitCode::Failed, &error))?;
    let hang_up = watch.trigger();
    let mut daemon = Daemon {
        path,
        trigger: watch.trigger(),
        config: config.clone(),
        confined,
        status,
        journal,
        traffic: Traffic::shared(&config.data_dir),
        relays: BTreeMap::new(),
        tasks: JoinSet::new(),
        stop: stop.clone(),
    };
    daemon.apply(config)?;
    let mut signals = hang_ups()?;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = watch.changed() => daemon.reload(),
            Some(()) = signals.recv() => hang_up.pull(),
        }
    }
    daemon.end().await;
    Ok(())
}

fn hang_ups() -> Result<tokio::signal::unix::Signal, Failure> {
    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())
        .map_err(|error| Failure::failed(format!("cannot wait for signals: {error}")))
}

impl Daemon {
    /// Takes the files as they are now; when they are wrong, nothing changes.
    fn reload(&mut self) {
        let files = WatchedFiles::about_to_read(&self.path);
        match self.load(files) {
            Ok(()) => info!("configuration reloaded"),
            Err(errors) => {
                for line in errors.to_string().lines() {
                    error!("configuration not reloaded, the old one stays: {line}");
                }
            }
        }
    }

    fn load(&mut self, files: WatchedFiles) -> Result<(), ConfigErrors> {
        let Loaded { config, notes, .. } = PullerConfig::load(&self.path)?;
        let named = config.named_files();
        let files = files.with_named(named.clone());
        let restart = self.config.needs_restart(&config);
        let may = self.confined.check(&config, &self.path);
        let checked = may.and_then(|()| config.check_files());
        let applied = checked.and_then(|()| self.apply(config));
        if applied.is_err() {
            self.trigger.watch_also(named);
            return applied;
        }
        notes.log_warnings();
        for key in restart {
            warn!("{key} has changed; restart to make it count");
        }
        self.trigger.watch(files);
        Ok(())
    }

    /// Begins, ends and resets tasks, so that there is one for each relay.
    fn apply(&mut self, config: PullerConfig) -> Result<(), ConfigErrors> {
        let mut pulls = BTreeMap::new();
        let reports = Reports::load(&config, &self.traffic)?;
        for relay in &config.relays {
            let stop = match self.relays.get(&relay.name) {
                Some(known) => known.stop.clone(),
                None => self.stop.child_token(),
            };
            let purpose = Purpose::Mail(self.journal.clone());
            let mut pull = Pull::new(&config, relay, purpose, stop)?;
            pull.reports.clone_from(&reports);
            pulls.insert(relay.name.clone(), pull);
        }
        self.relays.retain(|name, relay| {
            let stays = pulls.contains_key(name);
            if !stays {
                info!(relay = name, "no longer configured");
                relay.stop.cancel();
            }
            stays
        });
        for (name, pull) in pulls {
            match self.relays.get(&name) {
                Some(relay) => {
                    relay.settings.send_replace(pull);
                }
                None => self.begin(name, pull),
            }
        }
        self.config = config;
        Ok(())
    }

    fn begin(&mut self, name: String, pull: Pull) {
        let stop = pull.stop.clone();
        let (settings, changes) = watch::channel(pull);
        let task = RelayTask::new(changes, self.status.clone());
        self.tasks.spawn(task.pull_for_ever());
        self.relays.insert(name, Relay { settings, stop });
    }

    /// Every session ends at its next message boundary, or is cut off: no message is ever half handed over. A verdict is
    /// awaited longer.
    async fn end(mut self) {
        info!("shutting down");
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        let in_time = tokio::select! {
            biased;
            () = ended => true,
            () = patience(Some(&self.journal)) => false,
        };
        if !in_time {
            warn!("sessions did not end in time and are cut off");
            self.tasks.shutdown().await;
        }
        self.journal.end().await;
    }
}

/// How long sessions have that were told to stop.
///
/// Where the target ponders over a message, its word is awaited and written down: of a session that is cut off there,
/// the message may be inside, and nobody would know it when the relay offers it again (OWN-4). Meanwhile no other message
/// comes to that point: its turn to be awaited would never come.
pub(crate) async fn patience(journal: Option<&Journal>) {
    tokio::time::sleep(STOP_TIMEOUT).await;
    let Some(journal) = journal else { return };
    journal.expect_no_more();
    let messages = journal.expected_entries();
    if messages == 0 {
        return;
    }
    info!(
        messages,
        "waiting for the verdict of the mail server inside"
    );
    let verdicts = tokio::time::timeout(VERDICT_TIMEOUT, journal.no_entries_expected()).await;
    match verdicts {
        Ok(()) => tokio::time::sleep(PASS_ON_TIMEOUT).await,
        Err(_) => error!(
            messages = journal.expected_entries(),
            "no verdict of the mail server inside: what it takes now will come twice"
        ),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    /// What a supervisor must allow for is documented, so that it does not become more unnoticed.
    // covers: OWN-4
    #[tokio::test(start_paused = true)]
    async fn a_verdict_is_awaited_and_not_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let seconds = async |journal: Option<&Journal>| {
            let began = Instant::now();
            patience(journal).await;
            began.elapsed().as_secs()
        };
        assert_eq!(seconds(None).await, 8);
        let [idle, stuck, slow] = ["idle", "stuck", "slow"].map(|name| {
            let folder = folder.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            Journal::open(&folder).unwrap()
        });
        assert_eq!(seconds(Some(&idle)).await, 8);
        let pondering = stuck.expect_entry();
        assert_eq!(seconds(Some(&stuck)).await, 68);
        drop(pondering);
        let pondering = slow.expect_entry();
        let answered = async {
            tokio::time::sleep(Duration::from_secs(7)).await;
            // Given to the target in time: it is awaited as well.
            let another = slow.expect_entry();
            assert!(another.is_some());
            tokio::time::sleep(Duration::from_secs(13)).await;
            drop(pondering);
            tokio::time::sleep(Duration::from_secs(10)).await;
            drop(another);
            // Whoever gives it one behind that would be cut off in the middle of it.
            assert!(slow.expect_entry().is_none());
        };
        let (waited, ()) = tokio::join!(seconds(Some(&slow)), answered);
        assert_eq!(waited, 32);
    }
}
