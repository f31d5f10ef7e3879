//! The one place where bytes meet a stream: TCP, a Unix socket, or TLS from either end.
//!
//! A [`Wire`] is a connection without a role. It owns the input buffer, so that a change of role loses
//! nothing and smuggles nothing, and it reads while it writes, so that two peers never wait on each other.
//! Every wait has a deadline. What the bytes mean is none of its business.

use std::future::poll_fn;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::sasl::ChannelBinding;
use crate::smtp::line::Input;
use crate::tls::{self, ClientTls, ServerTls, SpkiPin};

/// Octets that may wait unread while the peer does not take what is written.
const INPUT_OCTETS_MAX: usize = 256 * 1024;

/// Octets that the first read of an input takes that holds no memory yet.
const FIRST_OCTETS: usize = 4 * 1024;

/// A silent connection is probed after so long, below what firewalls bear …
const PROBE_AFTER: Duration = Duration::from_secs(60);
/// … then as often as this …
const PROBE_INTERVAL: Duration = Duration::from_secs(20);
/// … and given up after so many probes without an answer.
const PROBES: u32 = 3;

/// Why nothing more comes, or goes.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The peer closed the connection.
    #[error("the peer closed the connection")]
    Closed,
    /// Octets came where none may: behind a STARTTLS, before the handshake.
    #[error("octets arrived before the TLS handshake")]
    EarlyOctets,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(io::Error),
    /// Nothing happened in the time allowed.
    #[error("nothing came in time")]
    TimedOut,
    /// The handshake failed.
    #[error("TLS handshake failed: {0}")]
    Tls(io::Error),
}

/// A connection and the octets that arrived on it.
#[derive(Debug)]
pub struct Wire {
    stream: Stream,
    /// What arrived and was not yet understood.
    pub input: Input,
    /// See [`Wire::hold_at_most`].
    input_octets_max: usize,
    records: Records,
    quick_ack: bool,
}

/// How octets are put into TLS records.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Records {
    /// As many octets in a record as fit.
    #[default]
    Full,
    /// Each line a record of its own, for peers that read one line from a record and then wait for the socket.
    Lines,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    TlsClient(Box<client::TlsStream<TcpStream>>),
    TlsServer(Box<server::TlsStream<TcpStream>>, ServerTls),
    Unix(UnixStream),
}

impl Wire {
    /// A connection in the clear. Small writes go out at once: every one of ours waits for an answer.
    #[must_use]
    pub fn tcp(stream: TcpStream) -> Self {
        // It costs some latency if it fails, nothing else.
        let _ = stream.set_nodelay(true);
        Self::new(Stream::Tcp(stream))
    }

    /// A connection within this machine.
    #[must_use]
    pub fn unix(stream: UnixStream) -> Self {
        Self::new(Stream::Unix(stream))
    }

    fn new(stream: Stream) -> Self {
        Self {
            stream,
            input: Input::new(),
            input_octets_max: INPUT_OCTETS_MAX,
            records: Records::default(),
            quick_ack: false,
        }
    }

    /// Connects by TCP to the first address that answers.
    ///
    /// # Errors
    /// [`WireError`] of the last address tried.
    pub async fn connect(addresses: &[SocketAddr], wait: Duration) -> Result<Self, WireError> {
        let connect = async {
            let mut error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            for address in addresses {
                match TcpStream::connect(address).await {
                    Ok(stream) => return Ok(Self::tcp(stream)),
                    Err(refused) => error = refused,
                }
            }
            Err(WireError::Io(error))
        };
        deadline(wait, connect).await
    }

    /// Shakes hands as the TLS server.
    ///
    /// # Errors
    /// [`WireError::EarlyOctets`] when the input is not empty, else what the handshake failed with.
    pub async fn accept_tls(self, tls: &ServerTls, wait: Duration) -> Result<Self, WireError> {
        let stream = self.clear_stream()?;
        let handshake = async {
            TlsAcceptor::from(tls.config())
                .accept(stream)
                .await
                .map_err(WireError::Tls)
        };
        let stream = deadline(wait, handshake).await?;
        Ok(Self::new(Stream::TlsServer(Box::new(stream), tls.clone())))
    }

    /// Shakes hands as the TLS client with the server called `name`.
    ///
    /// # Errors
    /// [`WireError::EarlyOctets`] when the input is not empty, else what the handshake failed with.
    pub async fn connect_tls(
        self,
        tls: &ClientTls,
        name: ServerName<'static>,
        wait: Duration,
    ) -> Result<Self, WireError> {
        let stream = self.clear_stream()?;
        let handshake = async {
            TlsConnector::from(tls.config())
                .connect(name, stream)
                .await
                .map_err(WireError::Tls)
        };
        let stream = deadline(wait, handshake).await?;
        Ok(Self::new(Stream::TlsClient(Box::new(stream))))
    }

