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

    /// A clean slate for everybody.
    pub(super) fn forget(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = None;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(address: &str) -> Origin {
        Origin::of(address.parse().unwrap())
    }

    #[test]
    fn so_many_in_so_long_for_each_origin() {
        let meter = Meter::default();
        let day = Duration::from_secs(86_400);
        let rate = |count| Rate { count, within: day };
        let (one, neighbour) = (origin("2001:db8::1"), origin("2001:db8::2"));
        let allowed = |origin, rate| (0..9).filter(|_| meter.allows(origin, rate)).count();
        assert_eq!(allowed(one, rate(3)), 3);
        assert_eq!(allowed(neighbour, rate(3)), 0, "the same /64");
        assert_eq!(allowed(origin("192.0.2.1"), rate(3)), 3);
        assert_eq!(allowed(one, rate(5)), 5, "a new rate begins anew");
        meter.forget();
        assert_eq!(allowed(one, rate(5)), 5);
        assert_eq!(allowed(one, rate(0)), 9, "no limit");
    }

    #[test]
    fn who_may_do_everything_again_takes_no_memory() {
        let meter = Meter::default();
        let rate = Rate {
            count: 1_000,
            within: Duration::from_nanos(1_000),
        };
        for number in 0..1_000 {
            let address = std::net::Ipv4Addr::from_bits(number);
            meter.allows(Origin::of(address.into()), rate);
        }
        assert!(meter.origins() > 0);
        meter.tidy();
        assert_eq!(meter.origins(), 0);
    }
}
