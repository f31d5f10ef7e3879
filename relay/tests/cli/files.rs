//! Commands that make and change files: `init`, `domain`, `account`, `man`.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::setup::{PROGRAM, Setup};

#[test]
fn init_makes_a_setup_and_overwrites_nothing() {
    let setup = Setup::empty();
    let arguments = [
        "init",
        "--dir",
        "DIR/new",
        "--hostname",
        "mx1.example.net",
        "--domain",
        "example.com",
    ];
    let made = setup.program(&[&arguments[..], &["--json"]].concat());
    let pin = serde_json::from_str::<Value>(&made.stdout).unwrap()["pin"].clone();
    assert_eq!(
        made.json(),
        json!({
            "hostname": "mx1.example.net", "certificate": "DIR/new/relay.crt", "pin": pin, "config": "DIR/new/relay.toml",
        })
    );
    let pin = pin.as_str().unwrap();
    assert!(pin.starts_with("sha256/") && pin.len() == 51, "{pin}");
    assert_eq!(
        (setup.mode("new/relay.key"), setup.mode("new/relay.crt")),
        (0o600, 0o644)
    );

    let before = fs::read(setup.path("new/relay.key")).unwrap();
    let refused = |file: &str| {
        let text = format!(
            "error: DIR/new/{file} exists already; nothing was changed; choose another --dir or move it away"
        );
        setup.program(&arguments).fails(1, &text);
    };
    refused("relay.toml");
    fs::remove_file(setup.path("new/relay.toml")).unwrap();
    refused("relay.crt");
    assert_eq!(fs::read(setup.path("new/relay.key")).unwrap(), before);
    assert!(!setup.path("new/relay.toml").exists());
}

#[test]
fn init_says_what_to_do_next_and_that_works() {
    let setup = Setup::empty();
    let said = setup
        .program(&["init", "--dir", "DIR/new", "--hostname", "mx1.example.net"])
        .ok();
    let next = said.split_once("Next:\n").unwrap().1;
    let commands: Vec<_> = next
        .lines()
        .map(|line| line.trim().strip_prefix("atrn-relay ").unwrap())
        .collect();
    assert_eq!(
        commands,
        [
            "-c DIR/new/relay.toml domain add example.com",
            "-c DIR/new/relay.toml account add corp --domain example.com",
            "-c DIR/new/relay.toml check",
            "-c DIR/new/relay.toml run",
        ]
    );
    for command in &commands[..2] {
        setup.program(&command.split(' ').collect::<Vec<_>>()).ok();
    }
}

#[test]
fn domains_and_accounts_come_and_go() {
    let setup = Setup::init();
    setup
        .cli(&["domain", "add", "example.org", "--hold-for", "7d"])
        .ok();
    let exists =
        "error: domain example.org exists already, in DIR/conf.d/domain-example.org.toml:3";
    setup
        .cli(&["domain", "add", "example.org"])
        .fails(1, exists);
    let domains = setup.cli(&["domain", "list", "--json"]).json();
    assert_eq!(
        (&domains[1]["domain"], &domains[1]["hold_for"]),
        (&json!("example.org"), &json!("7d"))
    );

    let add = [
        "account",
        "add",
        "corp",
        "--domain",
        "example.com",
        "--domain",
        "example.org",
        "--json",
    ];
    let made = setup.cli(&add).json();
    assert_eq!(
        (&made["account"], &made["domains"]),
        (&json!("corp"), &json!(["example.com", "example.org"]))
    );
    let secret = made["secret"].as_str().unwrap();
    assert_eq!(secret.len(), 43);
    // Kept is a verifier, for nobody's eyes; the secret is nowhere.
    let kept = fs::read_to_string(setup.path("conf.d/account-corp.toml")).unwrap();
    assert!(
        kept.contains("SCRAM-SHA-256$") && !kept.contains(secret),
        "{kept}"
    );
    assert_eq!(setup.mode("conf.d/account-corp.toml"), 0o600);
    assert_eq!(
        setup
            .cli(&["domain", "show", "example.org", "--json"])
            .json()["accounts"],
        json!(["corp"])
    );

    let in_use =
        "error: domain example.org belongs to account corp; change or remove the account first";
    setup
        .cli(&["domain", "remove", "example.org", "--yes"])
        .fails(1, in_use);
    let asked = "error: Remove account corp? The mail of its domains stays. Add --yes to do it without being asked";
    setup.cli(&["account", "remove", "corp"]).fails(2, asked);
    let foretold = setup.cli(&["account", "remove", "corp", "--dry-run"]).ok();
    assert_eq!(
        foretold,
        "Would remove account corp; the mail of its domains would stay.\n"
    );
    let dry_run = ["account", "remove", "corp", "--dry-run", "--json"];
    assert_eq!(setup.cli(&dry_run).json()["applied"], "dry_run");
    setup
        .cli(&["domain", "remove", "example.org", "--dry-run"])
        .fails(1, in_use);
    setup.cli(&["account", "remove", "corp", "--yes"]).ok();
    assert_eq!(setup.cli(&["account", "list", "--json"]).json(), json!([]));
    setup
        .cli(&["domain", "remove", "example.org", "--yes"])
        .ok();
    setup
        .cli(&["domain", "remove", "example.org", "--yes"])
        .fails(1, "error: there is no domain example.org");
}