    fn clear_stream(self) -> Result<TcpStream, WireError> {
        if !self.input.is_empty() {
            return Err(WireError::EarlyOctets);
        }
        match self.stream {
            Stream::Tcp(stream) => Ok(stream),
            _ => Err(WireError::Tls(io::Error::other(
                "TLS starts on a TCP connection in the clear",
            ))),
        }
    }

    /// Puts each line into a TLS record of its own, or not.
    pub fn set_records(&mut self, records: Records) {
        self.records = records;
    }

    /// Lets so many octets wait unread: all that can come before what is written is taken, or neither side would go on.
    pub fn hold_at_most(&mut self, octets: usize) {
        self.input_octets_max = octets.max(INPUT_OCTETS_MAX);
    }

    /// Acknowledges at once what the peer sends: a peer with Nagle's algorithm otherwise pauses 40 ms a line.
    pub fn acknowledge_quickly(&mut self) {
        self.quick_ack = true;
    }

    /// Lets the kernels ask each other whether the connection is alive while nobody says anything: what is between them does
    /// not forget it, and one that is dead is known in about two minutes.
    pub fn probe_in_silence(&self) {
        let probes = socket2::TcpKeepalive::new()
            .with_time(PROBE_AFTER)
            .with_interval(PROBE_INTERVAL)
            .with_retries(PROBES);
        if let Some(tcp) = self.stream.tcp() {
            // Without it the protocol's own deadlines find out, later.
            let _ = socket2::SockRef::from(tcp).set_tcp_keepalive(&probes);
        }
    }

