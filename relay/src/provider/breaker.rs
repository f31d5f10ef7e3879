//! The circuit breaker: a server inside that suddenly refuses most mail for good is more likely broken than right, and
//! must not make us bounce it (design §3).
//!
//! So a refusal for good is believed only after a while. It stays provisional while it is among the last verdicts; when
//! most of those are refusals the breaker trips, and all that is provisional is put off. Sessions that an account has
//! side by side talk to the same server and share one breaker. After a trip the account is in doubt: as
//! long as nothing was delivered, no refusal is believed, however few there are.
//!
//! Pure, and of any kind of thing that is refused: what becomes of it is the caller's business.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Verdicts that are looked at.
const WINDOW: usize = 20;
/// Fewer verdicts than these prove nothing.
const VERDICTS_MIN: usize = 10;

/// What the puller said to one delivery.
#[derive(Debug)]
pub(super) enum Verdict<T> {
    /// 4yz.
    Deferred,
    /// 2yz for one recipient at least: the server inside works.
    Delivered,
    /// 5yz and nothing better, with what waits for the ruling on it.
    Refused(T),
}

/// What becomes of provisional refusals.
#[derive(Debug, Eq, PartialEq)]
#[must_use]
pub(super) enum Ruling<T> {
    /// They are what the server means.
    Believe(Vec<T>),
    /// They are not believed, and tried again later.
    Doubt(Vec<T>),
    /// The same, and the pull has to stop.
    Trip(Trip, Vec<T>),
}

/// What made a breaker trip.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Trip {
    /// Deliveries refused for good.
    pub(super) refused: usize,
    /// Of so many.
    pub(super) verdicts: usize,
}

/// The breaker of one account.
#[derive(Debug)]
struct Breaker<T> {
    window: VecDeque<Seen<T>>,
    /// It tripped, and nothing was delivered since.
    in_doubt: bool,
    /// How often it has tripped, so that each session notices.
    trips: u64,
    /// Sessions that use it now.
    seats: usize,
}

#[derive(Debug)]
enum Seen<T> {
    /// Delivered or deferred.
    Other,
    /// Refused for good; empty once it was ruled on.
    Refused(Option<T>),
}

impl<T> Seen<T> {
    fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_))
    }

    fn into_provisional(self) -> Option<T> {
        match self {
            Self::Other => None,
            Self::Refused(provisional) => provisional,
        }
    }
}

impl<T> Default for Breaker<T> {
    fn default() -> Self {
        Self {
            window: VecDeque::with_capacity(WINDOW),
            in_doubt: false,
            trips: 0,
            seats: 0,
        }
    }
}

impl<T> Breaker<T> {
    fn note(&mut self, verdict: Verdict<T>) -> Ruling<T> {
        let seen = match verdict {
            Verdict::Deferred => Seen::Other,
            Verdict::Delivered => {
                self.in_doubt = false;
                Seen::Other
            }
            Verdict::Refused(provisional) => Seen::Refused(Some(provisional)),
        };
        let left = if self.window.len() < WINDOW {
            None
        } else {
            self.window.pop_front()
        };
        self.window.push_back(seen);
        let verdicts = self.window.len();
        let refused = self.window.iter().filter(|seen| seen.is_refusal()).count();
        let left = left.and_then(Seen::into_provisional).into_iter();
        if verdicts < VERDICTS_MIN || refused * 2 <= verdicts {
            return self.rule(left.collect());
        }
        self.trips += 1;
        self.in_doubt = true;
        let provisional = self.window.drain(..).filter_map(Seen::into_provisional);
        Ruling::Trip(
            Trip { refused, verdicts },
            left.chain(provisional).collect(),
        )
    }

    /// There is nothing more to judge by: what is provisional is ruled on by what is known.
    fn conclude(&mut self) -> Ruling<T> {
        let provisional = self.window.iter_mut().filter_map(|seen| match seen {
            Seen::Other => None,
            Seen::Refused(provisional) => provisional.take(),
        });
        let provisional = provisional.collect();
        self.rule(provisional)
    }

    fn rule(&self, provisional: Vec<T>) -> Ruling<T> {
        if self.in_doubt {
            Ruling::Doubt(provisional)
        } else {
            Ruling::Believe(provisional)
        }
    }
}

/// The breakers of all accounts. Only accounts that pull just now, or are in doubt, have one.
#[derive(Debug)]
pub(super) struct Breakers<T>(Arc<Mutex<HashMap<String, Breaker<T>>>>);

impl<T> Breakers<T> {
    /// A session of this account begins.
    pub(super) fn join(&self, account: &str) -> Seat<T> {
        let mut breakers = self.lock();
        let breaker = breakers.entry(account.to_owned()).or_default();
        breaker.seats += 1;
        Seat {
            account: account.to_owned(),
            trips: breaker.trips,
            breakers: self.clone(),
        }
    }

    /// Nothing in here panics with the lock held.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Breaker<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Clone for Breakers<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Breakers<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// A session's part in the breaker of its account. Dropping the last one forgets the verdicts, and what is still
/// provisional is dropped with nothing said.
#[derive(Debug)]
pub(super) struct Seat<T> {
    breakers: Breakers<T>,
    account: String,
    /// Trips when the session began.
    trips: u64,
}

impl<T> Seat<T> {
    /// One more verdict; what it means for those before it.
    pub(super) fn note(&self, verdict: Verdict<T>) -> Ruling<T> {
        self.breaker(|breaker| breaker.note(verdict))
    }

    /// This session has nothing more to send at present. While others go on, it is for them to rule.
    pub(super) fn conclude(&self) -> Ruling<T> {
        self.breaker(|breaker| match breaker.seats {
            0 | 1 => breaker.conclude(),
            _ => Ruling::Believe(Vec::new()),
        })
    }

