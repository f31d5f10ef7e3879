//! The settings in force, replaced as a whole.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

/// A value that readers take a snapshot of and one owner replaces. A session that began under the old
/// settings keeps its snapshot as long as it likes.
#[derive(Debug)]
pub struct Live<T>(Arc<Inner<T>>);

#[derive(Debug)]
struct Inner<T> {
    value: ArcSwap<T>,
    replaced: watch::Sender<()>,
}

impl<T> Live<T> {
    /// Starts with `value`.
    pub fn new(value: T) -> Self {
        Self(Arc::new(Inner {
            value: ArcSwap::from_pointee(value),
            replaced: watch::Sender::default(),
        }))
    }

    /// The value in force now.
    #[must_use]
    pub fn load(&self) -> Arc<T> {
        self.0.value.load_full()
    }

    /// Replaces it for everybody who loads from now on, and tells those who wait for it.
    pub fn store(&self, value: T) {
        self.0.value.store(Arc::new(value));
        self.0.replaced.send_replace(());
    }

    /// Replacements from now on. Who must notice one takes this first and loads the value afterwards.
    #[must_use]
    pub fn replacements(&self) -> Replacements {
        Replacements(self.0.replaced.subscribe())
    }
}

/// Tells one reader of a [`Live`] that its value was replaced.
#[derive(Debug)]
pub struct Replacements(watch::Receiver<()>);

impl Replacements {
    /// Waits until the value was replaced since the last call, or since there is this reader. Cancel-safe.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            // Nobody is left who could replace it.
            std::future::pending::<()>().await;
        }
    }
}

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    fn is_told(reader: &mut Replacements) -> bool {
        pin!(reader.next())
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_ready()
    }

    #[test]
    fn a_replacement_is_told_once_to_everybody_who_was_there() {
        let live = Live::new(1);
        let mut early = live.replacements();
        assert!(!is_told(&mut early));
        let owner = live.clone();
        owner.store(2);
        let mut late = live.replacements();
        live.store(3);
        for reader in [&mut early, &mut late] {
            assert!(is_told(reader));
            assert_eq!(*live.load(), 3);
            assert!(!is_told(reader));
        }
        drop((live, owner));
        assert!(!is_told(&mut early));
    }
}
