//! The `250` that is lost on its way to the relay: every message of a thousand loses one, and comes once all the same
//! (R-DUP). The pull that was cut is followed by another process, which finds the journal of the first.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use atrn_tests::inside::{Inside, Step};
use atrn_tests::lossy::{Loss, LossyLine};
use atrn_tests::message::{self, Message, without_trace};
use atrn_tests::sender;
use atrn_tests::software::maildir;
use atrn_tests::world::{Tls, World};

/// Sessions side by side, each with a domain of its own.
const SESSIONS: usize = 20;

fn domain(session: usize) -> String {
    format!("d{session}.example")
}

static BIG: LazyLock<Vec<u8>> = LazyLock::new(|| message::big(150_000));

/// Every tenth is big enough to wait for the verdict on its recipients, and for a spool file.
fn content(session: usize, number: usize) -> Vec<u8> {
    let mut content = message::plain(session * 1_000 + number);
    if number % 10 == 9 {
        content.extend_from_slice(&BIG);
    }
    content
}

/// A relay in the clear, and a puller with a session for each domain, on a line that loses answers.
fn world(target: &str, sessions: usize, times: usize) -> (World, LossyLine) {
    let mut setup = World::setup()
        .tls(Tls::Off)
        .target(target)
        .relay("smtp.max_connections_per_ip", 10 * SESSIONS as i64)
        .relay("domain.reports", "none");
    for session in 0..sessions {
        setup = setup.domain(&domain(session));
    }
    let world = setup.start();
    let line = LossyLine::to(world.relay.odmr_address(), times, Loss::Cut);
    world.puller.configure(|settings| {
        let relays = settings.table()["relay"].as_array_mut().expect("relays");
        let first = relays.remove(0);
        for session in 0..sessions {
            let mut relay = first.as_table().expect("a relay").clone();
            relay.insert("name".to_owned(), format!("mx{session}").into());
            relay.insert("address".to_owned(), line.address().to_string().into());
            relay.insert("domains".to_owned(), vec![domain(session)].into());
            relays.push(relay.into());
        }
    });
    (world, line)
}

/// Pulls, each time by another process, until nothing is left; how often it took.
fn pull_until(world: &World, is_done: impl Fn(&World) -> bool, at_most: usize) -> usize {
    for pulls in 1..=at_most {
        let pulled = world.puller.pull();
        if pulled.code == 0 && is_done(world) {
            return pulls;
        }
    }
    panic!(
        "{at_most} pulls, and still there: {:#?}",
        world.relay.queue_lines()
    );
}

fn is_empty(world: &World) -> bool {
    world.relay.queue_lines().is_empty()
}

/// How often each content came.
fn counted<'c>(contents: impl IntoIterator<Item = &'c [u8]>) -> BTreeMap<Vec<u8>, usize> {
    let mut counts = BTreeMap::new();
    for content in contents {
        *counts.entry(without_trace(content).to_vec()).or_default() += 1;
    }
    counts
}

fn each_once(each: usize) -> BTreeMap<Vec<u8>, usize> {
    let all =
        (0..SESSIONS).flat_map(|session| (0..each).map(move |number| content(session, number)));
    all.map(|content| (content, 1)).collect()
}

/// Each session has so many messages, and each of those loses its answer once.
fn every_answer_is_lost(target: &str, each: usize, arrived: impl Fn() -> BTreeMap<Vec<u8>, usize>) {
    let (world, line) = world(target, SESSIONS, 1);
    let lists = (0..SESSIONS).map(|session| {
        let to = format!("ann@{}", domain(session));
        (0..each)
            .map(|number| Message::new(&to, content(session, number)))
            .collect()
    });
    sender::send_side_by_side(world.relay.smtp_address(), lists.collect());
    let pulls = pull_until(&world, is_empty, 4 * each);
    let lost = line.lost();
    assert_eq!(lost.len(), SESSIONS * each);
    assert!(lost.values().all(|times| *times == 1));
    assert!(pulls > 1, "every cut ends a session");
    assert!(line.lost_at_once() > 1, "several are under way");
    assert_eq!(arrived(), each_once(each));
}

// covers: R-DUP, OWN-4, OWN-5
#[test]
fn a_thousand_lost_answers_make_no_duplicate_at_a_server() {
    let inside = Inside::smtp();
    every_answer_is_lost(&inside.target(), 50, || {
        let arrived = inside.messages();
        counted(arrived.iter().map(|message| message.content.as_slice()))
    });
}

// covers: R-DUP, OWN-4, OWN-5
#[test]
fn lost_answers_make_no_duplicate_in_a_maildir() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mail");
    every_answer_is_lost(&target(&path), 25, || {
        let arrived = maildir(&path);
        counted(arrived.iter().map(Vec::as_slice))
    });
}

fn target(maildir: &Path) -> String {
    format!("maildir:{}", maildir.display())
}

