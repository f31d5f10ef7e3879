//! Whether a deep queue costs more than a shallow one: what a sender, a puller and an administrator wait for, the
//! start of the relay, and its memory.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use atrn_tests::process::Output;
use atrn_tests::world::{ACCOUNT, Settings, World};

use crate::chart::{Axis, Chart, Role};
use crate::courier::Courier;
use crate::customer;
use crate::figures::{Measured, Row, Samples, Unit, Wanted, in_turns};
use crate::party::{Connections, Load, Plan};
use crate::{stock, usage};

const SHALLOW: usize = 1_000;
const DOMAINS: usize = 1_000;
/// A domain with nothing in it but what is accepted to be timed, and removed.
const ACCEPTING: &str = "accepting.example";
const OCTETS: usize = 1 << 10;
/// Messages of one pull; as many are sent anew before the next, so that the depth stays.
const TAKEN: usize = 250;
/// Messages of one run of accepts.
const ACCEPTED: usize = 10_000;
/// So many times the runs of other rows: a pull, or a command, takes milliseconds, and other work on the machine
/// comes in bursts.
const RUNS_FACTOR: usize = 5;
const ACCEPT_RUNS_FACTOR: usize = 2;
const RATIO_MAX: f64 = 1.2;
/// The same, of a rate.
const ACCEPT_RATIO_MIN: f64 = 0.83;
const START_MILLIS_MAX: f64 = 2_000.0;
const MEMORY_MEBIBYTES_MAX: f64 = 150.0;

pub(super) fn measure(plan: &Plan) -> Result<Measured> {
    let depth = plan.amount(1_000_000, 50_000);
    let mut deep = Queue::filled(plan, depth)?;
    let mut shallow = Queue::filled(plan, SHALLOW)?;
    let row = |what: &str, unit: Unit, [deep, shallow]: [Samples; 2]| {
        Row::new(format!("{depth} queued: {what}"), unit, deep)
            .beside(format!("{SHALLOW} queued"), shallow)
            .note(format!("1 KiB, in {DOMAINS} domains"))
    };
    let not_slower = Wanted::RatioAtMost(RATIO_MAX);
    let starts = in_turns(plan.runs, [&mut || deep.start(), &mut || shallow.start()])?;
    let accepts = in_turns(
        plan.runs * ACCEPT_RUNS_FACTOR,
        [&mut || deep.accept(), &mut || shallow.accept()],
    )?;
    let pulls = pulls(plan, &mut deep, &mut shallow)?;
    let [.., (_, each)] = &pulls;
    let charts = vec![chart(depth, &accepts, each)];
    let mut rows = vec![
        row(
            "from the start of the relay to its greeting",
            Unit::Millis,
            starts,
        )
        .wanted(Wanted::AtMost(START_MILLIS_MAX)),
        row(
            "durable accepts, 4 KiB, 50 sessions",
            Unit::PerSecond,
            accepts,
        )
        .wanted(Wanted::RatioAtLeast(ACCEPT_RATIO_MIN)),
    ];
    for (what, times) in pulls {
        rows.push(row(what, Unit::Micros, times).wanted(not_slower));
    }
    for (name, command) in [
        ("`queue list`, the first page", &["queue", "list"][..]),
        ("`status`", &["status"]),
    ] {
        let times = in_turns(
            plan.runs * RUNS_FACTOR,
            [&mut || deep.command(command), &mut || {
                shallow.command(command)
            }],
        )?;
        rows.push(row(name, Unit::Micros, times).wanted(not_slower));
    }
    let memory = [deep.peak()?, shallow.peak()?];
    rows.push(
        row(
            "memory of the relay, at most, over all of this",
            Unit::Mebibytes,
            memory,
        )
        .wanted(Wanted::AtMost(MEMORY_MEBIBYTES_MAX)),
    );
    Ok(Measured { rows, charts })
}

/// What is accepted and what is drained, shallow and deep.
fn chart(depth: usize, accepts: &[Samples; 2], each: &[Samples; 2]) -> Chart {
    let places = [depth as f64, SHALLOW as f64];
    let points = |samples: [Samples; 2]| places.into_iter().zip(samples).rev();
    let drained = each
        .each_ref()
        .map(|micros| micros.each(|micros| 1e6 / micros));
    let queued = Axis::logarithmic("messages queued").marks(places);
    let rate = Axis::linear("messages a second");
    Chart::new("depth", "A deep queue beside a shallow one", queued, rate)
        .line(
            Role::Ours,
            "accepts, 4 KiB, 50 sessions",
            points(accepts.clone()),
        )
        .line(Role::Ours, "drain, 1 KiB, the relay alone", points(drained))
}

