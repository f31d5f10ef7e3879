//! A report in our own words, from what the [rule](super::rule) let through (RFC 3464, RFC 6522).
//!
//! Every sentence in it stands in this file. What a relay chose are addresses, domains, dates, codes and identifiers; so a
//! captured one can make us send notices of failure, and no message of its own. The result is ASCII, apart from the
//! address of a recipient outside that is not.

use std::fmt::Write as _;

use atrn_shared::smtp::address::{Domain, Mailbox};
use atrn_shared::smtp::reply::EnhancedCode;
use jiff::Zoned;
use jiff::fmt::rfc2822;
use mail_builder::MessageBuilder;
use mail_builder::headers::HeaderType;
use mail_builder::headers::address::Address;
use mail_builder::headers::content_type::ContentType;
use mail_builder::headers::raw::Raw;
use mail_builder::mime::{BodyPart, MimePart};

use super::rule::Report;
use super::status::{Action, Recipient};

/// How many recipients are named to people; programs are told of all.
const NAMED_MAX: usize = 20;

/// What the new message is told from outside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp<'s> {
    /// Whom it goes to.
    pub(super) to: &'s Mailbox,
    /// Different for every message.
    pub(super) id: &'s str,
    /// When it is made.
    pub(super) now: &'s Zoned,
}

/// Builds the message.
pub(super) fn rebuild(report: &Report, stamp: &Stamp<'_>) -> Vec<u8> {
    // The domain that the mail was for: ours, known outside, and one that has a postmaster (R5321-9).
    let domain = report
        .status
        .recipients
        .iter()
        .find_map(|recipient| recipient.mailbox.domain())
        .unwrap_or(&report.status.reporting_mta);
    let failed = report
        .status
        .recipients
        .iter()
        .any(|recipient| recipient.action == Action::Failed);
    let postmaster = format!("postmaster@{domain}");
    let mut message = MessageBuilder::new()
        .from(Address::new_address(
            Some("Mail Delivery System"),
            postmaster,
        ))
        .header("To", raw(format!("<{}>", stamp.to)))
        .header(
            "Subject",
            raw(if failed {
                "Undelivered mail"
            } else {
                "Mail passed on"
            }),
        )
        .header(
            "Date",
            raw(rfc2822::to_string(stamp.now).unwrap_or_default()),
        )
        .header("Message-ID", raw(format!("<{}@{domain}>", stamp.id)));
    if let Some(id) = &report.message_id {
        // RFC 3834 §3.1.5
        message = message
            .header("In-Reply-To", raw(format!("<{id}>")))
            .header("References", raw(format!("<{id}>")));
    }
    message = message.header("Auto-Submitted", raw("auto-replied"));
    let kind = ContentType::new("multipart/report").attribute("report-type", "delivery-status");
    let mut parts = vec![
        part("text/plain; charset=us-ascii", words(report, domain)),
        part("message/delivery-status", fields(report, domain)),
    ];
    let original = original(report);
    if !original.is_empty() {
        parts.push(part("text/rfc822-headers", original));
    }
    let mut content = Vec::new();
    message
        .body(MimePart::new(kind, parts))
        .serialize(&mut content);
    content
}

