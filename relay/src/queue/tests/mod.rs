//! What the queue promises, on a real database in a temporary directory.

mod trouble;

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use atrn_shared::smtp::address::{Domain, ForwardPath, ReversePath};
use atrn_shared::smtp::parameter::{MailParameters, RcptParameters};
use atrn_shared::smtp::reply::Reply;
use rusqlite::Connection;
use tempfile::TempDir;

use super::*;

const SESSION: SessionId = SessionId(1);
const OTHER_SESSION: SessionId = SessionId(2);

struct World {
    directory: TempDir,
    store: Store,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        Self { directory, store }
    }

    /// Closes the store in order, and opens it again.
    fn restart(self) -> Self {
        let Self { directory, store } = self;
        drop(store);
        let store = Store::open(directory.path()).unwrap();
        Self { directory, store }
    }

    async fn accept(&self, recipients: &[&str]) -> QueueId {
        self.accept_content(recipients, b"Subject: x\r\n\r\nbody\r\n")
            .await
    }

    async fn accept_content(&self, recipients: &[&str], content: &[u8]) -> QueueId {
        let mut body = self.store.body();
        for part in content.chunks(10_000) {
            body.write(part).await.unwrap();
        }
        let envelope = envelope("sender@example.net", recipients);
        self.store.accept(envelope, body).await.unwrap()
    }

    async fn claim(&self, session: SessionId, names: &[&str], max: usize) -> Vec<Lease> {
        let domains: Vec<Domain> = names
            .iter()
            .map(|name| Domain::parse(name).unwrap())
            .collect();
        self.store.claim(session, &domains, max).await.unwrap()
    }

    /// Claims the one delivery that `domain` has, and settles it.
    async fn settle_one(&self, domain: &str, outcomes: Vec<Outcome>) -> DeliveryId {
        let mut leases = self.claim(SESSION, &[domain], 10).await;
        assert_eq!(leases.len(), 1);
        let lease = leases.remove(0);
        let id = lease.id;
        self.store.settle(lease, outcomes).await.unwrap();
        id
    }

    async fn items(&self, filter: Filter) -> Vec<Item> {
        self.store.list(filter, None, 1000).await.unwrap()
    }

    async fn all(&self) -> Vec<Item> {
        self.items(Filter::default()).await
    }

    async fn change(&self, action: Action, id: &str) -> Changed {
        let selection = Selection::Ids(vec![id.parse().unwrap()]);
        self.store.change(action, selection).await.unwrap()
    }

    fn spool_files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.directory.path().join("spool")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// A second connection, to look at what no query of the store shows.
    fn database(&self) -> Connection {
        Connection::open(self.directory.path().join("queue.db")).unwrap()
    }

    fn rows(&self, table: &str) -> i64 {
        let count = format!("SELECT count(*) FROM {table}");
        self.database()
            .query_row(&count, [], |row| row.get(0))
            .unwrap()
    }

    /// As if the time of all deferred deliveries had come.
    fn let_time_pass(&self) {
        let update = "UPDATE delivery SET next_attempt = 1 WHERE state = 1";
        self.database().execute(update, []).unwrap();
    }
}

fn envelope(sender: &str, recipients: &[&str]) -> Envelope {
    let recipients = recipients.iter().map(|address| {
        let forward_path = ForwardPath::from_address(address).unwrap();
        Recipient {
            domain: forward_path.domain().unwrap().clone(),
            forward_path,
            parameters: RcptParameters::parse("NOTIFY=FAILURE").unwrap(),
        }
    });
    Envelope {
        reverse_path: ReversePath::from_address(sender).unwrap(),
        mail_parameters: MailParameters::parse("SIZE=100 BODY=8BITMIME").unwrap(),
        received_from: "client.example.net [192.0.2.1]".to_owned(),
        eight_bit: true,
        needs_smtputf8: false,
        recipients: recipients.collect(),
    }
}

