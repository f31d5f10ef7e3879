//! After the turn, where the hostile puller is the server: it does not read, drips, talks garbage, floods, hangs up.

use std::time::Duration;

use atrn_tests::message::{self, Message};
use atrn_tests::peer::Peer;
use atrn_tests::process::wait_until;
use atrn_tests::taker::{STREAMING, TAKEN, Taker};
use atrn_tests::world::{PULLER_NAME, World};

use super::{
    EVIL, EVIL_DOMAIN, assert_leases_are_free, assert_nothing_is_lost, assert_others_go_on,
    deliveries, drained, send_evil, turned, two_accounts,
};

/// The patience of the relay, where a test waits for its end.
const PATIENCE: &str = "1s";
const EHLO: &str =
    "250-puller.example\r\n250-PIPELINING\r\n250-CHUNKING\r\n250-XDELIVERYID\r\n250 8BITMIME\r\n";

/// More than any buffers on the way take.
fn send_much(world: &World, messages: usize, octets: usize) {
    let recipient = format!("user@{EVIL_DOMAIN}");
    let messages: Vec<_> = (0..messages)
        .map(|_| Message::new(&recipient, message::big(octets)).from(""))
        .collect();
    world.send(&messages);
}

#[track_caller]
fn assert_session_ends(world: &World) {
    wait_until("the session has ended", || {
        let account = world.relay.account_status(EVIL);
        account["last_pull"]["result"] != "running" && account["last_pull"]["result"] != "waiting"
    });
    assert_leases_are_free(world);
}

/// It greets, offers all there is, and never reads again.
#[test]
fn who_never_reads_is_left_and_keeps_nobody() {
    let world = two_accounts()
        .relay("odmr.command_timeout", PATIENCE)
        .start();
    send_much(&world, 12, 4 << 20);
    let mut peer = turned(&world, EVIL);
    peer.send("220 puller.example");
    peer.expect_command("EHLO ");
    peer.send_octets(EHLO.as_bytes());
    assert_others_go_on(&world);
    assert_session_ends(&world);
    assert_eq!(deliveries(&world, EVIL_DOMAIN), 12);
    let taken = Taker::turned(turned(&world, EVIL), &STREAMING);
    drop(taken);
}

