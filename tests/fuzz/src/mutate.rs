//! Mutations of the seeds, for a run without libFuzzer: no coverage is followed, so it finds what is near the seeds.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::Target;

/// The folder of this crate.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The seeds of a target, with their paths, in the order of their names.
///
/// # Errors
/// The folder cannot be read.
pub fn seeds(target: &Target) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let folder = root().join("seeds").join(target.name);
    let mut seeds = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let octets = fs::read(&path)?;
        seeds.push((path, octets));
    }
    seeds.sort();
    Ok(seeds)
}

/// Words that mean something to one of the parsers: the values of `dictionary.txt`, which is in libFuzzer's form.
///
/// # Errors
/// The file cannot be read.
pub fn dictionary() -> io::Result<Vec<Vec<u8>>> {
    let text = fs::read_to_string(root().join("dictionary.txt"))?;
    Ok(text.lines().filter_map(dictionary_value).collect())
}

/// `"value"` with `\\`, `\"` and `\xHH`.
fn dictionary_value(line: &str) -> Option<Vec<u8>> {
    let mut rest = line.strip_prefix('"')?.strip_suffix('"')?.as_bytes();
    let mut value = Vec::new();
    loop {
        rest = match rest {
            [] => return Some(value),
            [b'\\', b'x', high, low, rest @ ..] => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).ok()?;
                value.push(u8::from_str_radix(digits, 16).ok()?);
                rest
            }
            [b'\\', octet, rest @ ..] | [octet, rest @ ..] => {
                value.push(*octet);
                rest
            }
        };
    }
}

/// Gives input after input.
#[derive(Debug)]
pub struct Mutator {
    choices: fastrand::Rng,
    seeds: Vec<Vec<u8>>,
    words: Vec<Vec<u8>>,
    octets_max: usize,
}

impl Mutator {
    /// Mutates these seeds, always in the same way for the same `seed`.
    #[must_use]
    pub fn new(seeds: Vec<Vec<u8>>, words: Vec<Vec<u8>>, octets_max: usize, seed: u64) -> Self {
        Self {
            choices: fastrand::Rng::with_seed(seed),
            seeds,
            words,
            octets_max,
        }
    }

    /// The next input.
    pub fn next_input(&mut self) -> Vec<u8> {
        let mut input = self.seed();
        for _ in 0..self.choices.usize(1..=6) {
            self.mutate(&mut input);
        }
        input.truncate(self.octets_max);
        input
    }

    fn seed(&mut self) -> Vec<u8> {
        self.choices
            .choice(&self.seeds)
            .cloned()
            .unwrap_or_default()
    }

    fn mutate(&mut self, input: &mut Vec<u8>) {
        let at = self.choices.usize(..=input.len());
        let end = (at + self.choices.usize(..=16)).min(input.len());
        match self.choices.u8(..8) {
            0 => {
                input.drain(at..end);
            }
            1 => {
                let repeated = input[at..end].repeat(self.choices.usize(1..=4));
                input.splice(at..at, repeated);
            }
            2 => input.insert(at, self.choices.u8(..)),
            3 | 4 => {
                if let Some(word) = self.choices.choice(&self.words) {
                    input.splice(at..at, word.iter().copied());
                }
            }
            // What begins as one seed goes on as another.
            5 => {
                let other = self.seed();
                let from = self.choices.usize(..=other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            // The first octets are the switches of many targets.
            6 => {
                if let Some(octet) = input.get_mut(self.choices.usize(..4)) {
                    *octet = self.choices.u8(..);
                }
            }
            _ => {
                if let Some(octet) = input.get_mut(at) {
                    *octet ^= 1 << self.choices.u8(..8);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_read_as_libfuzzer_reads_it() {
        assert_eq!(
            dictionary_value(r#""a\x0d\x0A\"\\""#),
            Some(b"a\r\n\"\\".to_vec())
        );
        assert_eq!(dictionary_value("# words"), None);
        assert!(dictionary().unwrap().len() > 50);
    }

    #[test]
    fn the_same_seed_gives_the_same_inputs() {
        let inputs = |seed| {
            let mut mutator =
                Mutator::new(vec![b"EHLO a".to_vec()], vec![b"\r\n".to_vec()], 40, seed);
            (0..50).map(|_| mutator.next_input()).collect::<Vec<_>>()
        };
        assert_eq!(inputs(1), inputs(1));
        assert_ne!(inputs(1), inputs(2));
    }
}
