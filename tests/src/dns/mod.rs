//! A name server on loopback, over UDP and TCP, that says what a test wants: records, no such name, trouble, nothing at
//! all, or nonsense, at once or after a while. It remembers what it was asked.
//!
//! ```no_run
//! # use std::time::Duration;
//! # use atrn_tests::dns::{Answer, Dns};
//! # use atrn_tests::world::World;
//! let dns = Dns::start();
//! dns.ptr("127.0.0.1", "client.source.example");
//! dns.a("client.source.example", "127.0.0.1");
//! dns.answers("broken.example", Answer::ServFail);
//! dns.delay(Duration::from_millis(20));
//! let world = World::setup().dns(&dns).start();
//! assert_eq!(dns.asked("client.source.example"), 1);
//! ```
//!
//! It shares no code with the resolver that it is asked by: its messages are written here, octet by octet (RFC 1035 §4).

mod message;
mod server;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::ports::Port;
use crate::process::wait_until;
use message::{Data, Kind};
use server::Server;

/// The server, until it is dropped.
#[derive(Debug)]
pub struct Dns {
    shared: Arc<Shared>,
    server: Option<Server>,
    port: Port,
}

/// What a name is answered with, instead of its records.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answer {
    /// The records, or that there are none.
    Records,
    /// The right number and question, and octets that make no answer.
    Garbage,
    /// Over TCP the connection is closed; over UDP there is no answer.
    HangUp,
    /// The server does not want to.
    Refused,
    /// The server cannot (SERVFAIL).
    ServFail,
    /// No answer at all.
    Silence,
    /// Whatever is asked, an answer about another name.
    Stranger,
}

/// A question as it came.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Query {
    /// The name, in lower case.
    pub name: String,
    /// The type, as in RFC 1035: 1 A, 12 PTR, 15 MX, 16 TXT, 28 AAAA.
    pub kind: u16,
    /// How it came.
    pub over: Transport,
}

/// How a question came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Transport {
    /// Over TCP.
    Tcp,
    /// Over UDP.
    Udp,
}

/// What the sockets do about a question.
#[derive(Debug)]
enum Reaction {
    Answer(Vec<u8>, Duration),
    HangUp,
    Silence,
}

#[derive(Debug, Default)]
struct Shared(Mutex<State>);

#[derive(Debug)]
struct State {
    records: HashMap<String, Vec<Data>>,
    answers: HashMap<String, Answer>,
    all: Option<Answer>,
    delay: Duration,
    delays: HashMap<String, Duration>,
    ttl: u32,
    queries: Vec<Query>,
    connections: usize,
}

impl Default for State {
    fn default() -> Self {
        Self {
            records: HashMap::new(),
            answers: HashMap::new(),
            all: None,
            delay: Duration::ZERO,
            delays: HashMap::new(),
            ttl: 300,
            queries: Vec::new(),
            connections: 0,
        }
    }
}

impl Dns {
    /// Starts one that knows no names, on a port of its own.
    ///
    /// # Panics
    /// When it cannot listen.
    #[must_use]
    pub fn start() -> Self {
        let (shared, port) = (Arc::<Shared>::default(), Port::reserve());
        let server = Server::start(port.address(), Arc::clone(&shared));
        Self {
            shared,
            server: Some(server),
            port,
        }
    }

    /// Where it answers.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The `[dns]` table of a relay that asks this server only.
    #[must_use]
    pub fn settings(&self) -> toml::Table {
        let mut table = toml::Table::new();
        table.insert(
            "servers".to_owned(),
            vec![self.address().to_string()].into(),
        );
        table
    }

    /// Ends every connection and takes no more: the host is there, the server is not.
    pub fn stop(&mut self) {
        self.server = None;
    }

    /// Answers again, with the same records.
    ///
    /// # Panics
    /// When it cannot listen.
    pub fn resume(&mut self) {
        let server = Server::start(self.port.address(), Arc::clone(&self.shared));
        self.server = Some(server);
    }

    /// The address of a name, of either family.
    ///
    /// # Panics
    /// When that is no address.
    pub fn a(&self, name: &str, address: &str) {
        let address: IpAddr = address.parse().expect("an address");
        self.add(name, Data::Address(address));
    }

    /// The name of an address.
    ///
    /// # Panics
    /// When that is no address.
    pub fn ptr(&self, address: &str, name: &str) {
        let address = address.parse().expect("an address");
        self.add(&reverse_name(address), Data::Pointer(name.to_owned()));
    }

    /// The name that a name stands for, where the names of addresses are kept under another one (RFC 2317).
    pub fn ptr_of(&self, name: &str, target: &str) {
        self.add(name, Data::Pointer(target.to_owned()));
    }

