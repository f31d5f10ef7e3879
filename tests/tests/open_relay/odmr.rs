//! A puller's secret is good for one thing: to be given what is held for its domains. It brings no mail in.

use atrn_tests::peer::Peer;
use atrn_tests::world::{ACCOUNT, DOMAIN, World};

use super::MAIL;

/// Everything that brings mail, or asks for somebody else's.
const MAIL_COMMANDS: [&str; 14] = [
    "MAIL FROM:<>",
    "MAIL FROM:<user@example.org>",
    "MAIL FROM:<user@example.org> AUTH=corp",
    "RCPT TO:<user@foreign.example>",
    "RCPT TO:<user@example.org>",
    "RCPT TO:<user%foreign.example@example.org>",
    "DATA",
    "BDAT 4 LAST",
    "SEND FROM:<user@example.org>",
    "SOML FROM:<user@example.org>",
    "SAML FROM:<user@example.org>",
    "TURN",
    "ETRN foreign.example",
    "VRFY user@foreign.example",
];

/// How far a puller has come.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Greeted,
    AfterEhlo,
    AfterAuth,
    /// The relay had no mail, and goes on.
    AfterAtrn,
}

// covers: R5321-8, R2645-1
#[test]
fn the_pullers_port_takes_no_mail_before_auth_nor_behind_it() {
    let world = World::start();
    let forms = super::all_forms();
    let forms: Vec<Vec<u8>> = forms
        .into_iter()
        .map(|(form, _)| [b"RCPT TO:", &*form].concat())
        .collect();
    let commands: Vec<Vec<u8>> = MAIL_COMMANDS
        .iter()
        .map(|command| command.as_bytes().to_vec())
        .collect();
    for stage in [
        Stage::Greeted,
        Stage::AfterEhlo,
        Stage::AfterAuth,
        Stage::AfterAtrn,
    ] {
        refuse_all(&world, stage, &commands);
    }
    refuse_all(&world, Stage::AfterAuth, &forms);
    assert!(world.queue_list().is_empty());
}

/// Who is logged in asks for his own, and learns nothing of others.
// covers: R2645-11
#[test]
fn atrn_gives_nobody_elses_mail() {
    let world = World::setup()
        .domain(DOMAIN)
        .domain("other.example")
        .account(ACCOUNT, &[DOMAIN])
        .account("other", &["other.example"])
        .start();
    let mut sender = super::session(&world);
    sender.ask(MAIL, "250");
    sender.ask("RCPT TO:<user@other.example>", "250");
    sender.ask("DATA", "354");
    sender.ask("Subject: theirs\r\n\r\nx\r\n.", "250");
    let mut peer = world.relay.odmr_authenticated();
    for (command, reply) in [
        ("ATRN other.example", "450"),
        ("ATRN example.org,other.example", "450"),
        ("ATRN OTHER.EXAMPLE", "450"),
        ("ATRN other.example.", "501"),
        ("ATRN @other.example", "501"),
        ("ATRN #other", "501"),
        ("ATRN *", "501"),
        ("ATRN sub.example.org", "450"),
        ("ATRN example.org other.example", "501"),
        ("ATRN example.org", "453"),
        ("ATRN", "453"),
    ] {
        peer.ask(command, reply);
    }
    assert_eq!(world.queue_list().len(), 1);
}

/// In the reversed session the relay is the client. A puller that goes on giving commands is not obeyed: its lines are
/// no replies, and the session ends.
// covers: R5321-8, R2645-1
#[test]
fn the_reversed_session_takes_no_commands_of_the_puller() {
    let world = World::start();
    world.send(&[atrn_tests::message::Message::new(
        "user@example.org",
        atrn_tests::message::plain(1),
    )]);
    for command in MAIL_COMMANDS {
        let mut peer = turned(&world);
        peer.send("220 puller.example.org ESMTP");
        peer.expect_command("EHLO ");
        peer.send(command);
        assert_no_service(&mut peer, command);
    }
    // The same in place of the greeting, and behind one.
    for octets in [
        "EHLO puller.example.org\r\nMAIL FROM:<>\r\nRCPT TO:<user@foreign.example>\r\nDATA\r\n",
        "MAIL FROM:<>\r\n",
        "220 puller.example.org\r\nMAIL FROM:<>\r\nRCPT TO:<user@foreign.example>\r\n",
    ] {
        let mut peer = turned(&world);
        peer.send_octets(octets.as_bytes());
        assert_no_service(&mut peer, octets);
    }
    assert_eq!(world.relay.queue_lines(), ["user@example.org queued 0"]);
    // And the mail that is held comes when it is asked for as it should be.
    super::assert_what_comes_out_is_ours(&world, 1);
}

fn turned(world: &World) -> Peer {
    let mut peer = world.relay.odmr_authenticated();
    peer.ask(&format!("ATRN {DOMAIN}"), "250");
    peer
}

/// Whatever comes until the end is a command of the relay's as client; no reply that a server gives.
#[track_caller]
fn assert_no_service(peer: &mut Peer, said: &str) {
    while let Some(line) = peer.try_line() {
        let is_reply = line
            .get(..3)
            .is_some_and(|code| code.bytes().all(|octet| octet.is_ascii_digit()));
        assert!(!is_reply, "{said}: {line}\n{}", peer.dialogue());
    }
}

/// As many to a connection as it bears.
#[track_caller]
fn refuse_all(world: &World, stage: Stage, commands: &[Vec<u8>]) {
    for few in commands.chunks(8) {
        let mut peer = at(world, stage);
        for command in few {
            peer.send_octets(&[command, &b"\r\n"[..]].concat());
            let line = peer.reply().pop().unwrap_or_default();
            assert!(
                line.starts_with('5'),
                "{stage:?}: {line}\n{}",
                peer.dialogue()
            );
        }
        peer.ask("QUIT", "221");
    }
}

fn at(world: &World, stage: Stage) -> Peer {
    match stage {
        Stage::Greeted => world.relay.odmr(),
        Stage::AfterEhlo => {
            let mut peer = world.relay.odmr();
            peer.ehlo("puller.example.org");
            peer
        }
        Stage::AfterAuth => world.relay.odmr_authenticated(),
        Stage::AfterAtrn => {
            let mut peer = world.relay.odmr_authenticated();
            peer.ask(&format!("ATRN {DOMAIN}"), "453");
            peer
        }
    }
}
