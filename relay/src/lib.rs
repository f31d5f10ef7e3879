//! The relay: takes mail from the Internet, holds it, gives it to pullers. It never connects out.
//!
//! [`run`] builds the parts and joins them: the edge and the provider meet only in the [`queue`], the
//! settings and the activity that are handed to both.

pub mod accounts;
pub mod activity;
pub mod audit;
pub mod certificate;
mod closing;
pub mod config;
mod connections;
pub mod control;
mod edge;
mod expiry;
pub mod fragments;
#[doc(hidden)]
pub mod fuzzing;
pub mod guessable;
pub mod limits;
mod metrics;
pub mod names;
mod provider;
mod proxy;
pub mod queue;
mod reload;
mod report;
pub mod sandbox;
mod session_id;
pub mod settings;
mod sockets;
pub mod transaction_log;

pub use sockets::{BindError, Sockets, bind, unavailable};

use std::sync::Arc;
use std::time::Duration;

use atrn_shared::config::{Live, Watch, WatchError};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::activity::{Activity, Listening};
use crate::audit::Audit;
use crate::closing::{Closing, Source};
use crate::connections::{Connections, Service};
use crate::edge::{Edge, Verifier};
use crate::expiry::Expiry;
use crate::limits::{Greylist, Limits};
use crate::metrics::Metrics;
use crate::names::Names;
use crate::provider::Provider;
use crate::queue::Store;
use crate::reload::Reload;
use crate::sandbox::Confined;
use crate::settings::Settings;
use crate::transaction_log::TransactionLog;

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
pub async fn run(
    mut settings: Settings,
    mut sockets: Sockets,
    store: Store,
    confined: Confined,
) -> Result<(), RunError> {
    let signals = Signals::catch()?;
    let watch = Watch::start(settings.watched_files())?;
    let activity = Activity::new();
    let limits = Limits::new(settings.config.limits.clone());
    let greylist = Greylist::open(&settings.config.data_dir);
    let (audit, remembered) = Audit::start(&settings.config.data_dir);
    settings.accounts.keep_decoys(remembered.decoy_key.as_ref());
    let config = &settings.config;
    let log = TransactionLog::start(&config.transaction_log, &config.data_dir, &config.hostname);
    let live = Live::new(settings);
    let shutdown = CancellationToken::new();
    let sessions = TaskTracker::new();
    let names = match sockets.resolver.take() {
        Some(resolver) => resolver.start()?,
        None => Names::off(),
    };
    let edge = Edge {
        settings: live.clone(),
        store: store.clone(),
        activity: activity.clone(),
        limits: limits.clone(),
        greylist: greylist.clone(),
        verifier: Verifier::new(names.clone()),
        names: names.clone(),
        log: log.clone(),
        audit: audit.clone(),
    };
    let closing = Closing::new(
        store.clone(),
        Source::Daemon(live.clone(), activity.clone()),
        log.clone(),
    );
    let provider = Provider::new(
        live.clone(),
        store.clone(),
        closing.clone(),
        activity.clone(),
        limits.clone(),
        audit.clone(),
    )
    .remembering(remembered)
    .recording(log.clone());
    let expiry = Expiry {
        store: store.clone(),
        closing,
        settings: live.clone(),
        log: log.clone(),
    };

    let listening = Listening {
        smtp: sockets.smtp_addresses(),
        odmr: sockets.odmr_addresses(),
    };
    let (smtp, odmr) = (joined(&listening.smtp), joined(&listening.odmr));
    activity.listening(listening);
    activity.confined(confined.in_force.clone());
    let everybody = Everybody {
        sessions: &sessions,
        shutdown: &shutdown,
        limits: &limits,
    };
    everybody.serve(&edge, sockets.smtp)?;
    everybody.serve(&provider, sockets.odmr)?;
    sessions.spawn(expiry.run(shutdown.clone()));
    sessions.spawn(limits.clone().tidy(shutdown.clone()));
    sessions.spawn(greylist.clone().keep(shutdown.clone()));
    let context = control::Context::daemon(
        store,
        control::Daemon {
            settings: live.clone(),
            activity: activity.clone(),
            limits: limits.clone(),
            greylist: greylist.clone(),
            names,
            log,
            reload: reload_trigger(&watch),
        },
    );
    everybody.serve_monitors(context.clone(), sockets.metrics)?;
    sessions.spawn(control::serve(sockets.control, context, shutdown.clone()));
    info!(%smtp, %odmr, "ready");

    let reload = Reload {
        settings: live,
        activity,
        limits,
        confined,
    };
    supervise(signals, watch, &reload).await;
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
    audit.close();
    info!("stopped");
    Ok(())
}

/// What all connections have in common.
struct Everybody<'a> {
    sessions: &'a TaskTracker,
    shutdown: &'a CancellationToken,
    limits: &'a Limits,
}

impl Everybody<'_> {
    /// Serves whoever connects to these.
    fn serve<S: Service>(
        &self,
        service: &S,
        listeners: Vec<std::net::TcpListener>,
    ) -> std::io::Result<()> {
        let connections = Connections::new(self.limits.clone(), S::SIDE);
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
async fn supervise(mut signals: Signals, mut watch: Watch, reload: &Reload) {
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return,
            _ = signals.interrupt.recv() => return,
            _ = signals.hangup.recv() => watch.trigger().pull(),
            () = watch.changed() => reload.run(&watch).await,
        }
    }
}
