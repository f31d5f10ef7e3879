//! Who has which delivery in hand: one session at a time, in all processes that share the data directory.
//!
//! A delivery id stands for an octet of a file that nobody writes, and to hold it is a record lock on that octet. The
//! locks belong to the open file (OFD locks, fcntl(2)), so the kernel frees them when the process is gone, however
//! it went. Sessions of one process share the open file and with it the locks: a table keeps them apart.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use atrn_shared::smtp::parameter::DeliveryId;
use aws_lc_rs::digest;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::JournalError;

/// The octet of those who open the journal; no id has it.
const OPENING: i64 = 0;
/// Another process that opens the journal is done by then.
const OPENING_PATIENCE: Duration = Duration::from_secs(10);
const OPENING_PAUSE: Duration = Duration::from_millis(5);

/// The file, and what this process holds of it.
#[derive(Debug)]
pub(super) struct Holds {
    file: File,
    held: Mutex<HashSet<i64>>,
}

/// An octet in our hands, until it is dropped.
#[derive(Debug)]
pub(super) struct Hold {
    holds: Arc<Holds>,
    octet: i64,
}

impl Holds {
    pub(super) fn open(path: &Path) -> io::Result<Arc<Self>> {
        let file = File::options()
            .read(true)
            .append(true)
            .create(true)
            .open(path)?;
        Ok(Arc::new(Self {
            file,
            held: Mutex::default(),
        }))
    }

    /// `None`: somebody else has it.
    pub(super) fn take(self: &Arc<Self>, id: &DeliveryId) -> Result<Option<Hold>, JournalError> {
        self.take_octet(octet(id)).map_err(JournalError::locks)
    }

    /// Keeps other processes from opening the journal.
    pub(super) fn opening(self: &Arc<Self>) -> io::Result<Hold> {
        let end = Instant::now() + OPENING_PATIENCE;
        loop {
            if let Some(hold) = self.take_octet(OPENING)? {
                return Ok(hold);
            }
            if Instant::now() >= end {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(OPENING_PAUSE);
        }
    }

    fn take_octet(self: &Arc<Self>, octet: i64) -> io::Result<Option<Hold>> {
        let mut held = self.held();
        if held.contains(&octet) {
            return Ok(None);
        }
        match self.set(octet, libc::F_WRLCK) {
            Ok(()) => {
                held.insert(octet);
                Ok(Some(Hold {
                    holds: Arc::clone(self),
                    octet,
                }))
            }
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn set(&self, octet: i64, kind: libc::c_int) -> nix::Result<()> {
        let lock = libc::flock {
            // The kernel's constants fit; C has them as int.
            l_type: kind as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: octet,
            l_len: 1,
            l_pid: 0,
        };
        fcntl(&self.file, FcntlArg::F_OFD_SETLK(&lock)).map(drop)
    }

    fn held(&self) -> MutexGuard<'_, HashSet<i64>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = self.holds.held();
        if let Err(error) = self.holds.set(self.octet, libc::F_UNLCK) {
            // It ends with the process at the latest; until then the delivery waits.
            tracing::error!(%error, "cannot let go of a delivery");
        }
        held.remove(&self.octet);
    }
}

/// Two ids with one octet only wait for each other. With 62 bits, a collision is no matter of chance; a relay that
/// makes one delays its own mail.
fn octet(id: &DeliveryId) -> i64 {
    let digest = digest::digest(&digest::SHA256, id.as_str().as_bytes());
    let first = digest.as_ref().first_chunk().copied().unwrap_or_default();
    (u64::from_be_bytes(first) >> 2).cast_signed() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> DeliveryId {
        text.parse().unwrap()
    }

    #[test]
    fn two_processes_and_two_sessions_exclude_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("locks");
        // Another open file is to the kernel what another process is.
        let (one, other) = (Holds::open(&path).unwrap(), Holds::open(&path).unwrap());
        let hold = one.take(&id("a")).unwrap().unwrap();
        assert!(one.take(&id("a")).unwrap().is_none());
        assert!(other.take(&id("a")).unwrap().is_none());
        let second = other.take(&id("b")).unwrap();
        assert!(second.is_some() && one.take(&id("b")).unwrap().is_none());
        drop(hold);
        let hold = other.take(&id("a")).unwrap();
        assert!(hold.is_some() && one.take(&id("a")).unwrap().is_none());
        // Whoever is gone lets go of everything.
        drop((hold, second, other));
        assert!(one.take(&id("a")).unwrap().is_some());
        assert!(one.take(&id("b")).unwrap().is_some());
    }

    #[test]
    fn octets_are_positive_and_differ() {
        let octets: HashSet<_> = (0..10_000)
            .map(|number| octet(&id(&format!("1M7ZMM9TH00.{number}.0A1B2C"))))
            .collect();
        assert_eq!(octets.len(), 10_000);
        assert!(octets.iter().all(|octet| *octet > OPENING));
    }
}
