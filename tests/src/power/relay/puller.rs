//! A puller in the hands of the test: it takes, defers and refuses by chance, hangs up in the middle, and knows what
//! it has taken, as the real one does.

use std::net::SocketAddr;

use fastrand::Rng;

use super::{Book, Delivered, Inside};
use crate::message::without_trace;
use crate::peer::cram_md5;
use crate::power::content::number;
use crate::power::line::Line;
use crate::world::ACCOUNT;

/// How a pull ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pulled {
    HungUp,
    NoMail,
    Some,
}

/// What a puller refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    /// Now and then.
    Changing,
    /// Nothing.
    Willing,
}

pub(super) struct Puller<'a> {
    pub(super) address: SocketAddr,
    pub(super) secret: &'a str,
    pub(super) book: &'a Book,
    pub(super) mood: Mood,
}

/// A transaction of the reversed session.
#[derive(Default)]
struct Transaction {
    id: String,
    /// What is inside of it already.
    before: Option<Inside>,
    accepted: Vec<String>,
    is_part: bool,
    content: Vec<u8>,
}

impl Transaction {
    fn is_over(&self) -> bool {
        self.before.as_ref().is_some_and(|inside| !inside.is_part)
    }
}

impl Puller<'_> {
    /// One pull; `word` names its connection.
    pub(super) fn pull(&self, word: &str, chance: &mut Rng) -> Pulled {
        let pulled = Line::connect(self.address, word).and_then(|mut line| {
            if !self.login(&mut line, word)? {
                return Some(Pulled::NoMail);
            }
            self.serve(&mut line, word, chance)?;
            Some(Pulled::Some)
        });
        pulled.unwrap_or(Pulled::HungUp)
    }

    fn login(&self, line: &mut Line, word: &str) -> Option<bool> {
        line.reply()?;
        line.ask(&format!("EHLO {word}.puller.example"))?;
        let challenge = line.ask("AUTH CRAM-MD5")?;
        let answer = line.ask(&cram_md5(challenge.get(4..)?, ACCOUNT, self.secret))?;
        assert!(
            answer.starts_with("235") || answer.starts_with("421"),
            "{answer}"
        );
        Some(line.ask("ATRN")?.starts_with("250"))
    }

    /// Takes mail until the relay says goodbye.
    fn serve(&self, line: &mut Line, word: &str, chance: &mut Rng) -> Option<()> {
        line.say(&format!("220 {word}.puller.example ESMTP"))?;
        let mut transaction = Transaction::default();
        loop {
            let command = line.read()?;
            let verb = command
                .split(' ')
                .next()
                .unwrap_or_default()
                .to_ascii_uppercase();
            match &*verb {
                "EHLO" => line.say("250-puller\r\n250-PIPELINING\r\n250-CHUNKING\r\n250-8BITMIME\r\n250 XDELIVERYID")?,
                "MAIL" => {
                    transaction = Transaction::default();
                    self.mail(line, &command, &mut transaction)?;
                }
                "RCPT" => self.recipient(line, &command, &mut transaction, chance)?,
                "BDAT" => self.content(line, &command, &mut transaction, chance)?,
                "QUIT" => {
                    let _ = line.say("221 2.0.0 Bye");
                    return Some(());
                }
                _ => line.say("250 2.0.0 Ok")?,
            }
        }
    }

    fn mail(&self, line: &mut Line, command: &str, transaction: &mut Transaction) -> Option<()> {
        let id = command.split("XDELIVERYID=").nth(1).expect("a delivery id");
        transaction.id = id.split(' ').next().unwrap_or_default().to_owned();
        transaction.before = self.book.inside().get(&transaction.id).cloned();
        if !transaction.is_over() {
            return line.say("250 2.1.0 Ok");
        }
        line.say("258 2.0.0 already delivered")?;
        // As good as the reply that was lost.
        if let Some(before) = &transaction.before {
            self.delivered(line, before);
        }
        Some(())
    }

    fn recipient(
        &self,
        line: &mut Line,
        command: &str,
        transaction: &mut Transaction,
        chance: &mut Rng,
    ) -> Option<()> {
        if transaction.is_over() {
            return line.say("503 5.5.1 No transaction");
        }
        let path = command
            .split(['<', '>'])
            .nth(1)
            .expect("a forward-path")
            .to_owned();
        if let Some(before) = transaction
            .before
            .as_ref()
            .filter(|before| before.recipients.contains(&path))
        {
            line.say("258 2.1.5 already delivered")?;
            let (number, recipients) = (before.number, vec![path]);
            self.delivered(
                line,
                &Inside {
                    number,
                    recipients,
                    is_part: true,
                },
            );
            return Some(());
        }
        match chance.u8(..16) {
            0 if self.mood == Mood::Changing => {
                transaction.is_part = true;
                line.say("450 4.2.1 Not now")
            }
            1 if self.mood == Mood::Changing => {
                transaction.is_part = true;
                line.say("550 5.1.1 No such user")
            }
            _ => {
                transaction.accepted.push(path);
                line.say("250 2.1.5 Ok")
            }
        }
    }

    fn content(
        &self,
        line: &mut Line,
        command: &str,
        transaction: &mut Transaction,
        chance: &mut Rng,
    ) -> Option<()> {
        let octets = command
            .split(' ')
            .nth(1)
            .and_then(|octets| octets.parse().ok());
        let part = line.octets(octets.expect("a number of octets"))?;
        transaction.content.extend_from_slice(&part);
        if transaction.is_over() {
            return line.say("503 5.5.1 No transaction");
        }
        if transaction.accepted.is_empty() {
            return line.say("554 5.5.1 No valid recipients");
        }
        if !command.to_ascii_uppercase().ends_with(" LAST") {
            return line.say("250 2.0.0 Ok");
        }
        match chance.u8(..24) {
            0 if self.mood == Mood::Changing => line.say("451 4.3.0 Not now"),
            1 if self.mood == Mood::Changing => line.say("554 5.6.0 Not this one"),
            // Not taken, and gone.
            2 if self.mood == Mood::Changing => None,
            lot => self.take(line, transaction, lot == 3 && self.mood == Mood::Changing),
        }
    }

    /// It is inside from here on, whether the relay hears so or not.
    fn take(&self, line: &mut Line, transaction: &Transaction, is_reply_lost: bool) -> Option<()> {
        let Some(number) = number(&transaction.content) else {
            // A report of the relay's own.
            return line.say("250 2.0.0 taken");
        };
        let sent = self.book.sent()[number].content.clone();
        assert!(
            without_trace(&transaction.content) == sent,
            "message {number} arrived damaged"
        );
        let mut inside = Inside {
            number,
            recipients: transaction.accepted.clone(),
            is_part: transaction.is_part,
        };
        let before = transaction
            .before
            .iter()
            .flat_map(|before| before.recipients.clone());
        inside.recipients.extend(before);
        self.book
            .inside()
            .insert(transaction.id.clone(), inside.clone());
        if is_reply_lost {
            return None;
        }
        line.say(&format!("250 2.0.0 taken {}", transaction.id))?;
        self.delivered(line, &inside);
        Some(())
    }

    /// The relay knows once it has read what was sent last.
    fn delivered(&self, line: &Line, inside: &Inside) {
        let all = inside.recipients.iter().map(|recipient| Delivered {
            number: inside.number,
            recipient: recipient.clone(),
            place: line.sent_so_far(),
        });
        self.book.delivered().extend(all);
    }
}
