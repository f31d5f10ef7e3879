//! From a target in the settings to a server that waits for MAIL: connect, TLS, hello, AUTH.

use std::io;
use std::path::{Path, PathBuf};

use atrn_shared::config::Address;
use atrn_shared::dialogue::{Dialogue, LinkFault};
use atrn_shared::sasl::{self, ClientCredentials, ClientError, ClientSettings, Mechanism, base64};
use atrn_shared::smtp::client::Dialect;
use atrn_shared::smtp::reply::Reply;
use atrn_shared::tls::{ClientTls, trust_failure};
use atrn_shared::wire::{Wire, WireError};
use tokio::net::UnixStream;
use tracing::warn;

use super::Setup;
use super::verdict::Names;
use crate::config::{HandoverTls, Target};
use crate::dial::{self, CONNECT_TIMEOUT, resolve};
use crate::login;

/// Why the target takes no mail now.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// AUTH was refused.
    #[error("the target refuses our login: {0}")]
    AuthRefused(Reply),
    /// The Maildir is not there and cannot be made, or cannot be written.
    #[error("cannot write to {}", path.display())]
    Directory {
        /// What was tried.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The dialogue ended before mail could flow.
    #[error(transparent)]
    Link(LinkFault),
    /// We have no way to log in that the target takes.
    #[error("cannot log in: {0}")]
    Login(#[from] ClientError),
    /// TLS is wanted and not offered.
    #[error("the target does not offer STARTTLS, and tls is \"required\"")]
    NoStartTls,
    /// The name could not be resolved.
    #[error("cannot find the host {host}: {source}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver says.
        source: io::Error,
    },
    /// The socket could not be reached.
    #[error("cannot connect to {}: {source}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Nobody answers at the address.
    #[error("cannot connect: {0}")]
    Unreachable(io::Error),
    /// The target is not who it should be.
    #[error("{0}; is this the target, and is pin or ca right?")]
    Untrusted(String),
}

impl From<WireError> for ConnectError {
    fn from(error: WireError) -> Self {
        LinkFault::from(error).into()
    }
}

impl From<LinkFault> for ConnectError {
    fn from(fault: LinkFault) -> Self {
        match &fault {
            LinkFault::Wire(WireError::Tls(error)) => {
                trust_failure(error).map_or(Self::Link(fault), Self::Untrusted)
            }
            _ => Self::Link(fault),
        }
    }
}

/// A server that waits for MAIL, and the names that it must not be known by.
pub(super) async fn connect(setup: &Setup) -> Result<(Dialogue, Names), ConnectError> {
    let (mut dialogue, names) = greet(setup).await?;
    match (&setup.config.tls, &setup.tls) {
        (HandoverTls::Off, _) | (_, None) => {}
        _ if dialogue.wire().is_tls() => {}
        (_, Some(tls)) if dialogue.client().extensions().starttls => {
            dialogue = start_tls(setup, tls, dialogue).await?;
        }
        (HandoverTls::Required(_), _) => return Err(ConnectError::NoStartTls),
        (HandoverTls::Opportunistic, _) => {}
    }
    if setup.config.login.is_some() {
        log_in(setup, &mut dialogue).await?;
    }
    Ok((dialogue, names))
}

async fn greet(setup: &Setup) -> Result<(Dialogue, Names), ConnectError> {
    let target = &setup.config.target;
    let (wire, dialect) = match target {
        Target::Smtp(address) => (tcp(address).await?, Dialect::Smtp),
        Target::Smtps(address) => (tls(setup, address).await?, Dialect::Smtp),
        Target::Lmtp(address) => (tcp(address).await?, Dialect::Lmtp),
        Target::LmtpUnix(path) | Target::Maildir(path) => (unix(path).await?, Dialect::Lmtp),
    };
    let mut dialogue = Dialogue::new(wire, dialect, setup.timeouts);
    let greeting = dialogue.greeting().await?;
    dialogue.hello(&setup.hostname).await?;
    let host = target.address().map(|address| address.host.as_str());
    Ok((dialogue, Names::new(host, &greeting)))
}

