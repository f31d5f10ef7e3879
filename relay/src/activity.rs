//! What goes on right now and what happened since the start: counters in memory, for `status`.
//!
//! Drivers count, the control socket shows. Nothing here is durable, and nothing grows with what peers do:
//! per-account entries exist for accounts that authenticated, and [`Activity::keep_accounts`] drops the others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atrn_shared::sandbox::InForce;
use atrn_shared::smtp::address::Domain;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Counts for the whole process. Clones are handles of the same counters.
#[derive(Clone, Debug)]
pub struct Activity(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    started_at: Timestamp,
    edge: Sessions,
    odmr: Sessions,
    messages: AtomicU64,
    octets: AtomicU64,
    refused_transient: AtomicU64,
    refused_permanent: AtomicU64,
    authentication_failures: AtomicU64,
    reports: AtomicU64,
    /// How many there are in [`Rest::full`]: asked for each recipient.
    full: AtomicU64,
    configuration: watch::Sender<ConfigurationState>,
    rest: Mutex<Rest>,
}

/// What changes seldom enough for a lock.
#[derive(Debug, Default)]
struct Rest {
    listen: Listening,
    sandbox: Option<InForce>,
    accounts: BTreeMap<String, Arc<Account>>,
    /// Domains whose mail is refused because their quota is full.
    full: BTreeSet<Domain>,
}

#[derive(Debug, Default)]
struct Sessions {
    now: AtomicU64,
    total: AtomicU64,
}

#[derive(Debug, Default)]
struct Account {
    sessions: Sessions,
    waiting: AtomicU64,
    delivered: AtomicU64,
    octets: AtomicU64,
    deferred: AtomicU64,
    failed: AtomicU64,
    stops: AtomicU64,
    last: Mutex<Option<LastPull>>,
    alarm: Mutex<Option<Alarm>>,
}

/// How a pull ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PullResult {
    /// The connection or the dialogue broke off.
    Broken,
    /// All there was has been offered.
    Complete,
    /// There was no mail (453).
    NoMail,
    /// ATRN was refused (450, 451).
    Refused,
    /// Still going on.
    Running,
    /// Most of it was refused for good, so the rest was not tried.
    Stopped,
    /// Still connected, with nothing to send: mail that comes goes at once.
    Waiting,
}

/// The last pull of an account.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct LastPull {
    /// When it ended; while it runs or waits, when that began.
    pub at: Timestamp,
    /// From where.
    pub peer: IpAddr,
    /// How it ended.
    pub result: PullResult,
}

/// The server behind an account refuses most mail for good, so that none of it is believed.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Alarm {
    /// When the last pull was stopped for it.
    pub at: Timestamp,
    /// Deliveries refused for good.
    pub refused: u64,
    /// Of so many that were looked at.
    pub verdicts: u64,
    /// The last refusal.
    pub reply: Option<String>,
}

/// The addresses that are bound: with port 0 in the configuration only these tell the port.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Listening {
    /// The Internet side.
    pub smtp: Vec<SocketAddr>,
    /// The pullers' side.
    pub odmr: Vec<SocketAddr>,
}

/// Which configuration is in force.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct ConfigurationState {
    /// Reloads since the start, those that were refused among them.
    pub reloads: u64,
    /// When it was loaded; none: at the start.
    pub loaded_at: Option<Timestamp>,
    /// Why a later one is not in force.
    pub error: Option<String>,
}

/// A moment's view of [`Activity`].
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Snapshot {
    /// Start of the process's work.
    pub started_at: Timestamp,
    /// The bound addresses.
    pub listen: Listening,
    /// What the process has given up; `None` from a relay that does not say.
    #[serde(default)]
    pub sandbox: Option<InForce>,
    /// Which configuration is in force.
    pub configuration: ConfigurationState,
    /// Sessions on the Internet side.
    pub smtp: SessionCounts,
    /// Sessions on the pullers' side.
    pub odmr: SessionCounts,
    /// Messages that were answered `250`.
    pub accepted_messages: u64,
    /// Their octets.
    pub accepted_octets: u64,
    /// Commands answered 4yz.
    pub refused_transient: u64,
    /// Commands answered 5yz.
    pub refused_permanent: u64,
    /// AUTH that failed.
    pub authentication_failures: u64,
    /// Reports that were queued.
    pub reports: u64,
}

