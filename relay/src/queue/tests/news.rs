//! What is news to a session that waits, and when it has to look by itself.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::*;

/// Asks once, and gives the waiting up.
fn has_news(watch: &mut Watch) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    pin!(watch.news()).poll(&mut context).is_ready()
}

impl World {
    fn watch(&self) -> Watch {
        self.store.watch(&[domain("a.example")])
    }

    async fn next_due(&self) -> Option<Duration> {
        self.store.next_due(&[domain("a.example")]).await.unwrap()
    }
}

#[tokio::test]
async fn the_first_mail_that_a_domain_ever_has_wakes_who_waits_for_it() {
    let world = World::new();
    let mut watch = world.watch();
    assert!(!has_news(&mut watch));
    let (_, _) = tokio::join!(watch.news(), world.accept(&["user@a.example"]));
    assert_eq!(world.claim(SESSION, &["a.example"], 1).await.len(), 1);
}

#[tokio::test]
async fn mail_that_comes_after_the_last_look_is_news() {
    let world = World::new();
    let mut watch = world.watch();
    assert!(world.claim(SESSION, &["a.example"], 1).await.is_empty());
    world.accept(&["user@b.example"]).await;
    assert!(!has_news(&mut watch), "for somebody else");
    world.accept(&["user@b.example", "user@a.example"]).await;
    assert!(has_news(&mut watch));
    assert!(!has_news(&mut watch), "once");
}

#[tokio::test]
async fn a_lease_that_ends_is_news_unless_the_mail_is_gone() {
    let world = World::new();
    for _ in 0..3 {
        world.accept(&["user@a.example"]).await;
    }
    let mut watch = world.watch();
    let mut leases = world.claim(SESSION, &["a.example"], 3).await;
    let settle = |lease, outcome| world.store.settle(lease, vec![outcome], None);
    settle(leases.remove(0), Outcome::Delivered).await.unwrap();
    assert!(!has_news(&mut watch), "delivered");
    settle(leases.remove(0), later()).await.unwrap();
    assert!(
        has_news(&mut watch),
        "deferred: there is a new time to wait for"
    );
    let lease = leases.remove(0);
    settle(lease, Outcome::Released).await.unwrap();
    assert!(has_news(&mut watch), "no verdict");
    let leases = world.claim(SESSION, &["a.example"], 3).await;
    assert!(!has_news(&mut watch));
    drop(leases);
    assert!(has_news(&mut watch), "the link broke");
}

#[tokio::test]
async fn what_an_admin_gives_free_is_news() {
    let world = World::new();
    let id = world.accept(&["user@a.example"]).await.to_string();
    let mut watch = world.watch();
    for (action, is_news) in [
        (Action::Hold, false),
        (Action::Release, true),
        // Not changed, but it was out of reach for a moment.
        (Action::Release, true),
        (Action::Hold, false),
        (Action::Retry, false),
        (Action::Remove, false),
    ] {
        world.change(action, &id).await;
        assert_eq!(has_news(&mut watch), is_news, "{action:?}");
    }
    world.accept(&["user@a.example"]).await;
    world.settle_one("a.example", vec![later()]).await;
    assert!(has_news(&mut watch));
    let all = Selection::Filter(Filter::default());
    world
        .store
        .change(Action::Retry, all.clone(), |_, _| {})
        .await
        .unwrap();
    assert!(has_news(&mut watch), "to be tried at once");
    drop(world.store.seize(&all, None, 10).await.unwrap());
    assert!(has_news(&mut watch), "given back");
}

#[tokio::test]
async fn a_settlement_that_was_owed_is_told_when_it_is_paid() {
    let world = World::new();
    world.accept(&["user@a.example"]).await;
    let mut leases = world.claim(SESSION, &["a.example"], 1).await;
    let mut watch = world.watch();
    let refuse =
        "CREATE TRIGGER trouble BEFORE DELETE ON delivery BEGIN SELECT RAISE(FAIL, 'x'); END";
    world.database().execute_batch(refuse).unwrap();
    let settled = world.store.settle(leases.remove(0), vec![later()], None);
    settled.await.unwrap_err();
    assert!(!has_news(&mut watch), "it is still held");
    world
        .database()
        .execute_batch("DROP TRIGGER trouble")
        .unwrap();
    tokio::time::timeout(Duration::from_secs(20), watch.news())
        .await
        .unwrap();
    assert!(world.next_due().await.is_some());
}

