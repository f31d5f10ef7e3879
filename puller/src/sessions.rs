//! The sessions of one relay side by side: a main one, and more of them while there is a backlog.
//!
//! The extra ones ask by plain ATRN, so that the relay ends them when its queue is empty. What becomes of them changes
//! nothing for the main one: they only add to what it brings.

use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::flow::Flows;
use crate::outcome::Outcome;
use crate::reversed::Tally;
use crate::session::{Pull, Rank, Report};

/// After an extra session that brought nothing there is none for so long.
const EXTRA_PAUSE: Duration = Duration::from_secs(60);

/// The sessions of a relay. To drop it cuts them off.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    flows: Flows,
    tasks: JoinSet<Ended>,
    /// Extra sessions now.
    extras: usize,
    /// What extra sessions have brought that no report tells of yet.
    brought: Tally,
    /// When the next extra one may begin.
    none_before: Option<Instant>,
    /// Ends extra sessions that have not turned yet.
    needless: CancellationToken,
}

#[derive(Debug)]
struct Ended {
    rank: Rank,
    report: Report,
}

impl Sessions {
    /// What they do just now.
    pub(crate) fn flows(&self) -> &Flows {
        &self.flows
    }

    /// A main session, with others beside it as the backlog warrants. Returns when the main one has ended; the others may go on.
    pub(crate) async fn run(&mut self, pull: &Pull) -> Report {
        let (began_at, began) = (Timestamp::now(), Instant::now());
        self.begin(pull.clone());
        loop {
            let may_grow = self.extras + 1 < pull.relay.sessions;
            let joined = tokio::select! {
                biased;
                joined = self.tasks.join_next() => joined,
                () = self.flows.backlog(), if may_grow => {
                    self.grow(pull);
                    continue;
                }
            };
            match joined {
                Some(Ok(Ended {
                    rank: Rank::Main,
                    report,
                })) => return self.with_brought(report),
                Some(Ok(Ended {
                    rank: Rank::Extra,
                    report,
                })) => self.extra_ended(&report),
                // A panic has been printed. Which session it was does not matter: all begin anew.
                Some(Err(_)) | None => {
                    self.tasks.shutdown().await;
                    self.extras = 0;
                    return self.with_brought(failed(began_at, began.elapsed()));
                }
            }
        }
    }

    /// Lets the extra sessions come to their end, and adds what they brought. Those that bring nothing yet are not waited for.
    pub(crate) async fn finish(&mut self, report: Report) -> Report {
        std::mem::take(&mut self.needless).cancel();
        while let Some(joined) = self.tasks.join_next().await {
            if let Ok(Ended { report, .. }) = joined {
                self.extra_ended(&report);
            }
        }
        self.extras = 0;
        self.with_brought(report)
    }

    fn grow(&mut self, pull: &Pull) {
        let is_too_early = self.none_before.is_some_and(|until| Instant::now() < until);
        if is_too_early || pull.stop.is_cancelled() {
            return;
        }
        self.extras += 1;
        info!(relay = %pull.relay.name, sessions = self.extras + 1, "backlog: one more session");
        self.begin(Pull {
            needless: self.needless.clone(),
            ..pull.extra()
        });
    }

    fn begin(&mut self, pull: Pull) {
        let flow = self.flows.session();
        self.tasks.spawn(async move {
            let report = pull.run(&flow).await;
            let rank = pull.rank;
            Ended { rank, report }
        });
    }

    fn extra_ended(&mut self, report: &Report) {
        self.extras = self.extras.saturating_sub(1);
        self.brought = [self.brought, report.tally].into_iter().sum();
        if report.tally.messages == 0 && report.outcome != Outcome::Stopped {
            debug!("an extra session brought nothing: none for a while");
            self.none_before = Some(Instant::now() + EXTRA_PAUSE);
        }
    }

    fn with_brought(&mut self, report: Report) -> Report {
        let brought = std::mem::take(&mut self.brought);
        Report {
            tally: [report.tally, brought].into_iter().sum(),
            last_mail_at: self.flows.activity().last_mail_at,
            ..report
        }
    }
}

fn failed(began_at: Timestamp, took: Duration) -> Report {
    Report {
        outcome: Outcome::Broken("the session failed; the log says why".to_owned()),
        tally: Tally::default(),
        began_at,
        took,
        last_mail_at: None,
        offers_wait: None,
    }
}

#[cfg(test)]
mod tests;
