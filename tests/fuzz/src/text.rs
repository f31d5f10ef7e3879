//! Text of a peer on its way into logs and trace fields, and the ids that people type.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

use atrn_relay::queue::{DeliveryId, QueueId, Reference};
use atrn_shared::log::{self, PEER_CHARACTERS};
use atrn_shared::smtp::address::ForwardPath;
use atrn_shared::smtp::command::parse_hello;
use atrn_shared::smtp::server::{Hello, HelloKind};
use atrn_shared::smtp::trace::{ReverseName, Trace};
use jiff::Zoned;

/// No octet of a peer ends a line of a log, or steers a terminal, or makes the line longer than so much.
pub fn peer_text(data: &[u8]) {
    let shown = log::peer(data).to_string();
    assert!(!shown.contains(char::is_control), "{shown:?}");
    // `\u{10ffff}` is the longest that one character becomes.
    assert!(shown.chars().count() <= 10 * PEER_CHARACTERS + 1);
    let one_line = log::one_line(&String::from_utf8_lossy(data));
    assert!(!one_line.contains('\n'));
}

/// Ids print as they were read.
pub fn ids(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(id) = text.parse::<QueueId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
    if let Ok(id) = text.parse::<DeliveryId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.to_string().parse(), Ok(reference));
    }
}

/// `<hello> <recipient>`, as a client gave them: the field is one field, whatever they are.
pub fn trace_header(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (name, recipient) = text.split_once(' ').unwrap_or((text, ""));
    let Ok(name) = parse_hello(name) else {
        return;
    };
    let name = name.to_owned();
    let hello = Hello {
        kind: HelloKind::Ehlo,
        name: name.clone(),
    };
    let recipient = ForwardPath::from_address(recipient).ok();
    let trace = Trace {
        hello: &hello,
        address: Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))),
        reverse: [
            ReverseName::NotAsked,
            ReverseName::Verified(&name),
            ReverseName::Unverified(Some(&name)),
            ReverseName::Unverified(None),
            ReverseName::Failed,
        ][name.len() % 5],
        hostname: "mx.example",
        is_tls: name.len() % 2 == 0,
        smtputf8: recipient.as_ref().is_some_and(|path| !path.is_ascii()),
        id: &"4KQ9",
        only_recipient: recipient.as_ref(),
        now: &NOW,
    };
    let header = trace.header();
    let field = header.strip_suffix("\r\n").expect("a field ends with CRLF");
    assert!(field.starts_with("Received: from"));
    for line in field.split("\r\n").skip(1) {
        assert!(line.starts_with('\t'), "a second field: {header:?}");
    }
    let lines = field.split("\r\n");
    assert!(
        lines
            .clone()
            .all(|line| !line.trim().is_empty() && line.len() < 998)
    );
    assert!(
        lines
            .flat_map(str::chars)
            .all(|c| c == '\t' || !c.is_control())
    );
}

/// The date of any message.
static NOW: LazyLock<Zoned> = LazyLock::new(|| {
    "2026-01-02T03:04:05[UTC]"
        .parse()
        .expect("a date that we know")
});
