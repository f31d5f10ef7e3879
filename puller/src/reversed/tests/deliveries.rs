//! Deliveries that the relay names: taken once, whatever it hears of it.

use super::*;

const NAMED: &str = "MAIL FROM:<a@b.example> XDELIVERYID=1M7.1.X\r\nRCPT TO:<u@example.org>\r\n";
const BEFORE: [&str; 3] = ["258 2.0.0", "503 5.5.1", "503 5.5.1"];

fn to(recipients: &[&str]) -> String {
    let mail = "MAIL FROM:<a@b.example> XDELIVERYID=1M7.1.X\r\n".to_owned();
    recipients.iter().fold(mail, |text, recipient| {
        text + &format!("RCPT TO:<{recipient}@example.org>\r\n")
    })
}

fn recipients(corporate: &Corporate) -> Vec<String> {
    let commands = corporate.record().commands.into_iter();
    commands
        .filter(|command| command.starts_with("RCPT"))
        .collect()
}

// covers: R-DUP, OWN-5
#[tokio::test]
async fn what_was_taken_is_not_taken_again() {
    let mut world = World::greeted(Script::default()).await;
    let message = format!("{NAMED}{}", chunk("x\r\n"));
    world
        .relay
        .expect(&message, &[TAKEN[0], TAKEN[1], "250 2.0.0"])
        .await;
    world.relay.expect(&message, &BEFORE).await;
    let mut world = world.lost().await;
    world.relay.expect(&message, &BEFORE).await;
    world
        .relay
        .expect(&format!("{NAMED}DATA\r\n"), &BEFORE)
        .await;
    // Several chunks of what is not wanted, and then something new.
    let chunks = format!("{NAMED}BDAT 2\r\nx\rBDAT 1 LAST\r\n\n");
    world
        .relay
        .expect(&chunks, &[BEFORE[0], BEFORE[1], "503 5.5.1", "503 5.5.1"])
        .await;
    let other = message.replace("1M7.1.X", "1M7.2.X");
    world
        .relay
        .expect(&other, &[TAKEN[0], TAKEN[1], "250 2.0.0"])
        .await;
    let (tally, corporate) = world.quit().await;
    assert_eq!((tally.messages, tally.deferred, tally.refused), (1, 0, 0));
    assert_eq!(tally.already_there, 3, "of this session");
    assert_eq!(corporate.record().messages.len(), 2);
    assert!(
        !corporate
            .record()
            .commands
            .iter()
            .any(|command| command.contains("XDELIVERYID"))
    );
}

// covers: R-DUP, OWN-4
#[tokio::test]
async fn a_relay_that_is_gone_before_the_verdict_does_not_make_it_come_twice() {
    let mut world = World::greeted(Script::default()).await;
    let message = format!("{NAMED}{}", chunk("x\r\n"));
    world.relay.send(&message).await;
    let mut world = world.lost().await;
    world.relay.expect(&message, &BEFORE).await;
    let (_, corporate) = world.quit().await;
    assert_eq!(corporate.record().messages.len(), 1);
}

// covers: R-DUP
#[tokio::test]
async fn what_was_not_taken_is_not_written_down() {
    let mut world = World::greeted(Script::default()).await;
    let message = format!("{NAMED}{}", chunk("x\r\n"));
    for (command, reply, expected) in [
        (
            "MAIL",
            "451 4.7.1 grey",
            ["451 4.7.1", "503 5.5.1", "503 5.5.1"],
        ),
        (
            "RCPT",
            "550 5.1.1 nobody",
            [TAKEN[0], "550 5.1.1", "554 5.5.1"],
        ),
        ("DATA", "451 4.3.0 later", [TAKEN[0], TAKEN[1], "451 4.3.0"]),
        (".", "452 4.3.1 full", [TAKEN[0], TAKEN[1], "452 4.3.1"]),
    ] {
        let rule = |script: &mut Script| *script = std::mem::take(script).once(command, reply);
        world.corporate.change(rule);
        world.relay.expect(&message, &expected).await;
        world.relay.expect("RSET\r\n", &["250 2.0.0"]).await;
    }
    // Content that is refused here, and a transaction that is given up.
    let bare = format!("{NAMED}{}", chunk("a\nb\r\n"));
    world
        .relay
        .expect(&bare, &[TAKEN[0], TAKEN[1], "550 5.6.0"])
        .await;
    world
        .relay
        .expect(
            &format!("{NAMED}RSET\r\n"),
            &[TAKEN[0], TAKEN[1], "250 2.0.0"],
        )
        .await;
    world
        .relay
        .expect(&message, &[TAKEN[0], TAKEN[1], "250 2.0.0"])
        .await;
    let (_, corporate) = world.quit().await;
    // Where MAIL was refused in a group, the target's 354 is answered with a lone dot: that is no message.
    let messages = corporate.record().messages.into_iter();
    assert_eq!(messages.filter(|content| !content.is_empty()).count(), 1);
}

