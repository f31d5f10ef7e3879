//! What is in the queue once a delivery has ended: on a real one, with the settings of a file.

use std::fs;
use std::time::Duration;

use atrn_shared::config::Live;
use atrn_shared::smtp::address::{Domain, ForwardPath, ReversePath};
use atrn_shared::smtp::parameter::{MailParameters, RcptParameters};
use tempfile::TempDir;

use super::*;
use crate::accounts::decoy_key;
use crate::queue::{Envelope, Filter, Item, MessageDelivery, QueueId, Recipient, SessionId, State};

/// A queue, and the settings of example.com.
pub(crate) struct World {
    directory: TempDir,
    pub(crate) store: Store,
    pub(crate) activity: Activity,
    pub(crate) settings: Live<Settings>,
    pub(crate) closing: Closing,
}

impl World {
    /// `domain` are more lines of the table of example.com.
    pub(crate) fn new(domain: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let text = format!(
            "hostname = \"mx1.example.net\"\ndata_dir = \"data\"\n[odmr]\ntls = \"off\"\nlisten = [\"127.0.0.1:0\"]\n\
             [[domain]]\nname = \"example.com\"\n{domain}\n"
        );
        let main = directory.path().join("relay.toml");
        fs::write(&main, text).unwrap();
        let settings = Settings::load(&main, decoy_key().unwrap()).unwrap();
        let settings = Live::new(settings);
        let store = Store::open(&directory.path().join("data")).unwrap();
        let activity = Activity::new();
        let source = Source::Daemon(settings.clone(), activity.clone());
        Self {
            directory,
            closing: Closing::new(store.clone(), source, TransactionLog::off()),
            store,
            activity,
            settings,
        }
    }

    /// Its settings, as the file has them.
    pub(crate) fn read_settings(&self) -> Settings {
        Settings::load(
            &self.directory.path().join("relay.toml"),
            decoy_key().unwrap(),
        )
        .unwrap()
    }

    pub(crate) async fn accept(&self, mail: &Mail<'_>) -> QueueId {
        let mut body = self.store.body();
        body.write(mail.content).await.unwrap();
        let recipients = mail.recipients.iter().map(|recipient| {
            let (path, parameters) = recipient.split_once(' ').unwrap_or((recipient, ""));
            let forward_path = ForwardPath::from_address(path).unwrap();
            Recipient {
                domain: forward_path.domain().unwrap().clone(),
                forward_path,
                parameters: RcptParameters::parse(parameters).unwrap(),
            }
        });
        let envelope = Envelope {
            reverse_path: ReversePath::from_address(mail.sender).unwrap(),
            mail_parameters: MailParameters::parse(mail.parameters).unwrap(),
            received_from: "mail.example.net".to_owned(),
            eight_bit: false,
            needs_smtputf8: false,
            is_report: mail.is_report,
            sender_verified: mail.sender_verified,
            recipients: recipients.collect(),
        };
        self.store.accept(envelope, body).await.unwrap()
    }

    /// Everything that can be sent to this domain now.
    pub(crate) async fn claim(&self, domain: &str) -> Vec<Lease> {
        let domains = [Domain::parse(domain).unwrap()];
        self.store.claim(SessionId(1), &domains, 100).await.unwrap()
    }

    pub(crate) async fn all(&self) -> Vec<Item> {
        let items = self.store.list(Filter::default(), None, 1_000).await;
        items.unwrap()
    }

    /// The first delivery of a message, with its recipients.
    pub(crate) async fn shown(&self, id: QueueId) -> MessageDelivery {
        let mut message = self.store.show(id).await.unwrap().unwrap();
        message.deliveries.remove(0)
    }

    /// A second connection, for what no verb of the store does.
    pub(crate) fn alter(&self, update: &str) {
        let path = self.directory.path().join("data/queue.db");
        let connection = rusqlite::Connection::open(path).unwrap();
        connection.execute(update, []).unwrap();
    }

    /// Everything that is in the queue was accepted, or ended, so much earlier.
    pub(crate) fn make_older(&self, by: Duration) {
        let millis = by.as_millis();
        self.alter(&format!(
            "UPDATE message SET held_since = held_since - {millis}, received_at = received_at - {millis}"
        ));
        self.alter(&format!(
            "UPDATE delivery SET since = max(since - {millis}, 0)"
        ));
    }

    /// Ends the one delivery that example.com has, and gives back the report, if there is one.
    async fn end(&self, outcomes: Vec<Outcome>, by: By) -> Option<Told> {
        let mut leases = self.claim("example.com").await;
        assert_eq!(leases.len(), 1);
        let lease = leases.remove(0);
        let settled = self.closing.settle(lease, outcomes, by).await;
        settled.await.unwrap();
        let reports = self.claim("example.com").await;
        let mut reports = reports.into_iter().filter(|lease| lease.is_report);
        let report = Told::read(reports.next()?).await;
        assert!(reports.next().is_none(), "one report at most");
        Some(report)
    }
}

