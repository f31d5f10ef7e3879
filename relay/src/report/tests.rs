//! Reports as others read them: built here, taken apart by a parser that is not ours.

use atrn_shared::smtp::address::{Domain, ForwardPath, ReversePath};
use atrn_shared::smtp::parameter::{MailParameters, RcptParameters};
use atrn_shared::smtp::reply::Reply;
use jiff::Timestamp;
use mail_parser::{MessageParser, MimeHeaders, PartType};

use super::message::{Notice, Original, REPORT_OCTETS, Told};
use super::routing::{Addressee, Fate};
use crate::queue::{Delivery, DeliveryRecipient, Report, State};

const HEADER: &str = "Received: from mail.example.net by mx1.example.net; Sat, 21 Nov 2026 20:00:00 +0000\r\n\
     Message-ID: <1@example.net>\r\nSubject: Lunch\r\nFrom: alice@example.net\r\n";

fn delivery(sender: &str, parameters: &str, recipients: &[(&str, &str)]) -> Delivery {
    let recipients = recipients
        .iter()
        .map(|(path, parameters)| DeliveryRecipient {
            forward_path: ForwardPath::from_address(path).unwrap(),
            parameters: RcptParameters::parse(parameters).unwrap(),
            last_reply: None,
            reported_to: None,
        });
    Delivery {
        id: "1M7ZMM9TH00.1.ABC123".parse().unwrap(),
        domain: Domain::parse("example.com").unwrap(),
        reverse_path: ReversePath::from_address(sender).unwrap(),
        mail_parameters: MailParameters::parse(parameters).unwrap(),
        eight_bit: false,
        needs_smtputf8: false,
        received_from: "mail.example.net [192.0.2.1]".to_owned(),
        received_at: "2026-11-21T20:00:00Z".parse().unwrap(),
        size: 1_000,
        attempts: 0,
        state: State::Queued,
        is_report: false,
        sender_verified: false,
        recipients: recipients.collect(),
    }
}

fn header_of(header: &str) -> Original {
    Original::new(format!("{header}\r\nbody").into_bytes(), false)
}

/// A report on all recipients of a delivery.
fn report(
    delivery: &Delivery,
    addressee: Addressee,
    fates: &[(Fate, Option<Reply>)],
    original: Original,
) -> Report {
    let now: Timestamp = "2026-11-21T20:28:37Z".parse().unwrap();
    let hostname = Domain::parse("mx1.example.net").unwrap();
    let told = delivery.recipients.iter().zip(fates.iter().cycle());
    let notice = Notice {
        hostname: &hostname,
        delivery,
        addressee,
        recipients: told
            .enumerate()
            .map(|(index, (recipient, (fate, reply)))| Told {
                index,
                recipient,
                fate: *fate,
                reply: reply.as_ref(),
            })
            .collect(),
        original,
        last_attempt: Some(now),
        now,
        number: 0x00c0_ffee_00c0_ffee,
    };
    let report = notice.report();
    well_formed(&report);
    report
}

/// What every report has to be, whatever is in it.
fn well_formed(report: &Report) {
    let content = &report.content;
    assert!(content.len() <= REPORT_OCTETS, "{} octets", content.len());
    assert!(content.ends_with(b"\r\n"));
    assert_eq!(report.envelope.eight_bit, !content.is_ascii());
    let lines = content.split(|octet| *octet == b'\n').rev().skip(1);
    for line in lines {
        let line = line.strip_suffix(b"\r").expect("a bare LF");
        assert!(line.len() <= 998 && !line.contains(&b'\r') && !line.contains(&0));
    }
    assert_eq!(report.envelope.reverse_path, ReversePath::Null);
    assert!(report.envelope.is_report);
    let [to] = report.envelope.recipients.as_slice() else {
        panic!("one recipient");
    };
    assert_eq!(to.parameters.to_string(), " NOTIFY=NEVER");
    assert_eq!(to.domain.as_str(), "example.com");
}

