//! The sandbox: whether it can be put up here, and, for `check --sandbox`, the same walls as around the relay, tried from inside.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::{env, fs};

use atrn_relay::config::RelayConfig;
use atrn_relay::sandbox;
use atrn_shared::cli::{Failure, Output};
use atrn_shared::sandbox::{Account, Attempt, Enforcement, InForce, Probe, kernel_lacks};
use nix::unistd::geteuid;
use serde::Serialize;

use super::Findings;
use crate::cli::Call;

impl Findings {
    /// What the start would say of it. `check --sandbox` tries it.
    pub(super) fn sandbox(&mut self, config: &RelayConfig, main: &Path) {
        let settings = &config.sandbox;
        let account = Account::of(settings).unwrap_or_else(|errors| {
            self.config_problems("sandbox", &errors);
            None
        });
        match account.map_or(Ok(()), Account::may_be_taken) {
            Err(error) => self.problem("sandbox", error.to_string()),
            Ok(()) => {
                if let Err(errors) = sandbox::check_reach(config, main, account) {
                    self.config_problems("permissions", &errors);
                }
            }
        }
        // The service may have a user of its own, to whom its data belongs, and only we be root.
        let is_roots = fs::metadata(&config.data_dir).is_ok_and(|data_dir| data_dir.uid() == 0);
        let stays_root = account.map_or_else(
            || is_roots && geteuid().is_root(),
            |user| user.uid.is_root(),
        );
        if stays_root {
            self.warning(
                "sandbox",
                "a relay that root starts stays root; name a user of its own: [sandbox] user = \"atrn-relay\"".to_owned(),
            );
        }
        let lacking = kernel_lacks().join(" and ");
        let lacks = !lacking.is_empty();
        match settings.enforcement {
            Enforcement::Off => self.warning("sandbox", "switched off".to_owned()),
            Enforcement::BestEffort if lacks => {
                self.warning("sandbox", format!("this kernel lacks {lacking}"));
            }
            Enforcement::Required if lacks => self.problem(
                "sandbox",
                format!(
                    "this kernel lacks {lacking}; enabled = \"best-effort\" runs with what there is"
                ),
            ),
            _ => self.ok("sandbox", "this kernel can enforce it".to_owned()),
        }
    }
}

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
    let account = Account::of(&config.sandbox)?;
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
