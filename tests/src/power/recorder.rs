//! From the calls of a program to what it did: files on one side, dialogues on the other.
//!
//! Descriptors and names are followed from call to call. At the end of each run the files must be as the recording
//! says, octet by octet; so nothing that the program did can have been overlooked. A call on these files that the model
//! does not know is an error for the same reason.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use super::disk::{Change, Disk, Image, Kind, Node, ROOT, Span, is_shared_memory};
use super::trace::{self, Call, Moment};

/// Octets of a dialogue by which it is known.
const OPENING_OCTETS: usize = 4096;

/// All runs of a program over one folder, as one history.
#[derive(Debug)]
pub struct Recording {
    /// What it did to its files.
    pub disk: Disk,
    /// The moment behind all others.
    pub end: Moment,
    folder: PathBuf,
    names: HashMap<(Node, OsString), Node>,
    dialogues: Vec<Dialogue>,
}

/// One connection, as the program saw it.
#[derive(Debug, Default)]
struct Dialogue {
    opening: Vec<u8>,
    /// Octets received so far, and the moment when the call came back with them.
    received: Vec<(usize, Moment)>,
    /// Octets sent so far, and the moment when the call with them was begun.
    sent: Vec<(usize, Moment)>,
}

/// One run: its descriptors die with it.
#[derive(Default)]
struct Run {
    descriptors: HashMap<i64, Descriptor>,
}

#[derive(Clone, Debug)]
enum Descriptor {
    Dialogue(usize),
    File(Open),
}

#[derive(Clone, Debug)]
struct Open {
    node: Node,
    offset: usize,
    appends: bool,
    /// Reads, which are not recorded, may move the place: it must be said before each write.
    is_readable: bool,
    is_placed: bool,
}

