//! Both real programs, and each kind of target: a backlog arrives once, whatever happens in the middle of it.

use std::collections::BTreeMap;

use atrn_tests::inside::{Inside, Step};
use atrn_tests::message::{self, Message, without_trace};
use atrn_tests::software::maildir;
use atrn_tests::world::World;

const COUNT: usize = 300;

fn contents() -> Vec<Vec<u8>> {
    let mut contents: Vec<_> = (0..COUNT).map(message::plain).collect();
    for number in (0..COUNT).step_by(50) {
        contents[number].extend(message::big(300_000));
    }
    contents
}

/// Every third from the same sender, every seventh to two.
fn send(world: &World) {
    let messages: Vec<_> = contents()
        .into_iter()
        .enumerate()
        .map(|(number, content)| {
            let sender = format!("s{}@source.example", number % 3);
            let to: &[&str] = match number % 7 {
                0 => &["ann@example.org", "bob@example.org"],
                _ => &["ann@example.org"],
            };
            Message::to(to, content).from(&sender)
        })
        .collect();
    world.send(&messages);
}

fn counted<'c>(contents: impl IntoIterator<Item = &'c [u8]>) -> BTreeMap<Vec<u8>, usize> {
    let mut counts = BTreeMap::new();
    for content in contents {
        *counts.entry(without_trace(content).to_vec()).or_default() += 1;
    }
    counts
}

fn each(times: impl Fn(usize) -> usize) -> BTreeMap<Vec<u8>, usize> {
    let contents = contents().into_iter().enumerate();
    contents
        .map(|(number, content)| (content, times(number)))
        .collect()
}

fn inside_counts(inside: &Inside) -> BTreeMap<Vec<u8>, usize> {
    let arrived = inside.messages();
    counted(arrived.iter().map(|message| message.content.as_slice()))
}

/// Until the queue is empty.
#[track_caller]
fn pull_all(world: &World) {
    for _ in 0..20 {
        let _ = world.puller.pull().expect_code(0);
        if world.relay.queue_lines().is_empty() {
            return;
        }
        world.relay.retry_all();
    }
    panic!("still there: {:#?}", world.relay.queue_lines());
}

// covers: R2645-23, R-DUP
#[test]
fn a_backlog_reaches_a_server() {
    let inside = Inside::smtp();
    let world = World::setup().target(&inside.target()).start();
    send(&world);
    pull_all(&world);
    assert_eq!(inside_counts(&inside), each(|_| 1));
}

// covers: R2033-1, R-DUP
#[test]
fn a_backlog_reaches_an_lmtp_server() {
    let inside = Inside::lmtp();
    let world = World::setup().target(&inside.target()).start();
    send(&world);
    pull_all(&world);
    // Recipient by recipient.
    assert_eq!(
        inside_counts(&inside),
        each(|number| 1 + usize::from(number % 7 == 0))
    );
}

// covers: R-DUP
#[test]
fn a_backlog_reaches_a_maildir() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mail");
    let world = World::setup()
        .target(&format!("maildir:{}", path.display()))
        .start();
    send(&world);
    pull_all(&world);
    let arrived = maildir(&path);
    assert_eq!(counted(arrived.iter().map(Vec::as_slice)), each(|_| 1));
}

// covers: OWN-7, R5321-27, R-DUP
#[test]
fn a_target_that_stumbles_in_the_middle_gets_each_message_once() {
    let inside = Inside::smtp();
    inside.on(Step::EndOfData).after(50).once().hang_up();
    inside.on(Step::Content).after(80).once().hang_up();
    inside
        .on(Step::Mail)
        .after(120)
        .once()
        .reply("421 4.3.2 restarting");
    inside.on(Step::Rcpt).after(150).once().raw(b"what?\r\n");
    inside
        .on(Step::EndOfData)
        .after(170)
        .once()
        .reply("452 4.3.1 full");
    let world = World::setup().target(&inside.target()).start();
    send(&world);
    pull_all(&world);
    assert_eq!(inside_counts(&inside), each(|_| 1));
}
