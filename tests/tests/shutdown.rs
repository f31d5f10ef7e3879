//! SIGTERM: sessions are told, accepted mail is on disk, and both programs end soon, whoever keeps them waiting.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use atrn_tests::certs::trusting_client;
use atrn_tests::inside::{Inside, Step};
use atrn_tests::message::{self, Message};
use atrn_tests::peer::Peer;
use atrn_tests::process::wait_until;
use atrn_tests::world::World;

/// The promise is ten seconds; a busy machine gets as many again.
const END: Duration = Duration::from_secs(20);

/// The last words of a session: one reply, and nothing that was said before it again.
#[track_caller]
fn expect_told(peer: &mut Peer) {
    peer.expect("421 4.3.2");
    peer.expect_close();
}

#[track_caller]
fn stop_relay(world: &mut World) {
    let began = Instant::now();
    assert_eq!(world.relay.stop(), 0, "{}", world.relay.log());
    assert!(began.elapsed() < END, "{:?}", began.elapsed());
}

#[track_caller]
fn stop_puller(world: &mut World) -> i32 {
    let began = Instant::now();
    let code = world.puller.stop();
    assert!(began.elapsed() < END, "{:?}", began.elapsed());
    code
}

// covers: R5321-22
#[test]
fn every_session_at_the_edge_is_told() {
    let mut world = World::start();
    let greeted = world.relay.smtp();
    let mut idle = world.relay.smtp();
    idle.ehlo("client.source.example");
    let mut in_transaction = world.relay.smtp();
    let mut in_data = world.relay.smtp();
    let mut in_chunk = world.relay.smtp();
    for peer in [&mut in_transaction, &mut in_data, &mut in_chunk] {
        peer.ehlo("client.source.example");
        peer.ask("MAIL FROM:<sender@source.example>", "250");
        peer.ask("RCPT TO:<user@example.org>", "250");
    }
    in_data.ask("DATA", "354");
    in_data.send_octets(&message::big(100_000));
    in_chunk.send("BDAT 1000 LAST");
    in_chunk.send_octets(b"Subject: half\r\n");
    let mut encrypted = world.relay.smtp();
    encrypted.ehlo("client.source.example");
    encrypted.ask("STARTTLS", "220");
    encrypted.start_tls_client(&trusting_client());
    encrypted.ehlo("client.source.example");

    stop_relay(&mut world);
    for mut peer in [greeted, idle, in_transaction, in_data, in_chunk, encrypted] {
        expect_told(&mut peer);
    }
    // Nothing was half-accepted.
    assert!(world.queue_list().is_empty());
    world.relay.start();
    assert!(world.queue_list().is_empty());
    assert_eq!(world.relay.spool_files(), 0);
}

// covers: R5321-22
#[test]
fn every_session_of_a_puller_is_told() {
    let mut world = World::start();
    let greeted = world.relay.odmr();
    let authenticated = world.relay.odmr_authenticated();
    let mut in_auth = world.relay.odmr();
    in_auth.ehlo("puller.example.org");
    in_auth.ask("AUTH CRAM-MD5", "334");
    stop_relay(&mut world);
    for mut peer in [greeted, authenticated, in_auth] {
        expect_told(&mut peer);
    }
}

/// Whoever connects and then neither speaks nor shakes hands must not hold a restart up.
#[test]
fn silent_handshakes_are_not_waited_for() {
    let mut world = World::start();
    let silent = TcpStream::connect(world.relay.odmr_address()).expect("a connection");
    let mut half = TcpStream::connect(world.relay.odmr_address()).expect("a connection");
    half.write_all(b"\x16\x03\x01").expect("half a record");
    let mut waiting = world.relay.smtp();
    waiting.ehlo("client.source.example");
    waiting.ask("STARTTLS", "220");
    wait_until("both have come in", || {
        let status = world.relay.cli(&["status", "--json"]).expect_code(0).json();
        status["odmr"]["now"] == 2
    });
    stop_relay(&mut world);
    assert!(
        !world.relay.log().contains("did not end in time"),
        "{}",
        world.relay.log()
    );
    for mut stream in [silent, half] {
        assert!(matches!(stream.read(&mut [0; 100]), Ok(0) | Err(_)));
    }
    waiting.expect_close();
}

