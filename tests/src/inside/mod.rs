//! The corporate mail server of the tests: SMTP or LMTP, over TCP or a Unix socket. It records
//! every command and every message octet for octet, and misbehaves on order: refusals, stalls,
//! hang-ups and garbage, at each step.
//!
//! ```no_run
//! # use atrn_tests::inside::{Inside, Step};
//! let inside = Inside::smtp();
//! inside.on(Step::Rcpt).with("bob@").reply("550 5.1.1 no such user");
//! inside.on(Step::EndOfData).once().hang_up();
//! ```

mod rules;
mod session;

use std::collections::HashMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

pub use rules::{Order, Step};

use crate::certs::Certificate;
use crate::process::PATIENCE;
use crate::stream::{Stream, Switch};
use rules::{Action, Rule};

/// The server, until it is dropped.
#[derive(Debug)]
pub struct Inside {
    shared: Arc<Shared>,
    place: Place,
    acceptor: Option<JoinHandle<()>>,
}

/// What the server offers and asks for.
#[derive(Debug)]
pub struct Offer {
    /// LMTP (RFC 2033) in place of SMTP.
    pub lmtp: bool,
    /// EHLO keywords, in this order; `STARTTLS` and `AUTH` come by themselves.
    pub keywords: Vec<String>,
    /// STARTTLS with this certificate, or TLS from the first octet with `tls_first`.
    pub certificate: Option<Certificate>,
    /// TLS from the first octet (`smtps:`).
    pub tls_first: bool,
    /// The only account; then mail is taken after AUTH PLAIN alone.
    pub account: Option<(String, String)>,
}

impl Default for Offer {
    fn default() -> Self {
        let keywords = [
            "PIPELINING",
            "SIZE 100000000",
            "8BITMIME",
            "ENHANCEDSTATUSCODES",
        ];
        Self {
            lmtp: false,
            keywords: [&keywords[..], &["SMTPUTF8", "CHUNKING", "DSN"]]
                .concat()
                .iter()
                .map(|&keyword| keyword.to_owned())
                .collect(),
            certificate: None,
            tls_first: false,
            account: None,
        }
    }
}

impl Offer {
    /// Just these keywords.
    #[must_use]
    pub fn keywords(words: &[&str]) -> Self {
        let keywords = words.iter().map(|&word| word.to_owned()).collect();
        Self {
            keywords,
            ..Self::default()
        }
    }
}

/// A message as it came.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// The number of the connection that it came on, from 0.
    pub session: usize,
    /// The argument of MAIL, brackets and parameters included.
    pub mail: String,
    /// The arguments of the accepted RCPT commands.
    pub recipients: Vec<String>,
    /// Header section and body, dots unstuffed.
    pub content: Vec<u8>,
}

/// One command line, and the connection that it came on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The number of the connection, from 0.
    pub session: usize,
    /// The line.
    pub line: String,
}

/// Everything seen so far.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Messages that got a positive answer.
    pub messages: Vec<Arrived>,
    /// Content that was cut off: what had come of it.
    pub torn: Vec<Vec<u8>>,
    /// Every command line.
    pub commands: Vec<Command>,
    /// Connections so far.
    pub sessions: usize,
    /// Connections that have ended.
    pub ended: usize,
    /// Sessions stalled just now.
    pub stalled: usize,
}

#[derive(Debug)]
enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    offer: Offer,
    witness: Option<Witness>,
    tls: Option<Arc<rustls::ServerConfig>>,
}

/// Sees each message when it is complete and not yet answered; the record stays empty.
struct Witness(Box<dyn Fn(&Arrived) + Send + Sync>);

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Witness")
    }
}

#[derive(Debug, Default)]
struct State {
    record: Record,
    rules: Vec<Rule>,
    /// Of the sessions that are there, by their numbers.
    switches: HashMap<usize, Switch>,
    released: usize,
    closing: bool,
}

impl Inside {
    /// An SMTP server on a free port of 127.0.0.1.
    #[must_use]
    pub fn smtp() -> Self {
        Self::offering(Offer::default())
    }

