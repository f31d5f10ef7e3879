//! The daemon's end of the control socket.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use atrn_shared::config::reason;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::answer::{Context, handle};
use super::protocol::{ErrorKind, Refused, Reply, Request, line};
use super::socket_path;

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody answers on it.
    #[error("{}: another relay is running here; stop it first", .0.display())]
    Running(PathBuf),
    /// The directory or the socket cannot be made.
    #[error("cannot make {}: {}", path.display(), reason(source))]
    Unusable {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Whether nobody answers on the socket.
///
/// # Errors
/// [`BindError::Running`]
pub(crate) fn refuse_second(data_dir: &Path) -> Result<(), BindError> {
    let path = socket_path(data_dir);
    match UnixStream::connect(&path) {
        Ok(_) => Err(BindError::Running(path)),
        Err(_) => Ok(()),
    }
}

/// Makes the socket, and `data_dir` where it is missing. One that a killed relay left behind is replaced.
///
/// # Errors
/// [`BindError`]
pub fn bind(data_dir: &Path) -> Result<UnixListener, BindError> {
    let made = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data_dir);
    made.map_err(|source| BindError::Unusable {
        path: data_dir.to_owned(),
        source,
    })?;
    let path = socket_path(data_dir);
    let listener = match UnixListener::bind(&path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if UnixStream::connect(&path).is_ok() {
                return Err(BindError::Running(path));
            }
            fs::remove_file(&path).and_then(|()| UnixListener::bind(&path))
        }
        other => other,
    };
    // The directory keeps others out until the mode is set.
    let listener = listener.and_then(|listener| {
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    listener.map_err(|source| BindError::Unusable { path, source })
}

/// Answers until shutdown. Returns when every connection is closed.
///
/// # Errors
/// When the socket cannot be used at all.
pub async fn serve(
    listener: UnixListener,
    context: Context,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let context = Arc::new(context);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    while let Some(Ok(place)) = shutdown
        .run_until_cancelled(Arc::clone(&places).acquire_owned())
        .await
    {
        let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await else {
            break;
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "cannot accept a control connection");
                // Out of file descriptors: the next attempt would fail at once.
                let pause = tokio::time::sleep(ACCEPT_PAUSE);
                shutdown.run_until_cancelled(pause).await;
                continue;
            }
        };
        let (context, shutdown) = (Arc::clone(&context), shutdown.clone());
        connections.spawn(async move {
            let _place = place;
            let (input, output) = stream.into_split();
            let session = session(input, output, &context);
            if let Some(Err(error)) = shutdown.run_until_cancelled(session).await {
                debug!(%error, "control connection ended");
            }
        });
    }
    connections.close();
    connections.wait().await;
    Ok(())
}

/// Requests one after the other until the other end closes.
async fn session(
    input: OwnedReadHalf,
    mut output: OwnedWriteHalf,
    context: &Context,
) -> io::Result<()> {
    let mut input = BufReader::new(input);
    loop {
        let mut request = Vec::new();
        let limit = REQUEST_LINE_MAX as u64 + 1;
        let mut limited = (&mut input).take(limit);
        timeout(REQUEST_TIMEOUT, limited.read_until(b'\n', &mut request)).await??;
        if request.is_empty() {
            return Ok(());
        }
        if request.len() > REQUEST_LINE_MAX {
            let refused = Refused::new(ErrorKind::Invalid, "the request is too long");
            return write(&mut output, &Reply::Error(refused)).await;
        }
        match Request::parse(&request) {
            Ok(request) => {
                debug!(?request, "control request");
                answer(request, context, &mut output).await?;
            }
            Err(refused) => write(&mut output, &Reply::Error(refused)).await?,
        }
    }
}

/// The answer is made while it is written. When it cannot be written, a list is not made further; an admin's
/// change is done all the same.
async fn answer(
    request: Request,
    context: &Context,
    output: &mut OwnedWriteHalf,
) -> io::Result<()> {
    let (replies, mut inbox) = mpsc::channel(REPLIES_WAITING);
    // Each owns its end of the channel: when one is through, the other learns it.
    let made = async move { handle(request, context, &replies).await };
    let written = async move {
        while let Some(reply) = inbox.recv().await {
            write(output, &reply).await?;
        }
        Ok(())
    };
    let ((), written) = tokio::join!(made, written);
    written
}

async fn write(output: &mut OwnedWriteHalf, reply: &Reply) -> io::Result<()> {
    timeout(REPLY_TIMEOUT, output.write_all(line(reply).as_bytes())).await?
}

/// Admins and their scripts at the same time.
const CONNECTIONS_MAX: usize = 32;
/// Octets of a request: room for tens of thousands of ids.
const REQUEST_LINE_MAX: usize = 1024 * 1024;
/// Who connects, asks.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Somebody may page through an answer, but not for ever.
const REPLY_TIMEOUT: Duration = Duration::from_secs(600);
/// Lines that are made before those in front are written.
const REPLIES_WAITING: usize = 16;
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
