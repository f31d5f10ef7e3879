//! Names of clients, and lists of them, looked up by the resolver child of the real relay at a name server of the tests: what is
//! made of each answer, of none, and of nonsense; and that mail never waits longer for it than it must.

mod child;
mod dnsbl;
mod reverse;
mod trouble;

use std::time::{Duration, Instant};

use atrn_tests::dns::Dns;
use atrn_tests::message::stuffed;
use atrn_tests::peer::Peer;
use atrn_tests::world::{Setup, World};

/// What the client of the tests calls itself.
const CLIENT: &str = "client.source.example";
/// Its address.
const ADDRESS: &str = "192.0.2.1";

/// A relay that asks a name server of the tests. Its clients come through a load balancer, which says where they are from: the
/// names of loopback are asked of nobody (RFC 6761 §6.3).
fn setup(dns: &Dns) -> Setup {
    balanced().dns(dns)
}

/// The same, without names.
fn balanced() -> Setup {
    World::setup().relay("smtp.proxy_protocol", vec!["127.0.0.1"])
}

/// A connection that has said hello.
#[track_caller]
fn hello(world: &World, name: &str) -> Peer {
    hello_from(world, ADDRESS, name)
}

/// The same, from another address.
#[track_caller]
fn hello_from(world: &World, address: &str, name: &str) -> Peer {
    let mut peer = Peer::connect(world.relay.smtp_address());
    peer.send(&format!("PROXY TCP4 {address} 127.0.0.1 40000 25"));
    peer.expect("220 ");
    peer.ehlo(name);
    peer
}

/// Sends a message, and returns the first line of its `Received` field, unfolded.
#[track_caller]
fn received_from(world: &World, peer: &mut Peer) -> String {
    peer.ask("MAIL FROM:<sender@source.example>", "250");
    peer.ask("RCPT TO:<user@example.org>", "250");
    peer.ask("DATA", "354");
    peer.send_octets(&stuffed(b"Subject: x\r\n\r\n"));
    let reply = peer.expect("250 2.0.0 ");
    let id = reply["250 2.0.0 ".len()..].split(' ').next();
    let id = id.expect("a queue id").to_owned();
    let content = world
        .relay
        .cli(&["queue", "cat", &id])
        .expect_code(0)
        .stdout;
    let start = content.find("Received: ").expect("a trace field");
    let unfolded = content[start..].replace("\r\n\t", " ");
    let (from, _) = unfolded.split_once(" by ").expect("by whom");
    from.to_owned()
}

/// What the relay says about names.
#[track_caller]
fn health(world: &World) -> serde_json::Value {
    let status = world.relay.cli(&["status", "--json"]).expect_code(0);
    status.json()["names"].clone()
}

#[track_caller]
fn timed<T>(what: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let result = what();
    (result, began.elapsed())
}
