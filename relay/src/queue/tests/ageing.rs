//! What waited too long, what was kept long enough, and what a wrong clock makes of it.

use atrn_shared::steady::{DOWNTIME_MAX, Moment};

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

fn expired() -> Outcome {
    Outcome::Expired(Reply::new(554, "5.4.7", "held too long"))
}

fn report(recipient: &str, domain: &str) -> Report {
    let mut envelope = envelope("", &[recipient]);
    envelope.is_report = true;
    envelope.recipients[0].domain = super::domain(domain);
    let content = b"Subject: failed\r\n\r\n".to_vec();
    let about = vec![0];
    Report {
        envelope,
        content,
        about,
    }
}

async fn overdue(world: &World, hold_for: Duration) -> Vec<QueueId> {
    let domain = domain("a.example");
    let leases = world.store.overdue(&domain, hold_for, 100).await.unwrap();
    leases.iter().map(|lease| lease.id.queue_id()).collect()
}

// covers: R5321-30
#[tokio::test]
async fn mail_ages_where_it_waits_and_nowhere_else() {
    let world = World::new();
    let [queued, deferred, held, leased, failed] = [
        world.accept(&["user@a.example"]).await,
        world.accept(&["user@a.example"]).await,
        world.accept(&["user@a.example"]).await,
        world.accept(&["user@a.example"]).await,
        world.accept(&["user@a.example"]).await,
    ];
    world.accept(&["user@other.example"]).await;
    let mut leases = world.claim(SESSION, &["a.example"], 5).await;
    let last = leases.pop().unwrap();
    world.store.settle(last, vec![never()], None).await.unwrap();
    let kept = leases.pop().unwrap();
    assert_eq!((kept.id.queue_id(), failed > leased), (leased, true));
    let second = leases.swap_remove(1);
    world
        .store
        .settle(second, vec![later()], None)
        .await
        .unwrap();
    drop(leases);
    world.change(Action::Hold, &held.to_string()).await;
    assert_eq!(overdue(&world, DAY).await, []);
    world.make_older(DAY);
    assert_eq!(overdue(&world, DAY).await, [queued, deferred]);
    let young = world.accept(&["user@a.example"]).await;
    assert_eq!(overdue(&world, DAY).await, [queued, deferred]);
    assert_eq!(
        overdue(&world, Duration::ZERO).await,
        [queued, young, deferred]
    );
    drop(kept);
}

#[tokio::test]
async fn what_an_admin_has_tried_again_has_its_whole_time_again() {
    let world = World::new();
    let id = world.accept(&["user@a.example"]).await;
    world.make_older(DAY * 2);
    let lease = world.store.overdue(&domain("a.example"), DAY, 1).await;
    let lease = lease.unwrap().pop().unwrap();
    world
        .store
        .settle(lease, vec![expired()], None)
        .await
        .unwrap();
    assert_eq!(world.all().await[0].state, State::Expired);
    assert_eq!(overdue(&world, DAY).await, []);
    world.change(Action::Retry, &id.to_string()).await;
    assert_eq!(world.all().await[0].state, State::Queued);
    assert_eq!(overdue(&world, DAY).await, [], "it begins anew");
    // A younger one behind it is found all the same.
    let second = world.accept(&["user@a.example"]).await;
    let later = "UPDATE message SET held_since = held_since - ?1, received_at = received_at - ?1
         WHERE key = (SELECT max(key) FROM message)";
    world.alter(later, DAY);
    assert_eq!(overdue(&world, DAY).await, [second]);
}

#[tokio::test]
async fn who_ends_mail_without_asking_the_puller_makes_no_attempt() {
    let world = World::new();
    let fresh = world.accept(&["user@a.example"]).await;
    let tried = world.accept(&["user@b.example"]).await;
    world.settle_one("b.example", vec![later()]).await;
    let attempts = async |id| {
        let item = world.store.show(id).await.unwrap().unwrap();
        let delivery = item.deliveries.into_iter().next().unwrap();
        (
            delivery.item.attempts,
            delivery.last_attempt,
            delivery.item.state,
        )
    };
    let (_, before, _) = attempts(tried).await;
    assert!(before.is_some());
    let all = Selection::Filter(Filter::default());
    let seized = world.store.seize(&all, None, 9).await.unwrap();
    for (lease, outcome) in seized.leases.into_iter().zip([never(), expired()]) {
        let settled = world
            .store
            .settle_by(Judge::Relay, lease, vec![outcome], None);
        settled.await.unwrap();
    }
    assert_eq!(attempts(fresh).await, (0, None, State::Failed));
    assert_eq!(attempts(tried).await, (1, before, State::Expired));
}

