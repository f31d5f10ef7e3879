//! One relay's task: a session, and another one when it is time; what `status` shows meanwhile.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{Mode, RelayConfig};
use crate::outcome::{Outcome, Severity};
use crate::schedule;
use crate::session::{Pull, Report};
use crate::sessions::Sessions;
use crate::status::{Connection, RelayStatus, StatusFiles};

/// The status file is not written more often than this while sessions run.
const NOTE_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct RelayTask {
    name: String,
    stop: CancellationToken,
    changes: watch::Receiver<Pull>,
    files: StatusFiles,
    sessions: Sessions,
    /// Whether the relay waits for mail (XWAIT), as it said last; `None` before that.
    offers_wait: Option<bool>,
    /// Sessions in a row that brought nothing but refusals.
    in_vain: u32,
}

/// Why the wait for the next pull is over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Due {
    Now,
    Stopped,
}

impl RelayTask {
    pub(super) fn new(changes: watch::Receiver<Pull>, files: StatusFiles) -> Self {
        let (name, stop) = {
            let pull = changes.borrow();
            (pull.relay.name.clone(), pull.stop.clone())
        };
        Self {
            name,
            stop,
            changes,
            files,
            sessions: Sessions::default(),
            offers_wait: None,
            in_vain: 0,
        }
    }

    /// Pull, wait, pull again. The first pull is at once, so that a restart is no gap.
    pub(super) async fn pull_for_ever(mut self) {
        let mut status = self.files.load(&self.name).await;
        // The first pull, which nobody has announced; and nothing of a daemon that was killed.
        status.next_at = Some(Timestamp::now());
        status.connection = None;
        self.save(&status).await;
        loop {
            let report = self.pull().await;
            self.learn(&report);
            let status = self.files.load(&self.name).await.after(&report);
            if self.wait_after(&report, status).await == Due::Stopped {
                return;
            }
        }
    }

    /// One pull; in instant mode one that stays, and ends for new settings.
    async fn pull(&mut self) -> Report {
        let mut pull = self.changes.borrow_and_update().clone();
        let is_instant = pull.relay.mode == Mode::Instant;
        pull.wait = is_instant.then_some(pull.relay.wait);
        pull.stop = self.stop.child_token();
        let flows = self.sessions.flows().clone();
        let mut ends_for_changes = is_instant;
        let (mut is_new, mut note_at) = (false, Instant::now());
        let report = {
            let session = self.sessions.run(&pull);
            tokio::pin!(session);
            loop {
                tokio::select! {
                    biased;
                    report = &mut session => break report,
                    _ = self.changes.changed(), if ends_for_changes => {
                        info!(relay = %self.name, "new settings: the session begins anew");
                        ends_for_changes = false;
                        pull.stop.cancel();
                    }
                    () = flows.changed(), if !is_new => is_new = true,
                    () = sleep_until(note_at), if is_new => {
                        is_new = false;
                        note(&self.files, &self.name, Connection::of(&flows.activity())).await;
                        note_at = Instant::now() + NOTE_INTERVAL;
                    }
                }
            }
        };
        if is_instant && self.waits(&report) {
            // Those beside it go on, and the next one joins them.
            report
        } else {
            self.sessions.finish(report).await
        }
    }

    /// Counts the sessions in vain, and says once what the relay can do.
    fn learn(&mut self, report: &Report) {
        self.in_vain = if is_in_vain(report) {
            self.in_vain.saturating_add(1)
        } else {
            0
        };
        let Some(offers_wait) = report.offers_wait else {
            return;
        };
        let before = self.offers_wait.replace(offers_wait);
        let (mode, every) = {
            let relay = &self.changes.borrow().relay;
            (relay.mode, relay.every)
        };
        match (mode, before, offers_wait) {
            (Mode::Instant, None | Some(true), false) => {
                warn!(relay = %self.name, ?every, "the relay does not wait for mail (no XWAIT): polling it");
            }
            (Mode::Instant, Some(false), true) => {
                info!(relay = %self.name, "the relay waits for mail now (XWAIT): instant mode");
            }
            _ => {}
        }
    }

    /// Waits until the next pull is due.
    async fn wait_after(&mut self, report: &Report, mut status: RelayStatus) -> Due {
        let ended = Instant::now();
        let is_fine = report.outcome.severity() == Severity::Fine && self.in_vain == 0;
        let chance = fastrand::f64();
        loop {
            if self.stop.is_cancelled() {
                status.next_at = None;
                self.save(&status).await;
                return Due::Stopped;
            }
            // For new settings, then: they count from now on.
            if report.outcome == Outcome::Stopped {
                return Due::Now;
            }
            let relay = self.changes.borrow_and_update().relay.clone();
            let wait = self.until_next(&relay, report, status.failures, chance);
            status.next_at = Timestamp::now()
                .checked_add(SignedDuration::try_from(wait).unwrap_or_default())
                .ok();
            self.save(&status).await;
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {}
                () = sleep_until(ended + wait) => return Due::Now,
                changed = self.changes.changed() => {
                    // New settings may be the remedy: then there is nothing to wait for.
                    if changed.is_err() || !is_fine {
                        return Due::Now;
                    }
                }
            }
        }
    }

    fn until_next(
        &self,
        relay: &RelayConfig,
        report: &Report,
        failures: u32,
        chance: f64,
    ) -> Duration {
        let outcome = &report.outcome;
        match relay.mode {
            Mode::Instant if self.waits(report) => {
                schedule::reconnect(outcome, report.took, failures, self.in_vain, chance)
            }
            Mode::Instant | Mode::Poll => {
                let severity = outcome.severity();
                schedule::wait(relay.every, relay.jitter, severity, failures, chance)
            }
        }
    }

    /// Unless the relay has said that it does not, it waits for mail.
    fn waits(&self, report: &Report) -> bool {
        report.offers_wait.or(self.offers_wait) != Some(false)
    }

    async fn save(&self, status: &RelayStatus) {
        save(&self.files, &self.name, status).await;
    }
}

/// Whether the relay ended the session when all that it brought was refused.
fn is_in_vain(report: &Report) -> bool {
    let tally = &report.tally;
    let is_progress = tally.messages > 0 || tally.already_there > 0;
    report.outcome == Outcome::Pulled && !is_progress && tally.deferred + tally.refused > 0
}

/// Writes down what the sessions do, beside what is known already.
async fn note(files: &StatusFiles, name: &str, connection: Option<Connection>) {
    let mut status = files.load(name).await;
    if let Some(connection) = &connection {
        status.next_at = None;
        status.offers_xwait = Some(connection.offers_wait);
        status.last_mail_at = connection.last_mail_at.or(status.last_mail_at);
    }
    status.connection = connection;
    save(files, name, &status).await;
}

async fn save(files: &StatusFiles, name: &str, status: &RelayStatus) {
    if let Err(error) = files.save(name, status).await {
        warn!(relay = name, %error, "cannot write the status file");
    }
}

#[cfg(test)]
mod tests;
