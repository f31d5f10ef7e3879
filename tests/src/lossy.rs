//! A line between the puller and the relay that loses answers: it lets everything through but the reply that says that
//! a message is inside, a `250` to its content or a `258` to its name. The first so many of each delivery are swallowed,
//! and the connection is cut: with several messages under way, all that the puller says from then on is lost too.
//!
//! It reads along, so the relay's ODMR listener must be without TLS, and the puller must offer CHUNKING, as ours does.

use std::collections::{HashMap, VecDeque};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::process::PATIENCE;

/// What the relay writes in front of a delivery's name.
const NAME: &str = " XDELIVERYID=";

/// The line, until it is dropped.
#[derive(Debug)]
pub struct LossyLine {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// What becomes of an answer that is lost.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Loss {
    /// The connection is cut in its place: neither side hears of the other again.
    Cut,
    /// It is kept, and nothing more comes, as long as the connection lives.
    Stall,
}

#[derive(Debug)]
struct Shared {
    relay: SocketAddr,
    losses: Mutex<Losses>,
    changed: Condvar,
    times: usize,
    loss: Loss,
}

#[derive(Debug, Default)]
struct Losses {
    /// Answers lost of each delivery.
    each: HashMap<String, usize>,
    /// The most that one connection took with it.
    at_once: usize,
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
            losses: Mutex::default(),
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
        self.shared.losses().each.clone()
    }

    /// The most answers that were lost with one connection.
    #[must_use]
    pub fn lost_at_once(&self) -> usize {
        self.shared.losses().at_once
    }

    /// Waits until so many answers are lost.
    ///
    /// # Panics
    /// When they are not in time.
    #[track_caller]
    pub fn wait_for_losses(&self, count: usize) {
        let losses = self.shared.losses();
        let too_few = |losses: &mut Losses| losses.each.values().sum::<usize>() < count;
        let (losses, timeout) = self
            .shared
            .changed
            .wait_timeout_while(losses, PATIENCE, too_few)
            .unwrap_or_else(PoisonError::into_inner);
        assert!(!timeout.timed_out(), "lost only {losses:?}");
    }
}

impl Drop for LossyLine {
    fn drop(&mut self) {
        // The thread waits for a connection: give it one, so that it sees the end.
        self.shared = Arc::new(Shared {
            relay: self.address,
            losses: Mutex::default(),
            changed: Condvar::new(),
            times: 0,
            loss: Loss::Cut,
        });
        TcpStream::connect(self.address).ok();
    }
}

impl Shared {
    fn losses(&self) -> MutexGuard<'_, Losses> {
        self.losses.lock().unwrap_or_else(PoisonError::into_inner)
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
            due: Mutex::default(),
        });
        for stream in [&line.puller, &line.relay] {
            stream.set_nodelay(true).ok();
        }
        let other = Arc::clone(&line);
        std::thread::spawn(move || other.to_puller());
        std::thread::spawn(move || line.to_relay());
    }

    /// Whether this answer is lost; `before`: so many were lost with its connection.
    fn loses(&self, delivery: &str, before: usize) -> bool {
        let mut losses = self.losses();
        let count = losses.each.entry(delivery.to_owned()).or_default();
        let loses = *count < self.times;
        *count += usize::from(loses);
        losses.at_once = losses.at_once.max(before + usize::from(loses));
        self.changed.notify_all();
        loses
    }
}

/// One connection.
struct Line {
    shared: Arc<Shared>,
    puller: TcpStream,
    relay: TcpStream,
    /// Commands of the relay that are not answered yet, in their order.
    due: Mutex<VecDeque<Due>>,
}

/// What a reply will answer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Due {
    /// MAIL with the name of a delivery.
    Mail(String),
    /// The end of the content of a delivery.
    Content(String),
    /// Anything else.
    Other,
}

impl Line {
    fn to_puller(&self) {
        let mut commands = Commands::default();
        let mut piece = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = (&self.relay).read(&mut piece) {
            // Before the puller has them, so that no answer comes first.
            self.due().extend(commands.read(&piece[..count]));
            if (&self.puller).write_all(&piece[..count]).is_err() {
                break;
            }
        }
        // What the puller still says of the mail that it has goes its way, to the relay or nowhere.
        self.puller.shutdown(Shutdown::Write).ok();
    }

