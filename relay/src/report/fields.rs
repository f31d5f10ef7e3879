//! The `message/delivery-status` part (RFC 3464 §2.2, §2.3): fields for programs, in ASCII whatever the addresses are.
//!
//! Each value is ours or made printable here, so that no peer can write a field or a line of it.

use atrn_shared::smtp::address::{Domain, ForwardPath};
use atrn_shared::smtp::reply::Reply;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use jiff::tz::TimeZone;

use super::message::{Notice, Told};
use super::routing::Fate;

/// Octets of all groups together; recipients who do not fit are counted in the text for people.
const OCTETS_MAX: usize = 36 * 1024;
/// Characters of a value. RFC 5322 §2.1.1 has lines of up to 998, and a longer reply says nothing more.
const VALUE_CHARACTERS_MAX: usize = 512;
/// Characters of an address in its longest encoding that still is one line.
const ADDRESS_CHARACTERS_MAX: usize = 900;

/// The part, and for how many recipients it has room.
pub(super) fn delivery_status(notice: &Notice<'_>) -> (String, usize) {
    let mut text = String::new();
    let delivery = notice.delivery;
    field(
        &mut text,
        "Reporting-MTA",
        &format!("dns; {}", notice.hostname),
    );
    if let Some(envid) = delivery.mail_parameters.envid.as_deref().and_then(xtext) {
        field(&mut text, "Original-Envelope-Id", &envid);
    }
    field(&mut text, "Arrival-Date", &date(delivery.received_at));
    let mut count = 0;
    for told in &notice.recipients {
        let group = recipient(notice, told);
        if text.len() + group.len() > OCTETS_MAX {
            break;
        }
        text += &group;
        count += 1;
    }
    (text, count)
}

fn recipient(notice: &Notice<'_>, told: &Told<'_>) -> String {
    // An empty line divides the groups.
    let mut text = "\r\n".to_owned();
    let recipient = told.recipient;
    if let Some(original) = recipient.parameters.orcpt.as_deref().and_then(original) {
        field(&mut text, "Original-Recipient", &original);
    }
    let to = final_recipient(&recipient.forward_path, &notice.delivery.domain);
    field(&mut text, "Final-Recipient", &to);
    let action = match told.fate {
        Fate::Expired | Fate::Failed => "failed",
        Fate::Relayed => "relayed",
    };
    field(&mut text, "Action", action);
    field(&mut text, "Status", &status(told.fate, told.reply));
    if let Some(reply) = told.reply {
        let reply = printable(&reply.to_string());
        field(&mut text, "Diagnostic-Code", &format!("smtp; {reply}"));
    }
    if let Some(time) = notice.last_attempt {
        field(&mut text, "Last-Attempt-Date", &date(time));
    }
    text
}

fn field(text: &mut String, name: &str, value: &str) {
    *text += name;
    *text += ": ";
    *text += value;
    *text += "\r\n";
}

/// As in a `Date` field.
pub(super) fn date(time: Timestamp) -> String {
    // Only a year beyond 9999 cannot be said so.
    rfc2822::to_string(&time.to_zoned(TimeZone::UTC))
        .unwrap_or_else(|_| "Thu, 1 Jan 1970 00:00:00 +0000".to_owned())
}

/// RFC 3464 §2.3.4. What is given up is a permanent failure, whatever was said last (R5321-30: 4.4.7 becomes 5.4.7).
fn status(fate: Fate, reply: Option<&Reply>) -> String {
    match fate {
        Fate::Expired => "5.4.7".to_owned(),
        Fate::Relayed => "2.0.0".to_owned(),
        Fate::Failed => {
            let enhanced = reply.and_then(Reply::enhanced);
            let failed = enhanced.filter(|code| code.class != 2);
            failed.map_or_else(
                || "5.0.0".to_owned(),
                |code| format!("5.{}.{}", code.subject, code.detail),
            )
        }
    }
}

/// `<Postmaster>` alone is that of the domain.
fn final_recipient(forward_path: &ForwardPath, domain: &Domain) -> String {
    match forward_path {
        ForwardPath::Postmaster => format!("rfc822; Postmaster@{domain}"),
        ForwardPath::Mailbox(mailbox) if mailbox.is_ascii() => format!("rfc822; {mailbox}"),
        ForwardPath::Mailbox(mailbox) => format!("utf-8; {}", embedded(mailbox.as_str())),
    }
}

/// What the sender called the recipient, from ORCPT; `None` where it cannot be repeated as it was meant.
fn original(orcpt: &str) -> Option<String> {
    let (kind, address) = orcpt.split_once(';')?;
    let address = if kind.eq_ignore_ascii_case("utf-8") {
        // RFC 6533 §3: such an address needs no xtext, and has a form in ASCII.
        embedded(address)
    } else {
        xtext(address)?
    };
    let fits = address.len() <= ADDRESS_CHARACTERS_MAX;
    fits.then(|| format!("{kind}; {address}"))
}

