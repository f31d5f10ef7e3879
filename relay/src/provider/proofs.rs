//! Where proofs are checked that cost milliseconds: PLAIN makes the relay run PBKDF2, and strangers may ask for it.
//!
//! Those who logged in from the same network before have a lane of their own. Strangers wait in a short queue for theirs,
//! which rests three times as long as each check took: so all of them together get a quarter of one processor, whatever
//! its speed, and mail and pullers the rest.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Checks at a time for those who are known.
const FAMILIAR_AT_ONCE: usize = 2;
/// Checks at a time for strangers.
const STRANGERS_AT_ONCE: usize = 1;
/// Strangers that wait for a check. With 15,000 rounds of PBKDF2 the last of them waits for about a second.
const STRANGERS_WAITING: usize = 64;
/// How long the strangers' lane rests, in times of what a check took.
const REST: u32 = 3;

/// The lanes. Clones are handles of the same.
#[derive(Clone, Debug)]
pub(super) struct Proofs {
    familiar: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
}

/// Who asks for a check.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Lane {
    Familiar,
    Strangers,
}

impl Default for Proofs {
    fn default() -> Self {
        Self {
            familiar: Arc::new(Semaphore::new(FAMILIAR_AT_ONCE)),
            strangers: Arc::new(Semaphore::new(STRANGERS_AT_ONCE)),
            waiting: Arc::default(),
        }
    }
}

impl Proofs {
    /// Runs a check off the runtime when it is its turn; `None` when too many strangers wait, or the check is lost.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        check: impl FnOnce() -> T + Send + 'static,
    ) -> Checked<T> {
        let permit = match lane {
            Lane::Familiar => Arc::clone(&self.familiar).acquire_owned().await,
            Lane::Strangers => {
                let Some(_place) = Place::take(&self.waiting) else {
                    return Checked::TooMany;
                };
                Arc::clone(&self.strangers).acquire_owned().await
            }
        };
        let Ok(permit) = permit else {
            return Checked::Lost;
        };
        let ran = tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let result = check();
            (result, began.elapsed(), permit)
        });
        let Ok((result, took, permit)) = ran.await else {
            return Checked::Lost;
        };
        if lane == Lane::Strangers {
            tokio::spawn(rest(permit, took * REST));
        }
        Checked::Done(result)
    }
}

/// What became of a check.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Checked<T> {
    Done(T),
    /// It was not run.
    TooMany,
    /// It did not come to an end.
    Lost,
}

async fn rest(_permit: OwnedSemaphorePermit, time: std::time::Duration) {
    tokio::time::sleep(time).await;
}

/// A place in the strangers' queue.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(waiting: &Arc<AtomicUsize>) -> Option<Self> {
        let place = Self(Arc::clone(waiting));
        (waiting.fetch_add(1, Relaxed) < STRANGERS_WAITING).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_crowd_of_strangers_holds_up_nobody_that_is_known() {
        let proofs = Proofs::default();
        let (release, held) = mpsc::channel::<()>();
        let first = tokio::spawn({
            let proofs = proofs.clone();
            async move {
                proofs
                    .run(Lane::Strangers, move || held.recv().is_ok())
                    .await
            }
        });
        while proofs.strangers.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let crowd: Vec<_> = (0..STRANGERS_WAITING)
            .map(|number| {
                let proofs = proofs.clone();
                tokio::spawn(async move { proofs.run(Lane::Strangers, move || number).await })
            })
            .collect();
        while proofs.waiting.load(Relaxed) < STRANGERS_WAITING {
            tokio::task::yield_now().await;
        }
        assert_eq!(proofs.run(Lane::Strangers, || 0).await, Checked::TooMany);
        assert_eq!(proofs.run(Lane::Familiar, || 1).await, Checked::Done(1));
        release.send(()).unwrap();
        assert_eq!(first.await.unwrap(), Checked::Done(true));
        for (number, waiter) in crowd.into_iter().enumerate() {
            assert_eq!(waiter.await.unwrap(), Checked::Done(number));
        }
        assert_eq!(proofs.waiting.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn a_check_that_breaks_takes_no_place_with_it() {
        let proofs = Proofs::default();
        for _ in 0..3 {
            let lost = proofs.run(Lane::Strangers, || panic!("on purpose")).await;
            assert_eq!(lost, Checked::<()>::Lost);
        }
        assert_eq!(proofs.run(Lane::Strangers, || 7).await, Checked::Done(7));
    }
}
