//! Content on its way into the queue and out of it: small in memory, large in a file, never whole.
//!
//! Runtime workers never touch a file: each hop to a blocking thread carries [`BLOCK_BYTES`], and while one block is
//! written the next one fills. Two of them are in memory for each body.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::{JoinHandle, spawn_blocking};

use super::block::{BLOCK_BYTES, Block};
use super::error::StoreError;
use super::id::QueueId;
use super::spool::{Spool, SpoolFile};

/// Content up to this size lives in the database: 64 KiB and a header. Measured: docs/decisions/0002-queue-on-sqlite.md.
pub const INLINE_BYTES: usize = 72 * 1024;

/// Size and CRC-32 of octets that come one behind the other.
#[derive(Clone, Debug, Default)]
pub(super) struct Digest {
    pub(super) size: u64,
    checksum: crc32fast::Hasher,
}

impl Digest {
    pub(super) fn of(octets: &[u8]) -> Self {
        let mut digest = Self::default();
        digest.add(octets);
        digest
    }

    pub(super) fn add(&mut self, octets: &[u8]) {
        self.size += octets.len() as u64;
        self.checksum.update(octets);
    }

    /// Adds the octets of a file.
    pub(super) fn add_file(&mut self, path: &Path) -> io::Result<()> {
        self.add_all(&File::open(path)?)
    }

    fn add_all(&mut self, mut file: &File) -> io::Result<()> {
        let mut chunk = vec![0; BLOCK_BYTES];
        loop {
            match file.read(&mut chunk)? {
                0 => return Ok(()),
                octets => self.add(&chunk[..octets]),
            }
        }
    }

    pub(super) fn checksum(&self) -> u32 {
        self.checksum.clone().finalize()
    }
}

/// Takes a message's content. Dropping it discards what was written.
#[derive(Debug)]
#[must_use = "content that is not accepted is discarded"]
pub struct BodyWriter {
    id: QueueId,
    /// Stands above all that was written.
    head: Vec<u8>,
    /// What was written, without the head.
    written: Digest,
    /// All of it, while it is small.
    small: Vec<u8>,
    block: Block,
    file: Option<Arc<SpoolFile>>,
    writing: Option<JoinHandle<io::Result<Written>>>,
    spool: Arc<Spool>,
}

/// What comes back from a blocking thread: the file, and an empty block.
type Written = (Arc<SpoolFile>, Block);

