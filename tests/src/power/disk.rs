//! What a disk may hold after the power is lost.
//!
//! A [`Disk`] knows everything that was done to the files of a folder, when, and what was synced. [`Disk::image`] makes
//! the folder that may be found after a cut: all that was synced before it is there, and of the rest anything: all,
//! nothing, or any mixture of sectors, sizes and names.
//!
//! * The content of a file is durable when an fsync or fdatasync *of that file* was entered after the write had
//!   returned, and has itself returned before the cut.
//! * A name is durable when *its directory* was synced so. POSIX promises no more: that some file systems write the name
//!   of a new file with its content is luck.
//! * A write that is not synced is torn at sectors of 512 octets; each sector is as before or as after it. A file that
//!   has grown without its content has zeros there, or anything.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::fate::{Fate, Fates};
use super::trace::Moment;

/// Disks write so much as one: all of it or nothing.
const SECTOR: usize = 512;

/// A file or directory, whatever names it has.
pub(super) type Node = usize;

/// The folder that everything is in.
pub(super) const ROOT: Node = 0;

/// Everything that was done to the files of a folder.
#[derive(Clone, Debug)]
pub struct Disk {
    nodes: Vec<Log>,
}

/// When a call was begun, and when it came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) begun: Moment,
    pub(super) done: Moment,
}

/// The life of one file or directory.
#[derive(Clone, Debug)]
pub(super) struct Log {
    pub(super) kind: Kind,
    /// In the order in which they were done.
    changes: Vec<(Span, Change)>,
    syncs: Vec<Span>,
    /// Where it was first found, for people.
    pub(super) path: PathBuf,
}

/// What it is, and what it was when the recording began.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Directory(BTreeMap<OsString, Node>),
    File(Vec<u8>),
}

/// One step.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// A name for a node, in place of whatever had it.
    Link(OsString, Node),
    /// A new name in the same directory: both happen or neither.
    Rename {
        from: OsString,
        to: OsString,
        node: Node,
    },
    Resize(usize),
    Unlink(OsString),
    Write(usize, Vec<u8>),
}

/// A folder as it may be found: paths below it, and what files hold; `None` is a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    pub(super) entries: BTreeMap<PathBuf, Option<Vec<u8>>>,
}

impl Disk {
    pub(super) fn new() -> Self {
        let root = Log::new(Kind::Directory(BTreeMap::new()), PathBuf::new());
        Self { nodes: vec![root] }
    }

    pub(super) fn add(&mut self, kind: Kind, path: PathBuf) -> Node {
        self.nodes.push(Log::new(kind, path));
        self.nodes.len() - 1
    }

    pub(super) fn node(&self, node: Node) -> &Log {
        &self.nodes[node]
    }

    /// A name that was there when the recording began.
    pub(super) fn begin_with(&mut self, directory: Node, name: OsString, node: Node) {
        if let Kind::Directory(entries) = &mut self.nodes[directory].kind {
            entries.insert(name, node);
        }
    }

    /// The size of a file as its program sees it.
    pub(super) fn size(&self, node: Node) -> usize {
        let log = &self.nodes[node];
        let base = match &log.kind {
            Kind::Directory(_) => 0,
            Kind::File(content) => content.len(),
        };
        log.changes
            .iter()
            .fold(base, |size, (_, change)| match change {
                Change::Write(offset, octets) => size.max(offset + octets.len()),
                Change::Resize(size) => *size,
                Change::Link(..) | Change::Rename { .. } | Change::Unlink(_) => size,
            })
    }

    pub(super) fn change(&mut self, node: Node, span: Span, change: Change) {
        self.nodes[node].changes.push((span, change));
    }

    pub(super) fn sync(&mut self, node: Node, span: Span) {
        self.nodes[node].syncs.push(span);
    }

    /// The same history without some of its syncs: a program that forgets them, and the same luck otherwise.
    #[must_use]
    pub fn without_syncs(&self, mut forgotten: impl FnMut(&Path) -> bool) -> Self {
        let mut disk = self.clone();
        for log in &mut disk.nodes {
            if forgotten(&log.path) {
                log.syncs.clear();
            }
        }
        disk
    }

    /// Paths that were synced, as they were first found.
    pub fn synced(&self) -> impl Iterator<Item = &Path> {
        let synced = self.nodes.iter().filter(|log| !log.syncs.is_empty());
        synced.map(|log| &*log.path)
    }

