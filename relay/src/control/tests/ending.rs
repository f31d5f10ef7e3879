//! `queue bounce` and `queue expire`, as the relay does them.

use super::*;
use crate::queue::{Item, Lease};

/// For example.com one queued, one deferred, one held and one failed; with a session is a fifth.
async fn queue(world: &World) -> ([QueueId; 5], Vec<Lease>) {
    use crate::queue::Outcome;
    use atrn_shared::smtp::reply::Reply as SmtpReply;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(
            world
                .accept(&["u@example.com"], b"Subject: x\r\n\r\n")
                .await,
        );
    }
    let ids: [QueueId; 5] = ids.try_into().unwrap();
    let domains = [domain("example.com")];
    let leases = world.store.claim(SessionId(1), &domains, 5).await.unwrap();
    let later = Outcome::Deferred(SmtpReply::new(451, "4.3.0", "busy"));
    let never = Outcome::Failed(SmtpReply::new(550, "5.1.1", "no"));
    let mut kept = Vec::new();
    for lease in leases {
        let id = lease.id.queue_id();
        let outcome = match () {
            () if id == ids[1] => later.clone(),
            () if id == ids[3] => never.clone(),
            () if id == ids[4] => {
                kept.push(lease);
                continue;
            }
            () => continue,
        };
        world
            .store
            .settle(lease, vec![outcome], None)
            .await
            .unwrap();
    }
    let held = Selection::Ids(vec![Reference::Message(ids[2])]);
    world
        .store
        .change(Action::Hold, held, |_, _| {})
        .await
        .unwrap();
    (ids, kept)
}

async fn ended(context: &Context, ending: Ending, selection: &Selection, dry_run: bool) -> Changed {
    let request = Request::End {
        ending,
        reason: None,
        selection: selection.clone(),
        dry_run,
    };
    match reply(context, request).await {
        Reply::Changed(changed) => changed,
        other => panic!("no change: {other:?}"),
    }
}

async fn items(world: &World) -> Vec<Item> {
    world
        .store
        .list(Filter::default(), None, 1_000)
        .await
        .unwrap()
}

fn states(items: &[Item], ids: &[QueueId]) -> Vec<State> {
    let find = |id: &QueueId| items.iter().find(|item| item.id == *id).unwrap().state;
    ids.iter().map(find).collect()
}

// covers: R2645-24
#[tokio::test]
async fn what_waits_is_ended_with_a_report_and_the_rest_left_alone() {
    for (ending, state, replies) in [
        (
            Ending::Bounce,
            State::Failed,
            ["554 5.0.0 Returned by the administrator"; 3],
        ),
        (
            Ending::Expire,
            State::Expired,
            [
                "554 5.4.7 Given up by the administrator",
                "554 5.4.7 Given up by the administrator; last reply: 451 4.3.0 busy",
                "554 5.4.7 Given up by the administrator",
            ],
        ),
    ] {
        let world = World::new();
        let (ids, leased) = queue(&world).await;
        let (daemon, activity, _) = world.daemon();
        let all = Selection::Filter(Filter::default());
        let before = items(&world).await;
        let foretold = ended(&daemon, ending, &all, true).await;
        assert_eq!(states(&items(&world).await, &ids), states(&before, &ids));
        let done = ended(&daemon, ending, &all, false).await;
        assert_eq!(done, foretold);
        assert_eq!((done.changed, done.leased, done.unsuitable), (3, 1, 1));
        let after = items(&world).await;
        let expected = [state, state, state, State::Failed, State::Leased];
        assert_eq!(states(&after, &ids), expected);
        for (id, reply) in ids.iter().zip(replies) {
            let item = after.iter().find(|item| item.id == *id).unwrap();
            assert_eq!(item.last_reply.as_deref(), Some(reply));
            // Only what the puller judged is an attempt.
            assert_eq!(item.attempts, u32::from(*id == ids[1]));
        }
        // The reports stay as they are, though the filter fits them as well.
        let reports = after.iter().filter(|item| item.sender.is_empty());
        let reports: Vec<_> = reports
            .map(|item| (item.state, &item.recipients[..]))
            .collect();
        let report = (State::Queued, &["postmaster@example.com".to_owned()][..]);
        assert_eq!(reports, [report; 3]);
        assert_eq!(activity.snapshot().reports, 3);
        drop(leased);
        // Of the domain nothing is left that waits but what was leased, and the reports.
        assert_eq!(ended(&daemon, ending, &all, true).await.changed, 4);
    }
}

#[tokio::test]
async fn ids_are_ended_without_a_daemon_too_and_unknown_ones_said() {
    let world = World::new();
    let (ids, _leased) = queue(&world).await;
    let unknown: Reference = "00000000001".parse().unwrap();
    let selection = Selection::Ids(vec![Reference::Message(ids[0]), unknown]);
    for dry_run in [true, false] {
        let done = ended(&world.context(), Ending::Bounce, &selection, dry_run).await;
        assert_eq!((done.changed, done.unknown), (1, vec![unknown]));
    }
    assert_eq!(states(&items(&world).await, &ids[..1]), [State::Failed]);
    let without = Context {
        store: None,
        ..world.context()
    };
    let done = ended(&without, Ending::Expire, &selection, false).await;
    assert_eq!((done.changed, done.unknown.len()), (0, 2));
}

#[tokio::test]
async fn more_than_a_step_is_ended_and_a_reason_is_passed_on() {
    let world = World::new();
    for _ in 0..130 {
        world.accept(&["u@example.com"], b"x").await;
    }
    let request = |reason: String| Request::End {
        ending: Ending::Bounce,
        reason: Some(reason),
        selection: Selection::Filter(Filter::default()),
        dry_run: false,
    };
    let refused = refused(&world.context(), request("x".repeat(401))).await;
    assert_eq!(refused.kind, ErrorKind::Invalid);
    let done = reply(&world.context(), request("moved".to_owned())).await;
    assert!(matches!(done, Reply::Changed(done) if done.changed == 130));
    let items = items(&world).await;
    let failed = items.iter().filter(|item| item.state == State::Failed);
    let replies: Vec<_> = failed.map(|item| item.last_reply.as_deref()).collect();
    assert_eq!(replies, vec![Some("554 5.0.0 moved"); 130]);
}
