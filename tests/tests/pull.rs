//! Mail moves: from a sender through the real relay and the real puller to a corporate server, each to its own,
//! each once, each octet as it was sent; and every end of a pull has its exit code.

use std::collections::BTreeMap;

use atrn_tests::certs::Certificate;
use atrn_tests::inside::{Inside, Offer, Step};
use atrn_tests::message::{self, Message, assert_same_content, trace, without_trace};
use atrn_tests::process::{Output, wait_until};
use atrn_tests::sender::{Framing, Sender};
use atrn_tests::world::{ACCOUNT, DOMAIN, PullerSetup, Tls, World};

// covers: R2645-9, R2645-23, R5321-15
#[test]
fn each_customer_pulls_only_its_own_recipients_of_one_body() {
    let (ours, theirs) = (Inside::smtp(), Inside::smtp());
    let world = World::setup()
        .domain(DOMAIN)
        .domain("example.com")
        .account(ACCOUNT, &[DOMAIN])
        .account("other", &["example.com"])
        .target(&ours.target())
        .start();
    let other = world.another_puller("other", &["example.com"], &theirs.target());
    for content in [message::plain(1), message::big(100_000)] {
        let is_big = content.len() > 50_000;
        let all = ["ann@example.org", "bob@example.com", "carl@example.org"];
        world.send(&[Message::to(&all, content.clone())]);

        let listed = world.queue_list();
        let lines = [
            "ann@example.org,carl@example.org queued 0",
            "bob@example.com queued 0",
        ];
        assert_eq!(world.relay.queue_lines(), lines);
        let id = listed[0]["id"].as_str().unwrap().to_owned();
        assert_eq!(listed[1]["id"], *id, "two deliveries of one message");
        let shown = world
            .relay
            .cli(&["queue", "show", &id, "--json"])
            .expect_code(0)
            .json();
        assert_eq!(shown["deliveries"].as_array().unwrap().len(), 2);
        assert_eq!(
            world.relay.spool_files(),
            usize::from(is_big),
            "the body is stored once"
        );

        let _ = world.puller.pull().expect_code(0);
        assert_eq!(world.relay.queue_lines(), lines[1..]);
        assert_eq!(
            world.relay.spool_files(),
            usize::from(is_big),
            "somebody else's still"
        );
        let _ = other.pull().expect_code(0);
        assert_eq!(world.relay.queue_lines(), [""; 0]);
        assert_eq!(
            world.relay.cli(&["queue", "show", &id]).code,
            1,
            "the message is gone"
        );
        wait_until("the body is gone with its last delivery", || {
            world.relay.spool_files() == 0
        });

        let (ours, theirs) = (ours.messages(), theirs.messages());
        let (ours, theirs) = (ours.last().unwrap(), theirs.last().unwrap());
        assert_eq!(ours.recipients, ["<ann@example.org>", "<carl@example.org>"]);
        assert_eq!(theirs.recipients, ["<bob@example.com>"]);
        assert_same_content("ours", &content, &ours.content);
        assert_same_content("theirs", &content, &theirs.content);
    }
}

// covers: R2645-23
#[test]
fn one_session_brings_mail_in_the_order_of_its_arrival() {
    let inside = Inside::smtp();
    let world = World::setup()
        .target(&inside.target())
        .puller("relay.sessions", 1)
        .start();
    let sent: Vec<_> = (0..300).map(message::plain).collect();
    let messages: Vec<_> = sent
        .iter()
        .map(|content| Message::new("user@example.org", content.clone()))
        .collect();
    world.send(&messages);
    let pulled = world.puller.cli(&["pull", "--json"]).expect_code(0).json();
    assert_eq!(pulled[0]["messages"], 300);
    let arrived = inside.messages();
    assert_eq!(arrived.len(), 300);
    for (content, arrived) in sent.iter().zip(&arrived) {
        assert_same_content("in order", content, &arrived.content);
    }
    assert_eq!(
        inside.record().sessions,
        1,
        "one hand-over connection for all"
    );
    assert_eq!(world.relay.account_status(ACCOUNT)["pulls"]["total"], 1);
}

