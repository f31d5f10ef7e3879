//! Who sent a message: SPF, DKIM, DMARC and ARC by the real relay, which asks a name server of the tests, and what becomes of
//! the verdicts.

mod enforced;
mod forged;
mod null_mx;
mod proven;
mod signing;
mod verdicts;

use atrn_tests::dns::Dns;
use atrn_tests::message::stuffed;
use atrn_tests::peer::Peer;
use atrn_tests::world::{Setup, World};

/// The relay's name, in whose name it says what it found.
const RELAY: &str = "relay.example.net";

/// The relay asks this server, and looks at nobody's name.
fn setup(dns: &Dns) -> Setup {
    let mut table = dns.settings();
    table.insert("reverse".to_owned(), false.into());
    World::setup().relay("dns", table)
}

#[track_caller]
fn session(world: &World) -> Peer {
    let mut peer = world.relay.smtp();
    peer.ehlo("client.source.example");
    peer
}

/// Sends a message, and returns the reply to its end.
#[track_caller]
fn offer(peer: &mut Peer, reverse_path: &str, content: &str) -> String {
    peer.ask(&format!("MAIL FROM:<{reverse_path}>"), "250");
    peer.ask("RCPT TO:<user@example.org>", "250");
    peer.ask("DATA", "354");
    peer.send_octets(&stuffed(content.as_bytes()));
    peer.reply().join("\n")
}

/// Sends a message, and returns what the relay holds of it.
#[track_caller]
fn accepted(world: &World, reverse_path: &str, content: &str) -> String {
    accepted_by(world, &mut session(world), reverse_path, content)
}

#[track_caller]
fn accepted_by(world: &World, peer: &mut Peer, reverse_path: &str, content: &str) -> String {
    let reply = offer(peer, reverse_path, content);
    let id = reply
        .strip_prefix("250 2.0.0 ")
        .unwrap_or_else(|| panic!("{reply}"));
    let id = id.split(' ').next().expect("a queue id").to_owned();
    world
        .relay
        .cli(&["queue", "cat", &id])
        .expect_code(0)
        .stdout
}

/// The verdicts on top, a line for each, unfolded; `None`: none.
fn verdicts(held: &str) -> Option<Vec<String>> {
    let rest = held.strip_prefix(&format!("Authentication-Results: {RELAY};\r\n\t"))?;
    let (field, _) = rest
        .split_once("\r\nReceived: ")
        .expect("a trace field below");
    let field = field.replace("\r\n\t ", " ");
    Some(field.split(";\r\n\t").map(without_signature).collect())
}

/// A signature begins differently each time.
fn without_signature(verdict: &str) -> String {
    let words = verdict
        .split(' ')
        .filter(|word| !word.starts_with("header.b="));
    words.collect::<Vec<_>>().join(" ")
}
