//! What somebody, somewhere, takes for the end of the data or of a line.

/// What becomes of content with such a thing in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fate {
    /// Refused at its true end: there is a CR or a LF that is no line end to everybody.
    Refused,
    /// It is a part of the one message.
    Content,
}

use Fate::{Content, Refused};

/// The octets between the first message and the commands that are to be smuggled. None of them is `CRLF.CRLF`.
pub(crate) const VARIANTS: &[(&[u8], Fate)] = &[
    // Every line end that is not CRLF, on either side of the dot.
    (b"\n.\n", Refused),
    (b"\r.\r", Refused),
    (b"\n.\r\n", Refused),
    (b"\r.\r\n", Refused),
    (b"\r\n.\n", Refused),
    (b"\r\n.\r", Refused),
    (b"\n.\r", Refused),
    (b"\r.\n", Refused),
    (b"\n\r.\r\n", Refused),
    (b"\n\r.\n\r", Refused),
    (b"\r\n.\n\r", Refused),
    (b"\n\r\n.\n", Refused),
    (b"\r\r\n.\r\r\n", Refused),
    (b"\r\n.\r\r\n", Refused),
    (b"\r\n\n.\r\n", Refused),
    (b"\r\n\r.\r\n", Refused),
    (b"\r\n\r\r.\r\r\n", Refused),
    (b"\n\n.\n\n", Refused),
    (b"\r\r.\r\r", Refused),
    (b"\r\n\n.\n\r\n", Refused),
    (b"\n.\n\r\n", Refused),
    (b"\r\n\r.\r\n", Refused),
    (b"\r\n.\r.\r\n", Refused),
    (b"\r\n.\n.\r\n", Refused),
    (b"\n..\n", Refused),
    (b"\n.\n.\n", Refused),
    (b"\r\n..\n", Refused),
    (b"\r\n..\r", Refused),
    (b"\r\n.\r \n", Refused),
    (b"\r\n. \n", Refused),
    (b"\r \n.\r \n", Refused),
    // NUL in every place.
    (b"\r\n\0.\r\n", Content),
    (b"\r\n.\0\r\n", Content),
    (b"\r\0\n.\r\n", Refused),
    (b"\r\n.\r\0\n", Refused),
    (b"\r\0\n.\r\0\n", Refused),
    (b"\0\r\n\0.\0\r\n\0", Content),
    (b"\n\0.\n\0", Refused),
    (b"\r\0.\r\0", Refused),
    // UTF-16 of CRLF.CRLF, both ways round.
    (b"\r\0\n\0.\0\r\0\n\0", Refused),
    (b"\0\r\0\n\0.\0\r\0\n", Refused),
    // Dots that are more or less than one dot.
    (b"\r\n..\r\n", Content),
    (b"\r\n...\r\n", Content),
    (b"\r\n....\r\n", Content),
    (b"\r\n. \r\n", Content),
    (b"\r\n.\t\r\n", Content),
    (b"\r\n .\r\n", Content),
    (b"\r\n\t.\r\n", Content),
    (b"\r\n. .\r\n", Content),
    (b"\r\n.x\r\n", Content),
    (b"\r\n.MAIL FROM:<>\r\n", Content),
    (b"\r\n..\r\n..\r\n", Content),
    (b"\r\n.\x08\r\n", Content),
    (b"\r\n.\x7f\r\n", Content),
    (b"\r\n\x1b.\r\n", Content),
    (b"\r\n.\x1a\r\n", Content),
    (b"\r\n\x1a", Content),
    (b"\r\n\x04\r\n", Content),
    (b"\x1a\r\n", Content),
    // Other ends of lines.
    (b"\x0b.\x0b", Content),
    (b"\x0c.\x0c", Content),
    (b"\r\n.\x0b\r\n", Content),
    (b"\r\n.\x0c\r\n", Content),
    (b"\x1c.\x1c", Content),
    (b"\x1d.\x1d", Content),
    (b"\x1e.\x1e", Content),
    (b"\x85.\x85", Content),
    ("\u{85}.\u{85}".as_bytes(), Content),
    ("\u{2028}.\u{2028}".as_bytes(), Content),
    ("\u{2029}.\u{2029}".as_bytes(), Content),
    ("\r\n\u{2028}.\r\n".as_bytes(), Content),
    ("\r\n.\u{2028}\r\n".as_bytes(), Content),
    ("\u{2028}\r\n.\u{2028}\r\n".as_bytes(), Content),
    ("\u{240d}\u{240a}.\u{240d}\u{240a}".as_bytes(), Content),
    // What some decoding makes a dot or a line end of: overlong UTF-8, the eighth bit cut off, other dots.
    (b"\xc0\x8d\xc0\x8a.\xc0\x8d\xc0\x8a", Content),
    (b"\xe0\x80\x8a.\xe0\x80\x8a", Content),
    (b"\r\n\xc0\xae\r\n", Content),
    (b"\x8d\x8a\xae\x8d\x8a", Content),
    (b"\x8d\x8a.\x8d\x8a", Content),
    (b"\r\n\xae\r\n", Content),
    ("\r\n．\r\n".as_bytes(), Content),
    ("\r\n。\r\n".as_bytes(), Content),
    ("\r\n\u{200b}.\r\n".as_bytes(), Content),
    ("\r\n.\u{200b}\r\n".as_bytes(), Content),
    ("\r\n\u{feff}.\r\n".as_bytes(), Content),
    ("\r\n\u{ad}.\r\n".as_bytes(), Content),
    // Written out, or encoded.
    (b"\\r\\n.\\r\\n", Content),
    (b"%0d%0a.%0d%0a", Content),
    (b"=0D=0A.=0D=0A", Content),
    (b"=\r\n.=\r\n", Content),
    (b"=\r\n..\r\n", Content),
    (b"&#13;&#10;.&#13;&#10;", Content),
    (b"+AA0ACg-.+AA0ACg-", Content),
    // Other framings, and words that end things elsewhere.
    (b"\r\nBDAT 0 LAST\r\n", Content),
    (b"\r\nRSET\r\n", Content),
    (b"\r\nQUIT\r\n", Content),
    (
        b"\r\nFrom sender@source.example Thu Jan  1 00:00:00 1970\r\n",
        Content,
    ),
    (
        b"\r\n\r\nFrom MAILER-DAEMON Thu Jan  1 00:00:00 1970\r\n",
        Content,
    ),
    (b"\r\n--\r\n--boundary--\r\n", Content),
];

/// With a CRLF.CRLF in them, and something that is refused in front of it.
pub(crate) const TRUE_ENDS: &[&[u8]] = &[
    b"\r\r\n.\r\n",
    b"\n\r\n.\r\n",
    b"\r\n\r\r\n.\r\n",
    b"\n.\n\r\n.\r\n",
    b"\r.\r\r\n.\r\n",
    b"\r\n.\n\r\n.\r\n",
];
