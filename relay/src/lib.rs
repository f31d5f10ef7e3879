//! Map of the crate.

pub mod activity;
pub mod config;
pub mod queue;
