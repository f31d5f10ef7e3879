//! Tells the daemon that a file it was configured from has changed.
//!
//! Directories are watched, not files: an editor, `mv` and every certificate tool replace a file by
//! renaming another over it, and a watch on the file would stay with the old one. Events are only a hint
//! to look: what counts is whether a file's identity, size or time differs from when it was last looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc as std_mpsc;
use std::thread;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::document::FRAGMENTS;

/// What is watched: the main file with its `conf.d`, and the files that the settings name.
///
/// It holds the state of each from before it was read, so that a change between reading and watching is
/// noticed too: a start takes its time, and a certificate that is renewed meanwhile may not be missed for months.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct WatchedFiles {
    main: PathBuf,
    named: BTreeSet<PathBuf>,
    states: BTreeMap<PathBuf, Fingerprint>,
}

impl WatchedFiles {
    /// To be called before the configuration is read.
    #[must_use]
    pub fn about_to_read(main: &Path) -> Self {
        let mut files = Self {
            main: main.to_path_buf(),
            ..Self::default()
        };
        files.states = files.look();
        files
    }

    /// Certificates, keys, secrets. To be called before they are read.
    #[must_use]
    pub fn with_named(mut self, named: BTreeSet<PathBuf>) -> Self {
        let found = named
            .iter()
            .filter_map(|path| Some((path.clone(), fingerprint(path)?)));
        self.states.extend(found);
        self.named = named;
        self
    }

    /// The main configuration file.
    #[must_use]
    pub fn main(&self) -> &Path {
        &self.main
    }

    fn fragments(&self) -> PathBuf {
        directory_of(&self.main).join(FRAGMENTS)
    }

    /// The state of each file that is there.
    fn look(&self) -> BTreeMap<PathBuf, Fingerprint> {
        let fragments = fs::read_dir(self.fragments())
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        let fragments = fragments.filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        });
        let named = self.named.iter().cloned();
        let files = named.chain([self.main.clone()]).chain(fragments);
        files
            .filter_map(|path| {
                let fingerprint = fingerprint(&path)?;
                Some((path, fingerprint))
            })
            .collect()
    }
}

/// The system cannot watch files.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch {} for changes", path.display())]
pub struct WatchError {
    path: PathBuf,
    source: notify::Error,
}

/// Changes to wait for.
#[derive(Debug)]
pub struct Watch {
    changes: mpsc::Receiver<()>,
    trigger: Trigger,
}

impl Watch {
    /// Starts to watch. No change since the files were about to be read is missed.
    ///
    /// # Errors
    /// [`WatchError`] when the main file's directory cannot be watched. Others are tried again later and logged.
    pub fn start(files: WatchedFiles) -> Result<Self, WatchError> {
        let (messages, inbox) = std_mpsc::channel();
        let events = messages.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // A full kernel queue arrives as an error, and is a reason to look at everything.
            if event.map_or(true, |event| can_matter(event.kind)) {
                let _ = events.send(Message::Look);
            }
        });
        let main = directory_of(&files.main);
        let failed = |source| WatchError {
            path: main.clone(),
            source,
        };
        let mut eye = Eye {
            watcher: watcher.map_err(failed)?,
            watched: BTreeSet::new(),
            files,
        };
        eye.watcher
            .watch(&main, RecursiveMode::NonRecursive)
            .map_err(failed)?;
        eye.watched.insert(main.clone());
        eye.watch_directories();
        // What changed since the files were read.
        let _ = messages.send(Message::Look);
        let (sender, changes) = mpsc::channel(1);
        thread::Builder::new()
            .name("config-watch".to_owned())
            .spawn(move || eye.run(&inbox, &sender))
            .map_err(|error| failed(notify::Error::io(error)))?;
        Ok(Self {
            changes,
            trigger: Trigger(messages),
        })
    }

    /// Waits until something has changed and come to rest, or a [`Trigger`] was pulled.
    /// Changes during the caller's reload are kept: the next call returns at once.
    pub async fn changed(&mut self) {
        if self.changes.recv().await.is_none() {
            // The thread lives as long as this value does; without it nothing will ever change.
            std::future::pending::<()>().await;
        }
    }

    /// Handle for SIGHUP and for telling which files the new settings name.
    #[must_use]
    pub fn trigger(&self) -> Trigger {
        self.trigger.clone()
    }
}

/// Asks for a reload, or changes what is watched.
#[derive(Clone, Debug)]
pub struct Trigger(std_mpsc::Sender<Message>);

impl Trigger {
    /// Reports a change whether or not a file differs.
    pub fn pull(&self) {
        let _ = self.0.send(Message::Pull);
    }

    /// Watches these files from now on.
    pub fn watch(&self, files: WatchedFiles) {
        let _ = self.0.send(Message::Files(files));
    }

    /// Watches these too: a configuration that was refused names them, and one that is missing may be on its way.
    pub fn watch_also(&self, named: BTreeSet<PathBuf>) {
        let _ = self.0.send(Message::Also(named));
    }
}

