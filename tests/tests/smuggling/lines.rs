//! What a peer says comes back in no reply, and makes no line of a log but its own.

use atrn_tests::log_lines::assert_log_is_whole;
use atrn_tests::peer::{Peer, plain};
use atrn_tests::world::World;

/// Shows wherever it comes through.
const MARK: &str = "Zx7Mark";
/// As an operator would see it, were the log taken in.
const FORGED: &str = "2026-01-01T00:00:00Z  INFO atrn_relay: forged";

/// What is said behind each verb.
const ARGUMENTS: [&str; 7] = [
    "<Zx7Mark@foreign.example>",
    "\x1b[31mZx7Mark\x1b[0m",
    "<Zx7Mark\u{202e}@foreign.example>",
    "<script>Zx7Mark</script>",
    "%s%nZx7Mark",
    "Zx7Mark\0",
    "Zx7Mark@",
];

// covers: R5321-2
#[test]
fn no_reply_at_the_edge_repeats_what_was_said() {
    let world = World::setup().relay("smtp.max_errors", 1000).start();
    for verb in [
        "EHLO ",
        "HELO ",
        "MAIL FROM:",
        "MAIL ",
        "RCPT TO:",
        "RCPT ",
        "DATA ",
        "RSET ",
        "NOOP ",
        "HELP ",
        "VRFY ",
        "EXPN ",
        "STARTTLS ",
        "AUTH ",
        "ATRN ",
        "ETRN ",
        "XYZZY",
        "",
        "GET / HTTP/1.1 ",
    ] {
        let mut peer = super::session(&world);
        for argument in ARGUMENTS {
            if verb.starts_with("RCPT") {
                peer.ask("RSET", "250");
                peer.ask("MAIL FROM:<sender@source.example> SMTPUTF8", "250");
            }
            peer.send(&format!("{verb}{argument}"));
            assert_no_mark(&mut peer);
        }
    }
    // Behind these the session ends.
    for verb in ["BDAT 1 ", "BDAT ", "QUIT "] {
        for argument in ARGUMENTS {
            let mut peer = super::session(&world);
            peer.send(&format!("{verb}{argument}"));
            assert_no_mark(&mut peer);
        }
    }
}

// covers: R5321-2
#[test]
fn no_reply_at_the_pullers_port_repeats_what_was_said() {
    let world = World::start();
    for is_logged_in in [false, true] {
        for verb in [
            "EHLO ",
            "ATRN ",
            "AUTH ",
            "AUTH PLAIN ",
            "STARTTLS ",
            "MAIL FROM:",
            "XYZZY",
            "HELP ",
            "RSET ",
        ] {
            let mut peer = if is_logged_in {
                world.relay.odmr_authenticated()
            } else {
                world.relay.odmr()
            };
            for argument in ARGUMENTS {
                peer.send(&format!("{verb}{argument}"));
                assert_no_mark(&mut peer);
            }
        }
    }
}

// covers: R5321-2
#[test]
fn a_log_line_cannot_be_forged() {
    let world = World::setup().relay("smtp.max_errors", 1000).start();
    let mut peer = super::session(&world);
    for line in [
        format!("MAIL FROM:<sender@source.example>\n{FORGED}"),
        format!("XYZZY\r{FORGED}"),
        format!("VRFY \x1b[2J\x1b[H{FORGED}"),
        format!("EHLO \x07{FORGED}"),
    ] {
        peer.ask(&line, "500");
    }
    peer.ask(
        "MAIL FROM:<\"\u{202e}\u{1f600} session=1 peer=trusted\"@source.example> SMTPUTF8",
        "250",
    );
    peer.ask(
        "RCPT TO:<\" INFO forged \u{202e}gro.elpmaxe\"@foreign.example>",
        "550",
    );
    peer.ask(
        &format!(
            "RCPT TO:<\"{}\"@foreign.example>",
            "x INFO forged ".repeat(4)
        ),
        "550",
    );
    peer.ask("RCPT TO:<user@example.org>", "250");
    peer.ask("DATA", "354");
    peer.send_octets(format!("Subject: x\r\n\r\n{FORGED}\r\n\x1b[2J{FORGED}\r\n.\r\n").as_bytes());
    peer.expect("250");
    // A name may have anything in it, and it is known before it is proven.
    for account in [
        format!("corp\r\n{FORGED}"),
        format!("corp\n{FORGED}\n"),
        format!("\x1b]0;{FORGED}\x07corp"),
        format!("corp\u{2028}{FORGED}"),
        format!("{}{FORGED}", "x".repeat(4000)),
    ] {
        let mut peer = world.relay.odmr();
        peer.ehlo("puller.example.org");
        let line = peer.ask(&format!("AUTH PLAIN {}", plain(&account, "wrong")), "5");
        assert!(!line.contains("forged"), "{line}");
    }
    let mut peer = world.relay.odmr_authenticated();
    peer.send_octets(format!("ATRN example.org\x1b[2J,{FORGED}\r\n").as_bytes());
    peer.expect("500");
    assert_log_is_whole(&world.relay.log());
}

#[track_caller]
fn assert_no_mark(peer: &mut Peer) {
    let reply = peer.reply();
    assert!(!reply.concat().contains(MARK), "{reply:?}");
    assert!(
        reply
            .iter()
            .all(|line| line.chars().all(|c| (' '..='~').contains(&c))),
        "{reply:?}"
    );
}