    /// Every moment at which what a cut may leave becomes another.
    #[must_use]
    pub fn moments(&self) -> Vec<Moment> {
        let spans = self.nodes.iter().flat_map(|log| {
            let changes = log.changes.iter().map(|(span, _)| *span);
            changes.chain(log.syncs.iter().copied())
        });
        let mut moments: Vec<Moment> = spans
            .flat_map(|span| [span.begun + 1, span.done + 1])
            .collect();
        moments.sort_unstable();
        moments.dedup();
        moments
    }

    /// What may be found after a cut: what happened at smaller moments has happened.
    #[must_use]
    pub fn image(&self, cut: Moment, fates: &mut Fates) -> Image {
        let mut image = Image::default();
        self.collect(ROOT, Path::new(""), cut, fates, &mut image);
        image
    }

    fn collect(
        &self,
        directory: Node,
        path: &Path,
        cut: Moment,
        fates: &mut Fates,
        image: &mut Image,
    ) {
        let entries = self.nodes[directory].entries(cut, fates);
        for (name, node) in entries {
            let path = path.join(name);
            let log = &self.nodes[node];
            match &log.kind {
                Kind::Directory(_) => {
                    image.entries.insert(path.clone(), None);
                    self.collect(node, &path, cut, fates, image);
                }
                Kind::File(_) => {
                    image.entries.insert(path, Some(log.content(cut, fates)));
                }
            }
        }
    }
}

impl Log {
    fn new(kind: Kind, path: PathBuf) -> Self {
        Self {
            kind,
            changes: Vec::new(),
            syncs: Vec::new(),
            path,
        }
    }

    /// The changes that are on the disk for sure, and those begun before the cut that may be.
    fn split(&self, cut: Moment) -> (impl Iterator<Item = &Change>, Vec<&Change>) {
        let synced = self.syncs.iter().filter(|sync| sync.done < cut);
        let synced = synced.map(|sync| sync.begun).max().unwrap_or(0);
        // They stand in the order of their ends, so what a sync covers is the beginning of the list.
        let durable = self.changes.partition_point(|(span, _)| span.done < synced);
        let (durable, rest) = self.changes.split_at(durable);
        let pending = rest.iter().filter(|(span, _)| span.begun < cut);
        (
            durable.iter().map(|(_, change)| change),
            pending.map(|(_, change)| change).collect(),
        )
    }

    fn entries(&self, cut: Moment, fates: &mut Fates) -> BTreeMap<OsString, Node> {
        let Kind::Directory(base) = &self.kind else {
            return BTreeMap::new();
        };
        let (durable, pending) = self.split(cut);
        let mut entries = base.clone();
        durable.for_each(|change| rename(&mut entries, change));
        let fate = fates.next(pending.len());
        for (index, change) in pending.into_iter().enumerate() {
            if fates.keeps(fate, index) {
                rename(&mut entries, change);
            }
        }
        entries
    }

    fn content(&self, cut: Moment, fates: &mut Fates) -> Vec<u8> {
        let Kind::File(base) = &self.kind else {
            return Vec::new();
        };
        let (durable, pending) = self.split(cut);
        let mut content = Content::of(base);
        durable.for_each(|change| content.apply(change));
        let fate = fates.next(pending.len());
        if !pending.is_empty() {
            content.filling = fates.filling();
        }
        for (index, change) in pending.into_iter().enumerate() {
            match fate {
                Fate::Torn(_) => content.tear(change, fate, fates),
                fate if fates.keeps(fate, index) => content.apply(change),
                _ => {}
            }
        }
        content.octets.truncate(content.size);
        content.grow(content.size);
        content.octets
    }
}

fn rename(entries: &mut BTreeMap<OsString, Node>, change: &Change) {
    match change {
        Change::Link(name, node) => {
            entries.insert(name.clone(), *node);
        }
        Change::Rename { from, to, node } => {
            if entries.get(from) == Some(node) {
                entries.remove(from);
            }
            entries.insert(to.clone(), *node);
        }
        Change::Unlink(name) => {
            entries.remove(name);
        }
        Change::Resize(_) | Change::Write(..) => {}
    }
}

