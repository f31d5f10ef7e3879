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
use crate::handover::{Group, Handover, Verdict, Verdicts};
use crate::reversed::Terms;

/// The hand-over of a session with the exception for reports.
#[derive(Debug)]
pub(crate) struct Switch {
    inside: Handover,
    /// `None`: there is no exception.
    outside: Option<SmartHost>,
    /// What was asked for.
    domains: Vec<Domain>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// No recipient was named yet; whether the reverse-path is null.
    Open { is_null: bool },
    /// It is for inside.
    Inside,
    /// It is for a sender outside.
    Report(Draft),
}

#[derive(Debug)]
struct Draft {
    to: ForwardPath,
    /// A report has one recipient; this one tried to have more.
    is_spoilt: bool,
    /// As much as may come, and one octet more where more did.
    content: Vec<u8>,
}

impl Switch {
    pub(crate) fn new(inside: Handover, terms: &Terms) -> Self {
        Self {
            inside,
            outside: terms.reports.clone().map(SmartHost::new),
            domains: terms.domains.clone(),
            stage: Stage::Inside,
        }
    }

    /// A transaction begins.
    pub(crate) fn mail(&mut self, reverse_path: &ReversePath) {
        self.stage = Stage::Open {
            is_null: *reverse_path == ReversePath::Null,
        };
    }

    /// A recipient is named: the refusal, if it is ours and the target is not asked (the REV rules).
    pub(crate) fn recipient(&mut self, path: &ForwardPath) -> Option<Reply> {
        let is_inside = match path {
            // Whom every server must have (R5321-9).
            ForwardPath::Postmaster => true,
            ForwardPath::Mailbox(_) => path
                .domain()
                .is_some_and(|domain| self.domains.contains(domain)),
        };
        match &mut self.stage {
            Stage::Open { .. } | Stage::Inside if is_inside => {
                self.stage = Stage::Inside;
                None
            }
            Stage::Open { is_null: true } if is_outside(path) => self.report_to(path),
            Stage::Open { .. } | Stage::Inside => Some(not_asked_for()),
            Stage::Report(draft) => {
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
    fn report_to(&mut self, path: &ForwardPath) -> Option<Reply> {
        let Some(outside) = &self.outside else {
            return Some(no_way_out());
        };
        let Reports {
            traffic,
            max_per_hour,
            ..
        } = outside.reports();
        if !traffic.is_open(*max_per_hour) {
            return Some(too_many());
        }
        self.stage = Stage::Report(Draft {
            to: path.clone(),
            is_spoilt: false,
            content: Vec::new(),
        });
        None
    }

    /// Whether the transaction is for a sender outside.
    pub(crate) fn is_report(&self) -> bool {
        matches!(self.stage, Stage::Report(_))
    }

    /// See [`Handover::begin`].
    pub(crate) async fn begin(&mut self, group: &Group) -> Verdicts {
        if !self.is_report() {
            return self.inside.begin(group).await;
        }
        // A MAIL that came alone has been passed on before anybody could know.
        self.inside.abandon().await;
        Verdicts::positive(group)
    }

    /// See [`Handover::body`].
    pub(crate) async fn body(&mut self, part: &[u8]) {
        match &mut self.stage {
            Stage::Report(draft) => {
                let room = (REPORT_OCTETS + 1).saturating_sub(draft.content.len());
                draft
                    .content
                    .extend_from_slice(&part[..part.len().min(room)]);
            }
            Stage::Open { .. } | Stage::Inside => self.inside.body(part).await,
        }
    }

    /// See [`Handover::finish`].
    pub(crate) async fn finish(&mut self) -> Verdict {
        match std::mem::replace(&mut self.stage, Stage::Inside) {
            Stage::Report(draft) => self.judge(draft).await,
            Stage::Open { .. } | Stage::Inside => self.inside.finish().await,
        }
    }

    /// See [`Handover::abandon`].
    pub(crate) async fn abandon(&mut self) {
        self.stage = Stage::Inside;
        self.inside.abandon().await;
    }

    /// See [`Handover::is_exhausted`]. Mail for inside does not depend on the smart host.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.inside.is_exhausted()
    }

    /// See [`Handover::quit`].
    pub(crate) async fn quit(self) {
        self.inside.quit().await;
        if let Some(outside) = self.outside {
            outside.quit().await;
        }
    }

    async fn judge(&mut self, draft: Draft) -> Verdict {
        let Draft {
            to,
            is_spoilt,
            content,
        } = draft;
        let (Some(outside), ForwardPath::Mailbox(mailbox)) = (&mut self.outside, &to) else {
            return Verdict::ours(not_asked_for());
        };
        if is_spoilt {
            return Verdict::ours(no_report(&"it has more than one recipient"));
        }
        let report = match Report::read(&content, &self.domains) {
            Ok(report) => report,
            Err(reason) => return Verdict::ours(no_report(&reason)),
        };
        let reports = outside.reports().clone();
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
        let verdict = outside.send(&to, &content).await;
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
