//! The one rule by which mail of a relay goes anywhere but inside: it is a report on mail of ours (RFC 3464), and all
//! that is kept of it is what [`Report`] has.

use atrn_shared::smtp::address::{Domain, ForwardPath};
use jiff::Zoned;

use super::mime::{Part, id_and_date};
use super::status::{self, Status, StatusError, is_identifier, is_plain};

/// Octets of a report as it comes from the relay.
pub(super) const REPORT_OCTETS: usize = 64 * 1024;
/// Words, status, and the original or its header section (RFC 6522 §3).
const PARTS_MAX: usize = 3;

/// A report, without anything that the relay could have written itself but addresses, dates, codes and identifiers.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Report {
    /// What became of whom.
    pub(super) status: Status,
    /// `Message-ID` of the message that the report is about, without its brackets.
    pub(super) message_id: Option<String>,
    /// Its `Date`.
    pub(super) date: Option<Zoned>,
}

/// Why content is no report that may go outside.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum NoReport {
    #[error("not multipart/report of delivery-status")]
    ContentType,
    #[error("it has not two or three parts")]
    Parts,
    #[error("its second part is no plain message/delivery-status")]
    SecondPart,
    #[error(transparent)]
    Status(#[from] StatusError),
    #[error("more than 64 KiB")]
    TooLarge,
}

/// Whether somebody outside may be told at such an address: one word that says nothing but who it is, at a domain of the
/// Internet, and not a network of one's own, where a smart host might find a door that is not meant for mail from a DMZ.
pub(super) fn is_outside(path: &ForwardPath) -> bool {
    let ForwardPath::Mailbox(mailbox) = path else {
        return false;
    };
    is_plain(mailbox)
        && mailbox.domain().is_some_and(|domain| {
            let top = domain.as_str().rsplit('.').next().unwrap_or_default();
            let is_number = top.bytes().all(|octet| octet.is_ascii_digit());
            domain.labels() >= 2 && !is_number && !PRIVATE_TOPS.contains(&top)
        })
}

/// Names that are not, or must not be, found in the DNS of the Internet: RFC 6761, RFC 6762 §3 and appendix G, RFC 7686,
/// RFC 8375, RFC 9476, and `internal` as ICANN reserved it.
const PRIVATE_TOPS: [&str; 12] = [
    "alt",
    "arpa",
    "corp",
    "home",
    "internal",
    "intranet",
    "invalid",
    "lan",
    "local",
    "localhost",
    "onion",
    "private",
];

impl Report {
    /// Reads what a relay sent as a report about mail for the domains that it was `asked` for.
    pub(super) fn read(content: &[u8], asked: &[Domain]) -> Result<Self, NoReport> {
        if content.len() > REPORT_OCTETS {
            return Err(NoReport::TooLarge);
        }
        let whole = Part::parse(content)
            .filter(|whole| whole.is("multipart", "report"))
            .filter(|whole| {
                whole
                    .parameter("report-type")
                    .is_some_and(|kind| kind.eq_ignore_ascii_case("delivery-status"))
            })
            .ok_or(NoReport::ContentType)?;
        let parts = whole.parts(PARTS_MAX).ok_or(NoReport::Parts)?;
        let second = parts.get(1).ok_or(NoReport::Parts)?;
        let second = Part::parse(second)
            .filter(|part| {
                part.is("message", "delivery-status")
                    || part.is("message", "global-delivery-status")
            })
            .filter(Part::is_not_encoded)
            .ok_or(NoReport::SecondPart)?;
        let status = Status::parse(second.body, asked)?;
        let original = parts.get(2).and_then(|part| Part::parse(part));
        let (message_id, date) = original
            .filter(Part::is_not_encoded)
            .map(|part| id_and_date(part.body))
            .unwrap_or_default();
        Ok(Self {
            status,
            message_id: message_id
                .as_deref()
                .and_then(identifier)
                .map(str::to_owned),
            date: date.as_deref().and_then(status::date),
        })
    }
}

