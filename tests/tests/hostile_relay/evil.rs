//! A relay that does what a script says, on the one connection that it gets, and then waits to be hung up on.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use atrn_tests::certs::Certificate;
use atrn_tests::peer::shown;
use atrn_tests::stream::Stream;

/// All that is configured to be short has long passed by then, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(40);
/// Between two octets of a drip: many of them fit into what the puller allows.
const DRIP: Duration = Duration::from_millis(100);
/// What floods come in.
const BLOCK: usize = 64 * 1024;

/// A way to be hostile.
pub(crate) struct Script {
    pub(crate) name: &'static str,
    pub(crate) start: Start,
    /// The weakest mechanism that the puller's settings allow towards this one.
    pub(crate) weakest: &'static str,
    /// An error is the puller hanging up, which ends every script well.
    pub(crate) play: fn(&mut Evil) -> io::Result<()>,
}

/// Where a script takes over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Start {
    /// On a connection in the clear, which is to stay so.
    Clear,
    /// On one that is to be encrypted by STARTTLS.
    TlsLater,
    /// On one whose puller begins a handshake now.
    BeforeTls,
    /// After the handshake.
    InTls,
    /// After a handshake with a certificate that is not the right one.
    WrongCertificate,
    /// When the roles are reversed, and the puller has answered EHLO.
    Turned,
}

impl Script {
    pub(crate) const fn new(
        name: &'static str,
        start: Start,
        play: fn(&mut Evil) -> io::Result<()>,
    ) -> Self {
        // CRAM-MD5 is what a script can pretend to check.
        Self {
            name,
            start,
            weakest: "CRAM-MD5",
            play,
        }
    }

    pub(crate) const fn weakest(self, weakest: &'static str) -> Self {
        Self { weakest, ..self }
    }
}

/// The relay's end of the connection.
pub(crate) struct Evil {
    stream: Stream,
    input: Vec<u8>,
    /// All that came, for what must not have come.
    heard: Vec<u8>,
    /// Whether the puller has a reason to hang up by now.
    may_end: bool,
}

impl Evil {
    /// Plays a script to its end, which is the puller's: it must hang up.
    pub(crate) fn play(
        listener: &TcpListener,
        certificate: &Certificate,
        start: Start,
        script: fn(&mut Self) -> io::Result<()>,
    ) -> Result<(), String> {
        let stream = accept(listener)?;
        let stream = match start {
            Start::Clear | Start::TlsLater | Start::BeforeTls => Ok(stream),
            Start::InTls | Start::Turned => stream.into_tls_server(&certificate.server()),
            Start::WrongCertificate => {
                // It must not even begin to speak.
                return match stream.into_tls_server(&certificate.server()) {
                    Err(_) => Ok(()),
                    Ok(stream) => Self::over(stream).hears_nothing(),
                };
            }
        };
        let mut evil = Self::over(stream.map_err(|error| format!("TLS: {error}"))?);
        if start == Start::Turned {
            evil.turn().map_err(|error| format!("the turn: {error}"))?;
        }
        match script(&mut evil) {
            Err(error) if error.kind() == ErrorKind::InvalidData => return Err(error.to_string()),
            Err(error) if is_late(&error) => return Err(format!("it was borne too long: {error}")),
            Err(error) if !evil.may_end => return Err(format!("it hung up too early: {error}")),
            // It hung up in the middle: the best of ends.
            _ => {}
        }
        evil.wait_for_end()
    }

    fn over(stream: Stream) -> Self {
        stream.set_deadline(PATIENCE);
        Self {
            stream,
            input: Vec::new(),
            heard: Vec::new(),
            may_end: false,
        }
    }

    /// What came must not have this in it.
    pub(crate) fn never_heard(&self, text: &str) -> io::Result<()> {
        let heard = String::from_utf8_lossy(&self.heard);
        claim(!heard.contains(text), &format!("it said {text}: {heard}"))
    }

    pub(crate) fn send(&mut self, octets: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(octets.as_ref())?;
        self.stream.flush()
    }

    /// From here on the puller does well to hang up, whatever the script does next.
    pub(crate) fn may_end(&mut self) {
        self.may_end = true;
    }

