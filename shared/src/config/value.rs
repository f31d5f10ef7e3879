//! One value as the reader of a key sees it: the units and shapes that settings come in.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use rustls_pki_types::{InvalidDnsNameError, ServerName};

use super::document::{Content, Node, Place};

/// Why a value is refused. The place is set where it is narrower than the key's: an element of a list.
#[derive(Clone, Debug)]
pub struct Complaint {
    pub(super) place: Option<Place>,
    pub(super) text: String,
}

impl<T: Into<String>> From<T> for Complaint {
    fn from(text: T) -> Self {
        Self {
            place: None,
            text: text.into(),
        }
    }
}

/// A value of the tree.
#[derive(Clone, Copy, Debug)]
pub struct Value<'d>(pub(super) &'d Node);

impl<'d> Value<'d> {
    /// Where it stands.
    #[must_use]
    pub fn place(&self) -> &'d Place {
        &self.0.place
    }

    /// A text.
    ///
    /// # Errors
    /// A [`Complaint`] when it is none.
    pub fn text(self) -> Result<&'d str, Complaint> {
        match &self.0.content {
            Content::String(text) => Ok(text),
            _ => Err(format!("{self} is not a text; put it in quotes").into()),
        }
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// A [`Complaint`] when it is neither.
    pub fn boolean(self) -> Result<bool, Complaint> {
        match self.0.content {
            Content::Boolean(value) => Ok(value),
            _ => Err(format!("{self} is neither true nor false").into()),
        }
    }

    /// A whole number in a range.
    ///
    /// # Errors
    /// A [`Complaint`] when it is none, or outside.
    pub fn integer(self, range: &RangeInclusive<u32>) -> Result<u32, Complaint> {
        let Content::Integer(number) = self.0.content else {
            return Err(format!("{self} is not a whole number").into());
        };
        u32::try_from(number)
            .ok()
            .filter(|number| range.contains(number))
            .ok_or_else(|| {
                format!(
                    "{number} is out of range; use {} to {}",
                    range.start(),
                    range.end()
                )
                .into()
            })
    }

    /// A duration such as `"5m"`.
    ///
    /// # Errors
    /// A [`Complaint`] when it is none, or outside of the range.
    pub fn duration(self, range: &RangeInclusive<Duration>) -> Result<Duration, Complaint> {
        let wrong = || Complaint::from(format!("{self} is not a duration; use \"5d\" or \"36h\""));
        let duration =
            humantime::parse_duration(self.text().map_err(|_| wrong())?).map_err(|_| wrong())?;
        if range.contains(&duration) {
            return Ok(duration);
        }
        let [least, most] = [range.start(), range.end()].map(|limit| show_duration(*limit));
        Err(format!("{self} is out of range; use \"{least}\" to \"{most}\"").into())
    }

    /// A size in octets such as `"50MB"` (decimal) or `"50MiB"` (binary).
    ///
    /// # Errors
    /// A [`Complaint`] when it is none, or outside of the range.
    pub fn size(self, range: &RangeInclusive<u64>) -> Result<u64, Complaint> {
        let wrong = || Complaint::from(format!("{self} is not a size; use \"50MB\" or \"10GB\""));
        let text = self.text().map_err(|_| wrong())?;
        let size = text.parse::<ByteSize>().map_err(|_| wrong())?.as_u64();
        if range.contains(&size) {
            return Ok(size);
        }
        let [least, most] = [range.start(), range.end()].map(|limit| show_size(*limit));
        Err(format!("{self} is out of range; use \"{least}\" to \"{most}\"").into())
    }

    /// A path; a relative one starts from the directory of the file that names it.
    ///
    /// # Errors
    /// A [`Complaint`] when it is no text, or empty.
    pub fn path(self) -> Result<PathBuf, Complaint> {
        match self.text()? {
            "" => Err("is empty; give a path".into()),
            text => Ok(self.place().resolve(text)),
        }
    }

    /// An IP address and port to listen on; port 0 takes any free one.
    ///
    /// # Errors
    /// A [`Complaint`] when it is none.
    pub fn socket_address(self) -> Result<SocketAddr, Complaint> {
        self.text()?.parse().map_err(|_| {
            format!("{self} is not an IP address and port; use \"0.0.0.0:25\" or \"[::]:25\"")
                .into()
        })
    }

    /// One of some words.
    ///
    /// # Errors
    /// A [`Complaint`] that names the words.
    pub fn word<T: Copy>(self, words: &[(&str, T)]) -> Result<T, Complaint> {
        let found = self
            .text()
            .ok()
            .and_then(|text| words.iter().find(|(word, _)| *word == text));
        found.map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<_> = words
                .iter()
                .map(|(word, _)| format!("\"{word}\""))
                .collect();
            format!("{self} is not known; use {}", alternatives(&names)).into()
        })
    }

    /// A text that parses as `T`; `what` it should be is said when it does not.
    ///
    /// # Errors
    /// A [`Complaint`] with what the parser says.
    pub fn parsed<T, E: fmt::Display>(
        self,
        what: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, Complaint> {
        parse(self.text()?).map_err(|error| format!("{self} is not {what}: {error}").into())
    }

    /// A list, every element of which is read by `read`. Every complaint is returned, each at its own line.
    ///
    /// # Errors
    /// The [`Complaint`]s.
    pub fn list<T>(
        self,
        read: impl Fn(Self) -> Result<T, Complaint>,
    ) -> Result<Vec<T>, Vec<Complaint>> {
        let Content::Array(items) = &self.0.content else {
            return Err(vec![
                format!("{self} is not a list; put it in brackets: [{self}]").into(),
            ]);
        };
        let mut values = Vec::with_capacity(items.len());
        let mut complaints = Vec::new();
        for item in items {
            match read(Value(item)) {
                Ok(value) => values.push(value),
                Err(complaint) => {
                    let place = complaint.place.or_else(|| Some(item.place.clone()));
                    complaints.push(Complaint { place, ..complaint });
                }
            }
        }
        if complaints.is_empty() {
            Ok(values)
        } else {
            Err(complaints)
        }
    }
}

