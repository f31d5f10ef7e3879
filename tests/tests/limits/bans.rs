//! Who does too much wrong is not let in for a while.

use atrn_tests::peer::Peer;
use atrn_tests::process::wait_until;
use atrn_tests::world::World;

use super::{from, greeted, limits, world};

const BANNED: &str =
    "421 4.7.0 relay.example.net had too much trouble with your address, try again later";
const ENDS: &str = "421 4.7.0 Too much trouble with your address, try again later";

/// So many recipients that are none of ours, of which the last is one too many.
#[track_caller]
fn relay_until_banned(world: &World, address: &str, attempts: usize) {
    let mut peer = greeted(world, address);
    peer.ehlo("client.source.example");
    peer.ask("MAIL FROM:<sender@source.example>", "250");
    for _ in 0..attempts {
        peer.ask("RCPT TO:<victim@elsewhere.example>", "550 5.7.1");
    }
    peer.expect(ENDS);
    peer.expect_close();
}

// covers: R5321-22
#[test]
fn who_tries_to_relay_too_often_is_banned_until_it_is_lifted() {
    let world = world().relay("limits.relay_attempts", 4).start();
    relay_until_banned(&world, "203.0.113.1", 5);
    let mut peer = from(&world, "203.0.113.1");
    peer.expect(BANNED);
    peer.expect_close();
    relay_until_banned(&world, "2001:db8::1", 5);
    from(&world, "2001:db8::2").expect(BANNED);
    drop(greeted(&world, "203.0.113.2"));

    let listed = world.relay.cli(&["ban", "list", "--json"]).expect_code(0);
    let listed = listed.json();
    assert_eq!(listed[0]["origin"], "203.0.113.1", "{listed}");
    assert_eq!(listed[0]["reason"], "relaying");
    assert_eq!(listed[1]["origin"], "2001:db8::/64");
    let shown = world.relay.cli(&["ban", "list"]).expect_code(0).stdout;
    assert!(
        shown.contains("203.0.113.1") && shown.contains("relaying"),
        "{shown}"
    );
    let limits = limits(&world);
    assert_eq!(limits["bans"], 2, "{limits}");
    assert_eq!(limits["denied"]["banned"], 2, "{limits}");
    assert_eq!(limits["offences"]["relaying"], 10, "{limits}");

    let lifted = world.relay.cli(&["ban", "lift", "203.0.113.1"]);
    assert_eq!(lifted.expect_code(0).stdout.trim(), "Lifted 1 ban.");
    drop(greeted(&world, "203.0.113.1"));
    from(&world, "2001:db8::2").expect(BANNED);
    let unknown = world.relay.cli(&["ban", "lift", "203.0.113.1"]);
    assert_eq!(unknown.code, 1);
    assert!(
        unknown.stderr.contains("203.0.113.1 is not banned"),
        "{}",
        unknown.stderr
    );
    let lifted = world.relay.cli(&["ban", "lift", "--all", "--json"]);
    assert_eq!(lifted.expect_code(0).json(), 1);
    let shown = world.relay.cli(&["ban", "list"]).expect_code(0).stdout;
    assert_eq!(shown.trim(), "Nobody is banned.");
    drop(greeted(&world, "2001:db8::2"));
}

#[test]
fn a_ban_ends_by_itself() {
    let world = world()
        .relay("limits.relay_attempts", 2)
        .relay("limits.ban_time", "1s")
        .start();
    relay_until_banned(&world, "203.0.113.1", 3);
    assert_eq!(limits(&world)["bans_begun"], 1);
    wait_until("the ban is over", || {
        from(&world, "203.0.113.1").line().starts_with("220 ")
    });
}

