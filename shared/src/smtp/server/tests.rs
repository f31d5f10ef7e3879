//! Dialogues with the receiving side alone; the pair and the transcripts stand with the client and in `tests`.

use proptest::prelude::*;

use super::*;

mod ahead;

fn config() -> Arc<Config> {
    Arc::new(Config {
        hostname: "mx.example".into(),
        extensions: Extensions {
            chunking: true,
            delivery_id: true,
            dsn: true,
            eight_bit_mime: true,
            enhanced_status_codes: true,
            pipelining: true,
            size: Some(1000),
            smtputf8: true,
            ..Extensions::default()
        },
        recipients_max: 3,
        errors_max: 20,
        ..Config::new("mx.example", Extensions::default())
    })
}

/// What a driver saw and what the client got.
#[derive(Debug, Default, Eq, PartialEq)]
struct Seen {
    replies: String,
    messages: Vec<String>,
    abandoned: usize,
    closed: bool,
}

/// The codes of the replies, one a reply.
fn codes(replies: &str) -> Vec<&str> {
    replies
        .lines()
        .filter(|line| line.as_bytes()[3] == b' ')
        .map(|line| &line[..3])
        .collect()
}

/// A step is sent when the replies to the one before it are there: `¦` parts the steps.
fn dialogue(steps: &str) -> Seen {
    let mut server = Server::new(config(), Tls::Offered);
    server.output.clear();
    let mut buffer = Input::new();
    let mut seen = Seen::default();
    for step in steps.split('¦') {
        buffer.push(step.as_bytes());
        loop {
            match server.next(&mut buffer) {
                Event::NeedInput => break,
                Event::Mail(path, _) => server.answer(verdict(&path.to_string())),
                Event::Recipient(path, _) => server.answer(verdict(&path.to_string())),
                Event::Content(_) => server.answer(Reply::bare(354, "Go ahead")),
                Event::Body(part) => seen
                    .messages
                    .push(String::from_utf8_lossy(part).into_owned()),
                Event::EndOfMessage(_) => server.answer(Reply::new(250, "2.0.0", "Taken")),
                Event::Abandoned(_) => seen.abandoned += 1,
                Event::StartTls => server.tls_started(),
                Event::Closed => {
                    seen.closed = true;
                    break;
                }
            }
        }
    }
    seen.replies = String::from_utf8(server.output).unwrap();
    seen
}

/// Everybody is welcome but one, and one was here before.
fn verdict(path: &str) -> Reply {
    if path.starts_with("taken@") {
        Reply::new(258, "2.0.0", "already delivered")
    } else if path.starts_with("refused@") {
        Reply::new(550, "5.7.1", "No")
    } else {
        Reply::new(250, "2.0.0", "Ok")
    }
}

#[track_caller]
fn expect(steps: &str, expected: &[&str]) -> Seen {
    let seen = dialogue(steps);
    assert_eq!(
        codes(&seen.replies),
        expected,
        "{steps:?}: {}",
        seen.replies
    );
    seen
}

const HELLO: &str = "EHLO c.example\r\n¦";
const OPEN: &str = "EHLO c.example\r\n¦MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n";

fn after(start: &str, rest: &str) -> String {
    format!("{start}¦{rest}")
}

// covers: R5321-5
#[test]
fn commands_out_of_order_are_refused() {
    expect("MAIL FROM:<>\r\n", &["503"]);
    expect(
        &after(HELLO, "RCPT TO:<c@d.example>\r\nDATA\r\n"),
        &["250", "503", "503"],
    );
    expect(
        &after(HELLO, "MAIL FROM:<>\r\nMAIL FROM:<>\r\n"),
        &["250", "250", "503"],
    );
    expect(
        &after(HELLO, "MAIL FROM:<>\r\nDATA\r\n"),
        &["250", "250", "554"],
    );
    expect(&after(OPEN, "DATA now\r\n"), &["250", "250", "250", "501"]);
    expect(
        &after(HELLO, "QUIT now\r\nRSET now\r\nNOOP now\r\n"),
        &["250", "501", "501", "250"],
    );
}

