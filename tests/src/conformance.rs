//! Which test covers which requirement.
//!
//! A test names the requirements that it holds in a line right above its attributes,
//! `// covers: R2645-9, OWN-3`; a transcript in a line `# covers: …`. The table in
//! `docs/testing.md` lists every requirement; its last column is made from those lines.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::transcript;

/// Around the table in `docs/testing.md`.
const BEGIN: &str = "<!-- conformance: begin -->";
const END: &str = "<!-- conformance: end -->";
/// In the last column of a row that a later stage of the project covers.
const LATER: &str = "later: ";

/// Requirement to the tests that name it, each as file and name.
pub type Coverage = BTreeMap<String, Vec<Test>>;

/// A test, or a transcript.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Test {
    /// Its file, from the root of the tree.
    pub file: String,
    /// Its function; empty for a transcript.
    pub name: String,
}

/// One row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The requirement.
    pub id: String,
    /// The line up to the last column.
    head: String,
    /// The last column.
    tests: String,
}

/// The page with its table.
#[derive(Debug)]
pub struct Page {
    before: String,
    rows: Vec<Row>,
    after: String,
}

/// The root of the tree.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Reads every `covers:` line of the tree.
///
/// # Errors
/// A line that is not above a test.
pub fn coverage() -> Result<Coverage, String> {
    let root = root();
    let mut coverage = Coverage::new();
    for package in ["puller", "relay", "shared", "tests"] {
        for file in sources(&root.join(package)) {
            let text = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
            let name = file
                .strip_prefix(&root)
                .unwrap_or(&file)
                .display()
                .to_string();
            add_source(&mut coverage, &name, &text)?;
        }
    }
    for room in [
        transcript::Room::Edge,
        transcript::Room::Odmr,
        transcript::Room::Reversed,
    ] {
        for transcript in transcript::Transcript::all(room) {
            let file = format!("tests/transcripts/{}", transcript.name);
            for id in transcript.covers {
                let test = Test {
                    file: file.clone(),
                    name: String::new(),
                };
                coverage.entry(id).or_default().push(test);
            }
        }
    }
    for tests in coverage.values_mut() {
        tests.sort();
        tests.dedup();
    }
    Ok(coverage)
}

fn add_source(coverage: &mut Coverage, file: &str, text: &str) -> Result<(), String> {
    let mut ids: Vec<String> = Vec::new();
    let mut is_test = false;
    for (number, line) in (1..).zip(text.lines().map(str::trim)) {
        if let Some(listed) = line.strip_prefix("// covers:") {
            ids.extend(listed.split(',').map(|id| id.trim().to_owned()));
            is_test = false;
        } else if ids.is_empty() {
            continue;
        } else if line.starts_with("#[") {
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        } else if let Some(name) = function(line).filter(|_| is_test) {
            for id in ids.drain(..) {
                let test = Test {
                    file: file.to_owned(),
                    name: name.to_owned(),
                };
                coverage.entry(id).or_default().push(test);
            }
        } else if !line.starts_with("//") && !line.is_empty() {
            return Err(format!(
                "{file}:{number}: a covers: line must stand above a test"
            ));
        }
    }
    if ids.is_empty() {
        Ok(())
    } else {
        Err(format!("{file}: a covers: line without a test"))
    }
}

/// The name in `fn name(` or `async fn name(`.
fn function(line: &str) -> Option<&str> {
    let line = line.strip_prefix("pub ").unwrap_or(line);
    let line = line.strip_prefix("async ").unwrap_or(line);
    line.strip_prefix("fn ")?.split(['(', '<']).next()
}

/// The `.rs` files of a package.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else {
        return files;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

