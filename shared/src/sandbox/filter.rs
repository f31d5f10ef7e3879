//! System calls, by seccomp.
//!
//! A list of what is refused, with EPERM, and not of what is allowed: what the programs use is chosen by their libraries
//! and differs between their versions, and a call that was forgotten would end them one day, while what gives an attacker something is known and
//! changes with kernels, not with libraries. New kernels bring new calls: those are not refused until they stand here.
//! docs/decisions/0011-sandbox.md has more on it.
//!
//! Arguments are compared with the width that the kernel reads. What is an `int` there may have anything in its upper half.

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq, Ne};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule, apply_filter,
    sock_filter,
};

use super::{Rules, SocketKind};

/// System calls with the cases in which they are refused; without any: always.
type Refused = BTreeMap<libc::c_long, Vec<SeccompRule>>;
type Conditions = Vec<SeccompCondition>;

/// Filters for the calling thread, to be installed all: the kernel takes the strictest answer.
pub(super) fn programs(rules: &Rules) -> Result<Vec<BpfProgram>, String> {
    let failed = |error| format!("seccomp: {error}");
    let mut refused: Refused = NEVER.iter().map(|call| (*call, Vec::new())).collect();
    refuse_processes(&mut refused).map_err(failed)?;
    refuse_sockets(&mut refused, rules).map_err(failed)?;
    let architecture = std::env::consts::ARCH.try_into().map_err(failed)?;
    // A call of another architecture has other numbers. It ends the process: nobody makes one by accident.
    let filter = SeccompFilter::new(
        refused,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        architecture,
    );
    let filter = filter.and_then(BpfProgram::try_from).map_err(failed)?;
    Ok(vec![numbers(), filter])
}

/// Confines the calling thread.
pub(super) fn install(programs: &[BpfProgram]) -> Result<(), String> {
    programs
        .iter()
        .try_for_each(|program| apply_filter(program))
        .map_err(|error| format!("seccomp: {error}"))
}

/// What only the number of a call tells, and what has another answer than EPERM.
///
/// The x32 calls of x86-64 come with bit 30 set, so that a list of numbers does not know them. `clone3` takes its flags
/// from memory, which a filter cannot read: with ENOSYS the C library falls back to `clone`, whose flags can be looked at.
fn numbers() -> BpfProgram {
    const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const IF_NOT_BELOW: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
    const ANSWER: u16 = 0x06; // BPF_RET | BPF_K
    /// Where `struct seccomp_data` has the number.
    const NUMBER: u32 = 0;
    let line = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    let error = |number: libc::c_int| libc::SECCOMP_RET_ERRNO | number as u32;
    vec![
        line(LOAD, 0, 0, NUMBER),
        line(IF_NOT_BELOW, 2, 0, X32),
        line(IF_EQUAL, 2, 0, libc::SYS_clone3 as u32),
        line(ANSWER, 0, 0, libc::SECCOMP_RET_ALLOW),
        line(ANSWER, 0, 0, error(libc::EPERM)),
        line(ANSWER, 0, 0, error(libc::ENOSYS)),
    ]
}

/// Threads are started with `clone`, and processes too.
fn refuse_processes(refused: &mut Refused) -> Result<(), seccompiler::BackendError> {
    let no_thread = when(0, MaskedEq(libc::CLONE_THREAD as u64), 0)?;
    refused.insert(libc::SYS_clone, vec![SeccompRule::new(vec![no_thread])?]);
    // Characters pushed into the terminal that we were started from would be run by its shell.
    let pushes = [libc::TIOCSTI, libc::TIOCLINUX].map(|request| {
        when(1, Eq, request).and_then(|condition| SeccompRule::new(vec![condition]))
    });
    let pushes: Result<Vec<_>, _> = pushes.into_iter().collect();
    refused.insert(libc::SYS_ioctl, pushes?);
    Ok(())
}

