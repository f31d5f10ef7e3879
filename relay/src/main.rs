//! The `atrn-relay` program. Everything is in the library and in [`cli`]; there is no runtime here, because
//! sockets are bound before any thread starts.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