/// Content that is complete, and durable if it is in a file.
#[derive(Debug)]
pub(super) enum Body {
    Inline(Vec<u8>),
    /// The head, which is in the database, and the file with the rest.
    Spool(Vec<u8>, Arc<SpoolFile>),
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
    /// What comes before the source.
    head: Bytes,
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

impl BodyWriter {
    pub(super) fn new(id: QueueId, spool: Arc<Spool>) -> Self {
        Self {
            id,
            head: Vec::new(),
            written: Digest::default(),
            small: Vec::new(),
            block: Block::default(),
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

    /// Octets of the content so far, with its head.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.head.len() as u64 + self.written.size
    }

    /// CRC-32 of the content so far.
    pub(super) fn checksum(&self) -> u32 {
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(&self.head);
        checksum.combine(&self.written.checksum);
        checksum.finalize()
    }

    /// Whether there is nothing yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts these octets above all that was written and will be: what is said of a message is known at its end.
    pub fn set_head(&mut self, head: Vec<u8>) {
        self.head = head;
    }

    /// Takes the next piece; waits only when the disk is a whole block behind.
    ///
    /// # Errors
    /// When the disk fails or is full; the body is of no use afterwards.
    pub async fn write(&mut self, mut part: &[u8]) -> Result<(), StoreError> {
        self.written.add(part);
        if self.written.size <= INLINE_BYTES as u64 {
            self.small.extend_from_slice(part);
            return Ok(());
        }
        if !self.small.is_empty() {
            // Less than a block, so there is no rest.
            self.block.fill(&std::mem::take(&mut self.small));
        }
        while !part.is_empty() {
            part = self.block.fill(part);
            if self.block.is_full() {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Completes the content; what does not fit the database is on disk afterwards.
    pub(super) async fn finish(mut self) -> Result<Body, StoreError> {
        let mut head = std::mem::take(&mut self.head);
        if self.written.size <= INLINE_BYTES as u64 {
            head.extend_from_slice(&self.small);
            return Ok(Body::Inline(head));
        }
        self.written().await?;
        let block = std::mem::take(&mut self.block);
        let (id, spool, file) = (self.id, Arc::clone(&self.spool), self.file.take());
        let synced = spawn_blocking(move || {
            let file = file.map_or_else(|| spool.create(id), Ok)?;
            file.write(block.octets())?;
            file.sync().map(|()| file)
        });
        let file = blocking(synced.await, "write a content file")?;
        Ok(Body::Spool(head, file))
    }

    /// Gives the block to a blocking thread, once the one before has come back.
    async fn flush(&mut self) -> Result<(), StoreError> {
        let next = self.written().await?;
        let mut block = std::mem::replace(&mut self.block, next);
        let (id, spool, file) = (self.id, Arc::clone(&self.spool), self.file.clone());
        self.writing = Some(spawn_blocking(move || {
            let file = file.map_or_else(|| spool.create(id), Ok)?;
            file.write(block.octets())?;
            block.clear();
            Ok((file, block))
        }));
        Ok(())
    }

    /// Waits for the write under way and gives an empty block.
    async fn written(&mut self) -> Result<Block, StoreError> {
        // Taken only when it is done: whoever gives up waiting must find it here again.
        let Some(writing) = self.writing.as_mut() else {
            return Ok(Block::default());
        };
        let done = writing.await;
        self.writing = None;
        let (file, block) = blocking(done, "write a content file")?;
        self.file = Some(file);
        Ok(block)
    }
}

impl ContentReader {
    pub(super) fn inline(content: Bytes) -> Self {
        Self {
            size: content.len() as u64,
            head: Bytes::new(),
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

    /// A file that is larger than a block is read twice, once to see whether it is whole: inside a transaction it would
    /// be too late to say so.
    pub(super) async fn open(
        spool: &Spool,
        stored: Stored,
        head: Bytes,
    ) -> Result<Self, StoreError> {
        let Stored { message, size, .. } = stored;
        let path = spool.file(message);
        let above = head.clone();
        let opened = spawn_blocking(move || open_whole(&path, stored, &above)).await;
        let whole = match opened {
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::Damaged(format!("no content file of {message}")));
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let octets = size.saturating_sub(head.len() as u64);
                let text = format!("the content file of {message} is not {octets} octets long");
                return Err(StoreError::Damaged(text));
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(stored.changed());
            }
            opened => blocking(opened, "open a content file")?,
        };
        let source = match whole {
            Whole::Content(content) => Source::Inline(content),
            Whole::File(file, left) => Source::File(read_ahead(file, Vec::new(), left), left),
        };
        Ok(Self {
            size,
            head,
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
        if !self.head.is_empty() {
            return Ok(Some(std::mem::take(&mut self.head)));
        }
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

/// A content file that was found to be what was accepted.
enum Whole {
    /// As it was read: no more than a block.
    Content(Bytes),
    /// And so many octets.
    File(File, u64),
}

fn open_whole(path: &Path, stored: Stored, head: &[u8]) -> io::Result<Whole> {
    let mut file = File::open(path)?;
    let left = stored.size.checked_sub(head.len() as u64);
    let left = left.filter(|left| file.metadata().is_ok_and(|found| found.len() == *left));
    let left = left.ok_or(io::ErrorKind::UnexpectedEof)?;
    let mut read = Digest::of(head);
    let changed = |read: &Digest| stored.checksum.is_some_and(|sum| sum != read.checksum());
    if left <= BLOCK_BYTES as u64 {
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        read.add(&content);
        return match changed(&read) {
            true => Err(io::ErrorKind::InvalidData.into()),
            false if content.len() as u64 != left => Err(io::ErrorKind::UnexpectedEof.into()),
            false => Ok(Whole::Content(content.into())),
        };
    }
    if stored.checksum.is_some() {
        read.add_all(&file)?;
        if changed(&read) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        file.rewind()?;
    }
    Ok(Whole::File(file, left))
}

fn read_ahead(
    file: File,
    mut chunk: Vec<u8>,
    left: u64,
) -> JoinHandle<io::Result<(File, Vec<u8>)>> {
    spawn_blocking(move || {
        let length = usize::try_from(left).map_or(BLOCK_BYTES, |left| left.min(BLOCK_BYTES));
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
