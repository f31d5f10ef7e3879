//! Accept, claim and settle: order, leases, outcomes.

use super::*;

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
                .settle(lease, vec![Outcome::Delivered], None)
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
        let reply = item.last_reply.as_deref();
        (item.state, item.recipients.join(" "), item.attempts, reply)
    });
    let gone = Some("550 5.1.1 no such user");
    let expected = [
        // Whoever can go on at once takes the other along, who is asked again.
        (
            State::Queued,
            "cut@a.example busy@a.example".to_owned(),
            0,
            None,
        ),
        (State::Failed, "gone@a.example".to_owned(), 1, gone),
    ];
    assert_eq!(seen.collect::<Vec<_>>(), expected);
    assert_eq!(
        items[0].delivery_id, old,
        "R-DUP: one id for what can still be sent"
    );
    assert_ne!(items[1].delivery_id, old);

    let outcomes = vec![Outcome::Delivered, later()];
    assert_eq!(world.settle_one("a.example", outcomes).await, old);
    let items = world.all().await;
    assert_eq!((items[0].state, items[0].attempts), (State::Deferred, 1));
    let wait = items[0]
        .next_attempt
        .unwrap()
        .duration_since(items[1].received_at);
    assert!(
        wait.as_secs() <= 60,
        "OWN-7: the first step is at most a minute"
    );

    world.let_time_pass();
    let retried = world
        .settle_one("a.example", vec![Outcome::Delivered])
        .await;
    assert_eq!(retried, old);
    assert_eq!(world.all().await.len(), 1);
    assert_eq!(world.rows("body"), 1, "the failed one keeps its content");
}

/// R-DUP: an older flight of the delivery may still reach the puller, which knows it by its id alone.
#[tokio::test]
async fn what_is_left_after_a_part_was_delivered_keeps_the_id() {
    for left in [later(), Outcome::Released] {
        let world = World::new();
        world.accept(&["x@a.example", "y@a.example"]).await;
        let outcomes = vec![Outcome::Delivered, left];
        let old = world.settle_one("a.example", outcomes).await;
        world.let_time_pass();
        let new = world
            .settle_one("a.example", vec![Outcome::Delivered])
            .await;
        assert_eq!(new, old);
        assert!(world.all().await.is_empty());
    }
}

/// Two that wait for different reasons are one delivery, and nothing is tried again and again without a pause.
#[tokio::test]
async fn where_nobody_is_done_with_all_wait() {
    let world = World::new();
    world.accept(&["x@a.example", "y@a.example"]).await;
    let outcomes = vec![later(), Outcome::Released];
    let old = world.settle_one("a.example", outcomes).await;
    let item = world.all().await.remove(0);
    assert_eq!((item.state, item.delivery_id), (State::Deferred, old));
    assert_eq!(
        item.recipients,
        ["y@a.example", "x@a.example"],
        "the one who was not asked is first"
    );
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
        let wait = item.next_attempt.unwrap().duration_since(last);
        waits.push(wait.as_secs_f64().round());
        world.let_time_pass();
    }
    assert_eq!(ids.len(), 1);
    assert_eq!(waits, [30.0, 60.0, 120.0, 240.0]);
}

#[tokio::test]
async fn deferred_and_fresh_mail_share_a_claim() {
    let world = World::new();
    for _ in 0..6 {
        world.accept(&["user@a.example"]).await;
    }
    for lease in world.claim(SESSION, &["a.example"], 3).await {
        world
            .store
            .settle(lease, vec![later()], None)
            .await
            .unwrap();
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
                    let settled = store.settle(lease, vec![Outcome::Delivered], None);
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
async fn a_message_without_recipients_is_refused() {
    let world = World::new();
    let refused = world
        .store
        .accept(envelope("a@example.net", &[]), world.store.body())
        .await;
    assert!(refused.is_err());
    assert_eq!(world.rows("message"), 0);
}
