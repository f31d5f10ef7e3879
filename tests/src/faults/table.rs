//! The table of faults in `docs/testing.md`: a row for each, as a run of the tests saw it.

use std::fmt;
use std::path::Path;

/// Around the table.
const BEGIN: &str = "<!-- faults: begin -->";
const END: &str = "<!-- faults: end -->";
const HEAD: &str = "| where | fault | answer | what came of it |\n|---|---|---|---|\n";

/// One fault, and what was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The program and the place in it.
    pub place: String,
    /// What failed.
    pub fault: String,
    /// What the peer was told.
    pub answer: String,
    /// What came of it.
    pub after: String,
}

/// The page with the table.
#[derive(Debug)]
pub struct Page {
    before: String,
    table: String,
    after: String,
}

impl Row {
    /// A row.
    #[must_use]
    pub fn new(place: &str, fault: &str, answer: &str, after: &str) -> Self {
        Self {
            place: place.to_owned(),
            fault: fault.to_owned(),
            answer: answer.to_owned(),
            after: after.to_owned(),
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            place,
            fault,
            answer,
            after,
        } = self;
        write!(f, "| {place} | {fault} | {answer} | {after} |")
    }
}

impl Page {
    /// Reads the page.
    ///
    /// # Errors
    /// A page without the marks of the table.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        Self::parse(&text).ok_or_else(|| format!("{}: no table of faults", path.display()))
    }

    fn parse(text: &str) -> Option<Self> {
        let (before, rest) = text.split_once(BEGIN)?;
        let (table, after) = rest.split_once(END)?;
        Some(Self {
            before: before.to_owned(),
            table: table.trim_start().to_owned(),
            after: after.to_owned(),
        })
    }

    /// Lines of these rows that are not in the table, and of the table that are none of these rows.
    #[must_use]
    pub fn differences(&self, rows: &[Row]) -> Vec<String> {
        let seen = table(rows);
        let missing = seen
            .lines()
            .filter(|line| !self.table.lines().any(|other| other == *line));
        let old = self
            .table
            .lines()
            .filter(|line| !seen.lines().any(|other| other == *line));
        let missing = missing.map(|line| format!("+ {line}"));
        missing.chain(old.map(|line| format!("- {line}"))).collect()
    }

    /// The page with these rows.
    #[must_use]
    pub fn renewed(&self, rows: &[Row]) -> String {
        let Self { before, after, .. } = self;
        format!("{before}{BEGIN}\n{}{END}{after}", table(rows))
    }
}

fn table(rows: &[Row]) -> String {
    rows.iter()
        .fold(HEAD.to_owned(), |table, row| format!("{table}{row}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewed_page_does_not_differ() {
        let page =
            Page::parse("Text\n<!-- faults: begin -->\n<!-- faults: end -->\nrest\n").unwrap();
        let rows = [Row::new(
            "relay: log",
            "write: `EIO`",
            "`451 4.3.0`",
            "goes on",
        )];
        assert_eq!(page.differences(&rows).len(), 3);
        let page = Page::parse(&page.renewed(&rows)).unwrap();
        assert!(page.differences(&rows).is_empty());
        assert_eq!(page.differences(&[]).len(), 1);
        assert_eq!(page.after, "\nrest\n");
    }
}
