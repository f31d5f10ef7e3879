//! From root to a user of the relay's own, and no way back.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};

use atrn_tests::message::{self, Message};
use atrn_tests::process::Output;
use atrn_tests::sender;

use crate::{NOBODY, Stage, is_root, last_line, path_text};

fn status_line(process: u32, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{process}/status")).expect("its status");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.expect(key)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

/// The queue that it had as root is handed over with the rest of its directory.
#[test]
fn root_becomes_the_user_of_the_settings_for_good() {
    if !is_root() {
        return;
    }
    let mut stage = Stage::new();
    let send = |stage: &Stage, number| {
        let mail = [Message::new("ann@example.org", message::plain(number))];
        sender::send(stage.relay.smtp_address(), &mail);
    };
    stage.relay.start();
    assert_eq!(stage.status()["sandbox"]["uid"], 0);
    // Root keeps what the files of others need, and nothing that makes it root.
    assert_eq!(status_line(stage.relay.id(), "CapEff"), "000000000000000b");
    send(&stage, 1);
    assert_eq!(stage.relay.stop(), 0);
    let warned = "the relay runs as root; name a user of its own in [sandbox]";
    assert!(stage.relay.log().contains(warned));

    let mut stage = stage.sandbox("user", "nobody");
    stage.relay.open_folders();
    stage.relay.start();
    // Its answer tells that it is through with its start.
    let status = stage.status();
    let process = stage.relay.id();
    let ids = [NOBODY; 4].map(|id| id.to_string()).join(" ");
    assert_eq!(status_line(process, "Uid"), ids);
    assert_eq!(status_line(process, "Gid"), ids);
    assert_eq!(status_line(process, "Groups"), "");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status_line(process, set), "0000000000000000", "{set}");
    }
    assert_eq!(
        (&status["sandbox"]["uid"], &status["sandbox"]["state"]),
        (&NOBODY.into(), &"enforced".into())
    );
    send(&stage, 2);
    assert_eq!(stage.relay.queue_list(&[]).len(), 2);
    let data = stage.relay.data_folder();
    for entry in fs::read_dir(&data).expect("the data").flatten() {
        let owner = entry.metadata().expect("an owner").uid();
        assert_eq!(owner, NOBODY, "{}", entry.path().display());
    }
    assert!(
        stage
            .relay
            .log()
            .contains("handed over to the user of the relay")
    );
    assert_eq!(stage.relay.stop(), 0);
}

#[test]
fn what_the_user_cannot_write_is_named() {
    if !is_root() {
        return;
    }
    let stage = Stage::new().sandbox("user", "nobody");
    stage.relay.open_folders();
    let run = || Output::of(stage.relay.command().arg("run")).expect_code(1);
    let data = stage.relay.data_folder();
    fs::create_dir(&data).expect("the folder");
    chown(&data, Some(NOBODY), Some(NOBODY)).expect("given away");
    // As somebody leaves it who looks into the queue as root.
    let database = data.join("queue.db");
    fs::write(&database, "").expect("a file of root");
    fs::set_permissions(
        &database,
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .expect("a mode");
    let path = path_text(&database);
    assert_eq!(
        last_line(&run()),
        format!("error: {path} cannot be written by user {NOBODY}; run: chown -R {NOBODY} {path}")
    );
    let stage = stage.sandbox("user", "nobody-of-this-name");
    let said = Output::of(stage.relay.command().arg("run")).expect_code(1);
    assert_eq!(
        last_line(&said),
        "error: sandbox.user: there is no user nobody-of-this-name"
    );
}

#[test]
fn only_root_becomes_somebody_else() {
    if !is_root() {
        return;
    }
    let mut stage = Stage::new().sandbox("user", "daemon");
    stage.relay.run_as(NOBODY);
    let said = Output::of(stage.relay.command().arg("run")).expect_code(1);
    let last = last_line(&said);
    assert!(
        last.starts_with("error: sandbox.user: only root can become 1; "),
        "{last}"
    );
}
