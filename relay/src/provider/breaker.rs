//! The circuit breaker: a server inside that suddenly refuses most mail for good is more likely broken than right, and
//! must not make us bounce it (design §3).
//!
//! So a refusal for good is believed only after a while. It stays provisional while its session, or one beside it, goes
//! on and it is among the last verdicts of the account. Those verdicts are remembered from pull to pull, each delivery
//! once. When most of them are refusals the breaker trips, and all that is provisional is put off. After a trip the
//! account is in doubt: as long as nothing was delivered, no refusal is believed, however few there are.
//!
//! Where too few verdicts are known for that, and some refusals came with no delivery behind them, they are believed when they are
//! said once more. That is what a domain comes to that gets mail for unknown users only: they do not become more by being asked for again.
//!
//! Pure, and of any kind of thing that is refused: what becomes of it is the caller's business.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::queue::DeliveryId;

/// Verdicts that are looked at.
const WINDOW: usize = 20;
/// Fewer verdicts than these prove nothing.
const VERDICTS_MIN: usize = 10;
/// Fewer refusals than these are nothing special, even with nothing delivered since.
const REFUSALS_MIN: usize = 3;
/// Verdicts that are older say nothing of the server of today.
const VERDICT_AGE_MAX: Duration = Duration::from_secs(2 * 24 * 60 * 60);

/// What the puller said to one delivery.
#[derive(Debug)]
pub(super) enum Verdict<T> {
    /// 4yz.
    Deferred,
    /// 2yz for one recipient at least: the server inside works.
    Delivered,
    /// 5yz and nothing better.
    Refused(Refusal<T>),
}

/// A delivery that was refused for good.
#[derive(Debug)]
pub(super) struct Refusal<T> {
    /// What waits for the ruling on it.
    pub(super) provisional: T,
    /// It was refused for good before, and not believed.
    pub(super) is_repeated: bool,
}

/// What becomes of provisional refusals.
#[derive(Debug, Eq, PartialEq)]
#[must_use]
pub(super) struct Ruling<T> {
    /// They are what the server means.
    pub(super) believed: Vec<T>,
    /// They are not believed, and tried again later.
    pub(super) doubted: Vec<T>,
    /// The pull has to stop.
    pub(super) trip: Option<Trip>,
}

impl<T> Ruling<T> {
    /// Nothing is ruled on yet.
    fn none() -> Self {
        Self {
            believed: Vec::new(),
            doubted: Vec::new(),
            trip: None,
        }
    }
}

/// What made a breaker trip.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Trip {
    /// Deliveries refused for good.
    pub(super) refused: usize,
    /// Of so many.
    pub(super) verdicts: usize,
}

/// The breaker of one account.
#[derive(Debug)]
struct Breaker<T> {
    window: VecDeque<Seen<T>>,
    /// It tripped, and nothing was delivered since.
    in_doubt: bool,
    /// How often it has tripped, so that each session notices.
    trips: u64,
    /// Sessions that use it now.
    seats: usize,
    /// Those that may have verdicts yet.
    working: usize,
}

/// A verdict in the window.
#[derive(Debug)]
struct Seen<T> {
    delivery: DeliveryId,
    at: Instant,
    verdict: Kept<T>,
}

#[derive(Debug)]
enum Kept<T> {
    Deferred,
    Delivered,
    /// Empty once it was ruled on. Rare, and large: each account has a window, and most verdicts are of the other kind.
    Refused(Option<Box<Refusal<T>>>),
}

impl<T> Seen<T> {
    fn is_refusal(&self) -> bool {
        matches!(self.verdict, Kept::Refused(_))
    }

    fn is_delivered(&self) -> bool {
        matches!(self.verdict, Kept::Delivered)
    }

    fn is_provisional(&self) -> bool {
        matches!(self.verdict, Kept::Refused(Some(_)))
    }

    fn take_provisional(&mut self) -> Option<Refusal<T>> {
        match &mut self.verdict {
            Kept::Deferred | Kept::Delivered => None,
            Kept::Refused(refusal) => refusal.take().map(|refusal| *refusal),
        }
    }
}

impl<T> Default for Breaker<T> {
    fn default() -> Self {
        Self {
            window: VecDeque::new(),
            in_doubt: false,
            trips: 0,
            seats: 0,
            working: 0,
        }
    }
}

impl<T> Breaker<T> {
    fn note(&mut self, delivery: DeliveryId, verdict: Verdict<T>, now: Instant) -> Ruling<T> {
        let verdict = match verdict {
            Verdict::Deferred => Kept::Deferred,
            Verdict::Delivered => {
                self.in_doubt = false;
                Kept::Delivered
            }
            Verdict::Refused(refusal) => Kept::Refused(Some(Box::new(refusal))),
        };
        self.forget(delivery, now);
        let is_plain = self.is_plain();
        let left = if self.window.len() < WINDOW {
            None
        } else {
            self.window.pop_front()
        };
        self.window.push_back(Seen {
            delivery,
            at: now,
            verdict,
        });
        let left = left.and_then(|mut seen| seen.take_provisional());
        let (refused, verdicts) = (self.refused(), self.window.len());
        if verdicts < VERDICTS_MIN || refused * 2 <= verdicts {
            return self.rule(left, is_plain);
        }
        self.trips += 1;
        self.in_doubt = true;
        let window = std::mem::take(&mut self.window).into_iter();
        let provisional = window.filter_map(|mut seen| seen.take_provisional());
        let all: Vec<_> = left.into_iter().chain(provisional).collect();
        Ruling {
            trip: Some(Trip { refused, verdicts }),
            ..self.rule(all, false)
        }
    }

