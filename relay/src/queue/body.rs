//! Content on its way into the queue and out of it: small in memory, large in a file, never whole.
//!
//! A file is written, synced, and its directory synced, before the commit that names it; it is removed
//! after the commit that forgets it. So a crash leaves at worst a file that no row names, which the
//! next start sweeps away. Runtime workers never touch a file: each hop to a blocking thread carries
//! [`CHUNK_BYTES`], and while one chunk is written the next one fills.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::task::{JoinHandle, spawn_blocking};

use super::error::StoreError;
use super::id::QueueId;
use super::space::{Room, Space};
use super::sqlite::keeper::Chore;

/// Content up to this size lives in the database. Measured: docs/decisions/0002-queue-on-sqlite.md.
pub const INLINE_BYTES: usize = 64 * 1024;
/// One hop between a session and the disk. Two of them are in memory for each body.
const CHUNK_BYTES: usize = 256 * 1024;

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

/// The size and the CRC-32 of a file.
pub(super) fn digest(path: &Path) -> io::Result<(u64, u32)> {
    let mut file = File::open(path)?;
    let mut checksum = crc32fast::Hasher::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut size = 0;
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok((size, checksum.finalize())),
            octets => {
                checksum.update(&chunk[..octets]);
                size += octets as u64;
            }
        }
    }
}

/// A content file that is removed again unless [`SpoolFile::keep`] is called.
#[derive(Debug)]
pub(super) struct SpoolFile {
    id: QueueId,
    file: File,
    kept: AtomicBool,
    spool: Arc<Spool>,
}

/// Takes a message's content. Dropping it discards what was written.
#[derive(Debug)]
#[must_use = "content that is not accepted is discarded"]
pub struct BodyWriter {
    id: QueueId,
    size: u64,
    checksum: crc32fast::Hasher,
    buffer: Vec<u8>,
    file: Option<Arc<SpoolFile>>,
    writing: Option<JoinHandle<io::Result<Written>>>,
    spool: Arc<Spool>,
}

/// What comes back from a blocking thread: the file, and the buffer for its next use.
type Written = (Arc<SpoolFile>, Vec<u8>);

/// Content that is complete, and durable if it is in a file.
#[derive(Debug)]
pub(super) enum Body {
    Inline(Vec<u8>),
    Spool(Arc<SpoolFile>),
}

/// What the row of a message says of its content.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    pub(super) message: QueueId,
    pub(super) size: u64,
    /// CRC-32; `None`: not to be verified.
    pub(super) checksum: Option<u32>,
}

/// Gives a message's content piece by piece.
#[derive(Debug)]
pub struct ContentReader {
    size: u64,
    source: Source,
    /// What was read so far, and what all of it should be; `None`: nobody asks.
    compared: Option<(crc32fast::Hasher, u32)>,
}

#[derive(Debug)]
enum Source {
    Done,
    File(JoinHandle<io::Result<(File, Vec<u8>)>>, u64),
    Inline(Bytes),
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

    fn create(self: &Arc<Self>, id: QueueId) -> io::Result<Arc<SpoolFile>> {
        let file = File::create_new(self.file(id))?;
        Ok(Arc::new(SpoolFile {
            id,
            file,
            kept: AtomicBool::new(false),
            spool: Arc::clone(self),
        }))
    }
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
    fn write(&self, part: &[u8]) -> io::Result<()> {
        if self.spool.space.room(part.len() as u64, 0) == Room::Full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        (&self.file).write_all(part)
    }

    /// The file has a row now; it goes when the row goes.
    pub(super) fn keep(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }

    /// File first, then the directory that names it (R5321-15).
    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()?;
        let file = self.spool.file(self.id);
        let directory = file.parent().unwrap_or(&self.spool.path);
        File::open(directory)?.sync_all()
    }
}

impl Drop for SpoolFile {
    fn drop(&mut self) {
        if !self.kept.load(Ordering::Relaxed) {
            self.spool.discard(self.id);
        }
    }
}

impl BodyWriter {
    pub(super) fn new(id: QueueId, spool: Arc<Spool>) -> Self {
        Self {
            id,
            size: 0,
            checksum: crc32fast::Hasher::new(),
            buffer: Vec::new(),
            file: None,
            writing: None,
            spool,
        }
    }

    /// The id that the message will have, for its trace header.
    #[must_use]
    pub fn id(&self) -> QueueId {
        self.id
    }

