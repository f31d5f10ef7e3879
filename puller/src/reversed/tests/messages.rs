//! Messages on their way through: envelope, content and verdict.

use super::*;

// covers: R5321-17, R5321-19, R5321-13, R3030-1
#[tokio::test]
async fn content_goes_on_as_it_came_under_our_trace_header() {
    let mut world = World::greeted(Script::default()).await;
    let content = "Return-Path: <x@y.example>\r\nSubject: x\r\n\r\n.one\r\n..two\r\n\u{f6}\r\n";
    world
        .relay
        .expect(
            &format!("{ENVELOPE}{}", chunk(content)),
            &[TAKEN[0], TAKEN[1], "250 2.0.0"],
        )
        .await;
    world
        .relay
        .expect(&format!("{ENVELOPE}DATA\r\n"), &[TAKEN[0], TAKEN[1], "354"])
        .await;
    let stuffed = content.replace("\r\n.", "\r\n..");
    world
        .relay
        .expect(&format!("{stuffed}.\r\n"), &["250 2.0.0"])
        .await;
    // In chunks, the second of which is empty.
    let parts = format!("{ENVELOPE}BDAT 4\r\nSubjBDAT 0\r\nBDAT 7 LAST\r\nect: \r\n");
    world
        .relay
        .expect(
            &parts,
            &[TAKEN[0], TAKEN[1], "250 2.0.0", "250 2.0.0", "250 2.0.0"],
        )
        .await;
    let (tally, corporate) = world.quit().await;
    assert_eq!(
        (tally.messages, tally.octets),
        (3, 2 * content.len() as u64 + 11)
    );
    let messages = corporate.record().messages;
    for (message, content) in messages.iter().zip([content, content, "Subject: \r\n"]) {
        let trace = message.strip_suffix(content).unwrap();
        assert!(
            trace.starts_with(
                "Received: from relay.example.net\r\n\tby puller.example.org with ESMTP id 5e5510-"
            ),
            "{trace}"
        );
        assert!(
            trace.contains("\r\n\tfor <u@example.org>;\r\n\t") && trace.ends_with("\r\n"),
            "{trace}"
        );
        assert_eq!(trace.matches("Received:").count(), 1);
    }
}

// covers: R5321-16, R3848-1
#[tokio::test]
async fn the_trace_header_names_the_only_recipient_and_the_protocol() {
    let mut world = World::greeted(Script::default()).await;
    let two = format!("{ENVELOPE}RCPT TO:<v@example.org>\r\n{}", chunk("x\r\n"));
    world
        .relay
        .expect(&two, &[TAKEN[0], TAKEN[1], TAKEN[1], "250 2.0.0"])
        .await;
    let utf8 = format!(
        "MAIL FROM:<> SMTPUTF8\r\nRCPT TO:<\u{f6}@example.org>\r\n{}",
        chunk("x\r\n")
    );
    world
        .relay
        .expect(&utf8, &[TAKEN[0], TAKEN[1], "250 2.0.0"])
        .await;
    let (_, corporate) = world.quit().await;
    let messages = corporate.record().messages;
    assert!(!messages[0].contains("for <"), "{}", messages[0]);
    assert!(
        messages[1].contains("with UTF8SMTP id")
            && messages[1].contains("for <\u{f6}@example.org>"),
        "{}",
        messages[1]
    );
}

// covers: R5321-28, R2920-1, R2920-2
#[tokio::test]
async fn a_pipelined_group_goes_on_as_one_flight_and_is_answered_in_order() {
    let script = Script::default()
        .on("RCPT TO:<no", "550 5.1.1 no such user")
        .on("RCPT TO:<later", "452 4.2.2 full");
    let mut world = World::greeted(script).await;
    let group = "MAIL FROM:<a@b.example>\r\nRCPT TO:<no@example.org>\r\nRCPT TO:<x@foreign.example>\r\n\
                 RCPT TO:<later@example.org>\r\nNOOP\r\nRCPT TO:<u@example.org>\r\nDATA\r\n";
    let expected = [
        "250 2.1.0",
        "550 5.1.1",
        "550 5.7.1",
        "452 4.2.2",
        "250 2.0.0",
        "250 2.1.5",
        "354",
    ];
    world.relay.expect(group, &expected).await;
    world.relay.expect("x\r\n.\r\n", &["250 2.0.0"]).await;
    // Whole messages behind each other: no answer overtakes another.
    let message = format!("{ENVELOPE}{}", chunk("x\r\n"));
    let twice = format!(
        "{message}MAIL FROM:<>\r\nRCPT TO:<no@example.org>\r\n{}{message}",
        chunk("y\r\n")
    );
    let expected = [
        TAKEN[0],
        TAKEN[1],
        "250 2.0.0",
        TAKEN[0],
        "550 5.1.1",
        "554 5.5.1",
        TAKEN[0],
        TAKEN[1],
        "250 2.0.0",
    ];
    world.relay.expect(&twice, &expected).await;
    let (tally, corporate) = world.quit().await;
    assert_eq!(tally.messages, 3);
    let record = corporate.record();
    let flight = "MAIL FROM:<a@b.example>\r\nRCPT TO:<no@example.org>\r\nRCPT TO:<later@example.org>\r\nRCPT TO:<u@example.org>\r\nDATA\r\n";
    assert!(
        record.flights.contains(&flight.to_owned()),
        "{:?}",
        record.flights
    );
}

