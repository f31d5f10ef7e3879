//! The Internet listener of the real relay, over real sockets: order, limits, framing, extensions,
//! and what nobody may get it to do.

mod connections;
mod content;
mod extensions;
mod lines;
mod order;
mod parameters;
mod quota;
mod recipients;
mod tls;
mod trace;

use atrn_tests::inside::{Arrived, Inside};
use atrn_tests::peer::Peer;
use atrn_tests::process::wait_until;
use atrn_tests::world::World;

/// The usual sender's MAIL.
const MAIL: &str = "MAIL FROM:<sender@source.example>";
/// The usual recipient's RCPT.
const RCPT: &str = "RCPT TO:<user@example.org>";

/// A connection that has said EHLO.
#[track_caller]
fn session(world: &World) -> Peer {
    let mut peer = world.relay.smtp();
    peer.ehlo("client.source.example");
    peer
}

/// A connection inside a transaction with one recipient.
#[track_caller]
fn transaction(world: &World) -> Peer {
    let mut peer = session(world);
    peer.ask(MAIL, "250 2.1.0");
    peer.ask(RCPT, "250 2.1.5");
    peer
}

/// A world whose relay never has enough of errors, for tables of them.
fn patient_world() -> World {
    World::setup().relay("smtp.max_errors", 1000).start()
}

/// Says each line and expects the reply beside it.
#[track_caller]
fn ask_all(peer: &mut Peer, dialogue: &[(&str, &str)]) {
    for (line, reply) in dialogue {
        peer.ask(line, reply);
    }
}

/// Expects these replies, one after the other.
#[track_caller]
fn expect_all(peer: &mut Peer, replies: &[&str]) {
    for reply in replies {
        peer.expect(reply);
    }
}

/// Pulls everything into a corporate server, and returns what came.
#[track_caller]
fn pulled(world: &World) -> Vec<Arrived> {
    let inside = Inside::smtp();
    world.puller.set_target(&inside.target());
    let output = world.puller.pull();
    assert_eq!(output.code, 0, "{}", output.stderr);
    inside.messages()
}

/// Waits until the relay has seen the end of every session: what it does about them is done then.
#[track_caller]
fn wait_for_no_session(world: &World) {
    wait_until("no session at the edge", || {
        let status = world.relay.cli(&["status", "--json"]).expect_code(0).json();
        status["smtp"]["now"] == 0
    });
}
