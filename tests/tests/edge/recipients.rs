//! Whom mail is taken for: our domains and nobody else's, in every spelling (RFC 5321 §3.6, §4.1.2).

use atrn_tests::message::{self, Message};
use atrn_tests::sender::Sender;
use atrn_tests::world::World;

use super::{MAIL, ask_all, patient_world, pulled, session};

/// A refusal for good: "later" would make a sender try for days.
// covers: R5321-8
#[test]
fn mail_for_other_domains_is_not_relayed() {
    let world = World::setup()
        .domain("example.org")
        .domain("two.example.net")
        .relay("smtp.max_errors", 1000)
        .start();
    let mut peer = session(&world);
    peer.ask(MAIL, "250");
    for (path, reply) in [
        ("user@example.org", "250 2.1.5"),
        ("user@EXAMPLE.ORG", "250 2.1.5"),
        ("user@Two.Example.NET", "250 2.1.5"),
        ("user@elsewhere.example", "550 5.7.1"),
        ("user@sub.example.org", "550 5.7.1"),
        ("user@example.net", "550 5.7.1"),
        ("user@example.org.elsewhere.example", "550 5.7.1"),
        ("user@notexample.org", "550 5.7.1"),
        ("user@org", "550 5.7.1"),
        ("user@localhost", "550 5.7.1"),
        ("user@relay.example.net", "550 5.7.1"),
        ("postmaster@elsewhere.example", "550 5.7.1"),
        ("user@[127.0.0.1]", "550 5.7.1"),
        ("user@[IPv6:::1]", "550 5.7.1"),
        ("user@example.org.", "501 5.1.3"),
        ("user", "501 5.1.3"),
    ] {
        peer.ask(&format!("RCPT TO:<{path}>"), reply);
    }
}

// covers: R5321-6
#[test]
fn paths_have_brackets_and_one_address_in_them() {
    let world = patient_world();
    let mut peer = session(&world);
    let bad = [
        "user@example.org",
        "<user@example.org",
        "user@example.org>",
        "<user@example.org>x",
        "<user@@example.org>",
        "<user@a@example.org>",
        "<user@example.org,other@example.org>",
        "<user@example.org> <other@example.org>",
        "<(comment)user@example.org>",
        "<user@example.org(comment)>",
        "User <user@example.org>",
        "<us er@example.org>",
        "<user.@example.org>",
        "<.user@example.org>",
        "<us..er@example.org>",
        "<\"user@example.org>",
        "<user@-example.org>",
        "<user@example..org>",
        "<user@exam_ple.org>",
        "<@example.org>",
    ];
    for path in bad {
        peer.ask(&format!("MAIL FROM:{path}"), "5");
    }
    peer.ask("MAIL FROM:sender@source.example", "501 5.1.3");
    peer.ask("MAIL FROM <sender@source.example>", "501 5.5.4");
    peer.ask("MAIL TO:<sender@source.example>", "501 5.5.4");
    // One blank is what many senders put there; a route in a reverse-path is ignored.
    peer.ask(
        "MAIL FROM: <@hop.example,@hop2.example:sender@source.example>",
        "250 2.1.0",
    );
    for path in bad {
        peer.ask(&format!("RCPT TO:{path}"), "5");
    }
    ask_all(
        &mut peer,
        &[
            ("RCPT TO:<>", "501 5.1.3"),
            ("RCPT TO:<@hop.example:user@example.org>", "550 5.1.3"),
            (
                "RCPT TO:<@example.org,@hop.example:user@elsewhere.example>",
                "550 5.1.3",
            ),
            ("DATA", "554 5.5.1"),
            ("RCPT TO: <user@example.org>", "250 2.1.5"),
            ("RCPT TO:<\"us er\"@example.org>", "250 2.1.5"),
            ("DATA", "354"),
            (".", "250"),
        ],
    );
    let arrived = pulled(&world);
    assert!(
        arrived[0].mail.starts_with("<sender@source.example>"),
        "{}",
        arrived[0].mail
    );
    assert_eq!(
        arrived[0].recipients,
        ["<user@example.org>", "<\"us er\"@example.org>"]
    );
}

