//! Reads a configuration: the main file and `conf.d/*.toml` beside it, merged, into a tree in which every
//! value knows the file and the line it came from.
//!
//! What the keys mean is for the program that owns them; it reads the tree through [`Section`], which
//! collects every problem instead of stopping at the first.

mod document;
mod live;
mod problem;
mod section;
mod value;
mod watch;

pub use document::{Document, Place, files_of, reason, sole_table};
pub use live::{Live, Replacements};
pub use problem::{ConfigErrors, Problem};
pub use section::{Known, Notes, Section};
pub use value::{Address, Complaint, Value, show_duration, show_size};
pub use watch::{Trigger, Watch, WatchError, WatchedFiles};

/// What a program's main file is read into.
///
/// The tree is read once by [`load`]; [`Configuration::read`] turns it into types that are valid by construction.
pub trait Configuration: Sized {
    /// Reads all keys. `None` only after a problem was noted.
    fn read(root: &Section<'_>) -> Option<Self>;
}

/// A configuration and what was noticed while it was read.
#[derive(Clone, Debug)]
pub struct Loaded<C> {
    /// The settings.
    pub config: C,
    /// Warnings, what differs from the defaults, and the keys that there are.
    pub notes: Notes,
    /// Every file that was read, the main file first.
    pub files: Vec<std::path::PathBuf>,
}

/// Loads `path` and its `conf.d`.
///
/// # Errors
/// Every problem found in any of the files, each with its file and line.
pub fn load<C: Configuration>(path: &std::path::Path) -> Result<Loaded<C>, ConfigErrors> {
    read_document(Document::load(path)?)
}

/// Reads what stands in one file, without its neighbours in `conf.d`: for who has the text and no file.
///
/// # Errors
/// As [`load`].
pub fn read_text<C: Configuration>(
    path: &std::path::Path,
    text: &str,
) -> Result<Loaded<C>, ConfigErrors> {
    read_document(Document::parse(path, text)?)
}

fn read_document<C: Configuration>(document: Document) -> Result<Loaded<C>, ConfigErrors> {
    let (config, notes) = section::read(&document, C::read)?;
    let files = document.files().to_vec();
    Ok(Loaded {
        config,
        notes,
        files,
    })
}