// covers: R5321-4
#[test]
fn hello_reset_and_the_end_of_data_clear_the_transaction() {
    let seen = expect(
        &after(OPEN, "RSET\r\nDATA\r\n"),
        &["250", "250", "250", "250", "503"],
    );
    assert_eq!(seen.abandoned, 1);
    let seen = expect(
        &after(OPEN, "EHLO c.example\r\n¦DATA\r\n"),
        &["250", "250", "250", "250", "503"],
    );
    assert_eq!(seen.abandoned, 1);
    let seen = expect(
        &after(OPEN, "DATA\r\n¦x\r\n.\r\n¦DATA\r\n"),
        &["250", "250", "250", "354", "250", "503"],
    );
    assert_eq!(seen.abandoned, 0);
    expect(
        &after(OPEN, "STARTTLS\r\n¦MAIL FROM:<>\r\n"),
        &["250", "250", "250", "220", "503"],
    );
}

// covers: R5321-11
#[test]
fn the_other_commands_get_their_replies() {
    expect(
        &after(
            HELLO,
            "VRFY a\r\nEXPN a\r\nHELP\r\nNOOP x\r\nSEND a\r\nSOML a\r\nSAML a\r\nTURN\r\nWHAT\r\n\r\n",
        ),
        &[
            "250", "252", "502", "214", "250", "502", "502", "502", "502", "500", "500",
        ],
    );
    assert!(expect("QUIT\r\n", &["221"]).closed);
}

// covers: R2645-22, R2645-21
#[test]
fn no_second_reversal_and_no_authentication() {
    let seen = expect(
        &after(HELLO, "ATRN a.example\r\nETRN a.example\r\nAUTH PLAIN\r\n"),
        &["250", "502", "502", "502"],
    );
    assert!(!seen.replies.contains("AUTH"));
}

// covers: R2920-3, R3207-2
#[test]
fn nothing_may_stand_behind_a_command_that_ends_its_group() {
    for (steps, expected) in [
        ("EHLO c.example\r\nMAIL FROM:<>\r\n", &["503"][..]),
        (
            &after(HELLO, "STARTTLS\r\nEHLO c.example\r\n"),
            &["250", "554"],
        ),
        (
            &after(OPEN, "DATA\r\nx\r\n.\r\n"),
            &["250", "250", "250", "503"],
        ),
    ] {
        assert!(expect(steps, expected).closed);
    }
}

// covers: R3207-1, R2645-20
#[test]
fn starttls_is_taken_once_and_without_argument() {
    let seen = expect(
        &after(
            HELLO,
            "STARTTLS x\r\n¦STARTTLS\r\n¦EHLO c.example\r\n¦STARTTLS\r\n",
        ),
        &["250", "501", "220", "250", "503"],
    );
    assert_eq!(seen.replies.matches("250-STARTTLS").count(), 1);
}

// covers: R2920-1, R5321-21
#[test]
fn a_pipelined_group_is_answered_in_order() {
    let group = "MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nRCPT TO:<%@d.example>\r\nRCPT TO:<e@d.example>\r\nRCPT TO:<f@d.example>\r\nRCPT TO:<g@d.example>\r\nDATA\r\n";
    expect(
        &after(HELLO, group),
        &["250", "250", "250", "550", "250", "250", "452", "354"],
    );
}

// covers: R5321-7
#[test]
fn local_parts_that_might_route_are_refused() {
    for local_part in [
        "a%b",
        "a!b",
        "\"a@b\"",
        "a/b",
        "a|b",
        "-a",
        "\"-a\"",
        "\".a\"",
        "\"a\\\\b\"",
    ] {
        let rcpt = format!("MAIL FROM:<>\r\nRCPT TO:<{local_part}@d.example>\r\n");
        expect(&after(HELLO, &rcpt), &["250", "250", "550"]);
    }
    expect(
        &after(
            HELLO,
            "MAIL FROM:<a%b@c.example>\r\nRCPT TO:<a+b@d.example>\r\n",
        ),
        &["250", "250", "250"],
    );
}

