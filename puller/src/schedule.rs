//! When to pull next: pure, time and chance are arguments (R2645-16).

use std::time::Duration;

use crate::outcome::Severity;

/// The wait after the first failure, unless the usual one is shorter.
const RETRY_FIRST: Duration = Duration::from_secs(30);
/// The longest back-off is so many times the usual interval …
const RETRY_FACTOR_MAX: u32 = 4;
/// … or this, whichever is longer.
const RETRY_MAX: Duration = Duration::from_secs(10 * 60);
/// After an alarm somebody must act first; asking more often helps nobody.
const ALARM_WAIT: Duration = Duration::from_secs(60 * 60);

/// How long to wait until the next pull of a relay.
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

/// Doubles with each failure, from soon to long.
fn back_off(every: Duration, failures: u32) -> Duration {
    let longest = (every * RETRY_FACTOR_MAX).max(RETRY_MAX);
    let doublings = failures.saturating_sub(1).min(20);
    (RETRY_FIRST.min(every) * (1 << doublings)).min(longest)
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

    #[test]
    fn jitter_is_added_and_never_taken_away() {
        let (every, jitter) = (Duration::from_secs(300), Duration::from_secs(30));
        for (chance, expected) in [(0.0, 300), (0.5, 315), (1.0, 330), (7.0, 330), (-1.0, 300)] {
            let waited = wait(every, jitter, Severity::Fine, 0, chance);
            assert_eq!(waited, Duration::from_secs(expected), "{chance}");
        }
    }
}
