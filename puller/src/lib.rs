//! Map of the crate.

pub mod config;
