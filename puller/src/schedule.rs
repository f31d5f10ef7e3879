//! When to pull next: pure, time and chance are arguments (R2645-16).

use std::time::Duration;

use crate::outcome::{Outcome, Severity};

/// The wait after the first failure, unless the usual one is shorter.
const RETRY_FIRST: Duration = Duration::from_secs(30);
/// The longest back-off is so many times the usual interval …
const RETRY_FACTOR_MAX: u32 = 4;
/// … or this, whichever is longer.
const RETRY_MAX: Duration = Duration::from_secs(10 * 60);
/// After an alarm somebody must act first; asking more often helps nobody.
const ALARM_WAIT: Duration = Duration::from_secs(60 * 60);

/// In instant mode the wait after the first failure …
const RECONNECT_FIRST: Duration = Duration::from_secs(1);
/// … which doubles up to this …
const RECONNECT_MAX: Duration = Duration::from_secs(5 * 60);
/// … or this, where the target is down: to see whether it is back costs the relay nothing, and mail waits for it.
const TARGET_RETRY_MAX: Duration = Duration::from_secs(30);
/// A session that ended well is followed by the next one at once, but not more often than this.
const SESSION_TIME_MIN: Duration = Duration::from_secs(1);
/// Many pullers that lost the same relay do not come back in the same moment.
const RECONNECT_JITTER: Duration = Duration::from_millis(250);

/// How long to wait until the next pull of a relay that is polled.
///
/// `failures`: pulls in a row that were not fine, the last one included. `chance`: from 0 to 1, spreads many pullers.
#[must_use]
pub fn wait(
    every: Duration,
    jitter: Duration,
    last: Severity,
    failures: u32,
    chance: f64,
) -> Duration {
    let usual = match last {
        Severity::Fine => every,
        Severity::Retry => back_off(every, failures),
        Severity::Alarm => every.max(ALARM_WAIT),
    };
    usual + jitter.mul_f64(chance.clamp(0.0, 1.0))
}

/// How long to wait until the next session in instant mode, after one that ended so and took so long.
///
/// `in_vain`: sessions in a row that brought nothing but refusals, the last one included; it is no use to fetch the same mail
/// again and again. `failures` and `chance` as for [`wait`].
#[must_use]
pub fn reconnect(
    last: &Outcome,
    took: Duration,
    failures: u32,
    in_vain: u32,
    chance: f64,
) -> Duration {
    let chance = chance.clamp(0.0, 1.0);
    let longest = match last {
        Outcome::TargetDown(_) => TARGET_RETRY_MAX,
        _ => RECONNECT_MAX,
    };
    // From half of it to all of it: the first is soon.
    let back_off =
        |failures| doubled(RECONNECT_FIRST, failures, longest).mul_f64(f64::midpoint(1.0, chance));
    match last.severity() {
        Severity::Fine if in_vain > 0 => back_off(in_vain),
        Severity::Fine => SESSION_TIME_MIN.saturating_sub(took) + RECONNECT_JITTER.mul_f64(chance),
        Severity::Retry => back_off(failures),
        Severity::Alarm => ALARM_WAIT + RETRY_FIRST.mul_f64(chance),
    }
}

fn back_off(every: Duration, failures: u32) -> Duration {
    let longest = (every * RETRY_FACTOR_MAX).max(RETRY_MAX);
    doubled(RETRY_FIRST.min(every), failures, longest)
}

