//! Files to one tree: read, parse, merge. Every key and value keeps its [`Place`].

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{ConfigErrors, Problem};

/// The directory beside the main file whose `*.toml` files are merged in.
pub(super) const FRAGMENTS: &str = "conf.d";

/// A line of a file. Orders by file and line.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Place {
    file: Arc<Path>,
    line: usize,
}

impl Place {
    /// The file, as it was named.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The line, from 1.
    #[must_use]
    pub fn line(&self) -> usize {
        self.line
    }

    /// A path that a setting in this file names: relative ones start from the file's directory.
    #[must_use]
    pub fn resolve(&self, path: &str) -> PathBuf {
        self.file
            .parent()
            .map_or_else(|| PathBuf::from(path), |directory| directory.join(path))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// A value with its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) content: Content,
}

/// What a value is. Dates are no setting of ours: kept as text for the error message.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Array(Vec<Node>),
    Boolean(bool),
    Date(String),
    Float(String),
    Integer(i64),
    String(String),
    Table(Table),
}

/// A table: where each key stands, and its value.
pub(super) type Table = BTreeMap<String, (Place, Node)>;

/// The merged tree of all files.
#[derive(Clone, Debug)]
pub struct Document {
    pub(super) root: Table,
    pub(super) main: Place,
    files: Vec<PathBuf>,
}

impl Document {
    /// Reads the main file and the fragments beside it, in the order of their names.
    ///
    /// # Errors
    /// What could not be read or parsed, and what two files both set.
    pub fn load(main: &Path) -> Result<Self, ConfigErrors> {
        let files = files_of(main)?;
        let mut problems = Vec::new();
        let mut root = Table::new();
        for file in &files {
            match parse_file(file) {
                Ok(table) => merge(&mut root, table, &mut problems),
                Err(found) => problems.extend(found),
            }
        }
        if problems.is_empty() {
            let main = Place {
                file: Arc::from(main),
                line: 1,
            };
            Ok(Self { root, main, files })
        } else {
            Err(ConfigErrors::new(problems))
        }
    }

    /// The tree of one text, as if it stood in `file`.
    ///
    /// # Errors
    /// What could not be parsed.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigErrors> {
        let main = Place {
            file: Arc::from(file),
            line: 1,
        };
        let root = parse_text(file, text).map_err(ConfigErrors::new)?;
        let files = vec![file.to_path_buf()];
        Ok(Self { root, main, files })
    }

    /// Every file that was read, the main file first.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }
}

/// Whether a file holds one table of a list (`[[key]]`) and nothing else.
#[must_use]
pub fn sole_table(file: &Path, key: &str) -> bool {
    let Ok(root) = parse_file(file) else {
        return false;
    };
    let only = root.get(key).filter(|_| root.len() == 1);
    matches!(only, Some((_, Node { content: Content::Array(items), .. })) if items.len() == 1)
}

/// The main file and the fragments beside it, in the order of their names: what a configuration is read from.
///
/// # Errors
/// The directory of the fragments cannot be read.
pub fn files_of(main: &Path) -> Result<Vec<PathBuf>, ConfigErrors> {
    let mut files = vec![main.to_path_buf()];
    files.extend(fragments(main)?);
    Ok(files)
}

/// `conf.d/*.toml` beside the main file, sorted. Hidden files (an editor's or our own unfinished ones) are left out.
fn fragments(main: &Path) -> Result<Vec<PathBuf>, ConfigErrors> {
    let directory = main
        .parent()
        .map_or_else(|| PathBuf::from(FRAGMENTS), |parent| parent.join(FRAGMENTS));
    let unreadable = |error: io::Error| {
        Problem::new(format!(
            "cannot read directory {}: {}",
            directory.display(),
            reason(&error)
        ))
    };
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error).into()),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden
            && path
                .extension()
                .is_some_and(|extension| extension == "toml")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn parse_file(file: &Path) -> Result<Table, Vec<Problem>> {
    let text = fs::read_to_string(file).map_err(|error| {
        vec![Problem::new(format!(
            "cannot read {}: {}",
            file.display(),
            reason(&error)
        ))]
    })?;
    parse_text(file, &text)
}

fn parse_text(file: &Path, text: &str) -> Result<Table, Vec<Problem>> {
    let source = Source {
        file: Arc::from(file),
        text,
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        source
            .table(table.into_inner())
            .map_err(|problem| vec![problem])
    } else {
        // One broken line makes the parser stumble over those behind it: the first is the one to mend.
        Err(errors
            .iter()
            .take(1)
            .map(|error| source.syntax_problem(error))
            .collect())
    }
}

/// The text of an I/O error without the number that means nothing to most readers.
#[must_use]
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error")
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// Turns spans into lines.
struct Source<'t> {
    file: Arc<Path>,
    text: &'t str,
}

