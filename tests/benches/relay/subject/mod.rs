//! What is measured, subject by subject.

mod accept;
mod ceiling;
mod depth;
mod drain;
mod memory;

use anyhow::{Result, ensure};

use crate::figures::Row;
use crate::party::Plan;

/// One subject: a few rows that are measured together.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Subject {
    /// What the disk and the tools can do at best.
    Ceiling,
    /// Durable accepts.
    Accept,
    /// A backlog through one reversed session.
    Drain,
    /// Large messages and resident memory.
    Memory,
    /// A deep queue beside a shallow one.
    Depth,
}

impl Subject {
    const ALL: [Self; 5] = [
        Self::Ceiling,
        Self::Accept,
        Self::Drain,
        Self::Memory,
        Self::Depth,
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Ceiling => "ceiling",
            Self::Accept => "accept",
            Self::Drain => "drain",
            Self::Memory => "memory",
            Self::Depth => "depth",
        }
    }

    /// Those whose names contain any of the filters.
    pub(crate) fn matching(filters: &[String]) -> Result<Vec<Self>> {
        let wanted = |subject: &Self| {
            filters.is_empty() || filters.iter().any(|part| subject.title().contains(&**part))
        };
        let subjects: Vec<Self> = Self::ALL.into_iter().filter(wanted).collect();
        let names = Self::ALL.map(Self::title).join(", ");
        ensure!(
            !subjects.is_empty(),
            "nothing is called so; there are {names}"
        );
        Ok(subjects)
    }

    pub(crate) fn measure(self, plan: &Plan) -> Result<Vec<Row>> {
        match self {
            Self::Ceiling => ceiling::measure(plan),
            Self::Accept => accept::measure(plan),
            Self::Drain => drain::measure(plan),
            Self::Memory => memory::measure(plan),
            Self::Depth => depth::measure(plan),
        }
    }
}
