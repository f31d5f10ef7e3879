//! The queue from the command line, beside the running relay and without it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::json;

use crate::setup::{Setup, id_in};

/// What `queue` shows of a message with two deliveries and one with the null reverse-path.
fn look_at_the_queue(setup: &Setup, [first, second]: [&str; 2]) {
    let listed = setup.cli(&["queue", "list", "--json"]).json();
    let listed = listed.as_array().unwrap();
    let ids: Vec<_> = listed
        .iter()
        .map(|item| item["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, [first, first, second]);
    for key in [
        "id",
        "domain",
        "state",
        "received_at",
        "size",
        "sender",
        "recipients",
        "attempts",
        "next_attempt",
        "expires_at",
        "last_reply",
    ] {
        assert!(listed[0].as_object().unwrap().contains_key(key), "{key}");
    }
    let null = setup
        .cli(&["queue", "list", "--sender", "<>", "--json"])
        .json();
    assert_eq!(
        (null.as_array().unwrap().len(), &null[0]["sender"]),
        (1, &json!(""))
    );
    let table = setup.cli(&["queue", "list", "--limit", "2"]);
    assert_eq!(table.stderr, "There are more; --limit 0 shows all.\n");
    assert_eq!(table.stdout.lines().count(), 3, "{}", table.stdout);
    let none = setup.cli(&["queue", "list", "--older-than", "1d"]).ok();
    assert_eq!(none, "Nothing in the queue matches.\n");

    let content = setup.cli(&["queue", "cat", first]).ok();
    assert!(content.starts_with("Received: "), "{content}");
    assert!(
        content.ends_with("\r\nSubject: one\r\n\r\nbody\r\n"),
        "{content}"
    );
    let headers = setup.cli(&["queue", "cat", first, "--headers"]).ok();
    assert!(headers.ends_with("\r\nSubject: one\r\n"), "{headers}");
    let shown = setup
        .cli(&["queue", "show", &format!("{first}.2"), "--json"])
        .json();
    assert_eq!(shown["deliveries"].as_array().unwrap().len(), 2);
    let stats = setup.cli(&["queue", "stats", "--json"]).json();
    assert_eq!(
        (&stats[0]["name"], &stats[0]["messages"]),
        (&json!("example.com"), &json!(2))
    );
}

#[test]
fn the_queue_from_the_command_line() {
    let setup = Setup::init();
    setup.cli(&["domain", "add", "example.org"]).ok();
    assert_eq!(setup.cli(&["queue", "list"]).ok(), "The queue is empty.\n");
    assert_eq!(setup.cli(&["queue", "list", "--json"]).json(), json!([]));
    let daemon = setup.run();
    let content = "Subject: one\r\n\r\nbody";
    let first = id_in(&daemon.send(
        "a@example.net",
        &["u@example.com", "v@example.org"],
        content,
    ));
    let second = id_in(&daemon.send("", &["u@example.com"], "two"));
    let count = |state: &str| {
        let listed = setup
            .cli(&["queue", "list", "--state", state, "--json"])
            .json();
        listed.as_array().unwrap().len()
    };

    // With the daemon, and without: the same.
    look_at_the_queue(&setup, [&first, &second]);
    assert_eq!(
        setup.cli(&["queue", "hold", &first]).ok(),
        "Held 2 deliveries.\n"
    );
    assert_eq!((count("held"), count("queued")), (2, 1));
    assert_eq!(daemon.stop().0, 0);
    look_at_the_queue(&setup, [&first, &second]);
    let released = setup
        .cli(&["queue", "release", &format!("{first}.1"), "--json"])
        .json();
    assert_eq!(released["changed"], 1);
    assert_eq!((count("held"), count("queued")), (1, 2));

    let asked = "error: Remove 3 deliveries for good? Add --yes to do it without being asked";
    setup.cli(&["queue", "remove", "--all"]).fails(2, asked);
    let foretold = setup
        .cli(&["queue", "remove", "--domain", "example.org", "--dry-run"])
        .ok();
    assert_eq!(foretold, "Would remove 1 delivery.\n");
    let nothing = "error: which deliveries? Name ids or filters, or --all";
    setup.cli(&["queue", "remove"]).fails(2, nothing);
    let removed = setup.cli(&["queue", "remove", &first, "00000000001", "--yes"]);
    assert_eq!(removed.stdout, "Removed 2 deliveries.\n");
    removed.fails(1, "error: 00000000001 is not in the queue");
    assert_eq!(
        setup.cli(&["queue", "remove", "--all", "--yes"]).ok(),
        "Removed 1 delivery.\n"
    );
    assert_eq!(setup.cli(&["queue", "list"]).ok(), "The queue is empty.\n");
    setup
        .cli(&["queue", "show", &second])
        .fails(1, &format!("error: {second} is not in the queue"));
}

#[test]
fn nobody_else_can_read_the_queue() {
    let setup = Setup::init();
    // Even in a directory that an admin made too open.
    fs::create_dir(setup.path("data")).unwrap();
    setup.set_mode("data", 0o755);
    let daemon = setup.run();
    daemon.send("a@example.net", &["u@example.com"], "x");
    for file in [
        "data/queue.db",
        "data/queue.db-wal",
        "data/control.sock",
        "data/spool",
    ] {
        assert_eq!(setup.mode(file) & 0o077, 0, "{file}");
    }
    let warned = setup.cli(&["check"]).ok();
    let warning = "\nwarning  data_dir       DIR/data is open to others; run: chmod 700 DIR/data\n";
    assert!(warned.contains(warning), "{warned}");
    daemon.stop();
}

/// The queue belongs to the user that the relay runs as, also when root looks at it while the relay is stopped.
#[test]
fn root_leaves_no_files_of_its_own() {
    const OTHER: u32 = 12_345;
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can give files away");
        return;
    }
    let setup = Setup::init();
    let daemon = setup.run();
    daemon.send("a@example.net", &["u@example.com"], "x");
    daemon.stop();
    // The way there must be open to the other user.
    setup.set_mode("", 0o755);
    let give = |path: &Path| std::os::unix::fs::chown(path, Some(OTHER), Some(OTHER)).unwrap();
    give(&setup.path("data"));
    for entry in fs::read_dir(setup.path("data")).unwrap() {
        give(&entry.unwrap().path());
    }
    // A port that only root may bind is looked at as root.
    setup.edit("relay.toml", |text| {
        text.replacen("127.0.0.1:0", "127.25.25.25:25", 1)
    });
    setup.cli(&["check"]).ok();
    setup.cli(&["queue", "hold", "--all"]).ok();
    for entry in fs::read_dir(setup.path("data")).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().uid(), OTHER, "{:?}", entry.path());
    }
    // And it reads the secrets.
    setup
        .cli(&[
            "account",
            "add",
            "corp",
            "--domain",
            "example.com",
            "--cram-md5",
        ])
        .ok();
    let secret = fs::metadata(setup.path("conf.d/account-corp.secret")).unwrap();
    assert_eq!(secret.uid(), OTHER);
}
