//! Reversed sessions with reports in them: a relay that a test plays, a corporate server and a smart host.

use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::testing::REPORT;
use super::*;
use crate::handover::Handover;
use crate::reversed::{End, Tally, serve};
use crate::testing::{Corporate, RelayEnd, Script, journal, terms};
use atrn_shared::wire::Wire;

const OK: &str = "250 2.0.0";
const SENDER: &str = "250 2.1.0";
const RECIPIENT: &str = "250 2.1.5";

struct World {
    relay: RelayEnd,
    inside: Corporate,
    outside: Corporate,
    session: JoinHandle<(Tally, End)>,
    _folder: TempDir,
}

impl World {
    async fn start(outside: Script, max_per_hour: u32) -> Self {
        let (inside, outside) = (
            Corporate::start(Script::default()).await,
            Corporate::start(outside).await,
        );
        let reports = Reports {
            setup: outside.setup(),
            max_per_hour,
            traffic: Traffic::default(),
        };
        Self::with(inside, outside, Some(reports)).await
    }

    async fn with(inside: Corporate, outside: Corporate, reports: Option<Reports>) -> Self {
        let folder = TempDir::new().unwrap();
        let mut terms = terms(journal(&folder));
        terms.reports = reports;
        let handover = Handover::open(&inside.setup()).await.unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let session = tokio::spawn(async move { serve(Wire::unix(ours), handover, &terms).await });
        let mut relay = RelayEnd::new(theirs);
        relay.hello().await;
        Self {
            relay,
            inside,
            outside,
            session,
            _folder: folder,
        }
    }

    async fn quit(mut self) -> (Tally, Corporate, Corporate) {
        self.relay.expect("QUIT\r\n", &["221 2.0.0"]).await;
        let (tally, end) = self.session.await.unwrap();
        assert!(matches!(end, End::Quit), "{end}");
        (tally, self.inside, self.outside)
    }
}

fn chunk(content: &str) -> String {
    format!("BDAT {} LAST\r\n{content}", content.len())
}

fn offer(to: &str, content: &str) -> String {
    format!("MAIL FROM:<>\r\nRCPT TO:<{to}>\r\n{}", chunk(content))
}

/// In one flight with each other, refusals and a slow smart host among them: answers keep their order, and mail for
/// inside does not wait outside.
// covers: R3464-1, R5321-28
#[tokio::test]
async fn reports_go_out_beside_other_mail() {
    let outside = Script::default().hold_once(".", "451 4.3.2 not now");
    let mut world = World::start(outside, 60).await;
    let mail = |name: &str| {
        format!(
            "MAIL FROM:<{name}@b.example>\r\nRCPT TO:<u@example.org>\r\n{}",
            chunk("x\r\n")
        )
    };
    let sent = [
        offer("a@source.example", REPORT),
        mail("a"),
        offer("b@source.example", "no report\r\n"),
        offer("c@source.example", REPORT),
        offer("u@example.org", "for inside\r\n"),
        mail("b"),
    ];
    world.relay.send(&sent.concat()).await;
    let inside = world
        .inside
        .until("inside", |record| record.messages.len() == 3);
    inside.await;
    world.outside.until("held", |record| record.held == 1).await;
    world.outside.release(1);
    let ends = ["451 4.3.2", OK, "550 5.7.1", OK, OK, OK];
    for end in ends {
        assert_eq!(world.relay.codes(3).await, [SENDER, RECIPIENT, end]);
    }
    let (tally, inside, outside) = world.quit().await;
    assert_eq!((tally.messages, tally.deferred, tally.refused), (4, 1, 1));
    assert_eq!(inside.record().messages.len(), 3);
    let outside = outside.record();
    assert_eq!((outside.sessions, outside.messages.len()), (1, 1));
    assert!(outside.messages[0].contains("\r\nTo: <c@source.example>\r\n"));
}

