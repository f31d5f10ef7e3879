//! What both ends of an On-Demand Mail Relay speak. Map of the crate:
//!
//! - [`smtp`]: the two SMTP machines and their grammar, without I/O
//! - [`odmr`]: the two ODMR machines that end in the reversal, without I/O
//! - [`sasl`]: the mechanisms of AUTH as steps, both sides, without I/O
//! - [`wire`]: the one place where bytes meet a stream; [`dialogue`] drives the sending side over it
//! - [`tls`], [`secret`]: certificates and pins, values that do not print themselves
//! - [`sandbox`]: what a process may still do after its start
//! - [`config`], [`log`], [`cli`], [`directory`], [`steady`]: what both programs share as programs

pub mod cli;
pub mod config;
pub mod dialogue;
pub mod directory;
pub mod log;
pub mod odmr;
pub mod sandbox;
pub mod sasl;
pub mod secret;
pub mod smtp;
pub mod steady;
pub mod tls;
pub mod wire;
