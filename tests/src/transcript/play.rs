//! The player: one party's lines are sent, the other's are expected.

use std::sync::Arc;

use rustls::ServerConfig;

use super::parse::{Line, Party, Step};
use super::pattern::Words;
use super::{Directive, Kind, Transcript};
use crate::certs::trusting_client;
use crate::message::{self, Message, stuffed};
use crate::peer::Peer;

/// What a player talks through: a connection, or a machine in memory.
pub(super) trait Channel {
    /// Sends octets; the other end may hang up in the middle of what it does not like.
    fn send(&mut self, octets: &[u8]);
    /// The next line without its CRLF, or nothing at the end.
    fn line(&mut self) -> Option<String>;
    /// Exactly so many octets.
    fn octets(&mut self, count: usize) -> Vec<u8>;
    /// Ends the sending side.
    fn finish(&mut self);
    /// The TLS handshake.
    fn start_tls(&mut self);
    /// The dialogue so far.
    fn dialogue(&self) -> String;
}

/// A connection, and which end of TLS the script is: whoever connected is the TLS client.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) peer: Peer,
    /// As TLS client without these.
    pub(super) server: Option<Arc<ServerConfig>>,
}

impl Channel for Connection {
    fn send(&mut self, octets: &[u8]) {
        self.peer.try_send_octets(octets).ok();
    }

    fn line(&mut self) -> Option<String> {
        self.peer.try_line()
    }

    fn octets(&mut self, count: usize) -> Vec<u8> {
        self.peer.octets(count)
    }

    fn finish(&mut self) {
        self.peer.finish_sending();
    }

    fn start_tls(&mut self) {
        match &self.server {
            None => self.peer.start_tls_client(&trusting_client()),
            Some(config) => self.peer.start_tls_server(config),
        }
    }

    fn dialogue(&self) -> String {
        self.peer.dialogue().to_owned()
    }
}

/// A script at one end of a channel.
pub(super) struct Player<'a, C> {
    transcript: &'a Transcript,
    me: Party,
    channel: C,
    words: Words,
    messages: Vec<Message>,
}

impl<'a, C: Channel> Player<'a, C> {
    pub(super) fn new(transcript: &'a Transcript, me: Party, channel: C, words: Words) -> Self {
        let messages = messages(transcript);
        Self {
            transcript,
            me,
            channel,
            words,
            messages,
        }
    }

    /// Plays all steps; panics at the first line that is not as it should be.
    pub(super) fn play(mut self) {
        let mut pending = Vec::new();
        let mut ended = false;
        let transcript = self.transcript;
        for step in &transcript.steps {
            match step {
                Step::Line(line) if line.party == self.me => {
                    if line.text == "{end}" {
                        self.flush(&mut pending);
                        self.channel.finish();
                        ended = true;
                    } else {
                        pending.extend(self.octets(line));
                    }
                }
                Step::Line(line) => {
                    self.flush(&mut pending);
                    self.expect(line);
                }
                Step::Tls => {
                    self.flush(&mut pending);
                    self.channel.start_tls();
                }
                Step::Reversed => {}
            }
        }
        self.flush(&mut pending);
        if ended {
            // What the other end still says to a closed connection is not in the script.
            while self.channel.line().is_some() {}
        }
    }

    fn flush(&mut self, pending: &mut Vec<u8>) {
        if !pending.is_empty() {
            self.channel.send(pending);
            pending.clear();
        }
    }

    /// What the script says for a line.
    fn octets(&mut self, line: &Line) -> Vec<u8> {
        if line.text == "{received}" {
            return b"Received: from a.example by b.example; Thu, 1 Jan 2026 12:00:00 +0000\r\n"
                .to_vec();
        }
        if let Some(number) = message_number(&line.text) {
            return without_end(&self.messages[number - 1].content);
        }
        if let Some(keywords) = ehlo_keywords(&line.text) {
            return ehlo_reply(&keywords);
        }
        let (text, end) = match line.text.strip_suffix("{no-crlf}") {
            Some(text) => (text, ""),
            None => (line.text.as_str(), "\r\n"),
        };
        let mut octets = self.words.say(text);
        octets.extend_from_slice(end.as_bytes());
        octets
    }

    fn expect(&mut self, line: &Line) {
        if line.text == "{end}" {
            let last = self.channel.line();
            assert!(
                last.is_none(),
                "{}: expected the end, got {last:?}\n{}",
                self.at(line),
                self.channel.dialogue()
            );
        } else if line.text == "{received}" {
            self.expect_received(line);
        } else if let Some(number) = message_number(&line.text) {
            let expected = without_end(&self.messages[number - 1].content);
            let got = self.channel.octets(expected.len());
            assert!(
                got == expected,
                "{}: other content: {}",
                self.at(line),
                got.escape_ascii()
            );
        } else if let Some(keywords) = ehlo_keywords(&line.text) {
            self.expect_keywords(line, &keywords);
        } else {
            let got = self.next_line(line);
            let fits = self.words.matches(&line.text, &got);
            assert!(
                fits,
                "{}: expected {:?}, got {got:?}\n{}",
                self.at(line),
                line.text,
                self.channel.dialogue()
            );
        }
    }

