//! Messages that are under way side by side: order, refusals and ends in the middle of them.

use tokio::io::AsyncWriteExt as _;

use super::*;
use crate::journal::Begun;
use crate::reversed::lanes::ANOTHER_PAUSE;
use crate::testing::Action;

const WHOLE: [&str; 3] = [TAKEN[0], TAKEN[1], "250 2.0.0"];

/// A whole message in one flight; `name` is its sender and a number, its id and its content.
fn message(name: &str) -> String {
    let sender = &name[..1];
    format!(
        "MAIL FROM:<{sender}@b.example> XDELIVERYID={name}\r\nRCPT TO:<u@example.org>\r\n{}",
        chunk(&format!("{name}\r\n"))
    )
}

fn messages(names: &[&str]) -> String {
    names.iter().map(|name| message(name)).collect()
}

/// The names of the messages that a corporate server has, in the order in which it took them.
fn names(record: &crate::testing::Record) -> Vec<String> {
    let last_line = |message: &String| message.lines().last().unwrap().to_owned();
    let messages = record.messages.iter();
    // The lone dot behind an envelope that nobody was accepted in is no message.
    messages
        .filter(|message| !message.is_empty())
        .map(last_line)
        .collect()
}

/// Waits until nobody has the delivery in hand.
async fn until_free(journal: &Journal, name: &str) {
    let id = name.parse().unwrap();
    let begun = journal.begin_within(&id, PATIENCE).await.unwrap();
    assert!(matches!(begun, Begun::Fresh(_)), "{begun:?}");
}

/// Answers to so many messages.
fn whole(count: usize) -> Vec<&'static str> {
    WHOLE.repeat(count)
}

// covers: R2920-1, R2920-2, R5321-28
#[tokio::test]
async fn an_envelope_goes_out_behind_the_content_before_it() {
    let mut world = World::greeted(Script::default()).await;
    let sent = ["a1", "a2", "a3", "a4", "a5"];
    world.relay.expect(&messages(&sent), &whole(5)).await;
    let (tally, corporate) = world.quit().await;
    let record = corporate.record();
    assert_eq!((tally.messages, record.sessions), (5, 1));
    assert_eq!(names(&record), sent);
    let joined = record.flights.iter().any(|flight| {
        flight.contains("a2\r\n.\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<u@example.org>\r\nDATA\r\n")
    });
    assert!(joined, "{:?}", record.flights);
}

// covers: R2920-2
#[tokio::test]
async fn a_target_without_pipelining_gets_no_envelope_early() {
    let mut world = World::greeted(Script::offering(&["SIZE 10000000"])).await;
    world
        .relay
        .expect(&messages(&["a1", "a2", "b1"]), &whole(3))
        .await;
    let (_, corporate) = world.quit().await;
    let record = corporate.record();
    assert!(
        !record
            .flights
            .iter()
            .any(|flight| flight.contains("\r\n.\r\nMAIL")),
        "{:?}",
        record.flights
    );
}

// covers: R2033-1
#[tokio::test]
async fn lmtp_takes_them_side_by_side_too() {
    let script = Script {
        lmtp: true,
        ..Script::default()
    };
    let mut world = World::greeted(script).await;
    let two = message("a2").replace("BDAT", "RCPT TO:<v@example.org>\r\nBDAT");
    let sent = message("a1") + &two + &messages(&["a3", "a4"]);
    let mut expected = whole(4);
    expected.insert(5, "452 4.5.3");
    world.relay.expect(&sent, &expected).await;
    let (_, corporate) = world.quit().await;
    assert_eq!(names(&corporate.record()), ["a1", "a2", "a3", "a4"]);
}

