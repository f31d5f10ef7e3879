//! Settings that change under a session that waits, on both sides.

use atrn_tests::message::{self, Message};
use atrn_tests::process::wait_until;
use atrn_tests::tap::End;
use atrn_tests::world::{ACCOUNT, Settings, Setup};

use super::Stage;

fn both() -> [(&'static str, Stage); 2] {
    [("waiting", Stage::waiting()), ("idle", Stage::idle())]
}

// covers: R2645-9, R2645-17
#[test]
fn a_disabled_account_ends_the_session_and_gets_nothing_until_it_is_enabled() {
    for (what, mut stage) in both() {
        let relay = |word: &str, stage: &Stage| {
            let _ = stage
                .world
                .relay
                .cli(&["account", word, ACCOUNT])
                .expect_code(0);
        };
        relay("disable", &stage);
        stage
            .tap
            .wait_until("the session ends", |heard| match what {
                "waiting" => heard.count(End::Relay, "450 4.7.1") == 1,
                _ => heard.count(End::Relay, "QUIT") == 1,
            });
        stage.send();
        stage.tap.wait_until("it is refused", |heard| {
            heard.count(End::Relay, "450 4.7.1") > 0
        });
        stage
            .world
            .relay
            .wait_for_queue(&["user@example.org queued 0"]);
        relay("enable", &stage);
        // Its puller comes back by itself, later; new settings make it come now.
        stage.world.puller.configure(|_| ());
        stage.all_is_inside();
    }
}

// covers: R2645-9, R2645-17
#[test]
fn a_domain_that_is_taken_away_ends_the_session_and_comes_back_with_its_mail() {
    let two = |setup: Setup| setup.domain("example.org").domain("two.example");
    for (is_idle, mut stage) in [
        (false, Stage::waiting_with(two)),
        (true, Stage::idle_with(two)),
    ] {
        let grant = |domains: &[&str], stage: &Stage| {
            let file = stage.world.relay.folder().join("conf.d/account-corp.toml");
            let domains: Vec<String> = domains.iter().map(|&domain| domain.to_owned()).collect();
            Settings::edit(&file, |settings| {
                settings.set("account.domains", domains);
            });
        };
        grant(&["two.example"], &stage);
        stage
            .tap
            .wait_until("the session ends", |heard| match is_idle {
                false => heard.count(End::Relay, "450 4.7.1") == 1,
                true => heard.count(End::Relay, "QUIT") == 1,
            });
        stage.send();
        grant(&["example.org", "two.example"], &stage);
        stage.world.puller.configure(|_| ());
        stage.all_is_inside();
    }
}

/// What does not concern a session does not end it.
#[test]
fn other_changes_at_the_relay_are_not_felt() {
    for (_, mut stage) in both() {
        let reloads = |stage: &Stage| {
            let status = stage.world.relay.status();
            status["configuration"]["reloads"]
                .as_u64()
                .expect("a number")
        };
        let before = reloads(&stage);
        let added = stage.world.relay.cli(&["domain", "add", "other.example"]);
        let _ = added.expect_code(0);
        wait_until("the settings are read", || reloads(&stage) > before);
        stage.mail_arrives();
        let heard = stage.tap.heard();
        assert_eq!((heard.connections, heard.open(), stage.atrns()), (1, 1, 1));
    }
}

/// A session that stays for days goes by what it is told meanwhile.
#[test]
fn new_settings_of_the_puller_count_soon() {
    for (what, mut stage) in both() {
        let sent = stage.sent;
        let other = stage.inside.beside();
        stage.world.puller.set_target(&other.target());
        wait_until("the settings are read", || {
            stage.world.puller.log().contains("configuration reloaded")
        });
        stage.tap.wait_until("it asks again", |heard| {
            heard.count(End::Puller, "ATRN") == 2
        });
        stage.send();
        let arrived = other.wait_for_messages(1);
        assert_eq!(arrived.len(), 1, "{what}");
        assert_eq!(stage.inside.messages().len(), sent);
        // And a puller that is to poll does not stay.
        stage.world.puller.configure(|settings| {
            settings.set("relay.mode", "poll");
        });
        stage.tap.wait_until("it goes", |heard| heard.open() == 0);
        stage
            .world
            .send(&[Message::new("user@example.org", message::plain(9))]);
        stage.world.puller.configure(|settings| {
            settings.set("relay.mode", "instant");
        });
        other.wait_for_messages(2);
    }
}
