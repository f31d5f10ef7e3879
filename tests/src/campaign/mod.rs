//! The crash campaign: both programs are killed again and again, at random moments and at every
//! boundary of the accept, settle and journal paths, while mail flows through them; they are started
//! again, and go on. In the end the queue is drained and the ledger is read: what got a `250` is
//! inside, whole; nothing came twice over the hop from relay to puller; nothing is left over.
//!
//! * [`ledger`]: who was told what;
//! * `load`, `source`, `corporate`: the two ends that write it;
//! * `parties`: the programs between them;
//! * [`boundary`], [`tracer`]: the steps of a promise, and how a program is killed at one;
//! * `kills`: who dies when.
//!
//! A copy that the puller hands over though its journal has the delivery is a duplicate over the hop:
//! the mail server looks into the journal when a message is complete, before it answers. A puller that
//! is killed between that answer and its journal cannot know of it; SMTP has no word for this, so such
//! a second copy is counted apart, and each must have a kill that explains it. In a Maildir it has no
//! excuse: the file has the delivery's name.

pub mod boundary;
mod corporate;
mod journal;
mod kills;
pub mod ledger;
mod load;
mod mail;
mod parties;
mod report;
mod source;
pub mod tracer;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use fastrand::Rng;
use rusqlite::{Connection, OpenFlags};

use boundary::{Boundary, Side};
use corporate::Reader;
use journal::Journal;
use kills::Killer;
use ledger::{Ledger, Target};
use load::Load;
use parties::Parties;
use tracer::Trap;

pub use parties::Who;
pub use report::{Kills, Report};

/// A domain for each target, in the order of [`Target::ALL`].
const DOMAINS: [&str; 2] = ["smtp.example", "maildir.example"];
/// A boundary that chance has left out is tried so often more.
const LAST_TRIES: u32 = 6;
/// The drain gives up when nothing has come out for so long.
const DRAIN_PATIENCE: Duration = Duration::from_secs(60);
/// More broken promises tell nothing new.
const VIOLATIONS_MAX: u64 = 20;

/// What is wanted of a campaign.
#[derive(Clone, Debug)]
pub struct Options {
    /// Moments at which to kill.
    pub kills: u64,
    /// Ends earlier, after this time.
    pub time_max: Option<Duration>,
    /// What the chances follow from.
    pub seed: u64,
    /// Sessions that send, and mix sizes, domains and framings.
    pub senders: usize,
    /// `smtp-source`, for twenty sessions more.
    pub smtp_source: Option<PathBuf>,
    /// Where its folder is made.
    pub parent: PathBuf,
    /// Keeps the folder even when all is well.
    pub keep: bool,
    /// The program with the tracer in it: `campaign`.
    pub tracer: PathBuf,
}

/// Runs one.
///
/// # Errors
/// When a program cannot be started, or not again; the folder is kept then, and named.
pub fn run(options: &Options, progress: impl FnMut(&Kills)) -> Result<Report> {
    let folder = tempfile::Builder::new()
        .prefix("atrn-campaign-")
        .tempdir_in(&options.parent)
        .with_context(|| options.parent.display().to_string())?;
    match campaign(options, folder.path(), progress) {
        Ok(mut report) => {
            if options.keep || !report.is_good() {
                report.folder = Some(folder.keep());
            }
            Ok(report)
        }
        Err(error) => {
            let (seed, folder) = (options.seed, folder.keep());
            Err(error.context(format!("seed {seed}, kept in {}", folder.display())))
        }
    }
}

/// Whether this system lets one process trace another that is not its child.
#[must_use]
pub fn can_trace(tracer: &Path) -> bool {
    let Ok(mut sleeper) = Command::new("sleep").arg("60").spawn() else {
        return false;
    };
    let trap = Trap {
        boundary: Boundary::AcceptReply,
        side: Side::Before,
        passed: 0,
    };
    let set = trap.set(tracer, sleeper.id());
    sleeper.kill().ok();
    sleeper.wait().ok();
    set.is_ok()
}

