//! LMTP answers for each recipient after the content (RFC 2033 §4.2): each ends by its own answer, nobody gets a message
//! twice, and nobody is forgotten.

use std::collections::BTreeMap;

use atrn_tests::inside::{Inside, Step};
use atrn_tests::message::{self, Message, assert_same_content, without_trace};
use atrn_tests::software::{Dovecot, read_report};
use atrn_tests::world::World;

fn to(names: &[&str], number: usize) -> Message {
    let paths: Vec<_> = names
        .iter()
        .map(|name| format!("{name}@example.org"))
        .collect();
    let paths: Vec<_> = paths.iter().map(String::as_str).collect();
    Message::to(&paths, message::plain(number))
}

fn world(inside: &Inside) -> World {
    World::setup()
        .target(&inside.target())
        .relay("domain.reports", "postmaster")
        .start()
}

/// How often each recipient got mail, apart from reports.
fn taken(inside: &Inside) -> BTreeMap<String, usize> {
    let mut taken = BTreeMap::new();
    for message in inside.messages() {
        assert_eq!(
            message.recipients.len(),
            1,
            "one recipient to a transaction"
        );
        let path = message.recipients[0].split(' ').next().unwrap_or_default();
        *taken.entry(path.to_owned()).or_default() += 1;
    }
    taken.remove(POSTMASTER);
    taken
}

const POSTMASTER: &str = "<postmaster@example.org>";

/// Whom the reports name, in order; `None` without Python.
fn told(inside: &Inside) -> Option<Vec<String>> {
    let mut told = Vec::new();
    for message in inside.messages() {
        if message.recipients[0].starts_with(POSTMASTER) {
            let read = read_report(without_trace(&message.content))?;
            for recipient in read["recipients"].as_array().expect("recipients") {
                let path = recipient["Final-Recipient"].as_str().expect("a recipient");
                told.push(path.replace("rfc822; ", ""));
            }
        }
    }
    told.sort();
    Some(told)
}

/// Pulls until nothing is left that could still be delivered.
#[track_caller]
fn pull_all(world: &World) {
    for _ in 0..10 {
        let _ = world.puller.pull().expect_code(0);
        let listed = world.relay.queue_lines();
        if listed.iter().all(|line| line.contains(" failed ")) {
            return;
        }
        let _ = world
            .relay
            .cli(&["queue", "retry", "--state", "deferred"])
            .expect_code(0);
    }
    panic!("still there: {:#?}", world.relay.queue_lines());
}

/// Recipients of what is failed.
fn failed(world: &World) -> Vec<String> {
    let lines = world.relay.queue_lines();
    let mut failed: Vec<_> = lines
        .iter()
        .flat_map(|line| line.split(' ').next().unwrap_or_default().split(','))
        .map(str::to_owned)
        .collect();
    failed.sort();
    failed
}

fn once(names: &[&str]) -> BTreeMap<String, usize> {
    let path = |name: &&str| (format!("<{name}@example.org>"), 1);
    names.iter().map(path).collect()
}

// covers: R2033-1, OWN-7, OWN-8, OWN-9, R3464-1
#[test]
fn delivered_once_deferred_and_then_delivered_or_failed_with_a_report() {
    let inside = Inside::lmtp();
    let dot = |name: &str| inside.on(Step::EndOfData).with(name);
    dot("bob@").once().reply("450 4.2.1 locked");
    dot("carl@").reply("550 5.2.2 too much mail");
    dot("dora@").once().reply("452 4.3.1 disk full");
    dot("dora@").once().reply("421 4.3.2 restarting");
    dot("emil@").reply("554 5.6.0 not like this");
    inside
        .on(Step::Rcpt)
        .with("fay@")
        .reply("550 5.1.1 no such user");
    inside
        .on(Step::Rcpt)
        .with("gert@")
        .once()
        .reply("451 4.3.0 later");
    let world = world(&inside);
    let names = ["ann", "bob", "carl", "dora", "emil", "fay", "gert", "hans"];
    world.send(&[to(&names, 1)]);
    pull_all(&world);
    assert_eq!(
        taken(&inside),
        once(&["ann", "bob", "dora", "gert", "hans"])
    );
    assert_eq!(
        failed(&world),
        ["carl@example.org", "emil@example.org", "fay@example.org"]
    );
    if let Some(told) = told(&inside) {
        assert_eq!(told, failed(&world), "each once");
    }
    for message in inside.messages() {
        if !message.recipients[0].starts_with(POSTMASTER) {
            assert_same_content("LMTP", &message::plain(1), &message.content);
        }
    }
}

/// Many recipients of several messages, with every kind of answer at every place.
// covers: R2033-1, OWN-7, OWN-9
#[test]
fn many_recipients_of_many_messages() {
    const MESSAGES: usize = 5;
    let inside = Inside::lmtp();
    let names: Vec<_> = (0..24).map(|number| format!("u{number:02}")).collect();
    let mut expected = BTreeMap::new();
    let mut refused = Vec::new();
    for (number, name) in names.iter().enumerate() {
        let path = format!("{name}@example.org");
        let step = if number % 2 == 0 {
            Step::EndOfData
        } else {
            Step::Rcpt
        };
        match number % 6 {
            0 | 1 => inside.on(step).with(&path).once().reply("451 4.2.1 later"),
            2 | 3 => inside.on(step).with(&path).reply("550 5.1.1 never"),
            _ => {}
        }
        if matches!(number % 6, 2 | 3) {
            refused.extend(vec![path; MESSAGES]);
        } else {
            expected.insert(format!("<{path}>"), MESSAGES);
        }
    }
    let world = world(&inside);
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let messages: Vec<_> = (0..MESSAGES).map(|number| to(&names, number)).collect();
    world.send(&messages);
    pull_all(&world);
    assert_eq!(taken(&inside), expected);
    assert_eq!(failed(&world), refused);
    if let Some(told) = told(&inside) {
        assert_eq!(told, refused, "each once for each message");
    }
}

