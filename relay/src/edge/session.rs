//! One connection from the Internet: drives `smtp::server` with the queue behind it.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atrn_shared::log;
use atrn_shared::smtp::address::{Domain, ForwardPath, ReversePath};
use atrn_shared::smtp::extension::Extensions;
use atrn_shared::smtp::pace;
use atrn_shared::smtp::parameter::{MailParameters, RcptParameters};
use atrn_shared::smtp::reply::Reply;
use atrn_shared::smtp::server::{Config, Event, Server, Summary, Tls};
use atrn_shared::smtp::trace::Trace;
use atrn_shared::wire::{Wire, WireError};
use jiff::Zoned;
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tracing::{debug, error, info, warn};

use super::policy::Fill;
use super::{Edge, policy};
use crate::config::RelayConfig;
use crate::queue::{BodyWriter, Envelope, Recipient, SessionId, StoreError};
use crate::session_id;
use crate::settings::Settings;

/// How long the last words to a client may take.
const FAREWELL: Duration = Duration::from_secs(5);

/// How a session ended, for its one line in the log.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("quit")]
    Quit,
    #[error("spoke before the greeting")]
    EarlyTalker,
    #[error("content came too slowly")]
    TooSlow,
    #[error("the relay is shutting down")]
    Shutdown,
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// Serves one connection to its end.
pub(super) async fn serve(
    edge: &Edge,
    stream: TcpStream,
    peer: SocketAddr,
    shutdown: &CancellationToken,
) {
    let _counted = edge.activity.edge_session();
    let id = session_id::next();
    debug!(session = %id, %peer, "connected");
    let settings = edge.settings.load();
    let mut session = Session {
        edge,
        id,
        peer,
        server: Server::new(config(&settings), tls_state(&settings)),
        settings,
        message: None,
        content_began: Instant::now(),
        heard_at: Instant::now(),
        messages: 0,
    };
    let mut wire = Wire::tcp(stream);
    let mut stop = std::pin::pin!(shutdown.cancelled());
    let end = loop {
        match session.run(&mut wire, stop.as_mut()).await {
            Next::Handshake => match session.handshake(wire, shutdown).await {
                Ok(encrypted) => wire = encrypted,
                Err(error) => {
                    // A failed handshake is the client's error, not its abuse: it may come back without (R3207-4).
                    info!(session = %id, %peer, reason = %error, "edge session ended");
                    return;
                }
            },
            Next::End(end) => break end,
        }
    };
    session.farewell(wire, &end).await;
    info!(session = %id, %peer, messages = session.messages, reason = %end, "edge session ended");
}

/// What a session does beside talking.
enum Next {
    Handshake,
    End(End),
}

struct Session<'e> {
    edge: &'e Edge,
    id: SessionId,
    peer: SocketAddr,
    settings: Arc<Settings>,
    server: Server,
    message: Option<Message>,
    /// When the content under way was asked for.
    content_began: Instant,
    /// When the client last said something whole: octets that make no command buy no time.
    heard_at: Instant,
    messages: u64,
}

/// A message on its way in.
struct Message {
    envelope: Envelope,
    body: Option<BodyWriter>,
    /// The store gave up on the content; the rest of it is dropped.
    failure: Option<StoreError>,
}

