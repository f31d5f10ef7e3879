//! Who has which delivery in hand: one session at a time, in all processes that share the data directory.
//!
//! A delivery id stands for an octet of a file, and to hold it is a record lock on that octet, whether the file is so long or
//! not. The locks belong to the open file (OFD locks, fcntl(2)), so the kernel frees them when the process is gone, however
//! it went. Sessions of one process share the open file and with it the locks: a table keeps them apart.
//!
//! Whoever holds a delivery also raises a flag in the file, and lowers it when he lets go. One that is found raised was left by
//! a process that was killed: how far it came with the delivery, only the target can tell. The flags need not survive a
//! power failure, for that ends all processes, and a new one knows nothing and looks anyway.
//!
//! Behind the flags the file counts how often the journal was opened. A process that has it for itself learns from the
//! count that it still does, for one read in place of a look-up.

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
/// Held, in a way that all can share, while a process has the journal open; no id has it.
const PRESENT: i64 = i64::MAX - 1;
/// How often the journal was opened: eight octets.
const OPENED: u64 = FLAGS;
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

    /// Says to all who come later that we are here; whether nobody else is, and how often the journal was opened. While
    /// that count stays we are alone. Ask only while [`Holds::opening`] is held.
    pub(super) fn enter(&self) -> io::Result<(bool, u64)> {
        let is_alone = match self.set(PRESENT, libc::F_WRLCK) {
            Ok(()) => true,
            Err(Errno::EAGAIN | Errno::EACCES) => false,
            Err(error) => return Err(error.into()),
        };
        self.set(PRESENT, libc::F_RDLCK)?;
        let opened = self.opened()?.wrapping_add(1);
        self.file.write_all_at(&opened.to_le_bytes(), OPENED)?;
        Ok((is_alone, opened))
    }

    /// How often the journal was opened.
    pub(super) fn opened(&self) -> io::Result<u64> {
        let mut octets = [0; 8];
        // Behind the end of the file nobody has counted.
        let count = self.file.read_at(&mut octets, OPENED)?;
        Ok(if count == octets.len() {
            u64::from_le_bytes(octets)
        } else {
            0
        })
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
                let before = self.raise(octet).inspect_err(|error| {
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

    /// Raises the flag, and tells how it was.
    fn raise(&self, octet: i64) -> io::Result<u8> {
        let mut before = [LOWERED];
        // Beyond the end of the file nothing was ever raised.
        let _: usize = self.file.read_at(&mut before, place(octet))?;
        self.file.write_all_at(&[RAISED], place(octet))?;
        Ok(before[0])
    }

    fn lower(&self, octet: i64) -> io::Result<()> {
        self.file.write_all_at(&[LOWERED], place(octet))
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
        if let Err(error) = self.holds.lower(self.octet) {
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

/// Where the flag is.
fn place(octet: i64) -> u64 {
    octet.cast_unsigned() % FLAGS
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
    fn who_is_alone_knows_it_as_long_as_he_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("locks");
        let one = Holds::open(&path).unwrap();
        let (is_alone, opened) = one.enter().unwrap();
        assert!(is_alone && one.opened().unwrap() == opened);
        let other = Holds::open(&path).unwrap();
        let (is_alone, _) = other.enter().unwrap();
        assert!(!is_alone && one.opened().unwrap() != opened);
        drop(one);
        let (is_alone, _) = Holds::open(&path).unwrap().enter().unwrap();
        assert!(!is_alone);
        // Who is gone is not there, however he went.
        drop(other);
        assert!(Holds::open(&path).unwrap().enter().unwrap().0);
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
