//! What the names of a client say about it: looked up as the classic SMTP services do, and no more than a note in `Received:`.
//!
//! The names of the address (PTR) are asked for when it connects; each must lead back to the address, or anybody could claim
//! any name. The name that it said hello with has to be one of them, or to lead to the address itself. All of it runs beside the
//! dialogue and within a time of its own. It is never a reason to refuse.

use std::fmt;
use std::net::IpAddr;

use atrn_shared::smtp::address::Domain;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::{Answer, Names};

/// Names of one address that are looked at: hosts that are called a hundred ways exist.
const POINTERS_MAX: usize = 10;

/// What is known of a client.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) enum Verdict {
    /// Nobody was asked.
    #[default]
    NotAsked,
    /// The address has this name, and it is what the client calls itself.
    Verified(Domain),
    /// It is not. The name is that of the address, if that has one that leads back to it.
    Unverified(Option<Domain>),
    /// The address has no name.
    Nameless,
    /// Nobody could say.
    Failed,
}

/// The names of an address.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Pointers {
    /// They lead back to it. In the order of the answer, never empty.
    Confirmed(Vec<Domain>),
    /// None of them leads back to it.
    Claimed,
    /// There is none.
    Absent,
    /// Nobody could say.
    Failed,
}

/// Whether what a client calls itself leads to its address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Hello {
    Its,
    Other,
}

/// What the names that were found say.
fn decide(pointers: &Pointers, name: &str, hello: Hello) -> Verdict {
    match pointers {
        Pointers::Failed => Verdict::Failed,
        Pointers::Absent => Verdict::Nameless,
        Pointers::Claimed => Verdict::Unverified(None),
        Pointers::Confirmed(names) => {
            let same = |domain: &&Domain| domain.as_str().eq_ignore_ascii_case(name);
            let first = names.first().cloned();
            match (names.iter().find(same), hello) {
                (Some(same), _) => Verdict::Verified(same.clone()),
                (None, Hello::Its) => first.map_or(Verdict::Failed, Verdict::Verified),
                (None, Hello::Other) => Verdict::Unverified(first),
            }
        }
    }
}

/// The look-ups about one client, under way.
#[derive(Debug)]
pub(crate) struct ClientName(Option<LookUps>);

#[derive(Debug)]
struct LookUps {
    names: Names,
    address: IpAddr,
    pointers: Awaited<Pointers>,
    hello: Option<(String, Awaited<Hello>)>,
    verdict: Verdict,
}

impl ClientName {
    /// Nobody is asked.
    pub(crate) fn not_asked() -> Self {
        Self(None)
    }

    /// Asks for the names of a client's address: when it connects. Must be called within a runtime.
    pub(crate) fn look_up(names: &Names, address: IpAddr) -> Self {
        if names.is_off() {
            return Self::not_asked();
        }
        let address = address.to_canonical();
        let asking = pointers(names.clone(), address);
        Self(Some(LookUps {
            names: names.clone(),
            address,
            pointers: Awaited::new(names, asking),
            hello: None,
            verdict: Verdict::NotAsked,
        }))
    }

    /// Asks for the name that the client said: when it said hello.
    pub(crate) fn said_hello(&mut self, name: &str) {
        let Some(look_ups) = &mut self.0 else { return };
        if look_ups
            .hello
            .as_ref()
            .is_some_and(|(said, _)| said == name)
        {
            return;
        }
        let (names, address, name) = (look_ups.names.clone(), look_ups.address, name.to_owned());
        let asking = hello(names.clone(), name.clone(), address);
        look_ups.hello = Some((name, Awaited::new(&names, asking)));
    }

    /// What they say. It is waited for until the time of the look-ups is over, and no longer.
    pub(crate) async fn verdict(&mut self) -> Verdict {
        let Some(look_ups) = &mut self.0 else {
            return Verdict::NotAsked;
        };
        look_ups.verdict = look_ups.decide().await;
        look_ups.verdict.clone()
    }
}

impl LookUps {
    async fn decide(&mut self) -> Verdict {
        let pointers = self.pointers.get().await;
        let pointers = pointers.unwrap_or(&Pointers::Failed).clone();
        let Some((name, hello)) = &mut self.hello else {
            return decide(&pointers, "", Hello::Other);
        };
        // What the address is called may be enough.
        let verdict = decide(&pointers, name, Hello::Other);
        if !matches!(verdict, Verdict::Unverified(Some(_))) {
            return verdict;
        }
        let hello = hello.get().await.copied().unwrap_or(Hello::Other);
        decide(&pointers, name, hello)
    }
}

/// What a task finds out until a certain time.
#[derive(Debug)]
struct Awaited<T> {
    until: Instant,
    state: State<T>,
}

#[derive(Debug)]
enum State<T> {
    UnderWay(AbortOnDropHandle<T>),
    /// `None`: it was not there in time.
    Over(Option<T>),
}

