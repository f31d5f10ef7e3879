//! A line between the puller and the relay that lets everything through and writes down what was said, line by line. It
//! can be cut, and it can freeze: then both ends are there, and neither hears of the other any more.
//!
//! It reads along, so the relay's ODMR listener must be without TLS.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::process::PATIENCE;

/// The line, until it is dropped.
#[derive(Debug)]
pub struct Tap {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// Who says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The puller.
    Puller,
    /// The relay.
    Relay,
}

/// What was said: commands, replies, and the lines of content.
#[derive(Clone, Debug)]
pub struct Said {
    /// The number of the connection, from 0.
    pub connection: usize,
    /// Who said it.
    pub by: End,
    /// The line.
    pub line: String,
}

/// Everything so far.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// In the order in which it came.
    pub said: Vec<Said>,
    /// Connections so far.
    pub connections: usize,
    /// Connections that have ended.
    pub ended: usize,
}

#[derive(Debug)]
struct Shared {
    relay: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    heard: Heard,
    streams: Vec<TcpStream>,
    is_frozen: bool,
    /// Connections before this one were frozen once, and stay so.
    frozen_before: usize,
}

impl State {
    fn is_frozen(&self, connection: usize) -> bool {
        self.is_frozen || connection < self.frozen_before
    }
}

impl Heard {
    /// How many lines of one end begin so.
    #[must_use]
    pub fn count(&self, by: End, beginning: &str) -> usize {
        let said = self.said.iter().filter(|said| said.by == by);
        said.filter(|said| said.line.starts_with(beginning)).count()
    }

    /// Connections that are there.
    #[must_use]
    pub fn open(&self) -> usize {
        self.connections - self.ended
    }
}

impl Tap {
    /// A line to a relay.
    ///
    /// # Panics
    /// When there is no port.
    #[must_use]
    pub fn to(relay: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            relay,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let serving = Arc::downgrade(&shared);
        std::thread::spawn(move || {
            for puller in listener.incoming() {
                let Some(shared) = serving.upgrade() else {
                    return;
                };
                if let Ok(puller) = puller {
                    shared.connect(puller);
                }
            }
        });
        Self { address, shared }
    }

    /// Where pullers connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything so far.
    #[must_use]
    pub fn heard(&self) -> Heard {
        self.shared.state().heard.clone()
    }

    /// How many lines of one end began so.
    #[must_use]
    pub fn count(&self, by: End, beginning: &str) -> usize {
        self.shared.state().heard.count(by, beginning)
    }

    /// Waits for a condition on what was said.
    ///
    /// # Panics
    /// With the dialogue, when it does not come true in time.
    #[track_caller]
    pub fn wait_until(&self, what: &str, holds: impl Fn(&Heard) -> bool) -> Heard {
        let state = self.shared.state();
        let (state, timeout) = self
            .shared
            .changed
            .wait_timeout_while(state, PATIENCE, |state| !holds(&state.heard))
            .unwrap_or_else(PoisonError::into_inner);
        let heard = state.heard.clone();
        drop(state);
        if timeout.timed_out() {
            let lines = heard.said.iter().map(|said| {
                let mark = if said.by == End::Puller { ">>" } else { "<<" };
                format!("{} {mark} {}\n", said.connection, said.line)
            });
            panic!("waited in vain: {what}\n{}", lines.collect::<String>());
        }
        heard
    }

    /// Waits until one end has said so many lines that begin so.
    #[track_caller]
    pub fn wait_for(&self, by: End, beginning: &str, count: usize) {
        let what = format!("{count} times {beginning:?} by {by:?}");
        self.wait_until(&what, |heard| heard.count(by, beginning) >= count);
    }

    /// Ends every connection.
    pub fn cut(&self) {
        for stream in self.shared.state().streams.drain(..) {
            stream.shutdown(Shutdown::Both).ok();
        }
    }

    /// From now on nothing goes through, and no end is told of the other's.
    pub fn freeze(&self) {
        let mut state = self.shared.state();
        state.is_frozen = true;
        state.frozen_before = state.heard.connections;
    }

    /// New connections go through; those that were frozen stay so.
    pub fn thaw(&self) {
        let mut state = self.shared.state();
        state.is_frozen = false;
        state.streams.clear();
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.cut();
        // The thread waits for a connection: give it one, so that it sees the end.
        self.shared = Arc::new(Shared {
            relay: self.address,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        TcpStream::connect(self.address).ok();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Two threads, one for each direction; each ends with the connection.
    fn connect(self: &Arc<Self>, puller: TcpStream) {
        // No relay there: nobody answers here.
        let Ok(relay) = TcpStream::connect(self.relay) else {
            return;
        };
        let mut streams = Vec::new();
        for stream in [&puller, &relay] {
            stream.set_nodelay(true).ok();
            streams.extend(stream.try_clone());
        }
        let mut state = self.state();
        let connection = state.heard.connections;
        state.heard.connections += 1;
        state.streams.extend(streams);
        drop(state);
        self.changed.notify_all();
        let lines = [
            (End::Puller, &puller, &relay),
            (End::Relay, &relay, &puller),
        ];
        for (by, from, to) in lines {
            let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else {
                continue;
            };
            let shared = Arc::clone(self);
            std::thread::spawn(move || shared.pass(connection, by, &from, &to));
        }
    }

    fn pass(&self, connection: usize, by: End, mut from: &TcpStream, mut to: &TcpStream) {
        let mut line = Vec::new();
        let mut piece = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut piece) {
            if !self.hear(connection, by, &mut line, &piece[..count]) {
                // Frozen: what comes from here on is lost, and so is the end.
                while let Ok(1..) = from.read(&mut piece) {}
                return;
            }
            if to.write_all(&piece[..count]).is_err() {
                break;
            }
        }
        if self.state().is_frozen(connection) {
            return;
        }
        to.shutdown(Shutdown::Write).ok();
        if by == End::Puller {
            from.shutdown(Shutdown::Both).ok();
            self.state().heard.ended += 1;
            self.changed.notify_all();
        }
    }

    /// Writes down what was said before it goes on; false when it does not.
    fn hear(&self, connection: usize, by: End, line: &mut Vec<u8>, mut octets: &[u8]) -> bool {
        let mut state = self.state();
        if state.is_frozen(connection) {
            return false;
        }
        while let Some(end) = octets.iter().position(|&octet| octet == b'\n') {
            line.extend_from_slice(&octets[..end]);
            octets = &octets[end + 1..];
            let text = String::from_utf8_lossy(line).trim_end().to_owned();
            line.clear();
            state.heard.said.push(Said {
                connection,
                by,
                line: text,
            });
        }
        line.extend_from_slice(octets);
        drop(state);
        self.changed.notify_all();
        true
    }
}
