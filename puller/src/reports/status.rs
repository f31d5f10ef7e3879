//! The fields of `message/delivery-status` (RFC 3464 §2), read by strict grammars: what comes out is addresses, domains,
//! dates, codes and identifiers. No sentence of anybody's passes.

use atrn_shared::smtp::address::{Domain, Mailbox};
use atrn_shared::smtp::reply::EnhancedCode;
use atrn_shared::smtp::server::LOCAL_PART_FORBIDDEN;
use jiff::Zoned;
use jiff::fmt::rfc2822;

/// Recipients of one report. The queue of the relay puts no more into a message.
const RECIPIENTS_MAX: usize = 1000;
/// Octets of an identifier: as many as ENVID may have (RFC 3461 §4.4), and enough for a Message-ID.
const IDENTIFIER_OCTETS: usize = 128;
/// Octets of a date: the longest that RFC 5322 §3.3 makes without comments has 37.
const DATE_OCTETS: usize = 64;

/// What is known about a message and its recipients.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Status {
    /// Who says so.
    pub(super) reporting_mta: Domain,
    /// What the sender called the transaction (ENVID), if it is an identifier.
    pub(super) envelope_id: Option<String>,
    /// When the message came.
    pub(super) arrived_at: Option<Zoned>,
    /// At least one.
    pub(super) recipients: Vec<Recipient>,
}

/// What became of one recipient.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Recipient {
    /// Whom the sender meant (ORCPT).
    pub(super) original: Option<Mailbox>,
    /// Whom it was for in the end.
    pub(super) mailbox: Mailbox,
    pub(super) action: Action,
    pub(super) status: EnhancedCode,
    /// The code of the reply that was the last word.
    pub(super) reply_code: Option<u16>,
    pub(super) last_attempt_at: Option<Zoned>,
}

/// What was done (RFC 3464 §2.3.3). A queue that is pulled from delivers nothing itself and expands no lists.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Action {
    /// Refused for good, or waited for too long.
    Failed,
    /// Passed on to a server that sends no reports (RFC 3461 §5.2.2).
    Relayed,
}

impl Action {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Relayed => "relayed",
        }
    }
}

/// What is wrong with the fields.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum StatusError {
    #[error("no Reporting-MTA that is a host name")]
    Reporter,
    #[error("no recipient")]
    NoRecipient,
    #[error("too many recipients")]
    TooManyRecipients,
    #[error("a Final-Recipient that is no plain mailbox")]
    FinalRecipient,
    #[error("an Action that is neither failed nor relayed")]
    Action,
    #[error("a Status that does not fit the Action")]
    Status,
    #[error("a recipient in a domain that was not asked for")]
    Foreign,
}

impl Status {
    /// Reads the body of the part. Every recipient must be in one of the domains that were `asked` for.
    pub(super) fn parse(body: &[u8], asked: &[Domain]) -> Result<Self, StatusError> {
        let body = String::from_utf8_lossy(body);
        let mut groups = body
            .split("\r\n\r\n")
            .map(Fields::parse)
            .filter(|group| !group.0.is_empty());
        let message = groups.next().unwrap_or_default();
        let mut recipients = Vec::new();
        for group in groups {
            if recipients.len() == RECIPIENTS_MAX {
                return Err(StatusError::TooManyRecipients);
            }
            recipients.push(Recipient::parse(&group, asked)?);
        }
        if recipients.is_empty() {
            return Err(StatusError::NoRecipient);
        }
        let reporting_mta = message
            .typed("Reporting-MTA")
            .filter(|(kind, _)| kind.eq_ignore_ascii_case("dns"));
        let reporting_mta = reporting_mta.and_then(|(_, name)| Domain::parse(name).ok());
        let envelope_id = message
            .value("Original-Envelope-Id")
            .filter(|text| is_identifier(text));
        Ok(Self {
            reporting_mta: reporting_mta.ok_or(StatusError::Reporter)?,
            envelope_id: envelope_id.map(str::to_owned),
            arrived_at: message.value("Arrival-Date").and_then(date),
            recipients,
        })
    }
}

