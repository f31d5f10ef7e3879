//! Who was told to come back: so many of each neighbourhood, so that nobody takes the place of others, however much he
//! tries.

use std::collections::{HashMap, VecDeque};

use super::Key;

/// Of one neighbourhood; a new one then takes the place of its oldest.
const OF_ONE: usize = 1_000;
/// In all.
const IN_ALL: usize = 200_000;

/// Network, sender and recipient, and when they first came.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending {
    /// By neighbourhood, oldest first; none is empty.
    networks: HashMap<Key, VecDeque<(Key, u64)>>,
    count: usize,
}

impl Pending {
    pub(super) fn find(&self, network: Key, triple: Key) -> Option<u64> {
        let mut entries = self.networks.get(&network)?.iter();
        entries.find(|entry| entry.0 == triple).map(|entry| entry.1)
    }

    pub(super) fn insert(&mut self, network: Key, triple: Key, time: u64) {
        self.remove(network, triple);
        if self.count >= IN_ALL {
            self.make_room();
        }
        let entries = self.networks.entry(network).or_default();
        if entries.len() >= OF_ONE {
            entries.pop_front();
            self.count -= 1;
        }
        entries.push_back((triple, time));
        self.count += 1;
    }

    pub(super) fn remove(&mut self, network: Key, triple: Key) {
        let Some(entries) = self.networks.get_mut(&network) else {
            return;
        };
        let before = entries.len();
        entries.retain(|entry| entry.0 != triple);
        self.count -= before - entries.len();
        if entries.is_empty() {
            self.networks.remove(&network);
        }
    }

    /// Neighbourhood, triple and time of each; those of one neighbourhood oldest first.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Key, &Key, u64)> {
        self.networks.iter().flat_map(|(network, entries)| {
            let entries = entries.iter();
            entries.map(move |(triple, time)| (network, triple, *time))
        })
    }

    /// Those with many give up the older half. Where all have few, those go that were quiet for longest.
    fn make_room(&mut self) {
        let mean = self.count / self.networks.len().max(1);
        if mean > 1 {
            for entries in self.networks.values_mut() {
                if entries.len() >= mean {
                    entries.drain(..entries.len() / 2);
                    entries.shrink_to_fit();
                }
            }
        } else {
            let last = |entries: &VecDeque<(Key, u64)>| entries.back().map_or(0, |entry| entry.1);
            let mut times: Vec<_> = self.networks.values().map(last).collect();
            let half = times.len() / 2;
            let (_, median, _) = times.select_nth_unstable(half);
            self.networks.retain(|_, entries| last(entries) > *median);
        }
        self.count = self.networks.values().map(VecDeque::len).sum();
    }
}

impl PartialEq for Pending {
    fn eq(&self, other: &Self) -> bool {
        self.networks == other.networks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(number: usize) -> Key {
        let mut key = Key::default();
        key[..8].copy_from_slice(&number.to_le_bytes());
        key
    }

    #[test]
    fn a_neighbourhood_has_its_part() {
        let mut pending = Pending::default();
        let (one, other) = (numbered(1), numbered(2));
        pending.insert(other, numbered(0), 7);
        for number in 0..2 * OF_ONE {
            pending.insert(one, numbered(number), 8);
        }
        assert_eq!(pending.count, OF_ONE + 1);
        assert_eq!(pending.find(one, numbered(OF_ONE - 1)), None);
        assert_eq!(pending.find(one, numbered(OF_ONE)), Some(8));
        assert_eq!(pending.find(other, numbered(0)), Some(7));
        pending.insert(other, numbered(0), 9);
        pending.remove(other, numbered(1));
        assert_eq!(pending.count, OF_ONE + 1);
        pending.remove(other, numbered(0));
        assert_eq!((pending.count, pending.networks.len()), (OF_ONE, 1));
    }

    #[test]
    fn many_with_much_leave_those_with_little_alone() {
        let mut pending = Pending::default();
        pending.insert(numbered(0), numbered(0), 1);
        for number in 0..IN_ALL + 1_000 {
            pending.insert(numbered(1 + number % 1_000), numbered(number), 2);
            assert!(pending.count <= IN_ALL);
        }
        assert_eq!(pending.find(numbered(0), numbered(0)), Some(1));
        let count = pending.all().count();
        assert_eq!(pending.count, count);
        assert!(count >= IN_ALL / 2);
    }

    #[test]
    fn it_never_grows_whoever_comes() {
        let mut pending = Pending::default();
        for number in 0..2 * IN_ALL {
            pending.insert(numbered(number), numbered(0), number as u64);
            assert!(pending.count <= IN_ALL);
        }
        let last = 2 * IN_ALL - 1;
        assert_eq!(pending.find(numbered(last), numbered(0)), Some(last as u64));
        assert_eq!(pending.find(numbered(0), numbered(0)), None);
    }
}