/// What a session has leased no other one gets: the first holds what it claimed while the second takes the rest.
// covers: R2645-12
#[test]
fn two_sessions_of_one_account_side_by_side_take_each_message_once() {
    const COUNT: usize = 300;
    let (slow, quick) = (Inside::smtp(), Inside::smtp());
    slow.on(Step::Mail).once().stall();
    let mut world = World::setup().target(&slow.target()).start();
    let second = world.another_puller(ACCOUNT, &[DOMAIN], &quick.target());
    let messages: Vec<_> = (0..COUNT)
        .map(|number| Message::new("user@example.org", message::plain(number)))
        .collect();
    world.send(&messages);

    world.puller.begin_pull();
    slow.wait_until("the first session works", |record| record.stalled == 1);
    let leased = world.relay.queue_list(&["--state", "leased"]).len();
    assert!(
        leased > 0 && leased < COUNT,
        "{leased} leased by one session"
    );
    let _ = second.pull().expect_code(0);
    assert_eq!(quick.messages().len(), COUNT - leased);
    slow.release();
    assert_eq!(world.puller.pulled(), 0);
    assert_eq!(slow.messages().len(), leased);

    let mut seen = BTreeMap::new();
    for arrived in slow.messages().iter().chain(&quick.messages()) {
        *seen
            .entry(without_trace(&arrived.content).to_vec())
            .or_insert(0) += 1;
    }
    assert_eq!(seen.len(), COUNT);
    assert!(seen.values().all(|times| *times == 1), "none twice");
    assert_eq!(world.relay.queue_lines(), [""; 0]);
}

// covers: R5321-13, R5321-29, R3030-1, R6152-1, R5321-17, R5321-19
#[test]
fn content_arrives_as_it_was_sent() {
    let mut contents = message::kinds();
    contents.push((
        "NUL and controls",
        message::with_subject("NUL", b"a\0b\x01\x7f\x1b[2J\0\r\n\0"),
    ));
    contents.push((
        "every octet",
        message::with_subject("octets", &every_octet()),
    ));
    contents.push((
        "no line end",
        message::with_subject("x", b"the last line has no end"),
    ));
    contents.push(("200,000 octets in one line", message::long_line(200_000)));
    contents.push((
        "2 MB, then dots",
        [message::big(2_000_000), message::dots()].concat(),
    ));
    contents.push((
        "Return-Path of old",
        b"Return-Path: <old@x.example>\r\n\r\nx\r\n".to_vec(),
    ));
    // The corporate server may take BDAT, or not; our keywords do not depend on it.
    for offer in [Offer::default(), Offer::keywords(&["8BITMIME"])] {
        let inside = Inside::offering(offer);
        // A backlog would be worth a second session, and order is within one.
        let world = World::setup()
            .puller("relay.sessions", 1)
            .target(&inside.target())
            .start();
        let mut sender = Sender::connect(world.relay.smtp_address());
        let framings = [Framing::Data, Framing::Bdat(usize::MAX), Framing::Bdat(999)];
        for (_, content) in &contents {
            let message = Message::new("user@example.org", content.clone());
            for framing in framings {
                // Thousands of round trips show no more than hundreds.
                if content.len() < 500_000 || framing != Framing::Bdat(999) {
                    sender.send_framed(&message, framing);
                }
            }
        }
        sender.quit();
        let _ = world.puller.pull().expect_code(0);
        let arrived = inside.messages();
        let mut arrived = arrived.iter();
        for (name, content) in &contents {
            let times = if content.len() < 500_000 { 3 } else { 2 };
            // What can only end a line with DATA has ended one.
            let mut expected = content.clone();
            if !expected.is_empty() && !expected.ends_with(b"\n") {
                expected.extend_from_slice(b"\r\n");
            }
            for _ in 0..times {
                assert_ours_on_top(name, &expected, &arrived.next().expect(name).content);
            }
        }
        assert!(arrived.next().is_none());
    }
}

/// Two trace fields of ours are on top, and nothing else is new (R5321-17).
#[track_caller]
fn assert_ours_on_top(name: &str, sent: &[u8], arrived: &[u8]) {
    let added = arrived.len() - sent.len();
    let (top, rest) = arrived.split_at(added);
    let top = String::from_utf8_lossy(top);
    assert_eq!(top.matches("Received:").count(), 2, "{name}: {top}");
    assert!(
        top.starts_with("Received: from relay.example.net"),
        "{name}: {top}"
    );
    assert!(rest == sent, "{name}: content differs");
}

fn every_octet() -> Vec<u8> {
    // CR and LF have a meaning of their own, which smuggling abuses: they come together or not at all.
    let mut octets: Vec<u8> = (0..=255).filter(|octet| !b"\r\n".contains(octet)).collect();
    octets.extend_from_slice(b"\r\n");
    octets
}

