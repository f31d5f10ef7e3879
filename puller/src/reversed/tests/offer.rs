//! What a relay is offered, and what it may ask for.

use super::*;

// covers: R2645-18, R2645-20, R2645-21, R5321-1, R1870-1, R6152-1, R3030-1, R3030-2
#[tokio::test]
async fn the_offer_is_our_own() {
    let mut world = World::start(Script::default()).await;
    let offer = world.relay.hello().await;
    let expected = "250-puller.example.org|250-PIPELINING|250-SIZE 104096|250-ENHANCEDSTATUSCODES|250-8BITMIME|250-DSN|\
                    250-SMTPUTF8|250-CHUNKING|250 XDELIVERYID";
    assert_eq!(offer, expected);
    world.quit().await;
}

/// Who makes the report that a sender asked for: the target, or the relay.
// covers: R3461-1
#[tokio::test]
async fn dsn_is_offered_where_the_target_offers_it() {
    let mut world = World::start(Script::offering(&["PIPELINING", "CHUNKING"])).await;
    let offer = world.relay.hello().await;
    assert!(!offer.contains("DSN"), "{offer}");
    let refused =
        "MAIL FROM:<> RET=HDRS\r\nMAIL FROM:<>\r\nRCPT TO:<u@example.org> NOTIFY=NEVER\r\n";
    world
        .relay
        .expect(refused, &["555 5.5.4", TAKEN[0], "555 5.5.4"])
        .await;
    world.quit().await;
}

// covers: R2645-20, R2645-21, R2645-22
#[tokio::test]
async fn no_second_reversal_no_tls_and_no_login() {
    let mut world = World::greeted(Script::default()).await;
    for command in [
        "ATRN example.org",
        "TURN",
        "ETRN example.org",
        "AUTH PLAIN AGEAYg==",
        "STARTTLS",
    ] {
        world
            .relay
            .expect(&format!("{command}\r\n"), &["502 5.5.1"])
            .await;
    }
    world.quit().await;
}

// covers: R5321-8, R5321-9, R5321-6, R5321-7
#[tokio::test]
async fn only_what_was_asked_for_is_taken() {
    let mut world = World::greeted(Script::default()).await;
    world.relay.expect("MAIL FROM:<>\r\n", &[TAKEN[0]]).await;
    for (path, expected) in [
        ("<u@example.org>", "250 2.1.5"),
        ("<u@EXAMPLE.com>", "250 2.1.5"),
        ("<Postmaster>", "250 2.1.5"),
        ("<POSTMASTER@example.org>", "250 2.1.5"),
        ("<u@sub.example.org>", "550 5.7.1"),
        ("<u@other.example>", "550 5.7.1"),
        ("<postmaster@other.example>", "550 5.7.1"),
        ("<u@[192.0.2.1]>", "550 5.7.1"),
        ("<u%other.example@example.org>", "550 5.1.1"),
        ("<\"u@other.example\"@example.org>", "550 5.1.1"),
        ("<|/bin/sh@example.org>", "550 5.1.1"),
        ("<@example.org:u@other.example>", "550 5.1.0"),
        ("u@example.org", "501 5.5.4"),
        ("<u@example.org\u{0}>", "500 5.5.2"),
    ] {
        world.relay.send(&format!("RCPT TO:{path}\r\n")).await;
        let reply = world.relay.reply().await;
        assert_eq!(reply[..3], expected[..3], "{path}: {reply}");
    }
    world.relay.expect("RSET\r\n", &["250 2.0.0"]).await;
    let (_, corporate) = world.quit().await;
    let commands = corporate.record().commands;
    let recipients: Vec<_> = commands
        .iter()
        .filter(|command| command.starts_with("RCPT"))
        .collect();
    assert_eq!(
        recipients,
        [
            "RCPT TO:<u@example.org>",
            "RCPT TO:<u@EXAMPLE.com>",
            "RCPT TO:<Postmaster>",
            "RCPT TO:<POSTMASTER@example.org>"
        ]
    );
}

// covers: R5321-8
#[tokio::test]
async fn content_for_nobody_inside_is_refused_without_asking() {
    let mut world = World::greeted(Script::default()).await;
    let foreign = format!(
        "MAIL FROM:<>\r\nRCPT TO:<u@other.example>\r\n{}RSET\r\n",
        chunk("x\r\n")
    );
    world
        .relay
        .expect(&foreign, &[TAKEN[0], "550 5.7.1", "554 5.5.1", "250 2.0.0"])
        .await;
    let (_, corporate) = world.quit().await;
    assert!(
        !corporate
            .record()
            .commands
            .iter()
            .any(|command| command == "DATA")
    );
}
