//! What the corporate server says: each recipient ends as the verdict on it says, whatever is no verdict leaves the
//! mail queued, and `queue list` tells the truth.

use atrn_tests::certs::{Certificate, write_private};
use atrn_tests::inside::{Inside, Offer, Step};
use atrn_tests::message::{self, Message, assert_same_content};
use atrn_tests::process::wait_until;
use atrn_tests::world::{ACCOUNT, World};
use serde_json::Value;

const NONE: [&str; 0] = [];

/// One message to these local-parts of `example.org`.
fn to(local_parts: &[&str]) -> Message {
    let paths: Vec<_> = local_parts
        .iter()
        .map(|name| format!("{name}@example.org"))
        .collect();
    let paths: Vec<_> = paths.iter().map(String::as_str).collect();
    Message::to(&paths, message::plain(1))
}

/// Nothing was asked for, so nothing is leased.
#[track_caller]
fn assert_not_asked(world: &World, what: &str) {
    let status = world.relay.status();
    assert_eq!(
        world.relay.account_status(ACCOUNT)["pulls"]["total"],
        0,
        "{what}: ATRN was sent"
    );
    assert_eq!(status["leased"], 0, "{what}");
    assert_eq!(
        world.relay.queue_lines(),
        ["ann@example.org queued 0"],
        "{what}"
    );
}

// covers: R5321-27, OWN-1
#[test]
fn a_target_that_is_down_is_found_before_atrn() {
    let world = World::start();
    world.send(&[to(&["ann"])]);
    let folder = world.folder().display().to_string();
    for target in [
        // Port 9 (discard): nobody is there.
        "smtp://127.0.0.1:9".to_owned(),
        "lmtp://127.0.0.1:9".to_owned(),
        "smtps://127.0.0.1:9".to_owned(),
        "smtp://no-such-host.invalid:25".to_owned(),
        format!("lmtp+unix:{folder}/no-such-socket"),
        // The path leads through a file.
        format!("maildir:{folder}/relay/relay.toml/inbox"),
    ] {
        world.puller.set_target(&target);
        let said = world.puller.pull().expect_code(71).stderr;
        assert!(said.contains("error: mx1:"), "{target}: {said}");
        assert_not_asked(&world, &target);
    }
}

// covers: R5321-27, OWN-1
#[test]
fn a_target_that_takes_no_mail_is_found_before_atrn() {
    type Fault = fn(&Inside);
    let faults: [(&str, Fault); 10] = [
        ("hangs up", |inside| inside.on(Step::Greeting).hang_up()),
        ("554", |inside| {
            inside.on(Step::Greeting).reply("554 5.3.2 no service")
        }),
        ("421", |inside| {
            inside.on(Step::Greeting).reply("421 4.3.2 later")
        }),
        ("garbage", |inside| {
            inside
                .on(Step::Greeting)
                .raw(b"HTTP/1.1 400 Bad Request\r\n")
        }),
        ("no EHLO", |inside| {
            inside.on(Step::Ehlo).reply("550 5.7.1 go away")
        }),
        ("EHLO later", |inside| {
            inside.on(Step::Ehlo).reply("451 4.3.0 later")
        }),
        ("EHLO, end", |inside| inside.on(Step::Ehlo).hang_up()),
        ("STARTTLS", |inside| {
            inside.on(Step::StartTls).reply("454 4.7.0 no TLS now")
        }),
        ("TLS", |inside| {
            inside
                .on(Step::StartTls)
                .raw(b"220 2.0.0 go\r\nnot TLS\r\n")
        }),
        ("AUTH", |inside| inside.on(Step::Auth).reply("535 5.7.8 no")),
    ];
    let certificate = Certificate::for_name("inside.example");
    let pin = certificate.pin();
    let inside = Inside::offering(Offer {
        certificate: Some(certificate),
        account: Some(("puller".to_owned(), "secret".to_owned())),
        ..Offer::default()
    });
    let world = World::setup()
        .puller("handover.pin", pin)
        .target(&inside.target())
        .start();
    write_private(&world.puller.folder().join("password"), "secret");
    world.puller.configure(|settings| {
        settings
            .set("handover.username", "puller")
            .set("handover.password_file", "password");
    });
    world.send(&[to(&["ann"])]);
    for (what, fault) in faults {
        fault(&inside);
        let _ = world.puller.pull().expect_code(71);
        assert_not_asked(&world, what);
        inside.behave();
    }
    let _ = world.puller.pull().expect_code(0);
    assert_eq!(inside.messages().len(), 1);
}

