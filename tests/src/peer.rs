//! One connection in the hands of a test: what it sends and what it must get, line by line or
//! octet by octet, with a deadline on every wait. It plays both roles: the puller against the
//! real relay, the relay against the real puller, a sender, a server.
//!
//! A failed expectation panics with the whole dialogue so far.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use rustls::{ClientConfig, ServerConfig};
use socket2::{Domain, Socket, Type};

use crate::stream::Stream;

/// How long one expected line may take. Generous: the machine may be busy, and a test that
/// passes never waits.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// A scripted end of a connection.
#[derive(Debug)]
pub struct Peer {
    stream: Option<Stream>,
    input: Vec<u8>,
    dialogue: String,
    pace: Pace,
}

/// In what portions a peer writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Every send in one write.
    Whole,
    /// Every octet in a write of its own: framing may not matter to anybody.
    Octets,
}

impl Peer {
    /// Connects in the clear.
    ///
    /// # Panics
    /// When nobody listens there.
    #[track_caller]
    #[must_use]
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, DEADLINE)
            .unwrap_or_else(|error| panic!("connect to {address}: {error}"));
        Self::over(Stream::tcp(stream).expect("a connection just made"))
    }

    /// The same, from an address of one's own choice: all of 127.0.0.0/8 is ours.
    #[track_caller]
    #[must_use]
    pub fn connect_from(source: IpAddr, address: SocketAddr) -> Self {
        let stream = connect_from(source, address)
            .unwrap_or_else(|error| panic!("connect from {source} to {address}: {error}"));
        Self::over(Stream::tcp(stream).expect("a connection just made"))
    }

    /// Connects and starts TLS at once.
    #[track_caller]
    #[must_use]
    pub fn connect_tls(address: SocketAddr, config: &Arc<ClientConfig>) -> Self {
        let mut peer = Self::connect(address);
        peer.start_tls_client(config);
        peer
    }

    /// Waits for somebody to connect.
    ///
    /// # Panics
    /// When nobody has come by the deadline.
    #[track_caller]
    #[must_use]
    pub fn accept(listener: &TcpListener) -> Self {
        listener
            .set_nonblocking(true)
            .expect("a listener can be set");
        let end = Instant::now() + DEADLINE;
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream
                        .set_nonblocking(false)
                        .expect("a connection can be set");
                    return Self::over(Stream::tcp(stream).expect("a connection just made"));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    assert!(Instant::now() < end, "nobody connected");
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(error) => panic!("accept: {error}"),
            }
        }
    }

    /// Takes over a connection.
    #[must_use]
    pub fn over(stream: Stream) -> Self {
        stream.set_deadline(DEADLINE);
        Self {
            stream: Some(stream),
            input: Vec::new(),
            dialogue: String::new(),
            pace: Pace::Whole,
        }
    }

    /// Writes in the given portions from now on.
    #[must_use]
    pub fn paced(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// Starts TLS as its client.
    #[track_caller]
    pub fn start_tls_client(&mut self, config: &Arc<ClientConfig>) {
        self.try_start_tls_client(config).unwrap_or_else(|error| {
            panic!("TLS handshake (client): {error}\n{}", self.dialogue);
        });
    }

    /// The same, where failure is what a test wants to see.
    ///
    /// # Errors
    /// When the handshake fails; the connection is closed then.
    pub fn try_start_tls_client(&mut self, config: &Arc<ClientConfig>) -> std::io::Result<()> {
        let plain = self.stream.take().expect("an open connection");
        let secure = plain.into_tls_client(config)?;
        self.note("--", "TLS");
        self.stream = Some(secure);
        Ok(())
    }

    /// Starts TLS as its server.
    #[track_caller]
    pub fn start_tls_server(&mut self, config: &Arc<ServerConfig>) {
        self.try_start_tls_server(config).unwrap_or_else(|error| {
            panic!("TLS handshake (server): {error}\n{}", self.dialogue);
        });
    }

    /// The same, where failure is what a test wants to see.
    ///
    /// # Errors
    /// When the handshake fails; the connection is closed then.
    pub fn try_start_tls_server(&mut self, config: &Arc<ServerConfig>) -> std::io::Result<()> {
        let plain = self.stream.take().expect("an open connection");
        let secure = plain.into_tls_server(config)?;
        self.note("--", "TLS");
        self.stream = Some(secure);
        Ok(())
    }

    /// The version of TLS in use.
    #[must_use]
    pub fn tls_version(&self) -> Option<rustls::ProtocolVersion> {
        self.stream.as_ref().and_then(Stream::tls_version)
    }

    /// The certificate that the TLS server showed, where this end is the TLS client.
    #[must_use]
    pub fn peer_certificate(&self) -> Option<rustls::pki_types::CertificateDer<'static>> {
        self.stream.as_ref().and_then(Stream::peer_certificate)
    }

    /// Sends a line; CRLF is added.
    #[track_caller]
    pub fn send(&mut self, line: &str) {
        self.send_octets(format!("{line}\r\n").as_bytes());
    }

    /// Sends a line and expects a reply that begins so.
    #[track_caller]
    pub fn ask(&mut self, line: &str, expected: &str) -> String {
        self.send(line);
        self.expect(expected)
    }

    /// Sends exactly these octets.
    #[track_caller]
    pub fn send_octets(&mut self, octets: &[u8]) {
        if let Err(error) = self.try_send_octets(octets) {
            panic!("send: {error}\n{}", self.dialogue);
        }
    }

    /// Sends these octets to a peer that may hang up meanwhile.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn try_send_octets(&mut self, octets: &[u8]) -> std::io::Result<()> {
        self.note(">>", &shown(octets));
        let pace = self.pace;
        let stream = self.stream();
        match pace {
            Pace::Whole => stream.write_all(octets)?,
            Pace::Octets => {
                for octet in octets.chunks(1) {
                    stream.write_all(octet)?;
                    stream.flush()?;
                }
            }
        }
        stream.flush()
    }

    /// The next line, without its CRLF.
    ///
    /// # Panics
    /// When none comes by the deadline, or it does not end in CRLF.
    #[track_caller]
    pub fn line(&mut self) -> String {
        self.try_line()
            .unwrap_or_else(|| panic!("the peer hung up\n{}", self.dialogue))
    }

    /// The next line, or nothing when the peer has closed the connection.
    ///
    /// # Panics
    /// When neither comes by the deadline.
    #[track_caller]
    pub fn try_line(&mut self) -> Option<String> {
        let end = loop {
            if let Some(at) = self.input.iter().position(|&octet| octet == b'\n') {
                break at + 1;
            }
            if self.fill() == 0 {
                assert!(
                    self.input.is_empty(),
                    "half a line at the end: {}\n{}",
                    shown(&self.input),
                    self.dialogue
                );
                return None;
            }
        };
        let octets: Vec<u8> = self.input.drain(..end).collect();
        self.note("<<", &shown(&octets));
        let Some(line) = octets.strip_suffix(b"\r\n") else {
            panic!("a line that ends in a bare LF\n{}", self.dialogue);
        };
        Some(String::from_utf8_lossy(line).into_owned())
    }

    /// The next reply (all its lines), which must begin so. Returns its last line.
    #[track_caller]
    pub fn expect(&mut self, beginning: &str) -> String {
        let lines = self.reply();
        let last = lines.last().cloned().expect("a reply has a line");
        assert!(
            last.starts_with(beginning),
            "expected {beginning:?}, got {last:?}\n{}",
            self.dialogue
        );
        last
    }

    /// The next line, which is a command and must begin so, whatever its case.
    #[track_caller]
    pub fn expect_command(&mut self, beginning: &str) -> String {
        let line = self.line();
        let head = line.get(..beginning.len()).unwrap_or(&line);
        assert!(
            head.eq_ignore_ascii_case(beginning),
            "expected {beginning:?}, got {line:?}\n{}",
            self.dialogue
        );
        line
    }

    /// The next reply, a `String` a line; the codes of all lines must agree.
    #[track_caller]
    pub fn reply(&mut self) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        loop {
            let line = self.line();
            let code = line.get(..3).unwrap_or_default().to_owned();
            assert!(
                code.len() == 3 && code.bytes().all(|octet| octet.is_ascii_digit()),
                "not a reply: {line:?}\n{}",
                self.dialogue
            );
            if let Some(first) = lines.first() {
                assert!(first.starts_with(&code), "codes differ\n{}", self.dialogue);
            }
            let more = line.as_bytes().get(3) == Some(&b'-');
            lines.push(line);
            if !more {
                return lines;
            }
        }
    }

    /// Waits until the peer closes; nothing may come before that.
    #[track_caller]
    pub fn expect_close(&mut self) {
        if let Some(line) = self.try_line() {
            panic!("expected the end, got {line:?}\n{}", self.dialogue);
        }
    }

    /// Exactly so many octets.
    #[track_caller]
    pub fn octets(&mut self, count: usize) -> Vec<u8> {
        while self.input.len() < count {
            assert!(self.fill() != 0, "hung up in content\n{}", self.dialogue);
        }
        let octets: Vec<u8> = self.input.drain(..count).collect();
        self.note("<<", &format!("[{count} octets]"));
        octets
    }

    /// Content up to the lone dot, unstuffed.
    #[track_caller]
    pub fn content(&mut self) -> Vec<u8> {
        let mut content = Vec::new();
        loop {
            while !self.input.contains(&b'\n') {
                assert!(self.fill() != 0, "hung up in content\n{}", self.dialogue);
            }
            let end = self
                .input
                .iter()
                .position(|&octet| octet == b'\n')
                .unwrap_or(0)
                + 1;
            let line: Vec<u8> = self.input.drain(..end).collect();
            if line == b".\r\n" {
                self.note("<<", &format!("[{} octets of content]", content.len()));
                return content;
            }
            content.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        }
    }

    /// Asserts that the peer is silent for a moment. Only for what must *not* come; it can
    /// miss a fault, never report one wrongly.
    #[track_caller]
    pub fn expect_silence(&mut self, wait: Duration) {
        if !self.is_silent(wait) {
            panic!(
                "expected silence, got {}\n{}",
                shown(&self.input),
                self.dialogue
            );
        }
    }

    /// Whether nothing is there and nothing comes for so long.
    ///
    /// # Panics
    /// When the peer hangs up.
    #[track_caller]
    pub fn is_silent(&mut self, wait: Duration) -> bool {
        if !self.input.is_empty() {
            return false;
        }
        self.stream().set_deadline(wait);
        let mut buffer = [0; 16 * 1024];
        let outcome = self.stream().read(&mut buffer);
        self.stream().set_deadline(DEADLINE);
        match outcome {
            Ok(count) => {
                assert!(count > 0, "the peer hung up\n{}", self.dialogue);
                self.input.extend_from_slice(&buffer[..count]);
                false
            }
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }

    /// Sends EHLO and returns the keywords, without the greeting line.
    #[track_caller]
    pub fn ehlo(&mut self, name: &str) -> Vec<String> {
        self.send(&format!("EHLO {name}"));
        let lines = self.reply();
        assert!(
            lines[0].starts_with("250"),
            "EHLO refused: {lines:?}\n{}",
            self.dialogue
        );
        lines[1..].iter().map(|line| line[4..].to_owned()).collect()
    }

    /// Authenticates by PLAIN with an initial response.
    #[track_caller]
    pub fn auth_plain(&mut self, account: &str, secret: &str) {
        self.ask(&format!("AUTH PLAIN {}", plain(account, secret)), "235");
    }

    /// Authenticates by CRAM-MD5, as fetchmail does.
    #[track_caller]
    pub fn auth_cram_md5(&mut self, account: &str, secret: &str) {
        let line = self.ask("AUTH CRAM-MD5", "334 ");
        self.ask(&cram_md5(&line[4..], account, secret), "235");
    }

    /// Closes the sending side, as Exim does right after QUIT.
    pub fn finish_sending(&mut self) {
        self.stream().finish_sending();
        self.note(">>", "[end]");
    }

    /// The dialogue so far, to print with a failure.
    #[must_use]
    pub fn dialogue(&self) -> &str {
        &self.dialogue
    }

    /// Reads once; 0 at the end of the stream.
    #[track_caller]
    fn fill(&mut self) -> usize {
        let mut buffer = [0; 16 * 1024];
        let Some(stream) = self.stream.as_mut() else {
            return 0;
        };
        match stream.read(&mut buffer) {
            Ok(count) => {
                self.input.extend_from_slice(&buffer[..count]);
                count
            }
            Err(error) if is_end(error.kind()) => 0,
            Err(error) => panic!(
                "nothing came ({error}); so far unread: {}\n{}",
                shown(&self.input),
                self.dialogue
            ),
        }
    }

    fn stream(&mut self) -> &mut Stream {
        self.stream.as_mut().expect("an open connection")
    }

    fn note(&mut self, mark: &str, text: &str) {
        const SHOWN: usize = 160;
        let mut text = text.to_owned();
        if text.len() > SHOWN {
            let more = text.len() - SHOWN;
            // `shown` leaves ASCII only, and the harness's own words are ASCII too.
            text.truncate(SHOWN);
            write!(text, "… (and {more} more)").ok();
        }
        // Writing to a String cannot fail.
        writeln!(self.dialogue, "{mark} {text}").ok();
    }
}

