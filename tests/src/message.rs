//! Messages for tests: an envelope, content of every awkward kind, and the comparison that all
//! delivery tests end with: byte for byte apart from the trace headers on top.

use std::fmt::Write as _;

/// A message to be sent.
#[derive(Clone, Debug)]
pub struct Message {
    /// The reverse-path without brackets; empty is the null reverse-path.
    pub reverse_path: String,
    /// The forward-paths without brackets.
    pub forward_paths: Vec<String>,
    /// Header section and body, as they are before dot-stuffing.
    pub content: Vec<u8>,
}

impl Message {
    /// From the usual sender to one recipient.
    #[must_use]
    pub fn new(recipient: &str, content: impl Into<Vec<u8>>) -> Self {
        Self::to(&[recipient], content)
    }

    /// From the usual sender to several recipients.
    #[must_use]
    pub fn to(recipients: &[&str], content: impl Into<Vec<u8>>) -> Self {
        Self {
            reverse_path: "sender@source.example".to_owned(),
            forward_paths: recipients.iter().map(|&path| path.to_owned()).collect(),
            content: content.into(),
        }
    }

    /// From somebody else.
    #[must_use]
    pub fn from(mut self, reverse_path: &str) -> Self {
        reverse_path.clone_into(&mut self.reverse_path);
        self
    }
}

/// A short message whose number can be read from it.
#[must_use]
pub fn plain(number: usize) -> Vec<u8> {
    with_subject(
        &format!("message {number}"),
        format!("Text of message {number}.\r\n").as_bytes(),
    )
}

/// UTF-8 text, sent as it is (RFC 6152).
#[must_use]
pub fn eight_bit() -> Vec<u8> {
    let body = "Grüße aus Köln, Ελλάδα, 日本 — 8 Bit.\r\n";
    let mut content = header("eight bit");
    content.push_str("MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n");
    content.push_str("Content-Transfer-Encoding: 8bit\r\n\r\n");
    content.push_str(body);
    content.into_bytes()
}

/// Lines that begin with dots, and look like the end (RFC 5321 §4.5.2).
#[must_use]
pub fn dots() -> Vec<u8> {
    with_subject(
        "dots",
        b".\r\n..\r\n.leading\r\n...\r\n. \r\n\r\n.\r\n.end.\r\n",
    )
}

/// Neither header nor body.
#[must_use]
pub fn empty() -> Vec<u8> {
    Vec::new()
}

/// One line of so many octets, which is allowed to be longer than RFC 5321 asks for.
#[must_use]
pub fn long_line(octets: usize) -> Vec<u8> {
    let mut body = vec![b'x'; octets];
    body.extend_from_slice(b"\r\n");
    with_subject("a long line", &body)
}

/// A message with an attachment in base64 lines, of about so many octets.
#[must_use]
pub fn big(octets: usize) -> Vec<u8> {
    let mut content = header("a big attachment").into_bytes();
    content.extend_from_slice(b"MIME-Version: 1.0\r\nContent-Type: application/octet-stream\r\n");
    content.extend_from_slice(b"Content-Transfer-Encoding: base64\r\n\r\n");
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    // A generator without state elsewhere: the same message every time, no two lines alike.
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    while content.len() < octets {
        for _ in 0..76 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            content.push(alphabet[usize::try_from(state & 63).unwrap_or(0)]);
        }
        content.extend_from_slice(b"\r\n");
    }
    content
}

/// One message of each kind, with its name.
#[must_use]
pub fn kinds() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("plain", plain(1)),
        ("8-bit", eight_bit()),
        ("leading dots", dots()),
        ("empty", empty()),
        ("body without header", b"\r\nNo header at all.\r\n".to_vec()),
        ("header without body", header("no body").into_bytes()),
        ("long line", long_line(20_000)),
        ("40 KiB", big(40 * 1024)),
        ("1 MiB", big(1024 * 1024)),
    ]
}

/// The content in a header section of its own.
#[must_use]
pub fn with_subject(subject: &str, body: &[u8]) -> Vec<u8> {
    let mut content = header(subject).into_bytes();
    content.extend_from_slice(b"\r\n");
    content.extend_from_slice(body);
    content
}

