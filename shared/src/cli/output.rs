//! Data to standard output, words to standard error: tables for people, JSON for programs.

use std::io::{self, BufRead, IsTerminal, Write};
use std::time::Duration;

use owo_colors::OwoColorize;
use serde::Serialize;

use super::{Destructive, Failure};

/// How a command prints what it found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Output {
    /// One JSON document.
    Json,
    /// A table.
    Table,
}

impl Output {
    /// Prints the same value either way: as JSON, or as `table` lays it out.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn show<T: Serialize + ?Sized>(
        self,
        value: &T,
        table: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        let text = match self {
            Self::Json => serde_json::to_string_pretty(value)
                .map_err(|error| Failure::failed(format!("cannot print as JSON: {error}")))?,
            Self::Table => table(value),
        };
        print(text.trim_end())
    }
}

/// Prints a text and a line end to standard output. A reader that has gone (`| head`) is no error.
///
/// # Errors
/// When standard output cannot be written.
pub fn print(text: &str) -> Result<(), Failure> {
    if text.is_empty() {
        return Ok(());
    }
    let mut out = anstream::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::failed(format!(
            "cannot write to standard output: {error}"
        ))),
        _ => Ok(()),
    }
}

/// Prints `error: …` to standard error, once for each line.
pub fn print_error(failure: &Failure) {
    let mut out = anstream::stderr().lock();
    for line in failure.text.lines() {
        // Nobody is left to tell when this fails.
        let _ = writeln!(out, "{} {line}", "error:".red().bold());
    }
}

/// Rows under headings, in aligned columns without borders, as `ls -l` or `kubectl` print them.
#[derive(Debug)]
pub struct Table(comfy_table::Table);

impl Table {
    /// A table with these headings. Those that begin with `>` are of columns of numbers, aligned to the right.
    #[must_use]
    pub fn new(headings: &[&str]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        // Cells are never broken: an id in two pieces can be neither copied nor searched for.
        table.set_content_arrangement(comfy_table::ContentArrangement::Disabled);
        table.set_header(
            headings
                .iter()
                .map(|heading| heading.trim_start_matches('>').to_uppercase()),
        );
        let last = headings.len().saturating_sub(1);
        for (index, heading) in headings.iter().enumerate() {
            if let Some(column) = table.column_mut(index) {
                column.set_padding((0, if index == last { 0 } else { 2 }));
                if heading.starts_with('>') {
                    column.set_cell_alignment(comfy_table::CellAlignment::Right);
                }
            }
        }
        Self(table)
    }

    /// Adds a row.
    pub fn row<I: IntoIterator<Item = String>>(&mut self, cells: I) {
        self.0.add_row(cells);
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, line) in self.0.lines().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            f.write_str(line.trim_end())?;
        }
        Ok(())
    }
}

/// A size for people: `4.1 MB`, decimal like those of the configuration.
#[must_use]
pub fn size(octets: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if octets < 1_000 {
        return format!("{octets} B");
    }
    // Tenths are exact in integers; a float would print 1000.0 kB.
    let mut tenths = u128::from(octets) * 10 / 1_000;
    let mut unit = 0;
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths /= 1_000;
        unit += 1;
    }
    if tenths >= 1_000 {
        format!("{} {}", tenths / 10, UNITS[unit])
    } else {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    }
}

/// An age or a time to wait for people, in its largest unit: `12s`, `5m`, `2h`, `3d`.
#[must_use]
pub fn age(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3_600 => format!("{}m", seconds / 60),
        seconds @ 3_600..172_800 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// Whether to go on with something that cannot be undone. Asks on a terminal unless `--yes`.
///
/// # Errors
/// Without a terminal and without `--yes`: silence is no consent.
pub fn confirm(question: &str, options: Destructive) -> Result<bool, Failure> {
    if options.dry_run {
        return Ok(false);
    }
    if options.yes {
        return Ok(true);
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::new(
            super::ExitCode::Usage,
            format!("{question} Add --yes to do it without being asked"),
        ));
    }
    let mut out = anstream::stderr().lock();
    let asked = write!(out, "{question} [y/N] ").and_then(|()| out.flush());
    let mut answer = String::new();
    let answered = asked.and_then(|()| io::stdin().lock().read_line(&mut answer));
    answered.map_err(|error| Failure::failed(format!("cannot ask: {error}")))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (octets, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (48_211, "48.2 kB"),
            (999_999, "999 kB"),
            (1_000_000, "1.0 MB"),
            (4_150_000, "4.1 MB"),
            (52_428_800, "52.4 MB"),
            (u64::MAX, "18446 PB"),
        ] {
            assert_eq!(size(octets), expected, "{octets}");
        }
    }

    #[test]
    fn ages() {
        for (seconds, expected) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (3_599, "59m"),
            (3_600, "1h"),
            (172_799, "47h"),
            (172_800, "2d"),
        ] {
            assert_eq!(age(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn tables_align_and_leave_no_blanks_behind() {
        let mut table = Table::new(&["name", ">size", "state"]);
        table.row(["a".to_owned(), "5 B".to_owned(), "queued".to_owned()]);
        table.row(["longer".to_owned(), "4.1 MB".to_owned(), String::new()]);
        assert_eq!(
            table.to_string(),
            "NAME      SIZE  STATE\na          5 B  queued\nlonger  4.1 MB"
        );
    }
}
