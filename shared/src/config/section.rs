//! The reader of one table: it asks for keys by name and notes everything that is wrong, so that a
//! file with five mistakes is mended in one go.
//!
//! A key that is never asked for is unknown. So the program's reading code is at once the list of keys,
//! of their defaults and of their units; the documented examples are compared with it by tests.

use std::cell::RefCell;
use std::collections::BTreeMap;

use tracing::{info, warn};

use super::document::{Content, Document, Node, Place, Table};
use super::problem::{ConfigErrors, Problem};
use super::value::{Complaint, Value};

/// A key that the program knows.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Known {
    /// Its path: `smtp.listen`, `domain.name`.
    pub path: String,
    /// Whether it may be left out because a default value stands in.
    pub has_default: bool,
}

/// What was noticed while reading a configuration that is valid.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    /// What will surprise: settings without effect, accounts for unknown domains.
    pub warnings: Vec<Problem>,
    /// `path = value` of each setting that differs from its default.
    pub changed: Vec<String>,
    /// Every key asked for.
    pub known: Vec<Known>,
}

impl Notes {
    /// Logs the warnings, a line each.
    pub fn log_warnings(&self) {
        for warning in &self.warnings {
            warn!("{warning}");
        }
    }

    /// Logs what differs from the defaults, a line each.
    pub fn log_changed(&self) {
        for setting in &self.changed {
            info!(%setting, "not the default");
        }
    }
}

/// Runs `read` over the root of a document.
///
/// # Errors
/// Every problem that was noted.
pub(super) fn read<T>(
    document: &Document,
    read: impl FnOnce(&Section<'_>) -> Option<T>,
) -> Result<(T, Notes), ConfigErrors> {
    let record = Record::default();
    let root = Section {
        header: String::new(),
        key_prefix: String::new(),
        table: &document.root,
        place: document.main.clone(),
        present: true,
        asked: RefCell::default(),
        record: &record,
    };
    let value = read(&root);
    root.note_unknown_keys();
    drop(root);
    let Record { problems, notes } = record;
    match value {
        Some(value) if problems.borrow().is_empty() => Ok((value, notes.into_inner())),
        _ => Err(ConfigErrors::new(problems.into_inner())),
    }
}

#[derive(Default)]
struct Record {
    problems: RefCell<Vec<Problem>>,
    notes: RefCell<Notes>,
}

/// A table being read.
pub struct Section<'d> {
    /// As it stands in the file: `[smtp]`; empty for the root.
    header: String,
    key_prefix: String,
    table: &'d Table,
    place: Place,
    present: bool,
    asked: RefCell<Vec<&'static str>>,
    record: &'d Record,
}