/// Pulls of a few messages each, by a customer of the benchmark's own, so that only the relay is timed.
fn pulls(
    plan: &Plan,
    deep: &mut Queue,
    shallow: &mut Queue,
) -> Result<[(&'static str, [Samples; 2]); 3]> {
    let mut taken: [Vec<customer::Taken>; 2] = [Vec::new(), Vec::new()];
    for run in 0..=plan.runs * RUNS_FACTOR {
        for turn in [run % 2, 1 - run % 2] {
            let queue = if turn == 0 { &mut *deep } else { &mut *shallow };
            let seen = queue.pull()?;
            // The first does not count: whoever looks first pays for what is not in memory yet.
            if run > 0 {
                taken[turn].push(seen);
            }
        }
    }
    let figures = |part: fn(&customer::Taken) -> Duration| {
        let micros = |taken: &customer::Taken| part(taken).as_secs_f64() * 1e6;
        [0, 1].map(|turn| taken[turn].iter().map(micros).collect::<Samples>())
    };
    Ok([
        ("ATRN to its answer", figures(|taken| taken.answer)),
        (
            "ATRN to the end of the first message",
            figures(|taken| taken.first),
        ),
        ("each message after it", figures(|taken| taken.each)),
    ])
}

/// A relay with so many messages.
struct Queue {
    world: World,
    domains: Vec<String>,
    /// Whose turn it is to get a new message for one that was taken.
    next: usize,
}

impl Queue {
    fn filled(plan: &Plan, messages: usize) -> Result<Self> {
        let domains: Vec<String> = (0..DOMAINS).map(|n| format!("d{n}.example")).collect();
        let mut world = plan.relay("smtp://127.0.0.1:9", &[ACCEPTING]);
        world.relay.stop();
        own(&world, &domains)?;
        stock::fill(&world.relay.data_folder(), &domains, messages, OCTETS)?;
        world.relay.start();
        Ok(Self {
            world,
            domains,
            next: 0,
        })
    }

    /// Milliseconds until a relay that is started says that it is there: its ports are open before its queue is.
    fn start(&mut self) -> Result<f64> {
        self.world.relay.stop();
        let started = Instant::now();
        self.world.relay.start();
        drop(self.world.relay.smtp());
        Ok(started.elapsed().as_secs_f64() * 1e3)
    }

    /// Messages a second; they are removed again.
    fn accept(&mut self) -> Result<f64> {
        let load = Load {
            sessions: 50,
            octets: 4 << 10,
            domain: ACCEPTING,
            connections: Connections::Kept,
        };
        let rate = load.rate(self.world.relay.smtp_address(), ACCEPTED)?;
        self.run(&["queue", "remove", "--domain", ACCEPTING, "--yes"]);
        Ok(rate)
    }

    fn pull(&mut self) -> Result<customer::Taken> {
        let taken = customer::take(&self.world, TAKEN)?;
        let mut courier = Courier::connect(self.world.relay.smtp_address(), OCTETS)?;
        for _ in 0..TAKEN {
            courier.send(&self.domains[self.next])?;
            self.next = (self.next + 1) % self.domains.len();
        }
        Ok(taken)
    }

    /// Microseconds until a command has said all.
    fn command(&self, arguments: &[&str]) -> Result<f64> {
        let started = Instant::now();
        self.run(arguments);
        Ok(started.elapsed().as_secs_f64() * 1e6)
    }

    fn run(&self, arguments: &[&str]) {
        let mut command = self.world.relay.command();
        let _said =
            Output::within(command.args(arguments), Duration::from_secs(120)).expect_code(0);
    }

    fn peak(&self) -> Result<Samples> {
        let peak = usage::memory(self.world.relay.id())?.peak_kib;
        Ok(Samples::from_iter([peak as f64 / 1024.0]))
    }
}

/// Gives all these domains to the account. Through the command line it would take minutes.
fn own(world: &World, domains: &[String]) -> Result<()> {
    let folder = world
        .relay
        .config()
        .parent()
        .context("a folder")?
        .join("conf.d");
    let sections = domains
        .iter()
        .map(|name| format!("[[domain]]\nname = \"{name}\"\n\n"));
    std::fs::write(folder.join("domains.toml"), sections.collect::<String>())?;
    Settings::edit(
        &folder.join(format!("account-{ACCOUNT}.toml")),
        |settings| {
            settings.set("account.domains", domains.to_vec());
        },
    );
    Ok(())
}
