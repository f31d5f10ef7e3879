//! What the sessions of one relay tell the daemon while they run: whether mail flows without end, so that one more session
//! is worth its while, and what `status` shows of them.
//!
//! A session tells it at each message and at each silence; whoever opens sessions awaits [`Flows::backlog`]. Time is the
//! runtime's, so that tests own the clock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::reversed::Tally;

/// So many messages without a pause are a backlog …
const BACKLOG_MESSAGES: u32 = 100;
/// … and so are several that keep the sessions busy for so long.
const BACKLOG_TIME: Duration = Duration::from_secs(1);
/// A relay that is silent for so long has no more mail; less is the way of a reply over a long line.
const PAUSE: Duration = Duration::from_millis(500);

/// The flow of all sessions of a relay.
#[derive(Clone, Debug, Default)]
pub struct Flows(Arc<Shared>);

/// One session's part in it, for as long as any clone of it lives.
#[derive(Clone, Debug)]
pub struct Flow(Arc<Member>);

/// What the sessions of a relay do just now.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Activity {
    /// Sessions that are logged in.
    pub sessions: usize,
    /// When the oldest of them was.
    pub connected_since: Option<Timestamp>,
    /// Whether the relay waits for mail (XWAIT).
    pub offers_wait: bool,
    /// Whether mail is under way in any.
    pub is_busy: bool,
    /// What they have brought so far, with others that have ended beside them.
    pub tally: Tally,
    /// When the last message was taken, in whichever session.
    pub last_mail_at: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    backlog: Notify,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    sessions: BTreeMap<u64, Session>,
    next_id: u64,
    /// What those brought that have ended, as long as others go on.
    brought_by_ended: Tally,
    streak: Option<Streak>,
    last_mail_at: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct Session {
    connected_since: Option<Timestamp>,
    offers_wait: bool,
    /// Nothing is under way, and the relay has been silent since then.
    silent_since: Option<Instant>,
    tally: Tally,
}

/// Messages without a pause.
#[derive(Debug)]
struct Streak {
    began: Instant,
    messages: u32,
    /// How long sessions waited for the next message, all of them together.
    silent: Duration,
}

#[derive(Debug)]
struct Member {
    shared: Arc<Shared>,
    id: u64,
}

impl Flows {
    /// One more session.
    #[must_use]
    pub fn session(&self) -> Flow {
        let id = {
            let mut state = self.0.state();
            let id = state.next_id;
            state.next_id += 1;
            state.sessions.insert(id, Session::default());
            id
        };
        Flow(Arc::new(Member {
            shared: Arc::clone(&self.0),
            id,
        }))
    }

    /// Returns when there is more mail than the sessions can take at once: one more could help. Who does not wait at that
    /// moment does not learn it; a backlog shows itself again.
    pub async fn backlog(&self) {
        self.0.backlog.notified().await;
    }

    /// Returns when [`Flows::activity`] has something new since the last return.
    pub async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// What goes on.
    #[must_use]
    pub fn activity(&self) -> Activity {
        let state = self.0.state();
        let connected = || {
            let sessions = state.sessions.values();
            sessions.filter(|session| session.connected_since.is_some())
        };
        Activity {
            sessions: connected().count(),
            connected_since: connected()
                .filter_map(|session| session.connected_since)
                .min(),
            offers_wait: connected().any(|session| session.offers_wait),
            is_busy: connected().any(|session| session.silent_since.is_none()),
            tally: connected()
                .map(|session| session.tally)
                .chain([state.brought_by_ended])
                .sum(),
            last_mail_at: state.last_mail_at,
        }
    }
}

impl Flow {
    /// We are logged in and ask for mail, at a relay that waits for it so many seconds at most (XWAIT) or not at all.
    /// True the first time.
    pub fn connected(&self, offered_wait: Option<u64>) -> bool {
        let mut state = self.0.shared.state();
        let Some(session) = state.session(self.0.id) else {
            return false;
        };
        if session.connected_since.is_some() {
            return false;
        }
        session.connected_since = Some(Timestamp::now());
        session.silent_since = Some(Instant::now());
        session.offers_wait = offered_wait.is_some();
        drop(state);
        self.0.shared.changed.notify_one();
        true
    }

    /// When the last message was taken, in any session of the relay.
    #[must_use]
    pub fn last_mail_at(&self) -> Option<Timestamp> {
        self.0.shared.state().last_mail_at
    }

    /// A message begins. `tally`: what the session has brought so far.
    pub fn message(&self, tally: Tally) {
        let now = Instant::now();
        let mut state = self.0.shared.state();
        state.takes(self.0.id, tally);
        let session = state.session(self.0.id);
        let silent_since = session.and_then(|session| session.silent_since.take());
        let is_backlog = state.counts(now, silent_since);
        drop(state);
        if is_backlog {
            self.0.shared.backlog.notify_waiters();
        }
        if silent_since.is_some() {
            self.0.shared.changed.notify_one();
        }
    }

    /// Nothing is under way, and we wait for what the relay says next. To say it again changes nothing.
    pub fn pause(&self, tally: Tally) {
        let mut state = self.0.shared.state();
        state.takes(self.0.id, tally);
        let Some(session) = state.session(self.0.id) else {
            return;
        };
        if session.silent_since.is_none() {
            session.silent_since = Some(Instant::now());
            self.0.shared.changed.notify_one();
        }
    }
}

/// A flow that nobody looks at.
impl Default for Flow {
    fn default() -> Self {
        Flows::default().session()
    }
}

