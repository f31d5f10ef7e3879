//! What comes out of a damaged queue.

use std::collections::BTreeMap;
use std::fs;

use rusqlite::OptionalExtension;

use super::super::backup::restore;
use super::super::salvage::{Salvaged, salvage};
use super::super::spool::spool_path;
use super::*;

const PAGE: usize = 4096;
const LARGE: usize = 100_000;
const MESSAGES: usize = 120;

/// How long the head of a message is that the database has; the rest is in a file.
fn head(number: usize, size: usize) -> usize {
    if size >= LARGE { number } else { 0 }
}

/// A closed queue with messages of several sizes in all states.
async fn queue() -> (TempDir, BTreeMap<QueueId, Vec<u8>>) {
    let world = World::new();
    let mut contents = BTreeMap::new();
    for number in 0..MESSAGES {
        let size = match number % 12 {
            0 => LARGE,
            1..4 => 12_000,
            4..6 => 40,
            _ => 2_500,
        };
        let content = pattern(size + number);
        let recipients: &[&str] = match number % 3 {
            0 => &["x@a.example", "y@a.example"],
            1 => &["x@a.example", "z@b.example"],
            _ => &["z@b.example"],
        };
        let (head, below) = content.split_at(head(number, size));
        let id = world.accept_headed(recipients, head, below).await;
        contents.insert(id, content);
    }
    for outcomes in [vec![Outcome::Delivered, later()], vec![never(), later()]] {
        world.settle_one_of("a.example", outcomes).await;
    }
    let held = contents.keys().nth(5).unwrap().to_string();
    world.change(Action::Hold, &held).await;
    let World { directory, store } = world;
    drop(store);
    (directory, contents)
}

impl World {
    async fn settle_one_of(&self, domain: &str, outcomes: Vec<Outcome>) {
        let lease = self.claim(SESSION, &[domain], 1).await.remove(0);
        self.store.settle(lease, outcomes, None).await.unwrap();
    }
}

fn rescue(data_dir: &Path) -> (TempDir, Result<Salvaged, String>) {
    let target = tempfile::tempdir().unwrap();
    let salvaged = salvage(data_dir, &target.path().join("out"), &mut |_| true);
    (target, salvaged.map_err(|error| error.to_string()))
}

/// Every message that came out, by way of `restore`, with its content and its delivery ids.
async fn come_out(target: &TempDir) -> BTreeMap<QueueId, (Vec<u8>, Vec<String>)> {
    let data_dir = target.path().join("data");
    restore(&data_dir, &target.path().join("out"), &mut |_| true).unwrap();
    let store = Store::open(&data_dir).unwrap();
    let mut found = BTreeMap::new();
    for item in store.list(Filter::default(), None, 10_000).await.unwrap() {
        let content = store.content(item.id).await.unwrap().unwrap();
        let entry = found
            .entry(item.id)
            .or_insert((read(content).await, Vec::new()));
        entry.1.push(described(&item));
    }
    found
}

fn described(item: &Item) -> String {
    format!("{} {} {:?}", item.delivery_id, item.state, item.recipients)
}

/// The store's part of an id is at one place only, and a page that is gone may be that one.
fn without_instance(deliveries: &[String]) -> Vec<String> {
    let cut = |text: &String| {
        text.split(' ')
            .map(|word| {
                word.rsplit_once('.')
                    .map_or(word, |(head, _)| head)
                    .to_owned()
                    + " "
            })
            .collect()
    };
    deliveries.iter().map(cut).collect()
}

async fn deliveries(data_dir: &Path) -> BTreeMap<QueueId, Vec<String>> {
    let store = Store::open(data_dir).unwrap();
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for item in store.list(Filter::default(), None, 10_000).await.unwrap() {
        found.entry(item.id).or_default().push(described(&item));
    }
    found
}