impl Source<'_> {
    fn place(&self, offset: usize) -> Place {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        Place {
            file: Arc::clone(&self.file),
            line: 1 + memchr::memchr_iter(b'\n', before).count(),
        }
    }

    fn syntax_problem(&self, error: &toml::de::Error) -> Problem {
        let place = self.place(error.span().map_or(0, |span| span.start));
        Problem::at(&place, error.message().replace('\n', "; "))
    }

    fn table(&self, table: DeTable<'_>) -> Result<Table, Problem> {
        let mut out = Table::new();
        for (key, value) in table {
            let place = self.place(key.span().start);
            out.insert(key.into_inner().into_owned(), (place, self.node(value)?));
        }
        Ok(out)
    }

    fn node(&self, value: Spanned<DeValue<'_>>) -> Result<Node, Problem> {
        let place = self.place(value.span().start);
        let content =
            match value.into_inner() {
                DeValue::String(text) => Content::String(text.into_owned()),
                DeValue::Integer(number) => {
                    let parsed = i64::from_str_radix(number.as_str(), number.radix());
                    Content::Integer(parsed.map_err(|_| {
                        Problem::at(&place, format!("{number} is too large a number"))
                    })?)
                }
                DeValue::Float(number) => Content::Float(number.as_str().to_owned()),
                DeValue::Boolean(value) => Content::Boolean(value),
                DeValue::Datetime(date) => Content::Date(date.to_string()),
                DeValue::Array(items) => Content::Array(
                    items
                        .into_iter()
                        .map(|item| self.node(item))
                        .collect::<Result<_, _>>()?,
                ),
                DeValue::Table(table) => Content::Table(self.table(table)?),
            };
        Ok(Node { place, content })
    }
}

/// Tables join, lists append; anything else that two files set is an error, since neither could be called the one meant.
fn merge(into: &mut Table, from: Table, problems: &mut Vec<Problem>) {
    for (key, (place, node)) in from {
        let Some((first, existing)) = into.get_mut(&key) else {
            into.insert(key, (place, node));
            continue;
        };
        match (&mut existing.content, node.content) {
            (Content::Array(items), Content::Array(more)) => items.extend(more),
            (Content::Table(table), Content::Table(more)) => merge(table, more, problems),
            _ => problems.push(Problem::with_key(
                &place,
                key,
                format!("is already set at {first}"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes the files into a directory of their own and loads `main.toml`.
    fn load(files: &[(&str, &str)]) -> Result<Document, String> {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let prefix = format!("{}/", directory.path().display());
        Document::load(&directory.path().join("main.toml"))
            .map_err(|errors| errors.to_string().replace(&prefix, ""))
    }

    #[test]
    fn broken_files_are_named_with_their_line() {
        let table: &[(&[(&str, &str)], &str)] = &[
            (&[], "cannot read main.toml: No such file or directory"),
            (
                &[("main.toml", "a = 1\nb = \n")],
                "main.toml:2: string values must be quoted, expected literal string",
            ),
            (
                &[("main.toml", "a = 1\na = 2\n")],
                "main.toml:2: duplicate key",
            ),
            (
                &[("main.toml", "\nn = 99999999999999999999\n")],
                "main.toml:2: 99999999999999999999 is too large a number",
            ),
            (
                &[("main.toml", "a = 1\n"), ("conf.d/x.toml", "\na = 2\n")],
                "conf.d/x.toml:2: a: is already set at main.toml:1",
            ),
            (
                &[
                    ("main.toml", "[t]\na = 1\n"),
                    ("conf.d/x.toml", "[t]\nb = 1\na = [1]\n"),
                ],
                "conf.d/x.toml:3: a: is already set at main.toml:2",
            ),
        ];
        for (files, expected) in table {
            assert_eq!(load(files).unwrap_err(), *expected);
        }
    }

    #[test]
    fn fragments_are_merged_in_the_order_of_their_names() {
        let document = load(&[
            ("main.toml", "l = [1]\n[t]\na = 1\n"),
            ("conf.d/b.toml", "l = [3]\n"),
            ("conf.d/a.toml", "l = [2]\n[t]\nb = 2\n"),
            ("conf.d/.hidden.toml", "broken"),
            ("conf.d/note.txt", "broken"),
        ])
        .unwrap();
        let Content::Array(items) = &document.root["l"].1.content else {
            panic!("a list")
        };
        let numbers: Vec<_> = items
            .iter()
            .map(|item| {
                if let Content::Integer(n) = item.content {
                    n
                } else {
                    0
                }
            })
            .collect();
        assert_eq!(numbers, [1, 2, 3]);
        let Content::Table(table) = &document.root["t"].1.content else {
            panic!("a table")
        };
        assert_eq!(table.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(document.files().len(), 3);
    }
}
