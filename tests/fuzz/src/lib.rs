//! What is fuzzed, as plain functions: octets in, and a panic where a promise does not hold.
//!
//! Each target has two drivers. `tests/fuzz.rs` replays the seeds and tries mutations of them in the build that `cargo test`
//! makes anyway; `fuzz_targets/` hands the same functions to libFuzzer, which follows the coverage. `cargo fuzz-all` builds and
//! runs the latter. A target that is not there yet needs a function here, a line in [`TARGETS`], a file in `fuzz_targets/`
//! with its entry in `Cargo.toml`, and seeds.
//!
//! Most targets read an input as a `Case`: four octets that say how the rest is used, and the rest.

mod case;
mod client;
mod config;
mod content;
mod grammar;
mod lines;
pub mod mutate;
mod odmr;
mod reference;
mod relay;
mod report;
mod sasl;
mod server;
mod text;

pub use client::{replies, smtp_client};
pub use config::{puller_config, relay_config};
pub use content::{bdat_framing, content_inspector, data_framing};
pub use grammar::{addresses, command_line, parameters};
pub use lines::command_lines;
pub use odmr::{odmr_customer, odmr_provider};
pub use relay::{forged_results, log_records, proxy_header, resolver_frames};
pub use report::delivery_status;
pub use sasl::{sasl_client, sasl_server};
pub use server::smtp_server;
pub use text::{ids, peer_text, trace_header};

/// One thing that is fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Of the function, of its folder in `seeds/`, and of its program in `fuzz_targets/`.
    pub name: &'static str,
    /// Runs one input.
    pub run: fn(&[u8]),
    /// Octets that an input is worth having.
    pub octets_max: usize,
}

/// A [`Target`] for a function of this crate.
macro_rules! targets {
    ($($name:ident up to $octets_max:literal),* $(,)?) => {
        [$(Target { name: stringify!($name), run: $name, octets_max: $octets_max }),*]
    };
}

/// All of them, in the order in which a long run takes them.
pub const TARGETS: [Target; 24] = targets![
    addresses up to 320,
    bdat_framing up to 512,
    command_line up to 512,
    command_lines up to 5000,
    content_inspector up to 1024,
    data_framing up to 1024,
    delivery_status up to 4096,
    forged_results up to 1024,
    ids up to 64,
    log_records up to 512,
    odmr_customer up to 2048,
    odmr_provider up to 2048,
    parameters up to 512,
    peer_text up to 512,
    proxy_header up to 560,
    puller_config up to 4096,
    relay_config up to 4096,
    replies up to 1024,
    resolver_frames up to 1024,
    sasl_client up to 512,
    sasl_server up to 512,
    smtp_client up to 2048,
    smtp_server up to 2048,
    trace_header up to 512,
];
