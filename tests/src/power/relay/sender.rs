//! The senders: each its own messages, one after the other, until all are taken or the relay is gone.

use std::net::SocketAddr;

use fastrand::Rng;

use super::{Book, Sent};
use crate::message::stuffed;
use crate::power::content::numbered;
use crate::power::line::Line;

/// Two domains, so that some messages are two deliveries of one body.
pub(super) const DOMAINS: [&str; 2] = ["example.org", "example.com"];

/// Sends `count` messages over one connection; `word` names it.
pub(super) fn send(address: SocketAddr, word: &str, count: usize, chance: &mut Rng, book: &Book) {
    // A relay that is gone ends it, whatever was said so far.
    let _ = Line::connect(address, word).and_then(|mut line| {
        line.reply()?;
        line.ask(&format!("EHLO {word}.source.example"))?;
        for _ in 0..count {
            let number = write(chance, book);
            transaction(&mut line, number, book)?;
        }
        line.ask("QUIT")
    });
}

/// A new message in the book; returns its number.
fn write(chance: &mut Rng, book: &Book) -> usize {
    let size = match chance.u8(..20) {
        0..9 => chance.usize(..4 * 1024),
        9..14 => chance.usize(4 * 1024..60 * 1024),
        // Just inside and just outside what the database takes.
        14..16 => chance.usize(72 * 1024 - 600..72 * 1024 + 600),
        _ => chance.usize(74 * 1024..180 * 1024),
    };
    let local = ["a", "b", "c"][chance.usize(..3)];
    let recipients = match chance.u8(..6) {
        0 => vec![
            format!("{local}@{}", DOMAINS[0]),
            format!("{local}@{}", DOMAINS[1]),
        ],
        1 => vec![
            format!("x@{}", DOMAINS[0]),
            format!("{local}@{}", DOMAINS[0]),
        ],
        _ => vec![format!("{local}@{}", DOMAINS[chance.usize(..2)])],
    };
    let mut sent = book.sent();
    let number = sent.len();
    sent.push(Sent {
        content: numbered(number, size, chance),
        recipients,
        accepted: None,
    });
    number
}

fn transaction(line: &mut Line, number: usize, book: &Book) -> Option<()> {
    let Sent {
        content,
        recipients,
        ..
    } = book.sent()[number].clone();
    taken(&line.ask("MAIL FROM:<sender@source.example>")?);
    for path in &recipients {
        taken(&line.ask(&format!("RCPT TO:<{path}>"))?);
    }
    line.ask("DATA")?;
    line.send(&stuffed(&content))?;
    let reply = line.reply()?;
    taken(&reply);
    let id = reply
        .split_whitespace()
        .nth(2)
        .expect("a queue id")
        .to_owned();
    book.sent()[number].accepted = Some((line.read_so_far(), id));
    Some(())
}

#[track_caller]
fn taken(reply: &str) {
    // A relay that is told to end says so, and that is no promise.
    assert!(
        reply.starts_with("250") || reply.starts_with("421"),
        "{reply}"
    );
}
