//! Takes out of a header section what claims to be ours: `Authentication-Results` with our own name (R8601-1).
//!
//! Whoever reads the message inside believes that field because of the name in it, so a sender must not bring it along
//! (RFC 8601 §5). Content passes through here as it comes, in pieces of any size; what is held back is at most
//! [`HELD_OCTETS`], and nothing once the header section is over.

use atrn_shared::smtp::address::Domain;

/// A field that hides its name behind more comments than this is not written by an honest server.
const HELD_OCTETS: usize = 8 * 1024;
const NAME: &[u8] = b"authentication-results";

/// A filter for one message.
#[derive(Debug)]
pub(super) struct Forged {
    hostname: Domain,
    state: State,
    /// The beginning of a field that is not judged yet.
    held: Vec<u8>,
    removed: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// At the start of a line, or so far in the name that is looked for.
    Name,
    /// Behind that name, before the colon.
    Colon,
    /// In the value, which is held.
    Value,
    /// Behind a line end in the value: a blank goes on with it.
    ValueOrEnd,
    /// In a line that passes.
    Passing,
    /// In a field that is left out.
    Dropping,
    /// Behind a line end in such a field.
    DroppingOrEnd,
    /// Behind the CR of the empty line.
    Blank,
    /// Behind the header section.
    Body,
}

/// Whose a field claims to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Judged {
    Ours,
    Other,
}

impl Forged {
    pub(super) fn new(hostname: Domain) -> Self {
        Self {
            hostname,
            state: State::Name,
            held: Vec::new(),
            removed: 0,
        }
    }

    /// Whether the header section is over.
    pub(super) fn is_over(&self) -> bool {
        self.state == State::Body
    }

    /// Fields that were left out.
    pub(super) fn removed(&self) -> usize {
        self.removed
    }

    /// Puts what stays of the header section into `kept`, and gives what of `part` is behind it.
    pub(super) fn pass<'p>(&mut self, part: &'p [u8], kept: &mut Vec<u8>) -> &'p [u8] {
        let mut rest = part;
        while self.state != State::Body {
            if self.state == State::Passing {
                let line = memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
                let (now, later) = rest.split_at(line);
                kept.extend_from_slice(now);
                if now.last() == Some(&b'\n') {
                    self.state = State::Name;
                }
                rest = later;
            }
            let Some((octet, later)) = rest.split_first() else {
                break;
            };
            if self.state != State::Passing {
                self.step(*octet, kept);
                rest = later;
            }
        }
        rest
    }

    /// The content is over, perhaps within its header section.
    pub(super) fn finish(&mut self, kept: &mut Vec<u8>) {
        if matches!(self.state, State::Value | State::ValueOrEnd) {
            self.judge(kept);
        }
        kept.append(&mut self.held);
    }

    fn step(&mut self, octet: u8, kept: &mut Vec<u8>) {
        match self.state {
            State::ValueOrEnd if is_blank(octet) => self.state = State::Value,
            State::ValueOrEnd => {
                self.judge(kept);
            }
            State::DroppingOrEnd => {
                self.state = match is_blank(octet) {
                    true => State::Dropping,
                    false => State::Name,
                };
            }
            _ => {}
        }
        match self.state {
            State::Name => self.name(octet, kept),
            State::Colon if octet == b':' => self.hold(octet, State::Value, kept),
            State::Colon if is_blank(octet) => self.hold(octet, State::Colon, kept),
            State::Colon => self.other_line(octet, kept),
            State::Value if octet == b'\n' => self.hold(octet, State::ValueOrEnd, kept),
            State::Value => self.hold(octet, State::Value, kept),
            State::Dropping if octet == b'\n' => self.state = State::DroppingOrEnd,
            State::Blank => {
                kept.push(octet);
                self.state = match octet {
                    b'\n' => State::Body,
                    _ => State::Passing,
                };
            }
            State::Passing => {
                kept.push(octet);
                if octet == b'\n' {
                    self.state = State::Name;
                }
            }
            _ => {}
        }
    }

    fn name(&mut self, octet: u8, kept: &mut Vec<u8>) {
        let at = self.held.len();
        match NAME.get(at) {
            Some(expected) if octet.eq_ignore_ascii_case(expected) => {
                let next = match at + 1 == NAME.len() {
                    true => State::Colon,
                    false => State::Name,
                };
                self.hold(octet, next, kept);
            }
            _ if at == 0 && octet == b'\r' => {
                kept.push(octet);
                self.state = State::Blank;
            }
            _ => self.other_line(octet, kept),
        }
    }

    fn hold(&mut self, octet: u8, next: State, kept: &mut Vec<u8>) {
        self.held.push(octet);
        self.state = next;
        if self.held.len() > HELD_OCTETS {
            // The field goes on.
            self.state = match (self.judge(kept), next) {
                (Judged::Ours, State::ValueOrEnd) => State::DroppingOrEnd,
                (Judged::Ours, _) => State::Dropping,
                (Judged::Other, State::ValueOrEnd) => State::Name,
                (Judged::Other, _) => State::Passing,
            };
        }
    }

    /// A line that is none of what is looked for.
    fn other_line(&mut self, octet: u8, kept: &mut Vec<u8>) {
        kept.append(&mut self.held);
        kept.push(octet);
        self.state = match octet {
            b'\n' => State::Name,
            _ => State::Passing,
        };
    }

    /// Lets the held field go, one way or the other.
    fn judge(&mut self, kept: &mut Vec<u8>) -> Judged {
        let colon = memchr::memchr(b':', &self.held);
        let value = colon.map_or(&[][..], |colon| &self.held[colon + 1..]);
        self.state = State::Name;
        if claims(value, &self.hostname) {
            self.removed += 1;
            self.held.clear();
            return Judged::Ours;
        }
        kept.append(&mut self.held);
        Judged::Other
    }
}

