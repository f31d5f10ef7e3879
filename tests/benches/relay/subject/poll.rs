//! A pull that brings nothing, by a puller that runs all the time: from its first connection to the end of the pull,
//! as the puller's log has it. The relay's queue is full of other domains' mail.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use atrn_tests::process::wait_until;
use atrn_tests::world::World;

use crate::figures::{Measured, Row, Samples, Unit, Wanted, in_turns};
use crate::party::{DOMAIN, OTHER_DOMAIN, Plan, Sink};
use crate::stock;

const OCTETS: usize = 1 << 10;
/// Polls of a run, a second apart. One before them does not count: what it needs is not in memory yet.
const POLLS: usize = 5;
const MILLIS_MAX: f64 = 5.0;

pub(super) fn measure(plan: &Plan) -> Result<Measured> {
    let depth = plan.amount(200_000, 20_000);
    let mut empty = Polled::start(plan, 0)?;
    let mut deep = Polled::start(plan, depth)?;
    let samples = in_turns(plan.runs, [&mut || empty.poll(), &mut || deep.poll()])?;
    let [empty, deep] = samples;
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

/// A relay that has nothing for its puller.
struct Polled {
    world: World,
    /// The target: each poll looks first whether it is there.
    _sink: Sink,
}

impl Polled {
    fn start(plan: &Plan, queued: usize) -> Result<Self> {
        let sink = plan.sink()?;
        let mut world = plan.relay(&sink.target(), &[DOMAIN, OTHER_DOMAIN]);
        world.relay.stop();
        let others = [OTHER_DOMAIN.to_owned()];
        stock::fill(&world.relay.data_folder(), &others, queued, OCTETS)?;
        world.relay.start();
        world.puller.configure(|settings| {
            settings
                .set("relay.domains", vec![DOMAIN])
                .set("relay.every", "1s")
                .set("relay.jitter", "0s");
        });
        Ok(Self { world, _sink: sink })
    }

    /// Milliseconds that a poll takes: the median of a few.
    fn poll(&mut self) -> Result<f64> {
        let before = self.logged().len();
        self.world.puller.start();
        for count in 1..=POLLS + 1 {
            wait_until("a poll", || self.logged().len() >= before + count);
        }
        let code = self.world.puller.stop();
        ensure!(code == 0, "the puller ended with {code}");
        let times = self.logged().into_iter().skip(before + 1).take(POLLS);
        let millis = times.map(|took| Ok(duration(&took)?.as_secs_f64() * 1e3));
        let millis: Samples = millis.collect::<Result<_>>()?;
        Ok(millis.median())
    }

    /// How long each pull took, as the log has it.
    fn logged(&self) -> Vec<String> {
        let log = self.world.puller.log();
        let ended = log.lines().filter(|line| line.contains("pull ended"));
        let took = ended.filter_map(|line| line.split_once("took=")?.1.split(' ').next());
        took.map(str::to_owned).collect()
    }
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