fn domain(name: &str) -> Domain {
    Domain::parse(name).unwrap()
}

fn later() -> Outcome {
    Outcome::Deferred(Reply::new(450, "4.2.1", "mailbox busy"))
}

fn never() -> Outcome {
    Outcome::Failed(Reply::new(550, "5.1.1", "no such user"))
}

async fn read(mut reader: ContentReader) -> Vec<u8> {
    let mut content = Vec::new();
    while let Some(part) = reader.next().await.unwrap() {
        content.extend_from_slice(&part);
    }
    content
}

/// Octets in which a piece lost, doubled or moved shows.
fn pattern(octets: usize) -> Vec<u8> {
    (0..octets as u32)
        .flat_map(|number| number.to_be_bytes())
        .take(octets)
        .collect()
}

fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "still not so after 20 s");
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn deliveries_come_out_in_the_order_in_which_they_went_in() {
    let world = World::new();
    let mut accepted = Vec::new();
    for number in 0..30 {
        accepted.push(world.accept(&[&format!("user{number}@a.example")]).await);
    }
    let mut claimed = Vec::new();
    loop {
        let leases = world.claim(SESSION, &["a.example"], 7).await;
        if leases.is_empty() {
            break;
        }
        for lease in leases {
            claimed.push(lease.id.queue_id());
            world
                .store
                .settle(lease, vec![Outcome::Delivered])
                .await
                .unwrap();
        }
    }
    assert_eq!(claimed, accepted);
}

#[tokio::test]
async fn a_claim_over_several_domains_keeps_the_order_of_arrival() {
    let world = World::new();
    let names = ["b.example", "a.example", "c.example"];
    let mut accepted = Vec::new();
    for number in 0..12 {
        accepted.push(
            world
                .accept(&[&format!("user@{}", names[number % 3])])
                .await,
        );
    }
    let leases = world.claim(SESSION, &names, 8).await;
    let claimed: Vec<_> = leases.iter().map(|lease| lease.id.queue_id()).collect();
    assert_eq!(claimed, accepted[..8]);
    assert!(world.claim(SESSION, &["other.example"], 8).await.is_empty());
}

#[tokio::test]
async fn the_envelope_comes_out_as_it_went_in() {
    let world = World::new();
    let recipients = ["\"a b\"@a.example", "second@a.example", "other@b.example"];
    let id = world.accept(&recipients).await;
    let leases = world.claim(SESSION, &["a.example"], 1).await;
    let delivery = &leases[0];
    assert_eq!(delivery.id.queue_id(), id);
    assert_eq!(delivery.reverse_path.to_string(), "sender@example.net");
    assert_eq!(
        delivery.mail_parameters,
        MailParameters::parse("SIZE=100 BODY=8BITMIME").unwrap()
    );
    assert!(delivery.eight_bit && !delivery.needs_smtputf8);
    let paths = delivery
        .recipients
        .iter()
        .map(|recipient| recipient.forward_path.to_string());
    assert_eq!(paths.collect::<Vec<_>>(), recipients[..2]);
    let parameters = RcptParameters::parse("NOTIFY=FAILURE").unwrap();
    assert_eq!(delivery.recipients[1].parameters, parameters);
    let wire_id = delivery.id.to_string();
    assert!(wire_id.starts_with(&id.to_string()), "{wire_id}");
}

