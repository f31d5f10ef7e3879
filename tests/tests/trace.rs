//! `atrn-relay trace`: the story of a message through the real relay and the real puller.

use atrn_tests::inside::Inside;
use atrn_tests::message::Message;
use atrn_tests::process::{Output, wait_until};
use atrn_tests::world::World;

fn message(name: &str, recipient: &str) -> Message {
    let content =
        format!("Subject: {name}\r\nMessage-ID:\r\n <{name}@source.example>\r\n\r\ntext\r\n");
    Message::new(recipient, content.into_bytes())
}

#[track_caller]
fn told(world: &World, needle: &str) -> String {
    world.relay.cli(&["trace", needle]).expect_code(0).stdout
}

/// Whether these stand in it, one behind the other.
#[track_caller]
fn assert_in_order(story: &str, parts: &[&str]) {
    let mut rest = story;
    for part in parts {
        let found = rest.find(part);
        let at = found.unwrap_or_else(|| panic!("no {part:?} (in its place) in\n{story}"));
        rest = &rest[at + part.len()..];
    }
}

#[test]
fn a_message_is_followed_from_connect_to_settle() {
    let inside = Inside::smtp();
    let mut world = World::setup().target(&inside.target()).start();
    world.send(&[
        message("one", "ann@example.org"),
        message("two", "bob@example.org"),
    ]);
    let id = world.queue_list()[0]["id"].as_str().unwrap().to_owned();
    let _ = world.puller.pull().expect_code(0);
    wait_until("the log has the end of it", || {
        let traced = world.relay.cli(&["trace", &id]);
        traced.code == 0
            && traced.stdout.contains("settled")
            && traced.stdout.trim_end().ends_with('s')
    });
    let story = [
        "connected from 127.0.0.1 port ",
        "EHLO client.source.example -> 250",
        "RCPT TO:<ann@example.org> -> 250 2.1.5",
        "content of ",
        "<one@source.example>",
        &format!("queued as {id}"),
        "login as corp: SCRAM-SHA-256",
        "turned, for example.org",
        "RCPT TO:<ann@example.org>",
        "delivered ann@example.org",
        "settled",
    ];
    for needle in [
        &id,
        &format!("{id}.1"),
        "ann@example.org",
        "<one@source.example>",
        "one@source.example",
    ] {
        let told = told(&world, needle);
        assert_in_order(&told, &story);
        assert!(!told.contains("bob@example.org"), "{told}");
    }
    let sender = message("one", "ann@example.org").reverse_path;
    assert!(
        told(&world, &sender).contains("bob@example.org"),
        "both are his"
    );
    assert!(told(&world, "127.0.0.1").contains("bob@example.org"));

    // Without the relay, and as JSON.
    assert_eq!(world.relay.stop(), 0);
    assert_in_order(&told(&world, &id), &story);
    let output = world.relay.cli(&["trace", &id, "--json"]).expect_code(0);
    let events: Vec<_> = output
        .stdout
        .lines()
        .map(|line| {
            let entry: serde_json::Value = serde_json::from_str(line).unwrap();
            entry["event"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(events.first().map(String::as_str), Some("connect"));
    assert!(events.contains(&"settled".to_owned()), "{events:?}");
}

#[test]
fn what_an_admin_does_is_part_of_the_story_also_while_no_relay_runs() {
    let mut world = World::start();
    world.send(&[message("one", "ann@example.org")]);
    let id = world.queue_list()[0]["id"].as_str().unwrap().to_owned();
    let _ = world.relay.cli(&["queue", "hold", &id]).expect_code(0);
    wait_until("the hold is written", || {
        let traced = world.relay.cli(&["trace", &id]);
        traced.code == 0 && traced.stdout.contains("held")
    });
    assert_eq!(world.relay.stop(), 0);
    let _ = world.relay.cli(&["queue", "release", &id]).expect_code(0);
    let _ = world
        .relay
        .cli(&["queue", "bounce", &id, "--yes", "--reason", "gone for good"])
        .expect_code(0);
    assert_in_order(
        &told(&world, &id),
        &[
            "content of ",
            "held",
            "released",
            "failed ann@example.org",
            "gone for good",
        ],
    );
}

#[test]
fn what_is_not_there_is_said_in_one_line() {
    let world = World::start();
    let output = world.relay.cli(&["trace", "nobody@example.org"]);
    assert_eq!((output.code, output.stdout.as_str()), (1, ""));
    assert!(
        output
            .stderr
            .starts_with("error: no trace of nobody@example.org in "),
        "{}",
        output.stderr
    );
    assert_eq!(output.stderr.lines().count(), 1);
    let Output { code, stderr, .. } = world.relay.cli(&["trace", "nonsense"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("neither a queue id"), "{stderr}");
}

#[test]
fn missing_fields_are_named() {
    let mut world = World::setup()
        .relay(
            "transaction_log.fields",
            vec!["date", "time", "cs-method", "x-queue-id", "x-delivery-id"],
        )
        .start();
    world.send(&[message("one", "ann@example.org")]);
    assert_eq!(world.relay.stop(), 0);
    let id = world.queue_list()[0]["id"].as_str().unwrap().to_owned();
    let output = world.relay.cli(&["trace", &id]);
    let expected = "some files have no cs-uri-query, x-session, x-transaction";
    assert!(output.stderr.contains(expected), "{}", output.stderr);
}
