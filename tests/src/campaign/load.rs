//! The load: sessions that send messages to the relay, one after the other, and write down which of
//! them got the final `250`. A session that is cut off begins again with another message, as if its
//! sender had given up: so each number is sent once, and a second copy was made on the way.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use fastrand::Rng;

use super::DOMAINS;
use super::ledger::{Ledger, Target};
use super::mail::Mail;
use super::source::Sources;
use crate::message::stuffed;

/// A reply that does not come in this time never comes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two messages of a session, at most; and before the next try when nobody answers.
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// Messages that may be on their way before senders wait for pullers.
const OUTSTANDING_MAX: usize = 400;

/// The senders.
#[derive(Debug)]
pub(super) struct Load {
    gate: Arc<Gate>,
    sources: Option<Sources>,
    threads: Vec<JoinHandle<()>>,
}

/// What every message passes before it begins and after its last reply.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    closed: bool,
    ended: bool,
    /// Messages come, whether somebody pulls them or not.
    unlimited: bool,
    /// Sessions between their first octet and their last reply.
    inside: usize,
}

impl Load {
    /// Starts so many sessions of our own.
    pub(super) fn start(
        sessions: usize,
        relay: SocketAddr,
        ledger: &Arc<Ledger>,
        random: &mut Rng,
    ) -> Self {
        let gate = Arc::<Gate>::default();
        let numbers = Arc::new(AtomicU64::new(1));
        let start = |_| {
            let mut session = Session {
                relay,
                connection: None,
                gate: Arc::clone(&gate),
                ledger: Arc::clone(ledger),
                numbers: Arc::clone(&numbers),
                random: random.fork(),
            };
            std::thread::spawn(move || session.run())
        };
        let threads = (0..sessions).map(start).collect();
        Self {
            gate,
            sources: None,
            threads,
        }
    }

    /// Lets `smtp-source` send too.
    pub(super) fn add_sources(&mut self, program: &Path, relay: SocketAddr, ledger: &Arc<Ledger>) {
        let gate = Arc::clone(&self.gate);
        self.sources = Some(Sources::start(program, relay, gate, Arc::clone(ledger)));
    }

    /// Lets no message begin, and waits for those under way.
    pub(super) fn hold(&self) {
        let mut state = self.gate.state();
        state.closed = true;
        let waited = self
            .gate
            .changed
            .wait_while(state, |state| state.inside > 0);
        drop(waited);
    }

    /// Lets messages come though nobody pulls.
    pub(super) fn pour(&self) {
        self.gate.state().unlimited = true;
        self.gate.changed.notify_all();
    }

    /// Lets them come and wait as usual.
    pub(super) fn release(&self) {
        let mut state = self.gate.state();
        state.closed = false;
        state.unlimited = false;
        drop(state);
        self.gate.changed.notify_all();
    }

    /// Ends all sessions.
    pub(super) fn stop(mut self) {
        self.end();
        self.sources.take();
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }

    fn end(&self) {
        let mut state = self.gate.state();
        state.ended = true;
        drop(state);
        self.gate.changed.notify_all();
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

impl Gate {
    /// Waits until a message may begin; false when it is over.
    pub(super) fn enter(&self, ledger: &Ledger) -> bool {
        let waiting = |target| ledger.outstanding(target);
        let has_room = || Target::ALL.map(waiting).iter().sum::<usize>() < OUTSTANDING_MAX;
        let mut state = self.state();
        loop {
            if state.ended {
                return false;
            }
            if !state.closed && (state.unlimited || has_room()) {
                state.inside += 1;
                return true;
            }
            let (next, _) = self
                .changed
                .wait_timeout(state, PAUSE_MAX)
                .unwrap_or_else(PoisonError::into_inner);
            state = next;
        }
    }

    /// Its last reply has come, or never will.
    pub(super) fn leave(&self) {
        self.state().inside -= 1;
        self.changed.notify_all();
    }

    pub(super) fn is_over(&self) -> bool {
        self.state().ended
    }

    /// Thinks for a while.
    pub(super) fn pause(&self, random: &mut Rng) {
        let time = PAUSE_MAX.mul_f64(random.f64());
        let state = self.state();
        let ended = |state: &mut GateState| !state.ended;
        drop(self.changed.wait_timeout_while(state, time, ended));
    }

    fn state(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Session {
    relay: SocketAddr,
    connection: Option<BufReader<TcpStream>>,
    gate: Arc<Gate>,
    ledger: Arc<Ledger>,
    numbers: Arc<AtomicU64>,
    random: Rng,
}

impl Session {
    fn run(&mut self) {
        while self.gate.enter(&self.ledger) {
            if self.turn().is_err() {
                self.connection = None;
            }
            self.gate.leave();
            self.gate.pause(&mut self.random);
        }
    }

    /// One message; every now and then on a new connection.
    fn turn(&mut self) -> io::Result<()> {
        if self.connection.is_none() || self.random.u8(..16) == 0 {
            self.connection = None;
            self.connection = Some(connect(self.relay)?);
        }
        let targets = match self.random.u8(..10) {
            0..4 => &Target::ALL[..1],
            4..8 => &Target::ALL[1..],
            _ => &Target::ALL[..],
        };
        let mail = Mail {
            number: self.numbers.fetch_add(1, Ordering::Relaxed),
            octets: match self.random.u8(..20) {
                0..13 => self.random.usize(2_000..6_000),
                13..16 => self.random.usize(10_000..60_000),
                // More than the queue keeps in its database.
                _ => self.random.usize(80_000..200_000),
            },
        };
        self.send(mail, targets)
    }

    fn send(&mut self, mail: Mail, targets: &[Target]) -> io::Result<()> {
        let by_chunks = self.random.bool();
        let content = mail.content();
        let connection = self.connection.as_mut().expect("a connection was made");
        self.ledger.sent(mail, targets);
        ask(connection, b"MAIL FROM:<campaign@source.example>\r\n", 250)?;
        for target in targets {
            let domain = DOMAINS[target.index()];
            ask(
                connection,
                format!("RCPT TO:<user@{domain}>\r\n").as_bytes(),
                250,
            )?;
        }
        if by_chunks {
            let mut chunk = format!("BDAT {} LAST\r\n", content.len()).into_bytes();
            chunk.extend(content);
            ask(connection, &chunk, 250)?;
        } else {
            ask(connection, b"DATA\r\n", 354)?;
            ask(connection, &stuffed(&content), 250)?;
        }
        self.ledger.acknowledged(mail);
        Ok(())
    }
}

fn connect(relay: SocketAddr) -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&relay, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let mut connection = BufReader::new(stream);
    expect(&mut connection, 220)?;
    ask(&mut connection, b"EHLO client.source.example\r\n", 250)?;
    Ok(connection)
}

fn ask(connection: &mut BufReader<TcpStream>, octets: &[u8], code: u16) -> io::Result<()> {
    connection.get_mut().write_all(octets)?;
    expect(connection, code)
}

/// Reads one reply to its last line; only a line that is whole counts (RFC 5321 §4.2).
fn expect(connection: &mut BufReader<TcpStream>, code: u16) -> io::Result<()> {
    loop {
        let mut line = String::new();
        connection.read_line(&mut line)?;
        if !line.ends_with("\r\n") {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match line.as_bytes().get(3) {
            Some(b'-') => {}
            _ if line.starts_with(&code.to_string()) => return Ok(()),
            _ => return Err(io::Error::other(line)),
        }
    }
}
