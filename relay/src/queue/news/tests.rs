//! Who is woken by what: a model of sessions that do everything a session can do, in any order.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use proptest::prelude::*;

use super::*;

/// Counts how often it is woken.
#[derive(Debug, Default)]
struct Alarm(AtomicUsize);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A watch and what it was woken by.
struct Sleeper {
    watch: Watch,
    alarm: Arc<Alarm>,
}

impl Sleeper {
    fn new(news: &Arc<News>, names: &[&str]) -> Self {
        let domains: Vec<_> = names.iter().map(|name| domain(name)).collect();
        Self {
            watch: news.watch(&domains),
            alarm: Arc::default(),
        }
    }

    /// Asks, and goes on waiting when there is no news.
    fn asks(&self) -> bool {
        let waker = Waker::from(Arc::clone(&self.alarm));
        let mut board = self.watch.news.board();
        board.poll(self.watch.number, &waker).is_ready()
    }

    /// As when the future is dropped.
    fn is_interrupted(&self) {
        drop(Waiting { watch: &self.watch });
    }

    fn times_woken(&self) -> usize {
        self.alarm.0.load(Ordering::Relaxed)
    }
}

fn domain(name: &str) -> Domain {
    Domain::parse(name).unwrap()
}

fn tell(news: &News, name: &str) {
    let waker = news.board().tell(&domain(name));
    waker.into_iter().for_each(Waker::wake);
}

fn woken(sleepers: &[Sleeper]) -> usize {
    sleepers.iter().map(Sleeper::times_woken).sum()
}

#[test]
fn each_event_wakes_one_of_a_thousand_and_who_came_last_first() {
    let news = Arc::new(News::default());
    let sleepers: Vec<_> = (0..1_000)
        .map(|_| Sleeper::new(&news, &["a.example", "b.example"]))
        .collect();
    assert!(sleepers.iter().all(|sleeper| !sleeper.asks()));
    for event in 0..1_000 {
        tell(&news, "a.example");
        assert_eq!(woken(&sleepers), event + 1);
        assert_eq!(sleepers[999 - event].times_woken(), 1);
    }
    tell(&news, "a.example");
    assert_eq!(
        woken(&sleepers),
        1_000,
        "all of them know that they have to look"
    );
    assert!(sleepers.iter().all(|sleeper| sleeper.asks()));
    assert!(sleepers.iter().all(|sleeper| !sleeper.asks()), "once");
}

#[test]
fn an_interruption_does_not_change_the_place_in_the_line() {
    let news = Arc::new(News::default());
    let [first, second] = [(); 2].map(|()| Sleeper::new(&news, &["a.example"]));
    assert!(!first.asks() && !second.asks());
    first.is_interrupted();
    assert!(!first.asks());
    tell(&news, "a.example");
    assert_eq!((first.times_woken(), second.times_woken()), (0, 1));
    assert!(second.asks());
    tell(&news, "a.example");
    assert_eq!((first.times_woken(), second.times_woken()), (1, 1));
    assert!(first.asks() && !first.asks(), "and now it came last");
    assert!(second.asks() && !second.asks());
    first.is_interrupted();
    assert!(!first.asks());
    tell(&news, "a.example");
    assert_eq!((first.times_woken(), second.times_woken()), (1, 2));
}

#[test]
fn news_of_other_domains_is_none() {
    let news = Arc::new(News::default());
    let sleeper = Sleeper::new(&news, &["a.example"]);
    tell(&news, "b.example");
    assert!(!sleeper.asks());
    tell(&news, "b.example");
    assert_eq!(sleeper.times_woken(), 0);
}

#[test]
fn what_happens_while_nobody_waits_is_learnt_by_all_when_they_ask() {
    let news = Arc::new(News::default());
    let [asked, new] = [(); 2].map(|()| Sleeper::new(&news, &["a.example"]));
    assert!(!asked.asks());
    asked.is_interrupted();
    tell(&news, "a.example");
    let later = Sleeper::new(&news, &["a.example"]);
    assert!(asked.asks() && new.asks());
    assert!(!later.asks(), "that was before its time");
}

#[test]
fn who_was_woken_and_is_gone_or_busy_before_it_looked_passes_it_on() {
    let news = Arc::new(News::default());
    let mut sleepers: Vec<_> = (0..4)
        .map(|_| Sleeper::new(&news, &["a.example"]))
        .collect();
    assert!(sleepers.iter().all(|sleeper| !sleeper.asks()));
    tell(&news, "a.example");
    sleepers.pop();
    assert_eq!(sleepers[2].times_woken(), 1, "gone before it looked");
    assert!(sleepers[2].asks());
    sleepers.pop();
    assert_eq!(sleepers[1].times_woken(), 1, "gone before it waited again");
    sleepers[1].is_interrupted();
    assert_eq!(sleepers[0].times_woken(), 1, "busy with something else");
    assert!(sleepers[1].asks(), "it looks all the same");
    assert!(sleepers[0].asks());
}

/// What it knew by itself was when mail that was put off is due.
#[test]
fn who_looks_ahead_and_goes_leaves_that_to_another() {
    for (looks_ahead, expected) in [(&[][..], 0), (&[true], 2), (&[true, false], 0)] {
        let news = Arc::new(News::default());
        let others = ["a.example", "b.example", "c.example"];
        let others = others.map(|name| Sleeper::new(&news, &[name]));
        let mut knows = Sleeper::new(&news, &["a.example", "b.example"]);
        for does in looks_ahead {
            knows.watch.looks_ahead(*does);
        }
        assert!(!others.iter().any(Sleeper::asks) && !knows.asks());
        drop(knows);
        assert_eq!(woken(&others), expected, "{looks_ahead:?}");
        assert!(!others[2].asks());
    }
}

