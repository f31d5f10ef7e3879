//! Replies (RFC 5321 §4.2) with enhanced codes (RFC 2034, RFC 3463): build, print, parse.
//!
//! A reply that we write is always one code, printable ASCII and short lines, whatever text went in:
//! the peer's words can never become a second reply.

use std::borrow::Cow;
use std::fmt;

use super::limits::{REPLY_LINE_OCTETS, REPLY_LINES, REPLY_OCTETS};

/// `class.subject.detail` of RFC 3463.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EnhancedCode {
    /// 2, 4 or 5.
    pub class: u8,
    /// What it is about: 1 addressing, 2 mailbox, 3 system, 4 network, 5 protocol, 6 content, 7 security.
    pub subject: u16,
    /// The case within the subject.
    pub detail: u16,
}

impl EnhancedCode {
    /// Reads `5.1.1`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let mut number = |digits: usize| -> Option<u16> {
            let part = parts.next()?;
            let valid =
                (1..=digits).contains(&part.len()) && part.bytes().all(|o| o.is_ascii_digit());
            if valid { part.parse().ok() } else { None }
        };
        let (class, subject, detail) = (number(1)?, number(3)?, number(3)?);
        if parts.next().is_some() || !matches!(class, 2 | 4 | 5) {
            return None;
        }
        Some(Self {
            class: u8::try_from(class).ok()?,
            subject,
            detail,
        })
    }
}

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

/// The answer to MAIL or RCPT of a delivery that was taken before: nothing has to be sent again. It means that only
/// where MAIL named the delivery (`XDELIVERYID`, R-DUP); to everybody else it is some 2yz (R5321-24).
pub const ALREADY_DELIVERED: u16 = 258;

/// One reply: a code, perhaps an enhanced code, and one line of text or several.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reply {
    code: u16,
    enhanced: Option<EnhancedCode>,
    lines: Vec<Cow<'static, str>>,
}

impl Reply {
    /// A reply with an enhanced code of the same class: `Reply::new(250, "2.1.5", "Recipient ok")`.
    ///
    /// An enhanced code that does not parse is left out; that it parses is a matter of our own
    /// constants, and tests hold them to it.
    #[must_use]
    pub fn new(code: u16, enhanced: &str, text: impl Into<Cow<'static, str>>) -> Self {
        let enhanced = EnhancedCode::parse(enhanced);
        debug_assert!(enhanced.is_some_and(|enhanced| u16::from(enhanced.class) == code / 100));
        Self {
            code,
            enhanced,
            lines: vec![printable(text.into())],
        }
    }

    /// A reply that carries no enhanced code: greeting, EHLO, 334, 354 (RFC 2034 §3).
    #[must_use]
    pub fn bare(code: u16, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            enhanced: None,
            lines: vec![printable(text.into())],
        }
    }

    /// A bare reply of several lines: EHLO and HELP.
    #[must_use]
    pub fn multiline(code: u16, lines: Vec<String>) -> Self {
        Self {
            code,
            enhanced: None,
            lines: lines
                .into_iter()
                .map(|line| printable(line.into()))
                .collect(),
        }
    }

    /// The three digits.
    #[must_use]
    pub fn code(&self) -> u16 {
        self.code
    }

    /// The enhanced code, if one of the same class leads the text.
    #[must_use]
    pub fn enhanced(&self) -> Option<EnhancedCode> {
        self.enhanced
    }

    /// The lines of text without codes.
    #[must_use]
    pub fn lines(&self) -> &[Cow<'static, str>] {
        &self.lines
    }

    /// All text in one line.
    #[must_use]
    pub fn text(&self) -> String {
        self.lines.join(" ")
    }

    /// 2yz: done.
    #[must_use]
    pub fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// [`ALREADY_DELIVERED`]: a plain yes, unless the transaction it belongs to was offered with a delivery id.
    #[must_use]
    pub fn is_already_delivered(&self) -> bool {
        self.code == ALREADY_DELIVERED
    }

    /// 3yz: go on.
    #[must_use]
    pub fn is_intermediate(&self) -> bool {
        self.code / 100 == 3
    }

    /// 4yz: try again later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.code / 100 == 4
    }

    /// 5yz: never.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.code / 100 == 5
    }

    /// What is left of a foreign reply when it is passed on to somebody who must not learn more than
    /// the verdict (OWN-8): class and codes, one line of printable ASCII, at most 512 octets.
    #[must_use]
    pub fn as_verdict(&self) -> Self {
        let class = u8::try_from(self.code / 100).unwrap_or(5);
        Self {
            code: self.code,
            enhanced: self.enhanced.or_else(|| {
                matches!(class, 2 | 4 | 5).then_some(EnhancedCode {
                    class,
                    subject: 0,
                    detail: 0,
                })
            }),
            lines: vec![printable(self.text().into())],
        }
    }

    /// Appends the reply as it goes over the wire, every line ended by CRLF.
    pub fn write(&self, output: &mut Vec<u8>) {
        let last = self.lines.len() - 1;
        for (position, line) in self.lines.iter().enumerate() {
            let separator = if position == last { ' ' } else { '-' };
            let start = output.len();
            output.extend_from_slice(self.code.to_string().as_bytes());
            output.push(separator as u8);
            if let Some(enhanced) = self.enhanced {
                output.extend_from_slice(enhanced.to_string().as_bytes());
                output.push(b' ');
            }
            output.extend_from_slice(line.as_bytes());
            output.truncate(start + REPLY_LINE_OCTETS - 2);
            output.extend_from_slice(b"\r\n");
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, "{enhanced} ")?;
        }
        f.write_str(&self.text())
    }
}