/// A file under construction. Octets may be there that its size does not count yet.
struct Content {
    octets: Vec<u8>,
    size: usize,
    /// What is in octets that the file has and nobody wrote.
    filling: u8,
}

impl Content {
    fn of(base: &[u8]) -> Self {
        Self {
            octets: base.to_vec(),
            size: base.len(),
            filling: 0,
        }
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write(offset, octets) => {
                self.put(*offset, octets);
                self.size = self.size.max(offset + octets.len());
            }
            Change::Resize(size) => {
                self.octets.truncate(*size);
                self.size = *size;
            }
            Change::Link(..) | Change::Rename { .. } | Change::Unlink(_) => {}
        }
    }

    /// Each sector of a write, and the size of the file, for itself.
    fn tear(&mut self, change: &Change, fate: Fate, fates: &mut Fates) {
        let Change::Write(offset, octets) = change else {
            if fates.keeps(fate, 0) {
                self.apply(change);
            }
            return;
        };
        let mut at = 0;
        while at < octets.len() {
            let end = (at + SECTOR - (offset + at) % SECTOR).min(octets.len());
            if fates.keeps(fate, 0) {
                self.put(offset + at, &octets[at..end]);
            }
            at = end;
        }
        if fates.keeps(fate, 0) {
            self.size = self.size.max(offset + octets.len());
        }
    }

    fn put(&mut self, offset: usize, octets: &[u8]) {
        let end = offset + octets.len();
        self.grow(end);
        self.octets[offset..end].copy_from_slice(octets);
    }

    fn grow(&mut self, size: usize) {
        if self.octets.len() < size {
            self.octets.resize(size, self.filling);
        }
    }
}

impl Image {
    /// Makes it in an empty folder.
    ///
    /// # Errors
    /// When that fails.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        // A path stands behind its parent's, which is its beginning.
        for (path, content) in &self.entries {
            let path = folder.join(path);
            match content {
                None => std::fs::create_dir(path)?,
                Some(content) => std::fs::write(path, content)?,
            }
        }
        Ok(())
    }

    /// What is in a folder; sockets, and the memory that SQLite shares between connections, are no content.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(folder: &Path) -> io::Result<Self> {
        let mut image = Self::default();
        image.read_below(folder, Path::new(""))?;
        Ok(image)
    }

    fn read_below(&mut self, root: &Path, below: &Path) -> io::Result<()> {
        for entry in std::fs::read_dir(root.join(below))? {
            let entry = entry?;
            let path = below.join(entry.file_name());
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.entries.insert(path.clone(), None);
                self.read_below(root, &path)?;
            } else if kind.is_file() && !is_shared_memory(&path) {
                let content = std::fs::read(entry.path())?;
                self.entries.insert(path, Some(content));
            }
        }
        Ok(())
    }

    /// Where two first differ: a path, and a place in the file.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<String> {
        let path = self.differing_path(other)?;
        let content = |image: &Self| image.entries.get(&path).cloned();
        let told = match (content(self), content(other)) {
            (Some(Some(ours)), Some(Some(theirs))) => {
                let mut pairs = ours.iter().zip(&theirs);
                let at = pairs.position(|(ours, theirs)| ours != theirs);
                let at = at.unwrap_or_else(|| ours.len().min(theirs.len()));
                format!(
                    "octet {at}; it has {} octets here and {} there",
                    ours.len(),
                    theirs.len()
                )
            }
            (ours, theirs) => format!("here {}, there {}", there(&ours), there(&theirs)),
        };
        Some(format!("{}: {told}", path.display()))
    }

    fn differing_path(&self, other: &Self) -> Option<PathBuf> {
        let missing = other
            .entries
            .keys()
            .find(|path| !self.entries.contains_key(*path));
        let mut ours = self.entries.iter();
        let differs = ours.find(|(path, content)| other.entries.get(*path) != Some(content));
        differs.map(|(path, _)| path).or(missing).cloned()
    }
}

fn there(entry: &Option<Option<Vec<u8>>>) -> &'static str {
    match entry {
        None => "nothing",
        Some(None) => "a directory",
        Some(Some(_)) => "a file",
    }
}

