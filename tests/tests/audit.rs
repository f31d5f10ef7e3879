//! AUTH under attack: what strangers hear, who is locked out and who is not, and what is written down.

use std::net::{IpAddr, Ipv4Addr};

use atrn_tests::peer::{Peer, cram_md5, plain};
use atrn_tests::process::wait_until;
use atrn_tests::world::{ACCOUNT, DOMAIN, PULLER_NAME, Setup, World};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// What nobody must find anywhere.
const WRONG: &str = "hunter2-is-not-the-secret";

/// An address of another network each.
fn elsewhere(number: u8) -> IpAddr {
    Ipv4Addr::new(127, 1, number, 1).into()
}

/// Loopback has no privilege, and nobody waits for a slow answer.
fn guarded() -> Setup {
    World::setup()
        .relay("limits.exempt", toml::Value::Array(Vec::new()))
        .relay("limits.auth_delay", "0s")
}

/// Past EHLO.
fn stranger(world: &World, from: IpAddr) -> Peer {
    let mut peer = world.relay.odmr_from(from);
    peer.expect("220 ");
    peer.ehlo(PULLER_NAME);
    peer
}

/// The last line of the reply to AUTH PLAIN, and with it all that a stranger learns.
fn try_plain(world: &World, from: IpAddr, name: &str, secret: &str) -> String {
    let mut peer = stranger(world, from);
    peer.ask(&format!("AUTH PLAIN {}", plain(name, secret)), "")
}

fn audit(world: &World, options: &[&str]) -> Value {
    let arguments = [&["audit", "--json"], options].concat();
    world.relay.cli(&arguments).expect_code(0).json()
}

/// Waits until so many tries of a name are written down; what there is then.
fn audit_of(world: &World, name: &str, tries: u64) -> Value {
    let mut found = Value::Null;
    wait_until("the audit has it", || {
        let audit = audit(world, &[]);
        let mut names = audit["names"].as_array().expect("names").iter();
        found = names
            .find(|each| each["name"] == name)
            .cloned()
            .unwrap_or_default();
        found["tries"] == tries
    });
    found
}

fn text(world: &World, options: &[&str]) -> String {
    let arguments = [&["audit"], options].concat();
    world.relay.cli(&arguments).expect_code(0).stdout
}

// covers: R4954-1
#[test]
fn what_was_tried_is_shown_while_the_relay_runs_and_when_it_does_not() {
    let mut world = World::start();
    assert_eq!(text(&world, &[]).trim(), "No failed logins.");
    for _ in 0..2 {
        try_plain(&world, HOME, "admin", WRONG);
    }
    try_plain(&world, elsewhere(1), "admin", WRONG);
    let mut peer = stranger(&world, HOME);
    let challenge = peer.ask("AUTH CRAM-MD5", "334 ");
    peer.ask(&cram_md5(&challenge[4..], ACCOUNT, WRONG), "535 ");
    let corp = audit_of(&world, ACCOUNT, 1);
    assert_eq!(corp["mechanisms"], serde_json::json!(["CRAM-MD5"]));
    assert_eq!(corp["is_account"], true);
    let admin = audit_of(&world, "admin", 3);
    assert_eq!(admin["is_account"], false);
    assert_eq!(admin["addresses"][0]["address"], "127.0.0.1");
    assert_eq!(admin["addresses"][0]["tries"], 2);
    let networks: Vec<_> = admin["networks"]
        .as_array()
        .expect("networks")
        .iter()
        .collect();
    assert_eq!(networks[0]["network"], "127.0.0.0/24");
    assert_eq!(networks[1]["network"], "127.1.1.0/24");

    assert_eq!(text(&world, &["--names-only"]), "admin\ncorp\n");
    assert_eq!(
        audit(&world, &["--names-only", "--new-since", "1h"]),
        serde_json::json!(["admin", "corp"])
    );
    assert_eq!(world.relay.stop(), 0);
    let table = text(&world, &["--since", "1d"]);
    let row = table
        .lines()
        .find(|line| line.starts_with("admin "))
        .expect("a row");
    let words: Vec<_> = row.split_whitespace().collect();
    assert_eq!(words[1..3], ["no", "3"], "{table}");
    assert!(row.ends_with("127.0.0.0/24 (2)  PLAIN"), "{table}");
    let limited = world.relay.cli(&["audit", "--limit", "1"]).expect_code(0);
    assert!(!limited.stdout.contains("\ncorp "), "{}", limited.stdout);
    assert!(limited.stderr.contains("1 name more"), "{}", limited.stderr);
}

