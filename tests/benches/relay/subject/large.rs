//! Large messages on their way in: MB a second, beside Postfix, and beside a file of that size that is copied and
//! synced on the same disk.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, anyhow};

use crate::chart::{Axis, Chart};
use crate::courier::Courier;
use crate::figures::{Measured, Row, Run, Unit, Wanted, in_turns};
use crate::party::{DOMAIN, Plan};

const OCTETS: usize = 50_000_000;
/// Messages at once.
const SESSIONS: [usize; 3] = [1, 4, 8];
/// Messages of a run.
const MESSAGES: usize = 8;
const RATIO_MIN: f64 = 1.0;
const SHARE_MIN: f64 = 0.7;

pub(super) fn measure(plan: &Plan) -> Result<Measured> {
    let rows = SESSIONS.map(|sessions| accepted(plan, sessions));
    let rows: Vec<Row> = rows.into_iter().collect::<Result<_>>()?;
    let places = SESSIONS.map(|sessions| sessions as f64);
    let chart = Chart::new(
        "large",
        "Durable accepts of 50 MB",
        Axis::logarithmic("messages at once").marks(places),
        Axis::linear("MB a second"),
    );
    let charts = vec![chart.rows(places.into_iter().zip(&rows))];
    Ok(Measured { rows, charts })
}

/// In turns, on fresh queues.
fn accepted(plan: &Plan, sessions: usize) -> Result<Row> {
    let sink = plan.sink()?;
    let world = plan.relay(&sink.target(), &[DOMAIN]);
    let postfix = plan.postfix(sink.address(), 1)?;
    let original = plan.folder.join("original");
    fs::write(&original, vec![b'x'; OCTETS])?;
    let parties: [Run<'_>; 4] = [
        &mut || sent(world.relay.smtp_address(), sessions),
        &mut || sent(postfix.address(), sessions),
        &mut || copied(&original, 1),
        &mut || copied(&original, sessions),
    ];
    let [ours, theirs, one_by_one, at_once] = in_turns(plan.runs, parties)?;
    let plural = if sessions == 1 { "" } else { "s" };
    let name = format!("durable accepts, 50 MB, {sessions} session{plural}");
    Ok(Row::new(name, Unit::MegabytesPerSecond, ours)
        .beside("Postfix", theirs)
        .limit("a file copied and synced", one_by_one)
        .wanted(Wanted::RatioAtLeast(RATIO_MIN))
        .wanted(Wanted::ShareAtLeast(SHARE_MIN))
        .note(format!(
            "as many copies at once: {:.0} MB/s",
            at_once.median()
        )))
}

/// MB a second, from the first MAIL to the last 250.
fn sent(address: SocketAddr, sessions: usize) -> Result<f64> {
    let couriers = (0..sessions).map(|_| Courier::connect(address, OCTETS));
    let couriers: Vec<Courier> = couriers.collect::<Result<_>>()?;
    side_by_side(couriers, |mut courier| {
        (0..MESSAGES / sessions).try_for_each(|_| courier.send(DOMAIN).map(drop))
    })
}

/// MB a second of as many files at a time, each a new one.
fn copied(original: &Path, sessions: usize) -> Result<f64> {
    let copy = |number: usize| original.with_extension(number.to_string());
    let rate = side_by_side((0..sessions).collect(), |session| {
        (session..MESSAGES)
            .step_by(sessions)
            .try_for_each(|number| {
                fs::copy(original, copy(number))?;
                Ok(File::open(copy(number))?.sync_all()?)
            })
    });
    (0..MESSAGES).try_for_each(|number| fs::remove_file(copy(number)))?;
    rate
}

/// Each does its share of the messages on a thread of its own; returns MB a second of them all.
fn side_by_side<T: Send>(parties: Vec<T>, work: impl Fn(T) -> Result<()> + Sync) -> Result<f64> {
    let work = &work;
    let started = Instant::now();
    std::thread::scope(|scope| {
        let threads = parties
            .into_iter()
            .map(|party| scope.spawn(move || work(party)));
        let threads: Vec<_> = threads.collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| anyhow!("a session panicked"))?)
    })?;
    Ok((MESSAGES * OCTETS) as f64 / 1e6 / started.elapsed().as_secs_f64())
}
