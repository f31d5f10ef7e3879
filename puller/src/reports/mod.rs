//! Reports to senders outside: the one way on which mail of a relay goes anywhere but inside.
//!
//! A relay cannot send mail, so its reports on mail for our domains come to us like other mail, and we pass them to a
//! smart host (`[reports]`). A captured relay would like to write to the world that way. So the [`rule`] is narrow, and
//! what passes it is not what the relay wrote but a [report of our own](rebuild), built from codes and addresses.

mod mime;
mod rate;
mod rebuild;
mod rule;
mod smart_host;
mod status;
mod switch;
#[cfg(test)]
mod testing;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use atrn_shared::config::ConfigErrors;

use crate::config::PullerConfig;
use crate::handover::Setup;
use rate::{Ticket, Window};
pub(crate) use switch::Switch;

/// A smart host that was not to be had is left alone for so long: mail for inside waits behind every attempt.
const AFTER_FAILURE: Duration = Duration::from_secs(60);

/// What a session needs for reports to senders outside.
#[derive(Clone, Debug)]
pub struct Reports {
    setup: Setup,
    max_per_hour: u32,
    traffic: Traffic,
}

/// What all sessions of a process know together about the reports that left.
#[derive(Clone, Debug)]
pub struct Traffic {
    began: Instant,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    window: Window,
    /// When the smart host was last found out of reach.
    failed_at: Option<Duration>,
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

impl Default for Traffic {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            state: Arc::default(),
        }
    }
}

impl Traffic {
    fn is_open(&self, max_per_hour: u32) -> bool {
        self.with(|state, now| state.window.is_open(now, max_per_hour))
    }

    fn take(&self, max_per_hour: u32) -> Option<Ticket> {
        self.with(|state, now| state.window.take(now, max_per_hour))
    }

    fn give_back(&self, ticket: Ticket) {
        self.with(|state, _| state.window.give_back(ticket));
    }

    fn note_failure(&self) {
        self.with(|state, now| state.failed_at = Some(now));
    }

    fn is_worth_a_try(&self) -> bool {
        self.with(|state, now| {
            state
                .failed_at
                .is_none_or(|failed_at| now >= failed_at + AFTER_FAILURE)
        })
    }

    fn with<T>(&self, look: impl FnOnce(&mut State, Duration) -> T) -> T {
        // Counters: a panic elsewhere leaves them as good as they were.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        look(&mut state, self.began.elapsed())
    }
}

#[cfg(test)]
mod tests;
