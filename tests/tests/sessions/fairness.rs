//! What the relay gives whom, seen by pullers in the hands of the test.

use std::collections::BTreeMap;

use atrn_tests::message::{self, Message};
use atrn_tests::sender;
use atrn_tests::taker::{Offered, STREAMING, Taker};
use atrn_tests::world::{ACCOUNT, World};

const DEEP: &str = "deep.example";
const SHALLOW: [&str; 2] = ["one.example", "two.example"];

fn messages(domain: &str, numbers: std::ops::Range<usize>) -> Vec<Message> {
    let to = format!("user@{domain}");
    numbers
        .map(|number| Message::new(&to, message::plain(number)))
        .collect()
}

fn domain(offered: &Offered) -> String {
    let address = offered.recipient.trim_matches(['<', '>']);
    address.split_once('@').expect("an address").1.to_owned()
}

fn number(offered: &Offered) -> usize {
    let content = String::from_utf8_lossy(&offered.content).into_owned();
    let (_, rest) = content.split_once("Text of message ").expect("our text");
    rest.trim_end()
        .trim_end_matches('.')
        .parse()
        .expect("a number")
}

/// Domains keep their order each.
#[track_caller]
fn assert_in_order(offered: &[Offered]) {
    let mut last = BTreeMap::new();
    for message in offered {
        let number = number(message);
        let before = last.insert(domain(message), number);
        assert!(before < Some(number), "{number} behind {before:?}");
    }
}

/// A few messages of two domains stand behind a thousand of another.
// covers: R2645-23
#[test]
fn a_deep_domain_does_not_make_others_wait() {
    let mut setup = World::setup().domain(DEEP);
    for name in SHALLOW {
        setup = setup.domain(name);
    }
    let world = setup.start();
    world.send(&messages(DEEP, 0..900));
    for name in SHALLOW {
        world.send(&messages(name, 0..5));
    }
    let offered = Taker::open(&world.relay, &STREAMING).take_the_rest();
    assert_eq!(offered.len(), 910);
    assert_in_order(&offered);
    for name in SHALLOW {
        let first = offered.iter().position(|message| domain(message) == name);
        assert!(first < Some(150), "{name} came as number {first:?}");
    }
    world.relay.wait_for_queue(&[]);
}

/// Every session gets some, the second no less than the first, and none twice.
// covers: R2645-12
#[test]
fn sessions_side_by_side_share_what_there_is() {
    let mut setup = World::setup().domain(DEEP);
    for name in SHALLOW {
        setup = setup.domain(name);
    }
    let world = setup.start();
    let names = [DEEP, SHALLOW[0], SHALLOW[1]];
    let lists = names.map(|name| messages(name, 0..400));
    sender::send_side_by_side(world.relay.smtp_address(), lists.into());
    // None of them answers: what the first holds is no more than its window.
    let mut takers: Vec<Taker> = (0..2)
        .map(|_| Taker::open(&world.relay, &STREAMING))
        .collect();
    let mut seen = BTreeMap::new();
    let mut held = Vec::new();
    for taker in &mut takers {
        let offered = taker.until_silence();
        assert!(!offered.is_empty());
        assert_in_order(&offered);
        for message in &offered {
            *seen.entry(message.name().to_owned()).or_insert(0) += 1;
        }
        held.push(offered);
    }
    for (taker, offered) in takers.iter_mut().zip(&held) {
        for message in offered {
            taker.take(message);
        }
    }
    let ends: Vec<_> = takers
        .into_iter()
        .map(|taker| std::thread::spawn(|| taker.take_the_rest()))
        .collect();
    for end in ends {
        for message in end.join().expect("a puller") {
            *seen.entry(message.name().to_owned()).or_insert(0) += 1;
        }
    }
    assert_eq!(seen.len(), 1200);
    assert!(seen.values().all(|times| *times == 1));
    world.relay.wait_for_queue(&[]);
}

/// Another customer's backlog is nothing to ours.
// covers: R2645-9
#[test]
fn an_account_does_not_wait_for_another() {
    let world = World::setup()
        .domain(SHALLOW[0])
        .domain(DEEP)
        .account(ACCOUNT, &[SHALLOW[0]])
        .account("other", &[DEEP])
        .start();
    world.send(&messages(DEEP, 0..600));
    world.send(&messages(SHALLOW[0], 0..3));
    // The other one holds what it got, and answers nothing.
    let mut peer = world.relay.odmr();
    peer.ehlo("puller.other.example");
    peer.auth_plain("other", world.relay.secret("other"));
    peer.ask("ATRN", "250 ");
    let mut other = Taker::turned(peer, &STREAMING);
    assert!(!other.until_silence().is_empty());
    let offered = Taker::open(&world.relay, &STREAMING).take_the_rest();
    assert_eq!(offered.iter().map(number).collect::<Vec<_>>(), [0, 1, 2]);
}