/// Sessions at this moment and since the start.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct SessionCounts {
    /// At this moment.
    pub now: u64,
    /// Since the start.
    pub total: u64,
}

/// What one account did since the start.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct AccountActivity {
    /// Its pulls.
    pub pulls: SessionCounts,
    /// Pulls at this moment that wait for mail: before the turn (XWAIT), or after it with nothing left to send.
    #[serde(default)]
    pub waiting: u64,
    /// Deliveries that it took.
    pub delivered: u64,
    /// Their octets.
    pub octets: u64,
    /// Deliveries that are to be tried again.
    pub deferred: u64,
    /// Deliveries refused for good.
    pub failed: u64,
    /// Pulls that were stopped because most of it was refused for good.
    pub stops: u64,
    /// Its last pull.
    pub last_pull: Option<LastPull>,
    /// From such a stop until the next pull that ends well.
    pub alarm: Option<Alarm>,
}

impl Activity {
    /// All counters at zero; the clock of `started_at` runs from here.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            started_at: Timestamp::now(),
            edge: Sessions::default(),
            odmr: Sessions::default(),
            messages: AtomicU64::new(0),
            octets: AtomicU64::new(0),
            refused_transient: AtomicU64::new(0),
            refused_permanent: AtomicU64::new(0),
            authentication_failures: AtomicU64::new(0),
            reports: AtomicU64::new(0),
            full: AtomicU64::new(0),
            configuration: watch::Sender::default(),
            rest: Mutex::default(),
        }))
    }

    /// The addresses that are bound.
    pub fn listening(&self, listen: Listening) {
        self.rest().listen = listen;
    }

    /// What the process has given up.
    pub fn confined(&self, in_force: InForce) {
        self.rest().sandbox = Some(in_force);
    }

    /// A new configuration is in force.
    pub fn configured(&self) {
        self.0.configuration.send_modify(|state| {
            state.reloads += 1;
            state.loaded_at = Some(Timestamp::now());
            state.error = None;
        });
    }

    /// A new configuration is not in force, and why.
    pub fn configuration_refused(&self, error: String) {
        self.0.configuration.send_modify(|state| {
            state.reloads += 1;
            state.error = Some(error);
        });
    }

    /// Forgets accounts that are configured no longer; sessions that still run go on counting for themselves.
    pub fn keep_accounts(&self, is_configured: impl Fn(&str) -> bool) {
        self.rest().accounts.retain(|name, _| is_configured(name));
    }

    /// A session on the Internet side, until the guard goes.
    #[must_use]
    pub fn edge_session(&self) -> SessionGuard {
        self.0.edge.begin();
        SessionGuard(Arc::clone(&self.0), |inner| &inner.edge)
    }

    /// A session on the pullers' side, until the guard goes.
    #[must_use]
    pub fn odmr_session(&self) -> SessionGuard {
        self.0.odmr.begin();
        SessionGuard(Arc::clone(&self.0), |inner| &inner.odmr)
    }

    /// A message was accepted durably.
    pub fn accepted(&self, octets: u64) {
        self.0.messages.fetch_add(1, Relaxed);
        self.0.octets.fetch_add(octets, Relaxed);
    }

    /// A command was answered with this code; positive ones do not count.
    pub fn refused(&self, code: u16) {
        match code {
            400..=499 => self.0.refused_transient.fetch_add(1, Relaxed),
            500..=599 => self.0.refused_permanent.fetch_add(1, Relaxed),
            _ => 0,
        };
    }

    /// An AUTH failed, whoever it was.
    pub fn authentication_failed(&self) {
        self.0.authentication_failures.fetch_add(1, Relaxed);
    }

    /// Mail of a domain was refused because its quota is full. Whether that is news.
    pub fn quota_filled(&self, domain: &Domain) -> bool {
        let mut rest = self.rest();
        let is_news = rest.full.insert(domain.clone());
        self.0.full.store(rest.full.len() as u64, Relaxed);
        is_news
    }

    /// There is room in the quota of a domain. Whether that is news.
    pub fn quota_has_room(&self, domain: &Domain) -> bool {
        if self.0.full.load(Relaxed) == 0 {
            return false;
        }
        let mut rest = self.rest();
        let is_news = rest.full.remove(domain);
        self.0.full.store(rest.full.len() as u64, Relaxed);
        is_news
    }

    /// A report was queued.
    pub fn reported(&self) {
        self.0.reports.fetch_add(1, Relaxed);
    }

    /// An ATRN of an authenticated account, until the guard goes. Without [`PullGuard::end`] it counts as broken.
    #[must_use]
    pub fn pull(&self, account: &str, peer: IpAddr) -> PullGuard {
        let account = Arc::clone(self.rest().accounts.entry(account.to_owned()).or_default());
        account.sessions.begin();
        let guard = PullGuard {
            account,
            peer,
            is_waiting: AtomicBool::new(false),
            result: PullResult::Broken,
        };
        guard.note(PullResult::Running);
        guard
    }

    /// All of it, at this moment.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let inner = &*self.0;
        let (listen, sandbox) = {
            let rest = self.rest();
            (rest.listen.clone(), rest.sandbox.clone())
        };
        Snapshot {
            started_at: inner.started_at,
            listen,
            sandbox,
            configuration: inner.configuration.borrow().clone(),
            smtp: inner.edge.counts(),
            odmr: inner.odmr.counts(),
            accepted_messages: inner.messages.load(Relaxed),
            accepted_octets: inner.octets.load(Relaxed),
            refused_transient: inner.refused_transient.load(Relaxed),
            refused_permanent: inner.refused_permanent.load(Relaxed),
            authentication_failures: inner.authentication_failures.load(Relaxed),
            reports: inner.reports.load(Relaxed),
        }
    }

    /// What an account did since the start.
    #[must_use]
    pub fn account(&self, name: &str) -> AccountActivity {
        let account = self.rest().accounts.get(name).map(Arc::clone);
        account.map_or_else(AccountActivity::default, |account| account.snapshot())
    }

    /// Waits for the next reload, one that is refused included. Those before this call do not count.
    pub fn reloaded(&self) -> impl Future<Output = ConfigurationState> + Send + use<> {
        let mut state = self.0.configuration.subscribe();
        async move {
            // The sender lives in `self`, of which whoever reloads has a handle.
            let _ = state.changed().await;
            state.borrow().clone()
        }
    }

    fn rest(&self) -> MutexGuard<'_, Rest> {
        unpoisoned(&self.0.rest)
    }
}