#[tokio::test]
async fn a_whole_queue_comes_out_whole() {
    let (directory, contents) = queue().await;
    let before = deliveries(directory.path()).await;
    let database = fs::read(directory.path().join("queue.db")).unwrap();
    let (target, salvaged) = rescue(directory.path());
    let salvaged = salvaged.unwrap();
    assert_eq!((&salvaged.notes, &salvaged.unreadable), (&vec![], &vec![]));
    let found = come_out(&target).await;
    assert_eq!(found.len(), MESSAGES);
    for (id, (content, ids)) in &found {
        assert!(content == &contents[id] && ids == &before[id], "{id}");
    }
    assert_eq!(
        fs::read(directory.path().join("queue.db")).unwrap(),
        database,
        "the source is as it was"
    );
    let report = fs::read_to_string(target.path().join("out/salvage.txt")).unwrap();
    assert!(
        report.ends_with("Nothing that the queue names is missing.\n"),
        "{report}"
    );
    // Every file of a message has a second name now, and no other.
    assert!(!target.path().join("out/work").exists());
}

#[tokio::test]
async fn without_the_first_page_everything_comes_out() {
    let (directory, contents) = queue().await;
    let before = deliveries(directory.path()).await;
    let path = directory.path().join("queue.db");
    let whole = fs::read(&path).unwrap();
    for wiped in [0..16, 0..100, 100..PAGE, 0..PAGE] {
        let mut damaged = whole.clone();
        damaged[wiped.clone()].fill(0);
        fs::write(&path, damaged).unwrap();
        let error = Store::open(directory.path()).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("atrn-relay queue salvage --to DIR"),
            "{error}"
        );
        let (target, salvaged) = rescue(directory.path());
        assert_eq!(salvaged.unwrap().unreadable, [], "{wiped:?}");
        let found = come_out(&target).await;
        let same = found
            .iter()
            .all(|(id, found)| found == &(contents[id].clone(), before[id].clone()));
        assert!(same && found.len() == MESSAGES, "{wiped:?}");
    }
}

/// What SQLite itself finds by key: the whole row of the message, its content and its deliveries.
fn is_intact(database: &Connection, whole: &Connection, id: QueueId) -> bool {
    let queries = [
        "SELECT json_array(received_at, received_from, reverse_path, parameters, flags, size, next_number, checksum, held_since)
         FROM message WHERE key = ?1",
        "SELECT json_group_array(json_array(number, domain, state, next_attempt, last_attempt, attempts, last_reply,
         recipients, since)) FROM (SELECT * FROM delivery WHERE message = ?1 ORDER BY number)",
        "SELECT hex(content) FROM body WHERE message = ?1",
    ];
    queries.iter().all(|query| {
        let ask = |connection: &Connection| {
            connection
                .query_row(query, [id.0], |row| row.get::<_, String>(0))
                .optional()
        };
        ask(database).is_ok_and(|found| found == ask(whole).unwrap())
    })
}

/// Cut off, or with pages overwritten, in whole or in part.
fn damage(octets: &[u8], seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let pages = octets.len() / PAGE;
    let mut damaged = octets.to_vec();
    match seed % 6 {
        0 => damaged.truncate(random.usize(PAGE..damaged.len())),
        1 => damaged.truncate(random.usize(1..pages) * PAGE),
        kind => {
            for _ in 0..random.u64(1..=4 * kind) {
                let page = random.usize(1..pages) * PAGE;
                let (from, to) = (random.usize(..PAGE), random.usize(..PAGE));
                let range = match kind {
                    2 | 3 => 0..PAGE,
                    _ => from.min(to)..from.max(to),
                };
                let place = &mut damaged[page + range.start..page + range.end];
                place.fill_with(|| random.u8(..));
            }
        }
    }
    damaged
}

