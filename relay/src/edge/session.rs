//! One connection from the Internet: drives `smtp::server` with the queue behind it.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atrn_shared::smtp::address::{ForwardPath, ReversePath};
use atrn_shared::smtp::extension::Extensions;
use atrn_shared::smtp::pace;
use atrn_shared::smtp::parameter::{MailParameters, RcptParameters};
use atrn_shared::smtp::reply::Reply;
use atrn_shared::smtp::server::{Config, Event, Server, Summary, Tls};
use atrn_shared::wire::{Wire, WireError};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tracing::{debug, info};

use super::Edge;
use super::transaction::{Caller, Transaction};
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
        server: Server::new(config(&settings), tls_state(&settings)),
        caller: Caller {
            edge,
            settings,
            id,
            peer,
        },
        transaction: None,
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
    caller: Caller<'e>,
    server: Server,
    transaction: Option<Transaction>,
    /// When the content under way was asked for.
    content_began: Instant,
    /// When the client last said something whole: octets that make no command buy no time.
    heard_at: Instant,
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
                    self.note_refusals();
                    if !self.server.output.is_empty() {
                        self.heard_at = Instant::now();
                    }
                    let Some(wait) = self.wait() else {
                        return Next::End(End::TooSlow);
                    };
                    if self.server.output.is_empty() && self.transaction.is_none() {
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
    fn wait(&self) -> Option<Duration> {
        let smtp = &self.caller.settings.config.smtp;
        let octets = self.server.content_octets();
        let transaction = self.transaction.as_ref();
        match octets.or_else(|| transaction?.content_octets()) {
            Some(octets) => {
                pace::next_wait(self.content_began.elapsed(), octets, smtp.data_timeout)
            }
            None => smtp.command_timeout.checked_sub(self.heard_at.elapsed()),
        }
    }

    /// Whatever was refused can be found: in the log, and in what `status` counts.
    fn note_refusals(&mut self) {
        for reply in self.server.take_refusals() {
            info!(session = %self.caller.id, peer = %self.caller.peer, %reply, "refused");
            self.caller.edge.activity.refused(reply.code());
        }
    }

    async fn handshake(&mut self, wire: Wire, shutdown: &CancellationToken) -> Result<Wire, End> {
        let settings = &self.caller.settings;
        let Some(tls) = &settings.tls else {
            return Err(WireError::Closed.into());
        };
        let handshake = wire.accept_tls(&tls.edge, settings.config.smtp.command_timeout);
        // Nothing can be said in the middle of it.
        let wire = shutdown
            .run_until_cancelled(handshake)
            .await
            .ok_or(End::Shutdown)??;
        self.server.tls_started();
        Ok(wire)
    }

    fn on_mail(&mut self, reverse_path: ReversePath, parameters: MailParameters) {
        let hello = self.server.hello();
        match Transaction::open(&self.caller, hello, reverse_path, parameters) {
            Ok(transaction) => {
                self.transaction = Some(transaction);
                self.server.answer(Reply::new(250, "2.1.0", "Ok"));
            }
            Err(reply) => self.server.answer(reply),
        }
    }

    fn on_recipient(&mut self, forward_path: ForwardPath, parameters: RcptParameters) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        match transaction.recipient(&self.caller, forward_path, parameters) {
            Ok(()) => self.server.answer(Reply::new(250, "2.1.5", "Ok")),
            Err(reply) => {
                let is_error = reply.is_permanent();
                self.server.answer(reply);
                if is_error {
                    self.server.count_error();
                }
            }
        }
    }

    async fn on_content(&mut self, is_tls: bool) {
        let (Some(transaction), Some(hello)) = (&mut self.transaction, self.server.hello()) else {
            return;
        };
        transaction.begin_content(&self.caller, hello, is_tls).await;
        self.content_began = Instant::now();
        self.server
            .answer(Reply::bare(354, "End data with <CR><LF>.<CR><LF>"));
    }

    async fn on_end_of_message(&mut self, summary: Summary) {
        let Some(transaction) = self.transaction.take() else {
            return;
        };
        let reply = transaction.end(&self.caller, summary).await;
        self.messages += u64::from(reply.is_positive());
        self.server.answer(reply);
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
