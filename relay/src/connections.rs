//! Accepting connections: how many at a time, from whom, and what those hear that are too many.
//!
//! What is said on a connection is the business of `edge` and `provider`.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use atrn_shared::smtp::reply::Reply;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

/// Pause after an accept that failed for want of descriptors or memory: they come back when sessions end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// That all connections are taken is said once in so long.
const FULL_SAID_AFTER: Duration = Duration::from_secs(60);

/// How many connections a listener holds at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caps {
    /// In all.
    pub(crate) total: usize,
    /// From one address.
    pub(crate) per_address: usize,
}

/// The connections of one service, counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connections(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// A connection that was let in; it makes room when it is dropped.
#[derive(Debug)]
pub(crate) struct Admission {
    connections: Connections,
    address: IpAddr,
}

impl Connections {
    /// Lets a connection in, unless there are too many.
    pub(crate) fn admit(&self, address: IpAddr, caps: Caps) -> Option<Admission> {
        let address = address.to_canonical();
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let from_here = counts.by_address.get(&address).copied().unwrap_or(0);
        if counts.total >= caps.total || from_here >= caps.per_address {
            return None;
        }
        counts.total += 1;
        counts.by_address.insert(address, from_here + 1);
        Some(Admission {
            connections: self.clone(),
            address,
        })
    }

    /// Whether there are as many as there may be, wherever they come from.
    fn are_all_taken(&self, caps: Caps) -> bool {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.total >= caps.total
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut counts = self
            .connections
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        counts.total -= 1;
        if let Some(count) = counts.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.by_address.remove(&self.address);
            }
        }
    }
}

/// A service that listens: whom it lets in, and what it does with them.
pub(crate) trait Service: Clone + Send + Sync + 'static {
    /// Its name in the log.
    const NAME: &'static str;

    /// The host name that leads a refusal.
    fn hostname(&self) -> String;

    /// The caps in force now; none for an address that is not let in at all.
    fn caps(&self, address: IpAddr) -> Option<Caps>;

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
                    warn!(service = S::NAME, %error, "cannot accept connections, and goes on trying");
                }
                is_failing = true;
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if is_failing {
            info!(service = S::NAME, "accepts connections again");
            is_failing = false;
        }
        let caps = service.caps(peer.ip());
        let admission = caps.and_then(|caps| connections.admit(peer.ip(), caps));
        let Some(admission) = admission else {
            let all_taken = caps.filter(|caps| connections.are_all_taken(*caps));
            if let Some(caps) = all_taken
                && full_said.is_none_or(|said| said.elapsed() >= FULL_SAID_AFTER)
            {
                full_said = Some(Instant::now());
                warn!(
                    service = S::NAME,
                    max_connections = caps.total,
                    "all connections are taken; who comes now is turned away"
                );
            }
            debug!(service = S::NAME, %peer, "refused: too many connections, or an address that may not connect");
            if service.begins_in_clear() {
                turn_away(&stream, &service.hostname());
            }
            continue;
        };
        let (service, shutdown) = (service.clone(), shutdown.clone());
        // Made inside the task: one that is moved into it has its room there twice, as long as the session lasts.
        sessions.spawn(async move {
            service.serve(stream, peer, shutdown).await;
            drop(admission);
        });
    }
}

/// R5321-1: 421 and close. If it can not be written at once, the close alone says it.
fn turn_away(stream: &TcpStream, hostname: &str) {
    let mut output = Vec::new();
    Reply::new(421, "4.3.2", format!("{hostname} is busy, try again later")).write(&mut output);
    let _ = stream.try_write(&output);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caps_hold_and_room_comes_back() {
        let connections = Connections::default();
        let caps = Caps {
            total: 3,
            per_address: 2,
        };
        let one: IpAddr = "192.0.2.1".parse().unwrap();
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        let other: IpAddr = "2001:db8::1".parse().unwrap();
        assert!(!connections.are_all_taken(caps));
        let first = connections.admit(one, caps);
        let second = connections.admit(mapped, caps);
        assert!(first.is_some() && second.is_some());
        assert!(
            connections.admit(one, caps).is_none(),
            "per address, however it is written"
        );
        let third = connections.admit(other, caps);
        assert!(third.is_some());
        assert!(connections.are_all_taken(caps));
        assert!(
            connections
                .admit("2001:db8::2".parse().unwrap(), caps)
                .is_none(),
            "in all"
        );
        drop(second);
        assert!(connections.admit(one, caps).is_some());
        drop((first, third));
        assert!(connections.0.lock().unwrap().by_address.is_empty());
    }
}