#[tokio::test]
async fn each_message_whose_pages_are_intact_comes_out_of_any_damage() {
    let (directory, contents) = queue().await;
    let before = deliveries(directory.path()).await;
    let path = directory.path().join("queue.db");
    let octets = fs::read(&path).unwrap();
    let kept = tempfile::tempdir().unwrap();
    fs::write(kept.path().join("whole.db"), &octets).unwrap();
    let whole = Connection::open(kept.path().join("whole.db")).unwrap();
    let (mut lost, mut refused) = (0, 0);
    // More of them, for an afternoon.
    let seeds = std::env::var("ATRN_SALVAGE_SEEDS").ok();
    let seeds: u64 = seeds.map_or(24, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        let damaged = damage(&octets, seed);
        fs::write(&path, &damaged).unwrap();
        refused += usize::from(Store::open(directory.path()).is_err());
        fs::write(&path, &damaged).unwrap();
        let (target, salvaged) = rescue(directory.path());
        let salvaged = salvaged.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(fs::read(&path).unwrap(), damaged, "the source is as it was");

        let copy = kept.path().join("damaged.db");
        fs::write(&copy, &damaged).unwrap();
        let database = Connection::open(&copy).unwrap();
        database
            .pragma_update(None, "writable_schema", true)
            .unwrap();
        let found = come_out(&target).await;
        for (id, content) in &contents {
            let intact = is_intact(&database, &whole, *id);
            let Some((found, ids)) = found.get(id) else {
                assert!(!intact, "seed {seed}: {id} is intact and did not come out");
                lost += 1;
                continue;
            };
            assert_eq!(found, content, "seed {seed}: {id}");
            let same = match salvaged
                .notes
                .iter()
                .any(|note| note.contains("a new one was made"))
            {
                true => without_instance(ids) == without_instance(&before[id]),
                false => ids == &before[id],
            };
            assert!(
                !intact || same,
                "seed {seed}: {id} {ids:?}, was {:?}",
                before[id]
            );
        }
        let named: HashSet<_> = salvaged.unreadable.iter().map(|lost| lost.id).collect();
        assert!(
            named
                .iter()
                .all(|id| contents.contains_key(id) || !found.contains_key(id))
        );
    }
    assert!(
        lost > 100 && refused > 12,
        "the damage was none: {lost} {refused}"
    );
}

#[tokio::test]
async fn contents_that_are_gone_are_named() {
    let (directory, contents) = queue().await;
    let large: Vec<_> = contents
        .iter()
        .filter(|(_, content)| content.len() >= LARGE)
        .map(|(id, _)| *id)
        .collect();
    let file = |id: QueueId| spool_path(&directory.path().join("spool"), id);
    fs::remove_file(file(large[0])).unwrap();
    let mut other = fs::read(file(large[1])).unwrap();
    other[50_000] ^= 1;
    fs::write(file(large[1]), other).unwrap();
    let (target, salvaged) = rescue(directory.path());
    let unreadable = salvaged.unwrap().unreadable;
    assert_eq!(
        unreadable.iter().map(|lost| lost.id).collect::<Vec<_>>(),
        large[..2]
    );
    assert!(unreadable[1].reason.contains("checksum"), "{unreadable:?}");
    assert_eq!(come_out(&target).await.len(), MESSAGES - 2);
    assert_eq!(unreadable[0].content, None);
    assert_eq!(
        unread(&target),
        [(large[1], fs::read(file(large[1])).unwrap())].into()
    );
    let report = fs::read_to_string(target.path().join("out/salvage.txt")).unwrap();
    let named = format!(
        "{}: its content is not what was accepted (checksum); from <sender@example.net>; to <x@a.example>, <y@a.example>; \
         content in unread/{}.eml\n",
        large[1], large[1]
    );
    assert!(report.contains(&named), "{report}");
}

/// What was kept of messages that did not come out.
fn unread(target: &TempDir) -> BTreeMap<QueueId, Vec<u8>> {
    let entries = fs::read_dir(target.path().join("out/unread")).unwrap();
    let read = entries.map(|entry| {
        let path = entry.unwrap().path();
        assert_eq!(path.extension().unwrap(), "eml");
        let id = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        (id, fs::read(path).unwrap())
    });
    read.collect()
}