fn connect_from(source: IpAddr, address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect_timeout(&address.into(), DEADLINE)?;
    Ok(socket.into())
}

/// The initial response of PLAIN.
#[must_use]
pub fn plain(account: &str, secret: &str) -> String {
    BASE64.encode(format!("\0{account}\0{secret}"))
}

/// The response of CRAM-MD5 to a challenge (RFC 2195 §2).
///
/// # Panics
/// When the challenge is not base64.
#[must_use]
pub fn cram_md5(challenge: &str, account: &str, secret: &str) -> String {
    let challenge = BASE64.decode(challenge.trim()).expect("a base64 challenge");
    let mut mac = Hmac::<md5::Md5>::new_from_slice(secret.as_bytes()).expect("any key length");
    mac.update(&challenge);
    let digest = mac.finalize().into_bytes();
    let hex = digest.iter().fold(String::new(), |mut hex, octet| {
        write!(hex, "{octet:02x}").ok();
        hex
    });
    BASE64.encode(format!("{account} {hex}"))
}

/// Ends of a stream that some systems report as errors.
#[must_use]
pub fn is_end(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::BrokenPipe
            | ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::NotConnected
            | ErrorKind::UnexpectedEof
    )
}

/// Octets for a person: printable as they are, others escaped.
#[must_use]
pub fn shown(octets: &[u8]) -> String {
    let octets = octets.strip_suffix(b"\r\n").unwrap_or(octets);
    octets.escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cram_md5_follows_the_example_of_the_rfc() {
        // RFC 2195 §2.
        let challenge = "PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+";
        let expected = "dGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw";
        assert_eq!(cram_md5(challenge, "tim", "tanstaaftanstaaf"), expected);
    }
}
