//! Starts the guardian, before the sandbox is put up, and waits for what it says.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use atrn_shared::log;
use hickory_resolver::system_conf::read_system_conf;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
use tracing::{info, warn};

use super::channel::Channel;
use super::guardian::{Confinement, Role, Settings, start};
use super::protocol::{ANSWER_OCTETS_MAX, Frame, News, read_frame};
use super::{Health, Names, State};
use crate::config::DnsConfig;

/// How long the child may take to start, on a busy machine.
const START_TIME: Duration = Duration::from_secs(20);
/// Octets that may lie in the socket: some of the longest answers, many of the usual ones.
const SOCKET_OCTETS: usize = 1 << 20;
/// Where name servers listen.
const PORT: u16 = 53;

/// Why there is no resolver.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The system refused.
    #[error("cannot start the resolver: {0}")]
    Io(#[from] io::Error),
    /// It said so.
    #[error("cannot start the resolver: {0}")]
    Refused(String),
    /// It said nothing, or nonsense.
    #[error("cannot start the resolver: it does not answer")]
    Silent,
}

/// A resolver child that is ready. It becomes [`Names`] where there is a runtime.
#[derive(Debug)]
pub struct Resolver {
    socket: UnixDatagram,
    limit: Duration,
    health: Health,
}

/// Starts the resolver child, confined as the sandbox is, and waits until it is.
///
/// # Errors
/// [`SpawnError`]. Without the child there is no sandbox to speak of, so the relay should not start.
pub fn spawn(config: &DnsConfig, confinement: Confinement) -> Result<Resolver, SpawnError> {
    let servers = match config.servers.as_slice() {
        [] => system_servers(),
        servers => servers.to_vec(),
    };
    let settings = Settings {
        servers,
        transport: config.transport,
        limit: config.timeout,
        confinement,
    };
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        // Keeps the boundaries of frames, and tells when the other end is gone.
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .map_err(io::Error::from)?;
    for end in [&ours, &theirs] {
        enlarge(end);
    }
    // Nobody waits for it: it ends with us.
    drop(start(Role::Guardian, &settings, theirs)?);
    let socket = UnixDatagram::from(ours);
    let sandbox = ready(&socket)?;
    let health = Health {
        state: State::Running,
        servers: settings.servers.iter().map(ToString::to_string).collect(),
        transport: settings.transport.name().to_owned(),
        sandbox,
        asked: 0,
        failed: 0,
        restarts: 0,
        last_answer: None,
        last_failure: None,
    };
    info!(servers = %health.servers.join(","), transport = %health.transport, sandbox = %health.sandbox, "the resolver is ready");
    socket.set_nonblocking(true)?;
    Ok(Resolver {
        socket,
        limit: settings.limit,
        health,
    })
}

impl Resolver {
    /// The handle for all.
    ///
    /// # Errors
    /// When the runtime takes no socket.
    pub fn start(self) -> io::Result<Names> {
        let socket = tokio::net::UnixDatagram::from_std(self.socket)?;
        let channel = Channel::new(socket, self.limit, self.health);
        Ok(Names::new(Some(channel.into())))
    }
}

/// As the C library does, the host itself where nobody is named.
fn system_servers() -> Vec<SocketAddr> {
    let found = match read_system_conf() {
        Ok((config, _)) => config
            .name_servers()
            .iter()
            .map(|server| server.ip)
            .collect(),
        Err(error) => {
            warn!(%error, "no name server in /etc/resolv.conf: this host is asked itself; name one in [dns] servers, or set dns = \"off\"");
            Vec::new()
        }
    };
    let addresses: Vec<IpAddr> = if found.is_empty() {
        vec![Ipv4Addr::LOCALHOST.into()]
    } else {
        found
    };
    addresses
        .into_iter()
        .map(|address| SocketAddr::new(address, PORT))
        .collect()
}

/// What the system gives is enough for usual answers.
fn enlarge(end: &OwnedFd) {
    let _ = setsockopt(end, sockopt::SndBuf, &SOCKET_OCTETS);
    let _ = setsockopt(end, sockopt::RcvBuf, &SOCKET_OCTETS);
}

/// Waits for the child's first word: what holds it.
fn ready(socket: &UnixDatagram) -> Result<String, SpawnError> {
    socket.set_read_timeout(Some(START_TIME))?;
    let mut frame = vec![0; ANSWER_OCTETS_MAX + 1];
    let octets = socket.recv(&mut frame).map_err(|_| SpawnError::Silent)?;
    let escaped = |text: &str| log::peer(text).to_string();
    match read_frame(&frame[..octets]) {
        Some(Frame::News(News::Ready(sandbox))) => Ok(escaped(&sandbox)),
        Some(Frame::News(News::Refused(reason) | News::Ended(reason))) => {
            Err(SpawnError::Refused(escaped(&reason)))
        }
        _ => Err(SpawnError::Silent),
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gone => "gone",
            Self::Running => "running",
        })
    }
}
