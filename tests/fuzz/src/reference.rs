//! Framing as slowly and as obviously as it can be written: one octet at a time, nothing shared with the product.

use std::collections::VecDeque;

use atrn_shared::smtp::limits::COMMAND_LINE_OCTETS;
use atrn_shared::smtp::reply::Reply;

use crate::case::Case;
use crate::server::{Content, Seen};

/// Reads lines and content off the front of what a client sent in all.
pub(crate) struct LineReader<'d> {
    octets: &'d [u8],
    at: usize,
    limit: usize,
}

/// A line, or why it is none.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum ReferenceLine {
    Text(Vec<u8>),
    /// It has a control octet within the limit; nothing of it counts, up to its CRLF.
    Control,
    /// It has more octets than the limit, and no control octet up to there.
    TooLong,
    /// Nothing more can be told.
    End,
}

impl<'d> LineReader<'d> {
    pub(crate) fn new(octets: &'d [u8], limit: usize) -> Self {
        Self {
            octets,
            at: 0,
            limit,
        }
    }

    pub(crate) fn rest(&self) -> &'d [u8] {
        &self.octets[self.at..]
    }

    pub(crate) fn next_line(&mut self) -> ReferenceLine {
        let mut line = Vec::new();
        while let Some(octet) = self.octet() {
            if octet == b'\r' && self.octets.get(self.at) == Some(&b'\n') {
                self.at += 1;
                return ReferenceLine::Text(line);
            }
            if octet == b'\r' && self.at == self.octets.len() {
                // Half of a CRLF, perhaps.
                return ReferenceLine::End;
            }
            if line.len() + 2 == self.limit {
                self.skip_line();
                return ReferenceLine::TooLong;
            }
            if octet.is_ascii_control() && octet != b'\t' {
                self.at -= 1;
                self.skip_line();
                return ReferenceLine::Control;
            }
            line.push(octet);
        }
        ReferenceLine::End
    }

    /// The content of DATA, with its dots; `None` when its end has not come.
    pub(crate) fn data(&mut self) -> Option<Vec<u8>> {
        let mut content = Vec::new();
        let mut line = Vec::new();
        loop {
            let octet = self.octet()?;
            line.push(octet);
            if line.ends_with(b"\r\n") {
                if line == b".\r\n" {
                    return Some(content);
                }
                let unstuffed = if line[0] == b'.' {
                    &line[1..]
                } else {
                    &line[..]
                };
                content.extend_from_slice(unstuffed);
                line.clear();
            }
        }
    }

    /// So many octets; `None` when they are not there yet.
    pub(crate) fn chunk(&mut self, count: u64) -> Option<Vec<u8>> {
        let count = usize::try_from(count).ok()?;
        let chunk = self.rest().get(..count)?.to_vec();
        self.at += count;
        Some(chunk)
    }

    /// Up to the next CRLF and behind it, or to the end.
    fn skip_line(&mut self) {
        while let Some(octet) = self.octet() {
            if octet == b'\r' && self.octets.get(self.at) == Some(&b'\n') {
                self.at += 1;
                return;
            }
        }
    }

    fn octet(&mut self) -> Option<u8> {
        let octet = self.octets.get(self.at)?;
        self.at += 1;
        Some(*octet)
    }
}

/// Whether a CR stands without its LF, or a LF without its CR.
pub(crate) fn has_bare_line_end(content: &[u8]) -> bool {
    (0..content.len()).any(|at| match content[at] {
        b'\r' => content.get(at + 1) != Some(&b'\n'),
        b'\n' => at == 0 || content[at - 1] != b'\r',
        _ => false,
    })
}

/// Goes through what a client sent and what it was answered, as the client would: each command one reply, each content
/// where it was let in, and nothing else anywhere.
pub(crate) fn walk(case: Case<'_>, seen: &Seen) {
    let sent: Vec<u8> = case.flights().flatten().copied().collect();
    let mut walk = Walk {
        client: LineReader::new(&sent, COMMAND_LINE_OCTETS),
        replies: seen.replies.iter().map(Reply::code).collect(),
        closed: seen.closed,
        data: Vec::new(),
        chunked: Vec::new(),
        chunks: Vec::new(),
    };
    assert_eq!(walk.replies.pop_front(), Some(220), "the greeting");
    // Too many errors, or the driver's own: it stands for whatever was due.
    if seen.closed && walk.replies.back() == Some(&421) {
        walk.replies.pop_back();
    }
    walk.commands();
    if !walk.replies.is_empty() {
        panic!(
            "replies to nothing: {:?} in {:?}",
            walk.replies, seen.replies
        );
    }
    walk.compare(&seen.contents);
}

