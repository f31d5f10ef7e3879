//! A captured relay would like to write to the world. Whatever it offers, only reports on mail for the domains that were
//! asked for leave, in the puller's words, and so many in an hour.

use atrn_tests::captured::Captured;
use atrn_tests::inside::{Arrived, Inside, Step};
use atrn_tests::message::stuffed;
use atrn_tests::peer::Peer;
use atrn_tests::software::{Postfix, read_report};

/// What it wants to be read by many.
const SPAM: &str = "BUY-NOW";
const SENDER: &str = "victim@source.example";

/// A report that is in order, and in which everything is spam that may be.
fn report() -> String {
    format!(
        "From: {SPAM} <{SPAM}@now.example>\r\nTo: {SPAM} <{SENDER}>\r\nSubject: {SPAM}\r\nX-{SPAM}: {SPAM}\r\n\
         MIME-Version: 1.0\r\nContent-Description: {SPAM}\r\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=\"{SPAM}\"; x=\"{SPAM}\"\r\n\
         \r\n{SPAM}\r\n--{SPAM}\r\nContent-Type: text/html\r\n\r\n<b>{SPAM}</b>\r\n\
         --{SPAM}\r\nContent-Type: message/delivery-status; name={SPAM}\r\nContent-Description: {SPAM}\r\n\r\n\
         Reporting-MTA: dns; relay.example.net\r\nDSN-Gateway: dns; {SPAM}\r\nReceived-From-MTA: dns; {SPAM}\r\n\
         Original-Envelope-Id: {SPAM} {SPAM}\r\nArrival-Date: Thu, 1 Jan 2026 12:00:00 +0000 ({SPAM})\r\n\
         X-{SPAM}: {SPAM}\r\n\r\n\
         Original-Recipient: rfc822; \"{SPAM}\"@example.org\r\nFinal-Recipient: rfc822; ann@example.org\r\n\
         Action: failed\r\nStatus: 5.1.1 ({SPAM})\r\nRemote-MTA: dns; {SPAM}\r\n\
         Diagnostic-Code: smtp; 550 5.1.1 {SPAM}\r\n\t{SPAM}\r\nX-{SPAM}: {SPAM}\r\nFinal-Log-Id: {SPAM}\r\n\r\n\
         --{SPAM}\r\nContent-Type: message/rfc822\r\n\r\n\
         From: {SPAM} <{SPAM}@now.example>\r\nSubject: {SPAM}\r\nX-{SPAM}: {SPAM}\r\n\
         Message-ID: <{SPAM} {SPAM}@now.example>\r\nDate: {SPAM}\r\n\r\n{SPAM}\r\n\r\n--{SPAM}--\r\n{SPAM}\r\n"
    )
}

/// A puller whose reports go to `outside`.
fn captured(inside: &Inside, outside: &str, settings: &[(&str, toml::Value)]) -> Captured {
    let reports = [("reports.target", outside.into())];
    Captured::new(&inside.target(), &[&reports[..], settings].concat())
}

/// Offers a message by DATA; the code of the last word on it.
#[track_caller]
fn offer(peer: &mut Peer, mail: &str, recipients: &[&str], content: &str) -> String {
    peer.ask(&format!("MAIL FROM:{mail}"), "250 ");
    let mut said = String::new();
    let mut accepted = 0;
    for recipient in recipients {
        peer.send(&format!("RCPT TO:<{recipient}>"));
        said = peer.reply().remove(0);
        accepted += usize::from(said.starts_with("250"));
    }
    if accepted > 0 {
        peer.ask("DATA", "354");
        peer.send_octets(&stuffed(content.as_bytes()));
        said = peer.reply().remove(0);
    } else {
        peer.ask("RSET", "250 ");
    }
    said
}

