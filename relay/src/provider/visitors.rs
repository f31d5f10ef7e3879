//! How many connections there may be of those that have not said who they are, and how many of one account.
//!
//! Strangers cannot take all places: one address has a few before AUTH, and all that come from networks in which no puller
//! ever logged in have three quarters together, so that pullers find room whatever is going on. An account cannot take the
//! places of others either.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::OdmrConfig;
use crate::limits::Origin;

/// Counts them. Clones are handles of the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Visitors(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    by_origin: HashMap<Origin, usize>,
    by_account: HashMap<String, usize>,
    strangers: usize,
}

/// What is known of where a connection comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum From {
    /// Limits do not apply to it.
    Exempt,
    /// A puller logged in from there before.
    Home,
    /// Nobody knows it.
    Elsewhere,
}

/// A connection before AUTH; it makes room when it is dropped.
#[derive(Debug)]
pub(super) struct Visit {
    visitors: Visitors,
    origin: Option<Origin>,
    is_stranger: bool,
}

/// A connection of an account; it makes room when it is dropped.
#[derive(Debug)]
pub(super) struct Login {
    visitors: Visitors,
    account: String,
}

impl Visitors {
    /// Lets a connection in that has not said who it is.
    pub(super) fn enter(&self, address: IpAddr, from: From, odmr: &OdmrConfig) -> Option<Visit> {
        let origin = (from != From::Exempt).then(|| Origin::of(address));
        let is_stranger = from == From::Elsewhere;
        let mut counts = self.counts();
        if is_stranger && counts.strangers >= strangers_max(odmr.max_connections) {
            return None;
        }
        if let Some(origin) = origin {
            let most = odmr.max_unauthenticated_per_ip;
            if !add(&mut counts.by_origin, origin, most) {
                return None;
            }
        }
        counts.strangers += usize::from(is_stranger);
        drop(counts);
        Some(Visit {
            visitors: self.clone(),
            origin,
            is_stranger,
        })
    }

    /// Lets an account in that proved to be one.
    pub(super) fn log_in(&self, account: &str, odmr: &OdmrConfig) -> Option<Login> {
        let most = odmr.max_connections_per_account;
        let account = account.to_owned();
        add(&mut self.counts().by_account, account.clone(), most).then(|| Login {
            visitors: self.clone(),
            account,
        })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut counts = self.visitors.counts();
        counts.strangers -= usize::from(self.is_stranger);
        if let Some(origin) = self.origin {
            remove(&mut counts.by_origin, origin);
        }
    }
}

impl Drop for Login {
    fn drop(&mut self) {
        let account = std::mem::take(&mut self.account);
        remove(&mut self.visitors.counts().by_account, account);
    }
}

/// Of all places, those that strangers may take: at least one.
fn strangers_max(all: usize) -> usize {
    (all - all / 4).max(1)
}

fn add<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: K, most: usize) -> bool {
    match counts.entry(key) {
        Entry::Occupied(entry) if *entry.get() >= most => false,
        Entry::Occupied(entry) => {
            *entry.into_mut() += 1;
            true
        }
        Entry::Vacant(entry) => {
            entry.insert(1);
            true
        }
    }
}

fn remove<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: K) {
    if let Entry::Occupied(mut entry) = counts.entry(key) {
        *entry.get_mut() -= 1;
        if *entry.get() == 0 {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn odmr() -> OdmrConfig {
        OdmrConfig {
            max_connections: 8,
            max_unauthenticated_per_ip: 2,
            max_connections_per_account: 2,
            ..OdmrConfig::default()
        }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_a_few_places_before_auth() {
        let visitors = Visitors::default();
        let odmr = odmr();
        let enter = |text, from| visitors.enter(address(text), from, &odmr);
        let first = enter("192.0.2.1", From::Elsewhere);
        let second = enter("::ffff:192.0.2.1", From::Home);
        assert!(first.is_some() && second.is_some());
        assert!(enter("192.0.2.1", From::Home).is_none());
        assert!(enter("192.0.2.2", From::Elsewhere).is_some());
        drop(first);
        assert!(enter("192.0.2.1", From::Elsewhere).is_some());
        drop(second);
        assert!(visitors.counts().by_origin.is_empty());
    }

    #[test]
    fn strangers_leave_room_for_pullers() {
        let visitors = Visitors::default();
        let odmr = odmr();
        let strangers: Vec<_> = (1..=8)
            .map_while(|net| {
                let address = address(&format!("198.51.{net}.1"));
                visitors.enter(address, From::Elsewhere, &odmr)
            })
            .collect();
        assert_eq!(strangers.len(), 6);
        assert!(
            visitors
                .enter(address("192.0.2.1"), From::Home, &odmr)
                .is_some()
        );
        assert!(
            visitors
                .enter(address("10.0.0.1"), From::Exempt, &odmr)
                .is_some()
        );
        drop(strangers);
        assert_eq!(visitors.counts().strangers, 0);
    }

    #[test]
    fn an_account_has_its_own_places_only() {
        let visitors = Visitors::default();
        let odmr = odmr();
        let logins = [
            visitors.log_in("corp", &odmr),
            visitors.log_in("corp", &odmr),
        ];
        assert!(logins.iter().all(Option::is_some));
        assert!(visitors.log_in("corp", &odmr).is_none());
        assert!(visitors.log_in("other", &odmr).is_some());
        drop(logins);
        assert!(visitors.counts().by_account.is_empty());
    }
}