    /// Whether the breaker tripped since this session began, in whichever session: it has to stop too.
    pub(super) fn has_tripped(&self) -> bool {
        self.breaker(|breaker| breaker.trips != self.trips)
    }

    fn breaker<R>(&self, look: impl FnOnce(&mut Breaker<T>) -> R) -> R {
        let mut breakers = self.breakers.lock();
        look(breakers.entry(self.account.clone()).or_default())
    }
}

impl<T> Drop for Seat<T> {
    fn drop(&mut self) {
        let forgotten = {
            let mut breakers = self.breakers.lock();
            let Some(breaker) = breakers.get_mut(&self.account) else {
                return;
            };
            breaker.seats -= 1;
            if breaker.seats > 0 {
                return;
            }
            let forgotten = std::mem::take(&mut breaker.window);
            if !breaker.in_doubt {
                breakers.remove(&self.account);
            }
            forgotten
        };
        // What it held is let go without the lock.
        drop(forgotten);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays verdicts, `+` delivered, `-` deferred, a letter refused, `.` the end of the session; tells what became of
    /// the letters, those that are believed in upper case, `!` where it tripped.
    fn play(breakers: &Breakers<char>, verdicts: &str) -> String {
        let seat = breakers.join("corp");
        verdicts
            .chars()
            .map(|verdict| match verdict {
                '+' => seat.note(Verdict::Delivered),
                '-' => seat.note(Verdict::Deferred),
                '.' => seat.conclude(),
                refused => seat.note(Verdict::Refused(refused)),
            })
            .map(told)
            .collect()
    }

    fn told(ruling: Ruling<char>) -> String {
        match ruling {
            Ruling::Believe(letters) => letters
                .into_iter()
                .map(|letter| letter.to_ascii_uppercase())
                .collect(),
            Ruling::Doubt(letters) => letters.into_iter().collect(),
            Ruling::Trip(_, letters) => letters.into_iter().chain(['!']).collect(),
        }
    }

    #[test]
    fn a_refusal_is_believed_when_it_does_not_stay_alone_with_others() {
        for (verdicts, expected) in [
            ("", ""),
            ("++++++++++.", ""),
            // A short session proves nothing against its server.
            ("abcdefghi.", "ABCDEFGHI"),
            ("abcdefghij", "abcdefghij!"),
            // Half is not most.
            ("abcde+++++.", "ABCDE"),
            ("+++++abcde.", "ABCDE"),
            ("abcdef++++", "abcdef!"),
            ("++++abcdef", "abcdef!"),
            ("abcdef----", "abcdef!"),
            // At eleven verdicts it is more than half.
            ("abcde+++++f", "abcdef!"),
            // What is older than twenty verdicts is believed, one by one.
            ("ab++++++++++++++++++", ""),
            ("ab+++++++++++++++++++", "A"),
            ("ab++++++++++++++++++++c.", "ABC"),
            // It broke in the middle: of the last twenty, eleven.
            ("++++++++++++++++++++abcdefghij.", "ABCDEFGHIJ"),
            ("++++++++++++++++++++abcdefghijk", "abcdefghijk!"),
            ("a+++++++++++++++++++bcdefghijkl", "Abcdefghijkl!"),
            // An end in between rules on what was there, and forgets no verdict.
            ("abcdefghi.j", "ABCDEFGHIj!"),
        ] {
            let breakers = Breakers::default();
            assert_eq!(play(&breakers, verdicts), expected, "{verdicts}");
        }
    }

    #[test]
    fn each_pull_is_judged_by_itself() {
        let breakers = Breakers::default();
        for _ in 0..5 {
            assert_eq!(play(&breakers, "abcdefghi."), "ABCDEFGHI");
        }
        assert!(breakers.lock().is_empty());
    }

    #[test]
    fn after_a_trip_no_refusal_is_believed_until_something_is_delivered() {
        let breakers = Breakers::default();
        assert_eq!(play(&breakers, "abcdefghij"), "abcdefghij!");
        assert_eq!(play(&breakers, "abc."), "abc");
        assert_eq!(play(&breakers, "-a-."), "a");
        assert_eq!(play(&breakers, "a-------------------b-."), "ab");
        assert_eq!(play(&breakers, "abcdefghij"), "abcdefghij!");
        assert_eq!(play(&breakers, "ab+c."), "ABC");
        assert!(breakers.lock().is_empty());
    }

    #[test]
    fn sessions_side_by_side_are_one() {
        let breakers = Breakers::default();
        let (one, other) = (breakers.join("corp"), breakers.join("corp"));
        let foreign = breakers.join("elsewhere");
        for letter in 'a'..='i' {
            let seat = if letter < 'e' { &one } else { &other };
            assert_eq!(told(seat.note(Verdict::Refused(letter))), "");
            assert_eq!(told(foreign.note(Verdict::Delivered)), "");
        }
        // One of them is through; what it was refused is the other one's to judge.
        assert_eq!(told(one.conclude()), "");
        drop(one);
        let late = breakers.join("corp");
        let trip = Trip {
            refused: 10,
            verdicts: 10,
        };
        let all = ('a'..='j').collect();
        assert_eq!(late.note(Verdict::Refused('j')), Ruling::Trip(trip, all));
        assert!(other.has_tripped() && late.has_tripped() && !foreign.has_tripped());
        assert!(!breakers.join("corp").has_tripped());
    }

    #[test]
    fn what_nobody_ruled_on_is_dropped_with_the_last_session() {
        let breakers = Breakers::default();
        let held = Arc::new(());
        let seat = breakers.join("corp");
        let _ = seat.note(Verdict::Refused(Arc::clone(&held)));
        assert_eq!(Arc::strong_count(&held), 2);
        drop(seat);
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
