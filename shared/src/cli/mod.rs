//! What both programs' command lines share: common options, exit codes, output, prompts, completions and man pages.

mod exit;
mod options;
mod output;
mod pages;

pub use exit::{ExitCode, Failure};
pub use options::{ColorWhen, Common, Destructive, Program, parse};
pub use output::{Output, Table, age, confirm, print, print_error, size};
pub use pages::{CompletionsCommand, ManCommand};
