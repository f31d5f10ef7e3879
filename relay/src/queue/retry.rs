//! When a deferred delivery may be tried again, and when it is given up. Pure: time is an argument.

use std::time::Duration;

use atrn_shared::steady::Moment;
use jiff::{SignedDuration, Timestamp};

/// The first step; design §3 wants at most a minute, so that a short trouble inside costs little.
pub const RETRY_DELAY_FIRST: Duration = Duration::from_secs(30);
/// No step is longer.
pub const RETRY_DELAY_MAX: Duration = Duration::from_secs(60 * 60);

/// How long a delivery waits after its `attempts`th attempt was answered 4yz (OWN-7): doubling from
/// the first step up to the longest.
#[must_use]
pub fn retry_delay(attempts: u32) -> Duration {
    let doublings = attempts.saturating_sub(1).min(16);
    (RETRY_DELAY_FIRST * 2_u32.pow(doublings)).min(RETRY_DELAY_MAX)
}

/// What is known of how long a delivery waits.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// When the wait began on the steady clock.
    pub held_since: Moment,
    /// What the steady clock shows.
    pub steady: Moment,
    /// When the message was accepted, as the wall clock said.
    pub received_at: Timestamp,
    /// What the wall clock shows.
    pub wall: Timestamp,
}

/// Whether a delivery of a domain with this `hold_for` is given up. Both clocks have to say so: the steady one
/// counts what really passed, as far as the relay can know, and the wall clock is what people go by. A wall
/// clock by which the message is still to come is plainly wrong, and has no vote.
#[must_use]
pub fn is_overdue(waiting: &Waiting, hold_for: Duration) -> bool {
    let hold = SignedDuration::try_from(hold_for).unwrap_or(SignedDuration::MAX);
    let by_wall = waiting.wall.duration_since(waiting.received_at);
    let is_wrong = by_wall.is_negative();
    waiting.held_since.after(hold_for) <= waiting.steady && (is_wrong || by_wall >= hold)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn steps_double_from_half_a_minute_to_an_hour() {
        let table = [
            (0, 30),
            (1, 30),
            (2, 60),
            (3, 120),
            (4, 240),
            (5, 480),
            (6, 960),
            (7, 1920),
            (8, 3600),
            (9, 3600),
            (u32::MAX, 3600),
        ];
        for (attempts, seconds) in table {
            assert_eq!(retry_delay(attempts).as_secs(), seconds, "{attempts}");
        }
    }

    proptest! {
        #[test]
        fn steps_never_shrink_and_stay_within_their_bounds(attempts in 1..u32::MAX) {
            let step = retry_delay(attempts);
            prop_assert!(step <= retry_delay(attempts + 1));
            prop_assert!((RETRY_DELAY_FIRST..=RETRY_DELAY_MAX).contains(&step));
        }
    }

    // covers: R5321-30
    #[test]
    fn mail_is_given_up_when_both_clocks_say_so() {
        const DAY: i64 = 86_400;
        const YEARS: i64 = 20 * 365 * DAY;
        let wall = |seconds: i64| Timestamp::from_second(1_800_000_000 + seconds).unwrap();
        for (steady, by_wall, expected) in [
            (0, 0, false),
            (5 * DAY, 5 * DAY, true),
            (5 * DAY - 1, 5 * DAY, false),
            (5 * DAY, 5 * DAY - 1, false),
            // The clock jumped ahead; the relay was running, and knows better.
            (60, YEARS, false),
            // It came back: twenty years ago it was still to come, and after five days of waiting it is over.
            (5 * DAY, -YEARS, true),
            (4 * DAY, -YEARS, false),
            // It was wrong at each of many boots, each a day by the steady clock.
            (30 * DAY, 2 * DAY, false),
        ] {
            let waiting = Waiting {
                held_since: Moment::from_millis(1_000),
                steady: Moment::from_millis(1_000 + steady * 1_000),
                received_at: wall(0),
                wall: wall(by_wall),
            };
            let hold_for = Duration::from_secs(5 * DAY.unsigned_abs());
            assert_eq!(
                is_overdue(&waiting, hold_for),
                expected,
                "{steady} {by_wall}"
            );
        }
    }
}
