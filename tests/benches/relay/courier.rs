//! A sender of the benchmark's own: one connection, one message at a time, and the instant of each 250.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

const PATIENCE: Duration = Duration::from_secs(60);
const LINE: &str = "The quick brown fox jumps over the lazy dog, and so the line is full.\r\n";

#[derive(Debug)]
pub(crate) struct Courier {
    stream: BufReader<TcpStream>,
    flight: Vec<u8>,
    /// What it carries, with the dot behind it.
    content: Vec<u8>,
}

impl Courier {
    /// Connects; each of its messages will have so many octets.
    pub(crate) fn connect(address: SocketAddr, octets: usize) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| address.to_string())?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut courier = Self {
            stream: BufReader::new(stream),
            flight: Vec::new(),
            content: content(octets),
        };
        courier.expect("220")?;
        courier.flight.extend_from_slice(b"EHLO source.example\r\n");
        courier.fly()?;
        courier.expect("250")?;
        Ok(courier)
    }

    /// Sends a message to `user@` a domain, and returns when its 250 was read.
    pub(crate) fn send(&mut self, domain: &str) -> Result<Instant> {
        write!(
            self.flight,
            "MAIL FROM:<sender@source.example>\r\nRCPT TO:<user@{domain}>\r\nDATA\r\n"
        )?;
        self.fly()?;
        for code in ["250", "250", "354"] {
            self.expect(code)?;
        }
        self.stream.get_mut().write_all(&self.content)?;
        self.expect("250")?;
        Ok(Instant::now())
    }

    fn fly(&mut self) -> Result<()> {
        self.stream.get_mut().write_all(&self.flight)?;
        self.flight.clear();
        Ok(())
    }

    fn expect(&mut self, code: &str) -> Result<()> {
        let mut line = String::new();
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            ensure!(line.starts_with(code), "{code} was due, and came: {line:?}");
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(());
            }
        }
    }
}

fn content(octets: usize) -> Vec<u8> {
    let mut content = b"Subject: A message of the benchmark\r\n\r\n".to_vec();
    while content.len() + LINE.len() <= octets {
        content.extend_from_slice(LINE.as_bytes());
    }
    content.extend_from_slice(b".\r\n");
    content
}
