//! A backlog on its way to the sink: pulled through relay and puller, or pushed by Postfix. Filling the queue is not
//! timed; the rate is that of the sink, from the first message to the last.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use atrn_tests::process::Output;
use atrn_tests::software::Postfix;
use atrn_tests::world::Puller;

use crate::party::{Arrivals, Connections, DOMAIN, Load, Sink};

/// How its queue is filled.
pub(crate) const LOAD: Load<'static> = Load {
    sessions: 10,
    octets: 4 << 10,
    domain: DOMAIN,
    connections: Connections::Kept,
};
/// Postfix may begin anew once, when its cache does not have the connection yet.
const SPARE_CONNECTIONS: usize = 1;

/// So many messages, and where they go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backlog<'s> {
    pub(crate) sink: &'s Sink,
    pub(crate) messages: usize,
    /// A sender's mail goes in in order, so over one connection at a time.
    pub(crate) senders: usize,
    /// Connections of the sink at most: more would be another comparison.
    pub(crate) connections: usize,
}

impl Backlog<'_> {
    /// Our way: the relay holds, the puller asks, the mail comes back on that connection.
    pub(crate) fn pulled(&self, relay: SocketAddr, puller: &mut Puller) -> Result<f64> {
        self.fill(relay)?;
        let before = self.sink.counts()?;
        puller.begin_pull();
        let arrivals = self.sink.watch(before, self.messages)?;
        let code = puller.pulled();
        ensure!(code == 0, "the puller ended with {code}:\n{}", puller.log());
        self.rate(&arrivals)
    }

    /// Postfix's way: what it held is released, and goes to its next hop.
    pub(crate) fn pushed(&self, postfix: &Postfix) -> Result<f64> {
        self.fill(postfix.address())?;
        let before = self.sink.counts()?;
        expect(postfix.command("postsuper").args(["-H", "ALL"]))?;
        expect(postfix.command("postqueue").arg("-f"))?;
        let arrivals = self.sink.watch(before, self.messages)?;
        self.rate(&arrivals)
    }

    fn fill(&self, address: SocketAddr) -> Result<()> {
        let share = self.messages / self.senders;
        let load = Load {
            sessions: (LOAD.sessions / self.senders).max(1),
            ..LOAD
        };
        std::thread::scope(|scope| {
            let senders = (0..self.senders).map(|number| {
                let path = format!("sender{number}@source.example");
                scope.spawn(move || load.send_from(&path, address, share))
            });
            let senders: Vec<_> = senders.collect();
            senders.into_iter().try_for_each(|sender| {
                let sent = sender.join().map_err(|_| anyhow!("a sender panicked"))?;
                sent.map(drop)
            })
        })
    }

    fn rate(&self, arrivals: &Arrivals) -> Result<f64> {
        ensure!(
            arrivals.connections <= self.connections + SPARE_CONNECTIONS,
            "{} connections in place of {}",
            arrivals.connections,
            self.connections
        );
        arrivals.rate().context("too few messages to time")
    }
}

fn expect(command: &mut Command) -> Result<()> {
    let output = Output::within(command, Duration::from_secs(300));
    ensure!(output.code == 0, "{command:?}: {}", output.stderr.trim());
    Ok(())
}
