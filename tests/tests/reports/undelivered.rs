//! Who is told what, by the real relay, of mail that it could not get rid of.

use atrn_tests::inside::{Arrived, Inside, Offer, Step};
use atrn_tests::message::{self, Message, without_trace};
use atrn_tests::process::wait_until;
use atrn_tests::software::{Postfix, read_report};
use atrn_tests::world::{DOMAIN, Setup, World};
use serde_json::{Value, json};

const NONE: [&str; 0] = [];
const SENDER: &str = "sender@source.example";
const POSTMASTER: &str = "<postmaster@example.org> NOTIFY=NEVER";

/// A report, as Python reads it: well formed, from nobody, of one recipient.
#[track_caller]
fn read(arrived: &Arrived, to: &str) -> Option<Value> {
    assert!(arrived.mail.starts_with("<>"), "{}", arrived.mail);
    assert_eq!(arrived.recipients, [to]);
    let read = read_report(without_trace(&arrived.content))?;
    assert_valid(&read);
    Some(read)
}

/// RFC 3464 §2, RFC 6522 §3.
#[track_caller]
fn assert_valid(read: &Value) {
    assert_eq!(read["defects"], json!([]), "{read:#}");
    assert_eq!(read["type"], "multipart/report", "{read:#}");
    assert_eq!(read["report_type"], "delivery-status", "{read:#}");
    let parts = read["parts"].as_array().expect("parts");
    assert_eq!(parts[0], "text/plain", "{read:#}");
    assert_eq!(parts[1], "message/delivery-status", "{read:#}");
    assert!((2..=3).contains(&parts.len()), "{read:#}");
    let headers = read["headers"].as_object().expect("headers");
    for name in [
        "From",
        "To",
        "Subject",
        "Date",
        "Message-ID",
        "MIME-Version",
    ] {
        assert!(headers.contains_key(name), "{name}: {read:#}");
    }
    assert_eq!(read["headers"]["Auto-Submitted"], "auto-replied");
    let reporter = read["message"]["Reporting-MTA"]
        .as_str()
        .expect("a reporter");
    assert!(reporter.starts_with("dns;"), "{reporter}");
    for recipient in read["recipients"].as_array().expect("recipients") {
        for name in ["Final-Recipient", "Action", "Status"] {
            assert!(recipient[name].is_string(), "{name}: {read:#}");
        }
    }
}

/// Everything that is due is pulled, reports that the first pull caused included.
#[track_caller]
fn pull(world: &World) {
    for _ in 0..2 {
        let _ = world.puller.pull().expect_code(0);
    }
}

fn world(inside: &Inside, reports: &str) -> Setup {
    World::setup()
        .target(&inside.target())
        .relay("domain.reports", reports)
}

fn refusing(step: Step, who: &str, reply: &str) -> Inside {
    let inside = Inside::smtp();
    inside.on(step).with(who).reply(reply);
    inside
}

/// Sends a message with these parameters.
#[track_caller]
fn send_with(world: &World, mail: &str, recipients: &[&str], content: &str) {
    let mut peer = world.relay.smtp();
    peer.ehlo("client.source.example");
    peer.ask(&format!("MAIL FROM:{mail}"), "250 ");
    for recipient in recipients {
        peer.ask(&format!("RCPT TO:{recipient}"), "250 ");
    }
    peer.ask("DATA", "354");
    peer.ask(&format!("{content}."), "250 ");
    peer.ask("QUIT", "221 ");
}

