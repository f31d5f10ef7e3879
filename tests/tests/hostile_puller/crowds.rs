//! Many connections of one account: it has its own places, and takes nobody else's.

use atrn_tests::peer::{Peer, plain};
use atrn_tests::process::wait_until;
use atrn_tests::taker::{STREAMING, Taker};
use atrn_tests::world::PULLER_NAME;

use super::{
    EVIL, EVIL_DOMAIN, assert_leases_are_free, assert_nothing_is_lost, assert_others_go_on,
    deliveries, logged_in, send_evil, two_accounts,
};

/// All that the account may have wait for mail; the next one is told, and nobody else feels it. One message wakes one.
#[test]
fn a_crowd_that_waits_takes_no_place_of_others() {
    const PLACES: usize = 30;
    let world = two_accounts()
        .relay("odmr.max_connections", PLACES as i64 + 3)
        .relay("odmr.max_connections_per_account", PLACES as i64)
        .start();
    let mut crowd: Vec<Peer> = (0..PLACES)
        .map(|_| {
            let mut peer = logged_in(&world, EVIL);
            peer.send("ATRN XWAIT=120");
            peer
        })
        .collect();
    wait_until("all of them wait", || {
        world.relay.account_status(EVIL)["waiting"] == PLACES as u64
    });
    let mut one_more = world.relay.odmr();
    one_more.ehlo(PULLER_NAME);
    let login = plain(EVIL, world.relay.secret(EVIL));
    one_more.ask(
        &format!("AUTH PLAIN {login}"),
        "421 4.7.0 Too many connections",
    );
    one_more.expect_close();
    assert_others_go_on(&world);

    let contents = send_evil(&world, 1);
    let mut turned = None;
    wait_until("one of them is woken", || {
        let silence = std::time::Duration::from_millis(5);
        turned = crowd.iter_mut().position(|peer| !peer.is_silent(silence));
        turned.is_some()
    });
    let mut chosen = crowd.swap_remove(turned.expect("one of them"));
    chosen.expect("250 ");
    let mut taker = Taker::turned(chosen, &STREAMING);
    let offered = taker.message();
    // It goes with it, and the others are told: one of them gets it instead.
    drop(taker);
    assert_leases_are_free(&world);
    drop(crowd);
    assert_eq!(deliveries(&world, EVIL_DOMAIN), 1);
    assert!(
        offered
            .content
            .ends_with(&contents[0][contents[0].len() - 10..])
    );
    assert_nothing_is_lost(&world, &contents);
}

/// Ten thousand in all, over more connections than it may have, with others pulling in between.
#[test]
fn atrns_over_many_connections_are_bounded_and_held_up_by_nobody() {
    let world = two_accounts()
        .relay("odmr.max_connections_per_account", 8)
        .start();
    let world = &world;
    std::thread::scope(|scope| {
        let flood = || {
            let mut asked = 0;
            while asked < 1_250 {
                let mut peer = logged_in(world, EVIL);
                loop {
                    peer.send("ATRN");
                    asked += 1;
                    if peer.expect("").starts_with("421 ") {
                        break;
                    }
                }
            }
        };
        for _ in 0..8 {
            scope.spawn(flood);
        }
        for _ in 0..3 {
            assert_others_go_on(world);
        }
    });
    let contents = send_evil(world, 2);
    assert_nothing_is_lost(world, &contents);
}

/// Each session of a crowd holds some of the account's mail and says nothing; when they go it is all there.
// covers: R2645-20
#[test]
fn sessions_side_by_side_that_take_nothing_give_everything_back() {
    let world = two_accounts().start();
    let contents = send_evil(&world, 100);
    let crowd: Vec<_> = (0..10)
        .map_while(|_| {
            let mut peer = logged_in(&world, EVIL);
            peer.send("ATRN");
            let granted = peer.expect("").starts_with("250 ");
            granted.then(|| Taker::turned(peer, &STREAMING))
        })
        .collect();
    assert!(
        crowd.len() > 1,
        "one session keeps all of it from the others"
    );
    assert_others_go_on(&world);
    drop(crowd);
    assert_nothing_is_lost(&world, &contents);
    logged_in(&world, EVIL).ask("ATRN", "453 ");
}
