//! What `status` shows: a small file for each relay in the data directory, written by whoever pulled last.
//!
//! Nothing depends on it. It is written beside its place and renamed, so that a reader never sees half of it.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use atrn_shared::cli::{ExitCode, Failure};
use atrn_shared::directory;
use atrn_shared::sandbox::InForce;
use jiff::Timestamp;
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use serde::{Deserialize, Serialize};

use crate::flow::Activity;
use crate::outcome::{Outcome, Severity};
use crate::private;
use crate::reversed::Tally;
use crate::session::Report;

/// A relay as its last pulls left it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct RelayStatus {
    /// The sessions of the daemon that run just now. What a daemon that was killed has left here means nothing.
    pub connection: Option<Connection>,
    /// The last pull that came to its end.
    pub last: Option<LastPull>,
    /// When mail last came.
    pub last_mail_at: Option<Timestamp>,
    /// When the daemon pulls next; absent without a daemon.
    pub next_at: Option<Timestamp>,
    /// Pulls in a row that failed; one that was of use before it did is the first of its row.
    pub failures: u32,
    /// What somebody must look at.
    pub alarm: Option<String>,
    /// Whether the relay waits for mail (XWAIT), as instant mode wants it; `None` until it has said what it offers.
    pub offers_xwait: Option<bool>,
}

/// Sessions with a relay that run.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Connection {
    /// When the oldest of them was logged in.
    pub since: Timestamp,
    /// What they do.
    pub state: ConnectionState,
    /// How many there are.
    pub sessions: usize,
    /// What they have brought so far.
    #[serde(flatten)]
    pub tally: Tally,
    /// When mail last came.
    #[serde(skip)]
    pub last_mail_at: Option<Timestamp>,
    /// Whether the relay waits for mail (XWAIT).
    #[serde(skip)]
    pub offers_wait: bool,
}

/// What sessions do.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionState {
    /// Mail is under way.
    Receiving,
    /// There is none, and the relay will say when there is.
    Waiting,
}

impl Connection {
    /// `None` while nobody is logged in.
    #[must_use]
    pub fn of(activity: &Activity) -> Option<Self> {
        Some(Self {
            since: activity.connected_since?,
            state: if activity.is_busy {
                ConnectionState::Receiving
            } else {
                ConnectionState::Waiting
            },
            sessions: activity.sessions,
            tally: activity.tally,
            last_mail_at: activity.last_mail_at,
            offers_wait: activity.offers_wait,
        })
    }
}

/// One pull.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct LastPull {
    /// When it began.
    pub at: Timestamp,
    /// How long it took.
    pub seconds: f64,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// What it brought.
    #[serde(flatten)]
    pub tally: Tally,
}

impl RelayStatus {
    /// The status after one more pull.
    #[must_use]
    pub fn after(self, report: &Report) -> Self {
        let severity = report.outcome.severity();
        let is_fine = severity == Severity::Fine;
        let row = if report.was_of_use() {
            0
        } else {
            self.failures
        };
        Self {
            connection: None,
            offers_xwait: report.offers_wait.or(self.offers_xwait),
            last_mail_at: report.last_mail_at.or(self.last_mail_at),
            next_at: None,
            failures: if is_fine { 0 } else { row.saturating_add(1) },
            alarm: (severity == Severity::Alarm).then(|| report.outcome.to_string()),
            last: Some(LastPull {
                at: report.began_at,
                seconds: report.took.as_secs_f64(),
                outcome: report.outcome.clone(),
                tally: report.tally,
            }),
        }
    }
}

/// The files.
#[derive(Clone, Debug)]
pub struct StatusFiles {
    folder: PathBuf,
}

impl StatusFiles {
    /// Makes the data directory where it is missing, and sees whether it can be written.
    ///
    /// # Errors
    /// One line on what is wrong with the directory.
    pub fn open(data_dir: &Path) -> Result<Self, Failure> {
        let files = Self::look(data_dir);
        let probe = files.folder.join(".probe");
        let outcome = directory::make_durable(&files.folder)
            .and_then(|()| File::create(&probe))
            .and_then(|_| fs::remove_file(&probe).or_else(gone));
        outcome.map_err(|error| cannot_be_written(data_dir, &error))?;
        Ok(files)
    }

