//! The trace header field (RFC 5321 §4.4): who brought a message, how, and when (R5321-16, R5321-17).

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use jiff::Zoned;
use jiff::fmt::rfc2822;

use super::address::ForwardPath;
use super::server::{Hello, HelloKind};

/// Characters of a line that folding keeps to (RFC 5322 §2.1.1).
const LINE_CHARACTERS: usize = 78;

/// What the field says. Every value was parsed before it comes here, so none can end a line.
#[derive(Clone, Copy)]
pub struct Trace<'a> {
    /// What the client called itself, and by which of the two hellos.
    pub hello: &'a Hello,
    /// Where it connected from; for a reversed connection, where it was reached.
    pub address: Option<IpAddr>,
    /// What the names of that address say.
    pub reverse: ReverseName<'a>,
    /// Who we are.
    pub hostname: &'a str,
    /// Whether the connection is encrypted.
    pub is_tls: bool,
    /// Whether the message is internationalised.
    pub smtputf8: bool,
    /// What the logs call the message.
    pub id: &'a dyn fmt::Display,
    /// Named only when it is the only one: a list would tell blind copies (RFC 5321 §7.6).
    pub only_recipient: Option<&'a ForwardPath>,
    /// When it came.
    pub now: &'a Zoned,
}

/// What the names of an address say about who calls itself so. All of it stands in a comment, which the grammar of RFC 5322
/// §3.2.2 takes as it is; `unverified` and `RDNS failed` are the words of the classic services.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ReverseName<'a> {
    /// Nobody was asked.
    #[default]
    NotAsked,
    /// The address has this name, which leads back to it, and is who it says it is.
    Verified(&'a str),
    /// It is not; this is the name of the address, if it has one that leads back to it.
    Unverified(Option<&'a str>),
    /// The address has no name, or nobody could say.
    Failed,
}

impl ReverseName<'_> {
    /// What stands before the address, and behind it.
    fn words(&self) -> (&str, &str, &str) {
        match self {
            Self::NotAsked => ("", "", ""),
            Self::Verified(name) => (name, " ", ""),
            Self::Unverified(Some(name)) => (name, " ", " unverified"),
            Self::Unverified(None) => ("", "", " unverified"),
            Self::Failed => ("", "", " RDNS failed"),
        }
    }
}

impl Trace<'_> {
    /// The field with its CRLF, folded.
    #[must_use]
    pub fn header(&self) -> String {
        let mut header = String::with_capacity(256);
        // Writing into memory can not fail.
        let _ = write!(header, "Received: from {}", self.hello.name);
        if let Some(address) = self.address {
            let (name, blank, remark) = self.reverse.words();
            let _ = write!(header, " ({name}{blank}{}{remark})", Literal(address));
        }
        let (hostname, protocol, id) = (self.hostname, self.protocol(), self.id);
        let _ = write!(header, "\r\n\tby {hostname} with {protocol} id {id}");
        if let Some(recipient) = self.only_recipient {
            let _ = write!(header, "\r\n\tfor <{recipient}>");
        }
        let date = rfc2822::to_string(self.now).unwrap_or_default();
        let _ = write!(header, ";\r\n\t{date}\r\n");
        fold(header)
    }

    /// RFC 3848, and RFC 6531 §4.3 for internationalised mail.
    fn protocol(&self) -> &'static str {
        match (self.hello.kind, self.is_tls, self.smtputf8) {
            (HelloKind::Helo, _, _) => "SMTP",
            (HelloKind::Ehlo, false, false) => "ESMTP",
            (HelloKind::Ehlo, true, false) => "ESMTPS",
            (HelloKind::Ehlo, false, true) => "UTF8SMTP",
            (HelloKind::Ehlo, true, true) => "UTF8SMTPS",
        }
    }
}

impl fmt::Debug for Trace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.header())
    }
}

/// An address as a literal of RFC 5321 §4.1.3.
struct Literal(IpAddr);

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.to_canonical() {
            IpAddr::V4(address) => write!(f, "[{address}]"),
            IpAddr::V6(address) => write!(f, "[IPv6:{address}]"),
        }
    }
}