// covers: R1870-1, R1870-2, R5321-21
#[test]
fn the_real_size_decides() {
    expect(
        &after(
            HELLO,
            "MAIL FROM:<> SIZE=1000\r\nRSET\r\nMAIL FROM:<> SIZE=1001\r\n",
        ),
        &["250", "250", "250", "552"],
    );
    let long = "x".repeat(1001);
    let seen = expect(
        &after(OPEN, &format!("DATA\r\n¦{long}\r\n.\r\n¦NOOP\r\n")),
        &["250", "250", "250", "354", "552", "250"],
    );
    assert_eq!((seen.abandoned, seen.closed), (1, false));
    let endless = "x\r\n".repeat(2000);
    assert!(
        expect(
            &after(OPEN, &format!("DATA\r\n¦{endless}")),
            &["250", "250", "250", "354", "552"]
        )
        .closed
    );
}

// covers: R5321-14
#[test]
fn bare_line_ends_are_refused_at_the_true_end() {
    for content in [
        "a\n.\nb\r\n",
        "a\r.\rb\r\n",
        "a\n.\r\nMAIL FROM:<>\r\n",
        "\r\n.\n\r\n",
        "a\r\n.\rb\r\n",
    ] {
        let steps = after(OPEN, &format!("DATA\r\n¦{content}.\r\n¦NOOP\r\n"));
        let seen = expect(&steps, &["250", "250", "250", "354", "550", "250"]);
        assert_eq!(seen.abandoned, 1);
    }
}

// covers: R3030-1
#[test]
fn bdat_takes_chunks_and_refuses_without_losing_its_place() {
    let taken = expect(
        &after(OPEN, "BDAT 3\r\nabcBDAT 2 LAST\r\n\r\n"),
        &["250", "250", "250", "250", "250"],
    );
    assert_eq!(taken.messages.concat(), "abc\r\n");
    expect(
        &after(HELLO, "BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n"),
        &["250", "503", "250"],
    );
    expect(
        &after(
            OPEN,
            "BDAT 1\r\naDATA\r\nRCPT TO:<c@d.example>\r\nBDAT 1 LAST\r\nbNOOP\r\n",
        ),
        &["250", "250", "250", "250", "503", "503", "250", "250"],
    );
    expect(
        &after(OPEN, "BDAT 3 LAST\r\na\nbNOOP\r\nBDAT 1 LAST\r\nx"),
        &["250", "250", "250", "550", "250", "503"],
    );
    expect(
        &after(OPEN, "BDAT 2 LAST\r\na\rNOOP\r\n"),
        &["250", "250", "250", "550", "250"],
    );
    assert!(expect(&after(OPEN, "BDAT x\r\n"), &["250", "250", "250", "501"]).closed);
    assert!(
        expect(
            &after(OPEN, "BDAT 1001 LAST\r\n"),
            &["250", "250", "250", "552"]
        )
        .closed
    );
    assert!(
        expect(
            &after(OPEN, "BDAT 99999999999999999999\r\n"),
            &["250", "250", "250", "501"]
        )
        .closed
    );
}

// covers: R6531-1
#[test]
fn utf8_paths_need_the_parameter() {
    expect(
        &after(HELLO, "MAIL FROM:<ä@b.example>\r\n"),
        &["250", "553"],
    );
    expect(
        &after(HELLO, "MAIL FROM:<> \r\nRCPT TO:<ä@b.example>\r\n"),
        &["250", "250", "553"],
    );
    expect(
        &after(
            HELLO,
            "MAIL FROM:<ä@b.example> SMTPUTF8\r\nRCPT TO:<ö@b.example>\r\n",
        ),
        &["250", "250", "250"],
    );
}

// covers: R5321-22
#[test]
fn too_many_errors_end_in_421() {
    let seen = dialogue(&"WHAT\r\n".repeat(30));
    assert!(seen.closed);
    assert_eq!(codes(&seen.replies).len(), 22);
    assert!(
        seen.replies
            .ends_with("421 4.7.0 Too many errors, closing\r\n")
    );
}

