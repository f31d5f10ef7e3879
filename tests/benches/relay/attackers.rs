//! People who mean harm, as light as they can be: connections that are kept and bring nothing, and connections by the
//! hundred that bring garbage. They come from addresses of their own (127.0.1.0/24 and 127.0.2.0/24), so that what the
//! relay thinks of them is not what it thinks of an honest sender.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{interval, sleep, timeout};

/// Addresses that slow ones come from …
const SLOW_ADDRESSES: usize = 50;
/// … and those that flood.
const FLOOD_ADDRESSES: usize = 10;
/// Between two octets, or two commands, of a slow one.
const DRIP: Duration = Duration::from_secs(3);
/// Who was sent away comes back so soon.
const BACK_AFTER: Duration = Duration::from_secs(1);
/// A flood waits so long for its greeting.
const FLOOD_PATIENCE: Duration = Duration::from_secs(5);

/// How many.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strength {
    /// Connections that are kept, or wanted again when they are cut.
    pub(crate) slow: usize,
    /// New connections a second with garbage.
    pub(crate) floods: u32,
}

/// What they have seen so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// Slow ones that are connected and greeted now.
    pub(crate) held: usize,
    /// Connections that ended before they were greeted.
    pub(crate) turned_away: usize,
    /// Connections that were greeted and cut later.
    pub(crate) cut: usize,
    /// Floods that were sent.
    pub(crate) floods: usize,
}

/// An attack that goes on until it is dropped.
#[derive(Debug)]
pub(crate) struct Attack {
    counts: Arc<Counts>,
    // Last: its tasks end with it.
    _runtime: Runtime,
}

#[derive(Debug, Default)]
struct Counts {
    held: AtomicUsize,
    turned_away: AtomicUsize,
    cut: AtomicUsize,
    floods: AtomicUsize,
}

impl Attack {
    /// Begins.
    pub(crate) fn start(target: SocketAddr, strength: Strength) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let counts = Arc::new(Counts::default());
        for number in 0..strength.slow {
            runtime.spawn(slow(target, number, Arc::clone(&counts)));
        }
        runtime.spawn(flood(target, strength.floods, Arc::clone(&counts)));
        Ok(Self {
            counts,
            _runtime: runtime,
        })
    }

    /// How it goes.
    pub(crate) fn seen(&self) -> Seen {
        let count = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        Seen {
            held: count(&self.counts.held),
            turned_away: count(&self.counts.turned_away),
            cut: count(&self.counts.cut),
            floods: count(&self.counts.floods),
        }
    }
}

/// Holds a connection in one of four ways, and comes back when it is cut.
async fn slow(target: SocketAddr, number: usize, counts: Arc<Counts>) {
    let source = address(1, number % SLOW_ADDRESSES);
    loop {
        if let Ok(mut stream) = connect(source, target).await {
            if greeted(&mut stream).await {
                counts.held.fetch_add(1, Ordering::Relaxed);
                // However it ends: it was cut.
                let _ = hold(&mut stream, number).await;
                counts.held.fetch_sub(1, Ordering::Relaxed);
                counts.cut.fetch_add(1, Ordering::Relaxed);
            } else {
                counts.turned_away.fetch_add(1, Ordering::Relaxed);
            }
        }
        sleep(BACK_AFTER).await;
    }
}

async fn hold(stream: &mut TcpStream, number: usize) -> io::Result<()> {
    match number % 4 {
        // Never a word.
        0 => read_to_end(stream).await,
        // A command that never ends.
        1 => drip(stream, b"x").await,
        // Commands that bring nothing.
        2 => drip(stream, b"NOOP\r\n").await,
        // Content, octet by octet.
        _ => {
            let opening = "EHLO slow.example\r\nMAIL FROM:<slow@source.example>\r\n\
                           RCPT TO:<user@clientdom.example>\r\nDATA\r\n";
            stream.write_all(opening.as_bytes()).await?;
            drip(stream, b"x").await
        }
    }
}

async fn drip(stream: &mut TcpStream, octets: &[u8]) -> io::Result<()> {
    let mut buffer = [0; 512];
    loop {
        stream.write_all(octets).await?;
        if let Ok(heard) = timeout(DRIP, stream.read(&mut buffer)).await {
            if heard? == 0 {
                return Ok(());
            }
            // An answer: the next one is not due yet.
            sleep(DRIP).await;
        }
    }
}

async fn read_to_end(stream: &mut TcpStream) -> io::Result<()> {
    let mut buffer = [0; 512];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}

/// Connects, says what is no SMTP, and goes.
async fn flood(target: SocketAddr, a_second: u32, counts: Arc<Counts>) {
    if a_second == 0 {
        return;
    }
    let mut due = interval(Duration::from_secs(1) / a_second);
    for number in 0.. {
        due.tick().await;
        let source = address(2, number % FLOOD_ADDRESSES);
        counts.floods.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(timeout(FLOOD_PATIENCE, async move {
            let Ok(mut stream) = connect(source, target).await else {
                return;
            };
            if greeted(&mut stream).await {
                // It may be cut before the end.
                let _ = stream.write_all(&[b'\\'; 900]).await;
                let _ = stream.write_all(b"\r\nMAIL MAIL\r\n\x01\x02\r\n").await;
            }
        }));
    }
}

async fn connect(source: IpAddr, target: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(source, 0))?;
    socket.connect(target).await
}

/// Whether the first line begins with 220.
async fn greeted(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 512];
    let heard = stream.read(&mut buffer).await;
    heard.is_ok_and(|count| buffer[..count].starts_with(b"220"))
}

fn address(network: u8, number: usize) -> IpAddr {
    let host = u8::try_from(number % 200).map_or(1, |host| host + 1);
    Ipv4Addr::new(127, 0, network, host).into()
}
