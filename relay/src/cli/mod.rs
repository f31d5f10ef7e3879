//! The command line: its tree, and a file for each noun. What commands do is the library's.

mod account;
mod apply;
mod audit;
mod ban;
mod check;
mod domain;
mod init;
mod queue;
mod resolver;
mod run;
mod status;
mod trace;
mod units;

use std::path::PathBuf;

use atrn_relay::config::{DEFAULT_PATH, RelayConfig};
use atrn_relay::control::{Client, ClientError};
use atrn_relay::fragments::Fragments;
use atrn_shared::cli::{
    Common, CompletionsCommand, ExitCode, Failure, ManCommand, Output, Program, parse, print_error,
};
use atrn_shared::sandbox::Account;
use clap::{Parser, Subcommand};
use nix::sys::stat::{Mode, umask};

use self::account::AccountCommand;
use self::audit::AuditCommand;
use self::ban::BanCommand;
use self::check::CheckCommand;
use self::domain::DomainCommand;
use self::init::InitCommand;
use self::queue::QueueCommand;
use self::resolver::ResolverCommand;
use self::run::RunCommand;
use self::status::StatusCommand;
use self::trace::TraceCommand;

const PROGRAM: Program = Program {
    default_config: DEFAULT_PATH,
    config_variable: "ATRN_RELAY_CONFIG",
};

/// Accepts mail on the Internet side, holds it per domain, gives it to authenticated pullers (RFC 2645)
///
/// A first set-up: `init`, `domain add`, `account add`, `check`, `run`.
#[derive(Debug, Parser)]
#[command(name = "atrn-relay", version, propagate_version = false)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(InitCommand),
    Run(RunCommand),
    Check(CheckCommand),
    Status(StatusCommand),
    Trace(TraceCommand),
    #[command(subcommand)]
    Queue(QueueCommand),
    #[command(subcommand)]
    Domain(DomainCommand),
    #[command(subcommand)]
    Account(AccountCommand),
    Audit(AuditCommand),
    #[command(subcommand)]
    Ban(BanCommand),
    Completions(CompletionsCommand),
    Man(ManCommand),
    #[command(hide = true)]
    Resolver(ResolverCommand),
}

/// What a command knows of how it was called.
#[derive(Debug)]
struct Call {
    /// The main configuration file.
    config_path: PathBuf,
    output: Output,
    verbosity: u8,
}

/// Does what the arguments say.
pub(crate) fn main() -> std::process::ExitCode {
    let cli: Cli = parse(PROGRAM, |cli: &Cli| &cli.common);
    let call = Call {
        config_path: cli.common.config(),
        output: cli.common.output(),
        verbosity: cli.common.verbose,
    };
    let ended = match cli.command {
        Command::Init(command) => command.run(&call),
        Command::Run(command) => command.run(&call),
        Command::Check(command) => command.run(&call),
        Command::Status(command) => command.run(&call),
        Command::Trace(command) => command.run(&call),
        Command::Queue(command) => command.run(&call),
        Command::Domain(command) => command.run(&call),
        Command::Account(command) => command.run(&call),
        Command::Audit(command) => command.run(&call),
        Command::Ban(command) => command.run(&call),
        Command::Completions(command) => command.run::<Cli>(PROGRAM),
        Command::Man(command) => command.run::<Cli>(PROGRAM),
        Command::Resolver(command) => return command.run(),
    };
    let code = match ended {
        Ok(()) => ExitCode::Success,
        Err(failure) => {
            print_error(&failure);
            failure.code
        }
    };
    code.into()
}

impl Call {
    fn config(&self) -> Result<RelayConfig, Failure> {
        Ok(RelayConfig::load(&self.config_path)?.config)
    }

    /// What the command line keeps beside the configuration, for the user that the relay becomes.
    fn fragments(&self, config: &RelayConfig) -> Result<Fragments, Failure> {
        let account = Account::of(&config.sandbox)?;
        let data_dir = &config.data_dir;
        Ok(Fragments::beside(&self.config_path, data_dir, account))
    }

    /// How to call this program again with the same configuration.
    fn again(&self) -> String {
        if self.config_path.as_os_str() == DEFAULT_PATH {
            "atrn-relay".to_owned()
        } else {
            format!("atrn-relay -c {}", self.config_path.display())
        }
    }
}

/// The running relay, or the queue itself.
fn open(config: RelayConfig) -> Result<Client, Failure> {
    keep_files_private();
    Client::open(config).map_err(client_failure)
}

/// What the queue writes is other people's mail.
fn keep_files_private() {
    umask(Mode::from_bits_truncate(0o077));
}

/// Errors of the control socket name what was asked and why not; one line as they are.
fn client_failure(error: ClientError) -> Failure {
    Failure::failed(error.to_string().replace('\n', " "))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_says_what_it_is_for() {
        fn check(command: &clap::Command) {
            let about = command.get_about().map(ToString::to_string);
            let about = about.unwrap_or_default();
            assert!(!about.is_empty(), "{} has no help", command.get_name());
            assert!(!about.ends_with('.'), "{about}");
            for argument in command.get_arguments() {
                let id = argument.get_id();
                assert!(argument.get_help().is_some(), "{} {id}", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    /// Words as a shell splits them, as far as our examples go.
    fn words(line: &str) -> Vec<String> {
        let line = line.split(" > ").next().unwrap_or_default();
        // What stands between two quotes is one word; the parts outside of them are the even ones.
        let parts = line.split('"').enumerate();
        let words = parts.flat_map(|(number, part)| match number % 2 {
            0 => part.split_whitespace().map(str::to_owned).collect(),
            _ => vec![part.to_owned()],
        });
        words.collect()
    }

    #[track_caller]
    fn assert_parses(line: &str) {
        let parsed = Cli::try_parse_from(words(line));
        assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
    }

    #[test]
    fn the_examples_of_the_help_are_right() {
        fn check(command: &clap::Command, checked: &mut usize) {
            let about = command.get_long_about().map(ToString::to_string);
            for line in about.unwrap_or_default().lines() {
                if let Some(example) = line.strip_prefix("Example: ")
                    && example.starts_with("atrn-relay ")
                {
                    assert_parses(example);
                    *checked += 1;
                }
            }
            for subcommand in command.get_subcommands() {
                check(subcommand, checked);
            }
        }
        let mut checked = 0;
        check(&Cli::command(), &mut checked);
        assert!(checked > 10, "{checked}");
    }

    #[test]
    fn the_commands_of_the_manual_are_right() {
        let manual = include_str!("../../../docs/operations.md");
        let commands = manual
            .lines()
            .filter(|line| line.starts_with("atrn-relay "));
        assert!(commands.clone().count() > 20);
        commands.for_each(assert_parses);
    }
}