/// A part's type, its encoding, and its content decoded.
fn parts(content: &[u8]) -> Vec<(String, Option<String>, String)> {
    let message = MessageParser::new().parse(content).expect("a message");
    let root = message.root_part();
    let kind = root.content_type().expect("a content type");
    assert_eq!(
        (kind.ctype(), kind.subtype(), kind.attribute("report-type")),
        ("multipart", Some("report"), Some("delivery-status"))
    );
    let PartType::Multipart(children) = &root.body else {
        panic!("not a multipart");
    };
    let parts = children.iter().map(|child| {
        let part = &message.parts[*child as usize];
        let kind = part.content_type().expect("a content type");
        let kind = format!("{}/{}", kind.ctype(), kind.subtype().unwrap_or_default());
        let content = match &part.body {
            PartType::Text(text) => text.to_string(),
            PartType::Binary(octets) => String::from_utf8_lossy(octets).into_owned(),
            PartType::Message(inner) => String::from_utf8_lossy(inner.raw_message()).into_owned(),
            other => panic!("{kind}: {other:?}"),
        };
        let encoding = part.content_transfer_encoding().map(str::to_owned);
        (kind, encoding, content)
    });
    parts.collect()
}

fn types(content: &[u8]) -> Vec<String> {
    parts(content).into_iter().map(|(kind, ..)| kind).collect()
}

fn refused() -> Reply {
    Reply::new(550, "5.1.1", "No such user")
}

// covers: R3464-1, R3461-1, R2645-24
#[test]
fn a_report_of_a_refusal_word_for_word() {
    let delivery = delivery(
        "alice@example.net",
        " RET=HDRS ENVID=QQ+2B314159",
        &[(
            "bob@example.com",
            " NOTIFY=FAILURE ORCPT=rfc822;Bob+2Bx@example.com",
        )],
    );
    let failed = [(Fate::Failed, Some(refused()))];
    let report = report(&delivery, Addressee::Sender, &failed, header_of(HEADER));
    let to = &report.envelope.recipients[0].forward_path;
    assert_eq!(to.to_string(), "alice@example.net");
    assert_eq!(String::from_utf8(report.content).unwrap(), REFUSAL);
}

// covers: R3464-1, R5321-30
#[test]
fn each_recipient_has_a_group_of_its_own() {
    let delivery = delivery(
        "alice@example.net",
        "",
        &[
            ("a@example.com", ""),
            ("gr\u{fc}n@example.com", ""),
            ("postmaster", " NOTIFY=SUCCESS,FAILURE"),
        ],
    );
    let expired = Reply::new(550, "5.4.7", "Delivery time expired");
    let fates = [
        (Fate::Failed, Some(Reply::bare(554, "no"))),
        (Fate::Expired, Some(expired)),
        (Fate::Relayed, None),
    ];
    let report = report(&delivery, Addressee::Sender, &fates, header_of(HEADER));
    let parts = parts(&report.content);
    let groups: Vec<_> = parts[1].2.trim_end().split("\r\n\r\n").skip(1).collect();
    let date = "Last-Attempt-Date: Sat, 21 Nov 2026 20:28:37 +0000";
    assert_eq!(
        groups,
        [
            format!(
                "Final-Recipient: rfc822; a@example.com\r\nAction: failed\r\nStatus: 5.0.0\r\n\
                 Diagnostic-Code: smtp; 554 no\r\n{date}"
            ),
            format!(
                "Final-Recipient: utf-8; gr\\x{{FC}}n@example.com\r\nAction: failed\r\nStatus: 5.4.7\r\n\
                 Diagnostic-Code: smtp; 550 5.4.7 Delivery time expired\r\n{date}"
            ),
            format!(
                "Final-Recipient: rfc822; Postmaster@example.com\r\nAction: relayed\r\nStatus: 2.0.0\r\n{date}"
            ),
        ]
    );
    // The text for people has the address as it is.
    assert!(
        parts[0].2.contains("    gr\u{fc}n@example.com\r\n"),
        "{}",
        parts[0].2
    );
}

