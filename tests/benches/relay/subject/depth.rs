//! Whether mail of a deep queue costs more than mail of a shallow one.

use anyhow::Result;
use atrn_tests::world::World;

use crate::customer;
use crate::figures::{Row, Samples, Unit, Wanted};
use crate::party::{DOMAIN, Load, OTHER_DOMAIN, Plan};

const SHALLOW: usize = 1_000;
/// Messages of one run; as many are sent anew before the next, so that the depth stays.
const TAKEN: usize = 250;
const RATIO_MAX: f64 = 1.3;

pub(super) fn measure(plan: &Plan) -> Result<Vec<Row>> {
    let deep_count = plan.amount(200_000, 20_000);
    let shallow = filled(plan, SHALLOW)?;
    let deep = filled(plan, deep_count)?;
    let mut first = (Samples::default(), Samples::default());
    let mut each = (Samples::default(), Samples::default());
    // One run of each more than is counted: whoever opens the database first pays for it.
    for run in 0..=plan.runs * 3 {
        let (from_deep, from_shallow) = (taken(&deep)?, taken(&shallow)?);
        if run > 0 {
            first.0.push(from_deep.first.as_secs_f64() * 1e6);
            first.1.push(from_shallow.first.as_secs_f64() * 1e6);
            each.0.push(from_deep.each.as_secs_f64() * 1e6);
            each.1.push(from_shallow.each.as_secs_f64() * 1e6);
        }
    }
    let row = |name: &str, (deep, shallow): (Samples, Samples)| {
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
    load(1, DOMAIN).send(world.relay.smtp_address(), TAKEN)?;
    Ok(taken)
}

fn load(sessions: usize, domain: &str) -> Load<'_> {
    Load {
        sessions,
        octets: 1 << 10,
        domain,
    }
}