fn assert_no_spam(outside: &Inside) -> Vec<Arrived> {
    let record = outside.record();
    for arrived in &record.messages {
        let text = String::from_utf8_lossy(&arrived.content);
        assert!(!text.to_uppercase().contains(SPAM), "{text}");
    }
    let commands = record.commands.iter().map(|command| &command.line);
    for line in commands {
        assert!(!line.to_uppercase().contains(SPAM), "{line}");
    }
    assert!(record.torn.is_empty());
    record.messages
}

/// Messages, and reports that are none.
fn no_reports(report: &str) -> Vec<String> {
    let mail = format!("Subject: {SPAM}\r\n\r\n{SPAM}\r\n");
    let mixed = report.replacen("multipart/report", "multipart/mixed", 1);
    let feedback = report.replacen("delivery-status", "feedback-report", 1);
    let delivered = report.replace(
        "Action: failed\r\nStatus: 5.1.1",
        "Action: delivered\r\nStatus: 2.1.1",
    );
    let foreign = report.replace("ann@example.org", "ann@elsewhere.example");
    let second = report.replace(
        "Action: failed",
        "Action: failed\r\nStatus: 5.0.0\r\n\r\nFinal-Recipient: rfc822; b@elsewhere.example\r\nAction: failed",
    );
    let quoted = report.replace("ann@example.org", "\"BUY-NOW HERE\"@example.org");
    let encoded = report.replacen(
        "Content-Description: BUY-NOW\r\n\r\nRep",
        "Content-Transfer-Encoding: quoted-printable\r\n\r\nRep",
        1,
    );
    let large = report.replacen(
        "\r\n\r\n",
        &format!("\r\n\r\n{}\r\n", "x".repeat(64 * 1024)),
        1,
    );
    let endless = report.replace("--BUY-NOW--", "");
    vec![
        mail, mixed, feedback, delivered, foreign, second, quoted, encoded, large, endless,
    ]
}

// covers: R3464-1, R5321-8
#[test]
fn nothing_that_a_captured_relay_wrote_leaves() {
    let (inside, outside) = (Inside::smtp(), Inside::smtp());
    let mut captured = captured(&inside, &outside.target(), &[]);
    let mut peer = captured.pull();
    let report = report();
    for content in no_reports(&report) {
        assert_ne!(content, report);
        let said = offer(&mut peer, "<>", &[SENDER], &content);
        assert!(said.starts_with("550 5.7.1"), "{said}: {content}");
    }
    // A good report, offered in a wrong way.
    for (mail, recipients) in [
        ("<a@example.org>", &[SENDER][..]),
        ("<victim@source.example>", &[SENDER]),
        ("<>", &[SENDER, SENDER]),
        ("<>", &[SENDER, "other@source.example"]),
        ("<>", &["ann@example.org", SENDER]),
        ("<>", &["victim@localhost"]),
        ("<>", &["victim@server.local"]),
        ("<>", &["victim@10.0.0.1"]),
        ("<>", &["victim@[10.0.0.1]"]),
    ] {
        let said = offer(&mut peer, mail, recipients, &report);
        let taken_inside = recipients[0] == "ann@example.org";
        assert!(
            said.starts_with("550 5.7.1") || (taken_inside && said.starts_with("250")),
            "{said}: {recipients:?}"
        );
    }
    assert!(assert_no_spam(&outside).is_empty());
    assert_eq!(outside.record().sessions, 0, "it was never even asked");
    // Mail from nobody to a recipient of ours goes inside, as it is.
    let arrived = inside.messages();
    assert_eq!(arrived.len(), 1);
    assert_eq!(arrived[0].recipients, ["<ann@example.org>"]);
    assert_eq!(captured.quit(peer), 0);
}

