//! Answers that are still good, in bounded memory. The lives that name servers give them are kept within bounds too: a
//! life of nothing would have each connection ask again, and a long one would keep a mistake.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::sync::Cache as Bounded;

use super::protocol::{Name, Question, Records};
use super::{Answer, Trouble};

/// Octets of questions and answers together, about.
const OCTETS_MAX: u64 = 16 << 20;
/// What an entry takes beside its content.
const ENTRY_OCTETS: usize = 200;
/// How long records are good, at least and at most.
const FOUND: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(3_600));
/// How long it is good that there are none: what was forgotten is noticed, and added.
const ABSENT: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(300));
/// How long a failure is believed: it may be over soon, but not every connection has to try (RFC 9520 §3.2).
const TROUBLE: Duration = Duration::from_secs(5);

/// The answers.
#[derive(Clone, Debug)]
pub(super) struct Cache(Bounded<Question, Kept>);

#[derive(Clone, Debug)]
struct Kept {
    answer: Arc<Answer<Records>>,
    good_for: Duration,
}

struct Lives;

impl Expiry<Question, Kept> for Lives {
    fn expire_after_create(&self, _: &Question, kept: &Kept, _: Instant) -> Option<Duration> {
        Some(kept.good_for)
    }

    fn expire_after_update(
        &self,
        _: &Question,
        kept: &Kept,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(kept.good_for)
    }
}

impl Cache {
    pub(super) fn new() -> Self {
        let bounded = Bounded::builder()
            .max_capacity(OCTETS_MAX)
            .weigher(|question: &Question, kept: &Kept| {
                let octets = ENTRY_OCTETS + question.octets() + octets(&kept.answer);
                u32::try_from(octets).unwrap_or(u32::MAX)
            })
            .expire_after(Lives)
            .build();
        Self(bounded)
    }

    pub(super) fn find(&self, question: &Question) -> Option<Arc<Answer<Records>>> {
        self.0.get(question).map(|kept| kept.answer)
    }

    pub(super) fn keep(&self, question: Question, answer: Arc<Answer<Records>>, ttl: u32) {
        if let Some(good_for) = good_for(&answer, Duration::from_secs(ttl.into())) {
            self.0.insert(question, Kept { answer, good_for });
        }
    }
}

/// How long an answer is used; `None`: not at all.
fn good_for(answer: &Answer<Records>, ttl: Duration) -> Option<Duration> {
    match answer {
        Answer::Found(_) if answer.is_trouble() => Some(TROUBLE),
        Answer::Found(_) => Some(ttl.clamp(FOUND.0, FOUND.1)),
        Answer::Absent => Some(ttl.clamp(ABSENT.0, ABSENT.1)),
        Answer::Trouble(Trouble::Servers | Trouble::TimedOut) => Some(TROUBLE),
        // That is our own state, and says nothing about the name.
        Answer::Trouble(Trouble::Busy | Trouble::Gone | Trouble::Off) => None,
    }
}

impl Question {
    fn octets(&self) -> usize {
        match self {
            Self::Pointers(_) => 0,
            Self::Addresses(name) | Self::Mx(name) | Self::Txt(name) => Name::as_str(name).len(),
            Self::Spf(question) => {
                question.hello.len() + question.sender.len() + question.hostname.len()
            }
        }
    }
}

fn octets(answer: &Answer<Records>) -> usize {
    /// Of a string or a vector, beside what is in it.
    const EACH: usize = 32;
    match answer {
        Answer::Found(Records::Pointers(names)) => names.iter().map(|name| EACH + name.len()).sum(),
        Answer::Found(Records::Addresses(addresses)) => EACH * addresses.len(),
        Answer::Found(Records::Mx(exchangers)) => {
            let names = exchangers.iter().map(|mx| EACH + mx.exchange.len());
            names.sum()
        }
        Answer::Found(Records::Txt(texts)) => texts.iter().map(|text| EACH + text.len()).sum(),
        Answer::Found(Records::Spf(answer)) => EACH + answer.domain.len(),
        Answer::Absent | Answer::Trouble(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_are_kept_within_bounds() {
        let found = || Answer::Found(Records::Addresses(Vec::new()));
        for (answer, ttl, expected) in [
            (found(), 0, Some(30)),
            (found(), 300, Some(300)),
            (found(), 2_000_000_000, Some(3_600)),
            (Answer::Absent, 0, Some(30)),
            (Answer::Absent, 86_400, Some(300)),
            (Answer::Trouble(Trouble::Servers), 86_400, Some(5)),
            (Answer::Trouble(Trouble::TimedOut), 0, Some(5)),
            (Answer::Trouble(Trouble::Gone), 300, None),
            (Answer::Trouble(Trouble::Busy), 300, None),
        ] {
            let good_for = good_for(&answer, Duration::from_secs(ttl));
            assert_eq!(
                good_for,
                expected.map(Duration::from_secs),
                "{answer:?} {ttl}"
            );
        }
    }

    #[test]
    fn memory_is_bounded() {
        let cache = Cache::new();
        let text = Arc::new(Answer::Found(Records::Txt(vec![vec![b'x'; 60_000]])));
        for number in 0..2_000 {
            let name = Name::parse(&format!("{number}.example")).unwrap();
            cache.keep(Question::Txt(name), Arc::clone(&text), 300);
        }
        cache.0.run_pending_tasks();
        assert!(cache.0.weighted_size() <= OCTETS_MAX);
        assert!(cache.0.entry_count() > 100);
    }
}
