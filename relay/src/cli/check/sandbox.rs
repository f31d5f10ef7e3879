//! `check --sandbox`: the same walls as around the relay, tried from inside.

use std::env;

use atrn_relay::config::RelayConfig;
use atrn_relay::sandbox;
use atrn_shared::cli::{Failure, Output};
use atrn_shared::sandbox::{Account, Attempt, InForce, Probe};
use serde::Serialize;

use crate::cli::Call;

/// What is printed.
#[derive(Serialize)]
struct Tried {
    sandbox: InForce,
    attempts: Vec<Attempt>,
}

/// Changes nothing but this process, which ends with it.
pub(super) fn run(call: &Call) -> Result<(), Failure> {
    let config = RelayConfig::load(&call.config_path)?.config;
    let failed = |error: &dyn std::error::Error| Failure::failed(error.to_string());
    let account = Account::of(&config.sandbox).map_err(|error| failed(&error))?;
    // A place where anybody may write, so that only the sandbox can refuse it.
    let probe = Probe::prepare(&env::temp_dir());
    let confined = sandbox::enter(&config, &call.config_path, account);
    let confined = confined.map_err(|error| failed(&error))?;
    let tried = Tried {
        sandbox: confined.in_force,
        attempts: probe.attempts(),
    };
    call.output.show(&tried, describe)?;
    let allowed = tried.attempts.iter().filter(|attempt| !attempt.refused);
    let allowed: Vec<_> = allowed.map(|attempt| attempt.attempt.as_str()).collect();
    match (allowed.as_slice(), call.output) {
        ([], _) => Ok(()),
        (_, Output::Json) => Err(Failure::failed(String::new())),
        (allowed, Output::Table) => Err(Failure::failed(format!(
            "the sandbox does not hold: {}",
            allowed.join(", ")
        ))),
    }
}

fn describe(tried: &Tried) -> String {
    let width = tried.attempts.iter().map(|one| one.attempt.len()).max();
    let width = width.unwrap_or_default();
    let lines = tried.attempts.iter().map(|one| {
        let verdict = if one.refused { "refused" } else { "ALLOWED" };
        format!("{verdict}  {:<width$}  {}", one.attempt, one.answer)
    });
    let head = format!("sandbox  {}", tried.sandbox);
    [head]
        .into_iter()
        .chain(lines)
        .collect::<Vec<_>>()
        .join("\n")
}
