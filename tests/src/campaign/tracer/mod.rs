//! Kills a running program at a system call, from outside, by ptrace: nothing in the product knows
//! of it. It stops the program at every system call, reads what the call is about, and at the right
//! one sends SIGKILL: before the kernel has begun it (then the kernel skips it), or when it is done
//! and the program has not heard of it yet.
//!
//! `strace --inject` chooses by the name of the call and by a path that is known beforehand; spool
//! files, Maildir files and replies have none. So this is a small tracer of our own. It runs in a
//! process of its own, since a tracer takes the word of a child's end away from its parent.

mod call;

use std::collections::HashSet;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::boundary::{Boundary, Side};
use call::Program;

pub use call::Call;

/// Where a program is to die.
#[derive(Clone, Copy, Debug)]
pub struct Trap {
    /// At which step.
    pub boundary: Boundary,
    /// On which side of it.
    pub side: Side,
    /// How many such calls pass unharmed.
    pub passed: u32,
}

const ATTACHED: &str = "attached";
const GONE: &str = "gone";
const SPRUNG: &str = "sprung";

impl Trap {
    /// Sets it under a program: starts the tracer, and returns when it is attached. `None`: the program has just
    /// ended.
    ///
    /// # Errors
    /// When this system does not let one process trace another.
    pub fn set(self, tracer: &Path, program: u32) -> Result<Option<SetTrap>> {
        let mut child = Command::new(tracer)
            .args(["trace", "--pid", &program.to_string()])
            .args(["--at", self.boundary.name(), "--passed"])
            .arg(self.passed.to_string())
            .args(matches!(self.side, Side::After).then_some("--after"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| tracer.display().to_string())?;
        let output = child.stdout.take().context("the tracer's output")?;
        let mut set = SetTrap {
            child,
            output: BufReader::new(output),
        };
        match set.said()?.as_str() {
            ATTACHED => Ok(Some(set)),
            GONE => Ok(None),
            _ => bail!(
                "the tracer cannot attach to process {program}: ptrace must be allowed here \
                 (root, or kernel.yama.ptrace_scope=0)"
            ),
        }
    }

    /// The tracer's own work: waits under the program, and kills it at the call.
    ///
    /// # Errors
    /// When it cannot be traced.
    pub fn wait(self, program: u32) -> Result<()> {
        let program = Pid::from_raw(i32::try_from(program)?);
        let Some(mut tracer) = Tracer::attach(program)? else {
            say(GONE)?;
            return Ok(());
        };
        say(ATTACHED)?;
        if tracer.run(self)? {
            say(SPRUNG)?;
        }
        Ok(())
    }
}

/// A trap with the tracer that waits in it. Dropped, it lets the program go on.
#[derive(Debug)]
pub struct SetTrap {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl SetTrap {
    /// Whether the tracer has ended.
    pub fn is_over(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Whether it was the tracer that killed the program; to be asked when it is over.
    #[must_use]
    pub fn sprang(mut self) -> bool {
        self.said().is_ok_and(|said| said == SPRUNG)
    }

    fn said(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for SetTrap {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

struct Tracer {
    id: Pid,
    program: Program,
    /// Threads inside of a system call.
    inside: HashSet<Pid>,
    /// The thread inside of the deadly one.
    doomed: Option<Pid>,
}

impl Tracer {
    /// `None`: the program has ended.
    fn attach(id: Pid) -> Result<Option<Self>> {
        let mut seized = HashSet::new();
        // Threads may come while others are seized; from a seized one on, they come traced.
        loop {
            let before = seized.len();
            for thread in threads(id) {
                if !seized.contains(&thread) && seize(thread)? {
                    seized.insert(thread);
                }
            }
            if seized.len() == before {
                break;
            }
        }
        let program = match Program::open(id) {
            Ok(program) if !seized.is_empty() => program,
            _ => return Ok(None),
        };
        Ok(Some(Self {
            id,
            program,
            inside: HashSet::new(),
            doomed: None,
        }))
    }

    /// Goes from stop to stop. True when the trap has sprung, false when the program ended otherwise.
    fn run(&mut self, trap: Trap) -> Result<bool> {
        let mut left = trap.passed;
        let mut sprung = false;
        loop {
            match waitpid(None, Some(WaitPidFlag::__WALL)) {
                Err(Errno::ECHILD) => return Ok(sprung),
                Err(Errno::EINTR) => {}
                Err(error) => bail!("waitpid: {error}"),
                Ok(WaitStatus::PtraceSyscall(thread)) => {
                    if !sprung && self.is_deadly(thread, trap, &mut left) {
                        sprung = kill(self.id, Signal::SIGKILL).is_ok();
                        continue;
                    }
                    go_on(thread, None);
                }
                Ok(WaitStatus::PtraceEvent(thread, ..)) => go_on(thread, None),
                Ok(WaitStatus::Stopped(thread, signal)) => {
                    // SIGTRAP is the tracer's own, whatever the kernel wants to say with it.
                    go_on(
                        thread,
                        Some(signal).filter(|&signal| signal != Signal::SIGTRAP),
                    );
                }
                Ok(WaitStatus::Exited(thread, _) | WaitStatus::Signaled(thread, ..)) => {
                    self.inside.remove(&thread);
                }
                Ok(_) => {}
            }
        }
    }

    /// A thread stands at the beginning or the end of a call: is this where it ends?
    fn is_deadly(&mut self, thread: Pid, trap: Trap, left: &mut u32) -> bool {
        if self.inside.remove(&thread) {
            return self.doomed == Some(thread);
        }
        self.inside.insert(thread);
        let call = Call::of(&self.program, thread);
        if self.doomed.is_some() || !call.is_some_and(|call| trap.boundary.is(&call)) {
            return false;
        }
        if *left > 0 {
            *left -= 1;
            return false;
        }
        if trap.side == Side::After {
            self.doomed = Some(thread);
        }
        trap.side == Side::Before
    }
}

/// None when the process has ended.
fn threads(id: Pid) -> Vec<Pid> {
    let tasks = std::fs::read_dir(format!("/proc/{id}/task"));
    let names = tasks.into_iter().flatten().flatten();
    let numbers = names.filter_map(|task| task.file_name().to_str()?.parse().ok());
    numbers.map(Pid::from_raw).collect()
}

/// False when the thread is gone, or comes traced already.
fn seize(thread: Pid) -> Result<bool> {
    let options = ptrace::Options::PTRACE_O_TRACESYSGOOD | ptrace::Options::PTRACE_O_TRACECLONE;
    match ptrace::seize(thread, options).and_then(|()| ptrace::interrupt(thread)) {
        Ok(()) => Ok(true),
        Err(Errno::ESRCH) => Ok(false),
        Err(Errno::EPERM) => match Standing::of(thread) {
            // Its seized creator has handed it to us in the meantime.
            Standing::Ours => Ok(true),
            Standing::Ended => Ok(false),
            Standing::Foreign => bail!("ptrace of {thread}: not permitted"),
        },
        Err(error) => bail!("ptrace of {thread}: {error}"),
    }
}

/// What the kernel says of a thread that may not be seized.
enum Standing {
    Ended,
    Foreign,
    Ours,
}

impl Standing {
    fn of(thread: Pid) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        let state = field("State:").unwrap_or("X").trim();
        if state.starts_with(['X', 'Z']) {
            return Self::Ended;
        }
        match field("TracerPid:") {
            Some(number) if number.trim() == std::process::id().to_string() => Self::Ours,
            _ => Self::Foreign,
        }
    }
}

fn go_on(thread: Pid, signal: Option<Signal>) {
    // A thread that was killed while it stood needs no word.
    ptrace::syscall(thread, signal).ok();
}

fn say(word: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{word}")?;
    output.flush()
}
