//! What the queue promises, on a real database in a temporary directory.

mod admin;
mod ageing;
mod backup;
mod content;
mod depth;
mod fairness;
mod flow;
mod news;
mod opening;
mod salvage;
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
        self.accept_headed(recipients, &[], content).await
    }

    /// With a head that was known last.
    async fn accept_headed(&self, recipients: &[&str], head: &[u8], below: &[u8]) -> QueueId {
        let mut body = self.store.body();
        for part in below.chunks(10_000) {
            body.write(part).await.unwrap();
        }
        body.set_head(head.to_vec());
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
        self.store.settle(lease, outcomes, None).await.unwrap();
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
        self.store
            .change(action, selection, |_, _| {})
            .await
            .unwrap()
    }

    fn spool_files(&self) -> Vec<PathBuf> {
        let list = |path: &Path| -> Vec<PathBuf> {
            let entries = std::fs::read_dir(path).unwrap();
            entries.map(|entry| entry.unwrap().path()).collect()
        };
        let directories = list(&self.directory.path().join("spool"));
        directories.iter().flat_map(|path| list(path)).collect()
    }

    /// A second connection, to look at what no query of the store shows.
    fn database(&self) -> Connection {
        Connection::open(self.directory.path().join("queue.db")).unwrap()
    }

    /// Everything that is in the queue was accepted so much earlier, by both clocks.
    fn make_older(&self, by: Duration) {
        let update =
            "UPDATE message SET held_since = held_since - ?1, received_at = received_at - ?1";
        self.alter(update, by);
        self.alter("UPDATE delivery SET since = max(since - ?1, 0)", by);
    }

    fn alter(&self, update: &str, by: Duration) {
        let millis = i64::try_from(by.as_millis()).unwrap();
        self.database().execute(update, [millis]).unwrap();
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
        let domains: Vec<i64> = self.store.shared.catalog().names.keys().copied().collect();
        self.store.shared.leases.tell(&domains);
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
        is_report: false,
        sender_verified: false,
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