/// Each recipient ends by its own: taken, later, never.
// covers: OWN-7, OWN-8, OWN-9, R5321-28
#[test]
fn each_recipient_ends_as_the_target_says() {
    let inside = Inside::smtp();
    inside
        .on(Step::Rcpt)
        .with("bob@")
        .reply("550 5.1.1 no such user here");
    inside
        .on(Step::Rcpt)
        .with("carl@")
        .reply("450 4.2.2 mailbox full");
    let world = World::setup()
        .relay("domain.reports", "none")
        .target(&inside.target())
        .start();
    world.send(&[to(&["ann", "bob", "carl", "dora"])]);
    let _ = world.puller.pull().expect_code(0);

    assert_eq!(
        inside.messages()[0].recipients,
        ["<ann@example.org>", "<dora@example.org>"]
    );
    let mut lines = world.relay.queue_lines();
    lines.sort();
    assert_eq!(
        lines,
        ["bob@example.org failed 1", "carl@example.org deferred 1"]
    );
    let failed = &world.relay.queue_list(&["--state", "failed"])[0];
    assert_eq!(failed["last_reply"], "550 5.1.1 no such user here");
    let deferred = &world.relay.queue_list(&["--state", "deferred"])[0];
    assert_eq!(deferred["last_reply"], "450 4.2.2 mailbox full");
    assert_first_step(deferred);

    // What waits for its time is not sent, and what was refused for good is sent no more.
    let _ = world.puller.pull().expect_code(0);
    assert_eq!(inside.record().messages.len(), 1);
    inside.behave();
    let _ = world
        .relay
        .cli(&["queue", "retry", "--state", "deferred"])
        .expect_code(0);
    let _ = world.puller.pull().expect_code(0);
    assert_eq!(inside.messages()[1].recipients, ["<carl@example.org>"]);
    assert_eq!(world.relay.queue_lines(), ["bob@example.org failed 1"]);
}

/// OWN-7: the first step of the back-off is at most a minute.
#[track_caller]
fn assert_first_step(delivery: &Value) {
    let next = delivery["next_attempt"].as_str().expect("a time");
    let next: jiff::Timestamp = next.parse().expect("a time of RFC 3339");
    let wait = next.duration_since(jiff::Timestamp::now()).as_secs();
    assert!(wait <= 60, "{wait} s to the next attempt");
}

// covers: OWN-7, OWN-8, R5321-28
#[test]
fn a_verdict_counts_at_each_step() {
    let inside = Inside::smtp();
    let world = World::setup()
        .relay("domain.reports", "none")
        .target(&inside.target())
        .start();
    for step in [Step::Mail, Step::Rcpt, Step::Data, Step::EndOfData] {
        for (reply, state) in [
            ("451 4.3.0 try again", "deferred"),
            ("552 5.2.2 never", "failed"),
            // Without an enhanced code, and of a code that nobody knows.
            ("459 what", "deferred"),
            ("599 what", "failed"),
        ] {
            inside.on(step).reply(reply);
            world.send(&[to(&["ann"])]);
            let _ = world.puller.pull().expect_code(0);
            let line = format!("ann@example.org {state} 1");
            assert_eq!(world.relay.queue_lines(), [line], "{step:?} {reply}");
            let said = world.queue_list()[0]["last_reply"]
                .as_str()
                .unwrap()
                .to_owned();
            assert!(said.starts_with(&reply[..3]), "{step:?}: {said}");
            inside.behave();
            // Whatever is refused can be sent when the reason is gone.
            world.relay.retry_all();
            let _ = world.puller.pull().expect_code(0);
            assert_eq!(world.relay.queue_lines(), NONE);
        }
    }
    assert_eq!(inside.messages().len(), 16);
}

/// Some servers take only so many recipients at a time: the rest goes at once behind them.
// covers: OWN-9, R5321-21
#[test]
fn too_many_recipients_is_no_verdict_on_them() {
    let inside = Inside::smtp();
    inside
        .on(Step::Rcpt)
        .with("carl@")
        .once()
        .reply("452 4.5.3 two at a time");
    inside
        .on(Step::Rcpt)
        .with("dora@")
        .once()
        .reply("452 4.5.3 two at a time");
    let world = World::setup().target(&inside.target()).start();
    world.send(&[to(&["ann", "bob", "carl", "dora"])]);
    let _ = world.puller.pull().expect_code(0);
    let arrived: Vec<_> = inside
        .messages()
        .iter()
        .map(|message| message.recipients.len())
        .collect();
    assert_eq!(arrived, [2, 2]);
    assert_eq!(world.relay.queue_lines(), NONE);
}

/// A backlog of mail for nobody is worked off like any other.
// covers: OWN-8, OWN-9
#[test]
fn many_refusals_do_not_end_the_session() {
    const COUNT: usize = 100;
    for step in [Step::Mail, Step::Rcpt, Step::Data, Step::EndOfData] {
        let inside = Inside::smtp();
        // Every other message: a server that refused more than that would not be believed.
        for number in 0..COUNT {
            let order = inside.on(step).after(number + 1).once();
            order.reply("550 5.1.1 nobody here");
        }
        let world = World::setup()
            .relay("domain.reports", "none")
            // Side by side, one session could come by all that is refused.
            .puller("relay.sessions", 1)
            .target(&inside.target())
            .start();
        world.send(&vec![to(&["nobody"]); 2 * COUNT]);
        let pulled = world.puller.cli(&["pull", "--json"]).expect_code(0).json();
        assert_eq!(pulled[0]["refused"], COUNT, "{step:?}: {pulled}");
        assert_eq!(pulled[0]["messages"], COUNT, "{step:?}: {pulled}");
        let lines = world.relay.queue_lines();
        assert_eq!(
            lines,
            vec!["nobody@example.org failed 1"; COUNT],
            "{step:?}"
        );
    }
}

