//! Hands messages on to the corporate mail server, or into a Maildir, and gives its verdicts.
//!
//! A hand-over is opened and greeted before ATRN is sent: what cannot be handed on is not asked for. It keeps no
//! mail, and it never invents a permanent verdict: whatever goes wrong between here and the target is a fault of
//! the link, which is `451` to the relay (R5321-27).

mod connect;
mod maildir;
mod smtp;
mod verdict;

use std::sync::Arc;
use std::time::Duration;

use atrn_shared::config::ConfigErrors;
use atrn_shared::secret::Secret;
use atrn_shared::smtp::address::{Domain, ForwardPath, ReversePath};
use atrn_shared::smtp::limits::ClientTimeouts;
use atrn_shared::smtp::parameter::{MailParameters, RcptParameters};
use atrn_shared::smtp::reply::Reply;
use atrn_shared::smtp::server::Framing;
use atrn_shared::tls::ClientTls;

use crate::config::{HandoverConfig, Target};
use maildir::{Maildir, Seen};
use smtp::Smtp;

pub use connect::ConnectError;
pub(crate) use smtp::RECONNECT_TIMEOUT;
pub use verdict::Verdict;

/// A connection to the target rests after so long without mail.
pub const REST_AFTER: Duration = Duration::from_secs(60);

/// How to reach the target, with everything loaded that the settings name.
#[derive(Clone, Debug)]
pub struct Setup {
    config: HandoverConfig,
    hostname: String,
    tls: Option<ClientTls>,
    password: Option<Secret>,
    timeouts: ClientTimeouts,
    /// What was in the target before, where it is a folder; looked up once for all sessions.
    seen: Arc<Seen>,
}

impl Setup {
    /// Loads the password and whom to trust.
    ///
    /// # Errors
    /// Every problem with the files.
    pub fn load(handover: &HandoverConfig, hostname: &Domain) -> Result<Self, ConfigErrors> {
        let (tls, password) = match (handover.client_tls(), handover.password()) {
            (Ok(tls), Ok(password)) => (tls, password),
            (Err(errors), Ok(_)) | (Ok(_), Err(errors)) => return Err(errors),
            (Err(one), Err(other)) => {
                let problems = [one.problems(), other.problems()].concat();
                return Err(ConfigErrors::new(problems));
            }
        };
        Ok(Self {
            config: handover.clone(),
            hostname: hostname.to_string(),
            tls,
            password,
            timeouts: timeouts(),
            seen: Arc::default(),
        })
    }

    /// A setup without secrets or TLS.
    #[cfg(test)]
    pub(crate) fn for_tests(config: HandoverConfig) -> Self {
        Self {
            config,
            hostname: "puller.example.org".to_owned(),
            tls: None,
            password: None,
            timeouts: timeouts(),
            seen: Arc::default(),
        }
    }

    /// The target as it is configured.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.config.target
    }
}

fn timeouts() -> ClientTimeouts {
    ClientTimeouts {
        // R5321-45: the relay waits ten minutes, and must hear 451 before it gives up.
        end_of_data: Duration::from_secs(9 * 60),
        ..ClientTimeouts::default()
    }
}

/// What the relay asked since it was last answered: the whole envelope, or as much of it as has come.
#[derive(Debug, Default)]
pub struct Group {
    /// MAIL
    pub mail: Option<(ReversePath, MailParameters)>,
    /// RCPT, in order.
    pub recipients: Vec<(ForwardPath, RcptParameters)>,
    /// DATA or BDAT.
    pub content: Option<Framing>,
    /// A process was killed that had this delivery in hand: the target may have it already.
    pub was_abandoned: bool,
}

impl Group {
    /// Whether nothing was asked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mail.is_none() && self.recipients.is_empty() && self.content.is_none()
    }

    /// Forgets it all and keeps the memory.
    pub fn clear(&mut self) {
        self.mail = None;
        self.recipients.clear();
        self.content = None;
        self.was_abandoned = false;
    }
}

/// The answers to a [`Group`], fit for the relay: one for each thing that was asked.
#[derive(Debug, Default)]
pub struct Verdicts {
    /// To MAIL.
    pub mail: Option<Reply>,
    /// To each RCPT.
    pub recipients: Vec<Reply>,
    /// To DATA or BDAT: 354, or the refusal.
    pub content: Option<Reply>,
}

impl Verdicts {
    /// Yes to all of it, where nobody has to be asked.
    pub(crate) fn positive(group: &Group) -> Self {
        Self {
            mail: group.mail.as_ref().map(|_| verdict::sender_ok()),
            recipients: vec![verdict::recipient_ok(); group.recipients.len()],
            content: group.content.map(|_| verdict::go_ahead()),
        }
    }

    /// The link broke under all of it.
    pub(crate) fn link_lost(group: &Group) -> Self {
        Self::all(group, &verdict::link_lost())
    }

    /// The same answer to all of it.
    fn all(group: &Group, reply: &Reply) -> Self {
        Self {
            mail: group.mail.as_ref().map(|_| reply.clone()),
            recipients: vec![reply.clone(); group.recipients.len()],
            content: group.content.map(|_| reply.clone()),
        }
    }
}

