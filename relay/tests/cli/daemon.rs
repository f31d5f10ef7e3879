//! The running relay as commands see it.

use std::fs;

use serde_json::{Value, json};

use crate::setup::{Setup, id_in};

#[test]
fn changes_are_in_force_when_their_command_ends() {
    let setup = Setup::init();
    let daemon = setup.run();
    let send = |recipient: &str| daemon.send("a@example.net", &[recipient], "x")[..4].to_owned();
    assert_eq!(send("u@example.org"), "550 ");
    let added = setup.cli(&["domain", "add", "example.org"]);
    assert_eq!(
        (added.code, &*added.stderr),
        (0, "The running relay has taken it over.\n")
    );
    assert_eq!(send("u@example.org"), "250 ");

    // The queue of a removed domain is kept and shown, and does not expire.
    let removed = setup
        .cli(&["domain", "remove", "example.org", "--yes", "--json"])
        .json();
    assert_eq!(removed["applied"], "in_force");
    assert_eq!(send("u@example.org"), "550 ");
    let shown = setup
        .cli(&["domain", "show", "example.org", "--json"])
        .json();
    assert_eq!(
        (&shown["configured"], &shown["messages"]),
        (&json!(false), &json!(1))
    );
    let listed = setup
        .cli(&["queue", "list", "--domain", "example.org", "--json"])
        .json();
    assert_eq!(listed[0]["expires_at"], Value::Null);

    // A broken file changes nothing, and is named.
    setup.edit("conf.d/broken.toml", |_| "broken\n".to_owned());
    let line = "error: DIR/conf.d/broken.toml:1: key with no value, expected `=`";
    setup.cli(&["status"]).fails(78, line);
    assert_eq!(send("u@example.com"), "250 ");
    fs::remove_file(setup.path("conf.d/broken.toml")).unwrap();
    let made = setup
        .cli(&[
            "account",
            "add",
            "corp",
            "--domain",
            "example.com",
            "--json",
        ])
        .json();
    assert_eq!(made["applied"], "in_force");
    let (code, log) = daemon.stop();
    assert_eq!(code, 0);
    assert!(
        log.contains("domains=\"+example.org\"") && log.contains("accounts=\"+corp\""),
        "{log}"
    );
}

#[test]
fn status_and_check_see_the_running_relay() {
    let setup = Setup::init();
    setup
        .cli(&["status", "--check"])
        .fails(1, "error: the relay is not running");
    let daemon = setup.run();
    daemon.send("a@example.net", &["u@example.com"], "x");
    let status = setup.cli(&["status", "--check", "--json"]).json();
    assert_eq!(
        (&status["running"], &status["pid"]),
        (&json!(true), &json!(daemon.child.id()))
    );
    assert_eq!(
        status["listen"],
        json!({"smtp": [daemon.smtp], "odmr": [daemon.odmr]})
    );
    assert_eq!(
        (
            &status["accepted_messages"],
            &status["domains"][0]["queued"]
        ),
        (&json!(1), &json!(1))
    );
    let shown = setup.cli(&["check"]).ok();
    assert!(
        shown.contains("\nok       queue          1 delivery held\n"),
        "{shown}"
    );
    assert!(
        shown.contains("\nok       relay          running for "),
        "{shown}"
    );

    // What waits for a restart is said so.
    setup.edit("relay.toml", |text| {
        text.replacen("127.0.0.1:0", "127.0.0.1:9", 1)
    });
    let restart =
        "error: smtp.listen: the running relay does not listen on 127.0.0.1:9 yet; restart it";
    setup.cli(&["check"]).fails(1, restart);
    setup.edit("relay.toml", |text| {
        text.replacen("127.0.0.1:9", "127.0.0.1:0", 1)
    });

    // A second one stays away.
    let second = setup.cli(&["run"]);
    let away = "error: DIR/data/control.sock: another relay is running here; stop it first";
    assert_eq!((second.code, second.last_line()), (1, away));
    assert_eq!(setup.cli(&["status", "--json"]).json()["running"], true);
}

#[test]
fn a_killed_relay_is_no_obstacle() {
    let setup = Setup::init();
    let mut daemon = setup.run();
    let id = id_in(&daemon.send("a@example.net", &["u@example.com"], "x"));
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    assert_eq!(
        setup.cli(&["queue", "list", "--json"]).json()[0]["id"],
        id.as_str()
    );
    let daemon = setup.run();
    assert_eq!(
        setup.cli(&["status", "--json"]).json()["domains"][0]["queued"],
        1
    );
    assert_eq!(daemon.stop().0, 0);
}