#[tokio::test]
async fn failed_and_expired_mail_is_kept_for_its_time_from_its_end_on() {
    let world = World::new();
    for _ in 0..2 {
        world.accept(&["user@a.example"]).await;
    }
    world.make_older(DAY * 30);
    for (lease, outcome) in world
        .claim(SESSION, &["a.example"], 2)
        .await
        .into_iter()
        .zip([never(), expired()])
    {
        world
            .store
            .settle(lease, vec![outcome], None)
            .await
            .unwrap();
    }
    let waits = world.accept(&["user@a.example"]).await;
    let forget = async |keep| {
        world
            .store
            .forget(&domain("a.example"), keep, |_, _| {})
            .await
            .unwrap()
    };
    assert_eq!(forget(DAY * 7).await, 0, "both ended just now");
    world.make_older(DAY * 7);
    assert_eq!(forget(DAY * 7).await, 2);
    assert_eq!(forget(Duration::ZERO).await, 0, "what waits stays");
    assert_eq!(world.all().await[0].id, waits);
    assert_eq!(world.rows("message"), 1);
}

/// The clock finds a delivery, an admin decides about it, and only then the clock holds it.
#[tokio::test]
async fn what_an_admin_decides_goes_before_what_the_clock_has_found() {
    let world = World::new();
    let [failed, retried, waits, held] = [
        world.accept(&["user@a.example"]).await,
        world.accept(&["user@a.example"]).await,
        world.accept(&["user@a.example"]).await,
        world.accept(&["user@a.example"]).await,
    ];
    let mut leases = world.claim(SESSION, &["a.example"], 4).await;
    leases.truncate(2);
    for lease in leases {
        world
            .store
            .settle(lease, vec![never()], None)
            .await
            .unwrap();
    }
    world.make_older(DAY * 7);
    let found = world.all().await;
    world.change(Action::Retry, &retried.to_string()).await;
    world.change(Action::Hold, &held.to_string()).await;
    let hold = || {
        let leases = &world.store.shared.leases;
        let entries = found.iter().map(|item| {
            let key = item.delivery_id.key;
            lease::Entry { key, domain: 1 }
        });
        entries
            .filter_map(|entry| leases.hold(entry, SessionId::ADMIN))
            .collect::<Vec<lease::Held>>()
    };
    let overdue = world.store.still_overdue(hold(), DAY).await.unwrap();
    let ids: Vec<_> = overdue.iter().map(|lease| lease.id.queue_id()).collect();
    assert_eq!(ids, [waits]);
    drop(overdue);
    let now = world.store.now().steady;
    let forget = sqlite::writer::Change {
        action: Action::Remove,
        ended_until: Some(now.before(DAY)),
        now,
        held: hold(),
    };
    assert_eq!(world.store.writer.change(forget).await.unwrap(), 1);
    let left: Vec<_> = world.all().await.iter().map(|item| item.id).collect();
    assert_eq!((left.contains(&failed), left.len()), (false, 3));
    // One that failed once more, but only now, is kept for its whole time too.
    let mut leases = world.claim(SESSION, &["a.example"], 4).await;
    let lease = leases.remove(0);
    assert_eq!(lease.id.queue_id(), retried);
    world
        .store
        .settle(lease, vec![never()], None)
        .await
        .unwrap();
    drop(leases);
    let forget = sqlite::writer::Change {
        action: Action::Remove,
        ended_until: Some(now.before(DAY)),
        now,
        held: hold(),
    };
    assert_eq!(world.store.writer.change(forget).await.unwrap(), 0);
}

#[tokio::test]
async fn a_report_is_there_if_and_only_if_its_reason_is() {
    let world = World::new();
    world.accept(&["user@a.example"]).await;
    let mut leases = world.claim(SESSION, &["a.example"], 1).await;
    let lease = leases.pop().unwrap();
    let told = report("sender@example.net", "a.example");
    world
        .store
        .settle(lease, vec![never()], Some(told))
        .await
        .unwrap();
    let mut leases = world.claim(SESSION, &["a.example"], 9).await;
    assert_eq!(leases.len(), 1, "the report travels to the same domain");
    let lease = leases.pop().unwrap();
    assert!(lease.is_report && lease.reverse_path == ReversePath::Null);
    assert_eq!(
        lease.recipients[0].forward_path.to_string(),
        "sender@example.net"
    );
    assert_eq!(
        read(lease.content().await.unwrap()).await,
        b"Subject: failed\r\n\r\n"
    );
    assert_eq!(
        world.all().await.len(),
        2,
        "the failed one stays and is seen"
    );
    // Settled by somebody else meanwhile: then that one has told.
    let again = world.database();
    again
        .execute(
            "DELETE FROM delivery WHERE message = ?1",
            [lease.id.queue_id().0],
        )
        .unwrap();
    let told = report("sender@example.net", "a.example");
    world
        .store
        .settle(lease, vec![never()], Some(told))
        .await
        .unwrap();
    assert_eq!(world.all().await.len(), 1);
}

