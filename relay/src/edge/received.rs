//! The trace header (RFC 5321 §4.4): who brought the message, how, and when.

use std::fmt::Write as _;
use std::net::IpAddr;

use atrn_shared::smtp::address::ForwardPath;
use atrn_shared::smtp::server::{Hello, HelloKind};
use jiff::Zoned;
use jiff::fmt::rfc2822;

use crate::queue::QueueId;

/// What the trace header says.
#[derive(Debug)]
pub(crate) struct Trace<'a> {
    pub(crate) hello: &'a Hello,
    pub(crate) address: IpAddr,
    pub(crate) hostname: &'a str,
    pub(crate) is_tls: bool,
    pub(crate) smtputf8: bool,
    pub(crate) queue_id: QueueId,
    /// Named only when it is the only one: a list would tell blind copies (RFC 5321 §7.6).
    pub(crate) only_recipient: Option<&'a ForwardPath>,
    pub(crate) now: &'a Zoned,
}

impl Trace<'_> {
    /// The header with its CRLF. Every value was parsed before it comes here, so none can end a line.
    pub(crate) fn header(&self) -> String {
        let mut header = format!(
            "Received: from {} ({})",
            self.hello.name,
            literal(self.address)
        );
        // Writing into memory can not fail.
        let _ = write!(
            header,
            "\r\n\tby {} with {} id {}",
            self.hostname,
            self.protocol(),
            self.queue_id
        );
        if let Some(recipient) = self.only_recipient {
            let _ = write!(header, "\r\n\tfor <{recipient}>");
        }
        let date = rfc2822::to_string(self.now).unwrap_or_default();
        let _ = write!(header, ";\r\n\t{date}\r\n");
        header
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

/// An address as a literal of RFC 5321 §4.1.3.
fn literal(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => format!("[{address}]"),
        IpAddr::V6(address) => format!("[IPv6:{address}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn header(
        kind: HelloKind,
        address: &str,
        is_tls: bool,
        smtputf8: bool,
        recipient: Option<&str>,
    ) -> String {
        let recipient = recipient.map(|text| ForwardPath::from_address(text).unwrap());
        let now: Zoned = "2026-03-04T05:06:07+01:00[+01:00]".parse().unwrap();
        let hello = Hello {
            kind,
            name: "client.example".into(),
        };
        let trace = Trace {
            hello: &hello,
            address: address.parse().unwrap(),
            hostname: "mx.example",
            is_tls,
            smtputf8,
            queue_id: "00000000001".parse().unwrap(),
            only_recipient: recipient.as_ref(),
            now: &now,
        };
        trace.header()
    }

    // covers: R5321-16, R3848-1
    #[test]
    fn the_header_says_from_by_with_id_for_and_when() {
        assert_eq!(
            header(
                HelloKind::Ehlo,
                "192.0.2.1",
                true,
                false,
                Some("user@a.example")
            ),
            "Received: from client.example ([192.0.2.1])\r\n\tby mx.example with ESMTPS id 00000000001\r\n\tfor <user@a.example>;\r\n\tWed, 4 Mar 2026 05:06:07 +0100\r\n"
        );
        let several = header(HelloKind::Helo, "2001:db8::1", false, false, None);
        assert!(
            several.contains("([IPv6:2001:db8::1])") && several.contains(" with SMTP id "),
            "{several}"
        );
        assert!(!several.contains("for <"), "{several}");
        for (kind, is_tls, smtputf8, with) in [
            (HelloKind::Ehlo, false, false, " with ESMTP id "),
            (HelloKind::Ehlo, true, true, " with UTF8SMTPS id "),
            (HelloKind::Ehlo, false, true, " with UTF8SMTP id "),
        ] {
            assert!(header(kind, "::ffff:192.0.2.1", is_tls, smtputf8, None).contains(with));
        }
    }
}