/// A message as it comes.
#[derive(Clone, Copy)]
pub(crate) struct Mail<'m> {
    pub(crate) sender: &'m str,
    pub(crate) sender_verified: bool,
    pub(crate) is_report: bool,
    pub(crate) parameters: &'m str,
    /// Each with its parameters behind a blank.
    pub(crate) recipients: &'m [&'m str],
    pub(crate) content: &'m [u8],
}

impl Default for Mail<'_> {
    fn default() -> Self {
        Self {
            sender: "alice@example.net",
            sender_verified: false,
            is_report: false,
            parameters: "",
            recipients: &["bob@example.com"],
            content: b"Subject: Lunch\r\n\r\nSecret\r\n",
        }
    }
}

/// A report in the queue.
#[derive(Debug)]
struct Told {
    to: String,
    content: String,
}

impl Told {
    async fn read(lease: Lease) -> Self {
        assert_eq!(lease.reverse_path, ReversePath::Null);
        let mut reader = lease.content().await.unwrap();
        let mut content = Vec::new();
        while let Some(part) = reader.next().await.unwrap() {
            content.extend_from_slice(&part);
        }
        Self {
            to: lease.recipients[0].forward_path.to_string(),
            content: String::from_utf8(content).unwrap(),
        }
    }

    /// What it says of each recipient.
    fn recipients(&self) -> Vec<String> {
        let value = |line: &str, name: &str| Some(line.strip_prefix(name)?.trim().to_owned());
        let lines = self.content.lines();
        let to = lines.filter_map(|line| value(line, "Final-Recipient: rfc822;"));
        let actions = self
            .content
            .lines()
            .filter_map(|line| value(line, "Action:"));
        let both = to.zip(actions);
        both.map(|(to, action)| format!("{to} {action}")).collect()
    }
}

fn refused() -> Outcome {
    Outcome::Failed(Reply::new(550, "5.1.1", "No such user"))
}

const PULLER: By = By::Puller { dsn: true };

// covers: R3464-1, R2645-24, OWN-8
#[tokio::test]
async fn who_is_told_hangs_on_the_domain_and_the_sender() {
    for (setting, mail, expected) in [
        ("", Mail::default(), Some("postmaster@example.com")),
        (
            "",
            Mail {
                sender_verified: true,
                ..Mail::default()
            },
            Some("alice@example.net"),
        ),
        (
            "reports = \"sender\"",
            Mail::default(),
            Some("alice@example.net"),
        ),
        (
            "reports = \"postmaster\"",
            Mail {
                sender_verified: true,
                ..Mail::default()
            },
            Some("postmaster@example.com"),
        ),
        ("reports = \"none\"", Mail::default(), None),
        (
            "reports = \"sender\"",
            Mail {
                sender: "",
                ..Mail::default()
            },
            None,
        ),
        (
            "reports = \"sender\"",
            Mail {
                is_report: true,
                ..Mail::default()
            },
            None,
        ),
        (
            "reports = \"sender\"",
            Mail {
                recipients: &["bob@example.com NOTIFY=NEVER"],
                ..Mail::default()
            },
            None,
        ),
    ] {
        let world = World::new(setting);
        let id = world.accept(&mail).await;
        let report = world.end(vec![refused()], PULLER).await;
        assert_eq!(
            report.as_ref().map(|told| told.to.as_str()),
            expected,
            "{setting}"
        );
        let delivery = world.shown(id).await;
        assert_eq!(delivery.item.state, State::Failed);
        let [recipient] = delivery.details.as_slice() else {
            panic!("one recipient");
        };
        assert_eq!(
            recipient.last_reply.as_deref(),
            Some("550 5.1.1 No such user")
        );
        assert_eq!(recipient.reported_to.as_deref(), expected);
        let snapshot = world.activity.snapshot();
        assert_eq!(snapshot.reports, u64::from(expected.is_some()));
    }
}

// covers: R3464-1, OWN-9
#[tokio::test]
async fn one_report_is_about_all_who_are_to_be_told_of() {
    let world = World::new("reports = \"sender\"");
    let recipients = [
        "a@example.com",
        "b@example.com NOTIFY=NEVER",
        "c@example.com",
        "d@example.com",
        "e@example.com NOTIFY=SUCCESS",
    ];
    let id = world
        .accept(&Mail {
            recipients: &recipients,
            ..Mail::default()
        })
        .await;
    let outcomes = vec![
        Outcome::Delivered,
        refused(),
        refused(),
        Outcome::Deferred(Reply::new(451, "4.3.0", "later")),
        refused(),
    ];
    let report = world.end(outcomes, PULLER).await.unwrap();
    assert_eq!(report.recipients(), ["c@example.com failed"]);
    let states = world.all().await.into_iter().filter(|item| item.id == id);
    let mut states: Vec<_> = states.map(|item| item.state).collect();
    states.sort_unstable();
    assert_eq!(states, [State::Deferred, State::Failed]);
    let details = world.store.show(id).await.unwrap().unwrap().deliveries;
    let details = details.iter().flat_map(|delivery| &delivery.details);
    let told: Vec<_> = details
        .filter(|recipient| recipient.reported_to.is_some())
        .map(|recipient| recipient.recipient.as_str())
        .collect();
    assert_eq!(told, ["c@example.com"]);
}

