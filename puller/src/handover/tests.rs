//! The hand-over against a corporate server that misbehaves by script.

use super::*;
use crate::testing::{Action, Corporate, Script, setup};

mod maildir;

fn mail(parameters: &str) -> (ReversePath, MailParameters) {
    let path = ReversePath::from_address("a@b.example").unwrap();
    (path, MailParameters::parse(parameters).unwrap())
}

fn recipient(address: &str) -> (ForwardPath, RcptParameters) {
    let parameters = RcptParameters::parse("NOTIFY=FAILURE ORCPT=rfc822;o@example.org").unwrap();
    (ForwardPath::from_address(address).unwrap(), parameters)
}

fn group(parameters: &str, recipients: &[&str], content: Option<Framing>) -> Group {
    Group {
        mail: Some(mail(parameters)),
        recipients: recipients
            .iter()
            .map(|address| recipient(address))
            .collect(),
        content,
        ..Group::default()
    }
}

fn shown(verdicts: &Verdicts) -> String {
    let replies = verdicts
        .mail
        .iter()
        .chain(&verdicts.recipients)
        .chain(&verdicts.content);
    let codes = replies.map(|reply| match reply.enhanced() {
        Some(enhanced) => format!("{} {enhanced}", reply.code()),
        None => reply.code().to_string(),
    });
    codes.collect::<Vec<_>>().join(", ")
}

async fn open(script: Script) -> (Corporate, Handover) {
    let corporate = Corporate::start(script).await;
    let handover = Handover::open(&corporate.setup()).await.unwrap();
    (corporate, handover)
}

/// One whole message; the replies to its commands, and the verdict.
async fn send(handover: &mut Handover, group: &Group) -> (String, Option<Reply>) {
    let verdicts = handover.begin(group).await;
    let wants_content = verdicts
        .content
        .as_ref()
        .is_some_and(Reply::is_intermediate);
    let mut verdict = None;
    if wants_content {
        handover.body(b"Subject: x\r\n\r\n.text\r\n").await;
        verdict = Some(handover.finish().await.reply);
    }
    (shown(&verdicts), verdict)
}

const DATA: Option<Framing> = Some(Framing::Data);

// covers: R2920-2, R5321-28, R5321-29
#[tokio::test]
async fn a_group_goes_out_in_one_flight() {
    let (corporate, mut handover) = open(Script::default()).await;
    let whole = group("", &["u@example.org", "v@example.org"], DATA);
    let (replies, verdict) = send(&mut handover, &whole).await;
    assert_eq!(replies, "250 2.1.0, 250 2.1.5, 250 2.1.5, 354");
    assert_eq!(
        verdict.unwrap().to_string(),
        "250 2.0.0 Message handed over"
    );
    let record = corporate.record();
    assert_eq!(record.messages, ["Subject: x\r\n\r\n.text\r\n"]);
    let one_flight = record.flights.iter().any(|flight| {
        flight.starts_with("MAIL FROM:<a@b.example>\r\nRCPT TO:<u@example.org>")
            && flight.ends_with("DATA\r\n")
    });
    assert!(one_flight, "{:?}", record.flights);
}

// covers: R2920-2, R5321-28
#[tokio::test]
async fn a_target_without_pipelining_gets_one_command_at_a_time() {
    let (corporate, mut handover) =
        open(Script::offering(&[]).on("RCPT TO:<no", "550 5.1.1 no")).await;
    let whole = group("", &["no@example.org", "u@example.org"], DATA);
    let (replies, verdict) = send(&mut handover, &whole).await;
    assert_eq!(replies, "250 2.1.0, 550 5.1.1, 250 2.1.5, 354");
    assert!(verdict.unwrap().is_positive());
    let commands = |flight: &String| flight.matches("\r\n").count();
    let flights = corporate.record().flights;
    let envelope: Vec<_> = flights
        .iter()
        .filter(|flight| !flight.contains("Subject"))
        .collect();
    assert!(
        envelope.iter().all(|flight| commands(flight) == 1),
        "{flights:?}"
    );
}

// covers: R2920-2, R5321-28
#[tokio::test]
async fn a_group_in_parts_is_passed_on_in_parts() {
    let (corporate, mut handover) =
        open(Script::default().on("RCPT TO:<later", "450 4.2.0 later")).await;
    let parts = [
        (
            Group {
                mail: Some(mail("")),
                ..Group::default()
            },
            "250 2.1.0",
        ),
        (
            Group {
                recipients: vec![recipient("later@example.org")],
                ..Group::default()
            },
            "450 4.2.0",
        ),
        (
            Group {
                recipients: vec![recipient("u@example.org")],
                ..Group::default()
            },
            "250 2.1.5",
        ),
        (
            Group {
                content: DATA,
                ..Group::default()
            },
            "354",
        ),
    ];
    for (part, expected) in parts {
        assert_eq!(shown(&handover.begin(&part).await), expected);
    }
    assert!(handover.finish().await.reply.is_positive());
    assert_eq!(corporate.record().messages, [""]);
}

