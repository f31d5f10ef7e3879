//! System calls that fail on order, in a program that runs and goes on running.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::process::{Process, read_lossy, wait_until};
use crate::software::Software;

/// A call that is to fail, and where.
#[derive(Clone, Debug)]
#[must_use]
pub struct Fault {
    call: String,
    error: String,
    when: Option<String>,
    delay: Option<String>,
    paths: Vec<PathBuf>,
    seen: Vec<String>,
}

/// A fault in force, until [`Injected::end`] or its end.
#[derive(Debug)]
pub struct Injected {
    process: Process,
    trace: PathBuf,
    _folder: TempDir,
}

/// The calls that were seen while a fault was in force, a line each.
#[derive(Clone, Debug)]
pub struct Trace(Vec<String>);

impl Fault {
    /// The call, by its name in the kernel, and the error that it gives: `fdatasync`, `EIO`.
    pub fn new(call: &str, error: &str) -> Self {
        Self {
            call: call.to_owned(),
            error: error.to_owned(),
            when: None,
            delay: None,
            paths: Vec::new(),
            seen: Vec::new(),
        }
    }

    /// Only where the call is about this file or folder. Without any, everywhere in the program.
    pub fn at(mut self, path: &Path) -> Self {
        self.paths.push(path.to_owned());
        self
    }

    /// Which calls of each thread fail: `1` the first, `2+` all but the first.
    pub fn when(mut self, when: &str) -> Self {
        self.when = Some(when.to_owned());
        self
    }

    /// The call fails only after so long: `200ms`.
    pub fn delayed(mut self, delay: &str) -> Self {
        self.delay = Some(delay.to_owned());
        self
    }

    /// Other calls that the trace shall show; they do as always.
    pub fn also_show(mut self, calls: &[&str]) -> Self {
        self.seen.extend(calls.iter().map(|&call| call.to_owned()));
        self
    }

    /// Puts it in force in a running program, and returns when it is.
    ///
    /// # Panics
    /// When strace is not there or may not attach; ask [`Software::Strace`] before.
    #[track_caller]
    #[must_use]
    pub fn inject(&self, program: u32) -> Injected {
        let strace = Software::Strace.find().expect("strace");
        let folder = tempfile::tempdir().expect("a folder");
        let trace = folder.path().join("trace");
        let mut order = format!("inject={}:error={}", self.call, self.error);
        if let Some(delay) = &self.delay {
            order.push_str(&format!(":delay_enter={delay}"));
        }
        if let Some(when) = &self.when {
            order.push_str(&format!(":when={when}"));
        }
        let mut shown = self.seen.clone();
        shown.push(self.call.clone());
        let mut command = Command::new(strace);
        command.args(["-f", "-y", "-s", "0", "-o"]).arg(&trace);
        command.args(["-e", &format!("trace={}", shown.join(","))]);
        command.args(["-e", &order, "-p", &program.to_string()]);
        for path in &self.paths {
            command.arg("-P").arg(path);
        }
        let log = folder.path().join("log");
        let mut process = Process::start("strace", &mut command, &log);
        process.wait_until("it is attached", || read_lossy(&log).contains(" attached"));
        Injected {
            process,
            trace,
            _folder: folder,
        }
    }
}

impl Injected {
    /// Calls that have failed so far.
    #[must_use]
    pub fn hits(&self) -> usize {
        self.trace().hits()
    }

    /// What has been seen so far.
    #[must_use]
    pub fn trace(&self) -> Trace {
        Trace(read_lossy(&self.trace).lines().map(str::to_owned).collect())
    }

    /// Leaves the program alone again.
    #[track_caller]
    pub fn end(mut self) -> Trace {
        // Again and again: a signal that comes just before it waits for the program is noticed only after the wait.
        wait_until("strace leaves the program", || {
            self.process.signal(Signal::SIGINT);
            !self.process.is_running()
        });
        self.trace()
    }
}

impl Trace {
    /// Calls that were made to fail.
    #[must_use]
    pub fn hits(&self) -> usize {
        self.0.iter().filter(|line| is_injected(line)).count()
    }

    /// The calls, in order: name, file, whether it failed on order.
    #[must_use]
    pub fn calls(&self) -> Vec<Call<'_>> {
        self.0.iter().filter_map(|line| Call::parse(line)).collect()
    }
}

/// One line of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call<'t> {
    /// The call's name.
    pub name: &'t str,
    /// All of its arguments.
    pub arguments: &'t str,
    /// Whether it was made to fail.
    pub failed: bool,
}

impl<'t> Call<'t> {
    /// `PID name(arguments) = result`
    fn parse(line: &'t str) -> Option<Self> {
        let (_, call) = line.split_once(' ')?;
        let (name, rest) = call.trim_start().split_once('(')?;
        let (arguments, _) = rest.rsplit_once(" = ")?;
        let arguments = arguments.trim_end().strip_suffix(')')?;
        Some(Self {
            name,
            arguments,
            failed: is_injected(line),
        })
    }

    /// Whether it is about this file.
    #[must_use]
    pub fn is_on(&self, path: &Path) -> bool {
        self.arguments.contains(&format!("<{}>", path.display()))
    }
}

fn is_injected(line: &str) -> bool {
    line.contains(" (INJECTED")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_read() {
        let trace = Trace(
            [
                "17 fdatasync(14</a/queue.db-wal>) = -1 EIO (Input/output error) (INJECTED)",
                "17 pwrite64(11</a/queue.db>, \"\"..., 4096, 8192)    = 4096",
                "17 fdatasync(11</a/queue.db> <unfinished ...>",
                "18 --- SIGINT ---",
            ]
            .map(str::to_owned)
            .to_vec(),
        );
        assert_eq!(trace.hits(), 1);
        let calls = trace.calls();
        assert_eq!(calls.len(), 2, "{calls:?}");
        assert!(calls[0].failed && calls[0].is_on(Path::new("/a/queue.db-wal")));
        assert!(!calls[1].failed && calls[1].is_on(Path::new("/a/queue.db")));
        assert_eq!((calls[0].name, calls[1].name), ("fdatasync", "pwrite64"));
        assert!(calls[1].arguments.ends_with(", 8192"));
    }
}