    /// Where the peer is; `None` where that is this machine without a network, or no longer known.
    #[must_use]
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.stream.tcp()?.peer_addr().ok()
    }

    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self.stream, Stream::TlsClient(_) | Stream::TlsServer(..))
    }

    /// What ties an authentication to this connection, strongest first.
    #[must_use]
    pub fn channel_bindings(&self) -> Vec<ChannelBinding> {
        match &self.stream {
            Stream::TlsServer(stream, tls) => {
                tls::channel_bindings(stream.get_ref().1, Some(tls.certificate()))
            }
            Stream::TlsClient(stream) => {
                let connection = stream.get_ref().1;
                let certificate = connection
                    .peer_certificates()
                    .and_then(|chain| chain.first());
                tls::channel_bindings(connection, certificate)
            }
            _ => Vec::new(),
        }
    }

    /// The pin of the certificate that the peer proved to own.
    #[must_use]
    pub fn peer_pin(&self) -> Option<SpkiPin> {
        match &self.stream {
            Stream::TlsServer(stream, _) => tls::peer_pin(stream.get_ref().1),
            Stream::TlsClient(stream) => tls::peer_pin(stream.get_ref().1),
            _ => None,
        }
    }

    /// Version and cipher suite of the TLS session; nothing in the clear.
    #[must_use]
    pub fn encryption(&self) -> String {
        let session: &rustls::CommonState = match &self.stream {
            Stream::TlsServer(stream, _) => stream.get_ref().1,
            Stream::TlsClient(stream) => stream.get_ref().1,
            _ => return String::new(),
        };
        let version = session
            .protocol_version()
            .and_then(|version| version.as_str());
        let suite = session.negotiated_cipher_suite();
        let suite = suite.and_then(|suite| suite.suite().as_str());
        let version = version.unwrap_or_default().replace('_', ".");
        format!("{version} {}", suite.unwrap_or_default())
    }

    /// Takes what has arrived already, without waiting; true when octets wait now. Asked where the peer must not
    /// have spoken yet: before the greeting, and before the answer to ATRN.
    pub fn has_early_octets(&mut self) -> bool {
        // A connection that is broken says so at the next read.
        if let Stream::Tcp(stream) = &self.stream {
            // The runtime hears of octets on a new connection a moment later than the kernel, so that one is asked.
            let mut socket = &*socket2::SockRef::from(stream);
            let mut octets = [0; FIRST_OCTETS];
            if let Ok(count) = socket.read(&mut octets) {
                self.input.push(&octets[..count]);
            }
        } else {
            let _ = self.poll_fill(&mut Context::from_waker(Waker::noop()));
        }
        !self.input.is_empty()
    }

    /// Reads what comes, at least one octet, within `wait`.
    ///
    /// # Errors
    /// [`WireError`]: the connection is of no more use, unless it timed out.
    pub async fn read(&mut self, wait: Duration) -> Result<(), WireError> {
        self.exchange(&mut Vec::new(), wait).await
    }

    /// Writes all of `output`, within `wait`, and leaves it empty; cut short, with what did not go out.
    ///
    /// # Errors
    /// [`WireError`]: the connection is of no more use.
    pub async fn write(&mut self, output: &mut Vec<u8>, wait: Duration) -> Result<(), WireError> {
        if output.is_empty() {
            return Ok(());
        }
        let mut unsent = Unsent::new(output);
        let all = poll_fn(|context| {
            let drained = self.poll_drain(context, &mut unsent);
            if drained.is_pending() {
                // What the peer says meanwhile is taken too, or it might never come to read.
                match self.poll_fill_while_writing(context) {
                    Err(WireError::Closed) | Ok(_) => {}
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            drained
        });
        deadline(wait, all).await
    }

    /// Writes all of `output` and reads at least one octet, both within `wait`; neither waits for the other. What
    /// went out is gone from `output`, however this ends.
    ///
    /// # Errors
    /// [`WireError`]: the connection is of no more use, unless it timed out.
    pub async fn exchange(
        &mut self,
        output: &mut Vec<u8>,
        wait: Duration,
    ) -> Result<(), WireError> {
        let mut unsent = Unsent::new(output);
        let mut heard = false;
        let both = poll_fn(|context| {
            let drained = self.poll_drain(context, &mut unsent);
            if drained.is_pending() {
                heard |= self.poll_fill_while_writing(context)?;
            } else if !heard {
                heard = self.poll_fill(context)?.is_ready();
            }
            ready!(drained)?;
            if heard {
                Poll::Ready(Ok(()))
            } else {
                Poll::Pending
            }
        });
        deadline(wait, both).await
    }

    /// Says that nothing more follows: in TLS too, so that the peer knows it was not cut off.
    pub async fn close(mut self, wait: Duration) {
        let shutdown =
            poll_fn(|context| self.pinned().poll_shutdown(context).map_err(WireError::Io));
        // The connection is given up either way.
        let _ = deadline(wait, shutdown).await;
    }

    fn pinned(&mut self) -> Pin<&mut Stream> {
        Pin::new(&mut self.stream)
    }

    /// Reads once into the input, unless it is full.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        if self.input.bytes().len() >= self.input_octets_max {
            return Poll::Pending;
        }
        let count = if self.input.holds_memory() {
            let mut buffer = ReadBuf::new(self.input.space());
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer)).map_err(ended)?;
            let count = buffer.filled().len();
            self.input.filled(count);
            count
        } else {
            ready!(self.poll_first(context))?
        };
        if self.quick_ack {
            self.stream.acknowledge();
        }
        Poll::Ready(if count == 0 {
            Err(WireError::Closed)
        } else {
            Ok(())
        })
    }

    /// Reads into an input that holds no memory, and gets some only when something came: who waits for hours in
    /// company of thousands keeps none.
    fn poll_first(&mut self, context: &mut Context<'_>) -> Poll<Result<usize, WireError>> {
        let mut octets = [MaybeUninit::uninit(); FIRST_OCTETS];
        let mut buffer = ReadBuf::uninit(&mut octets);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer)).map_err(ended)?;
        self.input.push(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Reads until nothing is there, or the input is full; true when something came.
    fn poll_fill_while_writing(&mut self, context: &mut Context<'_>) -> Result<bool, WireError> {
        let mut heard = false;
        while self.poll_fill(context)?.is_ready() {
            heard = true;
        }
        Ok(heard)
    }

    /// Writes and flushes what is left.
    fn poll_drain(
        &mut self,
        context: &mut Context<'_>,
        unsent: &mut Unsent<'_>,
    ) -> Poll<Result<(), WireError>> {
        while !unsent.rest().is_empty() {
            let rest = unsent.rest();
            let part = match self.records {
                Records::Full => rest,
                Records::Lines => memchr::memchr(b'\n', rest).map_or(rest, |end| &rest[..=end]),
            };
            let count = ready!(self.pinned().poll_write(context, part)).map_err(WireError::Io)?;
            if count == 0 {
                return Poll::Ready(Err(WireError::Closed));
            }
            unsent.written += count;
        }
        self.pinned().poll_flush(context).map_err(WireError::Io)
    }
}

/// Output on its way. Whatever ends the wait (a deadline, or a caller that had enough), what went out is gone
/// from the output then, so that the last words of a session do not say it again.
struct Unsent<'o> {
    output: &'o mut Vec<u8>,
    written: usize,
}

impl<'o> Unsent<'o> {
    fn new(output: &'o mut Vec<u8>) -> Self {
        Self { output, written: 0 }
    }

    fn rest(&self) -> &[u8] {
        &self.output[self.written..]
    }
}

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        self.output.drain(..self.written);
    }
}