/// The sender may be a forgery, and who is told is inside.
// covers: R3464-1, R2645-24
#[test]
fn a_refusal_at_rcpt_is_told_to_the_postmaster_where_nobody_knows_the_sender() {
    let inside = refusing(Step::Rcpt, "bob@", "550 5.1.1 no such user here");
    // The default is "verified-sender".
    let world = World::setup().target(&inside.target()).start();
    world.send(&[Message::new("bob@example.org", message::plain(1))]);
    pull(&world);
    let arrived = inside.messages();
    assert_eq!(arrived.len(), 1, "the report alone");
    assert_eq!(world.relay.queue_lines(), ["bob@example.org failed 1"]);
    let Some(read) = read(&arrived[0], POSTMASTER) else {
        return;
    };
    let told = &read["recipients"];
    assert_eq!(told.as_array().map(Vec::len), Some(1), "{read:#}");
    assert_eq!(told[0]["Final-Recipient"], "rfc822; bob@example.org");
    assert_eq!(told[0]["Action"], "failed");
    assert_eq!(told[0]["Status"], "5.1.1");
    assert_eq!(
        told[0]["Diagnostic-Code"],
        "smtp; 550 5.1.1 no such user here"
    );
    assert_eq!(read["message"]["Reporting-MTA"], "dns; relay.example.net");
    assert_eq!(read["original"]["Subject"], "message 1");
    let text = read["text"].as_str().expect("a text");
    assert!(
        text.contains("bob@example.org") && text.contains(SENDER),
        "{text}"
    );
}

// covers: R3464-1
#[test]
fn a_refusal_after_the_dot_is_told() {
    let inside = refusing(Step::EndOfData, "bob@", "554 5.6.0 not like this");
    let world = world(&inside, "postmaster").start();
    world.send(&[Message::new("bob@example.org", message::plain(2))]);
    pull(&world);
    let arrived = inside.messages();
    assert_eq!(arrived.len(), 1);
    let Some(read) = read(&arrived[0], POSTMASTER) else {
        return;
    };
    assert_eq!(read["recipients"][0]["Status"], "5.6.0");
    assert_eq!(read["original"]["Subject"], "message 2");
}

/// Each recipient is told of as it ended, once.
// covers: R3464-1, OWN-7, OWN-8, OWN-9
#[test]
fn of_several_recipients_those_are_told_of_who_did_not_get_it() {
    let inside = refusing(Step::Rcpt, "bob@", "550 5.1.1 no such user");
    inside
        .on(Step::Rcpt)
        .with("carl@")
        .once()
        .reply("450 4.2.1 later");
    inside
        .on(Step::Rcpt)
        .with("dora@")
        .reply("551 5.1.6 moved to x@secret.example");
    let world = world(&inside, "postmaster").start();
    let paths = ["ann", "bob", "carl", "dora"].map(|name| format!("{name}@example.org"));
    let message = Message::to(&paths.each_ref().map(String::as_str), message::plain(3));
    world.send(&[message]);
    pull(&world);
    world.relay.retry_all();
    // What failed is tried again as well, and told of again, if it fails again.
    pull(&world);
    let arrived = inside.messages();
    let to = |path: &str| {
        arrived
            .iter()
            .filter(|message| message.recipients == [path])
            .count()
    };
    assert_eq!(to("<ann@example.org>"), 1);
    assert_eq!(to("<carl@example.org>"), 1);
    let reports: Vec<_> = arrived
        .iter()
        .filter(|message| message.recipients == [POSTMASTER])
        .collect();
    for report in &reports {
        let Some(read) = read(report, POSTMASTER) else {
            return;
        };
        let told: Vec<_> = read["recipients"]
            .as_array()
            .expect("recipients")
            .iter()
            .map(|one| one["Final-Recipient"].as_str().unwrap_or_default())
            .collect();
        assert_eq!(
            told,
            ["rfc822; bob@example.org", "rfc822; dora@example.org"],
            "{read:#}"
        );
        let text = String::from_utf8_lossy(&report.content);
        assert!(
            !text.contains("secret.example") && !text.contains("carl@"),
            "{text}"
        );
    }
    assert_eq!(reports.len(), 2);
}

