//! One way out for whole messages: a connection to the target, or the way outside. It carries one message at a time.

use std::net::IpAddr;
use std::sync::Arc;

use atrn_shared::smtp::address::ForwardPath;
use atrn_shared::smtp::reply::Reply;
use atrn_shared::smtp::server::{Hello, HelloKind, Server};
use atrn_shared::smtp::trace::{ReverseName, Trace};
use atrn_shared::wire::Wire;
use jiff::Zoned;
use tokio::sync::oneshot;

use super::Terms;
use crate::handover::{Group, Handover, Verdict, Verdicts};
use crate::journal::{Expectation, Journal};
use crate::reports::{Outside, Route};

/// A whole message for a lane.
#[derive(Debug)]
pub(super) struct Job {
    /// Its place in the order of the relay.
    pub(super) number: u64,
    /// Those with the same one stay in order; `None`: nobody asks for an order.
    pub(super) sender: Option<u64>,
    pub(super) group: Group,
    pub(super) route: Route,
    pub(super) content: Vec<u8>,
    pub(super) smtputf8: bool,
    /// What the logs call it, behind the session.
    pub(super) count: u64,
    pub(super) stamp: Arc<Stamp>,
    /// Learns what is said to the envelope as soon as it is known.
    pub(super) learns: Learner,
}

/// Who asked for an envelope.
#[derive(Debug)]
pub(super) struct Learner(pub(super) oneshot::Sender<Envelope>);

/// An envelope, and what was said to it.
#[derive(Debug)]
pub(super) struct Envelope {
    pub(super) group: Group,
    pub(super) verdicts: Verdicts,
}

/// What became of it.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) number: u64,
    /// `None`: its envelope let no content in.
    pub(super) verdict: Option<Verdict>,
    pub(super) octets: u64,
    /// Held until it is written down.
    pub(super) expected: Option<Expectation>,
    /// The target has failed so often that it is no use to ask for more.
    pub(super) is_exhausted: bool,
}

/// Where a lane leads.
#[derive(Debug)]
pub(super) enum Way {
    Inside(Handover),
    Outside(Box<Outside>),
}

/// A lane with a message on it.
#[derive(Debug)]
pub(super) struct Ride {
    pub(super) way: Way,
    pub(super) job: Box<Job>,
    /// Its envelope goes out behind the message.
    pub(super) following: Option<Box<Job>>,
    pub(super) journal: Journal,
}

impl Way {
    /// Whether the message goes this way.
    pub(super) fn is_for(&self, job: &Job) -> bool {
        matches!(self, Self::Outside(_)) == job.route.is_report()
    }

    pub(super) async fn quit(self) {
        match self {
            Self::Inside(handover) => handover.quit().await,
            Self::Outside(outside) => outside.quit().await,
        }
    }
}

impl Ride {
    /// The message to its end; the way is free for the following one then.
    pub(super) async fn run(self) -> (Way, Box<Done>, Option<Box<Job>>) {
        let Self {
            mut way,
            job,
            following,
            journal,
        } = self;
        let (number, octets) = (job.number, job.content.len() as u64);
        let (verdict, expected) = match &mut way {
            Way::Inside(handover) => inside(handover, *job, following.as_deref(), &journal).await,
            Way::Outside(outside) => outward(outside, *job, &journal).await,
        };
        let is_exhausted = matches!(&way, Way::Inside(handover) if handover.is_exhausted());
        let done = Box::new(Done {
            number,
            verdict,
            octets,
            expected,
            is_exhausted,
        });
        (way, done, following)
    }
}

type Carried = (Option<Verdict>, Option<Expectation>);

async fn inside(
    handover: &mut Handover,
    job: Job,
    following: Option<&Job>,
    journal: &Journal,
) -> Carried {
    let verdicts = handover.begin(&job.group).await;
    let lets_in = verdicts
        .content
        .as_ref()
        .is_some_and(Reply::is_intermediate);
    let header = lets_in.then(|| job.header(&verdicts));
    job.learns.tell(job.group, verdicts);
    let Some(header) = header else {
        handover.abandon().await;
        return (None, None);
    };
    handover.body(header.as_bytes()).await;
    handover.body(&job.content).await;
    // From here on the message may be inside: we are not cut off before that is known and written down (OWN-4).
    let Some(expected) = journal.expect_entry() else {
        // Where the connection ends within content nothing was handed over (OWN-3).
        handover.abandon().await;
        return (Some(Verdict::too_late()), None);
    };
    let next = following.map(|job| &job.group);
    let verdict = handover.finish_before(next).await;
    (Some(verdict), Some(expected))
}

async fn outward(outside: &mut Outside, job: Job, journal: &Journal) -> Carried {
    let verdicts = Verdicts::positive(&job.group);
    let lets_in = verdicts.content.is_some();
    job.learns.tell(job.group, verdicts);
    let Route::Report(mut draft) = job.route else {
        return (None, None);
    };
    if !lets_in {
        return (None, None);
    }
    draft.add(&job.content);
    let Some(expected) = journal.expect_entry() else {
        return (Some(Verdict::too_late()), None);
    };
    let verdict = outside.judge(draft).await;
    (Some(verdict), Some(expected))
}

impl Job {
    /// R5321-17: our own trace header.
    fn header(&self, verdicts: &Verdicts) -> String {
        let accepted = self.group.recipients.iter().zip(&verdicts.recipients);
        let mut accepted = accepted.filter(|(_, reply)| reply.is_positive());
        let only_recipient = match (accepted.next(), accepted.next()) {
            (Some(((path, _), _)), None) => Some(path),
            _ => None,
        };
        self.stamp.header(self.count, self.smtputf8, only_recipient)
    }
}

impl Learner {
    fn tell(self, group: Group, verdicts: Verdicts) {
        // A session that is gone has no use for it.
        let _ = self.0.send(Envelope { group, verdicts });
    }
}

/// R5321-17: what our own trace header says of every message of a session.
#[derive(Debug)]
pub(super) struct Stamp {
    hello: Hello,
    address: Option<IpAddr>,
    is_tls: bool,
    hostname: String,
    session: String,
}

impl Stamp {
    pub(super) fn new(server: &Server, wire: &Wire, terms: &Terms) -> Self {
        let nameless = || Hello {
            kind: HelloKind::Ehlo,
            name: "unknown".to_owned(),
        };
        Self {
            hello: server.hello().cloned().unwrap_or_else(nameless),
            address: wire.peer_address().map(|address| address.ip()),
            is_tls: wire.is_tls(),
            hostname: terms.hostname.clone(),
            session: terms.session.clone(),
        }
    }

    /// Whether the relay still calls itself so.
    pub(super) fn is_of(&self, hello: Option<&Hello>) -> bool {
        hello.is_none_or(|hello| *hello == self.hello)
    }

    pub(super) fn header(
        &self,
        count: u64,
        smtputf8: bool,
        only_recipient: Option<&ForwardPath>,
    ) -> String {
        let trace = Trace {
            hello: &self.hello,
            address: self.address,
            reverse: ReverseName::NotAsked,
            hostname: &self.hostname,
            is_tls: self.is_tls,
            smtputf8,
            id: &format_args!("{}-{count}", self.session),
            only_recipient,
            now: &Zoned::now(),
        };
        trace.header()
    }
}
