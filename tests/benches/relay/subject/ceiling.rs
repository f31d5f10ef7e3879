//! What no mail server on this machine can exceed: the syncs of the disk, and the tools among themselves.

use std::fs::File;
use std::io::Write as _;
use std::time::Instant;

use anyhow::Result;

use crate::figures::{Row, Samples, Unit};
use crate::party::{DOMAIN, Load, Plan};

pub(super) fn measure(plan: &Plan) -> Result<Vec<Row>> {
    let mut rows = vec![
        Row::new(
            "4 KiB appended and synced, one after the other",
            Unit::PerSecond,
            syncs(plan)?,
        )
        .note("the disk"),
    ];
    let sink = plan.sink()?;
    for (sessions, octets, name) in [
        (50, 4 << 10, "smtp-source to smtp-sink, 4 KiB, 50 sessions"),
        (1, 4 << 10, "smtp-source to smtp-sink, 4 KiB, 1 session"),
        (10, 1 << 20, "smtp-source to smtp-sink, 1 MiB, 10 sessions"),
    ] {
        let load = Load {
            sessions,
            octets,
            domain: DOMAIN,
        };
        let messages = load.fitting(plan, sink.address())?;
        let mut rates = Samples::default();
        for _ in 0..plan.runs {
            let took = load.send(sink.address(), messages)?;
            rates.push(messages as f64 / took.as_secs_f64());
        }
        rows.push(Row::new(name, Unit::PerSecond, rates).note("nothing stored"));
    }
    Ok(rows)
}

fn syncs(plan: &Plan) -> Result<Samples> {
    let path = plan.folder.join("syncs");
    let mut rates = Samples::default();
    for _ in 0..plan.runs {
        let mut file = File::create(&path)?;
        let block = [b'x'; 4 << 10];
        let started = Instant::now();
        let mut count = 0_u32;
        while started.elapsed() < plan.run_length / 2 {
            file.write_all(&block)?;
            file.sync_data()?;
            count += 1;
        }
        rates.push(f64::from(count) / started.elapsed().as_secs_f64());
    }
    std::fs::remove_file(&path)?;
    Ok(rates)
}
