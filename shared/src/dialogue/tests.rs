//! The sending side over a wire, against scripted peers.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::*;

/// Plays the server: reads exactly the first text of each step, then writes the second.
fn against(script: &'static [(&'static str, &'static str)]) -> (Dialogue, JoinHandle<()>) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let server = tokio::spawn(async move {
        for (expected, reply) in script {
            let mut heard = vec![0; expected.len()];
            theirs.read_exact(&mut heard).await.unwrap();
            assert_eq!(String::from_utf8_lossy(&heard), *expected);
            theirs.write_all(reply.as_bytes()).await.unwrap();
        }
    });
    (
        Dialogue::new(Wire::unix(ours), Dialect::Smtp, ClientTimeouts::default()),
        server,
    )
}

async fn greeted(script: &'static [(&'static str, &'static str)]) -> (Dialogue, JoinHandle<()>) {
    let (mut dialogue, server) = against(script);
    dialogue.greeting().await.unwrap();
    dialogue.hello("c.example").await.unwrap();
    (dialogue, server)
}

/// An envelope with these recipients, and DATA behind it.
struct Envelope {
    reverse_path: ReversePath,
    parameters: MailParameters,
    recipients: Vec<(ForwardPath, RcptParameters)>,
}

fn envelope(recipients: &[&str]) -> Envelope {
    let path = |text: &&str| {
        (
            ForwardPath::from_address(text).unwrap(),
            RcptParameters::default(),
        )
    };
    Envelope {
        reverse_path: ReversePath::from_address("a@b.example").unwrap(),
        parameters: MailParameters::default(),
        recipients: recipients.iter().map(path).collect(),
    }
}

impl Envelope {
    fn part(&self) -> Part<'_> {
        Part {
            mail: Some((&self.reverse_path, &self.parameters)),
            recipients: &self.recipients,
            data: true,
            accepted: 0,
        }
    }
}

// covers: R2920-2, R5321-29
#[tokio::test]
async fn the_envelope_goes_in_one_flight_where_it_may() {
    let (mut dialogue, server) = greeted(&[
        ("", "220 s\r\n"),
        ("EHLO c.example\r\n", "250-s\r\n250 PIPELINING\r\n"),
        (
            "MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nRCPT TO:<e@d.example>\r\nDATA\r\n",
            "250 ok\r\n250 ok\r\n550 no\r\n354 go\r\n",
        ),
        ("..x\r\n.\r\n", "250 taken\r\n"),
    ])
    .await;
    let verdict = dialogue
        .part(&envelope(&["c@d.example", "e@d.example"]).part())
        .await
        .unwrap();
    assert_eq!((verdict.accepted(), verdict.awaits_content()), (1, true));
    dialogue.content(b".x\r\n").await.unwrap();
    let replies = dialogue.end_of_data(1).await.unwrap();
    assert_eq!(replies[0].code(), 250);
    server.await.unwrap();
}

// covers: R2920-2
#[tokio::test]
async fn one_command_at_a_time_where_it_may_not() {
    let (mut dialogue, server) = greeted(&[
        ("", "220 s\r\n"),
        ("EHLO c.example\r\n", "250 s\r\n"),
        ("MAIL FROM:<a@b.example>\r\n", "250 ok\r\n"),
        ("RCPT TO:<c@d.example>\r\n", "450 later\r\n"),
        ("RCPT TO:<e@d.example>\r\n", "550 no\r\n"),
        ("RSET\r\n", "250 ok\r\n"),
    ])
    .await;
    let verdict = dialogue
        .part(&envelope(&["c@d.example", "e@d.example"]).part())
        .await
        .unwrap();
    assert_eq!((verdict.accepted(), verdict.data.is_none()), (0, true));
    dialogue.reset().await.unwrap();
    server.await.unwrap();
}

// covers: R2920-2
#[tokio::test]
async fn a_354_without_recipients_gets_the_lone_dot() {
    let (mut dialogue, server) = greeted(&[
        ("", "220 s\r\n"),
        ("EHLO c.example\r\n", "250-s\r\n250 PIPELINING\r\n"),
        (
            "MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n",
            "250 ok\r\n550 no\r\n354 go\r\n",
        ),
        (".\r\n", "554 nobody\r\n"),
    ])
    .await;
    let verdict = dialogue
        .part(&envelope(&["c@d.example"]).part())
        .await
        .unwrap();
    assert_eq!(verdict.data.unwrap().code(), 554);
    server.await.unwrap();
}

