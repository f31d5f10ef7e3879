//! The resolver child itself: what it may do, what happens when it dies, and with whom.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use atrn_tests::dns::Dns;
use atrn_tests::intruder;
use atrn_tests::process::wait_until;
use atrn_tests::world::World;
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{CLIENT, health, hello, hello_from, received_from, setup};

/// A process, as /proc shows it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Shown(u32);

impl Shown {
    fn path(self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.0))
    }

    /// A line of its status.
    fn status(self, key: &str) -> String {
        let status = fs::read_to_string(self.path("status")).unwrap_or_default();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{key}:")));
        line.unwrap_or_default().trim().to_owned()
    }

    fn is_there(self) -> bool {
        !matches!(self.status("State").chars().next(), None | Some('Z' | 'X'))
    }

    fn kill(self) {
        let pid = i32::try_from(self.0).expect("a process id");
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("a process of ours");
    }
}

/// The living children of a process.
fn children(parent: u32) -> Vec<Shown> {
    let processes = fs::read_dir("/proc").expect("/proc");
    let ids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let of_parent = |process: &Shown| process.status("PPid") == parent.to_string();
    ids.map(Shown)
        .filter(of_parent)
        .filter(|process| process.is_there())
        .collect()
}

#[track_caller]
fn guardian(world: &World) -> Shown {
    let [guardian] = children(world.relay.id())[..] else {
        panic!("one child of the relay")
    };
    guardian
}

#[track_caller]
fn resolver(world: &World) -> Shown {
    let guardian = guardian(world);
    let mut found = None;
    wait_until("a resolver", || {
        found = children(guardian.0).first().copied();
        found.is_some_and(|resolver| resolver.status("Name") == "atrn-resolver")
    });
    found.expect("a resolver")
}

/// A name server that knows clients of 192.0.5.0/24.
fn dns() -> Dns {
    let dns = Dns::start();
    for number in 1..=9 {
        let (address, name) = (format!("192.0.5.{number}"), format!("host{number}.example"));
        dns.ptr(&address, &name);
        dns.a(&name, &address);
    }
    dns
}

#[track_caller]
fn is_verified(world: &World, number: u8) -> bool {
    let name = format!("host{number}.example");
    let mut peer = hello_from(world, &format!("192.0.5.{number}"), &name);
    let received = received_from(world, &mut peer);
    received.ends_with(&format!("({name} [192.0.5.{number}])"))
}

#[test]
fn the_kernel_holds_the_resolver() {
    let dns = dns();
    let world = setup(&dns).start();
    assert!(is_verified(&world, 1));
    let (guardian, resolver) = (guardian(&world), resolver(&world));
    // It has a filter on its system calls and can get no more rights.
    assert_eq!(resolver.status("Seccomp"), "2");
    assert_eq!(resolver.status("NoNewPrivs"), "1");
    assert_eq!(resolver.status("Threads"), "1");
    for process in [guardian, resolver] {
        // No more than an ordinary user, whoever started the relay.
        for set in ["CapPrm", "CapEff", "CapInh"] {
            assert_eq!(process.status(set), "0000000000000000", "{set}");
        }
        if nix::unistd::geteuid().is_root() {
            let ids: Vec<_> = process
                .status("Uid")
                .split_whitespace()
                .map(str::to_owned)
                .collect();
            assert!(ids.iter().all(|id| id != "0"), "{ids:?}");
        }
    }
}

/// As somebody would try who runs code in it.
#[cfg(target_arch = "x86_64")]
#[test]
fn a_captured_resolver_reaches_name_servers_and_nothing_else() {
    if !nix::unistd::geteuid().is_root() {
        let required = std::env::var("ATRN_REQUIRE_INTEROP").is_ok_and(|value| value == "1");
        assert!(!required, "this test is for root (ATRN_REQUIRE_INTEROP=1)");
        eprintln!("SKIPPED: only root can get into the resolver");
        return;
    }
    let dns = dns();
    let world = setup(&dns).start();
    assert!(is_verified(&world, 1));
    let resolver = resolver(&world);
    let thread = i32::try_from(resolver.0).expect("a process id");
    let tried = intruder::within(resolver.0, thread, |thread| {
        for file in [
            world.relay.data_folder().join("queue.db").as_path(),
            world.relay.config(),
            Path::new("/etc/passwd"),
            Path::new("/etc/resolv.conf"),
        ] {
            assert_eq!(
                thread.open(file, libc::O_RDONLY),
                Err(Errno::EACCES),
                "{}",
                file.display()
            );
        }
        let file = Path::new("/tmp/atrn-captured");
        let flags = libc::O_CREAT | libc::O_WRONLY;
        assert_eq!(thread.open(file, flags), Err(Errno::EACCES));

        let (stream, datagram) = (libc::SOCK_STREAM, libc::SOCK_DGRAM);
        for (family, kind, protocol) in [
            (libc::AF_INET, datagram, 0),
            (libc::AF_INET6, datagram, 0),
            (libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_TCP),
            (libc::AF_INET, stream, libc::IPPROTO_MPTCP),
            (libc::AF_INET, stream, libc::IPPROTO_SCTP),
            (libc::AF_UNIX, stream, 0),
            (libc::AF_PACKET, libc::SOCK_RAW, 0),
        ] {
            let made = thread.socket(family, kind, protocol);
            assert_eq!(made, Err(Errno::EPERM), "{family} {kind} {protocol}");
        }
        assert_eq!(
            connect(thread, world.relay.smtp_address()),
            Err(Errno::EACCES)
        );
        assert_eq!(
            connect(thread, world.relay.odmr_address()),
            Err(Errno::EACCES)
        );
        assert_eq!(connect(thread, dns.address()), Ok(0));

        // Nor can it start anything.
        let flags = u64::from(libc::SIGCHLD.cast_unsigned());
        assert_eq!(thread.call(libc::SYS_clone, &[flags]), Err(Errno::EPERM));
        let program = thread.put(b"/bin/true\0");
        assert_eq!(thread.call(libc::SYS_execve, &[program]), Err(Errno::EPERM));
    });
    assert!(tried.is_some(), "the resolver has ended");
    // It was none the worse for it.
    assert!(is_verified(&world, 2));
}

