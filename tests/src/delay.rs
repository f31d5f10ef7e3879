//! A long line: a proxy in user space that passes octets on as late, and no faster, than a line with a round-trip
//! time and a bandwidth would.
//!
//! Each direction takes half of the round trip. What is under way at once is bounded as on a real line, by bandwidth
//! and time; who sends more waits. The handshake of TCP is not delayed: it is answered on this side.
//!
//! Each direction of a connection has two threads: one reads and stamps, one waits and writes. Threads, because the
//! timer of the runtime has milliseconds, and a test of 10 ms wants better.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Octets read at once at most.
const PIECE_OCTETS_MAX: usize = 256 << 10;
/// A piece arrives when its last octet does. So that a slow line still flows, a piece is no more than it carries in
/// this time, but a packet at least.
const PIECE_TIME: Duration = Duration::from_millis(1);
const PIECE_OCTETS_MIN: usize = 1_500;
/// What may be under way on a line without a limit of bandwidth, and beyond the line's own content on others: the
/// buffers of the machines at its ends.
const UNLIMITED_OCTETS: usize = 64 << 20;
const BUFFER_OCTETS: usize = 256 << 10;

/// The proxy: it takes connections until it is dropped. Those that are open then go on until an end closes them.
#[derive(Debug)]
pub struct DelayProxy {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
}

/// What a line is like, in each direction.
#[derive(Clone, Copy, Debug)]
struct Line {
    one_way: Duration,
    /// Octets a second.
    bandwidth: Option<u64>,
}

impl DelayProxy {
    /// A line to a server: with so much time for the way there and back together, and so many octets a second each
    /// way.
    ///
    /// # Panics
    /// When there is no port, or the bandwidth is zero.
    #[must_use]
    pub fn start(target: SocketAddr, round_trip: Duration, bandwidth: Option<u64>) -> Self {
        assert_ne!(bandwidth, Some(0), "a line that carries nothing");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let stopped = Arc::new(AtomicBool::new(false));
        let line = Line {
            one_way: round_trip / 2,
            bandwidth,
        };
        let stop = Arc::clone(&stopped);
        thread::spawn(move || {
            for near in listener.incoming() {
                if stop.load(Ordering::Acquire) {
                    return;
                }
                // Who cannot be connected is hung up on: `near` is dropped.
                if let Ok(near) = near {
                    line.connect(near, target).ok();
                }
            }
        });
        Self { address, stopped }
    }

    /// Where to connect in place of the server.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for DelayProxy {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        // The thread waits for a connection: give it one, so that it sees the end.
        TcpStream::connect(self.address).ok();
    }
}

impl Line {
    fn connect(self, near: TcpStream, target: SocketAddr) -> io::Result<()> {
        let far = TcpStream::connect(target)?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        self.direction(near.try_clone()?, far.try_clone()?);
        self.direction(far, near);
        Ok(())
    }

    fn direction(self, from: TcpStream, to: TcpStream) {
        let way = Arc::new(Way::new(self));
        let reading = Arc::clone(&way);
        let Ok(switch) = from.try_clone() else {
            return;
        };
        thread::spawn(move || reading.read(&from));
        thread::spawn(move || {
            if way.write(&to).is_err() {
                // Nobody is there to read it: whoever sends learns that, and the thread that reads ends.
                way.close();
                switch.shutdown(Shutdown::Both).ok();
            }
        });
    }

    /// Octets read at once.
    fn piece_octets(self) -> usize {
        self.carried(PIECE_TIME).map_or(PIECE_OCTETS_MAX, |octets| {
            octets.clamp(PIECE_OCTETS_MIN, PIECE_OCTETS_MAX)
        })
    }

    /// Octets under way at once.
    fn under_way_max(self) -> usize {
        self.carried(self.one_way)
            .map_or(UNLIMITED_OCTETS, |octets| octets + BUFFER_OCTETS)
    }

    /// What goes in at one end in so much time.
    fn carried(self, time: Duration) -> Option<usize> {
        let octets = self.bandwidth? as f64 * time.as_secs_f64();
        Some(octets as usize)
    }

    /// How long so many octets take to go in.
    fn entering(self, octets: usize) -> Duration {
        self.bandwidth.map_or(Duration::ZERO, |bandwidth| {
            Duration::from_secs_f64(octets as f64 / bandwidth as f64)
        })
    }
}