impl<T: Send + 'static> Awaited<T> {
    fn new(names: &Names, asking: impl Future<Output = T> + Send + 'static) -> Self {
        Self {
            until: Instant::now() + names.limit(),
            state: State::UnderWay(AbortOnDropHandle::new(tokio::spawn(asking))),
        }
    }

    async fn get(&mut self) -> Option<&T> {
        if let State::UnderWay(task) = &mut self.state {
            let found = timeout_at(self.until, task).await;
            self.state = State::Over(found.ok().and_then(Result::ok));
        }
        match &self.state {
            State::UnderWay(_) => None,
            State::Over(found) => found.as_ref(),
        }
    }
}

async fn pointers(names: Names, address: IpAddr) -> Pointers {
    let claimed = match names.on_arrival().pointers(address).await {
        Answer::Found(claimed) => claimed,
        Answer::Absent => return Pointers::Absent,
        Answer::Trouble(_) => return Pointers::Failed,
    };
    let mut forward = JoinSet::new();
    for (place, name) in claimed.iter().take(POINTERS_MAX).enumerate() {
        // What is no name of a host can not stand in a header, whatever it leads to.
        let Ok(domain) = Domain::parse(name) else {
            continue;
        };
        let names = names.clone();
        forward.spawn(async move {
            let answer = names.addresses(domain.as_str()).await;
            (place, domain, leads_to(&answer, address))
        });
    }
    let mut checked = forward.join_all().await;
    checked.sort_by_key(|(place, ..)| *place);
    let trouble = checked.iter().any(|(.., leads)| leads.is_none());
    let confirmed = checked
        .into_iter()
        .filter(|(.., leads)| *leads == Some(true));
    let confirmed: Vec<_> = confirmed.map(|(_, domain, _)| domain).collect();
    match (confirmed.is_empty(), trouble) {
        (false, _) => Pointers::Confirmed(confirmed),
        (true, true) => Pointers::Failed,
        (true, false) => Pointers::Claimed,
    }
}

async fn hello(names: Names, name: String, address: IpAddr) -> Hello {
    if let Some(literal) = literal(&name) {
        return if literal == address {
            Hello::Its
        } else {
            Hello::Other
        };
    }
    match leads_to(&names.addresses(&name).await, address) {
        Some(true) => Hello::Its,
        Some(false) | None => Hello::Other,
    }
}

/// Whether the address is among these; `None`: nobody could say.
fn leads_to(answer: &Answer<Vec<IpAddr>>, address: IpAddr) -> Option<bool> {
    match answer {
        Answer::Found(addresses) => Some(addresses.contains(&address)),
        Answer::Absent => Some(false),
        Answer::Trouble(_) => None,
    }
}

/// The address of a literal (RFC 5321 §4.1.3).
fn literal(name: &str) -> Option<IpAddr> {
    let inner = name.strip_prefix('[')?.strip_suffix(']')?;
    let address = match inner.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => &inner[5..],
        _ => inner,
    };
    address
        .parse()
        .map(|address: IpAddr| address.to_canonical())
        .ok()
}

/// For logs: one word, or two.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAsked => f.write_str("-"),
            Self::Verified(name) => write!(f, "{name}"),
            Self::Unverified(Some(name)) => write!(f, "{name} unverified"),
            Self::Unverified(None) => f.write_str("unverified"),
            Self::Nameless | Self::Failed => f.write_str("failed"),
        }
    }
}

/// What was said of it last; for a client that brought no message, nothing.
impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = self.0.as_ref().map(|look_ups| &look_ups.verdict);
        verdict.unwrap_or(&Verdict::NotAsked).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(text: &str) -> Domain {
        Domain::parse(text).unwrap()
    }

    #[test]
    fn names_must_lead_back_and_be_what_the_client_says() {
        let confirmed = || Pointers::Confirmed(vec![domain("a.example"), domain("b.example")]);
        let verified = |name| Verdict::Verified(domain(name));
        let a = Verdict::Unverified(Some(domain("a.example")));
        for (pointers, name, hello, expected) in [
            (confirmed(), "a.example", Hello::Its, verified("a.example")),
            (
                confirmed(),
                "B.Example",
                Hello::Other,
                verified("b.example"),
            ),
            (confirmed(), "c.example", Hello::Its, verified("a.example")),
            (confirmed(), "c.example", Hello::Other, a.clone()),
            (confirmed(), "", Hello::Other, a),
            (
                Pointers::Claimed,
                "a.example",
                Hello::Its,
                Verdict::Unverified(None),
            ),
            (Pointers::Failed, "a.example", Hello::Its, Verdict::Failed),
            (Pointers::Absent, "a.example", Hello::Its, Verdict::Nameless),
        ] {
            assert_eq!(
                decide(&pointers, name, hello),
                expected,
                "{pointers:?} {name}"
            );
        }
    }

    #[test]
    fn an_address_can_be_said_as_a_name() {
        for (name, expected) in [
            ("[192.0.2.1]", Some("192.0.2.1")),
            ("[IPv6:2001:db8::1]", Some("2001:db8::1")),
            ("[ipv6:::ffff:192.0.2.1]", Some("192.0.2.1")),
            ("[\u{e9}\u{e9}\u{e9}]", None),
            ("192.0.2.1", None),
            ("a.example", None),
        ] {
            let expected = expected.map(|address| address.parse().unwrap());
            assert_eq!(literal(name), expected, "{name}");
        }
    }
}
