//! A backlog on its way in: one reversed session through the puller, beside Postfix on one connection.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use atrn_tests::process::Output;
use atrn_tests::software::Postfix;
use atrn_tests::world::World;

use crate::figures::{Row, Samples, Unit, Wanted};
use crate::party::{Arrivals, DOMAIN, Load, Plan, Sink};

const LOAD: Load<'static> = Load {
    sessions: 10,
    octets: 4 << 10,
    domain: DOMAIN,
};

pub(super) fn measure(plan: &Plan) -> Result<Vec<Row>> {
    let mut sink = plan.sink()?;
    let mut world = plan.relay(&sink.target(), &[DOMAIN]);
    let postfix = plan.postfix(sink.address())?;
    let messages = plan.amount(5_000, 1_000);
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    for _ in 0..plan.runs {
        ours.push(pull(&mut world, &mut sink, messages)?);
        theirs.push(push(&postfix, &mut sink, messages)?);
    }
    let name = "drain, 4 KiB, one connection, to smtp-sink";
    let row = Row::new(name, Unit::PerSecond, ours)
        .beside("Postfix", theirs)
        .wanted(Wanted::RatioAtLeast(2.0))
        .note(format!(
            "{messages} queued; ours over TLS and through the puller"
        ));
    Ok(vec![row])
}

/// Our way: the relay holds, the puller asks, the mail comes back on that connection.
fn pull(world: &mut World, sink: &mut Sink, messages: usize) -> Result<f64> {
    LOAD.send(world.relay.smtp_address(), messages)?;
    let before = sink.counts()?;
    world.puller.begin_pull();
    let arrivals = sink.watch(before, messages)?;
    let code = world.puller.pulled();
    ensure!(
        code == 0,
        "the puller ended with {code}:\n{}",
        world.puller.log()
    );
    rate(&arrivals)
}

/// Postfix's way: what it held is released, and goes to its next hop.
fn push(postfix: &Postfix, sink: &mut Sink, messages: usize) -> Result<f64> {
    LOAD.send(postfix.address(), messages)?;
    let before = sink.counts()?;
    expect(postfix.command("postsuper").args(["-H", "ALL"]))?;
    expect(postfix.command("postqueue").arg("-f"))?;
    let arrivals = sink.watch(before, messages)?;
    rate(&arrivals)
}

fn rate(arrivals: &Arrivals) -> Result<f64> {
    // More would be another comparison. Postfix may begin anew once, when its cache does not have the connection yet.
    ensure!(
        arrivals.connections <= 2,
        "{} connections in place of one",
        arrivals.connections
    );
    arrivals.rate().context("too few messages to time")
}

fn expect(command: &mut Command) -> Result<()> {
    let output = Output::within(command, Duration::from_secs(120));
    ensure!(output.code == 0, "{command:?}: {}", output.stderr.trim());
    Ok(())
}
