//! How many reports went outside lately. Time is an argument.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Minutes that are counted one by one. One more than an hour has, so that no sixty minutes, wherever they begin, hold
/// more than is allowed.
const MINUTES: usize = 61;

/// What was let through in the last hour.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(try_from = "Counts")]
pub(super) struct Window {
    /// By minute, in a ring; always so many.
    counts: Vec<u32>,
    /// The minute that was counted last.
    latest: u64,
}

/// What a file says; as many counts as it likes.
#[derive(Deserialize)]
struct Counts {
    counts: Vec<u32>,
    latest: u64,
}

impl TryFrom<Counts> for Window {
    type Error = &'static str;

    fn try_from(Counts { counts, latest }: Counts) -> Result<Self, Self::Error> {
        if counts.len() == MINUTES {
            Ok(Self { counts, latest })
        } else {
            Err("not a count for each minute")
        }
    }
}

impl Default for Window {
    fn default() -> Self {
        Self {
            counts: vec![0; MINUTES],
            latest: 0,
        }
    }
}

impl Window {
    /// Whether one more would be let through. `now` is the time since some fixed moment.
    pub(super) fn is_open(&mut self, now: Duration, max_per_hour: u32) -> bool {
        self.advance(now);
        let count: u64 = self.counts.iter().copied().map(u64::from).sum();
        count < u64::from(max_per_hour)
    }

    /// Counts one more. `None`: it is not let through.
    pub(super) fn take(&mut self, now: Duration, max_per_hour: u32) -> Option<Ticket> {
        if !self.is_open(now, max_per_hour) {
            return None;
        }
        let count = self.count(self.latest);
        *count = count.saturating_add(1);
        Some(Ticket(self.latest))
    }

    /// What was counted did not leave after all.
    pub(super) fn give_back(&mut self, ticket: Ticket) {
        let Ticket(minute) = ticket;
        if self.latest.saturating_sub(minute) < MINUTES as u64 {
            let count = self.count(minute);
            *count = count.saturating_sub(1);
        }
    }

    fn count(&mut self, minute: u64) -> &mut u32 {
        &mut self.counts[(minute % MINUTES as u64) as usize]
    }

    /// Counts no less than another one did of the same, in any minute.
    pub(super) fn raise_to(&mut self, other: &Self) {
        let mut other = other.clone();
        let latest = self.latest.max(other.latest);
        self.advance_to(latest);
        other.advance_to(latest);
        for (count, other) in self.counts.iter_mut().zip(other.counts) {
            *count = other.max(*count);
        }
    }

    fn advance(&mut self, now: Duration) {
        self.advance_to(now.as_secs() / 60);
    }

    fn advance_to(&mut self, minute: u64) {
        let passed = minute.saturating_sub(self.latest).min(MINUTES as u64);
        for _ in 0..passed {
            self.latest += 1;
            *self.count(self.latest) = 0;
        }
        self.latest = self.latest.max(minute);
    }
}

/// The minute in which something was counted.
#[derive(Debug)]
#[must_use]
pub(super) struct Ticket(u64);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn minutes(minutes: u64) -> Duration {
        Duration::from_secs(60 * minutes)
    }

    #[test]
    fn so_many_in_an_hour_and_then_again() {
        let mut window = Window::default();
        for (minute, expected) in [
            (0, true),
            (0, true),
            (30, true),
            (30, false),
            (59, false),
            (60, false),
            (61, true),
            (61, true),
            (62, false),
            (91, true),
            (10_000, true),
            (10_000, true),
            (10_000, true),
            (10_000, false),
            // A clock that stands still or lags behind frees nothing.
            (9_000, false),
            (10_061, true),
        ] {
            assert_eq!(
                window.take(minutes(minute), 3).is_some(),
                expected,
                "{minute}"
            );
        }
    }

    #[test]
    fn what_did_not_leave_does_not_count() {
        let mut window = Window::default();
        let ticket = window.take(minutes(1), 2).unwrap();
        let _ = window.take(minutes(5), 2).unwrap();
        assert!(!window.is_open(minutes(10), 2));
        window.give_back(ticket);
        assert!(window.is_open(minutes(10), 2));
        let _ = window.take(minutes(10), 2).unwrap();
        assert!(!window.is_open(minutes(65), 2), "that of the fifth minute");
        // A ticket so old that nobody counts it any more.
        let ticket = window.take(minutes(66), 2).unwrap();
        let _ = window.take(minutes(66 + 61), 1).unwrap();
        window.give_back(ticket);
        assert!(!window.is_open(minutes(66 + 61), 1));
    }

    #[test]
    fn of_two_counts_the_larger_one_of_each_minute() {
        let mut counts = [Window::default(), Window::default()];
        for (which, minute) in [(0, 1), (0, 1), (0, 3), (1, 1), (1, 3), (1, 3), (1, 50)] {
            assert!(counts[which].take(minutes(minute), 9).is_some());
        }
        for (mut one, other) in [
            (counts[0].clone(), counts[1].clone()),
            (counts[1].clone(), counts[0].clone()),
        ] {
            one.raise_to(&other);
            assert!(!one.is_open(minutes(50), 5) && one.is_open(minutes(50), 6));
            assert!(!one.is_open(minutes(62), 3) && one.is_open(minutes(62), 4));
        }
    }

    proptest! {
        /// Whenever they come: no sixty minutes have more than is allowed.
        #[test]
        fn no_hour_has_more(steps in proptest::collection::vec(0..2_000_u64, 1..200), max in 1..5_u32) {
            let (mut window, mut now, mut taken) = (Window::default(), 0, Vec::new());
            for step in steps {
                now += step;
                if window.take(Duration::from_secs(now), max).is_some() {
                    taken.push(now);
                }
            }
            for first in &taken {
                let hour = taken.iter().filter(|time| (*first..first + 3600).contains(*time));
                prop_assert!(hour.count() <= max as usize);
            }
        }
    }
}
