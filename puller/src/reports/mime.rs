//! The outermost layer of a MIME message: its parts, cut apart at the boundary (RFC 2046 §5.1).
//!
//! Nothing is looked at below it, so that nesting costs a hostile sender his octets and us nothing; and no more of a
//! header section is parsed than anybody needs.

use std::borrow::Cow;

use mail_parser::{ContentType, HeaderName, HeaderValue, Message, MessageParser};

/// Octets of a header section that are parsed.
const HEADER_OCTETS: usize = 16 * 1024;
/// A boundary has at most so many characters (RFC 2046 §5.1.1).
const BOUNDARY_OCTETS: usize = 70;

/// A header section and what follows it.
pub(super) struct Part<'c> {
    header: Message<'c>,
    pub(super) body: &'c [u8],
}

impl<'c> Part<'c> {
    /// Cuts content after its header section. `None`: it has none, or one that is out of proportion.
    pub(super) fn parse(content: &'c [u8]) -> Option<Self> {
        let (header, body) = split_header(content);
        let header = parse_header(header)?;
        Some(Self { header, body })
    }

    /// Whether it says to be `kind/subtype`.
    pub(super) fn is(&self, kind: &str, subtype: &str) -> bool {
        self.content_type().is_some_and(|found| {
            found.ctype().eq_ignore_ascii_case(kind)
                && found
                    .subtype()
                    .is_some_and(|found| found.eq_ignore_ascii_case(subtype))
        })
    }

    /// A parameter of the content type.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.content_type()?.attribute(name)
    }

    /// Whether the body is what it looks like.
    pub(super) fn is_not_encoded(&self) -> bool {
        let encoding = value(&self.header, &HeaderName::ContentTransferEncoding);
        match encoding.and_then(HeaderValue::as_text) {
            None => true,
            Some(word) => ["7bit", "8bit", "binary"]
                .iter()
                .any(|plain| word.trim().eq_ignore_ascii_case(plain)),
        }
    }

    /// The parts between the boundaries, at most `max`. `None`: it is no multipart, it has no end, or it has more.
    pub(super) fn parts(&self, max: usize) -> Option<Vec<&'c [u8]>> {
        let boundary = self.parameter("boundary")?;
        if boundary.is_empty() || boundary.len() > BOUNDARY_OCTETS {
            return None;
        }
        let mut parts = Vec::new();
        // What stands ahead of the first boundary is no part.
        let mut start = None;
        let mut at = 0;
        for line in self.body.split_inclusive(|octet| *octet == b'\n') {
            if let Some(delimiter) = delimiter(line, boundary) {
                if let Some(start) = start {
                    // The line end in front of a boundary belongs to the boundary.
                    let part = &self.body[start..at];
                    parts.push(part.strip_suffix(b"\r\n").unwrap_or(part));
                }
                start = Some(at + line.len());
                match delimiter {
                    Delimiter::End => return (parts.len() <= max).then_some(parts),
                    Delimiter::Next if parts.len() == max => return None,
                    Delimiter::Next => {}
                }
            }
            at += line.len();
        }
        None
    }

    fn content_type(&self) -> Option<&ContentType<'c>> {
        value(&self.header, &HeaderName::ContentType)?.as_content_type()
    }
}

/// `Message-ID` and `Date` of the header section at the start of `text`, as they are written.
pub(super) fn id_and_date(text: &[u8]) -> (Option<String>, Option<String>) {
    let (header, _) = split_header(text);
    // The original may have a long header section; these two fields stand near its top.
    let header = match header.get(..HEADER_OCTETS) {
        None => Cow::Borrowed(header),
        Some(front) => {
            let end = last_line_end(front);
            Cow::Owned([&front[..end], b"\r\n"].concat())
        }
    };
    let Some(header) = parse_header(&header) else {
        return (None, None);
    };
    let raw = |name| header.header_raw(name).map(|text| text.trim().to_owned());
    (raw(HeaderName::MessageId), raw(HeaderName::Date))
}

enum Delimiter {
    End,
    Next,
}

/// `--boundary` or `--boundary--`, with blanks behind it, alone on its line.
fn delimiter(line: &[u8], boundary: &str) -> Option<Delimiter> {
    let rest = line
        .strip_prefix(b"--")?
        .strip_prefix(boundary.as_bytes())?;
    let (rest, delimiter) = match rest.strip_prefix(b"--") {
        Some(rest) => (rest, Delimiter::End),
        None => (rest, Delimiter::Next),
    };
    rest.trim_ascii().is_empty().then_some(delimiter)
}

fn split_header(content: &[u8]) -> (&[u8], &[u8]) {
    if content.starts_with(b"\r\n") {
        return (&content[..0], &content[2..]);
    }
    match content.windows(4).position(|four| four == b"\r\n\r\n") {
        Some(end) => (&content[..end + 4], &content[end + 4..]),
        None => (content, &content[content.len()..]),
    }
}

fn last_line_end(front: &[u8]) -> usize {
    front
        .iter()
        .rposition(|octet| *octet == b'\n')
        .map_or(0, |end| end + 1)
}

fn parse_header(header: &[u8]) -> Option<Message<'_>> {
    if header.len() > HEADER_OCTETS + 2 {
        return None;
    }
    MessageParser::default().parse_headers(header)
}

fn value<'m, 'c>(message: &'m Message<'c>, name: &HeaderName<'_>) -> Option<&'m HeaderValue<'c>> {
    let root = message.parts.first()?;
    let header = root.headers.iter().find(|header| header.name == *name)?;
    Some(&header.value)
}
