//! Mistakes of an operator: each is one clear line, for `run` as for `check`.

use std::fs;
use std::net::TcpListener;

use serde_json::Value;

use crate::setup::Setup;

/// A change to a set-up, and what is then said of it.
type Mistake = (fn(&Setup), &'static str);

const MISTAKES: [Mistake; 8] = [
    // Unknown key.
    (
        |setup| setup.edit("relay.toml", |text| text.replacen("listen =", "lisen =", 1)),
        "DIR/relay.toml:10: lisen: is not a known key in [smtp]; did you mean \"listen\"?",
    ),
    // Bad duration.
    (
        |setup| {
            setup.edit("conf.d/domain-example.com.toml", |text| {
                text + "hold_for = \"5x\"\n"
            })
        },
        "DIR/conf.d/domain-example.com.toml:4: hold_for: \"5x\" is not a duration; use \"5d\" or \"36h\"",
    ),
    // Duplicate domain.
    (
        |setup| {
            setup.edit("conf.d/more.toml", |_| {
                "[[domain]]\nname = \"EXAMPLE.com\"\n".to_owned()
            })
        },
        "DIR/conf.d/more.toml:2: name: \"example.com\" is already set at DIR/conf.d/domain-example.com.toml:3",
    ),
    // No TOML.
    (
        |setup| setup.edit("conf.d/more.toml", |_| "\nbroken\n".to_owned()),
        "DIR/conf.d/more.toml:2: key with no value, expected `=`",
    ),
    // No file.
    (
        |setup| fs::remove_file(setup.path("relay.toml")).unwrap(),
        "cannot read DIR/relay.toml: No such file or directory",
    ),
    // A key that cannot be read.
    (
        |setup| fs::remove_file(setup.path("relay.key")).unwrap(),
        "DIR/relay.toml:16: tls: cannot read DIR/relay.key: No such file or directory",
    ),
    // A key that others can read.
    (
        |setup| setup.set_mode("relay.key", 0o640),
        "DIR/relay.toml:16: tls: DIR/relay.key is readable by others; run: chmod 600 DIR/relay.key",
    ),
    // A secret that others can read.
    (
        |setup| {
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
            setup.set_mode("conf.d/account-corp.secret", 0o604);
        },
        "DIR/conf.d/account-corp.toml:3: cram_md5_secret_file: DIR/conf.d/account-corp.secret is readable by others; \
         run: chmod 600 DIR/conf.d/account-corp.secret",
    ),
];

#[test]
fn a_mistake_in_the_files_is_one_clear_line_and_nothing_is_started() {
    for (make, expected) in MISTAKES {
        let setup = Setup::init();
        make(&setup);
        for command in ["run", "check"] {
            setup
                .cli(&[command])
                .fails(78, &format!("error: {expected}"));
        }
        assert!(!setup.path("data").exists(), "half-started: {expected}");
    }
}

#[test]
fn every_problem_is_named_not_the_first() {
    let setup = Setup::init();
    setup.edit("relay.toml", |text| format!("one = 1\ntwo = 2\n{text}"));
    let both = "error: DIR/relay.toml:1: one: is not a known key\nerror: DIR/relay.toml:2: two: is not a known key";
    setup.cli(&["check"]).fails(78, both);

    let setup = Setup::init();
    fs::remove_file(setup.path("relay.key")).unwrap();
    fs::write(setup.path("data"), "a file").unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    setup.edit("relay.toml", |text| {
        text.replacen("127.0.0.1:0", &address, 1)
    });
    let found = setup.cli(&["check", "--json"]);
    assert_eq!((found.code, found.stderr.as_str()), (78, ""));
    let found: Value = serde_json::from_str(&found.stdout).unwrap();
    let problems = found
        .as_array()
        .unwrap()
        .iter()
        .filter(|each| each["result"] == "problem");
    let problems: Vec<_> = problems
        .map(|each| each["check"].as_str().unwrap())
        .collect();
    assert_eq!(problems, ["certificate", "data_dir", "ports"]);
}

#[test]
fn what_is_in_the_way_of_a_start_is_one_clear_line() {
    let fails = |setup: &Setup, expected: &str| {
        for command in ["run", "check"] {
            let ended = setup.cli(&[command]);
            assert_eq!(
                (ended.code, ended.last_line()),
                (1, &*format!("error: {expected}")),
                "{command}"
            );
        }
        // None that nobody answers on.
        assert!(!setup.path("data/control.sock").exists());
    };

    let setup = Setup::init();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    setup.edit("relay.toml", |text| {
        text.replacen("127.0.0.1:0", &address, 1)
    });
    let in_use = "Address already in use; another process has the port";
    fails(
        &setup,
        &format!("smtp.listen: cannot listen on {address}: {in_use}"),
    );

    let setup = Setup::init();
    setup.run().stop();
    let database = rusqlite::Connection::open(setup.path("data/queue.db")).unwrap();
    database.pragma_update(None, "user_version", 1_000).unwrap();
    drop(database);
    let newer =
        "DIR/data/queue.db: written by a newer version of atrn-relay; install that version again";
    fails(&setup, newer);

    let setup = Setup::init();
    fs::write(setup.path("data"), "a file").unwrap();
    let ended = setup.cli(&["run"]);
    assert_eq!(
        (ended.code, ended.last_line()),
        (1, "error: cannot make DIR/data: File exists")
    );
    setup
        .cli(&["check"])
        .fails(1, "error: DIR/data is no directory");
}