#[test]
fn nothing_is_kept_of_who_is_gone() {
    let news = Arc::new(News::default());
    for _ in 0..10 {
        let sleepers = [["a.example", "a.example"], ["a.example", "b.example"]];
        let sleepers = sleepers.map(|names| Sleeper::new(&news, &names));
        assert!(sleepers.iter().all(|sleeper| !sleeper.asks()));
    }
    let board = news.board();
    assert!(board.by_domain.is_empty());
    assert_eq!((board.watchers.len(), board.free.len()), (2, 2));
}

/// Where a session of the model stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stands {
    /// Looks for mail.
    Claiming,
    /// Found none, and does something else before it waits.
    Interrupted,
    Waiting,
}

struct Session {
    sleeper: Sleeper,
    domains: Vec<usize>,
    stands: Stands,
    /// How often it had been woken when it began to wait.
    heard: usize,
    leased: Vec<usize>,
}

impl Session {
    fn is_woken(&self) -> bool {
        self.stands == Stands::Waiting && self.sleeper.times_woken() > self.heard
    }
}

const NAMES: [&str; 3] = ["a.example", "b.example", "c.example"];

/// Mail by domain, and sessions; news in between.
#[derive(Default)]
struct Model {
    news: Arc<News>,
    mail: [usize; 3],
    sessions: Vec<Session>,
}

impl Model {
    fn step(&mut self, (action, which, domains): (u8, u8, u8)) {
        let which = usize::from(which);
        if action == 0 {
            self.mail[which % 3] += 1;
            return tell(&self.news, NAMES[which % 3]);
        }
        if action == 1 && self.sessions.len() < 6 {
            return self.open(domains);
        }
        if self.sessions.is_empty() {
            return;
        }
        let which = which % self.sessions.len();
        match (action, self.sessions[which].stands) {
            (2, _) => self.close(which),
            (3, _) => self.drop_leases(which),
            (4, Stands::Waiting) => {
                self.sessions[which].sleeper.is_interrupted();
                self.sessions[which].stands = Stands::Interrupted;
            }
            (_, Stands::Claiming) => self.claim(which),
            (_, Stands::Interrupted | Stands::Waiting) => self.wait(which),
        }
    }

    fn open(&mut self, domains: u8) {
        let domains: Vec<usize> = (0..3).filter(|bit| domains >> bit & 1 == 1).collect();
        let names: Vec<_> = domains.iter().map(|domain| NAMES[*domain]).collect();
        self.sessions.push(Session {
            sleeper: Sleeper::new(&self.news, &names),
            domains,
            stands: Stands::Claiming,
            heard: 0,
            leased: Vec::new(),
        });
    }

    /// The leases end first, then the watch: as in a session, or the other way round.
    fn close(&mut self, which: usize) {
        self.drop_leases(which);
        self.sessions.remove(which);
    }

    fn drop_leases(&mut self, which: usize) {
        for domain in std::mem::take(&mut self.sessions[which].leased) {
            self.mail[domain] += 1;
            tell(&self.news, NAMES[domain]);
        }
    }

    /// One message, or none: then it waits.
    fn claim(&mut self, which: usize) {
        let session = &mut self.sessions[which];
        let mut domains = session.domains.iter();
        match domains.find(|domain| self.mail[**domain] > 0) {
            Some(domain) => {
                self.mail[*domain] -= 1;
                session.leased.push(*domain);
            }
            None => self.sessions[which].stands = Stands::Interrupted,
        }
    }

    fn wait(&mut self, which: usize) {
        let session = &mut self.sessions[which];
        session.heard = session.sleeper.times_woken();
        session.stands = match session.sleeper.asks() {
            true => Stands::Claiming,
            false => Stands::Waiting,
        };
    }

    /// Whoever sleeps may do so: there is no mail, or somebody is looking, or woken to look.
    fn check(&self) {
        for domain in (0..3).filter(|domain| self.mail[*domain] > 0) {
            let mut of_domain = self
                .sessions
                .iter()
                .filter(|session| session.domains.contains(&domain));
            let sleeps =
                |session: &Session| session.stands == Stands::Waiting && !session.is_woken();
            let looks =
                |session: &Session| session.stands == Stands::Claiming || session.is_woken();
            assert!(
                !of_domain.clone().any(sleeps) || of_domain.any(looks),
                "mail of {} waits while somebody sleeps and nobody looks",
                NAMES[domain]
            );
        }
    }

    /// What is interrupted goes on; then all mail must have been found.
    fn come_to_rest(&mut self) {
        for _ in 0..1_000 {
            for which in 0..self.sessions.len() {
                match self.sessions[which].stands {
                    Stands::Claiming => self.claim(which),
                    Stands::Interrupted => self.wait(which),
                    Stands::Waiting if self.sessions[which].is_woken() => self.wait(which),
                    Stands::Waiting => {}
                }
            }
        }
        for (domain, mail) in self.mail.iter().enumerate() {
            let mut sessions = self.sessions.iter();
            let watched = sessions.any(|session| session.domains.contains(&domain));
            assert!(!watched || *mail == 0, "{} is forgotten", NAMES[domain]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn no_mail_waits_while_somebody_sleeps(
        steps in prop::collection::vec((0..9_u8, 0..6_u8, 1..8_u8), 1..120)
    ) {
        let mut model = Model::default();
        for step in steps {
            model.step(step);
            model.check();
        }
        model.come_to_rest();
    }
}
