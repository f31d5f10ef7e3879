//! What a campaign did and what came of it, for people and for programs.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};

use super::boundary::{Boundary, Side};
use super::ledger::{Counts, Target};
use super::parties::Who;

/// Who was killed, and where.
#[derive(Clone, Debug, Default)]
pub struct Kills {
    /// Moments at which somebody was killed.
    pub moments: u64,
    /// Of these, how many at a boundary.
    pub at_boundaries: u64,
    /// Processes killed, in the order of [`Who::ALL`].
    processes: [u64; Who::ALL.len()],
    /// For each boundary and side: hit, and not hit in time.
    boundaries: [[Tries; 2]; Boundary::ALL.len()],
}

#[derive(Clone, Copy, Debug, Default)]
struct Tries {
    hit: u64,
    missed: u64,
}

/// What a campaign came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// What its chances followed from. The kernel's scheduling is not among them.
    pub seed: u64,
    /// How long it took.
    pub took: Duration,
    /// Who was killed.
    pub kills: Kills,
    /// Whether boundaries could be traced.
    pub traced: bool,
    /// The ledger, in the order of [`Target::ALL`].
    pub counts: [Counts; 2],
    /// Files in `spool/` when the queue was empty.
    pub orphans: usize,
    /// What `PRAGMA integrity_check` said of each database.
    pub integrity: Vec<(String, String)>,
    /// Half-written files in the Maildir's `tmp/`, which its owner sweeps.
    pub unfinished: usize,
    /// Broken promises, one by one, up to a limit.
    pub violations: Vec<String>,
    /// All of them.
    pub violation_count: u64,
    /// Everything that was left on disk, when it was kept.
    pub folder: Option<PathBuf>,
}

impl Kills {
    /// So many processes died at one moment.
    pub(super) fn count(&mut self, killed: &[Who]) {
        self.moments += u64::from(!killed.is_empty());
        for &who in killed {
            self.also(who);
        }
    }

    /// One more died at the same moment.
    pub(super) fn also(&mut self, who: Who) {
        let index = Who::ALL.iter().position(|&other| other == who);
        self.processes[index.unwrap_or_default()] += 1;
    }

    pub(super) fn trapped(&mut self, boundary: Boundary, side: Side, sprang: bool) {
        let tries = &mut self.boundaries[boundary as usize][side as usize];
        if sprang {
            tries.hit += 1;
            self.at_boundaries += 1;
        } else {
            tries.missed += 1;
        }
    }

    /// Kills at a boundary.
    #[must_use]
    pub fn at(&self, boundary: Boundary, side: Side) -> u64 {
        self.boundaries[boundary as usize][side as usize].hit
    }

    /// Processes of a kind that were killed.
    #[must_use]
    pub fn of(&self, who: Who) -> u64 {
        let index = Who::ALL.iter().position(|&other| other == who);
        self.processes[index.unwrap_or_default()]
    }

    /// One of those that were tried least.
    pub(super) fn rarest(&self, random: &mut Rng) -> (Boundary, Side) {
        let all = Boundary::ALL
            .into_iter()
            .flat_map(|boundary| Side::ALL.map(|side| (boundary, side)));
        let rarest = all.min_by_key(|&(boundary, side)| {
            let tries = self.boundaries[boundary as usize][side as usize];
            (tries.hit + tries.missed, random.u32(..))
        });
        rarest.unwrap_or((Boundary::AcceptSync, Side::Before))
    }

    /// Boundaries that were never hit.
    #[must_use]
    pub fn never(&self) -> Vec<(Boundary, Side)> {
        let all = Boundary::ALL
            .into_iter()
            .flat_map(|boundary| Side::ALL.map(|side| (boundary, side)));
        all.filter(|&(boundary, side)| self.at(boundary, side) == 0)
            .collect()
    }
}

