//! Whether the first octets of a client are another protocol than SMTP: a browser that was sent here to say SMTP in
//! the body of a form, a scanner, or TLS on a port that begins without it.

/// What they seem to be. Asked with what has come so far of the first line, and again when there is more of it.
pub(super) fn protocol(octets: &[u8]) -> Option<&'static str> {
    let begins = |word: &str| {
        let verb = octets.get(..word.len());
        verb.is_some_and(|verb| verb.eq_ignore_ascii_case(word.as_bytes()))
            && octets.get(word.len()) == Some(&b' ')
    };
    if HTTP.iter().any(|verb| begins(verb)) {
        return Some("HTTP");
    }
    match octets {
        // A record of the type handshake, of SSL 3.0 to TLS 1.3 (RFC 8446 §5.1).
        [0x16, 3, ..] => Some("TLS"),
        [b'S', b'S', b'H', b'-', ..] => Some("SSH"),
        // RDP, databases and the like. No line of text begins so.
        [0..=8 | 14..=31, ..] => Some("no text"),
        _ => None,
    }
}

/// Methods that clients use unasked (RFC 9110, and those of WebDAV, SIP and RTSP that scanners send).
const HTTP: [&str; 11] = [
    "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PRI", "PROPFIND", "PUT",
    "TRACE",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_protocols_are_known_by_their_first_octets() {
        for (octets, expected) in [
            (b"GET / HTTP/1.1\r\n".as_slice(), Some("HTTP")),
            (b"post ", Some("HTTP")),
            (b"CONNECT mx.example:25 HTTP/1.0\r\n", Some("HTTP")),
            (b"\x16\x03\x01\x02\x00\x01", Some("TLS")),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Some("SSH")),
            (b"\x03\x00\x00\x13", Some("no text")),
            (b"\0\0\0", Some("no text")),
            (b"", None),
            (b"GET", None),
            (b"GETTER\r\n", None),
            (b"\x16", Some("no text")),
            (b"EHLO client.example\r\n", None),
            (b"HELP\r\n", None),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 25\r\n", None),
            (b"\r\n", None),
            (b"\xff\xfd\x03", None),
        ] {
            assert_eq!(protocol(octets), expected, "{}", octets.escape_ascii());
        }
    }
}