/// Breaks those lines at a blank that long names made too long.
fn fold(header: String) -> String {
    if header
        .split("\r\n")
        .all(|line| line.len() <= LINE_CHARACTERS)
    {
        return header;
    }
    let mut folded = String::with_capacity(header.len() + 8);
    for line in header.split_inclusive("\r\n") {
        let mut length = 0;
        for word in line.split_inclusive(' ') {
            if length > 1 && length + word.trim_end().len() > LINE_CHARACTERS {
                folded.truncate(folded.trim_end_matches(' ').len());
                folded.push_str("\r\n\t");
                length = 1;
            }
            folded.push_str(word);
            length += word.len();
        }
    }
    folded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(name: &str, kind: HelloKind, is_tls: bool, smtputf8: bool) -> String {
        traced(name, kind, is_tls, smtputf8, ReverseName::NotAsked)
    }

    fn traced(
        name: &str,
        kind: HelloKind,
        is_tls: bool,
        smtputf8: bool,
        reverse: ReverseName<'_>,
    ) -> String {
        let hello = Hello {
            kind,
            name: name.into(),
        };
        let now = "2026-03-01T12:34:56+01:00[+01:00]".parse().unwrap();
        let recipient = ForwardPath::from_address("user@example.org").unwrap();
        let trace = Trace {
            hello: &hello,
            address: Some("192.0.2.7".parse().unwrap()),
            reverse,
            hostname: "puller.example.org",
            is_tls,
            smtputf8,
            id: &"7f3a-1",
            only_recipient: Some(&recipient),
            now: &now,
        };
        trace.header()
    }

    // covers: R5321-16
    #[test]
    fn the_field_names_who_how_and_when() {
        let expected = "Received: from relay.example.net ([192.0.2.7])\r\n\tby puller.example.org with ESMTPS id 7f3a-1\r\n\t\
                        for <user@example.org>;\r\n\tSun, 1 Mar 2026 12:34:56 +0100\r\n";
        assert_eq!(
            trace("relay.example.net", HelloKind::Ehlo, true, false),
            expected
        );
    }

    // covers: R5321-16
    #[test]
    fn what_the_names_of_the_client_say_is_a_comment() {
        for (reverse, expected) in [
            (ReverseName::NotAsked, "([192.0.2.7])"),
            (
                ReverseName::Verified("mail.example"),
                "(mail.example [192.0.2.7])",
            ),
            (
                ReverseName::Unverified(Some("mail.example")),
                "(mail.example [192.0.2.7] unverified)",
            ),
            (ReverseName::Unverified(None), "([192.0.2.7] unverified)"),
            (ReverseName::Failed, "([192.0.2.7] RDNS failed)"),
        ] {
            let header = traced("relay.example.net", HelloKind::Ehlo, true, false, reverse);
            let expected = format!("Received: from relay.example.net {expected}\r\n\tby ");
            assert!(
                header.replace("\r\n\t(", " (").starts_with(&expected),
                "{header}"
            );
            assert!(
                header.split("\r\n").all(|line| line.len() <= 78),
                "{header}"
            );
        }
    }

    // covers: R3848-1
    #[test]
    fn the_protocol_is_what_was_spoken() {
        for (kind, is_tls, smtputf8, expected) in [
            (HelloKind::Helo, true, false, " with SMTP "),
            (HelloKind::Ehlo, false, false, " with ESMTP "),
            (HelloKind::Ehlo, true, false, " with ESMTPS "),
            (HelloKind::Ehlo, false, true, " with UTF8SMTP "),
            (HelloKind::Ehlo, true, true, " with UTF8SMTPS "),
        ] {
            let header = trace("relay.example.net", kind, is_tls, smtputf8);
            assert!(header.contains(expected), "{header}");
        }
    }

    // covers: R5321-16
    #[test]
    fn long_names_are_folded() {
        let name = format!("{}.example.net", "a".repeat(63));
        let header = trace(&name, HelloKind::Ehlo, true, false);
        assert!(
            header.split("\r\n").all(|line| line.len() <= 86),
            "{header}"
        );
        assert!(
            header.contains(&format!("from\r\n\t{name}\r\n\t([192.0.2.7])")),
            "{header}"
        );
        let unfolded = header.replace("\r\n\t", " ");
        let plain = trace("relay.example.net", HelloKind::Ehlo, true, false).replace("\r\n\t", " ");
        assert_eq!(unfolded.replace(&name, "relay.example.net"), plain);
    }
}
