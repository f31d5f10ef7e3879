//! Opening, refusing to open, and what a restart or a crash leaves.

use super::*;

#[tokio::test]
async fn a_lease_dies_with_the_process_and_the_mail_does_not() {
    let world = World::new();
    let id = world.accept(&["user@a.example"]).await;
    let leases = world.claim(SESSION, &["a.example"], 1).await;
    let world = world.restart();
    let again = world.claim(SESSION, &["a.example"], 1).await;
    assert_eq!(again[0].id, leases[0].id);
    assert_eq!(again[0].id.queue_id(), id);
}

/// The files as a `kill -9` leaves them: copied while the store is open, so without any shutdown.
#[tokio::test]
async fn acknowledged_mail_is_in_the_files_when_the_process_is_killed() {
    let world = World::new();
    let small = world.accept(&["user@a.example"]).await;
    let large = world
        .accept_content(&["user@a.example"], &pattern(300_000))
        .await;
    let crashed = tempfile::tempdir().unwrap();
    for name in ["queue.db", "queue.db-wal"] {
        let from = world.directory.path().join(name);
        std::fs::copy(from, crashed.path().join(name)).unwrap();
    }
    for file in world.spool_files() {
        let to = crashed
            .path()
            .join(file.strip_prefix(world.directory.path()).unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(&file, to).unwrap();
    }
    let store = Store::open(crashed.path()).unwrap();
    let leases = store
        .claim(SESSION, &[domain("a.example")], 10)
        .await
        .unwrap();
    let ids: Vec<_> = leases.iter().map(|lease| lease.id.queue_id()).collect();
    assert_eq!(ids, [small, large]);
    assert_eq!(
        read(leases[1].content().await.unwrap()).await,
        pattern(300_000)
    );
}

#[tokio::test]
async fn ids_do_not_repeat_when_the_clock_is_set_back() {
    let world = World::new();
    let id = world.accept(&["user@a.example"]).await;
    let mark: i64 = world
        .database()
        .query_row("SELECT value FROM setting WHERE name = 'mark'", [], |row| {
            row.get(0)
        })
        .unwrap();
    assert!(mark >= id.0, "what was given is marked durably");
    let future = id.later(365 * 24 * 3600 * 1000);
    let update = "UPDATE setting SET value = ?1 WHERE name = 'mark'";
    world.database().execute(update, [future.0]).unwrap();
    let world = world.restart();
    assert!(world.accept(&["user@a.example"]).await > future);
}

#[test]
fn a_second_process_is_refused_in_one_line() {
    let world = World::new();
    let error = Store::open(world.directory.path()).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }));
    assert!(!error.to_string().contains('\n'));
}

#[test]
fn a_database_of_a_newer_version_is_refused_and_left_alone() {
    let world = World::new();
    world
        .database()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    let World { directory, store } = world;
    drop(store);
    let error = Store::open(directory.path()).unwrap_err();
    assert!(matches!(error, OpenError::Newer { .. }), "{error}");
    assert!(error.to_string().contains("newer version"));
}

#[test]
fn a_database_of_another_program_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let foreign = Connection::open(directory.path().join("queue.db")).unwrap();
    foreign.execute_batch("CREATE TABLE theirs (x)").unwrap();
    drop(foreign);
    let error = Store::open(directory.path()).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    let database = Connection::open(directory.path().join("queue.db")).unwrap();
    let tables = "SELECT count(*) FROM sqlite_schema";
    assert_eq!(
        database
            .query_row(tables, [], |row| row.get::<_, i64>(0))
            .unwrap(),
        1
    );
}

#[tokio::test]
async fn a_damaged_database_is_refused_and_never_repaired() {
    let world = World::new();
    for _ in 0..50 {
        world
            .accept_content(&["user@a.example"], &pattern(4_000))
            .await;
    }
    let World { directory, store } = world;
    drop(store);
    let path = directory.path().join("queue.db");
    let whole = std::fs::read(&path).unwrap();
    // The header, the schema, and pages in the middle.
    for place in [0, 100, 4096 * 4, 4096 * 9] {
        let mut damaged = whole.clone();
        damaged[place..place + 1000].fill(0x5a);
        std::fs::write(&path, &damaged).unwrap();
        let error = Store::open(directory.path()).unwrap_err();
        assert!(
            matches!(error, OpenError::Damaged { .. }),
            "{place}: {error}"
        );
        assert_eq!(std::fs::read(&path).unwrap().len(), damaged.len());
    }
    std::fs::write(&path, &whole).unwrap();
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(store.count(Filter::default()).await.unwrap().messages, 50);
}

/// SQLite would make a new database of it, and the sweep would remove the contents.
#[tokio::test]
async fn a_database_that_is_empty_or_missing_is_refused_while_there_are_contents() {
    let world = World::new();
    world
        .accept_content(&["user@a.example"], &pattern(200_000))
        .await;
    let files = world.spool_files();
    let World { directory, store } = world;
    drop(store);
    let path = directory.path().join("queue.db");
    let refused = || {
        let error = Store::open(directory.path()).unwrap_err();
        assert!(matches!(error, OpenError::Lost { .. }), "{error}");
        assert!(files[0].exists());
        error.to_string()
    };
    std::fs::write(&path, "").unwrap();
    assert!(refused().contains("queue.db: empty, and there is content"));
    std::fs::remove_file(&path).unwrap();
    let missing = refused();
    assert!(missing.contains("queue.db: missing, and there is content"));
    assert!(!missing.contains('\n') && missing.contains("move spool/ away too"));
    assert!(!path.exists(), "nothing was begun");

    std::fs::remove_file(&files[0]).unwrap();
    drop(Store::open(directory.path()).unwrap());
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Store::open(&file.join("data")).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }));
    assert!(error.to_string().contains("file/data"), "{error}");
}

#[test]
fn nobody_else_may_read_the_queue() {
    use std::os::unix::fs::PermissionsExt;

    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("new/data");
    let _store = Store::open(&data_dir).unwrap();
    for path in [data_dir.clone(), data_dir.join("spool")] {
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