#[tokio::test]
async fn a_delivery_is_leased_to_one_session_and_free_when_the_lease_is_dropped() {
    let world = World::new();
    for _ in 0..3 {
        world.accept(&["user@a.example"]).await;
    }
    let mine = world.claim(SESSION, &["a.example"], 2).await;
    let others = world.claim(OTHER_SESSION, &["a.example"], 10).await;
    assert_eq!((mine.len(), others.len()), (2, 1));
    assert_eq!(world.store.leased(), 3);
    assert!(!world.store.waiting(&[domain("a.example")]).await.unwrap());

    let freed: Vec<_> = mine.iter().map(|lease| lease.id).collect();
    drop(mine);
    assert!(world.store.waiting(&[domain("a.example")]).await.unwrap());
    let again = world.claim(OTHER_SESSION, &["a.example"], 10).await;
    assert_eq!(
        again.iter().map(|lease| lease.id).collect::<Vec<_>>(),
        freed
    );
    assert!(
        again.iter().all(|lease| lease.attempts == 0),
        "OWN-7a: no state changes"
    );
}

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
    std::fs::create_dir(crashed.path().join("spool")).unwrap();
    for name in ["queue.db", "queue.db-wal"] {
        let from = world.directory.path().join(name);
        std::fs::copy(from, crashed.path().join(name)).unwrap();
    }
    for file in world.spool_files() {
        let name = file.file_name().unwrap();
        std::fs::copy(&file, crashed.path().join("spool").join(name)).unwrap();
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
                .settle(lease, vec![Outcome::Delivered])
                .await
                .unwrap();
        }
    }
}

