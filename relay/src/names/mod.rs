//! The only way to DNS. The mail process can open no socket, so a child process asks: [`Names`] sends it questions over a
//! socketpair and waits for the answers, for a bounded time.
//!
//! * `protocol`: the frames between the two, as pure functions;
//! * `cache`: answers that are still good, and questions that are under way;
//! * `channel`: the socket, seen from the mail process;
//! * `places`: how many questions may be under way, and for whom;
//! * `child`: the other process, and the guardian that starts it again;
//! * `reverse`: what the names of a client say about it.

mod cache;
mod channel;
mod child;
mod guardian;
mod places;
#[doc(hidden)]
pub mod protocol;
mod reverse;
mod spawn;
mod spf;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use guardian::{Confinement, Settings, run};
pub use protocol::{Mx, SpfAnswer, SpfIdentity, SpfQuestion, SpfResult};
pub(crate) use reverse::{ClientName, Verdict};
pub use spawn::{Resolver, SpawnError, spawn};

use channel::Channel;
use places::Asker;
use protocol::{Name, Question, Records};

use crate::limits::Origin;

/// The answer to a question.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer<T> {
    /// Here it is.
    Found(T),
    /// There is no such name, or it has no such records: whoever is responsible said so.
    Absent,
    /// Nobody could say: no answer in time, a name server in trouble, look-ups that are off.
    Trouble(Trouble),
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Trouble {
    /// Too many questions are under way.
    Busy,
    /// The resolver child is not there.
    Gone,
    /// Look-ups are switched off.
    Off,
    /// The name servers answered that they cannot, or nonsense.
    Servers,
    /// No answer in time.
    TimedOut,
}

/// How look-ups go, for `status`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Health {
    /// Whether the resolver is there.
    pub state: State,
    /// Who is asked.
    pub servers: Vec<String>,
    /// Over what.
    pub transport: String,
    /// What the kernel holds the resolver to.
    pub sandbox: String,
    /// Questions that the cache could not answer.
    pub asked: u64,
    /// Those without an answer.
    pub failed: u64,
    /// How often the resolver was started again.
    pub restarts: u64,
    /// When a name server answered last.
    pub last_answer: Option<Timestamp>,
    /// When there was no answer.
    pub last_failure: Option<Timestamp>,
}

/// Whether the resolver is there.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is gone for good: the mail process may start no other.
    Gone,
    /// It is there, or will be in a moment.
    Running,
}

/// Asks. Clones are cheap handles of the same cache and the same child.
#[derive(Clone, Debug)]
pub struct Names {
    /// `None`: nobody is asked.
    channel: Option<Arc<Channel>>,
    asker: Asker,
}

impl Names {
    /// Asks nobody: every answer is [`Trouble::Off`].
    #[must_use]
    pub fn off() -> Self {
        Self::new(None)
    }

    fn new(channel: Option<Arc<Channel>>) -> Self {
        Self {
            channel,
            asker: Asker::default(),
        }
    }

    /// Asks for a client, which gets a share of all questions and no more.
    pub(crate) fn of_client(&self, address: IpAddr) -> Self {
        let mut names = self.clone();
        names.asker.client = Some(Origin::of(address));
        names
    }

    /// Asks about a client that has just come, by names that it does not choose: they are answered when others have no room.
    pub(crate) fn on_arrival(&self) -> Self {
        let mut names = self.clone();
        names.asker.is_arrival = true;
        names
    }

    /// Whether look-ups are switched off.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.channel.is_none()
    }

    /// How long an answer may take.
    #[must_use]
    pub fn limit(&self) -> Duration {
        self.channel
            .as_ref()
            .map_or(Duration::ZERO, |channel| channel.limit())
    }

    /// How look-ups go; `None`: they are switched off.
    #[must_use]
    pub fn health(&self) -> Option<Health> {
        self.channel.as_ref().map(|channel| channel.health())
    }

    /// The names that an address claims to have (PTR). Nothing is confirmed.
    pub async fn pointers(&self, address: IpAddr) -> Answer<Vec<String>> {
        match self.ask(Question::Pointers(address)).await {
            Answer::Found(Records::Pointers(names)) => Answer::Found(names),
            other => other.without_records(),
        }
    }

    /// The addresses of a name, of both families.
    pub async fn addresses(&self, name: &str) -> Answer<Vec<IpAddr>> {
        match self.ask_name(name, Question::Addresses).await {
            Answer::Found(Records::Addresses(addresses)) => Answer::Found(addresses),
            other => other.without_records(),
        }
    }

    /// The mail exchangers of a domain, by preference.
    pub async fn mx(&self, name: &str) -> Answer<Vec<Mx>> {
        match self.ask_name(name, Question::Mx).await {
            Answer::Found(Records::Mx(exchangers)) => Answer::Found(exchangers),
            other => other.without_records(),
        }
    }

    /// The texts of a name, the strings of each joined.
    pub async fn txt(&self, name: &str) -> Answer<Vec<Vec<u8>>> {
        match self.ask_name(name, Question::Txt).await {
            Answer::Found(Records::Txt(texts)) => Answer::Found(texts),
            other => other.without_records(),
        }
    }

    /// Whether a client may send for a domain. Evaluated by the child, whole.
    pub async fn spf(&self, question: SpfQuestion) -> Answer<SpfAnswer> {
        match self.ask(Question::Spf(question)).await {
            Answer::Found(Records::Spf(answer)) => Answer::Found(answer),
            other => other.without_records(),
        }
    }

    async fn ask_name(&self, name: &str, question: fn(Name) -> Question) -> Answer<Records> {
        match Name::parse(name) {
            Some(name) => self.ask(question(name)).await,
            // A name that cannot be has no records.
            None => Answer::Absent,
        }
    }

    async fn ask(&self, question: Question) -> Answer<Records> {
        match &self.channel {
            // What many asked for is cloned for each.
            Some(channel) => Arc::unwrap_or_clone(channel.ask(self.asker, question).await),
            None => Answer::Trouble(Trouble::Off),
        }
    }
}

impl Answer<Records> {
    /// Whether nobody could say. SPF says so in its own words.
    fn is_trouble(&self) -> bool {
        match self {
            Self::Found(Records::Spf(answer)) => answer.result == SpfResult::TempError,
            Self::Found(_) | Self::Absent => false,
            Self::Trouble(_) => true,
        }
    }

    /// Records of another kind than was asked for are no answer.
    fn without_records<T>(self) -> Answer<T> {
        match self {
            Self::Found(_) => Answer::Trouble(Trouble::Servers),
            Self::Absent => Answer::Absent,
            Self::Trouble(trouble) => Answer::Trouble(trouble),
        }
    }
}
