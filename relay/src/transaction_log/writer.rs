//! The thread that writes: takes blocks off the channel, begins new files, and waits out a disk that takes nothing.
//!
//! What cannot be written stays in memory up to a bound; what comes beyond that is dropped where it is handed over, and
//! counted. Nobody waits for this thread but the end of the process.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use atrn_shared::directory::make_durable;
use jiff::Timestamp;
use nix::sys::statvfs::statvfs;
use tracing::{error, info, warn};

use super::event::{Event, Origin, Record};
use super::rotate::{self, Current};
use super::{Block, Shared};
use crate::config::Rotate;

/// How long a record waits at most while nothing wakes the thread.
const PAUSE: Duration = Duration::from_millis(250);
/// Octets that are written at a time.
const BATCH_OCTETS: usize = 1 << 20;
/// The file and the disk are looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What is left on the disk is for mail: the queue refuses new mail somewhat later than the log stops.
const RESERVE_OCTETS: u64 = 48 << 20;
/// The log goes on when there is so much again.
const RESUME_OCTETS: u64 = 64 << 20;
/// That the thread does not keep up is said once in so long.
const LOSS_SAID_EVERY: Duration = Duration::from_secs(60);

/// Where it is written, and what of it is kept.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) directory: PathBuf,
    pub(super) rotate: Rotate,
    pub(super) keep: usize,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    blocks: Receiver<Block>,
    place: Place,
    current: Option<Current>,
    /// Whole lines that are not written yet.
    pending: Vec<u8>,
    is_failing: bool,
    looked_at: Option<Instant>,
    /// Of the records that were lost, those that the log itself tells of.
    told: u64,
    loss_said: Option<Instant>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, blocks: Receiver<Block>, place: Place) -> Self {
        Self {
            shared,
            blocks,
            place,
            current: None,
            pending: Vec::new(),
            is_failing: false,
            looked_at: None,
            told: 0,
            loss_said: None,
        }
    }

    /// Writes until it is told to stop, and then what is left.
    pub(super) fn run(mut self) {
        loop {
            // Looked at first: what was handed over before that is on the channel by now.
            let is_last = self.shared.stops.load(Acquire);
            while self.take() {
                match self.write() {
                    Ok(()) => self.succeeded(),
                    Err(error) => {
                        self.failed(&error);
                        break;
                    }
                }
            }
            if is_last {
                return self.end();
            }
            thread::park_timeout(if self.is_failing { LOOK_EVERY } else { PAUSE });
        }
    }

    /// Takes what waits, up to a batch; whether there is something to do.
    fn take(&mut self) -> bool {
        while self.pending.len() < BATCH_OCTETS {
            let Ok(block) = self.blocks.try_recv() else {
                break;
            };
            if self.pending.is_empty() {
                self.pending = block.octets;
            } else {
                self.pending.extend_from_slice(&block.octets);
            }
        }
        !self.pending.is_empty() || self.must_look()
    }

    fn must_look(&self) -> bool {
        self.looked_at.is_none_or(|at| at.elapsed() >= LOOK_EVERY)
    }

    fn write(&mut self) -> io::Result<()> {
        let now = (self.shared.clock)();
        if self.is_failing || self.must_look() {
            self.looked_at = Some(Instant::now());
            self.check_disk()?;
            if !self.current.as_ref().is_some_and(Current::is_in_place) {
                self.current = None;
            }
        }
        self.tell_of_losses(now)?;
        while !self.pending.is_empty() {
            self.make_room(now)?;
            let room = self.limit().saturating_sub(self.current(now)?.octets);
            self.append(lines_within(&self.pending, room))?;
        }
        Ok(())
    }

    fn check_disk(&self) -> io::Result<()> {
        let wanted = if self.is_failing {
            RESUME_OCTETS
        } else {
            RESERVE_OCTETS
        };
        make_durable(&self.place.directory)?;
        let disk = statvfs(&self.place.directory)?;
        let free = disk.blocks_available().saturating_mul(disk.fragment_size());
        if free >= wanted {
            return Ok(());
        }
        let text = format!("{free} octets are left on the disk, and they are for mail");
        Err(io::Error::new(io::ErrorKind::StorageFull, text))
    }

    /// The file, opened where it is not, with a header that tells its fields: whoever went before may have had others.
    fn current(&mut self, now: Timestamp) -> io::Result<&mut Current> {
        if self.current.is_none() {
            let directory = &self.place.directory;
            let mut current = Current::open(directory, now)?;
            let first = current.first()?;
            if first.is_some_and(|first| !self.shared.formatter.may_begin_with(first)) {
                // Two formats in one file would be read by nobody.
                rotate::put_away(directory, current.day, self.place.keep)?;
                current = Current::open(directory, now)?;
            }
            let mut header = self.shared.formatter.header(now);
            if !current.ends_whole()? {
                header.insert(0, b'\n');
            }
            current.append(&header).1?;
            self.current = Some(current);
        }
        self.current
            .as_mut()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn limit(&self) -> u64 {
        match self.place.rotate {
            Rotate::Daily => u64::MAX,
            Rotate::Size(limit) => limit,
        }
    }

    /// Begins a new file where that is due.
    fn make_room(&mut self, now: Timestamp) -> io::Result<()> {
        let (limit, today) = (self.limit(), rotate::day(now));
        let first_line = first_line(&self.pending);
        let is_daily = self.place.rotate == Rotate::Daily;
        let current = self.current(now)?;
        if current.is_fresh {
            // A file that nobody wrote to is as good tomorrow.
            current.day = today;
            return Ok(());
        }
        let is_old = is_daily && current.day != today;
        if is_old || current.octets.saturating_add(first_line) > limit {
            let day = current.day;
            self.current = None;
            rotate::put_away(&self.place.directory, day, self.place.keep)?;
        }
        Ok(())
    }

    fn append(&mut self, count: usize) -> io::Result<()> {
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        let (done, appended) = current.append(&self.pending[..count]);
        current.is_fresh = current.is_fresh && done == 0;
        let records = lines(&self.pending[..done]);
        self.pending.drain(..done);
        self.shared.waiting.fetch_sub(done, Relaxed);
        self.shared.written.fetch_add(records, Relaxed);
        if appended.is_err() && !current.ends_whole().unwrap_or_default() {
            self.current = None;
        }
        appended
    }

    /// Whoever reads the log must know where something is missing.
    fn tell_of_losses(&mut self, now: Timestamp) -> io::Result<()> {
        let lost = self.shared.lost.load(Relaxed);
        let new = lost - self.told;
        if new == 0 {
            return Ok(());
        }
        let event = Event {
            argument: &new.to_string(),
            text: "records were lost: the log could not be written, or not fast enough".into(),
            ..Event::new("lost")
        };
        let mut line = Vec::new();
        let record = Record {
            at: now,
            hostname: &self.shared.hostname,
            origin: &Origin::relay(),
            event: &event,
        };
        self.shared.formatter.line(&record, &mut line);
        let current = self.current(now)?;
        current.append(&line).1?;
        current.is_fresh = false;
        self.told = lost;
        let is_said = |said: Instant| said.elapsed() < LOSS_SAID_EVERY;
        if !self.is_failing && !self.loss_said.is_some_and(is_said) {
            self.loss_said = Some(Instant::now());
            warn!(
                records = new,
                "the transaction log did not keep up; these are lost"
            );
        }
        Ok(())
    }

    fn failed(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.is_failing, true) {
            error!(
                directory = %self.place.directory.display(), %error,
                "the transaction log cannot be written; mail goes on without it, and it is tried again"
            );
            self.shared.note_failure(Some(error.to_string()));
        }
    }

    fn succeeded(&mut self) {
        if std::mem::replace(&mut self.is_failing, false) {
            let lost = self.shared.lost.load(Relaxed);
            info!(lost, "the transaction log is written again");
            self.shared.note_failure(None);
        }
    }

    /// What could not be written until now is lost.
    fn end(self) {
        let lost = lines(&self.pending);
        self.shared.lost.fetch_add(lost, Relaxed);
        let lost = self.shared.lost.load(Relaxed) - self.told;
        if lost > 0 {
            warn!(records = lost, "the transaction log ends without these");
        }
    }
}

/// Octets of the lines that fit, at least of one.
fn lines_within(lines: &[u8], room: u64) -> usize {
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    if lines.len() <= room {
        return lines.len();
    }
    match memchr::memrchr(b'\n', &lines[..room]) {
        Some(end) => end + 1,
        None => memchr::memchr(b'\n', lines).map_or(lines.len(), |end| end + 1),
    }
}

fn first_line(lines: &[u8]) -> u64 {
    memchr::memchr(b'\n', lines).map_or(lines.len(), |end| end + 1) as u64
}

fn lines(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}
