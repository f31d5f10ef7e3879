//! A puller in the hands of a test, behind the turn: it reads what the relay sends ahead of any answer, message by
//! message, and answers when and how the test wants.
//!
//! ```no_run
//! # use atrn_tests::{taker::Taker, world::World};
//! # let world = World::start();
//! let mut taker = Taker::open(&world.relay, &["PIPELINING", "CHUNKING"]);
//! let (first, second) = (taker.message(), taker.message());
//! taker.reply(&first, &["250 ok", "250 ok", "250 taken"]);
//! taker.reply(&second, &["250 ok", "550 no such user", "503 nobody"]);
//! taker.quit();
//! ```

use std::time::Duration;

use crate::peer::Peer;
use crate::world::{PULLER_NAME, Relay};

/// All that our own puller offers and the window depends on.
pub const STREAMING: [&str; 3] = ["PIPELINING", "CHUNKING", "XDELIVERYID"];

/// What is said to the commands of a message that is taken.
pub const TAKEN: [&str; 3] = ["250 2.1.0 ok", "250 2.1.5 ok", "250 2.0.0 taken"];

/// Who says nothing for so long will say nothing.
const SILENCE: Duration = Duration::from_millis(200);

/// One reversed session.
#[derive(Debug)]
pub struct Taker {
    peer: Peer,
}

/// A message as the relay sent it.
#[derive(Clone, Debug)]
pub struct Offered {
    /// Times RSET stood in front of it.
    resets: usize,
    /// The argument of MAIL.
    pub mail: String,
    /// The argument of RCPT.
    pub recipient: String,
    /// Header section and body; empty as long as only the envelope was read.
    pub content: Vec<u8>,
}

impl Offered {
    /// The name of the delivery.
    ///
    /// # Panics
    /// When it has none.
    #[track_caller]
    #[must_use]
    pub fn name(&self) -> &str {
        let words = self.mail.split(' ');
        let mut names = words.filter_map(|word| word.strip_prefix("XDELIVERYID="));
        names.next().expect("a delivery with a name")
    }

    /// The octets that say these lines to its commands.
    #[must_use]
    pub fn answers(&self, lines: &[&str]) -> String {
        let resets = ["250 2.0.0 reset"].repeat(self.resets);
        let lines = resets.iter().chain(lines);
        lines.map(|line| format!("{line}\r\n")).collect()
    }
}

impl Taker {
    /// Logs in as the usual account, asks for all it has, and answers EHLO with these keywords.
    #[track_caller]
    #[must_use]
    pub fn open(relay: &Relay, keywords: &[&str]) -> Self {
        let mut peer = relay.odmr_authenticated();
        peer.ask("ATRN", "250 ");
        Self::turned(peer, keywords)
    }

    /// The same on a connection whose ATRN was just granted.
    #[track_caller]
    #[must_use]
    pub fn turned(mut peer: Peer, keywords: &[&str]) -> Self {
        peer.send(&format!("220 {PULLER_NAME} ESMTP"));
        peer.expect_command("EHLO ");
        let mut reply = format!("250-{PULLER_NAME}");
        for keyword in keywords {
            reply.push_str(&format!("\r\n250-{keyword}"));
        }
        reply.push_str("\r\n250 8BITMIME");
        peer.send(&reply);
        Self { peer }
    }

    /// The next envelope, with one recipient; nothing is answered.
    #[track_caller]
    pub fn envelope(&mut self) -> Offered {
        let mut resets = 0;
        let mail = loop {
            let line = self.peer.line();
            match line.strip_prefix("MAIL FROM:") {
                Some(mail) => break mail.to_owned(),
                None => assert_eq!(line, "RSET", "{}", self.peer.dialogue()),
            }
            resets += 1;
        };
        let recipient = self.peer.expect_command("RCPT TO:");
        Offered {
            resets,
            mail,
            recipient: recipient["RCPT TO:".len()..].to_owned(),
            content: Vec::new(),
        }
    }

    /// The content of an envelope, by BDAT; nothing is answered.
    #[track_caller]
    pub fn content(&mut self) -> Vec<u8> {
        let line = self.peer.expect_command("BDAT ");
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(words[2..], ["LAST"]);
        self.peer
            .octets(words[1].parse().expect("a number of octets"))
    }

    /// The next message, its content by BDAT; nothing is answered.
    #[track_caller]
    pub fn message(&mut self) -> Offered {
        let envelope = self.envelope();
        Offered {
            content: self.content(),
            ..envelope
        }
    }

    /// The next so many messages.
    #[track_caller]
    pub fn messages(&mut self, count: usize) -> Vec<Offered> {
        (0..count).map(|_| self.message()).collect()
    }

    /// Says these lines to the commands of a message, in one segment.
    #[track_caller]
    pub fn reply(&mut self, offered: &Offered, lines: &[&str]) {
        self.peer.send_octets(offered.answers(lines).as_bytes());
    }

    /// Takes a message.
    #[track_caller]
    pub fn take(&mut self, offered: &Offered) {
        self.reply(offered, &TAKEN);
    }

    /// Nothing comes while nothing is answered.
    #[track_caller]
    pub fn expect_silence(&mut self) {
        self.peer.expect_silence(SILENCE);
    }

    /// All messages that come while nothing is answered.
    #[track_caller]
    pub fn until_silence(&mut self) -> Vec<Offered> {
        let mut offered = Vec::new();
        while !self.peer.is_silent(SILENCE) {
            offered.push(self.message());
        }
        offered
    }

    /// Takes all that still comes, until the relay says goodbye.
    #[track_caller]
    pub fn take_the_rest(mut self) -> Vec<Offered> {
        let mut taken = Vec::new();
        loop {
            let line = self.peer.line();
            match line.split(' ').next() {
                Some("QUIT") => break,
                Some("RSET") => self.peer.send("250 2.0.0 reset"),
                Some("MAIL") => {
                    let recipient = self.peer.expect_command("RCPT TO:");
                    let offered = Offered {
                        resets: 0,
                        mail: line["MAIL FROM:".len()..].to_owned(),
                        recipient: recipient["RCPT TO:".len()..].to_owned(),
                        content: self.content(),
                    };
                    self.take(&offered);
                    taken.push(offered);
                }
                _ => panic!("unexpected {line:?}\n{}", self.peer.dialogue()),
            }
        }
        self.peer.send("221 2.0.0 bye");
        self.peer.expect_close();
        taken
    }

    /// The relay has no more, and says goodbye.
    #[track_caller]
    pub fn quit(self) {
        let rest = self.take_the_rest();
        assert!(rest.is_empty(), "more came: {rest:#?}");
    }

    /// The connection itself.
    pub fn peer(&mut self) -> &mut Peer {
        &mut self.peer
    }
}
