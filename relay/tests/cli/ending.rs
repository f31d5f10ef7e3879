//! Mail that comes to an end without being delivered, as an operator sees it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::setup::{Setup, id_in};

const CONTENT: &str = "Subject: one\r\n\r\nbody";

fn list(setup: &Setup, state: &str) -> Vec<Value> {
    let listed = setup.cli(&["queue", "list", "--state", state, "--json"]);
    listed.json().as_array().unwrap().clone()
}

/// Who was told of the first recipient of a message.
fn reported_to(setup: &Setup, id: &str) -> Value {
    let shown = setup.cli(&["queue", "show", id, "--json"]).json();
    shown["deliveries"][0]["details"][0]["reported_to"].clone()
}

// covers: R2645-24
#[test]
fn mail_is_ended_by_hand_with_a_report() {
    let setup = Setup::init();
    let daemon = setup.run();
    let send = |sender| id_in(&daemon.send(sender, &["u@example.com"], CONTENT));
    let [first, second, null] = ["a@example.net", "a@example.net", ""].map(send);

    let question = "error: Bounce 1 delivery for good? Add --yes to do it without being asked";
    setup.cli(&["queue", "bounce", &first]).fails(2, question);
    let foretold = setup.cli(&["queue", "bounce", "--all", "--dry-run"]).ok();
    assert_eq!(foretold, "Would bounce 3 deliveries.\n");
    assert_eq!(list(&setup, "queued").len(), 3);
    let reason = ["--reason", "Moved to example.org"];
    let bounced = setup.cli(&[&["queue", "bounce", &first, "--yes"], &reason[..]].concat());
    assert_eq!(bounced.ok(), "Bounced 1 delivery.\n");
    let failed = list(&setup, "failed");
    assert_eq!(failed[0]["last_reply"], "554 5.0.0 Moved to example.org");
    let postmaster = json!("postmaster@example.com");
    assert_eq!(reported_to(&setup, &first), postmaster);
    let shown = setup.cli(&["queue", "show", &first]).ok();
    let line =
        "u@example.com: 554 5.0.0 Moved to example.org (reported to postmaster@example.com)\n";
    assert!(shown.contains(line), "{shown}");
    let status = setup.cli(&["status"]).ok();
    assert!(
        status.contains("\ntold      1 report of mail that ended\n"),
        "{status}"
    );
    let bounced = setup.cli(&["queue", "bounce", &null, "--yes"]).ok();
    assert_eq!(bounced, "Bounced 1 delivery.\n");
    assert_eq!(reported_to(&setup, &null), Value::Null);
    let again = setup.cli(&["queue", "bounce", &null, "--yes"]).ok();
    assert_eq!(
        again,
        "Bounced 0 deliveries. Left alone: 1 failed or expired already.\n"
    );

    // Without the daemon: the same.
    assert_eq!(daemon.stop().0, 0);
    let expired = setup
        .cli(&["queue", "expire", &second, "--yes", "--json"])
        .json();
    assert_eq!(expired["changed"], 1);
    let item = &list(&setup, "expired")[0];
    assert_eq!(
        item["last_reply"],
        "554 5.4.7 Given up by the administrator"
    );
    assert_eq!(item["expires_at"], Value::Null);
    assert_eq!(reported_to(&setup, &second), postmaster);
    let reports = list(&setup, "queued");
    let reports: Vec<_> = reports
        .iter()
        .map(|item| (&item["sender"], &item["recipients"][0]))
        .collect();
    assert_eq!(reports, [(&json!(""), &postmaster); 2]);
    let id = list(&setup, "queued")[1]["id"].as_str().unwrap().to_owned();
    let content = setup.cli(&["queue", "cat", &id]).ok();
    assert!(content.contains("\r\nStatus: 5.4.7\r\n"), "{content}");

    // What ended can be tried again.
    let retried = setup.cli(&["queue", "retry", &first, &second]).ok();
    assert_eq!(retried, "Made ready 2 deliveries.\n");
    assert_eq!(list(&setup, "queued").len(), 4);
}

// covers: R5321-30
#[test]
fn mail_that_nobody_fetches_expires_by_itself() {
    let setup = Setup::init();
    let table = "[[domain]]\nname = \"brief.example\"\nhold_for = \"1s\"\nkeep_failed = \"1s\"\nreports = \"sender\"\n";
    setup.edit("conf.d/brief.toml", |_| table.to_owned());
    let daemon = setup.run();
    let deadline = Instant::now() + Duration::from_secs(60);
    let kept = id_in(&daemon.send("a@example.net", &["u@example.com"], CONTENT));
    daemon.send("a@example.net", &["u@brief.example"], CONTENT);
    // The message and its report expire and are forgotten, one after the other.
    while setup
        .cli(&["queue", "list", "--json"])
        .json()
        .as_array()
        .unwrap()
        .len()
        > 1
    {
        assert!(
            Instant::now() < deadline,
            "{}",
            setup.cli(&["queue", "list"]).stdout
        );
    }
    assert_eq!(list(&setup, "queued")[0]["id"], kept.as_str());
    let (code, log) = daemon.stop();
    assert_eq!(code, 0);
    let reply = "reply=554 5.4.7 Not delivered within 1s";
    assert_eq!(log.matches(reply).count(), 2, "{log}");
    assert_eq!(log.matches("report queued").count(), 1, "{log}");
    assert!(log.contains("forward_path=a@example.net"), "{log}");
}

#[test]
fn mail_of_a_domain_that_is_gone_is_not_forgotten() {
    let setup = Setup::init();
    setup.cli(&["domain", "add", "example.org"]).ok();
    let daemon = setup.run();
    daemon.send("a@example.net", &["u@example.org"], CONTENT);
    setup
        .cli(&["domain", "remove", "example.org", "--yes"])
        .ok();
    let warning = "\nwarning  queue          example.org is not configured, so that its 1 delivery will not expire; \
                   see `queue list --domain example.org`\n";
    let checked = setup.cli(&["check"]).ok();
    assert!(checked.contains(warning), "{checked}");
    daemon.stop();
    let checked = setup.cli(&["check"]).ok();
    assert!(checked.contains(warning), "{checked}");
}
