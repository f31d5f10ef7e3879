//! Who may try to log in: lock-outs that cannot lock out the puller itself.
//!
//! Guessing is slowed by address first. An address that fails too often is banned ([`crate::limits`]), and before that each
//! of its failures is answered later than the one before. An attacker with many addresses meets the second line: after
//! enough failures for one name, from wherever, that name is closed for a while to *strangers*, which are networks from
//! which nobody ever logged in to it. A network that did is never put off, so no number of failures elsewhere keeps the
//! puller out. EXTERNAL is not counted: there is nothing to guess.
//!
//! Names that exist and names that do not are treated alike here, so that a lock tells nothing. All of it is decided in
//! memory; where accounts logged in from is remembered by [`crate::audit`].

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::audit::Network;
use crate::config::{LimitsConfig, is_account_name};
use crate::limits::{Origin, is_within};

/// Names and addresses with failures that are kept. Beyond, those with the fewest go.
const FAILING_MAX: usize = 10_000;
/// Networks from which an account logged in; an account that moves more than that is a stranger now and then.
const NETWORKS_MAX: usize = 256;
/// The first wait after a failure; each further one doubles it.
const DELAY: Duration = Duration::from_secs(1);
/// Failures of an address that are answered at once: everybody mistypes.
const UNDELAYED: u32 = 2;

/// Knows who failed and who logged in. Clones are handles of the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Guard(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// By account. Only who proved to be it gets in here.
    logins: HashMap<String, HashSet<Network>>,
    /// For how many accounts a network is in `logins`.
    homes: HashMap<Network, usize>,
    names: HashMap<String, Failing>,
    addresses: HashMap<Origin, Failing>,
}

#[derive(Clone, Copy, Debug)]
struct Failing {
    /// Failures since `since`.
    count: u32,
    since: Instant,
    /// Strangers are put off until then.
    closed_until: Option<Instant>,
}

/// Whether an attempt is looked at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// The name was logged in to from here before, or the address is exempt.
    Familiar,
    /// It is checked when there is time for strangers.
    Stranger,
    /// It is not checked.
    PutOff,
}

/// What a failure leads to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Failure {
    /// The answer waits so long.
    pub(super) delay: Duration,
    /// The name is closed to strangers from now on.
    pub(super) closes: bool,
}

impl Guard {
    /// With what an earlier run knew. `locks` are names and how long they are closed still.
    pub(super) fn new(
        logins: impl IntoIterator<Item = (String, IpAddr)>,
        locks: impl IntoIterator<Item = (String, Duration)>,
        now: Instant,
    ) -> Self {
        let guard = Self::default();
        for (account, address) in logins {
            guard.succeeded(&account, address);
        }
        let failing = |left| Failing {
            count: 0,
            since: now,
            closed_until: Some(now + left),
        };
        let locks = locks.into_iter().take(FAILING_MAX);
        guard.known().names = locks.map(|(name, left)| (name, failing(left))).collect();
        guard
    }

    /// Whether an attempt on a name (`None`: it names none, or needs no guess) from an address is looked at.
    pub(super) fn verdict(
        &self,
        name: Option<&str>,
        address: IpAddr,
        limits: &LimitsConfig,
        now: Instant,
    ) -> Verdict {
        if is_within(&limits.exempt, address) {
            return Verdict::Familiar;
        }
        let Some(name) = name else {
            return Verdict::Stranger;
        };
        let known = self.known();
        if known.is_familiar(name, address) {
            return Verdict::Familiar;
        }
        let closed = known.names.get(name).and_then(|name| name.closed_until);
        match closed {
            Some(until) if now < until => Verdict::PutOff,
            _ => Verdict::Stranger,
        }
    }

    /// A proof was refused.
    pub(super) fn failed(
        &self,
        name: Option<&str>,
        address: IpAddr,
        limits: &LimitsConfig,
        now: Instant,
    ) -> Failure {
        if is_within(&limits.exempt, address) {
            return Failure {
                delay: Duration::ZERO,
                closes: false,
            };
        }
        let mut known = self.known();
        let window = limits.window;
        let from_here = count(&mut known.addresses, Origin::of(address), window, now);
        let delay = delay(from_here.count, limits.auth_delay);
        // What can be no account's name needs no lock, and would fill the table.
        let guessed =
            name.filter(|name| is_account_name(name) && !known.is_familiar(name, address));
        let closes = guessed.is_some_and(|name| {
            let failing = count(&mut known.names, name.to_owned(), window, now);
            let closes = limits.account_failures > 0 && failing.count >= limits.account_failures;
            if closes {
                failing.closed_until = Some(now + limits.account_lock_time);
                failing.count = 0;
                failing.since = now;
            }
            closes
        });
        Failure { delay, closes }
    }

