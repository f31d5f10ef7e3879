//! A message on its way in, from MAIL to the final reply: asked of [`policy`], verified, written to the queue, answered
//! for.
//!
//! What may be said when is the machine's affair; when to read and how long to wait, the session's.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use atrn_shared::log;
use atrn_shared::smtp::address::{Domain, ForwardPath, ReversePath};
use atrn_shared::smtp::parameter::{MailParameters, RcptParameters};
use atrn_shared::smtp::reply::Reply;
use atrn_shared::smtp::server::{Hello, Summary};
use atrn_shared::smtp::trace::{ReverseName, Trace};
use jiff::Zoned;
use tracing::{error, info, warn};

use super::policy::Fill;
use super::verify::{Iprev, Sender, Verification, Verified};
use super::{Edge, policy};
use crate::config::{Authentication, DomainConfig};
use crate::limits::{Attempt, Exhausted, Offence, Share};
use crate::names::{ClientName, Names, Verdict};
use crate::queue::{BodyWriter, Envelope, QueueId, Recipient, SessionId, StoreError};
use crate::settings::Settings;

/// Who brings mail, and under which settings it is taken.
pub(super) struct Caller<'e> {
    pub(super) edge: &'e Edge,
    pub(super) settings: Arc<Settings>,
    pub(super) id: SessionId,
    pub(super) peer: SocketAddr,
}

/// A message on its way in.
pub(super) struct Transaction {
    envelope: Envelope,
    /// What is asked about the sender; `None`: nothing.
    sender: Option<Sender>,
    body: Option<BodyWriter>,
    verification: Verification,
    trace: Option<Arrival>,
    /// The store gave up on the content; the rest of it is dropped.
    failure: Option<StoreError>,
    /// Of what all content may take together.
    memory: Share,
    /// When the content was asked for.
    content_began: Instant,
}

/// How the content came, for its trace header.
struct Arrival {
    hello: Hello,
    is_tls: bool,
}

impl Transaction {
    /// Opened by MAIL.
    ///
    /// # Errors
    /// The refusal; it was logged and counted.
    pub(super) fn open(
        caller: &Caller<'_>,
        hello: Option<&Hello>,
        reverse_path: ReversePath,
        parameters: MailParameters,
    ) -> Result<Self, Reply> {
        if !caller.edge.store.has_room(parameters.size.unwrap_or(0)) {
            let reply = refusal(&StoreError::Full);
            error!(session = %caller.id, peer = %caller.peer, %reply, "no room on the disk for new mail");
            caller.edge.refused(&reply, caller.peer.ip());
            return Err(reply);
        }
        let hello = hello.map_or("", |hello| hello.name.as_str());
        let (verifier, config) = (&caller.edge.verifier, &caller.settings.config);
        let is_asked = |domain: &DomainConfig| domain.authentication != Authentication::Off;
        let sender = (!verifier.is_off() && config.domains.iter().any(is_asked)).then(|| {
            let (client, hostname) = (caller.peer.ip(), config.hostname.as_str());
            Sender::of(caller.names(), &reverse_path, client, hello, hostname)
        });
        Ok(Self {
            sender,
            verification: Verification::new(&config.hostname),
            trace: None,
            envelope: Envelope {
                needs_smtputf8: parameters.smtputf8,
                is_report: false,
                sender_verified: false,
                reverse_path,
                mail_parameters: parameters,
                received_from: format!("{hello} [{}]", caller.peer.ip()),
                eight_bit: false,
                recipients: Vec::new(),
            },
            body: None,
            failure: None,
            memory: caller.edge.limits.share(caller.peer.ip()),
            content_began: Instant::now(),
        })
    }

    /// One more recipient.
    ///
    /// # Errors
    /// The refusal; it was logged and counted.
    pub(super) async fn recipient(
        &mut self,
        caller: &Caller<'_>,
        forward_path: ForwardPath,
        parameters: RcptParameters,
    ) -> Result<(), Reply> {
        match self.admit(caller, &forward_path).await {
            Ok(domain) => {
                self.envelope.recipients.push(Recipient {
                    forward_path,
                    parameters,
                    domain,
                });
                Ok(())
            }
            Err(reply) => {
                let recipient = forward_path.to_string();
                info!(session = %caller.id, peer = %caller.peer, forward_path = %log::peer(&recipient), %reply, "recipient refused");
                caller.edge.refused(&reply, caller.peer.ip());
                Err(reply)
            }
        }
    }

    /// The domain that mail for this recipient is held for.
    async fn admit(
        &mut self,
        caller: &Caller<'_>,
        forward_path: &ForwardPath,
    ) -> Result<Domain, Reply> {
        let octets = self.envelope.mail_parameters.size.unwrap_or(0);
        let config = &caller.settings.config;
        let domain = policy::recipient(config, forward_path)
            .inspect_err(|_| caller.offends(Offence::Relaying))?;
        caller.room(&domain, octets)?;
        let others = self.envelope.recipients.iter().map(|other| &other.domain);
        policy::may_share(config, &domain, others)?;
        if caller.authentication(&domain) != Authentication::Off
            && let Some(sender) = &mut self.sender
        {
            sender.admit().await?;
        }
        caller.is_not_too_soon(&self.envelope.reverse_path, forward_path)?;
        Ok(domain)
    }

