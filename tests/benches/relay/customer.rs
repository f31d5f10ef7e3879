//! A customer of our own (RFC 2645) that takes a few messages and hangs up, to time the relay alone. It keeps
//! nothing and journals nothing.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use atrn_tests::peer::Peer;
use atrn_tests::world::World;

/// How quickly mail came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
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
    peer.send("220 customer.example ESMTP");
    let mut first = None;
    let mut taken = 0;
    while taken < messages {
        if command(&mut peer)? {
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
    Ok(Taken { first, each })
}

/// Answers one command; true when it brought a message.
fn command(peer: &mut Peer) -> Result<bool> {
    let line = peer.line();
    let verb = line.split(' ').next().unwrap_or_default();
    match verb.to_ascii_uppercase().as_str() {
        "EHLO" => {
            let keywords = ["PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE", "CHUNKING"];
            let lines = keywords.map(|word| format!("250-{word}\r\n"));
            peer.send(&format!(
                "250-customer.example\r\n{}250 ENHANCEDSTATUSCODES",
                lines.concat()
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