// covers: R3461-1
#[test]
fn the_message_goes_back_as_the_sender_asked() {
    let whole = |body: &str| Original::new(format!("{HEADER}\r\n{body}").into_bytes(), true);
    let (large, long_line) = ("x\r\n".repeat(30_000), "x".repeat(999));
    let failed = (Fate::Failed, Some(refused()));
    let not_eight_bit = (
        Fate::Failed,
        Some(Reply::new(554, "5.6.3", "does not take 8-bit content")),
    );
    let (header, all) = ("text/rfc822-headers", "message/rfc822");
    for (parameters, original, fate, last, eight_bit) in [
        ("", whole("body\r\n"), &failed, header, false),
        (" RET=HDRS", whole("body\r\n"), &failed, header, false),
        (" RET=FULL", whole("body\r\n"), &failed, all, false),
        (" RET=FULL", whole("\u{fc}\r\n"), &failed, all, true),
        (
            " RET=FULL",
            whole("\u{fc}\r\n"),
            &not_eight_bit,
            header,
            false,
        ),
        (" RET=FULL", whole("body\r\n"), &not_eight_bit, all, false),
        (" RET=FULL", header_of(HEADER), &failed, header, false),
        // No line of 7bit or 8bit is so long, nor has a NUL.
        (" RET=FULL", whole(&long_line), &failed, header, false),
        (" RET=FULL", whole("\0\r\n"), &failed, header, false),
        (" RET=FULL", whole(&large), &failed, header, false),
    ] {
        let delivery = delivery("alice@example.net", parameters, &[("bob@example.com", "")]);
        let report = report(
            &delivery,
            Addressee::Sender,
            std::slice::from_ref(fate),
            original,
        );
        assert_eq!(
            types(&report.content),
            ["text/plain", "message/delivery-status", last]
        );
        assert_eq!(report.envelope.eight_bit, eight_bit, "{parameters}");
        let message = MessageParser::new().parse(&report.content).unwrap();
        let encoding = message.content_transfer_encoding();
        assert_eq!(encoding, eight_bit.then_some("8bit"));
        let body = report.envelope.mail_parameters.to_string();
        assert_eq!(body, if eight_bit { " BODY=8BITMIME" } else { "" });
    }
}

#[test]
fn a_message_that_cannot_be_read_is_reported_without_it() {
    let delivery = delivery("alice@example.net", " RET=FULL", &[("bob@example.com", "")]);
    for original in [
        Original::default(),
        Original::new(b"\r\nbody".to_vec(), true),
        Original::new(vec![b'x'; REPORT_OCTETS], false),
    ] {
        let failed = [(Fate::Failed, Some(refused()))];
        let report = report(&delivery, Addressee::Sender, &failed, original);
        let expected = ["text/plain", "message/delivery-status"];
        assert_eq!(types(&report.content)[..2], expected);
    }
}

#[test]
fn a_header_in_eight_bits_arrives_as_it_was() {
    let subject = "Subject: gr\u{fc}\u{df}e\r\n";
    let cases = [
        (HEADER.to_owned() + subject, false),
        // Most of it beyond ASCII.
        ("X: ".to_owned() + &"\u{1f600}".repeat(200) + "\r\n", false),
        ("X: ".to_owned() + &"y".repeat(2_000) + "\r\n", false),
        (HEADER.to_owned(), true),
    ];
    for (header, is_plain) in cases {
        let delivery = delivery("alice@example.net", "", &[("bob@example.com", "")]);
        let failed = [(Fate::Failed, Some(refused()))];
        let report = report(&delivery, Addressee::Sender, &failed, header_of(&header));
        assert!(!report.envelope.eight_bit);
        let parts = parts(&report.content);
        assert_eq!(parts[2].2, header);
        assert_eq!(parts[2].1.as_deref() == Some("7bit"), is_plain);
    }
}

#[test]
fn a_long_header_is_cut_between_two_fields() {
    let header = HEADER.to_owned() + &"X-Field: first\r\n second\r\n".repeat(4_000);
    for (header, eight_bit) in [
        (header.clone(), false),
        (header.replace("second", "s\u{e9}"), true),
    ] {
        let original = Original::new(header.clone().into_bytes(), false);
        let delivery = delivery("alice@example.net", "", &[("bob@example.com", "")]);
        let failed = [(Fate::Failed, Some(refused()))];
        let report = report(&delivery, Addressee::Sender, &failed, original);
        let parts = parts(&report.content);
        let returned = &parts[2].2;
        assert!(header.starts_with(returned.as_str()) && returned.ends_with("\r\n"));
        assert!(
            header[returned.len()..].starts_with("X-Field"),
            "cut inside a field"
        );
        assert!(
            returned.len() > REPORT_OCTETS / 4,
            "{} octets, {eight_bit}",
            returned.len()
        );
    }
}

