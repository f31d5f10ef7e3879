//! The reversed session is there, and there is no mail.

use std::time::{Duration, Instant};

use atrn_tests::inside::Step;
use atrn_tests::tap::End;

use super::Stage;

/// As long as a delivery waits after its first deferral, and some more.
const RETRY_PATIENCE: Duration = Duration::from_secs(60);

// covers: R2645-23
#[test]
fn the_relay_breaks_its_silence_and_is_answered() {
    let mut stage = Stage::idle_with(|setup| setup.puller("relay.wait", "1s"));
    stage.tap.wait_for(End::Relay, "NOOP", 2);
    stage.mail_arrives();
    stage.tap.wait_for(End::Relay, "NOOP", 3);
    stage.mail_arrives();
    let heard = stage.tap.heard();
    assert_eq!((heard.connections, stage.atrns()), (1, 1));
    // Between a NOOP and what follows it stands its answer.
    let behind: Vec<_> = heard
        .said
        .windows(2)
        .filter(|said| said[0].line == "NOOP")
        .map(|said| (said[1].by, said[1].line[..3].to_owned()))
        .collect();
    assert!(behind.len() >= 3);
    assert!(
        behind
            .iter()
            .all(|next| *next == (End::Puller, "250".to_owned())),
        "{behind:?}"
    );
}

/// What waits for a time is sent when it has come, though nothing else happens.
// covers: OWN-7, R2645-23
#[test]
fn deferred_mail_is_tried_again_when_it_is_due() {
    let mut stage = Stage::idle();
    stage
        .inside
        .on(Step::Rcpt)
        .once()
        .reply("451 4.3.0 not now");
    stage.send();
    stage
        .world
        .relay
        .wait_for_queue(&["user@example.org deferred 1"]);
    let end = Instant::now() + RETRY_PATIENCE;
    while stage.inside.messages().len() < stage.sent {
        assert!(Instant::now() < end, "{:#?}", stage.world.queue_list());
        std::thread::sleep(Duration::from_millis(100));
    }
    stage.all_is_inside();
    assert_eq!((stage.tap.heard().connections, stage.atrns()), (1, 1));
}

// covers: R2645-23
#[test]
fn an_admins_decision_wakes_the_session() {
    let mut stage = Stage::idle();
    let relay = |arguments: &[&str], stage: &Stage| {
        let _ = stage.world.relay.cli(arguments).expect_code(0);
    };
    // Refused for now, and tried again on order.
    stage
        .inside
        .on(Step::Rcpt)
        .once()
        .reply("451 4.3.0 not now");
    stage.send();
    stage
        .world
        .relay
        .wait_for_queue(&["user@example.org deferred 1"]);
    stage.world.relay.retry_all();
    stage.all_is_inside();
    // Held back, and let go.
    stage
        .inside
        .on(Step::Rcpt)
        .once()
        .reply("451 4.3.0 not now");
    stage.send();
    stage
        .world
        .relay
        .wait_for_queue(&["user@example.org deferred 1"]);
    relay(&["queue", "hold", "--all"], &stage);
    stage
        .world
        .relay
        .wait_for_queue(&["user@example.org held 1"]);
    relay(&["queue", "release", "--all"], &stage);
    stage.world.relay.retry_all();
    stage.all_is_inside();
    assert_eq!((stage.tap.heard().connections, stage.atrns()), (1, 1));
}

/// The same before the turn.
// covers: R2645-23
#[test]
fn an_admins_decision_wakes_a_puller_that_waits_in_atrn() {
    for decision in ["retry", "release"] {
        let mut stage = Stage::new(|setup| setup);
        stage
            .inside
            .on(Step::Rcpt)
            .once()
            .reply("451 4.3.0 not now");
        stage.send();
        let _ = stage.world.puller.pull().expect_code(0);
        stage
            .world
            .relay
            .wait_for_queue(&["user@example.org deferred 1"]);
        if decision == "release" {
            stage.world.relay.retry_all();
            let _ = stage
                .world
                .relay
                .cli(&["queue", "hold", "--all"])
                .expect_code(0);
        }
        stage.world.puller.start();
        stage.wait_until_it_waits();
        let decided = stage.world.relay.cli(&["queue", decision, "--all"]);
        let _ = decided.expect_code(0);
        stage.all_is_inside();
    }
}