#[derive(Debug)]
enum Message {
    Also(BTreeSet<PathBuf>),
    Files(WatchedFiles),
    Look,
    Pull,
}

/// Opening and reading are no changes, and our own reload does both.
fn can_matter(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

/// The thread's state.
struct Eye {
    watcher: RecommendedWatcher,
    watched: BTreeSet<PathBuf>,
    files: WatchedFiles,
}

/// Tells one state of a file from the next without reading it.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    mode: u32,
}

impl Eye {
    fn run(mut self, inbox: &std_mpsc::Receiver<Message>, changes: &mpsc::Sender<()>) {
        while let Ok(first) = inbox.recv() {
            let mut pulled = self.take(first);
            let started = Instant::now();
            // Writers touch a file several times; wait until they rest, but not for ever.
            while started.elapsed() < SETTLING_MAX {
                match inbox.recv_timeout(SETTLING) {
                    Ok(message) => pulled |= self.take(message),
                    Err(std_mpsc::RecvTimeoutError::Timeout) => break,
                    Err(std_mpsc::RecvTimeoutError::Disconnected) => return,
                }
            }
            if self.look() || pulled {
                // A full channel already says what we would say.
                if let Err(mpsc::error::TrySendError::Closed(())) = changes.try_send(()) {
                    return;
                }
            }
        }
    }

    /// Whether the message asks for a report in any case.
    fn take(&mut self, message: Message) -> bool {
        match message {
            Message::Also(named) => {
                let known = &self.files.named;
                let new = named.into_iter().filter(|path| !known.contains(path));
                let new: Vec<_> = new.collect();
                // They were just read, or tried: as they are now, they are no news.
                let states = new
                    .iter()
                    .filter_map(|path| Some((path.clone(), fingerprint(path)?)));
                self.files.states.extend(states);
                self.files.named.extend(new);
                false
            }
            Message::Files(files) => {
                self.files = files;
                false
            }
            Message::Look => false,
            Message::Pull => true,
        }
    }

    /// Takes a new look at every file; whether any differs. Also follows directories that came or went.
    fn look(&mut self) -> bool {
        self.watch_directories();
        let now = self.files.look();
        let changed = now != self.files.states;
        self.files.states = now;
        changed
    }

    fn watch_directories(&mut self) {
        let mut wanted: BTreeSet<_> = self
            .files
            .named
            .iter()
            .map(|path| directory_of(path))
            .collect();
        wanted.insert(directory_of(&self.files.main));
        wanted.insert(self.files.fragments());
        wanted.retain(|directory| directory.is_dir());
        for gone in self.watched.difference(&wanted) {
            let _ = self.watcher.unwatch(gone);
        }
        // The same call again is harmless, and needed where a directory was removed and made anew.
        self.watched = wanted;
        for directory in &self.watched {
            match self.watcher.watch(directory, RecursiveMode::NonRecursive) {
                Ok(()) => debug!(path = %directory.display(), "watching"),
                Err(error) => {
                    warn!(path = %directory.display(), %error, "cannot watch for changes; use SIGHUP")
                }
            }
        }
    }
}

fn directory_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// Follows symbolic links, as reading the file does.
fn fingerprint(path: &Path) -> Option<Fingerprint> {
    let metadata: io::Result<fs::Metadata> = fs::metadata(path);
    metadata.ok().map(|metadata| Fingerprint {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        mode: metadata.mode(),
    })
}

