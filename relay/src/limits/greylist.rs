//! Greylisting: a sender that nobody knows is told to come back, which mail servers do and much of what sends spam
//! does not. Off unless the settings have `smtp.greylist`.
//!
//! What is remembered are digests and times, in memory. A file in `data_dir` has them for the next start; it is written
//! now and then, behind everything else, and a file that is lost costs senders a wait and nothing more.

mod pending;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atrn_shared::smtp::address::{ForwardPath, ReversePath};
use atrn_shared::smtp::reply::Reply;
use aws_lc_rs::digest;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::pending::Pending;

/// Its name in `data_dir`.
const FILE_NAME: &str = "greylist";
/// The file begins with this; another version begins otherwise.
const FILE_BEGINS: &[u8] = b"atrn greylist 2\n";
/// How often it is written, if there is anything new.
const WRITTEN_EVERY: Duration = Duration::from_secs(600);
/// Who does not come back for so long was no mail server.
const PENDING_SECONDS: u64 = 2 * 86_400;
/// Who passed once is known for so long after its last message; long enough for a newsletter of the month.
const KNOWN_SECONDS: u64 = 36 * 86_400;
/// Entries of each of two generations of senders that are known: 200,000 in all, 24 octets each.
const GENERATION: usize = 100_000;

/// Whom mail comes from and whom it is for, as far as greylisting tells them apart: a part of a digest.
type Key = [u8; 16];

/// The same of an attempt.
#[derive(Clone, Copy, Debug)]
struct Keys {
    /// What others there share the room with.
    network: Key,
    /// Who is known once it passed.
    sender: Key,
    /// Who has to come back.
    triple: Key,
}

/// The memory of greylisting. Clones are handles of the same.
#[derive(Clone, Debug)]
pub(crate) struct Greylist(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    state: Mutex<State>,
    is_changed: AtomicBool,
    deferred: AtomicU64,
    passed: AtomicU64,
}

#[derive(Debug, Default, PartialEq)]
struct State {
    /// Network, sender and recipient, and when they first came.
    pending: Pending,
    /// Networks with a sender's domain that came back once, and when they last came.
    known: Generations,
}

/// A map that forgets what was not asked for, when it is full.
#[derive(Clone, Debug, Default)]
struct Generations {
    young: HashMap<Key, u64>,
    old: HashMap<Key, u64>,
}

/// Who wants to send what to whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt<'a> {
    pub(crate) address: IpAddr,
    pub(crate) sender: &'a ReversePath,
    pub(crate) recipient: &'a ForwardPath,
}

