//! The load: several relays with mail at the same time, kills at the points where it hurts, a clean end.

use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use fastrand::Rng;

use super::offer::{new, session};
use super::{Book, Promises};
use crate::power::program::Traced;
use crate::power::recorder::Recording;
use crate::process::wait_until;
use crate::world::{ACCOUNT, DOMAIN, Puller, PullerSetup, Tls};

/// Relays, so many sessions of one process that share the journal.
const RELAYS: usize = 3;

/// How much happens.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// New messages of each relay in each run.
    pub messages: usize,
    /// Runs that end by a kill.
    pub kills: usize,
}

/// How a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Killed when it enters this call for the so-many-th time.
    At(&'static str, usize),
    /// Killed when so many messages more were taken.
    Kill(usize),
    Stop,
}

/// Records a puller under a load; everything is kept below `folder`, which must be empty.
///
/// # Panics
/// When the puller does what it must not, or the trace is not understood.
#[must_use]
pub fn record(strace: &Path, folder: &Path, seed: u64, size: Size) -> (Recording, Promises) {
    let disk = folder.join("disk");
    std::fs::create_dir(&disk).expect("a folder");
    let listeners: Vec<TcpListener> = (0..RELAYS).map(|_| listener()).collect();
    let puller = install(folder, &disk, &listeners);
    let mut traced = Traced::new(strace, &disk, folder);
    let (book, mut chance) = (Book::default(), Rng::with_seed(seed));
    for run in 0..=size.kills {
        let end = if run == size.kills {
            End::Stop
        } else {
            end(run, size.messages, &mut chance)
        };
        one(
            &puller,
            &mut traced,
            &listeners,
            (run, size.messages, end),
            &book,
            &mut chance,
        );
    }
    let offered = book.offers().len();
    let taken = book.taken();
    assert_eq!(taken, offered, "messages taken\n{}", traced.log());
    let recording = traced.into_recording();
    let promises = book.promises(&recording);
    (recording, promises)
}

/// Each kind of kill in its turn: between the name of a file and the sync of it, in the commit of the journal, and
/// anywhere.
fn end(run: usize, messages: usize, chance: &mut Rng) -> End {
    let some = chance.usize(1..=RELAYS * messages);
    match run % 4 {
        // One fsync for the file, and the next for its name.
        0 => End::At("fsync", 2 * some),
        1 => End::At("fdatasync", some),
        2 => End::At("rename", some),
        _ => End::Kill(some),
    }
}

fn one(
    puller: &Puller,
    traced: &mut Traced,
    listeners: &[TcpListener],
    (run, messages, end): (usize, usize, End),
    book: &Book,
    chance: &mut Rng,
) {
    let mut command = puller.command();
    command.arg("run");
    let inject = match end {
        End::At(call, count) => Some(format!("?{call}:signal=SIGKILL:when={count}")),
        End::Kill(_) | End::Stop => None,
    };
    let enough = book.taken()
        + if let End::Kill(count) = end {
            count
        } else {
            usize::MAX / 2
        };
    for _ in 0..RELAYS * messages {
        let mut offers = book.offers();
        let offer = new(offers.len(), chance);
        offers.push(offer);
    }
    let work = (0..listeners.len()).map(|relay| numbers(relay, book, chance));
    let work: Vec<Vec<usize>> = work.collect();
    let over = AtomicBool::new(false);
    let over = &over;
    traced.start(&command, inject.as_deref(), || true);
    std::thread::scope(|scope| {
        let sessions: Vec<_> = listeners
            .iter()
            .zip(&work)
            .enumerate()
            .map(|(relay, (listener, numbers))| {
                let word = format!("r{run:03}-{relay}");
                scope.spawn(move || session(listener, &word, numbers, over, book))
            })
            .collect();
        wait_until("the end of the run", || {
            let all_done = sessions
                .iter()
                .all(std::thread::ScopedJoinHandle::is_finished);
            all_done || book.taken() >= enough || !traced.is_running()
        });
        over.store(true, Ordering::Relaxed);
        match end {
            End::Stop => traced.stop(),
            End::At(..) | End::Kill(_) => traced.kill(),
        }
    });
}

/// What a relay offers: all of its messages that are not taken yet, and some that were.
fn numbers(relay: usize, book: &Book, chance: &mut Rng) -> Vec<usize> {
    let offers = book.offers();
    let own = (relay..offers.len()).step_by(RELAYS);
    own.filter(|number| offers[*number].taken.is_empty() || chance.u8(..4) == 0)
        .collect()
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a free port")
}

/// A puller of several relays, with nothing on its disk yet.
fn install(folder: &Path, disk: &Path, listeners: &[TcpListener]) -> Puller {
    let addresses: Vec<String> = listeners
        .iter()
        .map(|listener| listener.local_addr().expect("an address").to_string())
        .collect();
    let target = format!("maildir:{}", disk.join("mail").display());
    let setup = PullerSetup::new(ACCOUNT, &[DOMAIN], &target);
    let data = disk.join("data").display().to_string();
    let setup = setup
        .setting("data_dir", data)
        .setting("relay.weakest_mechanism", "CRAM-MD5");
    let puller = setup.install_for(
        folder,
        &addresses[0],
        Tls::Off,
        None,
        "secret of the account",
    );
    let more = puller.folder().join("conf.d");
    std::fs::create_dir_all(&more).expect("a folder");
    for (number, address) in addresses.iter().enumerate().skip(1) {
        let text = format!(
            "[[relay]]\nname = \"more-{number}\"\naddress = \"{address}\"\ntls = \"off\"\naccount = \"{ACCOUNT}\"\n\
             secret_file = \"../relay.secret\"\ndomains = [\"{DOMAIN}\"]\nmode = \"poll\"\n\
             weakest_mechanism = \"CRAM-MD5\"\n"
        );
        std::fs::write(more.join(format!("{number}.toml")), text).expect("a configuration file");
    }
    puller
}
