//! Map of the crate.
pub mod sasl;

pub mod config;
