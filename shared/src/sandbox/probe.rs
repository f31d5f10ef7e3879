//! The walls, tried from inside: what a captured process would try first.
//!
//! Each attempt is a real one where it does no harm to succeed, and else one that the kernel would answer with another
//! error if it looked at it: a refusal by the sandbox comes before that.

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::ptr;

use nix::libc;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType};
use serde::{Deserialize, Serialize};

use super::filter::X32;

/// What was tried, and what the kernel said.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Attempt {
    /// What was tried.
    pub attempt: String,
    /// Whether it was refused for want of a right.
    pub refused: bool,
    /// The kernel's answer: the name of an error, or `allowed`.
    pub answer: String,
}

/// Attempts, prepared before the sandbox is put up: a captured process has sockets, and would turn them.
#[derive(Debug)]
pub struct Probe {
    tcp: Option<OwnedFd>,
    listening: Option<OwnedFd>,
    outside: PathBuf,
}

impl Probe {
    /// Makes what a process may have from before. `outside` is a directory that the rules do not have among those to be written.
    #[must_use]
    pub fn prepare(outside: &Path) -> Self {
        let tcp = || {
            let flags = SockFlag::SOCK_CLOEXEC;
            socket::socket(AddressFamily::Inet, SockType::Stream, flags, None).ok()
        };
        Self {
            tcp: tcp(),
            listening: tcp(),
            outside: outside.to_owned(),
        }
    }

    /// Tries everything, in the process that calls.
    #[must_use]
    pub fn attempts(&self) -> Vec<Attempt> {
        let mut attempts = sockets();
        attempts.extend(self.turned_sockets());
        attempts.extend(processes());
        attempts.extend(self.files());
        attempts
    }

    /// Sockets that are there already.
    fn turned_sockets(&self) -> Vec<Attempt> {
        let mut attempts = Vec::new();
        if let Some(tcp) = &self.tcp {
            let to = loopback(9);
            attempts.push(tried(
                "connect a TCP socket from before",
                address(libc::SYS_connect, tcp, &to),
            ));
            attempts.push(tried("send with TCP Fast Open", fast_open(tcp, &to)));
        }
        if let Some(tcp) = &self.listening {
            let to = loopback(0);
            attempts.push(tried("bind a port", address(libc::SYS_bind, tcp, &to)));
            attempts.push(tried(
                "listen",
                call(libc::SYS_listen, [descriptor(tcp), 1, 0, 0, 0, 0]),
            ));
            attempts.push(tried(
                "receive a descriptor",
                call(
                    libc::SYS_recvmsg,
                    [descriptor(tcp), 0, libc::MSG_DONTWAIT.into(), 0, 0, 0],
                ),
            ));
        }
        attempts
    }

    fn files(&self) -> Vec<Attempt> {
        let shadow = File::open("/etc/shadow").map(drop);
        let path = self
            .outside
            .join(format!(".atrn-probe-{}", std::process::id()));
        let made = OpenOptions::new().write(true).create_new(true).open(&path);
        if made.is_ok() {
            let _ = std::fs::remove_file(&path);
        }
        vec![
            tried("read /etc/shadow", shadow),
            tried(
                &format!("write in {}", self.outside.display()),
                made.map(drop),
            ),
        ]
    }
}

/// Sockets of every family that leads out.
fn sockets() -> Vec<Attempt> {
    let socket = |family: libc::c_int, kind: libc::c_int, protocol: libc::c_int| {
        made(call(
            libc::SYS_socket,
            [family.into(), kind.into(), protocol.into(), 0, 0, 0],
        ))
    };
    let x32 = |number: libc::c_long| libc::c_long::from(X32) | number;
    let internet = [libc::AF_INET.into(), libc::SOCK_STREAM.into(), 0, 0, 0, 0];
    let (stream, datagram, raw) = (libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_RAW);
    vec![
        tried("TCP over IPv4", socket(libc::AF_INET, stream, 0)),
        tried("TCP over IPv6", socket(libc::AF_INET6, stream, 0)),
        tried("MPTCP", socket(libc::AF_INET, stream, libc::IPPROTO_MPTCP)),
        tried("SCTP", socket(libc::AF_INET, stream, libc::IPPROTO_SCTP)),
        tried("UDP over IPv4", socket(libc::AF_INET, datagram, 0)),
        tried("UDP over IPv6", socket(libc::AF_INET6, datagram, 0)),
        tried("ICMP", socket(libc::AF_INET, datagram, libc::IPPROTO_ICMP)),
        tried("raw IP", socket(libc::AF_INET, raw, libc::IPPROTO_RAW)),
        tried("packets", socket(libc::AF_PACKET, raw, 0)),
        tried("netlink", socket(libc::AF_NETLINK, raw, 0)),
        tried("vsock", socket(libc::AF_VSOCK, stream, 0)),
        tried("a Unix socket", socket(libc::AF_UNIX, stream, 0)),
        tried(
            "TCP by the x32 call",
            made(call(x32(libc::SYS_socket), internet)),
        ),
        tried("io_uring", made(io_uring())),
    ]
}

