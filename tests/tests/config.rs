//! Configuration that is wrong: one clear line each, the right exit code, nothing half-started.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::Uid;
use tempfile::TempDir;

use atrn_tests::certs::write_private;
use atrn_tests::inside::Inside;
use atrn_tests::process::Output;
use atrn_tests::world::{DOMAIN, PULLER, Puller, PullerSetup, RELAY, Relay, Tls, World, program};

/// Does some harm to the folder of a configuration; in the texts, `DIR` stands for that folder.
type Mistake = (fn(&Path), i32, &'static str);

/// Mistakes in the relay's files, its ports and its queue, and what is said of each.
const RELAY_MISTAKES: [Mistake; 12] = [
    (
        |folder| {
            append(
                &folder.join("conf.d/domain-example.org.toml"),
                "hold_fro = \"5d\"\n",
            )
        },
        78,
        "DIR/conf.d/domain-example.org.toml:4: hold_fro: is not a known key in [[domain]]; did you mean \"hold_for\"?",
    ),
    (
        |folder| {
            append(
                &folder.join("conf.d/domain-example.org.toml"),
                "hold_for = \"5x\"\n",
            )
        },
        78,
        "DIR/conf.d/domain-example.org.toml:4: hold_for: \"5x\" is not a duration; use \"5d\" or \"36h\"",
    ),
    (
        |folder| {
            append(
                &folder.join("conf.d/more.toml"),
                "[[domain]]\nname = \"Example.ORG\"\n",
            )
        },
        78,
        "DIR/conf.d/more.toml:2: name: \"example.org\" is already set at DIR/conf.d/domain-example.org.toml:3",
    ),
    (
        |folder| append(&folder.join("conf.d/more.toml"), "\n[[domain]\n"),
        78,
        "DIR/conf.d/more.toml:2: ",
    ),
    (
        |folder| fs::remove_file(folder.join("relay.toml")).expect("a file"),
        78,
        "cannot read DIR/relay.toml: No such file or directory",
    ),
    (
        |folder| fs::remove_file(folder.join("relay.key")).expect("a file"),
        78,
        "DIR/relay.toml:LINE: tls: cannot read DIR/relay.key: No such file or directory",
    ),
    (
        |folder| fs::write(folder.join("relay.crt"), "no certificate").expect("a file"),
        78,
        "DIR/relay.toml:LINE: tls: DIR/relay.crt",
    ),
    (
        |folder| set_mode(&folder.join("relay.key"), 0o640),
        78,
        "DIR/relay.toml:LINE: tls: DIR/relay.key is readable by others; run: chmod 600 DIR/relay.key",
    ),
    (
        |folder| set_mode(&folder.join("conf.d/account-corp.secret"), 0o604),
        78,
        "DIR/conf.d/account-corp.toml:3: cram_md5_secret_file: DIR/conf.d/account-corp.secret is readable by others; \
         run: chmod 600 DIR/conf.d/account-corp.secret",
    ),
    (
        |folder| fs::write(folder.join("data"), "a file").expect("a file"),
        1,
        "cannot make DIR/data: File exists",
    ),
    (
        |folder| {
            fs::create_dir(folder.join("data")).expect("a folder");
            fs::write(folder.join("data/spool"), "a file").expect("a file");
        },
        1,
        "DIR/data/spool: File exists",
    ),
    (
        |folder| {
            fs::create_dir(folder.join("data")).expect("a folder");
            fs::write(folder.join("data/queue.db"), "x".repeat(10_000)).expect("a file");
        },
        1,
        "DIR/data/queue.db: damaged or not a queue database",
    ),
];

/// The same for the puller.
const PULLER_MISTAKES: [Mistake; 10] = [
    (
        |folder| {
            change(
                &folder.join("puller.toml"),
                "target = ",
                "tarrget = 1\ntarget = ",
            )
        },
        78,
        "DIR/puller.toml:LINE: tarrget: is not a known key in [handover]; did you mean \"target\"?",
    ),
    (
        |folder| {
            change(
                &folder.join("puller.toml"),
                "mode = \"poll\"",
                "every = \"5x\"",
            )
        },
        78,
        "DIR/puller.toml:LINE: every: \"5x\" is not a duration; use \"5d\" or \"36h\"",
    ),
    (
        |folder| {
            change(
                &folder.join("puller.toml"),
                "[\"example.org\"]",
                "[\"example.org\", \"EXAMPLE.org\"]",
            )
        },
        78,
        "DIR/puller.toml:LINE: domains: \"example.org\" is listed twice",
    ),
    (
        |folder| {
            fs::create_dir(folder.join("conf.d")).expect("a folder");
            append(&folder.join("conf.d/two.toml"), SECOND_RELAY);
        },
        78,
        "DIR/conf.d/two.toml:2: name: \"mx1\" is already set at DIR/puller.toml:",
    ),
    (
        |folder| {
            change(
                &folder.join("puller.toml"),
                "target = \"smtp:",
                "target = \"ftp:",
            )
        },
        78,
        "DIR/puller.toml:LINE: target: ",
    ),
    (
        |folder| change(&folder.join("puller.toml"), "[handover]", "[handover"),
        78,
        "DIR/puller.toml:LINE: ",
    ),
    (
        |folder| fs::remove_file(folder.join("puller.toml")).expect("a file"),
        78,
        "cannot read DIR/puller.toml: No such file or directory",
    ),
    (
        |folder| fs::remove_file(folder.join("relay.secret")).expect("a file"),
        78,
        "DIR/puller.toml:LINE: secret_file: cannot read DIR/relay.secret: No such file or directory",
    ),
    (
        |folder| set_mode(&folder.join("relay.secret"), 0o640),
        78,
        "DIR/puller.toml:LINE: secret_file: DIR/relay.secret is readable by others; run: chmod 600 DIR/relay.secret",
    ),
    (
        |folder| fs::write(folder.join("data"), "a file").expect("a file"),
        78,
        "data_dir DIR/data cannot be written: Not a directory",
    ),
];

/// A relay of the same name as the first, and nothing else wrong with it.
const SECOND_RELAY: &str = "[[relay]]\nname = \"mx1\"\naddress = \"127.0.0.1:1\"\ntls = \"off\"\naccount = \"corp\"\n\
    secret_file = \"../relay.secret\"\ndomains = [\"example.org\"]\n";

#[test]
fn the_relay_names_each_mistake_in_one_line_and_starts_nothing() {
    for (make, code, text) in RELAY_MISTAKES {
        let setup = RelaySetup::new();
        make(setup.relay.folder());
        let before = files(setup.relay.folder());
        let output = setup.relay.cli(&["run"]);
        assert_one_error(&output, code, text, setup.relay.folder());
        setup.assert_nothing_started(&before);
    }
}

#[test]
fn the_puller_names_each_mistake_in_one_line_and_connects_to_nobody() {
    for (make, code, text) in PULLER_MISTAKES {
        for command in ["run", "pull"] {
            let setup = PullerParts::new();
            make(setup.puller.folder());
            let before = files(setup.puller.folder());
            let output = setup.puller.cli(&[command]);
            assert_one_error(&output, code, text, setup.puller.folder());
            setup.assert_nothing_started(&before);
        }
    }
}

#[test]
fn a_port_in_use_is_named_and_the_other_stays_closed() {
    for (key, other) in [
        ("smtp.listen", "odmr.listen"),
        ("odmr.listen", "smtp.listen"),
        ("metrics.listen", "smtp.listen"),
    ] {
        let setup = RelaySetup::new();
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = taken.local_addr().expect("an address").to_string();
        setup.relay.configure(|settings| {
            // The monitor has one address, the others have lists.
            if key == "metrics.listen" {
                settings.set(key, address.clone());
            } else {
                settings.set(key, vec![address.clone()]);
            }
        });
        let before = files(setup.relay.folder());
        let output = setup.relay.cli(&["run"]);
        let text = format!(
            "{key}: cannot listen on {address}: Address already in use; another process has the port"
        );
        assert_one_error(&output, 1, &text, setup.relay.folder());
        assert_eq!(files(setup.relay.folder()), before);
        let other = if other == "smtp.listen" {
            setup.relay.smtp_address()
        } else {
            setup.relay.odmr_address()
        };
        TcpListener::bind(other).expect("the other port is free");
    }
}

#[test]
fn a_second_relay_on_one_queue_is_refused_and_the_first_goes_on() {
    let world = World::start();
    let output = world.relay.cli(&["run"]);
    assert_eq!(output.code, 1, "{}", output.stderr);
    assert_eq!(errors(&output.stderr).len(), 1, "{}", output.stderr);
    world.relay.smtp().ask("QUIT", "221");
    // Its control socket answers as before.
    let _ = world.relay.cli(&["status"]).expect_code(0);

    // The same with ports of its own: then it is the queue that is taken.
    world.relay.configure(|settings| {
        settings
            .set("smtp.listen", vec!["127.0.0.1:0"])
            .set("odmr.listen", vec!["127.0.0.1:0"]);
    });
    let output = world.relay.cli(&["run"]);
    let text = "DIR/data/control.sock: another relay is running here; stop it first";
    assert_one_error(&output, 1, text, world.relay.folder());
    let status = world.relay.cli(&["status", "--json"]).expect_code(0).json();
    assert_eq!(status["running"], true);
}

#[test]
fn a_queue_of_a_newer_version_is_not_touched() {
    let mut world = World::start();
    world.send(&[atrn_tests::message::Message::new(
        "user@example.org",
        "Subject: x\r\n\r\n",
    )]);
    world.relay.stop();
    let database = world.relay.data_folder().join("queue.db");
    // The user version in the header of an SQLite file (https://www.sqlite.org/fileformat2.html).
    const USER_VERSION: std::ops::Range<usize> = 60..64;
    let mut octets = fs::read(&database).expect("a database");
    octets[USER_VERSION].copy_from_slice(&1_000_u32.to_be_bytes());
    fs::write(&database, &octets).expect("a database");
    let text =
        "DIR/data/queue.db: written by a newer version of atrn-relay; install that version again";
    for command in [&["run"][..], &["queue", "list"]] {
        let output = world.relay.cli(command);
        assert_one_error(&output, 1, text, world.relay.folder());
    }
    assert!(
        fs::read(&database).expect("a database") == octets,
        "the database was changed"
    );
    for address in [world.relay.smtp_address(), world.relay.odmr_address()] {
        TcpListener::bind(address).expect("the port is free");
    }
}

#[test]
fn what_an_ordinary_user_may_not_read_or_write_is_named() {
    let setup = RelaySetup::new();
    let folder = setup.relay.folder();
    set_mode(&folder.join("relay.key"), 0);
    let output = as_ordinary_user(folder, RELAY, setup.relay.config(), "run");
    let text = "DIR/relay.toml:LINE: tls: cannot read DIR/relay.key: Permission denied";
    assert_one_error(&output, 78, text, folder);

    set_mode(&folder.join("relay.key"), 0o600);
    fs::create_dir(folder.join("data")).expect("a folder");
    set_mode(&folder.join("data"), 0o500);
    let output = as_ordinary_user(folder, RELAY, setup.relay.config(), "run");
    assert_one_error(
        &output,
        1,
        "cannot make DIR/data/control.sock: Permission denied",
        folder,
    );
    assert!(files(&folder.join("data")).is_empty());
    setup.assert_ports_are_closed();
    set_mode(&folder.join("data"), 0o700);

    let parts = PullerParts::new();
    let folder = parts.puller.folder();
    fs::create_dir(folder.join("data")).expect("a folder");
    set_mode(&folder.join("data"), 0o500);
    for command in ["run", "pull"] {
        let output = as_ordinary_user(folder, PULLER, parts.puller.config(), command);
        assert_one_error(
            &output,
            78,
            "data_dir DIR/data cannot be written: Permission denied",
            folder,
        );
    }
    parts.assert_no_connection();
    set_mode(&folder.join("data"), 0o700);
}

/// Every problem, not the first: whoever mends a file wants to do it once.
#[test]
fn all_problems_of_all_files_are_named_at_once() {
    let setup = RelaySetup::new();
    let folder = setup.relay.folder();
    append(
        &folder.join("conf.d/a.toml"),
        "[[domain]]\nname = 5\nhold_for = \"x\"\n",
    );
    append(
        &folder.join("conf.d/b.toml"),
        "[smtp]\nmax_recipients = 5\n",
    );
    let output = setup.relay.cli(&["run"]);
    assert_eq!(output.code, 78);
    let errors = errors(&output.stderr);
    let places: Vec<String> = errors
        .iter()
        .map(|line| line.replace(&format!("error: {}/", folder.display()), ""))
        .map(|line| line.splitn(4, ':').take(3).collect::<Vec<_>>().join(":"))
        .collect();
    assert_eq!(
        places,
        [
            "conf.d/a.toml:2: name",
            "conf.d/a.toml:3: hold_for",
            "conf.d/b.toml:2: max_recipients"
        ]
    );
}

/// A relay's files, with an account, and no process.
struct RelaySetup {
    relay: Relay,
    _folder: TempDir,
}

impl RelaySetup {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut relay = Relay::init(folder.path(), &[DOMAIN.to_owned()], Tls::Implicit);
        relay.add_account("corp", &[DOMAIN.to_owned()]);
        Self {
            relay,
            _folder: folder,
        }
    }

    #[track_caller]
    fn assert_nothing_started(&self, before: &[PathBuf]) {
        // Beside a queue that is no use, its lock and the folder of its content may appear; a socket may not.
        let new: Vec<PathBuf> = files(self.relay.folder())
            .into_iter()
            .filter(|file| !before.contains(file))
            .collect();
        let is_beside = |file: &PathBuf| file.ends_with("queue.lock") || file.ends_with("spool");
        assert!(new.iter().all(is_beside), "{new:?}");
        self.assert_ports_are_closed();
    }

    #[track_caller]
    fn assert_ports_are_closed(&self) {
        for address in [self.relay.smtp_address(), self.relay.odmr_address()] {
            TcpListener::bind(address).expect("the port is free");
        }
    }
}