async fn tcp(address: &Address) -> Result<Wire, ConnectError> {
    let addresses = resolve(address)
        .await
        .map_err(|source| ConnectError::Resolve {
            host: address.host.clone(),
            source,
        })?;
    dial::connect(&addresses)
        .await
        .map_err(ConnectError::Unreachable)
}

async fn tls(setup: &Setup, address: &Address) -> Result<Wire, ConnectError> {
    let wire = tcp(address).await?;
    let (Some(tls), Ok(name)) = (&setup.tls, address.server_name()) else {
        return Err(ConnectError::NoStartTls);
    };
    Ok(wire.connect_tls(tls, name, CONNECT_TIMEOUT).await?)
}

async fn unix(path: &Path) -> Result<Wire, ConnectError> {
    let connect = tokio::time::timeout(CONNECT_TIMEOUT, UnixStream::connect(path));
    let stream = connect
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    stream
        .map(Wire::unix)
        .map_err(|source| ConnectError::Socket {
            path: path.to_path_buf(),
            source,
        })
}

/// A target that need not encrypt may fail at it: the mail then goes in the clear, as it would if it had offered
/// nothing (RFC 7435 §3).
async fn start_tls(
    setup: &Setup,
    tls: &ClientTls,
    dialogue: Dialogue,
) -> Result<Dialogue, ConnectError> {
    let name = setup
        .config
        .target
        .address()
        .and_then(|address| address.server_name().ok());
    let Some(name) = name else {
        return Ok(dialogue);
    };
    let outcome = match dialogue.start_tls(tls, name).await {
        Ok(mut dialogue) => dialogue.hello(&setup.hostname).await.map(|()| dialogue),
        Err(fault) => Err(fault),
    };
    match (outcome, &setup.config.tls) {
        (Ok(dialogue), _) => Ok(dialogue),
        (Err(fault), HandoverTls::Opportunistic) => {
            warn!(target = %setup.config.target, reason = %fault, "STARTTLS failed, going on in the clear");
            Ok(greet(setup).await?.0)
        }
        (Err(fault), _) => Err(fault.into()),
    }
}

async fn log_in(setup: &Setup, dialogue: &mut Dialogue) -> Result<(), ConnectError> {
    let Some(login) = &setup.config.login else {
        return Ok(());
    };
    let settings = ClientSettings {
        credentials: ClientCredentials {
            user: login.username.clone(),
            secret: setup.password.clone().map(Into::into),
            remembered: Default::default(),
            certificate: false,
        },
        weakest: Mechanism::Plain,
    };
    // The settings allow a password only where TLS proves who the target is, and on loopback.
    let is_loopback = setup
        .config
        .target
        .address()
        .is_some_and(Address::is_loopback);
    let context = login::context(dialogue.wire(), dialogue.wire().is_tls() || is_loopback);
    let offered = dialogue.client().extensions().auth.iter();
    let offered: Vec<_> = offered
        .filter_map(|name| Mechanism::from_name(name))
        .collect();
    let exchange = sasl::Client::choose(&offered, &settings, &context)?;
    prove(exchange, dialogue).await
}

async fn prove(mut exchange: sasl::Client, dialogue: &mut Dialogue) -> Result<(), ConnectError> {
    let initial = exchange.initial_response().map(base64::encode);
    let mut reply = dialogue
        .auth(exchange.mechanism().name(), initial.as_deref())
        .await?;
    while reply.is_intermediate() {
        let challenge = base64::decode(reply.text().as_bytes()).ok_or(ClientError::Malformed)?;
        // SCRAM computes for a while here.
        let (again, response) = tokio::task::spawn_blocking(move || {
            let response = exchange.step(&challenge);
            (exchange, response)
        })
        .await
        .map_err(|_| ClientError::Malformed)?;
        exchange = again;
        reply = dialogue.auth_response(&base64::encode(&response?)).await?;
    }
    if !reply.is_positive() {
        return Err(ConnectError::AuthRefused(reply));
    }
    if exchange.may_succeed() {
        Ok(())
    } else {
        Err(ClientError::ServerNotProven.into())
    }
}
