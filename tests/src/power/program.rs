//! A program that runs under strace, once or again and again over one folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::recorder::Recording;
use super::trace::under_strace;
use crate::process::{Process, exit_code, read_lossy};

/// A program, the folder of its files, and what it has done there so far.
#[derive(Debug)]
pub(super) struct Traced {
    strace: PathBuf,
    /// Traces and logs, one of each a run.
    notes: PathBuf,
    runs: usize,
    running: Option<Process>,
    recording: Recording,
}

impl Traced {
    /// Begins with what is in `folder`; `notes` is another folder.
    pub(super) fn new(strace: &Path, folder: &Path, notes: &Path) -> Self {
        Self {
            strace: strace.to_owned(),
            notes: notes.to_owned(),
            runs: 0,
            running: None,
            recording: Recording::of(folder).expect("a folder that can be read"),
        }
    }

    /// Starts a run, and waits until the condition holds. `inject` is for strace: a call at which the program is killed.
    #[track_caller]
    pub(super) fn start(
        &mut self,
        command: &Command,
        inject: Option<&str>,
        is_up: impl FnMut() -> bool,
    ) {
        self.runs += 1;
        let inject = inject.map(|rule| format!("--inject={rule}"));
        let more: Vec<&str> = inject.iter().map(|rule| &**rule).collect();
        let mut traced = under_strace(&self.strace, command, &self.trace(), &more);
        let mut process = Process::start("strace", &mut traced, &self.log_file());
        process.wait_until("it is up", is_up);
        self.running = Some(process);
    }

    /// Kills the program as a power failure of its process would: at once, with everything written still written.
    #[track_caller]
    pub(super) fn kill(&mut self) {
        let strace = self.running.as_ref().expect("a running program").id();
        let children = read_lossy(Path::new(&format!("/proc/{strace}/task/{strace}/children")));
        for child in children.split_whitespace() {
            let child = child.parse().expect("a process id");
            // One that has ended meanwhile is what was wanted.
            kill(Pid::from_raw(child), Signal::SIGKILL).ok();
        }
        let _ = self.finish();
    }

    /// Whether the run is still going on.
    pub(super) fn is_running(&mut self) -> bool {
        self.running.as_mut().is_some_and(Process::is_running)
    }

    /// Asks the program to end; it must do so well.
    #[track_caller]
    pub(super) fn stop(&mut self) {
        self.running
            .as_ref()
            .expect("a running program")
            .signal(Signal::SIGTERM);
        let code = self.finish();
        assert_eq!(code, 0, "exit code\n{}", self.log());
    }

    /// Waits for the end of the run, adds it to the recording, and returns the exit code.
    ///
    /// # Panics
    /// When the trace is not understood.
    #[track_caller]
    pub(super) fn finish(&mut self) -> i32 {
        let mut process = self.running.take().expect("a running program");
        let code = exit_code(process.wait());
        let added = self.recording.add_run(&read_lossy(&self.trace()));
        added.unwrap_or_else(|error| panic!("{error} (in {})", self.trace().display()));
        code
    }

    /// What the program has done, once it has ended for good.
    pub(super) fn into_recording(self) -> Recording {
        self.recording
    }

    pub(super) fn log(&self) -> String {
        read_lossy(&self.log_file())
    }

    fn trace(&self) -> PathBuf {
        self.notes.join(format!("{}.trace", self.runs))
    }

    fn log_file(&self) -> PathBuf {
        self.notes.join(format!("{}.log", self.runs))
    }
}