/// What a pipelining client sends behind a refusal is refused too, and nobody's fault (RFC 2920 §3.1).
// covers: R2920-1
#[test]
fn what_follows_a_refusal_is_no_error() {
    for (sender, recipient) in [("refused", "a"), ("a", "refused")] {
        for content in ["DATA\r\n¦", "BDAT 3 LAST\r\nx\r\n"] {
            let transaction = format!(
                "MAIL FROM:<{sender}@b.example>\r\nRCPT TO:<{recipient}@b.example>\r\n{content}RSET\r\n"
            );
            let seen = dialogue(&format!("{HELLO}{}QUIT\r\n", transaction.repeat(30)));
            assert!(
                seen.replies.ends_with("221 2.0.0 Bye\r\n"),
                "{transaction}: {}",
                seen.replies
            );
            assert!(seen.messages.is_empty());
        }
    }
    let seen = dialogue(&format!("{HELLO}{}", "BDAT 3 LAST\r\nx\r\n".repeat(30)));
    assert!(
        seen.replies
            .ends_with("421 4.7.0 Too many errors, closing\r\n")
    );
}

// covers: R5321-1, R5321-20
#[test]
fn the_greeting_names_the_host_and_esmtp() {
    let server = Server::new(config(), Tls::Unavailable);
    assert_eq!(server.output, b"220 mx.example ESMTP\r\n");
}

// covers: R5321-28
#[test]
fn answers_may_wait_until_the_group_is_known() {
    let mut server = Server::new(config(), Tls::Active);
    let mut input = Input::new();
    input.push(b"EHLO c.example\r\n");
    assert_eq!(server.next(&mut input), Event::NeedInput);
    server.output.clear();
    input.push(b"MAIL FROM:<a@b.example>\r\nNOOP\r\nRCPT TO:<c@d.example>\r\nBDAT 2 LAST\r\n\r\nMAIL FROM:<>\r\n");
    assert!(matches!(server.next(&mut input), Event::Mail(..)));
    assert!(matches!(server.next(&mut input), Event::Recipient(..)));
    assert_eq!(
        server.next(&mut input),
        Event::Content(Framing::Bdat { octets: Some(2) })
    );
    assert_eq!(server.next(&mut input), Event::NeedInput);
    assert!(server.is_asking() && server.output.is_empty());
    server.answer(Reply::new(250, "2.1.0", "Ok"));
    server.answer(Reply::new(250, "2.1.5", "Ok"));
    server.answer(Reply::bare(354, "Go ahead"));
    assert_eq!(server.next(&mut input), Event::Body(b"\r\n"));
    assert!(matches!(server.next(&mut input), Event::EndOfMessage(_)));
    // The next transaction may begin before the verdict on this one.
    assert!(matches!(
        server.next(&mut input),
        Event::Mail(ReversePath::Null, _)
    ));
    server.answer(Reply::new(250, "2.0.0", "Taken"));
    server.answer(Reply::new(450, "4.0.0", "Later"));
    let replies = String::from_utf8(server.output.clone()).unwrap();
    assert_eq!(codes(&replies), ["250", "250", "250", "250", "450"]);
}

