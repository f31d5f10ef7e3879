//! From a host and port in the settings to a TCP connection.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use atrn_shared::config::Address;
use atrn_shared::wire::{Wire, WireError};

/// R5321-41: a relay waits five minutes for an answer to MAIL, and a new connection to the target may be part of it.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Every address of a host.
pub(crate) async fn resolve(address: &Address) -> io::Result<Vec<SocketAddr>> {
    let look_up = tokio::net::lookup_host((address.host.as_str(), address.port));
    match tokio::time::timeout(CONNECT_TIMEOUT, look_up).await {
        Ok(found) => found.map(Iterator::collect),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// A connection to the first address that answers.
pub(crate) async fn connect(addresses: &[SocketAddr]) -> io::Result<Wire> {
    Wire::connect(addresses, CONNECT_TIMEOUT)
        .await
        .map_err(|error| match error {
            // A connection that was never made did not break.
            WireError::Io(error) => error,
            WireError::TimedOut => io::ErrorKind::TimedOut.into(),
            other => io::Error::other(other),
        })
}