impl Report {
    /// Whether every promise held, and everything was tried.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.violation_count == 0 && (!self.traced || self.kills.never().is_empty())
    }

    /// For programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let targets = Target::ALL.into_iter().zip(self.counts);
        let targets = targets.map(|(target, counts)| {
            let rows = rows(&counts).map(|(name, count)| (name.to_owned(), json!(count)));
            (
                target.name().to_owned(),
                Value::Object(rows.into_iter().collect()),
            )
        });
        let boundaries = Boundary::ALL.map(|boundary| {
            let [before, after] = Side::ALL.map(|side| self.kills.at(boundary, side));
            json!({ "boundary": boundary.name(), "before": before, "after": after })
        });
        let killed = Who::ALL.map(|who| (who.name().to_owned(), json!(self.kills.of(who))));
        json!({
            "good": self.is_good(),
            "seed": self.seed,
            "seconds": self.took.as_secs_f64(),
            "kills": self.kills.moments,
            "kills_at_boundaries": self.kills.at_boundaries,
            "processes_killed": Value::Object(killed.into_iter().collect()),
            "ledger": Value::Object(targets.collect()),
            "boundaries": boundaries,
            "orphans": self.orphans,
            "integrity": self.integrity.iter().map(|(name, said)| json!({ "database": name, "check": said })).collect::<Vec<_>>(),
            "unfinished_in_maildir_tmp": self.unfinished,
            "violations": self.violations,
            "violation_count": self.violation_count,
            "folder": self.folder,
        })
    }
}

/// The ledger's lines.
fn rows(counts: &Counts) -> [(&'static str, u64); 10] {
    [
        ("acknowledged", counts.acknowledged),
        (
            "  of these to smtp-source",
            counts.acknowledged_to_smtp_source,
        ),
        ("delivered", counts.delivered),
        ("lost", counts.lost()),
        ("duplicates over the hop", counts.duplicates_over_the_hop),
        ("duplicates unexplained", counts.duplicates_unexplained),
        ("changed on the way", counts.changed),
        (
            "twice: puller killed between target and journal",
            counts.duplicates_at_the_target,
        ),
        (
            "delivered, the sender's 250 was lost",
            counts.delivered_unacknowledged,
        ),
        ("never accepted", counts.refused),
    ]
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, kills, .. } = self;
        let seconds = self.took.as_secs();
        writeln!(
            f,
            "{} kills ({} at boundaries) in {seconds} s, seed {seed}",
            kills.moments, kills.at_boundaries
        )?;
        for who in Who::ALL {
            writeln!(f, "  {:<24}{:>6}", who.name(), kills.of(who))?;
        }
        writeln!(f, "\n{:<50}{:>8}{:>9}", "ledger", "SMTP", "Maildir")?;
        let [smtp, maildir] = self.counts.map(|counts| rows(&counts));
        for ((name, smtp), (_, maildir)) in smtp.into_iter().zip(maildir) {
            writeln!(f, "  {name:<48}{smtp:>8}{maildir:>9}")?;
        }
        writeln!(f, "  {:<48}{:>8}", "orphans in spool/", self.orphans)?;
        for (name, said) in &self.integrity {
            writeln!(f, "  {:<48}{said:>8}", format!("integrity_check {name}"))?;
        }
        writeln!(
            f,
            "  {:<48}{:>8}",
            "left in the Maildir's tmp/", self.unfinished
        )?;
        writeln!(f, "\n{:<34}{:>8}{:>8}", "boundary", "before", "after")?;
        for boundary in Boundary::ALL {
            let [before, after] = Side::ALL.map(|side| kills.at(boundary, side));
            writeln!(f, "  {:<32}{before:>8}{after:>8}", boundary.name())?;
        }
        if !self.traced {
            writeln!(f, "  not traced: this system does not allow ptrace")?;
        }
        for violation in &self.violations {
            writeln!(f, "\nBROKEN: {violation}")?;
        }
        if self.traced {
            for (boundary, side) in kills.never() {
                writeln!(f, "\nNEVER HIT: {side} {}", boundary.name())?;
            }
        }
        if let Some(folder) = &self.folder {
            writeln!(f, "\nkept in {}", folder.display())?;
        }
        let verdict = if self.is_good() { "held" } else { "BROKEN" };
        writeln!(f, "\n{verdict}: {} violations", self.violation_count)
    }
}