/// TLS that ends without saying so is an end like any other here: no framing of ours takes it for more.
fn ended(error: io::Error) -> WireError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => WireError::Closed,
        _ => WireError::Io(error),
    }
}

async fn deadline<T>(
    wait: Duration,
    work: impl Future<Output = Result<T, WireError>>,
) -> Result<T, WireError> {
    tokio::time::timeout(wait, work)
        .await
        .unwrap_or(Err(WireError::TimedOut))
}

impl Stream {
    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(tcp) => Some(tcp),
            Self::TlsClient(stream) => Some(stream.get_ref().0),
            Self::TlsServer(stream, _) => Some(stream.get_ref().0),
            Self::Unix(_) => None,
        }
    }

    fn acknowledge(&self) {
        if let Some(tcp) = self.tcp() {
            // A hint to the kernel: without it the peer is slower, not wrong.
            let _ = socket2::SockRef::from(tcp).set_tcp_quickack(true);
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::TlsClient(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::TlsServer(stream, _) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::TlsClient(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::TlsServer(stream, _) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::TlsClient(stream) => Pin::new(stream).poll_flush(cx),
            Self::TlsServer(stream, _) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::TlsClient(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::TlsServer(stream, _) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(20);

    async fn pair() -> (Wire, Wire) {
        let (left, right) = UnixStream::pair().unwrap();
        (Wire::unix(left), Wire::unix(right))
    }

    #[tokio::test]
    async fn a_silent_connection_can_be_probed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wire = Wire::connect(&[listener.local_addr().unwrap()], WAIT)
            .await
            .unwrap();
        let is_probed = || {
            socket2::SockRef::from(wire.stream.tcp().unwrap())
                .keepalive()
                .unwrap()
        };
        assert!(!is_probed());
        wire.probe_in_silence();
        assert!(is_probed());
    }

    #[tokio::test]
    async fn what_went_out_is_not_sent_again_after_a_wait_in_vain() {
        let (mut left, mut right) = pair().await;
        let mut output = b"250 Ok\r\n".to_vec();
        let waited = left.exchange(&mut output, Duration::from_millis(1)).await;
        assert!(matches!(waited, Err(WireError::TimedOut)), "{waited:?}");
        output.extend_from_slice(b"421 Timeout\r\n");
        left.write(&mut output, WAIT).await.unwrap();
        drop(left);
        while right.read(WAIT).await.is_ok() {}
        assert_eq!(right.input.bytes(), b"250 Ok\r\n421 Timeout\r\n");
    }

    #[tokio::test]
    async fn two_peers_that_write_at_once_do_not_wait_on_each_other() {
        let (mut left, mut right) = pair().await;
        let octets = 8 << 20;
        // More than any socket buffer holds, from both ends, with bounded input on both.
        left.acknowledge_quickly();
        right.acknowledge_quickly();
        let both =
            async { tokio::join!(talk_in_parts(left, octets), talk_in_parts(right, octets)) };
        assert_eq!(both.await, (octets, octets));
    }

    /// Writes `octets` in parts while it reads as many.
    async fn talk_in_parts(mut wire: Wire, octets: usize) -> usize {
        let (mut heard, mut said) = (0, 0);
        while heard < octets || said < octets {
            let part = (octets - said).min(100_000);
            let mut output = vec![b'x'; part];
            if heard < octets {
                wire.exchange(&mut output, WAIT).await.unwrap();
            } else {
                wire.write(&mut output, WAIT).await.unwrap();
            }
            said += part;
            let count = wire.input.bytes().len();
            heard += wire.input.take(count).len();
        }
        heard
    }

    #[tokio::test]
    async fn who_waits_for_nothing_holds_no_memory_for_it() {
        let (mut left, mut right) = pair().await;
        let silent = left.read(Duration::from_millis(1)).await;
        assert!(matches!(silent, Err(WireError::TimedOut)));
        assert!(!left.input.holds_memory());
        // More than a first read takes.
        let sent: Vec<u8> = (0..3 * FIRST_OCTETS).map(|n| n.to_le_bytes()[0]).collect();
        right.write(&mut sent.clone(), WAIT).await.unwrap();
        drop(right);
        while left.read(WAIT).await.is_ok() {}
        assert_eq!(left.input.bytes(), sent);
        left.input.take(sent.len());
        left.input.release();
        assert!(!left.input.holds_memory());
    }

    #[tokio::test]
    async fn a_peer_that_is_gone_or_silent_is_noticed() {
        let (mut left, right) = pair().await;
        let silent = left.read(Duration::from_millis(1)).await;
        assert!(matches!(silent, Err(WireError::TimedOut)));
        drop(right);
        assert!(matches!(left.read(WAIT).await, Err(WireError::Closed)));
    }
}
