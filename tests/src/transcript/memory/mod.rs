//! The sans-I/O machines in memory: one of them with a script at its other end, or both with
//! each other. Nothing here waits, so a machine that is silent where a line is due is seen at
//! once, and every input can be fed octet by octet.

mod receiving;
mod sending;
mod settings;

use std::fmt::Write as _;

use super::parse::{Line, Party, Step};
use super::pattern::Words;
use super::play::{Channel, Player, check_keywords, ehlo_keywords, is_continued};
use super::{Room, Transcript};
use crate::peer::{Pace, shown};
use crate::world::ACCOUNT;
use receiving::{CustomerEnd, ServerEnd};
use sending::{DrainEnd, ProviderEnd};
use settings::{SECRET, Settings};

/// One end of a dialogue, as octets in and octets out.
pub(super) trait Machine {
    /// Takes what the peer sent; what is said goes to the output.
    fn feed(&mut self, octets: &[u8]);
    /// What is to be sent.
    fn output(&mut self) -> &mut Vec<u8>;
    /// Whether it has closed the connection.
    fn is_closed(&self) -> bool;
    /// The peer has closed the connection.
    fn peer_ended(&mut self);
    /// The handshake is through.
    fn tls_started(&mut self);
    /// The connection has turned.
    fn is_turned(&self) -> bool;
}

/// Whether the directives can be had without programs.
#[must_use]
pub fn is_possible(transcript: &Transcript) -> bool {
    Settings::of(transcript).is_some()
}

/// Plays the customer's lines against the provider's machine.
///
/// # Panics
/// At the first line that is not as it should be.
pub fn play_against_provider(transcript: &Transcript, pace: Pace) {
    let settings = settings(transcript);
    match transcript.room {
        Room::Reversed => play(transcript, Party::Customer, DrainEnd::new(&settings), pace),
        _ => play(
            transcript,
            Party::Customer,
            ProviderEnd::new(&settings),
            pace,
        ),
    }
}

/// Plays the provider's lines against the customer's machine.
///
/// # Panics
/// At the first line that is not as it should be.
pub fn play_against_customer(transcript: &Transcript, pace: Pace) {
    let settings = settings(transcript);
    match transcript.room {
        Room::Reversed => play(
            transcript,
            Party::Provider,
            ServerEnd::reversed(&settings),
            pace,
        ),
        _ => play(
            transcript,
            Party::Provider,
            CustomerEnd::new(&settings),
            pace,
        ),
    }
}

/// Plays a sender's lines against the receiving machine, as on the edge.
///
/// # Panics
/// At the first line that is not as it should be.
pub fn play_against_server(transcript: &Transcript, pace: Pace) {
    let settings = settings(transcript);
    play(
        transcript,
        Party::Customer,
        ServerEnd::edge(&settings),
        pace,
    );
}

/// Lets both machines talk with each other; they must say every line of the file.
///
/// # Panics
/// At the first line that is not in the file.
pub fn play_pair(transcript: &Transcript, pace: Pace) {
    let settings = settings(transcript);
    let mut provider = Memory::new(Box::new(ProviderEnd::new(&settings)), pace);
    let mut customer = Memory::new(Box::new(CustomerEnd::new(&settings)), pace);
    let mut words = Words::new(ACCOUNT, SECRET);
    for step in &transcript.steps {
        match step {
            Step::Line(line) if line.party == Party::Provider => {
                said(transcript, line, &mut provider, &mut customer, &mut words);
            }
            Step::Line(line) => said(transcript, line, &mut customer, &mut provider, &mut words),
            Step::Tls => {
                provider.start_tls();
                customer.start_tls();
            }
            Step::Reversed => {
                assert!(
                    provider.machine.is_turned(),
                    "{}: provider",
                    transcript.name
                );
                assert!(
                    customer.machine.is_turned(),
                    "{}: customer",
                    transcript.name
                );
            }
        }
    }
}

/// One line of one machine goes to the other.
fn said(
    transcript: &Transcript,
    line: &Line,
    from: &mut Memory<'_>,
    to: &mut Memory<'_>,
    words: &mut Words,
) {
    let at = format!("{}:{}", transcript.name, line.number);
    let Some(got) = from.line() else {
        assert_eq!(
            line.text, "{end}",
            "{at}: the connection ended\n{}",
            from.dialogue
        );
        to.finish();
        return;
    };
    let mut lines = vec![got];
    if let Some(keywords) = ehlo_keywords(&line.text) {
        while lines.last().is_some_and(|last| is_continued(last)) {
            lines.push(from.line().unwrap_or_default());
        }
        check_keywords(&at, &keywords, &lines);
    } else {
        let fits = words.matches(&line.text, &lines[0]);
        assert!(
            fits,
            "{at}: expected {:?}, got {:?}\n{}",
            line.text, lines[0], from.dialogue
        );
    }
    to.send(format!("{}\r\n", lines.join("\r\n")).as_bytes());
}

fn settings(transcript: &Transcript) -> Settings {
    Settings::of(transcript).unwrap_or_else(|| panic!("{}: needs programs", transcript.name))
}

fn play(transcript: &Transcript, me: Party, machine: impl Machine, pace: Pace) {
    let channel = Memory::new(Box::new(machine), pace);
    Player::new(transcript, me, channel, Words::new(ACCOUNT, SECRET)).play();
}

/// A machine as a channel.
struct Memory<'a> {
    machine: Box<dyn Machine + 'a>,
    pace: Pace,
    dialogue: String,
}

impl<'a> Memory<'a> {
    fn new(machine: Box<dyn Machine + 'a>, pace: Pace) -> Self {
        Self {
            machine,
            pace,
            dialogue: String::new(),
        }
    }

    fn note(&mut self, mark: &str, text: &str) {
        // Writing to a String cannot fail.
        writeln!(self.dialogue, "{mark} {text}").ok();
    }
}

impl Channel for Memory<'_> {
    fn send(&mut self, octets: &[u8]) {
        self.note(">>", &shown(octets));
        match self.pace {
            Pace::Whole => self.machine.feed(octets),
            Pace::Octets => octets.chunks(1).for_each(|octet| self.machine.feed(octet)),
        }
    }

    fn line(&mut self) -> Option<String> {
        let output = self.machine.output();
        let Some(end) = output.windows(2).position(|pair| pair == b"\r\n") else {
            let rest = shown(output);
            assert!(
                self.machine.is_closed(),
                "silence ({rest:?})\n{}",
                self.dialogue
            );
            return None;
        };
        let line: Vec<u8> = output.drain(..end + 2).collect();
        self.note("<<", &shown(&line));
        Some(String::from_utf8_lossy(&line[..end]).into_owned())
    }

    fn octets(&mut self, count: usize) -> Vec<u8> {
        let output = self.machine.output();
        assert!(
            output.len() >= count,
            "content is missing\n{}",
            self.dialogue
        );
        output.drain(..count).collect()
    }

    fn finish(&mut self) {
        self.note(">>", "[end]");
        self.machine.peer_ended();
    }

    fn start_tls(&mut self) {
        self.note("--", "TLS");
        self.machine.tls_started();
    }

    fn dialogue(&self) -> String {
        self.dialogue.clone()
    }
}