// covers: R-DUP, OWN-9
#[tokio::test]
async fn who_did_not_take_it_is_asked_again_and_who_did_is_not() {
    let script = Script::default()
        .once("RCPT TO:<later", "450 4.2.0 later")
        .on("RCPT TO:<no", "550 5.1.1 nobody");
    let mut world = World::greeted(script).await;
    let message = to(&["u", "later", "no"]) + &chunk("x\r\n");
    let expected = [TAKEN[0], TAKEN[1], "450 4.2.0", "550 5.1.1", "250 2.0.0"];
    world.relay.expect(&message, &expected).await;
    let mut world = world.lost().await;
    let expected = [TAKEN[0], "258 2.1.5", TAKEN[1], "550 5.1.1", "250 2.0.0"];
    world.relay.expect(&message, &expected).await;
    let mut world = world.lost().await;
    // There is nobody left who wants it, and somebody must still be told that he has no mailbox.
    let expected = [TAKEN[0], "258 2.1.5", "258 2.1.5", "550 5.1.1", "554 5.5.1"];
    world.relay.expect(&message, &expected).await;
    let rest = to(&["u", "later"]) + &chunk("x\r\n");
    let expected = [TAKEN[0], "258 2.1.5", "258 2.1.5", "554 5.5.1"];
    world.relay.expect("RSET\r\n", &["250 2.0.0"]).await;
    world.relay.expect(&rest, &expected).await;
    let (_, corporate) = world.quit().await;
    assert_eq!(corporate.record().messages.len(), 2);
    let asked = recipients(&corporate);
    let count = |name: &str| asked.iter().filter(|line| line.contains(name)).count();
    assert_eq!((count("<u@"), count("<later@"), count("<no@")), (1, 2, 3));
}

/// Its answer waits for those before it, and its recipients are nobody's business inside meanwhile.
// covers: R-DUP, R5321-28
#[tokio::test]
async fn the_target_hears_nothing_of_a_known_delivery_behind_mail_under_way() {
    let mut world = World::greeted(Script::default()).await;
    let message = format!("{NAMED}{}", chunk("x\r\n"));
    let taken = [TAKEN[0], TAKEN[1], "250 2.0.0"];
    world.relay.expect(&message, &taken).await;
    let other = |count: u32| message.replace("1M7.1.X", &format!("1M7.2{count}.X"));
    for (count, rest, answers) in [
        (1, "", &BEFORE[..2]),
        (2, "DATA\r\n", &BEFORE),
        (
            3,
            "BDAT 2\r\nx\rBDAT 1 LAST\r\n\n",
            &[BEFORE[0], BEFORE[1], BEFORE[1], BEFORE[1]],
        ),
    ] {
        world
            .corporate
            .change(|script| *script = std::mem::take(script).hold_once(".", "250 2.0.0 at last"));
        world
            .relay
            .send(&format!("{}{NAMED}{rest}", other(count)))
            .await;
        world
            .corporate
            .until("held", |record| record.held == count as usize)
            .await;
        world.corporate.release(1);
        let expected = [&taken[..], answers].concat();
        assert_eq!(world.relay.codes(expected.len()).await, expected, "{rest}");
        world.relay.expect("RSET\r\n", &["250 2.0.0"]).await;
        let asked = recipients(&world.corporate).len();
        assert_eq!(asked, 1 + count as usize, "{rest}");
    }
    let (tally, _) = world.quit().await;
    assert_eq!((tally.messages, tally.already_there), (4, 3));
}