/// The first is refused in the end, so that its answers cannot be taken for those of others.
// covers: R5321-28
#[tokio::test]
async fn others_go_on_beside_a_slow_one_and_answers_keep_their_order() {
    let script = Script::default().hold_once(".", "452 4.3.1 full");
    let mut world = World::greeted(script).await;
    let sent = ["a1", "b1", "c1", "a2", "d1", "a3", "b2", "e1"];
    world.relay.send(&messages(&sent)).await;
    let record = world
        .corporate
        .until("others taken", |record| record.messages.len() == 5)
        .await;
    assert!(record.sessions > 1);
    let mut others = names(&record);
    others.sort_unstable();
    // One sender's mail waits for what is before it.
    assert_eq!(others, ["b1", "b2", "c1", "d1", "e1"]);
    world.corporate.release(1);
    let mut expected = whole(8);
    expected[2] = "452 4.3.1";
    assert_eq!(world.relay.codes(24).await, expected);
    let (tally, corporate) = world.quit().await;
    assert_eq!((tally.messages, tally.deferred), (7, 1));
    let record = corporate.record();
    assert!(record.sessions <= 4, "{}", record.sessions);
    let of = |sender: &str| -> Vec<_> {
        let mut names = names(&record);
        names.retain(|name| name.starts_with(sender));
        names
    };
    assert_eq!(of("a"), ["a2", "a3"]);
    assert_eq!(of("b"), ["b1", "b2"]);
}

// covers: R5321-28, R2920-1, R-DUP
#[tokio::test]
async fn a_refusal_or_a_known_delivery_concerns_itself_only() {
    let script = Script::default()
        .on("MAIL FROM:<m", "550 5.7.1 not you")
        .on("RCPT TO:<no", "550 5.1.1 no");
    let mut world = World::greeted(script).await;
    world.relay.expect(&message("k1"), &whole(1)).await;
    let to_nobody = message("n1").replace("<u@", "<no@");
    let foreign = message("f1").replace("u@example.org", "u@foreign.example");
    let one_of_two = message("o1").replace("BDAT", "RCPT TO:<no@example.org>\r\nBDAT");
    let faulty = message("x1").replace("LAST\r\nx1\r\n", "LAST\r\nx1\n\n");
    let in_chunks =
        message("p1").replace("BDAT 4 LAST\r\np1\r\n", "BDAT 2\r\np1BDAT 2 LAST\r\n\r\n");
    let sent = [
        (message("a1"), &whole(1)[..]),
        (message("m1"), &["550 5.7.1", "503 5.5.1", "503 5.5.1"]),
        (message("a2"), &WHOLE),
        (to_nobody, &[TAKEN[0], "550 5.1.1", "554 5.5.1"]),
        (message("k1"), &["258 2.0.0", "503 5.5.1", "503 5.5.1"]),
        (foreign, &[TAKEN[0], "550 5.7.1", "554 5.5.1"]),
        (message("a3"), &WHOLE),
        (one_of_two, &[TAKEN[0], TAKEN[1], "550 5.1.1", "250 2.0.0"]),
        (faulty, &[TAKEN[0], TAKEN[1], "550 5.6.0"]),
        (message("a4"), &WHOLE),
        (in_chunks, &[TAKEN[0], TAKEN[1], "250 2.0.0", "250 2.0.0"]),
        // Known by now, and offered again in the same breath.
        (message("a4"), &["258 2.0.0", "503 5.5.1", "503 5.5.1"]),
        (
            format!("RSET\r\n{}RSET\r\n", message("a5")),
            &["250 2.0.0", TAKEN[0], TAKEN[1], "250 2.0.0", "250 2.0.0"],
        ),
    ];
    let dialogue: String = sent.iter().map(|(text, _)| text.as_str()).collect();
    let expected: Vec<_> = sent
        .iter()
        .flat_map(|(_, codes)| codes.iter().copied())
        .collect();
    world.relay.expect(&dialogue, &expected).await;
    let mut world = world.lost().await;
    // Of a delivery in parts the journal has the part.
    let again = message("o1").replace("BDAT", "RCPT TO:<v@example.org>\r\nBDAT");
    world
        .relay
        .expect(&again, &[TAKEN[0], "258 2.1.5", TAKEN[1], "250 2.0.0"])
        .await;
    for known in ["a1", "a2", "a3", "a4", "a5", "p1"] {
        world
            .relay
            .expect(&message(known), &["258 2.0.0", "503 5.5.1", "503 5.5.1"])
            .await;
    }
    let (_, corporate) = world.quit().await;
    assert_eq!(
        names(&corporate.record()),
        ["k1", "a1", "a2", "a3", "o1", "a4", "p1", "a5", "o1"]
    );
}

