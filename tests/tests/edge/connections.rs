//! How many connections, for how long (RFC 5321 §4.5.3.2, §7.8).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use atrn_tests::message;
use atrn_tests::peer::{Peer, is_end};
use atrn_tests::process::wait_until;
use atrn_tests::world::World;

use super::{transaction, wait_for_no_session};

const BUSY: &str = "421 4.3.2 relay.example.net is busy, try again later";
const TOO_MANY_FROM_HERE: &str =
    "421 4.7.0 relay.example.net has too many connections from your address, try again later";

/// Connects until there is room: the relay takes a moment to see that a client is gone.
#[track_caller]
fn connect_when_there_is_room(world: &World) -> Peer {
    let mut found = None;
    wait_until("there is room", || {
        let mut peer = Peer::connect(world.relay.smtp_address());
        found = peer.line().starts_with("220 ").then_some(peer);
        found.is_some()
    });
    found.expect("a peer")
}

#[track_caller]
fn expect_turned_away(world: &World, with: &str) {
    let mut peer = Peer::connect(world.relay.smtp_address());
    assert_eq!(peer.line(), with);
    peer.expect_close();
}

// covers: R5321-1, R5321-22
#[test]
fn one_client_has_so_many_connections_and_no_more() {
    let world = World::setup()
        .relay("smtp.max_connections_per_ip", 3)
        .relay("limits.exempt", Vec::<&str>::new())
        .start();
    wait_for_no_session(&world);
    let mut peers: Vec<Peer> = (0..3).map(|_| world.relay.smtp()).collect();
    expect_turned_away(&world, TOO_MANY_FROM_HERE);
    expect_turned_away(&world, TOO_MANY_FROM_HERE);
    peers.remove(1).ask("QUIT", "221");
    peers.push(connect_when_there_is_room(&world));
    expect_turned_away(&world, TOO_MANY_FROM_HERE);
    // Those that are in are not disturbed, and a connection that is lost makes room too.
    drop(peers.remove(0));
    peers.push(connect_when_there_is_room(&world));
    for peer in &mut peers {
        peer.ask("NOOP", "250");
    }
}

// covers: R5321-1, R5321-22
#[test]
fn all_clients_together_have_so_many_connections_and_no_more() {
    let world = World::setup()
        .relay("smtp.max_connections", 3)
        .relay("smtp.max_connections_per_ip", 100)
        .start();
    wait_for_no_session(&world);
    let peers: Vec<Peer> = (0..3).map(|_| world.relay.smtp()).collect();
    expect_turned_away(&world, BUSY);
    // Pullers have connections of their own.
    drop(world.relay.odmr());
    drop(peers);
    drop(connect_when_there_is_room(&world));
}

/// One reply, and it is not the last one again.
// covers: R5321-22, R5321-46, R5321-23
#[test]
fn a_silent_client_is_told_and_cut_off() {
    let world = World::setup().relay("smtp.command_timeout", "1s").start();
    let mut peer = world.relay.smtp();
    peer.expect("421 4.4.2");
    peer.expect_close();
}

/// Octets that make no command buy no time, or a few strangers hold every place with one octet now and then.
// covers: R5321-46
#[test]
fn a_client_that_drips_is_cut_off_as_a_silent_one() {
    let world = World::setup().relay("smtp.command_timeout", "1s").start();
    let mut stream = TcpStream::connect(world.relay.smtp_address()).expect("a connection");
    let mut greeting = [0; 4];
    stream.read_exact(&mut greeting).expect("the greeting");
    assert_eq!(&greeting, b"220 ");
    let brief = Some(Duration::from_millis(50));
    stream.set_read_timeout(brief).expect("a read time-out");
    let mut heard = Vec::new();
    for _ in 0..1200 {
        let mut part = [0; 512];
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(count) => heard.extend_from_slice(&part[..count]),
            Err(error) if is_end(error.kind()) => break,
            Err(_) => {
                let _ = stream.write_all(b"N");
            }
        }
    }
    let heard = String::from_utf8_lossy(&heard).into_owned();
    assert!(heard.contains("\r\n421 4.4.2 "), "{heard:?}");
}

/// Whoever asks "why was I refused?" finds an answer.
// covers: R5321-21
#[test]
fn what_the_protocol_refuses_is_logged_and_counted() {
    let world = World::setup().relay("smtp.max_message_size", "1MB").start();
    let mut peer = world.relay.smtp();
    let _ = peer.ehlo("client.example");
    peer.ask("MAIL FROM:<a@source.example> SIZE=2000000", "552 5.3.4");
    peer.ask("WHAT", "500 5.5.2");
    peer.ask("QUIT", "221");
    peer.expect_close();
    wait_until("the refusals are counted", || {
        world.relay.status()["refused_permanent"] == 2
    });
    let log = world.relay.log();
    assert!(
        log.contains("reply=552 5.3.4") && log.contains("reply=500 5.5.2"),
        "{log}"
    );
}

// covers: R5321-22, R5321-47
#[test]
fn content_that_stops_coming_is_cut_off_and_discarded() {
    let world = World::setup().relay("smtp.data_timeout", "1s").start();
    let mut peer = transaction(&world);
    peer.ask("DATA", "354");
    peer.send_octets(&message::big(100_000));
    peer.expect("421 4.4.2");
    peer.expect_close();
    let mut peer = transaction(&world);
    peer.send("BDAT 1000 LAST");
    peer.send_octets(b"Subject: x\r\n");
    peer.expect("421 4.4.2");
    peer.expect_close();
    wait_for_no_session(&world);
    assert!(world.queue_list().is_empty());
    assert_eq!(world.relay.spool_files(), 0);
}