#[test]
fn neither_secrets_nor_what_may_be_one_are_written_down() {
    let world = World::start();
    try_plain(&world, HOME, ACCOUNT, WRONG);
    // In the wrong field.
    try_plain(&world, HOME, "correct horse battery staple", "x");
    try_plain(&world, HOME, "$(reboot)", "x");
    audit_of(&world, "correct horse ba…", 1);
    let table = text(&world, &[]);
    assert!(table.contains("\n$(reboot) "), "{table}");
    let log = world.relay.log();
    assert!(log.contains("correct horse ba…"), "{log}");
    for hidden in [WRONG, "staple", &BASE64.encode(WRONG)] {
        assert!(!log.contains(hidden), "{hidden} is in the log");
        for file in std::fs::read_dir(world.relay.data_folder()).expect("data") {
            let path = file.expect("a file").path();
            let octets = std::fs::read(&path).unwrap_or_default();
            let found = memchr::memmem::find(&octets, hidden.as_bytes());
            assert_eq!(found, None, "{hidden} is in {}", path.display());
        }
    }
}

/// From as many networks as it takes. The replies.
fn attack(world: &World, name: &str, tries: u8) -> Vec<String> {
    let replies = (1..=tries).map(|number| try_plain(world, elsewhere(number), name, WRONG));
    replies.collect()
}

// covers: R4954-1, R4954-2
#[test]
fn an_attack_locks_strangers_out_and_not_the_puller() {
    let mut world = guarded().relay("limits.account_failures", 5).start();
    let secret = world.relay.secret(ACCOUNT).to_owned();
    assert!(try_plain(&world, HOME, ACCOUNT, &secret).starts_with("235 "));
    let known = attack(&world, ACCOUNT, 8);
    assert!(known[4].starts_with("535 "), "{known:#?}");
    assert_eq!(known[5], "454 4.7.0 Temporary authentication failure");
    // It says nothing of whether there is such an account.
    assert_eq!(known, attack(&world, "nobody", 8));
    for _ in 0..2 {
        // Home is 127.0.0.0/24, and the right secret does not help elsewhere.
        let next_door: IpAddr = Ipv4Addr::new(127, 0, 0, 77).into();
        for (from, expected) in [(elsewhere(99), "454 "), (HOME, "235 "), (next_door, "235 ")] {
            let reply = try_plain(&world, from, ACCOUNT, &secret);
            assert!(reply.starts_with(expected), "{from}: {reply}");
        }
        wait_until("the lock is written down", || {
            let locks = audit(&world, &[])["locks"].clone();
            locks.as_array().is_some_and(|locks| locks.len() == 2)
        });
        // A restart forgets neither.
        world.relay.restart();
    }
    let table = text(&world, &[]);
    assert!(
        table.contains("Closed to networks that never logged in\n"),
        "{table}"
    );
    assert!(
        table.contains("odmr     a login from elsewhere while the account is under attack"),
        "{table}"
    );
}

// covers: R4954-2
#[test]
fn an_address_that_fails_too_often_is_banned_and_its_neighbours_are_not() {
    let world = guarded().relay("limits.auth_failures", 4).start();
    let names = ["a1", "a2", "a3", "a4"];
    for name in names {
        assert!(try_plain(&world, elsewhere(1), name, WRONG).starts_with("535 "));
    }
    let mut peer = stranger(&world, elsewhere(1));
    peer.ask(&format!("AUTH PLAIN {}", plain("a5", WRONG)), "535 ");
    peer.expect("421 ");
    peer.expect_close();
    wait_until("it is not let in", || {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            stranger(&world, elsewhere(1));
        }))
        .is_err()
    });
    assert!(try_plain(&world, elsewhere(2), "a1", WRONG).starts_with("535 "));
}