/// What is larger or comes otherwise waits for all before it, and all behind it for itself.
// covers: R5321-28
#[tokio::test]
async fn lock_step_and_side_by_side_take_turns() {
    let mut world = World::greeted(Script::default()).await;
    let in_chunks = message("l1").replace("BDAT 4 LAST\r\nl1", "BDAT 2\r\nl1BDAT 2 LAST\r\n");
    let mut by_data = message("l2");
    by_data.truncate(by_data.find("BDAT").unwrap());
    let sent = messages(&["a1", "b1"]) + &in_chunks + &message("a2");
    let mut expected = whole(4);
    expected.insert(8, "250 2.0.0");
    world.relay.expect(&sent, &expected).await;
    let expected = [&WHOLE[..], &TAKEN, &["354"]].concat();
    let sent = format!("{}{by_data}DATA\r\n", message("a3"));
    world.relay.expect(&sent, &expected).await;
    world.relay.expect("l2\r\n.\r\n", &["250 2.0.0"]).await;
    world.relay.expect(&message("a4"), &WHOLE).await;
    let (_, corporate) = world.quit().await;
    let mut taken = names(&corporate.record());
    taken[..2].sort_unstable();
    assert_eq!(taken, ["a1", "b1", "l1", "a2", "a3", "l2", "a4"]);
}

/// More than may be under way: the relay waits, and nothing is lost or in disorder.
// covers: R5321-28
#[tokio::test]
async fn a_relay_that_sends_more_than_may_be_under_way_is_not_read() {
    let script = Script::default().hold_once(".", "250 2.0.0 at last");
    let world = World::greeted(script).await;
    let line = "x".repeat(98) + "\r\n";
    let names_sent: Vec<_> = (0..150).map(|number| format!("a{number}")).collect();
    let sent: String = names_sent
        .iter()
        .map(|name| {
            let content = line.repeat(500) + name + "\r\n";
            message(name).replace(&chunk(&format!("{name}\r\n")), &chunk(&content))
        })
        .collect();
    let (mut reads, mut writes) = world.relay.into_halves();
    let reading = async {
        world
            .corporate
            .until("held", |record| record.held == 1)
            .await;
        world.corporate.release(1);
        assert_eq!(reads.codes(450).await, whole(150));
    };
    let (sent, ()) = tokio::join!(writes.write_all(sent.as_bytes()), reading);
    sent.unwrap();
    drop((reads, writes));
    let (tally, _) = World::ended(world.session).await;
    assert_eq!(tally.messages, 150);
    assert_eq!(names(&world.corporate.record()), names_sent);
}

/// What the target has is written down, what was not begun there is free, and nothing is there twice.
// covers: OWN-3, OWN-4, R-DUP
#[tokio::test]
async fn a_relay_that_is_lost_in_the_middle_offers_again_and_nothing_is_there_twice() {
    let script = Script::default().hold_once(".", "250 2.0.0 at last");
    let mut world = World::greeted(script).await;
    let sent = ["a1", "a2", "a3", "a4", "b1", "c1", "d1"];
    world.relay.send(&messages(&sent)).await;
    let record = world
        .corporate
        .until("others taken", |record| {
            record.held == 1 && record.messages.len() == 3
        })
        .await;
    assert!(names(&record).iter().all(|name| !name.starts_with('a')));
    drop(world.relay);
    until_free(&world.journal, "a4").await;
    world.corporate.release(1);
    let (tally, end) = World::ended(world.session).await;
    assert!(matches!(end, End::Lost(_)), "{end}");
    assert_eq!(tally.messages, 4);
    assert_eq!(world.journal.expected_entries(), 0);
    let mut world = World::again(world.corporate, world.journal, world.folder).await;
    let known = ["258 2.0.0", "503 5.5.1", "503 5.5.1"];
    let expected = [&known[..], &WHOLE, &WHOLE, &WHOLE, &known, &known, &known].concat();
    world.relay.expect(&messages(&sent), &expected).await;
    let (_, corporate) = world.quit().await;
    let mut taken = names(&corporate.record());
    taken.sort_unstable();
    assert_eq!(taken, ["a1", "a2", "a3", "a4", "b1", "c1", "d1"]);
}

