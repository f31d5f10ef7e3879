//! A backlog on its way in: reversed sessions through the puller, beside Postfix over as many connections.

use anyhow::Result;
use atrn_tests::world::World;

use crate::backlog::Backlog;
use crate::chart::{Axis, Chart};
use crate::figures::{Measured, Row, Unit, Wanted, in_turns};
use crate::party::{DOMAIN, Plan};

/// Reversed sessions side by side, senders whose mail it is, and connections of the sink.
#[derive(Clone, Copy)]
struct Case {
    sessions: usize,
    senders: usize,
    connections: usize,
}

/// The first is the one that figures are wanted of. In the last a session hands over on all of its connections.
const CASES: [Case; 4] = [case(1, 1, 1), case(2, 1, 2), case(4, 1, 4), case(1, 8, 4)];
const RATIO_MIN: f64 = 4.0;
const RATIO_GOAL: f64 = 5.0;

const fn case(sessions: usize, senders: usize, connections: usize) -> Case {
    Case {
        sessions,
        senders,
        connections,
    }
}

pub(super) fn measure(plan: &Plan) -> Result<Measured> {
    let rows = CASES.map(|case| case.measure(plan));
    let mut rows: Vec<Row> = rows.into_iter().collect::<Result<_>>()?;
    if let Some(first) = rows.first_mut() {
        first.wanted.push(Wanted::RatioAtLeast(RATIO_MIN));
        first.goals.push(Wanted::RatioAtLeast(RATIO_GOAL));
    }
    let charts = vec![chart(&rows)];
    Ok(Measured { rows, charts })
}

impl Case {
    fn measure(self, plan: &Plan) -> Result<Row> {
        let sink = plan.sink()?;
        let mut world = plan.relay(&sink.target(), &[DOMAIN]);
        world.puller.configure(|settings| {
            settings.set("relay.sessions", self.sessions as i64);
        });
        let postfix = plan.postfix(sink.address(), self.connections)?;
        let backlog = Backlog {
            sink: &sink,
            messages: match self.connections {
                1 => plan.amount(20_000, 2_000),
                _ => plan.amount(10_000, 2_000),
            },
            senders: self.senders,
            connections: self.connections,
        };
        let World { relay, puller, .. } = &mut world;
        let mut ours = || backlog.pulled(relay.smtp_address(), puller);
        let mut theirs = || backlog.pushed(&postfix);
        let [ours, theirs] = in_turns(plan.runs, [&mut ours, &mut theirs])?;
        let note = format!(
            "{} queued; to smtp-sink on {} from both; ours over TLS, through the puller and its journal",
            backlog.messages,
            counted(self.connections, "connection")
        );
        let sessions = counted(self.sessions, "session");
        let senders = counted(self.senders, "sender");
        let name = format!("drain, 4 KiB, {sessions}, {senders}");
        Ok(Row::new(name, Unit::PerSecond, ours)
            .beside("Postfix", theirs)
            .note(note))
    }
}

fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// Over the sessions, for one sender.
fn chart(rows: &[Row]) -> Chart {
    let points = CASES.iter().zip(rows);
    let points = points.filter(|(case, _)| case.senders == 1);
    let points: Vec<(f64, &Row)> = points
        .map(|(case, row)| (case.sessions as f64, row))
        .collect();
    let sessions = Axis::logarithmic("reversed sessions; connections of Postfix");
    let sessions = sessions.marks(points.iter().map(|(at, _)| *at));
    let rate = Axis::linear("messages a second");
    Chart::new(
        "drain",
        "Drain of a backlog to smtp-sink, 4 KiB",
        sessions,
        rate,
    )
    .rows(points)
}
