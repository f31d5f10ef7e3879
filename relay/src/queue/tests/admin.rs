//! Lists, filters, statistics and changes.

use super::*;
use crate::queue::admin::CHANGE_MAX;

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
    for number in 0..CHANGE_MAX + 20 {
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
    let half = (CHANGE_MAX as u64 + 20) / 2;
    assert_eq!(
        world.store.count(filter.clone()).await.unwrap().messages,
        half
    );
    let held = world
        .store
        .change(Action::Hold, Selection::Filter(filter.clone()), |_, _| {})
        .await
        .unwrap();
    assert_eq!(held.changed, half);
    let all = Selection::Filter(Filter::default());
    let released = world
        .store
        .change(Action::Release, all, |_, _| {})
        .await
        .unwrap();
    assert_eq!((released.changed, released.unsuitable), (half, half));
    let removed = world
        .store
        .change(Action::Remove, Selection::Filter(filter), |_, _| {})
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

    let with = |set: fn(&mut Filter)| {
        let mut filter = Filter::default();
        set(&mut filter);
        filter
    };
    let before = Filter {
        received_before: Some(start),
        ..Filter::default()
    };
    let table: [(Filter, &[QueueId]); 10] = [
        (Filter::default(), &[one, two, two, three]),
        (before, &[]),
        (
            with(|f| f.domain = Some(domain("b.example"))),
            &[two, three],
        ),
        (with(|f| f.domain = Some(domain("c.example"))), &[]),
        (with(|f| f.state = Some(State::Held)), &[three]),
        (with(|f| f.sender = Some("alice@NEWS".into())), &[one]),
        (with(|f| f.sender = Some("<>".into())), &[two, two]),
        (with(|f| f.recipient = Some("BOB@".into())), &[one, three]),
        (with(|f| f.larger_than = Some(1_999)), &[two, two, three]),
        (
            with(|f| {
                f.domain = Some(domain("b.example"));
                f.larger_than = Some(2_000);
            }),
            &[three],
        ),
    ];
    for (filter, expected) in table {
        let found = world.items(filter.clone()).await;
        assert_eq!(
            found.iter().map(|item| item.id).collect::<Vec<_>>(),
            expected,
            "{filter:?}"
        );
        let count = world.store.count(filter).await.unwrap();
        assert_eq!(count.messages, expected.len() as u64);
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
    let states = [None, None, Some(State::Queued), Some(State::Held)];
    let domains = [None, Some("b.example"), None, None];
    let counts = [50, 25, 41, 9];
    for ((state, name), count) in states.into_iter().zip(domains).zip(counts) {
        let filter = Filter {
            domain: name.map(domain),
            state,
            ..Filter::default()
        };
        let all: Vec<_> = world.items(filter.clone()).await;
        let all: Vec<_> = all.iter().map(|item| item.delivery_id).collect();
        assert!(all.is_sorted() && all.len() == count, "{filter:?}");
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
        world.store.settle(lease, outcomes, None).await.unwrap();
    }
    let held = Filter {
        domain: Some(domain("b.example")),
        ..Filter::default()
    };
    world
        .store
        .change(Action::Hold, Selection::Filter(held), |_, _| {})
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
        let items = world.items(filter).await.into_iter();
        let mut waiting =
            items.filter(|item| matches!(item.state, State::Queued | State::Deferred));
        let oldest = waiting.next().map(|item| item.received_at);
        assert_eq!(
            total.oldest, oldest,
            "what is held or has failed counts not"
        );
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