// covers: R3464-1, R5321-30, R2645-24
#[test]
fn what_nobody_pulled_in_time_is_told() {
    let inside = Inside::smtp();
    let world = world(&inside, "postmaster")
        .relay("domain.hold_for", "10s")
        .start();
    world.send(&[Message::new("ann@example.org", message::plain(4))]);
    wait_until(
        "the message is given up, and a report of it is held",
        || {
            let lines = world.relay.queue_lines();
            lines.contains(&"ann@example.org expired 0".to_owned()) && lines.len() == 2
        },
    );
    let _ = world.puller.pull().expect_code(0);
    let arrived = inside.messages();
    assert_eq!(arrived.len(), 1);
    assert_eq!(world.relay.queue_lines(), ["ann@example.org expired 0"]);
    let Some(read) = read(&arrived[0], POSTMASTER) else {
        return;
    };
    assert_eq!(read["recipients"][0]["Action"], "failed");
    assert_eq!(read["recipients"][0]["Status"], "5.4.7");
}

/// Reports never beget reports, and who wants none gets none.
// covers: R3464-1, R5321-10, R3461-1
#[test]
fn nobody_is_told_where_nobody_may_be_or_wants_to_be() {
    for (reports, mail, recipient) in [
        ("sender", "<>", "<bob@example.org>"),
        ("postmaster", "<>", "<bob@example.org>"),
        (
            "sender",
            "<sender@source.example>",
            "<bob@example.org> NOTIFY=NEVER",
        ),
        (
            "postmaster",
            "<sender@source.example>",
            "<bob@example.org> NOTIFY=NEVER",
        ),
        (
            "postmaster",
            "<sender@source.example>",
            "<bob@example.org> NOTIFY=SUCCESS,DELAY",
        ),
        (
            "none",
            "<sender@source.example>",
            "<bob@example.org> NOTIFY=FAILURE",
        ),
        ("none", "<sender@source.example>", "<bob@example.org>"),
    ] {
        let (inside, outside) = (refusing(Step::Rcpt, "bob@", "550 5.1.1 no"), Inside::smtp());
        let world = world(&inside, reports)
            .puller("reports.target", outside.target())
            .start();
        send_with(&world, mail, &[recipient], "Subject: x\r\n\r\nx\r\n");
        pull(&world);
        let what = format!("{reports} {mail} {recipient}");
        assert_eq!(
            world.relay.queue_lines(),
            ["bob@example.org failed 1"],
            "{what}"
        );
        assert!(
            inside.messages().is_empty() && outside.messages().is_empty(),
            "{what}"
        );
    }
}

/// A report that cannot go where it should stays, and nobody is told of that.
// covers: R3464-1
#[test]
fn a_report_that_is_refused_stays_as_failed() {
    let inside = refusing(Step::Rcpt, "@example.org", "550 5.1.1 nobody at all");
    let world = world(&inside, "postmaster").start();
    world.send(&[Message::new("bob@example.org", message::plain(5))]);
    for _ in 0..2 {
        pull(&world);
    }
    let mut lines = world.relay.queue_lines();
    lines.sort();
    assert_eq!(
        lines,
        [
            "bob@example.org failed 1",
            "postmaster@example.org failed 1"
        ]
    );
    assert!(inside.messages().is_empty());
    // An admin can look at it, and try again.
    let held = world.relay.queue_list(&["--sender", "<>"]);
    assert_eq!(held.len(), 1);
    inside.behave();
    let id = held[0]["id"].as_str().expect("an id");
    let _ = world.relay.cli(&["queue", "retry", id]).expect_code(0);
    pull(&world);
    assert_eq!(inside.messages().len(), 1);
    assert_eq!(inside.messages()[0].recipients, [POSTMASTER]);
}

