//! What was measured: samples of several runs, rows, and what is wanted of them.

use anyhow::Result;

use crate::chart::Chart;

/// The figures of several runs of the same thing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, figure: f64) {
        let at = self.0.partition_point(|other| *other < figure);
        self.0.insert(at, figure);
    }

    /// Each in another way.
    pub(crate) fn each(&self, other: impl Fn(f64) -> f64) -> Self {
        self.0.iter().copied().map(other).collect()
    }

    pub(crate) fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        match (self.0.get(middle), self.0.len() % 2) {
            (None, _) => f64::NAN,
            (Some(figure), 1) => *figure,
            (Some(figure), _) => (self.0[middle - 1] + figure) / 2.0,
        }
    }

    pub(crate) fn lowest(&self) -> f64 {
        self.0.first().copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn highest(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(figures: I) -> Self {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        Self(figures)
    }
}

/// One run of one party; returns its figure.
pub(crate) type Run<'r> = &'r mut dyn FnMut() -> Result<f64>;

/// The parties run in turns, every second time the other way round, so that what disturbs the machine disturbs them
/// all. Returns the samples of each.
pub(crate) fn in_turns<const N: usize>(runs: usize, parties: [Run<'_>; N]) -> Result<[Samples; N]> {
    let mut samples = std::array::from_fn(|_| Samples::default());
    for run in 0..runs {
        for turn in 0..N {
            let party = if run % 2 == 0 { turn } else { N - 1 - turn };
            samples[party].push(parties[party]()?);
        }
    }
    Ok(samples)
}

/// What figures are counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Deviations,
    MegabytesPerSecond,
    Kibibytes,
    Mebibytes,
    Micros,
    Millis,
    Percent,
    PerSecond,
}

impl Unit {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Deviations => "σ",
            Self::MegabytesPerSecond => "MB/s",
            Self::Kibibytes => "KiB",
            Self::Mebibytes => "MiB",
            Self::Micros => "µs",
            Self::Millis => "ms",
            Self::Percent => "%",
            Self::PerSecond => "/s",
        }
    }
}

/// What is wanted of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted {
    /// The median itself is no more than this.
    AtMost(f64),
    /// Ours is at least so many times the other's.
    RatioAtLeast(f64),
    /// Ours is at most so many times the other's.
    RatioAtMost(f64),
    /// Ours is at least this share of what the machine can do at best.
    ShareAtLeast(f64),
}

/// Figures of somebody else, and whose.
pub(crate) type Named = (String, Samples);

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) unit: Unit,
    pub(crate) ours: Samples,
    /// What stands beside it, and its figures.
    pub(crate) beside: Option<Named>,
    /// What the machine can do at best, and its figures.
    pub(crate) limit: Option<Named>,
    /// All of this must be seen.
    pub(crate) wanted: Vec<Wanted>,
    /// More would be good.
    pub(crate) goals: Vec<Wanted>,
    /// What else was seen.
    pub(crate) note: String,
}

impl Row {
    pub(crate) fn new(name: impl Into<String>, unit: Unit, ours: Samples) -> Self {
        Self {
            name: name.into(),
            unit,
            ours,
            beside: None,
            limit: None,
            wanted: Vec::new(),
            goals: Vec::new(),
            note: String::new(),
        }
    }

    pub(crate) fn beside(mut self, what: impl Into<String>, samples: Samples) -> Self {
        self.beside = Some((what.into(), samples));
        self
    }

    pub(crate) fn limit(mut self, what: impl Into<String>, samples: Samples) -> Self {
        self.limit = Some((what.into(), samples));
        self
    }

    pub(crate) fn wanted(mut self, wanted: Wanted) -> Self {
        self.wanted.push(wanted);
        self
    }

    pub(crate) fn goal(mut self, goal: Wanted) -> Self {
        self.goals.push(goal);
        self
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// The ratio of the medians, so that whoever reads the table can check it.
    pub(crate) fn ratio(&self) -> Option<f64> {
        let (_, beside) = self.beside.as_ref()?;
        Some(self.ours.median() / beside.median())
    }

    /// The share of the limit, of the medians too.
    pub(crate) fn share(&self) -> Option<f64> {
        let (_, limit) = self.limit.as_ref()?;
        Some(self.ours.median() / limit.median())
    }

    /// Whether that is seen; not, when what it is measured by is missing.
    pub(crate) fn meets(&self, wanted: Wanted) -> bool {
        match wanted {
            Wanted::AtMost(most) => self.ours.median() <= most,
            Wanted::RatioAtLeast(least) => self.ratio().is_some_and(|ratio| ratio >= least),
            Wanted::RatioAtMost(most) => self.ratio().is_some_and(|ratio| ratio <= most),
            Wanted::ShareAtLeast(least) => self.share().is_some_and(|share| share >= least),
        }
    }

    /// Whether all that is wanted was seen; nothing where nothing is wanted.
    pub(crate) fn met(&self) -> Option<bool> {
        let some = !self.wanted.is_empty();
        some.then(|| self.wanted.iter().all(|wanted| self.meets(*wanted)))
    }
}

/// All that one subject has to show.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub(crate) rows: Vec<Row>,
    pub(crate) charts: Vec<Chart>,
}

impl From<Vec<Row>> for Measured {
    fn from(rows: Vec<Row>) -> Self {
        Self {
            rows,
            charts: Vec::new(),
        }
    }
}
