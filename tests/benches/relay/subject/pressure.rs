//! An honest sender beside a thousand connections that bring nothing and a hundred new ones a second that bring
//! garbage: what is left of its throughput, and what the relay takes.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use atrn_tests::world::World;

use crate::attackers::{Attack, Strength};
use crate::figures::{Measured, Row, Samples, Unit, Wanted};
use crate::party::{Connections, DOMAIN, Load, Plan};
use crate::usage;

const STRENGTH: Strength = Strength {
    slow: 1_000,
    floods: 100,
};
/// As many as an address has under stress, so that they find their places again after each run.
const LOAD: Load<'static> = Load {
    sessions: 4,
    octets: 4 << 10,
    domain: DOMAIN,
    connections: Connections::Kept,
};
const RATIO_MIN: f64 = 0.5;
const MEBIBYTES_MAX: f64 = 128.0;
/// How long until the relay must be full.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn measure(plan: &Plan) -> Result<Measured> {
    let world = relay(plan);
    let address = world.relay.smtp_address();
    let messages = LOAD.fitting(plan, address)?;
    let mut quiet = Samples::default();
    for _ in 0..plan.runs {
        quiet.push(LOAD.rate(address, messages)?);
    }
    let before = usage::memory(world.relay.id())?.now_kib;
    usage::reset_peak(world.relay.id())?;

    let mut disturbed = Samples::default();
    let attack = Attack::start(address, STRENGTH)?;
    await_pressure(&attack)?;
    let length = Duration::from_secs(if plan.quick { 12 } else { 60 });
    let processor_before = usage::processor_time(world.relay.id())?;
    let began = Instant::now();
    while began.elapsed() < length {
        disturbed.push(LOAD.rate(address, messages)?);
    }
    let took = usage::processor_time(world.relay.id())?.saturating_sub(processor_before);
    let cores = took.as_secs_f64() / began.elapsed().as_secs_f64();
    let seen = attack.seen();
    drop(attack);
    let peak = usage::memory(world.relay.id())?.peak_kib;

    let who = format!(
        "{} slow connections and {} floods a second",
        STRENGTH.slow, STRENGTH.floods
    );
    let rate = Row::new(
        format!("durable accepts, 4 KiB, 4 sessions, beside {who}"),
        Unit::PerSecond,
        disturbed,
    )
    .beside("undisturbed", quiet)
    .wanted(Wanted::RatioAtLeast(RATIO_MIN))
    .note(format!(
        "over {} s: {} held at the end, {} cut, {} turned away, {} floods; relay: {cores:.2} of a core",
        length.as_secs(),
        seen.held,
        seen.cut,
        seen.turned_away,
        seen.floods
    ));
    let mebibytes = [peak as f64 / 1024.0].into_iter().collect();
    let memory = Row::new(
        format!("memory of the relay at most, beside {who}"),
        Unit::Mebibytes,
        mebibytes,
    )
    .wanted(Wanted::AtMost(MEBIBYTES_MAX))
    .note(format!("{:.0} MiB before", before as f64 / 1024.0));
    Ok(vec![rate, memory].into())
}

/// With the limits that everybody has; nobody is exempt.
fn relay(plan: &Plan) -> World {
    World::setup()
        .under(&plan.folder)
        .domain(DOMAIN)
        .relay("limits.exempt", Vec::<&str>::new())
        .start()
}

/// Until the relay is nearly full, and so under stress.
fn await_pressure(attack: &Attack) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while attack.seen().held < STRENGTH.slow * 3 / 4 {
        ensure!(
            Instant::now() < end,
            "the attack is too weak: {:?}",
            attack.seen()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