/// The way outside, with all that a sender may ask for.
// covers: R3464-1, R3461-1
#[test]
fn a_sender_outside_is_told_by_the_smart_host() {
    let (inside, outside) = (
        refusing(
            Step::Rcpt,
            "bob@",
            "550 5.1.1 no such user, says inside.corp",
        ),
        Inside::smtp(),
    );
    let world = world(&inside, "sender")
        .puller("reports.target", outside.target())
        .start();
    let content = "Date: Thu, 01 Jan 2026 12:00:00 +0000\r\nSubject: secret\r\nMessage-ID: <m7@source.example>\r\n\r\nx\r\n";
    send_with(
        &world,
        "<sender@source.example> RET=FULL ENVID=QQ+2B314159",
        &[
            "<bob@example.org> NOTIFY=FAILURE ORCPT=rfc822;robert@elsewhere.example",
            "<ann@example.org> NOTIFY=NEVER",
        ],
        content,
    );
    pull(&world);
    assert_eq!(inside.messages().len(), 1, "what ann got");
    let arrived = outside.messages();
    assert_eq!(arrived.len(), 1);
    assert_eq!(world.relay.queue_lines(), ["bob@example.org failed 1"]);
    let text = String::from_utf8_lossy(&arrived[0].content).into_owned();
    for inner in ["inside.corp", "puller.example.org", "secret", "ann@"] {
        assert!(!text.contains(inner), "{inner}: {text}");
    }
    assert_eq!(
        without_trace(&arrived[0].content),
        arrived[0].content,
        "the way in is not told"
    );
    let Some(read) = read(&arrived[0], "<sender@source.example> NOTIFY=NEVER") else {
        return;
    };
    assert_eq!(read["message"]["Original-Envelope-Id"], "QQ+314159");
    assert_eq!(read["message"]["Reporting-MTA"], "dns; relay.example.net");
    let told = &read["recipients"][0];
    assert_eq!(
        told["Original-Recipient"],
        "rfc822; robert@elsewhere.example"
    );
    assert_eq!(told["Final-Recipient"], "rfc822; bob@example.org");
    assert_eq!(told["Status"], "5.1.1");
    assert_eq!(read["original"]["Message-ID"], "<m7@source.example>");
    assert_eq!(read["original"]["Date"], "Thu, 01 Jan 2026 12:00:00 +0000");
    assert_eq!(read["headers"]["To"], SENDER);
    assert_eq!(read["headers"]["In-Reply-To"], "<m7@source.example>");
}

#[test]
fn check_tries_the_smart_host() {
    let (inside, outside) = (Inside::smtp(), Inside::smtp());
    let world = world(&inside, "sender")
        .puller("reports.target", outside.target())
        .start();
    let checked = world.puller.cli(&["check"]).expect_code(0).stdout;
    let line = |text: &str| {
        text.lines()
            .find(|line| line.starts_with("reports "))
            .map(str::to_owned)
    };
    assert!(
        line(&checked)
            .is_some_and(|line| line.contains(" ok ") && line.contains(&outside.target())),
        "{checked}"
    );
    outside.on(Step::Greeting).reply("421 4.3.2 later");
    let checked = world.puller.cli(&["check"]).expect_code(1).stdout;
    assert!(
        line(&checked).is_some_and(|line| line.contains("FAILED")),
        "{checked}"
    );
    assert!(inside.messages().is_empty() && outside.messages().is_empty());
}

/// Without a way outside the report stays at the relay.
// covers: R3464-1
#[test]
fn without_a_smart_host_a_report_to_outside_stays_as_failed() {
    let (inside, outside) = (refusing(Step::Rcpt, "bob@", "550 5.1.1 no"), Inside::smtp());
    let world = world(&inside, "sender").start();
    world.send(&[Message::new("bob@example.org", message::plain(6))]);
    pull(&world);
    let mut lines = world.relay.queue_lines();
    lines.sort();
    assert_eq!(
        lines,
        ["bob@example.org failed 1", "sender@source.example failed 1"]
    );
    let held = &world.relay.queue_list(&["--sender", "<>"])[0];
    let said = held["last_reply"].as_str().expect("a reply");
    assert!(said.starts_with("550 5.7.1"), "{said}");
    // A target that is down keeps it for later; one that is there gets it.
    let id = held["id"].as_str().expect("an id").to_owned();
    for (target, expected) in [
        (
            "smtp://127.0.0.1:9".to_owned(),
            "sender@source.example deferred 2",
        ),
        (outside.target(), ""),
    ] {
        world.puller.configure(|settings| {
            settings.set("reports.target", target);
        });
        let _ = world.relay.cli(&["queue", "retry", &id]).expect_code(0);
        pull(&world);
        let lines = world.relay.queue_lines();
        let about_it = lines.iter().find(|line| line.starts_with(SENDER));
        assert_eq!(about_it.map(String::as_str).unwrap_or_default(), expected);
    }
    assert_eq!(outside.messages().len(), 1);
    assert!(inside.messages().is_empty());
}