/// SQLite builds it anew from the log when the first connection opens the database.
pub(super) fn is_shared_memory(path: &Path) -> bool {
    path.to_str().is_some_and(|path| path.ends_with("-shm"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(begun: Moment, done: Moment) -> Span {
        Span { begun, done }
    }

    /// A file of two sectors that was written twice and synced in between, in a directory that was synced at the end.
    fn disk() -> Disk {
        let mut disk = Disk::new();
        let file = disk.add(Kind::File(Vec::new()), PathBuf::from("file"));
        disk.change(ROOT, span(1, 2), Change::Link("file".into(), file));
        disk.change(file, span(3, 4), Change::Write(0, vec![b'a'; 2 * SECTOR]));
        disk.sync(file, span(5, 8));
        disk.change(
            file,
            span(6, 7),
            Change::Write(SECTOR / 2, vec![b'b'; SECTOR]),
        );
        disk.sync(ROOT, span(9, 10));
        disk.change(
            ROOT,
            span(11, 12),
            Change::Rename {
                from: "file".into(),
                to: "other".into(),
                node: file,
            },
        );
        disk
    }

    fn content(image: &Image, path: &str) -> Option<Vec<u8>> {
        image.entries.get(Path::new(path)).cloned().flatten()
    }

    #[test]
    fn what_was_not_synced_may_be_lost_and_what_was_is_there() {
        let disk = disk();
        let bare = |cut| disk.image(cut, &mut Fates::all_lost());
        assert_eq!(
            bare(10),
            Image::default(),
            "a name needs its directory, whatever the file was"
        );
        let first = vec![b'a'; 2 * SECTOR];
        // The second write was not over when the sync began.
        assert_eq!(content(&bare(11), "file"), Some(first.clone()));
        let kept = disk.image(11, &mut Fates::all_kept());
        let second = [
            vec![b'a'; SECTOR / 2],
            vec![b'b'; SECTOR],
            vec![b'a'; SECTOR / 2],
        ]
        .concat();
        assert_eq!(content(&kept, "file"), Some(second));
        assert_eq!(
            content(&bare(20), "file"),
            Some(first),
            "a rename that was not synced"
        );
        let renamed = disk.image(20, &mut Fates::all_kept());
        assert!(content(&renamed, "other").is_some() && content(&renamed, "file").is_none());
    }

    #[test]
    fn a_sync_that_has_not_returned_has_not_happened() {
        let mut disk = disk();
        disk = disk.without_syncs(|path| path == Path::new(""));
        disk.sync(ROOT, span(2, 3));
        // The link was done at 2, which is not before the sync was begun.
        assert_eq!(disk.image(20, &mut Fates::all_lost()), Image::default());
        disk.sync(ROOT, span(4, 30));
        assert_eq!(disk.image(30, &mut Fates::all_lost()), Image::default());
        assert_ne!(disk.image(31, &mut Fates::all_lost()), Image::default());
    }

    #[test]
    fn fates_tear_at_sectors_and_come_again_with_their_seed() {
        let disk = disk();
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..500 {
            let image = disk.image(11, &mut Fates::of(seed));
            assert_eq!(image, disk.image(11, &mut Fates::of(seed)));
            let content = content(&image, "file").unwrap();
            assert_eq!(content.len(), 2 * SECTOR);
            seen.insert((content[SECTOR / 2], content[SECTOR]));
        }
        let all = [(b'a', b'a'), (b'a', b'b'), (b'b', b'a'), (b'b', b'b')];
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), all);
    }

    #[test]
    fn a_file_may_have_grown_without_its_content_or_the_other_way_round() {
        let mut disk = Disk::new();
        let file = disk.add(Kind::File(Vec::new()), PathBuf::from("file"));
        disk.begin_with(ROOT, "file".into(), file);
        disk.change(file, span(1, 2), Change::Write(0, vec![b'a'; SECTOR]));
        let contents = (0..500).map(|seed| disk.image(3, &mut Fates::of(seed)));
        let contents: Vec<Vec<u8>> = contents
            .filter_map(|image| content(&image, "file"))
            .collect();
        let seen = |wanted: &dyn Fn(&[u8]) -> bool| contents.iter().any(|content| wanted(content));
        assert!(seen(&<[u8]>::is_empty));
        assert!(seen(&|content| content.first() == Some(&b'a')));
        assert!(seen(&|content| content.first() == Some(&0)));
        assert!(seen(&|content| content
            .first()
            .is_some_and(|octet| ![0, b'a'].contains(octet))));
    }
}
