//! Accepting connections: how many at a time, from whom, and what those hear that are too many.
//!
//! How often somebody may come, and who is banned, is known by [`Limits`]; whose connection it is that a load balancer
//! passes on, by [`proxy`]. What is said on a connection is the business of `edge` and `provider`.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use atrn_shared::smtp::reply::Reply;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::audit::Audit;
use crate::limits::{Denial, Limits, Origin, Side};
use crate::transaction_log::{self, TransactionLog};
use crate::{proxy, session_id};

/// Pause after an accept that failed for want of descriptors or memory: they come back when sessions end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// That all connections are taken is said once in so long.
const FULL_SAID_AFTER: Duration = Duration::from_secs(60);

/// Under stress one origin has this part of its connections only: those of many are left for others.
const SHARE_UNDER_STRESS: usize = 4;

/// How many connections a listener holds at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caps {
    /// In all.
    pub(crate) total: usize,
    /// From one address, or one /64 of IPv6; none: as many as in all.
    pub(crate) per_address: Option<usize>,
}

impl Caps {
    /// Of one origin at this moment.
    fn per_origin(self, is_stressed: bool) -> usize {
        match self.per_address {
            Some(most) if is_stressed => most.div_ceil(SHARE_UNDER_STRESS),
            Some(most) => most,
            None => self.total,
        }
    }
}

/// The connections of one service, counted.
#[derive(Clone, Debug)]
pub(crate) struct Connections(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    side: Side,
    limits: Limits,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    /// Of [`Caps::total`], as it was last asked.
    total_max: usize,
    by_origin: HashMap<Origin, usize>,
}

/// A connection that was let in; it makes room when it is dropped.
#[derive(Debug)]
pub(crate) struct Admission {
    connections: Connections,
    /// Whom it counts for; none while only a load balancer knows, and for those that nobody counts.
    origin: Option<Origin>,
}

impl Connections {
    /// None so far, on this side.
    pub(crate) fn new(limits: Limits, side: Side) -> Self {
        Self(Arc::new(Shared {
            side,
            limits,
            counts: Mutex::default(),
        }))
    }

    /// Lets a connection in that comes from `address`.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn admit(&self, address: IpAddr, caps: Caps) -> Result<Admission, Denial> {
        let mut admission = self.reserve(caps)?;
        admission.comes_from(address, caps)?;
        Ok(admission)
    }

    /// Makes room for a connection of which it is not known yet where it comes from.
    ///
    /// # Errors
    /// [`Denial::AllTaken`].
    pub(crate) fn reserve(&self, caps: Caps) -> Result<Admission, Denial> {
        let mut counts = self.counts();
        counts.total_max = caps.total;
        if counts.total >= caps.total {
            self.0.limits.denied(Denial::AllTaken);
            return Err(Denial::AllTaken);
        }
        counts.total += 1;
        self.note_stress(&counts);
        Ok(Admission {
            connections: self.clone(),
            origin: None,
        })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Under the lock of the counts, so that the last word is that of the last count.
    fn note_stress(&self, counts: &Counts) {
        let Shared { side, limits, .. } = &*self.0;
        limits.stress(*side).note(counts.total, counts.total_max);
    }
}

impl Admission {
    /// Now it is known where it comes from.
    ///
    /// # Errors
    /// Why it is not let in; the admission is of no more use then.
    pub(crate) fn comes_from(&mut self, address: IpAddr, caps: Caps) -> Result<(), Denial> {
        let Shared { side, limits, .. } = &*self.connections.0;
        if limits.is_exempt(address) {
            return Ok(());
        }
        limits.connected(*side, address)?;
        let origin = Origin::of(address);
        let mut counts = self.connections.counts();
        let from_here = counts.by_origin.get(&origin).copied().unwrap_or(0);
        if from_here >= caps.per_origin(limits.stress(*side).is_on()) {
            limits.denied(Denial::TooManyFromHere);
            return Err(Denial::TooManyFromHere);
        }
        counts.by_origin.insert(origin, from_here + 1);
        self.origin = Some(origin);
        Ok(())
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut counts = self.connections.counts();
        counts.total -= 1;
        self.connections.note_stress(&counts);
        if let Some(origin) = self.origin
            && let Some(count) = counts.by_origin.get_mut(&origin)
        {
            *count -= 1;
            if *count == 0 {
                counts.by_origin.remove(&origin);
            }
        }
    }
}

