//! `queue backup`, `restore` and `salvage`.

use std::fs;

use serde_json::json;

use crate::setup::{Setup, id_in};

const LARGE_LINES: usize = 2_000;

fn large() -> String {
    let line = "All work and no play makes a long message, line by line by line.\r\n";
    format!("Subject: large\r\n\r\n{}", line.repeat(LARGE_LINES))
        .trim_end()
        .to_owned()
}

#[test]
fn a_backup_of_the_running_relay_comes_back_after_the_loss_of_all() {
    let setup = Setup::init();
    let daemon = setup.run();
    let small = id_in(&daemon.send(
        "a@example.net",
        &["u@example.com"],
        "Subject: one\r\n\r\nbody",
    ));
    let large = id_in(&daemon.send("a@example.net", &["u@example.com"], &large()));
    let content = setup.cli(&["queue", "cat", &large]).ok();
    let made = setup
        .cli(&["queue", "backup", "DIR/backup", "--json"])
        .json();
    assert_eq!(
        (
            &made["messages"],
            &made["deliveries"],
            &made["files"],
            &made["kind"]
        ),
        (&json!(2), &json!(2), &json!(1), &json!("backup"))
    );
    assert_eq!(
        (setup.mode("backup"), setup.mode("backup/backup.json")),
        (0o700, 0o600)
    );
    setup.cli(&["queue", "backup", "DIR/backup"]).fails(
        1,
        "error: DIR/backup: not empty; name a directory that does not exist yet",
    );
    let running = "error: a relay is running on DIR/data; stop it first";
    setup
        .cli(&["queue", "restore", "DIR/backup"])
        .fails(1, running);
    setup
        .cli(&["queue", "salvage", "--to", "DIR/salvaged"])
        .fails(1, running);
    assert_eq!(daemon.stop().0, 0);

    let refused = setup.cli(&["queue", "restore", "DIR/backup"]);
    let mail = "error: DIR/data/queue.db: there is mail in this queue (2 messages); move it, its -wal file and spool/ away first, or salvage it";
    refused.fails(1, mail);
    fs::remove_dir_all(setup.path("data")).unwrap();
    let said = setup.cli(&["queue", "restore", "DIR/backup"]).ok();
    assert_eq!(
        said,
        "Restored 2 messages with 2 deliveries and 1 content file (132 kB) to DIR/data.\n"
    );
    let _daemon = setup.run();
    assert_eq!(setup.cli(&["queue", "cat", &large]).ok(), content);
    let listed = setup.cli(&["queue", "list", "--json"]).json();
    assert_eq!(
        (&listed[0]["id"], &listed[1]["id"]),
        (&json!(small), &json!(large))
    );
}

#[test]
fn content_that_changed_is_restored_with_a_warning() {
    let setup = Setup::init();
    let daemon = setup.run();
    let id = id_in(&daemon.send("a@example.net", &["u@example.com"], &large()));
    setup.cli(&["queue", "backup", "DIR/backup"]).ok();
    assert_eq!(daemon.stop().0, 0);
    let folders = fs::read_dir(setup.path("backup/spool")).unwrap();
    let mut files = folders.map(|folder| folder.unwrap().path().join(&id));
    let file = files.find(|file| file.exists()).unwrap();
    let mut octets = fs::read(&file).unwrap();
    octets[1_000] ^= 1;
    fs::remove_file(&file).unwrap();
    fs::write(&file, octets).unwrap();
    fs::remove_dir_all(setup.path("data")).unwrap();
    let restored = setup.cli(&["queue", "restore", "DIR/backup"]);
    assert_eq!(restored.code, 0, "{restored:?}");
    let warning = format!("warning: {id}: its content is not what was accepted (checksum)\n");
    assert_eq!(restored.stderr, warning);
    assert!(restored.stdout.starts_with("Restored 1 message"));

    let _daemon = setup.run();
    let printed = setup.cli(&["queue", "cat", &id]);
    assert!(printed.stdout.contains("All work and"), "{printed:?}");
    let warning = format!("warning: {id}: the content is not what was accepted (checksum)");
    printed.fails(1, &warning);
}

#[test]
fn a_backup_without_a_daemon_and_one_that_is_none() {
    let setup = Setup::init();
    setup
        .cli(&["queue", "backup", "DIR/backup"])
        .fails(1, "error: there is no queue yet");
    let daemon = setup.run();
    id_in(&daemon.send("a@example.net", &["u@example.com"], "x"));
    assert_eq!(daemon.stop().0, 0);
    let said = setup.cli(&["queue", "backup", "DIR/backup"]).ok();
    assert_eq!(
        said,
        "Backed up 1 message with 1 delivery and 0 content files (0 B) to DIR/backup.\n"
    );
    fs::remove_file(setup.path("backup/backup.json")).unwrap();
    setup.cli(&["queue", "restore", "DIR/backup"]).fails(
        1,
        "error: DIR/backup: no backup, or one that was not finished: there is no backup.json",
    );
}

#[test]
fn a_damaged_queue_is_refused_and_what_can_be_read_comes_out() {
    let setup = Setup::init();
    let daemon = setup.run();
    let ids: Vec<_> = (0..30)
        .map(|number| {
            let content = format!("Subject: {number}\r\n\r\n{}", "text ".repeat(150));
            id_in(&daemon.send("a@example.net", &["u@example.com"], &content))
        })
        .collect();
    let contents: Vec<_> = ids
        .iter()
        .map(|id| setup.cli(&["queue", "cat", id]).ok())
        .collect();
    assert_eq!(daemon.stop().0, 0);
    let path = setup.path("data/queue.db");
    let mut damaged = fs::read(&path).unwrap();
    damaged[..4096].fill(0);
    let last = damaged.len() - 4096;
    damaged[last..].fill(0x5a);
    fs::write(&path, &damaged).unwrap();

    let refused = setup.cli(&["run"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    let way_out = "`atrn-relay queue salvage --to DIR` copies what can still be read, `queue restore` brings back a backup";
    assert!(refused.last_line().contains(way_out), "{refused:?}");
    let said = setup
        .cli(&["queue", "salvage", "--to", "DIR/salvaged"])
        .ok();
    assert!(
        said.contains("the first page of the database was of no use"),
        "{said}"
    );
    let next = "Next: move queue.db, queue.db-wal and spool/ out of DIR/data and keep them, then `atrn-relay queue restore DIR/salvaged`\n";
    assert!(said.ends_with(next), "{said}");
    assert_eq!(fs::read(&path).unwrap(), damaged, "nothing is repaired");

    fs::rename(&path, setup.path("data/damaged.db")).unwrap();
    setup.cli(&["queue", "restore", "DIR/salvaged"]).ok();
    let report = fs::read_to_string(setup.path("salvaged/salvage.txt")).unwrap();
    let _daemon = setup.run();
    let mut came_out = 0;
    for (id, content) in ids.iter().zip(&contents) {
        let found = setup.cli(&["queue", "cat", id]);
        if found.code == 0 {
            assert_eq!(found.stdout, *content, "{id}");
            came_out += 1;
        } else {
            assert!(
                report.contains(id.as_str()),
                "{id} is neither there nor named: {report}"
            );
        }
    }
    assert!((20..=30).contains(&came_out), "{came_out}: {report}");
}