/// Whoever has it keeps it, and whoever does not have it gets it.
// covers: R2033-1, R-DUP, OWN-2, OWN-9
#[test]
fn a_puller_that_dies_between_two_recipients_costs_nobody_a_message() {
    let inside = Inside::lmtp();
    inside
        .on(Step::EndOfData)
        .with("bob@")
        .reply("550 5.2.2 too much mail");
    inside.on(Step::Rcpt).with("carl@").once().stall();
    let mut world = world(&inside);
    world.send(&[to(&["ann", "bob", "carl", "dora"], 1)]);
    world.puller.begin_pull();
    inside.wait_until("carl is at it", |record| record.stalled == 1);
    world.puller.kill();
    inside.release();
    pull_all(&world);
    assert_eq!(taken(&inside), once(&["ann", "carl", "dora"]));
    assert_eq!(failed(&world), ["bob@example.org"]);
    if let Some(told) = told(&inside) {
        assert_eq!(told, ["bob@example.org"]);
    }
}

/// The target took it for one of them while the relay died: nobody hears of it, and still it does not come twice.
// covers: R2033-1, R-DUP, OWN-4, OWN-6
#[test]
fn a_relay_that_dies_between_two_recipients_costs_nobody_a_message() {
    let inside = Inside::lmtp();
    inside
        .on(Step::EndOfData)
        .with("bob@")
        .reply("550 5.2.2 too much mail");
    inside.on(Step::EndOfData).with("carl@").once().stall();
    let mut world = world(&inside);
    world.send(&[to(&["ann", "bob", "carl", "dora"], 1)]);
    world.puller.begin_pull();
    inside.wait_until("carl is at it", |record| record.stalled == 1);
    world.relay.kill();
    inside.release();
    let _ = world.puller.pulled();
    world.relay.start();
    pull_all(&world);
    assert_eq!(taken(&inside), once(&["ann", "carl", "dora"]));
    assert_eq!(failed(&world), ["bob@example.org"]);
    if let Some(told) = told(&inside) {
        assert_eq!(told, ["bob@example.org"]);
    }
}

/// A full mailbox, one that cannot be written just now, and nobody of that name, as Dovecot says it.
// covers: R2033-1, OWN-7, OWN-8, OWN-9, R3464-1
#[test]
fn a_real_dovecot_that_answers_for_each() {
    let users = [
        ("ann", None),
        ("bob", Some(100)),
        ("carl", None),
        ("postmaster", None),
    ];
    let Some(dovecot) = Dovecot::for_users(&users) else {
        return;
    };
    let world = World::setup()
        .target(&dovecot.unix_target())
        .relay("domain.reports", "postmaster")
        .start();
    // Where carl's home should be made there is a file.
    std::fs::write(dovecot.home("carl"), "").expect("a file");
    world.send(&[to(&["ann", "bob", "dora", "carl"], 1)]);
    let _ = world.puller.pull().expect_code(0);
    let states = || {
        let mut lines = world.relay.queue_lines();
        lines.retain(|line| !line.starts_with("postmaster@"));
        lines.sort();
        lines
    };
    assert_eq!(
        states(),
        [
            "bob@example.org failed 1",
            "carl@example.org deferred 1",
            "dora@example.org failed 1"
        ],
        "{}",
        dovecot.log()
    );
    std::fs::remove_file(dovecot.home("carl")).expect("the file");
    pull_all(&world);
    assert_eq!(
        failed(&world),
        ["bob@example.org", "dora@example.org"],
        "{}",
        dovecot.log()
    );
    for (name, expected) in [("ann", 1), ("bob", 0), ("carl", 1)] {
        let delivered = dovecot.delivered(name);
        assert_eq!(delivered.len(), expected, "{name}: {}", dovecot.log());
        for content in delivered {
            assert_same_content(name, &message::plain(1), &content);
        }
    }
    let mut told = Vec::new();
    for report in dovecot.delivered("postmaster") {
        let Some(read) = read_report(without_trace(&report)) else {
            return;
        };
        assert_eq!(read["defects"], serde_json::json!([]), "{read:#}");
        let recipients = read["recipients"].as_array().expect("recipients").iter();
        told.extend(recipients.map(|one| {
            (
                one["Final-Recipient"].to_string(),
                one["Status"].to_string(),
            )
        }));
    }
    told.sort();
    let expected = [("bob", "5.2.2"), ("dora", "5.1.1")];
    let expected = expected.map(|(name, status)| {
        (
            format!("\"rfc822; {name}@example.org\""),
            format!("{status:?}"),
        )
    });
    assert_eq!(told, expected);
}
