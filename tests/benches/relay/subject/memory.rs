//! Large messages in and out, and how much the resident memory of both programs grows over them.

use anyhow::{Context as _, Result};
use atrn_tests::world::World;

use crate::figures::{Row, Samples, Unit, Wanted};
use crate::party::{DOMAIN, Load, Plan, Sink};
use crate::usage::{self, Memory};

/// 50 MB, and how many of them at once with how many MiB wanted at most.
const OCTETS: usize = 50_000_000;
const CASES: [(usize, f64); 2] = [(1, 16.0), (20, 64.0)];

pub(super) fn measure(plan: &Plan) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (messages, most) in CASES {
        let (mut relay, mut puller) = (Samples::default(), Samples::default());
        for _ in 0..plan.amount(3, 1) {
            let (of_relay, of_puller) = growth(plan, messages)?;
            relay.push(of_relay);
            puller.push(of_puller);
        }
        let what = match messages {
            1 => "a 50 MB message".to_owned(),
            many => format!("{many} × 50 MB at once"),
        };
        for (program, samples) in [("relay", relay), ("puller", puller)] {
            let name = format!("memory of the {program} grows, {what}");
            rows.push(Row::new(name, Unit::Mebibytes, samples).wanted(Wanted::AtMost(most)));
        }
    }
    Ok(rows)
}

/// Growth of both programs in MiB, after each has worked once so that what it needs anyway is there.
fn growth(plan: &Plan, messages: usize) -> Result<(f64, f64)> {
    let mut sink = plan.sink()?;
    let sessions = i64::try_from(messages)?;
    let settings = [
        ("relay.sessions", sessions.into()),
        ("relay.every", "1s".into()),
        ("relay.jitter", "0s".into()),
    ];
    let mut world = plan.relay(&sink.target(), &settings);
    world.puller.start();
    through(&world, &mut sink, 4 << 10, 1)?;
    let relay = world.relay.id();
    let puller = world.puller.id().context("the puller runs")?;
    let mut before: Vec<Memory> = Vec::new();
    for process in [relay, puller] {
        usage::reset_peak(process)?;
        before.push(usage::memory(process)?);
    }
    through(&world, &mut sink, OCTETS, messages)?;
    let grown = |process, before: &Memory| {
        let after = usage::memory(process)?;
        anyhow::Ok(after.peak_kib.saturating_sub(before.now_kib) as f64 / 1024.0)
    };
    Ok((grown(relay, &before[0])?, grown(puller, &before[1])?))
}

/// Sends messages side by side, and waits until they are inside.
fn through(world: &World, sink: &mut Sink, octets: usize, messages: usize) -> Result<()> {
    let load = Load {
        sessions: messages,
        octets,
        domain: DOMAIN,
    };
    let before = sink.counts()?;
    load.send(world.relay.smtp_address(), messages)?;
    sink.watch(before, messages)?;
    Ok(())
}
