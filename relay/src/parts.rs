//! What the daemon is made of: built once, and handed to whoever serves a listener or a clock.

use atrn_shared::config::Live;

use crate::activity::Activity;
use crate::audit::{Audit, Remembered};
use crate::closing::{Closing, Source};
use crate::control;
use crate::edge::{Edge, Verifier};
use crate::expiry::Expiry;
use crate::limits::{Greylist, Limits};
use crate::names::{Names, Resolver};
use crate::provider::Provider;
use crate::queue::Store;
use crate::settings::Settings;
use crate::transaction_log::TransactionLog;

/// The parts that more than one of the others needs. Each is a handle.
pub(crate) struct Parts {
    pub(crate) settings: Live<Settings>,
    pub(crate) store: Store,
    pub(crate) activity: Activity,
    pub(crate) limits: Limits,
    pub(crate) greylist: Greylist,
    pub(crate) audit: Audit,
    pub(crate) names: Names,
    pub(crate) log: TransactionLog,
    closing: Closing,
}

impl Parts {
    /// Starts what has a thread, and joins the rest. What the audit remembers of earlier runs is for the pullers' side.
    pub(crate) fn build(
        mut settings: Settings,
        store: Store,
        resolver: Option<Resolver>,
    ) -> std::io::Result<(Self, Remembered)> {
        let (audit, remembered) = Audit::start(&settings.config.data_dir);
        settings.accounts.keep_decoys(remembered.decoy_key.as_ref());
        let config = &settings.config;
        let limits = Limits::new(config.limits.clone());
        let greylist = Greylist::open(&config.data_dir);
        let log =
            TransactionLog::start(&config.transaction_log, &config.data_dir, &config.hostname);
        let names = resolver.map_or_else(|| Ok(Names::off()), Resolver::start)?;
        let activity = Activity::new();
        let settings = Live::new(settings);
        let closing = Closing::new(
            store.clone(),
            Source::Daemon(settings.clone(), activity.clone()),
            log.clone(),
        );
        let parts = Self {
            settings,
            store,
            activity,
            limits,
            greylist,
            audit,
            names,
            log,
            closing,
        };
        Ok((parts, remembered))
    }

    pub(crate) fn edge(&self) -> Edge {
        Edge {
            settings: self.settings.clone(),
            store: self.store.clone(),
            activity: self.activity.clone(),
            limits: self.limits.clone(),
            greylist: self.greylist.clone(),
            verifier: Verifier::new(self.names.clone()),
            names: self.names.clone(),
            log: self.log.clone(),
            audit: self.audit.clone(),
        }
    }

    pub(crate) fn provider(&self, remembered: Remembered) -> Provider {
        Provider::new(
            self.settings.clone(),
            self.store.clone(),
            self.closing.clone(),
            self.activity.clone(),
            self.limits.clone(),
            self.audit.clone(),
        )
        .remembering(remembered)
        .recording(self.log.clone())
    }

    pub(crate) fn expiry(&self) -> Expiry {
        Expiry {
            store: self.store.clone(),
            closing: self.closing.clone(),
            settings: self.settings.clone(),
            log: self.log.clone(),
        }
    }

    /// For the admin's socket and the monitor.
    pub(crate) fn control(&self, reload: impl Fn() + Send + Sync + 'static) -> control::Context {
        control::Context::daemon(
            self.store.clone(),
            control::Daemon {
                settings: self.settings.clone(),
                activity: self.activity.clone(),
                limits: self.limits.clone(),
                greylist: self.greylist.clone(),
                names: self.names.clone(),
                log: self.log.clone(),
                reload: std::sync::Arc::new(reload),
            },
        )
    }
}
