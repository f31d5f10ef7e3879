//! The sockets of the daemon, bound before anything else is started: so a port that is taken is one clear
//! line, and nothing is left half-started.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;

use atrn_shared::config::reason;
use atrn_shared::sandbox::{Account, PrivilegeError, acting_as};
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::RelayConfig;
use crate::control;
use crate::names::Resolver;
use crate::sandbox::{self, StartError};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// What can not be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// An address.
    #[error(
        "{key}: cannot listen on {address}: {}{}",
        reason(source),
        hint(source)
    )]
    Address {
        /// The setting that names it.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The admin's socket.
    #[error(transparent)]
    Control(#[from] control::BindError),
    /// It cannot be made as the user that the relay will be.
    #[error(transparent)]
    User(#[from] PrivilegeError),
    /// The directories, or whose they are to be.
    #[error(transparent)]
    Start(#[from] StartError),
}

fn hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "; another process has the port",
        std::io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need root or CAP_NET_BIND_SERVICE"
        }
        _ => "",
    }
}

/// All listening sockets.
#[derive(Debug)]
pub struct Sockets {
    /// The Internet side.
    pub smtp: Vec<TcpListener>,
    /// The pullers' side.
    pub odmr: Vec<TcpListener>,
    /// The monitor's side; one at most.
    pub metrics: Vec<TcpListener>,
    /// The admin's side.
    pub control: UnixListener,
    /// The way to DNS; `None`: nobody is asked.
    pub resolver: Option<Resolver>,
}

impl Sockets {
    /// Where the Internet side listens, with the ports that the system chose.
    #[must_use]
    pub fn smtp_addresses(&self) -> Vec<SocketAddr> {
        addresses(&self.smtp)
    }

    /// Where the pullers' side listens.
    #[must_use]
    pub fn odmr_addresses(&self) -> Vec<SocketAddr> {
        addresses(&self.odmr)
    }
}

/// Binds everything that the configuration names, and starts no process; the admin's socket as the user that the relay
/// will be. That one answers before any port does: who finds the relay there finds it here.
///
/// # Errors
/// [`BindError`] for the first address that cannot be had.
pub fn bind(config: &RelayConfig, account: Option<Account>) -> Result<Sockets, BindError> {
    let smtp = all(SMTP, &config.smtp.listen).collect::<Result<Vec<_>, _>>()?;
    let odmr = all(ODMR, &config.odmr.listen).collect::<Result<Vec<_>, _>>()?;
    let metrics = all(METRICS, config.metrics.as_slice()).collect::<Result<Vec<_>, _>>()?;
    // Before anything is handed over that another relay works on.
    control::refuse_second(&config.data_dir)?;
    sandbox::prepare(config, account)?;
    let control = acting_as(account, || control::bind(&config.data_dir))??;
    let listening =
        |bound: Vec<Bound>| -> Result<Vec<_>, _> { bound.into_iter().map(Bound::listen).collect() };
    let sockets =
        listening(smtp).and_then(|smtp| Ok((smtp, listening(odmr)?, listening(metrics)?)));
    let (smtp, odmr, metrics) = sockets.inspect_err(|_| {
        let _ = fs::remove_file(control::socket_path(&config.data_dir));
    })?;
    Ok(Sockets {
        smtp,
        odmr,
        metrics,
        control,
        resolver: None,
    })
}

/// Every address that cannot be had just now. Nothing stays bound.
#[must_use]
pub fn unavailable(config: &RelayConfig) -> Vec<BindError> {
    let smtp = all(SMTP, &config.smtp.listen);
    let odmr = all(ODMR, &config.odmr.listen);
    let metrics = all(METRICS, config.metrics.as_slice());
    let all = smtp.chain(odmr).chain(metrics);
    // Those that listen are kept until all are tried: two settings may name the same.
    let all: Vec<_> = all.map(|bound| bound.and_then(Bound::listen)).collect();
    all.into_iter().filter_map(Result::err).collect()
}

const SMTP: &str = "smtp.listen";
const ODMR: &str = "odmr.listen";
const METRICS: &str = "metrics.listen";

fn all<'a>(
    key: &'static str,
    addresses: &'a [SocketAddr],
) -> impl Iterator<Item = Result<Bound, BindError>> + 'a {
    addresses
        .iter()
        .map(move |address| Bound::new(key, *address))
}

/// A socket that has its address, and nobody can connect to yet.
struct Bound {
    key: &'static str,
    address: SocketAddr,
    socket: Socket,
}

impl Bound {
    fn new(key: &'static str, address: SocketAddr) -> Result<Self, BindError> {
        match bound(address) {
            Ok(socket) => Ok(Self {
                key,
                address,
                socket,
            }),
            Err(source) => Err(BindError::Address {
                key,
                address,
                source,
            }),
        }
    }

    fn listen(self) -> Result<TcpListener, BindError> {
        let Self {
            key,
            address,
            socket,
        } = self;
        match socket.listen(BACKLOG) {
            Ok(()) => Ok(socket.into()),
            Err(source) => Err(BindError::Address {
                key,
                address,
                source,
            }),
        }
    }
}

fn bound(address: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // A restart must not wait for the connections of the last run to be forgotten.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `0.0.0.0` and `[::]` stand side by side in the default.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn addresses(listeners: &[TcpListener]) -> Vec<SocketAddr> {
    listeners
        .iter()
        .filter_map(|listener| listener.local_addr().ok())
        .collect()
}
