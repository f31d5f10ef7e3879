//! How often something may happen in a time: a limiter for each kind of event, keyed by where it comes from.

use std::num::NonZeroU32;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::time::Duration;

use governor::clock::DefaultClock;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

use super::addresses::Origin;

/// Origins that a limiter remembers. Beyond that those who are quiet are forgotten at once, and not on the timer only.
const ORIGINS_MAX: usize = 100_000;

type Limiter = RateLimiter<Origin, HashMapStateStore<Origin>, DefaultClock>;

/// So many events in so long.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Rate {
    /// Zero: any number.
    pub(super) count: u32,
    pub(super) within: Duration,
}

/// Counts one kind of event.
#[derive(Debug, Default)]
pub(super) struct Meter(RwLock<Option<Metered>>);

#[derive(Debug)]
struct Metered {
    rate: Rate,
    limiter: Limiter,
}

impl Meter {
    /// Notes an event; false when it is one too many. `rate` may be another one each time, as settings are reloaded:
    /// a new one begins with a clean slate.
    pub(super) fn allows(&self, origin: Origin, rate: Rate) -> bool {
        let Some(quota) = quota(rate) else {
            return true;
        };
        {
            let metered = self.0.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(metered) = metered.as_ref().filter(|metered| metered.rate == rate) {
                return metered.allows(origin);
            }
        }
        let mut metered = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if metered.as_ref().is_none_or(|metered| metered.rate != rate) {
            let limiter = Limiter::hashmap(quota);
            *metered = Some(Metered { rate, limiter });
        }
        metered
            .as_ref()
            .is_none_or(|metered| metered.allows(origin))
    }

    /// Forgets those who were quiet for so long that they may do everything again.
    pub(super) fn tidy(&self) {
        let metered = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(metered) = metered.as_ref() {
            metered.limiter.retain_recent();
            metered.limiter.shrink_to_fit();
        }
    }

    #[cfg(test)]
    pub(super) fn origins(&self) -> usize {
        let metered = self.0.read().unwrap();
        metered.as_ref().map_or(0, |metered| metered.limiter.len())
    }
}

impl Metered {
    fn allows(&self, origin: Origin) -> bool {
        if self.limiter.len() >= ORIGINS_MAX {
            self.limiter.retain_recent();
            if self.limiter.len() >= ORIGINS_MAX {
                // So many at once are not stopped one by one: the limits in all hold, and memory too.
                return true;
            }
        }
        self.limiter.check_key(&origin).is_ok()
    }
}

/// A burst of all of it, then one more whenever its share of the time has passed.
fn quota(rate: Rate) -> Option<Quota> {
    let count = NonZeroU32::new(rate.count)?;
    let share = rate.within / rate.count;
    Some(Quota::with_period(share)?.allow_burst(count))
}
