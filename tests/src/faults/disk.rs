//! A small disk that can be filled to its last block, and a database that somebody else has locked.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::Connection;

use crate::process::Output;

/// A tmpfs of our own over a folder, until dropped. Only root can have one.
#[derive(Debug)]
pub struct Disk {
    place: PathBuf,
}

impl Disk {
    /// Mounts one of so many octets over a folder.
    ///
    /// # Panics
    /// When that is not allowed; ask [`crate::software::Software::Mount`] before.
    #[track_caller]
    #[must_use]
    pub fn mount(place: &Path, octets: u64) -> Self {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={octets},mode=700")]);
        let _ = Output::of(command.arg("tmpfs").arg(place)).expect_code(0);
        Self {
            place: place.to_owned(),
        }
    }

    /// Fills what is free with a file, but for so many octets.
    ///
    /// # Panics
    /// When the file cannot be made.
    pub fn fill(&self, leave: u64) {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(self.ballast())
            .expect("a file on the small disk");
        let block = [0; 4096];
        while self.free() > leave && file.write_all(&block).is_ok() {}
    }

    /// Gives the room back.
    ///
    /// # Panics
    /// When the file cannot be removed.
    pub fn empty(&self) {
        fs::remove_file(self.ballast()).expect("the ballast is removed");
    }

    /// Octets that are free.
    ///
    /// # Panics
    /// When the disk is gone.
    #[must_use]
    pub fn free(&self) -> u64 {
        let disk = nix::sys::statvfs::statvfs(&self.place).expect("the small disk");
        disk.blocks_available() * disk.fragment_size()
    }

    fn ballast(&self) -> PathBuf {
        self.place.join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a program may still have files on it.
        Command::new("umount")
            .arg("-l")
            .arg(&self.place)
            .status()
            .ok();
    }
}

/// The write lock of a SQLite database, held by this process until dropped.
#[derive(Debug)]
pub struct Lock(Connection);

impl Lock {
    /// Takes it, as a program that is not ours would.
    ///
    /// # Panics
    /// When it cannot be had.
    #[track_caller]
    #[must_use]
    pub fn take(database: &Path) -> Self {
        let connection = Connection::open(database).expect("the database");
        connection
            .busy_timeout(crate::process::PATIENCE)
            .expect("a time-out");
        connection
            .execute_batch("BEGIN IMMEDIATE")
            .expect("the write lock");
        Self(connection)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.execute_batch("ROLLBACK").ok();
    }
}
