//! A pull that brings nothing, by a puller that runs all the time: from its first connection to the end of the pull,
//! as the puller's log has it. The relay's queue is full of other domains' mail.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use atrn_tests::process::wait_until;
use atrn_tests::world::Puller;

use crate::figures::{Measured, Row, Samples, Unit, Wanted};
use crate::party::{DOMAIN, OTHER_DOMAIN, Plan};
use crate::stock;

const OCTETS: usize = 1 << 10;
const MILLIS_MAX: f64 = 5.0;

pub(super) fn measure(plan: &Plan) -> Result<Measured> {
    let depth = plan.amount(200_000, 20_000);
    let empty = polls(plan, 0)?;
    let deep = polls(plan, depth)?;
    let row = |name: String, samples| {
        Row::new(name, Unit::Millis, samples)
            .wanted(Wanted::AtMost(MILLIS_MAX))
            .note("connection to the target, TLS, AUTH and ATRN, every second anew")
    };
    let rows = vec![
        row("empty poll, nothing queued".to_owned(), empty.clone()),
        row(
            format!("empty poll, {depth} queued for another domain"),
            deep,
        )
        .beside("nothing queued", empty),
    ];
    Ok(rows.into())
}

/// Milliseconds of each.
fn polls(plan: &Plan, queued: usize) -> Result<Samples> {
    let sink = plan.sink()?;
    let mut world = plan.relay(&sink.target(), &[DOMAIN, OTHER_DOMAIN]);
    world.relay.stop();
    stock::fill(
        &world.relay.data_folder(),
        &[OTHER_DOMAIN.to_owned()],
        queued,
        OCTETS,
    )?;
    world.relay.start();
    world.puller.configure(|settings| {
        settings
            .set("relay.domains", vec![DOMAIN])
            .set("relay.every", "1s")
            .set("relay.jitter", "0s");
    });
    world.puller.start();
    let wanted = plan.amount(plan.runs * 4, 3);
    // The first does not count: whoever looks first pays for what is not in memory yet.
    wait_until("polls", || logged(&world.puller).len() > wanted);
    let code = world.puller.stop();
    ensure!(code == 0, "the puller ended with {code}");
    let logged = logged(&world.puller);
    let times = logged.iter().skip(1).take(wanted);
    times
        .map(|took| Ok(duration(took)?.as_secs_f64() * 1e3))
        .collect()
}

/// How long each pull took, as the log has it.
fn logged(puller: &Puller) -> Vec<String> {
    let log = puller.log();
    let ended = log.lines().filter(|line| line.contains("pull ended"));
    let took = ended.filter_map(|line| line.split_once("took=")?.1.split(' ').next());
    took.map(str::to_owned).collect()
}

/// `1.25ms`, as Rust prints durations.
fn duration(text: &str) -> Result<Duration> {
    let units = [("ns", 1e-9), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0)];
    let parsed = units.iter().find_map(|(unit, seconds)| {
        let figure: f64 = text.strip_suffix(unit)?.parse().ok()?;
        Some(Duration::from_secs_f64(figure * seconds))
    });
    parsed.with_context(|| format!("{text:?} is no duration"))
}