// covers: R3464-1
#[tokio::test]
async fn a_report_leaves_by_the_smart_host_in_our_own_words() {
    let mut world = World::start(Script::default(), 60).await;
    // As one flight, command by command, and by DATA; mail for inside between them.
    world
        .relay
        .expect(&offer("a@source.example", REPORT), &[SENDER, RECIPIENT, OK])
        .await;
    let mail = "MAIL FROM:<a@b.example>\r\nRCPT TO:<u@example.org>\r\nBDAT 3 LAST\r\nx\r\n";
    world.relay.expect(mail, &[SENDER, RECIPIENT, OK]).await;
    world.relay.expect("MAIL FROM:<>\r\n", &[SENDER]).await;
    world
        .relay
        .expect("RCPT TO:<b@source.example>\r\n", &[RECIPIENT])
        .await;
    world.relay.expect("DATA\r\n", &["354"]).await;
    world.relay.expect(&format!("{REPORT}.\r\n"), &[OK]).await;
    world.relay.expect(mail, &[SENDER, RECIPIENT, OK]).await;
    let (tally, inside, outside) = world.quit().await;
    assert_eq!(tally.messages, 4);
    let outside = outside.record();
    assert_eq!((outside.sessions, outside.messages.len()), (1, 2));
    assert!(outside.torn.is_empty());
    for (message, to) in outside.messages.iter().zip(["a", "b"]) {
        assert!(
            message.contains(&format!("\r\nTo: <{to}@source.example>\r\n")),
            "{message}"
        );
        assert!(
            message.contains("\r\nFinal-Recipient: rfc822; ann@example.org\r\n"),
            "{message}"
        );
        assert!(!message.to_ascii_lowercase().contains("buy"), "{message}");
        assert!(
            !message.contains("Received:") && !message.contains("puller"),
            "{message}"
        );
    }
    assert!(
        outside
            .commands
            .contains(&"RCPT TO:<a@source.example> NOTIFY=NEVER".to_owned())
    );
    let mail: Vec<_> = outside
        .commands
        .iter()
        .filter(|line| line.starts_with("MAIL"))
        .collect();
    assert!(
        mail.iter()
            .all(|line| line.starts_with("MAIL FROM:<> SIZE=")),
        "{mail:?}"
    );
    let inside = inside.record();
    assert_eq!(inside.messages.len(), 2);
    assert!(
        !inside
            .commands
            .iter()
            .any(|line| line.contains("source.example")),
        "{:?}",
        inside.commands
    );
}

// covers: R3464-1, R5321-8
#[tokio::test]
async fn only_a_report_leaves_whatever_a_relay_tries() {
    let mut world = World::start(Script::default(), 60).await;
    let relay = &mut world.relay;
    let refused = "550 5.7.1";
    let (ours, outside) = (
        "RCPT TO:<u@example.org>\r\n",
        "RCPT TO:<a@source.example>\r\n",
    );
    // Refused where it shows.
    for (commands, expected) in [
        (
            format!("MAIL FROM:<a@b.example>\r\n{outside}"),
            &[SENDER, refused][..],
        ),
        (
            format!("MAIL FROM:<>\r\n{ours}{outside}"),
            &[SENDER, RECIPIENT, refused],
        ),
        (
            format!("MAIL FROM:<>\r\n{outside}{outside}"),
            &[SENDER, RECIPIENT, refused],
        ),
        (
            format!("MAIL FROM:<>\r\n{outside}{ours}"),
            &[SENDER, RECIPIENT, "452 4.5.3"],
        ),
        (
            "MAIL FROM:<> SMTPUTF8\r\nRCPT TO:<\"buy now\"@source.example>\r\n".to_owned(),
            &[SENDER, refused],
        ),
        (
            "MAIL FROM:<> SMTPUTF8\r\nRCPT TO:<buy\u{a0}now@source.example>\r\n".to_owned(),
            &[SENDER, refused],
        ),
        (
            "MAIL FROM:<>\r\nRCPT TO:<a@localhost>\r\n".to_owned(),
            &[SENDER, refused],
        ),
        (
            "MAIL FROM:<>\r\nRCPT TO:<a@dc.corp>\r\n".to_owned(),
            &[SENDER, refused],
        ),
        (
            "MAIL FROM:<>\r\nRCPT TO:<a@[192.0.2.1]>\r\n".to_owned(),
            &[SENDER, refused],
        ),
    ] {
        relay.expect(&commands, expected).await;
        relay.expect("RSET\r\n", &[OK]).await;
    }
    // Refused at the end of the content.
    for content in [
        "Subject: buy now\r\n\r\nBuy now\r\n".to_owned(),
        REPORT.replace("ann@example.org", "ann@elsewhere.example"),
        REPORT.replace("failed", "delivered"),
        REPORT.replace("Words", &"x".repeat(64 * 1024)),
    ] {
        relay
            .expect(
                &offer("a@source.example", &content),
                &[SENDER, RECIPIENT, refused],
            )
            .await;
    }
    let two = format!("MAIL FROM:<>\r\n{outside}{outside}{}", chunk(REPORT));
    relay
        .expect(&two, &[SENDER, RECIPIENT, refused, refused])
        .await;
    let (tally, inside, outside) = world.quit().await;
    assert_eq!((tally.messages, outside.record().sessions), (0, 0));
    assert!(inside.record().messages.is_empty());
}