/// An envelope that names its delivery.
fn named(recipients: &[&str]) -> Envelope {
    let mut envelope = envelope(recipients);
    envelope.parameters.delivery_id = "d.1".parse().ok();
    envelope
}

// covers: R-DUP
#[tokio::test]
async fn nothing_is_awaited_behind_a_delivery_that_was_taken_before() {
    let (mut dialogue, server) = greeted(&[
        ("", "220 s\r\n"),
        ("EHLO c.example\r\n", "250-s\r\n250 XDELIVERYID\r\n"),
        (
            "MAIL FROM:<a@b.example> XDELIVERYID=d.1\r\n",
            "258 2.0.0 already delivered\r\n",
        ),
        ("QUIT\r\n", "221 bye\r\n"),
    ])
    .await;
    let verdict = dialogue
        .part(&named(&["c@d.example"]).part())
        .await
        .unwrap();
    assert!(verdict.is_already_delivered() && verdict.recipients.is_empty());
    dialogue.quit().await;
    server.await.unwrap();

    let (mut dialogue, server) = greeted(&[
        ("", "220 s\r\n"),
        (
            "EHLO c.example\r\n",
            "250-s\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 XDELIVERYID\r\n",
        ),
        (
            "MAIL FROM:<a@b.example> XDELIVERYID=d.1\r\nRCPT TO:<c@d.example>\r\nBDAT 3 LAST\r\nx\r\n",
            "258 2.0.0 already delivered\r\n503 no\r\n503 no\r\n",
        ),
        ("QUIT\r\n", "221 bye\r\n"),
    ])
    .await;
    let envelope = named(&["c@d.example"]);
    let part = Part {
        data: false,
        ..envelope.part()
    };
    let due = dialogue.begin_flight(&part, 3);
    dialogue.content(b"x\r\n").await.unwrap();
    let (verdict, replies) = dialogue.flight_verdict(due).await.unwrap();
    assert!(verdict.is_already_delivered());
    assert_eq!((verdict.accepted(), replies[0].code()), (0, 503));
    dialogue.quit().await;
    server.await.unwrap();
}

// covers: R-DUP
#[tokio::test]
async fn a_recipient_who_has_it_already_gets_no_content() {
    let (mut dialogue, server) = greeted(&[
        ("", "220 s\r\n"),
        ("EHLO c.example\r\n", "250-s\r\n250 XDELIVERYID\r\n"),
        ("MAIL FROM:<a@b.example> XDELIVERYID=d.1\r\n", "250 ok\r\n"),
        ("RCPT TO:<c@d.example>\r\n", "258 had it\r\n"),
        ("RSET\r\n", "250 ok\r\n"),
    ])
    .await;
    let verdict = dialogue
        .part(&named(&["c@d.example"]).part())
        .await
        .unwrap();
    assert_eq!((verdict.accepted(), verdict.data.is_none()), (0, true));
    assert!(verdict.has_already(&verdict.recipients[0]));
    dialogue.reset().await.unwrap();
    server.await.unwrap();
}

/// Some server's own 2yz (R5321-24).
// covers: R-DUP, R5321-24
#[tokio::test]
async fn to_who_was_told_no_delivery_id_258_is_a_yes() {
    let (mut dialogue, server) = greeted(&[
        ("", "220 s\r\n"),
        ("EHLO c.example\r\n", "250 s\r\n"),
        ("MAIL FROM:<a@b.example>\r\n", "258 ok\r\n"),
        ("RCPT TO:<c@d.example>\r\n", "258 ok\r\n"),
        ("DATA\r\n", "354 go\r\n"),
    ])
    .await;
    let verdict = dialogue
        .part(&named(&["c@d.example"]).part())
        .await
        .unwrap();
    assert!(!verdict.is_already_delivered() && verdict.awaits_content());
    assert_eq!(verdict.accepted(), 1);
    server.await.unwrap();
}

// covers: R2645-19
#[tokio::test]
async fn a_peer_that_refuses_ehlo_for_good_is_asked_in_the_old_way() {
    let (mut dialogue, server) = against(&[
        ("", "220 s\r\n"),
        ("EHLO c.example\r\n", "502 what\r\n"),
        ("HELO c.example\r\n", "250 s\r\n"),
    ]);
    dialogue.greeting().await.unwrap();
    dialogue.hello("c.example").await.unwrap();
    assert!(!dialogue.client().extensions().pipelining);
    server.await.unwrap();
}

