//! Map of the crate.

pub mod config;
pub mod queue;