    /// Whether [`StatusFiles::open`] and the journal would do, as far as it can be told without making anything: who
    /// looks may be another user than who pulls, and would make it for himself.
    ///
    /// # Errors
    /// One line on what is wrong with the directory.
    pub fn check(data_dir: &Path) -> Result<(), Failure> {
        let failed = |error: io::Error| cannot_be_written(data_dir, &error);
        let folders = [data_dir.to_path_buf(), Self::look(data_dir).folder];
        for folder in folders {
            // Where it is missing it is made in what is above it.
            let there = folder.ancestors().find(|above| above.exists());
            let there = there.unwrap_or_else(|| Path::new("."));
            if !there.is_dir() {
                return Err(failed(Errno::ENOTDIR.into()));
            }
            access(there, AccessFlags::W_OK | AccessFlags::X_OK)
                .map_err(|error| failed(error.into()))?;
        }
        // A pull by another user has left files of his.
        let entries = fs::read_dir(data_dir).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file())) {
            if let Err(error) = access(&entry.path(), AccessFlags::R_OK | AccessFlags::W_OK) {
                let error = format!("{}: {}", entry.path().display(), io::Error::from(error));
                return Err(failed(io::Error::other(error)));
            }
        }
        Ok(())
    }

    /// For reading only.
    #[must_use]
    pub fn look(data_dir: &Path) -> Self {
        Self {
            folder: data_dir.join("status"),
        }
    }

    /// What is known of a relay. A file that cannot be read tells nothing.
    #[must_use]
    pub fn read(&self, relay: &str) -> RelayStatus {
        let text = fs::read(self.file(relay)).ok();
        text.and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default()
    }

    /// Replaces it.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, relay: &str, status: &RelayStatus) -> io::Result<()> {
        let beside = self.folder.join(format!(".{relay}.{}", std::process::id()));
        fs::write(&beside, serde_json::to_vec_pretty(status)?)?;
        fs::rename(&beside, self.file(relay))
    }

    /// What the daemon has given up; `None` where none ever said so. Means nothing while no daemon runs.
    #[must_use]
    pub fn read_daemon(&self) -> Option<InForce> {
        let text = fs::read(self.folder.join(DAEMON_FILE)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Says what the daemon has given up.
    ///
    /// # Errors
    /// One line on what is wrong with the directory.
    pub fn write_daemon(&self, in_force: &InForce) -> Result<(), Failure> {
        let beside = self.folder.join(format!(".{DAEMON_FILE}"));
        let text = serde_json::to_vec_pretty(in_force).map_err(io::Error::from);
        let written = text.and_then(|text| {
            fs::write(&beside, text)?;
            fs::rename(&beside, self.folder.join(DAEMON_FILE))
        });
        written.map_err(|error| cannot_be_written(&self.folder, &error))
    }

    /// [`Self::read`] off the runtime.
    pub(crate) async fn load(&self, relay: &str) -> RelayStatus {
        let (files, relay) = (self.clone(), relay.to_owned());
        tokio::task::spawn_blocking(move || files.read(&relay))
            .await
            .unwrap_or_default()
    }

    /// [`Self::write`] off the runtime.
    pub(crate) async fn save(&self, relay: &str, status: &RelayStatus) -> io::Result<()> {
        let (files, relay, status) = (self.clone(), relay.to_owned(), status.clone());
        let written = tokio::task::spawn_blocking(move || files.write(&relay, &status)).await;
        written.unwrap_or_else(|_| Err(io::Error::other("the work was interrupted")))
    }

    /// Relay names are letters, digits, dots and dashes: they are safe in a path.
    fn file(&self, relay: &str) -> PathBuf {
        self.folder.join(format!("{relay}.json"))
    }
}

/// No relay's name has such an end.
const DAEMON_FILE: &str = "daemon.sandbox";

pub(crate) fn cannot_be_written(data_dir: &Path, error: &io::Error) -> Failure {
    let text = format!(
        "data_dir {} cannot be written: {error}; make it for the user that runs atrn-puller",
        data_dir.display()
    );
    Failure::new(ExitCode::Config, text)
}

/// Says that a daemon runs on this data directory, for as long as the value lives.
#[derive(Debug)]
pub struct DaemonLock(#[expect(dead_code, reason = "the lock is held by the open file")] File);

impl DaemonLock {
    /// Takes the lock.
    ///
    /// # Errors
    /// When another daemon has it.
    pub fn take(data_dir: &Path) -> Result<Self, Failure> {
        let path = data_dir.join("daemon.lock");
        let failed = |error: io::Error| {
            Failure::new(ExitCode::Config, format!("{}: {error}", path.display()))
        };
        private::make(&path).map_err(failed)?;
        let file = File::options().append(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(Failure::failed(format!(
                "another atrn-puller runs on {}",
                data_dir.display()
            ))),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// Whether somebody holds it.
    #[must_use]
    pub fn is_held(data_dir: &Path) -> bool {
        let file = File::open(data_dir.join("daemon.lock"));
        file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }
}

/// Another process of ours, a `pull` beside the daemon, looks in the same way at the same time.
fn gone(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    use super::*;

    fn report(outcome: Outcome, messages: u64) -> Report {
        let began_at = Timestamp::from_second(1_000_000).unwrap();
        Report {
            outcome,
            tally: Tally {
                messages,
                ..Tally::default()
            },
            began_at,
            took: Duration::from_secs(2),
            last_mail_at: (messages > 0).then_some(began_at),
            offers_wait: None,
        }
    }

    #[test]
    fn failures_are_counted_until_it_is_fine_again() {
        let late = || report(Outcome::Later("451".into()), 0);
        let status = RelayStatus::default().after(&late()).after(&late());
        assert_eq!(
            (status.failures, status.alarm.clone(), status.last_mail_at),
            (2, None, None)
        );
        let status = status.after(&report(Outcome::Refused("535".into()), 0));
        assert_eq!((status.failures, status.alarm.as_deref()), (3, Some("535")));
        let status = status.after(&report(Outcome::Pulled, 7));
        assert_eq!((status.failures, status.alarm.clone()), (0, None));
        let mail_at = status.last_mail_at;
        let status = status.after(&report(Outcome::NoMail, 0));
        assert_eq!((status.last_mail_at, mail_at.is_some()), (mail_at, true));
    }

    /// A long line that breaks now and then does not make us stay away for longer each time.
    #[test]
    fn a_failure_after_use_is_the_first_of_its_row() {
        let waited = |seconds| Report {
            took: Duration::from_secs(seconds),
            offers_wait: Some(true),
            ..report(Outcome::Broken("cut".into()), 0)
        };
        let broken = |messages| report(Outcome::Broken("cut".into()), messages);
        let status = RelayStatus::default().after(&broken(0)).after(&broken(0));
        assert_eq!(status.clone().after(&broken(0)).failures, 3);
        assert_eq!(status.clone().after(&broken(1)).failures, 1);
        assert_eq!(status.clone().after(&waited(59)).failures, 3);
        assert_eq!(status.after(&waited(60)).failures, 1);
    }

    #[test]
    fn a_file_of_an_older_version_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let files = StatusFiles::open(folder.path()).unwrap();
        let old = r#"{"last":null,"last_mail_at":"2026-01-01T00:00:00Z","next_at":null,"failures":3,"alarm":null}"#;
        fs::write(files.file("mx1"), old).unwrap();
        let status = files.read("mx1");
        assert_eq!((status.failures, status.offers_xwait), (3, None));
    }

    #[test]
    fn what_was_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let files = StatusFiles::open(folder.path()).unwrap();
        assert!(files.read("mx1").last.is_none());
        for outcome in [Outcome::NoMail, Outcome::Broken("why".into())] {
            let status = RelayStatus::default().after(&report(outcome.clone(), 1));
            files.write("mx1", &status).unwrap();
            assert_eq!(files.read("mx1").last.unwrap().outcome, outcome);
        }
    }

    #[test]
    fn several_processes_may_begin_at_once() {
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        StatusFiles::open(folder.path()).unwrap();
                    }
                });
            }
        });
    }

    #[test]
    fn one_daemon_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!DaemonLock::is_held(folder.path()));
        let lock = DaemonLock::take(folder.path()).unwrap();
        let metadata = fs::metadata(folder.path().join("daemon.lock")).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        assert!(DaemonLock::is_held(folder.path()));
        assert!(DaemonLock::take(folder.path()).is_err());
        drop(lock);
        assert!(!DaemonLock::is_held(folder.path()));
    }

    #[test]
    fn a_data_directory_that_is_a_file_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let failure = StatusFiles::open(file.path()).unwrap_err();
        let checked = StatusFiles::check(file.path()).unwrap_err();
        assert_eq!((checked.code, &checked.text), (failure.code, &failure.text));
        assert_eq!(failure.code, ExitCode::Config);
        assert!(
            failure.text.contains("cannot be written"),
            "{}",
            failure.text
        );
    }
}
