//! `atrn-puller`: see [`atrn_puller::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    atrn_puller::cli::main()
}
