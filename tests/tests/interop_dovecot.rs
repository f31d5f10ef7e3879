//! Mail pulled into a real Dovecot over LMTP.

use std::time::Duration;

use atrn_tests::message::{self, Message};
use atrn_tests::sender::send;
use atrn_tests::software::{Dovecot, Load};
use atrn_tests::world::World;

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

// covers: R2033-1, R5321-13
#[test]
fn ten_thousand_messages_reach_dovecot() {
    let Some(dovecot) = Dovecot::start() else {
        return;
    };
    let world = World::setup()
        .target(&dovecot.target())
        .relay(PER_ADDRESS, 100)
        .start();
    if !LOAD.send(world.relay.smtp_address(), USER) {
        return;
    }
    let _ = world.puller.pull_within(LONG).expect_code(0);
    assert!(world.queue_list().is_empty());
    LOAD.assert_arrived(&dovecot.delivered("user"), USER);
}

// covers: R2033-1, R5321-28
#[test]
fn dovecot_takes_every_kind_over_a_unix_socket_for_several_users() {
    let Some(dovecot) = Dovecot::start() else {
        return;
    };
    let world = World::setup().target(&dovecot.unix_target()).start();
    // Lines end in LF in Dovecot's store, and a message without a header section is none to it.
    let contents = [
        message::plain(1),
        message::eight_bit(),
        message::dots(),
        message::big(1_000_000),
    ];
    let users = ["ann@example.org", "bob@example.org"];
    let messages: Vec<Message> = contents
        .iter()
        .map(|content| Message::to(&users, content.clone()))
        .collect();
    send(world.relay.smtp_address(), &messages);
    let _ = world.puller.pull().expect_code(0);
    for user in ["ann", "bob"] {
        let delivered = dovecot.delivered(user);
        assert_eq!(delivered.len(), contents.len(), "{user}: {}", dovecot.log());
        for content in &contents {
            let found = delivered
                .iter()
                .any(|arrived| message::without_trace(arrived) == content);
            assert!(
                found,
                "{user}: {}",
                String::from_utf8_lossy(&content[..200.min(content.len())])
            );
        }
    }
    assert!(world.queue_list().is_empty());
}
