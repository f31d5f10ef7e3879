//! What a process may still do after its start: the same walls for both programs, with different doors.
//!
//! [`confine`] puts Landlock (files, TCP ports) and seccomp (system calls) around the calling process, for good. It is
//! called once, after everything that needs more is done, and before any thread is started: neither of the two reaches a thread that is there
//! already. [`drop_privileges`] comes before it. Why these two, and what each of them cannot hold, stands in
//! docs/decisions/0011-sandbox.md; [`Probe`] tries the walls from inside.
//!
//! This module is the one place with `unsafe` code: system calls that no safe wrapper has (`kernel`, `probe`).

mod config;
mod filter;
mod kernel;
mod landlock;
mod paths;
mod privileges;
mod probe;
mod reach;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use config::{Enforcement, SandboxConfig};
pub use paths::{directories_of, resolver_files, system_libraries, time_zones, trust_roots};
pub use privileges::{Account, PrivilegeError, acting_as, drop_privileges, make_over};
pub use probe::{Attempt, Probe};
pub use reach::{check_readable, closed_above};

/// What a process needs still. Everything else is refused.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Directories, with all that is below them, and files that may be read. Those that do not exist are left out.
    pub read: Vec<PathBuf>,
    /// Directories whose content may be read and changed.
    pub write: Vec<PathBuf>,
    /// Ports that TCP may connect to. Nothing may be bound to a TCP port.
    pub connect: BTreeSet<u16>,
    /// Sockets that may be made. None: nor may one be connected, bound, or come from another process.
    pub sockets: BTreeSet<SocketKind>,
}

/// A kind of socket.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum SocketKind {
    /// TCP itself: not MPTCP, nor SCTP, which Landlock does not hold to ports.
    Tcp,
    /// UDP, for name look-ups. Landlock cannot hold it to ports.
    Udp,
    /// UDP that may also be bound to an address.
    UdpBound,
    /// Stream sockets to processes of this host.
    Unix,
}

/// What holds now, for `status` and the log.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct InForce {
    /// How much of it.
    pub state: State,
    /// What this kernel cannot do of what was wanted.
    #[serde(default)]
    pub missing: Vec<String>,
    /// The version of Landlock's interface that the kernel has; `None`: no Landlock.
    pub landlock_abi: Option<u32>,
    /// The user that the process runs as.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// How much of the sandbox holds.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Everything that a promise rests on.
    Enforced,
    /// As much as the kernel can (`enabled = "best-effort"`), which is not enough for every promise.
    Partial,
    /// Nothing (`enabled = false`).
    Off,
}

/// Why a process cannot be confined.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The kernel lacks what is needed.
    #[error(
        "the sandbox cannot be put up: this kernel lacks {}; use a newer kernel, or set sandbox.enabled = \"best-effort\" to run with what there is",
        .0.join(" and ")
    )]
    Lacking(Vec<String>),
    /// A thread would stay outside.
    #[error("the sandbox cannot be put up: {0} threads run already")]
    Threads(usize),
    /// The kernel refused.
    #[error("the sandbox cannot be put up: {0}")]
    Refused(String),
}

/// Confines the calling process, and all that it will start, for good.
///
/// # Errors
/// [`SandboxError`]. Where it comes after a part was put up, that part stays: do not go on.
pub fn confine(enforcement: Enforcement, rules: &Rules) -> Result<InForce, SandboxError> {
    if enforcement == Enforcement::Off {
        return Ok(in_force(State::Off, Vec::new(), None));
    }
    let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads > 1 {
        return Err(SandboxError::Threads(threads));
    }
    confine_thread(enforcement, rules)
}

/// Landlock and seccomp are a thread's; what it starts inherits them.
fn confine_thread(enforcement: Enforcement, rules: &Rules) -> Result<InForce, SandboxError> {
    let found = kernel::landlock_abi();
    let filters = filter::programs(rules).map_err(SandboxError::Refused)?;
    let mut lacking = kernel_lacks();
    if enforcement == Enforcement::Required && !lacking.is_empty() {
        return Err(SandboxError::Lacking(lacking));
    }
    landlock::restrict(rules, enforcement).map_err(SandboxError::Refused)?;
    if kernel::has_seccomp() {
        // Last: it refuses what Landlock is put up with no more than needed, and whoever adds to it must not stumble.
        filter::install(&filters).map_err(SandboxError::Refused)?;
    }
    let state = if lacking.is_empty() {
        State::Enforced
    } else {
        State::Partial
    };
    lacking.extend(landlock::absent_extras(found));
    Ok(in_force(state, lacking, found.ok()))
}

/// What this kernel lacks of what [`Enforcement::Required`] needs.
#[must_use]
pub fn kernel_lacks() -> Vec<String> {
    let mut lacking = landlock::lacking(kernel::landlock_abi());
    if !kernel::has_seccomp() {
        lacking.push("seccomp filters".to_owned());
    }
    lacking
}

fn in_force(state: State, missing: Vec<String>, landlock_abi: Option<u32>) -> InForce {
    InForce {
        state,
        missing,
        landlock_abi,
        uid: nix::unistd::geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
    }
}

impl fmt::Display for InForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.state {
            State::Enforced => f.write_str("enforced")?,
            State::Partial => f.write_str("best effort")?,
            State::Off => f.write_str("off")?,
        }
        if let Some(abi) = self.landlock_abi {
            write!(f, ", Landlock {abi}")?;
        }
        if !self.missing.is_empty() {
            write!(f, ", without {}", self.missing.join(", "))?;
        }
        write!(f, ", user {}", self.uid)
    }
}
