//! DATA framing both ways (RFC 5321 §4.5.2): the end of the data and the dots in front of lines.
//!
//! Only CRLF.CRLF ends the data, whatever else looks like it; what the content may hold is judged by
//! [`super::content`].

use memchr::memmem;

use super::line::Input;

/// What stands at the front of the input while data arrives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum Framed {
    /// Everything usable was taken.
    NeedInput,
    /// So many octets at the front are content; the caller takes them.
    Content(usize),
    /// The end of the data was reached and taken.
    End,
}

/// Undoes the framing of DATA.
#[derive(Debug)]
pub struct Decoder {
    at_line_start: bool,
}

impl Default for Decoder {
    /// The CRLF of the DATA line counts: `.CRLF` first is an empty message (R5321-13).
    fn default() -> Self {
        Self {
            at_line_start: true,
        }
    }
}

impl Decoder {
    /// Undoes the framing at the front of the input.
    pub fn next(&mut self, input: &mut Input) -> Framed {
        if self.at_line_start {
            match input.bytes() {
                [] | [b'.'] | [b'.', b'\r'] => return Framed::NeedInput,
                [b'.', b'\r', b'\n', ..] => {
                    input.take(3);
                    return Framed::End;
                }
                [b'.', ..] => {
                    input.take(1);
                    self.at_line_start = false;
                }
                _ => {}
            }
        }
        let bytes = input.bytes();
        // Everything up to the next line that begins with a dot goes out in one piece.
        let (count, at_line_start) = match memmem::find(bytes, b"\r\n.") {
            Some(position) => (position + 2, true),
            None if bytes.ends_with(b"\r\n") => (bytes.len(), true),
            None if bytes.ends_with(b"\r") => (bytes.len() - 1, false),
            None => (bytes.len(), false),
        };
        if count == 0 {
            return Framed::NeedInput;
        }
        self.at_line_start = at_line_start;
        Framed::Content(count)
    }
}

/// Puts the framing of DATA on (R5321-29).
#[derive(Debug)]
pub struct Encoder {
    /// Octets of CRLF that the content ends with so far: 0, 1 or 2.
    line_end: u8,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { line_end: 2 }
    }
}

impl Encoder {
    /// Appends content, with a dot before each line that begins with one.
    pub fn content(&mut self, mut content: &[u8], output: &mut Vec<u8>) {
        if let Some(last) = content.last() {
            let first_is_dot = content[0] == b'.' && self.line_end == 2;
            if first_is_dot {
                output.push(b'.');
            }
            // A CRLF that the last piece began may end here, and a dot may follow it.
            if self.line_end == 1 && content.starts_with(b"\n.") {
                output.extend_from_slice(b"\n.");
                content = &content[1..];
            }
            self.line_end = match (content, last) {
                ([.., b'\r', b'\n'], _) => 2,
                ([b'\n'], _) if self.line_end == 1 => 2,
                (_, b'\r') => 1,
                _ => 0,
            };
        }
        while let Some(position) = memmem::find(content, b"\r\n.") {
            output.extend_from_slice(&content[..position + 2]);
            output.push(b'.');
            content = &content[position + 2..];
        }
        output.extend_from_slice(content);
    }

    /// Appends the end of the data; content that does not end with a line gets its CRLF.
    pub fn end(self, output: &mut Vec<u8>) {
        if self.line_end != 2 {
            output.extend_from_slice(b"\r\n");
        }
        output.extend_from_slice(b".\r\n");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The content of framed octets, fed in pieces, and what is left behind the end.
    fn decode(octets: &[u8], piece: usize) -> Option<(Vec<u8>, Vec<u8>)> {
        let mut input = Input::new();
        let mut decoder = Decoder::default();
        let mut content = Vec::new();
        let mut parts = octets.chunks(piece);
        loop {
            match decoder.next(&mut input) {
                Framed::NeedInput => input.push(parts.next()?),
                Framed::Content(count) => content.extend_from_slice(input.take(count)),
                Framed::End => break,
            }
        }
        let mut rest = input.bytes().to_vec();
        parts.for_each(|part| rest.extend_from_slice(part));
        Some((content, rest))
    }

    // covers: R5321-13
    #[test]
    fn only_crlf_dot_crlf_ends_the_data_in_any_split() {
        let table: [(&[u8], &[u8]); 10] = [
            (b".\r\n", b""),
            (b"a\r\n.\r\n", b"a\r\n"),
            (b"..\r\n.\r\n", b".\r\n"),
            (b"...a\r\n.\r\n", b"..a\r\n"),
            (b".a\r\n.\r\n", b"a\r\n"),
            (b"a\n.\n\r\n.\r\n", b"a\n.\n\r\n"),
            (b"a\n.\r\n\r\n.\r\n", b"a\n.\r\n\r\n"),
            (b"a\r\n.\n\r\n.\r\n", b"a\r\n\n\r\n"),
            (b"a\r.\r\r\n.\r\n", b"a\r.\r\r\n"),
            (b"\r\n\r\n.\r\n", b"\r\n\r\n"),
        ];
        for (framed, content) in table {
            let framed = [framed, b"NOOP\r\n"].concat();
            for piece in 1..=framed.len() {
                let expected = Some((content.to_vec(), b"NOOP\r\n".to_vec()));
                assert_eq!(decode(&framed, piece), expected, "{framed:?} by {piece}");
            }
        }
    }

    proptest! {
        // covers: R5321-29
        #[test]
        fn content_comes_out_as_it_went_in(
            content in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'.'), Just(b'a')], 0..40),
            cut in 1_usize..9,
            piece in 1_usize..9,
        ) {
            let mut encoder = Encoder::default();
            let mut framed = Vec::new();
            for part in content.chunks(cut) {
                encoder.content(part, &mut framed);
            }
            encoder.end(&mut framed);
            let (mut decoded, rest) = decode(&framed, piece).expect("an end of data");
            prop_assert!(rest.is_empty());
            if !(content.is_empty() || content.ends_with(b"\r\n")) {
                prop_assert!(decoded.ends_with(b"\r\n"));
                decoded.truncate(decoded.len() - 2);
            }
            prop_assert_eq!(decoded, content);
        }
    }
}
