//! The Internet, a DMZ and a corporate network: hosts in network namespaces of their own, with a firewall between
//! them that is set up by the documented example.
//!
//! ```text
//!   internet 198.51.100.2 ──┐                ┌── dmz 192.0.2.2
//!                           ├── firewall ────┤
//!                           │                └── inside 10.20.0.2
//! ```
//!
//! Needs root, `ip` and `nft`. Nothing of it is seen outside, and nothing stays.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CloneFlags, setns};

use crate::process::Output;
use crate::software::Software;

/// A host.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Zone {
    /// Anybody.
    Internet,
    /// Where the relay is.
    Dmz,
    /// Where the puller and the mail server are.
    Inside,
    /// What connects them.
    Firewall,
}

impl Zone {
    const HOSTS: [Self; 3] = [Self::Internet, Self::Dmz, Self::Inside];

    /// Its name, which is also that of the firewall's interface to it.
    fn name(self) -> &'static str {
        match self {
            Self::Internet => "internet",
            Self::Dmz => "dmz",
            Self::Inside => "inside",
            Self::Firewall => "firewall",
        }
    }

    /// The first three octets of its network.
    fn network(self) -> [u8; 3] {
        match self {
            Self::Internet => [198, 51, 100],
            Self::Dmz => [192, 0, 2],
            Self::Inside | Self::Firewall => [10, 20, 0],
        }
    }

    /// Its address.
    #[must_use]
    pub fn address(self) -> Ipv4Addr {
        let [a, b, c] = self.network();
        Ipv4Addr::new(a, b, c, 2)
    }

    fn gateway(self) -> Ipv4Addr {
        let [a, b, c] = self.network();
        Ipv4Addr::new(a, b, c, 1)
    }
}

/// The network. Dropping it removes all of it.
#[derive(Debug)]
pub struct Zones {
    /// Tells the namespaces of tests that run side by side apart.
    tag: String,
    ip: PathBuf,
    nft: PathBuf,
}

impl Zones {
    /// Builds the network, with both packet filters of the documentation in place; nothing where that is not possible.
    ///
    /// # Panics
    /// When the system refuses, or where it must be possible (`ATRN_REQUIRE_INTEROP`).
    #[must_use]
    pub fn build() -> Option<Self> {
        static BUILT: AtomicU32 = AtomicU32::new(0);
        let number = BUILT.fetch_add(1, Ordering::Relaxed);
        let zones = Self {
            tag: format!("atrn-{}-{number}", std::process::id()),
            ip: Software::Ip.find()?,
            nft: Software::Nft.find()?,
        };
        for zone in Zone::HOSTS.into_iter().chain([Zone::Firewall]) {
            zones.ip(&["netns", "add", &zones.namespace(zone)]);
            zones.ip(&["-n", &zones.namespace(zone), "link", "set", "lo", "up"]);
        }
        for zone in Zone::HOSTS {
            zones.connect(zone);
        }
        zones.within(Zone::Firewall, || {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("a router");
        });
        zones.filter(Zone::Firewall, "firewall.nft");
        zones.filter(Zone::Dmz, "relay-host.nft");
        Some(zones)
    }

    /// Does something on that host: sockets, programs and threads that are begun in it belong there.
    ///
    /// # Panics
    /// When it does.
    pub fn within<T: Send>(&self, zone: Zone, work: impl FnOnce() -> T + Send) -> T {
        let path = Path::new("/run/netns").join(self.namespace(zone));
        let namespace = File::open(path).expect("a namespace");
        std::thread::scope(|scope| {
            let working = scope.spawn(move || {
                // Of this thread, which ends with the work.
                setns(namespace, CloneFlags::CLONE_NEWNET).expect("the way into the namespace");
                work()
            });
            working
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Loads a packet filter of the documentation on that host.
    pub fn filter(&self, zone: Zone, example: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../docs/examples")
            .join(example);
        self.nft(zone, &["-f", &path.display().to_string()]);
    }

    /// Takes that host's packet filter away.
    pub fn open(&self, zone: Zone) {
        self.nft(zone, &["flush", "ruleset"]);
    }

    /// Packets that a named counter of that host's filter has seen.
    ///
    /// # Panics
    /// When there is no such counter.
    #[must_use]
    pub fn packets(&self, zone: Zone, counter: &str) -> u64 {
        let listed = self.nft(zone, &["-j", "list", "counters"]).json();
        let mut counters = listed["nftables"].as_array().into_iter().flatten();
        counters
            .find(|each| each["counter"]["name"] == counter)
            .and_then(|each| each["counter"]["packets"].as_u64())
            .expect(counter)
    }

    fn connect(&self, zone: Zone) {
        let (host, firewall) = (self.namespace(zone), self.namespace(Zone::Firewall));
        let own = format!("{}/24", zone.address());
        let gateway = format!("{}/24", zone.gateway());
        let (name, via) = (zone.name(), zone.gateway().to_string());
        let of_firewall = ["-n", &firewall];
        let of_host = ["-n", &host];
        for (namespace, words) in [
            (
                of_firewall,
                vec![
                    "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", &host,
                ],
            ),
            (of_firewall, vec!["address", "add", &gateway, "dev", name]),
            (of_firewall, vec!["link", "set", name, "up"]),
            (of_host, vec!["address", "add", &own, "dev", "eth0"]),
            (of_host, vec!["link", "set", "eth0", "up"]),
            (of_host, vec!["route", "add", "default", "via", &via]),
        ] {
            self.ip(&[&namespace[..], &words].concat());
        }
    }

    fn namespace(&self, zone: Zone) -> String {
        format!("{}-{}", self.tag, zone.name())
    }

    fn ip(&self, words: &[&str]) {
        let _ = Output::of(Command::new(&self.ip).args(words)).expect_code(0);
    }

    fn nft(&self, zone: Zone, words: &[&str]) -> Output {
        self.within(zone, || {
            Output::of(Command::new(&self.nft).args(words)).expect_code(0)
        })
    }
}

impl Drop for Zones {
    fn drop(&mut self) {
        for zone in Zone::HOSTS.into_iter().chain([Zone::Firewall]) {
            let namespace = self.namespace(zone);
            // What was not made is not there.
            let _ = Command::new(&self.ip)
                .args(["netns", "delete", &namespace])
                .output();
        }
    }
}
