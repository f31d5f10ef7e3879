//! Ports that no other test takes.
//!
//! A port found by binding to port 0 can be taken by anybody once it is let go, and a program
//! that is restarted wants its old one back. So ports are taken from a range below the
//! ephemeral one, where the kernel gives none away, and each is reserved between all test
//! processes by a locked file for as long as its [`Port`] lives.

use std::fs::{File, create_dir_all};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below Linux's default `ip_local_port_range`, above the well-known services.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// A port on 127.0.0.1, ours until dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Reserves a port that nobody listens on.
    ///
    /// # Panics
    /// When the whole range is in use.
    #[must_use]
    pub fn reserve() -> Self {
        // Processes start at different places, so that they rarely meet at a lock.
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let folder = lock_folder();
        let offset = u16::try_from(std::process::id() % u32::from(COUNT)).unwrap_or(0);
        for _ in 0..COUNT {
            let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
            let spread = u32::from(offset) * 37 + u32::from(step);
            let number = FIRST + u16::try_from(spread % u32::from(COUNT)).unwrap_or(0);
            let lock = File::create(folder.join(number.to_string())).expect("a lock file");
            if lock.try_lock().is_err() {
                continue;
            }
            if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Self {
                    number,
                    _lock: lock,
                };
            }
        }
        panic!("no free port between {FIRST} and {}", FIRST + COUNT);
    }

    /// The number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }

    /// The port with its address, 127.0.0.1.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.number))
    }
}

/// One folder a user: a file of somebody else's could not be locked.
fn lock_folder() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("atrn-test-ports-{}", nix::unistd::getuid()));
    create_dir_all(&folder).expect("a folder for the port locks");
    folder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_reservations_never_share_a_port() {
        let first = Port::reserve();
        let second = Port::reserve();
        assert_ne!(first.number(), second.number());
        TcpListener::bind(first.address()).expect("a reserved port is free");
    }

    #[test]
    fn a_reserved_port_is_locked_until_dropped() {
        let port = Port::reserve();
        let path = lock_folder().join(port.number().to_string());
        let other = File::open(&path).unwrap();
        assert!(other.try_lock().is_err());
        drop(port);
        other.try_lock().expect("the lock goes with the port");
    }
}
