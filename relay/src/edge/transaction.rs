//! A message on its way in, from MAIL to the final reply: asked of [`policy`], written to the queue, answered for.
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
use super::{Edge, policy};
use crate::limits::{Attempt, Exhausted, Offence, Share, of_content};
use crate::queue::{BodyWriter, Envelope, Recipient, SessionId, StoreError};
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
    body: Option<BodyWriter>,
    /// The store gave up on the content; the rest of it is dropped.
    failure: Option<StoreError>,
    /// Of what all content may take together.
    memory: Share,
    /// When the content was asked for.
    content_began: Instant,
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
            caller.edge.activity.refused(reply.code());
            return Err(reply);
        }
        let hello = hello.map_or("", |hello| hello.name.as_str());
        Ok(Self {
            envelope: Envelope {
                needs_smtputf8: parameters.smtputf8,
                is_report: false,
                // Nobody has proven it: neither SPF nor DMARC is asked.
                sender_verified: false,
                reverse_path,
                mail_parameters: parameters,
                received_from: format!("{hello} [{}]", caller.peer.ip()),
                eight_bit: false,
                recipients: Vec::new(),
            },
            body: None,
            failure: None,
            memory: caller.edge.limits.memory().share(),
            content_began: Instant::now(),
        })
    }

    /// One more recipient.
    ///
    /// # Errors
    /// The refusal; it was logged and counted.
    pub(super) fn recipient(
        &mut self,
        caller: &Caller<'_>,
        forward_path: ForwardPath,
        parameters: RcptParameters,
    ) -> Result<(), Reply> {
        let octets = self.envelope.mail_parameters.size.unwrap_or(0);
        let domain = policy::recipient(&caller.settings.config, &forward_path)
            .inspect_err(|_| caller.offends(Offence::Relaying))
            .and_then(|domain| {
                caller.room(&domain, octets)?;
                caller.is_not_too_soon(&self.envelope.reverse_path, &forward_path)?;
                Ok(domain)
            });
        match domain {
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
                caller.edge.activity.refused(reply.code());
                Err(reply)
            }
        }
    }

    /// The content comes next: makes room for it.
    pub(super) async fn begin_content(&mut self, caller: &Caller<'_>, hello: &Hello, is_tls: bool) {
        let body = caller.edge.store.body();
        let header = Trace {
            hello,
            address: Some(caller.peer.ip()),
            reverse: ReverseName::NotAsked,
            hostname: caller.settings.config.hostname.as_str(),
            is_tls,
            smtputf8: self.envelope.needs_smtputf8,
            id: &body.id(),
            only_recipient: match self.envelope.recipients.as_slice() {
                [only] => Some(&only.forward_path),
                _ => None,
            },
            now: &Zoned::now(),
        }
        .header();
        self.body = Some(body);
        self.write(header.as_bytes()).await;
        self.content_began = Instant::now();
    }

    /// A piece of the content.
    pub(super) async fn write(&mut self, part: &[u8]) {
        let Some(body) = &mut self.body else { return };
        let octets = body.len() + part.len() as u64;
        let written = match self.memory.grow_to(of_content(octets)).await {
            Ok(()) => body.write(part).await,
            Err(Exhausted) => Err(StoreError::Full),
        };
        if let Err(error) = written {
            self.failure = Some(error);
            self.body = None;
            self.memory.release();
        }
    }

    /// Octets of content that came so far; `None` before it may come.
    pub(super) fn content_octets(&self) -> Option<u64> {
        self.body.as_ref().map(BodyWriter::len)
    }

    /// The content is whole: the final reply. A positive one means that it is durable.
    pub(super) async fn end(self, caller: &Caller<'_>, summary: Summary) -> Reply {
        let began = self.content_began;
        let Self {
            mut envelope,
            body,
            failure,
            // Given back when the store has the content.
            memory: _memory,
            ..
        } = self;
        let Some(body) = body else {
            let error = failure.unwrap_or(StoreError::Closed);
            let reply = refusal(&error);
            error!(session = %caller.id, peer = %caller.peer, size = summary.octets, %error, %reply, "cannot hold a message");
            caller.edge.activity.refused(reply.code());
            return reply;
        };
        envelope.eight_bit = summary.eight_bit;
        let (size, queue_id) = (body.len(), body.id());
        let recipients = envelope.recipients.len();
        let reverse_path = envelope.reverse_path.to_string();
        if let Err(reply) = caller.room_for(&envelope, size) {
            info!(session = %caller.id, peer = %caller.peer, size, %reply, "refused");
            caller.edge.activity.refused(reply.code());
            return reply;
        }
        match caller.edge.store.accept(envelope, body).await {
            Ok(queue_id) => {
                caller.edge.activity.accepted(size);
                info!(
                    session = %caller.id, peer = %caller.peer, %queue_id, reverse_path = %log::peer(&reverse_path),
                    recipients, size, delay = ?began.elapsed(), "accepted"
                );
                Reply::new(250, "2.0.0", queue_id.to_string())
            }
            Err(error) => {
                let reply = refusal(&error);
                error!(session = %caller.id, %queue_id, size, %error, %reply, "cannot hold a message");
                caller.edge.activity.refused(reply.code());
                reply
            }
        }
    }
}

impl Caller<'_> {
    fn offends(&self, offence: Offence) {
        // What follows from it, the session asks.
        let _ = self.edge.limits.offence(self.peer.ip(), offence);
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
