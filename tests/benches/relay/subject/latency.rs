//! How long mail takes to come inside: from the 250 that its sender read to the whole message at the corporate
//! server, one message at a time. Postfix accepts, queues and pushes to the same server; ours is pulled by a puller
//! in instant mode. Sender and server are the benchmark's own, so that one clock times both ends.

use std::time::Duration;

use anyhow::{Context as _, Result};
use atrn_tests::software::Postfix;
use atrn_tests::world::World;

use crate::chart::{Axis, Chart, Role};
use crate::courier::Courier;
use crate::figures::{Measured, Row, Samples, Unit, Wanted};
use crate::party::{DOMAIN, Plan};
use crate::target::Target;

const OCTETS: usize = 4 << 10;
/// Messages that a party sends before it is the other's turn.
const BLOCK: usize = 50;
/// Messages that do not count: connections are made, files and pages are there then.
const WARM_UP: usize = 50;
const MEDIAN_RATIO_MAX: f64 = 2.0;
const TAIL_RATIO_MAX: f64 = 3.0;
const MEDIAN_MICROS_MAX: f64 = 5_000.0;
/// What the chart shows: the share of messages that took no longer.
const SHARES: [f64; 13] = [
    0.01, 0.05, 0.10, 0.20, 0.30, 0.40, 0.50, 0.60, 0.70, 0.80, 0.90, 0.95, 0.99,
];

pub(super) fn measure(plan: &Plan) -> Result<Measured> {
    let target = Target::start()?;
    let mut world = plan.relay(&target.url(), &[DOMAIN]);
    world.puller.configure(|settings| {
        settings.set("relay.mode", "instant");
    });
    world.puller.start();
    let postfix = pushing_postfix(plan, &target)?;
    let mut parties = [
        Party::connect(&world, &postfix, Who::Ours)?,
        Party::connect(&world, &postfix, Who::Postfix)?,
    ];
    for party in &mut parties {
        party
            .send(&target, WARM_UP)
            .with_context(|| format!("the puller's log:\n{}", world.puller.log()))?;
        party.times.clear();
    }
    let blocks = plan.amount(1_000, 200) / BLOCK;
    for _ in 0..plan.runs {
        for block in 0..blocks {
            for turn in [block % 2, 1 - block % 2] {
                parties[turn].send(&target, BLOCK)?;
            }
        }
        parties.iter_mut().for_each(Party::end_run);
    }
    let [ours, theirs] = parties;
    Ok(Measured {
        charts: vec![chart(&ours, &theirs)],
        rows: rows(ours, theirs, blocks * BLOCK),
    })
}

fn rows(ours: Party, theirs: Party, messages: usize) -> Vec<Row> {
    let note = format!("{messages} messages a run, one at a time, to the same server");
    let row = |what: &str, ours: Samples, theirs: Samples, ratio_max: f64| {
        let name = format!("instant mode, 4 KiB, from the sender's 250 to the target: {what}");
        Row::new(name, Unit::Micros, ours)
            .beside("Postfix pushes", theirs)
            .wanted(Wanted::RatioAtMost(ratio_max))
            .note(&note)
    };
    vec![
        row("median", ours.medians, theirs.medians, MEDIAN_RATIO_MAX)
            .wanted(Wanted::AtMost(MEDIAN_MICROS_MAX)),
        row("99 of 100", ours.tails, theirs.tails, TAIL_RATIO_MAX),
    ]
}

/// A Postfix that sends on at once what it takes. As the one that holds, it has nothing on that only costs.
fn pushing_postfix(plan: &Plan, target: &Target) -> Result<Postfix> {
    let address = target.address();
    let next_hop = format!("relay:[{}]:{}", address.ip(), address.port());
    let settings = [
        ("virtual_mailbox_domains", ""),
        ("relay_domains", "static:all"),
        ("relay_transport", &*next_hop),
        ("max_use", "10000"),
        ("smtpd_timeout", "300s"),
        ("smtpd_banner", "$myhostname ESMTP"),
    ];
    Postfix::start_with(DOMAIN, &plan.folder, &settings).context("Postfix is not installed")
}

#[derive(Clone, Copy, Debug)]
enum Who {
    Ours,
    Postfix,
}

/// One of the two, and what was seen of it.
#[derive(Debug)]
struct Party {
    courier: Courier,
    /// Of the run under way, in microseconds.
    times: Vec<f64>,
    /// Of all runs.
    all: Vec<f64>,
    medians: Samples,
    tails: Samples,
}

impl Party {
    fn connect(world: &World, postfix: &Postfix, who: Who) -> Result<Self> {
        let address = match who {
            Who::Ours => world.relay.smtp_address(),
            Who::Postfix => postfix.address(),
        };
        Ok(Self {
            courier: Courier::connect(address, OCTETS)?,
            times: Vec::new(),
            all: Vec::new(),
            medians: Samples::default(),
            tails: Samples::default(),
        })
    }

    /// Each message after the one before is inside.
    fn send(&mut self, target: &Target, messages: usize) -> Result<()> {
        for _ in 0..messages {
            let accepted = self.courier.send(DOMAIN)?;
            // It may be there before the sender has read that it is accepted.
            let took = target.next()?.checked_duration_since(accepted);
            self.times.push(micros(took.unwrap_or_default()));
        }
        Ok(())
    }

    fn end_run(&mut self) {
        self.times.sort_by(f64::total_cmp);
        self.medians.push(at_share(&self.times, 0.5));
        self.tails.push(at_share(&self.times, 0.99));
        self.all.append(&mut self.times);
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// The figure that this share of sorted ones is not above.
fn at_share(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    let figure = sorted.get(rank.saturating_sub(1));
    figure.copied().unwrap_or(f64::NAN)
}

fn chart(ours: &Party, theirs: &Party) -> Chart {
    let line = |party: &Party| {
        let mut sorted = party.all.clone();
        sorted.sort_by(f64::total_cmp);
        // A logarithmic axis has no zero.
        SHARES.map(|share| {
            let millis = at_share(&sorted, share).max(1.0) / 1e3;
            (millis, Samples::from_iter([share * 100.0]))
        })
    };
    Chart::new(
        "latency",
        "From the sender's 250 to the target, one message at a time, 4 KiB",
        Axis::logarithmic("milliseconds"),
        Axis::linear("% of the messages are there"),
    )
    .line(Role::Ours, "atrn, instant mode", line(ours))
    .line(Role::Peer, "Postfix pushes", line(theirs))
}