// covers: R5321-28, R2920-2
#[tokio::test]
async fn a_refused_sender_or_nobody_accepted_leaves_the_target_ready() {
    let script = Script::default()
        .once("MAIL", "550 5.7.1 not you")
        .on("RCPT TO:<no", "550 5.1.1 no")
        .once("DATA", "354 all the same");
    let (corporate, mut handover) = open(script).await;
    let (replies, _) = send(&mut handover, &group("", &["u@example.org"], None)).await;
    assert!(replies.starts_with("550 5.7.1, "), "{replies}");
    handover.abandon().await;
    // It lets content come for nobody: a lone dot ends that (RFC 2920 §3.1), and none of ours follows.
    let (replies, verdict) = send(&mut handover, &group("", &["no@example.org"], DATA)).await;
    assert_eq!(
        (replies.as_str(), verdict),
        ("250 2.1.0, 550 5.1.1, 554 5.5.1", None)
    );
    handover.abandon().await;
    let (replies, verdict) = send(&mut handover, &group("", &["u@example.org"], DATA)).await;
    assert_eq!(replies, "250 2.1.0, 250 2.1.5, 354");
    assert!(verdict.unwrap().is_positive());
    assert_eq!(corporate.record().sessions, 1);
}

// covers: R1870-3, R6152-2, R6531-2
#[tokio::test]
async fn what_the_target_can_not_carry_is_not_offered_to_it() {
    let (corporate, mut handover) = open(Script::offering(&["PIPELINING", "SIZE 1000"])).await;
    let octets = Some(Framing::Bdat { octets: Some(1001) });
    for (parameters, content, expected) in [
        ("SIZE=1001", DATA, "552 5.3.4"),
        ("", octets, "552 5.3.4"),
        ("BODY=8BITMIME", DATA, "554 5.6.3"),
        ("SMTPUTF8", DATA, "550 5.6.7"),
    ] {
        let verdicts = handover
            .begin(&group(parameters, &["u@example.org"], content))
            .await;
        assert!(
            shown(&verdicts).starts_with(expected),
            "{parameters}: {}",
            shown(&verdicts)
        );
    }
    assert!(
        !corporate
            .record()
            .commands
            .iter()
            .any(|command| command.starts_with("MAIL"))
    );
    // A relay that does not say so beforehand: found in the content, and the content does not become a message.
    for (content, expected) in [
        ("gr\u{f6}\u{df}e\r\n".to_owned(), "554 5.6.3"),
        ("x".repeat(999) + "\r\n", "552 5.3.4"),
    ] {
        let verdicts = handover.begin(&group("", &["u@example.org"], DATA)).await;
        assert_eq!(shown(&verdicts), "250 2.1.0, 250 2.1.5, 354");
        handover.body(b"Subject: x\r\n\r\n").await;
        handover.body(content.as_bytes()).await;
        let Verdict { reply, .. } = handover.finish().await;
        assert!(reply.to_string().starts_with(expected), "{reply}");
    }
    assert!(corporate.record().messages.is_empty());
    let (_, verdict) = send(&mut handover, &group("", &["u@example.org"], DATA)).await;
    assert!(verdict.unwrap().is_positive());
}

// covers: R1870-3, R3461-1, R6152-1
#[tokio::test]
async fn parameters_go_on_where_they_are_understood() {
    let parameters = "SIZE=100 BODY=8BITMIME RET=HDRS ENVID=QQ";
    let whole = || group(parameters, &["u@example.org"], DATA);
    let (corporate, mut handover) = open(Script::default()).await;
    send(&mut handover, &whole()).await;
    let commands = corporate.record().commands;
    assert!(
        commands.contains(
            &"MAIL FROM:<a@b.example> SIZE=612 BODY=8BITMIME RET=HDRS ENVID=QQ".to_owned()
        ),
        "{commands:?}"
    );
    assert!(
        commands.contains(
            &"RCPT TO:<u@example.org> NOTIFY=FAILURE ORCPT=rfc822;o@example.org".to_owned()
        ),
        "{commands:?}"
    );
    let (corporate, mut handover) = open(Script::offering(&["8BITMIME"])).await;
    send(&mut handover, &whole()).await;
    let commands = corporate.record().commands;
    assert!(
        commands.contains(&"MAIL FROM:<a@b.example> BODY=8BITMIME".to_owned()),
        "{commands:?}"
    );
    assert!(
        commands.contains(&"RCPT TO:<u@example.org>".to_owned()),
        "{commands:?}"
    );
}

// covers: R5321-27
#[tokio::test]
async fn a_target_that_refuses_us_before_mail_is_no_target() {
    for (command, reply) in [
        ("GREETING", "554 5.3.2 no"),
        ("GREETING", "421 4.3.2 later"),
        ("EHLO", "421 4.3.2 busy"),
        ("EHLO", "451 4.3.2 busy"),
    ] {
        let corporate = Corporate::start(Script::default().on(command, reply)).await;
        let error = Handover::open(&corporate.setup()).await.unwrap_err();
        assert!(
            matches!(error, ConnectError::Link(_)),
            "{command} {reply}: {error}"
        );
    }
}

