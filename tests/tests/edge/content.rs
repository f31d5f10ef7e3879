//! Content: it comes out as it went in, ends where it ends, and is within limits, by DATA and by BDAT.

use atrn_tests::inside::Inside;
use atrn_tests::message::{self, Message, assert_same_content, stuffed, with_subject};
use atrn_tests::peer::Peer;
use atrn_tests::sender::{Framing, Sender};
use atrn_tests::world::World;

use super::{MAIL, RCPT, ask_all, expect_all, patient_world, pulled, session, transaction};

/// The smallest limit that can be configured; RFC 5321 §4.5.3.1.7 wants 64 KiB.
const SIZE_LIMIT: usize = 65_536;

fn small_world() -> World {
    World::setup()
        .relay("smtp.max_message_size", "64KiB")
        .relay("smtp.max_errors", 1000)
        .start()
}

/// Sends content in an open DATA and expects one reply, then shows that commands are understood again.
#[track_caller]
fn content(peer: &mut Peer, octets: &[u8], reply: &str) {
    ask_all(peer, &[(MAIL, "250"), (RCPT, "250"), ("DATA", "354")]);
    peer.send_octets(octets);
    peer.expect(reply);
    peer.ask("NOOP", "250 2.0.0");
}

// covers: R5321-13, R3030-1
#[test]
fn every_kind_of_content_comes_out_as_it_went_in() {
    let inside = Inside::smtp();
    let world = World::setup().target(&inside.target()).start();
    let framings = [
        Framing::Data,
        Framing::Bdat(usize::MAX),
        Framing::Bdat(1000),
    ];
    let mut sender = Sender::connect(world.relay.smtp_address());
    for (_, content) in message::kinds() {
        for framing in framings {
            sender.send_framed(&Message::new("user@example.org", content.clone()), framing);
        }
    }
    sender.quit();
    assert_eq!(world.puller.pull().code, 0);
    let mut arrived = inside.messages().into_iter();
    for (name, content) in message::kinds() {
        for framing in framings {
            let arrived = arrived.next().expect("a message");
            assert_same_content(&format!("{name}, {framing:?}"), &content, &arrived.content);
        }
    }
    assert!(arrived.next().is_none());
}

/// Content that does not end with a line end can only come by BDAT; DATA adds one on the way in.
// covers: R3030-1
#[test]
fn chunks_may_be_cut_anywhere() {
    let world = World::start();
    let text = with_subject("chunks", b".\r\n..\r\n.end\r\n");
    let mut sender = Sender::connect(world.relay.smtp_address());
    for size in [1, 2, 3, 7] {
        sender.send_framed(
            &Message::new("user@example.org", text.clone()),
            Framing::Bdat(size),
        );
    }
    // An empty chunk, a last chunk without octets, and several chunks in one segment.
    let peer = sender.peer();
    ask_all(peer, &[(MAIL, "250"), (RCPT, "250"), ("BDAT 0", "250")]);
    peer.send_octets(
        &[
            format!("BDAT {}\r\n", text.len()).as_bytes(),
            &text,
            b"BDAT 0 LAST\r\n",
        ]
        .concat(),
    );
    expect_all(peer, &["250", "250"]);
    let whole = [
        format!("{MAIL}\r\n{RCPT}\r\nbdat {} last\r\n", text.len()).as_bytes(),
        &text,
    ]
    .concat();
    peer.send_octets(&whole.repeat(2));
    expect_all(peer, &["250 2.1.0", "250 2.1.5", "250 2.0.0"].repeat(2));
    let arrived = pulled(&world);
    assert_eq!(arrived.len(), 7);
    for arrived in arrived {
        assert_same_content("chunks", &text, &arrived.content);
    }
}

