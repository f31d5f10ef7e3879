//! What is said at the top of a message.

use atrn_tests::dns::{Answer, Dns};
use atrn_tests::world::World;

use super::signing::{Key, key_name, message, sign_by_rsa};
use super::{accepted, accepted_by, session, setup, verdicts};

const OURS: &str = "v=spf1 ip4:127.0.0.1 -all";
const OTHERS: &str = "v=spf1 ip4:192.0.2.1 -all";

#[track_caller]
fn found(world: &World, sender: &str, content: &str) -> Vec<String> {
    verdicts(&accepted(world, sender, content)).expect("verdicts on top")
}

/// Each verdict of SPF, and what it is about.
// covers: R8601-1
#[test]
fn spf_says_whether_the_host_may_send_for_the_domain() {
    let dns = Dns::start();
    dns.txt("pass.example", OURS);
    dns.txt("fail.example", OTHERS);
    dns.txt("soft.example", "v=spf1 ~all");
    dns.txt("neutral.example", "v=spf1 ?all");
    dns.txt("broken.example", "v=spf1 ip4:nonsense -all");
    dns.txt("far.example", "v=spf1 include:pass.example -all");
    dns.answers("trouble.example", Answer::ServFail);
    dns.txt("client.source.example", OURS);
    let world = setup(&dns).start();
    let mut peer = session(&world);
    for (sender, expected) in [
        ("a@pass.example", "spf=pass smtp.mailfrom=pass.example"),
        ("a@fail.example", "spf=fail smtp.mailfrom=fail.example"),
        ("a@soft.example", "spf=softfail smtp.mailfrom=soft.example"),
        (
            "a@neutral.example",
            "spf=neutral smtp.mailfrom=neutral.example",
        ),
        (
            "a@broken.example",
            "spf=permerror smtp.mailfrom=broken.example",
        ),
        ("a@far.example", "spf=pass smtp.mailfrom=far.example"),
        ("a@none.example", "spf=none smtp.mailfrom=none.example"),
        (
            "a@trouble.example",
            "spf=temperror smtp.mailfrom=trouble.example",
        ),
        ("", "spf=pass smtp.helo=client.source.example"),
    ] {
        let content = message("alice@nowhere.example");
        let held = accepted_by(&world, &mut peer, sender, &content);
        let found = verdicts(&held).expect("verdicts on top");
        let expected = [
            expected,
            "dkim=none",
            "dmarc=none header.from=nowhere.example",
        ];
        assert_eq!(found, expected, "{sender}");
        assert!(held.ends_with(&content), "{held}");
    }
}

// covers: R8601-1
#[test]
fn dkim_says_who_signed() {
    let dns = Dns::start();
    let key = Key::new();
    key.publish(&dns, "signer.example");
    Key::new().publish(&dns, "other.example");
    dns.answers(&key_name("trouble.example"), Answer::ServFail);
    let world = setup(&dns).start();
    let plain = message("alice@author.example");
    let signed = |domain: &str| key.sign(domain, &plain);
    let of = |result: &str, domain: &str| format!("dkim={result} header.d={domain} header.s=s1");
    for (content, expected) in [
        (plain.clone(), vec!["dkim=none".to_owned()]),
        (signed("signer.example"), vec![of("pass", "signer.example")]),
        (
            sign_by_rsa(&dns, "rsa.example", &plain),
            vec![of("pass", "rsa.example")],
        ),
        (
            key.sign("signer.example", &sign_by_rsa(&dns, "both.example", &plain)),
            vec![of("pass", "signer.example"), of("pass", "both.example")],
        ),
        (
            signed("signer.example").replace("Hello", "Hell"),
            vec![of(
                "neutral reason=\"the body is not what was signed\"",
                "signer.example",
            )],
        ),
        (
            signed("signer.example").replace("Subject: x", "Subject: y"),
            vec![of(
                "fail reason=\"the signature is not that of the key\"",
                "signer.example",
            )],
        ),
        (
            signed("other.example"),
            vec![of(
                "fail reason=\"the signature is not that of the key\"",
                "other.example",
            )],
        ),
        (
            signed("nokey.example"),
            vec![of("permerror reason=\"there is no key\"", "nokey.example")],
        ),
        (
            signed("trouble.example"),
            vec![of(
                "temperror reason=\"DNS did not answer\"",
                "trouble.example",
            )],
        ),
    ] {
        let found = found(&world, "a@sender.example", &content);
        assert_eq!(found[1..found.len() - 1], expected, "{content}");
    }
}

