//! Many power losses, on several threads: each a moment and a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use fastrand::Rng;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use super::disk::Disk;
use super::fate::Fates;
use super::trace::Moment;

/// What is there after a power loss, in words that say the same thing after each.
pub type Found = BTreeSet<String>;

/// What a program has promised, and when.
pub trait Ledger: Sync {
    /// Opens a disk as it was found after a cut, and compares.
    ///
    /// # Errors
    /// What is lost, damaged or left over.
    fn check(&self, image: &Path, cut: Moment, runtime: &Runtime) -> Result<Found, String>;

    /// What had been promised before a cut. What of it is durably gone must not come back.
    fn promised(&self, cut: Moment) -> Found;
}

/// How many power losses, and how they are chosen.
#[derive(Clone, Debug)]
pub struct Cuts {
    /// So many; the same moment may come several times, with another fate.
    pub count: usize,
    /// Decides on moments and fates.
    pub seed: u64,
    /// Where images are made; a file system in memory is fastest.
    pub folder: PathBuf,
    /// What to do when one of them is a loss.
    pub after_loss: AfterLoss,
}

/// Whether to look for more losses than one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterLoss {
    /// Goes on.
    Continue,
    /// One is enough.
    Stop,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Images that were made and opened.
    pub images: usize,
    /// Different moments among them.
    pub moments: usize,
    /// Images in which something that was promised was missing, or something was wrong.
    pub losses: Vec<Loss>,
}

/// One of them.
#[derive(Debug)]
pub struct Loss {
    /// The moment of the power loss.
    pub cut: Moment,
    /// The seed of its fates; `None`: nothing was there that was not synced.
    pub seed: Option<u64>,
    /// What is wrong.
    pub what: String,
    /// The image, as it was before it was opened.
    pub image: PathBuf,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cut,
            seed,
            what,
            image,
        } = self;
        let image = image.display();
        match seed {
            Some(seed) => write!(f, "cut {cut}, seed {seed}: {what}\n  image: {image}"),
            None => write!(f, "cut {cut}, all lost: {what}\n  image: {image}"),
        }
    }
}

/// One power loss to come.
#[derive(Clone, Copy, Debug)]
struct Cut {
    moment: Moment,
    seed: Option<u64>,
}

/// Losses whose images are kept for a look; more tell nothing new.
const IMAGES_KEPT: usize = 5;

impl Cuts {
    /// Cuts the power that often.
    ///
    /// # Panics
    /// When the folder cannot be written.
    pub fn try_out(&self, disk: &Disk, ledger: &impl Ledger) -> Verdict {
        let (bare, others) = self.choose(disk);
        // First the disks with nothing but what was synced: what is gone from them must stay gone.
        let moments = bare.iter().chain(&others).map(|cut| cut.moment);
        let mut verdict = Verdict {
            moments: moments.collect::<BTreeSet<_>>().len(),
            ..Verdict::default()
        };
        let bare = self.examine(disk, ledger, &bare, &BTreeMap::new(), &mut verdict);
        self.examine(disk, ledger, &others, &bare, &mut verdict);
        verdict
    }

    /// Every moment at which something changes in its turn, as often as it takes, each time with another fate.
    fn choose(&self, disk: &Disk) -> (Vec<Cut>, Vec<Cut>) {
        let mut chance = Rng::with_seed(self.seed);
        let moments = disk.moments();
        let mut chosen: Vec<Moment> = Vec::new();
        while chosen.len() < self.count && !moments.is_empty() {
            let mut round = moments.clone();
            chance.shuffle(&mut round);
            round.truncate(self.count - chosen.len());
            chosen.append(&mut round);
        }
        let bare = chosen.len() / 8;
        let others = chosen.split_off(bare);
        let mut bare: Vec<Cut> = chosen
            .into_iter()
            .map(|moment| Cut { moment, seed: None })
            .collect();
        bare.sort_by_key(|cut| cut.moment);
        let others = others.into_iter().map(|moment| Cut {
            moment,
            seed: Some(chance.u64(..)),
        });
        (bare, others.collect())
    }

    /// Checks all of them; returns what was found at each moment.
    fn examine(
        &self,
        disk: &Disk,
        ledger: &impl Ledger,
        cuts: &[Cut],
        bare: &BTreeMap<Moment, Found>,
        verdict: &mut Verdict,
    ) -> BTreeMap<Moment, Found> {
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(verdict.is_enough(self.after_loss));
        let results = Mutex::new((BTreeMap::new(), verdict));
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let runtime = Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .expect("a runtime");
                    while !stop.load(Ordering::Relaxed) {
                        let Some(cut) = cuts.get(next.fetch_add(1, Ordering::Relaxed)) else {
                            return;
                        };
                        let found = self.one(disk, ledger, *cut, bare, &runtime);
                        let mut results = results.lock().expect("a thread that did not panic");
                        let (all, verdict) = &mut *results;
                        verdict.images += 1;
                        match found {
                            Ok(found) => {
                                all.insert(cut.moment, found);
                            }
                            Err(what) => verdict.losses.push(self.keep(
                                disk,
                                *cut,
                                what,
                                verdict.losses.len(),
                            )),
                        }
                        if verdict.is_enough(self.after_loss) {
                            stop.store(true, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        let (all, _) = results.into_inner().expect("a thread that did not panic");
        all
    }

    fn one(
        &self,
        disk: &Disk,
        ledger: &impl Ledger,
        cut: Cut,
        bare: &BTreeMap<Moment, Found>,
        runtime: &Runtime,
    ) -> Result<Found, String> {
        let folder = TempDir::new_in(&self.folder).expect("a folder for images");
        disk.image(cut.moment, &mut cut.fates())
            .write(folder.path())
            .expect("room for an image");
        let found = ledger.check(folder.path(), cut.moment, runtime)?;
        if let Some((earlier, was_there)) = bare.range(..=cut.moment).next_back() {
            let promised = ledger.promised(*earlier);
            let mut gone = promised.difference(was_there);
            if let Some(back) = gone.find(|share| found.contains(*share)) {
                return Err(format!(
                    "CAME BACK: {back}, which was gone for good at {earlier}"
                ));
            }
        }
        Ok(found)
    }

    /// Makes the image once more, for people.
    fn keep(&self, disk: &Disk, cut: Cut, what: String, kept: usize) -> Loss {
        let image = if kept < IMAGES_KEPT {
            let folder = TempDir::with_prefix_in("power-loss-", std::env::temp_dir());
            let folder = folder.expect("a folder for an image").keep();
            disk.image(cut.moment, &mut cut.fates())
                .write(&folder)
                .expect("room for an image");
            folder
        } else {
            PathBuf::from("(not kept)")
        };
        Loss {
            cut: cut.moment,
            seed: cut.seed,
            what,
            image,
        }
    }
}

impl Cut {
    fn fates(self) -> Fates {
        self.seed.map_or_else(Fates::all_lost, Fates::of)
    }
}

impl Verdict {
    fn is_enough(&self, after_loss: AfterLoss) -> bool {
        after_loss == AfterLoss::Stop && !self.losses.is_empty()
    }
}

/// The fastest folder of this machine for files that nobody needs for long.
#[must_use]
pub fn fast_folder() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    }
}
