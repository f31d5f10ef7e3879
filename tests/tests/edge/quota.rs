//! What a domain may hold, and what senders hear when it is full.

use super::{MAIL, RCPT, pulled, session, transaction};
use atrn_tests::peer::Peer;
use atrn_tests::world::World;

const FULL: &str = "452 4.2.2 Too much mail waits for this domain, try again later";

#[track_caller]
fn send(peer: &mut Peer, content: &str, reply: &str) {
    peer.ask("DATA", "354");
    peer.ask(&format!("{content}\r\n."), reply);
}

#[test]
fn a_domain_that_holds_enough_messages_is_full_until_they_are_pulled() {
    let world = World::setup()
        .relay("domain.max_queue_messages", 2)
        .relay("smtp.max_errors", 3)
        .start();
    let mut peer = session(&world);
    for _ in 0..2 {
        peer.ask(MAIL, "250");
        peer.ask(RCPT, "250");
        send(&mut peer, "text", "250 2.0.0");
    }
    // "Later" is no error of the client: it may ask for each of its recipients.
    peer.ask(MAIL, "250");
    for _ in 0..5 {
        peer.ask(RCPT, FULL);
    }
    peer.ask("DATA", "554 5.5.1");
    let said = |text: &str| world.relay.log().matches(text).count();
    assert_eq!(said("new mail is refused: the quota is full"), 1);
    let status = world.relay.status();
    let domain = &status["domains"][0];
    assert_eq!(domain["messages"], 2, "{domain}");
    assert_eq!(domain["max_queue_messages"], 2, "{domain}");
    assert!(status["disk"]["free"].as_u64().is_some(), "{status}");
    let checked = world.relay.cli(&["status", "--check"]).expect_code(1);
    assert!(checked.stdout.contains("100%"), "{}", checked.stdout);
    assert!(
        checked.stderr.contains(
            "new mail is refused (452): its quota is full, 2 of 2 messages (2 wait, 0 failed or expired)"
        ),
        "{}",
        checked.stderr
    );
    assert_eq!(pulled(&world).len(), 2);
    assert_eq!(said("the quota has room"), 0);
    peer.ask(RCPT, "250");
    assert_eq!(said("the quota has room"), 1);
    send(&mut peer, "text", "250 2.0.0");
}

#[test]
fn octets_count_as_declared_and_again_as_they_came() {
    let world = World::setup()
        .relay("domain.max_queue_size", "20kB")
        .start();
    let mut declared = session(&world);
    declared.ask(&format!("{MAIL} SIZE=20001"), "250");
    declared.ask(RCPT, FULL);
    // Two that find room when they ask, and would not fit together.
    let (mut first, mut second) = (transaction(&world), transaction(&world));
    let content = "text\r\n".repeat(2_000);
    send(&mut first, &content, "250 2.0.0");
    send(&mut second, &content, FULL);
    assert_eq!(world.relay.queue_lines(), ["user@example.org queued 0"]);
    // What waits is not counted against another domain, nor a small message that still fits.
    let mut small = transaction(&world);
    send(&mut small, "text", "250 2.0.0");
}