/// What a peer sent where a reply was due.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ReplyError {
    /// No reply of RFC 5321 §4.2.
    #[error("a malformed reply")]
    Malformed,
    /// The lines of one reply have different codes.
    #[error("a reply whose lines disagree")]
    Mixed,
    /// More lines or octets than anybody needs.
    #[error("a reply without end")]
    TooLong,
}

/// Takes one whole reply from the start of `input`: the reply and its octets, or `None` when more is needed.
///
/// Codes count by their first digit; unknown second and third digits are accepted (RFC 5321 §4.2.1).
///
/// # Errors
/// [`ReplyError`]: the peer is no SMTP server, or a hostile one. Such a reply counts as 421 (R5321-24).
pub fn parse_reply(input: &[u8]) -> Result<Option<(Reply, usize)>, ReplyError> {
    let mut taken = 0;
    let mut parsed: Option<Reply> = None;
    for count in 1.. {
        let rest = &input[taken..];
        let end = memchr::memchr(b'\n', rest);
        // The fault that stands first counts, in whatever pieces the reply comes.
        let seen = end.unwrap_or(rest.len()).min(REPLY_OCTETS - taken);
        if !line_may_begin(&rest[..seen]) {
            return Err(ReplyError::Malformed);
        }
        let Some(end) = end else {
            let is_too_long = input.len() > REPLY_OCTETS;
            return if is_too_long {
                Err(ReplyError::TooLong)
            } else {
                Ok(None)
            };
        };
        taken += end + 1;
        if count > REPLY_LINES || taken > REPLY_OCTETS {
            return Err(ReplyError::TooLong);
        }
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        let (code, last, text) = split_line(line)?;
        let reply = parsed.get_or_insert_with(|| Reply {
            code,
            enhanced: None,
            lines: Vec::with_capacity(1),
        });
        if reply.code != code {
            return Err(ReplyError::Mixed);
        }
        reply.push_foreign(text);
        if last {
            break;
        }
    }
    Ok(parsed.map(|reply| (reply, taken)))
}

impl Reply {
    /// Adds a line as the peer sent it, without the enhanced code that leads it.
    fn push_foreign(&mut self, text: &[u8]) {
        let text = String::from_utf8_lossy(text);
        let (first, rest) = text.split_once(' ').unwrap_or((&text, ""));
        let class = self.code / 100;
        match EnhancedCode::parse(first) {
            Some(enhanced) if u16::from(enhanced.class) == class => {
                self.enhanced.get_or_insert(enhanced);
                self.lines.push(printable(rest.to_owned().into()));
            }
            _ => self.lines.push(printable(text.into_owned().into())),
        }
    }
}

/// An unfinished line that can still become a reply line: garbage is noticed at once, not at a time-out.
fn line_may_begin(line: &[u8]) -> bool {
    line.iter()
        .enumerate()
        .all(|(position, octet)| match position {
            0 => (b'2'..=b'5').contains(octet),
            1 | 2 => octet.is_ascii_digit(),
            3 => matches!(octet, b' ' | b'-' | b'\r'),
            _ => true,
        })
}

fn split_line(line: &[u8]) -> Result<(u16, bool, &[u8]), ReplyError> {
    if line.len() < 3 || line.contains(&b'\r') || line.contains(&0) {
        return Err(ReplyError::Malformed);
    }
    let code = line[..3]
        .iter()
        .fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    let text = line.get(4..).unwrap_or_default();
    Ok((code, line.get(3) != Some(&b'-'), text))
}

