//! The command line: a file a command, and what they share.

mod check;
mod init;
mod pull;
mod run;
mod status;

use atrn_shared::cli::{
    self, Common, CompletionsCommand, ExitCode, Failure, ManCommand, Program, print_error,
};
use atrn_shared::config::Loaded;
use atrn_shared::log;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::{DEFAULT_PATH, PullerConfig, RelayConfig};
use crate::reversed::Tally;

const PROGRAM: Program = Program {
    default_config: DEFAULT_PATH,
    config_variable: "ATRN_PULLER_CONFIG",
};

/// Pulls held mail from On-Demand Mail Relays (RFC 2645) and hands it to the corporate mail server.
#[derive(Debug, Parser)]
#[command(name = "atrn-puller", version)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::InitCommand),
    Run(run::RunCommand),
    Pull(pull::PullCommand),
    Check(check::CheckCommand),
    Status(status::StatusCommand),
    Completions(CompletionsCommand),
    Man(ManCommand),
}

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> std::process::ExitCode {
    let cli: Cli = cli::parse(PROGRAM, |cli: &Cli| &cli.common);
    let outcome = match &cli.command {
        Command::Init(command) => command.run(&cli.common).map(|()| ExitCode::Success),
        Command::Run(command) => command.run(&cli.common).map(|()| ExitCode::Success),
        Command::Pull(command) => command.run(&cli.common),
        Command::Check(command) => command.run(&cli.common),
        Command::Status(command) => command.run(&cli.common).map(|()| ExitCode::Success),
        Command::Completions(command) => command.run::<Cli>(PROGRAM).map(|()| ExitCode::Success),
        Command::Man(command) => command.run::<Cli>(PROGRAM).map(|()| ExitCode::Success),
    };
    let code = outcome.unwrap_or_else(|failure| {
        print_error(&failure);
        failure.code
    });
    code.into()
}

/// Loads the settings and starts the log.
fn load(common: &Common) -> Result<Loaded<PullerConfig>, Failure> {
    let loaded = PullerConfig::load(&common.config())?;
    log::start(loaded.config.log, common.verbose);
    loaded.notes.log_warnings();
    Ok(loaded)
}

/// The relays of these names, or all.
fn chosen<'c>(config: &'c PullerConfig, names: &[String]) -> Result<Vec<&'c RelayConfig>, Failure> {
    if names.is_empty() {
        return Ok(config.relays.iter().collect());
    }
    let find = |name: &String| {
        config.relay(name).ok_or_else(|| {
            let known: Vec<_> = config
                .relays
                .iter()
                .map(|relay| relay.name.as_str())
                .collect();
            Failure::new(
                ExitCode::Usage,
                format!(
                    "there is no relay {name}; the configuration has {}",
                    known.join(", ")
                ),
            )
        })
    };
    names.iter().map(find).collect()
}

/// What a table's numbers do not say by themselves: lines to put below it, each with its break in front.
fn notes_on(relay: &str, tally: &Tally) -> String {
    let Tally {
        messages,
        deferred,
        refused,
        already_there,
        ..
    } = *tally;
    let mut notes = String::new();
    let all = messages + deferred + refused;
    // A few are nothing unusual; a server that refuses most of its mail is misconfigured, and senders hear of it.
    if refused > all / 2 {
        notes += &format!(
            "\n{relay}: the mail server refused {refused} of {all} for good; the log has its replies"
        );
    }
    if already_there > 0 {
        notes += &format!("\n{relay}: {already_there} more were offered again, and inside already");
    }
    notes
}

/// Cancels by SIGTERM and SIGINT. Must be called inside a runtime.
fn stop_on_signals(stop: &CancellationToken) -> Result<(), Failure> {
    let failed = |error| Failure::failed(format!("cannot wait for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        token.cancel();
    });
    Ok(())
}

/// A runtime for one short command: a single session is fastest on a single thread.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    built(&mut tokio::runtime::Builder::new_current_thread())
}

fn built(builder: &mut tokio::runtime::Builder) -> Result<tokio::runtime::Runtime, Failure> {
    builder
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start: {error}")))
}