fn raw(text: impl Into<std::borrow::Cow<'static, str>>) -> HeaderType<'static> {
    HeaderType::Raw(Raw::new(text))
}

/// A part that stands as it is: fields of `message/*` must not be encoded (RFC 2046 §5.2).
fn part(kind: &'static str, text: String) -> MimePart<'static> {
    MimePart {
        headers: vec![
            ("Content-Type".into(), raw(kind)),
            ("Content-Transfer-Encoding".into(), raw("7bit")),
        ],
        contents: BodyPart::Binary(text.into_bytes().into()),
    }
}

/// For people.
fn words(report: &Report, domain: &Domain) -> String {
    let mut text = format!("This is the mail system of {domain}.\r\n");
    for (action, introduction) in [
        (Action::Failed, "Your message could not be delivered to"),
        (
            Action::Relayed,
            "Your message was passed on, to a mail server that sends no confirmations, for",
        ),
    ] {
        let recipients: Vec<_> = report
            .status
            .recipients
            .iter()
            .filter(|recipient| recipient.action == action)
            .collect();
        if recipients.is_empty() {
            continue;
        }
        // Writing into memory can not fail.
        let _ = write!(text, "\r\n{introduction}\r\n\r\n");
        for recipient in recipients.iter().take(NAMED_MAX) {
            let (mailbox, status) = (ascii(&recipient.mailbox), recipient.status);
            let _ = match action {
                Action::Failed => write!(text, "  <{mailbox}>: {} ({status})\r\n", meaning(status)),
                Action::Relayed => write!(text, "  <{mailbox}>\r\n"),
            };
        }
        if recipients.len() > NAMED_MAX {
            let _ = write!(text, "  and {} more\r\n", recipients.len() - NAMED_MAX);
        }
    }
    text
}

/// For programs (RFC 3464 §2).
fn fields(report: &Report, domain: &Domain) -> String {
    let status = &report.status;
    let mut text = format!("Reporting-MTA: dns; {}\r\n", status.reporting_mta);
    if let Some(id) = &status.envelope_id {
        let _ = write!(text, "Original-Envelope-Id: {id}\r\n");
    }
    write_date(&mut text, "Arrival-Date", status.arrived_at.as_ref());
    for recipient in &status.recipients {
        text.push_str("\r\n");
        write_recipient(&mut text, recipient, domain);
    }
    text
}

fn write_recipient(text: &mut String, recipient: &Recipient, domain: &Domain) {
    if let Some(original) = &recipient.original {
        let _ = write!(text, "Original-Recipient: {}\r\n", typed(original));
    }
    let (action, status) = (recipient.action.word(), recipient.status);
    let _ = write!(
        text,
        "Final-Recipient: {}\r\nAction: {action}\r\nStatus: {status}\r\n",
        typed(&recipient.mailbox)
    );
    if let Some(code) = recipient.reply_code {
        // The name of the server inside is nobody's business outside (OWN-8); its domain has said so.
        let said = recipient.mailbox.domain().unwrap_or(domain);
        let enhanced = if u16::from(status.class) == code / 100 {
            format!("{status} ")
        } else {
            String::new()
        };
        let _ = write!(
            text,
            "Remote-MTA: dns; {said}\r\nDiagnostic-Code: smtp; {code} {enhanced}{}\r\n",
            meaning(status)
        );
    }
    write_date(
        text,
        "Last-Attempt-Date",
        recipient.last_attempt_at.as_ref(),
    );
}

/// By what the sender knows his message again.
fn original(report: &Report) -> String {
    let mut text = String::new();
    if let Some(id) = &report.message_id {
        let _ = write!(text, "Message-ID: <{id}>\r\n");
    }
    write_date(&mut text, "Date", report.date.as_ref());
    text
}

fn write_date(text: &mut String, name: &str, date: Option<&Zoned>) {
    if let Some(date) = date.and_then(|date| rfc2822::to_string(date).ok()) {
        let _ = write!(text, "{name}: {date}\r\n");
    }
}

/// An address with its type (RFC 3464 §2.3.2, RFC 6533 §3).
fn typed(mailbox: &Mailbox) -> String {
    let kind = if mailbox.is_ascii() {
        "rfc822"
    } else {
        "utf-8"
    };
    format!("{kind}; {}", ascii(mailbox))
}

/// The form for places where octets above 127 must not be (RFC 6533 §3).
fn ascii(mailbox: &Mailbox) -> String {
    let mut text = String::with_capacity(mailbox.as_str().len());
    for character in mailbox.as_str().chars() {
        if character.is_ascii() {
            text.push(character);
        } else {
            let _ = write!(text, "\\x{{{:X}}}", u32::from(character));
        }
    }
    text
}

/// What a status says in words (RFC 3463 §3).
fn meaning(status: EnhancedCode) -> &'static str {
    match (status.subject, status.detail) {
        (1, 1) => "there is no such mailbox",
        (1, 6) => "the mailbox has moved",
        (1, 7 | 8) => "the address of the sender is not accepted",
        (1, _) => "the address is not accepted",
        (2, 1) => "the mailbox is not in use",
        (2, 2) => "the mailbox is full",
        (2, 3) => "the message is too large for the mailbox",
        (2, _) => "the mailbox takes no messages",
        (3, 4) => "the message is too large",
        (3, _) => "the mail system cannot take the message",
        (4, 6) => "the message goes in circles",
        (4, 7) => "the message waited for too long",
        (4, _) => "the mail system cannot be reached",
        (5, _) => "the mail systems do not understand each other",
        (6, 7) => "the address needs a mail system that knows Unicode",
        (6, _) => "the content of the message is not accepted",
        (7, _) => "the message is not accepted",
        _ => "the message was refused",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::rule::Report;
    use super::super::testing::{REPORT, asked, report};
    use super::*;

    fn rebuilt(content: &str, to: &str) -> String {
        let report = Report::read(content.as_bytes(), &asked()).unwrap();
        let (to, now) = (
            Mailbox::parse(to).unwrap(),
            "2026-03-01T12:34:56+01:00[+01:00]".parse().unwrap(),
        );
        let stamp = Stamp {
            to: &to,
            id: "7f3a",
            now: &now,
        };
        String::from_utf8(rebuild(&report, &stamp)).unwrap()
    }

    /// The boundary is another one each time.
    fn with_boundary(content: &str) -> String {
        let (_, rest) = content.split_once("boundary=\"").unwrap();
        content.replace(rest.split('"').next().unwrap(), "B")
    }

    // covers: R3464-1
    #[test]
    fn a_report_in_our_own_words() {
        let expected = "From: \"Mail Delivery System\" <postmaster@example.org>\r\n\
            To: <a@source.example>\r\n\
            Subject: Undelivered mail\r\n\
            Date: Sun, 1 Mar 2026 12:34:56 +0100\r\n\
            Message-ID: <7f3a@example.org>\r\n\
            In-Reply-To: <m1@source.example>\r\n\
            References: <m1@source.example>\r\n\
            Auto-Submitted: auto-replied\r\n\
            MIME-Version: 1.0\r\n\
            Content-Type: multipart/report; report-type=\"delivery-status\";\r\n\
            \x20boundary=\"B\"\r\n\
            \r\n\
            \r\n--B\r\n\
            Content-Type: text/plain; charset=us-ascii\r\n\
            Content-Transfer-Encoding: 7bit\r\n\
            \r\n\
            This is the mail system of example.org.\r\n\
            \r\n\
            Your message could not be delivered to\r\n\
            \r\n\
            \x20 <ann@example.org>: there is no such mailbox (5.1.1)\r\n\
            \r\n--B\r\n\
            Content-Type: message/delivery-status\r\n\
            Content-Transfer-Encoding: 7bit\r\n\
            \r\n\
            Reporting-MTA: dns; relay.example.net\r\n\
            Original-Envelope-Id: QQ314159\r\n\
            Arrival-Date: Thu, 1 Jan 2026 12:00:00 +0000\r\n\
            \r\n\
            Final-Recipient: rfc822; ann@example.org\r\n\
            Action: failed\r\n\
            Status: 5.1.1\r\n\
            Remote-MTA: dns; example.org\r\n\
            Diagnostic-Code: smtp; 550 5.1.1 there is no such mailbox\r\n\
            \r\n--B\r\n\
            Content-Type: text/rfc822-headers\r\n\
            Content-Transfer-Encoding: 7bit\r\n\
            \r\n\
            Message-ID: <m1@source.example>\r\n\
            Date: Thu, 1 Jan 2026 11:59:58 +0000\r\n\
            \r\n--B--\r\n";
        assert_eq!(
            with_boundary(&rebuilt(REPORT, "a@source.example")),
            expected
        );
    }

    // covers: R3464-1
    #[test]
    fn what_was_not_said_is_not_made_up() {
        let recipient =
            "Final-Recipient: utf-8; k\\x{E4}se@example.org\r\nAction: relayed\r\nStatus: 2.0.0";
        let content = rebuilt(
            &report("Reporting-MTA: dns; r.example", recipient, "Subject: x\r\n"),
            "gr\u{fc}n@source.example",
        );
        assert!(
            content.contains("\r\nTo: <gr\u{fc}n@source.example>\r\nSubject: Mail passed on\r\n"),
            "{content}"
        );
        assert!(
            content.contains("for\r\n\r\n  <k\\x{E4}se@example.org>\r\n"),
            "{content}"
        );
        assert!(content.contains("\r\n\r\nFinal-Recipient: utf-8; k\\x{E4}se@example.org\r\nAction: relayed\r\nStatus: 2.0.0\r\n\r\n--"), "{content}");
        for absent in [
            "could not",
            "Diagnostic",
            "Remote-MTA",
            "rfc822-headers",
            "In-Reply-To",
            "Envelope-Id",
            "Arrival",
        ] {
            assert!(!content.contains(absent), "{absent}: {content}");
        }
        assert!(content.replace("gr\u{fc}n", "").is_ascii());
        // What expired was refused for now at last.
        let expired = "Final-Recipient: rfc822; ann@example.org\r\nAction: failed\r\nStatus: 5.4.7\r\n\
                       Diagnostic-Code: smtp; 452 4.2.2 full";
        let content = rebuilt(
            &report("Reporting-MTA: dns; r.example", expired, ""),
            "a@source.example",
        );
        assert!(
            content.contains("Diagnostic-Code: smtp; 452 the message waited for too long\r\n"),
            "{content}"
        );
    }

    /// The list is made of what a relay chose: it shall not fill a page.
    // covers: R3464-1
    #[test]
    fn of_many_recipients_people_are_told_some_and_programs_all() {
        let recipient = |number: usize| {
            format!(
                "Final-Recipient: rfc822; u{number}@example.org\r\nAction: failed\r\nStatus: 5.1.1\r\n"
            )
        };
        for (count, more) in [
            (20, ""),
            (21, "  and 1 more\r\n"),
            (300, "  and 280 more\r\n"),
        ] {
            let recipients: Vec<_> = (1..=count).map(recipient).collect();
            let content = rebuilt(
                &report(
                    "Reporting-MTA: dns; r.example",
                    &recipients.join("\r\n"),
                    "",
                ),
                "a@source.example",
            );
            assert_eq!(content.matches("  <u").count(), 20);
            let last =
                format!("  <u20@example.org>: there is no such mailbox (5.1.1)\r\n{more}\r\n--");
            assert!(content.contains(&last), "{content}");
            assert_eq!(content.matches("Final-Recipient: ").count(), count);
        }
    }

    proptest! {
        /// Whatever a relay fills in: no line that is not ours, no sentence of its own, and again a report.
        #[test]
        fn nothing_is_said_for_the_relay(
            envelope_id in "[ -~]{0,40}",
            original in "[a-zA-Z0-9.;@\"<> -]{0,40}",
            diagnostic in "smtp; 550 [ -~]{0,60}",
            comment in "[ -~]{0,40}",
            id in "[ -~\t]{0,60}",
        ) {
            let message = format!("Reporting-MTA: dns; r.example\r\nOriginal-Envelope-Id: {envelope_id}\r\nX-{comment}");
            let recipient = format!("Final-Recipient: rfc822; ann@example.org\r\nOriginal-Recipient: rfc822;{original}\r\n\
                                     Action: failed\r\nStatus: 5.7.1 ({comment})\r\nDiagnostic-Code: {diagnostic}");
            let header = format!("Message-ID: {id}\r\nSubject: {comment}\r\n");
            let content = rebuilt(&report(&message, &recipient, &header), "a@source.example");
            let again = Report::read(content.as_bytes(), &asked()).unwrap();
            prop_assert_eq!(again.status.recipients.len(), 1);
            prop_assert_eq!(&with_boundary(&rebuilt(&content, "a@source.example")), &with_boundary(&content));
            for line in with_boundary(&content).lines() {
                let known = ["From: ", "To: ", "Subject: Undelivered mail", "Date: ", "Message-ID: <", "In-Reply-To: <",
                    "References: <", "Auto-Submitted: auto-replied", "MIME-Version: 1.0", "Content-T", " boundary=", "--B",
                    "This is the mail system of example.org.", "Your message could not be delivered to",
                    "  <ann@example.org>: the message is not accepted (5.7.1)", "Reporting-MTA: dns; r.example",
                    "Original-Envelope-Id: ", "Original-Recipient: rfc822; ", "Final-Recipient: rfc822; ann@example.org",
                    "Action: failed", "Status: 5.7.1", "Remote-MTA: dns; example.org",
                    "Diagnostic-Code: smtp; 550 5.7.1 the message is not accepted"];
                prop_assert!(line.is_empty() || known.iter().any(|known| line.starts_with(known)), "{}", line);
                for free in ["Original-Envelope-Id: ", "Original-Recipient: rfc822; ", "Message-ID: <", "In-Reply-To: <"] {
                    if let Some(word) = line.strip_prefix(free) {
                        prop_assert!(!word.contains([' ', '"', '/', ':']) && word.len() <= 256, "{}", line);
                    }
                }
            }
        }
    }
}