// covers: R3461-1
#[tokio::test]
async fn good_news_is_told_where_nobody_behind_tells_it() {
    let asked = "bob@example.com NOTIFY=SUCCESS,FAILURE";
    for (recipient, by, expected) in [
        (asked, By::Puller { dsn: false }, true),
        (asked, By::Puller { dsn: true }, false),
        ("bob@example.com", By::Puller { dsn: false }, false),
        (
            "bob@example.com NOTIFY=NEVER",
            By::Puller { dsn: false },
            false,
        ),
        (
            "bob@example.com NOTIFY=FAILURE",
            By::Puller { dsn: false },
            false,
        ),
    ] {
        let world = World::new("reports = \"sender\"");
        world
            .accept(&Mail {
                recipients: &[recipient],
                ..Mail::default()
            })
            .await;
        let report = world.end(vec![Outcome::Delivered], by).await;
        let recipients = report.map(|report| report.recipients());
        let relayed = vec!["bob@example.com relayed".to_owned()];
        assert_eq!(
            recipients,
            expected.then_some(relayed),
            "{recipient} {by:?}"
        );
    }
}

#[tokio::test]
async fn mail_of_a_domain_that_is_gone_is_reported_as_carefully_as_can_be() {
    let world = World::new("");
    world
        .accept(&Mail {
            recipients: &["bob@gone.example"],
            ..Mail::default()
        })
        .await;
    let lease = world.claim("gone.example").await.remove(0);
    let settled = world.closing.settle(lease, vec![refused()], PULLER).await;
    settled.await.unwrap();
    let report = Told::read(world.claim("gone.example").await.remove(0)).await;
    assert_eq!(report.to, "postmaster@gone.example");
}

// covers: R3461-1
#[tokio::test]
async fn what_goes_back_is_read_from_the_queue() {
    let header = format!("Subject: Lunch\r\nX-Long: {}\r\n", "y".repeat(900));
    let small = format!("{header}\r\nbody\r\n").into_bytes();
    let large = [small.as_slice(), &b"z\r\n".repeat(100_000)].concat();
    let endless = b"X: y\r\n".repeat(100_000);
    for (parameters, content, kind) in [
        (" RET=FULL", &small, "message/rfc822"),
        (" RET=FULL", &large, "text/rfc822-headers"),
        (" RET=HDRS", &large, "text/rfc822-headers"),
        ("", &endless, "text/rfc822-headers"),
    ] {
        let world = World::new("reports = \"sender\"");
        world
            .accept(&Mail {
                parameters,
                content,
                ..Mail::default()
            })
            .await;
        let report = world.end(vec![refused()], PULLER).await.unwrap();
        assert!(report.content.contains(kind), "{}", report.content);
        let lines = String::from_utf8_lossy(content);
        let first = lines.lines().next().unwrap();
        assert!(report.content.contains(first));
        assert_eq!(
            report.content.contains("\r\nbody\r\n"),
            kind == "message/rfc822"
        );
        assert!(report.content.len() <= REPORT_OCTETS);
    }
}

#[tokio::test]
async fn a_damaged_message_is_reported_without_what_is_left_of_it() {
    let world = World::new("reports = \"sender\"");
    world.accept(&Mail::default()).await;
    world.alter(
        "UPDATE body SET content = CAST(replace(CAST(content AS TEXT), 'Lunch', 'Xunch') AS BLOB)",
    );
    let report = world.end(vec![refused()], PULLER).await.unwrap();
    assert_eq!(report.recipients(), ["bob@example.com failed"]);
    assert!(!report.content.contains("unch"), "{}", report.content);
}

#[test]
fn what_is_given_up_keeps_what_stood_in_its_way() {
    for (attempts, last_reply, expected) in [
        (0, None, "554 5.4.7 Not delivered within 5d"),
        (
            0,
            Some("554 5.4.7 Not delivered within 5d"),
            "554 5.4.7 Not delivered within 5d",
        ),
        (
            3,
            Some("451 4.3.0 busy"),
            "554 5.4.7 Not delivered within 5d; last reply: 451 4.3.0 busy",
        ),
    ] {
        let delivery = Delivery {
            id: "1M7ZMM9TH00.1.ABC123".parse().unwrap(),
            domain: Domain::parse("example.com").unwrap(),
            reverse_path: ReversePath::Null,
            mail_parameters: MailParameters::default(),
            eight_bit: false,
            needs_smtputf8: false,
            received_from: String::new(),
            received_at: Timestamp::UNIX_EPOCH,
            size: 0,
            attempts,
            state: State::Queued,
            is_report: false,
            sender_verified: false,
            recipients: vec![crate::queue::DeliveryRecipient {
                forward_path: ForwardPath::from_address("bob@example.com").unwrap(),
                parameters: RcptParameters::default(),
                last_reply: last_reply.map(str::to_owned),
                reported_to: None,
            }],
        };
        let outcomes = given_up(&delivery, "Not delivered within 5d");
        let [Outcome::Expired(reply)] = outcomes.as_slice() else {
            panic!("{outcomes:?}");
        };
        assert_eq!(reply.to_string(), expected);
    }
}
