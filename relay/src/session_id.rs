//! Names for sessions, by which everything that one did can be found in the log.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::queue::SessionId;

/// A new id. It starts anywhere, so that the ids of two runs are unlikely to meet in one log.
pub(crate) fn next() -> SessionId {
    static NEXT: LazyLock<AtomicU64> =
        LazyLock::new(|| AtomicU64::new(u64::from(fastrand::u32(0x1000..))));
    SessionId(NEXT.fetch_add(1, Ordering::Relaxed))
}