/// Doubles with each failure, from soon to long.
fn doubled(first: Duration, failures: u32, longest: Duration) -> Duration {
    let doublings = failures.saturating_sub(1).min(20);
    (first * (1 << doublings)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers: R2645-16
    #[test]
    fn each_end_of_a_pull_has_its_wait() {
        let minute = 60;
        let table = [
            // every, severity, failures, expected
            (5 * minute, Severity::Fine, 0, 5 * minute),
            (5 * minute, Severity::Retry, 1, 30),
            (5 * minute, Severity::Retry, 2, minute),
            (5 * minute, Severity::Retry, 5, 8 * minute),
            (5 * minute, Severity::Retry, 7, 20 * minute),
            (5 * minute, Severity::Retry, u32::MAX, 20 * minute),
            (10, Severity::Retry, 1, 10),
            (10, Severity::Retry, 2, 20),
            (10, Severity::Retry, 99, 10 * minute),
            (86_400, Severity::Retry, 99, 4 * 86_400),
            (5 * minute, Severity::Alarm, 1, 60 * minute),
            (86_400, Severity::Alarm, 9, 86_400),
        ];
        for (every, severity, failures, expected) in table {
            let waited = wait(
                Duration::from_secs(every),
                Duration::ZERO,
                severity,
                failures,
                0.5,
            );
            assert_eq!(
                waited,
                Duration::from_secs(expected),
                "{every} s, {severity:?}, {failures}"
            );
        }
    }

    // covers: R2645-16
    #[test]
    fn a_session_that_ended_is_followed_by_another() {
        let why = String::new;
        let (broken, down) = (Outcome::Broken(why()), Outcome::TargetDown(why()));
        let table = [
            // outcome, took, failures, and the wait in ms with the least and the most of chance
            (&Outcome::Pulled, 86_400_000, 0, 0, 250),
            (&Outcome::NoMail, 400, 0, 600, 850),
            (&Outcome::Pulled, 0, 0, 1_000, 1_250),
            (&broken, 86_400_000, 1, 500, 1_000),
            (&broken, 0, 2, 1_000, 2_000),
            (&broken, 0, 4, 4_000, 8_000),
            (&broken, 0, 10, 150_000, 300_000),
            (&broken, 0, u32::MAX, 150_000, 300_000),
            (&down, 0, 1, 500, 1_000),
            (&down, 0, 99, 15_000, 30_000),
            (&Outcome::Refused(why()), 0, 1, 3_600_000, 3_630_000),
        ];
        for (outcome, took, failures, least, most) in table {
            for (chance, expected) in [(0.0, least), (1.0, most), (9.0, most)] {
                let wait = reconnect(outcome, Duration::from_millis(took), failures, 0, chance);
                assert_eq!(
                    wait.as_millis(),
                    expected,
                    "{outcome:?}, {took} ms, {failures}"
                );
            }
        }
    }

    // covers: R2645-16
    #[test]
    fn a_session_that_brought_refusals_only_is_followed_by_another_later_and_later() {
        let (pulled, down) = (Outcome::Pulled, Outcome::TargetDown(String::new()));
        let table = [
            // outcome, took, failures, in vain, and the wait in ms with the least and the most of chance
            (&pulled, 0, 0, 1, 500, 1_000),
            (&pulled, 86_400_000, 0, 1, 500, 1_000),
            (&pulled, 0, 0, 2, 1_000, 2_000),
            (&pulled, 0, 0, 4, 4_000, 8_000),
            (&pulled, 0, 0, 10, 150_000, 300_000),
            (&pulled, 0, 0, u32::MAX, 150_000, 300_000),
            // A failure goes by what failed.
            (&down, 0, 1, 99, 500, 1_000),
        ];
        for (outcome, took, failures, in_vain, least, most) in table {
            for (chance, expected) in [(0.0, least), (1.0, most), (9.0, most)] {
                let took = Duration::from_millis(took);
                let wait = reconnect(outcome, took, failures, in_vain, chance);
                assert_eq!(wait.as_millis(), expected, "{outcome:?}, {in_vain} in vain");
            }
        }
    }

    #[test]
    fn jitter_is_added_and_never_taken_away() {
        let (every, jitter) = (Duration::from_secs(300), Duration::from_secs(30));
        for (chance, expected) in [(0.0, 300), (0.5, 315), (1.0, 330), (7.0, 330), (-1.0, 300)] {
            let waited = wait(every, jitter, Severity::Fine, 0, chance);
            assert_eq!(waited, Duration::from_secs(expected), "{chance}");
        }
    }
}
