//! How long a client may take, and how much it may do wrong: pure decisions on the settings, on stress, and on what
//! was heard of it so far.

use std::time::Duration;

use atrn_shared::smtp::pace;

use crate::config::{LimitsConfig, SmtpConfig};

/// Under stress: for the next command, and for a TLS handshake …
const COMMAND_UNDER_STRESS: Duration = Duration::from_secs(10);
/// … for the next octets of content …
const DATA_UNDER_STRESS: Duration = Duration::from_secs(30);
/// … which come at so many a second on average, after the first moments …
const RATE_UNDER_STRESS: u64 = 2_000;
const GRACE_UNDER_STRESS: Duration = Duration::from_secs(10);
/// … without a message that is taken …
const IDLE_UNDER_STRESS: Duration = Duration::from_secs(60);
/// … and refused commands.
const ERRORS_UNDER_STRESS: u32 = 3;

/// A TLS handshake is a few round trips.
const HANDSHAKE: Duration = Duration::from_secs(60);

/// What the settings allow, and stress.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Patience {
    command: Duration,
    data: Duration,
    /// None: any time. So it is for networks that limits do not apply to.
    idle: Option<Duration>,
    transaction: Option<Duration>,
    errors: u32,
    is_stressed: bool,
}

/// How far a client is, each part measured from its beginning.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// Since it last said something whole.
    pub(super) silent: Duration,
    /// Since it connected, or brought a message.
    pub(super) idle: Duration,
    /// Since MAIL, in a transaction.
    pub(super) transaction: Option<Duration>,
    /// Content on its way: since it was asked for, and its octets so far.
    pub(super) content: Option<(Duration, u64)>,
}

impl Patience {
    /// With everybody.
    pub(super) fn usual(smtp: &SmtpConfig, limits: &LimitsConfig) -> Self {
        Self {
            idle: Some(limits.max_idle_time),
            transaction: Some(limits.max_transaction_time),
            ..Self::with_friends(smtp)
        }
    }

    /// With those that limits do not apply to.
    pub(super) fn with_friends(smtp: &SmtpConfig) -> Self {
        Self {
            command: smtp.command_timeout,
            data: smtp.data_timeout,
            idle: None,
            transaction: None,
            errors: u32::try_from(smtp.max_errors).unwrap_or(u32::MAX),
            is_stressed: false,
        }
    }

    /// With the same ones under stress.
    pub(super) fn under_stress(self) -> Self {
        Self {
            command: self.command.min(COMMAND_UNDER_STRESS),
            data: self.data.min(DATA_UNDER_STRESS),
            idle: self.idle.map(|idle| idle.min(IDLE_UNDER_STRESS)),
            transaction: self.transaction,
            errors: self.errors.min(ERRORS_UNDER_STRESS),
            is_stressed: true,
        }
    }

    /// How long to wait for the client now; `None` when it is over.
    pub(super) fn wait(&self, progress: Progress) -> Option<Duration> {
        let next = match progress.content {
            Some((elapsed, octets)) if self.is_stressed && is_slow(elapsed, octets) => return None,
            Some((elapsed, octets)) => pace::next_wait(elapsed, octets, self.data)?,
            None => left(self.command, progress.silent)?,
        };
        let in_all = match progress.transaction {
            Some(elapsed) => self.transaction.map(|most| left(most, elapsed)),
            None => self.idle.map(|most| left(most, progress.idle)),
        };
        match in_all {
            Some(left) => Some(next.min(left?)),
            None => Some(next),
        }
    }

    /// Whether a client did too much wrong. The protocol machine has the usual limit itself.
    pub(super) fn ends_at(&self, errors: u32) -> bool {
        errors > self.errors
    }

    /// For a TLS handshake.
    pub(super) fn handshake(&self) -> Duration {
        self.command.min(HANDSHAKE)
    }
}

/// What content holds others wait for.
fn is_slow(elapsed: Duration, octets: u64) -> bool {
    elapsed > GRACE_UNDER_STRESS && octets < RATE_UNDER_STRESS * elapsed.as_secs()
}

fn left(most: Duration, elapsed: Duration) -> Option<Duration> {
    most.checked_sub(elapsed).filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn patience_ends() {
        let usual = Patience::usual(&SmtpConfig::default(), &LimitsConfig::default());
        let stressed = usual.under_stress();
        let friends = Patience::with_friends(&SmtpConfig::default());
        let idle = |silent, idle| Progress {
            silent: seconds(silent),
            idle: seconds(idle),
            ..Progress::default()
        };
        let transaction = |silent, since| Progress {
            silent: seconds(silent),
            idle: seconds(since),
            transaction: Some(seconds(since)),
            content: None,
        };
        let content = |since, octets| Progress {
            transaction: Some(seconds(since)),
            content: Some((seconds(since), octets)),
            ..Progress::default()
        };
        // Usually, under stress, and for those that are exempt.
        for (progress, expected) in [
            (idle(0, 0), [Some(300), Some(10), Some(300)]),
            (idle(9, 55), [Some(291), Some(1), Some(291)]),
            (idle(300, 300), [None; 3]),
            // Who only says NOOP.
            (idle(0, 1_799), [Some(1), None, Some(300)]),
            (idle(0, 1_800), [None, None, Some(300)]),
            (transaction(0, 1_800), [Some(300), Some(10), Some(300)]),
            (transaction(0, 3_599), [Some(1), Some(1), Some(300)]),
            (transaction(0, 3_600), [None, None, Some(300)]),
            (content(0, 0), [Some(180), Some(30), Some(180)]),
            (content(61, 0), [None; 3]),
            (content(10, 0), [Some(180), Some(30), Some(180)]),
            (content(11, 21_999), [Some(180), None, Some(180)]),
            (content(100, 60_000), [Some(180), None, Some(180)]),
            (content(100, 200_000), [Some(180), Some(30), Some(180)]),
        ] {
            let waits = [usual, stressed, friends].map(|patience| patience.wait(progress));
            assert_eq!(
                waits,
                expected.map(|wait| wait.map(seconds)),
                "{progress:?}"
            );
        }
        assert_eq!(
            [usual, stressed].map(|patience| patience.ends_at(4)),
            [false, true]
        );
        assert_eq!(usual.handshake(), seconds(60));
        assert_eq!(stressed.handshake(), seconds(10));
    }
}
