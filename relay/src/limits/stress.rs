//! Whether a service is nearly full, and so has less patience with everybody: as `postscreen` and `smtpd` of Postfix.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{info, warn};

/// From so many of a hundred connections on a service is under stress …
const BEGINS_AT: usize = 80;
/// … and below so many no longer …
const ENDS_BELOW: usize = 70;
/// … but for so long at least: who is cut comes back, and a state that changes every second is none.
const LASTS: Duration = Duration::from_secs(10);

/// The state of one service. Clones are handles of the same.
#[derive(Clone, Debug)]
pub(crate) struct Stress(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    service: &'static str,
    state: watch::Sender<bool>,
    counts: Mutex<Counts>,
    begun: AtomicU64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    connections: usize,
    max: usize,
    /// Octets of memory that content takes, and of how many.
    content: u64,
    content_max: u64,
    /// While it is on.
    since: Option<Instant>,
}

/// For one session: whether there is stress now, and when that changes.
#[derive(Clone, Debug)]
pub(crate) struct Watcher(watch::Receiver<bool>);

impl Counts {
    /// Whether there is to be stress.
    fn want_stress(&self, now: Instant) -> bool {
        match self.since {
            Some(since) if now.saturating_duration_since(since) < LASTS => true,
            Some(_) => self.connections_reach(ENDS_BELOW) || self.content_reaches(ENDS_BELOW),
            None => self.connections_reach(BEGINS_AT) || self.content_reaches(BEGINS_AT),
        }
    }

    fn connections_reach(&self, percent: usize) -> bool {
        self.connections > 0 && self.connections * 100 >= self.max * percent
    }

    fn content_reaches(&self, percent: usize) -> bool {
        self.content > 0 && self.content * 100 >= self.content_max * percent as u64
    }
}

impl Stress {
    pub(crate) fn new(service: &'static str) -> Self {
        Self(Arc::new(Inner {
            service,
            state: watch::Sender::new(false),
            counts: Mutex::default(),
            begun: AtomicU64::new(0),
        }))
    }

    /// So many connections there are, of so many.
    pub(crate) fn note(&self, connections: usize, max: usize) {
        self.update(Instant::now(), |counts| {
            (counts.connections, counts.max) = (connections, max);
        });
    }

    /// So much memory content takes, of so much.
    pub(super) fn note_content(&self, octets: u64, max: u64) {
        self.update(Instant::now(), |counts| {
            (counts.content, counts.content_max) = (octets, max);
        });
    }

    /// Looks again: time has passed.
    pub(super) fn look_again(&self) {
        self.update(Instant::now(), |_| {});
    }

    /// Under the lock, so that the last word is that of the last count.
    fn update(&self, now: Instant, change: impl FnOnce(&mut Counts)) {
        let inner = &*self.0;
        let mut counts = inner.counts.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut counts);
        let will_be = counts.want_stress(now);
        if will_be == counts.since.is_some() {
            return;
        }
        counts.since = will_be.then_some(now);
        inner.state.send_replace(will_be);
        let Counts {
            connections,
            max: max_connections,
            content: content_octets,
            content_max,
            ..
        } = *counts;
        let service = inner.service;
        if !will_be {
            info!(
                service,
                connections, max_connections, "there is room again: usual patience"
            );
            return;
        }
        inner.begun.fetch_add(1, Relaxed);
        if counts.connections_reach(BEGINS_AT) {
            warn!(
                service,
                connections,
                max_connections,
                "nearly all connections are taken: less patience with everybody from now on"
            );
        } else {
            warn!(
                service,
                content_octets,
                content_max,
                "nearly all memory for content is taken: less patience with everybody from now on"
            );
        }
    }

    /// Whether there is stress now.
    pub(crate) fn is_on(&self) -> bool {
        *self.0.state.borrow()
    }

    /// How often it began.
    pub(crate) fn begun(&self) -> u64 {
        self.0.begun.load(Relaxed)
    }

    /// For a session that wants to know.
    pub(crate) fn watch(&self) -> Watcher {
        Watcher(self.0.state.subscribe())
    }
}

impl Watcher {
    /// Whether there is stress now.
    pub(crate) fn is_on(&mut self) -> bool {
        *self.0.borrow_and_update()
    }

    /// Waits until it begins or ends. Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // The service is gone, and this session with it.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_when_nearly_full_and_ends_later() {
        let now = Instant::now();
        let soon = now + LASTS / 2;
        let later = now + LASTS;
        let counts = |connections, since| Counts {
            connections,
            max: 1_000,
            content_max: 1_000,
            since,
            ..Counts::default()
        };
        let content = |content, since| Counts {
            content,
            ..counts(1, since)
        };
        for (counts, at, expected) in [
            (counts(799, None), now, false),
            (counts(800, None), now, true),
            (counts(700, Some(now)), later, true),
            (counts(699, Some(now)), later, false),
            (counts(0, Some(now)), soon, true),
            (counts(1_000, Some(now)), later, true),
            (Counts::default(), now, false),
            (content(799, None), now, false),
            (content(800, None), now, true),
            (content(700, Some(now)), later, true),
            (content(699, Some(now)), later, false),
        ] {
            assert_eq!(counts.want_stress(at), expected, "{counts:?}");
        }
    }

    #[test]
    fn who_watches_is_told() {
        let stress = Stress::new("edge");
        let mut watcher = stress.watch();
        assert!(!watcher.is_on());
        stress.note(8, 10);
        assert!(watcher.is_on() && stress.is_on());
        stress.note(0, 10);
        assert!(watcher.is_on(), "for a while at least");
        stress.update(Instant::now() + LASTS, |_| {});
        assert!(!watcher.is_on());
        assert_eq!(stress.begun(), 1);
    }
}