// covers: R3464-1
#[test]
fn what_leaves_is_the_report_of_the_puller() {
    let (inside, outside) = (Inside::smtp(), Inside::smtp());
    let mut captured = captured(&inside, &outside.target(), &[]);
    let mut peer = captured.pull();
    let report = report();
    let said = offer(&mut peer, "<>", &[SENDER], &report);
    assert!(said.starts_with("250 2.0.0"), "{said}");
    let messages = assert_no_spam(&outside);
    assert_eq!(messages.len(), 1);
    assert_eq!(
        messages[0].recipients,
        ["<victim@source.example> NOTIFY=NEVER"]
    );
    assert_eq!(captured.quit(peer), 0);
    if let Some(read) = read_report(&messages[0].content) {
        assert_eq!(read["defects"], serde_json::json!([]), "{read:#}");
        assert_eq!(read["type"], "multipart/report");
        assert_eq!(read["report_type"], "delivery-status");
        assert_eq!(
            read["recipients"][0]["Final-Recipient"],
            "rfc822; ann@example.org"
        );
    }
}

/// In chunks, and where the connection ends in the middle.
// covers: R3464-1, OWN-3
#[test]
fn half_a_report_does_not_leave() {
    let (inside, outside) = (Inside::smtp(), Inside::smtp());
    let mut captured = captured(&inside, &outside.target(), &[]);
    let mut peer = captured.pull();
    let report = report();
    peer.ask("MAIL FROM:<>", "250 ");
    peer.ask(&format!("RCPT TO:<{SENDER}>"), "250 ");
    let (first, rest) = report.split_at(report.len() / 2);
    peer.send_octets(format!("BDAT {}\r\n{first}", first.len()).as_bytes());
    peer.expect("250 ");
    peer.ask("RSET", "250 ");
    // What was forgotten is no part of the next.
    peer.ask("MAIL FROM:<>", "250 ");
    peer.ask(&format!("RCPT TO:<{SENDER}>"), "250 ");
    peer.send_octets(format!("BDAT {} LAST\r\n{rest}", rest.len()).as_bytes());
    peer.expect("550 5.7.1");
    peer.ask("MAIL FROM:<>", "250 ");
    peer.ask(&format!("RCPT TO:<{SENDER}>"), "250 ");
    peer.ask("DATA", "354");
    peer.send_octets(first.as_bytes());
    drop(peer);
    assert_eq!(captured.puller.pulled(), 75);
    assert_eq!(outside.record().sessions, 0);
    assert!(inside.messages().is_empty());
}

// covers: R3464-1
#[test]
fn so_many_leave_in_an_hour_over_all_sessions_of_a_daemon() {
    let (inside, outside) = (Inside::smtp(), Inside::smtp());
    let settings = [
        ("reports.max_per_hour", 5.into()),
        // New settings end a session of instant mode wherever it is, and a main one ends those beside it.
        ("relay.mode", "poll".into()),
        ("relay.sessions", 1.into()),
        ("relay.every", "1s".into()),
        ("relay.jitter", "0s".into()),
    ];
    let mut captured = captured(&inside, &outside.target(), &settings);
    captured.puller.start();
    let (mut left, mut refused) = (0, 0);
    for _ in 0..3 {
        let mut peer = captured.turn();
        for _ in 0..3 {
            let said = offer(&mut peer, "<>", &[SENDER], &report());
            left += usize::from(said.starts_with("250"));
            refused += usize::from(said.starts_with("450 4.7.1"));
        }
        peer.ask("QUIT", "221 ");
    }
    assert_eq!((left, refused), (5, 4));
    // Settings that change do not begin the hour anew.
    captured.puller.configure(|settings| {
        settings.set("reports.max_per_hour", 6);
    });
    let mut peer = loop {
        let mut peer = captured.turn();
        if captured.puller.log().contains("configuration reloaded") {
            break peer;
        }
        peer.ask("QUIT", "221 ");
    };
    // This session may have begun ahead of the change.
    peer.ask("QUIT", "221 ");
    let mut peer = captured.turn();
    assert!(offer(&mut peer, "<>", &[SENDER], &report()).starts_with("250"));
    assert!(offer(&mut peer, "<>", &[SENDER], &report()).starts_with("450 4.7.1"));
    peer.ask("QUIT", "221 ");
    assert_eq!(captured.puller.stop(), 0);
    assert_eq!(assert_no_spam(&outside).len(), 6);
}

