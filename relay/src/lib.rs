//! The relay: takes mail from the Internet, holds it, gives it to pullers. It never connects out.
//!
//! [`run`] builds the parts and joins them: the edge and the provider meet only in the [`queue`], the
//! settings and the activity that are handed to both.

pub mod accounts;
pub mod activity;
pub mod certificate;
mod closing;
pub mod config;
mod connections;
pub mod control;
mod edge;
mod expiry;
pub mod fragments;
mod metrics;
pub mod names;
mod provider;
pub mod queue;
mod report;
mod session_id;
pub mod settings;
mod sockets;

pub use sockets::{BindError, Sockets, bind, unavailable};

use std::sync::Arc;
pub mod transaction_log;
use std::time::Duration;

use atrn_shared::config::{Live, Watch, WatchError};
use atrn_shared::sasl::Credentials;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::activity::{Activity, Listening};
use crate::closing::{Closing, Source};
use crate::config::RelayConfig;
use crate::connections::{Connections, Service};
use crate::edge::Edge;
use crate::expiry::Expiry;
use crate::metrics::Metrics;
use crate::provider::Provider;
use crate::queue::Store;
use crate::settings::Settings;

/// How long sessions have at a shutdown to say 421 and end.
const SHUTDOWN_TIME: Duration = Duration::from_secs(8);

/// Why the daemon can not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The system gave no signals, or no asynchronous sockets.
    #[error("cannot start: {0}")]
    Io(#[from] std::io::Error),
    /// The configuration cannot be watched.
    #[error(transparent)]
    Watch(#[from] WatchError),
}

/// Runs the daemon on bound sockets until SIGTERM or SIGINT; SIGHUP, or a changed file, reloads the settings.
///
/// # Errors
/// [`RunError`] when it cannot start. What goes wrong later is logged, and the daemon goes on.
pub async fn run(settings: Settings, sockets: Sockets, store: Store) -> Result<(), RunError> {
    let signals = Signals::catch()?;
    let watch = Watch::start(settings.watched_files())?;
    let activity = Activity::new();
    let live = Live::new(settings);
    let shutdown = CancellationToken::new();
    let sessions = TaskTracker::new();
    let edge = Edge {
        settings: live.clone(),
        store: store.clone(),
        activity: activity.clone(),
    };
    let closing = Closing::new(
        store.clone(),
        Source::Daemon(live.clone(), activity.clone()),
    );
    let provider = Provider::new(
        live.clone(),
        store.clone(),
        closing.clone(),
        activity.clone(),
    );
    let expiry = Expiry {
        store: store.clone(),
        closing,
        settings: live.clone(),
    };

    let listening = Listening {
        smtp: sockets.smtp_addresses(),
        odmr: sockets.odmr_addresses(),
    };
    let (smtp, odmr) = (joined(&listening.smtp), joined(&listening.odmr));
    activity.listening(listening);
    let everybody = Everybody {
        sessions: &sessions,
        shutdown: &shutdown,
    };
    everybody.serve(&edge, sockets.smtp)?;
    everybody.serve(&provider, sockets.odmr)?;
    sessions.spawn(expiry.run(shutdown.clone()));
    let context = control::Context::daemon(
        store,
        control::Daemon {
            settings: live.clone(),
            activity: activity.clone(),
            reload: reload_trigger(&watch),
        },
    );
    everybody.serve_monitors(context.clone(), sockets.metrics)?;
    sessions.spawn(control::serve(sockets.control, context, shutdown.clone()));
    info!(%smtp, %odmr, "ready");

    supervise(signals, watch, &live, &activity).await;
    shutdown.cancel();
    sessions.close();
    if tokio::time::timeout(SHUTDOWN_TIME, sessions.wait())
        .await
        .is_err()
    {
        warn!(
            sessions = sessions.len(),
            "sessions did not end in time; their mail stays with the sender, or queued"
        );
    }
    info!("stopped");
    Ok(())
}

/// What all connections have in common.
struct Everybody<'a> {
    sessions: &'a TaskTracker,
    shutdown: &'a CancellationToken,
}

impl Everybody<'_> {
    /// Serves whoever connects to these.
    fn serve<S: Service>(
        &self,
        service: &S,
        listeners: Vec<std::net::TcpListener>,
    ) -> std::io::Result<()> {
        let connections = Connections::default();
        for listener in listeners {
            self.sessions.spawn(connections::listen(
                service.clone(),
                tokio::net::TcpListener::from_std(listener)?,
                connections.clone(),
                self.sessions.clone(),
                self.shutdown.clone(),
            ));
        }
        Ok(())
    }

    fn serve_monitors(
        &self,
        context: control::Context,
        listeners: Vec<std::net::TcpListener>,
    ) -> std::io::Result<()> {
        // With port 0 only this tells the port.
        for listener in &listeners {
            info!(address = %listener.local_addr()?, "serves figures");
        }
        self.serve(&Metrics::new(context), listeners)
    }
}

fn joined(addresses: &[std::net::SocketAddr]) -> String {
    let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    texts.join(",")
}

/// For the control socket: as a changed file does.
fn reload_trigger(watch: &Watch) -> Arc<dyn Fn() + Send + Sync> {
    let trigger = watch.trigger();
    Arc::new(move || trigger.pull())
}

/// What the daemon is told from outside. Caught before it says that it is ready: whoever read that may send one.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn catch() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// Reloads when asked, until the daemon shall stop.
async fn supervise(
    mut signals: Signals,
    mut watch: Watch,
    live: &Live<Settings>,
    activity: &Activity,
) {
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return,
            _ = signals.interrupt.recv() => return,
            _ = signals.hangup.recv() => watch.trigger().pull(),
            () = watch.changed() => reload(&watch, live, activity).await,
        }
    }
}

/// All of the new settings, or none of them. What runs keeps the settings that it began with.
async fn reload(watch: &Watch, live: &Live<Settings>, activity: &Activity) {
    let old = live.load();
    let main = old.watched_files().main().to_path_buf();
    let decoy_key = old.accounts.decoy_key().clone();
    let trigger = watch.trigger();
    let load = move || {
        let loaded = Settings::load(&main, decoy_key);
        if loaded.is_err()
            && let Ok(refused) = RelayConfig::load(&main)
        {
            trigger.watch_also(refused.config.named_files());
        }
        loaded
    };
    let loaded = tokio::task::spawn_blocking(load).await;
    match loaded {
        Ok(Ok(new)) => {
            old.log_changes(&new);
            watch.trigger().watch(new.watched_files());
            activity.keep_accounts(|name| new.config.account(name).is_some());
            live.store(new);
            // Last: who waits for it may count on the new settings.
            activity.configured();
        }
        Ok(Err(errors)) => {
            for problem in errors.problems() {
                error!(%problem, "configuration not reloaded; the running settings stay in force");
            }
            activity.configuration_refused(errors.to_string());
        }
        Err(lost) => error!(%lost, "the reload was lost; the running settings stay in force"),
    }
}
