//! Where the sender's domain is taken at its word.

use atrn_tests::dns::{Answer, Dns};
use atrn_tests::peer::Peer;
use atrn_tests::world::World;

use super::signing::{Key, key_name, message};
use super::{offer, session, setup, verdicts};

/// Nobody is exempt.
fn enforcing(dns: &Dns) -> World {
    let nobody: Vec<String> = Vec::new();
    let setup = setup(dns).relay("limits.exempt", nobody);
    setup.relay("domain.authentication", "enforce").start()
}

#[track_caller]
fn assert_reply(peer: &mut Peer, sender: &str, content: &str, expected: &str) {
    let reply = offer(peer, sender, content);
    assert!(reply.starts_with(expected), "{sender}: {reply}\n{content}");
}

fn known(dns: &Dns, key: &Key) {
    dns.txt("spf.example", "v=spf1 ip4:127.0.0.1 -all");
    dns.txt("foreign.example", "v=spf1 -all");
    dns.txt("soft.example", "v=spf1 ~all");
    dns.answers("trouble.example", Answer::ServFail);
    for (policy, name) in [
        ("none", "_dmarc.none.example"),
        ("quarantine", "_dmarc.quarantine.example"),
        ("reject", "_dmarc.reject.example"),
    ] {
        dns.txt(name, &format!("v=DMARC1; p={policy}"));
    }
    key.publish(dns, "reject.example");
    key.publish(dns, "foreign.example");
    dns.txt("_dmarc.shaky.example", "v=DMARC1; p=reject");
    dns.answers(&key_name("shaky.example"), Answer::ServFail);
    dns.answers("_dmarc.silent.example", Answer::ServFail);
}

#[test]
fn what_the_domain_disowns_is_refused_and_trouble_of_dns_never_is() {
    let dns = Dns::start();
    let key = Key::new();
    known(&dns, &key);
    let world = enforcing(&dns);
    let mut peer = session(&world);
    let by = |author: &str| message(&format!("alice@{author}"));
    for (sender, content, expected) in [
        // The author's policy.
        ("a@spf.example", by("reject.example"), "550 5.7.1 "),
        ("a@spf.example", by("sub.reject.example"), "550 5.7.1 "),
        ("a@spf.example", by("quarantine.example"), "250 "),
        ("a@foreign.example", by("none.example"), "250 "),
        (
            "a@foreign.example",
            key.sign("reject.example", &by("reject.example")),
            "250 ",
        ),
        (
            "a@spf.example",
            key.sign("reject.example", &by("reject.example"))
                .replace("Hello", "Hell"),
            "550 5.7.1 ",
        ),
        // No policy: that of the sender.
        ("a@spf.example", by("free.example"), "250 "),
        ("a@foreign.example", by("free.example"), "550 5.7.23 "),
        (
            "a@foreign.example",
            key.sign("foreign.example", &by("foreign.example")),
            "250 ",
        ),
        ("a@soft.example", by("free.example"), "250 "),
        ("a@unknown.example", by("free.example"), "250 "),
        ("", by("free.example"), "250 "),
        // Nobody can say.
        ("a@trouble.example", by("free.example"), "451 4.7.24 "),
        ("a@spf.example", by("silent.example"), "451 4.7.0 "),
        (
            "a@spf.example",
            key.sign("shaky.example", &by("shaky.example")),
            "451 4.7.0 ",
        ),
        (
            "a@spf.example",
            by("reject.example").replace("From: ", "From: b@free.example, "),
            "550 5.7.1 ",
        ),
    ] {
        assert_reply(&mut peer, sender, &content, expected);
    }
    // What is refused is not held.
    let held = world.queue_list();
    let disowned = held
        .iter()
        .filter(|item| item["sender"] == "a@trouble.example");
    assert_eq!(disowned.count(), 0);
    assert_eq!(held.len(), 8);
}

/// The first answer of a name server in trouble is no verdict for ever.
#[test]
fn what_was_put_off_is_taken_when_dns_answers_again() {
    let dns = Dns::start();
    dns.ttl(1);
    dns.answers_all(Answer::ServFail);
    let nobody: Vec<String> = Vec::new();
    let world = setup(&dns)
        .relay("limits.exempt", nobody)
        .relay("limits.max_commands", 1_000_000)
        .relay("domain.authentication", "enforce")
        .start();
    let mut peer = session(&world);
    let content = message("alice@author.example");
    assert_reply(&mut peer, "a@sender.example", &content, "451 4.7.24 ");
    dns.answers_all(Answer::Records);
    dns.txt("sender.example", "v=spf1 ip4:127.0.0.1 -all");
    atrn_tests::process::wait_until("it is taken", || {
        offer(&mut peer, "a@sender.example", &content).starts_with("250 ")
    });
}

/// There is one reply to a message, so that one domain's wish is never another's.
#[test]
fn a_domain_that_refuses_shares_no_message_with_one_that_does_not() {
    let dns = Dns::start();
    dns.txt("foreign.example", "v=spf1 -all");
    let nobody: Vec<String> = Vec::new();
    let world = setup(&dns)
        .relay("limits.exempt", nobody)
        .domain("example.org")
        .domain("strict.example")
        .start();
    world
        .relay
        .configure_domain("strict.example", "authentication", "enforce");
    atrn_tests::process::wait_until("the new settings hold", || {
        let mut peer = session(&world);
        peer.ask("MAIL FROM:<a@foreign.example>", "250");
        peer.ask("RCPT TO:<user@example.org>", "250");
        peer.send("RCPT TO:<user@strict.example>");
        peer.reply().join(" ").starts_with("452 4.5.3 ")
    });
    let mut peer = session(&world);
    peer.ask("MAIL FROM:<a@foreign.example>", "250");
    peer.ask("RCPT TO:<user@strict.example>", "250");
    peer.ask("RCPT TO:<user@example.org>", "452 4.5.3 ");
    peer.ask("RCPT TO:<other@strict.example>", "250");
    peer.ask("DATA", "354");
    peer.ask(&format!("{}.", message("a@foreign.example")), "550 5.7.23 ");
    peer.ask("MAIL FROM:<a@foreign.example>", "250");
    peer.ask("RCPT TO:<user@example.org>", "250");
    peer.ask("DATA", "354");
    peer.ask(&format!("{}.", message("a@foreign.example")), "250 ");
}

/// Who is trusted to pass mail on has not the sender's address.
#[test]
fn of_exempt_networks_nothing_is_refused() {
    let dns = Dns::start();
    dns.txt("foreign.example", "v=spf1 -all");
    let world = setup(&dns)
        .relay("domain.authentication", "enforce")
        .start();
    let content = message("a@foreign.example");
    let held = super::accepted(&world, "a@foreign.example", &content);
    let found = verdicts(&held).expect("verdicts on top");
    assert_eq!(found[0], "spf=fail smtp.mailfrom=foreign.example");
}