/// A reply that never ends, an octet now and then, counts as none.
// covers: R5321-25
#[test]
fn who_drips_has_no_more_time_than_others() {
    let world = two_accounts()
        .relay("odmr.command_timeout", PATIENCE)
        .start();
    let contents = send_evil(&world, 3);
    for stage in 0..3 {
        let mut peer = turned(&world, EVIL);
        if stage > 0 {
            peer.send("220 puller.example");
            peer.expect_command("EHLO ");
        }
        if stage > 1 {
            peer.send_octets(EHLO.as_bytes());
            peer.expect_command("MAIL FROM:");
        }
        // It may not go on for ever: the pause is no wait for anything but the relay's patience.
        let mut drops = 0;
        while peer.try_send_octets(b"2").is_ok() {
            drops += 1;
            assert!(drops < 1_000, "the relay hears it for ever");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_others_go_on(&world);
        assert_leases_are_free(&world);
    }
    assert_nothing_is_lost(&world, &contents);
}

/// What is said in place of a reply.
fn garbage() -> Vec<Vec<u8>> {
    let endless_line = vec![b'2'; 1 << 20];
    let endless_reply = b"250-more\r\n".repeat(100_000);
    let unasked = b"250 2.0.0 ok\r\n".repeat(20_000);
    vec![
        b"\0\xff\xfe\x16\x03\x01\r\n".to_vec(),
        b"999 what\r\n".to_vec(),
        b"25\r\n".to_vec(),
        b"250\n".to_vec(),
        b"250 a\rb\r\n".to_vec(),
        b"250-a\r\n251 b\r\n".to_vec(),
        b"MAIL FROM:<a@b.example>\r\n".to_vec(),
        b"EHLO relay.example\r\n".to_vec(),
        b"RSET\r\n".repeat(10_000),
        b"NOOP\r\n".repeat(10_000),
        b"354 go ahead\r\n".to_vec(),
        b"334 \r\n".to_vec(),
        b"421 4.3.2 no\r\n".to_vec(),
        b"\r\n".repeat(50_000),
        endless_line,
        endless_reply,
        unasked,
    ]
}

/// In place of the greeting, of the reply to EHLO, and to a message on its way.
// covers: R5321-25, R5321-26
#[test]
fn garbage_in_place_of_a_reply_ends_the_session_and_settles_nothing() {
    let world = two_accounts()
        .relay("odmr.command_timeout", PATIENCE)
        .start();
    let contents = send_evil(&world, 3);
    for stage in 0..3 {
        for said in garbage() {
            let mut peer = turned(&world, EVIL);
            if stage > 0 {
                peer.send("220 puller.example");
                peer.expect_command("EHLO ");
            }
            if stage > 1 {
                peer.send_octets(EHLO.as_bytes());
                peer.expect_command("MAIL FROM:");
            }
            // The relay may have gone in the middle of it.
            let _ = peer.try_send_octets(&said);
            if stage == 2 && said.starts_with(b"250 2.0.0 ok\r\n250") {
                // That many replies look as if all was taken, and some were: nothing is told of them.
                drop(peer);
                assert_leases_are_free(&world);
                continue;
            }
            drop(peer);
        }
        assert_others_go_on(&world);
        assert_leases_are_free(&world);
    }
    let left = deliveries(&world, EVIL_DOMAIN);
    assert!(left <= contents.len());
}

/// After each line of a session it is gone, with and without a goodbye of TCP.
// covers: R5321-26
#[test]
fn whoever_hangs_up_anywhere_loses_nothing_and_gets_nothing_twice() {
    let world = two_accounts().start();
    let contents = send_evil(&world, 3);
    // Greeting, EHLO, and the three commands of each message, of which the replies may be cut too.
    let script = [
        "220 puller.example\r\n",
        EHLO,
        "250 ok\r\n",
        "250 ok\r\n",
        "25",
    ];
    for cut in 0..=script.len() {
        for finish in [false, true] {
            let mut peer = turned(&world, EVIL);
            for (number, line) in script[..cut].iter().enumerate() {
                peer.send_octets(line.as_bytes());
                if number == 0 {
                    peer.expect_command("EHLO ");
                }
            }
            if finish {
                peer.finish_sending();
                while peer.try_line().is_some() {}
            }
            drop(peer);
            assert_leases_are_free(&world);
        }
    }
    assert_others_go_on(&world);
    assert_nothing_is_lost(&world, &contents);
}

/// It takes the first message and says garbage to the second: the one is settled, the other is there still.
// covers: OWN-6, OWN-7
#[test]
fn what_was_taken_before_the_garbage_is_taken() {
    let world = two_accounts().start();
    let contents = send_evil(&world, 4);
    let mut taker = Taker::turned(turned(&world, EVIL), &STREAMING);
    let offered = taker.messages(4);
    taker.reply(&offered[0], &TAKEN);
    taker.peer().send_octets(b"250 ok\r\n\0\0\0\r\n");
    drop(taker);
    wait_until("one is settled", || deliveries(&world, EVIL_DOMAIN) == 3);
    assert_others_go_on(&world);
    assert_nothing_is_lost(&world, &contents[1..]);
}

/// Ten thousand refusals make no report to anybody outside, and stop nobody else.
#[test]
fn refusing_everything_harms_only_its_own_mail() {
    let world = two_accounts().start();
    send_evil(&world, 40);
    let mut peer = turned(&world, EVIL);
    peer.send("220 puller.example");
    peer.expect_command("EHLO ");
    peer.send_octets(EHLO.as_bytes());
    let _ = peer.try_send_octets("554 5.0.0 no\r\n".repeat(10_000).as_bytes());
    drop(peer);
    assert_leases_are_free(&world);
    assert_others_go_on(&world);
}

/// Commands in place of replies: nobody mistakes the relay for a server.
#[test]
fn a_puller_that_stays_a_client_gets_nothing() {
    let world = two_accounts().start();
    let contents = send_evil(&world, 1);
    let mut peer: Peer = turned(&world, EVIL);
    let commands = format!(
        "EHLO {PULLER_NAME}\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@{EVIL_DOMAIN}>\r\nDATA\r\n"
    );
    let _ = peer.try_send_octets(commands.as_bytes());
    let said = drained(peer);
    assert_eq!(said, 0, "the relay answers no command here");
    assert_others_go_on(&world);
    assert_nothing_is_lost(&world, &contents);
}
