//! The part of a report for people: what happened to which address, why, and what can be done, in plain words.

use atrn_shared::log::peer;

use super::fields::{date, printable};
use super::message::{Notice, Told};
use super::routing::{Addressee, Fate};

/// Recipients that are listed one by one; a longer list helps nobody.
const LISTED_MAX: usize = 20;
/// Short enough that no encoding is needed, so that the text can be read in any program.
const LINE_CHARACTERS: usize = 72;

pub(super) fn subject(notice: &Notice<'_>) -> &'static str {
    match (notice.addressee, undelivered(notice)) {
        (_, false) => "Your message was handed on",
        (Addressee::Postmaster, true) => "A message could not be delivered",
        (Addressee::Sender, true) => "Your message could not be delivered",
    }
}

pub(super) fn text(notice: &Notice<'_>) -> String {
    let mut page = Page::default();
    page.paragraph(&opening(notice));
    let mut listed = 0;
    for (fate, heading) in HEADINGS {
        let mut group = notice.recipients.iter().filter(|told| told.fate == fate);
        let Some(first) = group.next() else {
            continue;
        };
        page.paragraph(heading);
        for told in std::iter::once(first).chain(group) {
            if listed < LISTED_MAX {
                recipient(&mut page, told);
            }
            listed += 1;
        }
    }
    if listed > LISTED_MAX {
        page.paragraph(&format!("And {} more.", listed - LISTED_MAX));
    }
    if undelivered(notice) {
        page.paragraph(&advice(notice));
    }
    page.paragraph(&reference(notice));
    page.text
}

fn undelivered(notice: &Notice<'_>) -> bool {
    let mut fates = notice.recipients.iter().map(|told| told.fate);
    fates.any(|fate| fate != Fate::Relayed)
}

const HEADINGS: [(Fate, &str); 3] = [
    (Fate::Failed, "Refused for:"),
    (
        Fate::Expired,
        "Given up, after having waited too long, for:",
    ),
    (
        Fate::Relayed,
        "Handed on to the mail system of the recipient, which confirms nothing further, for:",
    ),
];

fn opening(notice: &Notice<'_>) -> String {
    let delivery = notice.delivery;
    match (notice.addressee, undelivered(notice)) {
        (_, false) => format!(
            "This is the mail server {}. Your message to {} is on its way.",
            notice.hostname, delivery.domain
        ),
        (Addressee::Sender, true) => format!(
            "This is the mail server {}. It could not deliver your message to {}.",
            notice.hostname, delivery.domain
        ),
        (Addressee::Postmaster, true) => format!(
            "This is the mail server {}. It could not deliver a message to {} from <{}>. The sender \
             was not told: this relay does not know that the address is no forgery, or is set to tell you.",
            notice.hostname,
            delivery.domain,
            peer(&delivery.reverse_path.to_string())
        ),
    }
}

fn recipient(page: &mut Page, told: &Told<'_>) {
    let address = told.recipient.forward_path.to_string();
    page.line(4, &peer(&address).to_string());
    if let Some(reply) = told.reply {
        page.line(8, &printable(&reply.to_string()));
    }
    page.end();
}

fn advice(notice: &Notice<'_>) -> String {
    match notice.addressee {
        Addressee::Postmaster => format!(
            "The line under each address says why. `atrn-relay queue show {id}` has more, and `atrn-relay \
             queue retry {id}` gives it another try.",
            id = notice.delivery.id.queue_id()
        ),
        Addressee::Sender => format!(
            "Please look for a mistake in each address. If there is none, the line under it says why; \
             postmaster@{} can tell you more. The message is not tried again.",
            notice.delivery.domain
        ),
    }
}

fn reference(notice: &Notice<'_>) -> String {
    format!(
        "The message was received on {} and has the number {} at {}. This text was written by a program.",
        date(notice.delivery.received_at),
        notice.delivery.id.queue_id(),
        notice.hostname
    )
}

/// Text in lines, each ended by CRLF.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn paragraph(&mut self, text: &str) {
        self.line(0, text);
        self.end();
    }

    fn end(&mut self) {
        self.text += "\r\n";
    }

    /// A line, or several where it is too long.
    fn line(&mut self, indent: usize, text: &str) {
        let mut column = 0;
        for word in text.split_ascii_whitespace() {
            let length = word.chars().count();
            if column == 0 {
                self.text += &" ".repeat(indent);
                column = indent;
            } else if column + 1 + length > LINE_CHARACTERS {
                self.end();
                self.text += &" ".repeat(indent);
                column = indent;
            } else {
                self.text.push(' ');
                column += 1;
            }
            self.text += word;
            column += length;
        }
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_wrapped_and_end_in_crlf() {
        let mut page = Page::default();
        page.line(4, &"word ".repeat(20));
        page.line(0, &"x".repeat(100));
        let words = |count: usize| format!("    {}\r\n", vec!["word"; count].join(" "));
        let expected = format!("{}{}{}\r\n", words(13), words(7), "x".repeat(100));
        assert_eq!(page.text, expected);
    }
}