    fn to_relay(&self) {
        let (mut lost, mut is_open) = (0, true);
        let mut input = Vec::new();
        let mut piece = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = (&self.puller).read(&mut piece) {
            input.extend_from_slice(&piece[..count]);
            let whole = input.iter().rposition(|&octet| octet == b'\n');
            let lines: Vec<u8> = input.drain(..whole.map_or(0, |end| end + 1)).collect();
            for line in lines.split_inclusive(|&octet| octet == b'\n') {
                if self
                    .settles(line)
                    .is_some_and(|name| self.shared.loses(&name, lost))
                {
                    lost += 1;
                    is_open = false;
                    if self.shared.loss == Loss::Cut {
                        self.relay.shutdown(Shutdown::Both).ok();
                    }
                }
                is_open = is_open && (&self.relay).write_all(line).is_ok();
            }
        }
        for stream in [&self.puller, &self.relay] {
            // The peer may have closed it already.
            stream.shutdown(Shutdown::Both).ok();
        }
    }

    /// The delivery that this line of the puller's settles: after it, the relay would not send it again.
    fn settles(&self, line: &[u8]) -> Option<String> {
        let is_last = matches!(line, [b'0'..=b'9', b'0'..=b'9', b'0'..=b'9', b' ', ..]);
        let due = is_last.then(|| self.due().pop_front()).flatten()?;
        match due {
            Due::Content(name) if line.starts_with(b"250") => Some(name),
            Due::Mail(name) if line.starts_with(b"258") => Some(name),
            _ => None,
        }
    }

    fn due(&self) -> MutexGuard<'_, VecDeque<Due>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The relay's side of the stream, read for its commands.
#[derive(Debug, Default)]
struct Commands {
    line: Vec<u8>,
    /// Octets of content that are still to come.
    content: usize,
    name: Option<String>,
}

impl Commands {
    /// What the next octets ask for. Before the turn the relay replies, and asks nothing.
    fn read(&mut self, mut octets: &[u8]) -> Vec<Due> {
        let mut due = Vec::new();
        while !octets.is_empty() {
            let skipped = self.content.min(octets.len());
            self.content -= skipped;
            octets = &octets[skipped..];
            let Some(end) = octets.iter().position(|&octet| octet == b'\n') else {
                self.line.extend_from_slice(octets);
                break;
            };
            self.line.extend_from_slice(&octets[..=end]);
            octets = &octets[end + 1..];
            let line = std::mem::take(&mut self.line);
            due.extend(self.command(&String::from_utf8_lossy(&line)));
        }
        due
    }

    fn command(&mut self, line: &str) -> Option<Due> {
        let line = line.trim_end();
        let (verb, argument) = line.split_once(' ').unwrap_or((line, ""));
        match verb {
            "MAIL" => {
                let name = argument.split_once(NAME).map(|(_, rest)| rest);
                self.name = name.map(|rest| rest.split(' ').next().unwrap_or(rest).to_owned());
                Some(self.name.clone().map_or(Due::Other, Due::Mail))
            }
            "BDAT" => {
                let mut words = argument.split(' ');
                self.content = words.next()?.parse().ok()?;
                let is_last = words.next().is_some();
                let name = self.name.take_if(|_| is_last);
                Some(name.map_or(Due::Other, Due::Content))
            }
            _ if line.starts_with(|first: char| first.is_ascii_alphabetic()) => Some(Due::Other),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_replies_and_content_in_any_pieces() {
        let mail = |name: &str| Due::Mail(name.to_owned());
        let content = |name: &str| Due::Content(name.to_owned());
        let stream = b"250-relay\r\n250 2.0.0 reversing\r\nEHLO relay\r\n\
            MAIL FROM:<a@b.example> XDELIVERYID=a.1 SIZE=5\r\nRCPT TO:<u@example.org>\r\nBDAT 6 LAST\r\nMAIL\r\n\
            RSET\r\nMAIL FROM:<> XDELIVERYID=a.2\r\nBDAT 3\r\nab\nBDAT 0 LAST\r\nQUIT\r\n";
        let expected = [
            Due::Other,
            mail("a.1"),
            Due::Other,
            content("a.1"),
            Due::Other,
            mail("a.2"),
            Due::Other,
            content("a.2"),
            Due::Other,
        ];
        for size in [1, 7, stream.len()] {
            let mut commands = Commands::default();
            let due: Vec<Due> = stream
                .chunks(size)
                .flat_map(|piece| commands.read(piece))
                .collect();
            assert_eq!(due, expected, "pieces of {size}");
        }
    }
}
