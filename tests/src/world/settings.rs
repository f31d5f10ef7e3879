//! A configuration file in the hands of a test.

use std::path::Path;

use toml::{Table, Value};

/// The tables of a TOML file.
#[derive(Debug, Default)]
pub struct Settings(Table);

impl Settings {
    /// Reads a file.
    ///
    /// # Panics
    /// When it is not there or is no TOML.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let table = text
            .parse()
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(table)
    }

    /// Reads a file, changes it, and writes it back in one step.
    pub fn edit(path: &Path, change: impl FnOnce(&mut Self)) {
        let mut settings = Self::read(path);
        change(&mut settings);
        settings.write(path);
    }

    /// Writes it in one step, so that a program that watches never sees half a file.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, path: &Path) {
        let text = toml::to_string(&self.0).expect("settings can be written");
        replace(path, &text);
    }

    /// Sets one value by its path; in a list of tables, in the first.
    ///
    /// # Panics
    /// When something on the way is no table.
    pub fn set(&mut self, path: &str, value: impl Into<Value>) -> &mut Self {
        let mut table = &mut self.0;
        let mut names: Vec<&str> = path.split('.').collect();
        let last = names.pop().expect("a path has a name");
        for name in names {
            let inner = table
                .entry(name)
                .or_insert_with(|| Value::Table(Table::new()));
            table = match inner {
                Value::Table(table) => table,
                Value::Array(list) => list
                    .first_mut()
                    .and_then(Value::as_table_mut)
                    .unwrap_or_else(|| panic!("{path}: {name} is a list without tables")),
                _ => panic!("{path}: {name} is no table"),
            };
        }
        table.insert(last.to_owned(), value.into());
        self
    }

    /// Sets several values.
    pub fn set_all(&mut self, values: &[(String, Value)]) {
        for (path, value) in values {
            self.set(path, value.clone());
        }
    }

    /// The whole table.
    pub fn table(&mut self) -> &mut Table {
        &mut self.0
    }
}

/// Writes a file beside its place and renames it.
///
/// # Panics
/// When it cannot be written.
fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    crate::certs::write_private(&beside, text);
    std::fs::rename(&beside, path).expect("the file is renamed");
}
