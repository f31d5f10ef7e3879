//! One connection from a puller, up to the turn: drives `odmr::provider` with the accounts behind it.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use atrn_shared::log;
use atrn_shared::odmr::provider::{Config, Event, Provider as Machine, TlsMode, TlsSession};
use atrn_shared::smtp::reply::Reply;
use atrn_shared::wire::{Wire, WireError};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tracing::{debug, info, warn};

use super::atrn::Grant;
use super::visitors::{Login, Visit};
use super::{Provider, drain};
use crate::audit::recorded_name;
use crate::config::{OdmrConfig, OdmrTls};
use crate::queue::SessionId;
use crate::session_id;
use crate::settings::Settings;
use crate::transaction_log::{self, Service, Subject, Trail};

/// How long the last words to a puller may take.
const FAREWELL: Duration = Duration::from_secs(5);
/// Refusals before 421.
const ERRORS_MAX: u32 = 20;
/// A puller that waited and does not greet so soon after its 250 may be gone without a sign.
const GREETING_SOON: Duration = Duration::from_secs(5);

/// Why a connection is turned away before it says anything.
const TOO_MANY_STRANGERS: &str = "too many connections before AUTH";

/// How the part before the turn ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("quit")]
    Quit,
    #[error("the relay is shutting down")]
    Shutdown,
    #[error(transparent)]
    Wire(#[from] WireError),
}

enum Next {
    Handshake,
    /// The roles are reversed.
    Turned(Grant),
    End(End),
}

/// Serves one connection to its end.
///
/// Most sessions wait for mail most of the time, and there are thousands: what takes room and passes (the handshake, a
/// proof, the turn) has it in a box of its own, for as long as it lasts.
pub(super) async fn serve(
    provider: &Provider,
    stream: TcpStream,
    peer: SocketAddr,
    shutdown: &CancellationToken,
) {
    let _counted = provider.activity.odmr_session();
    let began = Instant::now();
    let id = session_id::next();
    let settings = provider.settings.load();
    let local = stream.local_addr().ok();
    let mut trail = provider.log.session(Service::Odmr, id, peer, local);
    trail.opened();
    let mut wire = Wire::tcp(stream);
    let Some(visit) = provider.enter(peer.ip()) else {
        trail.closed(TOO_MANY_STRANGERS);
        return turn_away(provider, wire, &settings, peer).await;
    };
    if settings.config.odmr.tls == OdmrTls::Implicit {
        match Box::pin(encrypt(wire, &settings, shutdown)).await {
            Ok(encrypted) => wire = encrypted,
            Err(error) => {
                info!(session = %id, %peer, reason = %error, "puller session ended");
                trail.closed(&error.to_string());
                return;
            }
        }
        trail.encrypted(&wire.encryption());
    }
    let tls = wire.is_tls().then(|| tls_session(&wire));
    let mut machine = Machine::new(config(&settings), tls);
    if trail.is_on() {
        machine.keep_exchanges();
    }
    let mut session = Session {
        provider,
        id,
        peer,
        began,
        machine,
        place: Place::Visit(visit),
        grant: None,
        trail,
    };
    drop(settings);
    let mut stop = pin!(shutdown.cancelled());
    let end = loop {
        match session.run(&mut wire, stop.as_mut()).await {
            Next::Handshake => {
                match Box::pin(encrypt(wire, &provider.settings.load(), shutdown)).await {
                    Ok(encrypted) => {
                        wire = encrypted;
                        session.machine.tls_started(tls_session(&wire));
                        session.trail.encrypted(&wire.encryption());
                    }
                    Err(error) => {
                        info!(session = %id, %peer, reason = %error, "puller session ended");
                        session.trail.closed(&error.to_string());
                        return;
                    }
                }
            }
            Next::Turned(grant) => return Box::pin(session.turn(wire, grant, shutdown)).await,
            Next::End(end) => break end,
        }
    };
    let account = session.machine.account().unwrap_or("-").to_owned();
    session.farewell(wire, &end).await;
    info!(session = %id, %peer, %account, reason = %end, "puller session ended");
    session.note_exchanges();
    session.trail.closed(&end.to_string());
}

