//! What the queue does when the disk is full, an operation is bad, or the database cannot be written.

use std::path::Path;
use std::sync::atomic::Ordering;

use atrn_shared::steady::Moment;

use super::*;
use crate::queue::body::Body;
use crate::queue::sqlite::{open_writer, reopen_writer};

/// A store whose database must not grow beyond so many pages, as on a full disk.
fn store_of_pages(directory: &Path, pages: i64) -> Store {
    std::fs::create_dir(directory.join("spool")).unwrap();
    let connection = open_writer(&directory.join("queue.db")).unwrap();
    connection
        .pragma_update(None, "max_page_count", pages)
        .unwrap();
    let lock = lock(&directory.join("queue.lock")).unwrap();
    Store::start(directory, lock, connection).unwrap()
}

fn message(id: QueueId) -> Accept {
    Accept {
        id,
        received_at: Timestamp::now(),
        received_from: String::new(),
        reverse_path: String::new(),
        parameters: String::new(),
        flags: 0,
        size: 1,
        checksum: crc32fast::hash(b"x"),
        held_since: Moment::from_millis(1),
        deliveries: sqlite::by_domain(&envelope("", &["user@a.example"]).recipients),
        body: Body::Inline(b"x".to_vec()),
    }
}

#[tokio::test]
async fn a_full_database_refuses_new_mail_and_is_of_use_again_when_mail_has_gone() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_of_pages(directory.path(), 200);
    let world = World { directory, store };
    let mut accepted = 0;
    let error = loop {
        let mut body = world.store.body();
        body.write(&pattern(20_000)).await.unwrap();
        let envelope = envelope("a@example.net", &["user@a.example"]);
        match world.store.accept(envelope, body).await {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
        assert!(accepted < 100);
    };
    assert!(matches!(error, StoreError::Full), "{error}");
    assert!(accepted > 10);
    let leases = world.claim(SESSION, &["a.example"], 1000).await;
    assert_eq!(leases.len(), accepted, "what was refused is not there");
    for lease in leases {
        world
            .store
            .settle(lease, vec![Outcome::Delivered], None)
            .await
            .unwrap();
    }
    world
        .accept_content(&["user@a.example"], &pattern(20_000))
        .await;
}

#[tokio::test]
async fn the_last_room_on_the_disk_is_for_settling() {
    let world = World::new();
    world.accept(&["user@a.example"]).await;
    let free = &world.store.shared.spool().space().pretended;
    free.store(0, Ordering::Relaxed);
    for octets in [10, 300_000] {
        let mut body = world.store.body();
        let mut refused = body.write(&pattern(octets)).await;
        if refused.is_ok() {
            let envelope = envelope("a@example.net", &["user@a.example"]);
            refused = world.store.accept(envelope, body).await.map(|_| ());
        }
        assert!(matches!(refused, Err(StoreError::Full)), "{octets}");
    }
    until(|| world.spool_files().is_empty());
    world
        .settle_one("a.example", vec![Outcome::Delivered])
        .await;
    assert!(world.all().await.is_empty());
    free.store(u64::MAX, Ordering::Relaxed);
    world.accept(&["user@a.example"]).await;
}

#[tokio::test]
async fn one_bad_operation_fails_alone() {
    let world = World::new();
    let taken = world.accept(&["user@a.example"]).await;
    let lease = world.claim(SESSION, &["a.example"], 1).await.remove(0);
    // While another connection writes, the first operation waits for it and the rest for the first:
    // they come into one transaction.
    let blocker = world.database();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let first = world.store.settle(lease, vec![later()], None);
    let store = &world.store;
    let good = [store.body().id(), store.body().id()];
    let (one, bad, two, ()) = tokio::join!(
        store.writer.accept(message(good[0])),
        store.writer.accept(message(taken)),
        store.writer.accept(message(good[1])),
        async { blocker.execute_batch("ROLLBACK").unwrap() },
    );
    assert!(first.await.is_ok() && one.is_ok() && two.is_ok());
    assert!(matches!(bad, Err(StoreError::Unavailable { .. })));
    let items = world.all().await;
    let ids: Vec<_> = items.iter().map(|item| item.id).collect();
    assert_eq!(ids, [taken, good[0], good[1]]);
    let total = world.store.totals().await.unwrap().remove(0);
    assert_eq!(
        (total.queued, total.deferred),
        (2, 1),
        "what was rolled back is not counted"
    );
}