fn campaign(options: &Options, folder: &Path, mut progress: impl FnMut(&Kills)) -> Result<Report> {
    let begun = Instant::now();
    let ledger = Arc::new(Ledger::with_chronicle(&folder.join("campaign.log"))?);
    let mut random = Rng::with_seed(options.seed);
    let journals =
        Target::ALL.map(|target| Journal(parties::data_folder(folder, target).join("journal.db")));
    let [smtp, maildir] = journals.clone();
    let inside = corporate::server(Arc::clone(&ledger), smtp);
    let inbox = folder.join("inbox");
    let targets = [inside.target(), format!("maildir:{}", inbox.display())];
    let parties = Parties::set_up(folder, [&targets[0], &targets[1]]);
    let reader = Reader::start(&inbox, Arc::clone(&ledger), maildir);
    let relay = parties.relay().smtp_address();
    let mut load = Load::start(options.senders, relay, &ledger, &mut random);
    if let Some(program) = &options.smtp_source {
        load.add_sources(program, relay, &ledger);
    }
    let mut killer = Killer {
        parties,
        load,
        ledger: Arc::clone(&ledger),
        random,
        tracer: can_trace(&options.tracer).then_some(&*options.tracer),
        kills: Kills::default(),
        in_doubt: None,
    };
    let end = options.time_max.map(|time| begun + time);
    let is_time = || end.is_none_or(|end| Instant::now() < end);
    let holds = || ledger.violations().1 < VIOLATIONS_MAX;
    while killer.kills.moments < options.kills && is_time() && holds() {
        killer.turn()?;
        progress(&killer.kills);
    }
    for _ in 0..LAST_TRIES {
        for (boundary, side) in killer.kills.never() {
            if killer.tracer.is_some() && is_time() && holds() {
                killer.revive()?;
                killer.trap(boundary, side)?;
                progress(&killer.kills);
            }
        }
    }
    let (traced, kills) = (killer.tracer.is_some(), killer.kills.clone());
    let orphans = finish(killer)?;
    reader.finish();
    let files = [folder.join("relay/data/queue.db")];
    let files = files.into_iter().chain(journals.map(|journal| journal.0));
    let integrity = files.map(|file| check(&file, folder, &ledger)).collect();
    for target in Target::ALL {
        for number in ledger.missing(target) {
            let name = target.name();
            ledger.violation(format!(
                "message {number} to {name} was acknowledged and is lost"
            ));
        }
    }
    let (violations, violation_count) = ledger.violations();
    Ok(Report {
        seed: options.seed,
        took: begun.elapsed(),
        kills,
        traced,
        counts: Target::ALL.map(|target| ledger.counts(target)),
        orphans,
        integrity,
        unfinished: std::fs::read_dir(inbox.join("tmp")).map_or(0, Iterator::count),
        violations,
        violation_count,
        folder: None,
    })
}

/// Ends the load, lets everything out, and ends the programs as an admin does. Returns what is left in `spool/`.
fn finish(killer: Killer<'_>) -> Result<usize> {
    let Killer {
        mut parties,
        load,
        ledger,
        ..
    } = killer;
    load.stop();
    drain(&mut parties, &ledger)?;
    for who in Who::ALL.into_iter().rev() {
        let code = parties.stop(who);
        // A pull that is told to stop in the middle says so.
        if code.is_some_and(|code| {
            code != 0 && who.target().is_none_or(|_| matches!(who, Who::Daemon(_)))
        }) {
            let name = who.name();
            ledger.violation(format!(
                "{name} ended with {code:?} when it was told to stop"
            ));
        }
    }
    let orphans = parties.relay().spool_files();
    if orphans > 0 {
        ledger.violation(format!("{orphans} files are left in spool/"));
    }
    Ok(orphans)
}

/// Waits until the relay has nothing left.
fn drain(parties: &mut Parties, ledger: &Ledger) -> Result<()> {
    let mut last = usize::MAX;
    let mut end = Instant::now() + DRAIN_PATIENCE;
    loop {
        for complaint in parties.reap(None) {
            ledger.violation(complaint);
        }
        parties.start(Who::Relay);
        parties.wait_for_relay()?;
        for target in Target::ALL {
            parties.start(Who::Pull(target));
            parties.wake(target);
        }
        let left = parties.relay().queue_list(&[]);
        if left.is_empty() {
            return Ok(());
        }
        if left.len() < last {
            last = left.len();
            end = Instant::now() + DRAIN_PATIENCE;
        }
        if Instant::now() > end {
            let (count, first) = (left.len(), &left[0]);
            ledger.violation(format!(
                "{count} deliveries do not leave the queue: {first}"
            ));
            return Ok(());
        }
        // What was deferred while somebody was dead waits for its time; that is not what is tested here.
        parties.relay().retry_all();
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What SQLite says of a database that nobody has open.
fn check(file: &Path, folder: &Path, ledger: &Ledger) -> (String, String) {
    let name = file
        .strip_prefix(folder)
        .unwrap_or(file)
        .display()
        .to_string();
    let query = "PRAGMA integrity_check";
    let said = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE)
        .and_then(|connection| connection.query_row(query, [], |row| row.get::<_, String>(0)))
        .unwrap_or_else(|error| error.to_string());
    if said != "ok" {
        ledger.violation(format!("{name}: {said}"));
    }
    (name, said)
}
