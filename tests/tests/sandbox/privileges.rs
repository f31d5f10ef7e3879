//! From root to a user of the relay's own, and no way back.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};

use atrn_tests::message::{self, Message};
use atrn_tests::process::Output;
use atrn_tests::sender;
use atrn_tests::world::{DOMAIN, PullerSetup};

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
    // Root made them, and would read them at the start; nobody could at a reload.
    let files = ["relay.key", "relay.toml"].map(|name| stage.relay.folder().join(name));
    let refused = files.each_ref().map(|file| {
        let file = path_text(file);
        format!("{file}: user nobody of [sandbox] cannot read it; run: chown nobody {file}")
    });
    for command in ["run", "check"] {
        let said = Output::of(stage.relay.command().arg(command)).expect_code(78);
        for line in &refused {
            assert!(said.stderr.contains(line), "{command}: {}", said.stderr);
        }
    }
    for file in &files {
        chown(file, Some(NOBODY), None).expect("given away");
    }
    // What commands make from now on is nobody's from the beginning.
    stage.relay.add_account("late", &[DOMAIN.to_owned()]);
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
    for name in ["relay.key", "relay.toml"] {
        chown(stage.relay.folder().join(name), Some(NOBODY), None).expect("given away");
    }
    // As somebody leaves them who looks into the queue as root. What has another name is perhaps somebody else's.
    let database = data.join("queue.db");
    let greylist = data.join("greylist");
    for file in [&database, &greylist] {
        fs::write(file, "").expect("a file of root");
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("a mode");
    }
    fs::hard_link(&database, stage.relay.folder().join("other")).expect("another name");
    let path = path_text(&database);
    assert_eq!(
        last_line(&run()),
        format!("error: {path} cannot be written by user {NOBODY}; run: chown -R {NOBODY} {path}")
    );
    assert_eq!(fs::metadata(&greylist).expect("an owner").uid(), NOBODY);
    assert_eq!(fs::metadata(&database).expect("an owner").uid(), 0);
    let stage = stage.sandbox("user", "nobody-of-this-name");
    for command in ["run", "check"] {
        let said = Output::of(stage.relay.command().arg(command)).expect_code(78);
        // `check` may go on to other things.
        let text = ": sandbox.user: there is no user nobody-of-this-name";
        let line = said.stderr.lines().find(|line| line.ends_with(text));
        let file = path_text(&stage.relay.folder().join("relay.toml"));
        let has_place = line.is_some_and(|line| line.contains(&format!("{file}:")));
        assert!(has_place, "{command}: {}", said.stderr);
    }
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
        last.starts_with("error: sandbox.user: only root can become daemon; "),
        "{last}"
    );
    let checked = Output::of(stage.relay.command().arg("check")).expect_code(1);
    assert!(checked.stderr.contains("only root can become daemon; "));
}

/// It says what the daemon will say, and leaves the folder to be made by whose it is to be.
#[test]
fn the_check_of_a_maildir_is_its_users_and_makes_nothing() {
    if !is_root() {
        return;
    }
    let mut stage = Stage::new();
    stage.relay.add_account("corp", &[DOMAIN.to_owned()]);
    let folder = stage.relay.folder().to_owned();
    let maildir = folder.join("mail/M");
    let target = format!("maildir:{}", maildir.display());
    let puller = PullerSetup::new("corp", &[DOMAIN], &target).install(&folder, &stage.relay);
    stage.relay.open_folders();
    puller.configure(|settings| {
        settings.set("sandbox.user", "nobody");
    });
    let check = || puller.cli(&["check"]);
    let run = || Output::of(puller.command().arg("run"));
    // The secret, and perhaps more.
    for said in [check().expect_code(78), run().expect_code(78)] {
        let wrong = "user nobody of [sandbox] cannot read it; run: chown nobody ";
        assert!(said.stderr.contains(wrong), "{}", said.stderr);
    }
    for entry in fs::read_dir(puller.folder()).expect("its files").flatten() {
        chown(entry.path(), Some(NOBODY), None).expect("given away");
    }
    fs::set_permissions(puller.folder(), fs::Permissions::from_mode(0o755)).expect("a mode");
    let text = || check().stdout;
    let wrong = format!("user nobody cannot write to {}: ", folder.display());
    assert!(text().contains(&wrong), "{}", text());
    let above = folder.join("mail");
    fs::create_dir(&above).expect("a folder");
    chown(&above, Some(NOBODY), None).expect("given away");
    assert!(text().contains(&target), "{}", text());
    assert!(!text().contains("cannot write"), "{}", text());
    assert!(!maildir.exists());
}
