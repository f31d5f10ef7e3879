//! No descriptors left: a flood of connections, or a limit that is set too low.

use std::net::TcpStream;

use atrn_tests::faults::{Descriptors, Row};
use atrn_tests::peer::Peer;
use atrn_tests::stream::Stream;

use super::stage::{LARGE, SMALL, Stage, codes};

/// More than are left to the program.
const CONNECTIONS: usize = 60;

pub(crate) fn relay() -> Vec<Row> {
    let mut stage = Stage::with("relay-descriptors", |setup| {
        setup.relay("smtp.max_connections_per_ip", 200)
    });
    let mut sender = stage.connect();
    stage.send_taken(&mut sender, SMALL);
    let mark = stage.mark();
    let lowered = Descriptors::leave(stage.world.relay.id(), 4);
    let connect = |_| TcpStream::connect(stage.world.relay.smtp_address());
    let mut flood: Vec<TcpStream> = (0..CONNECTIONS).flat_map(connect).collect();
    stage.wait_for_log(&mark, "cannot accept connections");
    // Who is in is served as far as no file is needed.
    let small = codes(&stage.send(&mut sender, SMALL));
    let large = codes(&stage.send(&mut sender, LARGE));
    let last = flood.pop().expect("a connection");
    drop(flood);
    // The fault ends with those connections; the limit is as low as before.
    Peer::over(Stream::tcp(last).expect("a connection")).expect("220 ");
    let taken = stage.send(&mut sender, LARGE);
    assert!(taken.starts_with("250 "), "{taken}");
    drop(lowered);
    stage.row(
        "SMTP listener",
        "accept, descriptors used up by connections:",
        "EMFILE",
        "none yet",
        "those that wait are greeted when others end",
    );
    stage.row(
        "a session that is in",
        "small message, no descriptors:",
        "EMFILE",
        &small,
        "taken: it needs no file",
    );
    stage.row(
        "a session that is in",
        "large message, no descriptors:",
        "EMFILE",
        &large,
        "taken when others have ended",
    );
    stage.end()
}
