//! The files of large content: where they are, how they become durable, and when they go.
//!
//! A file's name is synced when it is made, its octets before the commit that names it; it is removed after the commit
//! that forgets it. So a crash leaves at worst a file that no row names, which the next start sweeps away.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::id::QueueId;
use super::space::{Room, Space};
use super::sqlite::keeper::Chore;

/// Octets that go to the disk past the page cache begin in memory at a multiple of this, and are a multiple of it: the
/// block of every disk and file system that is in use.
pub(super) const ALIGNMENT: usize = 4096;

/// Directories that content files are spread over. The sync of a directory waits for everything that
/// others did in it meanwhile, so sessions that share one slow each other down.
const DIRECTORIES: i64 = 64;

/// Where content files are.
#[derive(Debug)]
pub(super) struct Spool {
    path: PathBuf,
    space: Space,
    /// Who removes files, so that no session waits for it.
    chores: SyncSender<Chore>,
    put_off: Mutex<PutOff>,
}

/// Files that nobody names any more, and that copies of the queue may still need.
#[derive(Debug, Default)]
struct PutOff {
    copies: usize,
    removals: Vec<QueueId>,
}

/// While it lives no content file is removed.
#[derive(Debug)]
#[must_use = "files may be removed once it is gone"]
pub(super) struct KeptFiles {
    spool: Arc<Spool>,
}

/// The file with the content of a message in a spool directory.
pub(super) fn spool_path(spool: &Path, id: QueueId) -> PathBuf {
    spool
        .join(format!("{:02x}", id.spread(DIRECTORIES)))
        .join(id.to_string())
}

/// The directories that a spool directory consists of.
pub(super) fn spool_directories(spool: &Path) -> impl Iterator<Item = PathBuf> {
    (0..DIRECTORIES).map(|number| spool.join(format!("{number:02x}")))
}

/// Whether there is any content file in a spool directory.
pub(super) fn has_files(spool: &Path) -> bool {
    let files = spool_directories(spool).flat_map(std::fs::read_dir);
    files.flatten().next().is_some()
}

/// A content file that is removed again unless [`SpoolFile::keep`] is called.
#[derive(Debug)]
pub(super) struct SpoolFile {
    id: QueueId,
    file: File,
    /// Writes go past the page cache.
    is_direct: AtomicBool,
    kept: AtomicBool,
    spool: Arc<Spool>,
}

impl Spool {
    pub(super) fn open(path: PathBuf, chores: SyncSender<Chore>) -> io::Result<Self> {
        for directory in spool_directories(&path) {
            let made = DirBuilder::new().mode(0o700).create(directory);
            made.or_else(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => Ok(()),
                _ => Err(error),
            })?;
        }
        File::open(&path)?.sync_all()?;
        Ok(Self {
            space: Space::of(path.clone()),
            path,
            chores,
            put_off: Mutex::default(),
        })
    }

    pub(super) fn directories(&self) -> impl Iterator<Item = PathBuf> {
        spool_directories(&self.path)
    }

    pub(super) fn space(&self) -> &Space {
        &self.space
    }

    pub(super) fn file(&self, id: QueueId) -> PathBuf {
        spool_path(&self.path, id)
    }

    /// Removes a file now or soon.
    pub(super) fn discard(&self, id: QueueId) {
        // A full channel or an ended thread must not lose the file: then it is done here.
        let refused = self.chores.try_send(Chore::Remove(id));
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = refused {
            self.remove(id);
        }
    }

    /// Puts off every removal from here on. A view of the database that is taken later names no file that is gone.
    pub(super) fn keep_all(self: &Arc<Self>) -> KeptFiles {
        self.put_off().copies += 1;
        KeptFiles {
            spool: Arc::clone(self),
        }
    }

    fn put_off(&self) -> MutexGuard<'_, PutOff> {
        self.put_off.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn remove(&self, id: QueueId) {
        {
            let mut put_off = self.put_off();
            if put_off.copies > 0 {
                put_off.removals.push(id);
                return;
            }
        }
        let path = self.file(id);
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "cannot remove a content file");
            }
        }
    }

    /// Makes the file of a message, and makes its name durable while the content is still coming.
    pub(super) fn create(self: &Arc<Self>, id: QueueId) -> io::Result<Arc<SpoolFile>> {
        let path = self.file(id);
        let (file, is_direct) = create(&path)?;
        let file = Arc::new(SpoolFile {
            id,
            file,
            is_direct: AtomicBool::new(is_direct),
            kept: AtomicBool::new(false),
            spool: Arc::clone(self),
        });
        File::open(path.parent().unwrap_or(&self.path))?.sync_all()?;
        Ok(file)
    }
}

/// Content is read once or twice and then removed: to copy it into the page cache first costs more than half of all
/// that is done for a large message. Some file systems know no other way.
fn create(path: &Path) -> io::Result<(File, bool)> {
    let direct = OpenOptions::new()
        .write(true)
        .create_new(true)
        .custom_flags(OFlag::O_DIRECT.bits())
        .open(path);
    match direct {
        Err(error) if is_not_direct(&error) => match File::create_new(path) {
            // The refused attempt made it on some of them.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let file = OpenOptions::new().write(true).truncate(true).open(path);
                file.map(|file| (file, false))
            }
            created => created.map(|file| (file, false)),
        },
        direct => direct.map(|file| (file, true)),
    }
}

fn is_not_direct(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidInput
}

impl Drop for KeptFiles {
    fn drop(&mut self) {
        let removals = {
            let mut put_off = self.spool.put_off();
            put_off.copies -= 1;
            match put_off.copies {
                0 => std::mem::take(&mut put_off.removals),
                _ => Vec::new(),
            }
        };
        for id in removals {
            self.spool.discard(id);
        }
    }
}

impl SpoolFile {
    /// Only the last part may be something else than a multiple of [`ALIGNMENT`].
    pub(super) fn write(&self, part: &[u8]) -> io::Result<()> {
        if self.spool.space.room(part.len() as u64, 0) == Room::Full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let (whole, rest) = part.split_at(part.len() - part.len() % ALIGNMENT);
        match (&self.file).write_all(whole) {
            Err(error) if is_not_direct(&error) && self.is_new()? => {
                self.go_through_memory()?;
                (&self.file).write_all(whole)?;
            }
            written => written?,
        }
        if !rest.is_empty() {
            self.go_through_memory()?;
            (&self.file).write_all(rest)?;
        }
        Ok(())
    }

    /// Nothing was written yet, so that nothing would be written twice.
    fn is_new(&self) -> io::Result<bool> {
        Ok((&self.file).stream_position()? == 0)
    }

    fn go_through_memory(&self) -> io::Result<()> {
        if self.is_direct.swap(false, Ordering::Relaxed) {
            fcntl(&self.file, FcntlArg::F_SETFL(OFlag::empty()))?;
        }
        Ok(())
    }

    /// The file has a row now; it goes when the row goes.
    pub(super) fn keep(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }

    /// The octets; the name is durable since [`Spool::create`] (R5321-15).
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

impl Drop for SpoolFile {
    fn drop(&mut self) {
        if !self.kept.load(Ordering::Relaxed) {
            self.spool.discard(self.id);
        }
    }
}
