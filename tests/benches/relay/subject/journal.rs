//! What the puller's journal costs: several sessions with it on the disk, beside the same with it in memory, where a
//! sync is nothing; and beside a puller of another build, such as one of before the journal.

use std::fs;
use std::path::Path;

use anyhow::Result;
use atrn_tests::world::{ACCOUNT, Puller, World};

use crate::backlog::Backlog;
use crate::figures::{Measured, Row, Unit, Wanted, in_turns};
use crate::party::{DOMAIN, Plan};

/// Reversed sessions side by side.
const SESSIONS: usize = 4;
const RATIO_MIN: f64 = 0.9;

pub(super) fn measure(plan: &Plan) -> Result<Measured> {
    let memory = plan.in_memory();
    fs::create_dir_all(&memory)?;
    let row = beside(plan, "journal in memory", |puller| {
        several_sessions(puller);
        let folder = memory.display().to_string();
        puller.configure(|settings| {
            settings.set("data_dir", folder);
        });
    });
    fs::remove_dir_all(&memory)?;
    let mut rows = vec![row?];
    if let Some(program) = &plan.puller_before {
        let before = beside(plan, "puller before", |puller| {
            is_another_build(puller, program);
        });
        rows.push(before?.wanted(Wanted::RatioAtLeast(RATIO_MIN)));
    }
    Ok(rows.into())
}

/// One relay, and two pullers of the same account in turns.
fn beside(plan: &Plan, what: &str, set_up: impl FnOnce(&mut Puller)) -> Result<Row> {
    let sink = plan.sink()?;
    let mut world = plan.relay(&sink.target(), &[DOMAIN]);
    several_sessions(&mut world.puller);
    let mut other = world.another_puller(ACCOUNT, &[DOMAIN], &sink.target());
    set_up(&mut other);
    let backlog = Backlog {
        sink: &sink,
        messages: plan.amount(10_000, 2_000),
        senders: 1,
        connections: SESSIONS,
    };
    let World { relay, puller, .. } = &mut world;
    let relay = relay.smtp_address();
    let parties: [&mut dyn FnMut() -> Result<f64>; 2] =
        [&mut || backlog.pulled(relay, puller), &mut || {
            backlog.pulled(relay, &mut other)
        }];
    let [ours, others] = in_turns(plan.runs, parties)?;
    let name = format!("drain, 4 KiB, {SESSIONS} sessions, journal on the disk");
    Ok(Row::new(name, Unit::PerSecond, ours)
        .beside(what, others)
        .note(format!("{} queued", backlog.messages)))
}

fn several_sessions(puller: &mut Puller) {
    puller.configure(|settings| {
        settings.set("relay.sessions", SESSIONS as i64);
    });
}

/// It may not know of sessions: to it the relay has several names, and it pulls from all at once.
fn is_another_build(puller: &mut Puller, program: &Path) {
    puller.set_program(program.to_owned());
    puller.configure(|settings| {
        let relays = settings.table().get_mut("relay");
        let relays = relays.and_then(toml::Value::as_array_mut);
        let relays = relays.expect("a list of relays");
        let one = relays[0].clone();
        relays.clear();
        for number in 1..=SESSIONS {
            let mut relay = one.clone();
            let table = relay.as_table_mut().expect("a table");
            table.insert("name".to_owned(), format!("mx{number}").into());
            relays.push(relay);
        }
    });
}