impl Session<'_> {
    async fn run(
        &mut self,
        wire: &mut Wire,
        mut stop: Pin<&mut WaitForCancellationFuture<'_>>,
    ) -> Next {
        if !wire.is_tls() && self.server.hello().is_none() && wire.has_early_octets() {
            return Next::End(End::EarlyTalker);
        }
        loop {
            match self.server.next(&mut wire.input) {
                Event::NeedInput => {
                    self.note_refusals();
                    if !self.server.output.is_empty() {
                        self.heard_at = Instant::now();
                    }
                    let Some(wait) = self.wait() else {
                        return Next::End(End::TooSlow);
                    };
                    if self.server.output.is_empty() && self.message.is_none() {
                        wire.input.release();
                    }
                    let exchanged = tokio::select! {
                        biased;
                        // First: a client that never pauses must hear it too.
                        () = stop.as_mut() => return Next::End(End::Shutdown),
                        exchanged = wire.exchange(&mut self.server.output, wait) => exchanged,
                    };
                    if let Err(error) = exchanged {
                        return Next::End(error.into());
                    }
                }
                Event::Mail(path, parameters) => self.on_mail(path, parameters),
                Event::Recipient(path, parameters) => self.on_recipient(path, parameters),
                Event::Content(_) => self.on_content(wire.is_tls()).await,
                Event::Body(part) => {
                    if let Some(message) = &mut self.message {
                        message.write(part).await;
                    }
                }
                Event::EndOfMessage(summary) => self.on_end_of_message(summary).await,
                // Why, if it was ours to say, stands among the refusals.
                Event::Abandoned(_) => self.message = None,
                Event::StartTls => {
                    if let Err(error) = wire.write(&mut self.server.output, FAREWELL).await {
                        return Next::End(error.into());
                    }
                    return Next::Handshake;
                }
                Event::Closed => return Next::End(End::Quit),
            }
        }
    }

    /// How long to wait for the client; `None` when it drips.
    fn wait(&self) -> Option<Duration> {
        let smtp = &self.settings.config.smtp;
        let body = self
            .message
            .as_ref()
            .and_then(|message| message.body.as_ref());
        let octets = self.server.content_octets();
        match octets.or_else(|| body.map(BodyWriter::len)) {
            Some(octets) => {
                pace::next_wait(self.content_began.elapsed(), octets, smtp.data_timeout)
            }
            None => smtp.command_timeout.checked_sub(self.heard_at.elapsed()),
        }
    }

    /// Whatever was refused can be found: in the log, and in what `status` counts.
    fn note_refusals(&mut self) {
        for reply in self.server.take_refusals() {
            info!(session = %self.id, peer = %self.peer, %reply, "refused");
            self.edge.activity.refused(reply.code());
        }
    }

    async fn handshake(&mut self, wire: Wire, shutdown: &CancellationToken) -> Result<Wire, End> {
        let Some(tls) = &self.settings.tls else {
            return Err(WireError::Closed.into());
        };
        let handshake = wire.accept_tls(&tls.edge, self.settings.config.smtp.command_timeout);
        // Nothing can be said in the middle of it.
        let wire = shutdown
            .run_until_cancelled(handshake)
            .await
            .ok_or(End::Shutdown)??;
        self.server.tls_started();
        Ok(wire)
    }

    fn on_mail(&mut self, reverse_path: ReversePath, parameters: MailParameters) {
        if !self.edge.store.has_room(parameters.size.unwrap_or(0)) {
            let reply = refusal(&StoreError::Full);
            error!(session = %self.id, peer = %self.peer, %reply, "no room on the disk for new mail");
            self.edge.activity.refused(reply.code());
            return self.server.answer(reply);
        }
        let hello = self.server.hello().map_or("", |hello| hello.name.as_str());
        self.message = Some(Message {
            envelope: Envelope {
                needs_smtputf8: parameters.smtputf8,
                is_report: false,
                // Nobody has proven it: neither SPF nor DMARC is asked.
                sender_verified: false,
                reverse_path,
                mail_parameters: parameters,
                received_from: format!("{hello} [{}]", self.peer.ip()),
                eight_bit: false,
                recipients: Vec::new(),
            },
            body: None,
            failure: None,
        });
        self.server.answer(Reply::new(250, "2.1.0", "Ok"));
    }

    fn on_recipient(&mut self, forward_path: ForwardPath, parameters: RcptParameters) {
        let Some(message) = &mut self.message else {
            return;
        };
        let config = &self.settings.config;
        let octets = message.envelope.mail_parameters.size.unwrap_or(0);
        let domain = policy::recipient(config, &forward_path).and_then(|domain| {
            room(self.edge, config, &domain, octets)?;
            Ok(domain)
        });
        match domain {
            Ok(domain) => {
                message.envelope.recipients.push(Recipient {
                    forward_path,
                    parameters,
                    domain,
                });
                self.server.answer(Reply::new(250, "2.1.5", "Ok"));
            }
            Err(reply) => {
                let recipient = forward_path.to_string();
                info!(session = %self.id, peer = %self.peer, forward_path = %log::peer(&recipient), %reply, "recipient refused");
                self.edge.activity.refused(reply.code());
                let is_error = reply.is_permanent();
                self.server.answer(reply);
                if is_error {
                    self.server.count_error();
                }
            }
        }
    }

    async fn on_content(&mut self, is_tls: bool) {
        let (Some(message), Some(hello)) = (&mut self.message, self.server.hello()) else {
            return;
        };
        let mut body = self.edge.store.body();
        let header = Trace {
            hello,
            address: Some(self.peer.ip()),
            hostname: self.settings.config.hostname.as_str(),
            is_tls,
            smtputf8: message.envelope.needs_smtputf8,
            id: &body.id(),
            only_recipient: match message.envelope.recipients.as_slice() {
                [only] => Some(&only.forward_path),
                _ => None,
            },
            now: &Zoned::now(),
        }
        .header();
        let written = body.write(header.as_bytes()).await;
        message.failure = written.err();
        message.body = Some(body);
        self.content_began = Instant::now();
        self.server
            .answer(Reply::bare(354, "End data with <CR><LF>.<CR><LF>"));
    }

    async fn on_end_of_message(&mut self, summary: Summary) {
        let Some(Message {
            mut envelope,
            body: Some(body),
            failure,
        }) = self.message.take()
        else {
            return;
        };
        envelope.eight_bit = summary.eight_bit;
        let (size, queue_id) = (body.len(), body.id());
        let recipients = envelope.recipients.len();
        let reverse_path = envelope.reverse_path.to_string();
        if let Err(reply) = self.room_for(&envelope, size) {
            info!(session = %self.id, peer = %self.peer, size, %reply, "refused");
            self.edge.activity.refused(reply.code());
            return self.server.answer(reply);
        }
        let accepted = match failure {
            Some(error) => Err(error),
            None => self.edge.store.accept(envelope, body).await,
        };
        let reply = match accepted {
            Ok(queue_id) => {
                self.messages += 1;
                self.edge.activity.accepted(size);
                info!(
                    session = %self.id, peer = %self.peer, %queue_id, reverse_path = %log::peer(&reverse_path),
                    recipients, size, delay = ?self.content_began.elapsed(), "accepted"
                );
                Reply::new(250, "2.0.0", queue_id.to_string())
            }
            Err(error) => {
                let reply = refusal(&error);
                error!(session = %self.id, %queue_id, size, %error, %reply, "cannot hold a message");
                self.edge.activity.refused(reply.code());
                reply
            }
        };
        self.server.answer(reply);
    }

    /// Asked once more when the size is known: many senders together, or one that did not say how much comes, must
    /// not fill what the quota keeps free.
    fn room_for(&self, envelope: &Envelope, octets: u64) -> Result<(), Reply> {
        let mut domains: Vec<_> = envelope.recipients.iter().map(|to| &to.domain).collect();
        domains.dedup();
        let mut domains = domains.into_iter();
        domains.try_for_each(|domain| room(self.edge, &self.settings.config, domain, octets))
    }

    /// Says why the session ends, where the client can still hear it.
    async fn farewell(&mut self, mut wire: Wire, end: &End) {
        self.note_refusals();
        let last_word = match end {
            End::EarlyTalker => {
                // It did not wait for the greeting, so it gets none (R5321-32).
                self.server.output.clear();
                Some(Reply::new(554, "5.5.1", "Speak when you are spoken to"))
            }
            End::Shutdown => Some(Reply::new(421, "4.3.2", "Shutting down, try again later")),
            End::TooSlow | End::Wire(WireError::TimedOut) => {
                Some(Reply::new(421, "4.4.2", "Timeout, closing"))
            }
            End::Quit => None,
            End::Wire(_) => return,
        };
        if let Some(reply) = last_word {
            self.server.close(reply);
        }
        if wire.write(&mut self.server.output, FAREWELL).await.is_ok() {
            wire.close(FAREWELL).await;
        }
    }
}

