//! The short run: every seed, and mutations of them, in the build that `cargo test` makes anyway.
//!
//! By hand it tries a few thousand inputs a target, always the same ones. `ATRN_FUZZ_SECONDS` gives it so long in all, and then
//! the inputs are others each time; `ATRN_FUZZ_SEED` repeats a run, and `ATRN_FUZZ_TARGET` narrows it to one target.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use atrn_fuzz::mutate::{Mutator, dictionary, root, seeds};
use atrn_fuzz::{TARGETS, Target};

/// Inputs a target when nobody says how long.
const INPUTS: u64 = 2_000;

#[test]
fn every_seed_holds() {
    for target in TARGETS {
        let seeds = seeds(&target).unwrap();
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        for (path, octets) in seeds {
            let held = catch_unwind(|| (target.run)(&octets));
            assert!(held.is_ok(), "{} fails", path.display());
        }
    }
}

#[test]
fn mutations_of_the_seeds_hold() {
    let targets = chosen();
    let seed = match (std::env::var("ATRN_FUZZ_SEED"), seconds()) {
        (Ok(seed), _) => seed.parse().expect("ATRN_FUZZ_SEED is a number"),
        (Err(_), Some(_)) => fastrand::u64(..),
        (Err(_), None) => 1,
    };
    println!("ATRN_FUZZ_SEED={seed}");
    let workers = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(targets.len());
    let limit = Limit::each(workers, targets.len());
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(saved) = run(target, limit, seed) {
                        failures.lock().unwrap().push(saved);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(
        failures.is_empty(),
        "inputs that fail; mend the cause and keep each as seeds/TARGET/…: {failures:#?}"
    );
}

#[test]
fn each_target_has_its_program_and_its_folder() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let listed = |folder: &str| {
        let entries = fs::read_dir(root().join(folder)).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| {
                entry
                    .unwrap()
                    .path()
                    .file_stem()
                    .unwrap()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        names
    };
    let names: Vec<String> = TARGETS
        .iter()
        .map(|target| target.name.to_owned())
        .collect();
    assert!(names.is_sorted());
    assert_eq!(listed("seeds"), names);
    assert_eq!(listed("fuzz_targets"), names);
    for name in names {
        assert!(
            manifest.contains(&format!("name = \"{name}\"\n")),
            "{name} is no [[bin]]"
        );
    }
}

fn chosen() -> Vec<Target> {
    let Ok(name) = std::env::var("ATRN_FUZZ_TARGET") else {
        return TARGETS.to_vec();
    };
    let found: Vec<Target> = TARGETS
        .into_iter()
        .filter(|target| target.name == name)
        .collect();
    assert!(!found.is_empty(), "no target {name}");
    found
}

fn seconds() -> Option<f64> {
    let seconds = std::env::var("ATRN_FUZZ_SECONDS").ok()?;
    Some(seconds.parse().expect("ATRN_FUZZ_SECONDS is a number"))
}

/// How much a target gets.
#[derive(Clone, Copy)]
enum Limit {
    Inputs(u64),
    Time(Duration),
}

impl Limit {
    fn each(workers: usize, targets: usize) -> Self {
        match seconds() {
            None => Self::Inputs(INPUTS),
            Some(seconds) => Self::Time(Duration::from_secs_f64(
                seconds * workers as f64 / targets as f64,
            )),
        }
    }

    fn is_reached(self, inputs: u64, begun: Instant) -> bool {
        match self {
            Self::Inputs(limit) => inputs >= limit,
            Self::Time(limit) => inputs.is_multiple_of(64) && begun.elapsed() >= limit,
        }
    }
}

/// The path of an input that fails.
fn run(target: &Target, limit: Limit, seed: u64) -> Result<(), PathBuf> {
    let seeds = seeds(target)
        .expect("the seeds")
        .into_iter()
        .map(|(_, octets)| octets)
        .collect();
    let mut mutator = Mutator::new(
        seeds,
        dictionary().expect("the dictionary"),
        target.octets_max,
        seed,
    );
    let begun = Instant::now();
    let mut inputs = 0;
    while !limit.is_reached(inputs, begun) {
        let input = mutator.next_input();
        inputs += 1;
        if catch_unwind(|| (target.run)(&input)).is_err() {
            return Err(save(target, &input));
        }
    }
    println!(
        "{:18} {inputs:8} inputs in {:.1?}",
        target.name,
        begun.elapsed()
    );
    Ok(())
}

fn save(target: &Target, input: &[u8]) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
    fs::create_dir_all(&folder).expect("a folder for what fails");
    let path = folder.join(format!("{}-{:016x}", target.name, fastrand::u64(..)));
    fs::write(&path, input).expect("a file for what fails");
    path
}
