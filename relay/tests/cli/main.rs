//! The program itself, in a directory of its own: what it prints, what it leaves, how it ends.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod backup;
mod daemon;
mod ending;
mod files;
mod mistakes;
mod queue;
mod setup;