/// Mail that is inside must not be sent again because the disk failed just then.
#[tokio::test]
async fn a_settlement_that_cannot_be_written_is_owed_and_its_lease_kept() {
    let world = World::new();
    world.accept(&["user@a.example"]).await;
    let lease = world.claim(SESSION, &["a.example"], 1).await.remove(0);
    let database = world.database();
    let hide = "ALTER TABLE delivery RENAME TO hidden";
    database.execute_batch(hide).unwrap();
    let settled = world
        .store
        .settle(lease, vec![Outcome::Delivered], None)
        .await;
    assert!(matches!(settled, Err(StoreError::Unavailable { .. })));
    assert_eq!(world.store.leased(), 1);
    database
        .execute_batch("ALTER TABLE hidden RENAME TO delivery")
        .unwrap();
    until(|| world.store.leased() == 0);
    assert!(world.claim(SESSION, &["a.example"], 1).await.is_empty());
    assert_eq!(world.rows("message"), 0);
}

#[tokio::test]
async fn what_cannot_be_settled_for_a_reason_of_its_own_stops_nothing_else() {
    let world = World::new();
    let ids = [
        world.accept(&["user@a.example"]).await,
        world.accept(&["user@a.example"]).await,
        world.accept(&["user@a.example"]).await,
    ];
    let taken = world.accept(&["user@b.example"]).await;
    let database = world.database();
    let stop = "CREATE TRIGGER stop BEFORE DELETE ON delivery BEGIN SELECT RAISE(ABORT, ''); END";
    database.execute_batch(stop).unwrap();
    for lease in world.claim(SESSION, &["a.example"], 3).await {
        let is_bad = lease.id.queue_id() == ids[1];
        let settle = Settle {
            size: lease.size,
            held: lease.held,
            now: world.store.now(),
            verdict: Verdict::Delivered,
            judge: Judge::Puller,
            // A report whose id is another message's.
            report: is_bad.then(|| message(taken)),
        };
        assert!(world.store.writer.settle(settle).await.is_err());
    }
    assert!(world.store.is_owing());
    assert_eq!(world.store.leased(), 3);
    database.execute_batch("DROP TRIGGER stop").unwrap();
    until(|| world.store.leased() == 1);
    assert!(world.store.is_owing());
    let left: Vec<_> = world.all().await.iter().map(|item| item.id).collect();
    assert_eq!(left, [ids[1], taken]);
    world
        .settle_one("b.example", vec![Outcome::Delivered])
        .await;
    until(|| world.store.leased() == 0);
    let left: Vec<_> = world.all().await.iter().map(|item| item.id).collect();
    assert_eq!(left, [taken], "the report");
    until(|| !world.store.is_owing());
}

#[tokio::test]
async fn the_queue_is_whole_and_the_log_empty_when_it_is_opened_again_after_a_failure() {
    let world = World::new();
    let id = world.accept(&["user@a.example"]).await;
    let log = world.directory.path().join("queue.db-wal");
    let again = reopen_writer(&world.directory.path().join("queue.db")).unwrap();
    assert_eq!(std::fs::metadata(&log).unwrap().len(), 0);
    assert_eq!(world.all().await[0].id, id);
    drop(again);
    world.accept(&["user@a.example"]).await;
    assert_eq!(world.all().await.len(), 2);
}

#[tokio::test]
async fn a_row_that_cannot_be_read_does_not_stop_the_others() {
    let world = World::new();
    let bad = world.accept(&["user@a.example"]).await;
    let good = world.accept(&["user@a.example"]).await;
    let update = "UPDATE delivery SET recipients = '[{\"to\":\"nonsense\"}]' WHERE message = ?1";
    world.database().execute(update, [bad.0]).unwrap();
    for _ in 0..2 {
        let leases = world.claim(SESSION, &["a.example"], 10).await;
        let ids: Vec<_> = leases.iter().map(|lease| lease.id.queue_id()).collect();
        assert_eq!(ids, [good]);
    }
    assert_eq!(
        world.all().await[0].state,
        State::Leased,
        "set aside, and visible"
    );
}

#[tokio::test]
async fn handles_of_a_closed_store_say_so() {
    let world = World::new();
    world.accept(&["user@a.example"]).await;
    let lease = world.claim(SESSION, &["a.example"], 1).await.remove(0);
    let mut body = world.store.body();
    let World { directory, store } = world;
    let writer = store.writer.clone();
    drop(store);
    assert!(matches!(
        writer.accept(message(body.id())).await,
        Err(StoreError::Closed)
    ));
    body.write(&pattern(300_000)).await.unwrap();
    drop((lease, body));
    Store::open(directory.path()).unwrap();
}