impl Greylist {
    /// With what the last run left in `data_dir`.
    pub(crate) fn open(data_dir: &Path) -> Self {
        let path = data_dir.join(FILE_NAME);
        let state = read(&path, now()).unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                warn!(path = %path.display(), %error, "greylisting begins with nothing in memory");
            }
            State::default()
        });
        Self(Arc::new(Inner {
            path,
            state: Mutex::new(state),
            is_changed: AtomicBool::new(false),
            deferred: AtomicU64::new(0),
            passed: AtomicU64::new(0),
        }))
    }

    /// Whether the mail may come now, if everybody who is unknown has to wait so long.
    ///
    /// # Errors
    /// The refusal: come back later.
    pub(crate) fn ask(&self, attempt: Attempt<'_>, wait: Duration) -> Result<(), Reply> {
        let left = self.state().ask(Keys::of(attempt), wait.as_secs(), now());
        self.0.is_changed.store(true, Relaxed);
        if left == 0 {
            self.0.passed.fetch_add(1, Relaxed);
            return Ok(());
        }
        self.0.deferred.fetch_add(1, Relaxed);
        let text = format!("Not known here yet, try again in {left} seconds");
        Err(Reply::new(451, "4.7.1", text))
    }

    /// How many attempts were put off, and how many passed.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.0.deferred.load(Relaxed), self.0.passed.load(Relaxed))
    }

    /// Writes the file now and then, and at the shutdown.
    pub(crate) async fn keep(self, shutdown: CancellationToken) {
        let mut is_failing = false;
        while !shutdown.is_cancelled() {
            let _ = tokio::time::timeout(WRITTEN_EVERY, shutdown.cancelled()).await;
            if !self.0.is_changed.swap(false, Relaxed) {
                continue;
            }
            let handle = self.clone();
            let written = tokio::task::spawn_blocking(move || handle.write()).await;
            match written {
                Ok(Ok(())) => is_failing = false,
                Ok(Err(error)) if !is_failing => {
                    warn!(path = %self.0.path.display(), %error, "cannot write what greylisting knows; it is tried again");
                    is_failing = true;
                }
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }

    fn write(&self) -> io::Result<()> {
        // Sessions wait for the lock, and not for all the rest: a copy is quickly made, and one at a time.
        let pending = self.state().pending.clone();
        let known = self.state().known.clone();
        let octets = State { pending, known }.to_octets();
        let aside = self.0.path.with_extension("new");
        fs::write(&aside, octets)?;
        // Not synced: a file that a power loss cuts is found by its checksum, and then there is none.
        fs::rename(aside, &self.0.path)?;
        info!(path = %self.0.path.display(), "wrote what greylisting knows");
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Seconds to wait; zero: it passes.
    fn ask(&mut self, keys: Keys, wait: u64, now: u64) -> u64 {
        let Keys {
            network,
            sender,
            triple,
        } = keys;
        let known = self.known.find(sender);
        if known.is_some_and(|last| now.saturating_sub(last) <= KNOWN_SECONDS) {
            self.known.insert(sender, now);
            return 0;
        }
        // A clock that was put back makes nobody wait for years.
        let first = self
            .pending
            .find(network, triple)
            .filter(|first| *first <= now);
        let passed = first.map(|first| now - first);
        match passed.filter(|passed| *passed <= PENDING_SECONDS) {
            Some(passed) if passed >= wait => {
                self.pending.remove(network, triple);
                self.known.insert(sender, now);
                0
            }
            Some(passed) => wait - passed,
            None => {
                self.pending.insert(network, triple, now);
                wait
            }
        }
    }

    fn to_octets(&self) -> Vec<u8> {
        let mut octets = FILE_BEGINS.to_vec();
        let mut add = |kind, network: &Key, key: &Key, time: u64| {
            octets.push(kind);
            octets.extend_from_slice(network);
            octets.extend_from_slice(key);
            octets.extend_from_slice(&time.to_le_bytes());
        };
        for (network, key, time) in self.pending.all() {
            add(PENDING, network, key, time);
        }
        for (key, time) in self.known.all() {
            add(KNOWN, &Key::default(), key, *time);
        }
        let checksum = crc32fast::hash(&octets);
        octets.extend_from_slice(&checksum.to_le_bytes());
        octets
    }

    /// What is still of use at `now`; none when it is not what [`Self::to_octets`] wrote.
    fn from_octets(octets: &[u8], now: u64) -> Option<Self> {
        let (content, checksum) = octets.split_last_chunk()?;
        if crc32fast::hash(content) != u32::from_le_bytes(*checksum) {
            return None;
        }
        let (entries, rest) = content
            .strip_prefix(FILE_BEGINS)?
            .as_chunks::<ENTRY_OCTETS>();
        let mut state = Self::default();
        for entry in entries {
            let [kind, rest @ ..] = entry;
            let (network, rest) = rest.split_first_chunk()?;
            let (key, time) = rest.split_first_chunk()?;
            let time = u64::from_le_bytes(*time.first_chunk()?);
            let age = now.saturating_sub(time);
            match *kind {
                PENDING if age <= PENDING_SECONDS => state.pending.insert(*network, *key, time),
                KNOWN if age <= KNOWN_SECONDS => state.known.insert(*key, time),
                PENDING | KNOWN => {}
                _ => return None,
            }
        }
        rest.is_empty().then_some(state)
    }
}

const PENDING: u8 = b'p';
const KNOWN: u8 = b'k';
const ENTRY_OCTETS: usize = 1 + 2 * size_of::<Key>() + size_of::<u64>();

/// More than can be written.
const FILE_OCTETS_MAX: u64 = 1024 + 4 * (GENERATION * ENTRY_OCTETS) as u64;

fn read(path: &Path, now: u64) -> io::Result<State> {
    if fs::metadata(path)?.len() > FILE_OCTETS_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is too large",
        ));
    }
    let octets = fs::read(path)?;
    State::from_octets(&octets, now)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is damaged"))
}

