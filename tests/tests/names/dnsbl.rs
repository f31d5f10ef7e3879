//! Lists of hosts that nobody wants mail from.

use std::time::Duration;

use atrn_tests::dns::{Answer, Dns};
use atrn_tests::world::Setup;

use super::{CLIENT, hello, hello_from, setup, timed};

const MAIL: &str = "MAIL FROM:<sender@source.example>";
const RCPT: &str = "RCPT TO:<user@example.org>";

/// A relay that asks two lists.
fn asking(dns: &Dns) -> Setup {
    setup(dns)
        .relay("smtp.dnsbl", vec!["zen.example", "other.example"])
        .relay("limits.exempt", Vec::<String>::new())
}

#[test]
fn who_is_listed_is_refused_at_rcpt() {
    let dns = Dns::start();
    dns.a("1.4.0.192.other.example", "127.0.0.4");
    dns.txt(
        "1.4.0.192.other.example",
        "see https://other.example/\r\n250 ok \u{1b}[2J",
    );
    dns.a("2.4.0.192.zen.example", "127.0.0.2");
    // No listings: another network, the error of a list, trouble.
    dns.a("3.4.0.192.zen.example", "192.0.2.1");
    dns.a("4.4.0.192.zen.example", "127.255.255.254");
    dns.answers("5.4.0.192.zen.example", Answer::ServFail);
    let world = asking(&dns).start();
    for (address, expected) in [
        (
            "192.0.4.1",
            "554 5.7.1 Your address 192.0.4.1 is listed by other.example: see https://other.example/??250 ok ?[2J",
        ),
        (
            "192.0.4.2",
            "554 5.7.1 Your address 192.0.4.2 is listed by zen.example",
        ),
        ("192.0.4.3", "250 2.1.5"),
        ("192.0.4.4", "250 2.1.5"),
        ("192.0.4.5", "250 2.1.5"),
        ("192.0.4.6", "250 2.1.5"),
    ] {
        let mut peer = hello_from(&world, address, CLIENT);
        peer.ask(MAIL, "250");
        let reply = peer.ask(RCPT, &expected[..3]);
        assert!(reply.starts_with(expected), "{reply}");
        if expected.starts_with("554") {
            assert_eq!(reply, expected);
            // Whom else could it ask why?
            peer.ask("RCPT TO:<postmaster@example.org>", "250");
            peer.ask("RCPT TO:<Postmaster>", "250");
            peer.ask(RCPT, "554");
        }
    }
}

#[test]
fn friends_and_relays_without_lists_ask_nobody() {
    let dns = Dns::start();
    dns.a("1.2.0.192.zen.example", "127.0.0.2");
    let exempt = vec!["192.0.2.0/24"];
    let world = asking(&dns).relay("limits.exempt", exempt).start();
    let mut peer = hello(&world, CLIENT);
    peer.ask(MAIL, "250");
    peer.ask(RCPT, "250");
    let unlisted = setup(&dns)
        .relay("limits.exempt", Vec::<String>::new())
        .start();
    let mut peer = hello(&unlisted, CLIENT);
    peer.ask(MAIL, "250");
    peer.ask(RCPT, "250");
    assert_eq!(dns.asked("1.2.0.192.zen.example"), 0);
}

#[test]
fn a_list_that_says_nothing_lists_nobody() {
    let dns = Dns::start();
    dns.answers("1.2.0.192.zen.example", Answer::Silence);
    let world = asking(&dns).start();
    let mut peer = hello(&world, CLIENT);
    peer.ask(MAIL, "250");
    let (_, first) = timed(|| peer.ask(RCPT, "250"));
    // It is waited for once.
    let (_, second) = timed(|| peer.ask("RCPT TO:<other@example.org>", "250"));
    assert!(
        first + second < Duration::from_secs(10),
        "{first:?} and {second:?}"
    );
}