/// A recipient that the machine refuses on its own is one who has not taken it.
// covers: R-DUP
#[tokio::test]
async fn a_recipient_who_was_never_asked_has_not_taken_it() {
    let mut world = World::greeted(Script::default()).await;
    let message = to(&["u", "a%b"]) + &chunk("x\r\n");
    let expected = [TAKEN[0], TAKEN[1], "550 5.1.1", "250 2.0.0"];
    world.relay.expect(&message, &expected).await;
    let foreign = message.replace("a%b@example.org", "u@foreign.example");
    let mut world = world.lost().await;
    let expected = [TAKEN[0], "258 2.1.5", "550 5.7.1", "554 5.5.1"];
    world.relay.expect(&foreign, &expected).await;
    let (_, corporate) = world.quit().await;
    assert_eq!(corporate.record().messages.len(), 1);
}

// covers: R-DUP, R2033-1
#[tokio::test]
async fn lmtp_one_by_one_is_written_down_one_by_one() {
    let script = Script {
        lmtp: true,
        ..Script::default()
    };
    let mut world = World::greeted(script).await;
    let message = to(&["u", "v"]) + &chunk("x\r\n");
    for expected in [
        [TAKEN[0], TAKEN[1], "452 4.5.3", "250 2.0.0"],
        [TAKEN[0], "258 2.1.5", TAKEN[1], "250 2.0.0"],
        ["258 2.0.0", "503 5.5.1", "503 5.5.1", "503 5.5.1"],
    ] {
        world.relay.expect(&message, &expected).await;
        world = world.lost().await;
    }
    let (_, corporate) = world.quit().await;
    assert_eq!(corporate.record().messages.len(), 2);
    let asked = recipients(&corporate);
    assert_eq!(
        asked,
        ["RCPT TO:<u@example.org>", "RCPT TO:<v@example.org>"]
    );
}

/// Two sessions get the same delivery: the second one waits for the first, and then has nothing to do.
// covers: R-DUP
#[tokio::test]
async fn a_delivery_in_other_hands_is_waited_for() {
    let mut world = World::greeted(Script::default()).await;
    let message = format!("{NAMED}DATA\r\n");
    world
        .relay
        .expect(&message, &[TAKEN[0], TAKEN[1], "354"])
        .await;
    let handover = Handover::open(&world.corporate.setup()).await.unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let second = terms(world.journal.clone());
    let session = tokio::spawn(async move { serve(Wire::unix(ours), handover, &second).await });
    let mut relay = RelayEnd::new(theirs);
    relay.hello().await;
    relay.send(&format!("NOOP\r\n{message}")).await;
    // What was asked before is answered before the wait.
    assert_eq!(relay.codes(1).await, ["250 2.0.0"]);
    world.relay.expect("x\r\n.\r\n", &["250 2.0.0"]).await;
    assert_eq!(relay.codes(3).await, BEFORE);
    drop(relay);
    World::ended(session).await;
    let (_, corporate) = world.quit().await;
    assert_eq!(corporate.record().messages.len(), 1);
}

/// The journal fails when the target has the message already.
// covers: R-DUP
#[tokio::test]
async fn a_journal_that_fails_ends_the_session_and_loses_nothing() {
    let mut world = World::greeted(Script::default()).await;
    world.journal.close();
    let message = format!("{NAMED}{}", chunk("x\r\n"));
    world
        .relay
        .expect(&message, &[TAKEN[0], TAKEN[1], "250 2.0.0", "421 4.3.0"])
        .await;
    let (tally, end) = World::ended(world.session).await;
    assert!(matches!(end, End::JournalLost(_)), "{end}");
    assert_eq!(tally.messages, 1);
    // And one that cannot even be asked lets nothing in.
    world.journal.close();
    std::fs::remove_file(world.folder.path().join("journal.db")).unwrap();
    let mut world = World::connect(world.corporate, world.journal, world.folder).await;
    world.relay.hello().await;
    world
        .relay
        .expect(&message, &["451 4.3.0", "421 4.3.0"])
        .await;
    let (_, end) = World::ended(world.session).await;
    assert!(matches!(end, End::JournalLost(_)), "{end}");
}

// covers: R-DUP
#[tokio::test]
async fn mail_without_an_id_comes_as_often_as_it_is_sent() {
    let mut world = World::greeted(Script::default()).await;
    let message = format!("{ENVELOPE}{}", chunk("x\r\n"));
    for _ in 0..2 {
        world
            .relay
            .expect(&message, &[TAKEN[0], TAKEN[1], "250 2.0.0"])
            .await;
    }
    let bad = "MAIL FROM:<> XDELIVERYID=a/b\r\n";
    world.relay.expect(bad, &["501 5.5.4"]).await;
    let (_, corporate) = world.quit().await;
    assert_eq!(corporate.record().messages.len(), 2);
}