fn refuse_sockets(refused: &mut Refused, rules: &Rules) -> Result<(), seccompiler::BackendError> {
    let has = |kind| rules.sockets.contains(&kind);
    refused.insert(
        libc::SYS_socketpair,
        any(vec![vec![when(0, Ne, libc::AF_UNIX as u64)?]])?,
    );
    refused.insert(libc::SYS_listen, Vec::new());
    if !has(SocketKind::UdpBound) {
        refused.insert(libc::SYS_bind, Vec::new());
    }
    if rules.sockets.is_empty() {
        // Messages can carry a descriptor from another process, and be sent to where nobody connected to.
        for call in [
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_sendmsg,
            libc::SYS_sendmmsg,
            libc::SYS_recvmsg,
            libc::SYS_recvmmsg,
        ] {
            refused.insert(call, Vec::new());
        }
        let to_somebody = SeccompCondition::new(4, Qword, Ne, 0)?;
        refused.insert(
            libc::SYS_sendto,
            any(vec![vec![fast_open(3)?], vec![to_somebody]])?,
        );
        return Ok(());
    }
    refused.insert(libc::SYS_socket, any(other_sockets(rules)?)?);
    for (call, flags) in [
        (libc::SYS_sendto, 3),
        (libc::SYS_sendmsg, 2),
        (libc::SYS_sendmmsg, 3),
    ] {
        refused.insert(call, any(vec![vec![fast_open(flags)?]])?);
    }
    Ok(())
}

/// TCP Fast Open connects a socket with a call that Landlock does not look at.
fn fast_open(flags: u8) -> Result<SeccompCondition, seccompiler::BackendError> {
    let flag = libc::MSG_FASTOPEN as u64;
    when(flags, MaskedEq(flag), flag)
}

/// The arguments of `socket` that none of the kinds has: of another family, of another type, of another protocol.
fn other_sockets(rules: &Rules) -> Result<Vec<Conditions>, seccompiler::BackendError> {
    const KIND: u64 = 0xf; // SOCK_TYPE_MASK; above it are SOCK_CLOEXEC and SOCK_NONBLOCK.
    let has = |kind| rules.sockets.contains(&kind);
    let (tcp, unix) = (has(SocketKind::Tcp), has(SocketKind::Unix));
    let udp = has(SocketKind::Udp) || has(SocketKind::UdpBound);
    let internet = [libc::AF_INET, libc::AF_INET6].map(|family| family as u64);
    let mut families = Vec::new();
    families.extend((tcp || udp).then_some(internet).into_iter().flatten());
    families.extend(unix.then_some(libc::AF_UNIX as u64));
    let other_family = families.iter().map(|family| when(0, Ne, *family));
    let mut cases = vec![other_family.collect::<Result<Conditions, _>>()?];
    let (stream, datagram) = (libc::SOCK_STREAM as u64, libc::SOCK_DGRAM as u64);
    for kind in (0..=KIND).filter(|kind| *kind != stream && !(udp && *kind == datagram)) {
        cases.push(vec![when(1, MaskedEq(KIND), kind)?]);
    }
    for family in internet {
        if !tcp {
            cases.push(vec![when(0, Eq, family)?, when(1, MaskedEq(KIND), stream)?]);
        }
        for (kind, protocol) in [(stream, libc::IPPROTO_TCP), (datagram, libc::IPPROTO_UDP)] {
            cases.push(vec![
                when(0, Eq, family)?,
                when(1, MaskedEq(KIND), kind)?,
                when(2, Ne, 0)?,
                when(2, Ne, protocol as u64)?,
            ]);
        }
    }
    Ok(cases)
}

/// A condition on an `int`.
fn when(
    argument: u8,
    operator: seccompiler::SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, Dword, operator, value)
}

/// A call is refused in any of these cases.
fn any(cases: Vec<Conditions>) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    cases.into_iter().map(SeccompRule::new).collect()
}

/// Numbers from here on are those of x32, and those that are no number at all.
pub(super) const X32: u32 = 0x4000_0000;

// Newer calls have the same number on every architecture.
const FCHMODAT2: libc::c_long = 452;
const SETXATTRAT: libc::c_long = 463;
const REMOVEXATTRAT: libc::c_long = 466;
const OPEN_TREE_ATTR: libc::c_long = 467;
const FILE_SETATTR: libc::c_long = 469;

/// What neither program ever needs, whatever its arguments.
const NEVER: &[libc::c_long] = &[
    // Rings of requests that no filter sees.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // Other programs, and other processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_personality,
    libc::SYS_shmget,
    libc::SYS_msgget,
    libc::SYS_semget,
    libc::SYS_mq_open,
    // Other users. All of this was done before.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    // Name spaces and mounts.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    // Files without a path, and files that are none.
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_mknodat,
    libc::SYS_fanotify_init,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    // Rights on files by their paths, which Landlock does not hold. By a descriptor it has been asked before: SQLite does so.
    libc::SYS_fchmodat,
    FCHMODAT2,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    SETXATTRAT,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    REMOVEXATTRAT,
    OPEN_TREE_ATTR,
    FILE_SETATTR,
    libc::SYS_utimensat,
    // The kernel's insides.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mknod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utime,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utimes,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_futimesat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
];
