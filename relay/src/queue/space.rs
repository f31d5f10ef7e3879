//! Room on the disk, and for what it is kept.
//!
//! On a disk that is full to the last block nothing can be settled either: a delivery that went
//! inside could not be forgotten, and the queue would never get smaller. So new mail is refused a
//! little earlier (`452 4.3.1`), and what is left is for settling.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Kept for settling: one commit of the largest kind in the log, and once more in the database.
const RESERVE_OCTETS: u64 = 24 * 1024 * 1024;
/// From here on down the log is written into the database after each commit, so that it stays short.
const LOW_OCTETS: u64 = 256 * 1024 * 1024;

/// Asks how much room there is.
#[derive(Debug)]
pub(super) struct Space {
    path: PathBuf,
    #[cfg(test)]
    pub(super) pretended: std::sync::atomic::AtomicU64,
}

/// What the room there is allows.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Room {
    /// Anything.
    Ample,
    /// Anything, but the log must be kept short.
    Low,
    /// Nothing new.
    Full,
}

/// The disk under the queue.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Disk {
    /// Octets that are free.
    pub free: u64,
    /// What they allow.
    pub room: Room,
}

impl Space {
    pub(super) fn disk(&self) -> Option<Disk> {
        let free = self.free()?;
        let room = room(free, 0, 0);
        Some(Disk { free, room })
    }

    pub(super) fn of(path: PathBuf) -> Self {
        Self {
            path,
            #[cfg(test)]
            pretended: std::sync::atomic::AtomicU64::new(u64::MAX),
        }
    }

    /// What there is room for, if `wanted` octets come and the database has `spare` of its own. A file system that
    /// does not say counts as ample: when it is full all the same, the write itself will tell.
    pub(super) fn room(&self, wanted: u64, spare: u64) -> Room {
        self.free()
            .map_or(Room::Ample, |free| room(free, wanted, spare))
    }

    #[cfg(test)]
    fn free(&self) -> Option<u64> {
        let pretended = self.pretended.load(std::sync::atomic::Ordering::Relaxed);
        disk_free(&self.path).map(|free| free.min(pretended))
    }

    #[cfg(not(test))]
    fn free(&self) -> Option<u64> {
        disk_free(&self.path)
    }
}

fn disk_free(path: &std::path::Path) -> Option<u64> {
    let disk = nix::sys::statvfs::statvfs(path).ok()?;
    disk.blocks_available().checked_mul(disk.fragment_size())
}

/// Pages that the database has freed take new mail too, but the log always needs the disk.
fn room(free: u64, wanted: u64, spare: u64) -> Room {
    let from_disk = wanted.saturating_sub(spare);
    if free >= LOW_OCTETS.saturating_add(from_disk) {
        Room::Ample
    } else if free >= RESERVE_OCTETS.saturating_add(from_disk)
        || (free >= RESERVE_OCTETS / 2 && spare >= RESERVE_OCTETS.saturating_add(wanted))
    {
        Room::Low
    } else {
        Room::Full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_not_for_new_mail() {
        const MIB: u64 = 1024 * 1024;
        let table = [
            // free, wanted, spare
            (1000, 0, 0, Room::Ample),
            (256, 0, 0, Room::Ample),
            (256, 1, 0, Room::Low),
            (25, 1, 0, Room::Low),
            (24, 1, 0, Room::Full),
            (24, 1, 1, Room::Low),
            (12, 1, 24, Room::Full),
            (12, 1, 25, Room::Low),
            (11, 1, 1000, Room::Full),
            (0, 0, 0, Room::Full),
        ];
        for (free, wanted, spare, expected) in table {
            let found = room(free * MIB, wanted * MIB, spare * MIB);
            assert_eq!(found, expected, "{free} {wanted} {spare}");
        }
        assert_eq!(room(1000, u64::MAX, 0), Room::Full);
    }
}