// covers: R2645-19, R5321-26, OWN-1, OWN-7a
#[tokio::test]
async fn what_gives_no_verdict_is_a_fault_of_the_link() {
    for greeting in [
        "421 busy\r\n",
        "554 no\r\n",
        "what\r\n",
        "220-a\r\n221 b\r\n",
    ] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(greeting.as_bytes()).await.unwrap();
        let mut dialogue =
            Dialogue::new(Wire::unix(ours), Dialect::Smtp, ClientTimeouts::default());
        assert!(dialogue.greeting().await.is_err(), "{greeting}");
    }
    let (mut dialogue, _server) = greeted(&[
        ("", "220 s\r\n"),
        ("EHLO c.example\r\n", "250 s\r\n"),
        ("MAIL FROM:<a@b.example>\r\n", "421 going down\r\n"),
    ])
    .await;
    let fault = dialogue
        .part(&envelope(&["c@d.example"]).part())
        .await
        .unwrap_err();
    assert!(matches!(fault, LinkFault::Unavailable(reply) if reply.code() == 421));
}

// covers: R5321-25, OWN-6
#[tokio::test]
async fn a_goodbye_behind_a_verdict_takes_nothing_back() {
    for (behind, is_goodbye) in [("421 stopping\r\n", true), ("250 what\r\n", false)] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut dialogue =
            Dialogue::new(Wire::unix(ours), Dialect::Smtp, ClientTimeouts::default());
        let script = format!(
            "220 s\r\n250-PIPELINING\r\n250 CHUNKING\r\n250 ok\r\n250 ok\r\n250 taken\r\n{behind}"
        );
        // In portions as they are asked for; the last two together.
        let mut lines = script.split_inclusive('\n');
        theirs
            .write_all(lines.next().unwrap().as_bytes())
            .await
            .unwrap();
        dialogue.greeting().await.unwrap();
        let hello = [lines.next().unwrap(), lines.next().unwrap()].concat();
        theirs.write_all(hello.as_bytes()).await.unwrap();
        dialogue.hello("c.example").await.unwrap();
        let envelope = envelope(&["c@d.example"]);
        let part = Part {
            data: false,
            ..envelope.part()
        };
        let due = dialogue.begin_flight(&part, 3);
        dialogue.content(b"x\r\n").await.unwrap();
        theirs
            .write_all(lines.collect::<String>().as_bytes())
            .await
            .unwrap();
        let (_, replies) = dialogue.flight_verdict(due).await.unwrap();
        assert_eq!(replies[0].code(), 250);
        let fault = dialogue.part(&part).await.unwrap_err();
        let is_unavailable = matches!(fault, LinkFault::Unavailable(_));
        assert_eq!(is_unavailable, is_goodbye, "{fault}");
    }
}

// covers: R2920-2, R3030-1
#[tokio::test]
async fn flights_follow_each_other_and_are_answered_in_order() {
    const FLIGHT: &str = "MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nBDAT 3 LAST\r\nx\r\n";
    let (mut dialogue, server) = greeted(&[
        ("", "220 s\r\n"),
        (
            "EHLO c.example\r\n",
            "250-s\r\n250-PIPELINING\r\n250 CHUNKING\r\n",
        ),
        (FLIGHT, ""),
        ("RSET\r\n", ""),
        (FLIGHT, ""),
        (
            "RSET\r\n",
            "250 ok\r\n550 no\r\n503 nobody\r\n250 reset\r\n250 ok\r\n250 ok\r\n250 taken\r\n",
        ),
        (FLIGHT, "250 reset\r\n421 going\r\n"),
    ])
    .await;
    let envelope = envelope(&["c@d.example"]);
    let part = Part {
        data: false,
        ..envelope.part()
    };
    let mut due = Vec::new();
    for _ in 0..3 {
        if !due.is_empty() {
            dialogue.begin_reset();
        }
        due.push(dialogue.begin_flight(&part, 3));
        dialogue.content(b"x\r\n").await.unwrap();
    }
    assert!(!dialogue.has_heard());
    let mut verdicts = Vec::new();
    for due in due {
        verdicts.push(dialogue.flight_verdict(due).await);
    }
    let (refused, replies) = verdicts.remove(0).unwrap();
    assert_eq!((refused.accepted(), replies[0].code()), (0, 503));
    let (taken, replies) = verdicts.remove(0).unwrap();
    assert_eq!((taken.accepted(), replies[0].code()), (1, 250));
    let fault = verdicts.remove(0).unwrap_err();
    assert!(matches!(fault, LinkFault::Unavailable(reply) if reply.code() == 421));
    server.await.unwrap();
}

