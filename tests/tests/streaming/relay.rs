//! The real relay and a puller in the hands of the test: what goes out ahead of the answers, and what they settle.

use std::time::Duration;

use atrn_tests::message::{self, Message, assert_same_content};
use atrn_tests::peer::Pace;
use atrn_tests::taker::{Offered, STREAMING, TAKEN, Taker};
use atrn_tests::world::World;

/// What the relay sends before it has heard anything of the puller's server.
const AHEAD: usize = 16;

/// Messages that nobody has to be told of.
fn send(world: &World, contents: &[Vec<u8>]) {
    let messages: Vec<_> = contents
        .iter()
        .map(|content| Message::new("user@example.org", content.clone()).from(""))
        .collect();
    world.send(&messages);
}

fn plain(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(message::plain).collect()
}

#[track_caller]
fn assert_are(sent: &[Vec<u8>], offered: &[Offered]) {
    assert_eq!(sent.len(), offered.len());
    for (sent, offered) in sent.iter().zip(offered) {
        assert_same_content("offered", sent, &offered.content);
    }
}

fn states(world: &World) -> Vec<String> {
    let lines = world.relay.queue_lines();
    let states = lines
        .iter()
        .map(|line| line.split_once(' ').expect("a state").1);
    states.map(str::to_owned).collect()
}

// covers: R2645-23, R2920-2, OWN-6
#[test]
fn messages_go_out_ahead_of_the_answers_in_their_order() {
    let world = World::start();
    let sent = plain(AHEAD);
    send(&world, &sent);
    let mut taker = Taker::open(&world.relay, &STREAMING);
    let offered = taker.messages(AHEAD);
    assert_are(&sent, &offered);
    assert_eq!(
        states(&world),
        vec!["leased 0"; AHEAD],
        "unanswered is unsettled"
    );
    for message in &offered {
        taker.take(message);
    }
    taker.quit();
    world.relay.wait_for_queue(&[]);
}

/// All answers in one segment, and one octet at a time.
// covers: R2920-2
#[test]
fn answers_come_in_any_portions() {
    for pace in [Pace::Whole, Pace::Octets] {
        let world = World::start();
        send(&world, &plain(AHEAD));
        let mut peer = world.relay.odmr_authenticated();
        peer.ask("ATRN", "250 ");
        let mut taker = Taker::turned(peer.paced(pace), &STREAMING);
        let offered = taker.messages(AHEAD);
        let answers = offered.iter().map(|message| message.answers(&TAKEN));
        taker
            .peer()
            .send_octets(answers.collect::<String>().as_bytes());
        taker.quit();
        world.relay.wait_for_queue(&[]);
    }
}

/// What is unanswered when the link breaks comes twice where the peer knows no names.
// covers: R2920-2
#[test]
fn without_names_few_are_under_way() {
    let world = World::start();
    let sent = plain(30);
    send(&world, &sent);
    let mut taker = Taker::open(&world.relay, &STREAMING[..2]);
    let mut offered = taker.messages(8);
    taker.expect_silence();
    taker.take(&offered[0]);
    offered.push(taker.message());
    for message in &offered[1..] {
        taker.take(message);
    }
    offered.extend(taker.take_the_rest());
    assert_are(&sent, &offered);
    world.relay.wait_for_queue(&[]);
}

/// It begins small and grows with what is taken, up to a bound.
// covers: R2920-2
#[test]
fn the_window_is_bounded_in_messages_and_in_octets() {
    for (count, octets, most) in [(1200, 600, 512), (120, 100_000, 42)] {
        let world = World::start();
        let sent: Vec<_> = (0..count).map(|_| message::big(octets)).collect();
        send(&world, &sent);
        let mut taker = Taker::open(&world.relay, &STREAMING);
        let mut windows = Vec::new();
        let mut offered: Vec<Offered> = Vec::new();
        while offered.len() < count {
            let under_way = taker.until_silence();
            windows.push(under_way.len());
            let answers = under_way.iter().map(|message| message.answers(&TAKEN));
            let answers: String = answers.collect();
            taker.peer().send_octets(answers.as_bytes());
            offered.extend(under_way);
        }
        taker.quit();
        assert_are(&sent, &offered);
        let widest = windows.iter().max().copied().unwrap_or_default();
        assert!(windows[0] < widest, "{windows:?}");
        assert!(widest > most * 3 / 4 && widest <= most, "{windows:?}");
        world.relay.wait_for_queue(&[]);
    }
}

