//! When a deferred delivery may be tried again, and when it is given up. Pure: time is an argument.

use std::time::Duration;

use jiff::Timestamp;

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

/// When a delivery that was just deferred may be claimed again.
#[must_use]
pub fn next_attempt(attempts: u32, now: Timestamp) -> Timestamp {
    after(now, retry_delay(attempts))
}

/// When a message of a domain with this `hold_for` is given up.
#[must_use]
pub fn expires_at(received_at: Timestamp, hold_for: Duration) -> Timestamp {
    after(received_at, hold_for)
}

fn after(moment: Timestamp, delay: Duration) -> Timestamp {
    moment.checked_add(delay).unwrap_or(Timestamp::MAX)
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

        #[test]
        fn the_next_attempt_lies_ahead(attempts: u32, seconds in 0_i64..253_402_000_000) {
            let now = Timestamp::from_second(seconds).unwrap();
            prop_assert!(next_attempt(attempts, now) > now);
        }
    }

    #[test]
    fn the_end_of_time_is_no_overflow() {
        assert_eq!(
            expires_at(Timestamp::MAX, Duration::from_secs(1)),
            Timestamp::MAX
        );
    }
}
