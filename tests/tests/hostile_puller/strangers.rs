//! Before ATRN is granted: people without an account, and an account that asks for what is not its own.

use std::net::{IpAddr, Ipv4Addr};

use atrn_tests::peer::{Peer, plain};
use atrn_tests::process::wait_until;
use atrn_tests::world::{ACCOUNT, PULLER_NAME, Tls};

use super::{
    EVIL, EVIL_DOMAIN, GOOD_DOMAIN, assert_leases_are_free, assert_nothing_is_lost,
    assert_others_go_on, drained, logged_in, send_evil, two_accounts,
};

/// Somebody else's domain, one that is hosted nowhere, one's own with another: the same words, and mail that waits
/// changes none of them.
// covers: R2645-9
#[test]
fn nobody_learns_of_foreign_domains() {
    let world = two_accounts().start();
    let mut asked = Vec::new();
    for round in 0..2 {
        for wanted in [
            GOOD_DOMAIN.to_owned(),
            "nowhere.example".to_owned(),
            format!("{EVIL_DOMAIN},{GOOD_DOMAIN}"),
            format!("{EVIL_DOMAIN},nowhere.example"),
            format!("{GOOD_DOMAIN} XWAIT=60"),
        ] {
            let mut peer = logged_in(&world, EVIL);
            asked.push(peer.ask(&format!("ATRN {wanted}"), "450 "));
        }
        if round == 0 {
            world.send(&[atrn_tests::message::Message::new(
                &format!("user@{GOOD_DOMAIN}"),
                atrn_tests::message::plain(1),
            )]);
        }
    }
    asked.dedup();
    assert_eq!(asked, ["450 4.7.1 ATRN request refused"]);
    // Who goes on asking is sent away.
    let mut peer = logged_in(&world, EVIL);
    let mut refused = 0;
    loop {
        let reply = peer.ask(&format!("ATRN {GOOD_DOMAIN}"), "4");
        refused += 1;
        assert!(reply.starts_with("450 "), "{reply}");
        if refused > 20 {
            break;
        }
    }
    peer.expect("421 4.7.0 Too many errors");
    peer.expect_close();
    assert_eq!(world.relay.queue_list(&["--domain", GOOD_DOMAIN]).len(), 1);
    assert_leases_are_free(&world);
}

// covers: R2645-12
#[test]
fn ten_thousand_atrns_end_soon() {
    let world = two_accounts().start();
    let mut peer = logged_in(&world, EVIL);
    let mut answered = 0;
    while answered < 10_000 {
        let reply = peer.ask("ATRN", "4");
        answered += 1;
        if reply.starts_with("421 ") {
            break;
        }
        assert!(reply.starts_with("453 "), "{reply}");
    }
    peer.expect_close();
    assert!(answered <= 1_000, "{answered}");
    assert_others_go_on(&world);
    let contents = send_evil(&world, 2);
    assert_nothing_is_lost(&world, &contents);
}

/// The relay never turns where somebody spoke before its answer.
// covers: R2645-13, R2920-3
#[test]
fn octets_behind_atrn_turn_nothing() {
    let world = two_accounts().start();
    let contents = send_evil(&world, 2);
    for behind in [
        "220 puller.example ESMTP\r\n",
        "ATRN\r\n",
        "QUIT\r\n",
        "x",
        "\0\0\0\0",
    ] {
        for command in ["ATRN", "ATRN XWAIT=30", "ATRN example.org"] {
            let mut peer = logged_in(&world, EVIL);
            peer.send_octets(format!("{command}\r\n{behind}").as_bytes());
            let reply = peer.expect("");
            assert!(
                reply.starts_with("554 5.5.1") || reply.starts_with("450 "),
                "{command} {behind:?}: {reply}"
            );
        }
    }
    assert_others_go_on(&world);
    assert_nothing_is_lost(&world, &contents);
}

