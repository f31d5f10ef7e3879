//! The thread that writes: takes blocks off the channel, begins new files, and waits out a disk that takes nothing.
//!
//! What cannot be written stays in memory up to a bound; what comes beyond that is dropped where it is handed over, and
//! counted. Nobody waits for this thread but the end of the process.

use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use atrn_shared::directory::make_durable;
use jiff::Timestamp;
use nix::errno::Errno;
use nix::sys::statvfs::{Statvfs, statvfs};
use tracing::{error, info, warn};

use super::event::{Event, Origin, Record};
use super::rotate::{self, Current, Kept};
use super::{Block, Shared};
use crate::config::Rotate;

/// How long a record waits at most while nothing wakes the thread.
const PAUSE: Duration = Duration::from_millis(250);
/// Octets that are written at a time.
const BATCH_OCTETS: usize = 1 << 20;
/// The file and the disk are looked at at least this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What the log leaves free is a twentieth of the file system, but no less and no more than this.
const RESERVE_OCTETS: RangeInclusive<u64> = 512 << 20..=2 << 30;
/// It never leaves less: the queue refuses new mail at half of it.
const RESERVE_OCTETS_MIN: u64 = 48 << 20;
/// All files have a tenth of the file system where nobody says otherwise, but no less and no more than this.
const FILES_OCTETS: RangeInclusive<u64> = 1 << 20..=2 << 30;
/// So many files have the room of all: that is how much of the past goes at a time.
const FILES: u64 = 8;
/// That the thread does not keep up is said once in so long.
const LOSS_SAID_EVERY: Duration = Duration::from_secs(60);

/// Where it is written, and what of it is kept.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) directory: PathBuf,
    pub(super) rotate: Rotate,
    pub(super) keep: usize,
    /// Octets of all files.
    pub(super) max_size: Option<u64>,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    blocks: Receiver<Block>,
    place: Place,
    /// Octets of all files.
    max_size: u64,
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
            max_size: place.max_size.unwrap_or(*FILES_OCTETS.start()),
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
        // Each time: whoever fills the log fills the disk faster than a clock strikes.
        self.check_disk()?;
        if self.is_failing || self.must_look() {
            self.looked_at = Some(Instant::now());
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

    fn check_disk(&mut self) -> io::Result<()> {
        let disk = disk(&self.place.directory)?;
        let size = disk.blocks().saturating_mul(disk.fragment_size());
        let free = disk.blocks_available().saturating_mul(disk.fragment_size());
        let max_size = self.place.max_size;
        self.max_size = max_size.unwrap_or_else(|| files_max(size));
        let reserve = reserve(size);
        // It does not begin again for a few records.
        let wanted = reserve + if self.is_failing { reserve / 8 } else { 0 };
        if free >= wanted {
            return Ok(());
        }
        let text = format!("{free} octets are left on the disk, and they are for mail");
        Err(io::Error::new(io::ErrorKind::StorageFull, text))
    }

    /// The file, opened where it is not, with a header that tells its fields: whoever went before may have had others.
    fn current(&mut self, now: Timestamp) -> io::Result<&mut Current> {
        if self.current.is_none() {
            let (directory, kept) = (&self.place.directory, self.kept());
            rotate::forget(directory, &kept)?;
            let mut current = Current::open(directory, now)?;
            let first = current.first()?;
            if first.is_some_and(|first| !self.shared.formatter.may_begin_with(first)) {
                // Two formats in one file would be read by nobody.
                rotate::put_away(directory, current.day, &kept)?;
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

    /// Octets of a file, also within a day.
    fn limit(&self) -> u64 {
        let share = self.max_size / FILES;
        match self.place.rotate {
            Rotate::Daily => share,
            Rotate::Size(limit) => limit.min(share),
        }
    }

    /// The current file may always become as large as it may.
    fn kept(&self) -> Kept {
        Kept {
            count: self.place.keep,
            by_day: self.place.rotate == Rotate::Daily,
            octets: self.max_size.saturating_sub(self.limit()),
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
            rotate::put_away(&self.place.directory, day, &self.kept())?;
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

/// What is left for mail, on a file system of so many octets.
fn reserve(size: u64) -> u64 {
    let (least, most) = RESERVE_OCTETS.into_inner();
    let share = (size / 20).clamp(least, most);
    // Of a small one, such as a tmpfs, that would be all.
    share.min(size / 4).max(RESERVE_OCTETS_MIN)
}

/// What all files may have, on a file system of so many octets, where nobody says otherwise.
fn files_max(size: u64) -> u64 {
    let (least, most) = FILES_OCTETS.into_inner();
    (size / 10).clamp(least, most)
}

/// The file system under the directory, which is made where it is missing: to make sure of one that is there would cost
/// a sync each time.
fn disk(directory: &Path) -> io::Result<Statvfs> {
    match statvfs(directory) {
        Err(Errno::ENOENT) => {
            make_durable(directory)?;
            Ok(statvfs(directory)?)
        }
        found => Ok(found?),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_stops_well_before_the_queue_does() {
        const MIB: u64 = 1 << 20;
        for (size, left, files) in [
            (0, 48, 1),
            (60, 48, 6),
            (200, 50, 20),
            (1_000, 250, 100),
            (2_000, 500, 200),
            (10_240, 512, 1_024),
            (20_480, 1_024, 2_048),
            (1 << 20, 2_048, 2_048),
        ] {
            assert_eq!(reserve(size * MIB), left * MIB, "{size}");
            assert_eq!(files_max(size * MIB), files * MIB, "{size}");
        }
    }
}
