//! What ends a wait, and what does not; on a real queue, with settings from a file.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use atrn_shared::smtp::reply::Reply;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::closing::tests::{Mail as Sent, World};
use crate::queue::Outcome;

const DOMAINS: &str = "[[domain]]\nname = \"b.example\"\n[[domain]]\nname = \"c.example\"\n";

fn account(name: &str, pin: char, domains: &str, more: &str) -> String {
    let pin = pin.to_string().repeat(43);
    format!(
        "[[account]]\nname = \"{name}\"\ncertificate_pins = [\"sha256/{pin}=\"]\ndomains = [{domains}]\n{more}\n"
    )
}

/// Two domains for corp, and one for somebody else.
fn world() -> World {
    World::new(&[DOMAINS, &corp("\"example.com\", \"b.example\"", "")].concat())
}

fn corp(domains: &str, more: &str) -> String {
    account("corp", 'A', domains, more) + &account("other", 'E', "\"c.example\"", "")
}

/// The settings in force from now on.
fn reload(world: &World, accounts: &str) {
    let other = World::new(&[DOMAINS, accounts].concat());
    world.settings.store((*other.settings.load()).clone());
}

async fn accept(world: &World, recipient: &str) {
    let mail = Sent {
        recipients: &[recipient],
        ..Sent::default()
    };
    world.accept(&mail).await;
}

/// A session that waits as a task of its own.
struct Waiting {
    task: JoinHandle<Waited>,
    /// Ends what happens on the wire.
    wire: Option<oneshot::Sender<Result<(), WireError>>>,
    stop: CancellationToken,
    pull: Arc<PullGuard>,
}

impl Waiting {
    fn begin(world: &World, wanted: &[&str]) -> Self {
        let (wire, ended) = oneshot::channel();
        let stop = CancellationToken::new();
        let pull = Arc::new(world.activity.pull("corp", [192, 0, 2, 7].into()));
        let wanted: Vec<_> = wanted
            .iter()
            .map(|name| Domain::parse(name).unwrap())
            .collect();
        let (store, settings) = (world.store.clone(), world.settings.clone());
        let (stopped, pulled) = (stop.clone(), Arc::clone(&pull));
        let task = tokio::spawn(async move {
            let wire = pin!(async { ended.await.unwrap_or(Err(WireError::Closed)) });
            let wait = Wait {
                store: &store,
                settings: &settings,
                account: "corp",
                wanted: &wanted,
                pull: &pulled,
            };
            wait.run(wire, pin!(stopped.cancelled())).await
        });
        Self {
            task,
            wire: Some(wire),
            stop,
            pull,
        }
    }

    /// Until it has looked and found nothing.
    async fn settled(world: &World, wanted: &[&str]) -> Self {
        let waiting = Self::begin(world, wanted);
        while world.activity.account("corp").waiting == 0 {
            assert!(!waiting.task.is_finished());
            tokio::task::yield_now().await;
        }
        waiting
    }

    async fn end(self) -> Waited {
        self.task.await.unwrap()
    }

    async fn domains(self) -> Vec<String> {
        match self.end().await {
            Waited::Mail(mail) => mail.domains.iter().map(ToString::to_string).collect(),
            other => panic!("{other:?}"),
        }
    }
}

// covers: R2645-8, R2645-13
#[tokio::test]
async fn mail_ends_a_wait_whether_it_was_there_or_comes() {
    let world = world();
    accept(&world, "user@c.example").await;
    let waiting = Waiting::settled(&world, &[]).await;
    accept(&world, "user@b.example").await;
    assert_eq!(waiting.domains().await, ["example.com", "b.example"]);
    let at_once = Waiting::begin(&world, &["b.example"]);
    assert_eq!(at_once.domains().await, ["b.example"]);
    let waiting = Waiting::settled(&world, &["example.com"]).await;
    accept(&world, "user@example.com").await;
    assert_eq!(waiting.domains().await, ["example.com"]);
}

// covers: R2645-11
#[tokio::test]
async fn time_the_customer_and_a_shutdown_end_a_wait() {
    let world = world();
    for (result, expected) in [
        (Err(WireError::TimedOut), "Wire(Err(TimedOut))"),
        (Err(WireError::Closed), "Wire(Err(Closed))"),
        (Ok(()), "Wire(Ok(()))"),
    ] {
        let mut waiting = Waiting::settled(&world, &[]).await;
        waiting.wire.take().unwrap().send(result).unwrap();
        assert_eq!(format!("{:?}", waiting.end().await), expected);
    }
    let waiting = Waiting::settled(&world, &[]).await;
    waiting.stop.cancel();
    assert!(matches!(waiting.end().await, Waited::Shutdown));
}

// covers: R2645-9
#[tokio::test]
async fn an_account_that_may_no_longer_pull_is_refused_while_it_waits() {
    for (wanted, accounts) in [
        (
            &[][..],
            corp("\"example.com\", \"b.example\"", "disabled = true"),
        ),
        (&[], account("other", 'E', "\"c.example\"", "")),
        (&["example.com", "b.example"], corp("\"b.example\"", "")),
    ] {
        let world = world();
        let waiting = Waiting::settled(&world, wanted).await;
        reload(&world, &accounts);
        let waited = waiting.end().await;
        assert!(matches!(waited, Waited::NotPermitted), "{accounts}");
        let refused = Waiting::begin(&world, wanted).end().await;
        assert!(matches!(refused, Waited::NotPermitted), "{accounts}");
    }
}