/// The octets of a chunk are never taken for commands, whether it is wanted or not.
// covers: R3030-1
#[test]
fn a_refused_chunk_is_swallowed_and_ends_the_transaction() {
    let world = patient_world();
    let mut peer = session(&world);
    let chunk = |peer: &mut Peer, reply: &str| {
        peer.send_octets(b"BDAT 12\r\nQUIT\r\nNOOP\r\n");
        peer.expect(reply);
    };
    chunk(&mut peer, "503 5.5.1");
    peer.ask(MAIL, "250");
    chunk(&mut peer, "554 5.5.1");
    peer.ask("RSET", "250");
    ask_all(&mut peer, &[(MAIL, "250"), (RCPT, "250")]);
    chunk(&mut peer, "250 2.0.0");
    ask_all(
        &mut peer,
        &[
            ("DATA", "503 5.5.1"),
            (RCPT, "503"),
            (MAIL, "503"),
            ("RSET", "250"),
        ],
    );
    // A bad line end is found at the end of its chunk; what follows belongs to no transaction.
    ask_all(&mut peer, &[(MAIL, "250"), (RCPT, "250")]);
    peer.send_octets(b"BDAT 9\r\nbare\nline");
    peer.expect("550 5.6.0");
    chunk(&mut peer, "503 5.5.1");
    ask_all(
        &mut peer,
        &[("DATA", "503 5.5.1"), (MAIL, "250"), (RCPT, "250")],
    );
    peer.send_octets(b"BDAT 3 LAST\r\nab\r");
    peer.expect("550 5.6.0");
    ask_all(&mut peer, &[(RCPT, "503 5.5.1"), ("NOOP", "250")]);
    assert!(world.queue_list().is_empty());
}

/// Where the number of octets is not known, nobody knows where the next command begins.
// covers: R3030-1
#[test]
fn a_chunk_of_unknown_or_impossible_length_ends_the_session() {
    let world = small_world();
    for (line, reply) in [
        ("BDAT", "501 5.5.4"),
        ("BDAT x", "501 5.5.4"),
        ("BDAT -1", "501 5.5.4"),
        ("BDAT 10 FIRST", "501 5.5.4"),
        ("BDAT 123456789012345678901", "501 5.5.4"),
        ("BDAT 65537 LAST", "552 5.3.4"),
        ("BDAT 18446744073709551615", "552 5.3.4"),
    ] {
        let mut peer = transaction(&world);
        peer.ask(line, reply);
        peer.expect_close();
    }
    // In several chunks the sum counts.
    let mut peer = transaction(&world);
    peer.send_octets(&[b"BDAT 65530\r\n", &message::big(65_600)[..65_530]].concat());
    peer.expect("250");
    peer.ask("BDAT 7 LAST", "552 5.3.4");
    peer.expect_close();
    assert!(world.queue_list().is_empty());
}

// covers: R3030-2
#[test]
fn binary_content_is_not_offered() {
    let world = World::start();
    let mut peer = world.relay.smtp();
    let offer = peer.ehlo("client.source.example");
    assert!(
        !offer.iter().any(|word| word.starts_with("BINARYMIME")),
        "{offer:?}"
    );
    let reply = peer.ask(&format!("{MAIL} BODY=BINARYMIME"), "5");
    assert!(["501 5.5.4", "555 5.5.4"].contains(&&reply[..9]), "{reply}");
}

/// What one server takes for the end of the content and another does not hides a second message.
// covers: R5321-14
#[test]
fn nothing_but_crlf_dot_crlf_ends_content() {
    let world = patient_world();
    let mut peer = session(&world);
    let hidden = "MAIL FROM:<evil@source.example>\r\nRCPT TO:<victim@example.org>\r\nDATA\r\nSubject: smuggled\r\n\r\nx\r\n.\r\n";
    for end in [
        "\n.\n",
        "\n.\r\n",
        "\r\n.\n",
        "\r.\r",
        "\r.\r\n",
        "\r\n.\r",
        "\r\n.\r\r\n",
        "\n\n.\r\n",
    ] {
        let smuggling = format!("Subject: x\r\n\r\ntext{end}{hidden}");
        content(&mut peer, smuggling.as_bytes(), "550 5.6.0");
    }
    assert!(world.queue_list().is_empty());
}