/// Control octets and non-ASCII become `?`: what we print is one line that every terminal survives.
fn printable(text: Cow<'static, str>) -> Cow<'static, str> {
    if text.bytes().all(|octet| (b' '..=b'~').contains(&octet)) {
        return text;
    }
    text.chars()
        .map(|character| {
            if (' '..='~').contains(&character) {
                character
            } else {
                '?'
            }
        })
        .collect::<String>()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(reply: &Reply) -> String {
        let mut output = Vec::new();
        reply.write(&mut output);
        String::from_utf8(output).unwrap()
    }

    // covers: R2034-1, R3463-1
    #[test]
    fn every_line_repeats_code_and_enhanced_code() {
        let mut reply = Reply::new(550, "5.1.1", "No such user");
        assert_eq!(wire(&reply), "550 5.1.1 No such user\r\n");
        reply.lines.push("here".into());
        assert_eq!(wire(&reply), "550-5.1.1 No such user\r\n550 5.1.1 here\r\n");
        assert_eq!(wire(&Reply::bare(354, "Go on")), "354 Go on\r\n");
    }

    #[test]
    fn text_can_not_become_a_second_reply() {
        let reply = Reply::new(550, "5.0.0", "a\r\n250 ok\u{7}é");
        assert_eq!(wire(&reply), "550 5.0.0 a??250 ok??\r\n");
        let long = Reply::new(550, "5.0.0", "x".repeat(2000));
        assert_eq!(wire(&long).len(), REPLY_LINE_OCTETS);
    }

    // covers: R5321-24
    #[test]
    fn replies_parse_by_their_first_digit() {
        let table: [(&str, u16, &str); 6] = [
            ("250 ok\r\n", 250, "ok"),
            ("250\r\n", 250, ""),
            ("250-a\r\n250-b\r\n250 c\r\n", 250, "a b c"),
            ("259 unknown digits\r\n", 259, "unknown digits"),
            ("451-4.3.0 busy\r\n451 4.3.0 now\r\n", 451, "busy now"),
            ("220 bare line feed\n", 220, "bare line feed"),
        ];
        for (input, code, text) in table {
            let (reply, taken) = parse_reply(input.as_bytes()).unwrap().unwrap();
            assert_eq!(
                (reply.code(), reply.text().as_str(), taken),
                (code, text, input.len())
            );
            for cut in 0..input.len() {
                assert_eq!(
                    parse_reply(&input.as_bytes()[..cut]),
                    Ok(None),
                    "{input:?} at {cut}"
                );
            }
        }
    }

    // covers: R5321-24
    #[test]
    fn what_is_no_reply_is_refused() {
        let endless = "250-a\r\n".repeat(REPLY_LINES + 1);
        let wide = format!("250 {}", "x".repeat(REPLY_OCTETS));
        for (input, error) in [
            ("hello\r\n", ReplyError::Malformed),
            ("25\r\n", ReplyError::Malformed),
            ("150 preliminary\r\n", ReplyError::Malformed),
            ("650 what\r\n", ReplyError::Malformed),
            ("2500 what\r\n", ReplyError::Malformed),
            ("250 a\rb\r\n", ReplyError::Malformed),
            ("HTTP", ReplyError::Malformed),
            ("250-a\r\n251 b\r\n", ReplyError::Mixed),
            (endless.as_str(), ReplyError::TooLong),
            (wide.as_str(), ReplyError::TooLong),
        ] {
            assert_eq!(parse_reply(input.as_bytes()), Err(error), "{:.40}", input);
        }
    }

    #[test]
    fn enhanced_codes_of_another_class_are_text() {
        let (reply, _) = parse_reply(b"550 4.1.1 odd\r\n").unwrap().unwrap();
        assert_eq!(
            (reply.enhanced(), reply.text().as_str()),
            (None, "4.1.1 odd")
        );
        assert_eq!(EnhancedCode::parse("5.1.1").unwrap().to_string(), "5.1.1");
        for bad in [
            "", "5", "5.1", "5.1.1.1", "3.1.1", "5.1111.1", "5..1", "a.b.c",
        ] {
            assert_eq!(EnhancedCode::parse(bad), None, "{bad}");
        }
    }

    // covers: OWN-8
    #[test]
    fn a_verdict_keeps_the_code_and_one_clean_line() {
        let (reply, _) = parse_reply("550-no\u{e9}\r\n550 way\r\n".as_bytes())
            .unwrap()
            .unwrap();
        assert_eq!(wire(&reply.as_verdict()), "550 5.0.0 no? way\r\n");
    }
}
