//! One end of a connection to a program that may be killed at any moment: the end of the connection is an answer like
//! any other. It counts octets, so that what was said and heard can be dated by the recording.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use crate::peer::{DEADLINE, is_end};

/// Octets up to here in one direction of a dialogue: with the recording, a moment.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// A word that only this dialogue has, in what the program under test received first.
    pub(super) dialogue: String,
    pub(super) octets: usize,
}

/// A connection to a program that may die.
#[derive(Debug)]
pub(super) struct Line {
    stream: BufReader<TcpStream>,
    word: String,
    read: usize,
    sent: usize,
}

impl Line {
    /// Connects, if there is somebody; `word` is what this end will say first.
    pub(super) fn connect(address: SocketAddr, word: &str) -> Option<Self> {
        Self::over(TcpStream::connect(address).ok()?, word)
    }

    pub(super) fn over(stream: TcpStream, word: &str) -> Option<Self> {
        stream.set_nodelay(true).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).ok()?;
        Some(Self {
            stream: BufReader::new(stream),
            word: word.to_owned(),
            read: 0,
            sent: 0,
        })
    }

    /// The next line of the other end, without its CRLF.
    pub(super) fn read(&mut self) -> Option<String> {
        let mut line = Vec::new();
        heard(self.stream.read_until(b'\n', &mut line))?;
        self.read += line.len();
        // Half a line is the end.
        let line = line.strip_suffix(b"\r\n")?;
        Some(String::from_utf8_lossy(line).into_owned())
    }

    /// Exactly so many octets.
    pub(super) fn octets(&mut self, count: usize) -> Option<Vec<u8>> {
        let mut octets = vec![0; count];
        heard(self.stream.read_exact(&mut octets))?;
        self.read += count;
        Some(octets)
    }

    /// The last line of the next reply.
    pub(super) fn reply(&mut self) -> Option<String> {
        loop {
            let line = self.read()?;
            if line.as_bytes().get(3) != Some(&b'-') {
                return Some(line);
            }
        }
    }

    /// Sends a line.
    pub(super) fn say(&mut self, line: &str) -> Option<()> {
        self.send(format!("{line}\r\n").as_bytes())
    }

    pub(super) fn send(&mut self, octets: &[u8]) -> Option<()> {
        self.sent += octets.len();
        self.stream.get_mut().write_all(octets).ok()
    }

    /// Sends a command, and reads the reply.
    pub(super) fn ask(&mut self, line: &str) -> Option<String> {
        self.say(line)?;
        self.reply()
    }

    /// What was read last.
    pub(super) fn read_so_far(&self) -> Place {
        self.place(self.read)
    }

    /// What was sent last.
    pub(super) fn sent_so_far(&self) -> Place {
        self.place(self.sent)
    }

    fn place(&self, octets: usize) -> Place {
        let dialogue = self.word.clone();
        Place { dialogue, octets }
    }
}

/// A connection that has ended is an answer; one on which nothing comes is a failure of the test.
#[track_caller]
fn heard<T>(outcome: std::io::Result<T>) -> Option<T> {
    match outcome {
        Ok(value) => Some(value),
        Err(error) if is_end(error.kind()) => None,
        Err(error) => panic!("nothing came: {error}"),
    }
}
