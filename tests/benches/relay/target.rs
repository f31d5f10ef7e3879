//! A corporate server of the benchmark's own: it answers, keeps nothing, and tells when each message was whole.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// How long a message may take until it counts as lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// It listens as long as the benchmark runs.
#[derive(Debug)]
pub(crate) struct Target {
    address: SocketAddr,
    arrivals: Receiver<Instant>,
}

impl Target {
    pub(crate) fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (arrived, arrivals) = channel();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let arrived = arrived.clone();
                // A client that hangs up in the middle is the loser of its own message: it is missed by who waits.
                thread::spawn(move || Session::new(stream, arrived).serve());
            }
        });
        Ok(Self { address, arrivals })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// As `[handover] target` has it.
    pub(crate) fn url(&self) -> String {
        format!("smtp://{}", self.address)
    }

    /// When the next message was whole.
    pub(crate) fn next(&self) -> Result<Instant> {
        self.arrivals
            .recv_timeout(PATIENCE)
            .context("a message did not come to the target")
    }
}

struct Session {
    stream: TcpStream,
    input: Vec<u8>,
    arrived: Sender<Instant>,
}

impl Session {
    fn new(stream: TcpStream, arrived: Sender<Instant>) -> Self {
        Self {
            stream,
            input: Vec::new(),
            arrived,
        }
    }

    fn serve(mut self) -> std::io::Result<()> {
        self.stream.set_nodelay(true)?;
        self.say("220 target.example ESMTP")?;
        loop {
            let line = self.until(b"\r\n")?;
            let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
            match &*verb {
                b"EHLO" => self.say(
                    "250-target.example\r\n250-PIPELINING\r\n250-SIZE\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n\
                     250 ENHANCEDSTATUSCODES",
                )?,
                b"DATA" => {
                    self.say("354 Go ahead")?;
                    self.until(b"\r\n.\r\n")?;
                    // Nobody may be waiting any more.
                    self.arrived.send(Instant::now()).ok();
                    self.say("250 2.0.0 Ok")?;
                }
                b"QUIT" => return self.say("221 2.0.0 Bye"),
                _ => self.say("250 2.0.0 Ok")?,
            }
        }
    }

    fn say(&mut self, reply: &str) -> std::io::Result<()> {
        self.stream.write_all(format!("{reply}\r\n").as_bytes())
    }

    /// All up to this, and it.
    fn until(&mut self, end: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut part = [0; 16 << 10];
        loop {
            if let Some(at) = memchr::memmem::find(&self.input, end) {
                let rest = self.input.split_off(at + end.len());
                return Ok(std::mem::replace(&mut self.input, rest));
            }
            match self.stream.read(&mut part)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                count => self.input.extend_from_slice(&part[..count]),
            }
        }
    }
}
