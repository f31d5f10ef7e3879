//! Copies of the queue while it is in use, and the way back.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use super::super::backup::{BackupError, Manifest, Phase, Progress, restore};
use super::super::salvage::salvage;
use super::super::spool::spool_path;
use super::*;

const LARGE: usize = 200_000;

async fn back_up(world: &World, to: &Path) -> Result<Manifest, BackupError> {
    world.store.backup(to, |_| true).await
}

fn bring_back(data_dir: &Path, from: &Path) -> Result<(), String> {
    let restored = restore(data_dir, from, &mut |_| true);
    restored.map(|_| ()).map_err(|error| error.to_string())
}

/// All messages of a queue with their contents, by id.
async fn contents(store: &Store) -> Vec<(QueueId, Vec<u8>)> {
    let mut all = Vec::new();
    for item in store.list(Filter::default(), None, 10_000).await.unwrap() {
        let content = store.content(item.id).await.unwrap().unwrap();
        all.push((item.id, read(content).await));
    }
    all
}

#[tokio::test]
async fn what_was_accepted_before_a_backup_began_is_in_it_whatever_goes_on() {
    let world = World::new();
    let mut before = Vec::new();
    for number in 0..40 {
        let size = if number % 4 == 0 { LARGE } else { 2_000 };
        let content = pattern(size + number);
        let (head, below) = content.split_at(number * 10);
        let id = world.accept_headed(&["user@a.example"], head, below);
        before.push((id.await, content));
    }
    let target = tempfile::tempdir().unwrap();
    let backup = target.path().join("backup");
    // While it is made all of that is delivered and removed, and other mail comes.
    let is_over = AtomicBool::new(false);
    // The first word comes when the copy has its view; what is delivered before that is rightly not in it.
    let begun = Arc::new(Notify::new());
    let copied = async {
        let begun = Arc::clone(&begun);
        let watch = move |_| {
            begun.notify_one();
            true
        };
        let manifest = world.store.backup(&backup, watch).await.unwrap();
        is_over.store(true, Ordering::Relaxed);
        manifest
    };
    let goes_on = async {
        begun.notified().await;
        let (mut settled, mut accepted) = (0, 0);
        while !(is_over.load(Ordering::Relaxed) && settled > before.len() && accepted > 100) {
            world
                .accept_content(&["user@b.example"], &pattern(LARGE))
                .await;
            accepted += 1;
            for lease in world.claim(SESSION, &["a.example", "b.example"], 5).await {
                let settled_now = world.store.settle(lease, vec![Outcome::Delivered], None);
                settled_now.await.unwrap();
                settled += 1;
            }
        }
    };
    let (manifest, ()) = tokio::join!(copied, goes_on);
    assert!(
        manifest.messages >= 40 && manifest.files >= 10,
        "{manifest:?}"
    );

    let fresh = target.path().join("data");
    bring_back(&fresh, &backup).unwrap();
    let restored = Store::open(&fresh).unwrap();
    let found = contents(&restored).await;
    assert_eq!(found.len() as u64, manifest.messages);
    for message in &before {
        assert!(
            found.contains(message),
            "{} is missing or different",
            message.0
        );
    }
    // What had to wait for the copy is removed behind it.
    let deadline = Instant::now() + Duration::from_secs(20);
    while world.spool_files().len() > usize::try_from(world.rows("message")).unwrap() {
        assert!(Instant::now() < deadline, "content files stay behind");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_comes_back_is_what_it_was() {
    let world = World::new();
    world.accept(&["a@a.example", "b@a.example"]).await;
    world.accept(&["c@b.example"]).await;
    world
        .accept_content(&["d@c.example"], &pattern(LARGE))
        .await;
    world
        .settle_one("a.example", vec![Outcome::Delivered, later()])
        .await;
    world.settle_one("b.example", vec![never()]).await;
    let ids = |items: Vec<Item>| -> Vec<_> {
        let items = items.into_iter();
        items
            .map(|item| (item.delivery_id, item.state, item.recipients))
            .collect()
    };
    let target = tempfile::tempdir().unwrap();
    let manifest = back_up(&world, &target.path().join("b")).await.unwrap();
    assert_eq!(
        (manifest.messages, manifest.deliveries, manifest.files),
        (3, 3, 1)
    );

    // The same directory, as it is after the disk was replaced.
    let before = ids(world.all().await);
    let World { directory, store } = world;
    drop(store);
    drop(directory);
    let fresh = target.path().join("data");
    bring_back(&fresh, &target.path().join("b")).unwrap();
    let store = Store::open(&fresh).unwrap();
    assert_eq!(
        ids(store.list(Filter::default(), None, 10).await.unwrap()),
        before
    );
    let totals = store.totals().await.unwrap();
    let states: Vec<_> = totals
        .iter()
        .map(|total| (total.queued, total.deferred, total.failed))
        .collect();
    assert_eq!(states, [(0, 1, 0), (0, 0, 1), (1, 0, 0)]);
}

async fn ids(world: &World) -> Vec<DeliveryId> {
    let items = world.all().await.into_iter();
    items.map(|item| item.delivery_id).collect()
}

/// The ids that are given while mail comes and goes, and a part of the newest old delivery is refused.
async fn give_ids(world: &World, outcomes: Vec<Outcome>) -> HashSet<DeliveryId> {
    let old = ids(world).await;
    let mut given = HashSet::new();
    for _ in 0..5 {
        world.accept(&["u@other.example"]).await;
        let delivered = vec![Outcome::Delivered];
        given.insert(world.settle_one("other.example", delivered).await);
    }
    let mut leases = world.claim(SESSION, &["a.example"], 10).await;
    let settled = world.store.settle(leases.pop().unwrap(), outcomes, None);
    settled.await.unwrap();
    let now = ids(world).await.into_iter();
    given.extend(now.filter(|id| !old.contains(id)));
    assert_eq!(given.len(), 6);
    given
}

/// A journal that has the id of mail that was lost with the disk must not know other mail by it.
// covers: R-DUP
#[tokio::test]
async fn ids_that_were_given_after_a_backup_are_not_given_again_and_those_in_it_stay() {
    let world = World::new();
    // Ids follow each other without a gap while they are ahead of the clock, and so come again after the loss.
    let ahead = world.accept(&["u@a.example"]).await.later(86_400_000);
    let mark = "UPDATE setting SET value = ?1 WHERE name = 'mark'";
    world.database().execute(mark, [ahead.0]).unwrap();
    let mut world = world.restart();
    let target = tempfile::tempdir().unwrap();
    let mut given = HashSet::new();
    for round in 0..3 {
        let newest = world.accept(&["u@a.example", "v@a.example"]).await;
        let old = ids(&world).await;
        let backup = target.path().join(format!("b{round}"));
        back_up(&world, &backup).await.unwrap();
        // As if the ids that were marked in advance were used up.
        let copied = Connection::open(backup.join("queue.db")).unwrap();
        copied.execute(mark, [newest.0]).unwrap();
        drop(copied);
        let lost = give_ids(&world, vec![never(), later()]).await;

        let directory = tempfile::tempdir_in(target.path()).unwrap();
        bring_back(directory.path(), &backup).unwrap();
        let store = Store::open(directory.path()).unwrap();
        world = World { directory, store };
        assert_eq!(ids(&world).await, old, "what the backup has keeps its ids");
        let again = give_ids(&world, vec![later(), never()]).await;
        let keys: HashSet<_> = lost.iter().map(|id| id.key).collect();
        let is_again = again.iter().any(|id| keys.contains(&id.key));
        assert!(is_again, "no queue id came again");
        given.extend(lost);
        assert!(given.is_disjoint(&again), "{given:?} {again:?}");
        given.extend(again);
    }

    // A salvage knows of the restores too.
    let before = ids(&world).await;
    let World { directory, store } = world;
    drop(store);
    let salvaged = target.path().join("salvaged");
    salvage(directory.path(), &salvaged, &mut |_| true).unwrap();
    let directory = tempfile::tempdir_in(target.path()).unwrap();
    bring_back(directory.path(), &salvaged).unwrap();
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(ids(&World { directory, store }).await, before);
}

/// What was not noticed before is said at the latest now; a part of a message is better than none.
#[tokio::test]
async fn content_that_changed_comes_back_and_is_named() {
    let world = World::new();
    let mut ids = Vec::new();
    for octets in [LARGE, 2_000, LARGE, 2_000] {
        let content = pattern(octets);
        ids.push(world.accept_content(&["a@a.example"], &content).await);
    }
    let target = tempfile::tempdir().unwrap();
    let backup = target.path().join("b");
    back_up(&world, &backup).await.unwrap();
    let file = spool_path(&backup.join("spool"), ids[0]);
    let mut octets = std::fs::read(&file).unwrap();
    octets[7] ^= 1;
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, &octets).unwrap();
    let copied = Connection::open(backup.join("queue.db")).unwrap();
    let change = "UPDATE body SET content = zeroblob(2000) WHERE message = ?1";
    assert_eq!(copied.execute(change, [ids[1].0]).unwrap(), 1);
    drop(copied);

    let fresh = target.path().join("data");
    let restored = restore(&fresh, &backup, &mut |_| true).unwrap();
    let named: Vec<_> = restored.damaged.iter().map(|damaged| damaged.id).collect();
    assert_eq!(named, ids[..2]);
    let found = contents(&Store::open(&fresh).unwrap()).await;
    assert_eq!(found.len(), 4);
    assert_eq!(found[0], (ids[0], octets));
}

/// The next start would take them for orphans.
#[tokio::test]
async fn nothing_is_brought_back_beside_contents_of_another_queue() {
    let world = World::new();
    world.accept(&["a@a.example"]).await;
    let target = tempfile::tempdir().unwrap();
    let backup = target.path().join("b");
    back_up(&world, &backup).await.unwrap();
    let later = world
        .accept_content(&["a@a.example"], &pattern(LARGE))
        .await;
    let World { directory, store } = world;
    drop(store);
    std::fs::remove_file(directory.path().join("queue.db")).unwrap();
    let refused = bring_back(directory.path(), &backup).unwrap_err();
    let expected = format!("{later}: content of a message that the backup does not have");
    assert!(refused.contains(&expected), "{refused}");
    let spool = directory.path().join("spool");
    assert!(spool_path(&spool, later).exists());
    std::fs::rename(spool, target.path().join("spool")).unwrap();
    bring_back(directory.path(), &backup).unwrap();
}

#[tokio::test]
async fn a_backup_that_was_broken_off_is_none() {
    let world = World::new();
    world
        .accept_content(&["a@a.example"], &pattern(LARGE))
        .await;
    let target = tempfile::tempdir().unwrap();
    let backup = target.path().join("b");
    for phase in [Phase::Database, Phase::Check] {
        let _ = std::fs::remove_dir_all(&backup);
        let stop = move |progress: Progress| progress.phase != phase;
        let error = world.store.backup(&backup, stop).await.unwrap_err();
        assert!(matches!(error, BackupError::Cancelled), "{error}");
        let refused = bring_back(&target.path().join("data"), &backup).unwrap_err();
        assert!(refused.contains("was not finished"), "{refused}");
    }
    let refused = back_up(&world, &backup).await.unwrap_err().to_string();
    assert!(refused.contains("not empty"), "{refused}");
}

#[tokio::test]
async fn nothing_is_brought_back_over_mail_or_from_what_is_damaged() {
    let world = World::new();
    let id = world
        .accept_content(&["a@a.example"], &pattern(LARGE))
        .await;
    for _ in 0..30 {
        world
            .accept_content(&["a@a.example"], &pattern(3_000))
            .await;
    }
    let target = tempfile::tempdir().unwrap();
    let backup = target.path().join("b");
    back_up(&world, &backup).await.unwrap();

    let refused = bring_back(world.directory.path(), &backup).unwrap_err();
    assert!(refused.contains("in use by another process"), "{refused}");
    let World { directory, store } = world;
    drop(store);
    let refused = bring_back(directory.path(), &backup).unwrap_err();
    assert!(
        refused.contains("there is mail in this queue (31 messages)"),
        "{refused}"
    );
    std::fs::write(directory.path().join("queue.db"), "no database").unwrap();
    let refused = bring_back(directory.path(), &backup).unwrap_err();
    assert!(refused.contains("cannot be read"), "{refused}");

    let file = spool_path(&backup.join("spool"), id);
    let whole = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let fresh = target.path().join("data");
    let refused = bring_back(&fresh, &backup).unwrap_err();
    assert!(refused.contains(&id.to_string()), "{refused}");
    std::fs::write(&file, &whole[1..]).unwrap();
    let refused = bring_back(&fresh, &backup).unwrap_err();
    assert!(
        refused.contains("199999 octets long, and the message says 200000"),
        "{refused}"
    );
    std::fs::write(&file, &whole).unwrap();

    let database = backup.join("queue.db");
    let mut octets = std::fs::read(&database).unwrap();
    octets[4096 * 9..4096 * 10].fill(0x5a);
    std::fs::write(&database, octets).unwrap();
    assert!(bring_back(&fresh, &backup).is_err());
    assert!(!fresh.exists(), "nothing was begun");
}

#[tokio::test]
async fn an_empty_queue_gives_way_and_takes_its_log_along() {
    let world = World::new();
    world.accept(&["a@a.example"]).await;
    let target = tempfile::tempdir().unwrap();
    back_up(&world, &target.path().join("b")).await.unwrap();
    let other = World::new();
    let World { directory, store } = other;
    drop(store);
    bring_back(directory.path(), &target.path().join("b")).unwrap();
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(store.count(Filter::default()).await.unwrap().messages, 1);
    // Queue ids go on behind those that were given.
    let body = store.body();
    assert!(body.id() > contents(&store).await[0].0);
}
