//! The sockets of the name server: a thread for datagrams, one for each connection, and one for answers that take their time.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{Reaction, Shared, Transport};

/// A running server; its threads end with it.
#[derive(Debug)]
pub(super) struct Server {
    common: Arc<Common>,
    address: SocketAddr,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Common {
    shared: Arc<Shared>,
    is_over: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
    later: Mutex<Later>,
    changed: Condvar,
}

/// Answers that are due some time, in this order.
#[derive(Debug, Default)]
struct Later {
    answers: BTreeMap<(Instant, u64), (Way, Vec<u8>)>,
    number: u64,
}

/// Where an answer goes.
#[derive(Debug)]
enum Way {
    Tcp(TcpStream),
    Udp(UdpSocket, SocketAddr),
}

impl Server {
    pub(super) fn start(address: SocketAddr, shared: Arc<Shared>) -> Self {
        let listener = listener(address);
        let socket = UdpSocket::bind(address).expect("a socket for datagrams");
        let common = Arc::new(Common {
            shared,
            is_over: AtomicBool::new(false),
            connections: Mutex::default(),
            later: Mutex::default(),
            changed: Condvar::new(),
        });
        let datagrams = Arc::clone(&common);
        let connections = Arc::clone(&common);
        let later = Arc::clone(&common);
        let threads = vec![
            thread::spawn(move || datagrams.serve_datagrams(&socket)),
            thread::spawn(move || connections.accept(&listener)),
            thread::spawn(move || later.send_later()),
        ];
        Self {
            common,
            address,
            threads,
        }
    }
}

/// The address may still be that of connections of the last one, which the kernel remembers.
fn listener(address: SocketAddr) -> TcpListener {
    // std sets SO_REUSEADDR on Unix.
    TcpListener::bind(address).expect("a listener for name servers")
}

impl Drop for Server {
    fn drop(&mut self) {
        self.common.is_over.store(true, Ordering::SeqCst);
        for connection in lock(&self.common.connections).drain(..) {
            connection.shutdown(Shutdown::Both).ok();
        }
        self.common.changed.notify_all();
        // Both wait for somebody to come.
        TcpStream::connect(self.address).ok();
        if let Ok(socket) = UdpSocket::bind((self.address.ip(), 0)) {
            socket.send_to(&[], self.address).ok();
        }
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

impl Common {
    fn serve_datagrams(&self, socket: &UdpSocket) {
        let mut datagram = [0; 4_096];
        loop {
            let Ok((length, client)) = socket.recv_from(&mut datagram) else {
                continue;
            };
            if self.is_over() {
                return;
            }
            let reaction = self.shared.react(&datagram[..length], Transport::Udp);
            if let Reaction::Answer(answer, delay) = reaction
                && let Ok(socket) = socket.try_clone()
            {
                self.send(Way::Udp(socket, client), answer, delay);
            }
        }
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        while let Ok((stream, _)) = listener.accept() {
            if self.is_over() {
                return;
            }
            self.shared.connected();
            stream.set_nodelay(true).ok();
            if let Ok(handle) = stream.try_clone() {
                lock(&self.connections).push(handle);
            }
            let common = Arc::clone(self);
            thread::spawn(move || common.serve_connection(stream));
        }
    }

    fn serve_connection(&self, mut stream: TcpStream) {
        while let Some(question) = read_question(&mut stream) {
            match self.shared.react(&question, Transport::Tcp) {
                Reaction::Answer(answer, delay) => {
                    let length = u16::try_from(answer.len()).unwrap_or(u16::MAX);
                    let framed = [&length.to_be_bytes()[..], &answer].concat();
                    if let Ok(handle) = stream.try_clone() {
                        self.send(Way::Tcp(handle), framed, delay);
                    }
                }
                Reaction::HangUp => break,
                Reaction::Silence => {}
            }
        }
        stream.shutdown(Shutdown::Both).ok();
    }

    fn send(&self, mut way: Way, answer: Vec<u8>, delay: Duration) {
        if delay.is_zero() {
            return way.send(&answer);
        }
        let mut later = lock(&self.later);
        later.number += 1;
        let place = (Instant::now() + delay, later.number);
        later.answers.insert(place, (way, answer));
        self.changed.notify_all();
    }

    fn send_later(&self) {
        let mut later = lock(&self.later);
        while !self.is_over() {
            let first = later.answers.keys().map(|(due, _)| *due).next();
            let wait = first.map(|due| due.saturating_duration_since(Instant::now()));
            match wait {
                Some(Duration::ZERO) => {
                    if let Some((_, (mut way, answer))) = later.answers.pop_first() {
                        drop(later);
                        way.send(&answer);
                        later = lock(&self.later);
                    }
                }
                wait => {
                    let wait = wait.unwrap_or(Duration::from_secs(1));
                    let waited = self.changed.wait_timeout(later, wait);
                    later = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }
}

impl Way {
    /// Who asked may be gone.
    fn send(&mut self, answer: &[u8]) {
        match self {
            Self::Tcp(stream) => stream.write_all(answer).ok(),
            Self::Udp(socket, client) => socket.send_to(answer, *client).map(drop).ok(),
        };
    }
}

fn read_question(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut question).ok()?;
    Some(question)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