/// A service that listens: whom it lets in, and what it does with them.
pub(crate) trait Service: Clone + Send + Sync + 'static {
    /// Which limits it has, and its name in the log.
    const SIDE: Side;

    /// The host name that leads a refusal.
    fn hostname(&self) -> String;

    /// The caps in force now; none for an address that is not let in at all.
    fn caps(&self, address: IpAddr) -> Option<Caps>;

    /// Whether a load balancer is at this address, which says first whose connection it is.
    fn is_proxy(&self, _: IpAddr) -> bool {
        false
    }

    /// Where it is written down who was turned away.
    fn log(&self) -> Option<&TransactionLog> {
        None
    }

    /// Where it is summed up who was turned away.
    fn audit(&self) -> Option<&Audit> {
        None
    }

    /// Whether the first octets on a connection are in the clear, so that a refusal can be read.
    fn begins_in_clear(&self) -> bool;

    /// Serves one connection to its end.
    fn serve(
        self,
        stream: TcpStream,
        peer: SocketAddr,
        shutdown: CancellationToken,
    ) -> impl Future<Output = ()> + Send;
}

/// Accepts connections until the shutdown, each a task of `sessions`.
pub(crate) async fn listen<S: Service>(
    service: S,
    listener: TcpListener,
    connections: Connections,
    sessions: TaskTracker,
    shutdown: CancellationToken,
) {
    let mut is_failing = false;
    let mut full_said: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // A connection that is gone again, or no descriptors left: either way the others go on. Said once:
                // it is tried many times a second, and a log that overflows is the next trouble.
                if !is_failing {
                    warn!(service = S::SIDE.name(), %error, "cannot accept connections, and goes on trying");
                }
                is_failing = true;
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if is_failing {
            info!(service = S::SIDE.name(), "accepts connections again");
            is_failing = false;
        }
        let caps = service.caps(peer.ip());
        let is_proxied = service.is_proxy(peer.ip());
        let admitted = match caps {
            Some(caps) if is_proxied => connections.reserve(caps),
            Some(caps) => connections.admit(peer.ip(), caps),
            None => Err(Denial::NotAllowed),
        };
        let (admission, caps) = match (admitted, caps) {
            (Ok(admission), Some(caps)) => (admission, caps),
            (admitted, _) => {
                let denial = admitted.err().unwrap_or(Denial::NotAllowed);
                if denial == Denial::AllTaken
                    && full_said.is_none_or(|said| said.elapsed() >= FULL_SAID_AFTER)
                {
                    full_said = Some(Instant::now());
                    warn!(
                        service = S::SIDE.name(),
                        max_connections = caps.map(|caps| caps.total),
                        "all connections are taken; who comes now is turned away"
                    );
                }
                turn_away(&service, &stream, peer, denial);
                continue;
            }
        };
        let (service, shutdown) = (service.clone(), shutdown.clone());
        if is_proxied {
            let client = proxied(service, stream, peer, (admission, caps), shutdown);
            sessions.spawn(client);
            continue;
        }
        // Made inside the task: one that is moved into it has its room there twice, as long as the session lasts.
        sessions.spawn(async move {
            service.serve(stream, peer, shutdown).await;
            drop(admission);
        });
    }
}

/// Serves a connection of which a load balancer says whose it is.
async fn proxied<S: Service>(
    service: S,
    mut stream: TcpStream,
    proxy: SocketAddr,
    (mut admission, caps): (Admission, Caps),
    shutdown: CancellationToken,
) {
    let heard = shutdown.run_until_cancelled(proxy::client(&mut stream, proxy));
    let peer = match heard.await {
        Some(Ok(peer)) => peer,
        // It looks whether there is anybody.
        Some(Err(proxy::HeaderError::Io(_))) => return,
        Some(Err(error)) => {
            // RPROXY-1: closed without a word. Whoever this is, it is no SMTP client.
            info!(service = S::SIDE.name(), peer = %proxy, reason = %error, "no PROXY header");
            note_refused(&service, &stream, proxy, &error.to_string());
            return;
        }
        None => return,
    };
    if let Err(denial) = admission.comes_from(peer.ip(), caps) {
        return turn_away(&service, &stream, peer, denial);
    }
    service.serve(stream, peer, shutdown).await;
}

/// R5321-1: 421 and close. If it can not be written at once, the close alone says it.
fn turn_away<S: Service>(service: &S, stream: &TcpStream, peer: SocketAddr, denial: Denial) {
    debug!(service = S::SIDE.name(), %peer, reason = denial.name(), "turned away");
    note_refused(service, stream, peer, denial.name());
    if let Some(audit) = service.audit() {
        audit.refused(S::SIDE.name(), denial.name(), peer.ip());
    }
    if service.begins_in_clear() {
        let mut output = Vec::new();
        refusal(&service.hostname(), denial).write(&mut output);
        let _ = stream.try_write(&output);
    }
}