    /// A text of a name; strings of 255 octets are made of it.
    pub fn txt(&self, name: &str, text: &str) {
        self.add(name, Data::Text(text.as_bytes().to_vec()));
    }

    /// A mail exchanger; `.` says that the domain takes no mail (RFC 7505).
    pub fn mx(&self, name: &str, preference: u16, exchange: &str) {
        self.add(name, Data::Mx(preference, exchange.to_owned()));
    }

    /// Another name for a name.
    pub fn cname(&self, name: &str, target: &str) {
        self.add(name, Data::Alias(target.to_owned()));
    }

    /// Forgets the records of a name: there is no such name.
    pub fn remove(&self, name: &str) {
        self.state().records.remove(&lower(name));
    }

    /// How a name is answered, whatever its records.
    pub fn answers(&self, name: &str, answer: Answer) {
        self.state().answers.insert(lower(name), answer);
    }

    /// How every name is answered that nothing else is said of.
    pub fn answers_all(&self, answer: Answer) {
        self.state().all = Some(answer);
    }

    /// How long every answer takes.
    pub fn delay(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// How long the answers about one name take.
    pub fn delay_of(&self, name: &str, delay: Duration) {
        self.state().delays.insert(lower(name), delay);
    }

    /// How long answers are good, in seconds.
    pub fn ttl(&self, seconds: u32) {
        self.state().ttl = seconds;
    }

    /// Everything that it was asked so far.
    #[must_use]
    pub fn queries(&self) -> Vec<Query> {
        self.state().queries.clone()
    }

    /// How often it was asked about a name.
    #[must_use]
    pub fn asked(&self, name: &str) -> usize {
        let (name, state) = (lower(name), self.state());
        let of_name = state.queries.iter().filter(|query| query.name == name);
        of_name.count()
    }

    /// TCP connections so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.state().connections
    }

    /// Waits until it was asked about a name.
    #[track_caller]
    pub fn wait_for(&self, name: &str) {
        wait_until(&format!("a question about {name}"), || self.asked(name) > 0);
    }

    fn add(&self, name: &str, data: Data) {
        let mut state = self.state();
        state.records.entry(lower(name)).or_default().push(data);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connected(&self) {
        self.lock().connections += 1;
    }

    /// What is no question is not answered.
    fn react(&self, question: &[u8], over: Transport) -> Reaction {
        let Some(asked) = message::Asked::parse(question) else {
            return Reaction::HangUp;
        };
        let mut state = self.lock();
        state.queries.push(Query {
            name: asked.name.clone(),
            kind: asked.kind,
            over,
        });
        let ordered = state.answers.get(&asked.name).copied().or(state.all);
        let delay = state.delays.get(&asked.name).copied();
        let delay = delay.unwrap_or(state.delay);
        let answer = match ordered.unwrap_or(Answer::Records) {
            Answer::Records => state.records_of(&asked),
            Answer::Garbage => asked.garbage(),
            Answer::Refused => asked.refusal(5),
            Answer::ServFail => asked.refusal(2),
            Answer::Stranger => asked.about_another(),
            Answer::Silence => return Reaction::Silence,
            Answer::HangUp => return Reaction::HangUp,
        };
        let is_long = over == Transport::Udp && answer.len() > message::UDP_OCTETS_MAX;
        let answer = if is_long { asked.truncated() } else { answer };
        Reaction::Answer(answer, delay)
    }
}

impl State {
    fn records_of(&self, asked: &message::Asked) -> Vec<u8> {
        let mut answers = Vec::new();
        let mut name = asked.name.clone();
        // A chain of aliases is followed as a resolver would; a loop ends.
        for _ in 0..8 {
            let Some(records) = self.records.get(&name) else {
                break;
            };
            let wanted = records
                .iter()
                .filter(|data| data.kind() == Kind(asked.kind));
            answers.extend(wanted.map(|data| (name.clone(), data.clone())));
            let alias = records.iter().find_map(Data::alias);
            let Some(target) = alias.filter(|_| {
                answers.is_empty() || answers.iter().all(|(_, data)| data.alias().is_some())
            }) else {
                break;
            };
            answers.push((name, Data::Alias(target.clone())));
            name = lower(&target);
        }
        let exists = self.records.contains_key(&name);
        asked.answer(&answers, exists, self.ttl)
    }
}

/// The name that the names of an address are asked by (RFC 1035 §3.5, RFC 3596 §2.5).
#[must_use]
pub fn reverse_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let octets = address.octets();
            let nibbles = octets
                .iter()
                .rev()
                .flat_map(|octet| [octet & 15, octet >> 4]);
            let labels: Vec<_> = nibbles.map(|nibble| format!("{nibble:x}")).collect();
            format!("{}.ip6.arpa", labels.join("."))
        }
    }
}

fn lower(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}