#[tokio::test]
async fn small_mail_beyond_what_a_claim_brings_along_is_read_later() {
    let world = World::new();
    let count = 2 * CLAIM_OCTETS_MAX / INLINE_BYTES;
    for _ in 0..count {
        world
            .accept_content(&["user@a.example"], &pattern(INLINE_BYTES))
            .await;
    }
    let leases = world.claim(SESSION, &["a.example"], count).await;
    let here = leases
        .iter()
        .filter(|lease| matches!(lease.place, Place::Here(_)))
        .count();
    assert_eq!(here, count / 2);
    for lease in &leases {
        assert_eq!(
            read(lease.content().await.unwrap()).await,
            pattern(INLINE_BYTES)
        );
    }
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
    let orphan = world
        .directory
        .path()
        .join("spool")
        .join(world.store.body().id().to_string());
    let foreign = world.directory.path().join("spool/README");
    std::fs::write(&orphan, "x").unwrap();
    std::fs::write(&foreign, "x").unwrap();
    let world = world.restart();
    until(|| !orphan.exists());
    assert!(foreign.exists());
    let content = world.store.content(id).await.unwrap().unwrap();
    assert_eq!(read(content).await, pattern(100_000));
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

/// OWN-7, OWN-8, OWN-9 on one delivery.
#[tokio::test]
async fn each_recipient_ends_as_it_was_answered() {
    let world = World::new();
    let recipients = [
        "ok@a.example",
        "busy@a.example",
        "gone@a.example",
        "cut@a.example",
    ];
    world.accept(&recipients).await;
    let outcomes = vec![Outcome::Delivered, later(), never(), Outcome::Released];
    let old = world.settle_one("a.example", outcomes).await;

    let items = world.all().await;
    let seen = items.iter().map(|item| {
        assert_ne!(item.delivery_id, old, "the puller has journaled the old id");
        (
            item.state,
            item.recipients[0].as_str(),
            item.attempts,
            item.last_reply.as_deref(),
        )
    });
    let expected = [
        (State::Queued, "cut@a.example", 0, None),
        (
            State::Deferred,
            "busy@a.example",
            1,
            Some("450 4.2.1 mailbox busy"),
        ),
        (
            State::Failed,
            "gone@a.example",
            1,
            Some("550 5.1.1 no such user"),
        ),
    ];
    assert_eq!(seen.collect::<Vec<_>>(), expected);
    let wait = items[1]
        .next_attempt
        .unwrap()
        .duration_since(items[1].received_at);
    assert!(
        wait.as_secs() <= 60,
        "OWN-7: the first step is at most a minute"
    );

    let free = world
        .settle_one("a.example", vec![Outcome::Delivered])
        .await;
    assert_eq!(free, items[0].delivery_id);
    world.let_time_pass();
    let retried = world
        .settle_one("a.example", vec![Outcome::Delivered])
        .await;
    assert_eq!(retried, items[1].delivery_id);
    assert_eq!(world.all().await.len(), 1);
    assert_eq!(world.rows("body"), 1, "the failed one keeps its content");
}

#[tokio::test]
async fn a_deferred_delivery_keeps_its_id_and_waits_longer_each_time() {
    let world = World::new();
    world.accept(&["x@a.example", "y@a.example"]).await;
    let mut waits = Vec::new();
    let mut ids = HashSet::new();
    for attempt in 1..=4 {
        ids.insert(world.settle_one("a.example", vec![later(), later()]).await);
        assert!(world.claim(SESSION, &["a.example"], 1).await.is_empty());
        assert!(!world.store.waiting(&[domain("a.example")]).await.unwrap());
        let item = world.all().await.remove(0);
        assert_eq!((item.state, item.attempts), (State::Deferred, attempt));
        let shown = world.store.show(item.id).await.unwrap().unwrap();
        let last = shown.deliveries[0].last_attempt.unwrap();
        waits.push(item.next_attempt.unwrap().duration_since(last).as_secs());
        world.let_time_pass();
    }
    assert_eq!(ids.len(), 1);
    assert_eq!(waits, [30, 60, 120, 240]);
}

#[tokio::test]
async fn deferred_and_fresh_mail_share_a_claim() {
    let world = World::new();
    for _ in 0..6 {
        world.accept(&["user@a.example"]).await;
    }
    for lease in world.claim(SESSION, &["a.example"], 3).await {
        world.store.settle(lease, vec![later()]).await.unwrap();
    }
    world.let_time_pass();
    let attempts = |leases: &[Lease]| {
        leases
            .iter()
            .map(|lease| lease.attempts)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        attempts(&world.claim(SESSION, &["a.example"], 4).await),
        [1, 1, 0, 0]
    );
    assert_eq!(
        attempts(&world.claim(SESSION, &["a.example"], 10).await),
        [1, 1, 1, 0, 0, 0]
    );
}

#[tokio::test]
async fn recipients_without_an_outcome_stay() {
    let world = World::new();
    world.accept(&["x@a.example", "y@a.example"]).await;
    world
        .settle_one("a.example", vec![Outcome::Delivered])
        .await;
    let items = world.all().await;
    assert_eq!(items[0].recipients, ["y@a.example"]);
    world.settle_one("a.example", Vec::new()).await;
    assert_eq!(world.all().await[0].state, State::Queued);
}

#[tokio::test]
async fn admins_hold_release_retry_and_remove() {
    let world = World::new();
    let id = world
        .accept(&["x@a.example", "y@b.example"])
        .await
        .to_string();
    let states =
        async || -> Vec<State> { world.all().await.iter().map(|item| item.state).collect() };

    assert_eq!(world.change(Action::Hold, &id).await.changed, 2);
    assert_eq!(states().await, [State::Held, State::Held]);
    assert!(world.claim(SESSION, &["a.example"], 1).await.is_empty());
    let again = world.change(Action::Hold, &id).await;
    assert_eq!((again.changed, again.unsuitable), (0, 2));

    assert_eq!(
        world
            .change(Action::Release, &format!("{id}.1"))
            .await
            .changed,
        1
    );
    assert_eq!(states().await, [State::Queued, State::Held]);
    world.settle_one("a.example", vec![never()]).await;
    assert_eq!(states().await, [State::Failed, State::Held]);
    assert_eq!(
        world
            .change(Action::Retry, &format!("{id}.1"))
            .await
            .changed,
        1
    );
    assert_eq!(states().await, [State::Queued, State::Held]);

    assert_eq!(world.change(Action::Remove, &id).await.changed, 2);
    assert_eq!((world.rows("message"), world.rows("body")), (0, 0));
    let gone = world.change(Action::Remove, &id).await;
    assert_eq!(gone.unknown, [id.parse().unwrap()]);
}

#[tokio::test]
async fn what_a_session_holds_is_neither_changed_nor_lost() {
    let world = World::new();
    let id = world.accept(&["user@a.example"]).await.to_string();
    let leases = world.claim(SESSION, &["a.example"], 1).await;
    for action in [Action::Hold, Action::Remove] {
        let changed = world.change(action, &id).await;
        assert_eq!((changed.changed, changed.leased), (0, 1));
    }
    let leased = Filter {
        state: Some(State::Leased),
        ..Filter::default()
    };
    let queued = Filter {
        state: Some(State::Queued),
        ..Filter::default()
    };
    assert_eq!(world.items(leased).await[0].state, State::Leased);
    assert!(world.items(queued).await.is_empty());
    drop(leases);
    assert_eq!(world.change(Action::Remove, &id).await.changed, 1);
}

#[tokio::test]
async fn a_change_by_filter_reaches_every_match_and_nothing_else() {
    let world = World::new();
    for number in 0..admin::CHANGE_MAX + 20 {
        let name = if number % 2 == 0 {
            "a.example"
        } else {
            "b.example"
        };
        world.accept(&[&format!("user@{name}")]).await;
    }
    let filter = Filter {
        domain: Some(domain("a.example")),
        ..Filter::default()
    };
    let half = (admin::CHANGE_MAX as u64 + 20) / 2;
    assert_eq!(
        world.store.count(filter.clone()).await.unwrap().messages,
        half
    );
    let held = world
        .store
        .change(Action::Hold, Selection::Filter(filter.clone()))
        .await
        .unwrap();
    assert_eq!(held.changed, half);
    let all = Selection::Filter(Filter::default());
    let released = world.store.change(Action::Release, all).await.unwrap();
    assert_eq!((released.changed, released.unsuitable), (half, half));
    let removed = world
        .store
        .change(Action::Remove, Selection::Filter(filter))
        .await
        .unwrap();
    assert_eq!(removed.changed, half);
    let totals = world.store.totals().await.unwrap();
    assert_eq!(
        totals
            .iter()
            .map(|total| total.messages)
            .collect::<Vec<_>>(),
        [0, half]
    );
}

#[tokio::test]
async fn filters_select_by_every_key() {
    let world = World::new();
    let start = Timestamp::now();
    let accept = async |sender: &str, recipients: &[&str], octets: usize| {
        let mut body = world.store.body();
        body.write(&pattern(octets)).await.unwrap();
        world
            .store
            .accept(envelope(sender, recipients), body)
            .await
            .unwrap()
    };
    let one = accept("Alice@news.example", &["bob@a.example"], 10).await;
    let two = accept("", &["carol@a.example", "dave@b.example"], 2_000).await;
    let three = accept("eve@example.org", &["Bob@b.example"], 90_000).await;
    world.change(Action::Hold, &three.to_string()).await;

    let table: [(&str, Filter, &[QueueId]); 10] = [
        ("all", Filter::default(), &[one, two, two, three]),
        (
            "domain",
            Filter {
                domain: Some(domain("b.example")),
                ..Filter::default()
            },
            &[two, three],
        ),
        (
            "unknown domain",
            Filter {
                domain: Some(domain("c.example")),
                ..Filter::default()
            },
            &[],
        ),
        (
            "state",
            Filter {
                state: Some(State::Held),
                ..Filter::default()
            },
            &[three],
        ),
        (
            "sender",
            Filter {
                sender: Some("alice@NEWS".into()),
                ..Filter::default()
            },
            &[one],
        ),
        (
            "null sender",
            Filter {
                sender: Some("<>".into()),
                ..Filter::default()
            },
            &[two, two],
        ),
        (
            "recipient",
            Filter {
                recipient: Some("BOB@".into()),
                ..Filter::default()
            },
            &[one, three],
        ),
        (
            "size",
            Filter {
                larger_than: Some(1_999),
                ..Filter::default()
            },
            &[two, two, three],
        ),
        (
            "age",
            Filter {
                received_before: Some(start),
                ..Filter::default()
            },
            &[],
        ),
        (
            "two keys",
            Filter {
                domain: Some(domain("b.example")),
                larger_than: Some(2_000),
                ..Filter::default()
            },
            &[three],
        ),
    ];
    for (name, filter, expected) in table {
        let found = world.items(filter.clone()).await;
        assert_eq!(
            found.iter().map(|item| item.id).collect::<Vec<_>>(),
            expected,
            "{name}"
        );
        let count = world.store.count(filter).await.unwrap();
        assert_eq!(count.messages, expected.len() as u64, "{name}");
    }
}

#[tokio::test]
async fn pages_follow_each_other_without_gap_or_overlap() {
    let world = World::new();
    for number in 0..25 {
        let id = world
            .accept(&["x@a.example", "y@b.example"])
            .await
            .to_string();
        if number % 3 == 0 {
            world.change(Action::Hold, &format!("{id}.2")).await;
        }
    }
    for filter in [None, Some("b.example")] {
        let filter = Filter {
            domain: filter.map(domain),
            ..Filter::default()
        };
        let all: Vec<_> = world.items(filter.clone()).await;
        let all: Vec<_> = all.iter().map(|item| item.delivery_id).collect();
        assert!(all.is_sorted() && all.len() >= 25);
        let mut paged: Vec<DeliveryId> = Vec::new();
        loop {
            let page = world
                .store
                .list(filter.clone(), paged.last().copied(), 7)
                .await
                .unwrap();
            if page.is_empty() {
                break;
            }
            paged.extend(page.iter().map(|item| item.delivery_id));
        }
        assert_eq!(paged, all);
    }
}

#[tokio::test]
async fn statistics_count_what_is_there() {
    let world = World::new();
    for sender in ["a@one.example", "\"x@y\"@ONE.example", "", "b@two.example"] {
        let mut body = world.store.body();
        body.write(&pattern(100)).await.unwrap();
        let recipients = ["x@a.example", "y@b.example"];
        world
            .store
            .accept(envelope(sender, &recipients), body)
            .await
            .unwrap();
    }
    let age =
        "UPDATE message SET received_at = received_at - 7 * 60 * 1000 WHERE reverse_path = ''";
    world.database().execute(age, []).unwrap();
    let stats = async |by| -> Vec<(String, u64, u64, u64, u64)> {
        let rows = world.store.stats(by).await.unwrap().into_iter();
        rows.map(|row| (row.name, row.messages, row.bytes, row.ages[0], row.ages[1]))
            .collect()
    };
    assert_eq!(stats(StatsBy::Age).await, [("all".into(), 8, 800, 6, 2)]);
    assert_eq!(
        stats(StatsBy::Domain).await,
        [
            ("a.example".into(), 4, 400, 3, 1),
            ("b.example".into(), 4, 400, 3, 1)
        ]
    );
    assert_eq!(
        stats(StatsBy::Sender).await,
        [
            ("one.example".into(), 4, 400, 4, 0),
            ("<>".into(), 2, 200, 0, 2),
            ("two.example".into(), 2, 200, 2, 0)
        ]
    );
    assert_eq!(
        stats(StatsBy::State).await,
        [("queued".into(), 8, 800, 6, 2)]
    );
}

#[tokio::test]
async fn totals_are_right_after_everything_and_survive_a_restart() {
    let world = World::new();
    for _ in 0..5 {
        world
            .accept(&["x@a.example", "y@a.example", "z@b.example"])
            .await;
    }
    for (lease, outcomes) in world
        .claim(SESSION, &["a.example"], 4)
        .await
        .into_iter()
        .zip([
            vec![Outcome::Delivered, Outcome::Delivered],
            vec![Outcome::Delivered, later()],
            vec![later(), never()],
            vec![never(), never()],
        ])
    {
        world.store.settle(lease, outcomes).await.unwrap();
    }
    let held = Filter {
        domain: Some(domain("b.example")),
        ..Filter::default()
    };
    world
        .store
        .change(Action::Hold, Selection::Filter(held))
        .await
        .unwrap();
    let world = world.restart();
    let totals = world.store.totals().await.unwrap();
    let states = |total: &DomainTotal| {
        (
            total.queued,
            total.deferred,
            total.held,
            total.failed,
            total.expired,
        )
    };
    assert_eq!(
        totals.iter().map(states).collect::<Vec<_>>(),
        [(1, 2, 0, 2, 0), (0, 0, 5, 0, 0)]
    );
    for total in &totals {
        let filter = Filter {
            domain: Some(total.domain.clone()),
            ..Filter::default()
        };
        let counted = world.store.count(filter.clone()).await.unwrap();
        assert_eq!(
            (counted.messages, counted.bytes),
            (total.messages, total.bytes)
        );
        assert_eq!(total.oldest, Some(world.items(filter).await[0].received_at));
    }
}

#[tokio::test]
async fn show_tells_all_of_a_message() {
    let world = World::new();
    let id = world.accept(&["x@a.example", "y@b.example"]).await;
    world.settle_one("b.example", vec![never()]).await;
    let shown = world.store.show(id).await.unwrap().unwrap();
    assert_eq!(shown.received_from, "client.example.net [192.0.2.1]");
    assert_eq!(shown.parameters, "SIZE=100 BODY=8BITMIME");
    let replies = shown
        .deliveries
        .iter()
        .map(|part| part.details[0].last_reply.as_deref());
    assert_eq!(
        replies.collect::<Vec<_>>(),
        [None, Some("550 5.1.1 no such user")]
    );
    let json = serde_json::to_value(&shown).unwrap();
    assert_eq!(json["deliveries"][1]["state"], "failed");
    assert_eq!(
        json["deliveries"][1]["delivery_id"],
        shown.deliveries[1].item.delivery_id.to_string()
    );
    assert!(
        world
            .store
            .show(world.store.body().id())
            .await
            .unwrap()
            .is_none()
    );
}

/// Four sessions drain one domain while mail comes in: each message goes to exactly one of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_delivery_is_given_twice_and_none_is_lost() {
    const MESSAGES: usize = 400;
    let world = World::new();
    let mut taking = tokio::task::JoinSet::new();
    let (done, taken_up) = tokio::sync::watch::channel(0_usize);
    for session in 0..4 {
        let store = world.store.clone();
        let (done, taken_up) = (done.clone(), taken_up.clone());
        taking.spawn(async move {
            let mut taken = Vec::new();
            while *taken_up.borrow() < MESSAGES {
                let claim = store
                    .claim(SessionId(session), &[domain("a.example")], 5)
                    .await;
                for (place, lease) in claim.unwrap().into_iter().enumerate() {
                    if place % 3 == 2 {
                        continue; // A link fault: somebody gets it later.
                    }
                    taken.push(lease.id);
                    let settled = store.settle(lease, vec![Outcome::Delivered]);
                    settled.await.unwrap();
                    done.send_modify(|count| *count += 1);
                }
                tokio::task::yield_now().await;
            }
            taken
        });
    }
    let mut accepted = HashSet::new();
    for _ in 0..MESSAGES {
        accepted.insert(world.accept(&["user@a.example"]).await);
    }
    let taken: Vec<_> = taking.join_all().await.into_iter().flatten().collect();
    let distinct: HashSet<_> = taken.iter().map(DeliveryId::queue_id).collect();
    assert_eq!(taken.len(), MESSAGES);
    assert_eq!(distinct, accepted);
    assert!(world.all().await.is_empty());
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

#[tokio::test]
async fn a_message_without_recipients_is_refused() {
    let world = World::new();
    let refused = world
        .store
        .accept(envelope("a@example.net", &[]), world.store.body())
        .await;
    assert!(refused.is_err());
    assert_eq!(world.rows("message"), 0);
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