/// Whatever is wrong, and whether or not there is such an account or it may use the mechanism: the same words.
// covers: R4954-1, R5802-1, R2195-1
#[test]
fn all_that_is_wrong_sounds_the_same() {
    let world = World::start();
    let add = |name: &str, more: &[&str]| {
        let arguments = [&["account", "add", name, "--domain", DOMAIN], more].concat();
        let _ = world.relay.cli(&arguments).expect_code(0);
    };
    add(
        "pinned",
        &[
            "--no-secret",
            "--pin",
            "sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        ],
    );
    add("no-cram", &[]);
    add("off", &["--cram-md5"]);
    let _ = world
        .relay
        .cli(&["account", "disable", "off"])
        .expect_code(0);
    let dialogue = |mechanism: &str, name: &str| -> String {
        let mut peer = stranger(&world, HOME);
        match mechanism {
            "PLAIN" => peer.ask(&format!("AUTH PLAIN {}", plain(name, WRONG)), ""),
            "CRAM-MD5" => {
                let challenge = peer.ask("AUTH CRAM-MD5", "334 ");
                peer.ask(&cram_md5(&challenge[4..], name, WRONG), "")
            }
            _ => {
                let first = BASE64.encode(format!("n,,n={name},r=0123456789"));
                let challenge = peer.ask(&format!("AUTH {mechanism} {first}"), "334 ");
                let challenge = BASE64.decode(&challenge[4..]).expect("base64");
                let challenge = String::from_utf8(challenge).expect("text");
                let parts: Vec<_> = challenge.split(',').collect();
                let (nonce, salt, rounds) = (parts[0], parts[1], parts[2]);
                let proof = BASE64.encode([7; 32]);
                // "y": no channel binding, as the client has none.
                let last = BASE64.encode(format!("c=biws,{nonce},p={proof}"));
                let reply = peer.ask(&last, "");
                format!(
                    "{} {rounds} {reply}",
                    BASE64.decode(&salt[2..]).expect("salt").len()
                )
            }
        }
    };
    for (mechanism, expected) in [
        ("PLAIN", "535 5.7.8 Authentication credentials invalid"),
        ("CRAM-MD5", "535 5.7.8 Authentication credentials invalid"),
        (
            "SCRAM-SHA-256",
            "16 i=15000 535 5.7.8 Authentication credentials invalid",
        ),
    ] {
        for name in [ACCOUNT, "nobody", "pinned", "no-cram", "off"] {
            assert_eq!(dialogue(mechanism, name), expected, "{mechanism} {name}");
        }
    }
}

/// Whoever asks twice, with a restart between, gets the same salt for a user that does not exist: as for one that does.
// covers: R5802-1
#[test]
fn a_restart_does_not_tell_who_exists() {
    let mut world = World::start();
    let challenge = |world: &World, name: &str| {
        let first = BASE64.encode(format!("n,,n={name},r=0123456789"));
        let mut peer = stranger(world, HOME);
        let challenge = peer.ask(&format!("AUTH SCRAM-SHA-256 {first}"), "334 ");
        let challenge = BASE64.decode(&challenge[4..]).expect("base64");
        let challenge = String::from_utf8(challenge).expect("text");
        challenge.split(',').nth(1).expect("a salt").to_owned()
    };
    let salts = |world: &World| [ACCOUNT, "nobody", "nobody2"].map(|name| challenge(world, name));
    let before = salts(&world);
    assert!(before[0] != before[1] && before[1] != before[2]);
    world.relay.restart();
    assert_eq!(salts(&world), before);
}

#[test]
fn strangers_from_one_address_have_a_few_places() {
    let world = guarded()
        .relay("odmr.max_unauthenticated_per_ip", 2)
        .start();
    let from = elsewhere(1);
    let first = stranger(&world, from);
    let _second = stranger(&world, from);
    let refused = || {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            stranger(&world, from);
        }))
        .is_err()
    };
    assert!(refused());
    // Not for others, and not for long.
    stranger(&world, elsewhere(2));
    drop(first);
    wait_until("the place is free", || !refused());
    wait_until("it is written down", || {
        let refusals = audit(&world, &[])["refusals"].clone();
        refusals[0]["reason"] == "too many connections before AUTH"
    });
}

/// Who is in has left a stranger's place, and has one of its account's.
#[test]
fn an_account_has_so_many_connections() {
    let world = guarded()
        .relay("odmr.max_unauthenticated_per_ip", 1)
        .relay("odmr.max_connections_per_account", 2)
        .start();
    let login = format!("AUTH PLAIN {}", plain(ACCOUNT, world.relay.secret(ACCOUNT)));
    let mut first = stranger(&world, HOME);
    first.ask(&login, "235 ");
    let mut second = stranger(&world, HOME);
    second.ask(&login, "235 ");
    let mut third = stranger(&world, HOME);
    third.ask(&login, "421 4.7.0 Too many connections of this account");
    third.expect_close();
    first.ask("QUIT", "221 ");
    first.expect_close();
    wait_until("the place is free", || {
        let mut peer = stranger(&world, HOME);
        peer.ask(&login, "").starts_with("235 ")
    });
    second.ask("NOOP", "250 ");
}

#[test]
fn names_that_attackers_try_first_are_taken_with_force_only() {
    let world = World::start();
    let add = ["account", "add", "admin", "--domain", DOMAIN];
    let refused = world.relay.cli(&add).expect_code(1);
    assert!(
        refused
            .stderr
            .contains("admin is a name that attackers try first; choose another"),
        "{}",
        refused.stderr
    );
    let _ = world
        .relay
        .cli(&[&add[..], &["--force"]].concat())
        .expect_code(0);
    let check = world.relay.cli(&["check"]);
    assert!(
        check
            .stdout
            .contains("admin is a name that attackers try first"),
        "{}",
        check.stdout
    );
}
