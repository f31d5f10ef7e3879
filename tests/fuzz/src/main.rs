//! `cargo fuzz-all`: builds the targets with libFuzzer, runs one after the other, and says what came of it.
//!
//! It needs a C++ compiler and nothing else: the instrumentation is LLVM's own, which a stable compiler has too.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use atrn_fuzz::mutate::root;
use atrn_fuzz::{TARGETS, Target};
use clap::Parser;

/// Fuzzes the parsers and the machines with libFuzzer.
///
/// Example: `cargo fuzz-all --seconds 600 --jobs 4`
#[derive(Debug, Parser)]
struct Options {
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Executions of each target at most; none by default
    #[arg(long)]
    executions: Option<u64>,
    /// Targets that run at the same time
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Only these targets
    targets: Vec<String>,
}

/// What libFuzzer needs to see of a program (`cargo fuzz` sets the same).
const INSTRUMENTATION: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cforce-frame-pointers=yes",
];

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether nothing was found.
fn run(options: &Options) -> anyhow::Result<bool> {
    let targets = chosen(&options.targets)?;
    let place = Place::prepare()?;
    place.build(&targets)?;
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    println!("{}", Outcome::heading());
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.clamp(1, targets.len()) {
            scope.spawn(|| {
                while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = place.fuzz(target, options);
                    if let Ok(outcome) = &outcome {
                        println!("{}", outcome.row());
                    }
                    results.lock().expect("no thread panics").push(outcome);
                }
            });
        }
    });
    let results = results.into_inner().expect("no thread panics");
    let outcomes = results.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    println!("{}", Outcome::sum(&outcomes).row());
    for outcome in outcomes.iter().filter(|outcome| outcome.failed) {
        println!("\n{} failed: see {}", outcome.name, outcome.log.display());
        for input in &outcome.crashes {
            println!(
                "  keep as tests/fuzz/seeds/{}/…: {}",
                outcome.name,
                input.display()
            );
        }
    }
    Ok(outcomes.iter().all(|outcome| !outcome.failed))
}

fn chosen(names: &[String]) -> anyhow::Result<Vec<Target>> {
    if names.is_empty() {
        return Ok(TARGETS.to_vec());
    }
    let find = |name: &String| {
        let found = TARGETS.into_iter().find(|target| target.name == name);
        found.with_context(|| format!("no target {name}"))
    };
    names.iter().map(find).collect()
}

/// Where all of it is built and kept: a folder of its own, as the flags are others.
struct Place {
    workspace: PathBuf,
    folder: PathBuf,
    /// The host's; naming it keeps the flags from build scripts.
    triple: String,
}

impl Place {
    fn prepare() -> anyhow::Result<Self> {
        let workspace = root()
            .ancestors()
            .nth(2)
            .context("the workspace")?
            .to_path_buf();
        let version = Command::new("rustc")
            .arg("-vV")
            .output()
            .context("rustc -vV")?;
        let version = String::from_utf8_lossy(&version.stdout).into_owned();
        let triple = version.lines().find_map(|line| line.strip_prefix("host: "));
        Ok(Self {
            folder: workspace.join("target/fuzz"),
            triple: triple.context("rustc tells no host")?.to_owned(),
            workspace,
        })
    }

    fn build(&self, targets: &[Target]) -> anyhow::Result<()> {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .current_dir(&self.workspace)
            .env("CARGO_ENCODED_RUSTFLAGS", INSTRUMENTATION.join("\u{1f}"))
            .args([
                "build",
                "--locked",
                "--profile",
                "fuzz",
                "--package",
                "atrn-fuzz",
            ])
            .args(["--features", "libfuzzer", "--target", &self.triple])
            .arg("--target-dir")
            .arg(&self.folder);
        for target in targets {
            cargo.args(["--bin", target.name]);
        }
        let status = cargo.status().context("cargo build")?;
        ensure!(status.success(), "the targets do not build");
        Ok(())
    }

    fn fuzz(&self, target: &Target, options: &Options) -> anyhow::Result<Outcome> {
        let folder = |kind: &str| -> anyhow::Result<PathBuf> {
            let folder = self.folder.join(kind).join(target.name);
            fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
            Ok(folder)
        };
        let (corpus, crashes, logs) = (folder("corpus")?, folder("crashes")?, folder("logs")?);
        let log = logs.join("log");
        let program = self
            .folder
            .join(&self.triple)
            .join("fuzz")
            .join(target.name);
        let mut fuzzer = Command::new(&program);
        fuzzer
            .arg(format!("-max_total_time={}", options.seconds))
            .arg(format!("-max_len={}", target.octets_max))
            .arg(format!("-dict={}", root().join("dictionary.txt").display()))
            .arg(format!("-artifact_prefix={}/", crashes.display()))
            .args(["-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1"])
            .args(
                options
                    .executions
                    .map(|executions| format!("-runs={executions}")),
            )
            .arg(&corpus)
            .arg(root().join("seeds").join(target.name))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).with_context(|| log.display().to_string())?);
        let begun = Instant::now();
        let status = fuzzer
            .status()
            .with_context(|| program.display().to_string())?;
        Ok(Outcome {
            name: target.name,
            failed: !status.success(),
            executions: executions(&log)?,
            time: begun.elapsed(),
            corpus: fs::read_dir(&corpus)?.count(),
            crashes: files(&crashes)?,
            log,
        })
    }
}

/// What libFuzzer counted.
fn executions(log: &Path) -> anyhow::Result<u64> {
    let text = String::from_utf8_lossy(&fs::read(log)?).into_owned();
    let count = text
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    Ok(count
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0))
}

fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?;
    Ok(entries
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()?)
}

/// What came of one target, or of all.
struct Outcome {
    name: &'static str,
    failed: bool,
    executions: u64,
    time: Duration,
    corpus: usize,
    crashes: Vec<PathBuf>,
    log: PathBuf,
}

impl Outcome {
    fn heading() -> String {
        format!(
            "{:18} {:>13} {:>8} {:>9} {:>7} {:>8}",
            "target", "executions", "seconds", "per s", "corpus", "crashes"
        )
    }

    fn row(&self) -> String {
        format!(
            "{:18} {:>13} {:>8.0} {:>9.0} {:>7} {:>8}",
            self.name,
            self.executions,
            self.time.as_secs_f64(),
            self.executions as f64 / self.time.as_secs_f64(),
            self.corpus,
            self.crashes.len()
        )
    }

    fn sum(outcomes: &[Self]) -> Self {
        Self {
            name: "all",
            failed: false,
            executions: outcomes.iter().map(|outcome| outcome.executions).sum(),
            time: outcomes.iter().map(|outcome| outcome.time).sum(),
            corpus: outcomes.iter().map(|outcome| outcome.corpus).sum(),
            crashes: outcomes
                .iter()
                .flat_map(|outcome| outcome.crashes.clone())
                .collect(),
            log: PathBuf::new(),
        }
    }
}
