//! A clock for waits that outlive the process: how long mail was held, when it may be tried again, how old a
//! journal entry is.
//!
//! The wall clock of a host can be wrong by twenty years for an hour, and a monotonic one ends with the boot. This
//! one begins as the wall clock and from then on only counts time that passed: monotonic time while the process
//! runs, and between two runs what the wall clock says, within reason. So it never runs back, and no jump of the
//! wall clock makes mail old.

use std::time::{Duration, Instant};

use jiff::Timestamp;

/// No more than this is believed to have passed between two runs: a clock that is wrong at boot costs at most a
/// day, and mail that waits through a longer downtime just waits longer.
pub const DOWNTIME_MAX: Duration = Duration::from_secs(86_400);

/// A moment on a [`SteadyClock`]: milliseconds, of no meaning to people.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Moment(i64);

/// The clock of one run.
#[derive(Clone, Copy, Debug)]
pub struct SteadyClock {
    base: Moment,
    began: Instant,
}

/// What the next run has to know; to be stored now and then, and at the end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mark {
    /// The steady clock.
    pub steady: Moment,
    /// The wall clock at the same time, in milliseconds since 1970.
    pub wall: i64,
}

impl Moment {
    /// As it was stored.
    #[must_use]
    pub fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// To be stored.
    #[must_use]
    pub fn millis(self) -> i64 {
        self.0
    }

    /// So much later.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(millis(wait)))
    }

    /// So much earlier.
    #[must_use]
    pub fn before(self, wait: Duration) -> Self {
        Self(self.0.saturating_sub(millis(wait)))
    }
}

impl SteadyClock {
    /// For the first time: as the wall clock says.
    #[must_use]
    pub fn begin(wall: Timestamp) -> Self {
        Self::at(Moment(wall.as_millisecond()))
    }

    /// Goes on where the last run left its mark.
    #[must_use]
    pub fn resume(mark: Mark, wall: Timestamp) -> Self {
        let away = wall.as_millisecond().saturating_sub(mark.wall);
        let away = away.clamp(0, millis(DOWNTIME_MAX));
        Self::at(Moment(mark.steady.0.saturating_add(away)))
    }

    fn at(base: Moment) -> Self {
        let began = Instant::now();
        Self { base, began }
    }

    /// What the clock shows.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.base.after(self.began.elapsed())
    }

    /// What to store, if the wall clock shows `wall`.
    #[must_use]
    pub fn mark(&self, wall: Timestamp) -> Mark {
        let steady = self.now();
        let wall = wall.as_millisecond();
        Mark { steady, wall }
    }

    /// For people: where `moment` lies on a wall clock that shows `wall` now. To a second: asked twice, it says the
    /// same.
    #[must_use]
    pub fn on_wall(&self, moment: Moment, wall: Timestamp) -> Timestamp {
        let apart = wall.as_millisecond().saturating_sub(self.now().0);
        let apart = apart
            .saturating_add(500)
            .div_euclid(1_000)
            .saturating_mul(1_000);
        let millis = moment.0.saturating_add(apart);
        let end = if millis > 0 {
            Timestamp::MAX
        } else {
            Timestamp::MIN
        };
        Timestamp::from_millisecond(millis).unwrap_or(end)
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;
    const YEARS: i64 = 20 * 365 * DAY;

    fn wall(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(1_800_000_000_000 + millis).unwrap()
    }

    #[test]
    fn between_two_runs_it_believes_the_wall_clock_within_reason() {
        let mark = Mark {
            steady: Moment(1_000_000),
            wall: wall(0).as_millisecond(),
        };
        for (passed, believed) in [
            (0, 0),
            (5_000, 5_000),
            (DAY, DAY),
            (DAY + 1, DAY),
            (YEARS, DAY),
            (-5_000, 0),
            (-YEARS, 0),
        ] {
            let clock = SteadyClock::resume(mark, wall(passed));
            assert_eq!(clock.base, Moment(1_000_000 + believed), "{passed}");
        }
    }

    #[test]
    fn it_begins_as_the_wall_clock_and_never_runs_back() {
        let clock = SteadyClock::begin(wall(0));
        let first = clock.now();
        assert!(first.millis() >= wall(0).as_millisecond());
        assert!(clock.now() >= first);
        // Whatever the wall clock says at the mark, the next run does not begin before it.
        for jump in [0, YEARS, -YEARS] {
            let mark = clock.mark(wall(jump));
            assert!(SteadyClock::resume(mark, wall(-jump)).now() >= mark.steady);
        }
    }

    #[test]
    fn people_see_moments_on_their_own_clock() {
        let clock = SteadyClock::begin(wall(0));
        let in_an_hour = clock.now().after(Duration::from_secs(3600));
        for jump in [0, YEARS, -YEARS] {
            let seen = clock.on_wall(in_an_hour, wall(jump)).as_millisecond();
            let ahead = seen - wall(jump).as_millisecond();
            assert!((3_590_000..=3_601_000).contains(&ahead), "{ahead}");
        }
        assert_eq!(clock.on_wall(Moment(i64::MAX), wall(0)), Timestamp::MAX);
    }
}