/// What some server on the way might take for a route, a path, a pipe or an option.
// covers: R5321-7
#[test]
fn local_parts_that_could_mean_a_route_are_refused() {
    let world = patient_world();
    let mut peer = session(&world);
    peer.ask(MAIL, "250");
    for local_part in [
        "user%elsewhere.example",
        "elsewhere.example!user",
        "\"user@elsewhere.example\"",
        "a/b",
        "/etc/passwd",
        "|cat",
        "\"|cat /etc/passwd\"",
        "\"a\\\\b\"",
        "-user",
        "\"-user\"",
        "\".user\"",
    ] {
        peer.ask(&format!("RCPT TO:<{local_part}@example.org>"), "550 5.1.1");
    }
    peer.ask("DATA", "554 5.5.1");
}

/// Only the corporate server knows what a local part means.
// covers: R5321-7
#[test]
fn local_parts_are_kept_as_they_were_written() {
    let world = World::start();
    let written = [
        "First.Last+Tag=x",
        "UPPER",
        "upper",
        "\"Quoted Part\"",
        "o'brien",
        "{a}~b^c`d",
    ];
    let paths = written.map(|local_part| format!("{local_part}@Example.ORG"));
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    world.send(&[Message::to(&paths, message::plain(1)).from("Mixed.Case@Source.Example")]);
    let arrived = pulled(&world);
    assert!(
        arrived[0].mail.starts_with("<Mixed.Case@Source.Example>"),
        "{}",
        arrived[0].mail
    );
    let local_parts: Vec<&str> = arrived[0]
        .recipients
        .iter()
        .map(|path| {
            path[1..]
                .rsplit_once('@')
                .map_or("", |(local_part, _)| local_part)
        })
        .collect();
    assert_eq!(local_parts, written);
}

// covers: R5321-9
#[test]
fn postmaster_is_always_reached() {
    let world = World::start();
    let mut peer = session(&world);
    let ways = [
        "postmaster@example.org",
        "PostMaster@EXAMPLE.org",
        "Postmaster",
        "POSTMASTER",
        "postmaster",
    ];
    for path in ways {
        ask_all(
            &mut peer,
            &[
                (MAIL, "250"),
                (&format!("RCPT TO:<{path}>"), "250 2.1.5"),
                ("DATA", "354"),
                (".", "250"),
            ],
        );
    }
    let arrived = pulled(&world);
    assert_eq!(arrived.len(), ways.len());
    for arrived in arrived {
        let path = arrived.recipients[0].to_ascii_lowercase();
        assert!(
            ["<postmaster>", "<postmaster@example.org>"].contains(&&*path),
            "{path}"
        );
    }
}

// covers: R5321-10
#[test]
fn the_null_reverse_path_is_taken_and_passed_on() {
    let world = World::start();
    world.send(&[Message::new("user@example.org", message::plain(1)).from("")]);
    assert_eq!(world.queue_list()[0]["sender"], "");
    let arrived = pulled(&world);
    assert!(arrived[0].mail.starts_with("<>"), "{}", arrived[0].mail);
}

/// As long as no list of recipients is there, nobody can find out who has a mailbox.
// covers: R5321-31
#[test]
fn no_reply_tells_who_exists() {
    let world = World::start();
    let mut peer = session(&world);
    peer.ask(MAIL, "250");
    let replies = ["user", "nobody-at-all", "root"].map(|local_part| {
        let vrfy = peer.ask(&format!("VRFY {local_part}@example.org"), "252");
        let rcpt = peer.ask(&format!("RCPT TO:<{local_part}@example.org>"), "250");
        [vrfy, rcpt]
    });
    assert!(
        replies.iter().all(|reply| *reply == replies[0]),
        "{replies:?}"
    );
}

