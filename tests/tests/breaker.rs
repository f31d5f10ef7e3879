//! A server inside that refuses everything for good is more likely broken than right: nothing is bounced, the pull stops,
//! and somebody is told.

use std::collections::BTreeSet;

use atrn_tests::inside::{Inside, Step};
use atrn_tests::message::{self, Message};
use atrn_tests::world::{ACCOUNT, World};
use serde_json::Value;

const NO: &str = "550 5.1.1 no such user";

/// Messages to `user1@example.org` and so on.
fn messages(count: usize) -> Vec<Message> {
    let to = |number| Message::new(&recipient(number), message::plain(number));
    (1..=count).map(to).collect()
}

fn recipient(number: usize) -> String {
    format!("user{number}@example.org")
}

fn in_state(world: &World, state: &str) -> usize {
    world.relay.queue_list(&["--state", state]).len()
}

fn account(world: &World) -> Value {
    world.relay.account_status(ACCOUNT)
}

/// Everybody has it, and nobody twice.
#[track_caller]
fn assert_all_inside(inside: &Inside, count: usize) {
    let arrived = inside.messages();
    let recipients: BTreeSet<_> = arrived.iter().map(|one| one.recipients.clone()).collect();
    assert_eq!((arrived.len(), recipients.len()), (count, count));
}

// covers: OWN-8, R3464-1
#[test]
fn a_server_that_breaks_in_the_middle_of_a_pull_bounces_nothing() {
    const COUNT: usize = 40;
    let inside = Inside::smtp();
    inside.on(Step::Rcpt).after(5).reply(NO);
    let world = World::setup().target(&inside.target()).start();
    world.send(&messages(COUNT));
    let _ = world.puller.pull().expect_code(0);

    // Six of eleven are most of them. What was under way then was refused too; the others were not tried, and there
    // are no reports.
    let states = ["deferred", "queued", "failed", "expired"];
    let [deferred, queued, failed, expired] = states.map(|state| in_state(&world, state));
    assert!(deferred >= 6 && queued > 0, "{deferred} {queued}");
    assert_eq!((failed, expired), (0, 0));
    assert_eq!(world.queue_list().len(), COUNT - 5);
    assert_eq!(inside.messages().len(), 5);

    let seen = account(&world);
    assert_eq!(seen["last_pull"]["result"], "stopped", "{seen}");
    let alarm = &seen["alarm"];
    assert_eq!(
        (&alarm["refused"], &alarm["verdicts"]),
        (&6.into(), &11.into())
    );
    assert_eq!((&seen["stops"], &seen["failed"]), (&1.into(), &0.into()));
    let said = world.relay.cli(&["status", "--check"]).expect_code(1);
    let why = "corp: the server inside refused 6 of 11 for good, the last with \"550 5.1.1 no such user\"";
    assert!(said.stderr.contains(why), "{}", said.stderr);
    assert!(
        said.stdout.contains(&format!("ALARM  {why}")),
        "{}",
        said.stdout
    );
    let log = world.relay.log();
    let alarmed = log
        .lines()
        .filter(|line| line.contains("refuses most mail for good: the pull is stopped"));
    let alarmed: Vec<_> = alarmed.collect();
    assert!(
        alarmed.len() == 1 && alarmed[0].contains("ERROR"),
        "{alarmed:?}"
    );

    // Mended: what was refused comes in with the rest.
    inside.behave();
    world.relay.retry_all();
    let _ = world.puller.pull().expect_code(0);
    assert_all_inside(&inside, COUNT);
    assert_eq!(world.queue_list(), [] as [Value; 0]);
    assert_eq!(account(&world)["alarm"], Value::Null);
    let _ = world.relay.cli(&["status", "--check"]).expect_code(0);
}

