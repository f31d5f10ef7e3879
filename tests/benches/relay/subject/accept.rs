//! Durable accepts: how many messages a second get their 250.

use std::net::SocketAddr;

use anyhow::Result;

use crate::figures::{Row, Samples, Unit, Wanted};
use crate::party::{DOMAIN, Load, Plan};
use crate::usage;

/// Sessions, octets of a message, and how many times Postfix's rate is wanted.
const CASES: [(usize, usize, f64); 3] = [(50, 4 << 10, 6.0), (1, 4 << 10, 1.5), (10, 1 << 20, 1.2)];

pub(super) fn measure(plan: &Plan) -> Result<Vec<Row>> {
    CASES
        .into_iter()
        .map(|(sessions, octets, least)| {
            let load = Load {
                sessions,
                octets,
                domain: DOMAIN,
            };
            Ok(case(plan, load)?.wanted(Wanted::RatioAtLeast(least)))
        })
        .collect()
}

/// In turns; each case on fresh queues.
fn case(plan: &Plan, load: Load<'_>) -> Result<Row> {
    let sink = plan.sink()?;
    let relay = plan.relay(&sink.target(), &[DOMAIN]);
    let postfix = plan.postfix(sink.address())?;
    let ours = load.fitting(plan, relay.relay.smtp_address())?;
    let theirs = load.fitting(plan, postfix.address())?;
    let (mut our_rates, mut their_rates) = (Samples::default(), Samples::default());
    let mut processor = Samples::default();
    for _ in 0..plan.runs {
        let before = usage::processor_time(relay.relay.id())?;
        our_rates.push(rate(load, relay.relay.smtp_address(), ours)?);
        let taken = usage::processor_time(relay.relay.id())? - before;
        processor.push(taken.as_secs_f64() * 1e6 / ours as f64);
        their_rates.push(rate(load, postfix.address(), theirs)?);
    }
    let plural = if load.sessions == 1 { "" } else { "s" };
    let size = match load.octets {
        octets if octets >= 1 << 20 => format!("{} MiB", octets >> 20),
        octets => format!("{} KiB", octets >> 10),
    };
    let name = format!("durable accepts, {size}, {} session{plural}", load.sessions);
    let note = format!("relay: {:.0} µs of processor a message", processor.median());
    Ok(Row::new(name, Unit::PerSecond, our_rates)
        .beside("Postfix", their_rates)
        .note(note))
}

fn rate(load: Load<'_>, address: SocketAddr, messages: usize) -> Result<f64> {
    let took = load.send(address, messages)?;
    Ok(messages as f64 / took.as_secs_f64())
}
