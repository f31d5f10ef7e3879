//! What an admin asks and is told: of the daemon over the socket, and of the queue without one.

mod ending;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use atrn_shared::config::Live;
use atrn_shared::smtp::address::{Domain, ForwardPath, ReversePath};
use atrn_shared::smtp::parameter::{MailParameters, RcptParameters};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::accounts::decoy_key;
use crate::activity::{Activity, PullResult};
use crate::config::{LimitsConfig, RelayConfig};
use crate::limits::{Greylist, Limits};
use crate::names::Names;
use crate::queue::{
    Action, Changed, Envelope, Filter, QueueId, Recipient, Reference, Selection, SessionId, State,
    StatsBy, Store,
};
use crate::settings::Settings;
use crate::transaction_log::TransactionLog;

/// A relay's files and its queue, with one domain that is configured and one that was.
struct World {
    directory: TempDir,
    store: Store,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pin = "sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let text = format!(
            "hostname = \"mx1.example.net\"\ndata_dir = \"data\"\n[odmr]\ntls = \"off\"\nlisten = [\"127.0.0.1:0\"]\n\
             [[domain]]\nname = \"example.com\"\nhold_for = \"1d\"\n[[account]]\nname = \"corp\"\n\
             domains = [\"example.com\"]\ncertificate_pins = [\"{pin}\"]\n"
        );
        fs::write(directory.path().join("relay.toml"), text).unwrap();
        let store = Store::open(&directory.path().join("data")).unwrap();
        Self { directory, store }
    }

    fn main(&self) -> PathBuf {
        self.directory.path().join("relay.toml")
    }

    fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn config(&self) -> RelayConfig {
        RelayConfig::load(&self.main()).unwrap().config
    }

    /// As in the command line.
    fn context(&self) -> Context {
        Context {
            store: Some(self.store.clone()),
            daemon: Err(Arc::new(self.config())),
        }
    }

    /// As in the daemon. A reload is counted, and refused.
    fn daemon(&self) -> (Context, Activity, Arc<AtomicU32>) {
        let activity = Activity::new();
        let reloads = Arc::new(AtomicU32::new(0));
        let (counter, told) = (Arc::clone(&reloads), activity.clone());
        let daemon = Daemon {
            log: TransactionLog::off(),
            settings: Live::new(Settings::load(&self.main(), decoy_key().unwrap()).unwrap()),
            activity: activity.clone(),
            limits: Limits::new(LimitsConfig::default()),
            greylist: Greylist::open(&self.data_dir()),
            names: Names::off(),
            reload: Arc::new(move || {
                counter.fetch_add(1, Ordering::Relaxed);
                told.configuration_refused("bad".to_owned());
            }),
        };
        let context = Context::daemon(self.store.clone(), daemon);
        (context, activity, reloads)
    }

    async fn accept(&self, recipients: &[&str], content: &[u8]) -> QueueId {
        let mut body = self.store.body();
        body.write(content).await.unwrap();
        let recipients = recipients.iter().map(|recipient| Recipient {
            forward_path: ForwardPath::from_address(recipient).unwrap(),
            parameters: RcptParameters::default(),
            domain: Domain::parse(recipient.split_once('@').unwrap().1).unwrap(),
        });
        let envelope = Envelope {
            reverse_path: ReversePath::from_address("sender@example.net").unwrap(),
            mail_parameters: MailParameters::default(),
            received_from: "mail.example.net".to_owned(),
            eight_bit: false,
            needs_smtputf8: false,
            is_report: false,
            sender_verified: false,
            recipients: recipients.collect(),
        };
        self.store.accept(envelope, body).await.unwrap()
    }
}

async fn replies(context: &Context, request: Request) -> Vec<Reply> {
    let (sender, mut inbox) = mpsc::channel(1);
    let made = async move { handle(request, context, &sender).await };
    let taken = async move {
        let mut replies = Vec::new();
        while let Some(reply) = inbox.recv().await {
            replies.push(reply);
        }
        replies
    };
    tokio::join!(made, taken).1
}

/// The one reply before [`Reply::Done`].
async fn reply(context: &Context, request: Request) -> Reply {
    let mut replies = replies(context, request).await;
    assert!(matches!(replies.pop(), Some(Reply::Done)), "{replies:?}");
    assert_eq!(replies.len(), 1);
    replies.remove(0)
}

async fn refused(context: &Context, request: Request) -> Refused {
    let mut replies = replies(context, request).await;
    match (replies.pop(), replies.as_slice()) {
        (Some(Reply::Error(refused)), []) => refused,
        other => panic!("not refused: {other:?}"),
    }
}