/// Whoever points the MX of a domain here can make a large provider ask for its recipients, and no more than that.
#[test]
fn who_delivers_mail_is_refused_and_not_banned() {
    let world = world()
        .relay("limits.relay_attempts", 2)
        .relay("limits.protocol_errors", 2)
        .start();
    let mut peer = greeted(&world, "203.0.113.1");
    super::content(&mut peer);
    let mut other = greeted(&world, "203.0.113.1");
    other.ehlo("client.source.example");
    other.ask("MAIL FROM:<sender@source.example>", "250");
    other.ask("RCPT TO:<user@example.org>", "250");
    for _ in 0..4 {
        other.ask("RCPT TO:<victim@elsewhere.example>", "550 5.7.1");
    }
    // What was on its way when the ban came still comes, and ends it.
    from(&world, "203.0.113.1").expect(BANNED);
    peer.ask(".", "250 2.0.0");
    let mut again = greeted(&world, "203.0.113.1");
    again.ehlo("client.source.example");
    again.ask("MAIL FROM:<sender@source.example>", "250");
    for _ in 0..5 {
        again.ask("RCPT TO:<victim@elsewhere.example>", "550 5.7.1");
        again.ask("XYZZY", "500");
    }
    drop(greeted(&world, "203.0.113.1"));
    let now = limits(&world);
    assert_eq!(
        (&now["bans"], &now["bans_begun"]),
        (&0.into(), &1.into()),
        "{now}"
    );
}

#[test]
fn what_is_no_smtp_adds_up() {
    let world = world()
        .relay("limits.protocol_errors", 3)
        .relay("smtp.max_errors", 1000)
        .start();
    let mut peer = greeted(&world, "203.0.113.1");
    peer.ask("EHLO", "501");
    peer.ask("XYZZY", "500");
    peer.ask("RCPT TO:<user@example.org>", "503");
    peer.send("AUTH PLAIN");
    peer.expect("50");
    peer.expect(ENDS);
    peer.expect_close();
    from(&world, "203.0.113.1").expect(BANNED);
    // Each connection with another protocol is one.
    for _ in 0..4 {
        let mut peer = greeted(&world, "203.0.113.2");
        peer.send("GET / HTTP/1.1");
        peer.expect_close();
    }
    from(&world, "203.0.113.2").expect(BANNED);
    let offences = &limits(&world)["offences"];
    assert_eq!(offences["protocol"], 8, "{offences}");
}

#[test]
fn a_network_that_is_exempt_is_never_banned() {
    let world = world()
        .relay("limits.relay_attempts", 1)
        .relay("limits.protocol_errors", 1)
        .relay("limits.exempt", vec!["203.0.113.0/24"])
        .start();
    let mut peer = greeted(&world, "203.0.113.1");
    peer.ehlo("client.source.example");
    peer.ask("MAIL FROM:<sender@source.example>", "250");
    for _ in 0..5 {
        peer.ask("RCPT TO:<victim@elsewhere.example>", "550");
        peer.ask("XYZZY", "500");
    }
    drop(greeted(&world, "203.0.113.1"));
}

/// Both sides know of it: pullers have a listener of their own.
#[test]
fn who_guesses_secrets_is_banned_from_both_sides() {
    let world = World::setup()
        .relay("limits.exempt", Vec::<&str>::new())
        .relay("limits.auth_failures", 2)
        .relay("limits.auth_delay", "0s")
        .start();
    let source = "127.0.0.9".parse().expect("an address");
    let connect = |address| Peer::connect_from(source, address);
    let certificates = atrn_tests::certs::trusting_client();
    wait_until("it is banned", || {
        let mut peer = connect(world.relay.odmr_address());
        if peer.try_start_tls_client(&certificates).is_err() {
            return true;
        }
        peer.expect("220 ");
        peer.ehlo("puller.example");
        peer.send(&format!(
            "AUTH PLAIN {}",
            atrn_tests::peer::plain("corp", "wrong")
        ));
        peer.try_line();
        false
    });
    connect(world.relay.smtp_address()).expect(BANNED);
    assert_eq!(limits(&world)["bans_begun"], 1);
    world.relay.smtp().ask("NOOP", "250");
}
