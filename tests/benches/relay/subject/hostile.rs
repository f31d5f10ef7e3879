//! A drain of somebody who means well, alone and beside pullers who do not.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use atrn_tests::certs;
use atrn_tests::message::{self, Message};
use atrn_tests::peer::{Peer, plain};
use atrn_tests::world::{PULLER_NAME, World};

use crate::backlog::Backlog;
use crate::figures::{Measured, Row, Unit, Wanted, in_turns};
use crate::party::{DOMAIN, OTHER_DOMAIN, Plan};

/// The account of those who mean harm.
const EVIL: &str = "evil";
/// Each of their ways, so often at a time.
const EACH: usize = 2;
/// Where they are.
const FROM: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));
/// The name of their threads.
const CROWD: &str = "crowd";
const SHARE_MIN: f64 = 0.8;
/// Between two acts of one: they are many, and the line and the machine are those of the test too.
const PAUSE: Duration = Duration::from_millis(5);

pub(super) fn measure(plan: &Plan) -> Result<Measured> {
    be_quiet_of_the_crowd();
    let sink = plan.sink()?;
    let mut world = plan.relay(&sink.target(), &[DOMAIN, OTHER_DOMAIN]);
    // The crowd has the limits that everybody has.
    world.relay.configure(|settings| {
        settings.set("limits.exempt", vec!["127.0.0.1"]);
    });
    world.relay.add_account(EVIL, &[OTHER_DOMAIN.to_owned()]);
    let mail = Message::new(&format!("user@{OTHER_DOMAIN}"), message::big(1 << 20)).from("");
    world.send(&vec![mail; 32]);
    let backlog = Backlog {
        sink: &sink,
        messages: plan.amount(10_000, 2_000),
        senders: 1,
        connections: 1,
    };
    let (address, secret) = (
        world.relay.odmr_address(),
        world.relay.secret(EVIL).to_owned(),
    );
    let World { relay, puller, .. } = &mut world;
    let puller = std::cell::RefCell::new(puller);
    let pulled = || backlog.pulled(relay.smtp_address(), &mut puller.borrow_mut());
    let mut beside = || {
        let crowd = Crowd::start(address, &secret);
        let rate = pulled();
        drop(crowd);
        rate
    };
    let mut alone = || pulled();
    let [beside, alone] = in_turns(plan.runs, [&mut beside, &mut alone])?;
    let row = Row::new(
        "drain beside hostile pullers, 4 KiB, 1 session",
        Unit::PerSecond,
        beside,
    )
    .beside("alone", alone)
    .wanted(Wanted::RatioAtLeast(SHARE_MIN))
    .note(format!(
        "{} connections of another account and of strangers that never read, drip, talk garbage, hang up, ask for foreign \
         domains, ask again and again, and try secrets",
        EACH * WAYS.len()
    ));
    Ok(vec![row].into())
}

/// What fails there fails as it should.
fn be_quiet_of_the_crowd() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name() != Some(CROWD) {
            usual(panic);
        }
    }));
}

type Way = fn(&Party) -> Option<()>;

const WAYS: [Way; 6] = [
    never_read,
    garbage,
    hang_up,
    foreign_domains,
    many_atrns,
    try_secrets,
];

/// They go on until this is dropped.
struct Crowd {
    party: Arc<Party>,
    threads: Vec<JoinHandle<()>>,
}

struct Party {
    address: SocketAddr,
    secret: String,
    over: AtomicBool,
}

impl Crowd {
    fn start(address: SocketAddr, secret: &str) -> Self {
        let party = Arc::new(Party {
            address,
            secret: secret.to_owned(),
            over: AtomicBool::new(false),
        });
        let ways = WAYS.iter().cycle().take(EACH * WAYS.len());
        let threads = ways
            .map(|way| {
                let (way, party) = (*way, Arc::clone(&party));
                let act = move || {
                    while !party.is_over() {
                        // The relay may end it at any point, and the next round begins anew.
                        let _ = std::panic::catch_unwind(|| way(&party));
                        std::thread::sleep(PAUSE);
                    }
                };
                let thread = std::thread::Builder::new().name(CROWD.to_owned());
                thread.spawn(act).expect("a thread")
            })
            .collect();
        Self { party, threads }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.party.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

impl Party {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn connect(&self) -> Peer {
        let mut peer = Peer::connect_from(FROM, self.address);
        peer.start_tls_client(&certs::trusting_client());
        peer.expect("220 ");
        peer.ehlo(PULLER_NAME);
        peer
    }

    fn log_in(&self) -> Peer {
        let mut peer = self.connect();
        peer.auth_plain(EVIL, &self.secret);
        peer
    }

    /// Past the turn; none when another session holds all of the mail.
    fn turn(&self) -> Option<Peer> {
        let mut peer = self.log_in();
        let turned = peer.ask("ATRN", "").starts_with("250 ");
        turned.then_some(peer)
    }
}

fn never_read(party: &Party) -> Option<()> {
    let mut peer = party.turn()?;
    peer.send("220 puller.example");
    peer.expect_command("EHLO ");
    peer.send("250-puller.example\r\n250-PIPELINING\r\n250 CHUNKING");
    while !party.is_over() {
        std::thread::sleep(PAUSE);
    }
    Some(())
}

fn garbage(party: &Party) -> Option<()> {
    let mut peer = party.turn()?;
    peer.try_send_octets(&b"999 \0\xff what\r\n".repeat(1_000))
        .ok()
}

fn hang_up(party: &Party) -> Option<()> {
    let mut peer = party.turn()?;
    peer.send("220 puller.example");
    peer.expect_command("EHLO ");
    Some(())
}

fn foreign_domains(party: &Party) -> Option<()> {
    let mut peer = party.log_in();
    while !party.is_over() && peer.ask(&format!("ATRN {DOMAIN}"), "4").starts_with("450 ") {}
    Some(())
}

fn many_atrns(party: &Party) -> Option<()> {
    let mut peer = party.log_in();
    // Another session may just have given mail back.
    while !party.is_over() && peer.ask("ATRN", "").starts_with("453 ") {}
    Some(())
}

fn try_secrets(party: &Party) -> Option<()> {
    let mut peer = party.connect();
    for name in ["corp", "nobody"] {
        peer.ask(&format!("AUTH PLAIN {}", plain(name, "wrong")), "");
    }
    Some(())
}