fn list(filter: Filter, limit: Option<u64>) -> Request {
    Request::List { filter, limit }
}

fn domain(name: &str) -> Domain {
    Domain::parse(name).unwrap()
}

#[tokio::test]
async fn a_list_goes_on_behind_a_page_and_ends_at_its_limit() {
    let world = World::new();
    for _ in 0..501 {
        world.accept(&["u@example.com"], b"x").await;
    }
    let context = world.context();
    for (limit, expected) in [
        (None, 501),
        (Some(500), 500),
        (Some(501), 501),
        (Some(3), 3),
        (Some(0), 0),
    ] {
        let replies = replies(&context, list(Filter::default(), limit)).await;
        let (last, items) = replies.split_last().unwrap();
        assert!(matches!(last, Reply::Done));
        assert!(items.iter().all(|reply| matches!(reply, Reply::Item(_))));
        assert_eq!(items.len(), expected, "{limit:?}");
    }
}

#[tokio::test]
async fn only_a_configured_domain_lets_mail_expire() {
    let world = World::new();
    let id = world
        .accept(&["u@example.com", "u@gone.example"], b"x")
        .await;
    let Reply::Message(message) = reply(&world.context(), Request::Show { id }).await else {
        panic!("no message");
    };
    let day = jiff::SignedDuration::from_hours(24);
    let second = jiff::SignedDuration::from_secs(1);
    for delivery in &message.deliveries {
        let item = &delivery.item;
        let waits = item
            .expires_at
            .map(|ends| ends.duration_since(item.received_at));
        let is_ours = item.domain == domain("example.com");
        assert_eq!(waits.is_some(), is_ours, "{}", item.domain);
        assert!(
            waits.is_none_or(|waits| (waits - day).abs() <= second),
            "{waits:?}"
        );
    }
    assert_eq!(message.deliveries.len(), 2);
}

#[tokio::test]
async fn content_comes_whole_in_lines_of_limited_length() {
    let world = World::new();
    let content: Vec<u8> = (0..200_000_u32)
        .map(|number| number.to_le_bytes()[0])
        .collect();
    for content in [&content[..], b"", b"\xff\x00"] {
        let id = world.accept(&["u@example.com"], content).await;
        let mut replies = replies(&world.context(), Request::Cat { id }).await;
        assert!(matches!(replies.pop(), Some(Reply::Done)));
        let mut octets = Vec::new();
        for reply in replies {
            let Reply::Content(text) = reply else {
                panic!("no content: {reply:?}")
            };
            assert!(text.len() <= 65_536);
            let part = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text);
            octets.extend(part.unwrap());
        }
        assert!(octets == content);
    }
}

#[tokio::test]
async fn what_is_not_there_is_said_so() {
    let world = World::new();
    let id: QueueId = "00000000001".parse().unwrap();
    let with_queue = world.context();
    let without = Context {
        store: None,
        ..world.context()
    };
    for context in [&with_queue, &without] {
        for request in [Request::Show { id }, Request::Cat { id }] {
            let refused = refused(context, request).await;
            assert_eq!(refused.kind, ErrorKind::NotFound);
            assert_eq!(refused.text, "00000000001 is not in the queue");
        }
        assert_eq!(
            replies(context, list(Filter::default(), None)).await.len(),
            1
        );
        let stats = reply(
            context,
            Request::Stats {
                by: StatsBy::Domain,
            },
        )
        .await;
        assert!(matches!(stats, Reply::Stats(rows) if rows.is_empty()));
        let selection = Selection::Ids(vec![Reference::Message(id)]);
        let change = Request::Change {
            action: Action::Remove,
            selection,
            dry_run: false,
        };
        let Reply::Changed(changed) = reply(context, change).await else {
            panic!("no change");
        };
        assert_eq!((changed.changed, changed.unknown.len()), (0, 1));
    }
}

/// Two deliveries for gone.example; of the two for example.com one is held, the other leased.
async fn mixed_queue(world: &World) -> (QueueId, Vec<crate::queue::Lease>) {
    let first = world
        .accept(&["a@example.com", "a@gone.example"], b"x")
        .await;
    let second = world.accept(&["b@example.com"], b"x").await;
    world.accept(&["c@gone.example"], b"x").await;
    let domains = [domain("example.com")];
    let leased = world.store.claim(SessionId(1), &domains, 1).await.unwrap();
    let held = Selection::Ids(vec![Reference::Message(second)]);
    world
        .store
        .change(Action::Hold, held, |_, _| {})
        .await
        .unwrap();
    (first, leased)
}

