//! What was sent, what was answered, and what arrived.

use std::collections::HashMap;

use crate::message::{self, Message};

/// Every message of a world, with the answer that its sender got.
#[derive(Debug, Default)]
pub struct Ledger {
    sent: Vec<Sent>,
}

#[derive(Debug)]
struct Sent {
    subject: String,
    acknowledged: bool,
}

/// The sum of a ledger that holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Acknowledged, and arrived once.
    pub delivered: usize,
    /// Refused with 4yz.
    pub refused: usize,
    /// Of these, how many arrived once all the same. The sender knows of no acceptance, so it may.
    pub refused_and_arrived: usize,
}

impl Ledger {
    /// A message that no other is like, of about so many octets.
    #[must_use]
    pub fn message(&self, name: &str, octets: usize) -> Message {
        let subject = format!("{name} {}", self.sent.len());
        let line = "All work and no play makes a dull message body, line by line.\r\n";
        let body = line.repeat(octets / line.len() + 1);
        Message::new(
            "user@example.org",
            message::with_subject(&subject, body.as_bytes()),
        )
    }

    /// Notes the final reply to a message.
    ///
    /// # Panics
    /// When it is for good: nothing that fails here may be refused for good.
    #[track_caller]
    pub fn note(&mut self, message: &Message, reply: &str) {
        assert!(reply.starts_with(['2', '4']), "refused for good: {reply}");
        self.sent.push(Sent {
            subject: subject(&message.content),
            acknowledged: reply.starts_with('2'),
        });
    }

    /// Messages that were acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.sent.iter().filter(|sent| sent.acknowledged).count()
    }

    /// Compares with the contents of everything that arrived.
    ///
    /// # Panics
    /// When a message is lost, came twice, or nobody sent it.
    #[track_caller]
    pub fn settle<'a>(&self, arrived: impl IntoIterator<Item = &'a [u8]>) -> Counts {
        let mut copies: HashMap<String, usize> = HashMap::new();
        for content in arrived {
            *copies.entry(subject(content)).or_default() += 1;
        }
        let mut counts = Counts::default();
        for sent in &self.sent {
            let copies = copies.remove(&sent.subject).unwrap_or_default();
            assert!(copies <= 1, "{} came {copies} times", sent.subject);
            if sent.acknowledged {
                assert_eq!(copies, 1, "{} was acknowledged and is lost", sent.subject);
                counts.delivered += 1;
            } else {
                counts.refused += 1;
                counts.refused_and_arrived += copies;
            }
        }
        assert!(copies.is_empty(), "nobody sent {copies:?}");
        counts
    }
}

fn subject(content: &[u8]) -> String {
    let header = String::from_utf8_lossy(&content[..content.len().min(4096)]).into_owned();
    let line = header
        .lines()
        .find_map(|line| line.strip_prefix("Subject: "));
    line.unwrap_or_default().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(replies: &[&str]) -> (Ledger, Vec<Message>) {
        let mut ledger = Ledger::default();
        let mut messages = Vec::new();
        for reply in replies {
            let message = ledger.message("test", 10);
            ledger.note(&message, reply);
            messages.push(message);
        }
        (ledger, messages)
    }

    fn contents(messages: &[Message]) -> Vec<&[u8]> {
        messages
            .iter()
            .map(|message| &message.content[..])
            .collect()
    }

    #[test]
    fn a_ledger_that_holds_is_counted() {
        let (ledger, messages) = ledger(&["250 2.0.0 Ok", "451 4.3.0 No", "451 4.3.0 No"]);
        let counts = ledger.settle(contents(&messages[..2]));
        assert_eq!(
            (counts.delivered, counts.refused, counts.refused_and_arrived),
            (1, 2, 1)
        );
    }

    #[test]
    #[should_panic(expected = "is lost")]
    fn a_lost_message_is_seen() {
        ledger(&["250 2.0.0 Ok"]).0.settle([]);
    }

    #[test]
    #[should_panic(expected = "came 2 times")]
    fn a_second_copy_is_seen() {
        let (ledger, messages) = ledger(&["250 2.0.0 Ok"]);
        ledger.settle([&messages[0].content[..], &messages[0].content[..]]);
    }

    #[test]
    #[should_panic(expected = "nobody sent")]
    fn a_message_out_of_nothing_is_seen() {
        let (_, messages) = ledger(&["250 2.0.0 Ok"]);
        Ledger::default().settle(contents(&messages));
    }
}