// covers: R5321-20, R5321-21
#[test]
fn a_hundred_recipients_are_taken_and_one_more_is_for_another_transaction() {
    let world = World::start();
    let mut peer = session(&world);
    peer.ask(MAIL, "250");
    for number in 0..100 {
        peer.ask(&format!("RCPT TO:<user{number}@example.org>"), "250 2.1.5");
    }
    for number in 100..103 {
        peer.ask(&format!("RCPT TO:<user{number}@example.org>"), "452 4.5.3");
    }
    ask_all(
        &mut peer,
        &[("DATA", "354"), (".", "250 2.0.0"), ("QUIT", "221")],
    );
    let listed = world.queue_list();
    let recipients = listed[0]["recipients"].as_array().expect("recipients");
    assert_eq!((listed.len(), recipients.len()), (1, 100));
    assert_eq!(recipients[99], "user99@example.org");
}

#[test]
fn the_number_of_recipients_is_configurable() {
    let world = World::setup().relay("smtp.max_recipients", 150).start();
    let mut peer = session(&world);
    peer.ask(MAIL, "250");
    for number in 0..150 {
        peer.ask(&format!("RCPT TO:<user{number}@example.org>"), "250 2.1.5");
    }
    peer.ask("RCPT TO:<one-more@example.org>", "452 4.5.3");
}

/// Compared in the form that is one name for one host; look-alikes are other names.
// covers: R6531-1
#[test]
fn internationalised_addresses_need_smtputf8_and_strict_names() {
    let world = World::setup()
        .domain("xn--bcher-kva.example")
        .relay("smtp.max_errors", 1000)
        .start();
    let mut peer = session(&world);
    ask_all(
        &mut peer,
        &[
            ("MAIL FROM:<jürgen@source.example>", "553 5.6.7"),
            (MAIL, "250"),
            ("RCPT TO:<user@bücher.example>", "553 5.6.7"),
            ("RCPT TO:<jürgen@xn--bcher-kva.example>", "553 5.6.7"),
            ("RCPT TO:<user@xn--bcher-kva.example>", "250"),
            ("RSET", "250"),
            ("MAIL FROM:<jürgen@source.example> SMTPUTF8", "250"),
            ("RCPT TO:<δοκιμή@bücher.example>", "250"),
            ("RCPT TO:<user@BüCHER.example>", "250"),
            ("RCPT TO:<user@bÜcher.example>", "550 5.1.2"),
            ("RCPT TO:<user@ｂücher.example>", "550 5.1.2"),
            ("RCPT TO:<user@bü\u{ad}cher.example>", "550 5.1.2"),
            ("RCPT TO:<user@bü\u{200d}cher.example>", "550 5.1.2"),
            ("RCPT TO:<user@bücher。example>", "550 5.1.2"),
        ],
    );
    peer.send_octets(b"RCPT TO:<user\xff@xn--bcher-kva.example>\r\n");
    peer.expect("501 ");
    peer.ask("DATA", "354");
    peer.send_octets(&message::stuffed(&message::eight_bit()));
    peer.expect("250 ");
    let arrived = pulled(&world);
    assert!(
        arrived[0].mail.starts_with("<jürgen@source.example>"),
        "{}",
        arrived[0].mail
    );
    assert!(arrived[0].mail.contains(" SMTPUTF8"), "{}", arrived[0].mail);
    assert_eq!(arrived[0].recipients[0], "<δοκιμή@bücher.example>");
    message::assert_same_content("SMTPUTF8", &message::eight_bit(), &arrived[0].content);
}

// covers: R6531-1
#[test]
fn smtputf8_can_be_switched_off() {
    let world = World::setup().relay("smtp.smtputf8", false).start();
    let mut sender = Sender::connect(world.relay.smtp_address());
    assert!(
        !sender.keywords.contains(&"SMTPUTF8".to_owned()),
        "{:?}",
        sender.keywords
    );
    sender
        .peer()
        .ask("MAIL FROM:<a@source.example> SMTPUTF8", "555 5.5.4");
}