struct Walk<'d> {
    client: LineReader<'d>,
    replies: VecDeque<u16>,
    closed: bool,
    /// The contents of DATA, each as far as it came.
    data: Vec<Option<Vec<u8>>>,
    /// Messages in chunks.
    chunked: Vec<Vec<u8>>,
    /// The chunks of a message so far.
    chunks: Vec<u8>,
}

impl Walk<'_> {
    fn commands(&mut self) {
        // In a session that is over, what comes behind its last reply was never read.
        while !(self.closed && self.replies.is_empty()) {
            let line = match self.client.next_line() {
                ReferenceLine::End => return,
                ReferenceLine::Text(line) => line,
                ReferenceLine::Control | ReferenceLine::TooLong => {
                    assert_eq!(self.reply(), 500);
                    continue;
                }
            };
            let end = line.iter().rposition(|octet| !b" \t".contains(octet));
            let line = &line[..end.map_or(0, |end| end + 1)];
            let verb = line
                .split(|octet| *octet == b' ')
                .next()
                .unwrap_or_default();
            match verb.to_ascii_uppercase().as_slice() {
                b"BDAT" => self.bdat(line),
                b"DATA" => self.content_of_data(),
                b"MAIL" | b"RSET" | b"EHLO" | b"HELO" => {
                    if self.reply() / 100 == 2 {
                        self.chunks.clear();
                    }
                }
                _ => {
                    self.reply();
                }
            }
        }
    }

    fn content_of_data(&mut self) {
        if self.reply() != 354 {
            return;
        }
        let content = self.client.data();
        let is_faulty = content.as_deref().is_some_and(has_bare_line_end);
        if content.is_none() {
            // The connection ended inside, or the server had enough of it.
            self.client.at = self.client.octets.len();
            if self.closed {
                self.replies.pop_front();
            }
        } else if !(self.closed && self.replies.is_empty()) {
            let reply = self.reply();
            assert!(
                !(is_faulty && reply / 100 == 2),
                "a bare line end was taken"
            );
        }
        self.data.push(content);
    }

    fn bdat(&mut self, line: &[u8]) {
        let words: Vec<&[u8]> = line
            .split(|octet| *octet == b' ')
            .filter(|word| !word.is_empty())
            .collect();
        let count = words.get(1).and_then(|word| std::str::from_utf8(word).ok());
        let count = count.and_then(|count| count.parse().ok());
        let Some(chunk) = count.and_then(|count| self.client.chunk(count)) else {
            // It did not come whole, or was too large, or nobody knows its end: that may be said, and is the last word.
            self.client.at = self.client.octets.len();
            if self.closed {
                self.replies.pop_front();
            }
            return;
        };
        let is_last = words.len() > 2;
        let reply = self.reply();
        self.chunks.extend_from_slice(&chunk);
        if is_last {
            assert!(
                !(has_bare_line_end(&self.chunks) && reply / 100 == 2),
                "a bare line end was taken"
            );
            self.chunked.push(std::mem::take(&mut self.chunks));
        } else if reply != 250 {
            self.chunks.clear();
        }
    }

    fn reply(&mut self) -> u16 {
        self.replies
            .pop_front()
            .expect("each command is answered once")
    }

    fn compare(&self, contents: &[Content]) {
        let mut data = self.data.iter();
        let mut chunked = self.chunked.iter();
        for content in contents.iter().filter(|content| content.is_whole) {
            let found = if content.is_data {
                data.any(|other| other.as_ref() == Some(&content.octets))
            } else {
                chunked.any(|other| *other == content.octets)
            };
            assert!(found, "content that nobody sent: {content:?}");
        }
    }
}