// covers: OWN-8
#[test]
fn the_relay_learns_nothing_of_the_network_inside() {
    let inside = Inside::smtp();
    inside
        .on(Step::Rcpt)
        .reply("550-5.7.1 inside.example: 127.0.0.1\r\n550 5.7.1 said no to \x07 gr\u{fc}n");
    let world = World::setup().target(&inside.target()).start();
    world.send(&[to(&["ann"])]);
    let _ = world.puller.pull().expect_code(0);
    let listed = world.queue_list();
    let said = listed[0]["last_reply"].as_str().unwrap();
    assert!(said.starts_with("550 5.7.1 "), "{said}");
    assert!(
        !said.contains("inside.example") && !said.contains("127.0.0.1"),
        "{said}"
    );
    assert!(
        said.bytes().all(|octet| (b' '..=b'~').contains(&octet)),
        "{said}"
    );
    assert!(!world.relay.log().contains("inside.example"));
}

/// Replies that are none, or not due, or say goodbye, are faults of the link: nothing is refused for good.
// covers: OWN-7, R5321-24, R5321-25, R5321-26, R5321-27
#[test]
fn what_is_no_verdict_refuses_nothing() {
    let inside = Inside::smtp();
    let world = World::setup().target(&inside.target()).start();
    for step in [Step::Mail, Step::Rcpt, Step::Data, Step::EndOfData] {
        for reply in [
            "garbage",
            "150 working on it",
            "55 5.1.1 short",
            "700 beyond",
            "550-5.1.1 a\r\n551 5.1.1 codes differ",
            "421 4.3.2 closing",
        ] {
            inside.on(step).raw(format!("{reply}\r\n").as_bytes());
            world.send(&[to(&["ann"])]);
            let _ = world.puller.pull().expect_code(0);
            let lines = world.relay.queue_lines();
            assert_eq!(lines, ["ann@example.org deferred 1"], "{step:?} {reply}");
            let said = world.queue_list()[0]["last_reply"]
                .as_str()
                .unwrap()
                .to_owned();
            assert!(said.starts_with("451 4.4."), "{step:?} {reply}: {said}");
            inside.behave();
            world.relay.retry_all();
            let _ = world.puller.pull().expect_code(0);
            assert_eq!(world.relay.queue_lines(), NONE);
        }
    }
}

/// The connection to the target is lost in mid session, and it is not to be had again: a few messages are put off,
/// the rest stays as it was, and nothing is bounced.
// covers: R5321-27, OWN-7, OWN-7a
#[test]
fn a_target_that_goes_away_in_mid_session_costs_no_mail() {
    for (step, reply) in [
        (Step::Greeting, "554 5.3.2 no service"),
        (Step::Greeting, "421 4.3.2 busy"),
        (Step::Ehlo, "550 5.7.1 go away"),
        (Step::StartTls, "554 5.7.0 no TLS"),
        (Step::Auth, "535 5.7.8 no"),
    ] {
        let certificate = Certificate::for_name("inside.example");
        let pin = certificate.pin();
        let inside = Inside::offering(Offer {
            certificate: Some(certificate),
            account: Some(("puller".to_owned(), "secret".to_owned())),
            ..Offer::default()
        });
        // The first connection is as it should be, up to the content of the second message.
        let before = if step == Step::Ehlo { 2 } else { 1 };
        inside.on(step).after(before).reply(reply);
        inside.on(Step::Content).after(10).once().hang_up();
        let world = World::setup()
            .puller("handover.pin", pin)
            .target(&inside.target())
            .start();
        write_private(&world.puller.folder().join("password"), "secret");
        world.puller.configure(|settings| {
            settings
                .set("handover.username", "puller")
                .set("handover.password_file", "password");
        });
        let messages: Vec<_> = (0..6)
            .map(|number| Message::new("ann@example.org", message::plain(number)))
            .collect();
        world.send(&messages);
        let _ = world.puller.pull().expect_code(75);
        wait_until("the relay has noticed", || {
            world.relay.status()["leased"] == 0
        });
        let lines = world.relay.queue_lines();
        assert!(
            lines.iter().all(|line| !line.contains("failed")),
            "{step:?} {reply}: {lines:#?}"
        );
        assert!(
            lines.iter().any(|line| line.ends_with("queued 0")),
            "{step:?} {reply}: {lines:#?}"
        );
        let before = inside.messages().len();
        assert_eq!(before + lines.len(), 6, "{lines:#?}");
        inside.behave();
        world.relay.retry_all();
        let _ = world.puller.pull().expect_code(0);
        assert_eq!(world.relay.queue_lines(), NONE);
        let mut arrived = inside.messages();
        arrived.sort_by_key(|message| message::without_trace(&message.content).to_vec());
        for (sent, arrived) in messages.iter().zip(&arrived) {
            assert_same_content(reply, &sent.content, &arrived.content);
        }
        assert_eq!(arrived.len(), 6);
    }
}
