//! Somebody else holds the write lock of a database: a back-up that takes its time, an admin with a shell.

use std::time::Duration;

use atrn_tests::faults::{Lock, Row};

use super::stage::{SMALL, Stage, codes, offer, reply};

/// Sessions that wait for one lock at a time.
const SENDERS: usize = 4;

pub(crate) fn relay() -> Vec<Row> {
    let mut stage = Stage::new("relay-busy");
    short(&mut stage);
    long(&mut stage);
    stage.end()
}

fn short(stage: &mut Stage) {
    let mut sender = stage.connect();
    stage.send_taken(&mut sender, SMALL);
    let lock = Lock::take(&stage.database());
    let message = stage.message(SMALL);
    sender
        .peer()
        .ask("MAIL FROM:<sender@source.example>", "250 ");
    sender.peer().ask("RCPT TO:<user@example.org>", "250 ");
    sender.peer().ask("DATA", "354");
    let octets = atrn_tests::message::stuffed(&message.content);
    sender.peer().send_octets(&octets);
    sender.peer().expect_silence(Duration::from_millis(300));
    drop(lock);
    let answer = reply(sender.peer());
    stage.ledger.note(&message, &answer);
    stage.row(
        "queue: database",
        "lock held for less than 10 s by another process:",
        "SQLITE_BUSY",
        &codes(&answer),
        "the commit waits for it",
    );
}

/// Everybody who waits hears of it after the first time-out or the next, not each after one of his own.
fn long(stage: &mut Stage) {
    let (queued, mark) = (stage.queued(), stage.mark());
    let lock = Lock::take(&stage.database());
    let senders: Vec<_> = (0..SENDERS)
        .map(|number| {
            let message = stage.ledger.message(&format!("busy {number}"), SMALL);
            let mut sender = stage.connect();
            std::thread::spawn(move || {
                let reply = offer(sender.peer(), &message);
                (message, reply)
            })
        })
        .collect();
    let mut answers = Vec::new();
    for sender in senders {
        let (message, answer) = sender.join().expect("a sender");
        stage.ledger.note(&message, &answer);
        answers.push(codes(&answer));
    }
    drop(lock);
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    stage.assert_logged(&mark, "cannot hold a message");
    let mut sender = stage.connect();
    stage.send_taken(&mut sender, SMALL);
    assert_eq!(stage.queued(), queued + 1);
    stage.row(
        "queue: database",
        "lock held for more than 10 s by another process:",
        "SQLITE_BUSY",
        &answers[0],
        "everybody who waits is refused at once; the next message is taken",
    );
}