#[tokio::test]
async fn a_seized_delivery_is_sent_by_nobody() {
    let world = World::new();
    let id = world.accept(&["user@a.example", "user@b.example"]).await;
    world.accept(&["user@a.example"]).await;
    let taken = world.claim(SESSION, &["b.example"], 1).await;
    let all = Selection::Filter(Filter::default());
    let first = world.store.seize(&all, None, 2).await.unwrap();
    assert_eq!((first.leases.len(), first.leased), (1, 1));
    let second = world.store.seize(&all, first.last, 2).await.unwrap();
    assert_eq!((second.leases.len(), second.leased), (1, 0));
    let end = world.store.seize(&all, second.last, 2).await.unwrap();
    assert!(end.leases.is_empty() && end.last.is_none());
    assert!(
        world
            .claim(OTHER_SESSION, &["a.example"], 9)
            .await
            .is_empty()
    );
    drop((first, second, taken));
    let named = Selection::Ids(vec![Reference::Message(id), Reference::Message(QueueId(1))]);
    let named = world.store.seize(&named, None, 1).await.unwrap();
    assert_eq!((named.leases.len(), named.unknown.len()), (2, 1));
}

/// Twenty years ahead at a restart, and twenty years back at the next one.
#[tokio::test]
async fn a_clock_that_jumps_makes_nothing_old_and_holds_nothing_back() {
    const YEARS: Duration = Duration::from_secs(20 * 365 * 86_400);
    let mut world = World::new();
    world.accept(&["user@a.example"]).await;
    world.settle_one("a.example", vec![later()]).await;
    let clock = |world: &World| world.store.shared.clock.now();
    for sign in [1, -1] {
        let before = clock(&world);
        let mark = format!("UPDATE setting SET value = value - {sign} * ?1 WHERE name = 'wall'");
        // The store writes its mark when it closes; the wall clock is changed behind its back.
        let World { directory, store } = world;
        drop(store);
        let database = Connection::open(directory.path().join("queue.db")).unwrap();
        let years = i64::try_from(YEARS.as_millis()).unwrap();
        database.execute(&mark, [years]).unwrap();
        drop(database);
        let store = Store::open(directory.path()).unwrap();
        world = World { directory, store };
        let passed = clock(&world).millis() - before.millis();
        let most = i64::try_from((DOWNTIME_MAX + DAY).as_millis()).unwrap();
        assert!((0..most).contains(&passed), "{passed} ms");
        let next = world.all().await[0].next_attempt.unwrap();
        let ahead = next.duration_since(Timestamp::now());
        assert!(ahead.as_secs() <= 30, "{ahead}");
    }
    assert_eq!(overdue(&world, DAY * 5).await, []);
    world.let_time_pass();
    assert_eq!(world.claim(SESSION, &["a.example"], 1).await.len(), 1);
}

#[tokio::test]
async fn a_database_of_the_first_version_is_brought_along() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("spool")).unwrap();
    let database = Connection::open(directory.path().join("queue.db")).unwrap();
    database
        .execute_batch(include_str!("../sqlite/schema.sql"))
        .unwrap();
    let rows = "PRAGMA application_id = 0x6174726e; PRAGMA user_version = 1;
         INSERT INTO domain VALUES (1, 'a.example');
         INSERT INTO message VALUES (5, 1700000000000, '', 'x@example.net', '', 0, 4, 2);
         INSERT INTO body VALUES (5, x'74657874');
         INSERT INTO delivery VALUES (5, 1, 1, 1, 1700000030000, 1700000000000, 1, NULL, '[{\"to\":\"user@a.example\"}]');
         INSERT INTO total VALUES (1, 1, 1, 4);";
    database.execute_batch(rows).unwrap();
    drop(database);
    let store = Store::open(directory.path()).unwrap();
    let world = World { directory, store };
    assert_eq!(overdue(&world, DAY).await, [QueueId(5)]);
    let lease = world.claim(SESSION, &["a.example"], 1).await.pop().unwrap();
    assert_eq!(read(lease.content().await.unwrap()).await, b"text");
    assert!(world.store.shared.clock.now() > Moment::from_millis(1_700_000_000_000));
}

#[tokio::test]
async fn what_a_domain_has_is_known_without_asking_the_disk() {
    let world = World::new();
    let amount = |name| world.store.amount(&domain(name));
    assert_eq!(amount("a.example"), Found::default());
    world
        .accept_content(&["user@a.example", "user@b.example"], &pattern(1_000))
        .await;
    world
        .accept_content(&["user@a.example"], &pattern(500))
        .await;
    let expected = Found {
        messages: 2,
        bytes: 1_500,
    };
    assert_eq!(amount("a.example"), expected);
    world
        .change(Action::Hold, &world.all().await[0].id.to_string())
        .await;
    assert_eq!(amount("a.example"), expected, "in whatever state");
}