impl<'d> Section<'d> {
    /// Whether the file has this table at all.
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.present
    }

    /// Whether the key is set.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Whether the key is set to a text, where it could be a table as well.
    #[must_use]
    pub fn is_text(&self, key: &str) -> bool {
        self.table
            .get(key)
            .is_some_and(|(_, node)| matches!(node.content, Content::String(_)))
    }

    /// Where the key stands; where it is missing, the head of the table.
    #[must_use]
    pub fn place(&self, key: &str) -> Place {
        self.table
            .get(key)
            .map_or_else(|| self.place.clone(), |(place, _)| place.clone())
    }

    /// A key that must be there. `None` after a problem was noted.
    pub fn required<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(Value<'d>) -> Result<T, Complaint>,
    ) -> Option<T> {
        if self.node(key, false).is_none() {
            let missing = if self.header.is_empty() {
                String::new()
            } else {
                format!("{}: ", self.header)
            };
            self.note(Problem::at(
                &self.place,
                format!("{missing}{key} is missing"),
            ));
        }
        self.optional(key, read)
    }

    /// A key that may be missing. `None` then, or after a problem was noted.
    pub fn optional<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(Value<'d>) -> Result<T, Complaint>,
    ) -> Option<T> {
        let node = self.node(key, false)?;
        read(Value(node))
            .map_err(|complaint| self.complain(key, complaint))
            .ok()
    }

    /// A key with a default.
    pub fn or<T: PartialEq>(
        &self,
        key: &'static str,
        default: T,
        read: impl FnOnce(Value<'d>) -> Result<T, Complaint>,
    ) -> T {
        let Some(node) = self.node(key, true) else {
            return default;
        };
        match read(Value(node)) {
            Ok(value) => {
                self.note_changed(key, node, value == default);
                value
            }
            Err(complaint) => {
                self.complain(key, complaint);
                default
            }
        }
    }

    /// A list with a default. Every bad element is noted at its own line.
    pub fn list_or<T: PartialEq>(
        &self,
        key: &'static str,
        default: Vec<T>,
        read: impl Fn(Value<'d>) -> Result<T, Complaint>,
    ) -> Vec<T> {
        let Some(node) = self.node(key, true) else {
            return default;
        };
        match Value(node).list(read) {
            Ok(values) => {
                self.note_changed(key, node, values == default);
                values
            }
            Err(complaints) => {
                complaints
                    .into_iter()
                    .for_each(|complaint| self.complain(key, complaint));
                default
            }
        }
    }

    /// A list that must be there with at least one element. `None` after a problem was noted.
    pub fn required_list<T>(
        &self,
        key: &'static str,
        read: impl Fn(Value<'d>) -> Result<T, Complaint>,
    ) -> Option<Vec<T>> {
        let values = self.required(key, Ok)?.list(read);
        match values {
            Ok(values) if values.is_empty() => {
                self.problem(key, "is empty; name at least one");
                None
            }
            Ok(values) => Some(values),
            Err(complaints) => {
                complaints
                    .into_iter()
                    .for_each(|complaint| self.complain(key, complaint));
                None
            }
        }
    }

    /// A table of this table. Where it is missing, an empty one: all its keys then have their defaults.
    pub fn section(&self, key: &'static str) -> Self {
        let node = self.node(key, false);
        let (table, present) = match node.map(|node| &node.content) {
            Some(Content::Table(table)) => (table, true),
            Some(_) => {
                self.problem(
                    key,
                    &format!("is not a table; write [{}{key}]", self.key_prefix),
                );
                (EMPTY, false)
            }
            None => (EMPTY, false),
        };
        self.child(
            format!("[{}{key}]", self.key_prefix),
            key,
            (table, self.place(key)),
            present,
        )
    }

    /// Tables of a list of tables: `[[domain]]`.
    pub fn sections(&self, key: &'static str) -> Vec<Self> {
        let items = match self.node(key, false).map(|node| &node.content) {
            Some(Content::Array(items)) => items.as_slice(),
            Some(_) => {
                self.problem(key, &format!("is not a list of tables; write [[{key}]]"));
                &[]
            }
            None => &[],
        };
        let mut sections = Vec::with_capacity(items.len());
        for item in items {
            match &item.content {
                Content::Table(table) => {
                    let at = (table, item.place.clone());
                    sections.push(self.child(
                        format!("[[{}{key}]]", self.key_prefix),
                        key,
                        at,
                        true,
                    ));
                }
                _ => self.note(Problem::with_key(
                    &item.place,
                    key,
                    format!("{} is not a table", Value(item)),
                )),
            }
        }
        sections
    }

    /// Notes something wrong with a key, beyond what its value alone shows.
    pub fn problem(&self, key: &str, text: &str) {
        self.note(Problem::with_key(&self.place(key), key, text));
    }

    /// Notes something wrong with the table as a whole.
    pub fn problem_here(&self, text: &str) {
        let text = if self.header.is_empty() {
            text.to_owned()
        } else {
            format!("{}: {text}", self.header)
        };
        self.note(Problem::at(&self.place, text));
    }

    /// Notes something to know about a key: an effect that one would expect and that is not there.
    pub fn warn(&self, key: &str, text: &str) {
        let warning = Problem::with_key(&self.place(key), key, text);
        self.record.notes.borrow_mut().warnings.push(warning);
    }

    /// Notes each name that is given twice, at the second place, naming the first.
    pub fn note_duplicates<'n>(
        &self,
        key: &str,
        names: impl IntoIterator<Item = (&'n str, Place)>,
    ) {
        let mut seen = BTreeMap::<&str, Place>::new();
        for (name, place) in names {
            match seen.get(name) {
                Some(first) => {
                    self.note(Problem::with_key(
                        &place,
                        key,
                        format!("{name:?} is already set at {first}"),
                    ));
                }
                None => {
                    seen.insert(name, place);
                }
            }
        }
    }

    /// Notes each element that a list has twice.
    pub fn note_repeated<T: Ord + std::fmt::Display>(&self, key: &str, values: &[T]) {
        let mut seen = std::collections::BTreeSet::new();
        for value in values.iter().filter(|value| !seen.insert(*value)) {
            self.problem(key, &format!("\"{value}\" is listed twice"));
        }
    }

    fn child(&self, header: String, key: &str, at: (&'d Table, Place), present: bool) -> Self {
        Self {
            header,
            key_prefix: format!("{}{key}.", self.key_prefix),
            table: at.0,
            place: at.1,
            present,
            asked: RefCell::default(),
            record: self.record,
        }
    }

    fn node(&self, key: &'static str, has_default: bool) -> Option<&'d Node> {
        let mut asked = self.asked.borrow_mut();
        if !asked.contains(&key) {
            asked.push(key);
            let known = Known {
                path: format!("{}{key}", self.key_prefix),
                has_default,
            };
            let mut notes = self.record.notes.borrow_mut();
            if !notes.known.contains(&known) {
                notes.known.push(known);
            }
        }
        self.table.get(key).map(|(_, node)| node)
    }

    fn note(&self, problem: Problem) {
        self.record.problems.borrow_mut().push(problem);
    }

    fn note_changed(&self, key: &str, node: &Node, is_default: bool) {
        if !is_default {
            let line = format!("{}{key} = {}", self.key_prefix, Value(node));
            self.record.notes.borrow_mut().changed.push(line);
        }
    }

    fn complain(&self, key: &str, complaint: Complaint) {
        let place = complaint.place.unwrap_or_else(|| self.place(key));
        self.note(Problem::with_key(&place, key, complaint.text));
    }

    fn note_unknown_keys(&self) {
        let asked = self.asked.borrow();
        for (key, (place, _)) in self.table {
            if asked.contains(&key.as_str()) {
                continue;
            }
            let near = asked
                .iter()
                .map(|known| (distance(key, known), known))
                .min();
            let hint = match near {
                Some((steps, known)) if steps <= 3 && 2 * steps < key.len() => {
                    format!("; did you mean {known:?}?")
                }
                _ => String::new(),
            };
            let within = if self.header.is_empty() {
                String::new()
            } else {
                format!(" in {}", self.header)
            };
            self.note(Problem::with_key(
                place,
                key,
                format!("is not a known key{within}{hint}"),
            ));
        }
    }
}

/// A table is read for good when its reader lets go of it: what nobody asked for by then is unknown.
/// The root is looked at by `read` itself, which needs the outcome.
impl Drop for Section<'_> {
    fn drop(&mut self) {
        if !self.key_prefix.is_empty() {
            self.note_unknown_keys();
        }
    }
}

static EMPTY: &Table = &Table::new();

/// Letters to insert, delete or replace to make one word the other (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, letter) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (column, other) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn document(text: &str) -> Document {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("t.toml");
        std::fs::write(&file, text).unwrap();
        Document::load(&file).unwrap()
    }

    /// A small program's configuration, read from `text`: problems without the directory, or what changed.
    fn outcome(text: &str) -> Result<Vec<String>, Vec<String>> {
        let read_all = |root: &Section<'_>| {
            let name = root.required("name", |value| value.text().map(str::to_owned));
            root.or("limit", 10, |value| value.integer(&(1..=100)));
            root.list_or(
                "networks",
                Vec::<std::net::SocketAddr>::new(),
                Value::socket_address,
            );
            let inner = root.section("inner");
            inner.or("hold_for", Duration::from_secs(300), |value| {
                value.duration(&(Duration::ZERO..=Duration::MAX))
            });
            inner.or("spool_limit", 1_000, |value| value.size(&(0..=5_000_000)));
            inner.or("mode", 1, |value| {
                value.word(&[("one", 1), ("two", 2), ("three", 3)])
            });
            let items = root.sections("item");
            let names: Vec<_> = items
                .iter()
                .filter_map(|item| item.required("name", Value::text))
                .collect();
            root.note_duplicates(
                "name",
                names
                    .iter()
                    .copied()
                    .zip(items.iter().map(|item| item.place("name"))),
            );
            name
        };
        match read(&document(text), read_all) {
            Ok((_, notes)) => Ok(notes.changed),
            Err(errors) => Err(errors
                .to_string()
                .lines()
                .map(|line| {
                    line.replace(line.split("t.toml").next().unwrap(), "")
                        .replace("/t.toml", "t.toml")
                })
                .collect()),
        }
    }

    #[test]
    fn every_problem_is_named_with_line_and_key() {
        let text = "limit = 101\nnetworks = [\n  \"nowhere\",\n  \"127.0.0.1:25\",\n  7,\n]\nlimti = 1\nzebra = 1\n[inner]\n\
                    hold_for = \"5x\"\nspool_limit = \"6MB\"\nmode = \"four\"\n[[item]]\n[[item]]\nname = 1\n";
        assert_eq!(
            outcome(text).unwrap_err(),
            [
                "t.toml:1: name is missing",
                "t.toml:1: limit: 101 is out of range; use 1 to 100",
                "t.toml:3: networks: \"nowhere\" is not an IP address and port; use \"0.0.0.0:25\" or \"[::]:25\"",
                "t.toml:5: networks: 7 is not a text; put it in quotes",
                "t.toml:7: limti: is not a known key; did you mean \"limit\"?",
                "t.toml:8: zebra: is not a known key",
                "t.toml:10: hold_for: \"5x\" is not a duration; use \"5d\" or \"36h\"",
                "t.toml:11: spool_limit: \"6MB\" is out of range; use \"0B\" to \"5MB\"",
                "t.toml:12: mode: \"four\" is not known; use \"one\", \"two\" or \"three\"",
                "t.toml:13: [[item]]: name is missing",
                "t.toml:15: name: 1 is not a text; put it in quotes",
            ]
        );
    }

    #[test]
    fn wrong_shapes_and_duplicates_are_problems() {
        for (text, expected) in [
            (
                "name = \"n\"\ninner = 1\n",
                "t.toml:2: inner: is not a table; write [inner]",
            ),
            (
                "name = \"n\"\nitem = 1\n",
                "t.toml:2: item: is not a list of tables; write [[item]]",
            ),
            (
                "name = \"n\"\nitem = [1]\n",
                "t.toml:2: item: 1 is not a table",
            ),
            (
                "name = \"n\"\nnetworks = 1\n",
                "t.toml:2: networks: 1 is not a list; put it in brackets: [1]",
            ),
            (
                "name = \"n\"\nlimit = 1979-05-27\n",
                "t.toml:2: limit: 1979-05-27 is not a whole number",
            ),
            (
                "name = \"n\"\n[[item]]\nname = \"a\"\n[[item]]\nname = \"a\"\n",
                "t.toml:5: name: \"a\" is already set at t.toml:3",
            ),
        ] {
            assert_eq!(outcome(text).unwrap_err(), [expected], "{text}");
        }
    }

    #[test]
    fn what_differs_from_the_defaults_is_noted() {
        let text = "name = \"n\"\nlimit = 10\n[inner]\nhold_for = \"6m\"\nspool_limit = \"1KB\"\n";
        assert_eq!(outcome(text).unwrap(), ["inner.hold_for = \"6m\""]);
    }

    #[test]
    fn near_misses() {
        for (left, right, expected) in [
            ("", "abc", 3),
            ("limti", "limit", 2),
            ("lmit", "limit", 1),
            ("limit", "limit", 0),
        ] {
            assert_eq!(distance(left, right), expected);
        }
    }
}
