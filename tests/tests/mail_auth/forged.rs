//! Nobody brings verdicts in our name.

use atrn_tests::dns::Dns;
use atrn_tests::peer::Peer;
use atrn_tests::world::World;

use super::signing::message;
use super::{session, setup, verdicts};

const FORGED: [&str; 4] = [
    "Authentication-Results: relay.example.net; spf=pass smtp.mailfrom=bank.example\r\n",
    "authentication-results : RELAY.example.net 1;\r\n\tdkim=pass header.d=bank.example\r\n",
    "Authentication-Results:\r\n (x) relay.example.net; dmarc=pass\r\n",
    "Authentication-Results: \"relay.example.net\"; dmarc=pass\r\n",
];
const OTHER: &str = "Authentication-Results: mx.elsewhere.example; spf=pass\r\n";

fn content() -> String {
    let [first, second, third, fourth] = FORGED;
    format!(
        "{first}{OTHER}{second}{third}{}{fourth}",
        message("alice@author.example")
    )
    .replacen("\r\n\r\n", &format!("\r\n{fourth}\r\n"), 1)
}

/// In pieces of this size, each in a packet of its own as far as that can be had.
#[track_caller]
fn send_in_pieces(world: &World, peer: &mut Peer, size: usize) -> String {
    peer.ask("MAIL FROM:<a@sender.example>", "250");
    peer.ask("RCPT TO:<user@example.org>", "250");
    peer.ask("DATA", "354");
    for piece in content().as_bytes().chunks(size) {
        peer.send_octets(piece);
    }
    peer.send(".");
    let reply = peer.expect("250 2.0.0 ");
    let id = reply["250 2.0.0 ".len()..]
        .split(' ')
        .next()
        .expect("a queue id")
        .to_owned();
    world
        .relay
        .cli(&["queue", "cat", &id])
        .expect_code(0)
        .stdout
}

#[track_caller]
fn assert_clean(held: &str) {
    let (_, below) = held.split_once("Received: ").expect("a trace field");
    let (head, body) = below.split_once("\r\n\r\n").expect("a body");
    assert!(!head.to_lowercase().contains("bank.example"), "{held}");
    assert_eq!(
        head.to_lowercase()
            .matches("authentication-results")
            .count(),
        1,
        "{held}"
    );
    assert!(head.contains(OTHER.trim_end()), "{held}");
    // What stands in the body is text.
    assert!(
        body.contains("Hello there\r\n") && body.ends_with(FORGED[3]),
        "{held}"
    );
}

// covers: R8601-1
#[test]
fn verdicts_in_our_name_are_taken_out_however_they_come() {
    let dns = Dns::start();
    let world = setup(&dns).start();
    let mut peer = session(&world);
    for size in [1, 2, 3, 7, 50, 10_000] {
        let held = send_in_pieces(&world, &mut peer, size);
        assert_eq!(verdicts(&held).map(|found| found.len()), Some(3));
        assert_clean(&held);
    }
    // By BDAT, with the chunks' ends in the middle of the field.
    let content = content();
    for size in [11, 40] {
        peer.ask("MAIL FROM:<a@sender.example>", "250");
        peer.ask("RCPT TO:<user@example.org>", "250");
        for chunk in content.as_bytes().chunks(size) {
            peer.send_octets(format!("BDAT {}\r\n", chunk.len()).as_bytes());
            peer.send_octets(chunk);
            peer.expect("250 ");
        }
        peer.send("BDAT 0 LAST");
        let reply = peer.expect("250 2.0.0 ");
        let id = reply["250 2.0.0 ".len()..]
            .split(' ')
            .next()
            .expect("a queue id")
            .to_owned();
        assert_clean(
            &world
                .relay
                .cli(&["queue", "cat", &id])
                .expect_code(0)
                .stdout,
        );
    }
}

/// Also where nobody is asked: a reader inside cannot know that.
// covers: R8601-1
#[test]
fn without_dns_they_are_taken_out_as_well() {
    let world = World::start();
    let held = send_in_pieces(&world, &mut session(&world), 10_000);
    assert_eq!(verdicts(&held), None);
    assert_clean(&held);
}
