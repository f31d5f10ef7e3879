//! What was measured: samples of several runs, rows, and what is wanted of them.

/// The figures of several runs of the same thing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, figure: f64) {
        let at = self.0.partition_point(|other| *other < figure);
        self.0.insert(at, figure);
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
        let mut samples = Self::default();
        figures.into_iter().for_each(|figure| samples.push(figure));
        samples
    }
}

/// What figures are counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Mebibytes,
    Micros,
    PerSecond,
}

impl Unit {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mebibytes => "MiB",
            Self::Micros => "µs",
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
}

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) unit: Unit,
    pub(crate) ours: Samples,
    /// What stands beside it, and its figures.
    pub(crate) beside: Option<(&'static str, Samples)>,
    pub(crate) wanted: Option<Wanted>,
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
            wanted: None,
            note: String::new(),
        }
    }

    pub(crate) fn beside(mut self, what: &'static str, samples: Samples) -> Self {
        self.beside = Some((what, samples));
        self
    }

    pub(crate) fn wanted(mut self, wanted: Wanted) -> Self {
        self.wanted = Some(wanted);
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

    /// Whether what is wanted was seen; nothing where nothing is wanted.
    pub(crate) fn met(&self) -> Option<bool> {
        match self.wanted? {
            Wanted::AtMost(most) => Some(self.ours.median() <= most),
            Wanted::RatioAtLeast(least) => self.ratio().map(|ratio| ratio >= least),
            Wanted::RatioAtMost(most) => self.ratio().map(|ratio| ratio <= most),
        }
    }
}