#[test]
fn accepted_mail_is_there_after_the_stop_and_after_the_next_start() {
    let inside = Inside::smtp();
    let mut world = World::setup().target(&inside.target()).start();
    let messages: Vec<Message> = message::kinds()
        .into_iter()
        .map(|(_, content)| Message::new("user@example.org", content))
        .collect();
    world.send(&messages);
    let before = world.queue_list();
    assert_eq!(before.len(), messages.len());
    stop_relay(&mut world);
    // Without a daemon the command line looks into the queue itself.
    assert_eq!(world.queue_list(), before);
    world.relay.start();
    assert_eq!(world.queue_list(), before);
    let _ = world.puller.pull().expect_code(0);
    for (sent, arrived) in messages.iter().zip(inside.messages()) {
        message::assert_same_content("after the stop", &sent.content, &arrived.content);
    }
}

/// A client that sends without a pause is told, too, and its message is not taken.
#[test]
fn a_client_that_never_pauses_does_not_hold_the_relay_up() {
    let mut world = World::setup()
        .relay("smtp.max_message_size", "100GB")
        .start();
    let mut peer = world.relay.smtp();
    peer.ehlo("client.source.example");
    peer.ask("MAIL FROM:<sender@source.example>", "250");
    peer.ask("RCPT TO:<user@example.org>", "250");
    peer.ask("DATA", "354");
    let sender = std::thread::spawn(move || {
        let part = message::big(1_000_000);
        while peer.try_send_octets(&part).is_ok() {}
        // What was still on its way when the relay closed can cost us its last words.
        peer
    });
    wait_until("content comes", || world.relay.spool_files() == 1);
    stop_relay(&mut world);
    drop(sender.join().expect("the sender"));
    assert!(
        !world.relay.log().contains("did not end in time"),
        "{}",
        world.relay.log()
    );
    assert!(world.queue_list().is_empty());
}

/// Mail that came before the stop was told of is answered, once, and then comes the 421.
#[test]
fn a_reply_is_not_said_twice() {
    let mut world = World::start();
    let mut peer = world.relay.smtp();
    peer.ehlo("client.source.example");
    peer.ask("MAIL FROM:<sender@source.example>", "250");
    peer.ask("RCPT TO:<user@example.org>", "250");
    peer.ask("DATA", "354");
    peer.ask(".", "250 2.0.0");
    stop_relay(&mut world);
    expect_told(&mut peer);
    assert_eq!(world.queue_list().len(), 1);
}

/// A puller that has asked for mail and then says no more. The message stays queued, free for the next.
// covers: OWN-2
#[test]
fn a_drain_to_a_stalled_puller_is_cut_off() {
    let mut world = World::start();
    world.send(&[
        Message::new("user@example.org", message::plain(1)),
        Message::new("user@example.org", message::big(500_000)),
    ]);
    let mut stalled_at_greeting = world.relay.odmr_authenticated();
    stalled_at_greeting.ask("ATRN example.org", "250");
    let mut stalled_at_mail = world.relay.odmr_authenticated();
    stalled_at_mail.ask("ATRN example.org", "250");
    stalled_at_mail.send("220 puller.example.org ESMTP");
    stalled_at_mail.expect_command("EHLO");
    stalled_at_mail.send("250-puller.example.org");
    stalled_at_mail.send("250 PIPELINING");
    stalled_at_mail.expect_command("MAIL");
    wait_until("the messages are leased", || leased(&world) == 2);
    stop_relay(&mut world);
    let states: Vec<_> = world
        .queue_list()
        .iter()
        .map(|item| item["state"].clone())
        .collect();
    assert_eq!(states, ["queued", "queued"]);

    let inside = Inside::smtp();
    world.relay.start();
    world.puller.set_target(&inside.target());
    let _ = world.puller.pull().expect_code(0);
    assert_eq!(inside.messages().len(), 2);
}

