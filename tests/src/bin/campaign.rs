//! `cargo campaign`: kills both programs a few thousand times while mail flows through them, and reads the ledger.
//!
//! What it does and what it counts: docs/testing.md. It is its own tracer: `campaign trace` is started by it.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use atrn_tests::campaign::boundary::{Boundary, Side};
use atrn_tests::campaign::tracer::Trap;
use atrn_tests::campaign::{Kills, Options, run};
use atrn_tests::software::Software;
use atrn_tests::world::{PULLER, RELAY};
use clap::{Args, Parser, Subcommand};

/// Kill the relay and the pullers under load, at random moments and at every boundary, and compare what was
/// acknowledged with what arrived.
///
/// Exits with 1 when a promise was broken or a boundary was never hit.
#[derive(Debug, Parser)]
#[command(name = "cargo campaign", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Word>,
    #[command(flatten)]
    campaign: Campaign,
}

#[derive(Debug, Args)]
struct Campaign {
    /// Moments at which somebody is killed.
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    kills: u64,
    /// Ends after this time, however many kills there were.
    #[arg(long, value_name = "S")]
    seconds: Option<u64>,
    /// Repeats the choices of another campaign; those of the kernel's scheduler stay its own.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Sessions that send, besides the twenty of `smtp-source`.
    #[arg(long, value_name = "N", default_value_t = 20)]
    senders: usize,
    /// The folder to work in: on a disk, as what is killed syncs.
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    dir: PathBuf,
    /// Keeps all files; they are kept in any case when something was broken.
    #[arg(long)]
    keep: bool,
    /// Prints the report as one JSON document.
    #[arg(long)]
    json: bool,
    /// Takes the programs as they are, without building them first.
    #[arg(long)]
    no_build: bool,
}

#[derive(Debug, Subcommand)]
enum Word {
    /// Waits under a program and kills it at a boundary.
    #[command(hide = true)]
    Trace(Trace),
}

#[derive(Debug, Args)]
struct Trace {
    #[arg(long)]
    pid: u32,
    #[arg(long)]
    at: String,
    #[arg(long)]
    after: bool,
    #[arg(long)]
    passed: u32,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match &arguments.command {
        Some(Word::Trace(trace)) => trace.wait().map(|()| ExitCode::SUCCESS),
        None => arguments.campaign.run(),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

impl Campaign {
    fn run(&self) -> Result<ExitCode> {
        if !self.no_build {
            build()?;
        }
        let smtp_source = Software::SmtpSource
            .find()
            .context("smtp-source is needed; on Debian: apt-get install postfix")?;
        let seed = self.seed.unwrap_or_else(|| fastrand::u64(..1_000_000_000));
        let options = Options {
            kills: self.kills,
            time_max: self.seconds.map(Duration::from_secs),
            seed,
            senders: self.senders,
            smtp_source: Some(smtp_source),
            parent: self.dir.clone(),
            keep: self.keep,
            tracer: std::env::current_exe()?,
        };
        eprintln!("seed {seed}");
        let mut line = Progress::new(self.kills);
        let report = run(&options, |kills| line.show(kills))?;
        line.end();
        if self.json {
            println!("{:#}", report.json());
        } else {
            print!("{report}");
        }
        if !report.traced {
            bail!("no boundary was hit: ptrace is not allowed here");
        }
        Ok(ExitCode::from(u8::from(!report.is_good())))
    }
}

impl Trace {
    fn wait(&self) -> Result<()> {
        let trap = Trap {
            boundary: Boundary::named(&self.at).with_context(|| self.at.clone())?,
            side: if self.after {
                Side::After
            } else {
                Side::Before
            },
            passed: self.passed,
        };
        trap.wait(self.pid)
    }
}

/// Builds what is killed in the profile that this was built in.
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

/// How far it is, in one line on a terminal.
struct Progress {
    wanted: u64,
    begun: Instant,
    is_shown: bool,
}

impl Progress {
    fn new(wanted: u64) -> Self {
        Self {
            wanted,
            begun: Instant::now(),
            is_shown: std::io::stderr().is_terminal(),
        }
    }

    fn show(&mut self, kills: &Kills) {
        if !self.is_shown {
            return;
        }
        let (done, wanted, seconds) = (kills.moments, self.wanted, self.begun.elapsed().as_secs());
        let boundaries = kills.at_boundaries;
        eprint!("\r{done} of {wanted} kills, {boundaries} at boundaries, {seconds} s ");
        std::io::stderr().flush().ok();
    }

    fn end(&self) {
        if self.is_shown {
            eprintln!();
        }
    }
}