// covers: R5321-8
#[tokio::test]
async fn without_a_smart_host_nothing_leaves() {
    let (inside, outside) = (
        Corporate::start(Script::default()).await,
        Corporate::start(Script::default()).await,
    );
    let mut world = World::with(inside, outside, None).await;
    world.relay.send(&offer("a@source.example", REPORT)).await;
    assert_eq!(world.relay.codes(1).await, [SENDER]);
    assert_eq!(
        world.relay.reply().await,
        "550 5.7.1 This puller passes no reports to outside: it has no [reports]"
    );
    assert_eq!(world.relay.codes(1).await, ["554 5.5.1"]);
    // What is no report by its sender is refused as what it is.
    let mail = "MAIL FROM:<a@b.example>\r\nRCPT TO:<a@source.example>\r\nRSET\r\n";
    world.relay.send(mail).await;
    assert_eq!(world.relay.codes(1).await, [SENDER]);
    assert_eq!(
        world.relay.reply().await,
        "550 5.7.1 Mail for this domain was not asked for"
    );
    assert_eq!(world.relay.codes(1).await, [OK]);
    let (tally, ..) = world.quit().await;
    assert_eq!(tally.refused, 2);
}

// covers: R3464-1
#[tokio::test]
async fn so_many_in_an_hour_of_all_sessions_and_no_more() {
    let outside = Corporate::start(Script::default()).await;
    let reports = Reports {
        setup: outside.setup(),
        max_per_hour: 3,
        traffic: Traffic::default(),
    };
    let report = offer("a@source.example", REPORT);
    let inside = Corporate::start(Script::default()).await;
    let mut world = World::with(inside, outside, Some(reports.clone())).await;
    for _ in 0..2 {
        world.relay.expect(&report, &[SENDER, RECIPIENT, OK]).await;
    }
    let (_, inside, outside) = world.quit().await;
    let mut world = World::with(inside, outside, Some(reports.clone())).await;
    world.relay.expect(&report, &[SENDER, RECIPIENT, OK]).await;
    // Far more than a session may have errors: to be told to wait is none.
    for _ in 0..40 {
        world
            .relay
            .expect(&report, &[SENDER, "450 4.7.1", "554 5.5.1"])
            .await;
    }
    let (tally, _, outside) = world.quit().await;
    assert_eq!((tally.messages, tally.deferred), (1, 40));
    assert_eq!(outside.record().messages.len(), 3);
}

