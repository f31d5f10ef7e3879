//! The Internet side: mail for our domains from anybody, taken durably or refused clearly.
//!
//! Who listens is in [`crate::connections`]; what a command means, in `shared::smtp::server`; whether a
//! recipient is ours, in [`policy`].

mod dnsbl;
mod foreign;
mod patience;
pub(crate) mod policy;
mod refused;
mod session;
mod transaction;
pub(crate) mod verify;

use std::net::{IpAddr, SocketAddr};

use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

pub(crate) use self::verify::Verifier;
use crate::activity::Activity;
use crate::audit::Audit;
use crate::connections::{Caps, Service};
use crate::limits::{Greylist, Limits, Side, is_within};
use crate::names::Names;
use crate::queue::Store;
use crate::settings::Settings;
use crate::transaction_log::TransactionLog;
use atrn_shared::config::Live;

/// Everything that a session of the edge may use.
#[derive(Clone, Debug)]
pub(crate) struct Edge {
    pub(crate) settings: Live<Settings>,
    pub(crate) store: Store,
    pub(crate) activity: Activity,
    pub(crate) limits: Limits,
    pub(crate) greylist: Greylist,
    pub(crate) names: Names,
    pub(crate) verifier: Verifier,
    pub(crate) log: TransactionLog,
    pub(crate) audit: Audit,
}

impl Edge {
    /// Asks on behalf of a client.
    fn names_for(&self, address: IpAddr) -> Names {
        if self.limits.is_exempt(address) {
            self.names.clone()
        } else {
            self.names.of_client(address)
        }
    }
}

impl Service for Edge {
    const SIDE: Side = Side::Smtp;

    fn hostname(&self) -> String {
        self.settings.load().config.hostname.to_string()
    }

    fn caps(&self, _: IpAddr) -> Option<Caps> {
        let settings = self.settings.load();
        Some(Caps {
            total: settings.config.smtp.max_connections,
            per_address: Some(settings.config.smtp.max_connections_per_ip),
        })
    }

    fn is_proxy(&self, address: IpAddr) -> bool {
        is_within(&self.settings.load().config.smtp.proxy_protocol, address)
    }

    fn log(&self) -> Option<&TransactionLog> {
        Some(&self.log)
    }

    fn audit(&self) -> Option<&Audit> {
        Some(&self.audit)
    }

    fn begins_in_clear(&self) -> bool {
        true
    }

    async fn serve(self, stream: TcpStream, peer: SocketAddr, shutdown: CancellationToken) {
        session::serve(&self, stream, peer, &shutdown).await;
    }
}
