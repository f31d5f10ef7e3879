//! What goes wrong at the relay costs no more than it must: one message waits, one pull comes back soon.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use atrn_tests::inside::{Inside, Step};
use atrn_tests::message::{self, Message};
use atrn_tests::process::wait_until;
use atrn_tests::world::{ACCOUNT, World};

/// The only content file of the relay.
fn spool_file(world: &World) -> PathBuf {
    let folders = fs::read_dir(world.relay.data_folder().join("spool")).expect("spool/");
    let files = folders.flat_map(|folder| fs::read_dir(folder.expect("a folder").path()));
    let mut paths = files.flatten().map(|file| file.expect("a file").path());
    paths.next().expect("a content file")
}

// covers: OWN-7
#[test]
fn a_message_that_cannot_be_read_stops_nothing_behind_it() {
    let inside = Inside::smtp();
    let world = World::setup().target(&inside.target()).start();
    let to = |name: &str, content| Message::to(&[name], content);
    world.send(&[
        to("ann@example.org", message::big(100_000)),
        to("bob@example.org", message::plain(1)),
    ]);
    let (file, aside) = (spool_file(&world), world.folder().join("aside"));
    fs::rename(&file, &aside).expect("moved aside");
    symlink(&file, &file).expect("a loop");

    let _ = world.puller.pull().expect_code(0);
    assert_eq!(inside.messages()[0].recipients, ["<bob@example.org>"]);
    assert_eq!(world.relay.queue_lines(), ["ann@example.org deferred 1"]);
    assert!(world.relay.log().contains("cannot be read now"));

    fs::rename(&aside, &file).expect("put back");
    world.relay.retry_all();
    let _ = world.puller.pull().expect_code(0);
    assert_eq!(inside.messages()[1].recipients, ["<ann@example.org>"]);
    assert_eq!(world.relay.queue_lines(), [""; 0]);
}

/// A session begins with so many messages under way: docs/decisions/0008-a-window-of-messages.md.
const WINDOW_AT_FIRST: usize = 16;

/// The messages under way come in, and no other.
// covers: R2645-9
#[test]
fn an_account_that_is_disabled_in_the_middle_of_a_pull_gets_no_more() {
    let inside = Inside::smtp();
    inside.on(Step::EndOfData).once().stall();
    let mut world = World::setup().target(&inside.target()).start();
    let message = |number| Message::new("ann@example.org", message::plain(number));
    world.send(&(0..40).map(message).collect::<Vec<_>>());
    world.puller.begin_pull();
    inside.wait_until("a stalled session", |record| record.stalled == 1);
    let disabled = world.relay.cli(&["account", "disable", ACCOUNT]);
    let _ = disabled.expect_code(0);
    inside.release();
    assert_eq!(world.puller.pulled(), 0);
    let arrived = inside.messages().len();
    assert!((1..=WINDOW_AT_FIRST).contains(&arrived), "{arrived}");
    let left = vec!["ann@example.org queued 0"; 40 - arrived];
    assert_eq!(world.relay.queue_lines(), left);
    assert_eq!(
        world.relay.account_status(ACCOUNT)["last_pull"]["result"],
        "refused"
    );
}

// covers: R2645-16
#[test]
fn a_relay_without_room_is_asked_again_soon() {
    let inside = Inside::smtp();
    let world = World::setup()
        .relay("odmr.max_connections", 1)
        .target(&inside.target())
        .start();
    let sessions = |now: u64, total: u64| {
        let counts = &world.relay.status()["odmr"];
        counts["now"] == now && counts["total"] == total
    };
    wait_until("whoever saw the relay start is gone", || sessions(0, 1));
    let taken = TcpStream::connect(world.relay.odmr_address()).expect("a connection");
    wait_until("the only place is taken", || sessions(1, 2));
    let _ = world.puller.pull().expect_code(69);
    let status = world.puller.cli(&["status", "--json"]).stdout;
    assert!(!status.contains("is tls right"), "no alarm: {status}");
    drop(taken);
}

// covers: R1870-3, R5321-18
#[test]
fn what_the_edge_took_at_its_limits_comes_in() {
    let inside = Inside::smtp();
    let world = World::setup()
        .relay("smtp.max_message_size", "64KiB")
        .puller("limits.max_message_size", "64KiB")
        .target(&inside.target())
        .start();
    let mut large = b"Subject: large\r\n\r\n".to_vec();
    large.resize(64 * 1024 - 2, b'x');
    large.extend_from_slice(b"\r\n");
    let travelled = "Received: from a by b\r\n".repeat(100) + "\r\nText\r\n";
    for content in [large, travelled.into_bytes()] {
        world.send(&[Message::to(&["ann@example.org"], content)]);
    }
    let _ = world.puller.pull().expect_code(0);
    assert_eq!(world.relay.queue_lines(), [""; 0]);
    assert_eq!(inside.messages().len(), 2);
}
