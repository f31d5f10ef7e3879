//! A world whose mail is in a ledger, and the rows that it adds to the matrix.

use std::path::PathBuf;

use atrn_tests::faults::{Ledger, Row};
use atrn_tests::inside::Inside;
use atrn_tests::message::{Message, stuffed};
use atrn_tests::peer::Peer;
use atrn_tests::process::wait_until;
use atrn_tests::sender::Sender;
use atrn_tests::world::{Setup, World};

/// Lives in the database.
pub(crate) const SMALL: usize = 500;
/// Lives in a file, and goes to the disk in two writes at least.
pub(crate) const LARGE: usize = 400_000;
/// So much of a large message is sent before its file is there.
const FIRST_PART: usize = 300_000;

/// A relay, a corporate server, and what was sent so far.
pub(crate) struct Stage {
    pub(crate) world: World,
    pub(crate) inside: Inside,
    pub(crate) ledger: Ledger,
    pub(crate) rows: Vec<Row>,
    name: &'static str,
}

impl Stage {
    pub(crate) fn new(name: &'static str) -> Self {
        Self::with(name, |setup| setup)
    }

    pub(crate) fn with(name: &'static str, change: impl FnOnce(Setup) -> Setup) -> Self {
        let inside = Inside::smtp();
        let world = change(World::setup().target(&inside.target())).start();
        Self {
            world,
            inside,
            ledger: Ledger::default(),
            rows: Vec::new(),
            name,
        }
    }

    pub(crate) fn connect(&self) -> Sender {
        Sender::connect(self.world.relay.smtp_address())
    }

    pub(crate) fn message(&self, octets: usize) -> Message {
        self.ledger.message(self.name, octets)
    }

    /// Sends a message and notes the answer, whatever it is.
    #[track_caller]
    pub(crate) fn send(&mut self, sender: &mut Sender, octets: usize) -> String {
        let message = self.message(octets);
        let reply = offer(sender.peer(), &message);
        self.ledger.note(&message, &reply);
        reply
    }

    /// The same, and it must be taken.
    #[track_caller]
    pub(crate) fn send_taken(&mut self, sender: &mut Sender, octets: usize) {
        let reply = self.send(sender, octets);
        assert!(reply.starts_with("250 "), "not taken: {reply}");
    }

    /// Sends the first part of a large message, so that its file is there.
    #[track_caller]
    pub(crate) fn begin_large(&self, sender: &mut Sender) -> Large {
        let message = self.message(LARGE);
        let before = self.world.relay.spool_paths();
        let peer = sender.peer();
        envelope(peer, &message);
        peer.ask("DATA", "354");
        let octets = stuffed(&message.content);
        peer.send_octets(&octets[..FIRST_PART]);
        let mut path = None;
        wait_until("its content file", || {
            let paths = self.world.relay.spool_paths();
            path = paths.into_iter().find(|path| !before.contains(path));
            path.is_some()
        });
        Large {
            path: path.expect("its content file"),
            rest: octets[FIRST_PART..].to_vec(),
            message,
        }
    }

    /// Sends the rest of it, and notes the answer.
    #[track_caller]
    pub(crate) fn end_large(&mut self, sender: &mut Sender, large: &Large) -> String {
        sender.peer().send_octets(&large.rest);
        let reply = reply(sender.peer());
        self.ledger.note(&large.message, &reply);
        reply
    }

    /// The end of a part: all that was acknowledged comes in, once, and nothing is left.
    #[track_caller]
    pub(crate) fn end(mut self) -> Vec<Row> {
        // What was deferred on the way is ready at once.
        self.world.relay.retry_all();
        let _ = self.world.puller.pull().expect_code(0);
        self.world.relay.wait_for_queue(&[]);
        let arrived = self.inside.messages();
        let counts = self
            .ledger
            .settle(arrived.iter().map(|message| &message.content[..]));
        println!("{}: {counts:?}", self.name);
        // Files that nobody names are swept at the next start, at the latest.
        self.world.relay.restart();
        wait_until("no content file is left", || {
            self.world.relay.spool_files() == 0
        });
        self.rows
    }
}