// covers: R2645-8
#[tokio::test]
async fn who_asks_for_all_domains_waits_for_those_that_the_account_has_now() {
    let world = world();
    let all = Waiting::settled(&world, &[]).await;
    let named = Waiting::begin(&world, &["b.example"]);
    reload(&world, &corp("\"b.example\", \"c.example\"", ""));
    accept(&world, "user@example.com").await;
    accept(&world, "user@c.example").await;
    assert_eq!(all.domains().await, ["b.example", "c.example"]);
    assert!(!named.task.is_finished());
    accept(&world, "user@b.example").await;
    assert_eq!(named.domains().await, ["b.example"]);
}

/// What another session has is nothing to turn for, until it gives it back; nor is what was put off, until it is due.
#[tokio::test]
async fn mail_that_is_free_again_ends_a_wait() {
    let world = world();
    accept(&world, "user@example.com").await;
    let mut leases = world.claim("example.com").await;
    let waiting = Waiting::settled(&world, &[]).await;
    drop(leases.pop());
    waiting.domains().await;
    let lease = world.claim("example.com").await.remove(0);
    let later = Outcome::Deferred(Reply::new(450, "4.2.0", "later"));
    world.store.settle(lease, vec![later], None).await.unwrap();
    let domains = [Domain::parse("example.com").unwrap()];
    let due = world.store.next_due(&domains).await.unwrap().unwrap();
    let early = due - Duration::from_millis(200);
    world.alter(&format!(
        "UPDATE delivery SET next_attempt = next_attempt - {}",
        early.as_millis()
    ));
    Waiting::settled(&world, &[]).await.domains().await;
}

#[tokio::test]
async fn a_wait_is_seen_in_the_status_while_it_lasts() {
    let world = world();
    let waiting = Waiting::settled(&world, &[]).await;
    let activity = world.activity.account("corp");
    assert_eq!((activity.pulls.now, activity.waiting), (1, 1));
    waiting.stop.cancel();
    let pull = Arc::clone(&waiting.pull);
    waiting.end().await;
    pull.goes_on();
    let activity = world.activity.account("corp");
    assert_eq!((activity.pulls.now, activity.waiting), (1, 0));
}

/// Counts how often a session is woken.
struct Counted<F> {
    session: Pin<Box<F>>,
    polls: Arc<AtomicUsize>,
}

impl<F: Future> Future for Counted<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        self.polls.fetch_add(1, Ordering::Relaxed);
        self.session.as_mut().poll(context)
    }
}

/// A thousand sessions wait for one domain: each message wakes one of them, and the others sleep on.
#[tokio::test]
async fn a_message_wakes_one_of_a_thousand() {
    const SESSIONS: usize = 1_000;
    let world = Arc::new(world());
    let stop = CancellationToken::new();
    let mut sessions = JoinSet::new();
    let mut polls = Vec::new();
    for _ in 0..SESSIONS {
        let count = Arc::new(AtomicUsize::new(0));
        polls.push(Arc::clone(&count));
        let (world, stop) = (Arc::clone(&world), stop.clone());
        sessions.spawn(Counted {
            session: Box::pin(async move {
                let pull = world.activity.pull("corp", [192, 0, 2, 7].into());
                let wait = Wait {
                    store: &world.store,
                    settings: &world.settings,
                    account: "corp",
                    wanted: &[],
                    pull: &pull,
                };
                wait.run(pin!(pending()), pin!(stop.cancelled())).await
            }),
            polls: count,
        });
    }
    while world.activity.account("corp").waiting < SESSIONS as u64 {
        tokio::task::yield_now().await;
    }
    let polled = || -> Vec<usize> {
        let counts = polls.iter().map(|count| count.load(Ordering::Relaxed));
        counts.collect()
    };
    let before = polled();
    // Those that have mail keep their place until the end, as a session does until it has claimed.
    let mut turned = Vec::new();
    for round in 1..=5 {
        accept(&world, "user@example.com").await;
        let waited = sessions.join_next().await.unwrap().unwrap();
        assert!(matches!(waited, Waited::Mail(_)), "{waited:?}");
        turned.push(waited);
        let woken = polled()
            .iter()
            .zip(&before)
            .filter(|(now, then)| now > then)
            .count();
        assert_eq!(woken, round);
    }
    // The mail is claimed: who was woken answers for it no more, and one at most looks in vain for each.
    let leases = world.claim("example.com").await;
    assert_eq!(leases.len(), turned.len());
    drop(turned);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let woken = polled()
        .iter()
        .zip(&before)
        .filter(|(now, then)| now > then)
        .count();
    assert!(woken <= 10, "{woken}");
    stop.cancel();
    while let Some(waited) = sessions.join_next().await {
        assert!(matches!(waited.unwrap(), Waited::Shutdown));
    }
}

/// There are thousands of them.
#[tokio::test]
async fn a_session_that_waits_is_small() {
    let world = world();
    let stop = CancellationToken::new();
    let pull = world.activity.pull("corp", [192, 0, 2, 7].into());
    let wait = Wait {
        store: &world.store,
        settings: &world.settings,
        account: "corp",
        wanted: &[],
        pull: &pull,
    };
    let mut wire = pin!(pending());
    let mut stopped = pin!(stop.cancelled());
    let wait = wait.run(wire.as_mut(), stopped.as_mut());
    assert!(size_of_val(&wait) <= 2_048, "{} octets", size_of_val(&wait));
    let polled = pin!(wait).poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending());
}
