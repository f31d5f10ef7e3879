//! A customer of our own (RFC 2645) that takes a few messages, to time the relay and the line to it alone. It keeps
//! nothing and journals nothing.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use atrn_tests::certs;
use atrn_tests::peer::Peer;
use atrn_tests::world::{ACCOUNT, PULLER_NAME, World};

/// How quickly mail came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    /// From ATRN to its 250.
    pub(crate) answer: Duration,
    /// From ATRN to the end of the first message.
    pub(crate) first: Duration,
    /// For each message after it.
    pub(crate) each: Duration,
}

/// Takes so many messages, answers each, and hangs up.
pub(crate) fn take(world: &World, messages: usize) -> Result<Taken> {
    ensure!(messages > 1, "one message has no time between messages");
    let mut peer = world.relay.odmr_authenticated();
    let asked = Instant::now();
    peer.ask("ATRN", "250");
    let answer = asked.elapsed();
    peer.send("220 customer.example ESMTP");
    let mut first = None;
    let mut taken = 0;
    while taken < messages {
        if command(&mut peer, Offer::Flights)? {
            taken += 1;
            first.get_or_insert_with(|| asked.elapsed());
        }
    }
    let first = first.unwrap_or_default();
    let rest = asked.elapsed().saturating_sub(first);
    // The last answer must be settled, not torn: 421 comes to the next command.
    peer.line();
    peer.send("421 4.3.2 enough");
    let each = rest / u32::try_from(messages - 1)?;
    Ok(Taken {
        answer,
        first,
        each,
    })
}

/// Takes all there is, which must be so many messages, and can do nothing but one step at a time: MAIL, RCPT, DATA and
/// the dot each wait for the reply to the one before. Returns messages a second, from the end of the first on.
pub(crate) fn step(relay: SocketAddr, secret: &str, messages: usize) -> Result<f64> {
    ensure!(messages > 1, "one message has no time between messages");
    let mut peer = Peer::connect_tls(relay, &certs::trusting_client());
    peer.expect("220 ");
    peer.ehlo(PULLER_NAME);
    peer.auth_plain(ACCOUNT, secret);
    peer.ask("ATRN", "250");
    peer.send("220 customer.example ESMTP");
    let mut ends = Vec::new();
    while ends.len() < messages {
        if command(&mut peer, Offer::Steps)? {
            ends.push(Instant::now());
        }
    }
    let took = ends[messages - 1].duration_since(ends[0]);
    peer.expect_command("QUIT");
    peer.send("221 2.0.0 Bye");
    Ok((messages - 1) as f64 / took.as_secs_f64())
}

/// What a customer says that it can do.
#[derive(Clone, Copy, Debug)]
enum Offer {
    /// Several steps before the first reply, and content in chunks.
    Flights,
    Steps,
}

impl Offer {
    fn keywords(self) -> &'static [&'static str] {
        match self {
            Self::Flights => &["PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE", "CHUNKING"],
            Self::Steps => &["8BITMIME", "SMTPUTF8", "SIZE"],
        }
    }
}

/// Answers one command; true when it brought a message.
fn command(peer: &mut Peer, offer: Offer) -> Result<bool> {
    let line = peer.line();
    let verb = line.split(' ').next().unwrap_or_default();
    match verb.to_ascii_uppercase().as_str() {
        "EHLO" => {
            let lines = offer.keywords().iter();
            let lines: String = lines.map(|word| format!("250-{word}\r\n")).collect();
            peer.send(&format!(
                "250-customer.example\r\n{lines}250 ENHANCEDSTATUSCODES"
            ));
        }
        "MAIL" | "RCPT" => peer.send("250 2.1.0 Ok"),
        "DATA" => {
            peer.send("354 Go ahead");
            peer.content();
            peer.send("250 2.0.0 Ok");
            return Ok(true);
        }
        "BDAT" => {
            let mut words = line.split(' ').skip(1);
            let octets: usize = words.next().unwrap_or_default().parse()?;
            let last = words.next().is_some();
            peer.octets(octets);
            peer.send("250 2.0.0 Ok");
            return Ok(last);
        }
        "RSET" | "NOOP" => peer.send("250 2.0.0 Ok"),
        _ => bail!("the relay said {line:?}"),
    }
    Ok(false)
}