impl Recipient {
    fn parse(fields: &Fields, asked: &[Domain]) -> Result<Self, StatusError> {
        let mailbox = fields
            .mailbox("Final-Recipient")
            .ok_or(StatusError::FinalRecipient)?;
        if !mailbox
            .domain()
            .is_some_and(|domain| asked.contains(domain))
        {
            return Err(StatusError::Foreign);
        }
        let action = match fields
            .value("Action")
            .map(str::to_ascii_lowercase)
            .as_deref()
        {
            Some("failed") => Action::Failed,
            Some("relayed") => Action::Relayed,
            _ => return Err(StatusError::Action),
        };
        // A comment may follow the code (RFC 3464 §2.3.4).
        let status = fields
            .value("Status")
            .and_then(|text| text.split([' ', '(']).next());
        let status = status
            .and_then(EnhancedCode::parse)
            .ok_or(StatusError::Status)?;
        // What expired may have been refused for now only: 4.4.7.
        let fits = match action {
            Action::Failed => status.class != 2,
            Action::Relayed => status.class == 2,
        };
        if !fits {
            return Err(StatusError::Status);
        }
        Ok(Self {
            original: fields.mailbox("Original-Recipient"),
            mailbox,
            action,
            status,
            reply_code: fields.typed("Diagnostic-Code").and_then(reply_code),
            last_attempt_at: fields.value("Last-Attempt-Date").and_then(date),
        })
    }
}

/// A group of fields: names, and values on one line.
#[derive(Debug, Default)]
struct Fields(Vec<(String, String)>);

impl Fields {
    fn parse(text: &str) -> Self {
        let mut fields: Vec<(String, String)> = Vec::new();
        for line in text.split("\r\n") {
            if line.starts_with([' ', '\t']) {
                if let Some((_, value)) = fields.last_mut() {
                    value.push_str(line);
                }
            } else if let Some((name, value)) = line.split_once(':') {
                fields.push((name.trim_end().to_owned(), value.to_owned()));
            }
        }
        Self(fields)
    }

    /// The first field of this name.
    fn value(&self, name: &str) -> Option<&str> {
        let found = self
            .0
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim())
    }

    /// `type; value`
    fn typed(&self, name: &str) -> Option<(&str, &str)> {
        let (kind, value) = self.value(name)?.split_once(';')?;
        Some((kind.trim(), value.trim()))
    }

    /// An address of one of the two types that are mailboxes (RFC 3464 §2.3.2, RFC 6533 §3).
    fn mailbox(&self, name: &str) -> Option<Mailbox> {
        let (kind, text) = self.typed(name)?;
        match kind.to_ascii_lowercase().as_str() {
            "rfc822" => plain_mailbox(text),
            "utf-8" => plain_mailbox(&from_utf8_address(text)?),
            _ => None,
        }
    }
}

/// What no recipient of ours may look like (R5321-7) is not reported either.
fn plain_mailbox(text: &str) -> Option<Mailbox> {
    Mailbox::parse(text).ok().filter(|mailbox| {
        is_plain(mailbox)
            && !mailbox
                .local_part()
                .contains(|c| LOCAL_PART_FORBIDDEN.contains(c))
    })
}

/// Whether a mailbox is one word to whoever reads it. Whole sentences fit between quotes, and between spaces of
/// Unicode; what cannot be seen may turn an address into another one.
pub(super) fn is_plain(mailbox: &Mailbox) -> bool {
    let odd = |c: char| c == '"' || c.is_whitespace() || c.is_control() || is_invisible(c);
    !mailbox.as_str().contains(odd)
}

/// Characters for formatting (category Cf), and others without a form of their own: blanks, fillers and selectors.
/// Ranges, for the standard library does not know them.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{AD}' | '\u{34F}' | '\u{600}'..='\u{605}' | '\u{61C}' | '\u{6DD}' | '\u{70F}' | '\u{890}'..='\u{891}'
        | '\u{8E2}' | '\u{115F}'..='\u{1160}' | '\u{17B4}'..='\u{17B5}' | '\u{180B}'..='\u{180F}'
        | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{2800}' | '\u{3164}'
        | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{FFA0}' | '\u{FFF0}'..='\u{FFFB}' | '\u{110BD}' | '\u{110CD}'
        | '\u{13430}'..='\u{1343F}' | '\u{1BCA0}'..='\u{1BCA3}' | '\u{1D173}'..='\u{1D17A}'
        | '\u{E0000}'..='\u{E0FFF}')
}

/// RFC 6533 §3: `\x{E9}` stands for a character where octets above 127 must not.
fn from_utf8_address(text: &str) -> Option<String> {
    let mut parts = text.split("\\x{");
    let mut address = parts.next()?.to_owned();
    for part in parts {
        let (hex, rest) = part.split_once('}')?;
        let is_hex =
            (2..=6).contains(&hex.len()) && hex.bytes().all(|octet| octet.is_ascii_hexdigit());
        let point = u32::from_str_radix(hex, 16).ok().filter(|_| is_hex)?;
        address.push(char::from_u32(point)?);
        address.push_str(rest);
    }
    Some(address)
}

