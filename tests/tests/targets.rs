//! Every kind of hand-over target: SMTP in the clear and encrypted, with a login, LMTP over TCP and a Unix socket,
//! a Maildir.

use std::os::unix::fs::PermissionsExt as _;

use atrn_tests::certs::{Certificate, write_private};
use atrn_tests::inside::{Inside, Offer, Step};
use atrn_tests::message::{self, Message, assert_same_content};
use atrn_tests::software::maildir;
use atrn_tests::world::World;

const NONE: [&str; 0] = [];

/// Sends a message of each kind, pulls, and compares what the server inside has got.
#[track_caller]
fn assert_all_kinds_arrive(world: &World, inside: &Inside) {
    let before = inside.messages().len();
    world.send(&kinds());
    let _ = world.puller.pull().expect_code(0);
    let arrived = inside.messages();
    let arrived = &arrived[before..];
    assert_eq!(arrived.len(), message::kinds().len());
    for ((name, content), arrived) in message::kinds().iter().zip(arrived) {
        assert_same_content(name, content, &arrived.content);
    }
    assert_eq!(world.relay.queue_lines(), NONE);
}

fn kinds() -> Vec<Message> {
    let kinds = message::kinds();
    kinds
        .into_iter()
        .map(|(_, content)| Message::new("ann@example.org", content))
        .collect()
}

/// Sets the login of the target's account.
fn log_in(world: &World, password: &str) {
    write_private(&world.puller.folder().join("password"), password);
    world.puller.configure(|settings| {
        settings
            .set("handover.username", "puller")
            .set("handover.password_file", "password");
    });
}

fn encrypting(certificate: Certificate) -> Offer {
    Offer {
        certificate: Some(certificate),
        ..Offer::default()
    }
}

// covers: R2920-2, R5321-29
#[test]
fn smtp_with_and_without_pipelining() {
    for offer in [Offer::default(), Offer::keywords(&["8BITMIME"])] {
        let inside = Inside::offering(offer);
        let world = World::setup().target(&inside.target()).start();
        assert_all_kinds_arrive(&world, &inside);
        let session = inside.commands();
        assert!(
            session[0].starts_with("EHLO puller.example.org"),
            "{session:?}"
        );
        assert_eq!(session.last().unwrap(), "QUIT");
    }
}

// covers: R3207-3
#[test]
fn starttls_is_used_where_it_is_offered() {
    let certificate = Certificate::for_name("inside.example");
    let (pin, stranger) = (
        certificate.pin(),
        Certificate::for_name("inside.example").pin(),
    );
    let inside = Inside::offering(encrypting(certificate));
    let world = World::setup().target(&inside.target()).start();
    // Whoever it is, encrypted is better than not.
    assert_all_kinds_arrive(&world, &inside);
    let commands = inside.commands();
    let verbs: Vec<_> = commands.iter().take(4).map(|line| &line[..4]).collect();
    assert_eq!(
        verbs,
        ["EHLO", "STAR", "EHLO", "MAIL"],
        "keywords count from inside TLS only"
    );

    // Required: it must be who we think it is.
    world.puller.configure(|settings| {
        settings.set("handover.pin", pin);
    });
    assert_all_kinds_arrive(&world, &inside);
    world.puller.configure(|settings| {
        settings.set("handover.pin", stranger);
    });
    let said = world.puller.pull().expect_code(71).stderr;
    assert!(said.contains("pin"), "{said}");
}