#[tokio::test]
async fn a_deferral_becomes_due_by_itself() {
    let world = World::new();
    assert_eq!(world.next_due().await, None, "no such domain");
    world.accept(&["user@a.example"]).await;
    assert_eq!(world.next_due().await, None, "fresh mail is news");
    world.settle_one("a.example", vec![later()]).await;
    let due = world.next_due().await.unwrap();
    assert!(
        due > Duration::ZERO && due <= retry::RETRY_DELAY_FIRST,
        "{due:?}"
    );
    assert!(world.claim(SESSION, &["a.example"], 1).await.is_empty());

    world.accept(&["user@b.example"]).await;
    world.settle_one("b.example", vec![later()]).await;
    let other = domain("b.example");
    let both = world.store.next_due(&[other, domain("a.example")]).await;
    assert!(both.unwrap().unwrap() <= due, "the first of them");

    world.let_time_pass();
    assert_eq!(world.next_due().await, Some(Duration::ZERO));
    let leases = world.claim(SESSION, &["a.example"], 1).await;
    assert_eq!(leases.len(), 1);
    assert_eq!(
        world.next_due().await,
        None,
        "whoever has it looks after it"
    );
    drop(leases);
    assert_eq!(world.next_due().await, Some(Duration::ZERO));
}

/// Sessions that come, are interrupted, drop what they have and go, on all processors; no mail is forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_wake_up_is_lost_between_many_sessions() {
    const MESSAGES: usize = 400;
    let world = World::new();
    let left = Arc::new(AtomicUsize::new(MESSAGES));
    let done = CancellationToken::new();
    let mut sessions = JoinSet::new();
    for number in 0..6 {
        let (store, left) = (world.store.clone(), Arc::clone(&left));
        sessions.spawn(pull(store, SessionId(number), left, done.clone()));
    }
    let mut senders = JoinSet::new();
    for sender in 0..4 {
        let store = world.store.clone();
        senders.spawn(async move {
            for number in 0..MESSAGES / 4 {
                let name = ["user@a.example", "user@b.example"][(sender + number) % 2];
                let body = store.body();
                store
                    .accept(envelope("a@b.example", &[name]), body)
                    .await
                    .unwrap();
                if number % 7 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        });
    }
    let all = async {
        while senders.join_next().await.is_some() {}
        while sessions.join_next().await.is_some() {}
    };
    let ended = tokio::time::timeout(Duration::from_secs(60), all).await;
    let left = left.load(Ordering::Relaxed);
    assert!(ended.is_ok() && left == 0, "{left} were never found");
}

/// A session as the drain is one, which does everything that can go wrong now and then.
async fn pull(store: Store, session: SessionId, left: Arc<AtomicUsize>, done: CancellationToken) {
    let domains = [domain("a.example"), domain("b.example")];
    let mut turn = session.0;
    while !done.is_cancelled() {
        let mut watch = store.watch(&domains);
        for _ in 0..20 {
            loop {
                let leases = store.claim(session, &domains, 3).await.unwrap();
                if leases.is_empty() {
                    break;
                }
                for lease in leases {
                    turn += 1;
                    if turn.is_multiple_of(5) {
                        continue;
                    }
                    let settled = store.settle(lease, vec![Outcome::Delivered], None);
                    settled.await.unwrap();
                    if left.fetch_sub(1, Ordering::Relaxed) == 1 {
                        done.cancel();
                    }
                }
            }
            turn += 1;
            if turn.is_multiple_of(3) && has_news(&mut watch) {
                continue;
            }
            if turn.is_multiple_of(11) {
                break;
            }
            tokio::select! {
                () = watch.news() => {}
                () = done.cancelled() => return,
            }
        }
    }
}
