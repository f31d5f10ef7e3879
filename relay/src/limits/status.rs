//! What `status`, a monitor and `ban` show of the limits.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Denial, Greylist, Limits, Offence, Origin, Side};

/// What limits hold off at this moment, and did since the start.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct LimitsStatus {
    /// Sides that are nearly full, and so have less patience.
    pub stressed: Vec<String>,
    /// How often that began.
    pub stress_begun: u64,
    /// Connections that were not let in, by the reason.
    pub denied: BTreeMap<String, u64>,
    /// What honest peers do seldom, by its kind.
    pub offences: BTreeMap<String, u64>,
    /// Bans in force.
    pub bans: u64,
    /// Bans since the start.
    pub bans_begun: u64,
    /// Memory that content on its way takes.
    pub memory_taken: u64,
    /// And may take.
    pub memory_max: u64,
    /// Messages put off because there was none left.
    pub memory_refused: u64,
    /// Recipients put off by greylisting.
    pub greylist_deferred: u64,
    /// Recipients that greylisting let pass.
    pub greylist_passed: u64,
}

/// A ban, for people.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct BanStatus {
    /// An address, or a network of IPv6.
    pub origin: String,
    /// For what.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when.
    pub until: Timestamp,
}

impl Limits {
    /// All figures.
    pub(crate) fn status(&self, greylist: &Greylist) -> LimitsStatus {
        let (bans, bans_begun) = self.0.bans.counts();
        let (greylist_deferred, greylist_passed) = greylist.counts();
        let sides = [Side::Smtp, Side::Odmr, Side::Metrics];
        let stressed = sides.iter().filter(|side| self.stress(**side).is_on());
        LimitsStatus {
            stressed: stressed.map(|side| side.name().to_owned()).collect(),
            stress_begun: sides.iter().map(|side| self.stress(*side).begun()).sum(),
            denied: Denial::ALL
                .map(|denial| (denial.name().to_owned(), self.times_denied(denial)))
                .into(),
            offences: Offence::ALL
                .map(|offence| (offence.name().to_owned(), self.times_offended(offence)))
                .into(),
            bans,
            bans_begun,
            memory_taken: self.memory().taken(),
            memory_max: self.config().memory,
            memory_refused: self.memory().refused(),
            greylist_deferred,
            greylist_passed,
        }
    }

    /// Who is banned, those first that have been for longest.
    pub(crate) fn bans(&self) -> Vec<BanStatus> {
        let now = (Instant::now(), Timestamp::now());
        let mut bans: Vec<_> = self
            .0
            .bans
            .all()
            .into_iter()
            .map(|(origin, ban)| BanStatus {
                origin: origin.to_string(),
                reason: ban.offence.name().to_owned(),
                since: ban.since,
                until: later(now.1, ban.until.saturating_duration_since(now.0)),
            })
            .collect();
        bans.sort_by(|one, other| (one.since, &one.origin).cmp(&(other.since, &other.origin)));
        bans
    }

    /// Ends the ban of an address before its time, or all of them; says how many.
    pub(crate) fn lift(&self, address: Option<std::net::IpAddr>) -> u64 {
        let origins = match address {
            Some(address) => vec![Origin::of(address)],
            None => self.0.bans.all().into_iter().map(|ban| ban.0).collect(),
        };
        // Or the next thing it does wrong bans it again. That others begin anew too, costs nothing.
        self.0.offences.iter().for_each(super::rates::Meter::forget);
        let lifted = origins
            .into_iter()
            .filter(|origin| self.0.bans.lift(*origin));
        lifted.count() as u64
    }
}

fn later(now: Timestamp, wait: Duration) -> Timestamp {
    now.checked_add(wait).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::config::LimitsConfig;

    fn limits(config: LimitsConfig) -> Limits {
        Limits::new(config)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn bans_are_shown_and_can_be_lifted() {
        use super::super::Consequence::{Banned, Noted};
        let limits = limits(LimitsConfig {
            relay_attempts: 2,
            ..LimitsConfig::default()
        });
        let offend = |from: &str| limits.offence(address(from), Offence::Relaying);
        assert_eq!([offend("192.0.2.1"), offend("192.0.2.1")], [Noted; 2]);
        assert_eq!(offend("192.0.2.1"), Banned);
        for _ in 0..3 {
            offend("2001:db8::1");
        }
        let bans = limits.bans();
        let shown: Vec<_> = bans
            .iter()
            .map(|ban| (ban.origin.as_str(), ban.reason.as_str()))
            .collect();
        assert_eq!(
            shown,
            [("192.0.2.1", "relaying"), ("2001:db8::/64", "relaying")]
        );
        assert!(bans[0].until > bans[0].since);
        let denied = limits.connected(Side::Smtp, address("2001:db8::2"));
        assert_eq!(denied, Err(Denial::Banned));

        assert_eq!(limits.lift(Some(address("2001:db8::ffff"))), 1);
        limits
            .connected(Side::Smtp, address("2001:db8::2"))
            .unwrap();
        assert_eq!(offend("2001:db8::1"), Noted, "with a clean slate");
        assert_eq!((limits.lift(None), limits.lift(None)), (1, 0));

        let directory = tempfile::tempdir().unwrap();
        let status = limits.status(&Greylist::open(directory.path()));
        assert_eq!((status.bans, status.bans_begun), (0, 2));
        assert_eq!(status.offences["relaying"], 7);
        assert_eq!(status.denied["banned"], 1);
    }

    #[test]
    fn a_ban_ends_by_itself() {
        let limits = limits(LimitsConfig {
            protocol_errors: 1,
            ban_time: Duration::from_millis(1),
            ..LimitsConfig::default()
        });
        let from = address("192.0.2.1");
        while limits.0.bans.counts().1 == 0 {
            let _ = limits.offence(from, Offence::Protocol);
        }
        while limits.is_banned(from) {
            std::thread::yield_now();
        }
        limits.connected(Side::Smtp, from).unwrap();
    }

    #[test]
    fn networks_that_are_exempt_meet_nothing_of_it() {
        let limits = limits(LimitsConfig {
            exempt: vec!["192.0.2.0/24".parse().unwrap()],
            connection_rate: 1,
            auth_failures: 1,
            ..LimitsConfig::default()
        });
        for _ in 0..5 {
            let from = address("::ffff:192.0.2.1");
            let _ = limits.offence(from, Offence::AuthFailed);
            limits.connected(Side::Odmr, from).unwrap();
        }
        limits.connected(Side::Odmr, address("192.0.3.1")).unwrap();
        let second = limits.connected(Side::Odmr, address("192.0.3.1"));
        assert_eq!(second, Err(Denial::TooOften));
        // Each side counts for itself.
        limits.connected(Side::Smtp, address("192.0.3.1")).unwrap();
    }

    #[test]
    fn a_puller_that_proved_who_it_is_is_not_locked_out() {
        let limits = limits(LimitsConfig {
            auth_failures: 1,
            ..LimitsConfig::default()
        });
        let from = address("192.0.2.1");
        limits.authenticated(from);
        for _ in 0..3 {
            let _ = limits.offence(from, Offence::AuthFailed);
        }
        assert!(limits.is_banned(from));
        limits.connected(Side::Odmr, from).unwrap();
        let denied = limits.connected(Side::Smtp, from);
        assert_eq!(denied, Err(Denial::Banned));
    }
}
