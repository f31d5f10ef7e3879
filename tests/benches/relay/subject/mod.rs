//! What is measured, subject by subject.

mod accept;
mod auth;
mod ceiling;
mod crowd;
mod delay;
mod depth;
mod drain;
mod hostile;
mod idle;
mod journal;
mod large;
mod latency;
mod memory;
mod names;
mod poll;
mod pressure;

use anyhow::{Result, ensure};

use crate::figures::Measured;
use crate::party::Plan;

/// A few rows that are measured together, and their charts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) measure: fn(&Plan) -> Result<Measured>,
}

/// In the order of the table.
const ALL: &[Subject] = &[
    // What the machine and the tools can do at best.
    subject("ceiling", ceiling::measure),
    // Durable accepts.
    subject("accept", accept::measure),
    // The same, with names looked up.
    subject("names", names::measure),
    // A backlog through reversed sessions.
    subject("drain", drain::measure),
    // The same over long lines.
    subject("delay", delay::measure),
    // What the puller's journal costs.
    subject("journal", journal::measure),
    // Nothing there.
    subject("poll", poll::measure),
    // Large messages.
    subject("large", large::measure),
    // Resident memory over large messages.
    subject("memory", memory::measure),
    // From accept to the corporate server.
    subject("latency", latency::measure),
    // A deep queue beside a shallow one.
    subject("depth", depth::measure),
    // Thousands of pullers that wait.
    subject("idle", idle::measure),
    // Accounts that exist and accounts that do not.
    subject("auth", auth::measure),
    // A drain beside pullers who mean harm.
    subject("hostile", hostile::measure),
    // Thousands of senders that say nothing.
    subject("crowd", crowd::measure),
    // An honest sender beside hostile ones.
    subject("pressure", pressure::measure),
];

const fn subject(name: &'static str, measure: fn(&Plan) -> Result<Measured>) -> Subject {
    Subject { name, measure }
}

impl Subject {
    /// Those whose names contain any of the filters.
    pub(crate) fn matching(filters: &[String]) -> Result<Vec<Self>> {
        let wanted = |subject: &&Self| {
            filters.is_empty() || filters.iter().any(|part| subject.name.contains(&**part))
        };
        let subjects: Vec<Self> = ALL.iter().filter(wanted).copied().collect();
        let names: Vec<&str> = ALL.iter().map(|subject| subject.name).collect();
        ensure!(
            !subjects.is_empty(),
            "nothing is called so; there are {}",
            names.join(", ")
        );
        Ok(subjects)
    }
}
