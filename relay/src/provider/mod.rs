//! The pullers' side: an authenticated customer asks with ATRN, the roles reverse, held mail flows out.
//!
//! [`session`] drives `odmr::provider` up to the turn, with AUTH in [`login`]: who may try is a matter of [`guard`], when it
//! is looked at of [`proofs`], and how many may come of [`visitors`]. What an ATRN gets is found in [`mod@atrn`], and in [`wait`] where it
//! waits for mail. [`drain`] sends after the turn, each delivery as a [`transaction`] and several in a [`window`]; in
//! [`idle`] it waits for more.
//! What a reply means for a delivery is decided in [`verdict`], whether a refusal is believed in [`breaker`], and
//! [`settlement`] tells the queue. Nothing here can take mail: the machine has no such event.

mod atrn;
mod breaker;
mod drain;
mod guard;
mod idle;
mod login;
mod permission;
mod proofs;
mod session;
mod settlement;
mod transaction;
mod verdict;
mod visitors;
mod wait;
mod window;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use atrn_shared::config::Live;
use jiff::Timestamp;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use self::breaker::Breakers;
use self::guard::Guard;
use self::proofs::Proofs;
use self::settlement::Provisional;
use self::visitors::{From, Visit, Visitors};
use crate::activity::Activity;
use crate::audit::{Audit, Remembered};
use crate::closing::Closing;
use crate::config::OdmrTls;
use crate::connections::{Caps, Service};
use crate::limits::{Limits, Side};
use crate::queue::Store;
use crate::settings::Settings;
use crate::transaction_log::TransactionLog;

/// Everything that a session with a puller may use.
#[derive(Clone, Debug)]
pub(crate) struct Provider {
    pub(crate) settings: Live<Settings>,
    pub(crate) store: Store,
    pub(crate) closing: Closing,
    pub(crate) activity: Activity,
    pub(crate) limits: Limits,
    pub(crate) audit: Audit,
    pub(crate) log: TransactionLog,
    guard: Guard,
    proofs: Proofs,
    visitors: Visitors,
    asked: Asked,
    breakers: Breakers<Provisional>,
}

impl Provider {
    pub(crate) fn new(
        settings: Live<Settings>,
        store: Store,
        closing: Closing,
        activity: Activity,
        limits: Limits,
        audit: Audit,
    ) -> Self {
        Self {
            settings,
            store,
            closing,
            activity,
            limits,
            audit,
            log: TransactionLog::off(),
            guard: Guard::default(),
            proofs: Proofs::default(),
            visitors: Visitors::default(),
            asked: Asked::default(),
            breakers: Breakers::default(),
        }
    }
}

impl Provider {
    /// With a record of what is said.
    pub(crate) fn recording(self, log: TransactionLog) -> Self {
        Self { log, ..self }
    }

    /// With what an earlier run knew of logins and locks.
    pub(crate) fn remembering(mut self, remembered: Remembered) -> Self {
        for (_, address) in &remembered.logins {
            self.limits.authenticated(*address);
        }
        let now = Timestamp::now();
        let locks = remembered.locks.into_iter().map(|(name, until)| {
            let left = until.duration_since(now);
            (name, left.try_into().unwrap_or_default())
        });
        self.guard = Guard::new(remembered.logins, locks, Instant::now());
        self
    }

    /// Lets in a connection that has not said who it is; none when there are too many of them.
    fn enter(&self, address: IpAddr) -> Option<Visit> {
        let from = if self.limits.is_exempt(address) {
            From::Exempt
        } else if self.guard.is_pullers_network(address) {
            From::Home
        } else {
            From::Elsewhere
        };
        let settings = self.settings.load();
        self.visitors.enter(address, from, &settings.config.odmr)
    }
}

impl Service for Provider {
    const SIDE: Side = Side::Odmr;

    fn hostname(&self) -> String {
        self.settings.load().config.hostname.to_string()
    }

    fn caps(&self, address: IpAddr) -> Option<Caps> {
        let settings = self.settings.load();
        let odmr = &settings.config.odmr;
        let allowed = &odmr.allow_from;
        let may_connect = allowed.is_empty()
            || allowed
                .iter()
                .any(|network| network.contains(&address.to_canonical()));
        // Pullers share an address behind a firewall, so no address has a share of its own.
        may_connect.then_some(Caps {
            total: odmr.max_connections,
            per_address: None,
        })
    }

    fn log(&self) -> Option<&TransactionLog> {
        Some(&self.log)
    }

    fn audit(&self) -> Option<&Audit> {
        Some(&self.audit)
    }

    fn begins_in_clear(&self) -> bool {
        // Text where a handshake is due would look to the puller like the wrong port.
        self.settings.load().config.odmr.tls != OdmrTls::Implicit
    }

    async fn serve(self, stream: TcpStream, peer: SocketAddr, shutdown: CancellationToken) {
        session::serve(&self, stream, peer, &shutdown).await;
    }
}

/// When each account asked last, for `min_interval` (R2645-12). Only accounts that authenticated are in it.
#[derive(Clone, Debug, Default)]
struct Asked(Arc<Mutex<HashMap<String, Instant>>>);

impl Asked {
    /// Notes that an account asks; true when it asked less than `interval` ago.
    fn too_often(&self, account: &str, interval: Duration, now: Instant) -> bool {
        if interval.is_zero() {
            return false;
        }
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = asked.get(account).copied();
        if last.is_some_and(|last| now.saturating_duration_since(last) < interval) {
            return true;
        }
        asked.insert(account.to_owned(), now);
        false
    }

    /// The last ATRN of an account waited its time here, and whoever waited did not ask too often.
    fn waited(&self, account: &str) {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked.remove(account);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers: R2645-12
    #[test]
    fn an_account_that_asks_too_often_is_put_off() {
        let asked = Asked::default();
        let start = Instant::now();
        let minute = Duration::from_secs(60);
        assert!(!asked.too_often("corp", minute, start));
        assert!(asked.too_often("corp", minute, start + minute / 2));
        assert!(!asked.too_often("other", minute, start + minute / 2));
        assert!(!asked.too_often("corp", minute, start + minute));
        asked.waited("corp");
        assert!(!asked.too_often("corp", minute, start + minute));
        assert!(asked.too_often("corp", minute, start + minute));
        assert!(!asked.too_often("corp", Duration::ZERO, start + minute));
    }
}
