//! The `[transaction_log]` table.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use atrn_shared::config::{Complaint, Section, Value};

use crate::transaction_log::{FORMATS, Field, Format};

/// What is written of every connection, where, and how long it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct TransactionLogConfig {
    /// Whether there is one.
    pub enabled: bool,
    /// The directory of its files; `None`: `log` in the data directory.
    pub path: Option<PathBuf>,
    /// How records are written.
    pub format: Format,
    /// What a record has, in this order; the common log format has its own.
    pub fields: Vec<Field>,
    /// When a new file begins.
    pub rotate: Rotate,
    /// Days kept beside the current file, or files where they begin with a size.
    pub keep: usize,
    /// Octets of all files; `None`: as much as suits the disk.
    pub max_size: Option<u64>,
}

/// When a new file begins.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Rotate {
    /// With the day, in UTC; also within it where one would have too much of what all may have.
    #[default]
    Daily,
    /// When the file has so many octets.
    Size(u64),
}

impl TransactionLogConfig {
    /// Where its files are.
    #[must_use]
    pub fn directory(&self, data_dir: &Path) -> PathBuf {
        self.path.clone().unwrap_or_else(|| data_dir.join("log"))
    }

    pub(super) fn read(root: &Section<'_>) -> Self {
        let section = root.section("transaction_log");
        let default = Self::default();
        let config = Self {
            enabled: section.or("enabled", default.enabled, Value::boolean),
            path: section.optional("path", Value::path),
            format: section.or("format", default.format, |value| value.word(&FORMATS)),
            fields: section.list_or("fields", default.fields, field),
            rotate: section.or("rotate", default.rotate, rotate),
            keep: section.or("keep", default.keep, |value| {
                value.integer(&KEEP).map(|number| number as usize)
            }),
            max_size: section.optional("max_size", |value| value.size(&MAX_SIZES)),
        };
        if config.fields.is_empty() {
            section.problem("fields", "is empty; name at least one");
        }
        let names: Vec<_> = config.fields.iter().map(|field| field.name()).collect();
        section.note_repeated("fields", &names);
        if config.format == Format::Ncsa && section.has("fields") {
            section.warn(
                "fields",
                "without effect: the format \"ncsa\" has its own fields",
            );
        }
        config
    }
}

impl Default for TransactionLogConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            path: None,
            format: Format::default(),
            fields: Field::DEFAULT.to_vec(),
            rotate: Rotate::default(),
            keep: 30,
            max_size: None,
        }
    }
}

fn field(value: Value<'_>) -> Result<Field, Complaint> {
    Field::named(value.text()?).ok_or_else(|| {
        let names: Vec<_> = Field::ALL.iter().map(|(_, name, _)| *name).collect();
        format!("{value} is not a field; there are {}", names.join(" ")).into()
    })
}

fn rotate(value: Value<'_>) -> Result<Rotate, Complaint> {
    if value.text().is_ok_and(|text| text == "daily") {
        return Ok(Rotate::Daily);
    }
    value.size(&SIZES).map(Rotate::Size).map_err(|_| {
        format!("{value} is neither \"daily\" nor a size from \"64KiB\" to \"1TB\"").into()
    })
}

const KEEP: RangeInclusive<u32> = 1..=100_000;
/// Smaller ones would be files for a few sessions.
const SIZES: RangeInclusive<u64> = 65_536..=1_000_000_000_000;
const MAX_SIZES: RangeInclusive<u64> = 1 << 20..=100_000_000_000_000;