fn header(subject: &str) -> String {
    let mut header = String::new();
    // Writing to a String cannot fail.
    write!(header, "From: Sender <sender@source.example>\r\n").ok();
    // A server that misses the date would add one.
    write!(header, "Date: Thu, 01 Jan 2026 12:00:00 +0000\r\n").ok();
    write!(header, "Subject: {subject}\r\nMessage-ID: <").ok();
    for octet in subject.bytes().filter(u8::is_ascii_alphanumeric) {
        header.push(char::from(octet));
    }
    header.push_str("@source.example>\r\n");
    header
}

/// What is left of content when the trace fields on top are taken off: the `Authentication-Results`, `Received`,
/// `Return-Path`, `Delivered-To`, `X-Original-To` fields that servers on the way prepend.
#[must_use]
pub fn without_trace(content: &[u8]) -> &[u8] {
    const TRACE: [&str; 5] = [
        "authentication-results:",
        "received:",
        "return-path:",
        "delivered-to:",
        "x-original-to:",
    ];
    let mut rest = content;
    while TRACE.iter().any(|name| starts_with_name(rest, name)) {
        rest = after_field(rest);
    }
    rest
}

/// The trace fields that [`without_trace`] takes off.
#[must_use]
pub fn trace(content: &[u8]) -> String {
    let length = content.len() - without_trace(content).len();
    String::from_utf8_lossy(&content[..length]).into_owned()
}

/// Fails unless the content arrived as it was sent, apart from the trace fields on top.
///
/// # Panics
/// With the place of the first difference.
#[track_caller]
pub fn assert_same_content(name: &str, sent: &[u8], arrived: &[u8]) {
    let bare = without_trace(arrived);
    if bare == sent {
        return;
    }
    let at = sent
        .iter()
        .zip(bare)
        .take_while(|(left, right)| left == right)
        .count();
    let window = |octets: &[u8]| {
        let from = at.saturating_sub(20).min(octets.len());
        let to = (at + 40).min(octets.len());
        octets[from..to].escape_ascii().to_string()
    };
    panic!(
        "{name}: content differs at octet {at} (sent {}, arrived {}):\n sent    …{}…\n arrived …{}…",
        sent.len(),
        bare.len(),
        window(sent),
        window(bare)
    );
}

/// Content as DATA carries it: dots stuffed, the lone dot at the end (RFC 5321 §4.5.2).
#[must_use]
pub fn stuffed(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + content.len() / 64 + 8);
    let mut line_begins = true;
    for &octet in content {
        if line_begins && octet == b'.' {
            out.push(b'.');
        }
        line_begins = octet == b'\n';
        out.push(octet);
    }
    if !line_begins {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b".\r\n");
    out
}

fn starts_with_name(content: &[u8], name: &str) -> bool {
    content
        .get(..name.len())
        .is_some_and(|head| head.eq_ignore_ascii_case(name.as_bytes()))
}

/// What follows the first field, its folded lines included.
fn after_field(content: &[u8]) -> &[u8] {
    let mut at = 0;
    loop {
        let Some(length) = content[at..].iter().position(|&octet| octet == b'\n') else {
            return &[];
        };
        at += length + 1;
        if !matches!(content.get(at), Some(b' ' | b'\t')) {
            return &content[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trace_fields_on_top_are_taken_off() {
        let content = b"Return-Path: <a@b>\r\nReceived: from x\r\n\tby y; date\r\nSubject: s\r\n\
                        Received: inner\r\n\r\nReceived: body\r\n";
        let rest = b"Subject: s\r\nReceived: inner\r\n\r\nReceived: body\r\n";
        assert_eq!(without_trace(content), rest);
        assert_eq!(
            trace(content),
            "Return-Path: <a@b>\r\nReceived: from x\r\n\tby y; date\r\n"
        );
    }

    #[test]
    fn a_difference_is_found_even_in_the_last_octet() {
        let differs = std::panic::catch_unwind(|| {
            assert_same_content(
                "test",
                b"Subject: a\r\n\r\nx\r\n",
                b"Subject: a\r\n\r\ny\r\n",
            );
        });
        assert!(differs.is_err());
    }

    #[test]
    fn stuffing_doubles_every_leading_dot() {
        assert_eq!(stuffed(b".\r\na.\r\n..b\r\n"), b"..\r\na.\r\n...b\r\n.\r\n");
        assert_eq!(stuffed(b""), b".\r\n");
        assert_eq!(stuffed(b"x"), b"x\r\n.\r\n");
    }
}