// covers: R3207-3
#[test]
fn a_target_that_cannot_encrypt_gets_mail_in_the_clear_unless_tls_is_required() {
    // Not offered at all; refused; and a handshake that fails.
    let certificate = || Certificate::for_name("inside.example");
    let without = Inside::smtp();
    let refusing = Inside::offering(encrypting(certificate()));
    refusing.on(Step::StartTls).reply("454 4.7.0 not now");
    let broken = Inside::offering(encrypting(certificate()));
    broken
        .on(Step::StartTls)
        .raw(b"220 2.0.0 go ahead\r\nbut not with TLS\r\n");
    for inside in [without, refusing, broken] {
        let world = World::setup().target(&inside.target()).start();
        assert_all_kinds_arrive(&world, &inside);
        let before = inside.messages().len();
        world.puller.configure(|settings| {
            settings
                .set("handover.tls", "required")
                .set("handover.pin", certificate().pin());
        });
        let _ = world.puller.pull().expect_code(71);
        assert_eq!(inside.messages().len(), before);
    }
}

// covers: R5321-27
#[test]
fn a_login_is_shown_to_the_right_server_only() {
    let certificate = Certificate::for_name("inside.example");
    let pin = certificate.pin();
    let inside = Inside::offering(Offer {
        account: Some(("puller".to_owned(), "correct horse".to_owned())),
        ..encrypting(certificate)
    });
    let world = World::setup()
        .puller("handover.pin", pin)
        .target(&inside.target())
        .start();
    // A target that wants a login we do not have says nothing about a message: after some tries the rest is left alone.
    world.send(&vec![Message::new("ann@example.org", message::plain(1)); 5]);
    let _ = world.puller.pull().expect_code(75);
    let lines = world.relay.queue_lines();
    assert_eq!(lines.len(), 5);
    assert!(
        lines.iter().all(|line| !line.contains("failed")),
        "{lines:#?}"
    );
    assert!(
        lines.contains(&"ann@example.org queued 0".to_owned()),
        "{lines:#?}"
    );
    log_in(&world, "wrong");
    let _ = world.puller.pull().expect_code(71);
    log_in(&world, "correct horse");
    world.relay.retry_all();
    let _ = world.puller.pull().expect_code(0);
    assert_eq!(inside.messages().len(), 5);
    assert_all_kinds_arrive(&world, &inside);
}

// covers: R8314-1
#[test]
fn smtps_is_encrypted_from_the_first_octet() {
    let certificate = Certificate::for_name("inside.example");
    let pin = certificate.pin();
    let inside = Inside::offering(Offer {
        tls_first: true,
        ..encrypting(certificate)
    });
    assert!(inside.target().starts_with("smtps://"));
    let world = World::setup()
        .puller("handover.pin", pin)
        .target(&inside.target())
        .start();
    assert_all_kinds_arrive(&world, &inside);
    // A certificate that nobody vouches for is not enough.
    let stranger = Certificate::for_name("inside.example").pin();
    world.puller.configure(|settings| {
        settings.set("handover.pin", stranger);
    });
    let _ = world.puller.pull().expect_code(71);
}

// covers: R2033-1
#[test]
fn lmtp_over_tcp_and_over_a_unix_socket() {
    let inside = Inside::lmtp();
    let world = World::setup().target(&inside.target()).start();
    assert_all_kinds_arrive(&world, &inside);
    assert!(inside.commands()[0].starts_with("LHLO "));

    let lmtp = Offer {
        lmtp: true,
        ..Offer::default()
    };
    let inside = Inside::unix(&world.folder().join("lmtp.socket"), lmtp);
    world.puller.set_target(&inside.target());
    assert_all_kinds_arrive(&world, &inside);
}