/// The relay's clock for MAIL is half of that for the end of the message: it hears what is known.
// covers: R5321-45, R5321-28
#[tokio::test]
async fn what_was_said_to_the_envelope_does_not_wait_for_a_target_that_ponders() {
    let script = Script::default()
        .hold_once(".", "452 4.3.1 full")
        .hold_once(".", "250 2.0.0 at last")
        .on("RCPT TO:<no", "550 5.1.1 no");
    let mut world = World::greeted(script).await;
    let one_of_two = message("a1").replace("BDAT", "RCPT TO:<no@example.org>\r\nBDAT");
    world
        .relay
        .send(&(one_of_two + &messages(&["a2", "a3"])))
        .await;
    let envelope = [TAKEN[0], TAKEN[1], "550 5.1.1"];
    assert_eq!(world.relay.codes(3).await, envelope);
    assert_eq!(world.corporate.record().held, 1);
    world.corporate.release(1);
    // So it is with the next one, when it is its turn.
    let expected = ["452 4.3.1", TAKEN[0], TAKEN[1]];
    assert_eq!(world.relay.codes(3).await, expected);
    world.corporate.release(1);
    let expected = [&["250 2.0.0"][..], &WHOLE].concat();
    assert_eq!(world.relay.codes(4).await, expected);
    let (tally, corporate) = world.quit().await;
    assert_eq!((tally.messages, tally.deferred), (2, 1));
    assert_eq!(names(&corporate.record()), ["a2", "a3"]);
}

/// Content that was cut off in our memory was never at the target.
// covers: OWN-3
#[tokio::test]
async fn content_that_was_cut_off_leaves_nothing_at_the_target() {
    let mut world = World::greeted(Script::default()).await;
    world
        .relay
        .send(&format!("{ENVELOPE}BDAT 100 LAST\r\nSubject: half\r\n"))
        .await;
    drop(world.relay);
    let (_, end) = World::ended(world.session).await;
    assert!(matches!(end, End::Lost(_)), "{end}");
    let record = world
        .corporate
        .until("closed", |record| record.ended == 1)
        .await;
    assert!(record.messages.is_empty() && record.torn.is_empty());
    assert!(
        !record
            .commands
            .iter()
            .any(|command| command.starts_with("MAIL"))
    );
}

// covers: R5321-27, OWN-7a
#[tokio::test]
async fn a_connection_that_breaks_costs_the_message_on_it() {
    let script = Script::default().hang_up_once(".");
    let mut world = World::greeted(script).await;
    let mut expected = whole(4);
    expected[2] = "451 4.4.2";
    world
        .relay
        .expect(&messages(&["a1", "a2", "a3", "a4"]), &expected)
        .await;
    let (tally, corporate) = world.quit().await;
    assert_eq!((tally.messages, tally.deferred), (3, 1));
    assert_eq!(names(&corporate.record()), ["a2", "a3", "a4"]);
}

