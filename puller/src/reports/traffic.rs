//! What is known together of the reports that left: by all sessions of a process, and of the hourly count also by all
//! processes that share a data directory. A puller that cron starts every few minutes would else have a new hour each time.
//!
//! The count is a small file, changed under its lock. It goes by the time since the machine started, which is the same
//! for every process and jumps with no clock; after a restart of the machine it begins anew.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::rate::{Ticket, Window};

/// A smart host that was not to be had is left alone for so long: mail for inside waits behind every attempt.
const AFTER_FAILURE: Duration = Duration::from_secs(60);
const COUNT_FILE: &str = "reports.count";
/// Names the time since when the clock runs.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// The file has some 300 octets.
const COUNT_OCTETS_MAX: u64 = 64 * 1024;

/// A handle on what is known.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// `None`: the process counts for itself.
    file: Option<Arc<PathBuf>>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// As this process saw it last.
    window: Window,
    /// Something in it did not get into the file.
    is_ahead: bool,
    /// When the smart host was last found out of reach.
    failed_at: Option<Duration>,
}

/// The file.
#[derive(Debug, Deserialize, Serialize)]
struct Kept {
    boot: String,
    #[serde(flatten)]
    window: Window,
}

impl Traffic {
    /// Counts together with all who share the data directory.
    #[must_use]
    pub fn shared(data_dir: &Path) -> Self {
        Self {
            file: Some(Arc::new(data_dir.join(COUNT_FILE))),
            state: Arc::default(),
        }
    }

    /// Whether one more may leave, as far as this process knows: the last word is that of [`Traffic::take`].
    pub(super) fn is_open(&self, max_per_hour: u32) -> bool {
        self.with(|state, now| state.window.is_open(now, max_per_hour))
    }

    /// Counts one more. `None`: it has to wait.
    pub(super) async fn take(&self, max_per_hour: u32) -> Option<Ticket> {
        self.change(move |window, now| window.take(now, max_per_hour))
            .await
            .flatten()
    }

    /// What was counted did not leave.
    pub(super) async fn give_back(&self, ticket: Ticket) {
        self.change(move |window, _| window.give_back(ticket)).await;
    }

    pub(super) fn note_failure(&self) {
        self.with(|state, now| state.failed_at = Some(now));
    }

    pub(super) fn is_worth_a_try(&self) -> bool {
        self.with(|state, now| {
            state
                .failed_at
                .is_none_or(|failed_at| now >= failed_at + AFTER_FAILURE)
        })
    }

    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Window, Duration) -> T + Send + 'static,
    ) -> Option<T> {
        let Some(path) = self.file.clone() else {
            return Some(self.with(|state, now| change(&mut state.window, now)));
        };
        let traffic = self.clone();
        let changed = tokio::task::spawn_blocking(move || {
            let mut file = match Kept::lock(&path) {
                Ok(file) => file,
                Err(error) => {
                    warn!(path = %path.display(), %error, "reports are counted in this process only");
                    return traffic.with(|state, now| {
                        state.is_ahead = true;
                        change(&mut state.window, now)
                    });
                }
            };
            let kept = Kept::read(&mut file);
            let mut window = traffic.with(|state, _| state.known(kept));
            let result = change(&mut window, uptime());
            let written = Kept::write(&mut file, &window);
            if let Err(error) = &written {
                warn!(path = %path.display(), %error, "cannot write the count of reports");
            }
            traffic.with(|state, _| {
                state.window = window;
                state.is_ahead = written.is_err();
            });
            result
        });
        changed.await.ok()
    }

    fn with<T>(&self, look: impl FnOnce(&mut State, Duration) -> T) -> T {
        // Counters: a panic elsewhere leaves them as good as they were.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        look(&mut state, uptime())
    }
}

impl State {
    /// What counts, given what the file says. A file that says nothing, or not all, takes back nothing that this process
    /// has counted: on a full disk there would else be no limit.
    fn known(&self, kept: Option<Window>) -> Window {
        let Some(mut kept) = kept else {
            return self.window.clone();
        };
        if self.is_ahead {
            kept.raise_to(&self.window);
        }
        kept
    }
}

