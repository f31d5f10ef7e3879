//! A chart: what is drawn, without how.
//!
//! ```text
//! Chart::new("drain", "Drain of a backlog", Axis::logarithmic("sessions").marks([1.0, 4.0]), Axis::linear("messages a second"))
//!     .line(Role::Ours, "atrn", [(1.0, one), (4.0, four)])
//!     .line(Role::Peer, "Postfix", [(1.0, theirs_one), (4.0, theirs_four)])
//! ```

mod axis;
mod svg;

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

pub(crate) use axis::Axis;

use crate::figures::{Named, Row, Samples};

/// Lines over one axis.
#[derive(Debug)]
pub(crate) struct Chart {
    /// Of its file, without the extension.
    name: String,
    title: String,
    x: Axis,
    y: Axis,
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    role: Role,
    name: String,
    points: Vec<(f64, Samples)>,
}

/// Whose line it is: that makes its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Ours,
    Peer,
    /// What the machine can do at best.
    Limit,
}

impl Chart {
    pub(crate) fn new(name: impl Into<String>, title: impl Into<String>, x: Axis, y: Axis) -> Self {
        Self {
            name: name.into(),
            title: title.into(),
            x,
            y,
            lines: Vec::new(),
        }
    }

    /// One more line. Where samples differ, the lowest and the highest are shown with the median.
    pub(crate) fn line(
        mut self,
        role: Role,
        name: impl Into<String>,
        points: impl IntoIterator<Item = (f64, Samples)>,
    ) -> Self {
        self.lines.push(Line {
            role,
            name: name.into(),
            points: points.into_iter().collect(),
        });
        self
    }

    /// The lines of rows: ours, what stands beside it, and the limit; a point a row.
    pub(crate) fn rows<'r>(self, rows: impl IntoIterator<Item = (f64, &'r Row)>) -> Self {
        let rows: Vec<(f64, &Row)> = rows.into_iter().collect();
        let ours = rows.iter().map(|(at, row)| (*at, row.ours.clone()));
        self.line(Role::Ours, "atrn", ours)
            .named(Role::Peer, rows.iter().map(|(at, row)| (*at, &row.beside)))
            .named(Role::Limit, rows.iter().map(|(at, row)| (*at, &row.limit)))
    }

    /// A line of figures that have a name, where there are any.
    fn named<'r>(self, role: Role, points: impl Iterator<Item = (f64, &'r Option<Named>)>) -> Self {
        let there = points.filter_map(|(at, named)| Some((at, named.as_ref()?)));
        let there: Vec<(f64, &Named)> = there.collect();
        let Some((_, (name, _))) = there.first() else {
            return self;
        };
        let points = there
            .iter()
            .map(|(at, (_, samples))| (*at, samples.clone()));
        self.line(role, name, points)
    }

    /// Writes it into a folder.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(format!("{}.svg", self.name));
        std::fs::write(&path, svg::drawn(self)).with_context(|| path.display().to_string())
    }

    /// The medians of its lines, for who draws it in another way.
    pub(crate) fn json(&self) -> Value {
        let lines: Vec<Value> = self
            .lines
            .iter()
            .map(|line| {
                let points = line
                    .points
                    .iter()
                    .map(|(x, samples)| json!([x, samples.median()]));
                json!({"name": line.name, "points": points.collect::<Vec<_>>()})
            })
            .collect();
        json!({
            "name": self.name,
            "title": self.title,
            "x": self.x.label(),
            "y": self.y.label(),
            "lines": lines,
        })
    }
}