impl Generations {
    fn find(&self, key: Key) -> Option<u64> {
        let found = self.young.get(&key).or_else(|| self.old.get(&key));
        found.copied()
    }

    fn insert(&mut self, key: Key, time: u64) {
        if self.young.len() >= GENERATION && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.old.remove(&key);
        self.young.insert(key, time);
    }

    fn all(&self) -> impl Iterator<Item = (&Key, &u64)> {
        self.old.iter().chain(&self.young)
    }
}

impl PartialEq for Generations {
    fn eq(&self, other: &Self) -> bool {
        let sorted = |generations: &Self| {
            let mut all: Vec<_> = generations.all().map(|(key, time)| (*key, *time)).collect();
            all.sort_unstable();
            all
        };
        sorted(self) == sorted(other)
    }
}

impl Keys {
    fn of(attempt: Attempt<'_>) -> Self {
        Self {
            network: key([&neighbourhood(attempt.address), b"", b""]),
            sender: sender(attempt),
            triple: triple(attempt),
        }
    }
}

/// Who passed is known with its whole domain: senders with a path of its own for each message are many.
fn sender(attempt: Attempt<'_>) -> Key {
    let domain = match attempt.sender {
        ReversePath::Null => String::new(),
        ReversePath::Mailbox(mailbox) => {
            let text = mailbox.to_string();
            let domain = text
                .rsplit_once('@')
                .map_or(text.as_str(), |(_, domain)| domain);
            domain.to_ascii_lowercase()
        }
    };
    key([&network(attempt.address), domain.as_bytes(), b""])
}

fn triple(attempt: Attempt<'_>) -> Key {
    let sender = attempt.sender.to_string().to_ascii_lowercase();
    let recipient = attempt.recipient.to_string().to_ascii_lowercase();
    key([
        &network(attempt.address),
        sender.as_bytes(),
        recipient.as_bytes(),
    ])
}

/// Large senders try again from a neighbour: /24 of IPv4, /64 of IPv6.
fn network(address: IpAddr) -> Vec<u8> {
    match address.to_canonical() {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() & 0xffff_ff00)
            .octets()
            .to_vec(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !0 << 64)
            .octets()
            .to_vec(),
    }
}

/// What is shared is larger than a network where one sender has many: /48 of IPv6.
fn neighbourhood(address: IpAddr) -> Vec<u8> {
    let mut network = network(address);
    if network.len() == size_of::<Ipv6Addr>() {
        network.truncate(6);
    }
    network
}

/// Nobody can choose names that fall together, and the file names nobody.
fn key(parts: [&[u8]; 3]) -> Key {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part);
    }
    let digest = context.finish();
    let mut key = Key::default();
    key.copy_from_slice(&digest.as_ref()[..size_of::<Key>()]);
    key
}

