//! Sizes and times of RFC 5321 §4.5.3 beside ours, in one place.

use std::time::Duration;

/// Octets of a local-part (RFC 5321 §4.5.3.1.1).
pub const LOCAL_PART_OCTETS: usize = 64;
/// Octets of a domain (RFC 5321 §4.5.3.1.2).
pub const DOMAIN_OCTETS: usize = 255;
/// Octets of a path with its brackets (RFC 5321 §4.5.3.1.3).
pub const PATH_OCTETS: usize = 256;

/// Octets of a command line with its CRLF. RFC 5321 §4.5.3.1.4 asks for 512 and room for each
/// extension's parameters; this holds them all.
pub const COMMAND_LINE_OCTETS: usize = 4096;
/// Octets of an AUTH line (RFC 4954 §4).
pub const AUTH_LINE_OCTETS: usize = 12_288;
/// Octets of a line of text in content. RFC 5321 §4.5.3.1.6 asks for 1000; real mail has longer ones,
/// and a transparent relay passes them on.
pub const TEXT_LINE_OCTETS: usize = 1 << 20;
/// Octets of the header section of a message.
pub const HEADER_OCTETS: usize = 1 << 20;
/// `Received` fields after which a message is taken to loop (RFC 5321 §6.3).
pub const RECEIVED_FIELDS: usize = 100;
/// Octets of one reply with all its lines.
pub const REPLY_OCTETS: usize = 64 * 1024;
/// Lines of one reply.
pub const REPLY_LINES: usize = 100;
/// Octets of a reply line that we write (RFC 5321 §4.5.3.1.5).
pub const REPLY_LINE_OCTETS: usize = 512;
/// Octets of a delivery id, the argument of XDELIVERYID.
pub const DELIVERY_ID_OCTETS: usize = 128;
/// Octets of the argument of ENVID (RFC 3461 §4.4).
pub const ENVID_OCTETS: usize = 100;
/// Octets of the argument of ORCPT (RFC 3461 §4.2).
pub const ORCPT_OCTETS: usize = 500;
/// Recipients that every server takes (RFC 5321 §4.5.3.1.8).
pub const RECIPIENTS_MIN: usize = 100;

/// How long a client waits for each reply (RFC 5321 §4.5.3.2: the minimum, and ours).
#[derive(Clone, Copy, Debug)]
pub struct ClientTimeouts {
    /// The greeting.
    pub greeting: Duration,
    /// A reply to EHLO, STARTTLS, AUTH, RSET, NOOP.
    pub command: Duration,
    /// A reply to MAIL.
    pub mail: Duration,
    /// A reply to RCPT.
    pub recipient: Duration,
    /// The 354 to DATA.
    pub data: Duration,
    /// Each block of content taken by the peer.
    pub block: Duration,
    /// The reply to the end of the content.
    pub end_of_data: Duration,
    /// The 221 to QUIT: a courtesy, not worth waiting for.
    pub quit: Duration,
}

impl Default for ClientTimeouts {
    fn default() -> Self {
        let minutes = |count: u64| Duration::from_secs(count * 60);
        Self {
            greeting: minutes(5),
            command: minutes(5),
            mail: minutes(5),
            recipient: minutes(5),
            data: minutes(2),
            block: minutes(3),
            end_of_data: minutes(10),
            quit: Duration::from_secs(5),
        }
    }
}