// covers: R5321-10, R5321-29, R6152-1, R6531-1, R3461-1, R1870-3
#[test]
fn the_envelope_arrives_as_it_was_given() {
    let inside = Inside::smtp();
    let world = World::setup().target(&inside.target()).start();
    let mut sender = Sender::connect(world.relay.smtp_address());
    let content = message::stuffed(&message::plain(1));
    for (mail, rcpt) in [
        ("<>", "<user@example.org>"),
        (
            "<\"a b\"@source.example> BODY=8BITMIME",
            "<USER+x@Example.ORG>",
        ),
        ("<a@[192.0.2.1]>", "<postmaster@example.org>"),
        (
            "<grün@source.example> SMTPUTF8 BODY=8BITMIME",
            "<käse@example.org>",
        ),
        (
            "<a@source.example> RET=HDRS ENVID=QQ+2B314159",
            "<user@example.org> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;Bob+2BX@else.example",
        ),
    ] {
        let peer = sender.peer();
        peer.ask(&format!("MAIL FROM:{mail}"), "250 ");
        peer.ask(&format!("RCPT TO:{rcpt}"), "250 ");
        peer.ask("DATA", "354 ");
        peer.send_octets(&content);
        peer.expect("250 ");
        let _ = world.puller.pull().expect_code(0);
        let messages = inside.messages();
        let arrived = messages.last().unwrap();
        let mut words: Vec<_> = arrived.mail.split(' ').collect();
        let size = words.iter().position(|word| word.starts_with("SIZE="));
        let size: usize = words.remove(size.expect("SIZE is offered"))[5..]
            .parse()
            .unwrap();
        assert!(
            size >= arrived.content.len(),
            "{size} for {}",
            arrived.content.len()
        );
        assert_eq!(sorted(words), sorted(mail.split(' ').collect()));
        assert_eq!(arrived.recipients, [rcpt]);
    }
}

fn sorted(mut words: Vec<&str>) -> Vec<&str> {
    words.sort_unstable();
    words
}

// covers: R5321-17, R3848-1
#[test]
fn each_way_of_encryption_is_told_in_the_trace() {
    for (tls, with) in [
        (Tls::Implicit, "with ESMTPS"),
        (Tls::StartTls, "with ESMTPS"),
        (Tls::Optional, "with ESMTP "),
        (Tls::Off, "with ESMTP "),
    ] {
        let inside = Inside::smtp();
        let world = World::setup().tls(tls).target(&inside.target()).start();
        world.send(&[Message::new("user@example.org", message::plain(1))]);
        let _ = world.puller.pull().expect_code(0);
        let trace = trace(&inside.messages()[0].content).replace("\r\n\t", " ");
        let ours = trace.lines().next().unwrap();
        assert!(
            ours.contains("by puller.example.org") && ours.contains(with),
            "{tls:?}: {trace}"
        );
    }
}

// covers: R4422-1
#[test]
fn a_certificate_is_enough_to_log_in() {
    let inside = Inside::smtp();
    let world = World::start();
    let certificate = Certificate::for_name("puller.example.org");
    let arguments = [
        "account",
        "add",
        "cert",
        "--no-secret",
        "--domain",
        DOMAIN,
        "--pin",
    ];
    let pin = certificate.pin();
    let _ = world
        .relay
        .cli(&[&arguments[..], &[&*pin]].concat())
        .expect_code(0);
    let pull = |certificate: &Certificate| {
        let folder = tempfile::tempdir().unwrap();
        let (public, key) = (
            folder.path().join("puller.crt"),
            folder.path().join("puller.key"),
        );
        certificate.write(&public, &key);
        let setup = PullerSetup::new("cert", &[DOMAIN], &inside.target())
            .setting("relay.certificate", public.display().to_string())
            .setting("relay.key", key.display().to_string())
            .setting("relay.weakest_mechanism", "EXTERNAL");
        let address = world.relay.odmr_address().to_string();
        let pin = Some(world.relay.pin());
        let puller = setup.install_for(
            folder.path(),
            &address,
            Tls::Implicit,
            pin,
            "no secret of any account",
        );
        puller.pull()
    };
    world.send(&[Message::new("user@example.org", message::plain(1))]);
    let stranger = Certificate::for_name("puller.example.org");
    let _ = pull(&stranger).expect_code(77);
    assert_eq!(inside.messages().len(), 0);
    let _ = pull(&certificate).expect_code(0);
    assert_eq!(inside.messages().len(), 1);
}

