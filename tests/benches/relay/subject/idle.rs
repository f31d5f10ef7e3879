//! Thousands of pullers in instant mode on one relay: what each costs while nothing happens, how soon a message is
//! with the one that it is for, and what the relay does all that time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use atrn_tests::certs::write_private;
use atrn_tests::world::{ACCOUNT, World};

use crate::courier::Courier;
use crate::figures::{Measured, Row, Samples, Unit, Wanted};
use crate::party::{DOMAIN, Plan};
use crate::pullers::{Login, Pullers};
use crate::usage;

const OCTETS: usize = 4 << 10;
/// Messages that are timed in each state, one at a time, each for another puller.
const TIMED: usize = 200;
const SESSION_KIBIBYTES_MAX: f64 = 40.0;
const ARRIVAL_MICROS_MAX: f64 = 20_000.0;
/// How much more a message may cost where all wait for the same.
const CROWD_RATIO_MAX: f64 = 1.5;
const PROCESSOR_PERCENT_MAX: f64 = 2.0;

pub(super) fn measure(plan: &Plan) -> Result<Measured> {
    let sessions = plan.amount(5_000, 500);
    // The silence that they ask for. It is shorter than what a puller asks for by default, so that a keep-alive of each
    // falls into the time over which the processor is watched.
    let silence = Duration::from_secs(if plan.quick { 30 } else { 120 });
    let mut seen = Seen::default();
    for run in 0..plan.runs {
        let world = relay(plan, sessions)?;
        let pullers = idle(&world, sessions, silence, &mut seen)?;
        if run == 0 {
            seen.processor.push(processor(&world, silence)?);
            pullers.all_are_there()?;
        }
    }
    let mut rows = seen.rows(sessions, silence);
    rows.push(one_domain(plan)?);
    Ok(rows.into())
}

#[derive(Default)]
struct Seen {
    /// KiB for each session.
    waiting: Samples,
    reversed: Samples,
    /// Microseconds from the sender's 250 to the whole message.
    woken: Samples,
    at_once: Samples,
    /// Percent of a core.
    processor: Samples,
}

impl Seen {
    fn rows(self, sessions: usize, silence: Duration) -> Vec<Row> {
        let silence = silence.as_secs();
        let row = |name: &str, unit: Unit, samples: Samples, most: f64| {
            let name = format!("{sessions} idle pullers over TLS: {name}");
            Row::new(name, unit, samples).wanted(Wanted::AtMost(most))
        };
        let kib = |name: &str, samples| row(name, Unit::Kibibytes, samples, SESSION_KIBIBYTES_MAX);
        let arrival = |name: &str, samples| row(name, Unit::Micros, samples, ARRIVAL_MICROS_MAX);
        vec![
            kib(
                "memory of the relay for each that waits in ATRN",
                self.waiting,
            ),
            kib(
                "memory of the relay for each that idles after a message",
                self.reversed,
            ),
            arrival(
                "from a sender's 250 to the puller that waits in ATRN",
                self.woken,
            )
            .note(format!(
                "medians of {TIMED}, the turn and the greeting included"
            )),
            arrival(
                "from a sender's 250 to the puller that idles after a message",
                self.at_once,
            )
            .note(format!("medians of {TIMED}")),
            row(
                "processor of the relay",
                Unit::Percent,
                self.processor,
                PROCESSOR_PERCENT_MAX,
            )
            .note(format!(
                "of a core; over {silence} s, with a keep-alive each"
            )),
        ]
    }
}

/// A relay with an account and a domain for each of so many pullers, beside the usual ones.
fn relay(plan: &Plan, pullers: usize) -> Result<World> {
    let mut world = plan.relay("smtp://127.0.0.1:9", &[DOMAIN]);
    world.relay.configure(|settings| {
        settings
            .set("odmr.max_connections", 100_000)
            .set("odmr.max_connections_per_account", 100_000);
    });
    let folder = world
        .relay
        .config()
        .parent()
        .context("a folder")?
        .join("conf.d");
    write_private(&folder.join("pullers.secret"), world.relay.secret(ACCOUNT));
    let account = |number: usize| {
        let (account, domain) = (account(number), domain(number));
        format!(
            "[[domain]]\nname = \"{domain}\"\n\n[[account]]\nname = \"{account}\"\ndomains = [\"{domain}\"]\n\
             cram_md5_secret_file = \"pullers.secret\"\n\n"
        )
    };
    let text: String = (0..pullers).map(account).collect();
    std::fs::write(folder.join("pullers.toml"), text)?;
    world.relay.stop();
    world.relay.start();
    Ok(world)
}

fn account(number: usize) -> String {
    format!("puller{number}")
}

fn domain(number: usize) -> String {
    format!("d{number}.example")
}