#[test]
fn a_postmaster_hears_who_was_not_told() {
    let delivery = delivery("forged@example.org", "", &[("bob@example.com", "")]);
    let failed = [(Fate::Failed, Some(refused()))];
    let report = report(&delivery, Addressee::Postmaster, &failed, header_of(HEADER));
    let to = &report.envelope.recipients[0].forward_path;
    assert_eq!(to.to_string(), "postmaster@example.com");
    let text = parts(&report.content)[0].2.replace("\r\n", " ");
    assert!(
        text.contains("from <forged@example.org>. The sender was not told"),
        "{text}"
    );
    // Whoever said it: the server inside, the clock or an admin.
    let advice = "The line under each address says why. `atrn-relay queue show 1M7ZMM9TH00` has more, and \
         `atrn-relay queue retry 1M7ZMM9TH00` gives it another try.";
    assert!(text.contains(advice), "{text}");
}

#[test]
fn a_sender_in_unicode_is_written_to() {
    let delivery = delivery(
        "\u{e9}va@example.net",
        " SMTPUTF8",
        &[("bob@example.com", "")],
    );
    let failed = [(Fate::Failed, Some(refused()))];
    let report = report(&delivery, Addressee::Sender, &failed, header_of(HEADER));
    assert!(report.envelope.needs_smtputf8);
    let parameters = report.envelope.mail_parameters.to_string();
    assert_eq!(parameters, " BODY=8BITMIME SMTPUTF8");
    let message = MessageParser::new().parse(&report.content).unwrap();
    let to = message.to().and_then(|to| to.first()?.address());
    assert_eq!(to, Some("\u{e9}va@example.net"));
}

#[test]
fn ten_thousand_recipients_still_make_one_report() {
    let paths: Vec<_> = (0..10_000)
        .map(|number| format!("user{number}@example.com"))
        .collect();
    let recipients: Vec<_> = paths.iter().map(|path| (path.as_str(), "")).collect();
    let delivery = delivery("alice@example.net", " RET=FULL", &recipients);
    let failed = [(
        Fate::Failed,
        Some(Reply::new(550, "5.1.1", "x".repeat(500))),
    )];
    let report = report(&delivery, Addressee::Sender, &failed, header_of(HEADER));
    let parts = parts(&report.content);
    assert_eq!(parts.len(), 3);
    let text = parts[0].2.replace("\r\n", " ");
    assert!(text.contains("And 9980 more. "), "{text}");
    assert!(
        text.contains("Not all recipients are in the details"),
        "{text}"
    );
    assert!(parts[1].2.matches("Final-Recipient").count() > 40);
}

/// No peer writes a line of a report but where its own text belongs.
#[test]
fn nothing_that_peers_say_becomes_a_field() {
    let boundary = "=_1M7ZMM9TH00.00c0ffee00c0ffee";
    let header = format!(
        "Message-ID: <a\r\n b@evil>\r\nSubject: x\r\nX: =_\r\n--{boundary}--\r\n--{boundary}_--\r\nContent-Type: text/html\r\n"
    );
    let delivery = delivery(
        "\"a\\\"b, c\"@example.net",
        " RET=FULL ENVID=a+0D+0ABcc:+20victim",
        &[(
            "bob@example.com",
            " ORCPT=rfc822;x+0D+0AAction:+20delivered",
        )],
    );
    let evil = Reply::bare(550, "no\r\nAction: delivered\r\n\r\nX: \u{202e}");
    let original = Original::new(format!("{header}\r\nbody\r\n").into_bytes(), true);
    let report = report(
        &delivery,
        Addressee::Sender,
        &[(Fate::Failed, Some(evil))],
        original,
    );
    let message = MessageParser::new().parse(&report.content).unwrap();
    let names: Vec<_> = message
        .headers()
        .iter()
        .map(|header| header.name())
        .collect();
    assert_eq!(
        names,
        [
            "Date",
            "From",
            "To",
            "Subject",
            "Message-ID",
            "Auto-Submitted",
            "MIME-Version",
            "Content-Type"
        ]
    );
    let raw = String::from_utf8_lossy(&report.content);
    assert!(
        raw.contains("\r\nTo: <\"a\\\"b, c\"@example.net>\r\n"),
        "{raw}"
    );
    assert_eq!(message.to().map(|to| to.iter().count()), Some(1));
    let parts = parts(&report.content);
    assert_eq!(parts.len(), 3);
    let names: Vec<_> = parts[1]
        .2
        .lines()
        .filter_map(|line| Some(line.split_once(':')?.0))
        .collect();
    assert_eq!(
        names,
        [
            "Reporting-MTA",
            "Arrival-Date",
            "Final-Recipient",
            "Action",
            "Status",
            "Diagnostic-Code",
            "Last-Attempt-Date"
        ]
    );
    assert!(parts[2].2.ends_with("\r\n\r\nbody\r\n"), "{}", parts[2].2);
}

