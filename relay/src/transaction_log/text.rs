//! What all formats have in common: numbers, times and addresses without a detour, and text of a peer that cannot
//! become anything else.

use std::fmt::Display;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

/// Octets of a text that are written; more is cut, and the cut is shown.
pub(super) const TEXT_OCTETS_MAX: usize = 512;

/// Stands where a text was cut.
pub(super) const CUT: &str = "…";

/// As much of a text as is written, and whether that is all.
pub(super) fn cut(text: &str) -> (&str, bool) {
    let end = text.floor_char_boundary(TEXT_OCTETS_MAX);
    (&text[..end], end == text.len())
}

/// Octets that stand for themselves in percent-encoded text.
type Plain = [bool; 256];

/// Printable ASCII but the space that ends a field, the quotes that would begin a string, the number sign that would
/// begin a directive, and the percent sign itself.
pub(super) const W3C_PLAIN: Plain = plain(b" \"#%");
/// The same for the query of a request, in which an ampersand ends a part; the backslash escapes in some readers.
pub(super) const QUERY_PLAIN: Plain = plain(b" \"#%&\\");

const fn plain(special: &[u8]) -> Plain {
    let mut plain = [false; 256];
    let mut octet = 0x21;
    while octet < 0x7f {
        plain[octet] = true;
        octet += 1;
    }
    let mut index = 0;
    while index < special.len() {
        plain[special[index] as usize] = false;
        index += 1;
    }
    plain
}

/// Percent-encodes a text, cut.
pub(super) fn encoded(text: &str, plain: &Plain, output: &mut Vec<u8>) {
    let (text, is_whole) = cut(text);
    encode(text, plain, output);
    if !is_whole {
        encode(CUT, plain, output);
    }
}

fn encode(text: &str, plain: &Plain, output: &mut Vec<u8>) {
    let mut rest = text.as_bytes();
    while let Some(special) = rest.iter().position(|octet| !plain[usize::from(*octet)]) {
        output.extend_from_slice(&rest[..special]);
        let octet = rest[special];
        output.extend_from_slice(&[b'%', hex(octet >> 4), hex(octet & 15)]);
        rest = &rest[special + 1..];
    }
    output.extend_from_slice(rest);
}

/// The text that was percent-encoded. What is no encoding stays as it is.
pub(super) fn decoded(text: &str) -> String {
    let octets = text.as_bytes();
    let mut output = Vec::with_capacity(octets.len());
    let mut index = 0;
    while index < octets.len() {
        let pair = octets
            .get(index + 1..index + 3)
            .filter(|_| octets[index] == b'%');
        let octet = pair.and_then(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?));
        output.push(octet.unwrap_or(octets[index]));
        index += if octet.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&output).into_owned()
}

fn hex(digit: u8) -> u8 {
    b"0123456789ABCDEF"[usize::from(digit)]
}

fn digit(octet: u8) -> Option<u8> {
    let digit = char::from(octet).to_digit(16)?;
    u8::try_from(digit).ok()
}

/// A number.
pub(super) fn number(mut number: u64, output: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    output.extend_from_slice(&digits[start..]);
}

/// A number in lower-case hexadecimal, as sessions are named.
pub(super) fn hexadecimal(mut number: u64, output: &mut Vec<u8>) {
    let mut digits = [0; 16];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
        if number == 0 {
            break;
        }
    }
    output.extend_from_slice(&digits[start..]);
}

/// A number of so many digits.
pub(super) fn padded(mut number: u32, width: usize, output: &mut Vec<u8>) {
    let start = output.len();
    output.resize(start + width, b'0');
    for digit in output[start..].iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Something of ours that prints itself.
pub(super) fn shown(value: impl Display, output: &mut Vec<u8>) {
    // Writing into memory can not fail.
    let _ = write!(output, "{value}");
}

/// An address without its port; of an IPv4 address that came through an IPv6 socket, itself.
pub(super) fn ip(address: IpAddr, output: &mut Vec<u8>) {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            for (index, octet) in v4.octets().into_iter().enumerate() {
                if index > 0 {
                    output.push(b'.');
                }
                number(u64::from(octet), output);
            }
        }
        IpAddr::V6(v6) => shown(v6, output),
    }
}

/// The address of an end of a connection.
pub(super) fn host(end: Option<SocketAddr>) -> Option<IpAddr> {
    end.map(|end| end.ip())
}

/// The time on a clock in UTC.
pub(super) fn utc(at: Timestamp) -> DateTime {
    Offset::UTC.to_datetime(at)
}

/// `2026-11-21`
pub(super) fn date(at: &DateTime, output: &mut Vec<u8>) {
    padded(at.year().unsigned_abs().into(), 4, output);
    output.push(b'-');
    padded(at.month().unsigned_abs().into(), 2, output);
    output.push(b'-');
    padded(at.day().unsigned_abs().into(), 2, output);
}

/// `10:15:00`
pub(super) fn clock(at: &DateTime, output: &mut Vec<u8>) {
    padded(at.hour().unsigned_abs().into(), 2, output);
    output.push(b':');
    padded(at.minute().unsigned_abs().into(), 2, output);
    output.push(b':');
    padded(at.second().unsigned_abs().into(), 2, output);
}

/// `.123`
pub(super) fn milliseconds(at: &DateTime, output: &mut Vec<u8>) {
    output.push(b'.');
    padded(at.millisecond().unsigned_abs().into(), 3, output);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(write: impl Fn(&mut Vec<u8>)) -> String {
        let mut output = Vec::new();
        write(&mut output);
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn numbers_and_addresses() {
        for value in [0, 7, 10, 255, 65_535, u64::MAX] {
            assert_eq!(text(|output| number(value, output)), value.to_string());
            assert_eq!(
                text(|output| hexadecimal(value, output)),
                format!("{value:x}")
            );
        }
        assert_eq!(text(|output| padded(7, 3, output)), "007");
        for (address, expected) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.10", "192.0.2.10"),
            ("2001:db8::1", "2001:db8::1"),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(text(|output| ip(address, output)), expected);
        }
    }

    #[test]
    fn what_would_end_a_field_is_encoded() {
        let w3c = |given: &str| text(|output| encoded(given, &W3C_PLAIN, output));
        for (given, expected) in [
            ("FROM:<a@b.example>", "FROM:<a@b.example>"),
            ("a b\r\n#Fields: x", "a%20b%0D%0A%23Fields:%20x"),
            ("100% \"sure\"", "100%25%20%22sure%22"),
            ("grüße\u{202e}", "gr%C3%BC%C3%9Fe%E2%80%AE"),
            ("\0\x1b[2J\x7f", "%00%1B[2J%7F"),
        ] {
            assert_eq!(w3c(given), expected);
            assert_eq!(decoded(expected), given);
        }
        assert_eq!(decoded("100%, %zz %4"), "100%, %zz %4");
        let long = "x".repeat(TEXT_OCTETS_MAX);
        assert_eq!(w3c(&long), long);
        assert_eq!(w3c(&format!("{long}y")), format!("{long}%E2%80%A6"));
    }

    proptest! {
        #[test]
        fn what_was_encoded_comes_back(given in "\\PC{0,60}|[\\x00-\\x7f]{0,60}") {
            for plain in [&W3C_PLAIN, &QUERY_PLAIN] {
                let written = text(|output| encoded(&given, plain, output));
                prop_assert!(written.bytes().all(|octet| octet.is_ascii_graphic()));
                prop_assert_eq!(decoded(&written), given.clone());
            }
        }
    }
}