/// All of them, when they have had a message each and idle.
fn idle(world: &World, sessions: usize, silence: Duration, seen: &mut Seen) -> Result<Pullers> {
    let secret: Arc<str> = world.relay.secret(ACCOUNT).into();
    let login = |number| Login {
        account: account(number),
        secret: Arc::clone(&secret),
    };
    let before = resident(world)?;
    let logins = (0..sessions).map(login).collect();
    let pullers = Pullers::start(world.relay.odmr_address(), logins, silence)?;
    let each = |now: u64| now.saturating_sub(before) as f64 / sessions as f64;
    seen.waiting.push(each(resident(world)?));
    let mut courier = Courier::connect(world.relay.smtp_address(), OCTETS)?;
    let timed = TIMED.min(sessions);
    let step = sessions / timed;
    seen.woken.push(arrivals(
        &mut courier,
        &pullers,
        (0..timed).map(|n| n * step),
    )?);
    let others = (0..sessions).filter(|number| number % step != 0 || number / step >= timed);
    arrivals(&mut courier, &pullers, others)?;
    seen.reversed.push(each(resident(world)?));
    seen.at_once.push(arrivals(
        &mut courier,
        &pullers,
        (0..timed).map(|n| n * step),
    )?);
    pullers.all_are_there()?;
    Ok(pullers)
}

/// Sends a message to each of these, one at a time; the median time from 250 to arrival, in microseconds.
fn arrivals(
    courier: &mut Courier,
    pullers: &Pullers,
    numbers: impl Iterator<Item = usize>,
) -> Result<f64> {
    let mut times = Samples::default();
    for number in numbers {
        let accepted = courier.send(&domain(number))?;
        let arrival = pullers.next()?;
        ensure!(
            arrival.puller == number,
            "{} has the mail of {number}",
            arrival.puller
        );
        times.push(micros(arrival.at, accepted));
    }
    Ok(times.median())
}

/// It may be there before the sender has read that it is accepted.
fn micros(arrived: Instant, accepted: Instant) -> f64 {
    let took = arrived.checked_duration_since(accepted).unwrap_or_default();
    took.as_secs_f64() * 1e6
}

/// KiB of resident memory, when the relay has come to rest.
fn resident(world: &World) -> Result<u64> {
    let relay = world.relay.id();
    let mut taken = usage::processor_time(relay)?;
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let now = usage::processor_time(relay)?;
        if now.saturating_sub(taken) <= Duration::from_millis(10) {
            return Ok(usage::memory(relay)?.now_kib);
        }
        taken = now;
    }
}

/// Percent of a core that the relay takes over this time.
fn processor(world: &World, time: Duration) -> Result<f64> {
    let before = usage::processor_time(world.relay.id())?;
    let began = Instant::now();
    std::thread::sleep(time);
    let took = usage::processor_time(world.relay.id())?.saturating_sub(before);
    Ok(took.as_secs_f64() / began.elapsed().as_secs_f64() * 100.0)
}

/// Many wait for the same domain, and each message goes to one of them, for no more work than where each waits for a
/// domain of its own: the others sleep on.
fn one_domain(plan: &Plan) -> Result<Row> {
    let many = plan.amount(1_000, 100);
    let (mut same, mut own) = (Samples::default(), Samples::default());
    for _ in 0..plan.runs {
        same.push(work(plan, many, |_| 0)?);
        own.push(work(plan, many, |number| number)?);
    }
    let name = format!("{many} pullers wait for one domain: processor of the relay for a message");
    Ok(Row::new(name, Unit::Micros, same)
        .beside("a domain each", own)
        .wanted(Wanted::RatioAtMost(CROWD_RATIO_MAX))
        .note("one message at a time; each wakes one, and turns it"))
}

/// Processor time of the relay for a message, in microseconds, where so many wait, each for the domain with this
/// number.
fn work(plan: &Plan, sessions: usize, place: fn(usize) -> usize) -> Result<f64> {
    let world = relay(plan, sessions)?;
    let secret: Arc<str> = world.relay.secret(ACCOUNT).into();
    let login = |number| Login {
        account: account(place(number)),
        secret: Arc::clone(&secret),
    };
    let logins = (0..sessions).map(login).collect();
    let silence = Duration::from_secs(120);
    let pullers = Pullers::start(world.relay.odmr_address(), logins, silence)?;
    let mut courier = Courier::connect(world.relay.smtp_address(), OCTETS)?;
    resident(&world)?;
    let messages = TIMED.min(sessions);
    let before = usage::processor_time(world.relay.id())?;
    for number in 0..messages {
        courier.send(&domain(place(number)))?;
        pullers.next()?;
    }
    let took = usage::processor_time(world.relay.id())?.saturating_sub(before);
    let addressed = pullers.addressed();
    ensure!(
        addressed <= messages,
        "{messages} messages woke {addressed} sessions"
    );
    Ok(took.as_secs_f64() * 1e6 / messages as f64)
}
