//! Durable accepts: how many messages a second get their 250, beside Postfix, and beside a sink that stores nothing.

use std::net::SocketAddr;

use anyhow::Result;

use crate::chart::{Axis, Chart};
use crate::figures::{Measured, Row, Samples, Unit, Wanted, in_turns};
use crate::party::{Connections, DOMAIN, Load, Plan};
use crate::usage;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// One cell, and how many times Postfix's rate is wanted.
#[derive(Clone, Copy)]
struct Case {
    sessions: usize,
    octets: usize,
    connections: Connections,
    least: f64,
}

const CASES: [Case; 11] = [
    kept(1, 4 * KIB, 1.5),
    kept(10, 4 * KIB, 1.5),
    kept(50, 4 * KIB, 7.0),
    kept(100, 4 * KIB, 1.5),
    new(1, 4 * KIB, 1.5),
    new(10, 4 * KIB, 1.5),
    new(50, 4 * KIB, 3.0),
    new(100, 4 * KIB, 1.5),
    kept(10, KIB, 1.5),
    kept(10, 64 * KIB, 2.0),
    kept(10, MIB, 2.0),
];

/// The cell that has a goal beyond what is wanted, and that goal: so many times Postfix, and this share of the limit.
const GOAL_SESSIONS: usize = 50;
const GOAL_RATIO: f64 = 10.0;
const GOAL_SHARE: f64 = 0.6;

const fn kept(sessions: usize, octets: usize, least: f64) -> Case {
    Case {
        sessions,
        octets,
        connections: Connections::Kept,
        least,
    }
}

const fn new(sessions: usize, octets: usize, least: f64) -> Case {
    Case {
        sessions,
        octets,
        connections: Connections::New,
        least,
    }
}

pub(super) fn measure(plan: &Plan) -> Result<Measured> {
    let measured = CASES.map(|case| case.measure(plan));
    let rows: Vec<Row> = measured.into_iter().collect::<Result<_>>()?;
    let charts = vec![
        over_sessions("accept-kept", "connections kept", Connections::Kept, &rows),
        over_sessions(
            "accept-new",
            "a new connection each",
            Connections::New,
            &rows,
        ),
        over_size(&rows),
    ];
    Ok(Measured { rows, charts })
}

fn over_sessions(name: &str, title: &str, connections: Connections, rows: &[Row]) -> Chart {
    let is_on = |case: &Case| case.octets == 4 * KIB && case.connections == connections;
    let cases = CASES.iter().filter(|case| is_on(case));
    let sessions =
        Axis::logarithmic("sessions at once").marks(cases.map(|case| case.sessions as f64));
    let points = CASES.iter().zip(rows).filter(|(case, _)| is_on(case));
    Chart::new(
        name,
        format!("Durable accepts, 4 KiB, {title}"),
        sessions,
        Axis::linear("messages a second"),
    )
    .rows(points.map(|(case, row)| (case.sessions as f64, row)))
}

fn over_size(rows: &[Row]) -> Chart {
    let is_on = |case: &Case| case.sessions == 10 && case.connections == Connections::Kept;
    let points = CASES.iter().zip(rows).filter(|(case, _)| is_on(case));
    let mut points: Vec<(f64, &Row)> = points
        .map(|(case, row)| (case.octets as f64, row))
        .collect();
    points.sort_by(|one, other| one.0.total_cmp(&other.0));
    let sizes = points.iter().fold(
        Axis::logarithmic("size of a message"),
        |axis, (octets, _)| axis.mark(*octets, size(*octets as usize)),
    );
    let rate = Axis::logarithmic("messages a second");
    Chart::new(
        "accept-size",
        "Durable accepts over size, 10 sessions, connections kept",
        sizes,
        rate,
    )
    .rows(points)
}

impl Case {
    /// In turns, on fresh queues.
    fn measure(self, plan: &Plan) -> Result<Row> {
        let load = Load {
            sessions: self.sessions,
            octets: self.octets,
            domain: DOMAIN,
            connections: self.connections,
        };
        let sink = plan.sink()?;
        let relay = plan.relay(&sink.target(), &[DOMAIN]);
        let postfix = plan.postfix(sink.address(), 1)?;
        let timed = |address: SocketAddr| {
            let messages = load.fitting(plan, address)?;
            anyhow::Ok(move || load.rate(address, messages))
        };
        let ours_messages = load.fitting(plan, relay.relay.smtp_address())?;
        let mut processor = Samples::default();
        let mut ours = || {
            let before = usage::processor_time(relay.relay.id())?;
            let rate = load.rate(relay.relay.smtp_address(), ours_messages)?;
            let taken = usage::processor_time(relay.relay.id())? - before;
            processor.push(taken.as_secs_f64() * 1e6 / ours_messages as f64);
            Ok(rate)
        };
        let mut theirs = timed(postfix.address())?;
        let mut nobodys = timed(sink.address())?;
        let parties: [&mut dyn FnMut() -> Result<f64>; 3] = [&mut ours, &mut theirs, &mut nobodys];
        let [ours, theirs, nobodys] = in_turns(plan.runs, parties)?;
        let note = format!("relay: {:.0} µs of processor a message", processor.median());
        let row = Row::new(self.name(), Unit::PerSecond, ours)
            .beside("Postfix", theirs)
            .limit("smtp-sink", nobodys)
            .wanted(Wanted::RatioAtLeast(self.least))
            .note(note);
        Ok(self.with_goal(row))
    }

    fn with_goal(self, row: Row) -> Row {
        let has_goal = self.sessions == GOAL_SESSIONS && self.connections == Connections::Kept;
        if !has_goal {
            return row;
        }
        row.goal(Wanted::RatioAtLeast(GOAL_RATIO))
            .goal(Wanted::ShareAtLeast(GOAL_SHARE))
    }

    fn name(self) -> String {
        let plural = if self.sessions == 1 { "" } else { "s" };
        let connections = match self.connections {
            Connections::Kept => "",
            Connections::New => ", a new connection each",
        };
        let (size, sessions) = (size(self.octets), self.sessions);
        format!("durable accepts, {size}, {sessions} session{plural}{connections}")
    }
}

fn size(octets: usize) -> String {
    match octets {
        octets if octets >= MIB => format!("{} MiB", octets / MIB),
        octets => format!("{} KiB", octets / KIB),
    }
}
