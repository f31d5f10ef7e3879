//! One record: what happened, on which connection, and about which message.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use atrn_shared::smtp::reply::{EnhancedCode, Reply};
use jiff::Timestamp;

use crate::queue::{DeliveryId, QueueId, SessionId};

/// Who speaks to whom.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Service {
    /// Pullers.
    Odmr,
    /// No connection: the clock, or an admin.
    Relay,
    /// The Internet side.
    Smtp,
}

impl Service {
    /// As it stands in a record.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Odmr => "odmr",
            Self::Relay => "relay",
            Self::Smtp => "smtp",
        }
    }

    /// What is spoken.
    pub(super) fn protocol(self) -> &'static str {
        match self {
            Self::Odmr => "ODMR",
            Self::Relay => "RELAY",
            Self::Smtp => "SMTP",
        }
    }
}

/// What all records of a connection have in common, so far as it is known.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Which listener took it.
    pub service: Service,
    /// Names it; none where there is no connection.
    pub session: Option<SessionId>,
    /// The peer.
    pub client: Option<SocketAddr>,
    /// Our end of it.
    pub server: Option<SocketAddr>,
    /// The name in the last hello.
    pub hello: String,
    /// The account that the peer proved to be.
    pub account: String,
    /// Transactions that began.
    pub transaction: u32,
}

impl Origin {
    /// Of what no connection asked for.
    #[must_use]
    pub fn relay() -> Self {
        Self {
            service: Service::Relay,
            session: None,
            client: None,
            server: None,
            hello: String::new(),
            account: String::new(),
            transaction: 0,
        }
    }

    /// As SMTP services have it: the name in the hello, until there is a better one.
    pub(super) fn username(&self) -> &str {
        if self.account.is_empty() {
            &self.hello
        } else {
            &self.account
        }
    }
}

/// What a record is about.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Subject {
    /// A delivery.
    Delivery(DeliveryId),
    /// A message.
    Message(QueueId),
    /// The connection.
    #[default]
    None,
}

impl Subject {
    pub(super) fn delivery_id(self) -> Option<DeliveryId> {
        match self {
            Self::Delivery(id) => Some(id),
            Self::Message(_) | Self::None => None,
        }
    }

    pub(super) fn queue_id(self) -> Option<QueueId> {
        match self {
            Self::Delivery(id) => Some(id.queue_id()),
            Self::Message(id) => Some(id),
            Self::None => None,
        }
    }
}

/// One thing that happened. What is not known stays as [`Default`] has it. Texts may be a peer's, of any length and with
/// any octets: whoever writes a record escapes and cuts them.
#[derive(Clone, Debug, Default)]
pub struct Event<'e> {
    /// A verb in capitals where it was said on the connection, else the name of what happened, in small letters.
    pub method: &'static str,
    /// What was said behind the verb; of content, its Message-ID.
    pub argument: &'e str,
    /// The code of the reply.
    pub code: Option<u16>,
    /// The enhanced code of the reply.
    pub enhanced: Option<EnhancedCode>,
    /// The words of a refusal, or the reason of an end.
    pub text: Cow<'e, str>,
    /// Octets that came.
    pub received: u64,
    /// Octets that we sent.
    pub sent: u64,
    /// From the last octet of the command to its reply.
    pub taken: Duration,
    /// The message or delivery.
    pub subject: Subject,
}

impl<'e> Event<'e> {
    /// An event of this name.
    #[must_use]
    pub fn new(method: &'static str) -> Self {
        Self {
            method,
            ..Self::default()
        }
    }

    /// The same with the codes of a reply; with its words too, unless it is positive: those of our own yes are known.
    #[must_use]
    pub fn with_reply(self, reply: &'e Reply) -> Self {
        let is_refusal = reply.is_transient() || reply.is_permanent();
        Self {
            code: Some(reply.code()),
            enhanced: reply.enhanced(),
            text: if is_refusal { words(reply) } else { self.text },
            ..self
        }
    }

    pub(super) fn milliseconds(&self) -> u64 {
        u64::try_from(self.taken.as_millis()).unwrap_or(u64::MAX)
    }
}

/// The text of a reply; without a copy where it has one line.
pub(crate) fn words(reply: &Reply) -> Cow<'_, str> {
    match reply.lines() {
        [only] => Cow::Borrowed(only),
        _ => Cow::Owned(reply.text()),
    }
}

/// All that is written of one event.
#[derive(Clone, Copy, Debug)]
pub struct Record<'r> {
    /// When.
    pub at: Timestamp,
    /// Our host name.
    pub hostname: &'r str,
    /// The connection.
    pub origin: &'r Origin,
    /// What happened.
    pub event: &'r Event<'r>,
}
