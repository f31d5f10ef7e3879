//! Bytes to lines: the input buffer that belongs to a connection, and command lines out of it.
//!
//! A line ends with CRLF and with nothing else. What is too long, or has a control octet, earns one
//! refusal, and the octets up to the next CRLF are dropped, so that their tail is never taken for a command.

/// Octets asked for in one read while little arrives.
const READ_OCTETS_MIN: usize = 4 * 1024;
/// Octets asked for in one read while a message streams.
const READ_OCTETS_MAX: usize = 128 * 1024;

/// Octets that arrived and were not yet understood. It belongs to the connection, not to a role, so
/// that nothing is lost or smuggled when the role changes.
#[derive(Debug, Default)]
pub struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// How much the next read asks for: grows while reads come back full.
    appetite: usize,
}

impl Input {
    /// An empty buffer, which holds no memory until it is read into.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The octets that wait.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Whether nothing waits. Must hold at STARTTLS and at ATRN.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether it has room of its own, as it has from the first octets on until [`Input::release`].
    #[must_use]
    pub fn holds_memory(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Takes `count` octets off the front, at most what waits. They stay readable until the next read.
    pub fn take(&mut self, count: usize) -> &[u8] {
        let from = self.start;
        self.start = (from + count).min(self.end);
        &self.buffer[from..self.start]
    }

    /// Room for the next read. Call [`Input::filled`] with what came.
    pub fn space(&mut self) -> &mut [u8] {
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let wanted = self.end + self.appetite.max(READ_OCTETS_MIN);
        if self.buffer.len() < wanted || self.buffer.len() > 4 * wanted {
            self.buffer.resize(wanted, 0);
            self.buffer.shrink_to_fit();
        }
        &mut self.buffer[self.end..]
    }

    /// Says that a read put `count` octets into [`Input::space`].
    pub fn filled(&mut self, count: usize) {
        let offered = self.buffer.len() - self.end;
        self.end += count.min(offered);
        self.appetite = if count == offered {
            (offered * 2).min(READ_OCTETS_MAX)
        } else if count < offered / 8 {
            offered / 2
        } else {
            self.appetite
        };
    }

    /// Gives the memory back, where nothing waits in it: for a connection that is about to idle.
    pub fn release(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }

    /// Appends octets, as a read would: for tests and for machines that are not fed by a stream.
    pub fn push(&mut self, mut octets: &[u8]) {
        while !octets.is_empty() {
            let space = self.space();
            let count = octets.len().min(space.len());
            space[..count].copy_from_slice(&octets[..count]);
            self.filled(count);
            octets = &octets[count..];
        }
    }
}

/// What stands at the front of the input.
#[derive(Debug, Eq, PartialEq)]
pub enum Line<'a> {
    /// No whole line yet.
    Incomplete,
    /// A line without its CRLF: printable, tab, or 8-bit.
    Text(&'a [u8]),
    /// A bare CR or LF, NUL or another control octet. Said once for a line.
    Control,
    /// More octets than the limit. Said once for a line.
    TooLong,
}

/// Cuts command lines out of an [`Input`].
#[derive(Debug, Default)]
pub struct Lines {
    /// The line was refused already; its rest is dropped up to CRLF.
    discarding: bool,
}

impl Lines {
    /// The next line of at most `limit` octets, CRLF included.
    pub fn next<'a>(&mut self, input: &'a mut Input, limit: usize) -> Line<'a> {
        if self.discarding && !self.discard(input) {
            return Line::Incomplete;
        }
        let bytes = input.bytes();
        let end = find_crlf(bytes);
        // A CR at the end may be half of the CRLF: it is not judged yet.
        let unfinished = || bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let visible = end.map_or_else(unfinished, |end| &bytes[..end]);
        // In the order of the octets: what a line is told does not depend on how it came.
        let text_octets = limit.saturating_sub(2);
        let within = &visible[..visible.len().min(text_octets)];
        let fault = if within.iter().any(is_refused_control) {
            Some(Line::Control)
        } else if visible.len() > text_octets {
            Some(Line::TooLong)
        } else {
            None
        };
        match (fault, end) {
            (Some(fault), _) => {
                self.discarding = true;
                self.discard(input);
                fault
            }
            (None, None) => Line::Incomplete,
            (None, Some(end)) => {
                let line = input.take(end + 2);
                Line::Text(&line[..end])
            }
        }
    }

    /// Drops the rest of a refused line; false while its CRLF has not come.
    fn discard(&mut self, input: &mut Input) -> bool {
        if let Some(end) = find_crlf(input.bytes()) {
            input.take(end + 2);
            self.discarding = false;
            return true;
        }
        // A CR at the end may be half of the CRLF.
        let keep = usize::from(input.bytes().last() == Some(&b'\r'));
        let count = input.bytes().len() - keep;
        input.take(count);
        false
    }
}

fn find_crlf(bytes: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, b"\r\n")
}

fn is_refused_control(octet: &u8) -> bool {
    octet.is_ascii_control() && *octet != b'\t'
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All lines of `octets`, fed in pieces of `piece` octets.
    fn lines(octets: &[u8], piece: usize) -> Vec<String> {
        let mut input = Input::new();
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for part in octets.chunks(piece) {
            input.push(part);
            loop {
                match lines.next(&mut input, 12) {
                    Line::Incomplete => break,
                    Line::Text(text) => found.push(String::from_utf8_lossy(text).into_owned()),
                    Line::Control => found.push("<control>".into()),
                    Line::TooLong => found.push("<long>".into()),
                }
            }
        }
        found
    }

    // covers: R5321-2, R5321-20
    #[test]
    fn only_crlf_ends_a_line_in_any_split() {
        let table: [(&[u8], &[&str]); 12] = [
            (b"NOOP\r\nQUIT\r\n", &["NOOP", "QUIT"]),
            (b"\r\n", &[""]),
            (b"1234567890\r\nNOOP\r\n", &["1234567890", "NOOP"]),
            (b"12345678901\r\nNOOP\r\n", &["<long>", "NOOP"]),
            (b"NO\nOP\r\nQUIT\r\n", &["<control>", "QUIT"]),
            (b"NO\rOP\r\nQUIT\r\n", &["<control>", "QUIT"]),
            (b"NO\0OP\r\nQUIT\r\n", &["<control>", "QUIT"]),
            (b"A\tB\r\n", &["A\tB"]),
            // The first fault counts, also where all of the line is there at once.
            (b"123456789\n1234\r\nNOOP\r\n", &["<control>", "NOOP"]),
            (b"1234567890\n1234\r\nNOOP\r\n", &["<long>", "NOOP"]),
            (b"12345678901\r\r\nNOOP\r\n", &["<long>", "NOOP"]),
            (b"NOOP\n", &["<control>"]),
        ];
        for (octets, expected) in table {
            for piece in 1..=octets.len() {
                assert_eq!(lines(octets, piece), expected, "{octets:?} by {piece}");
            }
        }
    }

    #[test]
    fn the_buffer_keeps_order_through_growth_and_takes() {
        let mut input = Input::new();
        let octets: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let mut seen = Vec::new();
        for part in octets.chunks(7001) {
            input.push(part);
            seen.extend_from_slice(input.take(5000));
        }
        let rest = input.bytes().len();
        seen.extend_from_slice(input.take(rest));
        assert_eq!(seen, octets);
        assert!(input.is_empty());
    }
}
