//! What content may hold, whatever its framing: line ends, lengths, loops (R5321-14, -18, -20).

use memchr::memchr2;

use super::limits::TEXT_LINE_OCTETS;
use super::reply::Reply;

/// Why content is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// A CR or LF alone: somebody's end of line that is not everybody's is how a second message is
    /// smuggled in.
    BareLineEnd,
    /// A header section without end.
    HeaderTooLong,
    /// A line of text without end.
    LineTooLong,
    /// More `Received` fields than any real way has.
    Loop,
    /// More octets than this server takes.
    TooLarge,
}

impl Fault {
    /// What the peer hears at the end of its content.
    #[must_use]
    pub fn reply(self) -> Reply {
        match self {
            Self::BareLineEnd => Reply::new(
                550,
                "5.6.0",
                "Lines must end with CRLF; bare CR or LF refused",
            ),
            Self::HeaderTooLong => Reply::new(552, "5.3.4", "Header section too large"),
            Self::LineTooLong => Reply::new(550, "5.6.0", "Line of text too long"),
            Self::Loop => Reply::new(
                554,
                "5.4.6",
                "Too many Received fields: the message is looping",
            ),
            Self::TooLarge => Reply::new(552, "5.3.4", "Message too large"),
        }
    }
}

/// How much of everything content may have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ContentLimits {
    /// Octets in all.
    pub octets: u64,
    /// Octets of the header section.
    pub header_octets: usize,
    /// `Received` fields.
    pub received_fields: usize,
}

/// Looks at content as it passes, in pieces of any size.
#[derive(Debug)]
pub struct Inspector {
    limits: ContentLimits,
    octets: u64,
    eight_bit: bool,
    after_cr: bool,
    in_header: bool,
    header_octets: usize,
    line_octets: usize,
    /// Octets of `received:` that this line has matched so far; `None` once it did not.
    matched: Option<usize>,
    received_fields: usize,
}

/// The header field that every server on the way adds.
const RECEIVED: &[u8] = b"received:";

impl Inspector {
    /// An inspector for a message within these limits.
    #[must_use]
    pub fn new(limits: ContentLimits) -> Self {
        Self {
            limits,
            octets: 0,
            eight_bit: false,
            after_cr: false,
            in_header: true,
            header_octets: 0,
            line_octets: 0,
            matched: Some(0),
            received_fields: 0,
        }
    }

    /// Octets seen.
    #[must_use]
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// Whether an octet above 127 was seen.
    #[must_use]
    pub fn eight_bit(&self) -> bool {
        self.eight_bit
    }

    /// Looks at the next piece.
    ///
    /// # Errors
    /// The first [`Fault`], in the order of the octets: what is found does not depend on how they came.
    pub fn look(&mut self, part: &[u8]) -> Result<(), Fault> {
        let room = self.limits.octets.saturating_sub(self.octets);
        let within = up_to(part, usize::try_from(room).unwrap_or(usize::MAX));
        self.octets += part.len() as u64;
        self.eight_bit = self.eight_bit || !part.is_ascii();
        self.lines(within)?;
        if within.len() < part.len() {
            return Err(Fault::TooLarge);
        }
        Ok(())
    }

    fn lines(&mut self, mut rest: &[u8]) -> Result<(), Fault> {
        if self.after_cr && !rest.is_empty() {
            rest = rest.strip_prefix(b"\n").ok_or(Fault::BareLineEnd)?;
            self.after_cr = false;
            self.end_line();
        }
        while let Some(position) = memchr2(b'\r', b'\n', rest) {
            self.text(&rest[..position])?;
            match rest[position..] {
                [b'\r', b'\n', ..] => self.end_line(),
                [b'\r'] => {
                    self.after_cr = true;
                    return Ok(());
                }
                _ => return Err(Fault::BareLineEnd),
            }
            rest = &rest[position + 2..];
        }
        self.text(rest)
    }

    /// Says that the content is at its end.
    ///
    /// # Errors
    /// [`Fault::BareLineEnd`] when the last octet was a CR.
    pub fn end(&self) -> Result<(), Fault> {
        if self.after_cr {
            Err(Fault::BareLineEnd)
        } else {
            Ok(())
        }
    }

    fn text(&mut self, text: &[u8]) -> Result<(), Fault> {
        let line_room = TEXT_LINE_OCTETS - self.line_octets;
        if !self.in_header {
            self.line_octets += up_to(text, line_room).len();
            return fits(text, line_room, Fault::LineTooLong);
        }
        let header_room = self.limits.header_octets.saturating_sub(self.header_octets);
        let within = up_to(text, line_room.min(header_room));
        self.line_octets += within.len();
        self.header_octets += within.len();
        self.count_received(within)?;
        fits(text, line_room, Fault::LineTooLong)?;
        fits(text, header_room, Fault::HeaderTooLong)
    }