// covers: R5321-14
#[test]
fn a_bare_cr_or_lf_anywhere_is_refused_at_the_true_end() {
    let world = patient_world();
    let mut peer = session(&world);
    let big = message::big(100_000);
    let at_the_end = |tail: &[u8]| [&big[..], tail, b"\r\n.\r\n"].concat();
    let bad: [Vec<u8>; 8] = [
        b"\n.\r\n\r\n.\r\n".to_vec(),
        b"Subject: a\nb\r\n\r\n.\r\n".to_vec(),
        b"Subject: a\rb\r\n\r\n.\r\n".to_vec(),
        b"Subject: a\r\r\n\r\n.\r\n".to_vec(),
        b"a\r\n\nb\r\n.\r\n".to_vec(),
        at_the_end(b"x\ny"),
        at_the_end(b"x\ry"),
        at_the_end(b"\n"),
    ];
    for octets in bad {
        content(&mut peer, &octets, "550 5.6.0");
    }
    assert!(world.queue_list().is_empty());
}

/// NUL and 8-bit octets are content, of which nothing is changed.
// covers: R6152-1
#[test]
fn other_octets_are_passed_on() {
    let world = World::start();
    let body: Vec<u8> = (0..=255)
        .filter(|octet| ![b'\r', b'\n'].contains(octet))
        .collect();
    let text = with_subject("octets", &[&body[..], b"\r\n"].concat());
    world.send(&[Message::new("user@example.org", text.clone())]);
    let arrived = pulled(&world);
    assert!(
        arrived[0].mail.contains(" BODY=8BITMIME"),
        "{}",
        arrived[0].mail
    );
    assert_same_content("octets", &text, &arrived[0].content);
}

// covers: R1870-1, R1870-2, R5321-21
#[test]
fn a_declared_size_over_the_limit_is_refused_at_mail() {
    let world = small_world();
    let mut peer = world.relay.smtp();
    let offer = peer.ehlo("client.source.example");
    assert!(offer.contains(&format!("SIZE {SIZE_LIMIT}")), "{offer:?}");
    ask_all(
        &mut peer,
        &[
            ("MAIL FROM:<a@source.example> SIZE=65537", "552 5.3.4"),
            (
                "MAIL FROM:<a@source.example> SIZE=99999999999999999999",
                "552 5.3.4",
            ),
            (
                "MAIL FROM:<a@source.example> SIZE=123456789012345678901",
                "501 5.5.4",
            ),
            ("MAIL FROM:<a@source.example> SIZE=", "501 5.5.4"),
            ("MAIL FROM:<a@source.example> SIZE", "501 5.5.4"),
            ("MAIL FROM:<a@source.example> SIZE=-1", "501 5.5.4"),
            ("MAIL FROM:<a@source.example> SIZE=0", "250"),
            ("RSET", "250"),
            ("MAIL FROM:<a@source.example> SIZE=65536", "250"),
        ],
    );
}