/// As one would write it in TOML, cut where it gets long.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.content {
            Content::Array(items) => {
                let items: Vec<_> = items.iter().map(|item| Value(item).to_string()).collect();
                write!(f, "[{}]", items.join(", "))
            }
            Content::Boolean(value) => value.fmt(f),
            Content::Date(text) | Content::Float(text) => f.write_str(text),
            Content::Integer(number) => number.fmt(f),
            Content::String(text) if text.chars().count() > TEXT_SHOWN => {
                write!(
                    f,
                    "{:?}",
                    format!("{}…", text.chars().take(TEXT_SHOWN).collect::<String>())
                )
            }
            Content::String(text) => write!(f, "{text:?}"),
            Content::Table(_) => f.write_str("a table"),
        }
    }
}

/// A host and a port to connect to.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Address {
    /// A name or an IP address, without the brackets of IPv6.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Address {
    /// Reads `host`, `host:port`, `[v6]` or `[v6]:port`.
    ///
    /// # Errors
    /// What is wrong with it, in words that follow the text.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, String> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or("a bracket is not closed")?,
            None => text
                .find(':')
                .map_or((text, ""), |colon| text.split_at(colon)),
        };
        let port = match port.strip_prefix(':') {
            Some(digits) => digits
                .parse()
                .ok()
                .filter(|port| *port > 0)
                .ok_or("the port is not a number up to 65535")?,
            None if port.is_empty() => default_port,
            None => return Err("a colon should stand before the port".to_owned()),
        };
        let valid = match host.parse::<IpAddr>() {
            Ok(address) => address.is_ipv6() == text.starts_with('['),
            Err(_) => !text.starts_with('[') && is_host_name(host),
        };
        if valid {
            return Ok(Self {
                host: host.to_ascii_lowercase(),
                port,
            });
        }
        Err("the host is neither a name nor an IP address".to_owned())
    }

    /// The name that the server's certificate is checked against.
    ///
    /// # Errors
    /// Never for an address that was parsed.
    pub fn server_name(&self) -> Result<ServerName<'static>, InvalidDnsNameError> {
        ServerName::try_from(self.host.clone())
    }

    /// Whether it can only be this very host: the one place where TLS may be left out.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self
                .host
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A name that TLS can ask for. All digits and dots is a mistyped IP address.
fn is_host_name(text: &str) -> bool {
    let numeric = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    !numeric && matches!(ServerName::try_from(text), Ok(ServerName::DnsName(_)))
}

