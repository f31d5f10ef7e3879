//! A captured program: system calls made by the very threads of a running process, whatever its own code does. It is what
//! somebody has who runs code in it, and no more.
//!
//! A thread that waits in a system call is stopped (ptrace), given other registers, and let over the instruction that it
//! came by; then it gets its own back, and notices nothing. Only x86-64 is known here.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::libc::{self, user_regs_struct};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::process::wait_until;

/// `syscall`.
const INSTRUCTION: [u8; 2] = [0x0f, 0x05];
/// Below it, a function that needs no frame may keep something (System V ABI, the red zone), and so may signal handlers.
const BELOW_THE_STACK: u64 = 16 * 1024;
/// How the kernel numbers errors in what a call returns.
const ERRORS: std::ops::RangeInclusive<i64> = -4095..=-1;

/// A thread of a running program, stopped.
#[derive(Debug)]
pub struct Thread {
    id: Pid,
    /// Its name, as the kernel has it.
    pub name: String,
    own: user_regs_struct,
    memory: fs::File,
    data: u64,
}

/// The threads that a process has just now.
#[must_use]
pub fn threads(process: u32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{process}/task"));
    let tasks = tasks.into_iter().flatten().flatten();
    let ids = tasks.filter_map(|task| task.file_name().to_str()?.parse().ok());
    ids.collect()
}

/// A line of `/proc/PROCESS/task/THREAD/status`; `None` where the thread has ended.
#[must_use]
pub fn status(process: u32, thread: i32, key: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{process}/task/{thread}/status")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    Some(
        line.unwrap_or_default()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" "),
    )
}

/// Acts in one thread, and lets it go on. `None` where it has ended.
///
/// # Panics
/// Where one process may not trace another, and where the thread never waits.
#[track_caller]
pub fn within<T>(process: u32, thread: i32, mut act: impl FnMut(&mut Thread) -> T) -> Option<T> {
    let mut done = None;
    wait_until("a thread waits in a system call", || {
        match Thread::stop(process, thread) {
            Ok(Some(mut stopped)) => {
                let result = act(&mut stopped);
                stopped.go_on();
                done = Some(Some(result));
            }
            // It is at work; the next moment will do.
            Ok(None) => {}
            Err(Errno::ESRCH) => done = Some(None),
            Err(error) => panic!("cannot trace thread {thread} of {process}: {error}"),
        }
        done.is_some()
    });
    done.flatten()
}

impl Thread {
    /// `None` while it does not wait in a system call.
    fn stop(process: u32, thread: i32) -> nix::Result<Option<Self>> {
        let id = Pid::from_raw(thread);
        ptrace::seize(id, ptrace::Options::empty())?;
        ptrace::interrupt(id)?;
        wait_for_stop(id)?;
        let own = ptrace::getregs(id)?;
        let failed = |error: io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
        let memory = fs::File::options()
            .read(true)
            .write(true)
            .open(format!("/proc/{process}/task/{thread}/mem"))
            .map_err(failed)?;
        let mut code = [0; 2];
        let before = own.rip.wrapping_sub(INSTRUCTION.len() as u64);
        let is_waiting = memory.read_exact_at(&mut code, before).is_ok() && code == INSTRUCTION;
        if !is_waiting {
            ptrace::detach(id, None)?;
            return Ok(None);
        }
        let name = fs::read_to_string(format!("/proc/{process}/task/{thread}/comm"));
        Ok(Some(Self {
            id,
            name: name.unwrap_or_default().trim_end().to_owned(),
            data: own.rsp - BELOW_THE_STACK,
            own,
            memory,
        }))
    }

    /// Makes a system call; the error, or what it returned.
    ///
    /// # Panics
    /// When the thread does not come back from it.
    #[track_caller]
    pub fn call(&mut self, number: libc::c_long, arguments: &[u64]) -> Result<i64, Errno> {
        let mut given = [0; 6];
        given[..arguments.len()].copy_from_slice(arguments);
        let [rdi, rsi, rdx, r10, r8, r9] = given;
        let registers = user_regs_struct {
            rip: self.own.rip - INSTRUCTION.len() as u64,
            rax: number as u64,
            // Else the kernel would begin the call anew that the thread waits in.
            orig_rax: u64::MAX,
            rdi,
            rsi,
            rdx,
            r10,
            r8,
            r9,
            ..self.own
        };
        ptrace::setregs(self.id, registers).expect("other registers");
        ptrace::step(self.id, None).expect("a step");
        // With anything else in between it would be somewhere else.
        let stopped = waitpid(self.id, Some(WaitPidFlag::__WALL)).expect("the thread comes back");
        let expected = WaitStatus::Stopped(self.id, Signal::SIGTRAP);
        assert_eq!(stopped, expected, "system call {number}");
        let answer = ptrace::getregs(self.id)
            .expect("registers")
            .rax
            .cast_signed();
        if ERRORS.contains(&answer) {
            return Err(Errno::from_raw(i32::try_from(-answer).expect("an error")));
        }
        Ok(answer)
    }

    /// Puts something where the thread can find it, below its stack; where that is.
    ///
    /// # Panics
    /// When its memory cannot be written.
    pub fn put(&mut self, data: &[u8]) -> u64 {
        let at = self.data;
        self.memory
            .write_all_at(data, at)
            .expect("memory below the stack");
        self.data += data.len().next_multiple_of(16) as u64;
        at
    }

    /// Opens a file, and closes it again.
    pub fn open(&mut self, path: &Path, flags: i32) -> Result<i64, Errno> {
        let mut text = path.as_os_str().as_encoded_bytes().to_vec();
        text.push(0);
        let text = self.put(&text);
        let directory = i64::from(libc::AT_FDCWD).cast_unsigned();
        let flags = u64::from(flags.cast_unsigned());
        self.made(libc::SYS_openat, &[directory, text, flags, 0o600])
    }

    /// Makes a socket, and closes it again.
    pub fn socket(&mut self, family: i32, kind: i32, protocol: i32) -> Result<i64, Errno> {
        let arguments = [family, kind, protocol].map(|number| u64::from(number.cast_unsigned()));
        self.made(libc::SYS_socket, &arguments)
    }

    /// Makes a descriptor, and closes it again.
    pub fn made(&mut self, number: libc::c_long, arguments: &[u64]) -> Result<i64, Errno> {
        let made = self.call(number, arguments)?;
        self.call(libc::SYS_close, &[made.cast_unsigned()])?;
        Ok(made)
    }

    fn go_on(self) {
        // Who ends in the meantime needs nothing back.
        let _ = ptrace::setregs(self.id, self.own);
        let _ = ptrace::detach(self.id, None);
    }
}

fn wait_for_stop(id: Pid) -> nix::Result<()> {
    loop {
        match waitpid(id, Some(WaitPidFlag::__WALL))? {
            WaitStatus::PtraceEvent(..) | WaitStatus::Stopped(_, Signal::SIGTRAP) => return Ok(()),
            // What comes in between is for the program.
            WaitStatus::Stopped(_, signal) => ptrace::cont(id, signal)?,
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => return Err(Errno::ESRCH),
            _ => {}
        }
    }
}