impl Kept {
    fn lock(path: &Path) -> io::Result<File> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        file.lock()?;
        Ok(file)
    }

    /// `None`: there is nothing yet, or nothing that counts any more.
    fn read(file: &mut File) -> Option<Window> {
        let mut text = String::new();
        file.take(COUNT_OCTETS_MAX).read_to_string(&mut text).ok()?;
        let kept: Self = serde_json::from_str(&text).ok()?;
        (kept.boot == boot()).then_some(kept.window)
    }

    fn write(file: &mut File, window: &Window) -> io::Result<()> {
        let kept = Self {
            boot: boot(),
            window: window.clone(),
        };
        let text = serde_json::to_string(&kept)?;
        // In place: what is overwritten needs no room on the disk, and where it fails the old count is still there.
        file.rewind()?;
        file.write_all(text.as_bytes())?;
        file.set_len(text.len() as u64)
    }
}

fn boot() -> String {
    fs::read_to_string(BOOT_ID).unwrap_or_default()
}

/// Since the machine started, sleep included. A clock that cannot be read stands still, and frees nothing.
fn uptime() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Into::into)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[tokio::test]
    async fn all_processes_of_a_data_directory_count_together() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(COUNT_FILE);
        let (one, other) = (
            Traffic::shared(folder.path()),
            Traffic::shared(folder.path()),
        );
        let ticket = one.take(2).await.unwrap();
        assert!(other.is_open(2) && other.take(2).await.is_some());
        assert!(one.take(2).await.is_none() && other.take(2).await.is_none());
        assert!(!one.is_open(2));
        one.give_back(ticket).await;
        assert!(one.is_open(2) && other.take(2).await.is_some());
        // What was written before the machine started, or by nobody, counts no more, but for who counted it.
        let text = fs::read_to_string(&path).unwrap();
        for text in [
            text.replacen("\"boot\":\"", "\"boot\":\"x", 1),
            "[]".to_owned(),
            text[..50].to_owned(),
        ] {
            fs::write(&path, text).unwrap();
            let another = Traffic::shared(folder.path());
            assert!(another.take(1).await.is_some());
            assert!(one.take(1).await.is_none());
        }
    }

    #[tokio::test]
    async fn a_file_that_loses_its_count_takes_nothing_back() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(COUNT_FILE);
        let traffic = Traffic::shared(folder.path());
        assert!(traffic.take(2).await.is_some());
        fs::write(&path, "").unwrap();
        assert!(traffic.take(2).await.is_some());
        fs::write(&path, "").unwrap();
        assert!(traffic.take(2).await.is_none());
        // What is known is in the file again.
        assert!(Traffic::shared(folder.path()).take(2).await.is_none());
    }

    #[tokio::test]
    async fn on_a_full_disk_the_limit_stands() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(COUNT_FILE);
        let traffic = Traffic::shared(folder.path());
        let early = traffic.take(9).await.unwrap();
        let before = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        assert!(traffic.take(3).await.is_some() && traffic.take(3).await.is_some());
        assert!(traffic.take(3).await.is_none() && !traffic.is_open(3));
        traffic.give_back(early).await;
        let _ = traffic.take(3).await.unwrap();
        // Later there is room again, and an older count in the file.
        fs::remove_file(&path).unwrap();
        fs::write(&path, before).unwrap();
        assert!(traffic.take(3).await.is_none());
        assert!(Traffic::shared(folder.path()).take(3).await.is_none());
    }

    #[tokio::test]
    async fn a_count_that_needs_fewer_digits_is_read_again() {
        let folder = TempDir::new().unwrap();
        let (one, other) = (
            Traffic::shared(folder.path()),
            Traffic::shared(folder.path()),
        );
        let mut tickets = Vec::new();
        for _ in 0..10 {
            tickets.push(one.take(10).await.unwrap());
        }
        one.give_back(tickets.remove(0)).await;
        assert!(other.take(10).await.is_some() && other.take(10).await.is_none());
    }

    #[tokio::test]
    async fn without_the_file_the_process_counts_for_itself() {
        let folder = TempDir::new().unwrap();
        for traffic in [
            Traffic::default(),
            Traffic::shared(&folder.path().join("nowhere")),
        ] {
            assert!(traffic.take(1).await.is_some());
            assert!(traffic.take(1).await.is_none() && !traffic.is_open(1));
        }
    }
}
