//! What was tried and refused: failed logins by name and address, refusals by reason and network.
//!
//! [`Audit`] is a handle that never waits: what it is told goes into a bounded channel, and `store` writes it, summed
//! up, from a thread of its own into a small database beside the queue. When the channel is full or the disk broken,
//! entries are lost and counted, and mail goes on. [`query`] reads the database for the command line.
//!
//! Secrets are never told to it. A user name is what a stranger typed: one that could be an account's is kept whole, of
//! any other only the beginning (`recorded_name`), because people and programs mix up the two fields.

mod batch;
mod network;
pub mod query;
mod store;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use atrn_shared::sasl::Mechanism;
use jiff::Timestamp;

pub use self::network::Network;
use self::store::Note;
use crate::config::is_account_name;

/// Entries on their way to the thread.
const CHANNEL: usize = 4_096;
/// How long a shutdown waits for the last entries.
const CLOSE: Duration = Duration::from_secs(2);
/// Characters kept of a name that cannot be an account's.
const IMPLAUSIBLE_CHARACTERS: usize = 16;

/// The way in. Clones are handles of the same store.
#[derive(Clone, Debug)]
pub struct Audit(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    notes: SyncSender<Note>,
    lost: Arc<AtomicU64>,
}

/// A login that failed.
#[derive(Clone, Copy, Debug)]
pub struct FailedLogin<'f> {
    /// The user that was tried, as it was sent; none where the message did not get so far.
    pub name: Option<&'f str>,
    /// From where.
    pub address: IpAddr,
    /// How.
    pub mechanism: Mechanism,
}

/// What an earlier run left behind.
#[derive(Clone, Debug, Default)]
pub struct Remembered {
    /// Where accounts logged in from, the latest first: the last address of each network.
    pub logins: Vec<(String, IpAddr)>,
    /// Names that are closed to strangers, and how long.
    pub locks: Vec<(String, Timestamp)>,
    /// The key of users that do not exist.
    pub decoy_key: Option<[u8; 32]>,
}

/// Where the database is.
#[must_use]
pub fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("audit.db")
}

impl Audit {
    /// One that keeps nothing.
    #[must_use]
    pub const fn off() -> Self {
        Self(None)
    }

    /// Opens or makes the database and starts its thread. What cannot be read is moved aside; where there can be none,
    /// everything is lost and counted, and the relay runs all the same.
    #[must_use]
    pub fn start(data_dir: &Path) -> (Self, Remembered) {
        let lost = Arc::new(AtomicU64::new(0));
        let (notes, inbox) = sync_channel(CHANNEL);
        let remembered = store::start(path(data_dir), inbox, Arc::clone(&lost));
        (Self(Some(Arc::new(Inner { notes, lost }))), remembered)
    }

    /// A login failed.
    pub fn login_failed(&self, login: FailedLogin<'_>) {
        self.tell(|| Note::Failed {
            name: login.name.map(recorded_name).unwrap_or_default(),
            address: login.address.to_canonical(),
            mechanism: login.mechanism,
        });
    }

    /// An account logged in.
    pub fn logged_in(&self, account: &str, address: IpAddr) {
        self.tell(|| Note::LoggedIn {
            account: account.to_owned(),
            address: address.to_canonical(),
        });
    }

    /// A name is closed to strangers for some time.
    pub fn locked(&self, name: &str, until: Timestamp) {
        self.tell(|| Note::Locked {
            name: recorded_name(name),
            until,
        });
    }

    /// Somebody was refused something. `service` is `edge` or `odmr`, `reason` a few words that are the same each time.
    pub fn refused(&self, service: &'static str, reason: &'static str, address: IpAddr) {
        self.tell(|| Note::Refused {
            service,
            reason,
            network: Network::of(address),
        });
    }

    /// Entries that were lost since the start: more came than could be written.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.0.as_ref().map_or(0, |inner| inner.lost.load(Relaxed))
    }

    /// Writes down what is on its way, at the end of the process. Waits a moment at most.
    pub fn close(&self) {
        let Some(inner) = &self.0 else { return };
        let (done, written) = sync_channel(1);
        if inner.notes.try_send(Note::Flush(done)).is_ok() {
            let _ = written.recv_timeout(CLOSE);
        }
    }

    fn tell(&self, note: impl FnOnce() -> Note) {
        if let Some(inner) = &self.0
            && inner.notes.try_send(note()).is_err()
        {
            inner.lost.fetch_add(1, Relaxed);
        }
    }
}

/// What is kept of a user name that somebody tried.
///
/// A password typed into the wrong field looks rarely like the name of an account, and then only its beginning is kept.
pub(crate) fn recorded_name(name: &str) -> String {
    if is_account_name(name) {
        return name.to_owned();
    }
    let mut characters = name.chars();
    let mut kept: String = characters.by_ref().take(IMPLAUSIBLE_CHARACTERS).collect();
    if characters.next().is_some() {
        kept.push('…');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_can_be_no_accounts_is_cut() {
        for (name, expected) in [
            ("corp", "corp"),
            ("mail.corp@example.com", "mail.corp@example.com"),
            ("correct horse battery", "correct horse ba…"),
            ("\x1b[2J", "\x1b[2J"),
            ("pa$$word", "pa$$word"),
        ] {
            assert_eq!(recorded_name(name), expected);
        }
        let long = "x".repeat(65);
        assert_eq!(recorded_name(&long), format!("{}…", "x".repeat(16)));
    }

    #[test]
    fn one_that_is_off_takes_everything_and_keeps_nothing() {
        let audit = Audit::off();
        audit.refused("smtp", "no such recipient", "192.0.2.1".parse().unwrap());
        audit.close();
        assert_eq!(audit.lost(), 0);
    }
}