impl Stage {
    pub(crate) fn log_file(&self) -> PathBuf {
        self.world.relay.data_folder().join("queue.db-wal")
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.world.relay.data_folder().join("queue.db")
    }

    /// Two numbers in the header of the log that change when it is begun anew; none while it is empty.
    pub(crate) fn log_salt(&self) -> Option<[u8; 8]> {
        let log = std::fs::read(self.log_file()).ok()?;
        log.get(16..24)?.try_into().ok()
    }

    pub(crate) fn queued(&self) -> usize {
        self.world.queue_list().len()
    }

    pub(crate) fn mark(&self) -> LogMark {
        LogMark::now(&self.world.relay.log())
    }

    #[track_caller]
    pub(crate) fn assert_logged(&self, mark: &LogMark, words: &str) {
        let log = self.world.relay.log();
        let since = mark.since(&log);
        let told = mark.told(&log, words);
        assert!(told, "no {words:?} in the log:\n{since}");
    }

    #[track_caller]
    pub(crate) fn wait_for_log(&self, mark: &LogMark, words: &str) {
        wait_until(words, || {
            mark.since(&self.world.relay.log()).contains(words)
        });
        self.assert_logged(mark, words);
    }

    /// Adds a row: where, `call: error`, the answer, what came of it.
    pub(crate) fn row(&mut self, place: &str, call: &str, error: &str, answer: &str, after: &str) {
        let fault = format!("{} `{error}`", wording(call));
        let place = format!("relay, {place}");
        self.rows.push(Row::new(&place, &fault, answer, after));
    }
}

/// The call as the table names it: the kernel's names for one thing differ.
pub(crate) fn wording(call: &str) -> String {
    call.replace("fdatasync,openat", "fdatasync, then open,")
        .replace("pwrite64", "write")
        .replace("openat", "open")
        .replace("accept4", "accept")
}

/// A large message whose content has come in part.
pub(crate) struct Large {
    pub(crate) path: PathBuf,
    message: Message,
    rest: Vec<u8>,
}

/// What a program logged since a moment.
pub(crate) struct LogMark(usize);

impl LogMark {
    pub(crate) fn now(log: &str) -> Self {
        Self(log.len())
    }

    pub(crate) fn since<'l>(&self, log: &'l str) -> &'l str {
        &log[self.0..]
    }

    /// Whether the operator was told: these words in a line that asks for attention.
    pub(crate) fn told(&self, log: &str, words: &str) -> bool {
        self.since(log)
            .lines()
            .any(|line| (line.contains("ERROR") || line.contains("WARN")) && line.contains(words))
    }
}

fn envelope(peer: &mut Peer, message: &Message) {
    peer.ask(&format!("MAIL FROM:<{}>", message.reverse_path), "250 ");
    for path in &message.forward_paths {
        peer.ask(&format!("RCPT TO:<{path}>"), "250 ");
    }
}

/// Offers a message; the reply that ends it, to MAIL or to the dot.
#[track_caller]
pub(crate) fn offer(peer: &mut Peer, message: &Message) -> String {
    peer.send(&format!("MAIL FROM:<{}>", message.reverse_path));
    let answer = reply(peer);
    if !answer.starts_with('2') {
        return answer;
    }
    for path in &message.forward_paths {
        peer.ask(&format!("RCPT TO:<{path}>"), "250 ");
    }
    peer.ask("DATA", "354");
    peer.send_octets(&stuffed(&message.content));
    reply(peer)
}

pub(crate) fn reply(peer: &mut Peer) -> String {
    peer.reply().pop().expect("a reply has a line")
}

/// Its code and enhanced code, as the table shows them.
pub(crate) fn codes(reply: &str) -> String {
    let codes: Vec<&str> = reply.split(' ').take(2).collect();
    format!("`{}`", codes.join(" "))
}