/// A duration as one would write it in the file: `5m`, `1h 30m`, `365d`.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    const DAY: u64 = 86_400;
    let days = duration.as_secs() / DAY;
    // Longer units are no whole number of days, and nobody counts in them.
    let rest = duration - Duration::from_secs(days * DAY);
    match (days, rest.is_zero()) {
        (0, _) => humantime::format_duration(rest).to_string(),
        (days, true) => format!("{days}d"),
        (days, false) => format!("{days}d {}", humantime::format_duration(rest)),
    }
}

/// A size as one would write it in the file: decimal where that is exact.
#[must_use]
pub fn show_size(size: u64) -> String {
    const UNITS: [(&str, u64); 8] = [
        ("TB", 1_000_000_000_000),
        ("TiB", 1 << 40),
        ("GB", 1_000_000_000),
        ("GiB", 1 << 30),
        ("MB", 1_000_000),
        ("MiB", 1 << 20),
        ("KB", 1_000),
        ("KiB", 1 << 10),
    ];
    let exact = UNITS
        .iter()
        .find(|(_, unit)| size >= *unit && size.is_multiple_of(*unit));
    exact.map_or_else(
        || format!("{size}B"),
        |(name, unit)| format!("{}{name}", size / unit),
    )
}

/// `a`, `a or b`, `a, b or c`.
pub(super) fn alternatives(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// Characters of a text that an error line repeats.
const TEXT_SHOWN: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, expected) in [
            ("mx1.example.net", "mx1.example.net:366"),
            ("MX1.example.net:1366", "mx1.example.net:1366"),
            ("192.0.2.1", "192.0.2.1:366"),
            ("[2001:db8::1]", "[2001:db8::1]:366"),
            ("[::1]:25", "[::1]:25"),
        ] {
            assert_eq!(Address::parse(text, 366).unwrap().to_string(), expected);
        }
        for (text, expected) in [
            ("", "the host is neither a name nor an IP address"),
            ("a b", "the host is neither a name nor an IP address"),
            ("2001:db8::1", "the port is not a number up to 65535"),
            (
                "[example.net]:25",
                "the host is neither a name nor an IP address",
            ),
            (
                "[192.0.2.1]:25",
                "the host is neither a name nor an IP address",
            ),
            (
                "192.0.2.256",
                "the host is neither a name nor an IP address",
            ),
            ("[::1", "a bracket is not closed"),
            ("[::1]25", "a colon should stand before the port"),
            ("example.net:0", "the port is not a number up to 65535"),
            ("example.net:smtp", "the port is not a number up to 65535"),
        ] {
            assert_eq!(Address::parse(text, 366).unwrap_err(), expected, "{text}");
        }
    }

    #[test]
    fn only_loopback_is_loopback() {
        for (text, expected) in [
            ("localhost", true),
            ("127.9.9.9", true),
            ("[::1]", true),
            ("localhost.example.net", false),
            ("0.0.0.0", false),
            ("[::ffff:127.0.0.1]", false),
        ] {
            assert_eq!(
                Address::parse(text, 1).unwrap().is_loopback(),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn sizes_and_durations_are_shown_as_they_are_written() {
        for (size, expected) in [
            (0, "0B"),
            (999, "999B"),
            (50_000_000, "50MB"),
            (65_536, "64KiB"),
            (1 << 20, "1MiB"),
        ] {
            assert_eq!(show_size(size), expected);
        }
        for (seconds, expected) in [
            (300, "5m"),
            (5 * 86_400, "5d"),
            (86_400, "1d"),
            (365 * 86_400, "365d"),
            (31 * 86_400 + 60, "31d 1m"),
            (5_400, "1h 30m"),
        ] {
            assert_eq!(show_duration(Duration::from_secs(seconds)), expected);
        }
    }
}