impl Default for Activity {
    fn default() -> Self {
        Self::new()
    }
}

/// Counts a session while it lives.
#[derive(Debug)]
pub struct SessionGuard(Arc<Inner>, fn(&Inner) -> &Sessions);

impl Drop for SessionGuard {
    fn drop(&mut self) {
        self.1(&self.0).end();
    }
}

/// Counts a pull while it lives, and what it moves.
#[derive(Debug)]
pub struct PullGuard {
    account: Arc<Account>,
    peer: IpAddr,
    is_waiting: AtomicBool,
    result: PullResult,
}

impl PullGuard {
    /// A delivery is inside.
    pub fn delivered(&self, octets: u64) {
        self.account.delivered.fetch_add(1, Relaxed);
        self.account.octets.fetch_add(octets, Relaxed);
    }

    /// A delivery is to be tried again.
    pub fn deferred(&self) {
        self.account.deferred.fetch_add(1, Relaxed);
    }

    /// A delivery was refused for good.
    pub fn failed(&self) {
        self.account.failed.fetch_add(1, Relaxed);
    }

    /// So many deliveries of those that were looked at were refused for good that the pull stops: an alarm.
    pub fn stopped(&self, refused: usize, verdicts: usize, reply: Option<String>) {
        self.account.stops.fetch_add(1, Relaxed);
        *unpoisoned(&self.account.alarm) = Some(Alarm {
            at: Timestamp::now(),
            refused: refused as u64,
            verdicts: verdicts as u64,
            reply,
        });
    }

