//! Reversed sessions between a relay that a test plays and a corporate server that misbehaves by script.

use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::*;
use crate::testing::{Corporate, PATIENCE, RelayEnd, Script, terms};

struct World {
    relay: RelayEnd,
    corporate: Corporate,
    session: JoinHandle<(Tally, End)>,
    stop: CancellationToken,
}

impl World {
    async fn start(script: Script) -> Self {
        let corporate = Corporate::start(script).await;
        let handover = Handover::open(&corporate.setup()).await.unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let terms = terms();
        let stop = terms.stop.clone();
        let session = tokio::spawn(async move { serve(Wire::unix(ours), handover, &terms).await });
        Self {
            relay: RelayEnd::new(theirs),
            corporate,
            session,
            stop,
        }
    }

    /// Past the hello.
    async fn greeted(script: Script) -> Self {
        let mut world = Self::start(script).await;
        world.relay.hello().await;
        world
    }

    async fn quit(mut self) -> (Tally, Corporate) {
        self.relay.expect("QUIT\r\n", &["221 2.0.0"]).await;
        let (tally, end) = self.session.await.unwrap();
        assert!(matches!(end, End::Quit), "{end}");
        (tally, self.corporate)
    }

    /// How the session ended, with the relay's end still open.
    async fn ended(session: JoinHandle<(Tally, End)>) -> (Tally, End) {
        tokio::time::timeout(PATIENCE, session)
            .await
            .unwrap()
            .unwrap()
    }
}

const ENVELOPE: &str = "MAIL FROM:<a@b.example>\r\nRCPT TO:<u@example.org>\r\n";
const TAKEN: [&str; 2] = ["250 2.1.0", "250 2.1.5"];

fn chunk(content: &str) -> String {
    format!("BDAT {} LAST\r\n{content}", content.len())
}

// covers: R2645-18, R2645-20, R2645-21, R5321-1, R1870-1, R6152-1, R3030-1, R3030-2
#[tokio::test]
async fn the_offer_is_our_own() {
    let mut world = World::start(Script::default()).await;
    let offer = world.relay.hello().await;
    let expected = "250-puller.example.org|250-PIPELINING|250-SIZE 104096|250-ENHANCEDSTATUSCODES|250-8BITMIME|250-DSN|\
                    250-SMTPUTF8|250 CHUNKING";
    assert_eq!(offer, expected);
    world.quit().await;
}

// covers: R2645-20, R2645-21, R2645-22
#[tokio::test]
async fn no_second_reversal_no_tls_and_no_login() {
    let mut world = World::greeted(Script::default()).await;
    for command in [
        "ATRN example.org",
        "TURN",
        "ETRN example.org",
        "AUTH PLAIN AGEAYg==",
        "STARTTLS",
    ] {
        world
            .relay
            .expect(&format!("{command}\r\n"), &["502 5.5.1"])
            .await;
    }
    world.quit().await;
}

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

// covers: R5321-8, R5321-9, R5321-6, R5321-7
#[tokio::test]
async fn only_what_was_asked_for_is_taken() {
    let mut world = World::greeted(Script::default()).await;
    world.relay.expect("MAIL FROM:<>\r\n", &[TAKEN[0]]).await;
    for (path, expected) in [
        ("<u@example.org>", "250 2.1.5"),
        ("<u@EXAMPLE.com>", "250 2.1.5"),
        ("<Postmaster>", "250 2.1.5"),
        ("<POSTMASTER@example.org>", "250 2.1.5"),
        ("<u@sub.example.org>", "550 5.7.1"),
        ("<u@other.example>", "550 5.7.1"),
        ("<postmaster@other.example>", "550 5.7.1"),
        ("<u@[192.0.2.1]>", "550 5.7.1"),
        ("<u%other.example@example.org>", "550 5.1.1"),
        ("<\"u@other.example\"@example.org>", "550 5.1.1"),
        ("<|/bin/sh@example.org>", "550 5.1.1"),
        ("<@example.org:u@other.example>", "550 5.1.0"),
        ("u@example.org", "501 5.5.4"),
        ("<u@example.org\u{0}>", "500 5.5.2"),
    ] {
        world.relay.send(&format!("RCPT TO:{path}\r\n")).await;
        let reply = world.relay.reply().await;
        assert_eq!(reply[..3], expected[..3], "{path}: {reply}");
    }
    world.relay.expect("RSET\r\n", &["250 2.0.0"]).await;
    let (_, corporate) = world.quit().await;
    let commands = corporate.record().commands;
    let recipients: Vec<_> = commands
        .iter()
        .filter(|command| command.starts_with("RCPT"))
        .collect();
    assert_eq!(
        recipients,
        [
            "RCPT TO:<u@example.org>",
            "RCPT TO:<u@EXAMPLE.com>",
            "RCPT TO:<Postmaster>",
            "RCPT TO:<POSTMASTER@example.org>"
        ]
    );
}

