//! The files of the log: the current one, those before it, and when a new one begins.
//!
//! A name that was given is never overwritten, and never given again while a later one is there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::civil::Date;

use super::text::utc;

/// The file that is written.
pub const CURRENT: &str = "transactions.log";
/// Other programs may read along only if the administrator lets them.
const MODE: u32 = 0o600;

/// What a file before the current one is called: the day on which it began, and a number where there are several.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Name {
    day: Date,
    number: u32,
}

impl Name {
    fn parse(name: &str) -> Option<Self> {
        let rest = name.strip_prefix("transactions-")?.strip_suffix(".log")?;
        let (day, number) = match rest.split_once('.') {
            Some((day, number)) => (day, number.parse().ok()?),
            None => (rest, 1),
        };
        let day = day.parse().ok()?;
        let name = Self { day, number };
        // What would print otherwise was not named by us.
        (name.print() == format!("transactions-{rest}.log")).then_some(name)
    }

    fn print(self) -> String {
        match self {
            Self { day, number: 1 } => format!("transactions-{day}.log"),
            Self { day, number } => format!("transactions-{day}.{number}.log"),
        }
    }
}

/// The files in a directory that are not the current one, oldest first.
///
/// # Errors
/// When the directory cannot be read.
pub fn earlier(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let names = names(directory)?;
    Ok(names
        .iter()
        .map(|name| directory.join(name.print()))
        .collect())
}

fn names(directory: &Path) -> io::Result<Vec<Name>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        names.extend(name.to_str().and_then(Name::parse));
    }
    names.sort_unstable();
    Ok(names)
}

/// The current file, opened.
#[derive(Debug)]
pub(super) struct Current {
    file: File,
    path: PathBuf,
    /// Octets in it.
    pub(super) octets: u64,
    /// The day on which it began, as far as can be known.
    pub(super) day: Date,
    /// There is nothing in it but its header.
    pub(super) is_fresh: bool,
}

impl Current {
    /// Opens the current file, and makes it where there is none.
    pub(super) fn open(directory: &Path, now: Timestamp) -> io::Result<Self> {
        let path = directory.join(CURRENT);
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).mode(MODE).open(&path)?;
        let found = file.metadata()?;
        let octets = found.len();
        let day = if octets == 0 {
            day(now)
        } else {
            day(written(&found))
        };
        Ok(Self {
            file,
            path,
            octets,
            day,
            is_fresh: octets == 0,
        })
    }

    /// Whether its name still leads to it: who moved or removed it wants a new one.
    pub(super) fn is_in_place(&self) -> bool {
        let (Ok(named), Ok(open)) = (fs::metadata(&self.path), self.file.metadata()) else {
            return false;
        };
        (named.dev(), named.ino()) == (open.dev(), open.ino())
    }

    /// The first octet, which tells the format; none in an empty file.
    pub(super) fn first(&self) -> io::Result<Option<u8>> {
        if self.octets == 0 {
            return Ok(None);
        }
        self.octet_at(0)
    }

    /// Whether the last line is whole: whoever was killed, or met a full disk, may have left a part of one.
    pub(super) fn ends_whole(&self) -> io::Result<bool> {
        match self.octets.checked_sub(1) {
            Some(last) => Ok(self.octet_at(last)? == Some(b'\n')),
            None => Ok(true),
        }
    }

    fn octet_at(&self, position: u64) -> io::Result<Option<u8>> {
        let mut octet = [0];
        let count = File::open(&self.path)?.read_at(&mut octet, position)?;
        Ok((count == 1).then_some(octet[0]))
    }

    /// Appends whole lines. How many octets of them are in the file, and why not all: what is there of a line that did not fit
    /// is cut off again.
    pub(super) fn append(&mut self, lines: &[u8]) -> (usize, io::Result<()>) {
        let mut done = 0;
        while done < lines.len() {
            match self.file.write(&lines[done..]) {
                Ok(0) => return self.cut_back(lines, done, io::ErrorKind::WriteZero.into()),
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.cut_back(lines, done, error),
            }
        }
        self.octets += done as u64;
        (done, Ok(()))
    }

    fn cut_back(&mut self, lines: &[u8], done: usize, error: io::Error) -> (usize, io::Result<()>) {
        let whole = memchr::memrchr(b'\n', &lines[..done]).map_or(0, |end| end + 1);
        self.octets += whole as u64;
        if whole < done && self.file.set_len(self.octets).is_err() {
            // Whoever opens it next sees that it ends in the middle of a line.
            self.octets += (done - whole) as u64;
        }
        (whole, Err(error))
    }
}

/// The day in UTC.
pub(super) fn day(at: Timestamp) -> Date {
    utc(at).date()
}

fn written(found: &fs::Metadata) -> Timestamp {
    let modified = found.modified().ok();
    modified
        .and_then(|modified| Timestamp::try_from(modified).ok())
        .unwrap_or_else(Timestamp::now)
}

