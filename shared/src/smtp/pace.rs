//! How slowly content may come before it is abuse (R5321-47): pure, time is an argument.

use std::time::Duration;

/// A message has this long in all.
const CONTENT_TIME_MAX: Duration = Duration::from_secs(30 * 60);
/// From here on the average rate counts.
const GRACE: Duration = Duration::from_secs(60);
/// Octets a second on average.
const RATE_MIN: u64 = 500;

/// How long the next octets may take, when `octets` came in `elapsed`; `None` when it took too long already.
#[must_use]
pub fn next_wait(elapsed: Duration, octets: u64, silence_max: Duration) -> Option<Duration> {
    let left = CONTENT_TIME_MAX
        .checked_sub(elapsed)
        .filter(|left| !left.is_zero())?;
    let too_slow = elapsed > GRACE && octets < RATE_MIN * elapsed.as_secs();
    (!too_slow).then(|| left.min(silence_max))
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers: R5321-47
    #[test]
    fn slow_drips_are_cut() {
        let seconds = Duration::from_secs;
        let silence = seconds(180);
        for (elapsed, octets, expected) in [
            (0, 0, Some(180)),
            (60, 0, Some(180)),
            (61, 0, None),
            (100, 49_999, None),
            (100, 50_000, Some(180)),
            (1790, 1_000_000, Some(10)),
            (1800, 1_000_000_000, None),
            (9999, u64::MAX, None),
        ] {
            assert_eq!(
                next_wait(seconds(elapsed), octets, silence),
                expected.map(seconds),
                "{elapsed} s, {octets}"
            );
        }
    }
}
