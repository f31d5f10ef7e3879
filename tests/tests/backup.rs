//! A backup of the relay under load, the loss of its disk, and the pull behind it.

use std::collections::HashMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use atrn_tests::inside::{Arrived, Inside};
use atrn_tests::message::{self, Message};
use atrn_tests::sender::Sender;
use atrn_tests::world::World;

/// Messages that are there when the backup begins.
const BEFORE: usize = 60;

fn content(number: usize) -> Vec<u8> {
    let octets = if number.is_multiple_of(10) {
        150_000
    } else {
        3_000
    };
    let subject = format!("Subject: number {number}.\r\n");
    [subject.into_bytes(), message::big(octets)].concat()
}

fn number(arrived: &Arrived) -> usize {
    let text = String::from_utf8_lossy(&arrived.content);
    let (_, behind) = text
        .split_once("Subject: number ")
        .expect("a message of ours");
    let (number, _) = behind.split_once('.').expect("a number");
    number.parse().expect("a number")
}

/// Every message that was acknowledged before the backup began is inside in the end: pulled before the disk was
/// lost, or restored and pulled then. And none of them twice, because the journal knows what the backup does not.
// covers: R-DUP
#[test]
fn what_was_acknowledged_before_a_backup_is_there_after_the_loss_of_the_disk() {
    let inside = Inside::smtp();
    let mut world = World::setup().target(&inside.target()).start();
    let send = |sender: &mut Sender, number| {
        sender.send(&Message::new("ann@example.org", content(number)));
    };
    let mut sender = Sender::connect(world.relay.smtp_address());
    (0..BEFORE).for_each(|number| send(&mut sender, number));

    // While it is made, more comes in and a puller takes what it gets.
    let backup = world.folder().join("backup");
    let backup_path = backup.display().to_string();
    world.puller.begin_pull();
    let is_over = AtomicBool::new(false);
    let relay = &world.relay;
    let sent = std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let mut sender = Sender::connect(relay.smtp_address());
            let mut sent = BEFORE;
            while !is_over.load(Ordering::Relaxed) || sent < BEFORE + 20 {
                send(&mut sender, sent);
                sent += 1;
            }
            sent
        });
        let made = relay.cli(&["queue", "backup", &backup_path, "--json"]);
        is_over.store(true, Ordering::Relaxed);
        let _ = made.expect_code(0);
        sending.join().expect("the sender")
    });
    assert_eq!(world.puller.pulled(), 0);

    world.relay.kill();
    fs::remove_dir_all(world.relay.data_folder()).expect("the disk is lost");
    let _ = world
        .relay
        .cli(&["queue", "restore", &backup_path])
        .expect_code(0);
    world.relay.start();
    let _ = world.puller.pull().expect_code(0);

    assert_eq!(world.relay.queue_lines(), [""; 0]);
    let mut times: HashMap<usize, usize> = HashMap::new();
    for arrived in inside.messages() {
        let number = number(&arrived);
        assert!(number < sent);
        assert!(
            arrived.content.ends_with(&content(number)),
            "{number} is not what was sent"
        );
        *times.entry(number).or_default() += 1;
    }
    for number in 0..BEFORE {
        assert_eq!(times.get(&number), Some(&1), "message {number}");
    }
    assert!(times.values().all(|times| *times == 1), "{times:?}");
}