// covers: R8601-1
#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn dmarc_says_whether_the_author_stands_behind_it() {
    let dns = Dns::start();
    let key = Key::new();
    for domain in [
        "signed.example",
        "mail.signed.example",
        "strict.example",
        "mail.strict.example",
        "other.example",
    ] {
        key.publish(&dns, domain);
    }
    dns.txt("_dmarc.signed.example", "v=DMARC1; p=reject");
    dns.txt(
        "_dmarc.strict.example",
        "v=DMARC1; p=quarantine; adkim=s; aspf=s",
    );
    dns.txt("sent.example", OURS);
    dns.txt("_dmarc.sent.example", "v=DMARC1; p=none");
    dns.txt("trouble.example", OURS);
    dns.answers("_dmarc.trouble.example", Answer::ServFail);
    let world = setup(&dns).start();
    for (author, signer, sender, expected) in [
        (
            "signed.example",
            "signed.example",
            "other.example",
            "pass header.from=signed.example policy.dmarc=reject",
        ),
        (
            "signed.example",
            "mail.signed.example",
            "other.example",
            "pass header.from=signed.example policy.dmarc=reject",
        ),
        (
            "news.signed.example",
            "signed.example",
            "other.example",
            "pass header.from=news.signed.example policy.dmarc=reject",
        ),
        (
            "signed.example",
            "other.example",
            "other.example",
            "fail header.from=signed.example policy.dmarc=reject",
        ),
        (
            "strict.example",
            "mail.strict.example",
            "other.example",
            "fail header.from=strict.example policy.dmarc=quarantine",
        ),
        (
            "strict.example",
            "strict.example",
            "other.example",
            "pass header.from=strict.example policy.dmarc=quarantine",
        ),
        (
            "sent.example",
            "other.example",
            "sent.example",
            "pass header.from=sent.example policy.dmarc=none",
        ),
        (
            "sent.example",
            "other.example",
            "mail.sent.example",
            "fail header.from=sent.example policy.dmarc=none",
        ),
        (
            "unknown.example",
            "unknown.example",
            "sent.example",
            "none header.from=unknown.example",
        ),
        (
            "trouble.example",
            "other.example",
            "trouble.example",
            "temperror reason=\"DNS did not answer\" header.from=trouble.example",
        ),
    ] {
        let content = key.sign(signer, &message(&format!("alice@{author}")));
        let found = found(&world, &format!("a@{sender}"), &content);
        assert_eq!(
            found.last(),
            Some(&format!("dmarc={expected}")),
            "{author} {signer} {sender}"
        );
    }
    let two = message("alice@signed.example").replace("From: ", "From: bob@other.example, ");
    let found = found(&world, "a@other.example", &two);
    assert_eq!(
        found.last().map(String::as_str),
        Some("dmarc=permerror reason=\"there are several authors\"")
    );
}

#[test]
fn arc_says_whether_the_chain_holds() {
    let dns = Dns::start();
    let key = Key::new();
    key.publish(&dns, "list.example");
    let world = setup(&dns).start();
    let sealed = key.seal("list.example", &message("alice@author.example"));
    let changed = sealed.replace("Hello", "Hell");
    for (content, expected) in [
        (&sealed, "arc=pass smtp.remote-ip=127.0.0.1"),
        (
            &changed,
            "arc=fail reason=\"the body is not what was signed\" smtp.remote-ip=127.0.0.1",
        ),
    ] {
        let found = found(&world, "a@sender.example", content);
        assert_eq!(found.last().map(String::as_str), Some(expected));
    }
}

/// A file, several blocks long, and never in memory.
#[test]
fn a_large_message_is_verified_on_its_way_into_a_file() {
    let dns = Dns::start();
    let key = Key::new();
    key.publish(&dns, "author.example");
    dns.txt("_dmarc.author.example", "v=DMARC1; p=reject");
    let world = setup(&dns).start();
    for lines in [700, 1_400, 80_000] {
        let line = "0123456789 abcdefghijklmnopqrstuvwxyz\t and so on until the line is full \r\n";
        let content = message("alice@author.example") + &line.repeat(lines);
        let content = key.sign("author.example", &content);
        let held = accepted(&world, "a@sender.example", &content);
        let found = verdicts(&held).expect("verdicts on top");
        assert_eq!(
            found[1..],
            [
                "dkim=pass header.d=author.example header.s=s1",
                "dmarc=pass header.from=author.example policy.dmarc=reject",
            ]
        );
        assert!(held.ends_with(&content), "{} octets", content.len());
        let changed = content.replace("until the line is full \r\n\r\n", "") + "x\r\n";
        let found = self::found(&world, "a@sender.example", &changed);
        assert!(found[1].starts_with("dkim=neutral"), "{found:?}");
    }
}

#[test]
fn nobody_is_asked_where_it_is_off() {
    let dns = Dns::start();
    dns.txt("pass.example", OURS);
    let world = setup(&dns).relay("domain.authentication", "off").start();
    let content = message("alice@pass.example");
    let held = accepted(&world, "a@pass.example", &content);
    assert_eq!(verdicts(&held), None);
    assert!(held.starts_with("Received: "), "{held}");
    assert_eq!(dns.asked("pass.example"), 0);
    let world = World::start();
    assert_eq!(
        verdicts(&accepted(&world, "a@pass.example", &content)),
        None
    );
}
