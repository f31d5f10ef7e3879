//! A backlog on its way in: reversed sessions through the puller, beside Postfix over as many connections.

use anyhow::Result;
use atrn_tests::world::World;

use crate::backlog::Backlog;
use crate::chart::{Axis, Chart};
use crate::figures::{Measured, Row, Unit, Wanted, in_turns};
use crate::party::{DOMAIN, Plan};

/// Reversed sessions side by side.
const SESSIONS: [usize; 3] = [1, 2, 4];
/// What is wanted of one, and what would be good.
const RATIO_MIN: f64 = 4.0;
const RATIO_GOAL: f64 = 5.0;

pub(super) fn measure(plan: &Plan) -> Result<Measured> {
    let rows = SESSIONS.map(|sessions| drain(plan, sessions));
    let rows: Vec<Row> = rows.into_iter().collect::<Result<_>>()?;
    let places = SESSIONS.map(|sessions| sessions as f64);
    let chart = Chart::new(
        "drain",
        "Drain of a backlog to smtp-sink, 4 KiB",
        Axis::logarithmic("reversed sessions; connections of Postfix").marks(places),
        Axis::linear("messages a second"),
    );
    let charts = vec![chart.rows(places.into_iter().zip(&rows))];
    Ok(Measured { rows, charts })
}

fn drain(plan: &Plan, sessions: usize) -> Result<Row> {
    let sink = plan.sink()?;
    let mut world = plan.relay(&sink.target(), &[DOMAIN]);
    world.puller.configure(|settings| {
        settings.set("relay.sessions", sessions as i64);
    });
    let postfix = plan.postfix(sink.address(), sessions)?;
    let backlog = Backlog {
        sink: &sink,
        messages: match sessions {
            1 => plan.amount(20_000, 2_000),
            _ => plan.amount(10_000, 2_000),
        },
        connections: sessions,
    };
    let World { relay, puller, .. } = &mut world;
    let mut ours = || backlog.pulled(relay.smtp_address(), puller);
    let mut theirs = || backlog.pushed(&postfix);
    let [ours, theirs] = in_turns(plan.runs, [&mut ours, &mut theirs])?;
    let note = format!(
        "{} queued; ours over TLS, through the puller and its journal; to smtp-sink a connection a session, from both",
        backlog.messages
    );
    let name = match sessions {
        1 => "drain, 4 KiB, one session".to_owned(),
        more => format!("drain, 4 KiB, {more} sessions"),
    };
    let row = Row::new(name, Unit::PerSecond, ours)
        .beside("Postfix", theirs)
        .note(note);
    Ok(match sessions {
        1 => row
            .wanted(Wanted::RatioAtLeast(RATIO_MIN))
            .goal(Wanted::RatioAtLeast(RATIO_GOAL)),
        _ => row,
    })
}