// covers: OWN-6, OWN-7, OWN-9, R-DUP
#[test]
fn an_answer_in_the_middle_concerns_its_own_message() {
    let world = World::start();
    let sent = plain(8);
    send(&world, &sent);
    let mut taker = Taker::open(&world.relay, &STREAMING);
    let offered = taker.messages(8);
    let answers: [&[&str]; 8] = [
        &["250 ok", "250 ok", "250 taken"],
        &[
            "451 4.3.0 not now",
            "503 5.5.1 MAIL first",
            "503 5.5.1 MAIL first",
        ],
        &["250 ok", "250 ok", "250 taken"],
        &["250 ok", "450 4.2.1 busy", "554 5.5.1 no recipients"],
        &[
            "258 2.0.0 already delivered",
            "503 5.5.1 no",
            "503 5.5.1 no",
        ],
        &["250 ok", "250 ok", "552 5.2.2 too much"],
        &[
            "250 ok",
            "258 2.1.5 already delivered",
            "554 5.5.1 no recipients",
        ],
        &["250 ok", "250 ok", "250 taken"],
    ];
    for (message, answers) in offered.iter().zip(answers) {
        taker.reply(message, answers);
    }
    taker.quit();
    let to = |state: &str| format!("user@example.org {state}");
    let left = [to("deferred 1"), to("deferred 1"), to("failed 1")];
    let left: Vec<&str> = left.iter().map(String::as_str).collect();
    world.relay.wait_for_queue(&left);
    let replies: Vec<_> = world
        .queue_list()
        .iter()
        .map(|delivery| delivery["last_reply"].as_str().expect("a reply").to_owned())
        .collect();
    for (reply, beginning) in replies.iter().zip(["451 4.3.0", "450 4.2.1", "552 5.2.2"]) {
        assert!(reply.starts_with(beginning), "{replies:?}");
    }
    // What is left is what was refused, and no other content.
    world.relay.retry_all();
    let again = Taker::open(&world.relay, &STREAMING).take_the_rest();
    assert_are(&[1, 3, 5].map(|number| sent[number].clone()), &again);
}

/// An end of the link in the middle, whoever makes it: what was answered is settled, the rest comes again under the same
/// names.
#[track_caller]
fn cut_in_the_middle(what: &str, end: impl Fn(&mut Taker, &Offered)) {
    let world = World::start();
    let sent = plain(AHEAD);
    send(&world, &sent);
    let mut taker = Taker::open(&world.relay, &STREAMING);
    let offered = taker.messages(AHEAD);
    for message in &offered[..7] {
        taker.take(message);
    }
    end(&mut taker, &offered[7]);
    drop(taker);
    world
        .relay
        .wait_for_queue(&["user@example.org queued 0"; AHEAD - 7]);
    let again = Taker::open(&world.relay, &STREAMING).take_the_rest();
    assert_are(&sent[7..], &again);
    let names = |offered: &[Offered]| -> Vec<String> {
        offered
            .iter()
            .map(|message| message.name().to_owned())
            .collect()
    };
    assert_eq!(names(&again), names(&offered[7..]), "{what}");
    world.relay.wait_for_queue(&[]);
}

// covers: OWN-2, OWN-4, OWN-5, OWN-7a, R-DUP
#[test]
fn a_link_that_breaks_in_the_middle_costs_nothing() {
    cut_in_the_middle("between two answers", |_, _| {});
    cut_in_the_middle("in the answers of one message", |taker, message| {
        taker.reply(message, &["250 ok", "250 ok"]);
    });
    cut_in_the_middle("in one answer", |taker, message| {
        taker.reply(message, &["250 ok", "250 ok"]);
        taker.peer().send_octets(b"250 2.0.0 tak");
    });
    cut_in_the_middle("421 to MAIL", |taker, message| {
        taker.reply(message, &["421 4.3.2 going down"]);
    });
    cut_in_the_middle("421 to the content", |taker, message| {
        taker.reply(message, &["250 ok", "250 ok", "421 4.3.2 going down"]);
    });
    cut_in_the_middle("something that is no reply", |taker, message| {
        taker.reply(message, &["250 ok", "what?"]);
    });
}

