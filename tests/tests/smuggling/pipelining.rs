//! Where the meaning of the connection changes, nothing may have been sent ahead: what stands behind STARTTLS, AUTH, ATRN
//! or EHLO in the same flight was meant for another state, or was put there by somebody in between.

use atrn_tests::certs;
use atrn_tests::peer::{Peer, plain};
use atrn_tests::world::{ACCOUNT, DOMAIN, Tls, World};

/// What an attacker would put behind.
const BEHIND: [&str; 4] = [
    "NOOP\r\n",
    "MAIL FROM:<evil@foreign.example>\r\nRCPT TO:<user@example.org>\r\n",
    "\r\n",
    "x",
];

// covers: R2920-3, R3207-2
#[test]
fn nothing_stands_behind_a_change_at_the_edge() {
    let world = World::start();
    for behind in BEHIND {
        for is_tls in [false, true] {
            for (command, reply) in [
                ("EHLO client.source.example", "503"),
                ("HELO client.source.example", "503"),
                ("DATA", "503"),
            ] {
                let mut peer = edge(&world, is_tls);
                if command == "DATA" {
                    peer.ask("MAIL FROM:<sender@source.example>", "250");
                    peer.ask("RCPT TO:<user@example.org>", "250");
                }
                refuses_and_closes(&mut peer, command, behind, reply);
            }
        }
        let mut peer = edge(&world, false);
        refuses_and_closes(&mut peer, "STARTTLS", behind, "554");
        // Inside TLS there is no STARTTLS, and so nothing to be behind it.
        let mut peer = edge(&world, true);
        peer.ask("STARTTLS", "503");
    }
    assert!(world.queue_list().is_empty());
}

/// What was said in clear is forgotten behind the handshake, and what was accepted before it is no transaction.
// covers: R3207-2
#[test]
fn what_was_said_in_clear_is_forgotten() {
    let world = World::start();
    let mut peer = edge(&world, false);
    peer.ask("MAIL FROM:<sender@source.example>", "250");
    peer.ask("RCPT TO:<user@example.org>", "250");
    peer.ask("STARTTLS", "220");
    peer.start_tls_client(&certs::trusting_client());
    peer.ask("DATA", "503");
    peer.ask(
        "MAIL FROM:<sender@source.example>",
        "503 5.5.1 Say EHLO first",
    );
}

// covers: R2920-3, R3207-2, R2645-13, R4954-2
#[test]
fn nothing_stands_behind_a_change_at_the_pullers_port() {
    for tls in [Tls::Optional, Tls::StartTls, Tls::Implicit] {
        let world = World::setup().tls(tls).start();
        let auth = format!("AUTH PLAIN {}", plain(ACCOUNT, world.relay.secret(ACCOUNT)));
        for behind in BEHIND {
            let mut peer = world.relay.odmr();
            refuses_and_closes(&mut peer, "EHLO puller.example.org", behind, "554");
            if tls != Tls::Implicit {
                let mut peer = world.relay.odmr();
                peer.ehlo("puller.example.org");
                refuses_and_closes(&mut peer, "STARTTLS", behind, "554");
            }
            let mut peer = in_tls(&world, tls);
            refuses_and_closes(&mut peer, &auth, behind, "554");
            let mut peer = in_tls(&world, tls);
            peer.ask(&auth, "235");
            refuses_and_closes(&mut peer, &format!("ATRN {DOMAIN}"), behind, "554");
            let mut peer = in_tls(&world, tls);
            peer.ask(&auth, "235");
            refuses_and_closes(&mut peer, "ATRN", behind, "554");
            // Also while the relay waits for mail, where the offence comes later.
            let mut peer = in_tls(&world, tls);
            peer.ask(&auth, "235");
            peer.send(&format!("ATRN {DOMAIN} XWAIT=30"));
            peer.send_octets(behind.as_bytes());
            peer.expect("554");
            peer.expect_close();
        }
    }
}

/// The next octets of a response to a challenge are not the response.
// covers: R4954-2
#[test]
fn nothing_stands_behind_a_response() {
    let world = World::setup().tls(Tls::Optional).start();
    for behind in BEHIND {
        let mut peer = world.relay.odmr();
        peer.ehlo("puller.example.org");
        let challenge = peer.ask("AUTH CRAM-MD5", "334 ");
        let response =
            atrn_tests::peer::cram_md5(&challenge[4..], ACCOUNT, world.relay.secret(ACCOUNT));
        refuses_and_closes(&mut peer, &response, behind, "554");
    }
}

fn edge(world: &World, is_tls: bool) -> Peer {
    let mut peer = super::session(world);
    if is_tls {
        peer.ask("STARTTLS", "220");
        peer.start_tls_client(&certs::trusting_client());
        peer.ehlo("client.source.example");
    }
    peer
}

fn in_tls(world: &World, tls: Tls) -> Peer {
    let mut peer = world.relay.odmr();
    peer.ehlo("puller.example.org");
    if tls != Tls::Implicit {
        peer.ask("STARTTLS", "220");
        peer.start_tls_client(&certs::trusting_client());
        peer.ehlo("puller.example.org");
    }
    peer
}

/// One write, so that both arrive together.
#[track_caller]
fn refuses_and_closes(peer: &mut Peer, command: &str, behind: &str, reply: &str) {
    peer.send_octets(format!("{command}\r\n{behind}").as_bytes());
    let line = peer.reply().pop().unwrap_or_default();
    assert!(
        line.starts_with(reply),
        "{command} and {behind:?}: {line}\n{}",
        peer.dialogue()
    );
    peer.expect_close();
}
