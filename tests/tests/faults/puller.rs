//! Calls of the puller that fail: in the Maildir that it hands mail over to, and in its journal. The daemon runs
//! through all of it.

use std::path::PathBuf;

use atrn_tests::faults::{Descriptors, Disk, Fault, Lock, Row};
use atrn_tests::message::Message;
use atrn_tests::process::wait_until;
use atrn_tests::software::maildir as read_maildir;
use atrn_tests::world::World;

use super::stage::{LogMark, SMALL, codes, wording};
use atrn_tests::faults::Ledger;
use atrn_tests::sender;

/// More than what fits between the programs while the relay stands still.
const HUGE: usize = 24_000_000;
const DEFERRED: &str = "the relay keeps it and the next pull delivers it, once";
const NOT_ASKED: &str = "no mail is asked for until it works; then all of it comes, once";

/// A relay and the daemon of a puller that hands over into a Maildir.
struct Inside {
    world: World,
    ledger: Ledger,
    rows: Vec<Row>,
    name: &'static str,
}

/// A file of the Maildir fails.
pub(crate) fn file() -> Vec<Row> {
    let mut inside = Inside::new("puller-file");
    for error in ["EIO", "EMFILE"] {
        opening_fails(&mut inside, error);
    }
    for (call, error) in [
        ("write", "EIO"),
        ("write", "EDQUOT"),
        ("fsync", "EIO"),
        ("fsync", "ENOSPC"),
        ("rename", "EIO"),
    ] {
        file_fails(&mut inside, call, error);
    }
    inside.end()
}

/// A folder of the Maildir fails, or the whole disk.
pub(crate) fn folder() -> Vec<Row> {
    let mut inside = Inside::new("puller-folder");
    let new = inside.folder().join("new");
    for (call, error) in [("openat", "EIO"), ("fsync", "EIO"), ("fsync", "ENOSPC")] {
        deferred(
            &mut inside,
            "folder `new`",
            &Fault::new(call, error).at(&new),
            call,
            error,
        );
    }
    full_maildir(&mut inside);
    descriptors(&mut inside);
    inside.end()
}

/// The journal fails.
pub(crate) fn journal() -> Vec<Row> {
    let mut inside = Inside::new("puller-journal");
    for (call, error) in [
        ("pwrite64", "EIO"),
        ("pwrite64", "ENOSPC"),
        ("fdatasync", "EIO"),
        ("fdatasync", "ENOSPC"),
        ("fdatasync,openat", "EIO"),
    ] {
        journal_fails(&mut inside, call, error);
    }
    full_data_folder(&mut inside);
    inside.end()
}

/// Somebody else has the journal.
pub(crate) fn busy() -> Vec<Row> {
    let mut inside = Inside::new("puller-busy");
    journal_busy(&mut inside);
    inside.end()
}

fn opening_fails(inside: &mut Inside, error: &str) {
    let (arrived, mark) = (inside.arrived(), inside.mark());
    // Nobody knows the name of a file in tmp/ before it is there: every file that is opened fails.
    let injected = Fault::new("openat", error).inject(inside.puller());
    inside.send_unasked(&mark);
    assert!(injected.end().hits() > 0);
    inside.wait_for_arrivals(arrived + 1);
    inside.row(
        "Maildir: file in `tmp`",
        "open",
        error,
        "ATRN is not sent",
        NOT_ASKED,
    );
}

/// The relay stands still in the middle of a message, so that the file is known before the call that fails.
fn file_fails(inside: &mut Inside, call: &str, error: &str) {
    let (arrived, mark) = (inside.arrived(), inside.mark());
    inside.send(HUGE);
    let tmp = inside.folder().join("tmp");
    let mut file = None;
    wait_until("a file in tmp/", || {
        let entries = std::fs::read_dir(&tmp).expect("tmp/").flatten();
        // The hand-over tries the folder with an empty one.
        file = entries
            .map(|entry| entry.path())
            .find(|path| path.metadata().is_ok_and(|metadata| metadata.len() > 0));
        file.is_some()
    });
    inside.world.relay.pause();
    let file = file.expect("a file in tmp/");
    assert!(file.exists(), "the relay stood still too late");
    let injected = Fault::new(call, error).at(&file).inject(inside.puller());
    inside.world.relay.signal(nix::sys::signal::Signal::SIGCONT);
    inside.wait_for_queue("user@example.org deferred 1");
    assert!(injected.end().hits() > 0);
    inside.assert_logged(&mark, "cannot store a message");
    inside.deferred_row("Maildir: file in `tmp`", call, error, arrived);
    assert!(!file.exists(), "what was written is removed");
}

fn deferred(inside: &mut Inside, place: &str, fault: &Fault, call: &str, error: &str) {
    let (arrived, mark) = (inside.arrived(), inside.mark());
    let injected = fault.inject(inside.puller());
    inside.send(SMALL);
    inside.wait_for_queue("user@example.org deferred 1");
    assert!(injected.end().hits() > 0, "{call} {error}: not hit");
    inside.assert_logged(&mark, "cannot store a message");
    assert_eq!(
        inside.arrived(),
        arrived,
        "{call} {error}: refused and there"
    );
    inside.deferred_row(&format!("Maildir: {place}"), call, error, arrived);
}