/// What was taken and whose answer was lost is settled by its name, in the middle of what is new.
// covers: R-DUP, OWN-5
#[test]
fn lost_answers_are_made_up_for_by_names_in_the_middle_of_others() {
    let world = World::start();
    send(&world, &plain(10));
    let mut taker = Taker::open(&world.relay, &STREAMING);
    let inside: Vec<String> = taker.messages(10)[..6]
        .iter()
        .map(|message| message.name().to_owned())
        .collect();
    drop(taker);
    world
        .relay
        .wait_for_queue(&["user@example.org queued 0"; 10]);
    send(&world, &plain(5));
    let mut taker = Taker::open(&world.relay, &STREAMING);
    for message in taker.messages(15) {
        match inside.contains(&message.name().to_owned()) {
            true => taker.reply(&message, &["258 already", "503 no", "503 no"]),
            false => taker.take(&message),
        }
    }
    taker.quit();
    world.relay.wait_for_queue(&[]);
}

/// A large one waits for the verdict on its recipient, and those behind it keep their order.
// covers: R2645-23, R2920-2, R3030-1
#[test]
fn a_large_message_goes_between_small_ones() {
    let world = World::start();
    let mut sent = plain(10);
    sent[4] = message::big(300_000);
    send(&world, &sent);
    let mut taker = Taker::open(&world.relay, &STREAMING);
    let (mut offered, mut large) = (taker.messages(4), taker.envelope());
    taker.expect_silence();
    for message in &offered {
        taker.take(message);
    }
    taker.reply(&large, &TAKEN[..2]);
    large.content = taker.content();
    offered.push(large);
    taker.peer().send(TAKEN[2]);
    offered.extend(taker.take_the_rest());
    assert_are(&sent, &offered);
    world.relay.wait_for_queue(&[]);
}

// covers: OWN-7, R2920-2
#[test]
fn a_large_message_that_nobody_wants_is_not_sent() {
    let world = World::start();
    let mut sent = plain(10);
    sent[4] = message::big(300_000);
    send(&world, &sent);
    let mut taker = Taker::open(&world.relay, &STREAMING);
    let (mut offered, large) = (taker.messages(4), taker.envelope());
    for message in &offered {
        taker.take(message);
    }
    taker.reply(&large, &["250 ok", "450 4.2.1 not now"]);
    offered.extend(taker.take_the_rest());
    sent.remove(4);
    assert_are(&sent, &offered);
    world.relay.wait_for_queue(&["user@example.org deferred 1"]);
}

/// DATA is the last of its group: its 354 is waited for, and nothing else is (RFC 2920 §3.1).
// covers: R2920-2
#[test]
fn without_chunking_the_next_envelope_goes_with_the_content() {
    let world = World::start();
    let sent = plain(5);
    send(&world, &sent);
    let mut taker = Taker::open(&world.relay, &["PIPELINING", "XDELIVERYID"]);
    for (number, sent) in sent.iter().enumerate() {
        let envelope = taker.envelope();
        let peer = taker.peer();
        peer.expect_command("DATA");
        if number > 0 {
            // Its predecessor's content and this envelope came together; only now the answer to that content.
            peer.send("250 2.0.0 taken");
        }
        taker.reply(&envelope, &["250 ok", "250 ok", "354 go on"]);
        let content = taker.peer().content();
        assert_same_content("by DATA", sent, &content);
    }
    taker.peer().send("250 2.0.0 taken");
    taker.quit();
    world.relay.wait_for_queue(&[]);
}

/// A peer that does not say that it can is sent one command at a time.
// covers: R2920-2
#[test]
fn without_pipelining_each_answer_is_waited_for() {
    let world = World::start();
    let sent = plain(2);
    send(&world, &sent);
    let mut taker = Taker::open(&world.relay, &["CHUNKING", "XDELIVERYID"]);
    let peer = taker.peer();
    for sent in &sent {
        for command in ["MAIL FROM:", "RCPT TO:"] {
            peer.expect_command(command);
            peer.expect_silence(Duration::from_millis(50));
            peer.send("250 ok");
        }
        let line = peer.expect_command("BDAT ");
        let octets = line.split(' ').nth(1).unwrap().parse().unwrap();
        assert_same_content("one at a time", sent, &peer.octets(octets));
        peer.expect_silence(Duration::from_millis(50));
        peer.send("250 taken");
    }
    taker.quit();
    world.relay.wait_for_queue(&[]);
}