/// The daemon and cron, or two crons that overlap: they share a journal, and the deliveries that the one has in hand
/// the other waits for.
// covers: R-DUP
#[test]
fn two_processes_that_pull_at_once_make_no_duplicate() {
    const DOMAINS: usize = 4;
    const EACH: usize = 20;
    let inside = Inside::smtp();
    let (mut world, line) = world(&inside.target(), DOMAINS, 1);
    for session in 0..DOMAINS {
        let to = format!("ann@{}", domain(session));
        let messages: Vec<_> = (0..EACH)
            .map(|number| Message::new(&to, content(session, number)))
            .collect();
        world.send(&messages);
    }
    for pulls in 0.. {
        assert!(pulls < 8 * EACH, "{:#?}", world.relay.queue_lines());
        world.puller.begin_pull();
        let codes = [world.puller.pull().code, world.puller.pulled()];
        if codes == [0, 0] && is_empty(&world) {
            break;
        }
    }
    assert_eq!(line.lost().len(), DOMAINS * EACH);
    let arrived = inside.messages();
    let counts = counted(arrived.iter().map(|message| message.content.as_slice()));
    assert_eq!(counts.len(), DOMAINS * EACH);
    assert!(counts.values().all(|count| *count == 1));
}

/// LMTP takes recipients one by one: each of them has it once, though every answer is lost twice and the relay offers
/// everybody again.
// covers: R-DUP, R2033-1, OWN-9
#[test]
fn recipients_that_come_one_by_one_get_it_once() {
    const COUNT: usize = 10;
    let inside = Inside::lmtp();
    let (world, line) = world(&inside.target(), 1, 2);
    let people = ["ann", "bob", "eve"].map(|name| format!("{name}@{}", domain(0)));
    let paths: Vec<&str> = people.iter().map(String::as_str).collect();
    let messages: Vec<_> = (0..COUNT)
        .map(|number| Message::to(&paths, content(0, number)))
        .collect();
    world.send(&messages);
    pull_until(&world, is_empty, 8 * COUNT);
    assert!(line.lost().len() >= COUNT);
    let mut counts = BTreeMap::new();
    for arrived in inside.messages() {
        let content = without_trace(&arrived.content).to_vec();
        assert_eq!(arrived.recipients.len(), 1);
        *counts
            .entry((content, arrived.recipients[0].clone()))
            .or_insert(0) += 1;
    }
    assert_eq!(counts.len(), COUNT * people.len());
    assert!(counts.values().all(|count| *count == 1));
}

/// One recipient is refused for good: he stays with the relay, and the other has the message once.
// covers: R-DUP, OWN-8, OWN-9
#[test]
fn a_lost_answer_does_not_hide_a_refusal() {
    const COUNT: usize = 5;
    let inside = Inside::smtp();
    inside
        .on(Step::Rcpt)
        .with("nobody@")
        .reply("550 5.1.1 no such user");
    let (world, line) = world(&inside.target(), 1, 1);
    let people = ["ann", "nobody"].map(|name| format!("{name}@{}", domain(0)));
    let paths: Vec<&str> = people.iter().map(String::as_str).collect();
    let messages: Vec<_> = (0..COUNT)
        .map(|number| Message::to(&paths, message::plain(number)))
        .collect();
    world.send(&messages);
    let failed = vec![format!("nobody@{} failed 1", domain(0)); COUNT];
    pull_until(
        &world,
        |world| world.relay.queue_lines() == failed,
        4 * COUNT,
    );
    // Of those that were under way with it, the recipient who has it is settled by name.
    assert!(!line.lost().is_empty());
    let arrived = inside.messages();
    let counts = counted(arrived.iter().map(|message| message.content.as_slice()));
    assert_eq!(counts.len(), COUNT);
    assert!(counts.values().all(|count| *count == 1));
}

/// The answer is on its way and has not arrived: the puller is killed, and so is what it knew.
// covers: R-DUP, OWN-4, OWN-5
#[test]
fn a_puller_killed_behind_its_journal_does_not_deliver_twice() {
    let folder = tempfile::tempdir().unwrap();
    let inside = Inside::smtp();
    let path = folder.path().join("mail");
    for target in [inside.target(), target(&path)] {
        for content in [message::plain(1), message::big(300_000)] {
            let mut world = World::setup().tls(Tls::Off).target(&target).start();
            let line = LossyLine::to(world.relay.odmr_address(), 1, Loss::Stall);
            world.puller.configure(|settings| {
                settings.set("relay.address", line.address().to_string());
            });
            world.send(&[Message::new("ann@example.org", content)]);
            world.puller.begin_pull();
            line.wait_for_losses(1);
            world.puller.kill();
            world.relay.wait_for_queue(&["ann@example.org queued 0"]);
            let _ = world.puller.pull().expect_code(0);
            assert!(is_empty(&world));
        }
    }
    assert_eq!(inside.messages().len(), 2);
    assert_eq!(maildir(&path).len(), 2);
}
