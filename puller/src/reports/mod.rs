//! Reports to senders outside: the one way on which mail of a relay goes anywhere but inside.
//!
//! A relay cannot send mail, so its reports on mail for our domains come to us like other mail, and we pass them to a
//! smart host (`[reports]`). A captured relay would like to write to the world that way. So the `rule` is narrow, and
//! what passes it is not what the relay wrote but a report of our own (`rebuild`), built from codes and addresses.

pub(crate) mod fuzzing;
mod mime;
mod rate;
mod rebuild;
mod rule;
mod smart_host;
mod status;
mod switch;
#[cfg(test)]
mod testing;
mod traffic;

use atrn_shared::config::ConfigErrors;

use crate::config::PullerConfig;
use crate::handover::Setup;
pub(crate) use switch::{Draft, Outside, Route, Switch};
pub use traffic::Traffic;

/// What a session needs for reports to senders outside.
#[derive(Clone, Debug)]
pub struct Reports {
    setup: Setup,
    max_per_hour: u32,
    traffic: Traffic,
}

impl Reports {
    /// By the settings; `None` where they have no `[reports]`.
    ///
    /// # Errors
    /// Every problem with the files that they name.
    pub fn load(config: &PullerConfig, traffic: &Traffic) -> Result<Option<Self>, ConfigErrors> {
        let Some(reports) = &config.reports else {
            return Ok(None);
        };
        Ok(Some(Self {
            setup: Setup::load(&reports.handover, &config.hostname)?,
            max_per_hour: reports.max_per_hour,
            traffic: traffic.clone(),
        }))
    }

    /// Where they go.
    #[must_use]
    pub fn setup(&self) -> &Setup {
        &self.setup
    }
}

#[cfg(test)]
mod tests;
