//! Chance, by a seed: which of the changes that were not synced are on the disk all the same.

use fastrand::Rng;

/// What becomes of the changes of one file that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Kept,
    /// All but the last ones: the disk was behind.
    Beginning(usize),
    /// Only the last ones: the disk wrote in another order.
    End(usize),
    Lost,
    /// Each piece for itself, this often out of [`Fate::OUT_OF`].
    Torn(u8),
}

impl Fate {
    const OUT_OF: u8 = 8;
}

/// The fates of one power loss.
#[derive(Debug)]
pub struct Fates {
    chance: Rng,
    of_all: Option<Fate>,
}

impl Fates {
    /// Those of a seed: in some everything has the same fate, in most each file has its own.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut chance = Rng::with_seed(seed);
        let of_all = match chance.u8(..8) {
            0 => Some(Fate::Lost),
            1 => Some(Fate::Kept),
            _ => None,
        };
        Self { chance, of_all }
    }

    /// Nothing is there that was not synced.
    #[must_use]
    pub fn all_lost() -> Self {
        Self {
            chance: Rng::with_seed(0),
            of_all: Some(Fate::Lost),
        }
    }

    /// Everything is there, as after a mere kill.
    #[must_use]
    pub fn all_kept() -> Self {
        Self {
            chance: Rng::with_seed(0),
            of_all: Some(Fate::Kept),
        }
    }

    /// That of a file with so many changes which were not synced.
    pub(super) fn next(&mut self, pending: usize) -> Fate {
        if let Some(fate) = self.of_all {
            return fate;
        }
        let some = self.chance.usize(..=pending);
        match self.chance.u8(..8) {
            0 => Fate::Lost,
            1 => Fate::Kept,
            2 => Fate::Beginning(some),
            3 => Fate::End(some),
            4 => Fate::Torn(1),
            5 => Fate::Torn(Fate::OUT_OF - 1),
            _ => Fate::Torn(Fate::OUT_OF / 2),
        }
    }

    /// Whether the change, or the piece of it, with this number is there.
    pub(super) fn keeps(&mut self, fate: Fate, index: usize) -> bool {
        match fate {
            Fate::Kept => true,
            Fate::Beginning(count) => index < count,
            Fate::End(first) => index >= first,
            Fate::Lost => false,
            Fate::Torn(often) => self.chance.u8(..Fate::OUT_OF) < often,
        }
    }

    /// What stands where a file has grown and nothing was written.
    pub(super) fn filling(&mut self) -> u8 {
        if self.of_all.is_none() && self.chance.bool() {
            self.chance.u8(..)
        } else {
            0
        }
    }
}
