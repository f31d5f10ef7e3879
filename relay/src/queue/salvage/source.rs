//! The damaged database: a copy of it that SQLite can be brought to open.

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use atrn_shared::smtp::address::Domain;
use rusqlite::{Connection, OptionalExtension};

use super::super::backup::{BackupError, prepare};
use super::super::error::OpenError;
use super::super::spool::has_files;
use super::super::sqlite;

const PAGE_BYTES: usize = 4096;
/// Octets of the header that say which change of the file its size was noted at. A size that was noted at another
/// change than the last is not believed, and the file's own counts.
const SIZE_NOTED_AT: std::ops::Range<usize> = 92..96;
/// Read by our own programs only through this header.
const MAGIC: &[u8] = b"SQLite format 3\0";

pub(super) struct Source {
    pub(super) connection: Connection,
    /// What had to be done to open it.
    pub(super) notes: Vec<String>,
    work: PathBuf,
    /// Nobody else opens the queue meanwhile.
    _lock: Option<File>,
}

/// What the queue keeps beside its messages; `None`: cannot be read.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    pub(super) instance: Option<i64>,
    /// Instances of before restores, each with the last key that has it.
    pub(super) former: Vec<(i64, i64)>,
    pub(super) mark: Option<i64>,
    pub(super) steady: Option<i64>,
    pub(super) wall: Option<i64>,
}

impl Source {
    /// Copies the database of `data_dir` with its log into `directory`, and opens the copy.
    pub(super) fn open(data_dir: &Path, directory: &Path) -> Result<Self, BackupError> {
        let database = data_dir.join("queue.db");
        let is_there = database.is_file();
        if !is_there && !has_files(&data_dir.join("spool")) {
            return Err(BackupError::refused(&database, "there is no queue here"));
        }
        let lock = hold(&data_dir.join("queue.lock"))?;
        prepare(directory)?;
        let work = directory.join("work");
        fs::create_dir(&work).map_err(BackupError::io(&work))?;
        let mut notes = Vec::new();
        let copy = work.join("queue.db");
        match is_there {
            true => match copy_readable(&database, &copy)? {
                0 => {}
                1 => notes.push("1 page of the database cannot be read from the disk".to_owned()),
                blank => notes.push(format!(
                    "{blank} pages of the database cannot be read from the disk"
                )),
            },
            false => {
                notes.push("there is no database: contents are all that is left".to_owned());
                drop(sqlite::open_writer(&copy)?);
            }
        }
        let log = database.with_extension("db-wal");
        if is_there && log.exists() {
            copy_readable(&log, &copy.with_extension("db-wal"))?;
        }
        let connection = match open_copy(&copy) {
            Ok(connection) => connection,
            Err(error) => {
                notes.push(format!("the first page of the database was of no use ({error}) and was replaced by that of a new queue"));
                mend(&copy, &work)?;
                open_copy(&copy).map_err(BackupError::sqlite(&database))?
            }
        };
        Ok(Self {
            connection,
            notes,
            work,
            _lock: lock,
        })
    }

    pub(super) fn settings(&self, notes: &mut Vec<String>) -> Settings {
        let read = |name: &str| {
            let query = "SELECT value FROM setting WHERE name = ?1";
            let value = self.connection.query_row(query, [name], |row| row.get(0));
            value.optional().ok().flatten()
        };
        let settings = Settings {
            instance: read("instance").filter(|instance| (0..1 << 30).contains(instance)),
            former: self.former_instances(notes),
            mark: read("mark").filter(|mark| (0..=super::KEY_MAX).contains(mark)),
            steady: read("steady"),
            wall: read("wall"),
        };
        if settings.instance.is_none() {
            notes.push("the store's part of the delivery ids cannot be read: a new one was made, and what a puller took without the relay hearing of it will come twice".to_owned());
        }
        settings
    }

