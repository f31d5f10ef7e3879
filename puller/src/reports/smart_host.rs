//! The connection to the smart host: opened when the first report of a session wants to leave, kept for the next.

use atrn_shared::log::peer;
use atrn_shared::smtp::address::{ForwardPath, ReversePath};
use atrn_shared::smtp::parameter::{BodyType, MailParameters, Notify, RcptParameters};
use atrn_shared::smtp::reply::Reply;
use atrn_shared::smtp::server::Framing;
use tokio::time::timeout;
use tracing::warn;

use super::Reports;
use crate::handover::{Group, Handover, RECONNECT_TIMEOUT, Verdict, Verdicts};

/// The way outside.
#[derive(Debug)]
pub(super) struct SmartHost {
    reports: Reports,
    handover: Option<Handover>,
}

impl SmartHost {
    pub(super) fn new(reports: Reports) -> Self {
        Self {
            reports,
            handover: None,
        }
    }

    pub(super) fn reports(&self) -> &Reports {
        &self.reports
    }

    /// Sends a message from nobody; its verdict is the smart host's, or that it has to wait.
    pub(super) async fn send(&mut self, to: &ForwardPath, content: &[u8]) -> Verdict {
        let handover = match self.open().await {
            Ok(handover) => handover,
            Err(reply) => return Verdict::ours(reply),
        };
        let verdicts = handover.begin(&group(to, content)).await;
        let verdict = match refusal(verdicts) {
            None => {
                handover.body(content).await;
                handover.finish().await
            }
            Some(reply) => {
                handover.abandon().await;
                Verdict::ours(reply)
            }
        };
        if handover.is_exhausted() {
            self.handover = None;
            self.reports.traffic.note_failure();
        }
        verdict
    }

    pub(super) async fn quit(self) {
        if let Some(handover) = self.handover {
            handover.quit().await;
        }
    }

    async fn open(&mut self) -> Result<&mut Handover, Reply> {
        let handover = match self.handover.take() {
            Some(handover) => handover,
            None => self.connect().await?,
        };
        Ok(self.handover.insert(handover))
    }

    async fn connect(&self) -> Result<Handover, Reply> {
        let Reports { setup, traffic, .. } = &self.reports;
        if !traffic.is_worth_a_try() {
            return Err(unreachable());
        }
        let reason = match timeout(RECONNECT_TIMEOUT, Handover::open(setup)).await {
            Ok(Ok(handover)) => return Ok(handover),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it took too long".to_owned(),
        };
        traffic.note_failure();
        warn!(target = %setup.target(), reason = %peer(&reason), "cannot reach the target of reports");
        Err(unreachable())
    }
}

fn group(to: &ForwardPath, content: &[u8]) -> Group {
    let is_ascii = content.is_ascii();
    let parameters = MailParameters {
        size: Some(content.len() as u64),
        // RFC 6531 §3.4: an address that is not ASCII needs both.
        body: (!is_ascii).then_some(BodyType::EightBitMime),
        smtputf8: !is_ascii,
        ..MailParameters::default()
    };
    // RFC 3461 §6.2: of a report nobody is told.
    let recipient = RcptParameters {
        notify: Some(Notify::Never),
        orcpt: None,
    };
    Group {
        mail: Some((ReversePath::Null, parameters)),
        recipients: vec![(to.clone(), recipient)],
        content: Some(Framing::Data),
        ..Group::default()
    }
}

/// The first answer that is not the one that lets content flow.
fn refusal(verdicts: Verdicts) -> Option<Reply> {
    let Verdicts {
        mail,
        recipients,
        content,
    } = verdicts;
    let mut refused = mail
        .into_iter()
        .chain(recipients)
        .filter(|reply| !reply.is_positive())
        .chain(content.filter(|reply| !reply.is_intermediate()));
    refused.next()
}

fn unreachable() -> Reply {
    Reply::new(451, "4.4.1", "The target of reports cannot be reached")
}
