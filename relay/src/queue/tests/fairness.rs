//! Who is served when: domains in turn, each in its own order, at a cost that does not grow with their number.

use super::*;

fn names(leases: &[Lease]) -> Vec<&str> {
    leases.iter().map(|lease| lease.domain.as_str()).collect()
}

/// `count` domains with so many messages each.
async fn filled(count: usize, messages: usize) -> (World, Vec<Domain>) {
    let world = World::new();
    let names: Vec<_> = (0..count)
        .map(|number| format!("d{number:04}.example"))
        .collect();
    for _ in 0..messages {
        for names in names.chunks(50) {
            let recipients: Vec<_> = names.iter().map(|name| format!("user@{name}")).collect();
            let recipients: Vec<_> = recipients.iter().map(String::as_str).collect();
            world.accept(&recipients).await;
        }
    }
    let domains = names.iter().map(|name| domain(name)).collect();
    (world, domains)
}

#[tokio::test]
async fn a_long_queue_of_one_domain_does_not_make_another_wait() {
    let world = World::new();
    let mut accepted = Vec::new();
    for name in ["a.example"; 6].iter().chain(&["b.example"; 2]) {
        accepted.push(world.accept(&[&format!("user@{name}")]).await);
    }
    let leases = world.claim(SESSION, &["b.example", "a.example"], 5).await;
    let [a, b] = ["a.example", "b.example"];
    assert_eq!(names(&leases), [a, b, a, b, a]);
    let ids: Vec<_> = leases.iter().map(|lease| lease.id.queue_id()).collect();
    assert_eq!(ids, [0, 6, 1, 7, 2].map(|place| accepted[place]));
    let rest = world.claim(OTHER_SESSION, &[b, a], 5).await;
    assert_eq!(
        names(&rest),
        [a; 3],
        "who has less leaves its share to others"
    );
}

#[tokio::test]
async fn no_domain_is_served_again_before_each_was_served() {
    let (world, domains) = filled(10, 3).await;
    let mut served = Vec::new();
    let mut sessions = [SESSION, OTHER_SESSION].into_iter().cycle();
    while let leases = world
        .store
        .claim(sessions.next().unwrap(), &domains, 3)
        .await
        .unwrap()
        && !leases.is_empty()
    {
        for lease in leases {
            served.push(lease.domain.clone());
            let settled = world.store.settle(lease, vec![Outcome::Delivered], None);
            settled.await.unwrap();
        }
    }
    assert_eq!(served.len(), 30);
    for round in served.chunks(10) {
        let round: HashSet<_> = round.iter().collect();
        assert_eq!(round.len(), 10, "{served:?}");
    }
}

#[tokio::test]
async fn deferred_mail_is_served_in_turn_too_and_takes_half_at_most() {
    let (world, domains) = filled(3, 2).await;
    while let leases = world.store.claim(SESSION, &domains, 100).await.unwrap()
        && !leases.is_empty()
    {
        for lease in leases {
            world
                .store
                .settle(lease, vec![later()], None)
                .await
                .unwrap();
        }
    }
    for _ in 0..4 {
        world.accept(&["user@d0000.example"]).await;
    }
    world.let_time_pass();
    let leases = world.store.claim(SESSION, &domains, 6).await.unwrap();
    let states: Vec<_> = leases.iter().map(|lease| lease.state).collect();
    let (due, fresh) = (State::Deferred, State::Queued);
    assert_eq!(states, [due, due, due, fresh, fresh, fresh]);
    let of_due: HashSet<_> = names(&leases[..3]).into_iter().collect();
    assert_eq!(of_due.len(), 3, "one of each domain");
}

#[tokio::test]
async fn where_nothing_was_found_nobody_looks_again_until_something_happens() {
    let (world, domains) = filled(100, 1).await;
    let claim = || world.store.claim(SESSION, &domains, 1_000);
    let mut leases = claim().await.unwrap();
    assert_eq!(leases.len(), 100);
    assert!(claim().await.unwrap().is_empty());
    assert!(
        world.store.lively(&domains).is_empty(),
        "all are with a session"
    );

    let mut of_domain = |name: &str| {
        let index = leases
            .iter()
            .position(|lease| lease.domain.as_str() == name);
        leases.swap_remove(index.unwrap())
    };
    drop(of_domain("d0007.example"));
    let settle = |lease| world.store.settle(lease, vec![later()], None);
    settle(of_domain("d0008.example")).await.unwrap();
    world.accept(&["user@d0009.example"]).await;
    assert_eq!(world.store.lively(&domains).len(), 3);
    assert_eq!(names(&claim().await.unwrap()).len(), 2);
    // What was claimed here is free again.
    assert!(world.store.waiting(&domains[9..]).await.unwrap());
    assert_eq!(claim().await.unwrap().len(), 2);

    let waits = world.store.waiting(&domains[8..9]).await.unwrap();
    let lively = world.store.lively(&domains[8..9]);
    assert!(!waits && lively.is_empty(), "not before its time");
    let due = world.store.next_due(&domains).await.unwrap().unwrap();
    assert!(due > Duration::ZERO && due <= retry::RETRY_DELAY_FIRST);
    world.let_time_pass();
    assert!(world.store.waiting(&domains[8..9]).await.unwrap());
}