// covers: R4954-1, R5802-1, R2195-1, R4616-1, R2645-5
#[test]
fn each_mechanism_with_a_secret_logs_in_where_the_puller_allows_it() {
    for mechanism in ["SCRAM-SHA-256", "CRAM-MD5", "PLAIN"] {
        let inside = Inside::smtp();
        let world = World::setup()
            .relay("odmr.mechanisms", vec![mechanism.to_owned()])
            .target(&inside.target())
            .start();
        world.send(&[Message::new("user@example.org", message::plain(1))]);
        if mechanism != "SCRAM-SHA-256" {
            let refused = world.puller.pull().expect_code(77);
            assert!(
                refused.stderr.contains("weakest_mechanism"),
                "{}",
                refused.stderr
            );
            world.puller.configure(|settings| {
                settings.set("relay.weakest_mechanism", mechanism);
            });
        }
        let _ = world.puller.pull().expect_code(0);
        assert_eq!(inside.messages().len(), 1, "{mechanism}");
        let wrong = PullerSetup::new(ACCOUNT, &[DOMAIN], &inside.target())
            .setting("relay.weakest_mechanism", mechanism);
        let address = world.relay.odmr_address().to_string();
        let pin = Some(world.relay.pin());
        let wrong = wrong.install_for(world.folder(), &address, Tls::Implicit, pin, "wrong-secret");
        let _ = wrong.pull().expect_code(77);
    }
}

/// Design section 7, in its order.
// covers: R2645-16, R2645-17
#[test]
fn each_end_of_a_pull_has_its_exit_code() {
    let inside = Inside::smtp();
    let mut world = World::setup()
        .domain(DOMAIN)
        .domain("example.com")
        .account(ACCOUNT, &[DOMAIN])
        .target(&inside.target())
        .start();
    let variant = |path: &str, value: &str| -> Output {
        let setup = PullerSetup::new(ACCOUNT, &[DOMAIN], &inside.target()).setting(path, value);
        setup.install(world.folder(), &world.relay).pull()
    };
    let _ = world.puller.pull().expect_code(0);
    world.send(&[Message::new("user@example.org", message::plain(1))]);

    let _ = world
        .puller
        .cli(&["pull", "--domain", "example.net"])
        .expect_code(2);
    let _ = variant("handover.target", "smtp://127.0.0.1:9").expect_code(71);
    let smtp = world.relay.smtp_address().to_string();
    let setup = PullerSetup::new(ACCOUNT, &[DOMAIN], &inside.target());
    let not_odmr = setup.install_for(world.folder(), &smtp, Tls::Off, None, "secret");
    let said = not_odmr.pull().expect_code(76).stderr;
    assert!(said.contains("ODMR port"), "{said}");
    let pin = Certificate::for_name("relay.example.net").pin();
    let said = variant("relay.pin", &pin).expect_code(77).stderr;
    assert!(said.contains("pin"), "{said}");
    let foreign = PullerSetup::new(ACCOUNT, &["example.com"], &inside.target());
    let _ = foreign
        .install(world.folder(), &world.relay)
        .pull()
        .expect_code(77);
    let _ = variant("relay.account", "nobody").expect_code(77);
    let said = variant("relay.colour", "green").expect_code(78).stderr;
    assert!(said.contains("colour"), "{said}");
    let _ = world
        .relay
        .cli(&["account", "disable", ACCOUNT])
        .expect_code(0);
    let _ = world.puller.pull().expect_code(77);
    let _ = world
        .relay
        .cli(&["account", "enable", ACCOUNT])
        .expect_code(0);

    assert_eq!(inside.messages().len(), 0);
    assert_eq!(world.relay.queue_lines(), ["user@example.org queued 0"]);
    let _ = world.puller.pull().expect_code(0);
    assert_eq!(inside.messages().len(), 1);
    assert_eq!(world.relay.stop(), 0);
    let _ = world.puller.pull().expect_code(69);
}

// covers: R2645-16
#[test]
fn a_dry_run_asks_for_nothing() {
    let inside = Inside::smtp();
    let world = World::setup().target(&inside.target()).start();
    world.send(&[Message::new("user@example.org", message::plain(1))]);
    let _ = world.puller.cli(&["pull", "--dry-run"]).expect_code(0);
    assert_eq!(world.relay.account_status(ACCOUNT)["pulls"]["total"], 0);
    assert_eq!(world.relay.queue_lines(), ["user@example.org queued 0"]);
}

// covers: R2645-16
#[test]
fn the_daemon_pulls_again_and_again() {
    let inside = Inside::smtp();
    let mut world = World::setup()
        .puller("relay.every", "1s")
        .puller("relay.jitter", "0s")
        .target(&inside.target())
        .start();
    world.puller.start();
    wait_until("a poll finds nothing", || {
        world.relay.account_status(ACCOUNT)["last_pull"]["result"] == "no_mail"
    });
    for number in 1..=3 {
        world.send(&[Message::new("user@example.org", message::plain(number))]);
        inside.wait_for_messages(number);
    }
    let status = world
        .puller
        .cli(&["status", "--json"])
        .expect_code(0)
        .json();
    assert_eq!(status["running"], true, "{status}");
    assert_eq!(world.puller.stop(), 0);
    assert_eq!(world.relay.queue_lines(), [""; 0]);
}
