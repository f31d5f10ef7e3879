//! The puller's ends: the customer up to the reversal, the receiving side behind it, which is also that of the edge. Each
//! is a driver as short as it can be, with the verdicts of the directives.

use std::collections::{BTreeSet, HashMap};

use atrn_shared::odmr::customer::{Customer, Event as Asked, Outcome};
use atrn_shared::sasl::{ClientContext, NONCE_OCTETS};
use atrn_shared::smtp::address::ForwardPath;
use atrn_shared::smtp::line::Input;
use atrn_shared::smtp::parameter::DeliveryId;
use atrn_shared::smtp::reply::Reply;
use atrn_shared::smtp::server::{Event, Server, Tls as ServerTls};

use super::Machine;
use super::settings::Settings;
use crate::inside::Step;
use crate::world::{PULLER_NAME, RELAY_NAME, Tls};

/// The customer's machine, and after the reversal the receiving one.
pub(super) struct CustomerEnd<'a> {
    settings: &'a Settings,
    customer: Customer,
    server: Option<ServerEnd<'a>>,
    input: Input,
    closed: bool,
}

impl<'a> CustomerEnd<'a> {
    pub(super) fn new(settings: &'a Settings) -> Self {
        let tls = settings.tls == Tls::Implicit;
        let customer = Customer::new(settings.customer(), context(tls));
        Self {
            settings,
            customer,
            server: None,
            input: Input::new(),
            closed: false,
        }
    }

    fn run(&mut self) {
        loop {
            match self.customer.next(&mut self.input) {
                Asked::NeedInput | Asked::StartTls => return,
                Asked::NoMailYet => self.customer.quit(),
                Asked::Prove(challenge) => self.customer.responded(challenge.respond()),
                Asked::Ended(Outcome::Turned) => {
                    let server = ServerEnd::reversed(self.settings);
                    self.server = Some(server);
                    return;
                }
                Asked::Ended(_) => {
                    self.closed = true;
                    return;
                }
            }
        }
    }
}

fn context(tls: bool) -> ClientContext {
    ClientContext {
        tls,
        channel_binding: None,
        nonce: [9; NONCE_OCTETS],
    }
}

impl Machine for CustomerEnd<'_> {
    fn feed(&mut self, octets: &[u8]) {
        if let Some(server) = &mut self.server {
            return server.feed(octets);
        }
        self.input.push(octets);
        self.run();
    }

    fn output(&mut self) -> &mut Vec<u8> {
        match &mut self.server {
            Some(server) => server.output(),
            None => &mut self.customer.output,
        }
    }

    fn is_closed(&self) -> bool {
        self.server.as_ref().map_or(self.closed, Machine::is_closed)
    }

    fn peer_ended(&mut self) {
        self.closed = true;
        if let Some(server) = &mut self.server {
            server.peer_ended();
        }
    }

    fn tls_started(&mut self) {
        self.customer.tls_started(context(true));
        self.run();
    }

    fn is_turned(&self) -> bool {
        self.server.is_some()
    }
}

/// The receiving side, on the edge or behind the reversal.
pub(super) struct ServerEnd<'a> {
    settings: &'a Settings,
    server: Server,
    input: Input,
    journal: HashMap<DeliveryId, Taken>,
    offered: Offered,
    closed: bool,
}

/// Who took a delivery.
enum Taken {
    Recipients(BTreeSet<String>),
    Whole,
}

/// The delivery under way.
#[derive(Default)]
struct Offered {
    id: Option<DeliveryId>,
    accepted: BTreeSet<String>,
    some_refused: bool,
}

impl<'a> ServerEnd<'a> {
    pub(super) fn edge(settings: &'a Settings) -> Self {
        let server = Server::new(settings.server(RELAY_NAME), ServerTls::Offered);
        Self {
            settings,
            server,
            input: Input::new(),
            journal: HashMap::new(),
            offered: Offered::default(),
            closed: false,
        }
    }

    pub(super) fn reversed(settings: &'a Settings) -> Self {
        // R2645-20: TLS is there already, and is not offered a second time.
        let tls = if settings.tls == Tls::Off {
            ServerTls::Unavailable
        } else {
            ServerTls::Active
        };
        let server = Server::new(settings.server(PULLER_NAME), tls);
        Self {
            settings,
            server,
            input: Input::new(),
            journal: HashMap::new(),
            offered: Offered::default(),
            closed: false,
        }
    }