    /// An LMTP server on a free port of 127.0.0.1.
    #[must_use]
    pub fn lmtp() -> Self {
        Self::offering(Offer {
            lmtp: true,
            ..Offer::default()
        })
    }

    /// A server on a free port of 127.0.0.1.
    ///
    /// # Panics
    /// When there is no port.
    #[must_use]
    pub fn offering(offer: Offer) -> Self {
        Self::listening(
            TcpListener::bind("127.0.0.1:0").expect("a free port"),
            offer,
        )
    }

    /// An SMTP server that takes more than can be kept: each message goes to the witness, after its last octet and
    /// before the answer, and neither messages nor commands are recorded.
    ///
    /// # Panics
    /// When there is no port.
    #[must_use]
    pub fn witnessed(witness: impl Fn(&Arrived) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let witness = Witness(Box::new(witness));
        Self::serving(listener, Shared::new(Offer::default(), Some(witness)))
    }

    /// A server on a listener of the caller's.
    ///
    /// # Panics
    /// When the listener has no address.
    #[must_use]
    pub fn listening(listener: TcpListener, offer: Offer) -> Self {
        Self::serving(listener, Shared::new(offer, None))
    }

    fn serving(listener: TcpListener, shared: Arc<Shared>) -> Self {
        let address = listener.local_addr().expect("an address");
        let acceptor = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    if shared.state().closing {
                        return;
                    }
                    if let Ok(stream) = stream.and_then(Stream::tcp) {
                        shared.serve(stream);
                    }
                }
            })
        };
        Self {
            shared,
            place: Place::Tcp(address),
            acceptor: Some(acceptor),
        }
    }

    /// A server on a Unix socket.
    ///
    /// # Panics
    /// When the socket cannot be made.
    #[must_use]
    pub fn unix(path: &Path, offer: Offer) -> Self {
        let listener = UnixListener::bind(path).expect("a Unix socket");
        let shared = Shared::new(offer, None);
        let acceptor = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    if shared.state().closing {
                        return;
                    }
                    if let Ok(stream) = stream {
                        shared.serve(Stream::Unix(stream));
                    }
                }
            })
        };
        Self {
            shared,
            place: Place::Unix(path.to_owned()),
            acceptor: Some(acceptor),
        }
    }

    /// Its address, as `[handover] target` has it.
    #[must_use]
    pub fn target(&self) -> String {
        let offer = &self.shared.offer;
        match &self.place {
            Place::Tcp(address) if offer.lmtp => format!("lmtp://{address}"),
            Place::Tcp(address) if offer.tls_first => format!("smtps://{address}"),
            Place::Tcp(address) => format!("smtp://{address}"),
            Place::Unix(path) => format!("lmtp+unix:{}", path.display()),
        }
    }

    /// An SMTP server on the same port of another address of this host: a puller that runs may go there too.
    ///
    /// # Panics
    /// When somebody has that port.
    #[must_use]
    pub fn beside(&self) -> Self {
        let address = (Ipv4Addr::new(127, 0, 0, 2), self.address().port());
        let listener = TcpListener::bind(address).expect("the same port");
        Self::listening(listener, Offer::default())
    }

    /// Its TCP address.
    ///
    /// # Panics
    /// When it listens on a Unix socket.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        match &self.place {
            Place::Tcp(address) => *address,
            Place::Unix(path) => panic!("{} is no TCP address", path.display()),
        }
    }

    /// Begins an order to misbehave; it holds from then on, for every session.
    pub fn on(&self, step: Step) -> Order<'_> {
        Order::new(self, step)
    }

    /// Lets stalled sessions go on.
    pub fn release(&self) {
        self.shared.state().released += 1;
        self.shared.changed.notify_all();
    }

    /// Closes every connection, as a server does that wants no idle ones.
    pub fn hang_up_all(&self) {
        for switch in self.shared.state().switches.values() {
            switch.off();
        }
    }

    /// Forgets all orders.
    pub fn behave(&self) {
        self.shared.state().rules.clear();
    }

    /// Everything seen so far.
    #[must_use]
    pub fn record(&self) -> Record {
        self.shared.state().record.clone()
    }

    /// The messages taken so far.
    #[must_use]
    pub fn messages(&self) -> Vec<Arrived> {
        self.record().messages
    }

    /// The command lines so far.
    #[must_use]
    pub fn commands(&self) -> Vec<String> {
        self.record()
            .commands
            .into_iter()
            .map(|command| command.line)
            .collect()
    }

    /// Waits for a condition on what has been seen.
    ///
    /// # Panics
    /// When it does not come true in time.
    #[track_caller]
    pub fn wait_until(&self, what: &str, holds: impl Fn(&Record) -> bool) -> Record {
        let state = self.shared.state();
        let (state, timeout) = self
            .shared
            .changed
            .wait_timeout_while(state, PATIENCE, |state| !holds(&state.record))
            .unwrap_or_else(PoisonError::into_inner);
        let record = &state.record;
        assert!(
            !timeout.timed_out(),
            "the corporate server waited in vain: {what}; {} messages, {:#?}",
            record.messages.len(),
            record.commands
        );
        record.clone()
    }

    /// Waits until so many messages were taken, and returns all.
    #[track_caller]
    pub fn wait_for_messages(&self, count: usize) -> Vec<Arrived> {
        let what = format!("{count} messages");
        self.wait_until(&what, |record| record.messages.len() >= count)
            .messages
    }

    fn add(&self, rule: Rule) {
        self.shared.state().rules.push(rule);
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.closing = true;
        for (_, switch) in state.switches.drain() {
            switch.off();
        }
        drop(state);
        self.shared.changed.notify_all();
        // The acceptor waits for a connection: give it one, so that it sees the end.
        match &self.place {
            Place::Tcp(address) => {
                std::net::TcpStream::connect_timeout(address, Duration::from_secs(1)).ok();
            }
            Place::Unix(path) => {
                std::os::unix::net::UnixStream::connect(path).ok();
            }
        }
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().ok();
        }
    }
}