/// A change is reported when nothing has happened for so long …
const SETTLING: Duration = Duration::from_millis(150);
/// … or, in a directory that never rests, after so long.
const SETTLING_MAX: Duration = Duration::from_millis(450);

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, DataChange, ModifyKind, RemoveKind, RenameMode};
    use tempfile::TempDir;

    use super::*;

    struct Setup {
        directory: TempDir,
        watch: Watch,
    }

    impl Setup {
        fn start() -> Self {
            let directory = tempfile::tempdir().unwrap();
            fs::create_dir(directory.path().join("certificates")).unwrap();
            for name in ["main.toml", "certificates/relay.crt", "unrelated"] {
                fs::write(directory.path().join(name), "1").unwrap();
            }
            let watch = Watch::start(files(directory.path(), &["certificates/relay.crt"])).unwrap();
            Self { directory, watch }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        /// Replaces a file as `mv` and certificate tools do.
        fn replace(&self, name: &str, text: &str) {
            let aside = self.path(&format!("{name}.new"));
            fs::write(&aside, text).unwrap();
            fs::rename(aside, self.path(name)).unwrap();
        }

        /// The time-out only turns a test that would hang into one that fails.
        async fn changed(&mut self, what: &str) {
            let changed = tokio::time::timeout(Duration::from_secs(20), self.watch.changed());
            changed
                .await
                .unwrap_or_else(|_| panic!("{what} was not noticed"));
        }
    }

    fn files(directory: &Path, named: &[&str]) -> WatchedFiles {
        let named = named.iter().map(|name| directory.join(name)).collect();
        WatchedFiles::about_to_read(&directory.join("main.toml")).with_named(named)
    }

    #[tokio::test]
    async fn a_change_between_reading_and_watching_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name);
        for (at_first, later) in [
            ("main.toml", "conf.d/a.toml"),
            ("key", "key"),
            ("x", "main.toml"),
        ] {
            fs::create_dir_all(path("conf.d")).unwrap();
            fs::write(path(at_first), "1").unwrap();
            let files = files(directory.path(), &["key"]);
            fs::write(path(later), "later").unwrap();
            let mut watch = Watch::start(files).unwrap();
            let changed = tokio::time::timeout(Duration::from_secs(20), watch.changed());
            changed
                .await
                .unwrap_or_else(|_| panic!("{later} was not noticed"));
        }
    }

    #[tokio::test]
    async fn every_way_to_change_a_file_is_noticed() {
        let mut setup = Setup::start();
        fs::write(setup.path("main.toml"), "longer").unwrap();
        setup.changed("writing").await;
        setup.replace("main.toml", "renamed");
        setup.changed("renaming over").await;
        setup.replace("certificates/relay.crt", "2");
        setup.changed("a certificate").await;
        fs::remove_file(setup.path("certificates/relay.crt")).unwrap();
        setup.changed("removing").await;
        setup.replace("certificates/relay.crt", "3");
        setup.changed("a certificate that came back").await;
    }

    #[tokio::test]
    async fn a_fragment_is_noticed_in_a_directory_that_comes_later() {
        let mut setup = Setup::start();
        for round in ["first", "second"] {
            fs::create_dir(setup.path("conf.d")).unwrap();
            fs::write(setup.path("conf.d/a.toml"), "a").unwrap();
            setup.changed(&format!("{round} fragment")).await;
            setup.replace("conf.d/a.toml", "b, longer");
            setup
                .changed(&format!("change of the {round} fragment"))
                .await;
            fs::remove_dir_all(setup.path("conf.d")).unwrap();
            setup
                .changed(&format!("removal of the {round} directory"))
                .await;
        }
    }

    #[tokio::test]
    async fn a_symbolic_link_that_turns_elsewhere_is_noticed() {
        let mut setup = Setup::start();
        for name in ["old", "new"] {
            fs::write(setup.path(name), name).unwrap();
        }
        std::os::unix::fs::symlink("old", setup.path("link")).unwrap();
        setup
            .watch
            .trigger()
            .watch(files(setup.directory.path(), &["link"]));
        setup.watch.trigger().pull();
        setup.changed("the new list").await;
        std::os::unix::fs::symlink("new", setup.path("link.new")).unwrap();
        fs::rename(setup.path("link.new"), setup.path("link")).unwrap();
        setup.changed("the link").await;
    }

    #[tokio::test]
    async fn what_a_refused_configuration_names_is_watched_too() {
        let mut setup = Setup::start();
        let trigger = setup.watch.trigger();
        trigger.watch_also(BTreeSet::from([setup.path("coming.crt")]));
        trigger.pull();
        setup.changed("the trigger").await;
        fs::write(setup.path("coming.crt"), "1").unwrap();
        setup.changed("the file that was missing").await;
        setup.replace("certificates/relay.crt", "2");
        setup.changed("one that was watched before").await;
    }

    /// Pulled once, the trigger is reported once: were the unrelated file or reading a change, the second wait
    /// would end without the second pull. A slow machine can only make this test pass wrongly, never fail.
    #[tokio::test]
    async fn the_trigger_reports_without_a_change() {
        let mut setup = Setup::start();
        setup.watch.trigger().pull();
        setup.changed("the trigger").await;
        fs::write(setup.path("unrelated"), "2").unwrap();
        fs::read(setup.path("main.toml")).unwrap();
        setup.watch.trigger().pull();
        setup.changed("the second pull").await;
        assert!(setup.watch.changes.try_recv().is_err());
    }

    #[test]
    fn reading_is_no_change() {
        use notify::event::AccessKind::{Close, Open, Read};
        for (kind, expected) in [
            (EventKind::Access(Open(AccessMode::Any)), false),
            (EventKind::Access(Read), false),
            (EventKind::Access(Close(AccessMode::Read)), false),
            (EventKind::Access(Close(AccessMode::Write)), true),
            (EventKind::Create(CreateKind::File), true),
            (EventKind::Modify(ModifyKind::Data(DataChange::Any)), true),
            (EventKind::Modify(ModifyKind::Name(RenameMode::To)), true),
            (EventKind::Remove(RemoveKind::Folder), true),
        ] {
            assert_eq!(can_matter(kind), expected, "{kind:?}");
        }
    }

    #[test]
    fn a_directory_that_is_not_there_cannot_be_watched() {
        let error = Watch::start(files(Path::new("/nonexistent"), &[])).unwrap_err();
        assert_eq!(error.to_string(), "cannot watch /nonexistent for changes");
    }
}
