//! One connection from the Internet: drives `smtp::server` with the queue behind it.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atrn_shared::smtp::address::{ForwardPath, ReversePath};
use atrn_shared::smtp::extension::Extensions;
use atrn_shared::smtp::parameter::{MailParameters, RcptParameters};
use atrn_shared::smtp::reply::Reply;
use atrn_shared::smtp::server::{Config, Event, Server, Summary, Tls};
use atrn_shared::wire::{Wire, WireError};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tracing::{debug, info};

use super::dnsbl::Listings;
use super::patience::{Patience, Progress};
use super::transaction::{Caller, Transaction};
use super::{Edge, foreign};
use crate::limits::{Consequence, Offence, Side, Watcher};
use crate::names::{ClientName, Names};
use crate::session_id;
use crate::settings::Settings;
use crate::transaction_log::{Service, Subject, Trail};

/// How long the last words to a client may take.
const FAREWELL: Duration = Duration::from_secs(5);

/// How a session ended, for its one line in the log.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("banned for what it did")]
    Banned,
    #[error("quit")]
    Quit,
    #[error("spoke before the greeting")]
    EarlyTalker,
    #[error("content came too slowly")]
    TooSlow,
    #[error("spoke another protocol: {0}")]
    Foreign(&'static str),
    #[error("the relay is shutting down")]
    Shutdown,
    #[error("too many errors for a relay under stress")]
    Stress,
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
    let is_exempt = edge.limits.is_exempt(peer.ip());
    let local = stream.local_addr().ok();
    let mut session = Session {
        client_name: client_name(&edge.names_for(peer.ip()), &settings, peer.ip()),
        listings: (!is_exempt).then(|| {
            Listings::look_up(
                &edge.names.on_arrival(),
                &settings.config.smtp.dnsbl,
                peer.ip(),
            )
        }),
        server: Server::new(config(&settings, is_exempt), tls_state(&settings)),
        trail: edge.log.session(Service::Smtp, id, peer, local),
        is_exempt,
        stress: edge.limits.stress(Side::Smtp).watch(),
        caller: Caller {
            edge,
            settings,
            id,
            peer,
        },
        transaction: None,
        first_line: 0,
        mail_at: Instant::now(),
        content_began: Instant::now(),
        heard_at: Instant::now(),
        brought_at: Instant::now(),
        messages: 0,
    };
    session.trail.opened();
    if session.trail.is_on() {
        session.server.keep_exchanges();
    }
    let mut wire = Wire::tcp(stream);
    let mut stop = std::pin::pin!(shutdown.cancelled());
    let end = loop {
        match session.run(&mut wire, stop.as_mut()).await {
            Next::Handshake => match Box::pin(session.handshake(wire, shutdown)).await {
                Ok(encrypted) => wire = encrypted,
                Err(error) => {
                    // A failed handshake is the client's error, not its abuse: it may come back without (R3207-4).
                    info!(session = %id, %peer, reason = %error, "edge session ended");
                    session.trail.closed(&error.to_string());
                    return;
                }
            },
            Next::End(end) => break end,
        }
    };
    if matches!(end, End::EarlyTalker | End::Foreign(_)) {
        edge.audit
            .refused("edge", "another protocol, or an early talker", peer.ip());
        // What follows from it is for its next connection.
        let _ = edge.limits.offence(peer.ip(), Offence::Protocol);
    }
    Box::pin(session.farewell(wire, &end)).await;
    info!(session = %id, %peer, messages = session.messages, rdns = %session.client_name, reason = %end, "edge session ended");
    session.note_exchanges();
    session.trail.closed(&end.to_string());
}

/// What a session does beside talking.
enum Next {
    Handshake,
    End(End),
}

