//! Postfix's `smtp-source` as a sender. It cannot say which of its messages got a `250`, and ends when
//! a connection breaks; so it talks to the relay through a door of ours that reads along, and it is
//! started again.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use fastrand::Rng;

use super::DOMAINS;
use super::ledger::{Ledger, Target};
use super::load::Gate;
use super::mail::Mail;
use crate::process::Process;

/// A side that is silent for so long is gone.
const PATIENCE: Duration = Duration::from_secs(60);
/// Sessions of each `smtp-source`: four of them make twenty.
const SESSIONS: usize = 5;
/// Octets of their messages: in the database, and in a file.
const SIZES: [usize; 2] = [4_096, 120_000];

/// Four of them, small and large messages for each target, and the door.
#[derive(Debug)]
pub(super) struct Sources {
    gate: Arc<Gate>,
    door: SocketAddr,
    threads: Vec<JoinHandle<()>>,
}

/// What all connections have in common.
struct Door {
    relay: SocketAddr,
    gate: Arc<Gate>,
    ledger: Arc<Ledger>,
}

impl Sources {
    pub(super) fn start(
        program: &Path,
        relay: SocketAddr,
        gate: Arc<Gate>,
        ledger: Arc<Ledger>,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let door = Arc::new(Door {
            relay,
            gate: Arc::clone(&gate),
            ledger,
        });
        let mut threads = vec![std::thread::spawn(move || door.open(&listener))];
        for (domain, octets) in DOMAINS
            .iter()
            .flat_map(|domain| SIZES.map(|size| (domain, size)))
        {
            let command = command(program, address, domain, octets);
            let gate = Arc::clone(&gate);
            threads.push(std::thread::spawn(move || again(command, &gate)));
        }
        Self {
            gate,
            door: address,
            threads,
        }
    }
}

impl Drop for Sources {
    fn drop(&mut self) {
        debug_assert!(self.gate.is_over(), "the load ends before its sources");
        // The door waits for a connection: this one shows it the end.
        TcpStream::connect(self.door).ok();
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

fn command(program: &Path, door: SocketAddr, domain: &str, octets: usize) -> Command {
    let mut command = Command::new(program);
    command
        .args(["-d", "-f", "campaign@source.example"])
        .args(["-t", &format!("user@{domain}")])
        .args(["-s", &SESSIONS.to_string(), "-m", "1000000000"])
        .args(["-l", &octets.to_string()])
        .arg(door.to_string());
    command
}

/// Starts it as often as it ends, until the load is over.
fn again(mut command: Command, gate: &Gate) {
    let mut random = Rng::new();
    while !gate.is_over() {
        // What it says of connections that break is no news.
        let mut program = Process::start("smtp-source", &mut command, Path::new("/dev/null"));
        while program.is_running() && !gate.is_over() {
            gate.pause(&mut random);
        }
    }
}

impl Door {
    fn open(self: &Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming().flatten() {
            if self.gate.is_over() {
                return;
            }
            let door = Arc::clone(self);
            std::thread::spawn(move || {
                let passed = Passage::begin(&door, stream).and_then(|mut passage| passage.run());
                // It ends with a killed program or a killed relay; the ledger has all that counts.
                passed.ok();
            });
        }
    }
}

/// One connection of `smtp-source`. It waits for each reply, so one thread serves both directions.
struct Passage<'d> {
    door: &'d Door,
    client: BufReader<TcpStream>,
    relay: BufReader<TcpStream>,
    targets: Vec<Target>,
    inside: bool,
    random: Rng,
}

impl<'d> Passage<'d> {
    fn begin(door: &'d Door, client: TcpStream) -> io::Result<Self> {
        let relay = TcpStream::connect_timeout(&door.relay, PATIENCE)?;
        for stream in [&client, &relay] {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
        }
        Ok(Self {
            door,
            client: BufReader::new(client),
            relay: BufReader::new(relay),
            targets: Vec::new(),
            inside: false,
            random: Rng::new(),
        })
    }

    fn run(&mut self) -> io::Result<()> {
        self.answer()?;
        loop {
            let line = line(&mut self.client)?;
            let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
            if verb == b"MAIL" && !self.enter() {
                return Ok(());
            }
            if verb == b"RCPT" {
                let text = String::from_utf8_lossy(&line);
                let asked = |target: &Target| text.contains(DOMAINS[target.index()]);
                self.targets
                    .extend(Target::ALL.iter().filter(|target| asked(target)));
            }
            self.relay.get_mut().write_all(&line)?;
            let code = self.answer()?;
            if verb == b"DATA" && code == *b"354" {
                self.content()?;
            }
        }
    }

    fn enter(&mut self) -> bool {
        self.targets.clear();
        self.door.gate.pause(&mut self.random);
        self.inside = self.door.gate.enter(&self.door.ledger);
        self.inside
    }

    fn leave(&mut self) {
        if std::mem::take(&mut self.inside) {
            self.door.gate.leave();
        }
    }

    /// The whole content is read before any of it goes on: it is in the ledger before it can be anywhere else.
    fn content(&mut self) -> io::Result<()> {
        let (mut wire, mut content) = (Vec::new(), Vec::new());
        loop {
            let line = line(&mut self.client)?;
            wire.extend_from_slice(&line);
            if line == b".\r\n" {
                break;
            }
            content.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        }
        let mail = Mail::of(&content);
        self.door.ledger.sent(mail, &self.targets);
        self.relay.get_mut().write_all(&wire)?;
        if self.reply()?.starts_with(b"250 ") {
            self.door.ledger.acknowledged(mail);
        }
        self.leave();
        // It ends at a refusal; the ledger knows better.
        self.client.get_mut().write_all(b"250 2.0.0 Taken\r\n")
    }

    /// Passes a reply on, all of its lines.
    fn answer(&mut self) -> io::Result<[u8; 3]> {
        let reply = self.reply()?;
        self.client.get_mut().write_all(&reply)?;
        let code = reply.first_chunk().copied();
        code.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn reply(&mut self) -> io::Result<Vec<u8>> {
        let mut reply = Vec::new();
        loop {
            let line = line(&mut self.relay)?;
            reply.extend_from_slice(&line);
            if line.get(3) != Some(&b'-') {
                return Ok(reply);
            }
        }
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A line that is whole.
fn line(stream: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line)?;
    if !line.ends_with(b"\r\n") {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line)
}