    fn former_instances(&self, notes: &mut Vec<String>) -> Vec<(i64, i64)> {
        let mut former = Vec::new();
        let mut read = || -> rusqlite::Result<()> {
            let query = "SELECT until, instance FROM former_instance ORDER BY until";
            let mut statement = self.connection.prepare(query)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let (until, instance): (i64, i64) = (row.get(0)?, row.get(1)?);
                let can_be =
                    (0..=super::KEY_MAX).contains(&until) && (0..1 << 30).contains(&instance);
                former.extend(can_be.then_some((until, instance)));
            }
            Ok(())
        };
        if let Err(error) = read() {
            notes.push(format!("the delivery ids of before a restore cannot be read ({error}): of mail from before it, what a puller took without the relay hearing of it will come twice"));
        }
        former
    }

    /// Names by key, as far as they can be read.
    pub(super) fn domains(&self, notes: &mut Vec<String>) -> HashMap<i64, Domain> {
        let mut domains = HashMap::new();
        let mut read = || -> rusqlite::Result<()> {
            let mut statement = self.connection.prepare("SELECT key, name FROM domain")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let (key, name): (i64, String) = (row.get(0)?, row.get(1)?);
                if let Ok(domain) = Domain::parse(&name) {
                    domains.insert(key, domain);
                }
            }
            Ok(())
        };
        if let Err(error) = read() {
            notes.push(format!("the names of the domains cannot be read ({error}); those of the recipients take their place"));
        }
        domains
    }

    /// The copy is of no use any more.
    pub(super) fn remove(self) -> Result<(), BackupError> {
        drop(self.connection);
        fs::remove_dir_all(&self.work).map_err(BackupError::io(&self.work))
    }
}

/// Holds the lock of the queue without making or changing it.
fn hold(path: &Path) -> Result<Option<File>, BackupError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(BackupError::io(path)(error)),
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {
            let path = path.to_owned();
            Err(OpenError::InUse { path }.into())
        }
        Err(TryLockError::Error(error)) => Err(BackupError::io(path)(error)),
    }
}

/// Copies a file page by page; what the disk does not give is blank. The number of blank pages.
pub(super) fn copy_readable(from: &Path, to: &Path) -> Result<u64, BackupError> {
    let mut source = File::open(from).map_err(BackupError::io(from))?;
    let length = source.metadata().map_err(BackupError::io(from))?.len();
    let mut target = File::create_new(to).map_err(BackupError::io(to))?;
    let mut page = [0; PAGE_BYTES];
    let mut blank = 0;
    let mut at = 0;
    while at < length {
        let octets = usize::try_from(length - at).map_or(PAGE_BYTES, |left| left.min(PAGE_BYTES));
        let read = source
            .seek(SeekFrom::Start(at))
            .and_then(|_| source.read_exact(&mut page[..octets]));
        if read.is_err() {
            page.fill(0);
            blank += 1;
        }
        target
            .write_all(&page[..octets])
            .map_err(BackupError::io(to))?;
        at += octets as u64;
    }
    Ok(blank)
}

/// Opens the copy, and sees that its schema is one that we can ask.
fn open_copy(path: &Path) -> rusqlite::Result<Connection> {
    let mut head = [0; MAGIC.len()];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut head));
    if read.is_err() || head != MAGIC {
        let error = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_NOTADB);
        return Err(rusqlite::Error::SqliteFailure(error, None));
    }
    let connection = Connection::open(path)?;
    // Pages that the file has lost must not keep the others from being read.
    connection.pragma_update(None, "writable_schema", true)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.set_prepared_statement_cache_capacity(64);
    for query in super::scan::TREES.iter().chain(&super::message::QUERIES) {
        connection.prepare(query)?;
    }
    Ok(connection)
}

/// Puts the first page of a new queue in the place of one that is of no use. The schema is made in the same order
/// each time, so its trees begin at the same pages in every queue.
fn mend(copy: &Path, work: &Path) -> Result<(), BackupError> {
    let new = work.join("new.db");
    let connection = sqlite::open_writer(&new)?;
    let failed = BackupError::sqlite(&new);
    connection
        .query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))
        .and_then(|()| connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())))
        .map_err(failed)?;
    drop(connection);
    let mut page = [0; PAGE_BYTES];
    File::open(&new)
        .and_then(|mut file| file.read_exact(&mut page))
        .map_err(BackupError::io(&new))?;
    page[SIZE_NOTED_AT].fill(0xff);
    let replaced = || -> io::Result<()> {
        let mut file = File::options().read(true).write(true).open(copy)?;
        let pages = file.metadata()?.len().div_ceil(PAGE_BYTES as u64).max(1);
        file.set_len(pages * PAGE_BYTES as u64)?;
        file.write_all(&page)
    };
    replaced().map_err(BackupError::io(copy))
}