impl Message {
    async fn write(&mut self, part: &[u8]) {
        let Some(body) = &mut self.body else { return };
        if self.failure.is_none() {
            self.failure = body.write(part).await.err();
        }
    }
}

fn room(edge: &Edge, config: &RelayConfig, domain: &Domain, octets: u64) -> Result<(), Reply> {
    let Some(config) = config.domain(domain) else {
        return Ok(());
    };
    let held = edge.store.amount(domain);
    let room = policy::room(config, held, octets);
    let (messages, size) = (held.messages, held.bytes);
    match policy::fill(config, held) {
        Fill::Full if room.is_err() && edge.activity.quota_filled(domain) => warn!(
            %domain, messages, size, max_queue_messages = config.max_queue_messages,
            max_queue_size = config.max_queue_size, "new mail is refused: the quota is full"
        ),
        Fill::Roomy if edge.activity.quota_has_room(domain) => {
            info!(%domain, messages, size, "new mail is taken again: the quota has room");
        }
        Fill::Full | Fill::Roomy => {}
    }
    room
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

fn config(settings: &Settings) -> Arc<Config> {
    let smtp = &settings.config.smtp;
    let offer = Extensions {
        chunking: true,
        dsn: true,
        eight_bit_mime: true,
        enhanced_status_codes: true,
        pipelining: true,
        size: Some(smtp.max_message_size),
        smtputf8: smtp.smtputf8,
        ..Extensions::default()
    };
    Arc::new(Config {
        recipients_max: smtp.max_recipients,
        errors_max: u32::try_from(smtp.max_errors).unwrap_or(u32::MAX),
        received_max: smtp.max_received,
        ..Config::new(settings.config.hostname.as_str(), offer)
    })
}

fn tls_state(settings: &Settings) -> Tls {
    if settings.tls.is_some() {
        Tls::Offered
    } else {
        Tls::Unavailable
    }
}