/// Of the connections that there may be, the one that this is.
#[derive(Debug)]
pub(super) enum Place {
    Visit(#[expect(dead_code, reason = "held until it is dropped")] Visit),
    Login(#[expect(dead_code, reason = "held until it is dropped")] Login),
}

pub(super) struct Session<'p> {
    pub(super) provider: &'p Provider,
    pub(super) id: SessionId,
    pub(super) peer: SocketAddr,
    began: Instant,
    pub(super) machine: Machine,
    /// What it is counted as.
    pub(super) place: Place,
    /// From the answer to ATRN to the turn.
    pub(super) grant: Option<Grant>,
    pub(super) trail: Trail,
}

impl Session<'_> {
    async fn run(
        &mut self,
        wire: &mut Wire,
        mut stop: Pin<&mut WaitForCancellationFuture<'_>>,
    ) -> Next {
        loop {
            let event = self.machine.next(&mut wire.input);
            match event {
                Event::NeedInput => {
                    self.note_exchanges();
                    self.trail.flush();
                    let Some(wait) = self.wait() else {
                        return Next::End(WireError::TimedOut.into());
                    };
                    let exchanged = tokio::select! {
                        biased;
                        // First: a client that never pauses must hear it too.
                        () = stop.as_mut() => return Next::End(End::Shutdown),
                        exchanged = wire.exchange(&mut self.machine.output, wait) => exchanged,
                    };
                    if let Err(error) = exchanged {
                        return Next::End(error.into());
                    }
                    self.trail.heard();
                }
                Event::SecretExposed(user) => {
                    let user = recorded_name(&user.unwrap_or_default());
                    self.provider
                        .audit
                        .refused("odmr", "a secret without TLS", self.peer.ip());
                    warn!(
                        session = %self.id, peer = %self.peer, account = %log::peer(&user),
                        "a secret was sent without TLS and refused; take it for known to others: `atrn-relay account rotate`"
                    );
                }
                Event::Authenticate(attempt) => {
                    if let Err(end) = Box::pin(self.authenticate(attempt, stop.as_mut())).await {
                        return Next::End(end);
                    }
                }
                Event::Atrn(atrn) => {
                    let verdict = match Box::pin(self.decide(atrn, wire, stop.as_mut())).await {
                        Ok(Some(verdict)) => verdict,
                        Ok(None) => continue,
                        Err(end) => return Next::End(end),
                    };
                    // What came while we looked was sent without an answer, and the machine refuses it.
                    wire.has_early_octets();
                    self.machine.answer(verdict);
                }
                Event::StartTls | Event::Turned => {
                    // Sent alone and flushed: behind it the other side speaks (R2645-13).
                    if let Err(error) = wire.write(&mut self.machine.output, FAREWELL).await {
                        return Next::End(error.into());
                    }
                    self.note_exchanges();
                    return self.grant.take().map_or(Next::Handshake, Next::Turned);
                }
                Event::Closed => return Next::End(End::Quit),
            }
        }
    }

    /// What was said and answered, for the transaction log.
    pub(super) fn note_exchanges(&mut self) {
        let exchanges = self.machine.take_exchanges();
        self.trail.exchanges(exchanges, Subject::None);
    }

    fn wait(&self) -> Option<Duration> {
        let wait = self.provider.settings.load().config.odmr.command_timeout;
        match self.machine.account() {
            Some(_) => Some(wait),
            None => stranger_wait(wait, self.began.elapsed()),
        }
    }

    async fn turn(mut self, mut wire: Wire, mut grant: Grant, shutdown: &CancellationToken) {
        let name = self.machine.account().unwrap_or_default().to_owned();
        self.note_turn(&grant);
        wire.acknowledge_quickly();
        let settings = self.provider.settings.load();
        if settings
            .config
            .account(&name)
            .is_some_and(|account| account.line_records)
        {
            wire.set_records(atrn_shared::wire::Records::Lines);
        }
        let hostname = settings.config.hostname.clone();
        // The session may last for weeks, and the settings must not.
        drop(settings);
        if grant.watch.is_some() {
            let greeting = wire.read(GREETING_SOON);
            let heard = shutdown.run_until_cancelled(greeting).await;
            if let Some(Err(WireError::TimedOut)) = heard {
                // It is waited for all the same, but somebody else may look after the mail.
                grant.watch = None;
            }
        }
        let store = &self.provider.store;
        let live = &self.provider.settings;
        drain::Drain {
            store,
            closing: &self.provider.closing,
            settings: live,
            breakers: &self.provider.breakers,
            session: self.id,
            peer: self.peer,
            account: &name,
            hostname: hostname.as_str(),
            domains: &grant.domains,
            wait: grant.wait,
            shutdown,
        }
        .run(wire, grant.pull, grant.watch, &mut self.trail)
        .await;
    }

    fn note_turn(&mut self, grant: &Grant) {
        let domains: Vec<_> = grant.domains.iter().map(ToString::to_string).collect();
        self.trail.note(&transaction_log::Event {
            argument: &domains.join(","),
            ..transaction_log::Event::new("turned")
        });
        self.trail.turned();
        self.trail.flush();
    }

