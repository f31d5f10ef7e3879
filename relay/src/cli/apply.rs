//! After a change of the files: does the running relay take it?

use std::path::Path;

use atrn_relay::control::{Client, Reply, Request};
use atrn_shared::cli::Failure;
use serde::Serialize;

use super::client_failure;

/// What became of a change that is in the files.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Applied {
    /// Nothing was changed: `--dry-run`.
    DryRun,
    /// The running relay has it.
    InForce,
    /// It will be read at the start.
    NotRunning,
    /// The relay has not said anything yet.
    Pending,
}

impl Applied {
    /// For people, on standard error.
    pub(super) fn tell(self) {
        let text = match self {
            Self::DryRun => return,
            Self::InForce => "The running relay has taken it over.",
            Self::NotRunning => "The relay is not running; it reads this when it starts.",
            Self::Pending => {
                "The running relay has not taken it over yet; see `status` and its log."
            }
        };
        anstream::eprintln!("{text}");
    }
}

/// Asks the running relay to read its files again, and waits for what it says.
///
/// # Errors
/// When it refuses them. The change stays in the files, as one made by hand would.
pub(super) fn apply(data_dir: &Path) -> Result<Applied, Failure> {
    let Some(mut daemon) = Client::daemon(data_dir).map_err(client_failure)? else {
        return Ok(Applied::NotRunning);
    };
    match daemon.ask_one(&Request::Reload).map_err(client_failure)? {
        Reply::Reloaded(Some(state)) => match state.error {
            None => Ok(Applied::InForce),
            Some(error) => Err(Failure::failed(format!(
                "the change is written, but the running relay refuses its files: {}",
                error.replace('\n', "; ")
            ))),
        },
        _ => Ok(Applied::Pending),
    }
}