/// In the middle of a backlog a session ends between two messages: none is lost and none comes twice.
#[test]
fn a_relay_that_stops_in_a_drain_loses_and_doubles_nothing() {
    let inside = Inside::smtp();
    let mut world = World::setup().target(&inside.target()).start();
    let sent = send_numbered(&world);
    world.puller.begin_pull();
    inside.wait_for_messages(5);
    stop_relay(&mut world);
    world.puller.pulled();
    let left = world.queue_list().len();
    assert_eq!(
        numbers(&inside).len() + left,
        sent,
        "what was taken is settled"
    );
    world.relay.start();
    let _ = world.puller.pull().expect_code(0);
    assert_eq!(numbers(&inside), (0..sent).collect::<Vec<_>>());
    assert!(world.queue_list().is_empty());
}

#[test]
fn a_puller_that_stops_in_a_pull_loses_and_doubles_nothing() {
    let inside = Inside::smtp();
    let mut world = World::setup().target(&inside.target()).start();
    let sent = send_numbered(&world);
    world.puller.start();
    inside.wait_for_messages(5);
    assert_eq!(stop_puller(&mut world), 0, "{}", world.puller.log());
    wait_until("the relay has seen the end", || leased(&world) == 0);
    let left = world.queue_list().len();
    assert_eq!(
        numbers(&inside).len() + left,
        sent,
        "what was taken is settled"
    );
    let _ = world.puller.pull().expect_code(0);
    assert_eq!(numbers(&inside), (0..sent).collect::<Vec<_>>());
    assert!(world.queue_list().is_empty());
}

#[test]
fn a_puller_with_nothing_to_do_stops_at_once() {
    let inside = Inside::smtp();
    let mut world = World::setup().target(&inside.target()).start();
    world.puller.start();
    wait_until("it has asked for mail", || {
        world.puller.log().contains("pull ended")
    });
    assert_eq!(stop_puller(&mut world), 0);
    // SIGINT, as a terminal sends it, does the same.
    world.puller.start();
    wait_until("it has asked for mail", || {
        world.puller.log().matches("pull ended").count() == 2
    });
    let id = i32::try_from(world.puller.id().expect("a running puller")).expect("a process id");
    kill(Pid::from_raw(id), Signal::SIGINT).expect("a signal");
    assert_eq!(world.puller.pulled(), 0);
}

/// The corporate server does not answer: the daemon, and a pull by hand, end all the same, and the relay keeps
/// what was not acknowledged.
// covers: OWN-2, OWN-4
#[test]
fn a_puller_whose_target_stalls_is_cut_off() {
    // Side by side: each waits for its deadline.
    std::thread::scope(|scope| {
        for step in [Step::Greeting, Step::Mail, Step::Data] {
            scope.spawn(move || stop_while_stalled(step));
        }
    });
}

fn stop_while_stalled(step: Step) {
    let inside = Inside::smtp();
    inside.on(step).once().stall();
    let mut world = World::setup().target(&inside.target()).start();
    world.send(&[Message::new("user@example.org", message::plain(1))]);
    let by_hand = step == Step::Data;
    if by_hand {
        world.puller.begin_pull();
    } else {
        world.puller.start();
    }
    inside.wait_until("the session stalls", |record| record.stalled == 1);
    let code = stop_puller(&mut world);
    let expected = if by_hand { 75 } else { 0 };
    assert_eq!(code, expected, "{step:?}: {}", world.puller.log());
    wait_until("the relay has seen the end", || leased(&world) == 0);
    assert_eq!(world.queue_list().len(), 1, "{step:?}");
    // The target sees the connection end.
    inside.behave();
    inside.release();
    inside.wait_until("the session has ended", |record| record.ended == 1);
    assert!(inside.messages().is_empty(), "{step:?}");
    let _ = world.puller.pull().expect_code(0);
    assert_eq!(inside.messages().len(), 1, "{step:?}");
    assert!(world.queue_list().is_empty(), "{step:?}");
}

