//! System calls that no safe wrapper has, and what the kernel can do.

use std::fmt;
use std::io;
use std::ptr;

use nix::libc;

/// Why there is no Landlock.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum NoLandlock {
    NotBuilt,
    SwitchedOff,
}

impl fmt::Display for NoLandlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotBuilt => "Landlock (it is not built in)",
            Self::SwitchedOff => "Landlock (it is switched off; add \"landlock\" to lsm= on the kernel's command line)",
        })
    }
}

/// The version of Landlock's interface.
pub(super) fn landlock_abi() -> Result<u32, NoLandlock> {
    const VERSION: libc::c_uint = 1;
    #[allow(unsafe_code, reason = "no safe wrapper has this call")]
    // SAFETY: with a null pointer, no size and this flag the call reads nothing, and gives a number.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            ptr::null::<u8>(),
            0,
            VERSION,
        )
    };
    if answer < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EOPNOTSUPP) {
        return Err(NoLandlock::SwitchedOff);
    }
    u32::try_from(answer).map_err(|_| NoLandlock::NotBuilt)
}

/// Whether system calls can be filtered.
pub(super) fn has_seccomp() -> bool {
    #[allow(unsafe_code, reason = "no safe wrapper has this call")]
    // SAFETY: the program is a null pointer, which the kernel answers with EFAULT where it knows filters.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            ptr::null::<u8>(),
        )
    };
    answer < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}

/// A capability of capabilities(7).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Capability(pub(super) u32);

/// As the kernel has them: a bit for each.
pub(super) fn set_of(capabilities: &[Capability]) -> u64 {
    capabilities
        .iter()
        .fold(0, |all, Capability(number)| all | 1_u64 << number)
}

/// Keeps these of the capabilities that the process has, and loses all others.
pub(super) fn keep_capabilities(kept: &[Capability]) -> io::Result<()> {
    let (permitted, _) = capabilities()?;
    set_capabilities(permitted & set_of(kept))
}

/// The capabilities that the process may use, and those that it uses.
pub(super) fn capabilities() -> io::Result<(u64, u64)> {
    let mut header = CapabilityHeader::own();
    let mut sets = [CapabilitySets::default(); 2];
    #[allow(unsafe_code, reason = "no safe wrapper has this call")]
    // SAFETY: version 3 of the header makes the kernel write two of these sets, which is what there is room for.
    let answer = unsafe { libc::syscall(libc::SYS_capget, &mut header, sets.as_mut_ptr()) };
    checked(answer)?;
    let joined = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    Ok((
        joined(sets[0].permitted, sets[1].permitted),
        joined(sets[0].effective, sets[1].effective),
    ))
}

fn set_capabilities(wanted: u64) -> io::Result<()> {
    let mut header = CapabilityHeader::own();
    let half = |bits: u64| CapabilitySets {
        effective: bits as u32,
        permitted: bits as u32,
        inheritable: 0,
    };
    let sets = [half(wanted & u64::from(u32::MAX)), half(wanted >> 32)];
    #[allow(unsafe_code, reason = "no safe wrapper has this call")]
    // SAFETY: version 3 of the header makes the kernel read two of these sets, which is what there is.
    let answer = unsafe { libc::syscall(libc::SYS_capset, &mut header, sets.as_ptr()) };
    checked(answer)
}

/// What no program that is started can have either. Only root can say so, while it is root; for others nothing is lost, as
/// nothing is ever started.
pub(super) fn bound_capabilities(kept: &[Capability]) {
    let wanted = set_of(kept);
    for number in (0..64_u32).filter(|number| wanted & 1 << number == 0) {
        #[allow(unsafe_code, reason = "no safe wrapper has this call")]
        // SAFETY: this takes numbers only, and numbers that the kernel does not know are refused.
        let answer =
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0) };
        if answer != 0 {
            return;
        }
    }
}

fn checked(answer: libc::c_long) -> io::Result<()> {
    match answer {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `struct __user_cap_header_struct` of capget(2).
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

impl CapabilityHeader {
    fn own() -> Self {
        Self {
            version: 0x2008_0522,
            pid: 0,
        }
    }
}

/// `struct __user_cap_data_struct` of capget(2).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilitySets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}
