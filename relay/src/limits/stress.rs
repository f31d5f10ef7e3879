//! Whether a service is nearly full, and so has less patience with everybody: as `postscreen` and `smtpd` of Postfix.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::sync::watch;

/// From so many of a hundred connections on a service is under stress …
const BEGINS_AT: usize = 80;
/// … and below so many no longer.
const ENDS_BELOW: usize = 70;

/// The state of one service. Clones are handles of the same.
#[derive(Clone, Debug)]
pub(crate) struct Stress(std::sync::Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: watch::Sender<bool>,
    begun: AtomicU64,
}

/// For one session: whether there is stress now, and when that changes.
#[derive(Clone, Debug)]
pub(crate) struct Watcher(watch::Receiver<bool>);

impl Stress {
    pub(crate) fn new() -> Self {
        Self(std::sync::Arc::new(Inner {
            state: watch::Sender::new(false),
            begun: AtomicU64::new(0),
        }))
    }

    /// So many connections there are, of so many; says whether that is news, and which.
    pub(crate) fn note(&self, connections: usize, max: usize) -> Option<bool> {
        let is_on = self.is_on();
        let will_be = if is_on {
            connections * 100 >= max * ENDS_BELOW
        } else {
            connections * 100 >= max * BEGINS_AT
        };
        if will_be == is_on {
            return None;
        }
        let changed = self.0.state.send_if_modified(|state| {
            let changes = *state != will_be;
            *state = will_be;
            changes
        });
        if changed && will_be {
            self.0.begun.fetch_add(1, Relaxed);
        }
        changed.then_some(will_be)
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