// covers: R5321-8
#[tokio::test]
async fn content_for_nobody_inside_is_refused_without_asking() {
    let mut world = World::greeted(Script::default()).await;
    let foreign = format!(
        "MAIL FROM:<>\r\nRCPT TO:<u@other.example>\r\n{}RSET\r\n",
        chunk("x\r\n")
    );
    world
        .relay
        .expect(&foreign, &[TAKEN[0], "550 5.7.1", "554 5.5.1", "250 2.0.0"])
        .await;
    let (_, corporate) = world.quit().await;
    assert!(
        !corporate
            .record()
            .commands
            .iter()
            .any(|command| command == "DATA")
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

// covers: OWN-3, R3030-3, R5321-23
#[tokio::test]
async fn a_relay_lost_inside_content_aborts_the_target() {
    for start in [
        "DATA\r\n",
        "BDAT 100 LAST\r\n",
        "BDAT 9\r\nSubject: BDAT 3\r\nx\r\n",
    ] {
        let mut world = World::greeted(Script::default()).await;
        world
            .relay
            .expect(&format!("{ENVELOPE}{start}"), &TAKEN)
            .await;
        if start.starts_with("DATA") {
            assert!(world.relay.reply().await.starts_with("354"));
        }
        world.relay.send("Subject: half\r\n").await;
        drop(world.relay);
        let (tally, end) = World::ended(world.session).await;
        assert!(matches!(end, End::Lost(_)), "{end}");
        assert_eq!(tally.messages, 0);
        let record = world
            .corporate
            .until("cut off", |record| record.ended == 1)
            .await;
        assert!(record.messages.is_empty(), "{start}");
        assert_eq!(record.torn.len(), 1, "{start}");
        assert!(
            !record
                .flights
                .iter()
                .any(|flight| flight.ends_with(".\r\n")),
            "{start}"
        );
    }
}

// covers: OWN-2
#[tokio::test]
async fn a_relay_lost_before_content_leaves_nothing_at_the_target() {
    for commands in ["", "MAIL FROM:<>\r\n", ENVELOPE] {
        let mut world = World::greeted(Script::default()).await;
        world
            .relay
            .expect(commands, &TAKEN[..commands.matches("\r\n").count()])
            .await;
        drop(world.relay);
        let (tally, end) = World::ended(world.session).await;
        assert!(matches!(end, End::Lost(_)), "{end}");
        assert_eq!(tally, Tally::default());
        let record = world
            .corporate
            .until("closed", |record| record.ended == 1)
            .await;
        assert!(record.messages.is_empty() && record.torn.is_empty());
    }
}

// covers: OWN-4
#[tokio::test]
async fn the_verdict_is_awaited_though_the_relay_is_gone() {
    let mut world = World::greeted(Script::default()).await;
    world
        .relay
        .send(&format!("{ENVELOPE}{}", chunk("x\r\n")))
        .await;
    drop(world.relay);
    let (tally, end) = World::ended(world.session).await;
    assert!(matches!(end, End::Lost(_)), "{end}");
    assert_eq!(
        (tally.messages, world.corporate.record().messages.len()),
        (1, 1)
    );
}

// covers: R5321-26
#[tokio::test]
async fn a_relay_that_is_gone_right_behind_its_quit_has_quit() {
    let mut world = World::greeted(Script::default()).await;
    world.relay.send("QUIT\r\n").await;
    drop(world.relay);
    let (_, end) = World::ended(world.session).await;
    assert!(matches!(end, End::Quit), "{end}");
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

// covers: R5321-27, OWN-7a
#[tokio::test]
async fn a_target_that_dies_ends_the_session_after_a_few_tries() {
    let mut world = World::greeted(Script::default()).await;
    world.corporate.change(|script| {
        *script = std::mem::take(script)
            .on(".", "421 4.3.2 dying")
            .on("GREETING", "554 5.3.2 dead")
    });
    let message = format!("{ENVELOPE}{}", chunk("x\r\n"));
    world
        .relay
        .expect(&message, &[TAKEN[0], TAKEN[1], "451 4.4.2"])
        .await;
    let refused = ["451 4.4.1", "503 5.5.1", "503 5.5.1"];
    world.relay.expect(&message, &refused).await;
    world
        .relay
        .expect(&message, &["451 4.4.1", "503 5.5.1", "421 4.4.1"])
        .await;
    let (tally, end) = World::ended(world.session).await;
    assert!(matches!(end, End::TargetLost), "{end}");
    assert_eq!(
        tally,
        Tally {
            deferred: 3,
            ..Tally::default()
        }
    );
}

// covers: R5321-22
#[tokio::test]
async fn a_stop_ends_the_session_between_two_messages() {
    let mut world = World::greeted(Script::default()).await;
    world
        .relay
        .expect(&format!("{ENVELOPE}DATA\r\n"), &[TAKEN[0], TAKEN[1], "354"])
        .await;
    world.stop.cancel();
    world
        .relay
        .expect("x\r\n.\r\n", &["250 2.0.0", "421 4.3.2"])
        .await;
    assert_eq!(world.relay.reply().await, "");
    let (tally, end) = World::ended(world.session).await;
    assert!(matches!(end, End::Stopped), "{end}");
    assert_eq!(
        (tally.messages, world.corporate.record().messages.len()),
        (1, 1)
    );
    let mut idle = World::greeted(Script::default()).await;
    idle.stop.cancel();
    assert_eq!(idle.relay.codes(1).await, ["421 4.3.2"]);
}

// covers: R5321-46, R5321-47
#[tokio::test(start_paused = true)]
async fn a_relay_that_falls_silent_is_told_and_left() {
    let corporate = Corporate::start(Script::default()).await;
    for (start, replies, waits) in [
        ("", 0, 300),
        ("MAIL FROM:<>\r\n", 1, 300),
        (&format!("{ENVELOPE}DATA\r\n"), 3, 180),
    ] {
        let handover = Handover::open(&corporate.setup()).await.unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let session =
            tokio::spawn(async move { serve(Wire::unix(ours), handover, &terms()).await });
        let mut relay = RelayEnd::new(theirs);
        relay.hello().await;
        relay.send(start).await;
        relay.codes(replies).await;
        let began = tokio::time::Instant::now();
        let (_, end) = session.await.unwrap();
        assert!(matches!(end, End::Lost(WireError::TimedOut)), "{end}");
        assert_eq!(began.elapsed().as_secs(), waits);
        assert_eq!(relay.codes(1).await, ["421 4.4.2"]);
    }
}

// covers: R5321-22, R5321-2
#[tokio::test]
async fn a_relay_that_errs_on_and_on_is_left() {
    let mut world = World::greeted(Script::default()).await;
    world.relay.send(&"GIBBERISH\r\n".repeat(30)).await;
    let codes = world.relay.codes(22).await;
    assert_eq!(codes[21], "421 4.7.0");
    let (_, end) = World::ended(world.session).await;
    assert!(matches!(end, End::Closed(_)), "{end}");
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