/// More than the hour allows wait at the relay.
// covers: R3464-1
#[test]
fn the_hourly_limit_lets_reports_wait() {
    let (inside, outside) = (refusing(Step::Rcpt, "bob@", "550 5.1.1 no"), Inside::smtp());
    let mut world = world(&inside, "sender")
        .puller("reports.target", outside.target())
        .puller("reports.max_per_hour", 2)
        .puller("relay.every", "1s")
        .puller("relay.jitter", "0s")
        .start();
    let mut sent = vec![Message::new("bob@example.org", message::plain(7)); 4];
    // So that the server inside is believed at once.
    sent.push(Message::new("ann@example.org", message::plain(8)));
    world.send(&sent);
    world.puller.start();
    wait_until("two have left and two wait", || {
        let lines = world.relay.queue_lines();
        let waiting = lines
            .iter()
            .filter(|line| line.starts_with("sender@source.example deferred"));
        waiting.count() == 2
    });
    assert_eq!(world.puller.stop(), 0);
    assert_eq!(outside.messages().len(), 2);
    for held in world.relay.queue_list(&["--sender", "<>"]) {
        let said = held["last_reply"].as_str().expect("a reply");
        assert!(said.starts_with("450 4.7.1"), "{said}");
    }
}

/// RFC 3461 §5.2.2: behind the puller nobody confirms, so the relay does.
// covers: R3461-1, R3464-1
#[test]
fn who_asked_for_a_confirmation_hears_that_the_mail_was_passed_on() {
    let inside = Inside::offering(Offer::keywords(&["PIPELINING", "8BITMIME"]));
    let outside = Inside::smtp();
    let world = world(&inside, "sender")
        .puller("reports.target", outside.target())
        .start();
    send_with(
        &world,
        "<sender@source.example> ENVID=e1",
        &["<ann@example.org> NOTIFY=SUCCESS", "<bob@example.org>"],
        "Subject: x\r\n\r\nx\r\n",
    );
    pull(&world);
    assert_eq!(inside.messages().len(), 1);
    let arrived = outside.messages();
    assert_eq!(arrived.len(), 1);
    assert_eq!(world.relay.queue_lines(), NONE);
    let Some(read) = read(&arrived[0], "<sender@source.example> NOTIFY=NEVER") else {
        return;
    };
    assert_eq!(read["recipients"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        read["recipients"][0]["Final-Recipient"],
        "rfc822; ann@example.org"
    );
    assert_eq!(read["recipients"][0]["Action"], "relayed");
    assert_eq!(read["message"]["Original-Envelope-Id"], "e1");

    // A target that knows DSN is asked to confirm itself.
    let inside = Inside::smtp();
    world.puller.set_target(&inside.target());
    send_with(
        &world,
        "<sender@source.example>",
        &["<ann@example.org> NOTIFY=SUCCESS"],
        "Subject: x\r\n\r\nx\r\n",
    );
    pull(&world);
    assert!(
        inside
            .commands()
            .iter()
            .any(|line| line.contains("NOTIFY=SUCCESS"))
    );
    assert_eq!(outside.messages().len(), 1);
}

/// How much comes back is the sender's wish.
// covers: R3461-1
#[test]
fn the_whole_message_or_its_header_comes_back_as_asked() {
    let inside = refusing(Step::Rcpt, "bob@", "550 5.1.1 no");
    let world = world(&inside, "postmaster").start();
    let content = "Subject: what was said\r\nMessage-ID: <m8@source.example>\r\n\r\nA word.\r\n";
    for (ret, part) in [
        ("RET=FULL", "message/rfc822"),
        ("RET=HDRS", "text/rfc822-headers"),
        ("", "text/rfc822-headers"),
    ] {
        let before = inside.messages().len();
        send_with(
            &world,
            &format!("<sender@source.example> {ret}"),
            &["<bob@example.org>"],
            content,
        );
        pull(&world);
        let arrived = inside.messages();
        let Some(read) = read(&arrived[before], POSTMASTER) else {
            return;
        };
        assert_eq!(read["parts"][2], part, "{ret}");
        assert_eq!(read["original"]["Subject"], "what was said", "{ret}");
        let has_body = String::from_utf8_lossy(&arrived[before].content).contains("A word.");
        assert_eq!(has_body, ret == "RET=FULL", "{ret}");
    }
}

/// A real server refuses, and takes the report of it.
// covers: R3464-1
#[test]
fn postfix_refuses_and_takes_the_report() {
    let refuse = "check_recipient_access inline:{{bob@example.org=REJECT no bob here}}, permit_mynetworks, reject";
    let settings = [("smtpd_recipient_restrictions", refuse)];
    let Some(postfix) = Postfix::start_with(DOMAIN, &std::env::temp_dir(), &settings) else {
        return;
    };
    let world = World::setup()
        .target(&postfix.target())
        .relay("domain.reports", "postmaster")
        .start();
    send_with(
        &world,
        "<sender@source.example> RET=FULL ENVID=e2",
        &[
            "<bob@example.org> ORCPT=rfc822;bob@example.org",
            "<ann@example.org>",
        ],
        "From: a@source.example\r\nSubject: =?utf-8?q?gr=C3=BCn?=\r\n\r\nx\r\n",
    );
    pull(&world);
    let delivered = postfix.wait_for_messages(2);
    let is_report =
        |content: &&Vec<u8>| String::from_utf8_lossy(content).contains("multipart/report");
    let report = delivered.iter().find(is_report);
    let report = report.unwrap_or_else(|| panic!("{}", postfix.log()));
    let text = String::from_utf8_lossy(report);
    assert!(text.starts_with("Return-Path: <>\r\n"), "{text}");
    if let Some(read) = read_report(without_trace(report)) {
        assert_valid(&read);
        assert_eq!(read["recipients"][0]["Status"], "5.7.1");
        let said = read["recipients"][0]["Diagnostic-Code"]
            .as_str()
            .expect("a reply");
        assert!(said.contains("no bob here"), "{said}");
        assert_eq!(read["parts"][2], "message/rfc822");
        assert_eq!(read["original"]["Subject"], "gr\u{fc}n");
    }
}

// covers: R3464-1
#[test]
fn postfix_delivers_a_report_as_the_relay_made_it() {
    let Some(postfix) = Postfix::start(DOMAIN) else {
        return;
    };
    let inside = refusing(Step::Rcpt, "bob@", "550 5.1.1 no");
    inside
        .on(Step::Rcpt)
        .with("postmaster@")
        .reply("450 4.2.1 later");
    let world = world(&inside, "postmaster").start();
    for ret in ["RET=FULL", "RET=HDRS"] {
        let content = ".\r\nSubject: x\r\n\r\n.A word.\r\n..\r\n";
        send_with(
            &world,
            &format!("<sender@source.example> {ret}"),
            &["<bob@example.org>"],
            &content[3..],
        );
    }
    pull(&world);
    let held = world
        .relay
        .queue_list(&["--sender", "<>", "--state", "deferred"]);
    assert_eq!(held.len(), 2, "{:#?}", world.relay.queue_lines());
    let made: Vec<_> = held
        .iter()
        .map(|report| {
            let id = report["id"].as_str().expect("an id");
            world.relay.cli(&["queue", "cat", id]).expect_code(0).stdout
        })
        .collect();
    world.puller.set_target(&postfix.target());
    let _ = world
        .relay
        .cli(&["queue", "retry", "--sender", "<>"])
        .expect_code(0);
    pull(&world);
    let delivered = postfix.wait_for_messages(2);
    for made in &made {
        let arrived = delivered
            .iter()
            .any(|content| without_trace(content) == made.as_bytes());
        assert!(
            arrived,
            "not as it was made: {made}\n{}",
            String::from_utf8_lossy(&delivered[0])
        );
    }
}