#[test]
fn an_account_is_disabled_enabled_and_given_a_new_secret() {
    let setup = Setup::init();
    let add = [
        "account",
        "add",
        "corp",
        "--domain",
        "example.com",
        "--json",
    ];
    let made = setup.cli(&add).json();
    let file = || fs::read_to_string(setup.path("conf.d/account-corp.toml")).unwrap();
    let kept = file();
    let disabled = || setup.cli(&["account", "list", "--json"]).json()[0]["disabled"].clone();
    for (command, said, expected) in [
        ("disable", "Account corp is disabled.\n", true),
        ("enable", "Account corp is enabled.\n", false),
        ("enable", "Account corp was already enabled.\n", false),
    ] {
        assert_eq!(setup.cli(&["account", command, "corp"]).ok(), said);
        assert_eq!(disabled(), expected);
    }
    let rotated = setup.cli(&["account", "rotate", "corp", "--json"]).json();
    assert_ne!(rotated["secret"], made["secret"]);
    assert_ne!(file(), kept);
}

#[test]
fn secrets_of_accounts() {
    let setup = Setup::init();
    let add = |more: &[&str]| {
        setup.cli(&[&["account", "add", "corp", "--domain", "example.com"], more].concat())
    };
    let remove = || setup.cli(&["account", "remove", "corp", "--yes"]).ok();

    // CRAM-MD5 needs the secret itself.
    let secret = add(&["--cram-md5", "--json"]).json()["secret"].clone();
    let kept = fs::read_to_string(setup.path("conf.d/account-corp.secret")).unwrap();
    assert_eq!(kept, secret.as_str().unwrap());
    assert_eq!(setup.mode("conf.d/account-corp.secret"), 0o600);
    remove();
    assert!(!setup.path("conf.d/account-corp.secret").exists());

    // A given secret is not printed.
    fs::write(setup.path("given"), "opensesame\n").unwrap();
    setup.set_mode("given", 0o644);
    let readable = "error: DIR/given is readable by others; run: chmod 600 DIR/given";
    add(&["--secret-file", "DIR/given"]).fails(1, readable);
    setup.set_mode("given", 0o600);
    let made = add(&["--secret-file", "DIR/given", "--json"]).ok();
    assert!(
        made.contains("\"secret\": null") && !made.contains("opensesame"),
        "{made}"
    );
    remove();

    // By certificate only.
    let pin = "sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let made = add(&["--pin", pin, "--no-secret"]).ok();
    assert!(
        !made.contains("secret") && made.contains("\ncertificate = "),
        "{made}"
    );
    let kept = fs::read_to_string(setup.path("conf.d/account-corp.toml")).unwrap();
    assert!(!kept.contains("scram") && kept.contains(pin), "{kept}");
    // Somebody else's pin is refused, and leaves nothing behind.
    let again = setup.cli(&[
        "account",
        "add",
        "other",
        "--domain",
        "example.com",
        "--pin",
        pin,
    ]);
    assert_eq!(again.code, 78, "{again:?}");
    assert!(
        again
            .stderr
            .contains("already set at DIR/conf.d/account-corp.toml:3"),
        "{again:?}"
    );
    assert!(!setup.path("conf.d/account-other.toml").exists());
}

#[test]
fn lines_to_paste_hold_what_a_puller_needs() {
    let setup = Setup::init();
    setup.edit("relay.toml", |text| {
        text.replace("127.0.0.1:0", "0.0.0.0:366")
    });
    setup.edit("relay.toml", |text| {
        text.replacen("0.0.0.0:366", "0.0.0.0:25", 1)
    });
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
    let lines = made["puller_toml"].as_str().unwrap();
    for line in [
        "[[relay]]",
        "address = \"mx1.example.net:366\"",
        "tls = \"implicit\"",
        "account = \"corp\"",
        "domains = [\"example.com\"]",
    ] {
        assert!(lines.lines().any(|each| each == line), "{line} in {lines}");
    }
    assert!(
        lines.contains("\npin = \"sha256/") && lines.contains("\nsecret_file = "),
        "{lines}"
    );
    assert!(!lines.contains(made["secret"].as_str().unwrap()));
}

#[test]
fn help_completions_and_man_pages_come_from_the_tree() {
    let setup = Setup::empty();
    let help = setup.program(&["--help"]).ok();
    for command in [
        "init",
        "run",
        "check",
        "status",
        "queue",
        "domain",
        "account",
        "completions",
        "man",
    ] {
        assert!(
            help.contains(&format!("\n  {command} ")),
            "{command} in {help}"
        );
    }
    assert!(
        setup
            .program(&["completions", "bash"])
            .ok()
            .contains("_atrn__relay()")
    );
    assert!(setup.program(&["man"]).ok().contains(".TH atrn-relay 1"));
    setup.program(&["man", "--out", "DIR/man"]).ok();
    assert!(setup.path("man/atrn-relay-queue-list.1").exists());
    let version = format!("atrn-relay {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(setup.program(&["--version"]).ok(), version);
    assert_eq!(setup.program(&["nonsense"]).code, 2);
}

/// A careful root's umask must not keep the relay's user from its configuration.
#[test]
fn files_have_the_same_modes_under_any_umask() {
    let setup = Setup::empty();
    let script = "umask 077; dir=$1; shift; exec \"$0\" -c \"$dir/new/relay.toml\" \"$@\"";
    let careful = |arguments: &[&str]| {
        let mut command = Command::new("sh");
        command.args(["-c", script, PROGRAM]);
        command.arg(setup.path("")).args(arguments);
        assert!(command.output().unwrap().status.success(), "{arguments:?}");
    };
    careful(&["init", "--hostname", "mx1.example.net"]);
    careful(&["domain", "add", "example.com"]);
    careful(&["account", "add", "corp", "--domain", "example.com"]);
    for (name, mode) in [
        ("new", 0o755),
        ("new/conf.d", 0o755),
        ("new/relay.toml", 0o644),
        ("new/relay.crt", 0o644),
        ("new/relay.key", 0o600),
        ("new/conf.d/domain-example.com.toml", 0o644),
        ("new/conf.d/account-corp.toml", 0o600),
    ] {
        assert_eq!(setup.mode(name), mode, "{name}");
    }
}