    /// Follows the name of a header field over the pieces that it comes in.
    fn count_received(&mut self, text: &[u8]) -> Result<(), Fault> {
        let Some(matched) = self.matched else {
            return Ok(());
        };
        let wanted = &RECEIVED[matched..];
        let count = wanted.len().min(text.len());
        if !text[..count].eq_ignore_ascii_case(&wanted[..count]) {
            self.matched = None;
        } else if count == wanted.len() {
            self.matched = None;
            self.received_fields += 1;
            if self.received_fields > self.limits.received_fields {
                return Err(Fault::Loop);
            }
        } else {
            self.matched = Some(matched + count);
        }
        Ok(())
    }

    fn end_line(&mut self) {
        if self.line_octets == 0 {
            self.in_header = false;
        }
        self.header_octets += 2;
        self.line_octets = 0;
        self.matched = Some(0);
    }
}

fn up_to(text: &[u8], count: usize) -> &[u8] {
    &text[..count.min(text.len())]
}

fn fits(text: &[u8], room: usize, fault: Fault) -> Result<(), Fault> {
    if text.len() > room {
        Err(fault)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::limits::{HEADER_OCTETS, RECEIVED_FIELDS};

    fn limits(octets: u64) -> ContentLimits {
        ContentLimits {
            octets,
            header_octets: HEADER_OCTETS,
            received_fields: RECEIVED_FIELDS,
        }
    }

    fn inspect(content: &[u8], piece: usize) -> Result<Inspector, Fault> {
        let mut inspector = Inspector::new(limits(3 << 20));
        for part in content.chunks(piece) {
            inspector.look(part)?;
        }
        inspector.end()?;
        Ok(inspector)
    }

    // covers: R5321-14
    #[test]
    fn bare_line_ends_are_found_in_any_split() {
        let bad: [&[u8]; 7] = [
            b"a\nb",
            b"a\rb",
            b"\r",
            b"\n",
            b"a\r\n\n",
            b"a\r\r\n",
            b"a\r\n\rb\r\n",
        ];
        for content in bad {
            for piece in 1..=content.len() {
                assert_eq!(
                    inspect(content, piece).err(),
                    Some(Fault::BareLineEnd),
                    "{content:?}"
                );
            }
        }
        let good: [&[u8]; 4] = [b"", b"a", b"a\r\n", b"\r\n\r\na\0b\r\n"];
        for content in good {
            for piece in 1..=content.len().max(1) {
                assert!(inspect(content, piece).is_ok(), "{content:?} by {piece}");
            }
        }
    }

    // covers: R5321-18
    #[test]
    fn more_than_a_hundred_received_fields_are_a_loop() {
        let way =
            |count: usize| "RECEIVED: from a\r\n by b\r\n".repeat(count) + "\r\nReceived: body\r\n";
        for piece in [1, 7, 1000] {
            assert!(inspect(way(RECEIVED_FIELDS).as_bytes(), piece).is_ok());
            assert_eq!(
                inspect(way(RECEIVED_FIELDS + 1).as_bytes(), piece).err(),
                Some(Fault::Loop)
            );
        }
        let body = format!("Subject: x\r\n\r\n{}", "Received: y\r\n".repeat(200));
        assert!(inspect(body.as_bytes(), 64).is_ok());
    }

    // covers: R5321-20
    #[test]
    fn lengths_are_bounded() {
        let long = |count: usize| ["\r\n".as_bytes(), &vec![b'x'; count], b"\r\n"].concat();
        assert!(inspect(&long(TEXT_LINE_OCTETS), 4096).is_ok());
        assert_eq!(
            inspect(&long(TEXT_LINE_OCTETS + 1), 4096).err(),
            Some(Fault::LineTooLong)
        );
        let header = "X: 12345678901234567890\r\n".repeat(HEADER_OCTETS / 24);
        assert_eq!(
            inspect(header.as_bytes(), 4096).err(),
            Some(Fault::HeaderTooLong)
        );
        let mut small = Inspector::new(limits(3));
        assert_eq!(small.look(b"abc"), Ok(()));
        assert_eq!(small.look(b"d"), Err(Fault::TooLarge));
    }

    // covers: R5321-20
    #[test]
    fn the_first_fault_is_the_same_in_any_split() {
        let limits = ContentLimits {
            octets: 12,
            header_octets: 6,
            received_fields: 0,
        };
        for (content, expected) in [
            (&b"\r\na\nbcdefghijklmnop"[..], Fault::BareLineEnd),
            (b"\r\nabcdefghij\n", Fault::TooLarge),
            (b"\r\nabcdefghi\rb", Fault::TooLarge),
            (b"abcdefghijklmnop\n", Fault::HeaderTooLong),
            (b"abcdef\n", Fault::BareLineEnd),
        ] {
            for piece in 1..=content.len() {
                let mut inspector = Inspector::new(limits);
                let found = content
                    .chunks(piece)
                    .find_map(|part| inspector.look(part).err());
                assert_eq!(found, Some(expected), "{content:?} by {piece}");
            }
        }
    }

    #[test]
    fn eight_bit_is_noticed() {
        assert!(!inspect(b"plain", 2).unwrap().eight_bit());
        assert!(inspect("größe".as_bytes(), 2).unwrap().eight_bit());
    }
}