impl Recording {
    /// Begins with what is in the folder now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(folder: &Path) -> io::Result<Self> {
        let mut recording = Self {
            disk: Disk::new(),
            end: 1,
            folder: folder.to_owned(),
            names: HashMap::new(),
            dialogues: Vec::new(),
        };
        let found = Image::read(folder)?;
        for (path, content) in found.entries {
            let kind = content.map_or_else(|| Kind::Directory(Default::default()), Kind::File);
            let node = recording.disk.add(kind, path.clone());
            let (parent, name) = recording.place(&path).ok_or(io::ErrorKind::NotFound)?;
            recording.names.insert((parent, name.clone()), node);
            recording.disk.begin_with(parent, name, node);
        }
        Ok(recording)
    }

    /// Adds a run that has ended, by its trace.
    ///
    /// # Errors
    /// When the program did something that is not understood, or the files are not as the trace says.
    pub fn add_run(&mut self, trace: &str) -> Result<(), String> {
        let calls = trace::read(trace, self.end)?;
        self.end += trace::moments(trace);
        let mut steps: Vec<(Moment, bool, &Call)> = Vec::new();
        for call in &calls {
            steps.push((call.begun, false, call));
            steps.extend(call.done.map(|(done, _)| (done, true, call)));
        }
        steps.sort_by_key(|(moment, ..)| *moment);
        let mut run = Run::default();
        for (_, is_end, call) in steps {
            let step = if is_end {
                self.done(&mut run, call)
            } else {
                self.begun(&mut run, call)
            };
            step.map_err(|error| format!("at moment {}: {} {error}", call.begun, call.name))?;
        }
        for call in calls.iter().filter(|call| call.done.is_none()) {
            self.cut_off(&run, call)?;
        }
        self.end += 2;
        self.compare()
    }

    /// When the program may have sent the octet at this place of a dialogue. `word` stands in the first octets that the
    /// program received there, and in no other dialogue.
    #[must_use]
    pub fn sent(&self, word: &str, offset: usize) -> Option<Moment> {
        at(&self.dialogue(word)?.sent, offset)
    }

    /// When the program has read the octet at this place of a dialogue.
    #[must_use]
    pub fn received(&self, word: &str, offset: usize) -> Option<Moment> {
        at(&self.dialogue(word)?.received, offset)
    }

    fn dialogue(&self, word: &str) -> Option<&Dialogue> {
        // In a name of a host, and not the beginning of a longer one.
        let word = format!("{word}.").into_bytes();
        let known = |dialogue: &&Dialogue| {
            dialogue
                .opening
                .windows(word.len())
                .any(|part| part == word)
        };
        self.dialogues.iter().find(known)
    }

    /// What must be noted before the call has an effect.
    fn begun(&mut self, run: &mut Run, call: &Call) -> Result<(), String> {
        match &*call.name {
            // From here on another thread may get the number.
            "close" => {
                run.descriptors.remove(&call.number(0)?);
            }
            "write" | "sendto" | "writev" | "sendmsg" => {
                if let Some(Descriptor::Dialogue(index)) = run.descriptors.get(&call.number(0)?) {
                    let octets = call.sent_octets()?.len();
                    // A call that takes less than it was given is corrected when it is done.
                    let dialogue = &mut self.dialogues[*index];
                    let before = dialogue.sent.last().map_or(0, |(octets, _)| *octets);
                    dialogue.sent.push((before + octets, call.begun));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn done(&mut self, run: &mut Run, call: &Call) -> Result<(), String> {
        let Some((done, result)) = call.done else {
            return Ok(());
        };
        let span = Span {
            begun: call.begun,
            done,
        };
        match &*call.name {
            "accept" | "accept4" if result >= 0 => self.begin_dialogue(run, result),
            // A connection that is being made says so by an error.
            "connect" => self.begin_dialogue(run, call.number(0)?),
            "sendto" | "sendmsg" | "write" | "writev" => self.wrote(run, call, span, result)?,
            "recvfrom" | "recvmsg" | "readv" => self.read(run, call, span, result)?,
            "dup" | "dup2" | "dup3" | "fcntl" => duplicate(run, call, result)?,
            _ if result < 0 => self.failed(run, call)?,
            "lseek" => {
                if let Some(Descriptor::File(open)) = run.descriptors.get_mut(&call.number(0)?) {
                    open.offset = usize::try_from(result).map_err(|error| error.to_string())?;
                    open.is_placed = true;
                }
            }
            "openat" | "open" | "creat" => self.opened(run, call, span, result)?,
            "pwrite64" => self.pwrote(run, call, span, result)?,
            "ftruncate" => {
                if let Some(node) = run.node(call)? {
                    let size =
                        usize::try_from(call.number(1)?).map_err(|error| error.to_string())?;
                    self.disk.change(node, span, Change::Resize(size));
                }
            }
            "fsync" | "fdatasync" => {
                if let Some(node) = run.node(call)? {
                    self.disk.sync(node, span);
                }
            }
            _ => self.named(run, call, span)?,
        }
        Ok(())
    }

    /// Calls that work on names.
    fn named(&mut self, run: &Run, call: &Call, span: Span) -> Result<(), String> {
        match &*call.name {
            "mkdir" | "mkdirat" => self.made_directory(call, span),
            "unlink" | "rmdir" | "unlinkat" => self.unlinked(call, span),
            "rename" | "renameat" | "renameat2" => self.renamed(call, span),
            "close" => Ok(()),
            "mmap" => self.mapped(run, call),
            "link" | "linkat" | "symlink" | "symlinkat" | "truncate" => {
                match self.paths(call)?.is_empty() {
                    true => Ok(()),
                    false => Err("is not known to the model".to_owned()),
                }
            }
            "sync" | "msync" => Ok(()),
            _ => match run.node(call)? {
                None => Ok(()),
                Some(_) => Err("is not known to the model".to_owned()),
            },
        }
    }

    /// What failed has done nothing, but a failed write or sync is no business of this model.
    fn failed(&self, run: &Run, call: &Call) -> Result<(), String> {
        let is_ours = match &*call.name {
            "fsync" | "fdatasync" | "pwrite64" | "ftruncate" => run.node(call)?.is_some(),
            _ => false,
        };
        if is_ours {
            Err("failed".to_owned())
        } else {
            Ok(())
        }
    }

    /// Memory that is written into a file by itself leaves no trace; only SQLite's shared memory may be so.
    fn mapped(&self, run: &Run, call: &Call) -> Result<(), String> {
        let is_shared = call.has_flag(3, "MAP_SHARED") && call.has_flag(2, "PROT_WRITE");
        let file = if is_shared { call.number(4).ok() } else { None };
        if file.is_some_and(|file| run.descriptors.contains_key(&file)) {
            return Err("of a file is not known to the model".to_owned());
        }
        Ok(())
    }

    fn begin_dialogue(&mut self, run: &mut Run, descriptor: i64) {
        if let Some(Descriptor::Dialogue(_)) = run.descriptors.get(&descriptor) {
            return;
        }
        run.descriptors
            .insert(descriptor, Descriptor::Dialogue(self.dialogues.len()));
        self.dialogues.push(Dialogue::default());
    }

    fn read(&mut self, run: &Run, call: &Call, span: Span, result: i64) -> Result<(), String> {
        let Some(Descriptor::Dialogue(index)) = run.descriptors.get(&call.number(0)?) else {
            return Ok(());
        };
        let Some(count) = usize::try_from(result).ok().filter(|count| *count > 0) else {
            return Ok(());
        };
        // A look ahead takes nothing out of the connection.
        if call.name == "recvfrom" && call.has_flag(3, "MSG_PEEK") {
            return Ok(());
        }
        let dialogue = &mut self.dialogues[*index];
        let before = dialogue.received.last().map_or(0, |(octets, _)| *octets);
        dialogue.received.push((before + count, span.done));
        if dialogue.opening.len() < OPENING_OCTETS {
            let octets = if call.name == "recvfrom" {
                call.octets(1)?
            } else {
                call.buffers()?
            };
            dialogue
                .opening
                .extend_from_slice(&octets[..count.min(octets.len())]);
        }
        Ok(())
    }

    fn wrote(&mut self, run: &mut Run, call: &Call, span: Span, result: i64) -> Result<(), String> {
        let descriptor = run.descriptors.get_mut(&call.number(0)?);
        match (descriptor, usize::try_from(result)) {
            (Some(Descriptor::Dialogue(index)), count) => {
                let sent = &mut self.dialogues[*index].sent;
                let before = sent.iter().rev().nth(1).map_or(0, |(octets, _)| *octets);
                if let Some((octets, _)) = sent.last_mut() {
                    *octets = before + count.unwrap_or(0);
                }
            }
            (Some(Descriptor::File(_)), Err(_)) => return Err("failed".to_owned()),
            (Some(Descriptor::File(open)), Ok(count)) => {
                if open.appends {
                    open.offset = self.disk.size(open.node);
                } else if open.is_readable && !std::mem::take(&mut open.is_placed) {
                    return Err("at a place that reads may have moved".to_owned());
                }
                let mut octets = call.sent_octets()?;
                octets.truncate(count);
                let change = Change::Write(open.offset, octets);
                self.disk.change(open.node, span, change);
                open.offset += count;
            }
            (None, _) => {}
        }
        Ok(())
    }

    fn pwrote(&mut self, run: &Run, call: &Call, span: Span, result: i64) -> Result<(), String> {
        let Some(node) = run.node(call)? else {
            return Ok(());
        };
        let mut octets = call.octets(1)?;
        octets.truncate(usize::try_from(result).unwrap_or(0));
        let offset = usize::try_from(call.number(3)?).map_err(|error| error.to_string())?;
        self.disk.change(node, span, Change::Write(offset, octets));
        Ok(())
    }

    fn opened(
        &mut self,
        run: &mut Run,
        call: &Call,
        span: Span,
        result: i64,
    ) -> Result<(), String> {
        let flags = if call.name == "open" { 1 } else { 2 };
        let Some(path) = self.paths(call)?.pop() else {
            return Ok(());
        };
        if call.has_flag(flags, "O_TMPFILE") || call.name == "creat" {
            return Err("is not known to the model".to_owned());
        }
        let node = match self.find(&path) {
            Some(node) => node,
            None if call.has_flag(flags, "O_CREAT") => {
                self.create(&path, Kind::File(Vec::new()), span)?
            }
            None => return Err(format!("{} came from nowhere", path.display())),
        };
        if call.has_flag(flags, "O_TRUNC") && self.disk.size(node) > 0 {
            self.disk.change(node, span, Change::Resize(0));
        }
        let open = Open {
            node,
            offset: 0,
            appends: call.has_flag(flags, "O_APPEND"),
            is_readable: !call.has_flag(flags, "O_WRONLY"),
            is_placed: true,
        };
        run.descriptors.insert(result, Descriptor::File(open));
        Ok(())
    }

    fn create(&mut self, path: &Path, kind: Kind, span: Span) -> Result<Node, String> {
        let (parent, name) = self.place(path).ok_or("has no parent")?;
        let node = self.disk.add(kind, path.to_owned());
        self.disk
            .change(parent, span, Change::Link(name.clone(), node));
        self.names.insert((parent, name), node);
        Ok(node)
    }

    fn made_directory(&mut self, call: &Call, span: Span) -> Result<(), String> {
        if let Some(path) = self.paths(call)?.pop() {
            self.create(&path, Kind::Directory(Default::default()), span)?;
        }
        Ok(())
    }

    fn unlinked(&mut self, call: &Call, span: Span) -> Result<(), String> {
        let Some(path) = self.paths(call)?.pop() else {
            return Ok(());
        };
        // Sockets are not followed.
        if let Some((parent, name)) = self.place(&path)
            && self.names.remove(&(parent, name.clone())).is_some()
        {
            self.disk.change(parent, span, Change::Unlink(name));
        }
        Ok(())
    }

    fn renamed(&mut self, call: &Call, span: Span) -> Result<(), String> {
        let paths = self.paths(call)?;
        let [from, to] = &paths[..] else {
            return if paths.is_empty() {
                Ok(())
            } else {
                Err("in or out of the folder".to_owned())
            };
        };
        let (old, from) = self.place(from).ok_or("has no parent")?;
        let (new, to) = self.place(to).ok_or("has no parent")?;
        let node = self
            .names
            .remove(&(old, from.clone()))
            .ok_or("of nothing")?;
        self.names.insert((new, to.clone()), node);
        if old == new {
            self.disk
                .change(old, span, Change::Rename { from, to, node });
        } else {
            // Two directories, and each is written for itself.
            self.disk.change(old, span, Change::Unlink(from));
            self.disk.change(new, span, Change::Link(to, node));
        }
        Ok(())
    }

    /// A call in which the program was killed: what it did is read from the folder.
    fn cut_off(&mut self, run: &Run, call: &Call) -> Result<(), String> {
        let span = Span {
            begun: call.begun,
            done: self.end,
        };
        let is_there = |path: &Path| self.folder.join(path).exists();
        match &*call.name {
            "write" | "pwrite64" | "writev" => self.partly_written(run, call, span)?,
            "openat" | "open" | "mkdir" | "mkdirat" => {
                let kind = match &*call.name {
                    "openat" | "open" => Kind::File(Vec::new()),
                    _ => Kind::Directory(Default::default()),
                };
                if let Some(path) = self.paths(call)?.pop()
                    && is_there(&path)
                    && self.find(&path).is_none()
                {
                    self.create(&path, kind, span)?;
                }
            }
            "unlink" | "rmdir" | "unlinkat" => {
                let path = self.paths(call)?.pop();
                if path.is_some_and(|path| !is_there(&path)) {
                    self.unlinked(call, span)?;
                }
            }
            "rename" | "renameat" | "renameat2" => {
                let paths = self.paths(call)?;
                if paths.first().is_some_and(|path| !is_there(path)) {
                    self.renamed(call, span)?;
                }
            }
            "ftruncate" => {
                if let Some(node) = run.node(call)? {
                    let size = std::fs::metadata(self.folder.join(&self.disk.node(node).path));
                    let size = size.map_or(0, |found| usize::try_from(found.len()).unwrap_or(0));
                    self.disk.change(node, span, Change::Resize(size));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Writes stop at a kill wherever they are.
    fn partly_written(&mut self, run: &Run, call: &Call, span: Span) -> Result<(), String> {
        let Some(Descriptor::File(open)) = run.descriptors.get(&call.number(0)?) else {
            return Ok(());
        };
        let (node, offset) = match &*call.name {
            "pwrite64" => {
                let offset = usize::try_from(call.number(3)?);
                (open.node, offset.map_err(|error| error.to_string())?)
            }
            _ => (open.node, open.offset),
        };
        let octets = call.sent_octets()?;
        let path = self.folder.join(&self.disk.node(node).path);
        let found = std::fs::read(path).unwrap_or_default();
        let found = found.get(offset..).unwrap_or_default();
        let same = found
            .iter()
            .zip(&octets)
            .take_while(|(found, wanted)| found == wanted)
            .count();
        let change = Change::Write(offset, octets[..same].to_vec());
        self.disk.change(node, span, change);
        Ok(())
    }

    /// The recording must end where the folder is.
    fn compare(&self) -> Result<(), String> {
        let found = Image::read(&self.folder).map_err(|error| error.to_string())?;
        let recorded = self
            .disk
            .image(Moment::MAX, &mut super::fate::Fates::all_kept());
        match recorded.difference(&found) {
            None => Ok(()),
            Some(place) => Err(format!("the folder is not as it was recorded: {place}")),
        }
    }

    /// The paths of a call that are below the folder, without it.
    fn paths(&self, call: &Call) -> Result<Vec<PathBuf>, String> {
        let mut paths = Vec::new();
        for index in 0..4 {
            if !call.word(index).starts_with('"') {
                continue;
            }
            let path = PathBuf::from(OsString::from_vec(call.octets(index)?));
            if path.is_relative()
                && !call.word(index.saturating_sub(1)).starts_with("AT_FDCWD")
                && index > 0
            {
                return Err(format!("{} below a descriptor", path.display()));
            }
            if let Ok(below) = path.strip_prefix(&self.folder)
                && !is_shared_memory(below)
            {
                paths.push(below.to_owned());
            }
        }
        Ok(paths)
    }

    /// The directory of a path, and the name in it.
    fn place(&self, path: &Path) -> Option<(Node, OsString)> {
        let name = path.file_name()?.to_owned();
        Some((self.find(path.parent()?)?, name))
    }

    fn find(&self, path: &Path) -> Option<Node> {
        path.iter().try_fold(ROOT, |node, name| {
            self.names.get(&(node, name.to_owned())).copied()
        })
    }
}

impl Run {
    /// The file of ours that the call's first argument stands for.
    fn node(&self, call: &Call) -> Result<Option<Node>, String> {
        match self.descriptors.get(&call.number(0)?) {
            Some(Descriptor::File(open)) => Ok(Some(open.node)),
            _ => Ok(None),
        }
    }
}

impl Call {
    fn sent_octets(&self) -> Result<Vec<u8>, String> {
        match &*self.name {
            "writev" | "sendmsg" => self.buffers(),
            _ => self.octets(1),
        }
    }
}

fn duplicate(run: &mut Run, call: &Call, result: i64) -> Result<(), String> {
    let duplicates = call.name != "fcntl" || call.word(1).starts_with("F_DUPFD");
    if !duplicates || result < 0 {
        return Ok(());
    }
    let Some(descriptor) = run.descriptors.get(&call.number(0)?).cloned() else {
        return Ok(());
    };
    if let Descriptor::File(_) = descriptor {
        // Two numbers would share one place in the file.
        return Err("of a file is not known to the model".to_owned());
    }
    run.descriptors.insert(result, descriptor);
    Ok(())
}

fn at(places: &[(usize, Moment)], offset: usize) -> Option<Moment> {
    let index = places.partition_point(|(octets, _)| *octets < offset);
    places.get(index).map(|(_, moment)| *moment)
}