impl Shared {
    fn new(offer: Offer, witness: Option<Witness>) -> Arc<Self> {
        let tls = offer.certificate.as_ref().map(Certificate::server);
        Arc::new(Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            offer,
            witness,
            tls,
        })
    }

    fn serve(self: &Arc<Self>, stream: Stream) {
        let mut state = self.state();
        let number = state.record.sessions;
        state.record.sessions += 1;
        state.switches.insert(number, stream.switch());
        drop(state);
        let shared = Arc::clone(self);
        std::thread::spawn(move || {
            let switch = stream.switch();
            session::Session::new(&shared, number).run(stream);
            // Another handle is kept for the end of the test: closing needs a word.
            switch.off();
            shared.state().switches.remove(&number);
            shared.record(|record| record.ended += 1);
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that panicked while it looked has harmed nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn command(&self, session: usize, line: &str) {
        if self.witness.is_none() {
            let line = line.to_owned();
            self.record(|record| record.commands.push(Command { session, line }));
        }
    }

    fn arrived(&self, message: Arrived) {
        match &self.witness {
            Some(Witness(see)) => see(&message),
            None => self.record(|record| record.messages.push(message)),
        }
    }

    fn torn(&self, content: Vec<u8>) {
        if self.witness.is_none() {
            self.record(|record| record.torn.push(content));
        }
    }

    fn record(&self, change: impl FnOnce(&mut Record)) {
        change(&mut self.state().record);
        self.changed.notify_all();
    }

    /// What the orders say of this step; the text is the command's argument.
    fn order(&self, step: Step, text: &str) -> Option<Action> {
        self.state()
            .rules
            .iter_mut()
            .find_map(|rule| rule.apply(step, text))
    }

    /// Waits until the stalled sessions are let go, or the server is closed.
    fn stall(&self) {
        let mut state = self.state();
        let before = state.released;
        state.record.stalled += 1;
        self.changed.notify_all();
        let mut state = self
            .changed
            .wait_while(state, |state| state.released == before && !state.closing)
            .unwrap_or_else(PoisonError::into_inner);
        state.record.stalled -= 1;
    }
}