fn is_blank(octet: u8) -> bool {
    matches!(octet, b' ' | b'\t')
}

/// Whether the value of the field says that we have written it. One that names nobody says so as well: whom else would
/// a reader take it from?
fn claims(value: &[u8], hostname: &Domain) -> bool {
    let Some(name) = author(value) else {
        return true;
    };
    let name = name.trim_end_matches('.');
    name.eq_ignore_ascii_case(hostname.as_str())
        || Domain::parse(name).is_ok_and(|name| &name == hostname)
}

/// The authserv-id (RFC 8601 §2.2): a token or a quoted string behind comments and line ends.
fn author(value: &[u8]) -> Option<String> {
    let value = behind_comments(value)?;
    let name: Vec<u8> = match value.split_first()? {
        (b'"', quoted) => unquoted(quoted)?,
        _ => {
            let end = value.iter().position(|octet| !is_token(*octet));
            value[..end.unwrap_or(value.len())].to_vec()
        }
    };
    let name = String::from_utf8_lossy(&name).into_owned();
    (!name.is_empty()).then_some(name)
}

/// `None`: a comment has no end.
fn behind_comments(mut value: &[u8]) -> Option<&[u8]> {
    loop {
        match value.split_first() {
            Some((b' ' | b'\t' | b'\r' | b'\n', rest)) => value = rest,
            Some((b'(', rest)) => value = behind_comment(rest)?,
            _ => return Some(value),
        }
    }
}

fn behind_comment(mut value: &[u8]) -> Option<&[u8]> {
    let mut depth = 1;
    while depth > 0 {
        let (octet, rest) = value.split_first()?;
        value = rest;
        match octet {
            b'(' => depth += 1,
            b')' => depth -= 1,
            b'\\' => value = value.split_first()?.1,
            _ => {}
        }
    }
    Some(value)
}

fn unquoted(mut quoted: &[u8]) -> Option<Vec<u8>> {
    let mut name = Vec::new();
    loop {
        let (octet, rest) = quoted.split_first()?;
        quoted = rest;
        match octet {
            b'"' => return Some(name),
            b'\\' => {
                let (escaped, rest) = quoted.split_first()?;
                name.push(*escaped);
                quoted = rest;
            }
            b'\r' | b'\n' => {}
            octet => name.push(*octet),
        }
    }
}