// covers: R5321-28
#[test]
fn what_follows_a_refused_sender_is_refused() {
    let mut server = Server::new(config(), Tls::Active);
    let mut input = Input::new();
    input.push(b"EHLO c.example\r\n");
    assert_eq!(server.next(&mut input), Event::NeedInput);
    server.output.clear();
    input.push(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nBDAT 2 LAST\r\n\r\nRCPT TO:<c@d.example>\r\n");
    for _ in 0..3 {
        assert_ne!(server.next(&mut input), Event::NeedInput);
    }
    server.answer(Reply::new(550, "5.7.1", "No"));
    server.answer(Reply::new(250, "2.1.5", "Ok"));
    server.answer(Reply::bare(354, "Go ahead"));
    assert_eq!(server.next(&mut input), Event::NeedInput);
    let replies = String::from_utf8(server.output.clone()).unwrap();
    assert_eq!(codes(&replies), ["550", "503", "503", "503"]);
}

const NAMED: &str = " XDELIVERYID=01HRT000000.0.3AZ_-x";

// covers: R-DUP
#[test]
fn a_delivery_that_was_taken_before_opens_no_transaction() {
    let mail = format!("MAIL FROM:<taken@b.example>{NAMED}\r\n");
    let next = format!("MAIL FROM:<a@b.example>{NAMED}x\r\nRCPT TO:<c@d.example>\r\n");
    for (behind, expected) in [
        ("", &[][..]),
        ("RCPT TO:<c@d.example>\r\nDATA\r\n¦", &["503", "503"]),
        ("¦RCPT TO:<c@d.example>\r\n¦DATA\r\n¦", &["503", "503"]),
        (
            "RCPT TO:<c@d.example>\r\nBDAT 12 LAST\r\nMAIL FROM:<>",
            &["503", "503"],
        ),
        (
            "¦RCPT TO:<c@d.example>\r\nBDAT 6\r\nQUIT\r\nBDAT 6 LAST\r\nQUIT\r\n",
            &["503", "503", "503"],
        ),
    ] {
        let expected = [&["250", "258"], expected, &["250", "250", "250"]].concat();
        let seen = expect(
            &format!("{HELLO}{mail}{behind}{next}BDAT 3 LAST\r\nx\r\n"),
            &expected,
        );
        assert_eq!(
            (seen.messages, seen.abandoned),
            (vec!["x\r\n".to_owned()], 0)
        );
        // Nobody who pipelines could know, so none of it is an error, however often.
        let often = format!("{HELLO}{}QUIT\r\n", format!("{mail}{behind}").repeat(30));
        assert!(dialogue(&often).replies.ends_with("221 2.0.0 Bye\r\n"));
    }
}

// covers: R-DUP
#[test]
fn content_goes_to_those_only_who_do_not_have_it() {
    let mail = format!("{HELLO}MAIL FROM:<a@b.example>{NAMED}\r\nRCPT TO:<taken@d.example>\r\n");
    expect(
        &format!("{mail}RCPT TO:<c@d.example>\r\nBDAT 3 LAST\r\nx\r\n"),
        &["250", "250", "258", "250", "250"],
    );
    for content in ["BDAT 3 LAST\r\nx\r\n", "DATA\r\n¦"] {
        let seen = expect(&format!("{mail}{content}"), &["250", "250", "258", "554"]);
        assert!(seen.messages.is_empty());
    }
    // They count as recipients when there are too many.
    let more = "RCPT TO:<c@d.example>\r\n".repeat(3);
    expect(
        &format!("{mail}{more}"),
        &["250", "250", "258", "250", "250", "452"],
    );
}

/// The word of some other server that was passed on: a yes like any other.
// covers: R-DUP, R5321-24
#[test]
fn without_a_delivery_id_258_is_a_plain_yes() {
    expect(
        &after(
            HELLO,
            "MAIL FROM:<taken@b.example>\r\nRCPT TO:<taken@d.example>\r\nDATA\r\n¦x\r\n.\r\n",
        ),
        &["250", "258", "258", "354", "250"],
    );
}

// covers: R-DUP, R5321-12
#[test]
fn a_delivery_id_is_taken_only_where_it_is_offered_and_good() {
    for id in ["", "a b", "a/b", &"a".repeat(129)] {
        let steps = format!("{HELLO}MAIL FROM:<> XDELIVERYID={id}\r\n");
        let expected = if id == "a b" { "555" } else { "501" };
        expect(&steps, &["250", expected]);
    }
    let mut server = Server::new(
        Arc::new(Config::new("mx.example", Extensions::default())),
        Tls::Active,
    );
    let mut input = Input::new();
    for line in ["EHLO c.example\r\n", "MAIL FROM:<> XDELIVERYID=a\r\n"] {
        input.push(line.as_bytes());
        assert_eq!(server.next(&mut input), Event::NeedInput);
    }
    let replies = String::from_utf8(server.output).unwrap();
    assert!(replies.ends_with("555 5.5.4 Parameter not supported\r\n"));
    assert!(!replies.contains("XDELIVERYID"));
}

// covers: R-DUP, R5321-28
#[test]
fn a_delivery_that_was_taken_before_is_known_after_all_was_read_ahead() {
    let mut server = Server::new(config(), Tls::Active);
    let mut input = Input::new();
    input.push(b"EHLO c.example\r\n");
    assert_eq!(server.next(&mut input), Event::NeedInput);
    server.output.clear();
    input.push(b"MAIL FROM:<a@b.example> XDELIVERYID=a\r\nRCPT TO:<c@d.example>\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n");
    for _ in 0..3 {
        assert_ne!(server.next(&mut input), Event::NeedInput);
    }
    server.answer(Reply::new(258, "2.0.0", "already delivered"));
    assert!(!server.in_transaction());
    server.answer(Reply::new(250, "2.1.5", "Ok"));
    server.answer(Reply::bare(354, "Go ahead"));
    assert_eq!(server.next(&mut input), Event::NeedInput);
    let replies = String::from_utf8(server.output.clone()).unwrap();
    assert_eq!(codes(&replies), ["258", "503", "503", "250"]);
    assert!(server.take_refusals().is_empty());
}

proptest! {
    /// Whatever comes, in whatever pieces, the machine neither panics nor stalls, and BDAT sessions read the same.
    #[test]
    fn any_input_in_any_pieces_is_survived(
        words in proptest::collection::vec(prop_oneof![
            Just("MAIL FROM:<a@b.example>\r\n"), Just("MAIL FROM:<bad@b.example>\r\n"),
            Just("MAIL FROM:<taken@b.example> XDELIVERYID=a\r\n"), Just("RCPT TO:<taken@d.example>\r\n"),
            Just("MAIL FROM:<a@b.example> XDELIVERYID=b\r\n"),
            Just("RCPT TO:<c@d.example>\r\n"), Just("RCPT TO:<no@d.example>\r\n"), Just("RCPT TO:<later@d.example>\r\n"),
            Just("BDAT 5 LAST\r\n"), Just("BDAT 3\r\n"), Just("abc"), Just("a\r\nbc"), Just("RSET\r\n"), Just("NOOP\r\n"),
            Just("\r\n"), Just("\n"), Just("\u{7}\r\n"), Just("QUIT\r\n"),
        ], 0..30),
        piece in 1_usize..40,
    ) {
        let input = format!("EHLO c.example\r\n{}", words.concat());
        // The hello must come alone, whatever the pieces.
        let (hello, rest) = input.as_bytes().split_at(16);
        let whole = run(hello, rest, rest.len().max(1));
        let parts = run(hello, rest, piece);
        prop_assert_eq!(whole, parts);
    }
}

/// Runs `rest`, in pieces, behind a hello through a session whose driver refuses senders named `bad` and
/// recipients named `no` and `later`, and takes the rest.
fn run(hello: &[u8], rest: &[u8], piece: usize) -> Seen {
    let mut server = Server::new(config(), Tls::Unavailable);
    let mut buffer = Input::new();
    buffer.push(hello);
    assert_eq!(server.next(&mut buffer), Event::NeedInput);
    let mut seen = Seen::default();
    let mut parts = rest.chunks(piece);
    let mut message = String::new();
    loop {
        match server.next(&mut buffer) {
            Event::NeedInput => match parts.next() {
                Some(part) => buffer.push(part),
                None => break,
            },
            Event::Mail(path, _) if path.to_string().starts_with("taken") => {
                server.answer(Reply::new(258, "2.0.0", "already delivered"));
            }
            Event::Recipient(path, _) if path.to_string().starts_with("taken") => {
                server.answer(Reply::new(258, "2.1.5", "already delivered"));
            }
            Event::Mail(path, _) if path.to_string().starts_with("bad") => {
                server.answer(Reply::new(550, "5.7.1", "No"))
            }
            Event::Recipient(path, _) if path.to_string().starts_with("no") => {
                server.answer(Reply::new(550, "5.1.1", "No"));
            }
            Event::Recipient(path, _) if path.to_string().starts_with("later") => {
                server.answer(Reply::new(450, "4.2.0", "Later"));
            }
            Event::Mail(..) | Event::Recipient(..) => server.answer(Reply::new(250, "2.0.0", "Ok")),
            Event::Content(_) => {
                message.clear();
                server.answer(Reply::bare(354, "Go ahead"));
            }
            Event::Body(part) => message += &String::from_utf8_lossy(part),
            Event::EndOfMessage(_) => {
                seen.messages.push(message.clone());
                server.answer(Reply::new(250, "2.0.0", "Taken"));
            }
            Event::Abandoned(_) => seen.abandoned += 1,
            Event::StartTls => server.tls_started(),
            Event::Closed => {
                seen.closed = true;
                break;
            }
        }
    }
    seen.replies = String::from_utf8(server.output).unwrap();
    seen
}

fn server_of(config: Config) -> Server {
    let mut server = Server::new(Arc::new(config), Tls::Unavailable);
    server.output.clear();
    server
}

/// Feeds the server, says yes to everything, and gives back the replies.
fn fed(server: &mut Server, octets: &[u8]) -> String {
    let mut input = Input::new();
    input.push(octets);
    loop {
        match server.next(&mut input) {
            Event::NeedInput | Event::Closed | Event::StartTls => break,
            Event::Mail(..) | Event::Recipient(..) | Event::EndOfMessage(_) => {
                server.answer(Reply::new(250, "2.0.0", "Ok"));
            }
            Event::Content(_) => server.answer(Reply::bare(354, "Go ahead")),
            Event::Body(_) | Event::Abandoned(_) => {}
        }
    }
    String::from_utf8(std::mem::take(&mut server.output)).unwrap()
}

// covers: R5321-21
#[test]
fn commands_that_bring_no_message_come_to_an_end() {
    let few = || Config {
        commands_max: 5,
        ..Config::clone(&config())
    };
    let flood = |line: &str| line.repeat(20);
    let begin = "EHLO a.example\r\n";
    for line in ["NOOP\r\n", "RSET\r\n", "VRFY a\r\n", "HELP\r\n"] {
        let mut server = server_of(few());
        let _ = fed(&mut server, begin.as_bytes());
        let replies = fed(&mut server, flood(line).as_bytes());
        assert_eq!(codes(&replies).len(), 6, "{replies}");
        assert!(
            replies.ends_with("421 4.7.0 Too many commands, closing\r\n"),
            "{replies}"
        );
    }
    // Within a message too: recipients beyond the limit are no errors, and chunks may be empty.
    for (opening, line, answered) in [
        ("MAIL FROM:<>\r\n", "RCPT TO:<a@b.example>\r\n", 5),
        ("MAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\n", "BDAT 0\r\n", 4),
    ] {
        let mut server = server_of(few());
        let _ = fed(&mut server, begin.as_bytes());
        let _ = fed(&mut server, opening.as_bytes());
        let replies = fed(&mut server, flood(line).as_bytes());
        assert_eq!(codes(&replies).len(), answered, "{replies}");
        assert!(
            replies.ends_with("421 4.7.0 Too many commands, closing\r\n"),
            "{replies}"
        );
    }
}

#[test]
fn who_brings_mail_may_say_as_much_as_it_takes() {
    let mut server = server_of(Config {
        commands_max: 5,
        ..Config::clone(&config())
    });
    let _ = fed(&mut server, b"EHLO a.example\r\n");
    let message = "RSET\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nBDAT 1 LAST\r\nx";
    let replies = fed(&mut server, message.repeat(20).as_bytes());
    assert!(
        codes(&replies).iter().all(|code| *code == "250"),
        "{replies}"
    );
    // Large content in many chunks is one message on its way.
    let chunk = format!("BDAT 512\r\n{}", "x".repeat(512));
    let chunks = format!(
        "MAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\n{}BDAT 0 LAST\r\n",
        chunk.repeat(20)
    );
    let mut server = server_of(Config {
        commands_max: 5,
        extensions: Extensions {
            chunking: true,
            ..Extensions::default()
        },
        ..Config::clone(&config())
    });
    let _ = fed(&mut server, b"EHLO a.example\r\n");
    let replies = fed(&mut server, chunks.as_bytes());
    assert!(
        codes(&replies).iter().all(|code| *code == "250"),
        "{replies}"
    );
    assert_eq!(codes(&replies).len(), 23);
}

/// What another server's normalisation makes a route of.
// covers: R5321-7
#[test]
fn wide_signs_are_refused_as_the_plain_ones() {
    let mut server = server_of(Config::clone(&config()));
    let _ = fed(&mut server, b"EHLO a.example\r\n");
    let _ = fed(&mut server, b"MAIL FROM:<> SMTPUTF8\r\n");
    for sign in "％﹪！︕﹗＠﹫／＼﹨｜".chars() {
        let replies = fed(
            &mut server,
            format!("RCPT TO:<a{sign}c.example@b.example>\r\n").as_bytes(),
        );
        assert!(replies.starts_with("550 5.1.1"), "{sign}: {replies}");
    }
}