    fn run(&mut self) {
        loop {
            let answer = match self.server.next(&mut self.input) {
                Event::NeedInput | Event::StartTls => return,
                Event::Closed => {
                    self.closed = true;
                    return;
                }
                Event::Body(_) | Event::Abandoned(_) => continue,
                Event::Mail(path, parameters) => {
                    self.mail(&path.to_string(), parameters.delivery_id)
                }
                Event::Recipient(path, _) => self.offer(&path),
                Event::Content(_) => self
                    .ordered(Step::Data, "")
                    .unwrap_or_else(|| Reply::bare(354, "Go ahead")),
                Event::EndOfMessage(_) => self.end(),
            };
            self.server.answer(answer);
        }
    }

    fn mail(&mut self, path: &str, id: Option<DeliveryId>) -> Reply {
        let taken = id.as_ref().and_then(|id| self.journal.get(id));
        let is_taken = matches!(taken, Some(Taken::Whole));
        self.offered = Offered {
            id,
            ..Offered::default()
        };
        if is_taken {
            return Reply::new(258, "2.0.0", "already delivered");
        }
        self.verdict(Step::Mail, path)
    }

    fn offer(&mut self, path: &ForwardPath) -> Reply {
        let name = path.to_string();
        let taken = self.offered.id.as_ref().map(|id| self.journal.get(id));
        if let Some(Some(Taken::Recipients(taken))) = taken
            && taken.contains(&name)
        {
            return Reply::new(258, "2.1.5", "already delivered");
        }
        let reply = self.recipient(path);
        if reply.is_positive() {
            self.offered.accepted.insert(name);
        } else {
            self.offered.some_refused = true;
        }
        reply
    }

    fn end(&mut self) -> Reply {
        let reply = self.verdict(Step::EndOfData, "");
        let Offered {
            id,
            accepted,
            some_refused,
        } = std::mem::take(&mut self.offered);
        if let (Some(id), true) = (id, reply.is_positive()) {
            let before = self.journal.remove(&id);
            let mut all = accepted;
            if let Some(Taken::Recipients(before)) = before {
                all.extend(before);
            }
            let taken = if some_refused {
                Taken::Recipients(all)
            } else {
                Taken::Whole
            };
            self.journal.insert(id, taken);
        }
        reply
    }

    fn recipient(&self, path: &ForwardPath) -> Reply {
        let foreign = match path.domain() {
            Some(domain) => !self
                .settings
                .domains
                .iter()
                .any(|name| name == domain.as_str()),
            // Neither a literal nor anything else without a name is ours.
            None => !path.is_postmaster(),
        };
        if foreign {
            return Reply::new(550, "5.7.1", "relaying denied");
        }
        self.verdict(Step::Rcpt, &path.to_string())
    }

    fn verdict(&self, step: Step, argument: &str) -> Reply {
        self.ordered(step, argument)
            .unwrap_or_else(|| Reply::new(250, "2.0.0", "Ok"))
    }

    /// What the directives say of this step.
    fn ordered(&self, step: Step, argument: &str) -> Option<Reply> {
        let (_, _, reply) = self
            .settings
            .verdicts
            .iter()
            .find(|(at, text, _)| *at == step && argument.contains(text))?;
        let mut words = reply.splitn(3, ' ');
        let code = words.next()?.parse().ok()?;
        let (enhanced, text) = (words.next()?, words.next().unwrap_or_default());
        Some(Reply::new(code, enhanced, text.to_owned()))
    }
}

impl Machine for ServerEnd<'_> {
    fn feed(&mut self, octets: &[u8]) {
        self.input.push(octets);
        self.run();
    }

    fn output(&mut self) -> &mut Vec<u8> {
        &mut self.server.output
    }

    fn is_closed(&self) -> bool {
        self.closed
    }

    fn peer_ended(&mut self) {
        self.closed = true;
    }

    fn tls_started(&mut self) {
        self.server.tls_started();
    }

    fn is_turned(&self) -> bool {
        true
    }
}