async fn changed(
    context: &Context,
    action: Action,
    selection: &Selection,
    dry_run: bool,
) -> Changed {
    let selection = selection.clone();
    let request = Request::Change {
        action,
        selection,
        dry_run,
    };
    match reply(context, request).await {
        Reply::Changed(changed) => changed,
        other => panic!("no change: {other:?}"),
    }
}

#[tokio::test]
async fn a_dry_run_foretells_the_change_and_changes_nothing() {
    let world = World::new();
    let (first, _leased) = mixed_queue(&world).await;
    let context = world.context();
    let states = || async {
        let items = world.store.list(Filter::default(), None, 100).await;
        let items = items.unwrap().into_iter();
        items
            .map(|item| (item.delivery_id, item.state))
            .collect::<Vec<_>>()
    };
    let all = Selection::Filter(Filter::default());
    let gone = Selection::Filter(Filter {
        domain: Some(domain("gone.example")),
        ..Filter::default()
    });
    let unknown: Reference = "00000000001.1".parse().unwrap();
    let ids = Selection::Ids(vec![Reference::Message(first), unknown]);
    for (action, selection, expected) in [
        (Action::Hold, &all, (2, 1, 1)),
        (Action::Release, &all, (3, 1, 0)),
        (Action::Retry, &gone, (0, 0, 2)),
        (Action::Remove, &ids, (1, 1, 0)),
        (Action::Remove, &gone, (1, 0, 0)),
    ] {
        let before = states().await;
        let foretold = changed(&context, action, selection, true).await;
        let counts = (foretold.changed, foretold.leased, foretold.unsuitable);
        assert_eq!(counts, expected, "{action:?} {selection:?}");
        assert_eq!(states().await, before);
        let done = changed(&context, action, selection, false).await;
        assert_eq!(done, foretold, "{action:?} {selection:?}");
    }
}

#[tokio::test]
async fn status_knows_domains_that_only_have_mail() {
    let world = World::new();
    world.accept(&["u@gone.example"], b"12345").await;
    let (context, activity, _) = world.daemon();
    activity.accepted(5);
    activity
        .pull("corp", [127, 0, 0, 1].into())
        .end(PullResult::NoMail);
    let Reply::Status(status) = reply(&context, Request::Status).await else {
        panic!("no status");
    };
    assert!(status.running);
    let domains = status.domains.iter();
    let domains: Vec<_> = domains
        .map(|each| {
            (
                each.total.domain.as_str(),
                each.configured,
                each.total.bytes,
            )
        })
        .collect();
    assert_eq!(
        domains,
        [("example.com", true, 0), ("gone.example", false, 5)]
    );
    assert_eq!(status.activity.unwrap().accepted_octets, 5);
    let last = status.accounts[0].activity.last_pull.clone().unwrap();
    assert_eq!(last.result, PullResult::NoMail);

    let Reply::Status(status) = reply(&world.context(), Request::Status).await else {
        panic!("no status");
    };
    assert!(!status.running && status.activity.is_none() && status.pid.is_none());
    assert_eq!((status.domains.len(), status.accounts.len()), (2, 1));
}

#[tokio::test]
async fn a_reload_is_waited_for() {
    let world = World::new();
    let (context, _, reloads) = world.daemon();
    let Reply::Reloaded(Some(state)) = reply(&context, Request::Reload).await else {
        panic!("not reloaded");
    };
    assert_eq!(state.error.as_deref(), Some("bad"));
    assert_eq!(reloads.load(Ordering::Relaxed), 1);
    let refused = refused(&world.context(), Request::Reload).await;
    assert_eq!(refused.kind, ErrorKind::Unavailable);
}

/// A daemon that answers on its socket in a thread of its own, as long as this lives.
struct Serving {
    shutdown: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Serving {
    fn start(world: &World) -> Self {
        let listener = bind(&world.data_dir()).unwrap();
        let (context, _, _) = world.daemon();
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(serve(listener, context, token)).unwrap();
        });
        Self {
            shutdown,
            thread: Some(thread),
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.shutdown.cancel();
        // Also the proof that open connections do not hold up a shutdown.
        let ended = self.thread.take().map(std::thread::JoinHandle::join);
        assert!(std::thread::panicking() || ended.is_some_and(|ended| ended.is_ok()));
    }
}

