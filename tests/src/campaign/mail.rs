//! The campaign's messages: each has a number, and its content follows from number and length, so that
//! what arrives is compared with what was sent without keeping either.

use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crate::message::without_trace;

/// The field that names a message: number and octets.
const FIELD: &str = "X-Campaign: ";
/// Our own numbers are counted from below.
const FOREIGN: u64 = 1 << 63;
const LINE_OCTETS: usize = 72;
/// Two digits an octet of randomness.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+.";

/// A message of the campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mail {
    pub(super) number: u64,
    /// Octets of the body, about.
    pub(super) octets: usize,
}

/// What came out at the other end; one that nobody sent is found by the ledger.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// This message, every octet as it was sent.
    Whole(Mail),
    /// This message with other octets.
    Changed(Mail),
}

impl Mail {
    /// Header section and body. Lines begin with any octet of the alphabet, dots among them.
    pub(super) fn content(self) -> Vec<u8> {
        let mut header = String::new();
        let Self { number, octets } = self;
        // Writing into memory cannot fail.
        let _ = write!(
            header,
            "From: Campaign <campaign@source.example>\r\nDate: Thu, 01 Jan 2026 12:00:00 +0000\r\n\
             Message-ID: <{number}@source.example>\r\n{FIELD}{number} {octets}\r\n\r\n"
        );
        let mut content = header.into_bytes();
        content.reserve(octets + LINE_OCTETS + 2);
        let end = content.len() + octets;
        let mut random = fastrand::Rng::with_seed(number);
        while content.len() < end {
            for _ in 0..LINE_OCTETS / 8 {
                let octets = random.u64(..).to_ne_bytes();
                content.extend(octets.map(|octet| ALPHABET[usize::from(octet & 63)]));
            }
            content.extend_from_slice(b"\r\n");
        }
        content
    }

    /// One that another program has made: its number follows from its octets, so if they change it is another.
    pub(super) fn of(content: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        Self {
            number: hasher.finish() | FOREIGN,
            octets: content.len(),
        }
    }

    /// Whether a number is of a message that another program has made.
    pub(super) fn is_foreign(number: u64) -> bool {
        number & FOREIGN != 0
    }

    /// Recognises one that has arrived, trace fields on top.
    pub(super) fn seen(arrived: &[u8]) -> Seen {
        let bare = without_trace(arrived);
        match Self::named(bare) {
            Some(mail) if mail.content() != bare => Seen::Changed(mail),
            Some(mail) => Seen::Whole(mail),
            None => Seen::Whole(Self::of(bare)),
        }
    }

    fn named(content: &[u8]) -> Option<Self> {
        let head = &content[..content.len().min(400)];
        let head = String::from_utf8_lossy(head);
        let line = head.lines().find_map(|line| line.strip_prefix(FIELD))?;
        let (number, octets) = line.split_once(' ')?;
        Some(Self {
            number: number.parse().ok()?,
            octets: octets.parse().ok()?,
        })
    }
}

/// The queue id in the trace field of the relay: the name that the journal knows a message by.
pub(super) fn queue_id(arrived: &[u8], relay: &str) -> Option<String> {
    let length = arrived.len() - without_trace(arrived).len();
    let trace = String::from_utf8_lossy(&arrived[..length]).into_owned();
    let by_relay = format!("by {relay} ");
    let (_, rest) = trace.split_once(&by_relay)?;
    let (_, rest) = rest.split_once(" id ")?;
    let id: String = rest
        .chars()
        .take_while(char::is_ascii_alphanumeric)
        .collect();
    Some(id).filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "Received: from relay.example.net ([127.0.0.1])\r\n\tby puller.example.org with \
                         ESMTP id 7f3a-1\r\n\tfor <a@b>;\r\n\tdate\r\nReceived: from c\r\n\tby \
                         relay.example.net with ESMTP id 1M7ZX5RDH00;\r\n\tdate\r\n";

    fn arrived(mail: Mail) -> Vec<u8> {
        [TRACE.as_bytes(), &mail.content()].concat()
    }

    #[test]
    fn a_message_is_known_again_octet_for_octet() {
        for octets in [0, 4_000, 100_000] {
            let mail = Mail { number: 7, octets };
            assert_eq!(Mail::seen(&arrived(mail)), Seen::Whole(mail));
            let mut changed = arrived(mail);
            *changed.last_mut().unwrap() = b'!';
            assert_eq!(Mail::seen(&changed), Seen::Changed(mail));
            changed.truncate(TRACE.len() + 160);
        }
    }

    #[test]
    fn what_others_made_is_known_by_its_octets() {
        let content = b"Subject: other\r\n\r\ntext\r\n";
        let arrived = [TRACE.as_bytes(), content].concat();
        assert_eq!(Mail::seen(&arrived), Seen::Whole(Mail::of(content)));
        assert_ne!(
            Mail::of(content),
            Mail::of(b"Subject: other\r\n\r\nTEXT\r\n")
        );
    }

    #[test]
    fn the_relay_s_queue_id_is_found() {
        let mail = Mail {
            number: 7,
            octets: 1,
        };
        let id = queue_id(&arrived(mail), "relay.example.net");
        assert_eq!(id.as_deref(), Some("1M7ZX5RDH00"));
        assert_eq!(queue_id(&mail.content(), "relay.example.net"), None);
    }
}
