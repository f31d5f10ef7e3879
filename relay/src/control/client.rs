//! The command line's end: the daemon where one runs, else the queue itself.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use atrn_shared::config::reason;
use nix::unistd::{Gid, Uid, geteuid, setegid, seteuid};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::answer::{Context, handle};
use super::protocol::{Refused, Reply, Request};
use super::socket_path;
use crate::config::RelayConfig;
use crate::queue::{OpenError, Store};

/// Why nothing could be asked, or no answer came.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection ended within an answer.
    #[error("the relay broke off its answer: {}", reason(.0))]
    Broken(io::Error),
    /// A line that is no reply.
    #[error("the relay answered something else than a reply: {0}")]
    Garbled(#[source] serde_json::Error),
    /// A relay that holds the queue, listens, and says nothing.
    #[error("the relay has the queue open and does not answer within {}s; look at it with ps", ANSWER_WAIT.as_secs())]
    Hung,
    /// Files or threads of ours.
    #[error("cannot open the queue in {}: {}", path.display(), reason(source))]
    Local {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A relay that holds the queue and does not listen.
    #[error("{}: no relay answers here, but one (or another command) has the queue open; try again in a moment", .0.display())]
    NoAnswer(PathBuf),
    /// The queue cannot be opened without the daemon either.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The answer is no.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The socket is there and is not for us.
    #[error("cannot connect to {}: {}; run this as root or as the relay's user", path.display(), reason(source))]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Whom to ask.
#[derive(Debug)]
pub enum Client {
    /// The running daemon.
    Daemon(BufReader<UnixStream>),
    /// The queue itself; nobody else has it open.
    Local {
        /// What the queue needs to run.
        runtime: Runtime,
        /// What answers are made from.
        context: Context,
    },
}

impl Client {
    /// The daemon, or the queue itself where none runs.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn open(config: RelayConfig) -> Result<Self, ClientError> {
        if let Some(daemon) = Self::daemon(&config.data_dir)? {
            return Ok(daemon);
        }
        let local = |source| ClientError::Local {
            path: config.data_dir.clone(),
            source,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(local)?;
        // Only the daemon makes a queue: one that a command made could belong to another user.
        let store = if config.data_dir.join("queue.db").exists() {
            act_as_owner(&config.data_dir).map_err(local)?;
            Some(Store::open(&config.data_dir).map_err(|error| match error {
                OpenError::InUse { .. } => ClientError::NoAnswer(socket_path(&config.data_dir)),
                error => error.into(),
            })?)
        } else {
            None
        };
        let daemon = Err(Arc::new(config));
        let context = Context { store, daemon };
        Ok(Self::Local { runtime, context })
    }

    /// The daemon; `None` where none runs.
    ///
    /// # Errors
    /// [`ClientError::Socket`]
    pub fn daemon(data_dir: &Path) -> Result<Option<Self>, ClientError> {
        let path = socket_path(data_dir);
        let connected = UnixStream::connect(&path).and_then(|stream| {
            stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
            stream.set_read_timeout(Some(ANSWER_WAIT))?;
            Ok(stream)
        });
        match connected {
            Ok(stream) => Ok(Some(Self::Daemon(BufReader::new(stream)))),
            Err(error) if is_nobody(&error) => Ok(None),
            Err(source) => Err(ClientError::Socket { path, source }),
        }
    }

    /// Whether a daemon answers.
    #[must_use]
    pub fn is_daemon(&self) -> bool {
        matches!(self, Self::Daemon(_))
    }

    /// Asks, and gives every reply to `each` but the last.
    ///
    /// # Errors
    /// [`ClientError`], or what `each` says; then nothing more may be asked.
    pub fn ask<E: From<ClientError>>(
        &mut self,
        request: &Request,
        mut each: impl FnMut(Reply) -> Result<(), E>,
    ) -> Result<(), E> {
        match self {
            Self::Daemon(stream) => {
                let sent = stream.get_mut().write_all(request.line().as_bytes());
                sent.map_err(ClientError::Broken)?;
                let is_quick = matches!(request, Request::Status);
                loop {
                    match read(stream, is_quick)? {
                        Reply::Done => return Ok(()),
                        Reply::Error(refused) => return Err(ClientError::from(refused).into()),
                        reply => each(reply)?,
                    }
                }
            }
            Self::Local { runtime, context } => {
                let (replies, mut inbox) = mpsc::channel(1);
                let request = request.clone();
                let made = async move { handle(request, context, &replies).await };
                let taken = async move {
                    while let Some(reply) = inbox.recv().await {
                        match reply {
                            Reply::Done => {}
                            Reply::Error(refused) => {
                                return Err(ClientError::from(refused).into());
                            }
                            reply => each(reply)?,
                        }
                    }
                    Ok(())
                };
                runtime.block_on(async { tokio::join!(made, taken).1 })
            }
        }
    }

    /// Asks what has one reply.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn ask_one(&mut self, request: &Request) -> Result<Reply, ClientError> {
        let mut answer = None;
        self.ask(request, |reply| {
            answer = Some(reply);
            Ok::<_, ClientError>(())
        })?;
        let nothing = || ClientError::Broken(io::ErrorKind::UnexpectedEof.into());
        answer.ok_or_else(nothing)
    }
}

/// A status is made at once. Whatever else is asked may take its time, as long as the relay is alive.
fn read(stream: &mut BufReader<UnixStream>, is_quick: bool) -> Result<Reply, ClientError> {
    let mut line = Vec::new();
    loop {
        let mut limited = (&mut *stream).take(REPLY_LINE_MAX - line.len() as u64);
        match limited.read_until(b'\n', &mut line) {
            Ok(_) => break,
            Err(error) if is_timeout(&error) && (is_quick || !is_alive(stream.get_ref())) => {
                return Err(ClientError::Hung);
            }
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(ClientError::Broken(error)),
        }
    }
    if line.last() != Some(&b'\n') {
        return Err(ClientError::Broken(io::ErrorKind::UnexpectedEof.into()));
    }
    serde_json::from_slice(&line).map_err(ClientError::Garbled)
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock
    )
}

