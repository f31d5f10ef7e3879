//! What goes on was read and printed anew: of the sender's commands only their meaning arrives inside.

use atrn_tests::inside::Inside;
use atrn_tests::world::World;

/// Argument of MAIL, and what the corporate server is told of it, the size of the message aside.
const MAIL: [(&str, &str); 9] = [
    ("FROM:<a@source.example>", "<a@source.example>"),
    ("from:<A@Source.EXAMPLE>", "<A@Source.EXAMPLE>"),
    ("FROM: <a@source.example>  ", "<a@source.example>"),
    (
        "FROM:<@hop.example,@other.example:a@source.example>",
        "<a@source.example>",
    ),
    ("FROM:<\"a b\"@source.example>", "<\"a b\"@source.example>"),
    ("FROM:<\"a>b\"@source.example>", "<\"a>b\"@source.example>"),
    (
        "FROM:<a@source.example> size=0000000000000000010",
        "<a@source.example>",
    ),
    (
        "FROM:<a@source.example>   ret=hdrs    envid=x+2By",
        "<a@source.example> RET=HDRS ENVID=x+2By",
    ),
    ("FROM:<>", "<>"),
];
/// Argument of RCPT, and what the corporate server is told.
const RCPT: [(&str, &str); 8] = [
    ("TO:<user@example.org>", "<user@example.org>"),
    ("to: <User@EXAMPLE.org> ", "<User@EXAMPLE.org>"),
    ("TO:<\"us er\"@example.org>", "<\"us er\"@example.org>"),
    ("TO:<\"us<er>\"@example.org>", "<\"us<er>\"@example.org>"),
    (
        "TO:<\"a\"@example.org> notify=failure,success",
        "<\"a\"@example.org> NOTIFY=SUCCESS,FAILURE",
    ),
    (
        "TO:<user@example.org>    NOTIFY=never",
        "<user@example.org> NOTIFY=NEVER",
    ),
    (
        "TO:<user@example.org> orcpt=rfc822;x+40y",
        "<user@example.org> ORCPT=rfc822;x+40y",
    ),
    (
        "TO:<user@example.org> ORCPT=rfc822;a+0D+0AQUIT",
        "<user@example.org> ORCPT=rfc822;a+0D+0AQUIT",
    ),
];

// covers: R5321-6, R5321-12
#[test]
fn commands_arrive_in_one_spelling() {
    let inside = Inside::smtp();
    let world = World::setup()
        .target(&inside.target())
        // In the order in which they were sent.
        .puller("relay.sessions", 1)
        .puller("handover.connections", 1)
        .start();
    let mut peer = super::session(&world);
    let send = |peer: &mut atrn_tests::peer::Peer, mail: &str, rcpt: &str| {
        peer.ask(&format!("mAiL {mail}"), "250");
        peer.ask(&format!("rcpt {rcpt}"), "250");
        peer.ask("data", "354");
        peer.ask("Subject: x\r\n\r\nx\r\n.", "250");
    };
    for (mail, _) in MAIL {
        send(&mut peer, mail, RCPT[0].0);
    }
    for (rcpt, _) in RCPT {
        send(&mut peer, MAIL[0].0, rcpt);
    }
    let _ = world.puller.pull().expect_code(0);
    let arrived = inside.messages();
    assert_eq!(arrived.len(), MAIL.len() + RCPT.len());
    for ((said, expected), arrived) in MAIL.iter().zip(&arrived) {
        assert_eq!(meaning(&arrived.mail), *expected, "{said}");
    }
    for ((said, expected), arrived) in RCPT.iter().zip(&arrived[MAIL.len()..]) {
        assert_eq!(arrived.recipients, [*expected], "{said}");
    }
    // Each command one line, and none of them somebody else's.
    for command in inside.commands() {
        let verb = command.split([' ', ':']).next().unwrap_or_default();
        let known = [
            "EHLO", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "QUIT",
        ];
        assert!(known.contains(&verb), "{command}");
    }
}

/// Without the sizes that servers on the way compute, and the kind of body.
fn meaning(mail: &str) -> String {
    let words = mail.split(' ');
    let kept: Vec<&str> = words
        .filter(|word| !word.starts_with("SIZE=") && !word.starts_with("BODY="))
        .collect();
    kept.join(" ")
}