// covers: R5321-28, OWN-8, OWN-9
#[tokio::test]
async fn the_verdict_is_that_of_the_target_and_its_name_stays_inside() {
    for (command, reply, expected) in [
        (
            "MAIL",
            "550 5.7.1 mail.corp.local says no",
            &["550 5.7.1", "503 5.5.1", "503 5.5.1"][..],
        ),
        (
            "MAIL",
            "451 4.7.1 greylisted",
            &["451 4.7.1", "503 5.5.1", "503 5.5.1"],
        ),
        (
            "DATA",
            "451 4.3.0 later",
            &[TAKEN[0], TAKEN[1], "451 4.3.0"],
        ),
        ("DATA", "554 5.7.1 no", &[TAKEN[0], TAKEN[1], "554 5.7.1"]),
    ] {
        let mut world = World::greeted(Script::default().once(command, reply)).await;
        world
            .relay
            .expect(&format!("{ENVELOPE}DATA\r\n"), expected)
            .await;
        world.relay.expect("RSET\r\n", &["250 2.0.0"]).await;
        world
            .relay
            .expect(
                &format!("{ENVELOPE}{}", chunk("x\r\n")),
                &[TAKEN[0], TAKEN[1], "250 2.0.0"],
            )
            .await;
        let (tally, corporate) = world.quit().await;
        assert_eq!((tally.messages, corporate.record().sessions), (1, 1));
    }
    for (reply, expected, counted) in [
        (
            "250 2.0.0 mail.corp.local has it",
            "250 2.0.0 Message handed over",
            [1, 0, 0],
        ),
        (
            "452 4.3.1 mail.corp.local is full",
            "452 4.3.1 (host) is full",
            [0, 1, 0],
        ),
        ("554 5.6.0 spam", "554 5.6.0 spam", [0, 0, 1]),
    ] {
        let mut world = World::greeted(Script::default().once(".", reply)).await;
        world
            .relay
            .expect(&format!("{ENVELOPE}{}", chunk("x\r\n")), &TAKEN)
            .await;
        assert_eq!(world.relay.reply().await, expected);
        let (tally, _) = world.quit().await;
        assert_eq!([tally.messages, tally.deferred, tally.refused], counted);
    }
}

// covers: R5321-14, R5321-21, OWN-3
#[tokio::test]
async fn content_that_is_refused_here_does_not_become_a_message_inside() {
    let huge = "x".repeat(998) + "\r\n";
    let huge = huge.repeat(105);
    for (content, expected) in [
        ("a\nb\r\n", "550 5.6.0"),
        ("a\r\n.\rb\r\n", "550 5.6.0"),
        (huge.as_str(), "552 5.3.4"),
    ] {
        let mut world = World::greeted(Script::default()).await;
        world
            .relay
            .expect(&format!("{ENVELOPE}DATA\r\n"), &[TAKEN[0], TAKEN[1], "354"])
            .await;
        world
            .relay
            .expect(&format!("{content}.\r\n"), &[expected])
            .await;
        world
            .relay
            .expect(
                &format!("{ENVELOPE}{}", chunk("x\r\n")),
                &[TAKEN[0], TAKEN[1], "250 2.0.0"],
            )
            .await;
        let (tally, corporate) = world.quit().await;
        assert_eq!((tally.messages, tally.refused), (1, 1));
        assert_eq!(
            (
                corporate.record().messages.len(),
                corporate.record().torn.len()
            ),
            (1, 1)
        );
    }
}

// covers: R6152-2, R6531-2, R1870-3
#[tokio::test]
async fn what_the_target_can_not_carry_is_refused_message_by_message() {
    let mut world = World::greeted(Script::offering(&["PIPELINING", "SIZE 5000"])).await;
    for (parameters, expected) in [
        (" BODY=8BITMIME", "554 5.6.3"),
        (" SMTPUTF8", "550 5.6.7"),
        (" SIZE=5001", "552 5.3.4"),
    ] {
        world
            .relay
            .expect(&format!("MAIL FROM:<>{parameters}\r\n"), &[expected])
            .await;
    }
    world
        .relay
        .expect(
            &format!("{ENVELOPE}{}", chunk("\u{f6}\r\n")),
            &[TAKEN[0], TAKEN[1], "554 5.6.3"],
        )
        .await;
    world
        .relay
        .expect(
            &format!("{ENVELOPE}{}", chunk("o\r\n")),
            &[TAKEN[0], TAKEN[1], "250 2.0.0"],
        )
        .await;
    let (_, corporate) = world.quit().await;
    assert_eq!(corporate.record().messages.len(), 1);
}

// covers: R2033-1
#[tokio::test]
async fn lmtp_inside_means_one_recipient_a_transaction_outside() {
    let mut world = World::greeted(
        Script {
            lmtp: true,
            ..Script::default()
        }
        .once(".", "550 5.2.2 too big for u"),
    )
    .await;
    let two = format!("{ENVELOPE}RCPT TO:<v@example.org>\r\n{}", chunk("x\r\n"));
    world
        .relay
        .expect(&two, &[TAKEN[0], TAKEN[1], "452 4.5.3", "550 5.2.2"])
        .await;
    let rest = format!(
        "MAIL FROM:<>\r\nRCPT TO:<v@example.org>\r\n{}",
        chunk("x\r\n")
    );
    world
        .relay
        .expect(&rest, &[TAKEN[0], TAKEN[1], "250 2.0.0"])
        .await;
    let (tally, corporate) = world.quit().await;
    assert_eq!(
        (
            tally.messages,
            tally.refused,
            corporate.record().messages.len()
        ),
        (1, 1, 1)
    );
}
