//! `resolver`: the process that asks name servers, and its guardian. Nobody calls it but `run`.

use std::process;

use atrn_relay::names;
use atrn_shared::cli::{Failure, print_error};
use clap::Args;

/// Answers the relay's questions about names; started by `run` only
#[derive(Args, Debug)]
pub(super) struct ResolverCommand {
    /// What `run` starts it with
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

impl ResolverCommand {
    /// Its exit codes are for its parent.
    pub(super) fn run(self) -> process::ExitCode {
        names::run(&self.arguments).unwrap_or_else(|error| {
            let failure = Failure::failed(error.to_string());
            print_error(&failure);
            failure.code.into()
        })
    }
}