// covers: R5321-27, R5321-28
#[tokio::test]
async fn the_verdict_of_the_smart_host_is_returned_and_its_name_is_not() {
    for (command, reply, expected) in [
        (
            "MAIL",
            "550 5.7.1 mail.corp.local says no",
            "550 5.7.1 (host) says no",
        ),
        ("RCPT", "550 5.1.1 no such user", "550 5.1.1 no such user"),
        ("RCPT", "450 4.2.1 later", "450 4.2.1 later"),
        ("DATA", "451 4.3.0 later", "451 4.3.0 later"),
        (".", "554 5.6.0 not this", "554 5.6.0 not this"),
        (".", "452 4.3.1 full", "452 4.3.1 full"),
        (
            "MAIL",
            "530 5.7.0 log in",
            "451 4.7.0 The mail server inside does not let us in",
        ),
    ] {
        let mut world = World::start(Script::default().once(command, reply), 1).await;
        let report = offer("a@source.example", REPORT);
        world.relay.send(&report).await;
        assert_eq!(world.relay.codes(2).await, [SENDER, RECIPIENT]);
        assert_eq!(world.relay.reply().await, expected, "{command} {reply}");
        // What was not taken for now does not count; what was refused for good has left us.
        let again = if expected.starts_with('4') {
            &[SENDER, RECIPIENT, OK]
        } else {
            &[SENDER, "450 4.7.1", "554 5.5.1"]
        };
        world.relay.expect(&report, again).await;
        world.quit().await;
    }
}

// covers: R5321-27
#[tokio::test]
async fn a_smart_host_that_is_down_costs_reports_a_wait_and_mail_nothing() {
    let script = Script::default().rule("GREETING", crate::testing::Action::HangUp, usize::MAX);
    let mut world = World::start(script, 60).await;
    let report = offer("a@source.example", REPORT);
    for _ in 0..5 {
        world
            .relay
            .expect(&report, &[SENDER, RECIPIENT, "451 4.4.1"])
            .await;
    }
    let mail = "MAIL FROM:<>\r\nRCPT TO:<u@example.org>\r\nBDAT 3 LAST\r\nx\r\n";
    world.relay.expect(mail, &[SENDER, RECIPIENT, OK]).await;
    let (tally, inside, outside) = world.quit().await;
    assert_eq!((tally.messages, tally.deferred), (1, 5));
    assert_eq!(inside.record().messages.len(), 1);
    assert_eq!(
        outside.record().sessions,
        1,
        "it is not asked again at once"
    );
}

// covers: R-DUP
#[tokio::test]
async fn a_report_that_left_does_not_leave_again() {
    let mut world = World::start(Script::default(), 60).await;
    let report = offer("a@source.example", REPORT)
        .replace("MAIL FROM:<>", "MAIL FROM:<> XDELIVERYID=1M7ZMM9TH00.1");
    world.relay.expect(&report, &[SENDER, RECIPIENT, OK]).await;
    let again = ["258 2.0.0", "503 5.5.1", "503 5.5.1"];
    world.relay.expect(&report, &again).await;
    let (_, _, outside) = world.quit().await;
    assert_eq!(outside.record().messages.len(), 1);
}

/// RFC 6531: what goes to an address that is not ASCII needs a server that knows such.
// covers: R6531-2
#[tokio::test]
async fn a_sender_with_an_address_in_unicode() {
    let report = format!(
        "MAIL FROM:<> SMTPUTF8\r\nRCPT TO:<gr\u{fc}n@source.example>\r\n{}",
        chunk(REPORT)
    );
    let mut world = World::start(Script::default(), 60).await;
    world.relay.expect(&report, &[SENDER, RECIPIENT, OK]).await;
    let (_, _, outside) = world.quit().await;
    let record = outside.record();
    assert!(record.messages[0].contains("To: <gr\u{fc}n@source.example>\r\n"));
    let mail = record.commands.iter().find(|line| line.starts_with("MAIL"));
    assert!(
        mail.unwrap().ends_with(" BODY=8BITMIME SMTPUTF8"),
        "{mail:?}"
    );
    let mut world = World::start(Script::offering(&["8BITMIME"]), 60).await;
    world
        .relay
        .expect(&report, &[SENDER, RECIPIENT, "550 5.6.7"])
        .await;
    world.quit().await;
}
