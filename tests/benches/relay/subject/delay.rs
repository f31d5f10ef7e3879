//! A long line between relay and puller: how much of the rate without delay one session keeps, and how much faster
//! it is than a customer to whom every step is a round trip.

use std::time::Duration;

use anyhow::Result;
use atrn_tests::delay::DelayProxy;
use atrn_tests::world::{ACCOUNT, World};

use crate::backlog::{Backlog, LOAD};
use crate::chart::{Axis, Chart};
use crate::customer;
use crate::figures::{Measured, Row, Samples, Unit, Wanted};
use crate::party::{DOMAIN, Plan};

#[derive(Clone, Copy)]
struct Line {
    round_trip_millis: u64,
    /// Octets a second.
    bandwidth: Option<u64>,
}

/// The first is the one that the others are measured by; the last is one of 100 Mbit/s.
const LINES: [Line; 6] = [
    delayed(0),
    delayed(10),
    delayed(50),
    delayed(100),
    delayed(200),
    Line {
        round_trip_millis: 100,
        bandwidth: Some(12_500_000),
    },
];
/// Where figures are wanted, in milliseconds: so many times the steps, and this share of the rate without delay.
const WANTED_AT: u64 = 100;
const RATIO_MIN: f64 = 50.0;
const SHARE_MIN: f64 = 0.6;
/// MAIL, RCPT, DATA, and the dot.
const STEPS: u64 = 4;
/// How long steps are taken about, and how many messages that may be.
const STEPPING_MILLIS: u64 = 4_000;
const STEPPED_MIN: u64 = 4;
const STEPPED_MAX: u64 = 200;

const fn delayed(round_trip_millis: u64) -> Line {
    Line {
        round_trip_millis,
        bandwidth: None,
    }
}

pub(super) fn measure(plan: &Plan) -> Result<Measured> {
    let sink = plan.sink()?;
    let mut world = plan.relay(&sink.target(), &[DOMAIN]);
    let backlog = Backlog {
        sink: &sink,
        messages: plan.amount(20_000, 4_000),
        senders: 1,
        connections: 1,
    };
    let (mut streamed, mut stepped) = (samples(), samples());
    for _ in 0..plan.runs {
        for (position, line) in LINES.into_iter().enumerate() {
            streamed[position].push(line.stream(&mut world, backlog)?);
            stepped[position].push(line.step(&world)?);
        }
    }
    let without_delay = streamed[0].clone();
    let figures = LINES.into_iter().zip(streamed.into_iter().zip(stepped));
    let row = |(line, (streamed, stepped)): (Line, (Samples, Samples))| {
        line.row(streamed, &without_delay)
            .beside("step by step", stepped)
            .note(format!("{} queued", backlog.messages))
    };
    let rows: Vec<Row> = figures.map(row).collect();
    let charts = vec![chart(&rows)];
    Ok(Measured { rows, charts })
}

fn samples() -> [Samples; LINES.len()] {
    std::array::from_fn(|_| Samples::default())
}

impl Line {
    /// Messages a second through the puller, whose target is beside it.
    fn stream(self, world: &mut World, backlog: Backlog<'_>) -> Result<f64> {
        let proxy = self.to(world);
        let World { relay, puller, .. } = world;
        puller.configure(|settings| {
            // No second session: this is about one.
            settings
                .set("relay.address", proxy.address().to_string())
                .set("relay.sessions", 1);
        });
        backlog.pulled(relay.smtp_address(), puller)
    }

    /// The same of a customer that can do one step at a time.
    fn step(self, world: &World) -> Result<f64> {
        let messages = STEPPING_MILLIS / (STEPS * self.round_trip_millis).max(1);
        let messages = messages.clamp(STEPPED_MIN, STEPPED_MAX) as usize;
        LOAD.send(world.relay.smtp_address(), messages)?;
        let proxy = self.to(world);
        customer::step(proxy.address(), world.relay.secret(ACCOUNT), messages)
    }

    fn to(self, world: &World) -> DelayProxy {
        let round_trip = Duration::from_millis(self.round_trip_millis);
        DelayProxy::start(world.relay.odmr_address(), round_trip, self.bandwidth)
    }

    fn row(self, streamed: Samples, without_delay: &Samples) -> Row {
        let millis = self.round_trip_millis;
        let name = format!("drain, 4 KiB, one session, {millis} ms round trip");
        let Some(bandwidth) = self.bandwidth else {
            let row =
                Row::new(name, Unit::PerSecond, streamed).limit("0 ms", without_delay.clone());
            return match millis {
                WANTED_AT => row
                    .wanted(Wanted::RatioAtLeast(RATIO_MIN))
                    .wanted(Wanted::ShareAtLeast(SHARE_MIN)),
                _ => row,
            };
        };
        let name = format!("{name}, {} Mbit/s", bandwidth * 8 / 1_000_000);
        let carried = Samples::from_iter([bandwidth as f64 / LOAD.octets as f64]);
        Row::new(name, Unit::PerSecond, streamed).limit("the line", carried)
    }
}

fn chart(rows: &[Row]) -> Chart {
    let points = LINES.iter().zip(rows);
    let points = points.filter(|(line, _)| line.bandwidth.is_none());
    let points: Vec<(f64, &Row)> = points
        .map(|(line, row)| (line.round_trip_millis as f64, row))
        .collect();
    let x = Axis::linear("round-trip time, ms").marks(points.iter().map(|(at, _)| *at));
    let y = Axis::logarithmic("messages a second");
    Chart::new(
        "delay",
        "Drain of a backlog over a long line, one session, 4 KiB",
        x,
        y,
    )
    .rows(points)
}