/// What is left after a stop comes in small portions, too small to judge by.
// covers: OWN-8
#[test]
fn a_server_in_doubt_is_believed_again_when_it_takes_something() {
    let inside = Inside::smtp();
    inside.on(Step::EndOfData).reply("554 5.6.0 no");
    let world = World::setup()
        .relay("domain.reports", "none")
        .target(&inside.target())
        .start();
    world.send(&messages(12));
    let _ = world.puller.pull().expect_code(0);
    // The last two were under way when it tripped.
    assert_eq!(in_state(&world, "deferred"), 12);
    assert_eq!(account(&world)["stops"], 1);
    for pull in 0..3 {
        let _ = world.puller.pull();
        assert_eq!(in_state(&world, "deferred"), 12, "pull {pull}");
        world.send(&messages(1));
        let _ = world.puller.pull().expect_code(0);
        assert_eq!(in_state(&world, "deferred"), 13, "pull {pull}");
        let id = world.queue_list()[12]["id"]
            .as_str()
            .expect("an id")
            .to_owned();
        let _ = world
            .relay
            .cli(&["queue", "remove", &id, "--yes"])
            .expect_code(0);
    }

    inside.behave();
    inside.on(Step::Rcpt).with(&recipient(7)).reply(NO);
    world.relay.retry_all();
    let _ = world.puller.pull().expect_code(0);
    let left = world.relay.queue_lines();
    assert!(
        left.len() == 1 && left[0].starts_with("user7@example.org failed "),
        "{left:?}"
    );
    assert_eq!(inside.messages().len(), 11);
    assert_eq!(account(&world)["alarm"], Value::Null);
}

/// Reports to senders outside go to a smart host, or to none as here. Those to the postmaster inside share the fate of
/// other mail.
// covers: R3464-1, OWN-8
#[test]
fn refusals_of_reports_count_only_where_the_server_inside_gave_them() {
    for (reports, states, stops) in [("sender", [16, 0, 0], 0), ("postmaster", [8, 8, 0], 1)] {
        let inside = Inside::smtp();
        inside.on(Step::Rcpt).reply(NO);
        let world = World::setup()
            .relay("domain.reports", reports)
            .target(&inside.target())
            .start();
        world.send(&messages(8));
        let _ = world.puller.pull().expect_code(0);
        let states_seen = || ["failed", "deferred", "queued"].map(|state| in_state(&world, state));
        // Nothing but refusals: they are believed when they are said again.
        assert_eq!(states_seen(), [0, 8, 0], "{reports}");
        world.relay.retry_all();
        let _ = world.puller.pull().expect_code(0);
        assert_eq!(states_seen(), states, "{reports}");
        assert_eq!(account(&world)["stops"], stops, "{reports}");
    }
}

/// A puller that asks often finds little each time; a broken server is seen all the same.
// covers: OWN-8, R3464-1
#[test]
fn a_broken_server_bounces_nothing_in_small_pulls_and_is_reported() {
    let inside = Inside::smtp();
    inside.on(Step::Rcpt).reply(NO);
    let world = World::setup().target(&inside.target()).start();
    let all = messages(20);
    for (pull, some) in all.chunks(4).enumerate() {
        world.send(some);
        let _ = world.puller.pull().expect_code(0);
        assert_eq!(in_state(&world, "failed"), 0, "pull {pull}");
        // Of each ten new ones.
        assert_eq!(
            account(&world)["stops"],
            [0, 0, 1, 1, 2][pull],
            "pull {pull}"
        );
    }
    assert_eq!(world.queue_list().len(), 20);
    let alarm = &account(&world)["alarm"];
    assert_eq!(
        (&alarm["refused"], &alarm["verdicts"]),
        (&10.into(), &10.into())
    );
    let _ = world.relay.cli(&["status", "--check"]).expect_code(1);

    inside.behave();
    world.relay.retry_all();
    let _ = world.puller.pull().expect_code(0);
    assert_all_inside(&inside, 20);
    assert_eq!(account(&world)["alarm"], Value::Null);
}

/// Nothing is written down of a refusal that is not believed yet.
// covers: OWN-6, OWN-8
#[test]
fn a_relay_that_dies_before_it_believes_has_all_of_it() {
    let inside = Inside::smtp();
    inside.on(Step::Rcpt).reply(NO);
    inside.on(Step::Mail).after(5).stall();
    let mut world = World::setup().target(&inside.target()).start();
    world.send(&messages(8));
    world.puller.begin_pull();
    inside.wait_until("a stalled session", |record| record.stalled == 1);
    world.relay.kill();
    inside.release();
    let _ = world.puller.pulled();
    inside.behave();
    world.relay.start();
    let expected: Vec<_> = (1..=8)
        .map(|number| format!("{} queued 0", recipient(number)))
        .collect();
    assert_eq!(world.relay.queue_lines(), expected);
    let _ = world.puller.pull().expect_code(0);
    assert_all_inside(&inside, 8);
}