/// The whole id of a delivery is the pullers' business: nobody else should be able to name it.
// covers: R-DUP
#[test]
fn no_report_shows_a_delivery_id() {
    let delivery = delivery("alice@example.net", "", &[("bob@example.com", "")]);
    for addressee in [Addressee::Sender, Addressee::Postmaster] {
        let failed = [(Fate::Failed, Some(refused()))];
        let report = report(&delivery, addressee, &failed, header_of(HEADER));
        let content = String::from_utf8_lossy(&report.content);
        assert!(content.contains("1M7ZMM9TH00"), "{content}");
        assert!(!content.contains("ABC123"), "{content}");
    }
}

/// As it leaves the relay.
const REFUSAL: &str = "\
Date: Sat, 21 Nov 2026 20:28:37 +0000\r
From: \"Mail Delivery System\" <MAILER-DAEMON@mx1.example.net>\r
To: <alice@example.net>\r
Subject: Your message could not be delivered\r
Message-ID: <1M7ZMM9TH00.00c0ffee00c0ffee@mx1.example.net>\r
Auto-Submitted: auto-replied\r
In-Reply-To: <1@example.net>\r
References: <1@example.net>\r
MIME-Version: 1.0\r
Content-Type: multipart/report; report-type=\"delivery-status\";\r
 boundary=\"=_1M7ZMM9TH00.00c0ffee00c0ffee\"\r
\r
\r
--=_1M7ZMM9TH00.00c0ffee00c0ffee\r
Content-Type: text/plain; charset=\"utf-8\"\r
Content-Description: Notification\r
Content-Transfer-Encoding: 7bit\r
\r
This is the mail server mx1.example.net. It could not deliver your\r
message to example.com.\r
\r
Refused for:\r
\r
    bob@example.com\r
        550 5.1.1 No such user\r
\r
Please look for a mistake in each address. If there is none, the line\r
under it says why; postmaster@example.com can tell you more. The message\r
is not tried again.\r
\r
The message was received on Sat, 21 Nov 2026 20:00:00 +0000 and has the\r
number 1M7ZMM9TH00 at mx1.example.net. This text was written by a\r
program.\r
\r
\r
--=_1M7ZMM9TH00.00c0ffee00c0ffee\r
Content-Type: message/delivery-status\r
Content-Description: Delivery report\r
Content-Transfer-Encoding: 7bit\r
\r
Reporting-MTA: dns; mx1.example.net\r
Original-Envelope-Id: QQ+314159\r
Arrival-Date: Sat, 21 Nov 2026 20:00:00 +0000\r
\r
Original-Recipient: rfc822; Bob+x@example.com\r
Final-Recipient: rfc822; bob@example.com\r
Action: failed\r
Status: 5.1.1\r
Diagnostic-Code: smtp; 550 5.1.1 No such user\r
Last-Attempt-Date: Sat, 21 Nov 2026 20:28:37 +0000\r
\r
--=_1M7ZMM9TH00.00c0ffee00c0ffee\r
Content-Type: text/rfc822-headers\r
Content-Description: Header of the undelivered message\r
Content-Transfer-Encoding: 7bit\r
\r
Received: from mail.example.net by mx1.example.net; Sat, 21 Nov 2026 20:00:00 +0000\r
Message-ID: <1@example.net>\r
Subject: Lunch\r
From: alice@example.net\r
\r
--=_1M7ZMM9TH00.00c0ffee00c0ffee--\r
";
