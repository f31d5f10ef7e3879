//! A relay with a backlog, played by a test.

use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::session::Purpose;
use crate::testing::relay::{FakeRelay, pull};
use crate::testing::{Corporate, PATIENCE, Script, journal};

/// Messages that make a backlog.
const BACKLOG: usize = 110;

struct World {
    _folder: TempDir,
    corporate: Corporate,
    relay: FakeRelay,
    pull: Pull,
}

/// A pull with so many sessions at most.
async fn world(sessions: usize) -> World {
    let folder = tempfile::tempdir().unwrap();
    let corporate = Corporate::start(Script::default()).await;
    let relay = FakeRelay::start(Some(240)).await;
    let mut pull = pull(&relay.address, &corporate, Purpose::Mail(journal(&folder)));
    pull.relay.sessions = sessions;
    pull.wait = Some(Duration::from_secs(240));
    World {
        _folder: folder,
        corporate,
        relay,
        pull,
    }
}

/// All sessions to their end.
fn pulled(pull: &Pull) -> JoinHandle<Report> {
    let pull = pull.clone();
    tokio::spawn(async move {
        let mut sessions = Sessions::default();
        let report = sessions.run(&pull).await;
        sessions.finish(report).await
    })
}

async fn ended(pulled: JoinHandle<Report>) -> Report {
    let report = tokio::time::timeout(PATIENCE, pulled).await;
    report.expect("an end in time").unwrap()
}

#[tokio::test]
async fn a_backlog_has_more_sessions_up_to_the_limit() {
    let World {
        relay,
        pull,
        corporate,
        ..
    } = &world(3).await;
    let pulled = pulled(pull);
    let mut main = relay.called().await;
    assert!(main.atrn.ends_with(" XWAIT=240"), "{}", main.atrn);
    main.turn().await;
    main.delivers(BACKLOG).await;
    let mut second = relay.called().await;
    assert_eq!(
        second.atrn, "ATRN example.org,example.com",
        "it takes what there is"
    );
    second.turn().await;
    second.delivers(BACKLOG).await;
    let mut third = relay.called().await;
    third.turn().await;
    for caller in [&mut main, &mut second, &mut third] {
        caller.delivers(3 * BACKLOG).await;
    }
    assert!(!relay.is_called().await, "there are enough");
    // The order in which they end does not matter.
    main.quit().await;
    third.quit().await;
    second.quit().await;
    let report = ended(pulled).await;
    assert_eq!(report.outcome, Outcome::Pulled);
    assert_eq!(report.tally.messages as usize, 11 * BACKLOG);
    assert_eq!(corporate.record().messages.len(), 11 * BACKLOG);
}

/// A relay that has no word for them in the end keeps nobody waiting: there was mail for them, and there is none now.
#[tokio::test]
async fn extra_sessions_that_have_not_turned_end_with_the_main_one() {
    let World { relay, pull, .. } = &world(4).await;
    let pulled = pulled(pull);
    let mut main = relay.called().await;
    main.turn().await;
    main.delivers(BACKLOG).await;
    let mut turned = relay.called().await;
    turned.turn().await;
    turned.delivers(BACKLOG).await;
    let mut asking = relay.called().await;
    main.delivers(BACKLOG).await;
    let mut silent = relay.knocked().await;
    main.quit().await;
    assert_eq!(silent.line().await, None);
    assert_eq!(asking.line().await, None);
    turned.delivers(BACKLOG).await;
    turned.quit().await;
    let report = ended(pulled).await;
    assert_eq!(report.outcome, Outcome::Pulled);
    assert_eq!(report.tally.messages as usize, 4 * BACKLOG);
}

#[tokio::test]
async fn one_session_is_one() {
    let World { relay, pull, .. } = &world(1).await;
    let pulled = pulled(pull);
    let mut main = relay.called().await;
    main.turn().await;
    main.delivers(3 * BACKLOG).await;
    assert!(!relay.is_called().await);
    main.quit().await;
    assert_eq!(ended(pulled).await.outcome, Outcome::Pulled);
}

/// The relay ends it, by its 453 or in any other way; that is no failure of the pull, and no reason to try again at once.
#[tokio::test]
async fn an_extra_session_that_brings_nothing_is_not_repeated_for_a_while() {
    for refusal in ["453 You have no mail\r\n", "451 4.3.0 too many\r\n", ""] {
        let World { relay, pull, .. } = &world(2).await;
        let pulled = pulled(pull);
        let mut main = relay.called().await;
        main.turn().await;
        main.delivers(BACKLOG).await;
        let mut extra = relay.called().await;
        extra.send(refusal).await;
        drop(extra);
        main.delivers(3 * BACKLOG).await;
        assert!(!relay.is_called().await, "{refusal:?}");
        tokio::time::pause();
        tokio::time::advance(EXTRA_PAUSE).await;
        tokio::time::resume();
        // The silence was a pause.
        main.delivers(BACKLOG).await;
        let mut extra = relay.called().await;
        extra.turn().await;
        extra.delivers(1).await;
        extra.quit().await;
        main.quit().await;
        let report = ended(pulled).await;
        assert_eq!(report.outcome, Outcome::Pulled, "{refusal:?}");
        assert_eq!(report.tally.messages as usize, 5 * BACKLOG + 1);
    }
}

/// What others brought is told with the next report, whoever ends first; who goes on is not disturbed.
#[tokio::test]
async fn the_others_go_on_when_the_main_session_breaks() {
    let World { relay, pull, .. } = &world(2).await;
    let pull_again = pull.clone();
    let twice = tokio::spawn(async move {
        let mut sessions = Sessions::default();
        let first = sessions.run(&pull_again).await;
        let second = sessions.run(&pull_again).await;
        (first, sessions.finish(second).await)
    });
    let mut main = relay.called().await;
    main.turn().await;
    main.delivers(BACKLOG).await;
    let mut extra = relay.called().await;
    extra.turn().await;
    drop(main);
    let mut next = relay.called().await;
    assert!(next.atrn.ends_with(" XWAIT=240"), "{}", next.atrn);
    extra.delivers(5).await;
    extra.quit().await;
    next.turn().await;
    next.delivers(1).await;
    next.quit().await;
    let (first, second) = tokio::time::timeout(PATIENCE, twice)
        .await
        .unwrap()
        .unwrap();
    assert!(matches!(first.outcome, Outcome::Broken(_)), "{first:?}");
    assert_eq!(first.tally.messages as usize, BACKLOG);
    assert_eq!(
        (second.outcome, second.tally.messages),
        (Outcome::Pulled, 6)
    );
}

#[tokio::test]
async fn a_stop_ends_all_of_them() {
    let World { relay, pull, .. } = &world(2).await;
    let pulled = pulled(pull);
    let mut main = relay.called().await;
    main.turn().await;
    main.delivers(BACKLOG).await;
    let mut extra = relay.called().await;
    extra.turn().await;
    pull.stop.cancel();
    for mut caller in [main, extra] {
        assert!(caller.line().await.unwrap().starts_with("421 "));
        assert_eq!(caller.line().await, None);
    }
    let report = ended(pulled).await;
    assert_eq!(report.outcome, Outcome::Stopped);
}
