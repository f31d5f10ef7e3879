//! A connection of any kind, blocking, with deadlines: TCP or Unix socket, with or without TLS.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, ProtocolVersion, ServerConfig, ServerConnection, StreamOwned,
};

/// What bytes come from and go to.
#[derive(Debug)]
pub enum Stream {
    /// Plain TCP.
    Tcp(TcpStream),
    /// TLS where this end is the TLS client.
    TlsClient(Box<StreamOwned<ClientConnection, TcpStream>>),
    /// TLS where this end is the TLS server.
    TlsServer(Box<StreamOwned<ServerConnection, TcpStream>>),
    /// A Unix socket.
    Unix(UnixStream),
}

impl Stream {
    /// Takes a TCP connection and sets it up as every end in this project does.
    ///
    /// # Errors
    /// When the connection is already gone.
    pub fn tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(stream))
    }

    /// Starts TLS as its client, and waits until the handshake is through.
    ///
    /// # Errors
    /// When the handshake fails, or this is not a plain TCP connection.
    pub fn into_tls_client(self, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let name = ServerName::try_from("localhost").expect("a name");
        let mut session =
            ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        let mut stream = self.plain_tcp()?;
        while session.is_handshaking() {
            session.complete_io(&mut stream)?;
        }
        Ok(Self::TlsClient(Box::new(StreamOwned::new(session, stream))))
    }

    /// Starts TLS as its server, and waits until the handshake is through.
    ///
    /// # Errors
    /// When the handshake fails, or this is not a plain TCP connection.
    pub fn into_tls_server(self, config: &Arc<ServerConfig>) -> io::Result<Self> {
        let mut session = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
        let mut stream = self.plain_tcp()?;
        while session.is_handshaking() {
            session.complete_io(&mut stream)?;
        }
        Ok(Self::TlsServer(Box::new(StreamOwned::new(session, stream))))
    }

    /// Longest wait of one read; it then fails with `WouldBlock` or `TimedOut`.
    pub fn set_deadline(&self, deadline: Duration) {
        let result = match self {
            Self::Tcp(stream) => stream.set_read_timeout(Some(deadline)),
            Self::TlsClient(stream) => stream.sock.set_read_timeout(Some(deadline)),
            Self::TlsServer(stream) => stream.sock.set_read_timeout(Some(deadline)),
            Self::Unix(stream) => stream.set_read_timeout(Some(deadline)),
        };
        result.expect("a deadline above zero");
    }

    /// The version of TLS in use.
    #[must_use]
    pub fn tls_version(&self) -> Option<ProtocolVersion> {
        match self {
            Self::TlsClient(stream) => stream.conn.protocol_version(),
            Self::TlsServer(stream) => stream.conn.protocol_version(),
            Self::Tcp(_) | Self::Unix(_) => None,
        }
    }

    /// The certificate that the TLS server showed, where this end is the TLS client.
    #[must_use]
    pub fn peer_certificate(&self) -> Option<CertificateDer<'static>> {
        match self {
            Self::TlsClient(stream) => stream
                .conn
                .peer_certificates()
                .and_then(|chain| chain.first())
                .map(|certificate| certificate.clone().into_owned()),
            Self::Tcp(_) | Self::TlsServer(_) | Self::Unix(_) => None,
        }
    }

    /// Closes the sending side only: the peer reads the end of the stream, and can still talk.
    pub fn finish_sending(&mut self) {
        match self {
            Self::Tcp(_) | Self::Unix(_) => {}
            Self::TlsClient(stream) => stream.conn.send_close_notify(),
            Self::TlsServer(stream) => stream.conn.send_close_notify(),
        }
        // A peer that is already gone has read its end of stream.
        self.flush().ok();
        self.socket_shutdown(Shutdown::Write);
    }

    /// Another handle that can end the connection from outside the thread that uses it.
    #[must_use]
    pub fn switch(&self) -> Switch {
        let switch = match self {
            Self::Tcp(stream) => stream.try_clone().map(Switch::Tcp),
            Self::TlsClient(stream) => stream.sock.try_clone().map(Switch::Tcp),
            Self::TlsServer(stream) => stream.sock.try_clone().map(Switch::Tcp),
            Self::Unix(stream) => stream.try_clone().map(Switch::Unix),
        };
        switch.expect("a socket can be shared")
    }

    fn socket_shutdown(&self, how: Shutdown) {
        // Shutting down what the peer has already closed is no failure of a test.
        match self {
            Self::Tcp(stream) => stream.shutdown(how).ok(),
            Self::TlsClient(stream) => stream.sock.shutdown(how).ok(),
            Self::TlsServer(stream) => stream.sock.shutdown(how).ok(),
            Self::Unix(stream) => stream.shutdown(how).ok(),
        };
    }

    fn plain_tcp(self) -> io::Result<TcpStream> {
        match self {
            Self::Tcp(stream) => Ok(stream),
            _ => Err(io::Error::other("TLS starts on a plain TCP connection")),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::TlsClient(stream) => stream.read(buffer),
            Self::TlsServer(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(octets),
            Self::TlsClient(stream) => stream.write(octets),
            Self::TlsServer(stream) => stream.write(octets),
            Self::Unix(stream) => stream.write(octets),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.flush(),
            Self::TlsClient(stream) => stream.flush(),
            Self::TlsServer(stream) => stream.flush(),
            Self::Unix(stream) => stream.flush(),
        }
    }
}

/// Ends a connection that another thread is waiting on.
#[derive(Debug)]
pub enum Switch {
    /// Of a TCP connection.
    Tcp(TcpStream),
    /// Of a Unix socket.
    Unix(UnixStream),
}

impl Switch {
    /// Ends both directions.
    pub fn off(&self) {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both).ok(),
            Self::Unix(stream) => stream.shutdown(Shutdown::Both).ok(),
        };
    }
}