/// Lines without an end, before and after AUTH, and within it.
// covers: R4954-1
#[test]
fn lines_without_end_end_the_connection() {
    let world = two_accounts().start();
    let flood = vec![b'x'; 4 << 20];
    for prefix in ["", "EHLO ", "AUTH PLAIN ", "ATRN "] {
        for account in [None, Some(EVIL)] {
            let mut peer = match account {
                None => world.relay.odmr(),
                Some(account) => logged_in(&world, account),
            };
            peer.send_octets(prefix.as_bytes());
            // The relay may have gone in the middle of it.
            let _ = peer.try_send_octets(&flood);
            assert!(drained(peer) <= 1, "{prefix}");
        }
    }
    let mut peer = world.relay.odmr();
    peer.ehlo(PULLER_NAME);
    peer.ask("AUTH PLAIN", "334 ");
    let _ = peer.try_send_octets(&flood);
    assert!(drained(peer) <= 1);
    assert_others_go_on(&world);
}

#[test]
fn idle_commands_are_no_reason_to_stay() {
    let world = two_accounts().start();
    for command in ["NOOP", "RSET", "HELP", "EHLO a.example", "FOO"] {
        let mut peer = logged_in(&world, EVIL);
        let all = format!("{command}\r\n").repeat(2_000);
        let _ = peer.try_send_octets(all.as_bytes());
        let lines = drained(peer);
        assert!(lines <= 20_000, "{command}: {lines}");
    }
    assert_others_go_on(&world);
}

/// Many addresses fail and fail, a few connections each, while the puller logs in again and again by PLAIN, which costs.
// covers: R4954-1, R4954-2
#[test]
fn a_flood_of_logins_does_not_keep_the_puller_out() {
    let world = two_accounts()
        .relay("limits.exempt", toml::Value::Array(Vec::new()))
        .relay("limits.connection_rate", 0)
        .relay("limits.auth_failures", 0)
        .relay("limits.account_failures", 10)
        .relay("limits.auth_delay", "1s")
        .start();
    assert_others_go_on(&world);
    let address = world.relay.odmr_address();
    let done = std::sync::atomic::AtomicBool::new(false);
    let done = &done;
    let tried = std::sync::atomic::AtomicUsize::new(0);
    let tried = &tried;
    std::thread::scope(|scope| {
        for number in 1..=24_u8 {
            scope.spawn(move || {
                let from: IpAddr = Ipv4Addr::new(127, 2, number, 1).into();
                let mut round = 0;
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    round += 1;
                    let name = if round % 2 == 0 { ACCOUNT } else { "nobody" };
                    // Any step may be cut short by a limit.
                    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        let mut peer = Peer::connect_from(from, address);
                        peer.start_tls_client(&atrn_tests::certs::trusting_client());
                        peer.expect("220 ");
                        peer.ehlo(PULLER_NAME);
                        peer.send(&format!("AUTH PLAIN {}", plain(name, "wrong")));
                        let reply = peer.line();
                        assert!(reply.starts_with("535 ") || reply.starts_with("454 "));
                    }));
                    tried.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
            });
        }
        wait_until("the flood has begun", || {
            tried.load(std::sync::atomic::Ordering::Relaxed) >= 24
        });
        for _ in 0..3 {
            assert_others_go_on(&world);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_leases_are_free(&world);
}

/// In clear, and in the middle of a handshake: who says nothing sensible has a place for a minute at most, and takes
/// nobody else's.
#[test]
fn half_a_handshake_holds_up_nobody() {
    for tls in [Tls::Implicit, Tls::StartTls] {
        let world = two_accounts().tls(tls).start();
        let mut held = Vec::new();
        for number in 0..30 {
            let mut peer = Peer::connect(world.relay.odmr_address());
            if tls == Tls::StartTls {
                peer.expect("220 ");
                peer.ehlo(PULLER_NAME);
                peer.ask("STARTTLS", "220 ");
            }
            // The head of a record of handshake, and not its rest; or something else.
            let octets: &[u8] = match number % 3 {
                0 => b"\x16\x03\x01\x02\x00\x01",
                1 => b"",
                _ => b"\x16",
            };
            peer.send_octets(octets);
            held.push(peer);
        }
        let mut peer = world.relay.odmr();
        if tls == Tls::StartTls {
            peer.ehlo(PULLER_NAME);
            peer.ask("STARTTLS", "220 ");
            peer.start_tls_client(&atrn_tests::certs::trusting_client());
        }
        peer.ehlo(PULLER_NAME);
        peer.auth_plain(ACCOUNT, world.relay.secret(ACCOUNT));
        peer.ask("ATRN", "453 ");
        drop(held);
    }
}