    /// An account logged in: its network is none of a stranger any more. True when that is new.
    pub(super) fn succeeded(&self, account: &str, address: IpAddr) -> bool {
        let network = Network::of(address);
        let mut known = self.known();
        if known.is_familiar(account, address) {
            return false;
        }
        let networks = known.logins.entry(account.to_owned()).or_default();
        // Any of them: each comes back with its next login.
        let one = networks.iter().next().copied();
        let left = one.filter(|_| networks.len() >= NETWORKS_MAX);
        if let Some(left) = &left {
            networks.remove(left);
        }
        networks.insert(network);
        *known.homes.entry(network).or_default() += 1;
        if let Some(left) = left {
            known.leave(left);
        }
        true
    }

    /// Whether any account logged in from the network of an address.
    pub(super) fn is_pullers_network(&self, address: IpAddr) -> bool {
        self.known().homes.contains_key(&Network::of(address))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn is_familiar(&self, name: &str, address: IpAddr) -> bool {
        let networks = self.logins.get(name);
        networks.is_some_and(|networks| networks.contains(&Network::of(address)))
    }

    fn leave(&mut self, network: Network) {
        if let Entry::Occupied(mut entry) = self.homes.entry(network) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

/// One more failure; what is older than the window no longer counts.
fn count<K: Clone + Eq + Hash>(
    all: &mut HashMap<K, Failing>,
    key: K,
    window: Duration,
    now: Instant,
) -> &mut Failing {
    if all.len() >= FAILING_MAX && !all.contains_key(&key) {
        make_room(all, window, now);
    }
    match all.entry(key) {
        Entry::Occupied(entry) => {
            let failing = entry.into_mut();
            if now.saturating_duration_since(failing.since) >= window {
                failing.count = 0;
                failing.since = now;
            }
            failing.count = failing.count.saturating_add(1);
            failing
        }
        Entry::Vacant(entry) => entry.insert(Failing {
            count: 1,
            since: now,
            closed_until: None,
        }),
    }
}

/// Those go whose time is over; and if that is not enough, half of the others, the fewest failures first. A lock counts for
/// more than any number of failures, whether its name exists or not.
fn make_room<K: Clone + Eq + Hash>(all: &mut HashMap<K, Failing>, window: Duration, now: Instant) {
    let weight = |failing: &Failing| {
        let is_closed = failing.closed_until.is_some_and(|until| now < until);
        (is_closed, failing.count, failing.since)
    };
    all.retain(|_, failing| {
        weight(failing).0 || now.saturating_duration_since(failing.since) < window
    });
    if all.len() < FAILING_MAX {
        return;
    }
    let mut keys: Vec<_> = all
        .iter()
        .map(|(key, failing)| (weight(failing), key.clone()))
        .collect();
    keys.sort_by_key(|(weight, _)| *weight);
    for (_, key) in keys.into_iter().take(FAILING_MAX / 2) {
        all.remove(&key);
    }
}

/// 0, 0, 1, 2, 4, 8 … seconds.
fn delay(failures: u32, most: Duration) -> Duration {
    let Some(doublings) = failures.checked_sub(UNDELAYED + 1) else {
        return Duration::ZERO;
    };
    let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
    DELAY.saturating_mul(factor).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    struct Case {
        guard: Guard,
        limits: LimitsConfig,
        now: Instant,
    }

    impl Case {
        fn new() -> Self {
            let limits = LimitsConfig {
                exempt: vec!["10.0.0.0/8".parse().unwrap()],
                account_failures: 5,
                account_lock_time: 10 * MINUTE,
                window: 10 * MINUTE,
                auth_delay: Duration::from_secs(8),
                ..LimitsConfig::default()
            };
            Self {
                guard: Guard::default(),
                limits,
                now: Instant::now(),
            }
        }

        fn verdict(&self, name: &str, address: &str) -> Verdict {
            let address = address.parse().unwrap();
            self.guard
                .verdict(Some(name), address, &self.limits, self.now)
        }

        fn fail(&self, name: &str, address: &str) -> Failure {
            let address = address.parse().unwrap();
            self.guard
                .failed(Some(name), address, &self.limits, self.now)
        }

        /// From five addresses of five networks.
        fn attack(&self, name: &str) -> bool {
            let failures = (1..=5).map(|net| self.fail(name, &format!("198.51.{net}.1")));
            failures.fold(false, |_, failure| failure.closes)
        }
    }

    #[test]
    fn an_attack_from_everywhere_closes_a_name_to_strangers_and_not_to_its_puller() {
        let mut case = Case::new();
        case.guard.succeeded("corp", "192.0.2.10".parse().unwrap());
        assert!(case.attack("corp"));
        for (address, expected) in [
            ("192.0.2.10", Verdict::Familiar),
            ("192.0.2.77", Verdict::Familiar),
            ("198.51.1.1", Verdict::PutOff),
            ("203.0.113.1", Verdict::PutOff),
            ("10.1.2.3", Verdict::Familiar),
        ] {
            assert_eq!(case.verdict("corp", address), expected, "{address}");
        }
        assert_eq!(case.verdict("other", "198.51.1.1"), Verdict::Stranger);
        case.now += 10 * MINUTE;
        assert_eq!(case.verdict("corp", "203.0.113.1"), Verdict::Stranger);
    }

    /// Whether a name is locked must not tell whether there is such an account.
    #[test]
    fn a_name_that_does_not_exist_is_closed_as_one_that_does() {
        let case = Case::new();
        case.guard.succeeded("corp", "192.0.2.10".parse().unwrap());
        for name in ["corp", "nobody"] {
            let failures: Vec<_> = (1..=6)
                .map(|net| {
                    case.fail(name, &format!("198.51.{net}.{}", name.len()))
                        .closes
                })
                .collect();
            assert_eq!(
                failures,
                [false, false, false, false, true, false],
                "{name}"
            );
            assert_eq!(case.verdict(name, "203.0.113.1"), Verdict::PutOff, "{name}");
        }
    }

    #[test]
    fn failures_at_home_close_nothing_and_old_ones_do_not_count() {
        let mut case = Case::new();
        case.guard.succeeded("corp", "192.0.2.10".parse().unwrap());
        for _ in 0..50 {
            assert!(!case.fail("corp", "192.0.2.10").closes);
        }
        assert_eq!(case.verdict("corp", "203.0.113.1"), Verdict::Stranger);
        for _ in 0..50 {
            assert!(!case.fail("corp", "198.51.1.1").closes);
            case.now += 3 * MINUTE;
        }
    }

    #[test]
    fn each_failure_of_an_address_waits_longer() {
        let mut case = Case::new();
        let seconds = |case: &Case| {
            let failures = (0..8).map(|name| case.fail(&format!("name{name}"), "198.51.1.1"));
            failures
                .map(|failure| failure.delay.as_secs())
                .collect::<Vec<_>>()
        };
        assert_eq!(seconds(&case), [0, 0, 1, 2, 4, 8, 8, 8]);
        assert_eq!(case.fail("x", "198.51.1.2").delay, Duration::ZERO);
        assert_eq!(case.fail("x", "10.0.0.1").delay, Duration::ZERO);
        case.now += 10 * MINUTE;
        assert_eq!(seconds(&case)[..3], [0, 0, 1]);
        assert_eq!(delay(u32::MAX, MINUTE), MINUTE);
    }

    #[test]
    fn a_flood_of_names_takes_bounded_room_and_lifts_no_lock() {
        let case = Case::new();
        assert!(case.attack("corp"));
        for number in 0..3 * FAILING_MAX {
            case.fail(&format!("name{number}"), "198.51.1.1");
        }
        assert!(case.guard.known().names.len() <= FAILING_MAX);
        assert_eq!(case.verdict("corp", "203.0.113.1"), Verdict::PutOff);
        case.fail("no name of an account", "198.51.1.1");
        assert!(
            !case
                .guard
                .known()
                .names
                .contains_key("no name of an account")
        );
    }

    #[test]
    fn an_account_that_moves_about_takes_bounded_room() {
        let guard = Guard::default();
        for number in 0..2 * NETWORKS_MAX as u32 {
            let address = IpAddr::V4((number << 8).into());
            assert!(guard.succeeded("corp", address));
            assert!(!guard.succeeded("corp", address));
        }
        assert_eq!(guard.known().homes.len(), NETWORKS_MAX);
    }

    #[test]
    fn what_was_known_before_a_restart_counts() {
        let case = Case::new();
        let home = "2001:db8:1:200::1".parse().unwrap();
        let locks = [("corp".to_owned(), MINUTE)];
        let guard = Guard::new([("corp".to_owned(), home)], locks, case.now);
        let case = Case { guard, ..case };
        assert_eq!(case.verdict("corp", "2001:db8:1:2ff::9"), Verdict::Familiar);
        assert_eq!(case.verdict("corp", "2001:db8:1:300::9"), Verdict::PutOff);
        assert!(case.guard.is_pullers_network(home));
        assert!(
            !case
                .guard
                .is_pullers_network("2001:db8:1:300::9".parse().unwrap())
        );
    }
}
