//! The puller waits in ATRN.

use atrn_tests::message::{self, Message};
use atrn_tests::process::wait_until;
use atrn_tests::tap::End;
use atrn_tests::world::ACCOUNT;

use super::Stage;

// covers: R2645-7, R2645-11, R2645-23
#[test]
fn mail_that_comes_while_the_puller_waits_goes_inside_and_so_does_what_follows() {
    let mut stage = Stage::waiting();
    let heard = stage.tap.heard();
    assert!(
        heard
            .said
            .last()
            .unwrap()
            .line
            .starts_with("ATRN example.org XWAIT="),
        "{heard:#?}"
    );
    for _ in 0..3 {
        stage.mail_arrives();
    }
    // A burst, too.
    let burst: Vec<_> = (stage.sent..stage.sent + 50)
        .map(|number| Message::new("user@example.org", message::plain(number)))
        .collect();
    stage.sent += burst.len();
    stage.world.send(&burst);
    stage.all_is_inside();
    let heard = stage.tap.heard();
    assert_eq!((heard.connections, heard.open(), stage.atrns()), (1, 1, 1));
    assert_eq!(
        stage.world.relay.account_status(ACCOUNT)["pulls"]["total"],
        1
    );
}

/// Mail that is there when the puller comes needs no waiting, and the session stays for what follows.
// covers: R2645-23
#[test]
fn mail_that_was_there_before_goes_inside_at_once() {
    let mut stage = Stage::new(|setup| setup);
    stage.send();
    stage.world.puller.start();
    stage.all_is_inside();
    stage.mail_arrives();
    assert_eq!((stage.tap.heard().connections, stage.atrns()), (1, 1));
}

// covers: R2645-11, R2645-15
#[test]
fn when_the_wait_is_over_the_puller_asks_again_on_the_same_connection() {
    let mut stage = Stage::waiting_with(|setup| setup.puller("relay.wait", "1s"));
    stage.tap.wait_for(End::Relay, "453 ", 2);
    stage
        .tap
        .wait_for(End::Puller, "ATRN example.org XWAIT=1", 3);
    stage.mail_arrives();
    assert_eq!(stage.tap.heard().connections, 1);
    // The relay's own limit holds as well.
    let mut stage = Stage::waiting_with(|setup| setup.relay("odmr.max_wait", "1s"));
    stage.tap.wait_for(End::Relay, "453 ", 2);
    stage.mail_arrives();
    assert_eq!(stage.tap.heard().connections, 1);
    assert_eq!(
        stage.tap.count(End::Puller, "ATRN example.org XWAIT=1"),
        stage.atrns()
    );
}

// covers: R2645-16
#[test]
fn a_relay_that_does_not_wait_is_polled() {
    let mut stage = Stage::new(|setup| {
        setup
            .relay("odmr.max_wait", "0s")
            .relay("odmr.min_interval", "0s")
            .puller("relay.every", "1s")
    });
    stage.world.puller.start();
    stage.tap.wait_for(End::Relay, "453 ", 2);
    stage.mail_arrives();
    stage.tap.wait_for(End::Relay, "453 ", 3);
    let heard = stage.tap.heard();
    assert!(heard.connections >= 3);
    assert_eq!(
        heard.count(End::Relay, "250-XWAIT") + heard.count(End::Relay, "250 XWAIT"),
        0
    );
    assert_eq!(heard.count(End::Puller, "ATRN example.org XWAIT"), 0);
}

/// Two waiting sessions of the same account, as of two hosts: each message goes to one of them.
// covers: R2645-12, R2645-23
#[test]
fn of_two_pullers_that_wait_one_is_told() {
    let mut stage = Stage::waiting();
    let mut other = stage
        .world
        .another_puller(ACCOUNT, &["example.org"], &stage.inside.target());
    other.configure(|settings| {
        settings
            .set("relay.mode", "instant")
            .set("relay.jitter", "0s");
    });
    other.start();
    let waiting = || stage.world.relay.account_status(ACCOUNT)["waiting"].clone();
    wait_until("both wait", || waiting() == 2);
    for _ in 0..10 {
        stage.mail_arrives();
    }
    // One goes, and what comes then is for the other.
    stage.world.puller.kill();
    wait_until("one is gone", || {
        stage.world.relay.account_status(ACCOUNT)["waiting"] == 1
    });
    for _ in 0..5 {
        stage.mail_arrives();
    }
}
