//! The `[dns]` table: who is asked for names, how, and for how long.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use atrn_shared::config::{Section, Value};

/// The `[dns]` table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DnsConfig {
    /// The name servers; empty: those of `/etc/resolv.conf`, as it is at the start.
    pub servers: Vec<SocketAddr>,
    /// How they are asked.
    pub transport: Transport,
    /// How long an answer may take, in all.
    pub timeout: Duration,
    /// Whether the names of clients are looked up.
    pub reverse: bool,
}

/// How name servers are asked (docs/decisions/0012-names-over-tcp.md).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Transport {
    /// Over TCP only: the kernel holds the resolver child to the ports of the name servers.
    #[default]
    Tcp,
    /// Over UDP, and over TCP what does not fit: the kernel cannot hold UDP to anything.
    Udp,
}

impl Transport {
    /// The word in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl DnsConfig {
    /// `None`: look-ups are switched off.
    pub(super) fn read(root: &Section<'_>) -> Option<Self> {
        let default = Self::default();
        if root.is_text("dns") {
            root.optional("dns", |value| value.word(&[("off", ())]));
            return None;
        }
        let section = root.section("dns");
        let servers = section.list_or("servers", default.servers, Value::socket_address);
        section.note_repeated("servers", &servers.iter().collect::<Vec<_>>());
        if servers.len() > SERVERS_MAX {
            section.problem(
                "servers",
                &format!("has more than {SERVERS_MAX} name servers"),
            );
        }
        if servers.iter().any(|server| server.port() == 0) {
            section.problem("servers", "has a name server with port 0; use 53");
        }
        Some(Self {
            servers,
            transport: section.or("transport", default.transport, |value| {
                value.word(&TRANSPORTS)
            }),
            timeout: section.or("timeout", default.timeout, |value| {
                value.duration(&TIMEOUTS)
            }),
            reverse: section.or("reverse", default.reverse, Value::boolean),
        })
    }
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            transport: Transport::default(),
            timeout: *TIMEOUTS.end(),
            reverse: true,
        }
    }
}

/// More than that nobody has, and each costs time when it is silent.
const SERVERS_MAX: usize = 8;
/// Nobody waits longer for a name than this.
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(5);
const TRANSPORTS: [(&str, Transport); 2] = [("tcp", Transport::Tcp), ("udp", Transport::Udp)];
