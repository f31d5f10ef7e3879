//! The admin's way to the queue: one set of requests, one place that answers them.
//!
//! The daemon answers on a Unix socket in its `data_dir` (`server`); where none runs, the command line opens the
//! queue itself and asks the same [`handle`]. Who may ask is a matter of file permissions: the directory is
//! 0700, the socket 0600.

mod answer;
mod change;
mod client;
mod protocol;
mod server;
#[cfg(test)]
mod tests;

pub use answer::{Context, Daemon, handle};
pub use client::{Client, ClientError, act_as_owner};
pub use protocol::{
    AccountStatus, Asked, DomainStatus, Ending, ErrorKind, Refused, Reply, Request, Status, VERSION,
};
pub(crate) use server::refuse_second;
pub use server::{BindError, bind, serve};

use std::path::{Path, PathBuf};

/// Where the socket is.
#[must_use]
pub fn socket_path(data_dir: &Path) -> PathBuf {
    data_dir.join("control.sock")
}