/// LMTP answers for each recipient; the relay's one reply could not tell them apart, so each goes alone.
// covers: R2033-1, OWN-7, OWN-8, OWN-9
#[test]
fn each_recipient_of_an_lmtp_target_ends_by_its_own() {
    let inside = Inside::lmtp();
    inside
        .on(Step::Rcpt)
        .with("bob@")
        .reply("550 5.1.1 no such user");
    inside
        .on(Step::Rcpt)
        .with("carl@")
        .reply("450 4.2.1 locked");
    inside
        .on(Step::EndOfData)
        .with("dora@")
        .reply("452 4.2.2 full");
    inside
        .on(Step::EndOfData)
        .with("emil@")
        .reply("554 5.6.0 not like this");
    let world = World::setup()
        .relay("domain.reports", "none")
        .target(&inside.target())
        .start();
    let names = ["ann", "bob", "carl", "dora", "emil", "fay"];
    let paths = names.map(|name| format!("{name}@example.org"));
    let message = Message::to(&paths.each_ref().map(String::as_str), message::dots());
    world.send(&[message]);
    let _ = world.puller.pull().expect_code(0);

    let mut taken = Vec::new();
    for message in inside.messages() {
        assert_eq!(message.recipients.len(), 1);
        assert_same_content("LMTP", &message::dots(), &message.content);
        taken.extend(message.recipients);
    }
    assert_eq!(taken, ["<ann@example.org>", "<fay@example.org>"]);
    let mut lines = world.relay.queue_lines();
    lines.sort();
    let mut expected = vec![
        "bob@example.org failed 1",
        "carl@example.org,dora@example.org deferred 1",
        "emil@example.org failed 1",
    ];
    expected.sort_unstable();
    assert_eq!(lines, expected);
    inside.behave();
    world.relay.retry_all();
    let _ = world.puller.pull().expect_code(0);
    assert_eq!(inside.messages().len(), 6);
    assert_eq!(world.relay.queue_lines(), NONE);
}

#[test]
fn a_maildir_gets_a_file_for_each_message() {
    let world = World::start();
    let inbox = world.folder().join("inbox");
    world
        .puller
        .set_target(&format!("maildir:{}", inbox.display()));
    world.send(&kinds());
    let _ = world.puller.pull().expect_code(0);
    assert_eq!(world.relay.queue_lines(), NONE);
    assert_eq!(maildir(&inbox).len(), message::kinds().len());
    for (name, content) in message::kinds() {
        let found = maildir(&inbox)
            .iter()
            .any(|arrived| message::without_trace(arrived) == content);
        assert!(found, "{name}");
    }
    assert_eq!(std::fs::read_dir(inbox.join("tmp")).unwrap().count(), 0);
    for entry in std::fs::read_dir(inbox.join("new")).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "mail is for its owner");
    }
}

/// What is too big for the target, or of a kind that it does not take, is refused for good, and the rest goes on.
// covers: R1870-3, R6152-2, R6531-2
#[test]
fn what_the_target_cannot_take_is_refused_message_by_message() {
    let inside = Inside::offering(Offer::keywords(&["SIZE 100000", "PIPELINING"]));
    let world = World::setup()
        .relay("domain.reports", "none")
        .target(&inside.target())
        .start();
    world.send(&[
        Message::new("big@example.org", message::big(200_000)),
        Message::new("eight@example.org", message::eight_bit()),
        Message::new("fine@example.org", message::plain(1)),
    ]);
    let mut peer = world.relay.smtp();
    peer.ehlo("client.source.example");
    peer.ask("MAIL FROM:<a@source.example> SMTPUTF8", "250 ");
    peer.ask("RCPT TO:<käse@example.org>", "250 ");
    peer.ask("DATA", "354 ");
    peer.ask("Subject: ascii\r\n\r\ntext\r\n.", "250 ");
    let _ = world.puller.pull().expect_code(0);
    let expected = [
        ("big@example.org", "5.3.4"),
        ("eight@example.org", "5.6.3"),
        ("käse@example.org", "5.6.7"),
    ];
    let listed = world.queue_list();
    assert_eq!(listed.len(), 3);
    for ((recipient, code), delivery) in expected.iter().zip(&listed) {
        assert_eq!(delivery["recipients"][0], *recipient);
        assert_eq!(delivery["state"], "failed", "{delivery}");
        let said = delivery["last_reply"].as_str().unwrap();
        assert!(said.contains(code), "{recipient}: {said}");
    }
    assert_eq!(inside.messages().len(), 1);
    assert!(inside.commands().iter().all(|line| !line.contains("big@")));
}
