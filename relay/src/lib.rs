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
mod parts;
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

use std::time::Duration;

use atrn_shared::config::{Watch, WatchError};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::activity::Listening;
use crate::audit::Remembered;
use crate::connections::{Connections, Service};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::parts::Parts;
use crate::queue::Store;
use crate::reload::Reload;
use crate::sandbox::Confined;
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
pub async fn run(
    settings: Settings,
    mut sockets: Sockets,
    store: Store,
    confined: Confined,
) -> Result<(), RunError> {
    let signals = Signals::catch()?;
    let watch = Watch::start(settings.watched_files())?;
    let (parts, remembered) = Parts::build(settings, store, sockets.resolver.take())?;
    parts.activity.confined(confined.in_force.clone());
    let shutdown = CancellationToken::new();
    let sessions = TaskTracker::new();
    let everybody = Everybody {
        sessions: &sessions,
        shutdown: &shutdown,
        limits: &parts.limits,
    };
    everybody.serve_all(&parts, remembered, sockets, &watch)?;

    let reload = Reload {
        settings: parts.settings,
        activity: parts.activity,
        limits: parts.limits,
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
    parts.audit.close();
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
    /// Serves on all sockets, and by the clock.
    fn serve_all(
        &self,
        parts: &Parts,
        remembered: Remembered,
        sockets: Sockets,
        watch: &Watch,
    ) -> std::io::Result<()> {
        let listening = Listening {
            smtp: sockets.smtp_addresses(),
            odmr: sockets.odmr_addresses(),
        };
        let (smtp, odmr) = (joined(&listening.smtp), joined(&listening.odmr));
        parts.activity.listening(listening);
        self.serve(&parts.edge(), sockets.smtp)?;
        self.serve(&parts.provider(remembered), sockets.odmr)?;
        let shutdown = || self.shutdown.clone();
        self.sessions.spawn(parts.expiry().run(shutdown()));
        self.sessions.spawn(parts.limits.clone().tidy(shutdown()));
        self.sessions.spawn(parts.greylist.clone().keep(shutdown()));
        let trigger = watch.trigger();
        // As a changed file does.
        let context = parts.control(move || trigger.pull());
        self.serve_monitors(context.clone(), sockets.metrics)?;
        self.sessions
            .spawn(control::serve(sockets.control, context, shutdown()));
        info!(%smtp, %odmr, "ready");
        Ok(())
    }

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
