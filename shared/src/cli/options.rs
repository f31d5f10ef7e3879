//! Options that every command takes, and the way from arguments to a program's own type.

use std::path::PathBuf;

use clap::{ArgAction, Args, CommandFactory, FromArgMatches, ValueEnum};

use super::Output;

/// What the two programs differ in.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Where the main configuration file is unless `-c` names another.
    pub default_config: &'static str,
    /// The environment variable that may name it.
    pub config_variable: &'static str,
}

/// Options of every command.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// The main configuration file; `conf.d/*.toml` beside it is merged in.
    #[arg(short, long, value_name = "FILE", global = true, help_heading = EVERYWHERE)]
    config: Option<PathBuf>,

    /// Print JSON instead of a table.
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub json: bool,

    /// When to use colours.
    #[arg(long, value_name = "WHEN", global = true, default_value = "auto", help_heading = EVERYWHERE)]
    pub color: ColorWhen,

    /// Log more; twice logs everything.
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = EVERYWHERE)]
    pub verbose: u8,
}

impl Common {
    /// The main configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.config.clone().unwrap_or_default()
    }

    /// How to print.
    #[must_use]
    pub fn output(&self) -> Output {
        if self.json {
            Output::Json
        } else {
            Output::Table
        }
    }
}

/// When to use colours.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum ColorWhen {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Options of commands that destroy something.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Destructive {
    /// Say what would be done, and do nothing.
    #[arg(long)]
    pub dry_run: bool,

    /// Do not ask.
    #[arg(short, long)]
    pub yes: bool,
}

/// Parses the process's arguments. On a mistake, `--help` or `--version` prints and exits (2 or 0), as clap does.
#[must_use]
pub fn parse<C: CommandFactory + FromArgMatches>(
    program: Program,
    common: impl Fn(&C) -> &Common,
) -> C {
    let matches = command::<C>(program).get_matches();
    let parsed = C::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let choice = match common(&parsed).color {
        ColorWhen::Auto => anstream::ColorChoice::Auto,
        ColorWhen::Always => anstream::ColorChoice::Always,
        ColorWhen::Never => anstream::ColorChoice::Never,
    };
    choice.write_global();
    parsed
}

/// The command tree with the program's own default for `-c`.
pub(super) fn command<C: CommandFactory>(program: Program) -> clap::Command {
    C::command().mut_arg("config", |argument| {
        argument
            .default_value(program.default_config)
            .env(program.config_variable)
            .hide_env(true)
    })
}

/// Keeps a command's own options together in its help.
const EVERYWHERE: &str = "Options of every command";

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        common: Common,
        #[command(subcommand)]
        command: Command,
    }

    #[derive(Debug, clap::Subcommand)]
    enum Command {
        Show(Destructive),
    }

    const PROGRAM: Program = Program {
        default_config: "/etc/x/x.toml",
        config_variable: "ATRN_TEST_CONFIG_THAT_NOBODY_SETS",
    };

    fn parsed(arguments: &[&str]) -> Cli {
        let matches = command::<Cli>(PROGRAM)
            .try_get_matches_from(arguments)
            .unwrap();
        Cli::from_arg_matches(&matches).unwrap()
    }

    #[test]
    fn common_options_stand_before_and_behind_the_command() {
        let plain = parsed(&["x", "show"]);
        assert_eq!(plain.common.config(), PathBuf::from("/etc/x/x.toml"));
        assert_eq!(
            (plain.common.json, plain.common.verbose, plain.common.color),
            (false, 0, ColorWhen::Auto)
        );
        for arguments in [
            &["x", "-c", "f", "-v", "--json", "show", "--yes"][..],
            &["x", "show", "--json", "-y", "-vc", "f"],
        ] {
            let cli = parsed(arguments);
            let Command::Show(destructive) = cli.command;
            assert!(destructive.yes && !destructive.dry_run);
            assert_eq!(
                (cli.common.config(), cli.common.json, cli.common.verbose),
                (PathBuf::from("f"), true, 1)
            );
        }
    }
}
