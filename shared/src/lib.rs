//! Map of the crate.
pub mod odmr;
pub mod sasl;

pub mod config;
pub mod smtp;
pub mod cli;
pub mod log;
pub mod secret;
pub mod tls;
pub mod dialogue;
pub mod wire;
