//! What one address may do and what all may take together, at the real relay: rates, bans, stress, memory, other
//! protocols, load balancers, greylisting.

mod bans;
mod first_words;
mod greylist;
mod memory;
mod patience;
mod proxy;
mod rates;
mod stress;

use atrn_tests::peer::Peer;
use atrn_tests::world::{Setup, World};
use serde_json::Value;

/// A world whose relay has limits for everybody, and a load balancer in front of it: so a test comes from any address.
fn world() -> Setup {
    World::setup()
        .relay("limits.exempt", Vec::<&str>::new())
        .relay("smtp.proxy_protocol", vec!["127.0.0.1"])
}

/// A connection that the load balancer passes on from this address.
#[track_caller]
fn from(world: &World, address: &str) -> Peer {
    let family = if address.contains(':') { '6' } else { '4' };
    let here = if address.contains(':') {
        "2001:db8::25"
    } else {
        "192.0.2.25"
    };
    let mut peer = Peer::connect(world.relay.smtp_address());
    peer.send(&format!("PROXY TCP{family} {address} {here} 40000 25"));
    peer
}

/// The same, greeted.
#[track_caller]
fn greeted(world: &World, address: &str) -> Peer {
    let mut peer = from(world, address);
    peer.expect("220 ");
    peer
}

/// What `status` says of limits.
#[track_caller]
fn limits(world: &World) -> Value {
    let status = world.relay.cli(&["status", "--json"]).expect_code(0).json();
    status["limits"].clone()
}

/// How often the log has this.
fn times_logged(world: &World, text: &str) -> usize {
    world.relay.log().matches(text).count()
}

/// MAIL, RCPT and DATA up to 354.
#[track_caller]
fn content(peer: &mut Peer) {
    peer.ehlo("client.source.example");
    peer.ask("MAIL FROM:<sender@source.example>", "250 2.1.0");
    peer.ask("RCPT TO:<user@example.org>", "250 2.1.5");
    peer.ask("DATA", "354");
}
