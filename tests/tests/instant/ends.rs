//! One of the parties goes away, and comes back.

use std::net::TcpListener;

use atrn_tests::inside::{Inside, Offer};
use atrn_tests::ports::Port;
use atrn_tests::process::wait_until;
use atrn_tests::tap::End;
use atrn_tests::world::ACCOUNT;
use nix::sys::signal::Signal;

use super::Stage;

// covers: R5321-22
#[test]
fn a_relay_that_restarts_has_its_puller_back() {
    for stage in [Stage::waiting(), Stage::idle()] {
        let mut stage = stage;
        assert_eq!(stage.world.relay.stop(), 0, "{}", stage.world.relay.log());
        assert!(!stage.world.relay.log().contains("did not end in time"));
        stage.world.relay.start();
        stage.wait_until_it_waits();
        stage.mail_arrives();
        stage.world.relay.kill();
        stage.world.relay.start();
        stage.wait_until_it_waits();
        stage.mail_arrives();
    }
}

/// The puller, and everything between the two.
#[test]
fn a_puller_that_restarts_and_a_line_that_breaks() {
    for stage in [Stage::waiting(), Stage::idle()] {
        let mut stage = stage;
        stage.tap.cut();
        stage
            .tap
            .wait_until("it comes back", |heard| heard.connections == 2);
        stage.wait_until_it_waits();
        stage.mail_arrives();
        stage.world.puller.kill();
        stage.world.puller.start();
        stage.wait_until_it_waits();
        stage.mail_arrives();
        assert_eq!(stage.world.puller.stop(), 0);
        assert!(
            !stage.world.puller.log().contains("cut off"),
            "{}",
            stage.world.puller.log()
        );
        stage
            .tap
            .wait_until("it says goodbye", |heard| heard.open() == 0);
        stage.send();
        stage
            .world
            .relay
            .wait_for_queue(&["user@example.org queued 0"]);
        stage.world.puller.start();
        stage.all_is_inside();
    }
}

/// Both ends are told to stop at the same time.
// covers: R5321-22
#[test]
fn both_end_at_once() {
    for stage in [Stage::waiting(), Stage::idle()] {
        let mut stage = stage;
        stage.world.relay.signal(Signal::SIGTERM);
        assert_eq!(stage.world.puller.stop(), 0);
        assert_eq!(stage.world.relay.stop(), 0);
        for log in [stage.world.relay.log(), stage.world.puller.log()] {
            assert!(!log.contains("in time"), "{log}");
        }
    }
}

/// The relay is there no more, and nobody says so: after the silence that was asked for, and some more, the puller gives it
/// up.
// covers: R5321-46
#[test]
fn a_relay_that_vanishes_is_given_up() {
    let mut stage = Stage::idle_with(|setup| {
        setup
            .puller("relay.wait", "1s")
            .puller("limits.reply_timeout", "1s")
    });
    stage.tap.freeze();
    wait_until("the puller notices", || {
        stage.world.puller.log().contains("pull ended")
    });
    stage.tap.thaw();
    stage.tap.wait_until("it comes back", |heard| {
        heard.count(End::Puller, "ATRN") == 2
    });
    // The relay believes in the session that is gone until its NOOP is overdue, and nothing is lost with it.
    stage.mail_arrives();
}

/// The same the other way round: the relay's NOOP has no answer, and the session makes room for the next.
// covers: R5321-22
#[test]
fn a_puller_that_vanishes_is_given_up() {
    let mut stage = Stage::idle_with(|setup| {
        setup
            .relay("odmr.command_timeout", "1s")
            .puller("relay.wait", "1s")
    });
    stage.tap.freeze();
    stage.world.puller.kill();
    wait_until("the relay notices", || {
        stage.world.relay.account_status(ACCOUNT)["waiting"] == 0
    });
    assert_eq!(stage.world.relay.account_status(ACCOUNT)["pulls"]["now"], 0);
    stage.tap.thaw();
    stage.world.puller.start();
    stage.wait_until_it_waits();
    stage.mail_arrives();
}

/// A line that died without a word, and the puller that is back before the relay knows: mail does not wait for the dead.
// covers: R2645-12
#[test]
fn a_dead_session_does_not_keep_mail_from_the_one_that_is_back() {
    for stage in [Stage::waiting(), Stage::idle()] {
        let mut stage = stage;
        stage.tap.freeze();
        stage.world.puller.kill();
        stage.tap.thaw();
        stage.world.puller.start();
        wait_until("both seem to wait", || {
            stage.world.relay.account_status(ACCOUNT)["waiting"] == 2
        });
        for _ in 0..3 {
            stage.mail_arrives();
        }
    }
}

/// Who does not greet has no mail asked for: it would only come back deferred.
// covers: OWN-7, R5321-27
#[test]
fn without_the_corporate_server_nothing_is_asked_for() {
    let port = Port::reserve();
    let listen = || TcpListener::bind(port.address()).expect("a reserved port");
    let inside = Inside::listening(listen(), Offer::default());
    let mut stage = Stage::with(inside, |setup| setup);
    stage.world.puller.start();
    stage.mail_arrives();
    stage.wait_until_it_waits();

    // It goes away while the session is idle.
    let arrived = stage.inside.messages().len();
    stage.inside = Inside::smtp();
    stage.send();
    stage
        .world
        .relay
        .wait_for_queue(&["user@example.org deferred 1"]);
    let said = stage.world.queue_list()[0]["last_reply"].to_string();
    assert!(said.contains("451 4.4."), "{said}");
    stage
        .tap
        .wait_until("the session ends", |heard| heard.open() == 0);
    assert_eq!(stage.atrns(), 1);

    // Somebody is there again, and does not greet.
    let silent = listen();
    for _ in 0..3 {
        drop(silent.accept().expect("the puller tries"));
    }
    drop(silent);
    assert_eq!(stage.atrns(), 1);
    stage.world.relay.retry_all();
    stage.inside = Inside::listening(listen(), Offer::default());
    stage.sent -= arrived;
    let came = stage.inside.wait_for_messages(1);
    assert_eq!(came.len(), 1);
    assert_eq!(stage.atrns(), 2);
    stage.world.relay.wait_for_queue(&[]);
}

/// The same while the puller waits in ATRN: the relay is let go before it has anything to send.
// covers: OWN-7
#[test]
fn a_corporate_server_that_closes_an_idle_connection_costs_nothing() {
    let mut stage = Stage::idle();
    for _ in 0..3 {
        stage.inside.hang_up_all();
        stage.mail_arrives();
    }
    assert_eq!((stage.tap.heard().connections, stage.atrns()), (1, 1));
}