fn processes() -> Vec<Attempt> {
    vec![
        tried("start another program", exec()),
        tried("fork", fork()),
        tried(
            "clone into new name spaces",
            call(
                libc::SYS_unshare,
                [libc::CLONE_NEWUSER.into(), 0, 0, 0, 0, 0],
            ),
        ),
        tried("trace the parent", trace_parent()),
        tried("become root", call(libc::SYS_setuid, [0; 6])),
        tried("mount", call(libc::SYS_mount, [0; 6])),
        tried(
            "change the mode of a file",
            call(libc::SYS_fchmodat, [0; 6]),
        ),
        tried(
            "change the owner of a file",
            call(libc::SYS_fchownat, [0; 6]),
        ),
        tried(
            "load a BPF program",
            call(libc::SYS_bpf, [5, 0, 0, 0, 0, 0]),
        ),
        tried("load a kernel module", call(libc::SYS_init_module, [0; 6])),
    ]
}

fn io_uring() -> io::Result<libc::c_long> {
    // Larger than struct io_uring_params.
    let mut parameters = [0_u64; 32];
    call(
        libc::SYS_io_uring_setup,
        [1, parameters.as_mut_ptr() as libc::c_long, 0, 0, 0, 0],
    )
}

/// Of an empty path, which the kernel finds nowhere: a program that was started would take the place of this one.
fn exec() -> io::Result<libc::c_long> {
    let path: &CStr = c"";
    call(
        libc::SYS_execve,
        [path.as_ptr() as libc::c_long, 0, 0, 0, 0, 0],
    )
}

fn fork() -> io::Result<libc::c_long> {
    #[allow(unsafe_code, reason = "no safe wrapper has this call")]
    // SAFETY: the child ends at once, by a call that runs nothing of this process.
    let child = unsafe { libc::fork() };
    match child {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            #[allow(unsafe_code, reason = "no safe wrapper has this call")]
            // SAFETY: it takes a number and does not come back.
            unsafe {
                libc::_exit(0)
            }
        }
        child => {
            let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child), None);
            Ok(child.into())
        }
    }
}

/// By PTRACE_SEIZE, which does not stop it, and ends with this process.
fn trace_parent() -> io::Result<libc::c_long> {
    const PTRACE_SEIZE: libc::c_long = 0x4206;
    let parent = nix::unistd::getppid().as_raw();
    call(libc::SYS_ptrace, [PTRACE_SEIZE, parent.into(), 0, 0, 0, 0])
}

fn loopback(port: u16) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes([127, 0, 0, 1]),
        },
        sin_zero: [0; 8],
    }
}

fn address(
    number: libc::c_long,
    socket: &OwnedFd,
    to: &libc::sockaddr_in,
) -> io::Result<libc::c_long> {
    let size = size_of::<libc::sockaddr_in>() as libc::c_long;
    call(
        number,
        [
            descriptor(socket),
            ptr::from_ref(to) as libc::c_long,
            size,
            0,
            0,
            0,
        ],
    )
}

fn fast_open(socket: &OwnedFd, to: &libc::sockaddr_in) -> io::Result<libc::c_long> {
    let size = size_of::<libc::sockaddr_in>() as libc::c_long;
    let octet = [0_u8; 1];
    let flags = libc::MSG_FASTOPEN | libc::MSG_DONTWAIT;
    call(
        libc::SYS_sendto,
        [
            descriptor(socket),
            octet.as_ptr() as libc::c_long,
            1,
            flags.into(),
            ptr::from_ref(to) as libc::c_long,
            size,
        ],
    )
}

fn descriptor(socket: &OwnedFd) -> libc::c_long {
    socket.as_raw_fd().into()
}

/// A descriptor that came into being is closed.
fn made(answer: io::Result<libc::c_long>) -> io::Result<libc::c_long> {
    if let Ok(number) = answer
        && let Ok(number) = i32::try_from(number)
    {
        let _ = nix::unistd::close(number);
    }
    answer
}

fn tried<T>(attempt: &str, answer: io::Result<T>) -> Attempt {
    let error = answer.err();
    let number = error.as_ref().and_then(io::Error::raw_os_error);
    Attempt {
        attempt: attempt.to_owned(),
        refused: matches!(number, Some(libc::EPERM | libc::EACCES)),
        answer: match number.map(nix::errno::Errno::from_raw) {
            None => "allowed".to_owned(),
            Some(number) => format!("{number:?} ({})", number.desc()),
        },
    }
}

/// A system call by its number: what a captured process would do, whatever its libraries have.
fn call(number: libc::c_long, arguments: [libc::c_long; 6]) -> io::Result<libc::c_long> {
    let [a, b, c, d, e, f] = arguments;
    #[allow(unsafe_code, reason = "no safe wrapper has this call")]
    // SAFETY: every caller in this file passes numbers, null, or pointers to values of its own that live until the call is back, of the size that
    // the call reads or writes; none of the calls that are made keeps a pointer, or changes memory that it was not given.
    let answer = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    match answer {
        -1 => Err(io::Error::last_os_error()),
        answer => Ok(answer),
    }
}
