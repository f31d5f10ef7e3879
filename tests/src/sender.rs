//! The Internet: an SMTP client for tests, that sends what it is told, right or wrong.

use std::net::SocketAddr;

use crate::certs;
use crate::message::{Message, stuffed};
use crate::peer::Peer;

/// How content is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// BDAT chunks of so many octets (RFC 3030).
    Bdat(usize),
    /// DATA with dot-stuffing.
    Data,
}

/// A connection to a server that takes mail, after EHLO.
#[derive(Debug)]
pub struct Sender {
    peer: Peer,
    /// The keywords of the EHLO reply.
    pub keywords: Vec<String>,
}

impl Sender {
    /// Connects, reads the greeting and says EHLO.
    #[track_caller]
    #[must_use]
    pub fn connect(address: SocketAddr) -> Self {
        let mut peer = Peer::connect(address);
        peer.expect("220 ");
        let keywords = peer.ehlo("client.source.example");
        Self { peer, keywords }
    }

    /// The same, then STARTTLS and EHLO again.
    #[track_caller]
    #[must_use]
    pub fn connect_starttls(address: SocketAddr) -> Self {
        let mut sender = Self::connect(address);
        sender.peer.ask("STARTTLS", "220 ");
        sender.peer.start_tls_client(&certs::trusting_client());
        sender.keywords = sender.peer.ehlo("client.source.example");
        sender
    }

    /// Sends a message by DATA; returns the final reply, which must be positive.
    #[track_caller]
    pub fn send(&mut self, message: &Message) -> String {
        self.send_framed(message, Framing::Data)
    }

    /// Sends a message; returns the final reply, which must be positive.
    #[track_caller]
    pub fn send_framed(&mut self, message: &Message, framing: Framing) -> String {
        let mut mail = format!("MAIL FROM:<{}>", message.reverse_path);
        if !message.content.is_ascii() {
            mail.push_str(" BODY=8BITMIME");
        }
        self.peer.ask(&mail, "250 ");
        for path in &message.forward_paths {
            self.peer.ask(&format!("RCPT TO:<{path}>"), "250 ");
        }
        match framing {
            Framing::Data => {
                self.peer.ask("DATA", "354");
                self.peer.send_octets(&stuffed(&message.content));
            }
            Framing::Bdat(size) => self.send_chunks(&message.content, size),
        }
        self.peer.expect("250 ")
    }

    /// The connection itself.
    pub fn peer(&mut self) -> &mut Peer {
        &mut self.peer
    }

    /// Says goodbye.
    #[track_caller]
    pub fn quit(mut self) {
        self.peer.ask("QUIT", "221 ");
        self.peer.expect_close();
    }

    fn send_chunks(&mut self, content: &[u8], size: usize) {
        let mut rest = content;
        while rest.len() > size {
            let (chunk, after) = rest.split_at(size);
            self.peer.send(&format!("BDAT {}", chunk.len()));
            self.peer.send_octets(chunk);
            self.peer.expect("250 ");
            rest = after;
        }
        self.peer.send(&format!("BDAT {} LAST", rest.len()));
        self.peer.send_octets(rest);
    }
}

/// Sends messages over one connection.
#[track_caller]
pub fn send(address: SocketAddr, messages: &[Message]) {
    let mut sender = Sender::connect(address);
    for message in messages {
        sender.send(message);
    }
    sender.quit();
}

/// Sends from several connections at once, each its own list.
///
/// # Panics
/// When one of them fails.
pub fn send_side_by_side(address: SocketAddr, lists: Vec<Vec<Message>>) {
    let threads: Vec<_> = lists
        .into_iter()
        .map(|list| std::thread::spawn(move || send(address, &list)))
        .collect();
    for thread in threads {
        thread.join().expect("a sender");
    }
}
