//! Ten thousand messages from Postfix's `smtp-source`, pulled into its `smtp-sink` and into a real Postfix.

use std::time::Duration;

use atrn_tests::message::{self, Message};
use atrn_tests::sender::send;
use atrn_tests::software::{Load, Postfix, SmtpSink, assert_order_of_sessions};
use atrn_tests::world::{DOMAIN, World};

const LOAD: Load = Load {
    messages: 10_000,
    sessions: 50,
    octets: 4096,
};
const USER: &str = "user@example.org";
/// All sessions come from one address.
const PER_ADDRESS: &str = "smtp.max_connections_per_ip";
/// For a debug build on a busy machine.
const LONG: Duration = Duration::from_secs(500);

// covers: R5321-15, R5321-13, R2645-23, R5321-17
#[test]
fn ten_thousand_messages_reach_smtp_sink_in_order() {
    let Some(mut sink) = SmtpSink::start(&[]) else {
        return;
    };
    let world = World::setup()
        .target(&sink.target())
        .relay(PER_ADDRESS, 100)
        .puller("relay.sessions", 1)
        .start();
    if !LOAD.send(world.relay.smtp_address(), USER) {
        return;
    }
    let _ = world.puller.pull_within(LONG).expect_code(0);
    let messages = sink.wait_for_messages(LOAD.messages);
    for message in &messages {
        assert!(
            message.mail.starts_with("<sender@source.example>"),
            "{}",
            message.mail
        );
        assert_eq!(message.recipients, ["<user@example.org>"]);
    }
    let contents: Vec<Vec<u8>> = messages
        .into_iter()
        .map(|message| message.content)
        .collect();
    LOAD.assert_arrived(&contents, USER);
    assert_order_of_sessions(&contents);
    assert!(world.queue_list().is_empty());
}

// covers: R5321-13, R5321-28
#[test]
fn ten_thousand_messages_reach_a_real_postfix() {
    let Some(postfix) = Postfix::start(DOMAIN) else {
        return;
    };
    let world = World::setup()
        .target(&postfix.target())
        .relay(PER_ADDRESS, 100)
        .start();
    if !LOAD.send(world.relay.smtp_address(), USER) {
        return;
    }
    let _ = world.puller.pull_within(LONG).expect_code(0);
    assert!(world.queue_list().is_empty());
    LOAD.assert_arrived(&postfix.wait_for_messages(LOAD.messages), USER);
}

// covers: R6152-1, R5321-29
#[test]
fn a_real_postfix_takes_every_kind() {
    let Some(postfix) = Postfix::start(DOMAIN) else {
        return;
    };
    let world = World::setup().target(&postfix.target()).start();
    // Postfix rewrites what has no header section, cuts long lines, and keeps no other line ends: those kinds are for
    // the corporate server of our own.
    let contents = [
        message::plain(1),
        message::eight_bit(),
        message::dots(),
        message::big(1_000_000),
    ];
    let messages: Vec<Message> = contents
        .iter()
        .map(|content| Message::new(USER, content.clone()))
        .collect();
    send(world.relay.smtp_address(), &messages);
    let _ = world.puller.pull().expect_code(0);
    let delivered = postfix.wait_for_messages(contents.len());
    for content in &contents {
        let found = delivered
            .iter()
            .any(|arrived| message::without_trace(arrived) == content);
        assert!(
            found,
            "{}",
            String::from_utf8_lossy(&content[..200.min(content.len())])
        );
    }
    assert!(world.queue_list().is_empty());
}