impl Page {
    /// Reads `docs/testing.md`.
    ///
    /// # Errors
    /// A page without the table.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        Self::parse(&text).ok_or_else(|| format!("{}: no table between its marks", path.display()))
    }

    fn parse(text: &str) -> Option<Self> {
        let (before, rest) = text.split_once(BEGIN)?;
        let (table, after) = rest.split_once(END)?;
        // The first two lines are the head of the table.
        let rows: Vec<Row> = table
            .lines()
            .filter(|line| line.starts_with('|'))
            .skip(2)
            .filter_map(Row::parse)
            .collect();
        (!rows.is_empty()).then(|| Self {
            before: before.to_owned(),
            rows,
            after: after.to_owned(),
        })
    }

    /// The same page with the last column made anew.
    #[must_use]
    pub fn renewed(mut self, coverage: &Coverage) -> Self {
        for row in &mut self.rows {
            if let Some(tests) = coverage.get(&row.id) {
                row.tests = listed(tests);
            } else if !row.is_later() {
                row.tests.clear();
            }
        }
        self
    }

    /// The page as it is written.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!(
            "{}{BEGIN}\n| id | who | what | tests |\n|---|---|---|---|\n",
            self.before
        );
        for row in &self.rows {
            text.push_str(&format!("{} {} |\n", row.head, row.tests));
        }
        text.push_str(END);
        text.push_str(&self.after);
        text
    }

    /// Everything that is wrong: requirements without a test, tests of unknown requirements, rows
    /// that say "later" although there is a test, an old table.
    #[must_use]
    pub fn problems(&self, coverage: &Coverage) -> Vec<String> {
        let mut problems = Vec::new();
        for row in &self.rows {
            let covered = coverage.contains_key(&row.id);
            if !covered && !row.is_later() {
                problems.push(format!("{}: no test names it", row.id));
            } else if covered && row.tests != listed(&coverage[&row.id]) {
                problems.push(format!("{}: its row is out of date", row.id));
            }
        }
        for (id, tests) in coverage {
            if !self.rows.iter().any(|row| row.id == *id) {
                problems.push(format!(
                    "{id}: not in the table, but named by {}",
                    tests[0].file
                ));
            }
        }
        problems
    }
}

impl Row {
    fn parse(line: &str) -> Option<Self> {
        let line = line.trim_end().strip_suffix('|')?;
        let at = line.rfind('|')?;
        let id = line.split('|').nth(1)?.trim().to_owned();
        Some(Self {
            id,
            head: line[..=at].to_owned(),
            tests: line[at + 1..].trim().to_owned(),
        })
    }

    fn is_later(&self) -> bool {
        self.tests.starts_with(LATER)
    }
}

/// Tests by file: `relay/src/x.rs` one, two; `tests/…`
fn listed(tests: &[Test]) -> String {
    let mut files: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for test in tests {
        files.entry(&test.file).or_default().push(&test.name);
    }
    let one = |(file, names): (&str, Vec<&str>)| {
        let names: Vec<&str> = names.into_iter().filter(|name| !name.is_empty()).collect();
        if names.is_empty() {
            format!("`{file}`")
        } else {
            format!("`{file}`: {}", names.join(", "))
        }
    };
    files.into_iter().map(one).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# Page\n<!-- conformance: begin -->\n| id | who | what | tests |\n\
                        |---|---|---|---|\n| A-1 | IN | first | |\n| A-2 | IN | second | later: soon |\n\
                        <!-- conformance: end -->\nrest\n";

    fn coverage_of(source: &str) -> Coverage {
        let mut coverage = Coverage::new();
        add_source(&mut coverage, "relay/src/x.rs", source).unwrap();
        coverage
    }

    #[test]
    fn a_requirement_without_a_test_is_a_problem() {
        let page = Page::parse(PAGE).unwrap();
        assert_eq!(page.problems(&Coverage::new()), ["A-1: no test names it"]);
    }

    #[test]
    fn a_renewed_page_has_no_problem_and_is_kept() {
        let coverage = coverage_of("// covers: A-1\n// Why.\n#[test]\nfn it_holds() {\n");
        let page = Page::parse(PAGE).unwrap();
        assert_eq!(page.problems(&coverage), ["A-1: its row is out of date"]);
        let page = page.renewed(&coverage);
        assert!(page.problems(&coverage).is_empty());
        let text = page.text();
        assert!(
            text.contains("| A-1 | IN | first | `relay/src/x.rs`: it_holds |\n"),
            "{text}"
        );
        assert!(
            text.contains("| A-2 | IN | second | later: soon |\n"),
            "{text}"
        );
        assert_eq!(Page::parse(&text).unwrap().text(), text);
    }

    #[test]
    fn a_name_that_nobody_knows_is_a_problem() {
        let coverage = coverage_of("// covers: A-1, A-9\n#[tokio::test]\nasync fn it_holds() {\n");
        let page = Page::parse(PAGE).unwrap().renewed(&coverage);
        let problems = page.problems(&coverage);
        assert_eq!(
            problems,
            ["A-9: not in the table, but named by relay/src/x.rs"]
        );
    }

    #[test]
    fn a_covers_line_must_stand_above_a_test() {
        let mut coverage = Coverage::new();
        for source in [
            "// covers: A-1\nfn no_test() {\n",
            "// covers: A-1\nlet x = 1;\n",
            "// covers: A-1\n",
        ] {
            assert!(add_source(&mut coverage, "x", source).is_err(), "{source}");
        }
    }
}