/// An open way to the target, with at most one transaction on it.
///
/// To drop it inside content aborts the transaction: the target sees the connection end, and never an end of
/// data (OWN-3).
#[derive(Debug)]
pub enum Handover {
    /// Files on this host.
    Maildir(Maildir),
    /// A server that speaks SMTP or LMTP.
    Smtp(Box<Smtp>),
}

impl Handover {
    /// Connects, says hello, and proves who we are, as far as the settings say.
    ///
    /// # Errors
    /// Why no mail can be handed on now.
    pub async fn open(setup: &Setup) -> Result<Self, ConnectError> {
        match &setup.config.target {
            Target::Maildir(path) => Ok(Self::Maildir(Maildir::open(path.clone(), setup).await?)),
            _ => {
                let smtp = Smtp::open(setup.clone()).await?;
                Ok(Self::Smtp(Box::new(smtp)))
            }
        }
    }

    /// Whether the target makes the reports that senders ask for (RFC 3461), so that their wishes can be passed on to it.
    #[must_use]
    pub fn offers_dsn(&self) -> bool {
        match self {
            Self::Maildir(_) => false,
            Self::Smtp(smtp) => smtp.offers_dsn(),
        }
    }

    /// Whether mail can be handed on now. Asked before each ATRN, also on a hand-over that has waited a while: a
    /// connection that went stale is replaced.
    ///
    /// # Errors
    /// Why no mail can be handed on.
    pub async fn ready(&mut self) -> Result<(), ConnectError> {
        match self {
            Self::Maildir(maildir) => maildir.be_ready().await,
            Self::Smtp(smtp) => smtp.be_ready().await,
        }
    }

    /// Closes a connection on which nothing happens; the next message opens another one. Due after [`REST_AFTER`] without
    /// mail: a server inside has better use for the place.
    pub async fn rest(&mut self) {
        if let Self::Smtp(smtp) = self {
            smtp.rest().await;
        }
    }

    /// Passes on what the relay asked, in one flight where the target takes that.
    pub async fn begin(&mut self, group: &Group) -> Verdicts {
        match self {
            Self::Maildir(maildir) => maildir.begin(group),
            Self::Smtp(smtp) => smtp.begin(group).await,
        }
    }

    /// Passes content on. What goes wrong is said by [`Handover::finish`].
    pub async fn body(&mut self, part: &[u8]) {
        match self {
            Self::Maildir(maildir) => maildir.body(part).await,
            Self::Smtp(smtp) => smtp.body(part).await,
        }
    }

    /// The content is complete: the target's verdict on the message.
    pub async fn finish(&mut self) -> Verdict {
        self.finish_before(None).await
    }

    /// [`Handover::finish`], and `next` is what [`Handover::begin`] begins next: a target that allows it is asked for it
    /// meanwhile.
    pub async fn finish_before(&mut self, next: Option<&Group>) -> Verdict {
        match self {
            Self::Maildir(maildir) => maildir.finish().await,
            Self::Smtp(smtp) => smtp.finish(next).await,
        }
    }

    /// The transaction is over without a message.
    pub async fn abandon(&mut self) {
        match self {
            Self::Maildir(maildir) => maildir.abandon(),
            Self::Smtp(smtp) => smtp.abandon().await,
        }
    }

    /// Whether the target has failed so often in a row that it is no use to ask for more mail.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        match self {
            Self::Maildir(_) => false,
            Self::Smtp(smtp) => smtp.is_exhausted(),
        }
    }

    /// What opens further connections to the same target.
    #[must_use]
    pub fn opener(&self) -> Opener {
        match self {
            Self::Maildir(maildir) => Opener::Maildir(maildir.beside()),
            Self::Smtp(smtp) => Opener::Smtp(Box::new(smtp.setup().clone())),
        }
    }

    /// Takes leave of the target.
    pub async fn quit(self) {
        if let Self::Smtp(smtp) = self {
            smtp.quit().await;
        }
    }
}

/// Opens connections beside a first one.
#[derive(Debug)]
pub enum Opener {
    /// Files on this host.
    Maildir(Maildir),
    /// A server that speaks SMTP or LMTP.
    Smtp(Box<Setup>),
}

impl Opener {
    /// Connections that a session may have side by side.
    #[must_use]
    pub fn connections_max(&self) -> usize {
        match self {
            Self::Maildir(maildir) => maildir.connections_max(),
            Self::Smtp(setup) => setup.config.connections,
        }
    }

    /// Another connection.
    ///
    /// # Errors
    /// Why there is none.
    pub fn open(&self) -> impl Future<Output = Result<Handover, ConnectError>> + Send + use<> {
        let opened = match self {
            Self::Maildir(maildir) => Ok(Handover::Maildir(maildir.beside())),
            Self::Smtp(setup) => Err(setup.clone()),
        };
        async {
            match opened {
                Ok(handover) => Ok(handover),
                Err(setup) => Handover::open(&setup).await,
            }
        }
    }
}

#[cfg(test)]
mod tests;
