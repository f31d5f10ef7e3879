//! What a system call is about, read from `/proc` while its thread stands at it.

use std::fs::{self, File};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use nix::libc;
use nix::unistd::Pid;

/// Octets of what is sent that are looked at.
const SENT_OCTETS: usize = 512;
/// Octets of a path (`PATH_MAX`).
const PATH_OCTETS: usize = 4096;

/// A system call that changes something outside of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// A file is made.
    Create(PathBuf),
    /// A file gets a name.
    Name(PathBuf),
    /// A name is taken away.
    Remove(PathBuf),
    /// Octets go to a peer: the first of them.
    Send(Vec<u8>),
    /// A file or directory is synced.
    Sync(PathBuf),
    /// Octets go to a file.
    Write(PathBuf),
}

impl Call {
    /// The call that a stopped thread is at, if it is one of these.
    pub(super) fn of(program: &Program, thread: Pid) -> Option<Self> {
        let path = format!("/proc/{}/task/{thread}/syscall", program.id);
        let text = fs::read_to_string(path).ok()?;
        let mut words = text.split_whitespace();
        let number: i64 = words.next()?.parse().ok()?;
        let mut arguments = [0_u64; 6];
        for (argument, word) in arguments.iter_mut().zip(words) {
            *argument = u64::from_str_radix(word.trim_start_matches("0x"), 16).ok()?;
        }
        program.call(number, &arguments)
    }
}

/// The memory and the files of a program.
#[derive(Debug)]
pub(super) struct Program {
    id: Pid,
    memory: File,
}

impl Program {
    pub(super) fn open(id: Pid) -> std::io::Result<Self> {
        let memory = File::open(format!("/proc/{id}/mem"))?;
        Ok(Self { id, memory })
    }

    fn call(&self, number: i64, arguments: &[u64; 6]) -> Option<Call> {
        let [first, second, third, fourth, ..] = *arguments;
        match number {
            libc::SYS_openat => {
                let creates = third & libc::O_CREAT as u64 != 0;
                creates.then(|| self.path(second).map(Call::Create))?
            }
            libc::SYS_fsync | libc::SYS_fdatasync => self.file(first).map(Call::Sync),
            libc::SYS_pwrite64 | libc::SYS_pwritev => self.file(first).map(Call::Write),
            libc::SYS_write => self.write(first, second, third),
            libc::SYS_writev => {
                let (start, length) = self.part(second)?;
                self.write(first, start, length)
            }
            libc::SYS_sendto => self.octets(second, third).map(Call::Send),
            libc::SYS_sendmsg => {
                // struct msghdr: name, length of the name, then the parts.
                let parts = self.word(second + 16)?;
                let (start, length) = self.part(parts)?;
                self.octets(start, length).map(Call::Send)
            }
            libc::SYS_renameat | libc::SYS_renameat2 | libc::SYS_linkat => {
                self.path(fourth).map(Call::Name)
            }
            libc::SYS_unlinkat => self.path(second).map(Call::Remove),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_rename | libc::SYS_link => self.path(second).map(Call::Name),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_unlink => self.path(first).map(Call::Remove),
            _ => None,
        }
    }

    fn write(&self, descriptor: u64, start: u64, length: u64) -> Option<Call> {
        let target = self.target(descriptor)?;
        if target.starts_with("/") {
            return Some(Call::Write(target));
        }
        let is_socket = target.to_string_lossy().starts_with("socket:");
        is_socket.then(|| self.octets(start, length).map(Call::Send))?
    }

    fn file(&self, descriptor: u64) -> Option<PathBuf> {
        self.target(descriptor).filter(|path| path.starts_with("/"))
    }

    fn target(&self, descriptor: u64) -> Option<PathBuf> {
        fs::read_link(format!("/proc/{}/fd/{descriptor}", self.id)).ok()
    }

    /// The first of the parts that are sent together.
    fn part(&self, address: u64) -> Option<(u64, u64)> {
        Some((self.word(address)?, self.word(address + 8)?))
    }

    fn word(&self, address: u64) -> Option<u64> {
        let mut octets = [0; 8];
        self.memory.read_exact_at(&mut octets, address).ok()?;
        Some(u64::from_ne_bytes(octets))
    }

    fn octets(&self, address: u64, length: u64) -> Option<Vec<u8>> {
        let length = usize::try_from(length).ok()?.min(SENT_OCTETS);
        let mut octets = vec![0; length];
        self.memory.read_exact_at(&mut octets, address).ok()?;
        Some(octets)
    }

    fn path(&self, address: u64) -> Option<PathBuf> {
        let mut octets = vec![0; PATH_OCTETS];
        // The page behind a short path need not exist.
        let length = self.memory.read_at(&mut octets, address).ok()?;
        octets.truncate(length);
        let end = octets.iter().position(|&octet| octet == 0)?;
        octets.truncate(end);
        Some(PathBuf::from(std::ffi::OsString::from_vec(octets)))
    }
}