    /// What is made of the verdicts on this message.
    fn authentication(&self, caller: &Caller<'_>) -> Authentication {
        let domains = self.envelope.recipients.iter().map(|to| &to.domain);
        let mut asked = domains.map(|domain| caller.authentication(domain));
        // Those that refuse share no message with others.
        let asked = asked.find(|wanted| *wanted != Authentication::Off);
        match asked.unwrap_or(Authentication::Off) {
            // Whoever is trusted to pass mail on has not the address of the sender.
            Authentication::Enforce if caller.edge.limits.is_exempt(caller.peer.ip()) => {
                Authentication::Annotate
            }
            wanted => wanted,
        }
    }

    /// The content comes next: makes room for it.
    pub(super) fn begin_content(&mut self, caller: &Caller<'_>, hello: &Hello, is_tls: bool) {
        if let Some(sender) = &self.sender
            && self.authentication(caller) != Authentication::Off
        {
            self.verification.ask(&caller.edge.verifier, sender);
        }
        self.body = Some(caller.edge.store.body());
        self.trace = Some(Arrival {
            hello: hello.clone(),
            is_tls,
        });
        self.content_began = Instant::now();
    }

    /// A piece of the content.
    pub(super) async fn write(&mut self, part: &[u8]) {
        let Some(body) = &mut self.body else { return };
        let octets = body.len() + part.len() as u64;
        let kept = self.verification.octets_kept() as u64;
        let written = match self.memory.grow_to(octets, kept).await {
            Ok(()) => {
                let [fields, rest] = self.verification.pass(part);
                match body.write(fields).await {
                    Ok(()) => body.write(rest).await,
                    Err(error) => Err(error),
                }
            }
            Err(Exhausted) => Err(StoreError::Full),
        };
        if let Err(error) = written {
            self.failure = Some(error);
            self.body = None;
            self.memory.release();
        }
    }

    /// Whether somebody may get it.
    pub(super) fn has_recipients(&self) -> bool {
        !self.envelope.recipients.is_empty()
    }

    /// What the message will be called, if it is taken; `None` before its content may come.
    pub(super) fn queue_id(&self) -> Option<QueueId> {
        self.body.as_ref().map(BodyWriter::id)
    }

    /// Octets of content that came so far; `None` before it may come.
    pub(super) fn content_octets(&self) -> Option<u64> {
        self.body.as_ref().map(BodyWriter::len)
    }

    /// The content is whole: the final reply. A positive one means that it is durable.
    pub(super) async fn end(
        mut self,
        caller: &Caller<'_>,
        client_name: &mut ClientName,
        summary: Summary,
    ) -> Reply {
        self.envelope.eight_bit = summary.eight_bit;
        match self.conclude(caller, client_name).await {
            Ok(reply) => reply,
            Err(End::Refused(reply)) => {
                info!(session = %caller.id, peer = %caller.peer, size = summary.octets, %reply, "refused");
                caller.edge.refused(&reply, caller.peer.ip());
                reply
            }
            Err(End::Failed(error)) => {
                let reply = refusal(&error);
                error!(session = %caller.id, peer = %caller.peer, size = summary.octets, %error, %reply, "cannot hold a message");
                caller.edge.refused(&reply, caller.peer.ip());
                reply
            }
        }
    }

    async fn conclude(
        mut self,
        caller: &Caller<'_>,
        client_name: &mut ClientName,
    ) -> Result<Reply, End> {
        let Some(mut body) = self.body.take() else {
            return Err(End::Failed(self.failure.unwrap_or(StoreError::Closed)));
        };
        body.write(self.verification.finish()).await?;
        let authentication = self.authentication(caller);
        let verification = std::mem::replace(
            &mut self.verification,
            Verification::new(&caller.settings.config.hostname),
        );
        let (verified, client_name) = tokio::join!(
            verification.verified(self.sender.as_mut(), caller.peer.ip()),
            client_name.verdict()
        );
        verified.decide(authentication)?;
        self.envelope.sender_verified = policy::sender(&self.envelope.reverse_path)
            .is_some_and(|domain| verified.proves(domain.as_str()));
        let head = self.head(caller, &verified, &client_name, &body);
        body.set_head(head.into_bytes());
        let (size, recipients) = (body.len(), self.envelope.recipients.len());
        caller.room_for(&self.envelope, size)?;
        let reverse_path = self.envelope.reverse_path.to_string();
        let queue_id = caller.edge.store.accept(self.envelope, body).await?;
        caller.edge.activity.accepted(size);
        info!(
            session = %caller.id, peer = %caller.peer, %queue_id, reverse_path = %log::peer(&reverse_path),
            recipients, size, delay = ?self.content_began.elapsed(), verified = verified.summary(), "accepted"
        );
        if verified.forged > 0 {
            warn!(session = %caller.id, peer = %caller.peer, %queue_id, fields = verified.forged, "verdicts in our name were removed");
        }
        Ok(Reply::new(250, "2.0.0", queue_id.to_string()))
    }