/// A pull from cron is no new hour.
// covers: R3464-1
#[test]
fn so_many_leave_in_an_hour_over_all_pulls() {
    let (inside, outside) = (Inside::smtp(), Inside::smtp());
    let settings = [("reports.max_per_hour", 2.into())];
    let mut captured = captured(&inside, &outside.target(), &settings);
    let mut said = Vec::new();
    for _ in 0..3 {
        let mut peer = captured.pull();
        said.push(offer(&mut peer, "<>", &[SENDER], &report())[..3].to_owned());
        assert_eq!(captured.quit(peer), 0);
    }
    assert_eq!(said, ["250", "250", "450"]);
    assert_eq!(assert_no_spam(&outside).len(), 2);
}

/// Without `[reports]` there is no way out at all.
// covers: R5321-8
#[test]
fn nothing_leaves_where_nothing_is_set() {
    let inside = Inside::smtp();
    let mut captured = Captured::new(&inside.target(), &[]);
    let mut peer = captured.pull();
    let said = offer(&mut peer, "<>", &[SENDER], &report());
    assert!(said.starts_with("550 5.7.1"), "{said}");
    assert_eq!(captured.quit(peer), 0);
    assert!(inside.messages().is_empty());
}

/// The target of reports may be down: mail for inside does not notice.
// covers: R5321-27
#[test]
fn a_smart_host_that_is_down_keeps_reports_at_the_relay() {
    let (inside, outside) = (Inside::smtp(), Inside::smtp());
    outside.on(Step::Greeting).reply("421 4.3.2 later");
    let mut captured = captured(&inside, &outside.target(), &[]);
    let mut peer = captured.pull();
    let said = offer(&mut peer, "<>", &[SENDER], &report());
    assert!(said.starts_with("451 4.4.1"), "{said}");
    let said = offer(
        &mut peer,
        "<>",
        &["ann@example.org"],
        "Subject: x\r\n\r\nx\r\n",
    );
    assert!(said.starts_with("250 "), "{said}");
    assert_eq!(captured.quit(peer), 0);
    assert!(
        captured
            .puller
            .log()
            .contains("cannot reach the target of reports")
    );
    assert_eq!(inside.messages().len(), 1);
    assert!(outside.messages().is_empty());

    // A verdict of the smart host is a verdict.
    outside.behave();
    outside
        .on(Step::Rcpt)
        .once()
        .reply("550 5.1.1 nobody of that name");
    let mut peer = captured.pull();
    let said = offer(&mut peer, "<>", &[SENDER], &report());
    assert!(said.starts_with("550 5.1.1 nobody"), "{said}");
    let said = offer(&mut peer, "<>", &[SENDER], &report());
    assert!(said.starts_with("250 "), "{said}");
    assert_eq!(captured.quit(peer), 0);
    assert_eq!(assert_no_spam(&outside).len(), 1);
}

/// What leaves is a report to Postfix as well, which changes nothing of it.
// covers: R3464-1
#[test]
fn a_real_postfix_takes_what_leaves() {
    let Some(postfix) = Postfix::start("source.example") else {
        return;
    };
    let inside = Inside::smtp();
    let mut captured = captured(&inside, &postfix.target(), &[]);
    let mut peer = captured.pull();
    let said = offer(&mut peer, "<>", &[SENDER], &report());
    assert!(said.starts_with("250 "), "{said}");
    assert_eq!(captured.quit(peer), 0);
    let delivered = postfix.wait_for_messages(1).remove(0);
    let text = String::from_utf8_lossy(&delivered);
    assert!(text.starts_with("Return-Path: <>\r\n"), "{text}");
    assert!(!text.to_uppercase().contains(SPAM), "{text}");
    let Some(read) = read_report(&delivered) else {
        return;
    };
    assert_eq!(read["defects"], serde_json::json!([]), "{read:#}");
    assert_eq!(
        read["parts"],
        serde_json::json!(["text/plain", "message/delivery-status"])
    );
    assert_eq!(read["headers"]["Auto-Submitted"], "auto-replied");
}
