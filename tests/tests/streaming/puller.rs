//! The real puller and a relay in the hands of the test: several messages come at once, go inside over several
//! connections, and are answered in their order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use atrn_tests::captured::Captured;
use atrn_tests::inside::{Arrived, Inside, Step};
use atrn_tests::message::{self, without_trace};
use atrn_tests::peer::Peer;

/// Whoever plays the relay serves one connection.
fn one_session() -> [(&'static str, toml::Value); 1] {
    [("relay.sessions", 1.into())]
}

/// A message in one flight, from a sender of its own.
fn flight(number: usize) -> Vec<u8> {
    flight_from(&format!("sender{number}"), number, &message::plain(number))
}

fn flight_from(sender: &str, number: usize, content: &[u8]) -> Vec<u8> {
    let envelope = format!(
        "MAIL FROM:<{sender}@source.example> XDELIVERYID=m.{number}\r\n\
         RCPT TO:<user{number}@example.org>\r\nBDAT {} LAST\r\n",
        content.len()
    );
    [envelope.as_bytes(), content].concat()
}

fn flights(numbers: impl IntoIterator<Item = usize>) -> Vec<u8> {
    numbers.into_iter().flat_map(flight).collect()
}

/// The codes of the answers to so many messages, three each.
#[track_caller]
fn answers(peer: &mut Peer, count: usize) -> Vec<[u16; 3]> {
    (0..count)
        .map(|_| {
            [(); 3].map(|()| {
                let reply = peer.reply();
                reply[0][..3].parse().expect("a code")
            })
        })
        .collect()
}

const TAKEN: [u16; 3] = [250; 3];

/// Connections to the target that a session has at most.
const LANES: usize = 4;

fn number(arrived: &Arrived) -> usize {
    let digits = |letter: char| letter.is_ascii_digit();
    let number = arrived.recipients[0].trim_start_matches(|letter| !digits(letter));
    let end = number.find(|letter| !digits(letter)).expect("an address");
    number[..end].parse().expect("a number")
}

/// How often each number is inside.
fn inside_times(inside: &Inside) -> BTreeMap<usize, usize> {
    let mut times = BTreeMap::new();
    for arrived in inside.messages() {
        *times.entry(number(&arrived)).or_default() += 1;
    }
    times
}

// covers: R2920-1, R2920-2, R5321-25
#[test]
fn answers_keep_the_order_of_the_messages_whoever_is_through_first() {
    const COUNT: usize = 40;
    let inside = Inside::smtp();
    inside.on(Step::EndOfData).with("user0@").stall();
    let (no, later) = ("550 5.1.1 no such user", "452 4.2.2 full");
    inside.on(Step::Rcpt).with("user3@").reply(no);
    inside.on(Step::EndOfData).with("user5@").reply(later);
    inside
        .on(Step::Mail)
        .with("sender8@")
        .reply("451 4.3.0 not now");
    let mut captured = Captured::new(&inside.target(), &one_session());
    let mut relay = captured.pull();
    relay.send_octets(&flights(0..COUNT));
    // The others go past the first, on other connections.
    inside.wait_for_messages(COUNT / 4);
    assert!(inside.record().sessions > 1);
    for _ in 0..2 {
        if !relay.is_silent(Duration::from_millis(100)) {
            relay.expect("250 2.1.");
        }
    }
    relay.expect_silence(Duration::from_millis(100));
    inside.release();
    // What was read above were those to the first envelope.
    let said = relay.dialogue().matches("<< 250 2.1.").count();
    for _ in said..2 {
        relay.expect("250 2.1.");
    }
    relay.expect("250 2.0.0");
    let mut expected = vec![TAKEN; COUNT - 1];
    expected[2] = [250, 550, 554];
    expected[4] = [250, 250, 452];
    expected[7] = [451, 503, 503];
    assert_eq!(answers(&mut relay, COUNT - 1), expected);
    assert_eq!(captured.quit(relay), 0);
    let times = inside_times(&inside);
    assert_eq!(times.len(), COUNT - 3);
    assert!(times.values().all(|times| *times == 1));
}

/// Several connections are no reason to turn the mail of one sender round.
// covers: R2645-23
#[test]
fn mail_of_one_sender_arrives_in_its_order() {
    const COUNT: usize = 150;
    let inside = Inside::smtp();
    for slow in ["user3@", "user20@", "user40@", "user77@"] {
        inside
            .on(Step::EndOfData)
            .with(slow)
            .take_time(Duration::from_millis(100));
    }
    let mut captured = Captured::new(&inside.target(), &one_session());
    let mut relay = captured.pull();
    let sender = |number: usize| format!("sender{}", number * number % 7);
    for part in 0..3 {
        let numbers = part * COUNT / 3..(part + 1) * COUNT / 3;
        let octets: Vec<u8> = numbers
            .flat_map(|number| flight_from(&sender(number), number, &message::plain(number)))
            .collect();
        relay.send_octets(&octets);
    }
    assert_eq!(answers(&mut relay, COUNT), vec![TAKEN; COUNT]);
    assert_eq!(captured.quit(relay), 0);
    assert!(
        inside.record().sessions > 1,
        "one connection turns nothing round"
    );
    let mut last = BTreeMap::new();
    for arrived in inside.messages() {
        let number = number(&arrived);
        let before = last.insert(arrived.mail.clone(), number);
        assert!(
            before < Some(number),
            "{number} of {} behind {before:?}",
            arrived.mail
        );
    }
}

/// A target that does nothing makes the relay wait; it does not fill our memory.
// covers: R2920-1
#[test]
fn what_is_read_ahead_is_bounded() {
    const COUNT: usize = 400;
    const OCTETS: usize = 100_000;
    let inside = Inside::smtp();
    inside.on(Step::EndOfData).stall();
    let mut captured = Captured::new(&inside.target(), &one_session());
    let mut relay = captured.pull();
    let before = peak_memory(&captured);
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let sending = std::thread::spawn(move || {
        let content = message::big(OCTETS);
        for number in 0..COUNT {
            relay.send_octets(&flight_from(&format!("s{number}"), number, &content));
            counter.fetch_add(1, Ordering::Relaxed);
        }
        relay
    });
    inside.wait_until("the first is there", |record| record.stalled > 0);
    // Until no more goes in; to stop too early would miss a fault, and report none.
    let mut seen = usize::MAX;
    while seen != sent.load(Ordering::Relaxed) {
        seen = sent.load(Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(200));
    }
    let grown = peak_memory(&captured) - before;
    assert!(
        grown < 16 << 20,
        "{grown} octets more after {seen} messages"
    );
    assert!(
        seen < COUNT / 2,
        "{seen} messages of {OCTETS} octets were read"
    );
    inside.behave();
    inside.release();
    let mut relay = sending.join().expect("all is sent");
    assert_eq!(answers(&mut relay, COUNT), vec![TAKEN; COUNT]);
    assert_eq!(captured.quit(relay), 0);
    assert_eq!(inside.messages().len(), COUNT);
}

/// The most memory that the puller has had, in octets.
fn peak_memory(captured: &Captured) -> usize {
    let id = captured.puller.id().expect("a running puller");
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("its status");
    let mut fields = status
        .lines()
        .filter_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = fields
        .next()
        .and_then(|value| value.trim().strip_suffix(" kB"));
    kilobytes
        .and_then(|value| value.parse::<usize>().ok())
        .expect("a number")
        * 1024
}

/// Each kind among the others: large ones, chunks, RSET in between, recipients that are refused by us.
// covers: R2920-1, R3030-1
#[test]
fn other_kinds_of_messages_in_between_keep_their_place() {
    let inside = Inside::smtp();
    let mut captured = Captured::new(&inside.target(), &one_session());
    let mut relay = captured.pull();
    let large = message::big(400_000);
    let mut octets = flights(0..5);
    octets.extend(flight_from("sender5", 5, &large));
    octets.extend(flights(6..8));
    // Two chunks.
    octets.extend(
        b"MAIL FROM:<s8@source.example> XDELIVERYID=m.8\r\nRCPT TO:<user8@example.org>\r\n",
    );
    octets.extend(b"BDAT 14\r\nSubject: 8\r\n\r\nBDAT 4 LAST\r\n8.\r\n");
    octets.extend(flights(9..11));
    // A transaction that is given up.
    octets.extend(
        b"MAIL FROM:<x@source.example> XDELIVERYID=m.x\r\nRCPT TO:<x@example.org>\r\nRSET\r\n",
    );
    octets.extend(flights(11..13));
    octets.extend(
        b"MAIL FROM:<y@source.example> XDELIVERYID=m.y\r\nRCPT TO:<y@elsewhere.example>\r\n",
    );
    octets.extend(b"BDAT 3 LAST\r\ny\r\nRSET\r\n");
    octets.extend(flights(13..16));
    relay.send_octets(&octets);
    assert_eq!(answers(&mut relay, 8), vec![TAKEN; 8]);
    for code in ["250 2.1.0", "250 2.1.5", "250 ", "250 2.0.0"] {
        relay.expect(code);
    }
    assert_eq!(answers(&mut relay, 2), vec![TAKEN; 2]);
    for code in ["250 2.1.0", "250 2.1.5", "250 2.0.0"] {
        relay.expect(code);
    }
    assert_eq!(answers(&mut relay, 2), vec![TAKEN; 2]);
    for code in ["250 2.1.0", "550 5.7.1", "554 5.5.1", "250 2.0.0"] {
        relay.expect(code);
    }
    assert_eq!(answers(&mut relay, 3), vec![TAKEN; 3]);
    assert_eq!(captured.quit(relay), 0);
    let times = inside_times(&inside);
    assert_eq!(
        times.into_keys().collect::<Vec<_>>(),
        (0..16).collect::<Vec<_>>()
    );
    let arrived = inside.messages();
    assert_eq!(arrived.len(), 16);
    for arrived in arrived {
        let sent = match number(&arrived) {
            5 => large.clone(),
            8 => b"Subject: 8\r\n\r\n8.\r\n".to_vec(),
            number => message::plain(number),
        };
        assert_eq!(without_trace(&arrived.content), sent);
    }
}

/// The same name twice in one flight: a relay that does so gets one of them inside.
// covers: R-DUP
#[test]
fn a_name_that_is_under_way_is_not_handed_over_again() {
    let inside = Inside::smtp();
    let mut captured = Captured::new(&inside.target(), &one_session());
    let mut relay = captured.pull();
    relay.send_octets(&flights([1, 2, 1, 3, 2, 1]));
    let said = answers(&mut relay, 6);
    assert_eq!([said[0], said[1], said[3]], [TAKEN; 3]);
    for again in [said[2], said[4], said[5]] {
        assert!(
            again == [258, 503, 503] || again == [451, 503, 503],
            "{again:?}"
        );
    }
    assert_eq!(captured.quit(relay), 0);
    assert_eq!(
        inside_times(&inside),
        BTreeMap::from([(1, 1), (2, 1), (3, 1)])
    );
}

/// The relay is gone while the target has several messages whole: its word on them is awaited and written down.
// covers: OWN-4, OWN-5, R-DUP
#[test]
fn what_several_connections_have_under_way_is_known_after_a_lost_link() {
    const COUNT: usize = 20;
    let inside = Inside::smtp();
    inside.on(Step::EndOfData).stall();
    let mut captured = Captured::new(&inside.target(), &one_session());
    let mut relay = captured.pull();
    relay.send_octets(&flights(0..COUNT));
    inside.wait_until("several have their end", |record| record.stalled >= 2);
    drop(relay);
    inside.behave();
    inside.release();
    assert_eq!(captured.puller.pulled(), 75);
    let known = inside_times(&inside);
    assert!(known.len() >= 2);
    let mut relay = captured.pull();
    relay.send_octets(&flights(0..COUNT));
    for (number, said) in answers(&mut relay, COUNT).into_iter().enumerate() {
        let expected = match known.contains_key(&number) {
            true => [258, 503, 503],
            false => TAKEN,
        };
        assert_eq!(said, expected, "{number}");
    }
    assert_eq!(captured.quit(relay), 0);
    let times = inside_times(&inside);
    assert_eq!(times.len(), COUNT);
    assert!(times.values().all(|times| *times == 1), "{times:?}");
}

/// One connection to the target breaks in the middle: the message whose end it had is the only one that waits.
// covers: OWN-7, R5321-27
#[test]
fn a_target_that_hangs_up_in_the_middle_defers_one_message() {
    const COUNT: usize = 30;
    let inside = Inside::smtp();
    inside.on(Step::EndOfData).with("user11@").once().hang_up();
    let mut captured = Captured::new(&inside.target(), &one_session());
    let mut relay = captured.pull();
    relay.send_octets(&flights(0..COUNT));
    let mut expected = vec![TAKEN; COUNT];
    expected[11][2] = 451;
    assert_eq!(answers(&mut relay, COUNT), expected);
    relay.send_octets(&flight(11));
    assert_eq!(answers(&mut relay, 1), [TAKEN]);
    assert_eq!(captured.quit(relay), 0);
    let times = inside_times(&inside);
    assert_eq!(times.len(), COUNT);
    assert!(times.values().all(|times| *times == 1), "{times:?}");
}

/// The target goes away for good: what it took has its answer, and the rest is refused for now, to the last one.
// covers: OWN-7, R5321-27
#[test]
fn a_target_that_dies_in_the_middle_is_told_to_the_relay() {
    const COUNT: usize = 40;
    let inside = Inside::smtp();
    inside.on(Step::EndOfData).after(10).stall();
    let mut captured = Captured::new(&inside.target(), &one_session());
    let mut relay = captured.pull();
    relay.send_octets(&flights(0..COUNT));
    inside.wait_until("it stalls", |record| {
        record.stalled > 0 && record.messages.len() == 10
    });
    let taken = inside_times(&inside);
    drop(inside);
    let mut said = Vec::new();
    while let Some(line) = relay.try_line() {
        said.push(line);
    }
    let handed_over = said.iter().filter(|line| line.starts_with("250 2.0.0"));
    // What it took as it died it may not have said.
    let (handed_over, taken) = (handed_over.count(), taken.len());
    assert!(
        handed_over <= taken && handed_over + LANES >= taken,
        "{handed_over} of {taken}"
    );
    let last = said.last().expect("answers");
    assert!(last.starts_with("421 4.4.1"), "{last}");
    assert_eq!(captured.puller.pulled(), 75);
}
