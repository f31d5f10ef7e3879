//! Large messages in and out, and how much the resident memory of both programs grows over them.

use anyhow::{Context as _, Result, anyhow};
use atrn_tests::world::World;

use crate::figures::{Measured, Row, Samples, Unit, Wanted};
use crate::party::{Connections, Load, Plan, Sink};
use crate::usage;

/// 50 MB, and how many of them at once with how many MiB wanted at most.
const OCTETS: usize = 50_000_000;
const CASES: [(usize, f64); 2] = [(1, 16.0), (20, 64.0)];

pub(super) fn measure(plan: &Plan) -> Result<Measured> {
    let mut rows = Vec::new();
    for (messages, most) in CASES {
        let (mut relay, mut puller) = (Samples::default(), Samples::default());
        for _ in 0..plan.amount(3, 1) {
            let seen = grow(plan, messages)?;
            relay.push(seen.relay_mib);
            puller.push(seen.puller_mib);
        }
        let what = match messages {
            1 => "a 50 MB message".to_owned(),
            many => format!("{many} × 50 MB at once"),
        };
        for (program, samples) in [("relay", relay), ("puller", puller)] {
            let name = format!("memory of the {program} grows, {what}");
            let row = Row::new(name, Unit::Mebibytes, samples).wanted(Wanted::AtMost(most));
            rows.push(row.note("in and out, each in a session of its own"));
        }
    }
    Ok(rows.into())
}

struct Seen {
    relay_mib: f64,
    puller_mib: f64,
}

/// Both programs work once with small messages, so that what they need anyway is there; then come the large ones,
/// each for a domain of its own that has a session of its own.
fn grow(plan: &Plan, messages: usize) -> Result<Seen> {
    let mut sink = plan.sink()?;
    let domains: Vec<String> = (0..messages).map(|n| format!("d{n}.example")).collect();
    let domains: Vec<&str> = domains.iter().map(String::as_str).collect();
    let mut world = plan.relay(&sink.target(), &domains);
    pull_each_alone(&world, &domains);
    world.puller.start();
    through(&world, &mut sink, 4 << 10, &domains)?;
    let relay = world.relay.id();
    let puller = world.puller.id().context("the puller runs")?;
    let before = [grown_from(relay)?, grown_from(puller)?];
    through(&world, &mut sink, OCTETS, &domains)?;
    let mib = |process, before: u64| {
        let peak = usage::memory(process)?.peak_kib;
        anyhow::Ok(peak.saturating_sub(before) as f64 / 1024.0)
    };
    Ok(Seen {
        relay_mib: mib(relay, before[0])?,
        puller_mib: mib(puller, before[1])?,
    })
}

/// What is resident now, in KiB; the peak is counted from here on.
fn grown_from(process: u32) -> Result<u64> {
    usage::reset_peak(process)?;
    Ok(usage::memory(process)?.now_kib)
}

/// To the puller each domain is a relay of its own, so that all are pulled side by side.
fn pull_each_alone(world: &World, domains: &[&str]) {
    world.puller.configure(|settings| {
        settings.set("relay.every", "1s").set("relay.jitter", "0s");
        let table = settings.table();
        let Some(toml::Value::Array(relays)) = table.get_mut("relay") else {
            return;
        };
        let Some(toml::Value::Table(relay)) = relays.pop() else {
            return;
        };
        for domain in domains {
            let mut relay = relay.clone();
            relay.insert("name".to_owned(), (*domain).into());
            relay.insert("domains".to_owned(), vec![*domain].into());
            relays.push(toml::Value::Table(relay));
        }
    });
}

/// Sends a message to each domain side by side, and waits until all are inside.
fn through(world: &World, sink: &mut Sink, octets: usize, domains: &[&str]) -> Result<()> {
    let before = sink.counts()?;
    let address = world.relay.smtp_address();
    std::thread::scope(|scope| {
        let senders: Vec<_> = domains
            .iter()
            .map(|domain| {
                let load = Load {
                    sessions: 1,
                    octets,
                    domain,
                    connections: Connections::Kept,
                };
                scope.spawn(move || load.send(address, 1))
            })
            .collect();
        senders.into_iter().try_for_each(|sender| {
            let sent = sender.join().map_err(|_| anyhow!("a sender panicked"))?;
            sent.map(drop)
        })
    })?;
    sink.watch(before, domains.len())?;
    Ok(())
}
