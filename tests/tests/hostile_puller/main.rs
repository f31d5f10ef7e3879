//! A puller account in the hands of somebody who means harm, and people without any account. Whatever they do: the other
//! accounts pull, the edge takes mail, leases come free, and no message is lost or goes out twice.

mod crowds;
mod reversed;
mod strangers;

use atrn_tests::message::{self, Message, assert_same_content};
use atrn_tests::peer::{Peer, plain};
use atrn_tests::process::wait_until;
use atrn_tests::taker::{Offered, STREAMING, Taker};
use atrn_tests::world::{ACCOUNT, PULLER_NAME, Setup, World};

/// The account that means harm, and its domain.
const EVIL: &str = "evil";
const EVIL_DOMAIN: &str = "evil.example";
/// The domain of everybody else.
const GOOD_DOMAIN: &str = "example.org";

/// Two accounts, a domain each.
fn two_accounts() -> Setup {
    World::setup()
        .domain(GOOD_DOMAIN)
        .domain(EVIL_DOMAIN)
        .account(ACCOUNT, &[GOOD_DOMAIN])
        .account(EVIL, &[EVIL_DOMAIN])
}

/// Past EHLO and AUTH as somebody.
fn logged_in(world: &World, account: &str) -> Peer {
    let mut peer = world.relay.odmr();
    peer.ehlo(PULLER_NAME);
    let login = plain(account, world.relay.secret(account));
    peer.ask(&format!("AUTH PLAIN {login}"), "235 ");
    peer
}

/// Past the turn.
fn turned(world: &World, account: &str) -> Peer {
    let mut peer = logged_in(world, account);
    peer.ask("ATRN", "250 ");
    peer
}

/// So many messages for the evil domain; their contents.
fn send_evil(world: &World, count: usize) -> Vec<Vec<u8>> {
    let contents: Vec<_> = (0..count).map(message::plain).collect();
    let recipient = format!("user@{EVIL_DOMAIN}");
    let messages: Vec<_> = contents
        .iter()
        .map(|content| Message::new(&recipient, content.clone()).from(""))
        .collect();
    world.send(&messages);
    contents
}

/// Mail comes in at the edge and goes out to the account that it is for, there and then.
#[track_caller]
fn assert_others_go_on(world: &World) {
    let content = message::plain(4_711);
    let recipient = format!("user@{GOOD_DOMAIN}");
    world.send(&[Message::new(&recipient, content.clone()).from("")]);
    let taken = Taker::turned(turned(world, ACCOUNT), &STREAMING).take_the_rest();
    assert_eq!(taken.len(), 1, "once, and nothing else");
    assert_same_content("to the good one", &content, &taken[0].content);
    assert_eq!(deliveries(world, GOOD_DOMAIN), 0);
}

fn deliveries(world: &World, domain: &str) -> usize {
    world.relay.queue_list(&["--domain", domain]).len()
}

#[track_caller]
fn assert_leases_are_free(world: &World) {
    wait_until("no lease is held", || world.relay.status()["leased"] == 0);
}

/// All of it is still there, and comes once, in its order.
#[track_caller]
fn assert_nothing_is_lost(world: &World, contents: &[Vec<u8>]) {
    assert_leases_are_free(world);
    world.relay.retry_all();
    if contents.is_empty() {
        assert_eq!(deliveries(world, EVIL_DOMAIN), 0);
        return;
    }
    let taken = Taker::turned(turned(world, EVIL), &STREAMING).take_the_rest();
    assert_are(contents, &taken);
    wait_until("all is settled", || deliveries(world, EVIL_DOMAIN) == 0);
}

#[track_caller]
fn assert_are(contents: &[Vec<u8>], taken: &[Offered]) {
    assert_eq!(contents.len(), taken.len());
    for (content, offered) in contents.iter().zip(taken) {
        assert_same_content("offered", content, &offered.content);
    }
}

/// Reads until the relay closes, whatever it says; how many lines that were.
fn drained(mut peer: Peer) -> usize {
    let mut lines = 0;
    while peer.try_line().is_some() {
        lines += 1;
    }
    lines
}