    /// Mail goes in again: no alarm any more.
    pub fn ended_well(&self) {
        unpoisoned(&self.account.alarm).take();
    }

    /// It has nothing to send at present, and stays for what comes.
    pub fn waits(&self) {
        if !self.is_waiting.swap(true, Relaxed) {
            self.account.waiting.fetch_add(1, Relaxed);
            self.note(PullResult::Waiting);
        }
    }

    /// There is something to send again.
    pub fn goes_on(&self) {
        self.wait_no_more();
        self.note(PullResult::Running);
    }

    fn wait_no_more(&self) {
        if self.is_waiting.swap(false, Relaxed) {
            self.account.waiting.fetch_sub(1, Relaxed);
        }
    }

    /// The pull is over, and so it ended.
    pub fn end(mut self, result: PullResult) {
        self.result = result;
    }

    fn note(&self, result: PullResult) {
        *unpoisoned(&self.account.last) = Some(LastPull {
            at: Timestamp::now(),
            peer: self.peer,
            result,
        });
    }
}

impl Drop for PullGuard {
    fn drop(&mut self) {
        self.wait_no_more();
        self.account.sessions.end();
        self.note(self.result);
    }
}

impl Sessions {
    fn begin(&self) {
        self.now.fetch_add(1, Relaxed);
        self.total.fetch_add(1, Relaxed);
    }

    fn end(&self) {
        self.now.fetch_sub(1, Relaxed);
    }

    fn counts(&self) -> SessionCounts {
        SessionCounts {
            now: self.now.load(Relaxed),
            total: self.total.load(Relaxed),
        }
    }
}

impl Account {
    fn snapshot(&self) -> AccountActivity {
        AccountActivity {
            pulls: self.sessions.counts(),
            waiting: self.waiting.load(Relaxed),
            delivered: self.delivered.load(Relaxed),
            octets: self.octets.load(Relaxed),
            deferred: self.deferred.load(Relaxed),
            failed: self.failed.load(Relaxed),
            stops: self.stops.load(Relaxed),
            last_pull: unpoisoned(&self.last).clone(),
            alarm: unpoisoned(&self.alarm).clone(),
        }
    }
}

