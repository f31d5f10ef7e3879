//! What a client says first: too early, or in another protocol.

use std::io::{Read, Write};
use std::net::TcpStream;

use atrn_tests::peer::{DEADLINE, Pace, Peer};
use atrn_tests::process::wait_until;
use atrn_tests::world::World;

use super::{from, limits, world};

/// Beginnings of what browsers, scanners and misguided clients send.
const FOREIGN: [&[u8]; 7] = [
    b"GET / HTTP/1.1\r\nHost: relay.example.net\r\n\r\n",
    b"post /mail HTTP/1.0\r\nContent-Length: 99\r\n\r\nEHLO client\r\nMAIL FROM:<a@b.example>\r\n",
    b"CONNECT mx.example:25 HTTP/1.1\r\n\r\n",
    b"OPTIONS sip:a@b SIP/2.0\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"\x03\x00\x00\x13\x0e\xe0\x00\x00\x00\x00\x00\x01",
];

#[test]
fn another_protocol_is_cut_off_without_a_word() {
    let world = World::start();
    for octets in FOREIGN {
        for pace in [Pace::Whole, Pace::Octets] {
            let mut peer = world.relay.smtp().paced(pace);
            // It may be gone before the last octet.
            let _ = peer.try_send_octets(octets);
            peer.expect_close();
        }
    }
    let log = world.relay.log();
    for protocol in ["HTTP", "TLS", "SSH", "no text"] {
        let line = format!("spoke another protocol: {protocol}");
        assert!(log.contains(&line), "{line}\n{log}");
    }
    // What only begins like it is a command that nobody knows, and so is a verb behind the first line.
    let mut peer = world.relay.smtp();
    peer.ask("GETTER", "500");
    peer.ask("GET / HTTP/1.1", "500");
    peer.ehlo("client.source.example");
}

// covers: R5321-32
#[test]
fn who_speaks_in_the_first_moment_gets_no_greeting() {
    let world = world().start();
    // The load balancer passes on what the client said before anybody answered.
    let mut peer = Peer::connect(world.relay.smtp_address());
    peer.send_octets(b"PROXY TCP4 203.0.113.1 192.0.2.25 40000 25\r\nEHLO client.example\r\n");
    peer.expect("554 5.5.1 Speak when you are spoken to");
    peer.expect_close();
    assert_eq!(limits(&world)["offences"]["protocol"], 1);
    // Only the header: the client waits.
    from(&world, "203.0.113.1").expect("220 ");
}

/// However fast a client is: either it is caught, or it hears the greeting first. It never gets through without one.
#[test]
fn nothing_is_answered_before_the_greeting() {
    let world = World::start();
    let mut caught = 0;
    wait_until("one is caught", || {
        let mut stream = TcpStream::connect(world.relay.smtp_address()).expect("a connection");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        stream
            .write_all(b"NOOP\r\nQUIT\r\n")
            .expect("octets go out");
        let mut heard = Vec::new();
        // A connection that is reset has said what it had to say.
        let _ = stream.read_to_end(&mut heard);
        let heard = String::from_utf8_lossy(&heard).into_owned();
        assert!(
            heard.is_empty() || heard.starts_with("220 ") || heard.starts_with("554 "),
            "{heard}"
        );
        caught += usize::from(heard.starts_with("554 "));
        caught > 0
    });
}
