//! The walls stand where they were put up at the start: new settings that need a door elsewhere are refused with a reason.

use std::fs;

use atrn_tests::inside::Inside;
use atrn_tests::message::{self, Message};
use atrn_tests::process::wait_until;
use atrn_tests::world::World;
use nix::sys::signal::Signal;

use crate::{Stage, path_text};

fn reloads(stage: &Stage) -> u64 {
    stage.status()["configuration"]["reloads"]
        .as_u64()
        .expect("a number")
}

#[test]
fn a_relay_takes_up_what_is_within_and_names_what_is_not() {
    let mut stage = Stage::new();
    stage.relay.start();
    let elsewhere = tempfile::tempdir().expect("a folder");
    let certificate = |stage: &Stage, path: &std::path::Path| {
        stage.relay.configure(|settings| {
            settings.set("tls.certificate", path_text(path));
        });
    };
    let original = stage.relay.folder().join("relay.crt");
    let hidden = elsewhere.path().join("relay.crt");
    fs::copy(&original, &hidden).expect("a copy");
    certificate(&stage, &hidden);
    let refused = |stage: &Stage| {
        let error = stage.status()["configuration"]["error"].clone();
        error.as_str().map(str::to_owned)
    };
    wait_until("the new settings are refused", || refused(&stage).is_some());
    let reason = format!(
        "{}: in a directory that the sandbox of the running relay does not have; restart it",
        hidden.display()
    );
    let said = refused(&stage).expect("an error");
    assert!(said.contains(&reason), "{said}");

    let before = reloads(&stage);
    let beside = stage.relay.folder().join("renewed.crt");
    fs::copy(&original, &beside).expect("a copy");
    certificate(&stage, &beside);
    wait_until("the next settings are taken", || reloads(&stage) > before);
    assert_eq!(refused(&stage), None);
    assert_eq!(stage.relay.stop(), 0);

    certificate(&stage, &hidden);
    stage.relay.start();
    assert_eq!(stage.status()["sandbox"]["state"], "enforced");
}

#[test]
fn a_puller_needs_a_restart_for_a_new_port() {
    let (first, second) = (Inside::smtp(), Inside::smtp());
    let mut world = World::setup().target(&first.target()).start();
    world.puller.configure(|settings| {
        settings.set("relay.every", "1s");
    });
    world.puller.start();
    wait_until("it is confined", || {
        world.puller.log().contains("confined sandbox=enforced")
    });
    let port = second.target();
    let port = port.rsplit(':').next().expect("a port");
    world.puller.set_target(&second.target());
    let refused = format!(
        "port {port} is not open to the running puller, whose sandbox was made for its old settings; restart it"
    );
    wait_until("the new target is refused", || {
        world.puller.log().contains(&refused)
    });
    world.send(&[Message::new("ann@example.org", message::plain(1))]);
    wait_until("mail goes to the old one", || first.messages().len() == 1);
    // Nothing else stands in the way.
    world.puller.set_target(&first.target());
    let process = world.puller.id().expect("a running puller");
    let process = nix::unistd::Pid::from_raw(process.cast_signed());
    nix::sys::signal::kill(process, Signal::SIGHUP).expect("a signal");
    wait_until("it is reloaded", || {
        world.puller.log().contains("configuration reloaded")
    });
    let shown = world.puller.cli(&["status"]).expect_code(0).stdout;
    assert!(shown.contains("\nsandbox enforced, Landlock "), "{shown}");
    assert_eq!(world.puller.stop(), 0);
    world.puller.set_target(&second.target());
    world.send(&[Message::new("ann@example.org", message::plain(2))]);
    let _ = world.puller.pull().expect_code(0);
    assert_eq!(second.messages().len(), 1);
}
