//! A wall clock of our own for a program, which jumps on order while the program runs.

use std::path::{Path, PathBuf};

/// Where Debian's package has the library; `$LIB` is the dynamic linker's word for the folder of this machine.
const LIBRARY: &str = "/usr/$LIB/faketime/libfaketimeMT.so.1";

/// The clock: a file that says how far it is from the right time.
#[derive(Debug)]
pub struct WallClock {
    file: PathBuf,
}

impl WallClock {
    /// One that is right, in a folder that the program reads from: the library looks at the file from within it.
    ///
    /// # Panics
    /// When its file cannot be written.
    #[must_use]
    pub fn right(folder: &Path) -> Self {
        let clock = Self {
            file: folder.join("clock"),
        };
        clock.jump("+0");
        clock
    }

    /// So far from the right time from now on: `+20y`, `-20y`, `+0`.
    ///
    /// # Panics
    /// When its file cannot be written.
    pub fn jump(&self, offset: &str) {
        let beside = self.file.with_extension("new");
        std::fs::write(&beside, format!("{offset}\n")).expect("the clock is set");
        std::fs::rename(&beside, &self.file).expect("the clock is set");
    }

    /// What a program's environment must have to go by it. Time that passes is left alone.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        [
            ("LD_PRELOAD", LIBRARY.to_owned()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("NO_FAKE_STAT", "1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }
}