    /// The same octets again and again, so many times or until it hangs up.
    pub(crate) fn flood(&mut self, unit: impl AsRef<[u8]>, times: usize) -> io::Result<()> {
        self.may_end();
        let unit = unit.as_ref();
        let in_block = (BLOCK / unit.len()).clamp(1, times);
        let block = unit.repeat(in_block);
        let end = Instant::now() + PATIENCE;
        for _ in 0..times / in_block {
            self.send(&block)?;
            if Instant::now() > end {
                return Err(ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    /// Commands without end, each burst of which is answered before the next.
    pub(crate) fn commands(&mut self, line: &str, times: usize) -> io::Result<()> {
        self.may_end();
        let in_burst = 500;
        for _ in 0..times / in_burst {
            self.send(line.repeat(in_burst))?;
            for _ in 0..in_burst {
                self.reply()?;
            }
        }
        Ok(())
    }

    /// Octet by octet, each in time, and never done.
    pub(crate) fn drip(&mut self, octet: u8) -> io::Result<()> {
        self.may_end();
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            self.send([octet])?;
            // This is the attack, and no wait for anything.
            std::thread::sleep(DRIP);
        }
        Err(ErrorKind::TimedOut.into())
    }

    /// The next line; an error when it hung up.
    pub(crate) fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.input.iter().position(|octet| *octet == b'\n') {
                let line: Vec<u8> = self.input.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            let mut buffer = [0; 16 * 1024];
            let count = self.stream.read(&mut buffer)?;
            if count == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            self.input.extend_from_slice(&buffer[..count]);
            self.heard.extend_from_slice(&buffer[..count]);
        }
    }

    /// Takes what comes next, if anything does.
    pub(crate) fn listen(&mut self) {
        self.may_end();
        // The end of the connection is an answer too.
        self.line().ok();
    }

    /// The last line of the next reply.
    pub(crate) fn reply(&mut self) -> io::Result<String> {
        loop {
            let line = self.line()?;
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(line);
            }
        }
    }

    /// Says something whole and expects a reply that begins so.
    pub(crate) fn ask(&mut self, octets: impl AsRef<[u8]>, expected: &str) -> io::Result<()> {
        self.send(&octets)?;
        let line = self.reply()?;
        claim(
            line.starts_with(expected),
            &format!("{}: {line}, and not {expected}", shown(octets.as_ref())),
        )
    }

    /// Waits for a command that begins so, and answers it.
    pub(crate) fn answer(&mut self, command: &str, reply: &str) -> io::Result<()> {
        let line = self.line()?;
        claim(
            line.starts_with(command),
            &format!("{line}, and not {command}"),
        )?;
        self.send(reply)
    }

    /// From the greeting to AUTH, which comes next.
    pub(crate) fn greet(&mut self, mechanisms: &str) -> io::Result<()> {
        self.send("220 evil.example ODMR ready\r\n")?;
        self.answer(
            "EHLO ",
            &format!("250-evil.example\r\n250-AUTH {mechanisms}\r\n250 ATRN\r\n"),
        )
    }

    /// The same, and the login as it should be: ATRN comes next.
    pub(crate) fn welcome(&mut self) -> io::Result<()> {
        self.greet("CRAM-MD5")?;
        self.answer("AUTH CRAM-MD5", "334 PGFAYj4=\r\n")?;
        self.line()?;
        // Whatever it answers is right.
        self.send("235 2.7.0 welcome\r\n")
    }

    fn turn(&mut self) -> io::Result<()> {
        self.welcome()?;
        self.answer("ATRN", "250 2.0.0 reversing\r\n")?;
        let greeting = self.line()?;
        claim(greeting.starts_with("220 "), &greeting)?;
        self.ask("EHLO evil.example\r\n", "250")
    }

    /// The connection itself, for what no protocol foresees.
    pub(crate) fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// Nothing but its end may come.
    fn hears_nothing(mut self) -> Result<(), String> {
        match self.line() {
            Ok(line) => Err(format!("it speaks to a stranger: {line}")),
            Err(error) if is_late(&error) => Err("it stays with a stranger".to_owned()),
            Err(_) => Ok(()),
        }
    }

    /// The puller hangs up in time, whatever it says before that.
    fn wait_for_end(mut self) -> Result<(), String> {
        let mut buffer = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    self.heard.extend_from_slice(&buffer[..count]);
                    let goodbye = self.heard.ends_with(b"QUIT\r\n");
                    if goodbye {
                        // A courtesy that it waits some seconds for.
                        self.send("221 bye\r\n").ok();
                    }
                }
                Err(error) if is_late(&error) => {
                    let heard = String::from_utf8_lossy(&self.heard);
                    return Err(format!("it does not hang up; it said {}", heard.trim_end()));
                }
                Err(_) => return Ok(()),
            }
        }
    }
}

/// What a script finds wrong.
pub(crate) fn claim(holds: bool, words: &str) -> io::Result<()> {
    if holds {
        Ok(())
    } else {
        Err(io::Error::new(ErrorKind::InvalidData, words.to_owned()))
    }
}

fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn accept(listener: &TcpListener) -> Result<Stream, String> {
    listener
        .set_nonblocking(true)
        .map_err(|error| error.to_string())?;
    let end = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream
                    .set_nonblocking(false)
                    .map_err(|error| error.to_string())?;
                stream
                    .set_read_timeout(Some(PATIENCE))
                    .map_err(|error| error.to_string())?;
                stream
                    .set_write_timeout(Some(PATIENCE))
                    .map_err(|error| error.to_string())?;
                return Stream::tcp(stream).map_err(|error| error.to_string());
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(format!("the puller did not come: {error}")),
        }
    }
}