/// A puller's files, and those that it must not connect to.
struct PullerParts {
    puller: Puller,
    inside: Inside,
    relay: TcpListener,
    _folder: TempDir,
}

impl PullerParts {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let inside = Inside::smtp();
        let relay = TcpListener::bind("127.0.0.1:0").expect("a port");
        relay.set_nonblocking(true).expect("a listener can be set");
        let address = relay.local_addr().expect("an address").to_string();
        let puller = PullerSetup::new("corp", &[DOMAIN], &inside.target()).install_for(
            folder.path(),
            &address,
            Tls::Off,
            None,
            "secret",
        );
        Self {
            puller,
            inside,
            relay,
            _folder: folder,
        }
    }

    #[track_caller]
    fn assert_nothing_started(&self, before: &[PathBuf]) {
        assert_eq!(files(self.puller.folder()), before);
        self.assert_no_connection();
    }

    #[track_caller]
    fn assert_no_connection(&self) {
        assert!(self.relay.accept().is_err(), "the relay was called");
        assert_eq!(
            self.inside.record().sessions,
            0,
            "the corporate server was called"
        );
    }
}

/// Exactly one line says so, and it begins with this; `LINE` stands for any number.
#[track_caller]
fn assert_one_error(output: &Output, code: i32, text: &str, folder: &Path) {
    let errors = errors(&output.stderr);
    assert_eq!(
        (output.code, errors.len()),
        (code, 1),
        "{text}\n--- stderr\n{}",
        output.stderr
    );
    let said = errors[0].replace(&folder.display().to_string(), "DIR");
    let expected = format!("error: {text}");
    let fits = match expected.split_once("LINE") {
        None => said.starts_with(&expected),
        Some((before, after)) => said.strip_prefix(before).is_some_and(|rest| {
            rest.trim_start_matches(|c: char| c.is_ascii_digit())
                .starts_with(after)
                && !rest.starts_with(after)
        }),
    };
    assert!(fits, "expected {expected:?}, got {said:?}");
    assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
    assert_eq!(output.stdout, "");
}