/// What is kept of the files before the current one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    /// So many files, or days.
    pub(super) count: usize,
    /// Whether the files of a day count as one.
    pub(super) by_day: bool,
    /// Octets in all of them.
    pub(super) octets: u64,
}

/// Gives the current file the name of a day, and removes the oldest beyond what is kept.
pub(super) fn put_away(directory: &Path, day: Date, kept: &Kept) -> io::Result<()> {
    let names = names(directory)?;
    let of_day = names.iter().filter(|name| name.day == day);
    let mut name = Name {
        day,
        number: of_day.map(|name| name.number).max().unwrap_or(0) + 1,
    };
    // Taken first, so that whatever has the name meanwhile is not written over.
    while let Err(error) = reserve(&directory.join(name.print())) {
        if error.kind() != io::ErrorKind::AlreadyExists {
            return Err(error);
        }
        name.number += 1;
    }
    fs::rename(directory.join(CURRENT), directory.join(name.print()))?;
    forget(directory, kept)
}

fn reserve(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(MODE).open(path)?;
    Ok(())
}

/// Removes the oldest files beyond what is kept.
pub(super) fn forget(directory: &Path, kept: &Kept) -> io::Result<()> {
    let names = names(directory)?;
    let (mut count, mut octets, mut later) = (0, 0_u64, None);
    let stays = |name: &&Name| {
        if !(kept.by_day && later == Some(name.day)) {
            count += 1;
        }
        later = Some(name.day);
        // What cannot be looked at is gone, or does not let itself be removed, which says so.
        let found = fs::symlink_metadata(directory.join(name.print()));
        octets = octets.saturating_add(found.map_or(0, |found| found.len()));
        count <= kept.count && octets <= kept.octets
    };
    let spare = names.len() - names.iter().rev().take_while(stays).count();
    for name in &names[..spare] {
        match fs::remove_file(directory.join(name.print())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(directory: &Path) -> Vec<String> {
        let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        earlier(directory).unwrap().into_iter().map(name).collect()
    }

    fn put(directory: &Path, day: &str, count: usize) {
        let kept = Kept {
            count,
            by_day: false,
            octets: u64::MAX,
        };
        fs::write(directory.join(CURRENT), format!("of {day}")).unwrap();
        put_away(directory, day.parse().unwrap(), &kept).unwrap();
        assert!(!directory.join(CURRENT).exists());
    }

    #[test]
    fn names_are_in_the_order_of_time() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path();
        for name in [
            "transactions-1.log",
            "transactions-2026-11-21.1.log",
            "other-2026-11-21.log",
            "transactions-2026-11-21.02.log",
        ] {
            fs::write(directory.join(name), "").unwrap();
        }
        assert_eq!(listed(directory), [""; 0], "not ours");
        for day in ["2026-11-21", "2026-11-21", "2026-11-20"] {
            put(directory, day, 100);
        }
        for _ in 0..9 {
            put(directory, "2026-11-21", 100);
        }
        let names = listed(directory);
        assert_eq!(
            names[..3],
            [
                "transactions-2026-11-20.log",
                "transactions-2026-11-21.log",
                "transactions-2026-11-21.2.log"
            ]
        );
        assert_eq!(names.last().unwrap(), "transactions-2026-11-21.11.log");
    }

    #[test]
    fn only_so_many_are_kept_and_no_name_is_given_twice() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path();
        for _ in 0..5 {
            put(directory, "2026-11-21", 2);
        }
        let expected = [
            "transactions-2026-11-21.4.log",
            "transactions-2026-11-21.5.log",
        ];
        assert_eq!(listed(directory), expected);
        put(directory, "2026-11-22", 1);
        assert_eq!(listed(directory), ["transactions-2026-11-22.log"]);
    }

    #[test]
    fn the_oldest_go_by_days_and_by_octets() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path();
        for day in ["20", "21", "21", "21", "22"] {
            put(directory, &format!("2026-11-{day}"), 100);
        }
        let left = |count, octets| {
            let by_day = true;
            let kept = Kept {
                count,
                by_day,
                octets,
            };
            forget(directory, &kept).unwrap();
            listed(directory).len()
        };
        let each = "of 2026-11-21".len() as u64;
        assert_eq!(left(3, u64::MAX), 5);
        assert_eq!(left(2, u64::MAX), 4, "three of a day are one day");
        assert_eq!(left(2, each * 3), 3);
        assert_eq!(
            listed(directory),
            [
                "transactions-2026-11-21.2.log",
                "transactions-2026-11-21.3.log",
                "transactions-2026-11-22.log"
            ]
        );
        assert_eq!(left(2, each - 1), 0);
    }

    #[test]
    fn a_file_that_was_moved_away_is_missed() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path();
        let now = Timestamp::now();
        let current = Current::open(directory, now).unwrap();
        assert!(current.is_in_place());
        fs::rename(directory.join(CURRENT), directory.join("mine.log")).unwrap();
        assert!(!current.is_in_place());
        let other = Current::open(directory, now).unwrap();
        assert!(other.is_in_place() && !current.is_in_place());
        let mode = other.file.metadata().unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
