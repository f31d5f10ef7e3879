//! The program itself, in a directory of its own: what it prints, what it leaves, how it ends.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

const PIN: &str = "sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

fn puller(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_atrn-puller"))
        .current_dir(folder)
        .args(arguments)
        .output()
        .expect("the program starts")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("an exit code")
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

/// A set-up by `init` with a secret, for a relay that is not there.
fn set_up() -> TempDir {
    let folder = tempfile::tempdir().expect("a directory");
    // Port 9 (discard): nobody is there.
    let arguments = [
        "init",
        "--dir",
        ".",
        "--relay",
        "127.0.0.1:9",
        "--pin",
        PIN,
        "--domain",
        "example.com",
    ];
    let made = puller(folder.path(), &arguments);
    assert_eq!(code(&made), 0, "{}", text(&made.stderr));
    fs::write(folder.path().join("mx1.secret"), "hunter2\n").expect("a secret");
    folder
}

fn edit(folder: &Path, change: impl FnOnce(String) -> String) {
    let path = folder.join("puller.toml");
    let config = fs::read_to_string(&path).expect("puller.toml");
    fs::write(&path, change(config)).expect("puller.toml");
}

#[test]
fn help_and_version_are_data() {
    let folder = tempfile::tempdir().expect("a directory");
    for (option, expected) in [
        ("--help", "Usage: atrn-puller"),
        ("--version", "atrn-puller 0."),
    ] {
        let output = puller(folder.path(), &[option]);
        assert_eq!(code(&output), 0);
        assert!(
            text(&output.stdout).contains(expected),
            "{}",
            text(&output.stdout)
        );
        assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    }
}

#[test]
fn wrong_usage_is_2_and_said_on_stderr() {
    let folder = tempfile::tempdir().expect("a directory");
    for arguments in [
        &[][..],
        &["frobnicate"],
        &["pull", "--frobnicate"],
        &["status", "--color", "red"],
    ] {
        let output = puller(folder.path(), arguments);
        assert_eq!(code(&output), 2, "{arguments:?}");
        assert!(
            output.stdout.is_empty(),
            "{arguments:?}: {}",
            text(&output.stdout)
        );
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn init_overwrites_nothing_and_keeps_the_secret_private() {
    let folder = set_up();
    let mode = |name: &str| {
        let metadata = fs::metadata(folder.path().join(name)).expect(name);
        metadata.permissions().mode() & 0o777
    };
    assert_eq!(mode("mx1.secret"), 0o600);
    let before = fs::read_to_string(folder.path().join("puller.toml")).expect("puller.toml");
    let again = puller(
        folder.path(),
        &[
            "init",
            "--dir",
            ".",
            "--pin",
            PIN,
            "--domain",
            "example.net",
        ],
    );
    assert_eq!(code(&again), 1, "{}", text(&again.stdout));
    let after = fs::read_to_string(folder.path().join("puller.toml")).expect("puller.toml");
    assert_eq!(before, after);
}

#[test]
fn mistakes_in_the_configuration_are_78_and_each_is_named() {
    let folder = set_up();
    edit(folder.path(), |config| {
        config.replacen("mode = \"instant\"", "every = \"5x\"\nevry = 1", 1)
    });
    for command in ["pull", "run", "check"] {
        let output = puller(folder.path(), &["-c", "puller.toml", command]);
        assert_eq!(code(&output), 78, "{command}: {}", text(&output.stderr));
        let said = text(&output.stderr) + &text(&output.stdout);
        for mistake in ["\"5x\" is not a duration", "evry: is not a known key"] {
            assert!(said.contains(mistake), "{command} says {said}");
        }
    }
}

#[test]
fn a_secret_that_others_can_read_is_refused() {
    let folder = set_up();
    let secret = folder.path().join("mx1.secret");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).expect("chmod");
    let output = puller(folder.path(), &["-c", "puller.toml", "pull"]);
    assert_eq!(code(&output), 78, "{}", text(&output.stderr));
    assert!(
        text(&output.stderr).contains("mx1.secret"),
        "{}",
        text(&output.stderr)
    );
    assert!(
        !text(&output.stderr).contains("hunter2"),
        "a secret is never shown"
    );
}

#[test]
fn no_configuration_is_one_line() {
    let folder = tempfile::tempdir().expect("a directory");
    let output = puller(folder.path(), &["-c", "not-there.toml", "pull"]);
    assert_eq!(code(&output), 78);
    let said = text(&output.stderr);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("not-there.toml"), "{said}");
}

#[test]
fn nobody_at_the_target_is_71_and_the_relay_is_not_asked() {
    let folder = set_up();
    edit(folder.path(), |config| {
        config.replacen("smtp://localhost:25", "smtp://127.0.0.1:9", 1)
    });
    let output = puller(folder.path(), &["-c", "puller.toml", "pull", "--json"]);
    assert_eq!(code(&output), 71, "{}", text(&output.stderr));
    assert!(!text(&output.stdout).is_empty(), "the outcome is data");
}

#[test]
fn nobody_at_the_relay_is_69() {
    let folder = set_up();
    let target = format!("maildir:{}", folder.path().join("Maildir").display());
    edit(folder.path(), |config| {
        config.replacen("smtp://localhost:25", &target, 1)
    });
    let output = puller(folder.path(), &["-c", "puller.toml", "pull"]);
    assert_eq!(code(&output), 69, "{}", text(&output.stderr));
}

/// What it cannot write down it does not ask for, and it says so in one line.
#[test]
fn a_journal_that_is_none_is_refused() {
    let folder = set_up();
    let data = folder.path().join("data");
    fs::create_dir(&data).expect("a directory");
    fs::write(data.join("journal.db"), "not a database\n".repeat(500)).expect("a file");
    for command in ["pull", "run"] {
        let refused = puller(folder.path(), &["-c", "puller.toml", command]);
        assert_eq!(code(&refused), 1, "{command}");
        let said = text(&refused.stderr);
        let errors: Vec<_> = said
            .lines()
            .filter(|line| line.starts_with("error: "))
            .collect();
        assert_eq!(errors.len(), 1, "{said}");
        assert!(
            errors[0].contains("data/journal.db: damaged or not a journal"),
            "{said}"
        );
    }
    let status = puller(folder.path(), &["-c", "puller.toml", "status"]);
    let shown = text(&status.stdout);
    assert!(shown.contains("ALARM journal: "), "{shown}");
    let checked = puller(folder.path(), &["-c", "puller.toml", "check"]);
    let shown = text(&checked.stdout);
    assert!(
        shown.contains("journal") && shown.contains("damaged"),
        "{shown}"
    );
}

/// What `pull` stumbles over at once, `check` has found; and it leaves nothing behind that is another user's.
#[test]
fn a_data_directory_that_cannot_be_written_is_found_by_check() {
    let folder = set_up();
    let checked = puller(folder.path(), &["-c", "puller.toml", "check"]);
    let shown = text(&checked.stdout);
    assert!(shown.contains("system    data_dir  ok      "), "{shown}");
    assert!(!folder.path().join("data").exists());
    edit(folder.path(), |config| {
        config.replacen("data_dir = \"data\"", "data_dir = \"mx1.secret/data\"", 1)
    });
    let pulled = puller(folder.path(), &["-c", "puller.toml", "pull"]);
    assert_eq!(code(&pulled), 78, "{}", text(&pulled.stderr));
    let said = text(&pulled.stderr);
    let reason = said.trim_end().trim_start_matches("error: ");
    assert!(reason.contains("cannot be written"), "{reason}");
    let checked = puller(folder.path(), &["-c", "puller.toml", "check"]);
    assert_eq!(code(&checked), 78, "{}", text(&checked.stderr));
    let shown = text(&checked.stdout);
    let line = shown.lines().find(|line| line.contains(" data_dir "));
    let line = line.unwrap_or_else(|| panic!("{shown}"));
    assert!(line.contains("FAILED") && line.ends_with(reason), "{line}");
}

#[test]
fn init_with_a_directory_keeps_everything_there() {
    let folder = set_up();
    let pulled = puller(folder.path(), &["-c", "puller.toml", "pull"]);
    assert_eq!(code(&pulled), 71, "{}", text(&pulled.stderr));
    assert!(folder.path().join("data/journal.db").exists());
    let elsewhere = [
        "init",
        "--dir",
        "b",
        "--data-dir",
        "/srv/atrn",
        "--pin",
        PIN,
    ];
    let made = puller(folder.path(), &elsewhere);
    assert_eq!(code(&made), 0, "{}", text(&made.stderr));
    let config = fs::read_to_string(folder.path().join("b/puller.toml")).expect("puller.toml");
    assert!(config.contains("data_dir = \"/srv/atrn\"\n"), "{config}");
}

#[test]
fn the_first_pull_makes_the_journal() {
    let folder = set_up();
    let status = || {
        let output = puller(folder.path(), &["-c", "puller.toml", "status", "--json"]);
        serde_json::from_slice::<serde_json::Value>(&output.stdout).expect("a document")
    };
    assert!(status()["journal"].is_null());
    let pulled = puller(folder.path(), &["-c", "puller.toml", "pull"]);
    assert_eq!(code(&pulled), 71, "{}", text(&pulled.stderr));
    assert_eq!(status()["journal"]["entries"], 0);
    // A dry run writes nothing down.
    let folder = set_up();
    let pulled = puller(folder.path(), &["-c", "puller.toml", "pull", "--dry-run"]);
    assert_eq!(code(&pulled), 71, "{}", text(&pulled.stderr));
    assert!(!folder.path().join("data/journal.db").exists());
}