// covers: R5321-27, OWN-7a
#[tokio::test]
async fn a_target_that_dies_in_the_middle_ends_the_session_behind_the_answers() {
    let mut world = World::greeted(Script::default()).await;
    world.corporate.change(|script| {
        script
            .rules
            .push((".", Action::Hold("250 2.0.0 the last one"), 1));
        script.rules.push((".", Action::HangUp, usize::MAX));
        script
            .rules
            .push(("GREETING", Action::Reply("554 5.3.2 dead"), usize::MAX));
    });
    let sent = ["a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8"];
    world.relay.send(&messages(&sent)).await;
    world
        .corporate
        .until("held", |record| record.held == 1)
        .await;
    world.corporate.release(1);
    let lost = [TAKEN[0], TAKEN[1], "451 4.4.2"];
    let gone = ["451 4.4.1", "503 5.5.1", "503 5.5.1"];
    let expected = [&WHOLE[..], &lost, &gone, &gone, &["421 4.4.1"]].concat();
    assert_eq!(world.relay.codes(expected.len()).await, expected);
    assert_eq!(world.relay.reply().await, "");
    let (tally, end) = World::ended(world.session).await;
    assert!(matches!(end, End::TargetLost), "{end}");
    assert_eq!((tally.messages, tally.deferred), (1, 3));
}

// covers: R5321-22, OWN-4
#[tokio::test]
async fn a_stop_lets_end_what_is_begun_and_frees_the_rest() {
    let script = Script::default().hold_once(".", "250 2.0.0 at last");
    let mut world = World::greeted(script).await;
    world.relay.send(&messages(&["a1", "a2", "a3", "a4"])).await;
    world
        .corporate
        .until("held", |record| record.held == 1)
        .await;
    world.stop.cancel();
    // What was not begun is free at once, though the session still waits.
    until_free(&world.journal, "a4").await;
    assert_eq!(world.journal.expected_entries(), 1);
    world.corporate.release(1);
    let expected = [&WHOLE[..], &["421 4.3.2"]].concat();
    assert_eq!(world.relay.codes(4).await, expected);
    let (tally, end) = World::ended(world.session).await;
    assert!(matches!(end, End::Stopped), "{end}");
    assert_eq!(tally.messages, 1);
    assert_eq!(names(&world.corporate.record()), ["a1"]);
}

/// Nobody would wait for the target's word on it, and it would come twice.
// covers: OWN-3, OWN-4
#[tokio::test]
async fn at_the_end_of_the_process_no_target_gets_the_end_of_a_message() {
    let in_chunks = message("a1").replace("BDAT 4 LAST\r\na1", "BDAT 2\r\na1BDAT 2 LAST\r\n");
    for (sent, chunks) in [(message("a1"), 1), (in_chunks, 2)] {
        let script = Script::default().hold_once("DATA", "354 go on");
        let mut world = World::greeted(script).await;
        world.relay.send(&sent).await;
        world
            .corporate
            .until("held", |record| record.held == 1)
            .await;
        world.stop.cancel();
        world.journal.expect_no_more();
        world.corporate.release(1);
        let mut expected = [&TAKEN[..], &["451 4.3.2", "421 4.3.2"]].concat();
        if chunks == 2 {
            expected.insert(2, "250 2.0.0");
        }
        assert_eq!(world.relay.codes(expected.len()).await, expected);
        let (tally, end) = World::ended(world.session).await;
        assert!(matches!(end, End::Stopped), "{end}");
        assert_eq!((tally.messages, tally.deferred), (0, 1));
        let record = world
            .corporate
            .until("cut off", |record| record.ended == 1)
            .await;
        assert!(record.messages.is_empty());
        assert_eq!(record.torn.len(), 1);
        until_free(&world.journal, "a1").await;
    }
}

/// While there is no mail the target has its place back, and the next mail finds it.
#[tokio::test(start_paused = true)]
async fn connections_rest_while_there_is_no_mail() {
    let mut world = World::greeted(Script::default()).await;
    let message = format!("{ENVELOPE}{}", chunk("x\r\n"));
    world.relay.expect(&message, &WHOLE).await;
    tokio::time::sleep(REST_AFTER).await;
    let record = world
        .corporate
        .until("left", |record| record.ended == 1)
        .await;
    assert_eq!(record.commands.last().unwrap(), "QUIT");
    world.relay.expect(&message, &WHOLE).await;
    assert_eq!(world.corporate.record().sessions, 2);
}