#[test]
fn the_daemon_answers_as_the_queue_itself_does() {
    let world = World::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let id = runtime.block_on(world.accept(&["u@example.com"], b"A: b\r\n\r\n"));
    let serving = Serving::start(&world);
    let mut client = Client::open(world.config()).unwrap();
    assert!(client.is_daemon());
    // Several requests on one connection.
    for _ in 0..3 {
        let Reply::Message(message) = client.ask_one(&Request::Show { id }).unwrap() else {
            panic!("no message");
        };
        assert_eq!(message.id, id);
    }
    let unknown = Request::Cat {
        id: "00000000001".parse().unwrap(),
    };
    let error = client.ask_one(&unknown).unwrap_err();
    assert_eq!(error.to_string(), "00000000001 is not in the queue");
    let mut listed = 0;
    client
        .ask(
            &list(
                Filter {
                    state: Some(State::Queued),
                    ..Filter::default()
                },
                None,
            ),
            |_| {
                listed += 1;
                Ok::<_, ClientError>(())
            },
        )
        .unwrap();
    assert_eq!(listed, 1);
    drop(serving);
    assert!(client.ask_one(&Request::Status).is_err());
}

#[test]
fn without_a_daemon_the_queue_is_opened() {
    let world = World::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let id = runtime.block_on(world.accept(&["u@example.com"], b"x"));
    let config = world.config();
    // Somebody has it open and does not listen.
    let error = Client::open(config.clone()).unwrap_err().to_string();
    assert!(
        error.contains("no relay answers here, but one (or another command) has the queue open"),
        "{error}"
    );
    // A killed daemon leaves its socket.
    drop(bind(&config.data_dir).unwrap());
    let World { directory, store } = world;
    drop(store);
    let mut client = Client::open(config.clone()).unwrap();
    assert!(!client.is_daemon());
    let selection = Selection::Ids(vec![Reference::Message(id)]);
    let hold = Request::Change {
        action: Action::Hold,
        selection,
        dry_run: false,
    };
    let Reply::Changed(changed) = client.ask_one(&hold).unwrap() else {
        panic!("no change");
    };
    assert_eq!(
        changed,
        Changed {
            changed: 1,
            ..Changed::default()
        }
    );
    drop(client);

    // Where there is no queue a command makes none.
    let config = RelayConfig {
        data_dir: directory.path().join("nothing"),
        ..config
    };
    let mut client = Client::open(config.clone()).unwrap();
    assert!(matches!(
        client.ask_one(&Request::Status),
        Ok(Reply::Status(_))
    ));
    assert!(!config.data_dir.exists());
}

#[test]
fn what_is_no_request_is_refused_and_the_next_one_answered() {
    let world = World::new();
    let _serving = Serving::start(&world);
    let stream = UnixStream::connect(socket_path(&world.data_dir())).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut ask = |request: &str| {
        (&stream).write_all(request.as_bytes()).unwrap();
        lines.next().unwrap().unwrap()
    };
    assert!(ask("nonsense\n").starts_with(r#"{"error":{"kind":"invalid","text":"not a request"#));
    let newer = ask("{\"version\":2,\"request\":\"status\"}\n");
    assert!(newer.contains("restart the relay"), "{newer}");
    assert!(ask(&Request::Status.line()).starts_with(r#"{"status":{"running":true"#));
    assert_eq!(ask(""), r#""done""#);
    let long = format!(
        "{{\"version\":1,\"request\":\"{}\"}}\n",
        "x".repeat(1 << 20)
    );
    let refused = std::thread::scope(|scope| {
        // More than the other end reads.
        scope.spawn(|| (&stream).write_all(long.as_bytes()));
        lines.next().unwrap().unwrap()
    });
    assert!(refused.contains("the request is too long"), "{refused}");
    // Then the connection is closed; what was not read may reset it.
    assert!(lines.next().is_none_or(|line| line.is_err()));
}

#[test]
fn only_one_relay_has_the_socket_and_nobody_else_may_use_it() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("new");
    let first = bind(&data_dir).unwrap();
    let error = bind(&data_dir).unwrap_err().to_string();
    assert!(
        error.ends_with("control.sock: another relay is running here; stop it first"),
        "{error}"
    );
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        (mode(data_dir.clone()), mode(socket_path(&data_dir))),
        (0o700, 0o600)
    );
    // A killed relay's is replaced.
    drop(first);
    bind(&data_dir).unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let error = bind(&file.join("data")).unwrap_err().to_string();
    assert!(error.ends_with("file/data: Not a directory"), "{error}");
}