/// Whether the relay behind a connection answers another one. An empty line is refused without a look at the queue.
fn is_alive(stream: &UnixStream) -> bool {
    let asked = || {
        let mut other = UnixStream::connect_addr(&stream.peer_addr()?)?;
        other.set_write_timeout(Some(ANSWER_WAIT))?;
        other.set_read_timeout(Some(ANSWER_WAIT))?;
        other.write_all(b"\n")?;
        other.read(&mut [0])
    };
    asked().is_ok_and(|octets| octets > 0)
}

/// No socket, or one that a killed daemon left behind; or a `data_dir` that is no directory, which is for others to say.
fn is_nobody(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory | io::ErrorKind::NotFound
    )
}

/// Root takes the place of the queue's owner: files that SQLite makes would else be root's, and the daemon could
/// not open them. Called before any thread starts.
///
/// # Errors
/// When the directory cannot be looked at, or the user not be changed.
pub fn act_as_owner(data_dir: &Path) -> io::Result<()> {
    let owner = fs::metadata(data_dir)?;
    if geteuid().is_root() && owner.uid() != 0 {
        setegid(Gid::from_raw(owner.gid()))?;
        seteuid(Uid::from_raw(owner.uid()))?;
    }
    Ok(())
}

/// A message with the most recipients that an envelope can have takes less.
const REPLY_LINE_MAX: u64 = 64 * 1024 * 1024;
/// Without a word, then the relay is asked whether it is alive.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// Somebody who waits a moment, not [`ANSWER_WAIT`].
    fn connected(path: &Path) -> Client {
        let stream = UnixStream::connect(path).unwrap();
        let moment = Some(Duration::from_millis(20));
        stream.set_read_timeout(moment).unwrap();
        Client::Daemon(BufReader::new(stream))
    }

    #[test]
    fn a_relay_that_hangs_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = socket_path(directory.path());
        // As with a stopped process: the system takes the connection, and nobody reads.
        let listener = UnixListener::bind(&path).unwrap();
        let error = connected(&path).ask_one(&Request::Status).unwrap_err();
        assert!(matches!(error, ClientError::Hung), "{error}");
        let text =
            "the relay has the queue open and does not answer within 10s; look at it with ps";
        assert_eq!(ClientError::Hung.to_string(), text);
        let Ok(Some(Client::Daemon(stream))) = Client::daemon(directory.path()) else {
            panic!("nobody listens");
        };
        assert_eq!(stream.get_ref().read_timeout().unwrap(), Some(ANSWER_WAIT));
        drop((stream, listener.accept(), listener.accept()));
        // What takes its time is given up when another connection is not answered either.
        let relay = thread::spawn(move || {
            let asked = listener.accept().unwrap();
            drop(listener.accept().unwrap());
            asked
        });
        let error = connected(&path).ask_one(&Request::Reload).unwrap_err();
        assert!(matches!(error, ClientError::Hung), "{error}");
        relay.join().unwrap();
    }

    #[test]
    fn one_that_is_at_work_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = socket_path(directory.path());
        let listener = UnixListener::bind(&path).unwrap();
        let relay = thread::spawn(move || {
            let (mut asked, _) = listener.accept().unwrap();
            asked.write_all(b"{\"reloaded\":").unwrap();
            // The answer goes on only when somebody has asked whether it will.
            let (mut probe, _) = listener.accept().unwrap();
            probe.read_exact(&mut [0]).unwrap();
            asked.write_all(b"null}\n\"done\"\n").unwrap();
            probe.write_all(b"{").unwrap();
            // Closed only when both ends are through: a close at once could overtake the question.
            (asked, probe)
        });
        let reply = connected(&path).ask_one(&Request::Reload).unwrap();
        assert!(matches!(reply, Reply::Reloaded(None)), "{reply:?}");
        relay.join().unwrap();
    }
}