/// Messages of several senders, without names.
fn from(senders: &str) -> String {
    let senders = senders.chars();
    senders
        .map(|sender| {
            let envelope = ENVELOPE.replace("<a@", &format!("<{sender}@"));
            envelope + &chunk("x\r\n")
        })
        .collect()
}

/// One message is held at the target, so that mail behind it wants another connection.
async fn crowded(world: &mut World, held: usize) {
    world
        .corporate
        .change(|script| *script = std::mem::take(script).hold_once(".", "250 2.0.0 at last"));
    world.relay.send(&from("a")).await;
    world
        .corporate
        .until("held", |record| record.held == held)
        .await;
    world.relay.send(&from("bc")).await;
}

/// Two are held back: the last word on a message, and the greeting of a further connection.
async fn opening() -> World {
    let mut world = World::greeted(Script::default()).await;
    world.corporate.change(|script| {
        *script = std::mem::take(script).hold_once("GREETING", "220 at last");
    });
    crowded(&mut world, 1).await;
    world
        .corporate
        .until("opening", |record| record.held == 2)
        .await;
    world.corporate.release(1);
    assert_eq!(world.relay.codes(9).await, whole(3));
    world
}

#[tokio::test]
async fn a_further_connection_greets_though_there_is_no_mail_left_for_it() {
    let world = opening().await;
    world.corporate.release(1);
    let hellos = |record: &crate::testing::Record| {
        let commands = record.commands.iter();
        commands.filter(|line| line.starts_with("EHLO")).count()
    };
    world
        .corporate
        .until("greeted", |record| hellos(record) == 2)
        .await;
    world.quit().await;
}

#[tokio::test(start_paused = true)]
async fn a_further_connection_is_given_up_while_there_is_no_mail() {
    let world = opening().await;
    tokio::time::sleep(REST_AFTER).await;
    world
        .corporate
        .until("left", |record| record.ended == 1)
        .await;
    world.corporate.release(1);
    let record = world
        .corporate
        .until("given up", |record| record.ended == 2)
        .await;
    assert_eq!(record.commands.last().unwrap(), "QUIT");
}

/// A target that takes no further connection now may do so later.
#[tokio::test(start_paused = true)]
async fn a_further_connection_that_was_refused_is_tried_again_after_a_while() {
    let mut world = World::greeted(Script::default()).await;
    world.corporate.change(|script| {
        *script = std::mem::take(script).once("GREETING", "421 4.7.0 too many");
    });
    // The first connection, and the one that is turned away; at last a new first one behind the rest, and another.
    for (round, connections) in [(1, 2), (2, 2), (3, 4)] {
        if round == 3 {
            tokio::time::sleep(ANOTHER_PAUSE.max(REST_AFTER)).await;
            world
                .corporate
                .until("rested", |record| record.ended == 2)
                .await;
        }
        crowded(&mut world, round).await;
        world
            .corporate
            .until("tried", |record| {
                record.sessions == connections && record.ended > 0
            })
            .await;
        world.corporate.release(1);
        assert_eq!(world.relay.codes(9).await, whole(3), "round {round}");
        assert_eq!(world.corporate.record().sessions, connections);
    }
}

/// The first message after a silence finds nobody: that is known at once, and mail waits until the target greets again.
// covers: R5321-27, OWN-7a
#[tokio::test]
async fn a_target_that_went_away_meanwhile_ends_the_session_with_the_first_message() {
    let mut world = World::greeted(Script::default()).await;
    world.relay.expect(&messages(&["a1"]), &whole(1)).await;
    world.corporate.change(|script| {
        script.rules.push(("MAIL", Action::HangUp, usize::MAX));
        script.rules.push(("GREETING", Action::HangUp, usize::MAX));
    });
    let gone = ["451 4.4.1", "503 5.5.1", "503 5.5.1", "421 4.4.1"];
    world.relay.expect(&message("a2"), &gone).await;
    let (_, end) = World::ended(world.session).await;
    assert!(matches!(end, End::TargetLost), "{end}");
}
