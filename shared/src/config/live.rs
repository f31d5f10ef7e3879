//! The settings in force, replaced as a whole.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tracing::error;

use super::{ConfigErrors, Watch, WatchedFiles};

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

/// Reloads at each change, for ever. What cannot be loaded is logged in one line and changes nothing.
///
/// `load` reads files, and so runs on a thread for blocking work. `adopted` is told the old and the new
/// settings before they are in force, and says which files to watch from then on.
pub async fn follow<T: Send + Sync + 'static>(
    mut watch: Watch,
    live: Live<T>,
    load: impl Fn() -> Result<T, ConfigErrors> + Clone + Send + Sync + 'static,
    adopted: impl Fn(&T, &T) -> WatchedFiles,
) {
    loop {
        watch.changed().await;
        let load = load.clone();
        match tokio::task::spawn_blocking(load).await {
            Ok(Ok(new)) => {
                watch.trigger().watch(adopted(&live.load(), &new));
                live.store(new);
            }
            Ok(Err(errors)) => {
                let problems: Vec<_> = errors.problems().iter().map(ToString::to_string).collect();
                error!(
                    problems = problems.join(" | "),
                    "configuration not reloaded; the old one stays in force"
                );
            }
            Err(failure) => {
                error!(%failure, "configuration not reloaded; the old one stays in force")
            }
        }
    }
}
