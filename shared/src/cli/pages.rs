//! `completions` and `man`: made from the command tree, so that they cannot fall behind it.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Failure, Program, options, print};

/// Print completions for a shell
///
/// Example: completions bash > /etc/bash_completion.d/PROGRAM
#[derive(Args, Clone, Debug)]
pub struct CompletionsCommand {
    /// The shell.
    shell: Shell,
}

impl CompletionsCommand {
    /// Prints them.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn run<C: CommandFactory>(&self, program: Program) -> Result<(), Failure> {
        let mut command = options::command::<C>(program);
        let name = command.get_name().to_owned();
        let mut out = Vec::new();
        clap_complete::generate(self.shell, &mut command, name, &mut out);
        print(String::from_utf8_lossy(&out).trim_end())
    }
}

/// Print the manual page, or write one for each command into a directory
///
/// Example: man --out /usr/share/man/man1
#[derive(Args, Clone, Debug)]
pub struct ManCommand {
    /// Write a page for the program and one for each command into this directory.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl ManCommand {
    /// Prints or writes them.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn run<C: CommandFactory>(&self, program: Program) -> Result<(), Failure> {
        let command = options::command::<C>(program);
        let failed = |error: std::io::Error| {
            Failure::failed(format!("cannot write the manual page: {error}"))
        };
        if let Some(directory) = &self.out {
            fs::create_dir_all(directory).map_err(failed)?;
            return clap_mangen::generate_to(command, directory).map_err(failed);
        }
        let mut out = Vec::new();
        clap_mangen::Man::new(command)
            .render(&mut out)
            .and_then(|()| out.flush())
            .map_err(failed)?;
        print(String::from_utf8_lossy(&out).trim_end())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Common;

    /// A program.
    #[derive(Debug, Parser)]
    #[command(name = "x", subcommand_required = true)]
    struct Cli {
        #[command(flatten)]
        common: Common,
        #[command(subcommand)]
        command: Command,
    }

    #[derive(Debug, clap::Subcommand)]
    enum Command {
        /// Show it.
        Show,
    }

    #[test]
    fn a_page_is_written_for_each_command() {
        let directory = tempfile::tempdir().unwrap();
        let command = ManCommand {
            out: Some(directory.path().join("man1")),
        };
        let program = Program {
            default_config: "/etc/x.toml",
            config_variable: "X_CONFIG",
        };
        command.run::<Cli>(program).unwrap();
        let page =
            |name: &str| fs::read_to_string(directory.path().join("man1").join(name)).unwrap();
        assert!(page("x.1").contains("/etc/x.toml"));
        assert!(page("x-show.1").contains("Show it"));
    }
}
