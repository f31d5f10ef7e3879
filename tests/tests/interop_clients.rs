//! Mail clients of other people deliver to the relay with STARTTLS.

use atrn_tests::inside::Inside;
use atrn_tests::message::{self, assert_same_content};
use atrn_tests::software::{msmtp, swaks};
use atrn_tests::world::World;

// covers: R3207-1, R3848-1
#[test]
fn swaks_delivers_with_starttls() {
    let inside = Inside::smtp();
    let world = World::setup().target(&inside.target()).start();
    let server = world.relay.smtp_address();
    let body = [
        "--tls",
        "--header",
        "Subject: from swaks",
        "--body",
        "Grüße aus swaks",
    ];
    let Some(sent) = swaks(server, "user@example.org", &body) else {
        return;
    };
    assert_eq!(sent.code, 0, "{}{}", sent.stdout, sent.stderr);
    assert!(sent.stdout.contains("TLS started"), "{}", sent.stdout);

    // In one flight, and in the clear.
    let piped = ["--pipeline", "--header", "Subject: pipelined"];
    let sent = swaks(server, "user@example.org", &piped).expect("swaks was there");
    assert_eq!(sent.code, 0, "{}{}", sent.stdout, sent.stderr);

    let _ = world.puller.pull().expect_code(0);
    let arrived = inside.messages();
    assert_eq!(arrived.len(), 2);
    let first = String::from_utf8_lossy(&arrived[0].content).into_owned();
    assert!(first.contains("Subject: from swaks\r\n"), "{first}");
    assert!(first.contains("Grüße aus swaks\r\n"), "{first}");
    assert!(first.contains("with ESMTPS"), "{first}");
    let second = String::from_utf8_lossy(&arrived[1].content).into_owned();
    assert!(second.contains("Subject: pipelined\r\n"), "{second}");
    assert!(second.contains("with ESMTP "), "{second}");
}

// covers: R5321-8
#[test]
fn swaks_cannot_relay() {
    let world = World::start();
    let Some(refused) = swaks(
        world.relay.smtp_address(),
        "user@elsewhere.example",
        &["--tls"],
    ) else {
        return;
    };
    // 24: no recipient was accepted.
    assert_eq!(refused.code, 24, "{}{}", refused.stdout, refused.stderr);
    assert!(refused.stdout.contains("550 5.7.1"), "{}", refused.stdout);
    assert!(world.queue_list().is_empty());
}

// covers: R3207-1, R6152-1
#[test]
fn msmtp_delivers_with_starttls() {
    let inside = Inside::smtp();
    let world = World::setup().target(&inside.target()).start();
    for content in [message::plain(1), message::eight_bit(), message::dots()] {
        let Some(sent) = msmtp(world.relay.smtp_address(), "user@example.org", &content) else {
            return;
        };
        assert_eq!(sent.code, 0, "{}{}", sent.stdout, sent.stderr);
        let _ = world.puller.pull().expect_code(0);
        let arrived = inside.messages().pop().expect("a message");
        assert!(
            arrived.mail.starts_with("<sender@source.example>"),
            "{}",
            arrived.mail
        );
        assert_same_content("msmtp", &content, &arrived.content);
        assert!(message::trace(&arrived.content).contains("with ESMTPS"));
    }
    assert_eq!(inside.messages().len(), 3);
}