impl Shared {
    /// The state is whole between any two statements, so that a panic elsewhere spoils nothing.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn end(&mut self, id: u64) {
        let ended = self.sessions.remove(&id).unwrap_or_default();
        self.brought_by_ended = if self.sessions.is_empty() {
            Tally::default()
        } else {
            [self.brought_by_ended, ended.tally].into_iter().sum()
        };
    }

    fn session(&mut self, id: u64) -> Option<&mut Session> {
        self.sessions.get_mut(&id)
    }

    /// A session's count.
    fn takes(&mut self, id: u64, tally: Tally) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if tally.messages > session.tally.messages {
            self.last_mail_at = Some(Timestamp::now());
        }
        session.tally = tally;
    }

    /// One more message, for which its session has waited since `silent_since`: whether that makes a backlog.
    fn counts(&mut self, now: Instant, silent_since: Option<Instant>) -> bool {
        let silences = self.sessions.values().filter_map(|it| it.silent_since);
        let is_pause = silences
            .chain(silent_since)
            .any(|since| now.duration_since(since) >= PAUSE);
        let sessions = self.sessions.len().max(1) as u32;
        let streak = match &mut self.streak {
            Some(streak) if !is_pause => streak,
            streak => streak.insert(Streak::new(now)),
        };
        streak.messages += 1;
        if let Some(since) = silent_since {
            streak.silent += now.duration_since(since.max(streak.began));
        }
        let elapsed = now.duration_since(streak.began);
        if streak.messages < BACKLOG_MESSAGES && elapsed < BACKLOG_TIME {
            return false;
        }
        // Mail that trickles in leaves a session more time to wait than to work, and needs no second one.
        let is_backlog = streak.messages > 1 && streak.silent * 2 <= elapsed * sessions;
        // This message begins the next one.
        self.streak = Some(Streak {
            messages: 1,
            ..Streak::new(now)
        });
        is_backlog
    }
}

impl Streak {
    fn new(began: Instant) -> Self {
        Self {
            began,
            messages: 0,
            silent: Duration::ZERO,
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.shared.state().end(self.id);
        self.shared.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages one after the other: how long each takes, and how long the relay is silent in front of it, in ms.
    async fn flow(flow: &Flow, messages: usize, busy: u64, silent: u64) {
        for _ in 0..messages {
            flow.pause(Tally::default());
            tokio::time::advance(Duration::from_millis(silent)).await;
            flow.message(Tally::default());
            tokio::time::advance(Duration::from_millis(busy)).await;
        }
    }

    /// What is said of a backlog while `sessions` do their work.
    async fn backlogs(flows: &Flows, sessions: impl Future<Output = ()>) -> usize {
        let mut count = 0;
        tokio::pin!(sessions);
        loop {
            tokio::select! {
                biased;
                () = flows.backlog() => count += 1,
                () = &mut sessions => return count,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_hundred_messages_or_second_without_a_pause_is_a_backlog() {
        for (messages, busy, silent, expected) in [
            (99, 1, 0, 0),
            (100, 1, 0, 1),
            (350, 1, 0, 3),
            // Slow ones: a large message by itself is none.
            (1, 10_000, 0, 0),
            (2, 2_000, 0, 1),
            (5, 1_100, 0, 4),
            // A long line: silent in between, and still busy for most of the time.
            (30, 300, 100, 9),
            // Mail that trickles in.
            (1_000, 1, 20, 0),
            (50, 10, 400, 0),
            (50, 1_000, 501, 0),
        ] {
            let flows = Flows::default();
            let session = flows.session();
            let counted = backlogs(&flows, flow(&session, messages, busy, silent)).await;
            assert_eq!(
                counted, expected,
                "{messages} of {busy} ms after {silent} ms"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_has_nothing_to_do_speaks_against_one_more() {
        let flows = Flows::default();
        let (busy, idle) = (flows.session(), flows.session());
        idle.pause(Tally::default());
        tokio::time::advance(PAUSE).await;
        assert_eq!(backlogs(&flows, flow(&busy, 1_000, 1, 0)).await, 0);
        drop(idle);
        assert_eq!(backlogs(&flows, flow(&busy, 1_000, 1, 0)).await, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_sessions_do_is_known() {
        let flows = Flows::default();
        assert_eq!(flows.activity(), Activity::default());
        let tally = |messages| Tally {
            messages,
            ..Tally::default()
        };
        let (one, other) = (flows.session(), flows.session());
        assert_eq!(flows.activity().sessions, 0, "none is logged in");
        one.connected(Some(240));
        let seen = flows.activity();
        assert_eq!((seen.sessions, seen.is_busy), (1, false));
        assert!(seen.offers_wait);
        assert!(seen.connected_since.is_some() && seen.last_mail_at.is_none());
        other.connected(Some(240));
        one.message(tally(0));
        assert!(flows.activity().is_busy);
        one.pause(tally(1));
        other.message(tally(0));
        other.pause(tally(2));
        let seen = flows.activity();
        assert_eq!(
            (seen.sessions, seen.is_busy, seen.tally.messages),
            (2, false, 3)
        );
        assert!(seen.last_mail_at.is_some());
        drop(one);
        let seen = flows.activity();
        assert_eq!((seen.sessions, seen.tally.messages), (1, 3));
        flows.changed().await;
        drop(other);
        assert_eq!(flows.activity().tally, Tally::default());
    }
}