    /// A trace field and its folded lines: it ends in a date, behind a semicolon.
    fn expect_received(&mut self, line: &Line) {
        let mut field = self.next_line(line);
        assert!(
            field.starts_with("Received: "),
            "{}: not a trace field: {field:?}",
            self.at(line)
        );
        while field
            .split_once(';')
            .is_none_or(|(_, date)| date.trim().is_empty())
        {
            let more = self.next_line(line);
            assert!(
                more.starts_with([' ', '\t']),
                "{}: no date in the trace field {field:?}",
                self.at(line)
            );
            field.push_str(&more);
        }
    }

    fn expect_keywords(&mut self, line: &Line, keywords: &[&str]) {
        let mut lines: Vec<String> = Vec::new();
        while lines.last().is_none_or(|last| is_continued(last)) {
            lines.push(self.next_line(line));
        }
        check_keywords(&self.at(line), keywords, &lines);
    }

    fn next_line(&mut self, line: &Line) -> String {
        self.channel.line().unwrap_or_else(|| {
            panic!(
                "{}: expected {:?}, got the end\n{}",
                self.at(line),
                line.text,
                self.channel.dialogue()
            )
        })
    }

    fn at(&self, line: &Line) -> String {
        format!("{}:{}", self.transcript.name, line.number)
    }
}

/// The messages of the `@ mail` directives, in their order.
pub(super) fn messages(transcript: &Transcript) -> Vec<Message> {
    let mut messages = Vec::new();
    for directive in &transcript.directives {
        let Directive::Mail(kind, domain) = directive else {
            continue;
        };
        let number = messages.len() + 1;
        let content = match kind {
            Kind::Big => message::big(200 * 1024),
            Kind::Dots => message::dots(),
            Kind::EightBit => message::eight_bit(),
            Kind::International | Kind::Plain => message::plain(number),
        };
        let mut message = Message::new(&format!("user@{domain}"), content);
        if *kind == Kind::International {
            message = message.from("jürgen@source.example");
        }
        messages.push(message);
    }
    messages
}

/// `{message N}`
fn message_number(text: &str) -> Option<usize> {
    text.strip_prefix("{message ")?
        .strip_suffix('}')?
        .parse()
        .ok()
}

/// Dot-stuffed, without the lone dot: that is a line of the script.
fn without_end(content: &[u8]) -> Vec<u8> {
    let mut octets = stuffed(content);
    octets.truncate(octets.len() - b".\r\n".len());
    octets
}

/// `{ehlo A | B C | !D}`
pub(super) fn ehlo_keywords(text: &str) -> Option<Vec<&str>> {
    let inner = text.strip_prefix("{ehlo")?.strip_suffix('}')?;
    Some(
        inner
            .split('|')
            .map(str::trim)
            .filter(|word| !word.is_empty())
            .collect(),
    )
}

/// Whether more lines of this reply follow.
pub(super) fn is_continued(line: &str) -> bool {
    line.as_bytes().get(3) == Some(&b'-')
}

/// Fails unless the EHLO reply lists what it must, with at least these words, and not what it
/// must not.
pub(super) fn check_keywords(at: &str, keywords: &[&str], lines: &[String]) {
    for line in lines {
        assert!(line.starts_with("250"), "{at}: not an EHLO reply: {line:?}");
    }
    for keyword in keywords {
        let (wanted, offer) = match keyword.strip_prefix('!') {
            Some(offer) => (false, offer),
            None => (true, *keyword),
        };
        let mut words = offer.split(' ');
        let name = words.next().unwrap_or_default();
        let listed = lines[1..]
            .iter()
            .map(|line| line[4..].split(' '))
            .any(|mut listed| {
                listed.next() == Some(name) && {
                    let values: Vec<&str> = listed.collect();
                    words.clone().all(|word| values.contains(&word))
                }
            });
        assert!(listed == wanted, "{at}: {keyword}: {lines:#?}");
    }
}

fn ehlo_reply(keywords: &[&str]) -> Vec<u8> {
    let mut lines = vec!["peer.example"];
    lines.extend(keywords.iter().filter(|keyword| !keyword.starts_with('!')));
    let last = lines.len() - 1;
    let reply: String = (0..)
        .zip(lines)
        .map(|(number, line)| format!("250{}{line}\r\n", if number == last { ' ' } else { '-' }))
        .collect();
    reply.into_bytes()
}