fn now() -> u64 {
    u64::try_from(Timestamp::now().as_second()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(address: &str, sender: &str, recipient: &str) -> Keys {
        let sender = ReversePath::from_address(sender).unwrap();
        let recipient = ForwardPath::from_address(recipient).unwrap();
        let attempt = Attempt {
            address: address.parse().unwrap(),
            sender: &sender,
            recipient: &recipient,
        };
        Keys::of(attempt)
    }

    #[test]
    fn who_comes_back_in_time_passes_and_is_known() {
        let mut state = State::default();
        let mut ask = |address, sender, recipient, now| {
            state.ask(attempt(address, sender, recipient), 60, now)
        };
        let (a, b) = ("a@one.example", "b@two.example");
        let to = "user@example.com";
        let start = 1_000_000;
        assert_eq!(ask("192.0.2.1", a, to, start), 60);
        assert_eq!(ask("192.0.2.1", a, to, start + 20), 40);
        // Another recipient, another sender or another network waits for itself.
        assert_eq!(ask("192.0.2.1", a, "other@example.com", start + 60), 60);
        assert_eq!(ask("192.0.2.1", b, to, start + 60), 60);
        assert_eq!(ask("192.0.3.1", a, to, start + 60), 60);
        // A neighbour may come back, and then the sender's domain is known there.
        assert_eq!(ask("192.0.2.77", "A@one.example", to, start + 60), 0);
        assert_eq!(
            ask("192.0.2.1", "new@one.example", "x@example.com", start + 61),
            0
        );
        assert_eq!(ask("192.0.2.1", a, to, start + 61 + KNOWN_SECONDS), 0);
        assert_eq!(ask("192.0.2.1", a, to, start + 62 + 2 * KNOWN_SECONDS), 60);
        // Reports have no sender. Who comes too late begins again, and a clock that was put back is no trap.
        assert_eq!(ask("2001:db8::1", "", to, start), 60);
        assert_eq!(
            ask("2001:db8::ffff:1", "", to, start + PENDING_SECONDS + 1),
            60
        );
        assert_eq!(ask("2001:db8::1", "", to, start), 60);
        assert_eq!(ask("2001:db8::1", "", to, start + 60), 0);
    }

    #[test]
    fn one_that_tries_everything_costs_nobody_his_place() {
        let mut state = State::default();
        let mut ask = |address: &str, recipient: usize, now| {
            let recipient = format!("user{recipient}@example.com");
            state.ask(attempt(address, "a@one.example", &recipient), 60, now)
        };
        assert_eq!(ask("192.0.2.1", 0, 1_000), 60);
        assert_eq!(ask("2001:db8:0:1::1", 0, 1_000), 60);
        for number in 0..3_000 {
            assert_eq!(ask("203.0.113.1", number, 1_000), 60);
            let address = format!("2001:db8:1:{:x}::1", number % 0xffff);
            assert_eq!(ask(&address, number, 1_000), 60);
        }
        assert_eq!(ask("192.0.2.1", 0, 1_060), 0);
        assert_eq!(ask("2001:db8:0:1::1", 0, 1_060), 0);
    }

    #[test]
    fn it_forgets_and_never_grows() {
        let mut generations = Generations::default();
        let numbered = |number: usize| {
            let mut key = Key::default();
            key[..8].copy_from_slice(&number.to_le_bytes());
            key
        };
        generations.insert(numbered(0), 1);
        for number in 1..5 * GENERATION {
            generations.insert(numbered(number), 1);
            if number == GENERATION {
                // Asked for again, it is young again.
                generations.insert(numbered(0), 2);
            }
        }
        assert!(generations.young.len() + generations.old.len() <= 2 * GENERATION);
        assert_eq!(generations.find(numbered(5 * GENERATION - 1)), Some(1));
        assert_eq!(generations.find(numbered(0)), None);
    }

    #[test]
    fn the_next_run_knows_what_the_last_one_knew() {
        let directory = tempfile::tempdir().unwrap();
        let greylist = Greylist::open(directory.path());
        let sender = ReversePath::from_address("a@one.example").unwrap();
        let recipient = ForwardPath::from_address("user@example.com").unwrap();
        let attempt = Attempt {
            address: "192.0.2.1".parse().unwrap(),
            sender: &sender,
            recipient: &recipient,
        };
        let reply = greylist.ask(attempt, Duration::from_secs(60)).unwrap_err();
        assert_eq!(
            reply.to_string(),
            "451 4.7.1 Not known here yet, try again in 60 seconds"
        );
        greylist.ask(attempt, Duration::ZERO).unwrap();
        assert_eq!(greylist.counts(), (1, 1));
        greylist.write().unwrap();
        let again = Greylist::open(directory.path());
        assert_eq!(*again.state(), *greylist.state());
        again.ask(attempt, Duration::from_secs(60)).unwrap();

        let file = directory.path().join(FILE_NAME);
        let whole = fs::read(&file).unwrap();
        let mut damaged = whole.clone();
        damaged[FILE_BEGINS.len() + 5] ^= 1;
        for octets in [&damaged, &whole[..whole.len() - 1], b"", &whole[..20]] {
            fs::write(&file, octets).unwrap();
            assert_eq!(*Greylist::open(directory.path()).state(), State::default());
        }
        let late = State::from_octets(&whole, now() + KNOWN_SECONDS + 9);
        assert_eq!(late, Some(State::default()));
    }
}
