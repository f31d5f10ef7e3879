//! Values on the command line, and how times, texts and counts are shown in tables.

use std::time::Duration;

use atrn_shared::cli::age;
use atrn_shared::log::peer;
use atrn_shared::smtp::address::Domain;
use bytesize::ByteSize;
use jiff::Timestamp;

/// `5d`, `36h`, `1h 30m`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "not a duration; use 5d or 36h".to_owned())
}

/// `50MB`, `10GiB`, or octets.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let size = text.parse::<ByteSize>();
    size.map(|size| size.as_u64())
        .map_err(|_| "not a size; use 50MB or 10GB".to_owned())
}

/// A domain that ATRN can name (R2645-7).
pub(super) fn remote_domain(text: &str) -> Result<Domain, String> {
    let domain = Domain::parse(text).map_err(|error| error.to_string())?;
    if domain.labels() < 2 {
        return Err("has one label only; ATRN takes two or more (RFC 2645)".to_owned());
    }
    Ok(domain)
}

/// How long ago, for a table.
pub(super) fn since(then: Timestamp, now: Timestamp) -> String {
    age(elapsed(then, now))
}

/// How long until, for a table; `now` for what is past.
pub(super) fn until(then: Timestamp, now: Timestamp) -> String {
    if then <= now {
        "now".to_owned()
    } else {
        age(elapsed(now, then))
    }
}

/// Zero where the clock was set back.
pub(super) fn elapsed(from: Timestamp, to: Timestamp) -> Duration {
    to.duration_since(from).try_into().unwrap_or_default()
}

/// A moment for people, in UTC as in the logs.
pub(super) fn moment(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Text of a peer for a table: escaped, and cut to `characters`.
pub(super) fn shown(text: &str, characters: usize) -> String {
    let escaped = peer(text).to_string();
    if escaped.chars().count() <= characters {
        return escaped;
    }
    let mut cut: String = escaped.chars().take(characters.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// A reverse-path as in SMTP: the null one is `<>`.
pub(super) fn sender(reverse_path: &str) -> String {
    if reverse_path.is_empty() {
        "<>".to_owned()
    } else {
        shown(reverse_path, ADDRESS_CHARACTERS)
    }
}

/// A path in a table.
pub(super) const ADDRESS_CHARACTERS: usize = 32;

/// `1 delivery`, `2 deliveries`.
pub(super) fn counted(number: u64, one: &str, more: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { more })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_have_units() {
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(duration("5x").unwrap_err(), "not a duration; use 5d or 36h");
        assert_eq!(size("50MB"), Ok(50_000_000));
        assert_eq!(size("1KiB"), Ok(1_024));
        assert_eq!(size("many").unwrap_err(), "not a size; use 50MB or 10GB");
    }

    #[test]
    fn a_domain_of_one_label_is_refused() {
        assert_eq!(
            remote_domain("Example.COM").unwrap().as_str(),
            "example.com"
        );
        assert!(remote_domain("localhost").is_err());
    }

    #[test]
    fn times_are_told_from_now() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(since(at(0), at(90)), "1m");
        assert_eq!(since(at(90), at(0)), "0s");
        assert_eq!(until(at(90), at(0)), "1m");
        assert_eq!(until(at(0), at(90)), "now");
        assert_eq!(moment(at(0)), "1970-01-01 00:00:00 UTC");
    }

    #[test]
    fn text_of_a_peer_is_escaped_and_cut() {
        for (text, expected) in [
            ("short", "short"),
            ("exactly 10", "exactly 10"),
            ("eleven more", "eleven mo…"),
            ("a\x1b[2J", "a\\u{1b}[2J"),
        ] {
            assert_eq!(shown(text, 10), expected);
        }
        assert_eq!(sender(""), "<>");
    }
}
