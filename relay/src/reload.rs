//! New settings for the running daemon: all of them, or none.

use atrn_shared::config::{ConfigErrors, Live, Watch};
use atrn_shared::sasl::Credentials;
use tracing::error;

use crate::activity::Activity;
use crate::config::RelayConfig;
use crate::limits::Limits;
use crate::sandbox::Confined;
use crate::settings::Settings;

/// What takes part in a reload.
pub(crate) struct Reload {
    pub(crate) settings: Live<Settings>,
    pub(crate) activity: Activity,
    pub(crate) limits: Limits,
    pub(crate) confined: Confined,
}

impl Reload {
    /// What runs keeps the settings that it began with.
    pub(crate) async fn run(&self, watch: &Watch) {
        let old = self.settings.load();
        let main = old.watched_files().main().to_path_buf();
        let decoy_key = old.accounts.decoy_key().clone();
        let trigger = watch.trigger();
        let confined = self.confined.clone();
        let load = move || {
            let loaded = Settings::load(&main, decoy_key);
            let Err(errors) = loaded else {
                return loaded;
            };
            let Ok(refused) = RelayConfig::load(&main) else {
                return Err(errors);
            };
            trigger.watch_also(refused.config.named_files());
            Err(joined(confined.hidden(&refused.config), errors))
        };
        let loaded = tokio::task::spawn_blocking(load).await;
        match loaded {
            Ok(Ok(new)) => {
                old.log_changes(&new);
                watch.trigger().watch(new.watched_files());
                self.activity
                    .keep_accounts(|name| new.config.account(name).is_some());
                self.limits.configure(new.config.limits.clone());
                self.settings.store(new);
                // Last: who waits for it may count on the new settings.
                self.activity.configured();
            }
            Ok(Err(errors)) => {
                for problem in errors.problems() {
                    error!(%problem, "configuration not reloaded; the running settings stay in force");
                }
                self.activity.configuration_refused(errors.to_string());
            }
            Err(lost) => error!(%lost, "the reload was lost; the running settings stay in force"),
        }
    }
}

/// The reason before what came of it.
fn joined(hidden: Option<ConfigErrors>, errors: ConfigErrors) -> ConfigErrors {
    match hidden {
        None => errors,
        Some(hidden) => {
            let problems = hidden.problems().iter().chain(errors.problems());
            ConfigErrors::new(problems.cloned().collect())
        }
    }
}