#[tokio::test]
async fn what_was_begun_goes_out_while_other_work_takes_its_time() {
    let (mut dialogue, server) = greeted(&[
        ("", "220 s\r\n"),
        ("EHLO c.example\r\n", "250 s\r\n"),
        ("RSET\r\n", ""),
    ])
    .await;
    dialogue.begin_reset();
    assert_eq!(dialogue.meanwhile(async { 1 }).await.unwrap(), 1);
    assert!(!dialogue.client().output.is_empty(), "it took no time");
    // The script ends once it has heard the command.
    dialogue.meanwhile(server).await.unwrap().unwrap();
    assert!(dialogue.client().output.is_empty());
}

// covers: R5321-25
#[tokio::test]
async fn nothing_may_come_while_nothing_is_due() {
    for (words, is_goodbye) in [("421 going\r\n", true), ("250 what\r\n", false)] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"220 s\r\n").await.unwrap();
        let mut dialogue =
            Dialogue::new(Wire::unix(ours), Dialect::Smtp, ClientTimeouts::default());
        dialogue.greeting().await.unwrap();
        dialogue.rest(Duration::from_millis(1)).await.unwrap();
        assert!(!dialogue.wire.input.holds_memory());
        theirs.write_all(words.as_bytes()).await.unwrap();
        let fault = dialogue.rest(Duration::from_secs(60)).await.unwrap_err();
        let is_unavailable = matches!(fault, LinkFault::Unavailable(_));
        assert_eq!(is_unavailable, is_goodbye, "{fault}");
    }
}

// covers: R5321-40, R5321-41, R5321-42, R5321-43, R5321-44, R5321-45
#[tokio::test(start_paused = true)]
async fn each_wait_has_the_deadline_of_the_standard() {
    let minutes = |count: u64| Duration::from_secs(60 * count);
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let mut dialogue = Dialogue::new(Wire::unix(ours), Dialect::Smtp, ClientTimeouts::default());
    let table = [
        (Awaited::Greeting, 5),
        (Awaited::Mail, 5),
        (Awaited::Recipient, 5),
        (Awaited::Data, 2),
        (Awaited::EndOfData, 10),
    ];
    for (awaited, expected) in table {
        assert_eq!(dialogue.timeout(awaited), minutes(expected), "{awaited:?}");
    }
    assert_eq!(dialogue.timeouts.block, minutes(3));
    let began = Instant::now();
    let fault = dialogue.greeting().await.unwrap_err();
    assert!(matches!(fault, LinkFault::Wire(WireError::TimedOut)));
    assert_eq!(began.elapsed().as_secs(), 300);
}

/// Who looks after other things in between, or is given a part of the reply, has the same time for it.
// covers: R5321-41
#[tokio::test(start_paused = true)]
async fn the_deadline_of_a_reply_does_not_begin_anew() {
    let minutes = |count: u64| Duration::from_secs(60 * count);
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut dialogue = Dialogue::new(Wire::unix(ours), Dialect::Smtp, ClientTimeouts::default());
    theirs.write_all(b"220 s\r\n").await.unwrap();
    dialogue.greeting().await.unwrap();
    assert_eq!(dialogue.waited(), Duration::ZERO);
    dialogue.begin_reset();
    let began = Instant::now();
    for part in ["2", "5", "0", " "] {
        let heard = tokio::time::timeout(minutes(1), dialogue.hear()).await;
        assert!(heard.is_err(), "{heard:?}");
        theirs.write_all(part.as_bytes()).await.unwrap();
    }
    assert!(dialogue.waited() >= minutes(4));
    let fault = dialogue.hear().await.unwrap_err();
    assert!(matches!(fault, LinkFault::Wire(WireError::TimedOut)));
    let fault = dialogue.reset_verdict().await.unwrap_err();
    assert!(matches!(fault, LinkFault::Wire(WireError::TimedOut)));
    assert_eq!(began.elapsed().as_secs(), 300);
}

// covers: R5321-25
#[tokio::test]
async fn the_beginning_of_a_line_is_not_heard() {
    for (words, is_heard) in [
        ("2".to_owned(), false),
        ("250 ok\r\n".to_owned(), true),
        // The machine will refuse it.
        ("2".repeat(REPLY_LINE_OCTETS), true),
    ] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut dialogue =
            Dialogue::new(Wire::unix(ours), Dialect::Smtp, ClientTimeouts::default());
        theirs.write_all(words.as_bytes()).await.unwrap();
        dialogue.wire.read(Duration::from_secs(60)).await.unwrap();
        assert_eq!(dialogue.has_heard(), is_heard, "{words}");
    }
}