/// One direction of a connection.
#[derive(Debug)]
struct Way {
    line: Line,
    under_way: Mutex<UnderWay>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct UnderWay {
    pieces: VecDeque<Piece>,
    octets: usize,
    /// When the last octet so far is in.
    entered: Option<Instant>,
    /// Nobody takes anything any more.
    closed: bool,
}

/// What was read at once. An empty one is the end of the stream, as for a read.
#[derive(Debug)]
struct Piece {
    arrives: Instant,
    octets: Vec<u8>,
}

impl Way {
    fn new(line: Line) -> Self {
        Self {
            line,
            under_way: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Puts all that comes on its way, and the end of it.
    fn read(&self, mut from: &TcpStream) {
        let mut buffer = vec![0; self.line.piece_octets()];
        loop {
            // A connection that breaks ends for the other side too.
            let count = from.read(&mut buffer).unwrap_or(0);
            if !self.put(&buffer[..count]) || count == 0 {
                return;
            }
        }
    }

    /// Writes everything when it arrives, to the end of the stream.
    fn write(&self, mut to: &TcpStream) -> io::Result<()> {
        while let Some(piece) = self.next() {
            thread::sleep(piece.arrives.saturating_duration_since(Instant::now()));
            if piece.octets.is_empty() {
                return to.shutdown(Shutdown::Write);
            }
            to.write_all(&piece.octets)?;
            self.arrived(piece.octets.len());
        }
        Ok(())
    }

    /// Waits for room; false when nobody takes it any more.
    fn put(&self, octets: &[u8]) -> bool {
        let most = self.line.under_way_max();
        let full = |under_way: &mut UnderWay| under_way.octets >= most && !under_way.closed;
        let waited = self.changed.wait_while(self.under_way(), full);
        let mut under_way = waited.unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let begins = under_way.entered.map_or(now, |entered| entered.max(now));
        let entered = begins + self.line.entering(octets.len());
        under_way.entered = Some(entered);
        under_way.octets += octets.len();
        under_way.pieces.push_back(Piece {
            arrives: entered + self.line.one_way,
            octets: octets.to_vec(),
        });
        self.changed.notify_all();
        !under_way.closed
    }

    /// Waits for the next piece; nothing when it is closed.
    fn next(&self) -> Option<Piece> {
        let nothing = |under_way: &mut UnderWay| under_way.pieces.is_empty() && !under_way.closed;
        let waited = self.changed.wait_while(self.under_way(), nothing);
        let mut under_way = waited.unwrap_or_else(PoisonError::into_inner);
        under_way.pieces.pop_front()
    }

    fn arrived(&self, octets: usize) {
        self.under_way().octets -= octets;
        self.changed.notify_all();
    }

    fn close(&self) {
        self.under_way().closed = true;
        self.changed.notify_all();
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND_TRIP: Duration = Duration::from_millis(20);

    /// A server for one connection.
    fn serve<T: Send + 'static>(
        serve: impl FnOnce(TcpStream) -> T + Send + 'static,
    ) -> (SocketAddr, thread::JoinHandle<T>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || serve(listener.accept().unwrap().0));
        (address, server)
    }

    fn echo(stream: TcpStream) {
        io::copy(&mut &stream, &mut &stream).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    }

    fn read_to_end(mut stream: &TcpStream) -> Vec<u8> {
        let mut octets = Vec::new();
        stream.read_to_end(&mut octets).unwrap();
        octets
    }

    #[test]
    fn octets_come_back_whole_and_in_order_and_the_end_after_them() {
        // More than may be under way at once on the slower line.
        let sent: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..))
            .take(2 << 20)
            .collect();
        for bandwidth in [None, Some(16 << 20)] {
            let (server, served) = serve(echo);
            let proxy = DelayProxy::start(server, ROUND_TRIP, bandwidth);
            let client = TcpStream::connect(proxy.address()).unwrap();
            thread::scope(|scope| {
                scope.spawn(|| {
                    (&client).write_all(&sent).unwrap();
                    client.shutdown(Shutdown::Write).unwrap();
                });
                assert!(read_to_end(&client) == sent, "{bandwidth:?}");
            });
            served.join().unwrap();
        }
    }

    #[test]
    fn one_side_may_end_while_the_other_goes_on() {
        let (server, served) = serve(|stream| {
            let asked = read_to_end(&stream);
            (&stream).write_all(b"after the end").unwrap();
            asked
        });
        let proxy = DelayProxy::start(server, ROUND_TRIP, None);
        let mut client = TcpStream::connect(proxy.address()).unwrap();
        client.write_all(b"asked").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&client), b"after the end");
        assert_eq!(served.join().unwrap(), b"asked");
    }

    /// Lower bounds: a busy machine can only be later.
    #[test]
    fn nothing_is_earlier_than_on_a_line_like_that() {
        let cases = [(1, None), (100_000, Some(2_000_000))];
        for (octets, bandwidth) in cases {
            let (server, served) = serve(echo);
            let proxy = DelayProxy::start(server, ROUND_TRIP, bandwidth);
            let mut client = TcpStream::connect(proxy.address()).unwrap();
            let began = Instant::now();
            client.write_all(&vec![b'x'; octets]).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_to_end(&client).len(), octets);
            let entering = bandwidth.map_or(0.0, |bandwidth| octets as f64 / bandwidth as f64);
            let least = ROUND_TRIP + Duration::from_secs_f64(entering);
            assert!(began.elapsed() >= least, "{octets} octets");
            served.join().unwrap();
        }
    }

    #[test]
    fn who_sends_to_nobody_learns_it() {
        let (server, served) = serve(drop);
        let proxy = DelayProxy::start(server, ROUND_TRIP, None);
        let mut client = TcpStream::connect(proxy.address()).unwrap();
        served.join().unwrap();
        while client.write_all(&[b'x'; 64 << 10]).is_ok() {}
    }

    #[test]
    fn where_no_server_is_the_connection_ends() {
        let nobody = crate::ports::Port::reserve();
        let proxy = DelayProxy::start(nobody.address(), ROUND_TRIP, None);
        let client = TcpStream::connect(proxy.address()).unwrap();
        assert_eq!(read_to_end(&client), b"");
    }

    #[test]
    fn a_proxy_that_is_dropped_takes_no_more() {
        let nobody = crate::ports::Port::reserve();
        let proxy = DelayProxy::start(nobody.address(), ROUND_TRIP, None);
        let address = proxy.address();
        drop(proxy);
        crate::process::wait_until("nobody answers there", || {
            TcpStream::connect(address).is_err()
        });
    }
}