/// Connects a socket of TCP from within, and closes it again.
#[cfg(target_arch = "x86_64")]
fn connect(thread: &mut intruder::Thread, address: SocketAddr) -> Result<i64, Errno> {
    let SocketAddr::V4(address) = address else {
        panic!("the tests are on 127.0.0.1")
    };
    let family = u64::from(libc::AF_INET.cast_unsigned());
    let kind = u64::from(libc::SOCK_STREAM.cast_unsigned());
    let socket = thread.call(libc::SYS_socket, &[family, kind, 0])?;
    let mut octets = vec![2, 0];
    octets.extend(address.port().to_be_bytes());
    octets.extend(address.ip().octets());
    octets.extend([0; 8]);
    let length = octets.len() as u64;
    let at = thread.put(&octets);
    let socket = socket.cast_unsigned();
    let connected = thread.call(libc::SYS_connect, &[socket, at, length]);
    thread.call(libc::SYS_close, &[socket])?;
    connected
}

#[test]
fn the_resolver_has_nothing_of_the_relay() {
    let dns = dns();
    let mut world = setup(&dns).start();
    world.relay.stop();
    world
        .relay
        .set_environment(vec![("ATRN_SECRET".to_owned(), "hush".to_owned())]);
    world.relay.start();
    assert!(is_verified(&world, 1));
    for process in [guardian(&world), resolver(&world)] {
        let environment = fs::read(process.path("environ")).expect("its environment");
        assert!(environment.is_empty());
        let descriptors = fs::read_dir(process.path("fd")).expect("its descriptors");
        let targets = descriptors.map(|entry| {
            let entry = entry.expect("a descriptor");
            fs::read_link(entry.path()).unwrap_or_default()
        });
        for target in targets {
            let target = target.display().to_string();
            let is_known = target.starts_with("socket:")
                || target.starts_with("anon_inode:")
                || target == "/dev/null";
            assert!(is_known, "{target}");
        }
    }
}

#[test]
fn a_resolver_that_dies_comes_back_and_mail_goes_on() {
    let dns = dns();
    let world = setup(&dns).start();
    assert!(is_verified(&world, 1));
    let first = resolver(&world);
    first.kill();
    // No names, perhaps, but mail.
    received_from(&world, &mut hello(&world, CLIENT));
    wait_until("names again", || {
        [2, 3, 4]
            .into_iter()
            .any(|number| is_verified(&world, number))
    });
    assert_ne!(resolver(&world), first);
    assert_eq!(health(&world)["restarts"], 1);
    assert!(world.relay.log().contains("the resolver ended"));
}

#[test]
fn without_its_guardian_there_are_no_names_but_mail() {
    let dns = dns();
    let world = setup(&dns).start();
    assert!(is_verified(&world, 1));
    let (guardian, resolver) = (guardian(&world), resolver(&world));
    guardian.kill();
    wait_until("the end of the resolver", || !resolver.is_there());
    wait_until("status to know", || health(&world)["state"] == "gone");
    assert!(!is_verified(&world, 2));
    let screen = world.relay.cli(&["status"]).expect_code(0).stdout;
    assert!(screen.contains("start the relay again"), "{screen}");
}

#[test]
fn nobody_is_left_when_the_relay_ends() {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let dns = dns();
        let mut world = setup(&dns).start();
        assert!(is_verified(&world, 1));
        let (guardian, resolver) = (guardian(&world), resolver(&world));
        // To the relay alone, not to its group as a service manager would.
        let relay = Shown(world.relay.id());
        let pid = i32::try_from(relay.0).expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("a process of ours");
        wait_until("the end of both", || {
            !guardian.is_there() && !resolver.is_there()
        });
        world.relay.kill();
    }
}

#[test]
fn names_are_there_until_the_relay_is_gone() {
    let dns = dns();
    let world = setup(&dns).start();
    assert!(is_verified(&world, 1));
    let (guardian, resolver) = (guardian(&world), resolver(&world));
    // As a terminal or a service manager does to every process at once.
    for process in [guardian, resolver] {
        let pid = i32::try_from(process.0).expect("a process id");
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            kill(Pid::from_raw(pid), signal).expect("a process of ours");
        }
    }
    assert!(is_verified(&world, 2));
    assert_eq!(health(&world)["restarts"], 0);
}

#[test]
fn nobody_else_can_start_a_resolver() {
    let world = World::start();
    let output = world
        .relay
        .cli(&["resolver", "child", "tcp", "5000", "off", "same"]);
    assert_ne!(output.code, 0);
    let output = world.relay.cli(&["resolver"]);
    assert!(
        output.stderr.contains("atrn-relay run"),
        "{}",
        output.stderr
    );
}
