//! What is tried from a thread, and what the kernel has to say to it.

use std::path::{Path, PathBuf};

use atrn_tests::intruder::Thread;
use nix::errno::Errno;
use nix::libc::{
    AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_UNIX, IPPROTO_MPTCP, IPPROTO_RAW, IPPROTO_SCTP,
    IPPROTO_TCP, MSG_FASTOPEN, O_CREAT, O_RDONLY, O_WRONLY, SIGCHLD, SOCK_DGRAM, SOCK_RAW,
    SOCK_STREAM, SYS_bind, SYS_clone, SYS_clone3, SYS_connect, SYS_execve, SYS_io_uring_setup,
    SYS_listen, SYS_ptrace, SYS_recvmsg, SYS_sendmsg, SYS_sendto, SYS_setuid, SYS_socket,
    SYS_unshare,
};

/// What was tried, and what came of it.
pub(crate) type Tried = (&'static str, Result<i64, Errno>);

/// The number that the x32 calls of x86-64 begin with.
const X32: i64 = 0x4000_0000;

/// Sockets of every kind that leads out.
pub(crate) fn sockets(thread: &mut Thread) -> Vec<Tried> {
    let stream = u64::from(SOCK_STREAM.cast_unsigned());
    let internet = u64::from(AF_INET.cast_unsigned());
    // What is above the 32 bits of an int is nothing to the kernel.
    let with_high_bits = internet | 1 << 40;
    let parameters = |thread: &mut Thread| thread.put(&[0; 120]);
    vec![
        ("TCP", thread.socket(AF_INET, SOCK_STREAM, 0)),
        (
            "TCP by name",
            thread.socket(AF_INET, SOCK_STREAM, IPPROTO_TCP),
        ),
        ("TCP over IPv6", thread.socket(AF_INET6, SOCK_STREAM, 0)),
        (
            "TCP with other high bits",
            thread.made(SYS_socket, &[with_high_bits, stream]),
        ),
        (
            "TCP by the x32 call",
            thread.made(X32 | SYS_socket, &[internet, stream]),
        ),
        ("MPTCP", thread.socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP)),
        ("SCTP", thread.socket(AF_INET, SOCK_STREAM, IPPROTO_SCTP)),
        ("UDP", thread.socket(AF_INET, SOCK_DGRAM, 0)),
        ("UDP over IPv6", thread.socket(AF_INET6, SOCK_DGRAM, 0)),
        ("raw IP", thread.socket(AF_INET, SOCK_RAW, IPPROTO_RAW)),
        ("packets", thread.socket(AF_PACKET, SOCK_RAW, 0)),
        ("netlink", thread.socket(AF_NETLINK, SOCK_RAW, 0)),
        ("Unix", thread.socket(AF_UNIX, SOCK_STREAM, 0)),
        ("io_uring", {
            let parameters = parameters(thread);
            thread.made(SYS_io_uring_setup, &[1, parameters])
        }),
    ]
}

/// A socket that is there already, in other uses than its own.
pub(crate) fn turned(thread: &mut Thread, socket: u64) -> Vec<Tried> {
    let address = loopback(thread, 9);
    let octet = thread.put(&[0]);
    let to_somebody = thread.call(SYS_sendto, &[socket, octet, 1, 0, address, 16]);
    let mut tried = vec![
        ("connect", thread.call(SYS_connect, &[socket, address, 16])),
        ("send to somebody", to_somebody),
        ("sendmsg", thread.call(SYS_sendmsg, &[socket, 0, 0])),
        ("recvmsg", thread.call(SYS_recvmsg, &[socket, 0, 0])),
    ];
    tried.extend(turned_to_serve(thread, socket));
    tried
}

/// A socket that may be connected, in other ways than that one.
pub(crate) fn turned_to_serve(thread: &mut Thread, socket: u64) -> Vec<Tried> {
    let address = loopback(thread, 9);
    let octet = thread.put(&[0]);
    let fast_open = u64::from(MSG_FASTOPEN.cast_unsigned());
    let arguments = [socket, octet, 1, fast_open, address, 16];
    vec![
        ("TCP Fast Open", thread.call(SYS_sendto, &arguments)),
        ("bind", thread.call(SYS_bind, &[socket, address, 16])),
        ("listen", thread.call(SYS_listen, &[socket, 1])),
    ]
}

/// Other programs, other processes, other users.
pub(crate) fn processes(thread: &mut Thread) -> Vec<Tried> {
    let empty = thread.put(&[0]);
    let flags = u64::from(SIGCHLD.cast_unsigned());
    vec![
        ("execve", thread.call(SYS_execve, &[empty, 0, 0])),
        ("fork", thread.call(SYS_clone, &[flags])),
        ("ptrace", thread.call(SYS_ptrace, &[0x4206, 1])),
        ("setuid", thread.call(SYS_setuid, &[0])),
        ("unshare", thread.call(SYS_unshare, &[0])),
    ]
}

/// How the C library is told to start threads in another way.
pub(crate) fn clone3(thread: &mut Thread) -> Result<i64, Errno> {
    thread.call(SYS_clone3, &[0, 0])
}

/// Files that are none of a confined program's.
pub(crate) fn files(thread: &mut Thread, outside: &Path) -> Vec<Tried> {
    let new = outside.join("written-by-an-intruder");
    vec![
        // For all to read: only Landlock stands before it.
        (
            "read /etc/passwd",
            thread.open(&PathBuf::from("/etc/passwd"), O_RDONLY),
        ),
        (
            "read /etc/shadow",
            thread.open(&PathBuf::from("/etc/shadow"), O_RDONLY),
        ),
        (
            "read another process",
            thread.open(&PathBuf::from("/proc/1/status"), O_RDONLY),
        ),
        ("write outside", thread.open(&new, O_WRONLY | O_CREAT)),
    ]
}

/// 127.0.0.1, in the memory of the program.
pub(crate) fn loopback(thread: &mut Thread, port: u16) -> u64 {
    let [high, low] = port.to_be_bytes();
    let family = u8::try_from(AF_INET).expect("a small number");
    thread.put(&[family, 0, high, low, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0])
}

/// Everything was answered so.
#[track_caller]
pub(crate) fn assert_all(thread: &Thread, tried: &[Tried], expected: Errno) {
    for (attempt, answer) in tried {
        assert_eq!(
            *answer,
            Err(expected),
            "{attempt} in the thread {}",
            thread.name
        );
    }
}
