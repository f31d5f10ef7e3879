//! The load: senders and pullers side by side, kills in the middle, a clean end.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use fastrand::Rng;

use super::puller::{Mood, Pulled, Puller};
use super::sender::{DOMAINS, send};
use super::{Book, Promises};
use crate::power::line::Line;
use crate::power::program::Traced;
use crate::power::recorder::Recording;
use crate::process::wait_until;
use crate::world::{ACCOUNT, Relay, Tls};

/// Senders side by side, and pullers.
const SENDERS: usize = 3;
const PULLERS: usize = 2;

/// A relay that is recorded, and those around it.
struct World<'a> {
    relay: Relay,
    traced: Traced,
    book: Book,
    chance: Rng,
    /// Dialogues so far: each has a word of its own.
    dialogues: usize,
    size: &'a Size,
}

/// How much happens.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Messages of each sender in each run.
    pub messages: usize,
    /// Runs that end by a kill.
    pub kills: usize,
}

/// Records a relay under a load; everything is kept below `folder`, which must be empty.
///
/// # Panics
/// When the relay does what it must not, or the trace is not understood.
#[must_use]
pub fn record(strace: &Path, folder: &Path, seed: u64, size: Size) -> (Recording, Promises) {
    let domains = DOMAINS.map(str::to_owned);
    // Content must be seen in the trace, so nothing is encrypted.
    let mut relay = Relay::init(folder, &domains, Tls::Off);
    relay.add_account(ACCOUNT, &domains);
    let disk = folder.join("disk");
    std::fs::create_dir(&disk).expect("a folder");
    relay.configure(|settings| {
        settings.set("data_dir", disk.join("data").display().to_string());
    });
    let mut world = World {
        traced: Traced::new(strace, &disk, folder),
        relay,
        book: Book::default(),
        chance: Rng::with_seed(seed),
        dialogues: 0,
        size: &size,
    };
    for _ in 0..size.kills {
        world.start();
        world.run(End::Kill);
    }
    world.start();
    world.run(End::Stop);
    world.start();
    world.drain();
    world.traced.stop();
    let recording = world.traced.into_recording();
    let taken = world.book.accepted();
    assert!(
        taken >= SENDERS * size.messages,
        "only {taken} messages were accepted"
    );
    let promises = world.book.promises(&recording);
    (recording, promises)
}

/// How a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Kill,
    Stop,
}

impl World<'_> {
    fn start(&mut self) {
        let mut command = self.relay.command();
        command.arg("run");
        let addresses = [self.relay.smtp_address(), self.relay.odmr_address()];
        // The sockets are there before the queue is open; the greeting comes behind it. A command that came between them
        // would open the queue itself, and not be recorded.
        let greets = |address: &SocketAddr| {
            Line::connect(*address, "")
                .and_then(|mut line| line.reply())
                .is_some()
        };
        self.traced
            .start(&command, None, || addresses.iter().all(greets));
        // What was deferred by the runs before is offered again.
        self.relay.retry_all();
    }

    /// Senders and pullers at work together, until all is sent or the relay is killed.
    fn run(&mut self, end: End) {
        let (from, count) = (self.book.accepted(), SENDERS * self.size.messages);
        let kill_at = from + self.chance.usize(count / 2..count);
        let over = AtomicBool::new(false);
        let senders: Vec<_> = (0..SENDERS).map(|_| self.dialogue("c")).collect();
        let pullers: Vec<_> = (0..PULLERS).map(|_| self.dialogue("p")).collect();
        let (book, relay, traced) = (&self.book, &self.relay, &mut self.traced);
        let (over, count) = (&over, self.size.messages);
        std::thread::scope(|scope| {
            for (word, chance) in pullers {
                scope.spawn(move || pull_until(over, relay, book, &word, chance));
            }
            let sending: Vec<_> = senders
                .into_iter()
                .map(|(word, mut chance)| {
                    scope.spawn(move || send(relay.smtp_address(), &word, count, &mut chance, book))
                })
                .collect();
            if end == End::Kill {
                wait_until("the moment of the kill", || {
                    book.accepted() >= kill_at
                        || sending
                            .iter()
                            .all(std::thread::ScopedJoinHandle::is_finished)
                });
                over.store(true, Ordering::Relaxed);
                traced.kill();
            }
            sending
                .into_iter()
                .for_each(|sender| sender.join().expect("a sender"));
            over.store(true, Ordering::Relaxed);
        });
        if end == End::Stop {
            self.traced.stop();
        }
    }

    /// Pulls until nothing is left, from a relay that still runs.
    fn drain(&mut self) {
        let (word, mut chance) = self.dialogue("d");
        let puller = Puller {
            address: self.relay.odmr_address(),
            secret: self.relay.secret(ACCOUNT),
            book: &self.book,
            mood: Mood::Willing,
        };
        for number in 0.. {
            match puller.pull(&format!("{word}-{number}"), &mut chance) {
                Pulled::NoMail => return,
                Pulled::HungUp => panic!("the relay hung up\n{}", self.traced.log()),
                Pulled::Some => {}
            }
        }
    }

    /// A word for a dialogue, and its own chance: threads must not share one.
    fn dialogue(&mut self, kind: &str) -> (String, Rng) {
        self.dialogues += 1;
        (format!("{kind}{:04}", self.dialogues), self.chance.fork())
    }
}

fn pull_until(over: &AtomicBool, relay: &Relay, book: &Book, word: &str, mut chance: Rng) {
    let puller = Puller {
        address: relay.odmr_address(),
        secret: relay.secret(ACCOUNT),
        book,
        mood: Mood::Changing,
    };
    let mut number = 0;
    while !over.load(Ordering::Relaxed) {
        number += 1;
        let accepted = book.accepted();
        if puller.pull(&format!("{word}-{number}"), &mut chance) == Pulled::NoMail {
            wait_until("more mail", || {
                over.load(Ordering::Relaxed) || book.accepted() > accepted
            });
        }
    }
}