fn full_maildir(inside: &mut Inside) {
    let before = inside.arrived();
    let place = inside.world.folder().join("small");
    std::fs::create_dir(&place).expect("a folder");
    let disk = Disk::mount(&place, 8 * 1024 * 1024);
    inside.retarget(place.join("Maildir"));
    inside.send(SMALL);
    inside.wait_for_arrivals(1);
    let mark = inside.mark();
    disk.fill(0);
    inside.send(SMALL);
    inside.wait_for_queue("user@example.org deferred 1");
    inside.assert_logged(&mark, "cannot store a message");
    let reply = inside.last_reply();
    disk.empty();
    inside.world.relay.retry_all();
    inside.wait_for_arrivals(2);
    inside.row(
        "Maildir: disk without a free block",
        "write",
        "ENOSPC",
        &reply,
        DEFERRED,
    );
    // What is on the small disk is counted with the rest.
    let messages = read_maildir(&inside.folder());
    inside.retarget(inside.world.folder().join("Maildir"));
    drop(disk);
    for (number, content) in messages.iter().enumerate() {
        let path = inside
            .folder()
            .join("cur")
            .join(format!("moved.{number}:2,S"));
        std::fs::write(path, content).expect("a message is moved");
    }
    assert_eq!(inside.arrived(), before + 2);
}

fn descriptors(inside: &mut Inside) {
    let (arrived, mark) = (inside.arrived(), inside.mark());
    let lowered = Descriptors::none(inside.puller());
    inside.send_unasked(&mark);
    drop(lowered);
    inside.wait_for_arrivals(arrived + 1);
    inside.row(
        "everything",
        "no descriptors left:",
        "EMFILE",
        "ATRN is not sent",
        NOT_ASKED,
    );
}

/// The mail is inside when the journal fails, so the relay must hear 250 and nothing else. It is the last one until
/// the journal works again.
fn journal_fails(inside: &mut Inside, call: &str, error: &str) {
    let (arrived, mark) = (inside.arrived(), inside.mark());
    let injected = Fault::new(call, error)
        .at(&inside.journal())
        .inject(inside.puller());
    inside.send(SMALL);
    inside.wait_for_log(&mark, "no more mail is taken");
    inside.wait_for_log(&mark, "pull ended");
    inside.wait_for_arrivals(arrived + 1);
    let mark = inside.mark();
    inside.send(SMALL);
    inside.wait_for_log(&mark, "pull ended");
    assert_eq!(inside.arrived(), arrived + 1, "one message, and no more");
    assert_eq!(
        inside.world.relay.queue_lines(),
        ["user@example.org queued 0"]
    );
    assert!(injected.end().hits() > 0, "{call} {error}: not hit");
    inside.wait_for_arrivals(arrived + 2);
    inside.row(
        "journal: log",
        call,
        error,
        "`250 2.0.0`: it is inside",
        NOT_ASKED,
    );
}

fn full_data_folder(inside: &mut Inside) {
    inside.world.puller.kill();
    let place = inside.world.puller.folder().join("data");
    let disk = Disk::mount(&place, 4 * 1024 * 1024);
    inside.world.puller.start();
    inside.send(SMALL);
    let arrived = inside.arrived();
    inside.wait_for_arrivals(arrived.max(1));
    inside.world.relay.wait_for_queue(&[]);
    let (arrived, mark) = (inside.arrived(), inside.mark());
    disk.fill(0);
    inside.send(SMALL);
    inside.wait_for_log(&mark, "journal");
    inside.send(SMALL);
    assert!(inside.arrived() <= arrived + 1, "at most one");
    disk.empty();
    inside.wait_for_arrivals(arrived + 2);
    inside.row(
        "journal: disk without a free block",
        "write",
        "ENOSPC",
        "`250 2.0.0` if it is inside already",
        NOT_ASKED,
    );
    inside.world.puller.kill();
    drop(disk);
    inside.world.puller.start();
}

fn journal_busy(inside: &mut Inside) {
    let database = inside.world.puller.folder().join("data/journal.db");
    let lock = Lock::take(&database);
    inside.send(SMALL);
    inside.wait_for_arrivals(1);
    // It is inside, and nobody hears so before that is written down.
    assert_eq!(
        inside.world.relay.queue_lines(),
        ["user@example.org leased 0"]
    );
    drop(lock);
    inside.world.relay.wait_for_queue(&[]);
    inside.row(
        "journal",
        "lock held for less than 10 s by another process:",
        "SQLITE_BUSY",
        "`250 2.0.0`",
        "the commit waits for it",
    );
    let mark = inside.mark();
    let lock = Lock::take(&database);
    inside.send(SMALL);
    inside.wait_for_log(&mark, "journal");
    drop(lock);
    inside.send(SMALL);
    inside.wait_for_arrivals(3);
    inside.row(
        "journal",
        "lock held for more than 10 s by another process:",
        "SQLITE_BUSY",
        "`250 2.0.0` if it is inside already",
        NOT_ASKED,
    );
}

