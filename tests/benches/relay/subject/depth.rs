//! Whether mail of a deep queue costs more than mail of a shallow one.

use anyhow::Result;
use atrn_tests::world::World;

use crate::customer;
use crate::figures::{Row, Samples, Unit, Wanted};
use crate::party::{DOMAIN, Load, OTHER_DOMAIN, Plan};

const SHALLOW: usize = 1_000;
/// Messages of one run; as many are sent anew before the next, so that the depth stays.
const TAKEN: usize = 250;
/// So many times the runs of other rows.
const RUNS_FACTOR: usize = 10;
const RATIO_MAX: f64 = 1.3;

pub(super) fn measure(plan: &Plan) -> Result<Vec<Row>> {
    let deep_count = plan.amount(200_000, 20_000);
    let shallow = filled(plan, SHALLOW)?;
    let deep = filled(plan, deep_count)?;
    let worlds = [&deep, &shallow];
    let mut first = [Samples::default(), Samples::default()];
    let mut each = [Samples::default(), Samples::default()];
    // A run takes milliseconds, and other work on the machine comes in bursts: so there are many, and the two take
    // turns at being first. The first runs do not count: whoever opens the database pays for it.
    for run in 0..=plan.runs * RUNS_FACTOR {
        for turn in [run % 2, 1 - run % 2] {
            let taken = taken(worlds[turn])?;
            if run > 0 {
                first[turn].push(taken.first.as_secs_f64() * 1e6);
                each[turn].push(taken.each.as_secs_f64() * 1e6);
            }
        }
    }
    let row = |name: &str, [deep, shallow]: [Samples; 2]| {
        Row::new(
            format!("{deep_count} queued, half elsewhere: {name}"),
            Unit::Micros,
            deep,
        )
        .beside("1,000 queued", shallow)
        .wanted(Wanted::RatioAtMost(RATIO_MAX))
        .note("1 KiB; the customer is the benchmark's own")
    };
    Ok(vec![
        row("ATRN to the end of the first message", first),
        row("each message after it", each),
    ])
}

/// A relay with so many messages, half of them for another domain, that has been restarted since.
fn filled(plan: &Plan, messages: usize) -> Result<World> {
    let mut world = plan.relay("smtp://127.0.0.1:9", &[DOMAIN, OTHER_DOMAIN]);
    for domain in [OTHER_DOMAIN, DOMAIN] {
        load(50, domain).send(world.relay.smtp_address(), messages / 2)?;
    }
    world.relay.stop();
    world.relay.start();
    Ok(world)
}

fn taken(world: &World) -> Result<customer::Taken> {
    let taken = customer::take(world, TAKEN)?;
    load(10, DOMAIN).send(world.relay.smtp_address(), TAKEN)?;
    Ok(taken)
}

fn load(sessions: usize, domain: &str) -> Load<'_> {
    Load {
        sessions,
        octets: 1 << 10,
        domain,
    }
}
