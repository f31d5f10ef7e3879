//! A program under test: started in a process group of its own, its output kept in files,
//! stopped and reaped whatever happens.

use std::fs::File;
use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// How long a program may take to do what it was told.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A running program.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it. Both outputs are appended to the log file.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    #[must_use]
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("a log file");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle of the log"))
            .stderr(file)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        }
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        read_lossy(&self.log)
    }

    /// Whether it is still there.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for a condition, and fails when the program ends before it holds.
    ///
    /// # Panics
    /// With the log, when time is up or the program has ended.
    #[track_caller]
    pub fn wait_until(&mut self, what: &str, mut holds: impl FnMut() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds() {
            if !self.is_running() {
                panic!("{} ended before {what}:\n{}", self.name, self.log());
            }
            assert!(
                Instant::now() < end,
                "{}: no {what}:\n{}",
                self.name,
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        // A program that has just ended needs no signal.
        killpg(self.group(), signal).ok();
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end in time.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status;
            }
            assert!(
                Instant::now() < end,
                "{} does not end:\n{}",
                self.name,
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Leaves it running for good.
    pub fn detach(self) {
        std::mem::forget(self);
    }

    fn group(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The whole group: a master process takes its children along.
        killpg(self.group(), Signal::SIGKILL).ok();
        self.child.wait().ok();
    }
}

/// What a finished command said.
#[derive(Clone, Debug)]
pub struct Output {
    /// The exit code; 128 and the number for a signal.
    pub code: i32,
    /// What it printed as data.
    pub stdout: String,
    /// What it said besides.
    pub stderr: String,
}

impl Output {
    /// Runs a command to its end.
    ///
    /// # Panics
    /// When it cannot be started, or does not end in time.
    #[track_caller]
    #[must_use]
    pub fn of(command: &mut Command) -> Self {
        Self::within(command, PATIENCE)
    }

    /// The same, with another limit.
    #[track_caller]
    #[must_use]
    pub fn within(command: &mut Command, limit: Duration) -> Self {
        let shown = format!("{command:?}");
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{shown} does not start: {error}"));
        let group = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
        let (done, waiting) = std::sync::mpsc::channel();
        // Output is read on another thread, so that a full pipe cannot hold the command up.
        std::thread::spawn(move || done.send(child.wait_with_output()));
        let outcome: io::Result<std::process::Output> =
            waiting.recv_timeout(limit).unwrap_or_else(|_| {
                killpg(group, Signal::SIGKILL).ok();
                let output = waiting.recv().map(|output| output.map(Self::from));
                panic!("{shown} does not end: {output:?}")
            });
        Self::from(outcome.expect("the output of a command"))
    }

    /// Fails unless the command ended with this code.
    #[track_caller]
    #[must_use]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "exit code\n--- stdout\n{}\n--- stderr\n{}",
            self.stdout, self.stderr
        );
        self
    }

    /// What it printed, as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| {
            panic!(
                "not JSON ({error}): {}\n--- stderr\n{}",
                self.stdout, self.stderr
            )
        })
    }
}

impl From<std::process::Output> for Output {
    fn from(output: std::process::Output) -> Self {
        Self {
            code: exit_code(output.status),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The exit code as a shell shows it.
#[must_use]
pub fn exit_code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Waits for a condition that no process of ours is behind.
///
/// # Panics
/// When it does not come true in time.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A file as text, whatever is in it; empty when it is not there.
#[must_use]
pub fn read_lossy(path: &Path) -> String {
    std::fs::read(path)
        .map(|octets| String::from_utf8_lossy(&octets).into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_keeps_code_and_both_streams() {
        let output =
            Output::of(Command::new("sh").args(["-c", "echo data; echo word >&2; exit 3"]));
        assert_eq!(
            (output.code, &*output.stdout, &*output.stderr),
            (3, "data\n", "word\n")
        );
    }

    #[test]
    fn a_dropped_process_takes_its_children_along() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & echo child $!; wait"]);
        let mut process = Process::start("sh", &mut command, &log);
        process.wait_until("its child", || read_lossy(&log).contains("child"));
        let child: i32 = read_lossy(&log)
            .trim_start_matches("child ")
            .trim()
            .parse()
            .unwrap();
        drop(process);
        let stat = PathBuf::from(format!("/proc/{child}/stat"));
        wait_until("the child is gone", || {
            let stat = read_lossy(&stat);
            stat.is_empty() || stat.contains(") Z ")
        });
    }
}