/// The content is all that can be delivered by hand.
#[tokio::test]
async fn content_that_cannot_be_placed_is_kept() {
    let (directory, contents) = queue().await;
    let database = Connection::open(directory.path().join("queue.db")).unwrap();
    let ids: Vec<_> = contents.keys().copied().collect();
    // Of a large and of a small one: no envelope; an envelope that is nonsense; no deliveries; a damaged delivery.
    let run = |statement: &str, id: QueueId| database.execute(statement, [id.0]).unwrap();
    for id in [ids[12], ids[13]] {
        run("DELETE FROM message WHERE key = ?1", id);
        run("DELETE FROM delivery WHERE message = ?1", id);
    }
    run("DELETE FROM message WHERE key = ?1", ids[24]);
    run(
        "UPDATE message SET reverse_path = 'x x' WHERE key = ?1",
        ids[25],
    );
    run("DELETE FROM delivery WHERE message = ?1", ids[36]);
    run(
        "UPDATE delivery SET state = 77 WHERE message = ?1 AND number = 1",
        ids[37],
    );
    run(
        "UPDATE body SET content = x'4142' WHERE message = ?1",
        ids[38],
    );
    drop(database);
    let (target, salvaged) = rescue(directory.path());
    let unreadable = salvaged.unwrap().unreadable;
    let mut kept: BTreeMap<_, _> = [12, 13, 24, 25, 36, 37]
        .map(|number| {
            let content = &contents[&ids[number]];
            // Above a file stands what the relay itself said of the message.
            (ids[number], content[head(number, content.len())..].to_vec())
        })
        .into();
    kept.insert(ids[38], b"AB".to_vec());
    assert_eq!(unread(&target), kept);
    let named: Vec<_> = unreadable.iter().map(|lost| lost.id).collect();
    assert_eq!(named, kept.into_keys().collect::<Vec<_>>());
    let lines: Vec<_> = unreadable.iter().map(ToString::to_string).collect();
    let expected = format!(
        "; to <x@a.example>, <y@a.example>; content in unread/{}.eml",
        ids[24]
    );
    assert!(lines[2].ends_with(&expected), "{lines:?}");
    assert!(lines[5].contains(
        "delivery 1: there is no state 77; from <sender@example.net>; to <x@a.example>;"
    ));
    // Of the damaged delivery the other one comes out.
    assert_eq!(come_out(&target).await.len(), MESSAGES - 6);
}

#[tokio::test]
async fn without_any_database_the_contents_come_out() {
    let (directory, contents) = queue().await;
    fs::remove_file(directory.path().join("queue.db")).unwrap();
    let (target, salvaged) = rescue(directory.path());
    let salvaged = salvaged.unwrap();
    assert_eq!(
        salvaged.notes,
        ["there is no database: contents are all that is left"]
    );
    let large: BTreeMap<_, _> = (0..)
        .zip(contents)
        .filter(|(_, (_, content))| content.len() >= LARGE)
        .map(|(number, (id, content))| (id, content[number..].to_vec()))
        .collect();
    assert_eq!(unread(&target), large);
    assert!(!directory.path().join("queue.db").exists());
}

#[tokio::test]
async fn a_queue_in_use_is_left_alone() {
    let world = World::new();
    world.accept(&["a@a.example"]).await;
    let (target, refused) = rescue(world.directory.path());
    assert!(refused.unwrap_err().contains("in use by another process"));
    assert!(!target.path().join("out").exists());
    let (_target, refused) = rescue(target.path());
    assert!(refused.unwrap_err().contains("there is no queue here"));
}

/// The log beside the database belongs to it.
#[tokio::test]
async fn what_only_the_log_has_comes_out_too() {
    let world = World::new();
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(world.accept(&["a@a.example"]).await);
    }
    let killed = tempfile::tempdir().unwrap();
    for name in ["queue.db", "queue.db-wal"] {
        fs::copy(world.directory.path().join(name), killed.path().join(name)).unwrap();
    }
    let (target, salvaged) = rescue(killed.path());
    assert_eq!(salvaged.unwrap().unreadable, []);
    assert_eq!(come_out(&target).await.into_keys().collect::<Vec<_>>(), ids);
}
