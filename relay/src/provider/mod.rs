//! The pullers' side: an authenticated customer asks with ATRN, the roles reverse, held mail flows out.
//!
//! [`session`] drives `odmr::provider` up to the turn, what an ATRN gets is found in [`mod@atrn`], and in [`wait`] where it
//! waits for mail. [`drain`] sends after the turn, each delivery as a [`transaction`] and several in a [`window`]; in
//! [`idle`] it waits for more.
//! What a reply means for a delivery is decided in [`verdict`], whether a refusal is believed in [`breaker`], and
//! [`settlement`] tells the queue. Nothing here can take mail: the machine has no such event.

mod atrn;
mod breaker;
mod drain;
mod idle;
mod permission;
mod session;
mod settlement;
mod transaction;
mod verdict;
mod wait;
mod window;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use atrn_shared::config::Live;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::breaker::Breakers;
use self::settlement::Provisional;
use crate::activity::Activity;
use crate::closing::Closing;
use crate::config::OdmrTls;
use crate::connections::{Caps, Service};
use crate::limits::{Limits, Side};
use crate::queue::Store;
use crate::settings::Settings;

/// Proofs that are checked at a time: PLAIN costs a PBKDF2 each, and strangers may ask for it.
const PROOFS_AT_ONCE: usize = 2;

/// Everything that a session with a puller may use.
#[derive(Clone, Debug)]
pub(crate) struct Provider {
    pub(crate) settings: Live<Settings>,
    pub(crate) store: Store,
    pub(crate) closing: Closing,
    pub(crate) activity: Activity,
    pub(crate) limits: Limits,
    proofs: Arc<Semaphore>,
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
    ) -> Self {
        Self {
            settings,
            store,
            closing,
            activity,
            limits,
            proofs: Arc::new(Semaphore::new(PROOFS_AT_ONCE)),
            asked: Asked::default(),
            breakers: Breakers::default(),
        }
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