/// Undoes xtext (RFC 3461 §4). `None` where what comes out is not printable ASCII, as RFC 3461 §4.4 asks for: it is
/// better not repeated than repeated wrong.
fn xtext(text: &str) -> Option<String> {
    let mut decoded = String::with_capacity(text.len());
    let mut octets = text.bytes();
    while let Some(octet) = octets.next() {
        let octet = match octet {
            b'+' => {
                let mut digit = || char::from(octets.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            other => other,
        };
        decoded.push(char::from(octet));
        if !(b' '..=b'~').contains(&octet) {
            return None;
        }
    }
    Some(decoded)
}

/// The `utf-8-addr-xtext` of RFC 6533 §3: every character beyond ASCII as `\x{HEX}`.
fn embedded(address: &str) -> String {
    let mut text = String::with_capacity(address.len());
    for character in address.chars() {
        match character {
            '!'..='~' => text.push(character),
            other => text += &format!("\\x{{{:02X}}}", u32::from(other)),
        }
    }
    text
}

/// Any text as one line of printable ASCII, cut to a length that says enough.
pub(super) fn printable(text: &str) -> String {
    let shown = |character| match character {
        ' '..='~' => character,
        _ => '?',
    };
    let mut line: String = text.chars().take(VALUE_CHARACTERS_MAX).map(shown).collect();
    line.truncate(line.trim_end().len());
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers: R3461-1
    #[test]
    fn xtext_is_undone_or_left_out() {
        for (text, expected) in [
            ("QQ314159", Some("QQ314159")),
            ("a+2Bb+3Dc", Some("a+b=c")),
            ("two+20words", Some("two words")),
            ("+0D+0AFrom:+20x", None),
            ("+C3+A9", None),
            ("+7F", None),
            ("+2", None),
        ] {
            assert_eq!(xtext(text).as_deref(), expected, "{text}");
        }
    }

    // covers: R3461-1
    #[test]
    fn original_recipients_are_repeated_as_they_were_meant() {
        for (orcpt, expected) in [
            (
                "rfc822;user+2Btag@example.com",
                Some("rfc822; user+tag@example.com"),
            ),
            (
                "utf-8;gr\u{fc}n@example.com",
                Some("utf-8; gr\\x{FC}n@example.com"),
            ),
            (
                "utf-8;gr\\x{FC}n@example.com",
                Some("utf-8; gr\\x{FC}n@example.com"),
            ),
            ("rfc822;a+0D+0AAction:+20delivered", None),
            ("nonsense", None),
        ] {
            assert_eq!(original(orcpt).as_deref(), expected, "{orcpt}");
        }
        let long = format!("utf-8;{}", "\u{fc}".repeat(200));
        assert_eq!(original(&long), None);
    }

    // covers: R3464-1, R5321-30
    #[test]
    fn a_status_follows_the_reply() {
        let reply = |code, enhanced: &str| match enhanced {
            "" => Reply::bare(code, "no"),
            enhanced => Reply::new(code, enhanced, "no"),
        };
        for (fate, reply, expected) in [
            (Fate::Failed, Some(reply(550, "5.1.1")), "5.1.1"),
            (Fate::Failed, Some(reply(550, "")), "5.0.0"),
            (Fate::Failed, Some(reply(451, "4.3.0")), "5.3.0"),
            (Fate::Failed, Some(reply(250, "2.0.0")), "5.0.0"),
            (Fate::Failed, None, "5.0.0"),
            (Fate::Expired, Some(reply(451, "4.3.0")), "5.4.7"),
            (Fate::Expired, None, "5.4.7"),
            (Fate::Relayed, None, "2.0.0"),
        ] {
            assert_eq!(status(fate, reply.as_ref()), expected);
        }
    }

    #[test]
    fn recipients_are_told_in_ascii() {
        let domain = Domain::parse("example.com").unwrap();
        for (path, expected) in [
            ("user@example.com", "rfc822; user@example.com"),
            ("\"a b\"@example.com", "rfc822; \"a b\"@example.com"),
            ("postmaster", "rfc822; Postmaster@example.com"),
            (
                "gr\u{fc}\u{df}e@example.com",
                "utf-8; gr\\x{FC}\\x{DF}e@example.com",
            ),
            ("\u{1f600}@example.com", "utf-8; \\x{1F600}@example.com"),
        ] {
            let path = ForwardPath::from_address(path).unwrap();
            assert_eq!(final_recipient(&path, &domain), expected);
        }
    }

    #[test]
    fn peer_text_is_one_line() {
        assert_eq!(
            printable("550 a\r\nAction: delivered\t\u{e9} "),
            "550 a??Action: delivered??"
        );
        assert_eq!(printable(&"x".repeat(9_000)).len(), VALUE_CHARACTERS_MAX);
    }

    #[test]
    fn dates_are_those_of_a_header() {
        let time = "2026-11-21T20:28:37.5Z".parse().unwrap();
        assert_eq!(date(time), "Sat, 21 Nov 2026 20:28:37 +0000");
    }
}