/// A word of printable ASCII without the characters that make a link or a quotation of it.
pub(super) fn is_identifier(text: &str) -> bool {
    (1..=IDENTIFIER_OCTETS).contains(&text.len())
        && text
            .bytes()
            .all(|octet| octet.is_ascii_graphic() && !b"<>()[]\\/:;,\"%".contains(&octet))
}

/// A date of RFC 5322, whatever its weekday claims.
pub(super) fn date(text: &str) -> Option<Zoned> {
    const PARSER: rfc2822::DateTimeParser = rfc2822::DateTimeParser::new().relaxed_weekday(true);
    if text.len() > DATE_OCTETS {
        return None;
    }
    PARSER.parse_zoned(text).ok()
}

/// The three digits of `smtp; 550 5.1.1 text`: its text is the relay's.
fn reply_code((kind, text): (&str, &str)) -> Option<u16> {
    let digits = text
        .get(..3)
        .filter(|_| kind.eq_ignore_ascii_case("smtp"))?;
    let ends = !text[3..].starts_with(|c: char| c.is_ascii_digit());
    let code: u16 = digits.parse().ok().filter(|_| ends)?;
    (200..=599).contains(&code).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &str = "Reporting-MTA: dns; relay.example.net\r\n";
    const FAILED: &str =
        "Final-Recipient: rfc822; ann@example.org\r\nAction: failed\r\nStatus: 5.1.1\r\n";

    fn parse(text: &str) -> Result<Status, StatusError> {
        let asked =
            ["example.org", "xn--bcher-kva.example"].map(|name| Domain::parse(name).unwrap());
        Status::parse(text.as_bytes(), &asked)
    }

    fn one(recipient: &str) -> Result<Recipient, StatusError> {
        parse(&format!("{MESSAGE}\r\n{recipient}")).map(|status| status.recipients[0].clone())
    }

    // covers: R3464-1
    #[test]
    fn every_field_that_counts_is_read() {
        let status = parse(
            "reporting-mta: DNS; Relay.Example.NET\r\nOriginal-Envelope-Id: QQ314159\r\nX-Mood: buy now\r\n\
             Arrival-Date: Thu, 1 Jan 2026 12:00:00 +0100\r\n\r\n\
             Original-Recipient: rfc822; other@elsewhere.example\r\nFinal-Recipient: RFC822;\r\n\tAnn@EXAMPLE.org\r\n\
             Action: Failed\r\nStatus: 5.1.1 (bad destination)\r\nDiagnostic-Code: smtp; 550 5.1.1 buy\r\n now\r\n\
             Last-Attempt-Date: 2 Jan 2026 12:00:00 -0000\r\nRemote-MTA: dns; buy.example\r\n\r\n\r\n\
             Final-Recipient: utf-8; b\\x{F6}b@b\u{fc}cher.example\r\nAction: relayed\r\nStatus: 2.0.0\r\n\r\n",
        );
        let status = status.unwrap();
        assert_eq!(status.reporting_mta.as_str(), "relay.example.net");
        assert_eq!(status.envelope_id.as_deref(), Some("QQ314159"));
        let arrived_at = status.arrived_at.unwrap();
        assert_eq!(
            rfc2822::to_string(&arrived_at).unwrap(),
            "Thu, 1 Jan 2026 12:00:00 +0100"
        );
        let [ann, bob] = &status.recipients[..] else {
            panic!("two recipients")
        };
        assert_eq!(ann.mailbox.as_str(), "Ann@EXAMPLE.org");
        assert_eq!(
            ann.original.as_ref().unwrap().as_str(),
            "other@elsewhere.example"
        );
        assert_eq!(
            (ann.action, ann.status.to_string(), ann.reply_code),
            (Action::Failed, "5.1.1".to_owned(), Some(550))
        );
        assert!(ann.last_attempt_at.is_some());
        assert_eq!(bob.mailbox.as_str(), "b\u{f6}b@b\u{fc}cher.example");
        assert_eq!((bob.action, bob.reply_code), (Action::Relayed, None));
    }

    // covers: R3464-1
    #[test]
    fn what_a_report_must_say() {
        for (text, expected) in [
            (String::new(), StatusError::NoRecipient),
            (MESSAGE.to_owned(), StatusError::NoRecipient),
            (FAILED.to_owned(), StatusError::NoRecipient),
            (format!("X: y\r\n\r\n{FAILED}"), StatusError::Reporter),
            (
                format!("Reporting-MTA: dns; buy now\r\n\r\n{FAILED}"),
                StatusError::Reporter,
            ),
            (
                format!("Reporting-MTA: x400; relay.example.net\r\n\r\n{FAILED}"),
                StatusError::Reporter,
            ),
            (
                format!("{MESSAGE}\r\n{}", format!("{FAILED}\r\n").repeat(1001)),
                StatusError::TooManyRecipients,
            ),
        ] {
            assert_eq!(parse(&text).unwrap_err(), expected, "{text:.100}");
        }
    }

    // covers: R3464-1
    #[test]
    fn only_recipients_of_ours_that_failed_or_were_relayed() {
        let recipient = |path: &str, action: &str, status: &str| {
            format!("Final-Recipient: {path}\r\nAction: {action}\r\nStatus: {status}\r\n")
        };
        for (path, expected) in [
            ("rfc822; ann@elsewhere.example", StatusError::Foreign),
            ("rfc822; ann@sub.example.org", StatusError::Foreign),
            ("rfc822; ann@[192.0.2.1]", StatusError::Foreign),
            (
                "rfc822; \"buy now\"@example.org",
                StatusError::FinalRecipient,
            ),
            ("rfc822; a%b@example.org", StatusError::FinalRecipient),
            (
                "rfc822; ann@example.org buy now",
                StatusError::FinalRecipient,
            ),
            ("rfc822; ann", StatusError::FinalRecipient),
            ("x400; ann@example.org", StatusError::FinalRecipient),
            ("utf-8; a\\x{0}@example.org", StatusError::FinalRecipient),
            ("utf-8; a\\x{0A}@example.org", StatusError::FinalRecipient),
            ("utf-8; a\\x{D800}@example.org", StatusError::FinalRecipient),
            ("utf-8; a\\x{20}b@example.org", StatusError::FinalRecipient),
            ("ann@example.org", StatusError::FinalRecipient),
        ] {
            assert_eq!(
                one(&recipient(path, "failed", "5.0.0")).unwrap_err(),
                expected,
                "{path}"
            );
        }
        let ann = "rfc822; ann@example.org";
        for (action, status, expected) in [
            ("delivered", "2.0.0", StatusError::Action),
            ("delayed", "4.0.0", StatusError::Action),
            ("expanded", "2.0.0", StatusError::Action),
            ("", "5.0.0", StatusError::Action),
            ("failed", "2.0.0", StatusError::Status),
            ("failed", "5.0", StatusError::Status),
            ("failed", "", StatusError::Status),
            ("relayed", "5.0.0", StatusError::Status),
        ] {
            assert_eq!(
                one(&recipient(ann, action, status)).unwrap_err(),
                expected,
                "{action} {status}"
            );
        }
        assert_eq!(
            one(&recipient(ann, "failed", "4.4.7"))
                .unwrap()
                .status
                .to_string(),
            "4.4.7"
        );
        let mixed = format!(
            "{MESSAGE}\r\n{FAILED}\r\n{}",
            recipient("rfc822; b@c.example", "failed", "5.0.0")
        );
        assert_eq!(parse(&mixed).unwrap_err(), StatusError::Foreign);
    }

    #[test]
    fn what_is_no_identifier_date_or_code_is_left_out() {
        let with = |field: &str| parse(&format!("{MESSAGE}{field}\r\n\r\n{FAILED}")).unwrap();
        for text in [
            "buy now",
            "http://buy.example",
            "a:b",
            "a%20b",
            "\u{e9}",
            "",
            &"x".repeat(129),
        ] {
            assert_eq!(
                with(&format!("Original-Envelope-Id: {text}")).envelope_id,
                None,
                "{text}"
            );
        }
        for text in [
            "soon",
            "Thu, 1 Jan 2026 12:00:00 +0100 (buy now, before it is too late, and buy a lot)",
            "1 Jan 99999 0:0:0 GMT",
        ] {
            assert_eq!(
                with(&format!("Arrival-Date: {text}")).arrived_at,
                None,
                "{text}"
            );
        }
        for (text, expected) in [
            ("smtp; 550", Some(550)),
            ("SMTP;552-5.2.2 full", Some(552)),
            ("smtp; 5501 x", None),
            ("smtp; 999", None),
            ("smtp; \u{661}\u{662}", None),
            ("x-unix; 550", None),
            ("550", None),
        ] {
            assert_eq!(
                one(&format!("{FAILED}Diagnostic-Code: {text}\r\n"))
                    .unwrap()
                    .reply_code,
                expected,
                "{text}"
            );
        }
    }
}
