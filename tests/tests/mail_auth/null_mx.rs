//! Domains that take no mail (RFC 7505).

use std::collections::BTreeSet;

use atrn_tests::dns::{Answer, Dns};

use super::{session, setup};

// covers: R7505-1
#[test]
fn a_sender_whom_nobody_could_answer_is_refused_and_trouble_is_no_reason() {
    let dns = Dns::start();
    dns.mx("null.example", 0, ".");
    dns.mx("plain.example", 10, "mx.plain.example");
    dns.mx("both.example", 0, ".");
    dns.mx("both.example", 10, "mx.both.example");
    dns.answers("trouble.example", Answer::ServFail);
    let world = setup(&dns).start();
    let mut peer = session(&world);
    for (sender, expected) in [
        ("a@null.example", "550 5.7.27 "),
        ("a@plain.example", "250 "),
        ("a@both.example", "250 "),
        ("a@unknown.example", "250 "),
        ("a@trouble.example", "250 "),
        ("", "250 "),
    ] {
        peer.ask(&format!("MAIL FROM:<{sender}>"), "250");
        peer.ask("RCPT TO:<user@example.org>", expected);
        peer.ask("RCPT TO:<other@example.org>", expected);
        peer.ask("RCPT TO:<user@elsewhere.example>", "550 5.7.1 ");
        peer.ask("RSET", "250");
    }
}

#[test]
fn a_sender_without_a_recipient_costs_no_look_up() {
    let dns = Dns::start();
    dns.mx("plain.example", 10, "mx.plain.example");
    let world = setup(&dns).start();
    let mut peer = session(&world);
    peer.ask("MAIL FROM:<a@relayed.example>", "250");
    peer.ask("RCPT TO:<user@elsewhere.example>", "550 5.7.1 ");
    peer.ask("RSET", "250");
    for number in 0..100 {
        peer.ask(&format!("MAIL FROM:<a@host{number}.example>"), "250");
        peer.ask("RSET", "250");
    }
    peer.ask("MAIL FROM:<a@plain.example>", "250");
    peer.ask("RCPT TO:<user@example.org>", "250");
    let asked = dns.queries().into_iter().map(|query| query.name);
    let asked: BTreeSet<_> = asked.filter(|name| name.ends_with(".example")).collect();
    assert_eq!(asked, ["plain.example".to_owned()].into());
}

#[test]
fn a_domain_that_wants_no_look_ups_takes_it() {
    let dns = Dns::start();
    dns.mx("null.example", 0, ".");
    let world = setup(&dns).relay("domain.authentication", "off").start();
    let mut peer = session(&world);
    peer.ask("MAIL FROM:<a@null.example>", "250");
    peer.ask("RCPT TO:<user@example.org>", "250");
    assert_eq!(dns.asked("null.example"), 0);
}