    /// What stands above the message: what we found, and that it came through here (R5321-16, R8601-1).
    fn head(
        &self,
        caller: &Caller<'_>,
        verified: &Verified,
        client_name: &Verdict,
        body: &BodyWriter,
    ) -> String {
        let hostname = &caller.settings.config.hostname;
        let mut head = verified.header(hostname, Iprev::of(client_name));
        let Some(Arrival { hello, is_tls }) = &self.trace else {
            return head;
        };
        let trace = Trace {
            hello,
            address: Some(caller.peer.ip()),
            reverse: reverse_name(client_name),
            hostname: hostname.as_str(),
            is_tls: *is_tls,
            smtputf8: self.envelope.needs_smtputf8,
            id: &body.id(),
            only_recipient: match self.envelope.recipients.as_slice() {
                [only] => Some(&only.forward_path),
                _ => None,
            },
            now: &Zoned::now(),
        };
        head.push_str(&trace.header());
        head
    }
}

/// Why a message was not taken.
enum End {
    Failed(StoreError),
    Refused(Reply),
}

impl From<StoreError> for End {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

impl From<Reply> for End {
    fn from(reply: Reply) -> Self {
        Self::Refused(reply)
    }
}

impl Caller<'_> {
    /// Asks on its behalf.
    fn names(&self) -> Names {
        self.edge.names_for(self.peer.ip())
    }

    fn offends(&self, offence: Offence) {
        // What follows from it, the session asks.
        let _ = self.edge.limits.offence(self.peer.ip(), offence);
    }

    fn authentication(&self, domain: &Domain) -> Authentication {
        let domain = self.settings.config.domain(domain);
        domain.map_or(Authentication::Off, |domain| domain.authentication)
    }

    /// Greylisting, where it is on.
    fn is_not_too_soon(&self, sender: &ReversePath, recipient: &ForwardPath) -> Result<(), Reply> {
        let Some(wait) = self.settings.config.smtp.greylist else {
            return Ok(());
        };
        let address = self.peer.ip();
        if self.edge.limits.is_exempt(address) {
            return Ok(());
        }
        let attempt = Attempt {
            address,
            sender,
            recipient,
        };
        self.edge.greylist.ask(attempt, wait)
    }

    /// Asked once more when the size is known: many senders together, or one that did not say how much comes, must
    /// not fill what the quota keeps free.
    fn room_for(&self, envelope: &Envelope, octets: u64) -> Result<(), Reply> {
        let mut domains: Vec<_> = envelope.recipients.iter().map(|to| &to.domain).collect();
        domains.dedup();
        let mut domains = domains.into_iter();
        domains.try_for_each(|domain| self.room(domain, octets))
    }

    fn room(&self, domain: &Domain, octets: u64) -> Result<(), Reply> {
        let Some(config) = self.settings.config.domain(domain) else {
            return Ok(());
        };
        let activity = &self.edge.activity;
        let held = self.edge.store.amount(domain);
        let room = policy::room(config, held, octets);
        let (messages, size) = (held.messages, held.bytes);
        match policy::fill(config, held) {
            Fill::Full if room.is_err() && activity.quota_filled(domain) => warn!(
                %domain, messages, size, max_queue_messages = config.max_queue_messages,
                max_queue_size = config.max_queue_size, "new mail is refused: the quota is full"
            ),
            Fill::Roomy if activity.quota_has_room(domain) => {
                info!(%domain, messages, size, "new mail is taken again: the quota has room");
            }
            Fill::Full | Fill::Roomy => {}
        }
        room
    }
}

fn reverse_name(verdict: &Verdict) -> ReverseName<'_> {
    match verdict {
        Verdict::NotAsked => ReverseName::NotAsked,
        Verdict::Verified(name) => ReverseName::Verified(name.as_str()),
        Verdict::Unverified(name) => ReverseName::Unverified(name.as_ref().map(Domain::as_str)),
        Verdict::Nameless | Verdict::Failed => ReverseName::Failed,
    }
}

/// R5321-15: any doubt about durability is a transient refusal.
fn refusal(error: &StoreError) -> Reply {
    match error {
        StoreError::Full => Reply::new(452, "4.3.1", "Insufficient storage, try again later"),
        StoreError::Closed => Reply::new(451, "4.3.2", "Shutting down, try again later"),
        StoreError::Damaged(_) | StoreError::Unavailable { .. } => Reply::new(
            451,
            "4.3.0",
            "Cannot store the message now, try again later",
        ),
    }
}