struct Session<'e> {
    caller: Caller<'e>,
    server: Server,
    trail: Trail,
    transaction: Option<Transaction>,
    /// What its names say about it.
    client_name: ClientName,
    /// Who lists it; `None`: nobody is asked.
    listings: Option<Listings>,
    /// Limits do not apply to it.
    is_exempt: bool,
    stress: Watcher,
    /// Lines that were read before the first one that tells its protocol: of the connection, or of TLS.
    first_line: u64,
    /// When the transaction under way began.
    mail_at: Instant,
    /// When the content under way was asked for.
    content_began: Instant,
    /// When the client last said something whole: octets that make no command buy no time.
    heard_at: Instant,
    /// When it last brought a message, or connected.
    brought_at: Instant,
    messages: u64,
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
                    if let Some(end) = self.note_refusals() {
                        return Next::End(end);
                    }
                    if !self.server.output.is_empty() {
                        self.heard_at = Instant::now();
                    }
                    let Some(wait) = self.wait() else {
                        return Next::End(End::TooSlow);
                    };
                    if self.server.output.is_empty() && self.transaction.is_none() {
                        wire.input.release();
                    }
                    self.note_exchanges();
                    self.trail.flush();
                    let exchanged = tokio::select! {
                        biased;
                        // First: a client that never pauses must hear it too.
                        () = stop.as_mut() => return Next::End(End::Shutdown),
                        // It may have less time from now on.
                        () = self.stress.changed() => continue,
                        exchanged = wire.exchange(&mut self.server.output, wait) => exchanged,
                    };
                    if let Err(error) = exchanged {
                        return Next::End(error.into());
                    }
                    self.trail.heard();
                    if let Some(end) = self.other_protocol(wire) {
                        return Next::End(end);
                    }
                }
                Event::Mail(path, parameters) => self.on_mail(path, parameters),
                Event::Recipient(path, parameters) => {
                    if let Some(end) = self.on_recipient(path, parameters).await {
                        return Next::End(end);
                    }
                }
                Event::Content(_) => self.on_content(wire.is_tls()),
                Event::Body(part) => {
                    self.trail.content(part);
                    if let Some(transaction) = &mut self.transaction {
                        transaction.write(part).await;
                    }
                }
                Event::EndOfMessage(summary) => self.on_end_of_message(summary).await,
                // Why, if it was ours to say, stands among the refusals.
                Event::Abandoned(_) => self.transaction = None,
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
    fn wait(&mut self) -> Option<Duration> {
        let octets = self.server.content_octets();
        let transaction = self.transaction.as_ref();
        let octets = octets.or_else(|| transaction?.content_octets());
        let progress = Progress {
            silent: self.heard_at.elapsed(),
            idle: self.brought_at.elapsed(),
            transaction: transaction.map(|_| self.mail_at.elapsed()),
            content: octets.map(|octets| (self.content_began.elapsed(), octets)),
        };
        self.patience().wait(progress)
    }

    fn patience(&mut self) -> Patience {
        let smtp = &self.caller.settings.config.smtp;
        if self.is_exempt {
            return Patience::with_friends(smtp);
        }
        let usual = Patience::usual(smtp, &self.caller.settings.config.limits);
        if self.stress.is_on() {
            usual.under_stress()
        } else {
            usual
        }
    }

    /// Whatever was refused can be found: in the log, and in what `status` counts. Gives an end where it was too much.
    fn note_refusals(&mut self) -> Option<End> {
        let Caller { edge, id, peer, .. } = &self.caller;
        let mut is_banned = false;
        for reply in self.server.take_refusals() {
            info!(session = %id, %peer, %reply, "refused");
            edge.refused(&reply, peer.ip());
            if is_protocol_error(&reply) {
                let consequence = edge.limits.offence(peer.ip(), Offence::Protocol);
                is_banned |= consequence == Consequence::Banned;
            }
        }
        if is_banned {
            return Some(End::Banned);
        }
        let errors = self.server.errors();
        (errors > 0 && self.patience().ends_at(errors)).then_some(End::Stress)
    }

    /// What was said and answered, for the transaction log.
    fn note_exchanges(&mut self) {
        if self.trail.is_on() {
            let exchanges = self.server.take_exchanges();
            self.trail.exchanges(exchanges, Subject::None);
        }
    }

    /// Another protocol, if that is what its first line begins with.
    fn other_protocol(&self, wire: &Wire) -> Option<End> {
        if self.server.lines_read() != self.first_line {
            return None;
        }
        foreign::protocol(wire.input.bytes()).map(End::Foreign)
    }

    async fn handshake(&mut self, wire: Wire, shutdown: &CancellationToken) -> Result<Wire, End> {
        let patience = self.patience().handshake();
        let Some(tls) = &self.caller.settings.tls else {
            return Err(WireError::Closed.into());
        };
        let handshake = wire.accept_tls(&tls.edge, patience);
        // Nothing can be said in the middle of it.
        let wire = shutdown
            .run_until_cancelled(handshake)
            .await
            .ok_or(End::Shutdown)??;
        self.server.tls_started();
        self.note_exchanges();
        self.trail.encrypted(&wire.encryption());
        self.first_line = self.server.lines_read();
        self.heard_at = Instant::now();
        Ok(wire)
    }

    fn on_mail(&mut self, reverse_path: ReversePath, parameters: MailParameters) {
        let hello = self.server.hello();
        if let Some(hello) = hello {
            self.client_name.said_hello(&hello.name);
        }
        match Transaction::open(&self.caller, hello, reverse_path, parameters) {
            Ok(transaction) => {
                self.transaction = Some(transaction);
                self.mail_at = Instant::now();
                self.server.answer(Reply::new(250, "2.1.0", "Ok"));
            }
            Err(reply) => self.server.answer(reply),
        }
    }

    async fn on_recipient(
        &mut self,
        forward_path: ForwardPath,
        parameters: RcptParameters,
    ) -> Option<End> {
        let answer = match self.refusal_of_listed(&forward_path).await {
            Some(reply) => Err(reply),
            None => {
                let transaction = self.transaction.as_mut()?;
                let answer = transaction.recipient(&self.caller, forward_path, parameters);
                answer.await
            }
        };
        match answer {
            Ok(()) => self.server.answer(Reply::new(250, "2.1.5", "Ok")),
            Err(reply) => {
                let is_error = reply.is_permanent();
                self.server.answer(reply);
                if is_error {
                    self.server.count_error();
                    return self.is_banned().then_some(End::Banned);
                }
            }
        }
        None
    }

    /// What it does next may be over, but not the message that somebody will get.
    fn is_banned(&self) -> bool {
        let Caller { edge, peer, .. } = &self.caller;
        let brings = self.transaction.as_ref();
        !brings.is_some_and(Transaction::has_recipients) && edge.limits.is_banned(peer.ip())
    }

    /// Who is listed can still reach the postmaster (RFC 5321 §4.5.1), to ask why.
    async fn refusal_of_listed(&mut self, forward_path: &ForwardPath) -> Option<Reply> {
        if forward_path.is_postmaster() {
            return None;
        }
        let reply = self.listings.as_mut()?.refusal().await?;
        let Caller { edge, id, peer, .. } = &self.caller;
        info!(session = %id, %peer, %reply, "recipient refused: the client is listed");
        edge.refused(&reply, peer.ip());
        Some(reply)
    }

    fn on_content(&mut self, is_tls: bool) {
        let (Some(transaction), Some(hello)) = (&mut self.transaction, self.server.hello()) else {
            return;
        };
        transaction.begin_content(&self.caller, hello, is_tls);
        self.content_began = Instant::now();
        self.trail.content_begins();
        self.server
            .answer(Reply::bare(354, "End data with <CR><LF>.<CR><LF>"));
    }

    async fn on_end_of_message(&mut self, summary: Summary) {
        let Some(transaction) = self.transaction.take() else {
            return;
        };
        let queue_id = transaction.queue_id();
        let reply = transaction.end(&self.caller, &mut self.client_name, summary);
        let reply = reply.await;
        let accepted = queue_id.filter(|_| reply.is_positive());
        let taken = self.content_began.elapsed();
        self.note_exchanges();
        self.trail.content_ended(summary.octets, accepted, taken);
        if reply.is_positive() {
            let Caller { edge, peer, .. } = &self.caller;
            edge.limits.delivered(peer.ip());
            self.messages += 1;
            self.brought_at = Instant::now();
        }
        self.server.answer(reply);
        self.note_exchanges();
    }

    /// Says why the session ends, where the client can still hear it.
    async fn farewell(&mut self, mut wire: Wire, end: &End) {
        let _ = self.note_refusals();
        let last_word = match end {
            End::Banned => Some(Reply::new(
                421,
                "4.7.0",
                "Too much trouble with your address, try again later",
            )),
            End::EarlyTalker => {
                // It did not wait for the greeting, so it gets none (R5321-32).
                self.server.output.clear();
                Some(Reply::new(554, "5.5.1", "Speak when you are spoken to"))
            }
            // Nothing that it could take for an answer: a browser would show it as one.
            End::Foreign(_) => return,
            End::Stress => Some(Reply::new(421, "4.7.0", "Too many errors, closing")),
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

/// Whether the machine refused something that no SMTP client says; what it says of content or sizes is none.
fn is_protocol_error(reply: &Reply) -> bool {
    matches!(reply.code(), 500..=504)
}

fn client_name(names: &Names, settings: &Settings, address: IpAddr) -> ClientName {
    let dns = settings.config.dns.as_ref();
    if dns.is_some_and(|dns| dns.reverse) {
        ClientName::look_up(names, address)
    } else {
        ClientName::not_asked()
    }
}

fn config(settings: &Settings, is_exempt: bool) -> Arc<Config> {
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
        commands_max: if is_exempt {
            u32::MAX
        } else {
            settings.config.limits.max_commands
        },
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of the future that a function returns.
    fn size<'a, F: Future + 'a>(
        _: impl FnOnce(&'a Edge, TcpStream, SocketAddr, &'a CancellationToken) -> F,
    ) -> usize {
        size_of::<F>()
    }

    /// Of 24 KiB that each of thousands may take in all, with its buffers and what the kernel wants of us.
    #[test]
    fn a_session_that_waits_takes_little_room() {
        let octets = size(serve);
        assert!(octets <= 8 << 10, "{octets} octets for each connection");
    }
}
