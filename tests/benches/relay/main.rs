//! How fast the real release programs are, beside Postfix on the same machine, disk and minute.
//!
//! `cargo bench-all`, or `cargo bench -p atrn-tests --bench relay -- [FILTER…] [--quick]`. Postfix's `smtp-source`
//! sends, its `smtp-sink` receives, and a private Postfix instance in the same temporary folder does the same work
//! in turns with ours, so that what disturbs the machine disturbs both. Absolute figures of two machines do not
//! compare; the ratios do. What each row means and why the settings are fair: docs/performance.md.

mod attackers;
mod backlog;
mod chart;
mod courier;
mod customer;
mod figures;
mod interrupt;
mod output;
mod party;
mod pullers;
mod stock;
mod subject;
mod target;
mod usage;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};
use atrn_tests::software::Software;
use clap::Parser;

use figures::Measured;
use party::Plan;
use subject::Subject;

/// Measures atrn-relay and atrn-puller beside Postfix.
#[derive(Debug, Parser)]
#[command(name = "relay")]
struct Arguments {
    /// Subjects to measure, by a part of their names; all when none is given.
    filter: Vec<String>,
    /// Short runs and few of them: to see that all works, not for figures.
    #[arg(long)]
    quick: bool,
    /// Alternating runs of each row.
    #[arg(long, value_name = "N")]
    runs: Option<usize>,
    /// The folder to work in: its disk is what is measured.
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    dir: PathBuf,
    /// A puller of another build, for instance of an earlier version: it drains in turns with this one.
    #[arg(long, value_name = "PROGRAM")]
    puller_before: Option<PathBuf>,
    /// Writes the rows as one JSON document.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the table as Markdown.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Writes the charts into this folder, as SVG.
    #[arg(long, value_name = "DIR")]
    charts: Option<PathBuf>,
    /// Exits with 1 when a wanted figure is missed.
    #[arg(long)]
    check: bool,
    /// Takes the programs as they are, without building them first.
    #[arg(long)]
    no_build: bool,
    /// What `cargo bench` says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    ensure!(
        !cfg!(debug_assertions),
        "this is a debug build: run it with `cargo bench -p atrn-tests --bench relay`"
    );
    require_postfix()?;
    let subjects = Subject::matching(&arguments.filter)?;
    if !arguments.no_build {
        build()?;
    }
    let folder = folder_for_all(&arguments.dir)?;
    interrupt::watch(folder.path())?;
    let mut plan = Plan::new(folder.path(), arguments.quick);
    plan.puller_before.clone_from(&arguments.puller_before);
    plan.runs = arguments.runs.unwrap_or(plan.runs).max(1);
    let setting = output::setting(folder.path(), &plan);
    print!("{}", output::heading(&setting));
    let mut measured = Measured::default();
    for subject in subjects {
        eprintln!("… {}", subject.name);
        let more = (subject.measure)(&plan).context(subject.name)?;
        measured.rows.extend(more.rows);
        measured.charts.extend(more.charts);
    }
    print!("\n{}", output::table(&measured.rows));
    if let Some(path) = &arguments.markdown {
        write(path, &output::markdown(&setting, &measured.rows))?;
    }
    if let Some(path) = &arguments.json {
        write(path, &format!("{:#}\n", output::json(&setting, &measured)))?;
    }
    if let Some(folder) = &arguments.charts {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        measured
            .charts
            .iter()
            .try_for_each(|chart| chart.write(folder))?;
    }
    let missed = arguments.check && measured.rows.iter().any(|row| row.met() == Some(false));
    Ok(ExitCode::from(u8::from(missed)))
}

fn require_postfix() -> Result<()> {
    for software in [Software::SmtpSource, Software::SmtpSink, Software::Postfix] {
        if software.find().is_none() {
            bail!(
                "the benchmark compares with Postfix, uses its smtp-source and smtp-sink, and must be run as root; \
                 on Debian: apt-get install postfix (\"No configuration\"; its service need not run)"
            );
        }
    }
    Ok(())
}

/// Builds what is measured as it is shipped.
fn build() -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--quiet"])
        .args(["-p", "atrn-relay", "-p", "atrn-puller"])
        .status()
        .context("cargo build")?;
    ensure!(status.success(), "cargo build --release failed");
    Ok(())
}

/// A folder that Postfix's own users can pass through, on a disk that does sync.
fn folder_for_all(parent: &Path) -> Result<tempfile::TempDir> {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = tempfile::Builder::new()
        .prefix("atrn-bench-")
        .tempdir_in(parent)
        .with_context(|| format!("a folder in {}", parent.display()))?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    if output::file_system(folder.path()).starts_with("tmpfs") {
        eprintln!(
            "warning: {} is memory, not a disk: name another folder with --dir",
            parent.display()
        );
    }
    Ok(folder)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())
}
