//! What names cost: durable accepts with a name server that answers in 20 ms, beside a relay that asks nobody.
//!
//! Every session is a client that nobody knows, with a name and an address of its own: the relay hears of them by PROXY
//! headers, as `smtp-source` has one address only. Where a session carries many messages its names are asked for once, beside the
//! dialogue. Where it carries one, each message waits for look-ups that follow each other, and a sender that waits for the answer
//! before it begins the next has that much less: the second row shows the delay, not the work.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use atrn_tests::dns::Dns;
use atrn_tests::world::World;

use crate::figures::{Measured, Row, Unit, Wanted, in_turns};
use crate::party::{DOMAIN, Plan};

const SESSIONS: usize = 50;
const OCTETS: usize = 4 << 10;
/// How long the name server takes.
const DELAY: Duration = Duration::from_millis(20);
/// No more than 15 % slower.
const RATIO_MIN: f64 = 0.85;
/// The network for benchmarks (RFC 2544): no address of it is used twice.
const NETWORK: u32 = u32::from_be_bytes([198, 18, 0, 0]);
static NEXT: AtomicU32 = AtomicU32::new(1);

pub(super) fn measure(plan: &Plan) -> Result<Measured> {
    let dns = Dns::start();
    dns.delay(DELAY);
    let (asking, silent) = (relay(plan, Some(&dns)), relay(plan, None));
    let kept = plan.amount(400, 100);
    let rows = [
        ("", kept, Some(Wanted::RatioAtLeast(RATIO_MIN))),
        (", a stranger each", 1, None),
    ]
    .map(|(name, messages, wanted)| {
        let rounds = if messages == 1 {
            plan.amount(40, 10)
        } else {
            1
        };
        let rate = |world: &World| send(&dns, world.relay.smtp_address(), messages, rounds);
        let mut with = || rate(&asking);
        let mut without = || rate(&silent);
        let parties: [&mut dyn FnMut() -> Result<f64>; 2] = [&mut with, &mut without];
        let [with, without] = in_turns(plan.runs, parties)?;
        let name = format!("durable accepts, 4 KiB, {SESSIONS} sessions, names in 20 ms{name}");
        let row = Row::new(name, Unit::PerSecond, with).beside("names off", without);
        Ok(match wanted {
            Some(wanted) => row.wanted(wanted),
            None => row,
        })
    });
    Ok(Measured {
        rows: rows.into_iter().collect::<Result<_>>()?,
        charts: Vec::new(),
    })
}

fn relay(plan: &Plan, dns: Option<&Dns>) -> World {
    let setup = World::setup()
        .under(&plan.folder)
        .domain(DOMAIN)
        .relay("smtp.proxy_protocol", vec!["127.0.0.1"])
        .relay("limits.exempt", vec!["127.0.0.0/8", "198.18.0.0/15"]);
    match dns {
        Some(dns) => setup.dns(dns).start(),
        None => setup.start(),
    }
}

/// A client that nobody has seen.
#[derive(Debug)]
struct Stranger {
    address: Ipv4Addr,
    name: String,
}

impl Stranger {
    fn new(dns: &Dns) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let address = Ipv4Addr::from(NETWORK + number % (1 << 17));
        let name = format!("host{number}.clients.example");
        dns.ptr(&address.to_string(), &name);
        dns.a(&name, &address.to_string());
        Self { address, name }
    }

    /// One session, lock-step as `smtp-source` does it.
    fn send(&self, relay: SocketAddr, messages: usize, content: &str) -> Result<()> {
        let mut stream = TcpStream::connect(relay)?;
        stream.set_nodelay(true)?;
        let mut replies = BufReader::new(stream.try_clone()?);
        let mut say = |text: &str, expected: &str| -> Result<()> {
            stream.write_all(text.as_bytes())?;
            expect(&mut replies, expected)
        };
        say(
            &format!("PROXY TCP4 {} 127.0.0.1 40000 25\r\n", self.address),
            "220",
        )?;
        say(&format!("EHLO {}\r\n", self.name), "250")?;
        for _ in 0..messages {
            say("MAIL FROM:<sender@source.example>\r\n", "250")?;
            say(&format!("RCPT TO:<user@{DOMAIN}>\r\n"), "250")?;
            say("DATA\r\n", "354")?;
            say(content, "250")?;
        }
        say("QUIT\r\n", "221")
    }
}

/// Reads a reply of one line or several.
fn expect(replies: &mut BufReader<TcpStream>, expected: &str) -> Result<()> {
    loop {
        let mut line = String::new();
        replies.read_line(&mut line)?;
        ensure!(
            line.starts_with(expected),
            "{line:?} where {expected} was expected"
        );
        if line.as_bytes().get(3) != Some(&b'-') {
            return Ok(());
        }
    }
}

/// So many sessions side by side, one after the other, each with so many messages; messages a second.
fn send(dns: &Dns, relay: SocketAddr, messages: usize, rounds: usize) -> Result<f64> {
    let line = format!("{}\r\n", "x".repeat(70));
    let body = line.repeat(OCTETS / line.len());
    let content = format!("Subject: names\r\nFrom: <sender@source.example>\r\n\r\n{body}.\r\n");
    let strangers: Vec<Vec<Stranger>> = (0..SESSIONS)
        .map(|_| (0..rounds).map(|_| Stranger::new(dns)).collect())
        .collect();
    let content = content.as_str();
    let began = Instant::now();
    thread::scope(|scope| {
        let side_by_side = strangers.iter().map(|strangers| {
            scope.spawn(move || {
                let mut sessions = strangers.iter();
                sessions.try_for_each(|stranger| stranger.send(relay, messages, content))
            })
        });
        let running: Vec<_> = side_by_side.collect();
        running
            .into_iter()
            .try_for_each(|sender| sender.join().ok().context("a sender panicked")?)
    })?;
    Ok((SESSIONS * rounds * messages) as f64 / began.elapsed().as_secs_f64())
}