fn note_refused<S: Service>(service: &S, stream: &TcpStream, peer: SocketAddr, reason: &str) {
    let Some(log) = service.log() else { return };
    let side = match S::SIDE {
        Side::Odmr => transaction_log::Service::Odmr,
        _ => transaction_log::Service::Smtp,
    };
    let local = stream.local_addr().ok();
    let mut trail = log.session(side, session_id::next(), peer, local);
    trail.note(&transaction_log::Event {
        code: service.begins_in_clear().then_some(421),
        text: reason.into(),
        ..transaction_log::Event::new("refused")
    });
}

fn refusal(hostname: &str, denial: Denial) -> Reply {
    let (code, why) = match denial {
        Denial::AllTaken => ("4.3.2", "is busy"),
        Denial::Banned => ("4.7.0", "had too much trouble with your address"),
        Denial::NotAllowed => ("4.3.2", "is not for your address"),
        Denial::TooManyFromHere => ("4.7.0", "has too many connections from your address"),
        Denial::TooOften => ("4.7.0", "hears from your address too often"),
    };
    Reply::new(421, code, format!("{hostname} {why}, try again later"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LimitsConfig;

    fn connections(config: LimitsConfig) -> Connections {
        Connections::new(Limits::new(config), Side::Smtp)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn caps_hold_and_room_comes_back() {
        let connections = connections(LimitsConfig::default());
        let caps = Caps {
            total: 100,
            per_address: Some(2),
        };
        let admit = |from: &str| connections.admit(address(from), caps);
        let first = admit("192.0.2.1");
        let second = admit("::ffff:192.0.2.1");
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(
            admit("192.0.2.1").unwrap_err(),
            Denial::TooManyFromHere,
            "however it is written"
        );
        // One customer of IPv6 has all of a /64.
        let third = admit("2001:db8::1");
        let fourth = admit("2001:db8::2:1");
        assert!(third.is_ok() && fourth.is_ok());
        assert_eq!(admit("2001:db8::3").unwrap_err(), Denial::TooManyFromHere);
        drop(second);
        let fifth = admit("192.0.2.1");
        assert!(fifth.is_ok());
        drop((first, third, fourth, fifth));
        assert!(connections.counts().by_origin.is_empty());
        assert_eq!(connections.counts().total, 0);
    }

    #[test]
    fn all_that_there_are_is_the_limit_of_everybody() {
        let exempt = vec!["192.0.2.0/24".parse().unwrap()];
        let connections = connections(LimitsConfig {
            exempt,
            ..LimitsConfig::default()
        });
        let caps = Caps {
            total: 3,
            per_address: Some(1),
        };
        let held: Vec<_> = (0..3)
            .map(|_| connections.admit(address("192.0.2.1"), caps).unwrap())
            .collect();
        for from in ["192.0.2.2", "198.51.100.1"] {
            let denied = connections.admit(address(from), caps);
            assert_eq!(denied.unwrap_err(), Denial::AllTaken);
        }
        assert_eq!(connections.reserve(caps).unwrap_err(), Denial::AllTaken);
        drop(held);
        assert!(connections.reserve(caps).is_ok());
    }

    #[test]
    fn under_stress_an_address_has_a_part_of_its_connections() {
        let connections = connections(LimitsConfig::default());
        let caps = Caps {
            total: 10,
            per_address: Some(8),
        };
        let admit = |from: &str| connections.admit(address(from), caps);
        let stress = || connections.0.limits.stress(Side::Smtp).is_on();
        let mut held: Vec<_> = (0..7).map(|_| admit("192.0.2.1").unwrap()).collect();
        assert!(!stress());
        held.push(admit("192.0.2.2").unwrap());
        assert!(stress(), "from 80 in 100 on");
        assert_eq!(admit("192.0.2.1").unwrap_err(), Denial::TooManyFromHere);
        held.push(admit("192.0.2.2").unwrap());
        assert_eq!(admit("192.0.2.2").unwrap_err(), Denial::TooManyFromHere);
    }

    #[test]
    fn who_is_denied_hears_why() {
        let mut output = Vec::new();
        refusal("mx1.example.net", Denial::Banned).write(&mut output);
        assert_eq!(
            String::from_utf8(output).unwrap(),
            "421 4.7.0 mx1.example.net had too much trouble with your address, try again later\r\n"
        );
    }
}
