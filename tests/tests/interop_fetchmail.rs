//! fetchmail in ODMR mode pulls from the real relay: the most widely installed customer of RFC 2645.

use std::collections::BTreeMap;
use std::time::Instant;

use atrn_tests::message::{self, Message, assert_same_content};
use atrn_tests::sender::send;
use atrn_tests::software::{Dumped, Fetchmail, SmtpSink};
use atrn_tests::world::{ACCOUNT, DOMAIN, Tls, World};

const MESSAGES: usize = 300;

fn queue_up(world: &World, count: usize) {
    let messages: Vec<Message> = (0..count)
        .map(|number| Message::new("user@example.org", message::plain(number)))
        .collect();
    send(world.relay.smtp_address(), &messages);
}

/// Every message once, in its order, octet for octet.
#[track_caller]
fn assert_all_arrived(messages: &[Dumped], count: usize) {
    assert_eq!(messages.len(), count);
    for (number, message) in messages.iter().enumerate() {
        assert_same_content(
            &format!("message {number}"),
            &message::plain(number),
            &message.content,
        );
        assert!(
            message.mail.starts_with("<sender@source.example>"),
            "{}",
            message.mail
        );
        assert_eq!(message.recipients, ["<user@example.org>"]);
    }
}

/// Polls once, tells the rate, and checks what arrived. How fast that is depends on fetchmail, which stalls on every
/// message (11 to 23 a second): the figure is for people.
#[track_caller]
fn pull_all(world: &World, fetchmail: &mut Fetchmail, sink: &mut SmtpSink) {
    let begun = Instant::now();
    let output = fetchmail.poll();
    let seconds = begun.elapsed().as_secs_f64();
    #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = MESSAGES as f64 / seconds;
    println!("fetchmail: {MESSAGES} messages in {seconds:.1} s, {rate:.1} a second");
    assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
    assert_all_arrived(&sink.wait_for_messages(MESSAGES), MESSAGES);
    assert!(world.queue_list().is_empty());
    assert_no_warning(world);

    // Nothing is left: "You have no mail", which is exit 0 too, and no warning.
    assert_eq!(fetchmail.poll().code, 0);
    assert_eq!(sink.messages().len(), MESSAGES);
    assert_no_warning(world);
}

/// The ends that fetchmail takes are normal ones. Settings are warned of at the start: not of them.
#[track_caller]
fn assert_no_warning(world: &World) {
    let log = world.relay.log();
    let warnings: Vec<&str> = log
        .lines()
        .filter(|line| line.contains(" WARN ") || line.contains("ERROR"))
        .filter(|line| !line.contains("relay.toml:"))
        .collect();
    assert!(warnings.is_empty(), "{}", warnings.join("\n"));
}

// covers: R2645-5, R2195-1
#[test]
fn fetchmail_pulls_in_the_clear() {
    let Some(mut sink) = SmtpSink::start(&[]) else {
        return;
    };
    let world = World::setup().tls(Tls::Optional).start();
    let login = (ACCOUNT, world.relay.secret(ACCOUNT));
    let server = world.relay.odmr_address();
    let Some(mut fetchmail) = Fetchmail::new(server, login, DOMAIN, sink.address()) else {
        return;
    };
    queue_up(&world, MESSAGES);
    pull_all(&world, &mut fetchmail, &mut sink);
}

// covers: R8314-1, R2645-20
#[test]
fn fetchmail_pulls_inside_tls() {
    let Some(mut sink) = SmtpSink::start(&[]) else {
        return;
    };
    let world = World::start();
    // fetchmail reads one line of a TLS record and waits for the next record: each line gets one of its own.
    let added = world
        .relay
        .cli(&[
            "account",
            "add",
            "fetchmail",
            "--domain",
            DOMAIN,
            "--cram-md5",
            "--line-records",
            "--json",
        ])
        .expect_code(0)
        .json();
    let secret = added["secret"].as_str().expect("a secret");
    let server = world.relay.odmr_address();
    let fetchmail = Fetchmail::with_tls(server, ("fetchmail", secret), DOMAIN, sink.address());
    let Some(mut fetchmail) = fetchmail else {
        return;
    };
    queue_up(&world, MESSAGES);
    pull_all(&world, &mut fetchmail, &mut sink);
}

// covers: OWN-1, OWN-7a
#[test]
fn fetchmail_without_its_own_server_costs_no_mail() {
    let Some(sink) = SmtpSink::start(&[]) else {
        return;
    };
    let nobody = sink.address();
    drop(sink);
    let world = World::setup().tls(Tls::Optional).start();
    let login = (ACCOUNT, world.relay.secret(ACCOUNT));
    let server = world.relay.odmr_address();
    let Some(mut fetchmail) = Fetchmail::new(server, login, DOMAIN, nobody) else {
        return;
    };
    queue_up(&world, 3);
    assert_ne!(fetchmail.poll().code, 0);
    let states: Vec<String> = world
        .queue_list()
        .iter()
        .map(|delivery| delivery["state"].to_string())
        .collect();
    assert_eq!(states, ["\"queued\""; 3]);
    assert_no_warning(&world);
}

// covers: R2645-9, R2645-16, R4954-1
#[test]
fn fetchmail_ends_as_it_should_when_it_is_refused() {
    let Some(sink) = SmtpSink::start(&[]) else {
        return;
    };
    let world = World::setup()
        .tls(Tls::Optional)
        .domain(DOMAIN)
        .domain("foreign.example");
    let world = world.account(ACCOUNT, &[DOMAIN]).start();
    queue_up(&world, 1);
    let secret = world.relay.secret(ACCOUNT).to_owned();
    let ends = BTreeMap::from([
        ((DOMAIN, "wrong"), 128),
        (("foreign.example", secret.as_str()), 4),
    ]);
    for ((domain, secret), code) in ends {
        let server = world.relay.odmr_address();
        let fetchmail = Fetchmail::new(server, (ACCOUNT, secret), domain, sink.address());
        let Some(mut fetchmail) = fetchmail else {
            return;
        };
        let output = fetchmail.poll();
        assert_eq!(
            output.code, code,
            "{domain}: {}{}",
            output.stdout, output.stderr
        );
    }
    assert_eq!(world.queue_list().len(), 1);
    assert!(sink.messages().is_empty());
}
