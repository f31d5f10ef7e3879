//! Content in the database and in files: whole, once, and gone in time.

use super::*;

/// Issue 2 d: two customers, one body.
#[tokio::test]
async fn a_message_for_two_domains_is_stored_once_and_goes_with_its_last_delivery() {
    for octets in [100, INLINE_BYTES + 1] {
        let world = World::new();
        let content = pattern(octets);
        let id = world.accept_content(&["x@a.example", "y@b.example", "z@a.example"], &content);
        let id = id.await;
        assert_eq!((world.rows("message"), world.rows("delivery")), (1, 2));
        let stored = (world.rows("body"), world.spool_files().len());
        assert_eq!(
            stored,
            if octets > INLINE_BYTES {
                (0, 1)
            } else {
                (1, 0)
            }
        );

        let leases = world.claim(SESSION, &["a.example"], 10).await;
        assert_eq!((leases.len(), leases[0].recipients.len()), (1, 2));
        drop(leases);
        world
            .settle_one("a.example", vec![Outcome::Delivered, Outcome::Delivered])
            .await;
        let left = world.store.content(id).await.unwrap().unwrap();
        assert_eq!(read(left).await, content);

        world
            .settle_one("b.example", vec![Outcome::Delivered])
            .await;
        assert!(world.store.content(id).await.unwrap().is_none());
        let world = world.restart();
        assert_eq!(
            (
                world.rows("message"),
                world.rows("delivery"),
                world.rows("body")
            ),
            (0, 0, 0)
        );
        assert_eq!(world.spool_files(), [] as [PathBuf; 0]);
    }
}

#[tokio::test]
async fn content_comes_out_as_it_went_in_whatever_its_size() {
    let world = World::new();
    let chunk = 256 * 1024;
    let sizes = [
        0,
        1,
        INLINE_BYTES,
        INLINE_BYTES + 1,
        chunk - 1,
        chunk,
        chunk + 1,
        5 * chunk + 7,
    ];
    for octets in sizes {
        let content = pattern(octets);
        let id = world.accept_content(&["user@a.example"], &content).await;
        let leases = world.claim(SESSION, &["a.example"], 1).await;
        assert_eq!(leases[0].size, octets as u64);
        assert_eq!(
            read(leases[0].content().await.unwrap()).await,
            content,
            "{octets}"
        );
        assert_eq!(
            read(world.store.content(id).await.unwrap().unwrap()).await,
            content
        );
        for lease in leases {
            world
                .store
                .settle(lease, vec![Outcome::Delivered], None)
                .await
                .unwrap();
        }
    }
}

#[tokio::test]
async fn a_head_that_is_known_last_stands_first() {
    let block = 256 * 1024;
    for (head, below) in [
        (1, 0),
        (700, 100),
        (700, INLINE_BYTES),
        (1, INLINE_BYTES + 1),
        (700, block),
        (5_000, block + 1),
        (100_000, 3 * block),
    ] {
        let world = World::new();
        let content = pattern(head + below);
        let (above, rest) = content.split_at(head);
        let id = world.accept_headed(&["user@a.example"], above, rest).await;
        let is_file = below > INLINE_BYTES;
        assert_eq!(world.spool_files().len(), usize::from(is_file));
        let world = world.restart();
        let shown = world.store.content(id).await.unwrap().unwrap();
        assert_eq!(shown.size(), content.len() as u64);
        assert_eq!(read(shown).await, content, "{head} {below}");
        // With the claim, and asked for afterwards.
        let all = Selection::Filter(Filter::default());
        let seized = world.store.seize(&all, None, 1).await.unwrap().leases;
        assert_eq!(read(seized[0].content().await.unwrap()).await, content);
        drop(seized);
        let mut claimed = world.claim(SESSION, &["a.example"], 1).await;
        assert_eq!(claimed[0].size, content.len() as u64);
        let lease = claimed.remove(0);
        assert_eq!(read(lease.content().await.unwrap()).await, content);

        let update = "UPDATE body SET content = CAST(x'ff' || substr(content, 2) AS BLOB)";
        world.database().execute(update, []).unwrap();
        let changed = world.store.content(id).await.unwrap().unwrap();
        assert_ne!(read(changed).await, content);
        if is_file {
            drop(lease);
            let lease = world.claim(SESSION, &["a.example"], 1).await.remove(0);
            let refused = lease.content().await;
            assert!(matches!(refused, Err(StoreError::Damaged(_))));
            world.database().execute("DELETE FROM body", []).unwrap();
            assert!(world.store.content(id).await.is_err(), "its head is lost");
        }
    }
}

#[tokio::test]
async fn the_head_goes_with_its_message() {
    let world = World::new();
    let content = pattern(INLINE_BYTES + 1);
    world
        .accept_headed(&["user@a.example"], b"head", &content)
        .await;
    assert_eq!(world.rows("body"), 1);
    world
        .settle_one("a.example", vec![Outcome::Delivered])
        .await;
    assert_eq!(world.rows("body"), 0);
}

#[tokio::test]
async fn a_queue_from_before_there_were_heads_opens() {
    let world = World::new();
    let content = pattern(INLINE_BYTES + 1);
    let id = world.accept_content(&["user@a.example"], &content).await;
    assert_eq!(world.rows("body"), 0);
    let version = |world: &World| -> i64 {
        let query = "SELECT user_version FROM pragma_user_version";
        let database = world.database();
        database.query_row(query, [], |row| row.get(0)).unwrap()
    };
    assert_eq!(version(&world), 3);
    let World { directory, store } = world;
    drop(store);
    let database = Connection::open(directory.path().join("queue.db")).unwrap();
    database.pragma_update(None, "user_version", 2).unwrap();
    drop(database);
    let store = Store::open(directory.path()).unwrap();
    let world = World { directory, store };
    assert_eq!(version(&world), 3);
    let shown = world.store.content(id).await.unwrap().unwrap();
    assert_eq!(read(shown).await, content);
}