/// A restart while the corporate server ponders over a message that it has whole: its word is awaited, for longer than
/// anything else, and passed on. Cut off there, the message would be inside twice.
// covers: OWN-4, R-DUP
#[test]
fn a_puller_whose_target_ponders_awaits_the_verdict() {
    std::thread::scope(|scope| {
        for by_hand in [false, true] {
            scope.spawn(move || stop_while_pondering(by_hand));
        }
    });
}

fn stop_while_pondering(by_hand: bool) {
    let inside = Inside::smtp();
    inside.on(Step::EndOfData).once().stall();
    let mut world = World::setup().target(&inside.target()).start();
    world.send(&[Message::new("user@example.org", message::plain(1))]);
    if by_hand {
        world.puller.begin_pull();
    } else {
        world.puller.start();
    }
    inside.wait_until("the target ponders", |record| record.stalled == 1);
    let id = i32::try_from(world.puller.id().expect("a running puller")).expect("a process id");
    kill(Pid::from_raw(id), Signal::SIGTERM).expect("a signal");
    // It says so where it would have cut others off.
    wait_until("the puller waits on", || {
        let log = world.puller.log();
        log.contains("waiting for the verdict of the mail server inside")
    });
    inside.release();
    let expected = if by_hand { 75 } else { 0 };
    assert_eq!(world.puller.pulled(), expected, "{}", world.puller.log());
    assert_eq!(inside.messages().len(), 1);
    assert!(world.queue_list().is_empty(), "the relay has heard of it");
    let _ = world.puller.pull().expect_code(0);
    assert_eq!(inside.messages().len(), 1);
}

/// A relay that never answers ATRN.
#[test]
fn a_puller_whose_relay_stalls_stops_at_once() {
    let inside = Inside::smtp();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let mut world = World::setup()
        .target(&inside.target())
        .puller("relay.address", address)
        .puller("relay.tls", "off")
        .puller("relay.weakest_mechanism", "CRAM-MD5")
        .start();
    world.puller.configure(|settings| {
        let relay = settings.table()["relay"][0]
            .as_table_mut()
            .expect("a relay");
        relay.remove("pin");
    });
    world.puller.start();
    let mut relay = Peer::accept(&listener);
    relay.send("220 relay.example.net");
    relay.expect_command("EHLO");
    relay.send("250-relay.example.net");
    relay.send("250-AUTH CRAM-MD5");
    relay.send("250 ATRN");
    relay.expect_command("AUTH CRAM-MD5");
    relay.send("334 PGFAYj4=");
    relay.line();
    relay.send("235 2.7.0 welcome");
    relay.expect_command("ATRN");
    assert_eq!(stop_puller(&mut world), 0);
    relay.expect_close();
}

/// Messages of different sizes, each with its number.
fn send_numbered(world: &World) -> usize {
    const MESSAGES: usize = 400;
    let messages: Vec<Message> = (0..MESSAGES)
        .map(|number| {
            let filler = "x".repeat(70) + "\r\n";
            let body = filler.repeat(if number % 20 == 0 { 1000 } else { 20 });
            let content = message::with_subject(&format!("message {number}."), body.as_bytes());
            Message::new("user@example.org", content)
        })
        .collect();
    world.send(&messages);
    MESSAGES
}

/// The numbers of the messages that have arrived, sorted; one that came twice is there twice.
fn numbers(inside: &Inside) -> Vec<usize> {
    let number = |content: &[u8]| {
        let text = String::from_utf8_lossy(content).into_owned();
        let (_, rest) = text.split_once("Subject: message ").expect("a subject");
        rest.split('.')
            .next()
            .and_then(|number| number.parse().ok())
            .expect("a number")
    };
    let mut numbers: Vec<usize> = inside
        .messages()
        .iter()
        .map(|arrived| number(&arrived.content))
        .collect();
    numbers.sort_unstable();
    numbers
}

fn leased(world: &World) -> u64 {
    let status = world.relay.cli(&["status", "--json"]).expect_code(0).json();
    status["leased"].as_u64().expect("a number")
}