/// The lines of standard error that are no log lines.
fn errors(stderr: &str) -> Vec<&str> {
    let is_log = |line: &&str| {
        let mut words = line.split_ascii_whitespace().skip(1);
        matches!(words.next(), Some("INFO" | "WARN"))
    };
    stderr.lines().filter(|line| !is_log(line)).collect()
}

/// Runs a command of a program as somebody who is not root, whoever runs the tests.
#[track_caller]
fn as_ordinary_user(folder: &Path, name: &str, config: &Path, command: &str) -> Output {
    const NOBODY: u32 = 65_534;
    let mut program = program(name);
    if Uid::effective().is_root() {
        // Where the programs are built, others may have no access. Another process makes the copy: a child of
        // another test could inherit our handle, and a file that is open for writing cannot be run.
        let copy = folder.with_file_name(name);
        let copied = Output::of(Command::new("cp").arg(&program).arg(&copy));
        assert_eq!(copied.code, 0, "{}", copied.stderr);
        program = copy;
    }
    let mut call = Command::new(program);
    call.arg("--config").arg(config).arg(command);
    if Uid::effective().is_root() {
        let everything = files(folder);
        for path in everything.iter().map(PathBuf::as_path).chain([folder]) {
            chown(path, Some(NOBODY), Some(NOBODY)).expect("files can be given away");
        }
        set_mode(folder.parent().expect("a parent"), 0o755);
        call.uid(NOBODY).gid(NOBODY);
    }
    Output::of(&mut call)
}

/// All files and folders under a folder, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        }
        found.push(path);
    }
    found.sort();
    found
}

fn append(path: &Path, text: &str) {
    let before = fs::read_to_string(path).unwrap_or_default();
    write_private(path, &(before + text));
}

#[track_caller]
fn change(path: &Path, from: &str, to: &str) {
    let before = fs::read_to_string(path).expect("a file");
    assert!(before.contains(from), "{from} is not in {before}");
    write_private(path, &before.replacen(from, to, 1));
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode can be set");
}
