//! A relay in the hands of the test: it turns whoever asks, offers its messages, and offers some again that were taken,
//! as one does that has not heard the reply.

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::{Book, Offer};
use crate::power::content::numbered;
use crate::power::line::Line;
use crate::process::PATIENCE;
use crate::world::{DOMAIN, RELAY_NAME};

/// One session: waits for the puller, turns it, and offers what it is given. `word` names the connection.
///
/// The puller may be killed at any moment; then it ends early.
pub(super) fn session(
    listener: &TcpListener,
    word: &str,
    numbers: &[usize],
    over: &AtomicBool,
    book: &Book,
) {
    let Some(mut line) = accept(listener, word, over) else {
        return;
    };
    // A puller that is gone ends it, whatever was said so far.
    let _ = turn(&mut line, word).and_then(|()| {
        for number in numbers {
            offer(&mut line, *number, book)?;
        }
        line.ask("QUIT")
    });
}

/// A connection, unless nobody comes.
fn accept(listener: &TcpListener, word: &str, over: &AtomicBool) -> Option<Line> {
    listener
        .set_nonblocking(true)
        .expect("a listener can be set");
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end && !over.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                stream
                    .set_nonblocking(false)
                    .expect("a connection can be set");
                return Line::over(stream, word);
            }
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
    None
}

fn turn(line: &mut Line, word: &str) -> Option<()> {
    line.say(&format!("220 {word}.{RELAY_NAME} ESMTP"))?;
    loop {
        let command = line.read()?;
        match command.split(' ').next().unwrap_or_default() {
            "EHLO" => line.say(&format!(
                "250-{RELAY_NAME}\r\n250-AUTH CRAM-MD5\r\n250 ATRN"
            ))?,
            "AUTH" => {
                // Whoever answers is let in: secrets are not the subject.
                line.say("334 PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+")?;
                line.read()?;
                line.say("235 2.7.0 welcome")?;
            }
            "ATRN" => {
                line.say("250 2.0.0 reversing")?;
                line.reply()?;
                line.ask(&format!("EHLO {RELAY_NAME}"))?;
                return Some(());
            }
            _ => line.say("502 5.5.1 no")?,
        }
    }
}

fn offer(line: &mut Line, number: usize, book: &Book) -> Option<()> {
    let Offer { id, content, .. } = book.offers()[number].clone();
    let mail = line.ask(&format!(
        "MAIL FROM:<sender@source.example> XDELIVERYID={id}"
    ))?;
    if mail.starts_with("258") {
        return taken(line, number, book);
    }
    if !mail.starts_with("250") {
        return refused(&mail);
    }
    let recipient = line.ask(&format!("RCPT TO:<user@{DOMAIN}>"))?;
    if !recipient.starts_with("25") {
        return refused(&recipient);
    }
    line.say(&format!("BDAT {} LAST", content.len()))?;
    line.send(&content)?;
    let last = line.reply()?;
    if !last.starts_with("25") {
        return refused(&last);
    }
    taken(line, number, book)
}

fn taken(line: &Line, number: usize, book: &Book) -> Option<()> {
    book.offers()[number].taken.push(line.read_so_far());
    Some(())
}

/// A puller that is told to end, or waits for what another run left behind, says so for a while.
#[track_caller]
fn refused(reply: &str) -> Option<()> {
    assert!(reply.starts_with('4'), "{reply}");
    None
}

/// A new message for the book, under an id as relays give them.
pub(super) fn new(number: usize, chance: &mut Rng) -> Offer {
    let size = match chance.u8(..8) {
        0..4 => chance.usize(..4 * 1024),
        4..6 => chance.usize(4 * 1024..60 * 1024),
        // Beyond what the hand-over gathers in memory.
        6 => chance.usize(256 * 1024..400 * 1024),
        _ => chance.usize(60 * 1024..200 * 1024),
    };
    Offer {
        id: format!("1M7Z{number:07}.1.Q2Q2YT"),
        content: numbered(number, size, chance),
        taken: Vec::new(),
    }
}
