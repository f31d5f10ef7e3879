//! A reversed session that stays for mail to come: what it waits for, and how little it keeps meanwhile.
//!
//! The queue tells it of mail ([`Watch`](crate::queue::Watch)), so nothing is asked in vain, and one session wakes for
//! one message. There may be thousands that wait: each keeps its connection and a timer.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::drain::{Turn, note};
use super::transaction::Broken;
use crate::transaction_log::Subject;

/// A delivery that is due again is not looked for more often than this.
const DUE_MIN: Duration = Duration::from_secs(1);

impl Turn<'_> {
    /// Waits until there is something to do: mail, or an end. A silence of `wait` is broken with NOOP.
    ///
    /// # Errors
    /// The session is over.
    pub(super) async fn idle(&mut self, wait: Duration) -> Result<(), Broken> {
        if self.window.is_unclean() {
            self.settlements.trail.heard();
            self.dialogue.reset().await.map_err(Broken::Idle)?;
            self.window.cleaned();
            note(self.dialogue, self.settlements.trail, Subject::None);
        }
        // Taken before the queue and the settings are looked at for the last time.
        let mut replaced = self.drain.settings.replacements();
        if self.must_end().is_some() {
            return Ok(());
        }
        let mut due = self.next_due().await?;
        self.release();
        let delivered = self.settlements.tally().delivered;
        if delivered > std::mem::replace(&mut self.delivered, delivered) {
            self.pull.ended_well();
        }
        self.pull.waits();
        self.settlements.trail.flush();
        let mut keep_alive = Instant::now() + wait;
        loop {
            let ruling = self.settlements.conclude_old().await;
            let until = [due, ruling].into_iter().flatten().min();
            let until = until.map_or(keep_alive, |until| until.min(keep_alive));
            let silence = until.saturating_duration_since(Instant::now());
            tokio::select! {
                biased;
                () = self.drain.shutdown.cancelled() => return Ok(()),
                () = replaced.next() => return Ok(()),
                () = self.watch.news() => break,
                settled = self.settlements.settled() => settled?,
                silent = self.dialogue.rest(silence) => silent.map_err(Broken::Idle)?,
            }
            let now = Instant::now();
            if due.is_some_and(|due| due <= now) {
                break;
            }
            if keep_alive <= now {
                self.settlements.trail.heard();
                self.dialogue.noop().await.map_err(Broken::Idle)?;
                note(self.dialogue, self.settlements.trail, Subject::None);
                self.settlements.trail.flush();
                // Who put a delivery off tells one other session, and that one may be gone.
                due = [due, self.next_due().await?].into_iter().flatten().min();
                keep_alive = Instant::now() + wait;
            }
        }
        self.is_dry = false;
        self.pull.goes_on();
        Ok(())
    }

    /// When the earliest delivery that was put off may be tried again. Whoever goes before tells another session.
    async fn next_due(&mut self) -> Result<Option<Instant>, Broken> {
        let due = self.drain.store.next_due(self.drain.domains).await?;
        self.watch.looks_ahead(due.is_some());
        Ok(due.map(|due| Instant::now() + due.max(DUE_MIN)))
    }

    fn release(&mut self) {
        self.claimed = VecDeque::new();
        self.window.release();
        self.settlements.release();
    }
}
