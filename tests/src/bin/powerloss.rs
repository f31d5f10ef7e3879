//! `cargo powerloss`: cuts the power of a relay and of a puller ten thousand times, and looks for mail that is lost.
//!
//! Both run under strace, each under its own load; then every image is made and opened in memory. The load is recorded
//! several times, so that a moment that comes rarely comes at all.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use atrn_tests::power::{AfterLoss, Cuts, Ledger, Recording, Verdict, fast_folder, puller, relay};
use atrn_tests::software::Software;
use atrn_tests::world::{PULLER, RELAY};
use clap::Parser;

/// Cut the power at many moments, open what the disk may hold then, and compare with what was promised.
#[derive(Debug, Parser)]
#[command(name = "cargo powerloss")]
struct Options {
    /// Power losses of each program.
    #[arg(long, default_value_t = 10_000)]
    cuts: usize,
    /// Recordings of each program that they are spread over.
    #[arg(long, default_value_t = 5)]
    recordings: u64,
    /// Decides on the loads, the moments and the fates. What the threads of a program do when is its own: a recording
    /// is never quite like another.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What came of one program.
#[derive(Default)]
struct Sum {
    images: usize,
    moments: usize,
    losses: usize,
}

fn main() -> Result<()> {
    let options = Options::parse();
    build()?;
    let strace = Software::Strace.find().context("strace is needed")?;
    let mut sums = [Sum::default(), Sum::default()];
    for recording in 0..options.recordings {
        let seed = options.seed + recording;
        let notes = tempfile::tempdir()?;
        let size = relay::Size {
            messages: 10,
            kills: 3,
        };
        let begun = Instant::now();
        let (recorded, promises) = relay::record(&strace, notes.path(), seed, size);
        sums[0].add("relay", &options, seed, begun, &recorded, &promises);
        let notes = tempfile::tempdir()?;
        let size = puller::Size {
            messages: 6,
            kills: 8,
        };
        let begun = Instant::now();
        let (recorded, promises) = puller::record(&strace, notes.path(), seed, size);
        sums[1].add("puller", &options, seed, begun, &recorded, &promises);
    }
    for (name, sum) in ["relay", "puller"].iter().zip(&sums) {
        println!(
            "{name}: {} power losses at {} moments, {} with a loss",
            sum.images, sum.moments, sum.losses
        );
    }
    ensure!(sums.iter().all(|sum| sum.losses == 0), "mail was lost");
    Ok(())
}

/// Builds what is recorded in the profile that this was built in.
fn build() -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command.args(["build", "--quiet", "--package", RELAY, "--package", PULLER]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let status = command.status().context("cargo cannot be started")?;
    ensure!(status.success(), "the programs do not build");
    Ok(())
}

impl Sum {
    fn add(
        &mut self,
        name: &str,
        options: &Options,
        seed: u64,
        begun: Instant,
        recorded: &Recording,
        promises: &impl Ledger,
    ) {
        let recording = begun.elapsed().as_secs_f64();
        let cuts = Cuts {
            count: options
                .cuts
                .div_ceil(usize::try_from(options.recordings).unwrap_or(1)),
            seed,
            folder: fast_folder(),
            after_loss: AfterLoss::Continue,
        };
        let begun = Instant::now();
        let Verdict {
            images,
            moments,
            losses,
        } = cuts.try_out(&recorded.disk, promises);
        println!(
            "{name}, seed {seed}: recorded in {recording:.1} s, {} promises; {images} images at {moments} of {} moments \
             opened in {:.1} s, {} with a loss",
            promises.promised(recorded.end).len(),
            recorded.disk.moments().len(),
            begun.elapsed().as_secs_f64(),
            losses.len()
        );
        for loss in losses.iter().take(20) {
            println!("  {loss}");
        }
        self.images += images;
        self.moments += moments;
        self.losses += losses.len();
    }
}
