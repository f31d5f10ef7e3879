//! Pulls from a relay that a test plays, in the clear on loopback.

use atrn_shared::config::Address;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::handover::REST_AFTER;
use crate::testing::relay::{FakeRelay, pull};
use crate::testing::{Corporate, PATIENCE, Script, journal};

const OFFER: &str = "250-relay.example.net\r\n250-AUTH CRAM-MD5\r\n250 ATRN\r\n";

/// The relay's end: it says its next line whenever the puller has said one.
async fn play(listener: TcpListener, script: Vec<String>) -> String {
    let (stream, _) = listener.accept().await.unwrap();
    let mut stream: BufReader<TcpStream> = BufReader::new(stream);
    let mut heard = String::new();
    for line in script {
        stream.write_all(line.as_bytes()).await.unwrap();
        if stream.read_line(&mut heard).await.unwrap_or(0) == 0 {
            return heard;
        }
    }
    heard
}

/// A pull of mail from a relay with this script; what the relay heard.
async fn pulled(script: &[&str]) -> (Report, String) {
    let folder = tempfile::tempdir().unwrap();
    pulled_for(script, Purpose::Mail(journal(&folder))).await
}

async fn pulled_for(script: &[&str], purpose: Purpose) -> (Report, String) {
    let corporate = Corporate::start(Script::default()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let script = script.iter().map(|line| format!("{line}\r\n")).collect();
    let relay = tokio::spawn(play(listener, script));
    let pull = pull(&address, &corporate, purpose);
    let report = tokio::time::timeout(PATIENCE, pull.run(&Flow::default()))
        .await
        .unwrap();
    (report, relay.await.unwrap())
}

/// To the reply to ATRN, and a goodbye.
async fn asked(reply: &str) -> (Report, String) {
    pulled(&[
        "220 relay.example.net",
        OFFER.trim_end(),
        "334 PDEuMkByPg==",
        "235 2.7.0 ok",
        reply,
        "221 2.0.0 bye",
    ])
    .await
}

// covers: R2645-16, R2645-17
#[tokio::test]
async fn only_250_makes_us_a_server() {
    for (reply, code, severity) in [
        ("453 You have no mail", 0, Severity::Fine),
        ("450 4.7.1 no", 77, Severity::Retry),
        ("451 4.3.0 later", 75, Severity::Retry),
        ("421 4.3.2 bye", 75, Severity::Retry),
        ("530 5.7.0 who are you", 77, Severity::Alarm),
        ("500 5.5.2 what", 76, Severity::Alarm),
        ("501 5.5.4 what", 77, Severity::Alarm),
        ("502 5.5.1 no", 76, Severity::Alarm),
    ] {
        let (report, heard) = asked(reply).await;
        assert_eq!(
            (report.outcome.exit_code().code(), report.outcome.severity()),
            (code, severity),
            "{reply}"
        );
        assert!(
            heard.ends_with("ATRN example.org,example.com\r\nQUIT\r\n"),
            "{reply}: {heard}"
        );
        assert!(!heard.contains("220 "), "{heard}");
    }
    for reply in ["354 what", "2", "999 what", "250-a\r\n251 b"] {
        let (report, heard) = asked(reply).await;
        assert_eq!(report.outcome.exit_code().code(), 76, "{reply}");
        assert!(
            heard.ends_with("ATRN example.org,example.com\r\n"),
            "{reply}: {heard}"
        );
    }
    let (_, heard) = asked("250-go\r\n250 on").await;
    assert!(
        heard.contains("ATRN example.org,example.com\r\n220 puller.example.org ESMTP\r\n"),
        "{heard}"
    );
}

#[tokio::test]
async fn a_dry_run_asks_for_nothing() {
    let script = [
        "220 r",
        OFFER.trim_end(),
        "334 PDEuMkByPg==",
        "235 2.7.0 ok",
        "221 2.0.0 bye",
    ];
    let (report, heard) = pulled_for(&script, Purpose::DryRun).await;
    assert_eq!(report.outcome, Outcome::Checked);
    assert!(
        heard.ends_with("QUIT\r\n") && !heard.contains("ATRN"),
        "{heard}"
    );
}

// covers: R2645-17
#[tokio::test]
async fn who_does_not_offer_atrn_learns_nothing() {
    for offer in [
        "250 relay.example.net",
        "250-relay.example.net\r\n250 AUTH CRAM-MD5",
        "250-relay.example.net\r\n250 ATRN",
    ] {
        let (report, heard) = pulled(&["220 r", offer, "221 bye"]).await;
        assert_eq!(report.outcome.exit_code().code(), 76);
        assert_eq!(heard, "EHLO puller.example.org\r\nQUIT\r\n");
    }
}

#[tokio::test]
async fn the_target_is_tried_before_the_relay() {
    let corporate = Corporate::start(Script::default().on("GREETING", "554 5.3.2 down")).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pull = pull(
        &listener.local_addr().unwrap().to_string(),
        &corporate,
        Purpose::DryRun,
    );
    let report = pull.run(&Flow::default()).await;
    assert_eq!(
        report.outcome.exit_code().code(),
        71,
        "{:?}",
        report.outcome
    );
    let knocked = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
    assert!(knocked.is_err(), "the relay was asked");
}

// covers: R2645-18
#[tokio::test]
async fn mail_comes_on_the_connection_that_asked_for_it() {
    let script = [
        "220 r",
        OFFER.trim_end(),
        "334 PDEuMkByPg==",
        "235 2.7.0 ok",
        "250 2.0.0 go",
        "EHLO relay.example.net",
    ];
    let message = "MAIL FROM:<>\r\nRCPT TO:<u@example.com>\r\nBDAT 3 LAST\r\nx\r\nQUIT";
    let (report, heard) = pulled(&[&script[..], &[message]].concat()).await;
    assert_eq!(report.outcome, Outcome::Pulled, "{heard}");
    assert_eq!((report.tally.messages, report.tally.octets), (1, 3));
}

#[tokio::test]
async fn a_relay_that_is_not_there_is_unreachable() {
    let corporate = Corporate::start(Script::default()).await;
    let unused = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let report = pull(&unused.to_string(), &corporate, Purpose::DryRun)
        .run(&Flow::default())
        .await;
    assert_eq!(report.outcome.exit_code().code(), 69);
    let reason = report.outcome.to_string();
    assert!(
        reason.starts_with(&format!("cannot reach {unused}: Connection refused")),
        "{reason}"
    );
}

// covers: R2645-15, R5321-48
#[tokio::test]
async fn the_reply_to_atrn_may_take_ten_minutes_and_longer_than_the_wait() {
    let corporate = Corporate::start(Script::default()).await;
    let mut pull = pull("127.0.0.1:366", &corporate, Purpose::DryRun);
    assert_eq!(
        pull.relay.address,
        Address {
            host: "127.0.0.1".to_owned(),
            port: 366
        }
    );
    for (reply_timeout, wait, expected) in [
        (1, None, 600),
        (300, None, 600),
        (1200, None, 1200),
        (300, Some(240), 600),
        (300, Some(600), 660),
        (1, Some(3600), 3660),
    ] {
        pull.limits.reply_timeout = Duration::from_secs(reply_timeout);
        let timeout = pull.atrn_timeout(wait.map(Duration::from_secs));
        assert_eq!(timeout.as_secs(), expected);
    }
}

/// Whatever is configured, we do not lose patience before the relay's sign of life is due.
#[test]
fn a_silence_that_was_agreed_on_is_borne() {
    for (reply_timeout, wait, expected) in [
        (300, None, 300),
        (300, Some(240), 300),
        (300, Some(300), 360),
        (1, Some(1), 2),
        (30, Some(3600), 3630),
    ] {
        let timeout = idle_timeout(
            Duration::from_secs(reply_timeout),
            wait.map(Duration::from_secs),
        );
        assert_eq!(timeout.as_secs(), expected);
    }
}

#[tokio::test]
async fn a_stop_while_the_relay_thinks_ends_the_pull() {
    let corporate = Corporate::start(Script::default()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pull = pull(
        &listener.local_addr().unwrap().to_string(),
        &corporate,
        Purpose::DryRun,
    );
    pull.stop.cancel();
    assert_eq!(pull.run(&Flow::default()).await.outcome, Outcome::Stopped);
}

/// A pull in instant mode at a relay that waits, as a task; what it reports.
fn waiting(
    relay: &FakeRelay,
    corporate: &Corporate,
    journal: Journal,
) -> (CancellationToken, tokio::task::JoinHandle<Report>) {
    let mut pull = pull(&relay.address, corporate, Purpose::Mail(journal));
    pull.wait = Some(Duration::from_secs(240));
    let stop = pull.stop.clone();
    (
        stop,
        tokio::spawn(async move { pull.run(&Flow::default()).await }),
    )
}

async fn ended(pull: tokio::task::JoinHandle<Report>) -> Report {
    let report = tokio::time::timeout(PATIENCE, pull).await;
    report.expect("an end in time").unwrap()
}

/// Time passes, for everybody who waits now.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

// covers: R2645-16
#[tokio::test]
async fn who_waits_asks_again_on_the_same_connection() {
    let folder = tempfile::tempdir().unwrap();
    let corporate = Corporate::start(Script::default()).await;
    for (offered, seconds) in [(30, 30), (600, 240)] {
        let relay = FakeRelay::start(Some(offered)).await;
        let (_, pull) = waiting(&relay, &corporate, journal(&folder));
        let mut caller = relay.called().await;
        let expected = format!("ATRN example.org,example.com XWAIT={seconds}");
        assert_eq!(caller.atrn, expected);
        for _ in 0..2 {
            assert_eq!(caller.no_mail().await.as_deref(), Some(expected.as_str()));
        }
        caller.turn().await;
        caller.delivers(2).await;
        caller.quit().await;
        let report = ended(pull).await;
        assert_eq!(
            (report.outcome, report.tally.messages, report.offers_wait),
            (Outcome::Pulled, 2, Some(true))
        );
    }
    let record = corporate.record();
    // It was asked before each ATRN whether it is there.
    let resets = record.commands.iter().filter(|line| *line == "RSET");
    assert!(resets.count() >= 4, "{:?}", record.commands);
}

#[tokio::test]
async fn who_cannot_wait_is_asked_plainly() {
    let folder = tempfile::tempdir().unwrap();
    let corporate = Corporate::start(Script::default()).await;
    let relay = FakeRelay::start(None).await;
    let (_, pull) = waiting(&relay, &corporate, journal(&folder));
    let mut caller = relay.called().await;
    assert_eq!(caller.atrn, "ATRN example.org,example.com");
    assert_eq!(caller.no_mail().await.as_deref(), Some("QUIT"));
    drop(caller);
    let report = ended(pull).await;
    assert_eq!(
        (report.outcome, report.offers_wait),
        (Outcome::NoMail, Some(false))
    );
}

/// No ATRN while the target does not greet, also not a repeated one.
#[tokio::test]
async fn nothing_is_asked_again_for_a_target_that_is_down() {
    let folder = tempfile::tempdir().unwrap();
    let corporate = Corporate::start(Script::default()).await;
    let relay = FakeRelay::start(Some(240)).await;
    let (_, pull) = waiting(&relay, &corporate, journal(&folder));
    let mut caller = relay.called().await;
    corporate.change(|script| {
        *script = Script::default()
            .on("RSET", "421 4.3.2 going down")
            .on("GREETING", "554 5.3.2 down");
    });
    assert_eq!(caller.no_mail().await.as_deref(), Some("QUIT"));
    caller.send("221 bye\r\n").await;
    let report = ended(pull).await;
    assert_eq!(report.outcome.exit_code().code(), 71, "{report:?}");
}

#[tokio::test]
async fn a_target_that_has_nothing_to_do_is_left_alone_and_comes_back_for_mail() {
    let folder = tempfile::tempdir().unwrap();
    let corporate = Corporate::start(Script::default()).await;
    let relay = FakeRelay::start(Some(240)).await;
    let (_, pull) = waiting(&relay, &corporate, journal(&folder));
    let mut caller = relay.called().await;
    assert_eq!(corporate.record().ended, 0);
    pass(REST_AFTER).await;
    let record = corporate.until("at rest", |record| record.ended == 1).await;
    assert_eq!(record.commands.last().unwrap(), "QUIT");
    caller.turn().await;
    caller.delivers(1).await;
    caller.quit().await;
    assert_eq!(ended(pull).await.tally.messages, 1);
    assert_eq!(corporate.record().sessions, 2);
}

// covers: R2645-15
#[tokio::test]
async fn a_silence_that_was_agreed_on_breaks_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let corporate = Corporate::start(Script::default()).await;
    let relay = FakeRelay::start(Some(3_600)).await;
    let mut pull = pull(&relay.address, &corporate, Purpose::Mail(journal(&folder)));
    pull.wait = Some(Duration::from_secs(1_200));
    let pull = tokio::spawn(async move { pull.run(&Flow::default()).await });
    let mut caller = relay.called().await;
    assert!(caller.atrn.ends_with(" XWAIT=1200"), "{}", caller.atrn);
    let wait = Duration::from_secs(1_200);
    pass(wait).await;
    assert_eq!(caller.no_mail().await, Some(caller.atrn.clone()));
    caller.turn().await;
    pass(wait).await;
    caller.send("NOOP\r\n").await;
    assert!(caller.line().await.unwrap().starts_with("250 "));
    caller.delivers(2).await;
    // One that is never broken is a connection that is dead.
    pass(wait + WAIT_GRACE).await;
    assert!(caller.line().await.unwrap().starts_with("421 "));
    assert_eq!(ended(pull).await.outcome.exit_code().code(), 75);
}

/// A stop need not wait for the relay: not for its answer, and not for more mail.
#[tokio::test]
async fn a_stop_ends_a_wait_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let corporate = Corporate::start(Script::default()).await;
    let relay = FakeRelay::start(Some(240)).await;
    for turns in [false, true] {
        let (stop, pull) = waiting(&relay, &corporate, journal(&folder));
        let mut caller = relay.called().await;
        if turns {
            caller.turn().await;
            caller.delivers(1).await;
        }
        stop.cancel();
        assert_eq!(ended(pull).await.outcome, Outcome::Stopped);
        let last = caller.line().await;
        assert_eq!(last.is_some_and(|line| line.starts_with("421 ")), turns);
        assert_eq!(caller.line().await, None);
    }
}

// covers: R2645-16
#[test]
fn a_handshake_that_is_cut_off_is_tried_again_soon() {
    for (kind, expected) in [
        (io::ErrorKind::ConnectionReset, 69),
        (io::ErrorKind::UnexpectedEof, 69),
        (io::ErrorKind::InvalidData, 76),
    ] {
        let error = WireError::Tls(kind.into());
        let outcome = tls_failed("mx1.example.net:366", &error);
        assert_eq!(outcome.exit_code().code(), expected, "{kind}");
    }
}