/// The size that counts is the real one, of the content before dots are stuffed.
// covers: R1870-2, R5321-20, R5321-21
#[test]
fn the_real_size_decides_at_the_end_of_data() {
    let world = small_world();
    let mut peer = session(&world);
    let exact = |octets: usize| {
        let mut content = message::big(octets);
        content.truncate(octets - 2);
        content.extend_from_slice(b"\r\n");
        content
    };
    for (size, reply) in [
        (SIZE_LIMIT, "250 2.0.0"),
        (SIZE_LIMIT + 1, "552 5.3.4"),
        (2 * SIZE_LIMIT, "552 5.3.4"),
    ] {
        content(&mut peer, &stuffed(&exact(size)), reply);
    }
    let mut dots = exact(SIZE_LIMIT);
    dots[10_000..10_006].copy_from_slice(b"\r\n....");
    assert!(stuffed(&dots).len() > SIZE_LIMIT + 3);
    content(&mut peer, &stuffed(&dots), "250 2.0.0");
    // A false declaration does no harm, either way.
    for (declared, size, reply) in [
        (100, SIZE_LIMIT + 1, "552 5.3.4"),
        (100, 1000, "250"),
        (SIZE_LIMIT, 1000, "250"),
    ] {
        ask_all(
            &mut peer,
            &[
                (&format!("{MAIL} SIZE={declared}"), "250"),
                (RCPT, "250"),
                ("DATA", "354"),
            ],
        );
        peer.send_octets(&stuffed(&exact(size)));
        peer.expect(reply);
    }
    assert_eq!(world.queue_list().len(), 4);
    assert_eq!(pulled(&world).len(), 4);
}

/// A client that goes on far beyond the limit is not listened to until its end.
// covers: R5321-21
#[test]
fn content_of_twice_the_limit_and_more_ends_the_session() {
    let world = small_world();
    let mut peer = transaction(&world);
    peer.ask("DATA", "354");
    // It may hang up while we are still sending.
    peer.try_send_octets(&message::big(3 * SIZE_LIMIT)).ok();
    let last = peer.try_line();
    assert!(
        last.as_ref()
            .is_none_or(|line| line.starts_with("552 5.3.4")),
        "{last:?}"
    );
    if last.is_some() {
        peer.expect_close();
    }
    assert!(world.queue_list().is_empty());
    assert_eq!(world.relay.spool_files(), 0);
}

/// Real mail has lines of more than 1000 octets (RFC 5321 §4.5.3.1.6), and they are not ours to break.
// covers: R5321-20, R5321-21
#[test]
fn long_lines_are_passed_on_up_to_a_limit() {
    const LINE: usize = 1 << 20;
    let world = patient_world();
    let mut peer = session(&world);
    let lines = [998, 1000, 1001, LINE];
    for octets in lines {
        content(
            &mut peer,
            &stuffed(&message::long_line(octets)),
            "250 2.0.0",
        );
    }
    content(
        &mut peer,
        &stuffed(&message::long_line(LINE + 1)),
        "550 5.6.0",
    );
    let header = |octets: usize| {
        "X-Filler: 0123456789012345678901234567890123456789\r\n".repeat(octets / 52) + "\r\n"
    };
    content(
        &mut peer,
        &stuffed(header(LINE - 1000).as_bytes()),
        "250 2.0.0",
    );
    content(
        &mut peer,
        &stuffed(header(LINE + 1000).as_bytes()),
        "552 5.3.4",
    );
    let arrived = pulled(&world);
    assert_eq!(arrived.len(), 5);
    for (octets, arrived) in lines.iter().zip(&arrived) {
        assert_same_content(
            &format!("{octets} octets"),
            &message::long_line(*octets),
            &arrived.content,
        );
    }
}

/// Acknowledged, then killed with no time for anything: it is there, octet for octet.
// covers: R5321-15
#[test]
fn acknowledged_mail_survives_kill() {
    let mut world = World::start();
    let contents: Vec<Vec<u8>> = message::kinds()
        .into_iter()
        .map(|(_, content)| content)
        .collect();
    let messages: Vec<Message> = contents
        .iter()
        .map(|content| Message::new("user@example.org", content.clone()))
        .collect();
    let mut sender = Sender::connect(world.relay.smtp_address());
    for message in &messages {
        sender.send(message);
        world.relay.restart();
        sender = Sender::connect(world.relay.smtp_address());
    }
    let arrived = pulled(&world);
    assert_eq!(arrived.len(), contents.len());
    for (content, arrived) in contents.iter().zip(&arrived) {
        assert_same_content("after kill", content, &arrived.content);
    }
}
