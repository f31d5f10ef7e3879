//! A relay's task against a relay that a test plays.

use atrn_shared::config::Address;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::reversed::Tally;
use crate::session::Purpose;
use crate::status::ConnectionState;
use crate::testing::relay::{FakeRelay, pull};
use crate::testing::{Corporate, PATIENCE, Script, journal};

struct World {
    folder: TempDir,
    corporate: Corporate,
    relay: FakeRelay,
    settings: watch::Sender<Pull>,
    task: JoinHandle<()>,
}

impl World {
    /// A puller in instant mode with a relay that waits so many seconds, or cannot.
    async fn start(offers_wait: Option<u64>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let corporate = Corporate::start(Script::default()).await;
        let relay = FakeRelay::start(offers_wait).await;
        let purpose = Purpose::Mail(journal(&folder));
        let (settings, changes) = watch::channel(pull(&relay.address, &corporate, purpose));
        let files = StatusFiles::open(folder.path()).unwrap();
        let task = tokio::spawn(RelayTask::new(changes, files).pull_for_ever());
        Self {
            folder,
            corporate,
            relay,
            settings,
            task,
        }
    }

    fn change(&self, change: impl FnOnce(&mut Pull)) {
        self.settings.send_modify(change);
    }

    /// Waits until the status file is as it should be.
    async fn until(&self, what: &str, holds: impl Fn(&RelayStatus) -> bool) -> RelayStatus {
        let files = StatusFiles::look(self.folder.path());
        let wait = async {
            loop {
                let status = files.load("mx1").await;
                if holds(&status) {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(status) => status,
            Err(_) => panic!("never {what}: {:#?}", files.read("mx1")),
        }
    }

    /// What is left is in the folder.
    async fn stop(self) -> TempDir {
        self.settings.borrow().stop.cancel();
        let ended = tokio::time::timeout(PATIENCE, self.task).await;
        ended.expect("an end in time").unwrap();
        self.folder
    }
}

fn does(status: &RelayStatus) -> Option<(ConnectionState, usize)> {
    let connection = status.connection.as_ref();
    connection.map(|connection| (connection.state, connection.sessions))
}

/// The first session after an end, however the last one ended.
// covers: R2645-16
#[tokio::test]
async fn an_end_is_followed_by_a_new_session() {
    let world = World::start(Some(240)).await;
    let mut caller = world.relay.called().await;
    assert_eq!(caller.atrn, "ATRN example.org,example.com XWAIT=240");
    caller.turn().await;
    caller.delivers(1).await;
    caller.quit().await;
    let mut caller = world.relay.called().await;
    caller.send("421 4.3.2 shutting down\r\n").await;
    drop(caller);
    // Killed in the middle.
    let mut caller = world.relay.called().await;
    caller.turn().await;
    drop(caller);
    let caller = world.relay.called().await;
    let status = world
        .until("connected", |status| does(status).is_some())
        .await;
    assert_eq!(status.failures, 2);
    assert!(status.alarm.is_none() && status.last_mail_at.is_some());
    drop(caller);
    world.stop().await;
}

/// A relay that ends a session because all was refused is not asked for the same mail again at once.
// covers: R2645-16
#[tokio::test]
async fn sessions_in_vain_follow_each_other_later_and_later() {
    let folder = tempfile::tempdir().unwrap();
    let corporate = Corporate::start(Script::default()).await;
    let pull = pull("127.0.0.1:1", &corporate, Purpose::DryRun);
    let relay = pull.relay.clone();
    let (_settings, changes) = watch::channel(pull);
    let mut task = RelayTask::new(changes, StatusFiles::open(folder.path()).unwrap());
    let tally = |messages, deferred, refused, already_there| Tally {
        messages,
        octets: 0,
        deferred,
        refused,
        already_there,
    };
    let why = String::new;
    let usual = 1_000;
    for (outcome, tally, expected) in [
        (Outcome::Pulled, tally(0, 1, 0, 0), 500),
        (Outcome::Pulled, tally(0, 0, 1, 0), 1_000),
        (Outcome::Pulled, tally(0, 20, 7, 0), 2_000),
        // One that was taken, or needs not be taken again, is progress.
        (Outcome::Pulled, tally(1, 20, 7, 0), usual),
        (Outcome::Pulled, tally(0, 1, 0, 0), 500),
        (Outcome::Pulled, tally(0, 1, 0, 1), usual),
        (Outcome::Pulled, tally(0, 0, 0, 0), usual),
        (Outcome::NoMail, tally(0, 0, 0, 0), usual),
        (Outcome::Pulled, tally(0, 1, 0, 0), 500),
        // A session that breaks is a failure like others; this one is the first.
        (Outcome::Broken(why()), tally(0, 1, 0, 0), 500),
        (Outcome::Pulled, tally(0, 1, 0, 0), 500),
    ] {
        let report = Report {
            outcome,
            tally,
            began_at: Timestamp::now(),
            took: Duration::ZERO,
            last_mail_at: None,
            offers_wait: Some(true),
        };
        task.learn(&report);
        let failures = u32::from(report.outcome.severity() != Severity::Fine);
        let wait = task.until_next(&relay, &report, failures, 0.0);
        assert_eq!(wait.as_millis(), expected, "{report:?}");
    }
}

#[tokio::test]
async fn status_tells_what_the_sessions_do() {
    let world = World::start(Some(240)).await;
    let mut caller = world.relay.called().await;
    let waits = Some((ConnectionState::Waiting, 1));
    let status = world.until("waiting", |status| does(status) == waits).await;
    assert!(status.last.is_none() && status.next_at.is_none());
    assert_eq!(status.offers_xwait, Some(true));
    caller.turn().await;
    caller.delivers(3).await;
    caller.send("MAIL FROM:<a@sender.example>\r\n").await;
    let receives = Some((ConnectionState::Receiving, 1));
    let status = world
        .until("receiving", |status| does(status) == receives)
        .await;
    assert_eq!(status.connection.unwrap().tally.messages, 3);
    caller.line().await;
    caller.send("RSET\r\n").await;
    let status = world.until("waiting", |status| does(status) == waits).await;
    assert!(status.last_mail_at.is_some());
    caller.line().await;
    world.stop().await;
    let last = caller.line().await.unwrap();
    assert!(last.starts_with("421 "), "{last}");
}

#[tokio::test]
async fn nothing_is_left_of_a_stopped_daemon_or_of_one_that_was_killed() {
    let world = World::start(Some(240)).await;
    let _caller = world.relay.called().await;
    world
        .until("connected", |status| does(status).is_some())
        .await;
    let files = StatusFiles::look(world.folder.path());
    let changes = world.settings.subscribe();
    world.task.abort();
    // The file of one that was killed stays; who comes next puts it right before its first connection.
    assert!(files.read("mx1").connection.is_some());
    let world = World {
        task: tokio::spawn(RelayTask::new(changes, files.clone()).pull_for_ever()),
        ..world
    };
    world
        .until("put right", |status| does(status).is_none())
        .await;
    let _caller = world.relay.called().await;
    world
        .until("connected", |status| does(status).is_some())
        .await;
    let _folder = world.stop().await;
    let status = files.read("mx1");
    assert_eq!((status.connection, status.next_at), (None, None));
    assert_eq!(status.last.unwrap().outcome, Outcome::Stopped);
}

/// It says so, and comes back on the clock.
#[tokio::test]
async fn a_relay_that_cannot_wait_is_polled() {
    let world = World::start(None).await;
    world.change(|pull| pull.relay.every = Duration::from_secs(300));
    let mut caller = world.relay.called().await;
    assert_eq!(caller.atrn, "ATRN example.org,example.com");
    caller.no_mail().await;
    drop(caller);
    let status = world.until("polled", |status| status.last.is_some()).await;
    assert_eq!(status.offers_xwait, Some(false));
    let status = world
        .until("planned", |status| status.next_at.is_some())
        .await;
    let ahead = status.next_at.unwrap().duration_since(Timestamp::now());
    assert!((290..=330).contains(&ahead.as_secs()), "{ahead:?}");
    // The plan changes with the settings.
    world.change(|pull| pull.relay.every = Duration::from_millis(1));
    world.change(|pull| pull.relay.jitter = Duration::ZERO);
    let _caller = world.relay.called().await;
    world.stop().await;
}

#[tokio::test]
async fn new_settings_begin_an_idle_session_anew() {
    let mut world = World::start(Some(240)).await;
    let mut waiting = world.relay.called().await;
    let other = FakeRelay::start(Some(240)).await;
    let port: u16 = other.address.rsplit(':').next().unwrap().parse().unwrap();
    let host = "127.0.0.1".to_owned();
    world.change(|pull| pull.relay.address = Address { host, port });
    assert_eq!(waiting.line().await, None, "before the answer to ATRN");
    world.relay = other;
    let mut turned = world.relay.called().await;
    turned.turn().await;
    turned.delivers(1).await;
    // Between two messages; the one under way comes to its end.
    turned.send("MAIL FROM:<a@sender.example>\r\n").await;
    assert!(turned.line().await.unwrap().starts_with("250 "));
    world.change(|pull| pull.relay.mode = Mode::Poll);
    turned
        .send("RCPT TO:<u@example.com>\r\nBDAT 3 LAST\r\nx\r\n")
        .await;
    let mut answers = Vec::new();
    while let Some(line) = turned.line().await {
        answers.push(line[..3].to_owned());
    }
    assert_eq!(answers, ["250", "250", "421"]);
    assert_eq!(world.corporate.record().messages.len(), 2);
    let mut polled = world.relay.called().await;
    assert_eq!(polled.atrn, "ATRN example.org,example.com");
    // A poll keeps what it began with.
    polled.turn().await;
    world.change(|pull| pull.relay.mode = Mode::Instant);
    polled.delivers(1).await;
    polled.quit().await;
    let instant = world.relay.called().await;
    assert!(instant.atrn.ends_with(" XWAIT=240"), "{}", instant.atrn);
    world.stop().await;
}