    /// An earlier verdict on the same delivery is replaced: it is no more evidence for being tried again.
    fn forget(&mut self, delivery: DeliveryId, now: Instant) {
        self.window.retain(|seen| {
            let is_old = now.saturating_duration_since(seen.at) > VERDICT_AGE_MAX;
            seen.is_provisional() || (!is_old && seen.delivery != delivery)
        });
    }

    /// There is nothing more to judge by: what is provisional is ruled on by what is known, where it was said by then.
    fn conclude(&mut self, by: Instant) -> Ruling<T> {
        let said = self.window.iter_mut().filter(|seen| seen.at <= by);
        let provisional: Vec<_> = said.filter_map(Seen::take_provisional).collect();
        self.rule(provisional, self.is_plain())
    }

    /// When the oldest refusal came that is not ruled on.
    fn oldest(&self) -> Option<Instant> {
        let mut provisional = self.window.iter().filter(|seen| seen.is_provisional());
        provisional.next().map(|seen| seen.at)
    }

    /// Whether the verdicts since the last delivery are no reason to doubt a refusal.
    fn is_plain(&self) -> bool {
        let since = self
            .window
            .iter()
            .rev()
            .take_while(|seen| !seen.is_delivered());
        since.filter(|seen| seen.is_refusal()).count() < REFUSALS_MIN
    }

    fn rule(&self, provisional: impl IntoIterator<Item = Refusal<T>>, is_plain: bool) -> Ruling<T> {
        let mut ruling = Ruling::none();
        for refusal in provisional {
            let is_believed = !self.in_doubt && (is_plain || refusal.is_repeated);
            let side = if is_believed {
                &mut ruling.believed
            } else {
                &mut ruling.doubted
            };
            side.push(refusal.provisional);
        }
        ruling
    }

    fn refused(&self) -> usize {
        self.window.iter().filter(|seen| seen.is_refusal()).count()
    }
}

/// The breakers of all accounts that have pulled mail: a handful of short entries for each.
#[derive(Debug)]
pub(super) struct Breakers<T>(Arc<Mutex<HashMap<String, Breaker<T>>>>);

impl<T> Breakers<T> {
    /// A session of this account begins to send.
    pub(super) fn join(&self, account: &str) -> Seat<T> {
        let mut breakers = self.lock();
        let breaker = breakers.entry(account.to_owned()).or_default();
        breaker.seats += 1;
        breaker.working += 1;
        Seat {
            account: account.to_owned(),
            trips: breaker.trips,
            is_working: true,
            breakers: self.clone(),
        }
    }

    /// Nothing in here panics with the lock held.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Breaker<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Clone for Breakers<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Breakers<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// A session's part in the breaker of its account. Once it [concluded](Self::conclude) nobody waits for it. What is
/// still provisional when the last one is dropped, is dropped with nothing said.
#[derive(Debug)]
pub(super) struct Seat<T> {
    breakers: Breakers<T>,
    account: String,
    /// Trips when the session began.
    trips: u64,
    is_working: bool,
}

impl<T> Seat<T> {
    /// This session has something to send.
    pub(super) fn work(&mut self) {
        self.occupy(true, |_| ());
    }

    /// One more verdict; what it means for those before it.
    pub(super) fn note(
        &mut self,
        delivery: DeliveryId,
        verdict: Verdict<T>,
        now: Instant,
    ) -> Ruling<T> {
        self.occupy(true, |breaker| breaker.note(delivery, verdict, now))
    }

    /// This session has nothing more to send, and what is provisional and was said by then is ruled on. While others
    /// have something, it is for them to rule.
    pub(super) fn conclude(&mut self, by: Instant) -> Ruling<T> {
        self.occupy(false, |breaker| match breaker.working {
            0 => breaker.conclude(by),
            _ => Ruling::none(),
        })
    }

    /// When the oldest refusal came that this session may have to rule on.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let breakers = self.breakers.lock();
        let breaker = breakers.get(&self.account);
        breaker.and_then(Breaker::oldest)
    }

    /// Whether the breaker tripped since this session began, in whichever session: it has to stop too.
    pub(super) fn has_tripped(&self) -> bool {
        let breakers = self.breakers.lock();
        let breaker = breakers.get(&self.account);
        breaker.is_some_and(|breaker| breaker.trips != self.trips)
    }

    fn occupy<R>(&mut self, is_working: bool, act: impl FnOnce(&mut Breaker<T>) -> R) -> R {
        let mut breakers = self.breakers.lock();
        let breaker = breakers.entry(self.account.clone()).or_default();
        match (self.is_working, is_working) {
            (false, true) => breaker.working += 1,
            (true, false) => breaker.working -= 1,
            _ => {}
        }
        self.is_working = is_working;
        act(breaker)
    }
}

impl<T> Drop for Seat<T> {
    fn drop(&mut self) {
        // What nobody ruled on is let go without the lock.
        let mut unruled = VecDeque::new();
        let mut breakers = self.breakers.lock();
        if let Some(breaker) = breakers.get_mut(&self.account) {
            breaker.seats -= 1;
            breaker.working -= usize::from(self.is_working);
            if breaker.seats == 0 {
                let window = std::mem::take(&mut breaker.window);
                (unruled, breaker.window) = window.into_iter().partition(Seen::is_provisional);
            }
        }
        drop(breakers);
        drop(unruled);
    }
}

#[cfg(test)]
mod tests;