#[tokio::test]
async fn a_claim_is_bounded_in_octets_and_brings_what_is_small_along() {
    let world = World::new();
    // A claim ends with the one that reaches the bound.
    let each = (claiming::CLAIM_OCTETS_MAX as usize).div_ceil(INLINE_BYTES);
    let count = 2 * each;
    for _ in 0..count {
        world
            .accept_content(&["user@a.example"], &pattern(INLINE_BYTES))
            .await;
    }
    let leases = world.claim(SESSION, &["a.example"], count).await;
    let is_here = |lease: &Lease| matches!(lease.place, envelope::Place::Here(_));
    assert_eq!(leases.len(), each);
    assert!(leases.iter().all(is_here));
    let others = world.claim(OTHER_SESSION, &["a.example"], count).await;
    assert_eq!(others.len(), each, "the rest is for those beside it");
    drop(others);

    let all = Selection::Filter(Filter::default());
    let seized = world.store.seize(&all, None, count).await.unwrap().leases;
    assert!(!seized.iter().any(is_here), "not asked for");
    for lease in leases.iter().chain(&seized) {
        let content = read(lease.content().await.unwrap()).await;
        assert_eq!(content, pattern(INLINE_BYTES));
    }
}

#[tokio::test]
async fn one_message_is_claimed_however_large_it_is() {
    let world = World::new();
    let octets = claiming::CLAIM_OCTETS_MAX as usize + 1;
    for _ in 0..2 {
        world
            .accept_content(&["user@a.example"], &pattern(octets))
            .await;
    }
    assert_eq!(world.claim(SESSION, &["a.example"], 10).await.len(), 1);
}

#[tokio::test]
async fn content_that_is_not_accepted_leaves_no_file() {
    let world = World::new();
    let mut body = world.store.body();
    body.write(&pattern(1_000_000)).await.unwrap();
    until(|| world.spool_files().len() == 1);
    drop(body);
    until(|| world.spool_files().is_empty());
}

#[tokio::test]
async fn orphans_are_swept_at_start_and_only_they() {
    let world = World::new();
    let id = world
        .accept_content(&["user@a.example"], &pattern(100_000))
        .await;
    let orphan = world.store.shared.spool().file(world.store.body().id());
    let foreign = orphan.with_file_name("README");
    std::fs::write(&orphan, "x").unwrap();
    std::fs::write(&foreign, "x").unwrap();
    let world = world.restart();
    until(|| !orphan.exists());
    assert!(foreign.exists());
    let content = world.store.content(id).await.unwrap().unwrap();
    assert_eq!(read(content).await, pattern(100_000));
}

/// Soon after a restart ids run ahead of the clock, and those of content that came to nothing are marked nowhere else.
#[tokio::test]
async fn an_id_of_content_that_was_never_accepted_is_not_given_again() {
    let world = World::new();
    world.accept(&["user@a.example"]).await;
    let world = world.restart();
    let given: Vec<QueueId> = (0..3).map(|_| world.store.body().id()).collect();
    let orphan = world.store.shared.spool().file(given[2]);
    std::fs::write(&orphan, "x").unwrap();
    let world = world.restart();
    assert!(world.store.body().id() > given[2]);
    until(|| !orphan.exists());
}

#[tokio::test]
async fn a_content_file_that_is_cut_short_is_reported_and_never_sent() {
    let world = World::new();
    world
        .accept_content(&["user@a.example"], &pattern(100_000))
        .await;
    let file = world.spool_files().remove(0);
    std::fs::write(&file, pattern(99_999)).unwrap();
    let leases = world.claim(SESSION, &["a.example"], 1).await;
    assert!(matches!(
        leases[0].content().await,
        Err(StoreError::Damaged(_))
    ));
    std::fs::remove_file(&file).unwrap();
    assert!(matches!(
        leases[0].content().await,
        Err(StoreError::Damaged(_))
    ));
}

#[tokio::test]
async fn damaged_content_is_found_when_it_is_read_for_the_puller() {
    for octets in [100, INLINE_BYTES + 1, 1_000_000] {
        let world = World::new();
        let content = pattern(octets);
        let id = world.accept_content(&["user@a.example"], &content).await;
        let sound = world.accept(&["user@a.example"]).await;
        let mut damaged = content.clone();
        damaged[octets / 2] ^= 1;
        match world.spool_files().first() {
            Some(file) => std::fs::write(file, &damaged).unwrap(),
            None => {
                let update = "UPDATE body SET content = ?1 WHERE message = ?2";
                world.database().execute(update, (&damaged, id.0)).unwrap();
            }
        }
        let leases = world.claim(SESSION, &["a.example"], 2).await;
        let error = leases[0].content().await.unwrap_err();
        assert!(
            matches!(&error, StoreError::Damaged(text) if text.contains(&id.to_string())),
            "{error}"
        );
        assert!(leases[1].content().await.is_ok(), "{sound}");
        let shown = world.store.content(id).await.unwrap().unwrap();
        assert_eq!(read(shown).await, damaged, "an admin sees what is left");
    }
}

#[tokio::test]
async fn content_of_a_version_without_checksums_is_read_as_it_is() {
    for octets in [100, INLINE_BYTES + 1] {
        let world = World::new();
        world
            .accept_content(&["user@a.example"], &pattern(octets))
            .await;
        world
            .database()
            .execute("UPDATE message SET checksum = NULL", [])
            .unwrap();
        let lease = world.claim(SESSION, &["a.example"], 1).await.pop().unwrap();
        assert_eq!(read(lease.content().await.unwrap()).await, pattern(octets));
    }
}