    /// Octets written so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.size
    }

    /// CRC-32 of what was written so far.
    pub(super) fn checksum(&self) -> u32 {
        self.checksum.clone().finalize()
    }

    /// Whether nothing was written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Takes the next piece; waits only when the disk is a whole chunk behind.
    ///
    /// # Errors
    /// When the disk fails or is full; the body is of no use afterwards.
    pub async fn write(&mut self, mut part: &[u8]) -> Result<(), StoreError> {
        self.size += part.len() as u64;
        self.checksum.update(part);
        if self.size <= INLINE_BYTES as u64 {
            self.buffer.extend_from_slice(part);
            return Ok(());
        }
        while !part.is_empty() {
            let room = CHUNK_BYTES - self.buffer.len();
            let (now, later) = part.split_at(room.min(part.len()));
            self.buffer.extend_from_slice(now);
            part = later;
            if self.buffer.len() == CHUNK_BYTES {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Completes the content; what does not fit the database is on disk afterwards.
    pub(super) async fn finish(mut self) -> Result<Body, StoreError> {
        if self.size <= INLINE_BYTES as u64 {
            return Ok(Body::Inline(std::mem::take(&mut self.buffer)));
        }
        self.written().await?;
        let buffer = std::mem::take(&mut self.buffer);
        let (id, spool, file) = (self.id, Arc::clone(&self.spool), self.file.take());
        let synced = spawn_blocking(move || {
            let file = file.map_or_else(|| spool.create(id), Ok)?;
            file.write(&buffer)?;
            file.sync().map(|()| file)
        });
        let file = blocking(synced.await, "write a content file")?;
        Ok(Body::Spool(file))
    }

    /// Gives the buffer to a blocking thread, once the one before has come back.
    async fn flush(&mut self) -> Result<(), StoreError> {
        let next = self.written().await?;
        let mut buffer = std::mem::replace(&mut self.buffer, next);
        let (id, spool, file) = (self.id, Arc::clone(&self.spool), self.file.clone());
        self.writing = Some(spawn_blocking(move || {
            let file = file.map_or_else(|| spool.create(id), Ok)?;
            file.write(&buffer)?;
            buffer.clear();
            Ok((file, buffer))
        }));
        Ok(())
    }

    /// Waits for the write under way and gives an empty buffer.
    async fn written(&mut self) -> Result<Vec<u8>, StoreError> {
        // Taken only when it is done: whoever gives up waiting must find it here again.
        let Some(writing) = self.writing.as_mut() else {
            return Ok(Vec::new());
        };
        let done = writing.await;
        self.writing = None;
        let (file, buffer) = blocking(done, "write a content file")?;
        self.file = Some(file);
        Ok(buffer)
    }
}

impl ContentReader {
    pub(super) fn inline(content: Bytes) -> Self {
        Self {
            size: content.len() as u64,
            source: Source::Inline(content),
            compared: None,
        }
    }

    /// Computes the checksum of what is read.
    pub(super) fn compared_with(mut self, checksum: Option<u32>) -> Self {
        self.compared = checksum.map(|checksum| (crc32fast::Hasher::new(), checksum));
        self
    }

    /// Behind the end: whether it was something else than what was accepted. Asked only of content that an admin reads;
    /// any other that changed is not given out at all.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        let compared = self.compared.as_ref();
        compared.is_some_and(|(read, expected)| read.clone().finalize() != *expected)
    }

    /// A file is read twice, once to see whether it is whole: inside a transaction it would be too late to say so.
    pub(super) async fn open(spool: &Spool, stored: Stored) -> Result<Self, StoreError> {
        let Stored { message, size, .. } = stored;
        let path = spool.file(message);
        let opened = spawn_blocking(move || open_whole(&path, stored)).await;
        let file = match opened {
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::Damaged(format!("no content file of {message}")));
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let text = format!("the content file of {message} is not {size} octets long");
                return Err(StoreError::Damaged(text));
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(stored.changed());
            }
            opened => blocking(opened, "open a content file")?,
        };
        let source = Source::File(read_ahead(file, Vec::new(), size), size);
        Ok(Self {
            size,
            source,
            compared: None,
        })
    }

    /// Octets in all.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The next piece; `None` after the last. While it is sent the next one is read.
    ///
    /// # Errors
    /// When the disk fails. Then the transaction must be broken off, never ended (OWN-3).
    pub async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        let next = self.read().await?;
        if let (Some((read, _)), Some(octets)) = (&mut self.compared, &next) {
            read.update(octets);
        }
        Ok(next)
    }

    async fn read(&mut self) -> Result<Option<Bytes>, StoreError> {
        match &mut self.source {
            Source::Done => Ok(None),
            Source::Inline(content) => {
                let content = std::mem::take(content);
                self.source = Source::Done;
                Ok(Some(content).filter(|content| !content.is_empty()))
            }
            Source::File(reading, left) => {
                let (file, chunk) = blocking(reading.await, "read a content file")?;
                let left = *left - chunk.len() as u64;
                self.source = match left {
                    0 => Source::Done,
                    _ => Source::File(read_ahead(file, Vec::new(), left), left),
                };
                Ok(Some(Bytes::from(chunk)))
            }
        }
    }
}

impl Stored {
    /// The content of a row, if it is what was accepted.
    pub(super) fn verified(&self, content: Bytes) -> Result<ContentReader, StoreError> {
        if content.len() as u64 != self.size {
            let text = format!("no whole content of {}", self.message);
            return Err(StoreError::Damaged(text));
        }
        match self.checksum {
            Some(checksum) if checksum != crc32fast::hash(&content) => Err(self.changed()),
            _ => Ok(ContentReader::inline(content)),
        }
    }

    fn changed(&self) -> StoreError {
        let text = format!("the content of {} is not what was accepted", self.message);
        StoreError::Damaged(text)
    }
}

fn open_whole(path: &Path, stored: Stored) -> io::Result<File> {
    let mut file = File::open(path)?;
    if file.metadata()?.len() != stored.size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let Some(expected) = stored.checksum else {
        return Ok(file);
    };
    let mut checksum = crc32fast::Hasher::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk)? {
            0 => break,
            octets => checksum.update(&chunk[..octets]),
        }
    }
    if checksum.finalize() != expected {
        return Err(io::ErrorKind::InvalidData.into());
    }
    file.rewind()?;
    Ok(file)
}

fn read_ahead(
    file: File,
    mut chunk: Vec<u8>,
    left: u64,
) -> JoinHandle<io::Result<(File, Vec<u8>)>> {
    spawn_blocking(move || {
        let length = usize::try_from(left).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        chunk.resize(length, 0);
        (&file).read_exact(&mut chunk)?;
        Ok((file, chunk))
    })
}

/// The result of a blocking thread; one that was cancelled means that the runtime shuts down.
fn blocking<T>(
    result: Result<io::Result<T>, tokio::task::JoinError>,
    attempt: &'static str,
) -> Result<T, StoreError> {
    match result {
        Ok(result) => result.map_err(|error| StoreError::io(attempt, error)),
        Err(_) => Err(StoreError::Closed),
    }
}