/// Counters are right at every step, so a panic elsewhere leaves nothing half-done here.
fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn sessions_count_while_their_guard_lives() {
        let activity = Activity::new();
        let first = activity.edge_session();
        let second = activity.edge_session();
        drop(first);
        let _odmr = activity.odmr_session();
        let seen = activity.snapshot();
        assert_eq!(seen.smtp, SessionCounts { now: 1, total: 2 });
        assert_eq!(seen.odmr, SessionCounts { now: 1, total: 1 });
        drop(second);
        assert_eq!(activity.snapshot().smtp, SessionCounts { now: 0, total: 2 });
    }

    #[test]
    fn refusals_are_told_apart_by_class() {
        let activity = Activity::new();
        for code in [250, 354, 421, 452, 550, 501, 599] {
            activity.refused(code);
        }
        let seen = activity.snapshot();
        assert_eq!((seen.refused_transient, seen.refused_permanent), (2, 3));
    }

    #[test]
    fn a_pull_ends_as_it_was_told_and_broken_otherwise() {
        let activity = Activity::new();
        let result = || activity.account("corp").last_pull.unwrap().result;
        let pull = activity.pull("corp", PEER);
        assert_eq!(result(), PullResult::Running);
        pull.delivered(100);
        pull.waits();
        assert_eq!(result(), PullResult::Waiting);
        pull.goes_on();
        assert_eq!(result(), PullResult::Running);
        pull.delivered(20);
        pull.deferred();
        pull.failed();
        pull.end(PullResult::Complete);
        assert_eq!(result(), PullResult::Complete);
        drop(activity.pull("corp", PEER));
        assert_eq!(result(), PullResult::Broken);
        let account = activity.account("corp");
        assert_eq!(account.pulls, SessionCounts { now: 0, total: 2 });
        let moved = (
            account.delivered,
            account.octets,
            account.deferred,
            account.failed,
        );
        assert_eq!(moved, (2, 120, 1, 1));
    }

    #[test]
    fn a_pull_that_waits_is_counted_while_it_does() {
        let activity = Activity::new();
        let [one, other] = [(); 2].map(|()| activity.pull("corp", PEER));
        let counts = || {
            let account = activity.account("corp");
            (account.pulls.now, account.waiting)
        };
        one.waits();
        one.waits();
        assert_eq!(counts(), (2, 1));
        one.goes_on();
        assert_eq!(counts(), (2, 0));
        one.waits();
        other.waits();
        one.end(PullResult::NoMail);
        assert_eq!(counts(), (1, 1));
        drop(other);
        assert_eq!(counts(), (0, 0));
    }

    #[test]
    fn an_alarm_lasts_until_a_pull_ends_well() {
        let activity = Activity::new();
        let pull = activity.pull("corp", PEER);
        pull.stopped(8, 10, Some("550 5.1.1 no".to_owned()));
        pull.end(PullResult::Stopped);
        activity.pull("corp", PEER).end(PullResult::NoMail);
        let account = activity.account("corp");
        let alarm = account.alarm.unwrap();
        assert_eq!((alarm.refused, alarm.verdicts, account.stops), (8, 10, 1));
        assert_eq!(alarm.reply.as_deref(), Some("550 5.1.1 no"));
        activity.pull("corp", PEER).ended_well();
        let account = activity.account("corp");
        assert_eq!((account.alarm, account.stops), (None, 1));
    }

    #[test]
    fn accounts_that_are_gone_are_forgotten() {
        let activity = Activity::new();
        let running = activity.pull("old", PEER);
        activity.pull("corp", PEER).end(PullResult::NoMail);
        activity.keep_accounts(|name| name == "corp");
        running.delivered(1);
        drop(running);
        assert_eq!(activity.account("old"), AccountActivity::default());
        assert_eq!(activity.account("corp").pulls.total, 1);
    }

    #[test]
    fn a_quota_is_news_when_it_fills_and_when_it_has_room() {
        let activity = Activity::new();
        let [one, other] = ["a.example", "b.example"].map(|name| Domain::parse(name).unwrap());
        assert!(!activity.quota_has_room(&one));
        assert!(activity.quota_filled(&one) && activity.quota_filled(&other));
        assert!(!activity.quota_filled(&one));
        assert!(activity.quota_has_room(&one) && !activity.quota_has_room(&one));
        assert!(!activity.quota_filled(&other));
        assert!(activity.quota_filled(&one), "again");
    }

    #[test]
    fn a_refused_configuration_is_shown_until_one_is_taken() {
        let activity = Activity::new();
        activity.configuration_refused("relay.toml:3: bad".to_owned());
        let error = activity.snapshot().configuration.error;
        assert_eq!(error.as_deref(), Some("relay.toml:3: bad"));
        activity.configured();
        let state = activity.snapshot().configuration;
        assert_eq!((state.reloads, state.error), (2, None));
    }

    #[tokio::test]
    async fn only_a_reload_after_the_call_is_waited_for() {
        let activity = Activity::new();
        activity.configured();
        let waiting = activity.reloaded();
        activity.configuration_refused("bad".to_owned());
        assert_eq!(waiting.await.reloads, 2);
    }
}
