//! One axis: its label, its scale, and where it is marked.

/// An axis.
#[derive(Debug)]
pub(crate) struct Axis {
    label: String,
    scale: Scale,
    ticks: Vec<Tick>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scale {
    Linear,
    Logarithmic,
}

#[derive(Clone, Debug)]
struct Tick {
    at: f64,
    label: String,
}

/// An axis that knows what is on it.
#[derive(Debug)]
pub(super) struct Fitted {
    pub(super) ticks: Vec<(f64, String)>,
    scale: Scale,
    first: f64,
    last: f64,
}

/// Marks of a linear axis at most.
const MARKS_MAX: f64 = 6.0;

impl Axis {
    /// Begins at zero.
    pub(crate) fn linear(label: &str) -> Self {
        Self::new(label, Scale::Linear)
    }

    /// Every tenfold takes the same room.
    pub(crate) fn logarithmic(label: &str) -> Self {
        Self::new(label, Scale::Logarithmic)
    }

    /// A mark here, with words in place of the figure. One that has such marks has no others.
    pub(crate) fn mark(mut self, at: f64, label: impl Into<String>) -> Self {
        let label = label.into();
        self.ticks.push(Tick { at, label });
        self
    }

    /// Marks at these figures.
    pub(crate) fn marks(self, at: impl IntoIterator<Item = f64>) -> Self {
        at.into_iter()
            .fold(self, |axis, at| axis.mark(at, figure(at)))
    }

    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// Wide enough for these figures and all marks.
    pub(super) fn fitted(&self, figures: impl Iterator<Item = f64>) -> Fitted {
        let marks = self.ticks.iter().map(|tick| tick.at);
        let fits = |at: &f64| at.is_finite() && (*at > 0.0 || self.scale == Scale::Linear);
        let all: Vec<f64> = figures.chain(marks).filter(fits).collect();
        let lowest = all.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (lowest, highest) = if all.is_empty() {
            (1.0, 10.0)
        } else {
            (lowest, highest)
        };
        let given = self.ticks.iter().map(|tick| (tick.at, tick.label.clone()));
        let given: Vec<(f64, String)> = given.collect();
        let (ticks, first, last) = match (self.scale, given.is_empty()) {
            (Scale::Linear, false) => (given, lowest.min(0.0), highest),
            (Scale::Logarithmic, false) => (given, lowest, highest),
            (Scale::Linear, true) => steps(highest),
            (Scale::Logarithmic, true) => decades(lowest, highest),
        };
        Fitted {
            ticks,
            scale: self.scale,
            first,
            last,
        }
    }

    fn new(label: &str, scale: Scale) -> Self {
        Self {
            label: label.to_owned(),
            scale,
            ticks: Vec::new(),
        }
    }
}

impl Fitted {
    /// Where on the axis a figure is: 0 at its beginning, 1 at its end.
    pub(super) fn place(&self, figure: f64) -> f64 {
        let on = |figure: f64| match self.scale {
            Scale::Linear => figure,
            Scale::Logarithmic => figure.max(self.first).log10(),
        };
        let length = on(self.last) - on(self.first);
        if length > 0.0 {
            (on(figure) - on(self.first)) / length
        } else {
            0.5
        }
    }
}

/// From zero in steps of 1, 2 or 5 and zeros.
fn steps(highest: f64) -> (Vec<(f64, String)>, f64, f64) {
    let highest = highest.max(f64::MIN_POSITIVE);
    let rough = highest / MARKS_MAX;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|step| *step >= rough)
        .unwrap_or(10.0 * power);
    let count = (highest / step).ceil().max(1.0);
    let ticks = (0..=count as u32).map(|number| marked(f64::from(number) * step));
    (ticks.collect(), 0.0, count * step)
}

/// At 1, 2, 5, 10, 20 …, or only at the powers of ten when that would be many.
fn decades(lowest: f64, highest: f64) -> (Vec<(f64, String)>, f64, f64) {
    let first = lowest.log10().floor() as i32;
    let last = (highest.log10().ceil() as i32).max(first + 1);
    let factors: &[f64] = if last - first > 2 {
        &[1.0]
    } else {
        &[1.0, 2.0, 5.0]
    };
    let marks = (first..=last).flat_map(|power| {
        factors
            .iter()
            .map(move |factor| factor * 10_f64.powi(power))
    });
    let marks: Vec<f64> = marks.collect();
    let below = marks.iter().copied().filter(|mark| *mark <= lowest);
    let above = marks.iter().copied().filter(|mark| *mark >= highest);
    let first = below.fold(f64::NEG_INFINITY, f64::max);
    let last = above.fold(f64::INFINITY, f64::min);
    let inside = |mark: &f64| (first..=last).contains(mark);
    let ticks = marks.into_iter().filter(inside).map(marked);
    (ticks.collect(), first, last)
}

fn marked(at: f64) -> (f64, String) {
    (at, figure(at))
}

/// `12,000`, `2.5`, `0.01`.
pub(super) fn figure(figure: f64) -> String {
    if figure.abs() < 1_000.0 {
        let text = format!("{figure:.3}");
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    let digits = format!("{figure:.0}");
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