impl Inside {
    fn new(name: &'static str) -> Self {
        let mut world = World::setup()
            .puller("relay.every", "1s")
            .puller("relay.jitter", "0s")
            .start();
        world.puller.set_target(&format!(
            "maildir:{}",
            world.folder().join("Maildir").display()
        ));
        world.puller.start();
        let inside = Self {
            world,
            ledger: Ledger::default(),
            rows: Vec::new(),
            name,
        };
        wait_until("a pull", || {
            inside.world.puller.log().contains("pull ended")
        });
        inside
    }

    fn end(self) -> Vec<Row> {
        self.world.relay.wait_for_queue(&[]);
        let arrived = read_maildir(&self.folder());
        let counts = self.ledger.settle(arrived.iter().map(Vec::as_slice));
        println!("{}: {counts:?}", self.name);
        self.rows
    }

    /// Where it hands mail over to now.
    fn folder(&self) -> PathBuf {
        let config = std::fs::read_to_string(self.world.puller.config()).expect("its settings");
        let target = config
            .lines()
            .find_map(|line| line.split_once("\"maildir:"));
        PathBuf::from(target.expect("a Maildir").1.trim_end_matches('"'))
    }

    fn retarget(&mut self, path: PathBuf) {
        self.world.relay.wait_for_queue(&[]);
        self.world.puller.kill();
        self.world
            .puller
            .set_target(&format!("maildir:{}", path.display()));
        let mark = self.mark();
        self.world.puller.start();
        wait_until("a pull", || {
            mark.since(&self.world.puller.log()).contains("pull ended")
        });
    }

    fn journal(&self) -> PathBuf {
        self.world.puller.folder().join("data/journal.db-wal")
    }

    fn puller(&self) -> u32 {
        self.world.puller.id().expect("the daemon runs")
    }

    /// Sends a message to the relay, which takes it.
    #[track_caller]
    fn send(&mut self, octets: usize) {
        let message: Message = self.ledger.message(self.name, octets);
        sender::send(
            self.world.relay.smtp_address(),
            std::slice::from_ref(&message),
        );
        self.ledger.note(&message, "250 ");
    }

    /// Sends a message between two pulls that fail before they ask for mail. (The first may have begun before the fault.)
    #[track_caller]
    fn send_unasked(&mut self, mark: &LogMark) {
        self.wait_for_log(mark, "pull ended");
        self.send(SMALL);
        let mark = self.mark();
        self.wait_for_log(&mark, "pull ended");
        let lines = self.world.relay.queue_lines();
        assert_eq!(lines, ["user@example.org queued 0"]);
    }

    fn arrived(&self) -> usize {
        read_maildir(&self.folder()).len()
    }

    #[track_caller]
    fn wait_for_arrivals(&self, count: usize) {
        wait_until("the mail is inside", || self.arrived() >= count);
        assert_eq!(self.arrived(), count);
    }

    #[track_caller]
    fn wait_for_queue(&self, line: &str) {
        self.world.relay.wait_for_queue(&[line]);
    }

    /// What the puller said of the only message, as the relay keeps it.
    fn last_reply(&self) -> String {
        let queue = self.world.queue_list();
        let reply = queue[0]["last_reply"].as_str().expect("a reply").to_owned();
        codes(&reply)
    }

    /// The end of a fault that deferred a message.
    #[track_caller]
    fn deferred_row(&mut self, place: &str, call: &str, error: &str, arrived: usize) {
        let reply = self.last_reply();
        self.world.relay.retry_all();
        self.wait_for_arrivals(arrived + 1);
        self.world.relay.wait_for_queue(&[]);
        self.row(place, call, error, &reply, DEFERRED);
    }

    /// Adds a row, when all is well again: what is inside is written down, and the relay has heard of it.
    #[track_caller]
    fn row(&mut self, place: &str, call: &str, error: &str, answer: &str, after: &str) {
        self.world.relay.wait_for_queue(&[]);
        let place = format!("puller, {place}");
        let fault = format!("{} `{error}`", wording(call));
        self.rows.push(Row::new(&place, &fault, answer, after));
    }

    fn mark(&self) -> LogMark {
        LogMark::now(&self.world.puller.log())
    }

    #[track_caller]
    fn wait_for_log(&self, mark: &LogMark, words: &str) {
        wait_until(words, || mark.told(&self.world.puller.log(), words));
    }

    #[track_caller]
    fn assert_logged(&self, mark: &LogMark, words: &str) {
        let log = self.world.puller.log();
        assert!(
            mark.told(&log, words),
            "no {words:?} in the log:\n{}",
            mark.since(&log)
        );
    }
}
