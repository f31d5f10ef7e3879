//! The settings in force, replaced as a whole.

use std::sync::Arc;

use arc_swap::ArcSwap;

/// A value that readers take a snapshot of and one owner replaces. A session that began under the old
/// settings keeps its snapshot as long as it likes.
#[derive(Debug)]
pub struct Live<T>(Arc<ArcSwap<T>>);

impl<T> Live<T> {
    /// Starts with `value`.
    pub fn new(value: T) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(value)))
    }

    /// The value in force now.
    #[must_use]
    pub fn load(&self) -> Arc<T> {
        self.0.load_full()
    }

    /// Replaces it for everybody who loads from now on.
    pub fn store(&self, value: T) {
        self.0.store(Arc::new(value));
    }
}

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}
