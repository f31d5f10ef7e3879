//! Measures the journal alone: what a look-up and a commit cost, beside how many entries there are.
//!
//! `cargo run --release -p atrn-puller --example journal_bench -- [--dir D] [--depth N] [--sessions N]`
//! Figures of different machines do not compare; figures of one run do.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use atrn_puller::journal::{Begun, Journal, Taken};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

/// Look-ups and commits of one measurement.
const ROUNDS: usize = 4_000;
/// Sessions that fill the journal.
const FILLING: usize = 256;

fn main() -> Result<()> {
    let mut directory = PathBuf::from("target/journal_bench");
    let (mut depth, mut sessions) = (1_000_000, 4);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments.next().context("every option takes a value")?;
        match argument.as_str() {
            "--dir" => directory = value.into(),
            "--depth" => depth = value.parse()?,
            "--sessions" => sessions = value.parse()?,
            other => bail!("what is {other}?"),
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        std::fs::create_dir_all(&directory)?;
        let folder = tempfile::tempdir_in(&directory)?;
        let journal = Journal::open(folder.path())?;
        let mut next = 0;
        for entries in [0, depth / 100, depth / 10, depth] {
            take(&journal, next..entries.max(next), FILLING).await?;
            next = next.max(entries);
            println!("{next} entries");
            look_up(&journal, next)?;
            for sessions in [1, sessions] {
                let measured = Measured::begin();
                take(&journal, next..next + ROUNDS, sessions).await?;
                next += ROUNDS;
                measured.show(&format!("taken, {sessions} sessions"));
            }
        }
        journal.end().await;
        anyhow::Ok(())
    })
}

fn look_up(journal: &Journal, next: usize) -> Result<()> {
    let measured = Measured::begin();
    for number in 0..ROUNDS {
        match journal.begin(&id(next + number).parse()?)? {
            Begun::Fresh(claim) => drop(claim),
            begun => bail!("{begun:?}"),
        }
    }
    measured.show("looked up");
    Ok(())
}

/// As sessions do it: look up, and commit.
async fn take(journal: &Journal, numbers: std::ops::Range<usize>, sessions: usize) -> Result<()> {
    let mut tasks = tokio::task::JoinSet::new();
    for session in 0..sessions {
        let journal = journal.clone();
        let numbers = numbers.clone().skip(session).step_by(sessions);
        tasks.spawn(async move {
            for number in numbers {
                if let Begun::Fresh(claim) = journal.begin(&id(number).parse()?)? {
                    claim.commit(Taken::Whole).await?;
                }
            }
            anyhow::Ok(())
        });
    }
    for outcome in tasks.join_all().await {
        outcome?;
    }
    Ok(())
}

/// Like a relay's: they grow.
fn id(number: usize) -> String {
    format!("1M7ZMM{number:09}.1.0A1B2C")
}

struct Measured {
    began: Instant,
    cpu: Duration,
}

impl Measured {
    fn begin() -> Self {
        Self {
            began: Instant::now(),
            cpu: cpu(),
        }
    }

    fn show(&self, what: &str) {
        let each = |time: Duration| time.as_secs_f64() * 1e6 / ROUNDS as f64;
        println!(
            "  {what}: {:.1} µs each, {:.1} µs of CPU",
            each(self.began.elapsed()),
            each(cpu() - self.cpu)
        );
    }
}

fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("a process knows its own usage");
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(micros.cast_unsigned())
}
