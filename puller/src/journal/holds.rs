//! Who has which delivery in hand: one session at a time, in all processes that share the data directory.
//!
//! A delivery id stands for an octet of a file, and to hold it is a record lock on that octet, whether the file is so long or
//! not. The locks belong to the open file (OFD locks, fcntl(2)), so the kernel frees them when the process is gone, however
//! it went. Sessions of one process share the open file and with it the locks: a table keeps them apart.
//!
//! Whoever holds a delivery also raises a flag in the file, and lowers it when he lets go. One that is found raised was left by
//! a process that was killed: how far it came with the delivery, only the target can tell. The flags need not survive a
//! power failure, for that ends all processes, and a new one knows nothing and looks anyway.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
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
/// Flags, an octet each. Two deliveries with the same one, both in hand just now, are a matter of great chance, and at worst
/// a flag is raised that need not be, or lowered by the other one.
const FLAGS: u64 = 1 << 20;
const LOWERED: u8 = 0;
const RAISED: u8 = 1;
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
    was_abandoned: bool,
}

impl Holds {
    pub(super) fn open(path: &Path) -> io::Result<Arc<Self>> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
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
                drop(held);
                // Where flags cannot be raised nothing is known of those before us. Whether mail can be taken then, the
                // journal and the target find out.
                let before = self.flag(octet, RAISED).inspect_err(|error| {
                    tracing::warn!(%error, "cannot note that a delivery is in hand");
                });
                Ok(Some(Hold {
                    holds: Arc::clone(self),
                    octet,
                    was_abandoned: !matches!(before, Ok(LOWERED)),
                }))
            }
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sets the flag, and tells how it was.
    fn flag(&self, octet: i64, value: u8) -> io::Result<u8> {
        let (mut before, at) = ([LOWERED], octet.cast_unsigned() % FLAGS);
        // Beyond the end of the file nothing was ever raised.
        let _: usize = self.file.read_at(&mut before, at)?;
        self.file.write_all_at(&[value], at)?;
        Ok(before[0])
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

impl Hold {
    /// Whether a process was killed that had this delivery in hand.
    pub(super) fn was_abandoned(&self) -> bool {
        self.was_abandoned
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = self.holds.held();
        if let Err(error) = self.holds.flag(self.octet, LOWERED) {
            // Whoever comes next takes it for abandoned, and looks once more than he needs to.
            tracing::warn!(%error, "cannot note that a delivery was let go");
        }
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
    fn what_a_killed_process_had_in_hand_is_told_from_what_was_let_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("locks");
        let take = |holds: &Arc<Holds>| holds.take(&id("a")).unwrap().unwrap();
        let holds = Holds::open(&path).unwrap();
        for _ in 0..2 {
            assert!(!take(&holds).was_abandoned());
        }
        // As a kill leaves it: the lock is gone with the file, and nobody has cleared the octet.
        let hold = take(&holds);
        hold.holds.set(hold.octet, libc::F_UNLCK).unwrap();
        let later = Holds::open(&path).unwrap();
        assert!(take(&later).was_abandoned());
        assert!(!take(&later).was_abandoned());
        std::mem::forget(hold);
    }

    #[test]
    fn a_full_disk_holds_nobody_up() {
        let holds = Holds::open(Path::new("/dev/full")).unwrap();
        for _ in 0..2 {
            let hold = holds.take(&id("a")).unwrap().unwrap();
            assert!(hold.was_abandoned(), "nothing is known");
            assert!(holds.take(&id("a")).unwrap().is_none());
        }
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
