//! A line between the puller and the relay that loses answers: it lets everything through but the `250` that says that
//! a message was handed over. That one is swallowed, so many times for each delivery, and the connection is cut.
//!
//! It reads along, so the relay's ODMR listener must be without TLS.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::process::PATIENCE;

/// What the puller says of a message that the corporate server took.
const ANSWER: &str = "250 2.0.0 Message handed over";
/// What the relay writes in front of a delivery's name.
const NAME: &str = "XDELIVERYID=";
/// More than a MAIL command has: a name may stand in two pieces of the stream.
const TAIL_OCTETS: usize = 1024;

/// The line, until it is dropped.
#[derive(Debug)]
pub struct LossyLine {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// What becomes of an answer that is lost.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Loss {
    /// The connection is cut in its place.
    Cut,
    /// It is kept, and nothing more comes, as long as the connection lives.
    Stall,
}

#[derive(Debug)]
struct Shared {
    relay: SocketAddr,
    /// Answers lost of each delivery, and how many are to be.
    lost: Mutex<HashMap<String, usize>>,
    changed: Condvar,
    times: usize,
    loss: Loss,
}

impl LossyLine {
    /// A line to a relay that loses the first so many answers of each delivery.
    ///
    /// # Panics
    /// When there is no port.
    #[must_use]
    pub fn to(relay: SocketAddr, times: usize, loss: Loss) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            relay,
            lost: Mutex::default(),
            changed: Condvar::new(),
            times,
            loss,
        });
        let serving = Arc::downgrade(&shared);
        std::thread::spawn(move || {
            for puller in listener.incoming() {
                let Some(shared) = serving.upgrade() else {
                    return;
                };
                if let Ok(puller) = puller {
                    shared.connect(puller);
                }
            }
        });
        Self { address, shared }
    }

    /// Where pullers connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many answers were lost of each delivery, by its name.
    #[must_use]
    pub fn lost(&self) -> HashMap<String, usize> {
        self.shared.lost().clone()
    }

    /// Waits until so many answers are lost.
    ///
    /// # Panics
    /// When they are not in time.
    #[track_caller]
    pub fn wait_for_losses(&self, count: usize) {
        let lost = self.shared.lost();
        let (lost, timeout) = self
            .shared
            .changed
            .wait_timeout_while(lost, PATIENCE, |lost| lost.values().sum::<usize>() < count)
            .unwrap_or_else(PoisonError::into_inner);
        assert!(!timeout.timed_out(), "lost only {lost:?}");
    }
}

impl Drop for LossyLine {
    fn drop(&mut self) {
        // The thread waits for a connection: give it one, so that it sees the end.
        self.shared = Arc::new(Shared {
            relay: self.address,
            lost: Mutex::default(),
            changed: Condvar::new(),
            times: 0,
            loss: Loss::Cut,
        });
        TcpStream::connect(self.address).ok();
    }
}

impl Shared {
    fn lost(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Two threads, one for each direction; each ends with the connection.
    fn connect(self: &Arc<Self>, puller: TcpStream) {
        let Ok(relay) = TcpStream::connect(self.relay) else {
            return;
        };
        let line = Arc::new(Line {
            shared: Arc::clone(self),
            puller,
            relay,
            under_way: Mutex::default(),
        });
        for stream in [&line.puller, &line.relay] {
            stream.set_nodelay(true).ok();
        }
        let other = Arc::clone(&line);
        std::thread::spawn(move || other.to_puller());
        std::thread::spawn(move || line.to_relay());
    }

    /// Whether this answer is lost.
    fn loses(&self, delivery: &str) -> bool {
        let mut lost = self.lost();
        let count = lost.entry(delivery.to_owned()).or_default();
        let loses = *count < self.times;
        *count += usize::from(loses);
        self.changed.notify_all();
        loses
    }
}

/// One connection.
struct Line {
    shared: Arc<Shared>,
    puller: TcpStream,
    relay: TcpStream,
    /// The delivery that the relay sent last: it waits for the answer before it sends another.
    under_way: Mutex<String>,
}

impl Line {
    fn to_puller(&self) {
        let mut tail = Vec::new();
        let mut piece = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = (&self.relay).read(&mut piece) {
            tail.extend_from_slice(&piece[..count]);
            if let Some(name) = last_name(&tail) {
                *self.under_way() = name;
            }
            tail.drain(..tail.len().saturating_sub(TAIL_OCTETS));
            if (&self.puller).write_all(&piece[..count]).is_err() {
                break;
            }
        }
        self.cut();
    }

    fn to_relay(&self) {
        let mut input = Vec::new();
        let mut piece = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = (&self.puller).read(&mut piece) {
            input.extend_from_slice(&piece[..count]);
            let whole = input.iter().rposition(|&octet| octet == b'\n');
            let lines: Vec<u8> = input.drain(..whole.map_or(0, |end| end + 1)).collect();
            for line in lines.split_inclusive(|&octet| octet == b'\n') {
                let is_answer = line.starts_with(ANSWER.as_bytes());
                if is_answer && self.shared.loses(&self.under_way()) {
                    if self.shared.loss == Loss::Cut {
                        return self.cut();
                    }
                    // Until the puller is gone.
                    while let Ok(1..) = (&self.puller).read(&mut piece) {}
                    return self.cut();
                }
                if (&self.relay).write_all(line).is_err() {
                    return self.cut();
                }
            }
        }
        self.cut();
    }

    fn cut(&self) {
        for stream in [&self.puller, &self.relay] {
            // The peer may have closed it already.
            stream.shutdown(Shutdown::Both).ok();
        }
    }

    fn under_way(&self) -> MutexGuard<'_, String> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last name of a delivery that is there whole.
fn last_name(octets: &[u8]) -> Option<String> {
    let mut names = octets
        .windows(NAME.len())
        .enumerate()
        .rev()
        .filter(|(_, window)| *window == NAME.as_bytes())
        .map(|(position, _)| &octets[position + NAME.len()..]);
    names.find_map(|rest| {
        let end = rest
            .iter()
            .position(|octet| matches!(octet, b' ' | b'\r'))?;
        Some(String::from_utf8_lossy(&rest[..end]).into_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_whole_or_not_at_all() {
        for (octets, expected) in [
            ("MAIL FROM:<> XDELIVERYID=a.1 SIZE=5\r\n", Some("a.1")),
            ("XDELIVERYID=a.1\r\nx XDELIVERYID=a.2\r\n", Some("a.2")),
            ("XDELIVERYID=a.1\r\nx XDELIVERYID=a.2", Some("a.1")),
            ("XDELIVERYID=a.1", None),
            ("MAIL FROM:<>\r\n", None),
        ] {
            assert_eq!(
                last_name(octets.as_bytes()).as_deref(),
                expected,
                "{octets}"
            );
        }
    }
}
