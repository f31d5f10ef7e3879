//! Places for questions under way, of which there are only so many: names that a peer chooses may lead to name servers that never
//! answer, and must not take DNS away from everybody else.
//!
//! Who asks more than its share waits, in order, until its own questions are answered. A place is taken until the child has
//! answered, also when nobody waits for that any more: the child is still busy with it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Trouble;
use crate::limits::Origin;

/// Questions under way, of all.
pub(super) const PLACES: usize = 1_000;
/// Those of them that are kept for questions about clients that have just come.
const RESERVE: usize = PLACES / 4;
/// Questions under way for one client.
const SHARE: usize = 32;

/// For whom a question is asked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asker {
    /// `None`: the relay itself, or a client that no limit applies to.
    pub(super) client: Option<Origin>,
    /// It is about a client that has just come.
    pub(super) is_arrival: bool,
}

/// All places.
#[derive(Debug)]
pub(super) struct Places {
    common: Arc<Semaphore>,
    reserve: Arc<Semaphore>,
    shares: Mutex<HashMap<Origin, Arc<Semaphore>>>,
}

/// The place of one question; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    _place: OwnedSemaphorePermit,
    _share: Option<OwnedSemaphorePermit>,
}

impl Places {
    pub(super) fn new() -> Self {
        Self {
            common: Arc::new(Semaphore::new(PLACES - RESERVE)),
            reserve: Arc::new(Semaphore::new(RESERVE)),
            shares: Mutex::default(),
        }
    }

    /// Takes a place. Waits for one in the client's share, and for no other.
    ///
    /// # Errors
    /// [`Trouble::Busy`]: all are taken.
    pub(super) async fn take(&self, asker: Asker) -> Result<Place, Trouble> {
        let share = match asker.client {
            Some(client) => {
                let share = self.share(client).acquire_owned().await;
                Some(share.map_err(|_| Trouble::Busy)?)
            }
            None => None,
        };
        let mut place = Arc::clone(&self.common).try_acquire_owned();
        if asker.is_arrival && place.is_err() {
            place = Arc::clone(&self.reserve).try_acquire_owned();
        }
        Ok(Place {
            _place: place.map_err(|_| Trouble::Busy)?,
            _share: share,
        })
    }

    /// Forgets clients without a question.
    pub(super) fn sweep(&self) {
        // Whoever has a place, or waits for one, holds the share too.
        self.shares()
            .retain(|_, share| Arc::strong_count(share) > 1);
    }

    fn share(&self, client: Origin) -> Arc<Semaphore> {
        let mut shares = self.shares();
        let share = shares.entry(client);
        Arc::clone(share.or_insert_with(|| Arc::new(Semaphore::new(SHARE))))
    }

    fn shares(&self) -> MutexGuard<'_, HashMap<Origin, Arc<Semaphore>>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::task::{Context, Poll, Waker};

    /// `None`: it waits.
    fn take(places: &Places, asker: Asker) -> Option<Result<Place, Trouble>> {
        let taking = std::pin::pin!(places.take(asker));
        match taking.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(taken) => Some(taken),
            Poll::Pending => None,
        }
    }

    fn asker(client: &str, is_arrival: bool) -> Asker {
        let client = client.parse().ok().map(Origin::of);
        Asker { client, is_arrival }
    }

    #[test]
    fn nobody_takes_the_places_of_others() {
        const COMMON: usize = PLACES - RESERVE;
        for (what, before, (client, is_arrival), expected) in [
            ("empty", &[][..], ("192.0.2.1", false), "taken"),
            (
                "share",
                &[("192.0.2.1", false, 32)],
                ("192.0.2.1", false),
                "waits",
            ),
            (
                "own arrival",
                &[("192.0.2.1", false, 32)],
                ("192.0.2.1", true),
                "waits",
            ),
            (
                "another",
                &[("192.0.2.1", false, 32)],
                ("192.0.2.2", false),
                "taken",
            ),
            (
                "/64",
                &[("2001:db8::1", false, 32)],
                ("2001:db8::2", false),
                "waits",
            ),
            ("no limit", &[("", false, COMMON - 1)], ("", false), "taken"),
            ("full", &[("", false, COMMON)], ("192.0.2.1", false), "busy"),
            (
                "reserve",
                &[("", false, COMMON)],
                ("192.0.2.1", true),
                "taken",
            ),
            (
                "all full",
                &[("", true, PLACES)],
                ("192.0.2.1", true),
                "busy",
            ),
        ] {
            let places = Places::new();
            let taken = before.iter().flat_map(|(client, is_arrival, count)| {
                let asker = asker(client, *is_arrival);
                (0..*count).map(move |_| asker)
            });
            let taken: Vec<_> = taken.map(|asker| take(&places, asker)).collect();
            assert!(
                taken.iter().all(|place| matches!(place, Some(Ok(_)))),
                "{what}"
            );
            let next = || match take(&places, asker(client, is_arrival)) {
                Some(Ok(_)) => "taken",
                Some(Err(_)) => "busy",
                None => "waits",
            };
            assert_eq!(next(), expected, "{what}");
            drop(taken);
            assert_eq!(next(), "taken", "{what}, later");
            places.sweep();
            assert!(places.shares().is_empty(), "{what}");
        }
    }
}
