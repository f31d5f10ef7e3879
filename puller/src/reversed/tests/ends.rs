//! How sessions end, and what is left of the message under way.

use super::*;

// covers: OWN-3, R3030-3, R5321-23
#[tokio::test]
async fn a_relay_lost_inside_content_aborts_the_target() {
    for start in [
        "DATA\r\n",
        "BDAT 100 LAST\r\n",
        "BDAT 9\r\nSubject: BDAT 3\r\nx\r\n",
    ] {
        let mut world = World::greeted(Script::default()).await;
        world.relay.expect(ENVELOPE, &TAKEN).await;
        world.relay.send(start).await;
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
        .expect(&message, &[refused[0], refused[1], refused[2], "421 4.4.1"])
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
    let folder = TempDir::new().unwrap();
    let journal = journal(&folder);
    for (start, replies, waits) in [
        ("", 0, 300),
        ("MAIL FROM:<>\r\n", 1, 300),
        (&format!("{ENVELOPE}DATA\r\n"), 3, 180),
    ] {
        let handover = Handover::open(&corporate.setup()).await.unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let terms = terms(journal.clone());
        let session = tokio::spawn(async move { serve(Wire::unix(ours), handover, &terms).await });
        let mut relay = RelayEnd::new(theirs);
        relay.hello().await;
        relay.send(start).await;
        relay.codes(replies).await;
        let began = Instant::now();
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
