//! Pulls held mail from relays (RFC 2645) and hands it on to the corporate mail server.
//!
//! [`session`] makes one pull; [`reversed`] is its second half, in lock-step with [`handover`]; [`journal`] knows what is
//! inside already, and [`reports`] is the one way outside; [`daemon`] keeps a session with each relay, or pulls on the clock of
//! [`schedule`], and [`flow`] tells it when one more session is worth its while; [`cli`] is what people type.

pub mod cli;
pub mod config;
pub mod daemon;
mod dial;
pub mod flow;
#[doc(hidden)]
pub mod fuzzing;
pub mod handover;
pub mod journal;
mod login;
pub mod outcome;
mod private;
pub mod reports;
pub mod reversed;
mod sandbox;
pub mod schedule;
pub mod session;
mod sessions;
pub mod status;
#[cfg(test)]
mod testing;
