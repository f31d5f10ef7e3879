//! `atrn-relay check --sandbox`: the proof that everybody can have on his own host.

use crate::{NOBODY, Stage, is_root, last_line};

#[test]
fn the_check_is_green_whoever_starts_it() {
    let stage = Stage::new();
    let said = stage.relay.cli(&["check", "--sandbox"]).expect_code(0);
    let lines: Vec<_> = said.stdout.lines().collect();
    assert!(
        lines[0].starts_with("sandbox  enforced, Landlock "),
        "{lines:?}"
    );
    assert!(lines.len() > 25, "{lines:?}");
    assert!(
        lines[1..].iter().all(|line| line.starts_with("refused  ")),
        "{lines:?}"
    );
    for (attempt, error) in [
        ("TCP over IPv4", "EPERM"),
        ("TCP over IPv6", "EPERM"),
        ("MPTCP", "EPERM"),
        ("UDP over IPv4", "EPERM"),
        ("raw IP", "EPERM"),
        ("TCP by the x32 call", "EPERM"),
        ("io_uring", "EPERM"),
        ("start another program", "EPERM"),
        ("read /etc/shadow", "EACCES"),
    ] {
        let line = lines.iter().find(|line| line[9..].starts_with(attempt));
        let line = line.unwrap_or_else(|| panic!("{attempt}: {lines:?}"));
        assert!(line.contains(error), "{line}");
    }
    if !is_root() {
        return;
    }
    let stage = Stage::new().sandbox("user", "nobody");
    stage.relay.open_folders();
    let tried = stage
        .relay
        .cli(&["check", "--sandbox", "--json"])
        .expect_code(0)
        .json();
    assert_eq!(tried["sandbox"]["uid"], NOBODY);
    let mut stage = Stage::new();
    stage.relay.run_as(NOBODY);
    let tried = stage
        .relay
        .cli(&["check", "--sandbox", "--json"])
        .expect_code(0)
        .json();
    assert_eq!(tried["sandbox"]["uid"], NOBODY);
    let attempts = tried["attempts"].as_array().expect("a list");
    assert!(
        attempts.iter().all(|attempt| attempt["refused"] == true),
        "{attempts:?}"
    );
}

#[test]
fn what_is_not_refused_is_named() {
    let stage = Stage::new().sandbox("enabled", false);
    let said = stage.relay.cli(&["check", "--sandbox"]).expect_code(1);
    assert!(said.stdout.starts_with("sandbox  off, user "), "{said:?}");
    assert!(said.stdout.contains("ALLOWED  TCP over IPv4"), "{said:?}");
    let last = last_line(&said);
    assert!(
        last.starts_with("error: the sandbox does not hold: TCP over IPv4, "),
        "{last}"
    );
    let _ = stage
        .relay
        .cli(&["check", "--sandbox", "--json"])
        .expect_code(1);
    let said = stage.relay.cli(&["check"]).expect_code(0);
    assert!(
        said.stdout.contains("warning  sandbox        switched off"),
        "{said:?}"
    );
}
