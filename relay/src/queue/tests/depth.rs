//! The millionth message costs what the first did: counted in steps of SQLite's machine, not in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use atrn_shared::steady::Moment;

use super::*;
use crate::queue::sqlite::candidates::{self, Line};
use crate::queue::sqlite::reader::{self, Oldest};
use crate::queue::sqlite::{list, migrate, survey};

/// Fills both domains and all states behind the store's back, where it is fast.
fn filled(messages: u32) -> World {
    let world = World::new();
    let fill = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {messages})
         INSERT INTO message SELECT i, i, '', 'a@example.net', '', 0, 1, 2, NULL, i FROM n;
         INSERT INTO body SELECT key, x'78' FROM message;
         INSERT INTO domain VALUES (1, 'a.example'), (2, 'b.example');
         INSERT INTO delivery SELECT key, 1, 1 + key / 5 % 2, key % 5, key, 0, 0, NULL,
             '[{{\"to\":\"x@a.example\"}}]', 0 FROM message;
         INSERT INTO total SELECT domain, state, count(*), count(*) FROM delivery GROUP BY 1, 2;"
    );
    world.database().execute_batch(&fill).unwrap();
    world.restart()
}

type Query<'a> = &'a dyn Fn(&Shared, &Connection);

/// Steps that `query` takes.
fn steps(world: &World, query: impl FnOnce(&Shared, &Connection)) -> u64 {
    let connection = world.database();
    let count = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&count);
    let count_one = move || {
        counter.fetch_add(1, Ordering::Relaxed);
        false
    };
    connection.progress_handler(1, Some(count_one)).unwrap();
    query(&world.store.shared, &connection);
    count.load(Ordering::Relaxed)
}

fn page(filter: Filter) -> impl Fn(&Shared, &Connection) {
    move |shared, connection| {
        let rows = list::page(shared, connection, &filter, None, 20).unwrap();
        assert_eq!(rows.len(), 20);
    }
}

// covers: R2645-14
#[test]
fn claims_pages_totals_and_the_check_at_start_cost_the_same_at_any_depth() {
    let worlds = [filled(1_000), filled(20_000)];
    let domain = Filter {
        domain: Some(domain("a.example")),
        ..Filter::default()
    };
    let state = Filter {
        state: Some(State::Held),
        ..Filter::default()
    };
    let claim = |shared: &Shared, connection: &Connection| {
        let mut claim = shared.leases.claim();
        let lines = [(1, true), (2, false)].map(|(domain, has_deferred)| Line {
            domain,
            has_fresh: true,
            has_deferred,
        });
        let now = shared.clock.now();
        let found = candidates::find(connection, &mut claim, lines.to_vec(), 20, now).unwrap();
        assert_eq!(found.len(), 20);
    };
    let totals = |shared: &Shared, connection: &Connection| {
        assert_eq!(survey::totals(shared, connection).unwrap().len(), 2);
    };
    let start = |_: &Shared, connection: &Connection| migrate::reach_ends(connection).unwrap();
    let oldest = |_: &Shared, connection: &Connection| {
        let oldest = Oldest {
            domain: 1,
            state: State::Queued,
            until: Moment::from_millis(-1),
            after: None,
        };
        reader::oldest(connection, oldest, |_, _| panic!("nothing is so old")).unwrap();
    };
    let queries: [(&str, Query<'_>); 7] = [
        ("claim", &claim),
        ("first page", &page(Filter::default())),
        ("first page of a domain", &page(domain)),
        ("first page of a state", &page(state)),
        ("overdue", &oldest),
        ("totals", &totals),
        ("check at start", &start),
    ];
    for (name, query) in queries {
        let [few, many] = worlds.each_ref().map(|world| steps(world, query));
        assert!(
            few > 10 && many <= few + 10,
            "{name}: {few} steps, then {many}"
        );
    }
}

/// So many messages in so many domains in turn.
fn spread(messages: u32, domains: u32) -> World {
    let world = World::new();
    let fill = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {messages})
         INSERT INTO message SELECT i, i, '', 'a@example.net', '', 0, 1, 2, NULL, i FROM n;
         INSERT INTO domain SELECT key, 'd' || key || '.example' FROM message WHERE key <= {domains};
         INSERT INTO delivery SELECT key, 1, 1 + key % {domains}, 0, 0, 0, 0, NULL, '[]', 0 FROM message;
         INSERT INTO total SELECT domain, 0, count(*), count(*) FROM delivery GROUP BY 1;"
    );
    world.database().execute_batch(&fill).unwrap();
    world.restart()
}

/// The first page of a state is put together from all domains: from the next one of each, not from a page of each.
#[test]
fn the_first_page_of_a_state_costs_the_same_with_many_messages_in_many_domains() {
    let queued = || Filter {
        state: Some(State::Queued),
        ..Filter::default()
    };
    let worlds = [spread(500, 500), spread(20_000, 500)];
    let [few, many] = worlds.each_ref().map(|world| steps(world, page(queued())));
    // Behind each delivery of the page the next one of its domain is looked for, if there is one.
    assert!(many * 10 <= few * 12, "{few} steps, then {many}");
}

/// An account may have a thousand domains: a claim looks at as many as it needs.
#[test]
fn a_claim_costs_the_same_over_any_number_of_domains() {
    let world = spread(20_000, 1_000);
    let find = |domains: i64| {
        steps(&world, |shared, connection| {
            let line = |domain| Line {
                domain,
                has_fresh: true,
                has_deferred: false,
            };
            let mut claim = shared.leases.claim();
            let lines = (1..=domains).map(line).collect();
            let now = shared.clock.now();
            let found = candidates::find(connection, &mut claim, lines, 20, now).unwrap();
            assert_eq!(found.len(), 20);
        })
    };
    let (few, many) = (find(20), find(1_000));
    assert!(few > 10 && many <= few + 10, "{few} steps, then {many}");
}