// covers: R5321-27
#[tokio::test]
async fn link_faults_are_transient_and_the_next_message_gets_a_new_connection() {
    for command in ["MAIL", "RCPT", "DATA", "."] {
        let script = Script::default()
            .hang_up_once(command)
            .hang_up_once(command);
        let (corporate, mut handover) = open(script).await;
        let (replies, verdict) = send(&mut handover, &group("", &["u@example.org"], DATA)).await;
        let verdict = verdict.map_or(replies, |reply| reply.to_string());
        assert!(verdict.contains("451 4.4."), "{command}: {verdict}");
        assert!(!handover.is_exhausted());
        let mut last = String::new();
        for _ in 0..2 {
            let (_, verdict) = send(&mut handover, &group("", &["u@example.org"], DATA)).await;
            last = verdict.map(|reply| reply.to_string()).unwrap_or_default();
        }
        assert!(last.starts_with("250"), "{command}: {last}");
        assert!(corporate.record().sessions >= 2);
    }
}

// covers: R5321-27
#[tokio::test]
async fn a_refusal_of_a_new_connection_is_never_a_verdict_on_mail() {
    for (command, reply) in [("GREETING", "554 5.3.2 no"), ("EHLO", "421 4.3.2 busy")] {
        let (corporate, mut handover) =
            open(Script::default().once(".", "421 4.3.2 closing")).await;
        corporate.change(|script| {
            script
                .rules
                .push((command, Action::Reply(reply), usize::MAX))
        });
        let (_, verdict) = send(&mut handover, &group("", &["u@example.org"], DATA)).await;
        assert_eq!(verdict.unwrap().code(), 451);
        for _ in 0..2 {
            let (replies, _) = send(&mut handover, &group("", &["u@example.org"], DATA)).await;
            assert_eq!(replies, "451 4.4.1, 451 4.4.1, 451 4.4.1");
        }
        assert!(handover.is_exhausted(), "{command}");
        assert!(corporate.record().messages.is_empty());
    }
}

// covers: R5321-27
#[tokio::test]
async fn a_connection_gone_stale_costs_nothing() {
    for script in [
        Script::default().once("MAIL", "421 4.4.2 too long idle"),
        Script::default().hang_up_once("MAIL"),
    ] {
        let (corporate, mut handover) = open(script).await;
        let (replies, verdict) = send(&mut handover, &group("", &["u@example.org"], DATA)).await;
        assert_eq!(replies, "250 2.1.0, 250 2.1.5, 354");
        assert!(verdict.unwrap().is_positive());
        assert_eq!(corporate.record().sessions, 2);
    }
}

// covers: R5321-27
#[tokio::test]
async fn a_target_that_locks_us_out_has_not_judged_the_message() {
    for reply in ["530 5.7.0 log in first", "535 5.7.8 who are you"] {
        let (corporate, mut handover) = open(Script::default().once("MAIL", reply)).await;
        let (replies, _) = send(&mut handover, &group("", &["u@example.org"], DATA)).await;
        assert_eq!(replies, "451 4.7.0, 451 4.7.0, 451 4.7.0");
        let (_, verdict) = send(&mut handover, &group("", &["u@example.org"], DATA)).await;
        assert!(verdict.unwrap().is_positive());
        assert_eq!(corporate.record().sessions, 2);
    }
}

// covers: R2033-1
#[tokio::test]
async fn lmtp_takes_one_recipient_a_transaction() {
    let script = Script {
        lmtp: true,
        ..Script::default()
    }
    .on("RCPT TO:<no", "550 5.1.1 no");
    let (corporate, mut handover) = open(script).await;
    let recipients = ["no@example.org", "u@example.org", "v@example.org"];
    let (replies, verdict) = send(&mut handover, &group("", &recipients, DATA)).await;
    assert_eq!(replies, "250 2.1.0, 550 5.1.1, 250 2.1.5, 452 4.5.3, 354");
    assert!(verdict.unwrap().is_positive());
    let (replies, verdict) = send(&mut handover, &group("", &["v@example.org"], DATA)).await;
    assert_eq!(replies, "250 2.1.0, 250 2.1.5, 354");
    assert!(verdict.unwrap().is_positive());
    let (replies, _) = send(&mut handover, &group("", &["no@example.org"], DATA)).await;
    assert_eq!(replies, "250 2.1.0, 550 5.1.1, 554 5.5.1");
    let record = corporate.record();
    assert_eq!(record.messages.len(), 2);
    assert!(
        record
            .commands
            .contains(&"LHLO puller.example.org".to_owned())
    );
}

// covers: R5321-40, R5321-41, R5321-42, R5321-43, R5321-44, R5321-45
#[test]
fn waits_are_those_of_the_rfc_and_end_before_the_relay_gives_up() {
    let waits = timeouts();
    let minutes = |wait: Duration| wait.as_secs() / 60;
    assert_eq!(
        [waits.greeting, waits.mail, waits.recipient].map(minutes),
        [5, 5, 5]
    );
    assert_eq!(
        [waits.data, waits.block, waits.end_of_data].map(minutes),
        [2, 3, 9]
    );
    assert!(crate::dial::CONNECT_TIMEOUT <= Duration::from_secs(30));
}
