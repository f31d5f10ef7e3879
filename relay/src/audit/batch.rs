//! What came since the last write, summed up in memory.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;

use super::network::Network;
use super::store::Note;

/// Keys that a batch holds; what comes beyond is lost. Only a flood over many addresses fills it within one write.
const KEYS_MAX: usize = 20_000;

/// Of one key: how often, and when.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Sum {
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) times: i64,
    /// Mechanisms that were used, a bit each.
    pub(super) mechanisms: u8,
}

/// Sums by key, to be written in one transaction.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) attempts: HashMap<(String, IpAddr), Sum>,
    pub(super) refusals: HashMap<(&'static str, &'static str, Network), Sum>,
    /// With the last address of the network.
    pub(super) logins: HashMap<(String, Network), (IpAddr, Sum)>,
    /// Names and seconds.
    pub(super) locks: HashMap<String, i64>,
}

/// An entry for which there is no room.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Full;

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.keys() == 0
    }

    /// Adds an entry that came `now`, in seconds.
    pub(super) fn add(&mut self, note: Note, now: i64) -> Result<(), Full> {
        let room = self.keys() < KEYS_MAX;
        match note {
            Note::Failed {
                name,
                address,
                mechanism,
            } => count(
                &mut self.attempts,
                (name, address),
                Sum::one(now, 1 << mechanism as u8),
                room,
            ),
            Note::Refused {
                service,
                reason,
                network,
            } => count(
                &mut self.refusals,
                (service, reason, network),
                Sum::one(now, 0),
                room,
            ),
            Note::LoggedIn { account, address } => self.log_in(account, address, now, room),
            Note::Locked { name, until } => {
                self.locks.insert(name, until.as_second());
                Ok(())
            }
            Note::Flush(_) => Ok(()),
        }
    }

    fn log_in(
        &mut self,
        account: String,
        address: IpAddr,
        now: i64,
        room: bool,
    ) -> Result<(), Full> {
        let key = (account, Network::of(address));
        match self.logins.get_mut(&key) {
            Some((last, sum)) => {
                *last = address;
                sum.add(Sum::one(now, 0));
            }
            None if room => {
                self.logins.insert(key, (address, Sum::one(now, 0)));
            }
            None => return Err(Full),
        }
        Ok(())
    }

    /// Entries that were summed up.
    pub(super) fn entries(&self) -> u64 {
        let sums = self.attempts.values().chain(self.refusals.values());
        let sums = sums.chain(self.logins.values().map(|(_, sum)| sum));
        sums.map(|sum| sum.times.unsigned_abs()).sum()
    }

    /// Rows that it can add.
    pub(super) fn keys(&self) -> usize {
        self.attempts.len() + self.refusals.len() + self.logins.len() + self.locks.len()
    }
}

fn count<K: Eq + Hash>(
    sums: &mut HashMap<K, Sum>,
    key: K,
    one: Sum,
    room: bool,
) -> Result<(), Full> {
    if let Some(sum) = sums.get_mut(&key) {
        sum.add(one);
        return Ok(());
    }
    if !room {
        return Err(Full);
    }
    sums.insert(key, one);
    Ok(())
}

impl Sum {
    fn one(now: i64, mechanisms: u8) -> Self {
        Self {
            first: now,
            last: now,
            times: 1,
            mechanisms,
        }
    }

    fn add(&mut self, later: Self) {
        self.last = later.last;
        self.times += later.times;
        self.mechanisms |= later.mechanisms;
    }
}

#[cfg(test)]
mod tests {
    use atrn_shared::sasl::Mechanism;

    use super::*;

    fn failed(name: &str, address: u32, mechanism: Mechanism) -> Note {
        Note::Failed {
            name: name.to_owned(),
            address: IpAddr::V4(address.into()),
            mechanism,
        }
    }

    #[test]
    fn what_is_alike_is_one_entry() {
        let mut batch = Batch::default();
        assert!(batch.is_empty());
        for (second, mechanism) in [(5, Mechanism::Plain), (9, Mechanism::CramMd5)] {
            batch.add(failed("corp", 1, mechanism), second).unwrap();
        }
        batch.add(failed("corp", 2, Mechanism::Plain), 9).unwrap();
        assert_eq!(batch.attempts.len(), 2);
        let sum = batch.attempts[&("corp".to_owned(), IpAddr::V4(1.into()))];
        let mechanisms = 1 << Mechanism::Plain as u8 | 1 << Mechanism::CramMd5 as u8;
        assert_eq!(
            sum,
            Sum {
                first: 5,
                last: 9,
                times: 2,
                mechanisms
            }
        );
    }

    #[test]
    fn a_flood_of_names_fills_it_and_what_is_known_is_still_counted() {
        let mut batch = Batch::default();
        let mut lost = 0;
        for address in 0..30_000 {
            let note = failed("corp", address, Mechanism::Plain);
            lost += u32::from(batch.add(note, 0).is_err());
        }
        assert_eq!(lost, 10_000);
        assert_eq!(batch.add(failed("corp", 1, Mechanism::Plain), 1), Ok(()));
    }
}