/// RFC 2045 §5.1, and what RFC 6532 adds to it.
fn is_token(octet: u8) -> bool {
    let is_special = b"()<>@,;:\\\"/[]?=".contains(&octet);
    octet > b' ' && octet != 127 && !is_special
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hostname() -> Domain {
        Domain::parse("mx.b\u{fc}cher.example").unwrap()
    }

    /// What is left of content that comes in these pieces.
    fn pass<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> (Vec<u8>, usize) {
        let mut forged = Forged::new(hostname());
        let mut out = Vec::new();
        for piece in pieces {
            let rest = forged.pass(piece, &mut out);
            out.extend_from_slice(rest);
        }
        forged.finish(&mut out);
        (out, forged.removed())
    }

    const OURS: &[&str] = &[
        "Authentication-Results: mx.xn--bcher-kva.example; spf=pass\r\n",
        "authentication-RESULTS:MX.XN--BCHER-KVA.EXAMPLE; spf=pass\r\n",
        "Authentication-Results : mx.xn--bcher-kva.example 1; spf=pass\r\n",
        "Authentication-Results: mx.xn--bcher-kva.example/1; spf=pass\r\n",
        "Authentication-Results:\r\n\tmx.xn--bcher-kva.example;\r\n spf=pass\r\n\tdkim=pass\r\n",
        "Authentication-Results: (a (nested \\) one)\r\n here) mx.xn--bcher-kva.example\r\n\t;none\r\n",
        "Authentication-Results: \"mx.xn--bcher-kva\\.example\"; none\r\n",
        "Authentication-Results: mx.xn--bcher-kva.example.; none\r\n",
        "Authentication-Results: mx.b\u{fc}cher.example; none\r\n",
        "Authentication-Results: mx.xn--bcher-kva.example\r\n",
        "Authentication-Results:\r\n",
        "Authentication-Results: ; mx.xn--bcher-kva.example; spf=pass\r\n",
        "Authentication-Results: (without end mx.xn--bcher-kva.example; spf=pass\r\n",
    ];

    const OTHERS: &[&str] = &[
        "Authentication-Results: mx.example; spf=pass\r\n",
        "Authentication-Results: mx.example (mx.xn--bcher-kva.example); spf=pass\r\n",
        "Authentication-Results: a.mx.xn--bcher-kva.example; spf=pass\r\n",
        "Authentication-Results: spf=none (sender IP is) smtp.mailfrom=a.example\r\n",
        "Authentication-Results-Original: mx.xn--bcher-kva.example; spf=pass\r\n",
        "ARC-Authentication-Results: i=1; mx.xn--bcher-kva.example; spf=pass\r\n",
        "X: y\r\n Authentication-Results: mx.xn--bcher-kva.example\r\n",
        "Authentication-Result: mx.xn--bcher-kva.example\r\n",
        "Authentication-Results\r\n",
    ];

    // covers: R8601-1
    #[test]
    fn what_claims_to_be_ours_goes_and_all_else_stays() {
        for (fields, kept) in [(OURS, false), (OTHERS, true)] {
            for field in fields {
                for (above, below) in [
                    ("", "\r\n"),
                    ("From: a@b.example\r\n", "To: c@d.example\r\n\r\n"),
                ] {
                    // In the body it is text.
                    let body = format!("body\r\n{field}\r\n");
                    let content = format!("{above}{field}{below}{body}");
                    let expected = match kept {
                        true => content.clone(),
                        false => format!("{above}{below}{body}"),
                    };
                    let (left, removed) = pass([content.as_bytes()]);
                    assert_eq!(String::from_utf8_lossy(&left), expected);
                    assert_eq!(removed, usize::from(!kept), "{field}");
                }
            }
        }
    }

    // covers: R8601-1
    #[test]
    fn several_go_and_the_splits_do_not_matter() {
        let content = format!(
            "{}{}Subject: x\r\n{}{}\r\nbody\r\n",
            OURS[4], OTHERS[0], OURS[5], OURS[0]
        );
        let content = content.as_bytes();
        let expected = format!("{}Subject: x\r\n\r\nbody\r\n", OTHERS[0]);
        for at in 0..=content.len() {
            let (left, right) = content.split_at(at);
            let (out, removed) = pass([left, right]);
            assert_eq!(String::from_utf8_lossy(&out), expected, "{at}");
            assert_eq!(removed, 3);
        }
        let (out, _) = pass(content.chunks(1));
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }

    #[test]
    fn a_field_that_hides_its_name_is_left_out_and_what_follows_is_not() {
        for (comment, end) in [(HELD_OCTETS + 9, ")"), (9, ")"), (HELD_OCTETS + 9, "")] {
            let comment = "c".repeat(comment);
            let forged = format!(
                "Authentication-Results: ({comment}{end} mx.xn--bcher-kva.example;\r\n spf=pass\r\n"
            );
            let content = format!("{forged}Subject: x\r\n\r\nbody\r\n");
            for size in [1, 7, 100_000] {
                let (out, removed) = pass(content.as_bytes().chunks(size));
                assert_eq!(String::from_utf8_lossy(&out), "Subject: x\r\n\r\nbody\r\n");
                assert_eq!(removed, 1);
            }
        }
        // One of somebody else may be long.
        let rest = "spf=pass;\r\n ".repeat(HELD_OCTETS);
        let content = format!("Authentication-Results: mx.example; {rest}\r\nSubject: x\r\n\r\n");
        assert_eq!(pass(content.as_bytes().chunks(11)).0, content.as_bytes());
    }

    #[test]
    fn content_without_a_body_is_whole() {
        for content in [
            "",
            "\r\n",
            "Subject: x\r\n",
            "Authentication-Res",
            "Authentication-Results : ",
        ] {
            let left = pass([content.as_bytes()]).0;
            let is_ours = content.contains(':') && content.starts_with('A');
            let expected = if is_ours { "" } else { content };
            assert_eq!(String::from_utf8_lossy(&left), expected);
        }
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(
            picks in prop::collection::vec((0..OURS.len(), 0..OTHERS.len()), 0..4),
            size in 1..50_usize,
        ) {
            let mut content = String::new();
            let mut expected = String::new();
            for (ours, other) in picks {
                content.push_str(OURS[ours]);
                content.push_str(OTHERS[other]);
                expected.push_str(OTHERS[other]);
            }
            for text in [&mut content, &mut expected] {
                text.push_str("\r\nbody\r\nAuthentication-Results: mx.xn--bcher-kva.example\r\n");
            }
            let (out, _) = pass(content.as_bytes().chunks(size));
            prop_assert_eq!(String::from_utf8_lossy(&out), expected);
        }
    }
}