    async fn farewell(&mut self, mut wire: Wire, end: &End) {
        match end {
            End::Shutdown => {
                self.machine
                    .close(Reply::new(421, "4.3.2", "Shutting down, try again later"))
            }
            End::Wire(WireError::TimedOut) => {
                self.machine
                    .close(Reply::new(421, "4.4.2", "Timeout, closing"))
            }
            End::Quit => {}
            End::Wire(_) => return,
        }
        if wire.write(&mut self.machine.output, FAREWELL).await.is_ok() {
            wire.close(FAREWELL).await;
        }
    }
}

/// Who does not say who it is, has less time (R5321-46), and has it once: a stranger that drips, or chats, must not
/// keep a place for ever. `None` when it is over.
fn stranger_wait(wait: Duration, elapsed: Duration) -> Option<Duration> {
    let left = OdmrConfig::AUTH_TIMEOUT.checked_sub(elapsed)?;
    Some(wait.min(left)).filter(|wait| !wait.is_zero())
}

/// Too many strangers are here already. In clear they hear it.
async fn turn_away(provider: &Provider, mut wire: Wire, settings: &Settings, peer: SocketAddr) {
    let reason = TOO_MANY_STRANGERS;
    debug!(%peer, reason, "refused");
    provider.audit.refused("odmr", reason, peer.ip());
    if settings.config.odmr.tls != OdmrTls::Implicit {
        let hostname = &settings.config.hostname;
        let mut output = Vec::new();
        Reply::new(421, "4.3.2", format!("{hostname} is busy, try again later")).write(&mut output);
        let _ = wire.write(&mut output, FAREWELL).await;
    }
}

async fn encrypt(
    wire: Wire,
    settings: &Settings,
    shutdown: &CancellationToken,
) -> Result<Wire, End> {
    let Some(tls) = &settings.tls else {
        return Err(WireError::Closed.into());
    };
    let handshake = wire.accept_tls(&tls.provider, OdmrConfig::AUTH_TIMEOUT);
    // Nothing can be said in the middle of it.
    let encrypted = shutdown.run_until_cancelled(handshake).await;
    Ok(encrypted.ok_or(End::Shutdown)??)
}

fn tls_session(wire: &Wire) -> TlsSession {
    TlsSession {
        channel_bindings: wire.channel_bindings(),
        certificate_pin: wire.peer_pin().map(|pin| pin.to_string()),
    }
}

fn config(settings: &Settings) -> Arc<Config> {
    let odmr = &settings.config.odmr;
    Arc::new(Config {
        hostname: settings.config.hostname.to_string(),
        tls: match odmr.tls {
            OdmrTls::Implicit => TlsMode::Implicit,
            OdmrTls::StartTls => TlsMode::StartTls,
            OdmrTls::Optional => TlsMode::Optional,
            OdmrTls::Off => TlsMode::Off,
        },
        has_certificate: settings.tls.is_some(),
        mechanisms: odmr.mechanisms.clone(),
        errors_max: ERRORS_MAX,
        wait: odmr.max_wait,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of the future that a function returns.
    fn serve_size<'a, F: Future + 'a>(
        _: impl FnOnce(&'a Provider, TcpStream, SocketAddr, &'a CancellationToken) -> F,
    ) -> usize {
        size_of::<F>()
    }

    fn turn_size<'a, F: Future + 'a>(
        _: impl FnOnce(Session<'a>, Wire, Grant, &'a CancellationToken) -> F,
    ) -> usize {
        size_of::<F>()
    }

    /// Of 40 KiB that each of thousands may take in all, with its buffers and TLS.
    #[test]
    fn a_session_that_waits_takes_little_room() {
        let (connection, turn) = (serve_size(serve), turn_size(Session::turn));
        assert!(
            connection <= 4 << 10,
            "{connection} octets for each connection"
        );
        assert!(turn <= 12 << 10, "{turn} octets for each reversed session");
    }

    // covers: R5321-46
    #[test]
    fn a_stranger_has_a_minute_in_all() {
        for (wait, elapsed, expected) in [
            (300, 0, Some(60)),
            (300, 59, Some(1)),
            (300, 60, None),
            (300, 61, None),
            (10, 0, Some(10)),
            (10, 55, Some(5)),
        ] {
            assert_eq!(
                stranger_wait(Duration::from_secs(wait), Duration::from_secs(elapsed)),
                expected.map(Duration::from_secs),
                "{wait} {elapsed}"
            );
        }
    }
}