/// `<left@right>` without its brackets, if both sides are identifiers.
fn identifier(message_id: &str) -> Option<&str> {
    let id = message_id.strip_prefix('<')?.strip_suffix('>')?;
    let (left, right) = id.split_once('@')?;
    let fits = is_identifier(id) && !left.is_empty() && !right.is_empty() && !right.contains('@');
    fits.then_some(id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{REPORT, asked, report};
    use super::*;

    fn refused(content: &str) -> NoReport {
        Report::read(content.as_bytes(), &asked()).unwrap_err()
    }

    // covers: R3464-1
    #[test]
    fn a_report_is_read_down_to_what_is_kept() {
        let report = Report::read(REPORT.as_bytes(), &asked()).unwrap();
        assert_eq!(report.message_id.as_deref(), Some("m1@source.example"));
        assert!(report.date.is_some());
        assert_eq!(report.status.recipients.len(), 1);
    }

    // covers: R3464-1
    #[test]
    fn what_is_no_report_does_not_go_outside() {
        for (from, to, expected) in [
            ("multipart/report", "multipart/mixed", NoReport::ContentType),
            (
                "report-type=delivery-status",
                "report-type=feedback-report",
                NoReport::ContentType,
            ),
            ("report-type=delivery-status; ", "", NoReport::ContentType),
            (
                "Content-Type: multipart",
                "X-Content-Type: multipart",
                NoReport::ContentType,
            ),
            ("boundary=\"b1\"", "boundary=\"b2\"", NoReport::Parts),
            ("; boundary=\"b1\"", "", NoReport::Parts),
            ("--b1--", "", NoReport::Parts),
            ("--b1--", "--b1\r\n\r\nmore\r\n--b1--", NoReport::Parts),
            (
                "message/delivery-status",
                "message/rfc822",
                NoReport::SecondPart,
            ),
            (
                "message/delivery-status",
                "text/plain",
                NoReport::SecondPart,
            ),
            (
                "Content-Type: message/delivery-status",
                "Content-Type: message/delivery-status\r\nContent-Transfer-Encoding: base64",
                NoReport::SecondPart,
            ),
            (
                "ann@example.org",
                "ann@elsewhere.example",
                NoReport::Status(StatusError::Foreign),
            ),
        ] {
            let content = REPORT.replace(from, to);
            assert_ne!(content, REPORT, "{from}");
            assert_eq!(refused(&content), expected, "{from} to {to}");
        }
        assert_eq!(refused(""), NoReport::ContentType);
        assert_eq!(
            refused("Subject: x\r\n\r\nBuy now\r\n"),
            NoReport::ContentType
        );
        let long = format!("X: {}\r\n{REPORT}", "x".repeat(17_000));
        assert_eq!(
            refused(&long),
            NoReport::ContentType,
            "a header section out of proportion"
        );
        let filler = REPORT_OCTETS - REPORT.len();
        let fits = REPORT.replace(
            "Words of the relay",
            &("Words of the relay".to_owned() + &"x".repeat(filler)),
        );
        assert!(Report::read(fits.as_bytes(), &asked()).is_ok());
        assert_eq!(refused(&format!("{fits}x")), NoReport::TooLarge);
    }

    #[test]
    fn the_original_is_optional_and_gives_no_more_than_id_and_date() {
        let third = REPORT.rfind("--b1\r\n").unwrap();
        let without = format!("{}--b1--\r\n", &REPORT[..third]);
        let report = Report::read(without.as_bytes(), &asked()).unwrap();
        assert_eq!((report.message_id, report.date), (None, None));
        for id in [
            "buy now",
            "<buy now@x.example>",
            "<http://x.example@y>",
            "<@x>",
            "<x@>",
            "<x>",
            "<a@b@c>",
            "",
        ] {
            let content = REPORT.replace("<m1@source.example>", id);
            let report = Report::read(content.as_bytes(), &asked()).unwrap();
            assert_eq!(report.message_id, None, "{id}");
        }
    }

    // covers: R3464-1
    #[test]
    fn the_sender_is_somewhere_on_the_internet() {
        for (path, expected) in [
            ("a@source.example", true),
            ("a@xn--bcher-kva.example", true),
            ("a@1.2.3.example", true),
            ("a@localhost", false),
            ("a@mail", false),
            ("a@exchange.corp", false),
            ("a@dc1.ad.internal", false),
            ("a@printer.local", false),
            ("a@1.0.0.127.in-addr.arpa", false),
            ("a@10.1.2.3", false),
            ("a@[10.1.2.3]", false),
            ("a@[IPv6:::1]", false),
            ("postmaster", false),
        ] {
            let path = ForwardPath::from_address(path).unwrap();
            assert_eq!(is_outside(&path), expected, "{path}");
        }
    }

    // covers: R3464-1
    #[test]
    fn the_address_of_the_sender_is_one_word() {
        for (local_part, expected) in [
            ("ann+list/x=1", true),
            ("gr\u{fc}n", true),
            ("\"your account is locked, call 555 0100\"", false),
            ("\"ann\"", false),
            ("buy\u{a0}now", false),
            ("buy\u{3000}now", false),
            ("buy\u{2800}now", false),
            ("buy\u{200b}now", false),
            ("\u{202e}nna", false),
            ("\u{2066}ann", false),
            ("ann\u{e0041}", false),
            ("ann\u{fe0f}", false),
            ("an\u{ad}n", false),
        ] {
            let path = ForwardPath::from_address(&format!("{local_part}@source.example"));
            let path = path.unwrap_or_else(|_| panic!("{local_part:?}"));
            assert_eq!(is_outside(&path), expected, "{path:?}");
        }
    }

    proptest! {
        /// Whatever octets come: no panic, and no report that is not one.
        #[test]
        fn any_octets_are_read(content: Vec<u8>) {
            prop_assert!(Report::read(&content, &asked()).is_err());
        }

        /// A report with damage anywhere: no panic.
        #[test]
        fn a_damaged_report_is_read(at in 0..REPORT.len(), cut in 0..40_usize, text: Vec<u8>, copies in 1..20_usize) {
            let mut content = REPORT.as_bytes().to_vec();
            let end = (at + cut).min(content.len());
            content.splice(at..end, text.repeat(copies));
            let _ = Report::read(&content, &asked());
        }

        /// A report whose every part is somebody's idea of a header section: no panic.
        #[test]
        fn strange_fields_are_read(fields in proptest::collection::vec("[A-Za-z-]{1,20}:[ -~\r\n\t\\PC]{0,60}", 0..20)) {
            let fields = fields.join("\r\n");
            let _ = Report::read(report(&fields, &fields, &fields).as_bytes(), &asked());
        }
    }
}
