//! Where a transaction goes: inside, or, when it is a report to a sender outside, to the smart host.
//!
//! That it is one shows only at its end. A recipient outside is taken for the time being; the content is kept in memory,
//! and the corporate server hears nothing of it.

use atrn_shared::smtp::address::{Domain, ForwardPath, ReversePath};
use atrn_shared::smtp::reply::Reply;
use aws_lc_rs::rand;
use jiff::Zoned;
use tracing::info;

use super::Reports;
use super::rebuild::{Stamp, rebuild};
use super::rule::{REPORT_OCTETS, Report, is_outside};
use super::smart_host::SmartHost;
use crate::handover::Verdict;

/// What decides, for a session.
#[derive(Debug)]
pub(crate) struct Switch {
    /// `None`: there is no exception.
    reports: Option<Reports>,
    /// What was asked for.
    domains: Vec<Domain>,
}

/// Where a transaction goes, as far as that is known.
#[derive(Debug)]
pub(crate) enum Route {
    /// No recipient was named yet; whether the reverse-path is null.
    Open { is_null: bool },
    /// It is for inside.
    Inside,
    /// It is for a sender outside.
    Report(Draft),
}

/// What may become a report.
#[derive(Debug)]
pub(crate) struct Draft {
    to: ForwardPath,
    /// A report has one recipient; this one tried to have more.
    is_spoilt: bool,
    /// As much as may come, and one octet more where more did.
    content: Vec<u8>,
}

/// The way outside of a session: one connection, and one report at a time.
#[derive(Debug)]
pub(crate) struct Outside {
    smart_host: SmartHost,
    domains: Vec<Domain>,
}

impl Switch {
    pub(crate) fn new(reports: Option<&Reports>, domains: &[Domain]) -> Self {
        Self {
            reports: reports.cloned(),
            domains: domains.to_vec(),
        }
    }

    /// The way outside, if there is one.
    pub(crate) fn outside(&self) -> Option<Outside> {
        Some(Outside {
            smart_host: SmartHost::new(self.reports.clone()?),
            domains: self.domains.clone(),
        })
    }

    /// A recipient is named: the refusal, if it is ours and the target is not asked (the REV rules).
    pub(crate) fn recipient(&self, route: &mut Route, path: &ForwardPath) -> Option<Reply> {
        let is_inside = match path {
            // Whom every server must have (R5321-9).
            ForwardPath::Postmaster => true,
            ForwardPath::Mailbox(_) => path
                .domain()
                .is_some_and(|domain| self.domains.contains(domain)),
        };
        match route {
            Route::Open { .. } | Route::Inside if is_inside => {
                *route = Route::Inside;
                None
            }
            Route::Open { is_null: true } if is_outside(path) => match self.draft(path) {
                Ok(draft) => {
                    *route = Route::Report(draft);
                    None
                }
                Err(refusal) => Some(refusal),
            },
            Route::Open { .. } | Route::Inside => Some(not_asked_for()),
            Route::Report(draft) => {
                draft.is_spoilt = true;
                Some(if is_inside {
                    Reply::new(452, "4.5.3", "A report has one recipient")
                } else {
                    not_asked_for()
                })
            }
        }
    }

    /// The first recipient of a message from nobody, and none of ours.
    fn draft(&self, path: &ForwardPath) -> Result<Draft, Reply> {
        let Some(reports) = &self.reports else {
            return Err(no_way_out());
        };
        if !reports.traffic.is_open(reports.max_per_hour) {
            return Err(too_many());
        }
        Ok(Draft {
            to: path.clone(),
            is_spoilt: false,
            content: Vec::new(),
        })
    }
}

impl Route {
    /// A transaction begins.
    pub(crate) fn begin(reverse_path: &ReversePath) -> Self {
        Self::Open {
            is_null: *reverse_path == ReversePath::Null,
        }
    }

    /// Whether the transaction is for a sender outside.
    pub(crate) fn is_report(&self) -> bool {
        matches!(self, Self::Report(_))
    }
}

impl Draft {
    /// Content, which the corporate server hears nothing of.
    pub(crate) fn add(&mut self, part: &[u8]) {
        let room = (REPORT_OCTETS + 1).saturating_sub(self.content.len());
        self.content
            .extend_from_slice(&part[..part.len().min(room)]);
    }
}

impl Outside {
    /// Takes leave of the smart host.
    pub(crate) async fn quit(self) {
        self.smart_host.quit().await;
    }

    /// The content is complete: whether it is a report, and what the smart host says to it. Mail for inside does not
    /// depend on that.
    pub(crate) async fn judge(&mut self, draft: Draft) -> Verdict {
        let Draft {
            to,
            is_spoilt,
            content,
        } = draft;
        let ForwardPath::Mailbox(mailbox) = &to else {
            return Verdict::ours(not_asked_for());
        };
        if is_spoilt {
            return Verdict::ours(no_report(&"it has more than one recipient"));
        }
        let report = match Report::read(&content, &self.domains) {
            Ok(report) => report,
            Err(reason) => return Verdict::ours(no_report(&reason)),
        };
        let reports = self.smart_host.reports().clone();
        let Some(ticket) = reports.traffic.take(reports.max_per_hour).await else {
            return Verdict::ours(too_many());
        };
        let (id, now) = (identifier(), Zoned::now());
        let stamp = Stamp {
            to: mailbox,
            id: &id,
            now: &now,
        };
        let content = rebuild(&report, &stamp);
        let verdict = self.smart_host.send(&to, &content).await;
        if verdict.reply.is_positive() {
            info!(target = %reports.setup.target(), %id, size = content.len(), "a report left");
        } else if verdict.reply.is_transient() {
            reports.traffic.give_back(ticket).await;
        }
        verdict
    }
}

/// For a Message-ID: nothing in it tells of this host.
fn identifier() -> String {
    let mut octets = [0; 16];
    // Without randomness the time is different each time as well, as long as no two leave at once.
    match rand::fill(&mut octets) {
        Ok(()) => format!("{:032x}", u128::from_be_bytes(octets)),
        Err(_) => format!("{:x}", Zoned::now().timestamp().as_nanosecond()),
    }
}

fn not_asked_for() -> Reply {
    Reply::new(550, "5.7.1", "Mail for this domain was not asked for")
}

fn no_way_out() -> Reply {
    Reply::new(
        550,
        "5.7.1",
        "This puller passes no reports to outside: it has no [reports]",
    )
}

fn no_report(reason: &dyn std::fmt::Display) -> Reply {
    Reply::new(
        550,
        "5.7.1",
        format!("Not a report that goes outside: {reason}"),
    )
}

fn too_many() -> Reply {
    Reply::new(
        450,
        "4.7.1",
        "Too many reports in this hour; try again later",
    )
}
