//! Every thread of the running programs, one by one: what the kernel says of it, and what it says to it.

use std::collections::BTreeSet;
use std::fs;

use atrn_tests::inside::Inside;
use atrn_tests::intruder::{status, threads, within};
use atrn_tests::message::{self, Message};
use atrn_tests::process::wait_until;
use atrn_tests::sender;
use atrn_tests::world::World;
use nix::errno::Errno;
use nix::libc::{
    AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_UNIX, IPPROTO_MPTCP, IPPROTO_SCTP, O_RDONLY,
    SOCK_DGRAM, SOCK_RAW, SOCK_STREAM, SYS_connect, SYS_getpid, SYS_socket,
};

use crate::attempts::{
    assert_all, clone3, files, loopback, processes, sockets, turned, turned_to_serve,
};
use crate::{NOBODY, Stage, is_root};

/// The descriptor of the listener for mail.
fn listener(process: u32) -> u64 {
    let folder = format!("/proc/{process}/fd");
    let entries = fs::read_dir(folder).expect("the descriptors of the relay");
    let sockets = entries.flatten().filter(|entry| {
        fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
    });
    let numbers = sockets.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.min().expect("a socket")
}

/// What stands in /proc of each thread, and what each is told when it tries.
fn assert_threads_confined(stage: &Stage) {
    let process = stage.relay.id();
    sender::send(
        stage.relay.smtp_address(),
        &[Message::new("ann@example.org", message::plain(1))],
    );
    let socket = listener(process);
    let outside = tempfile::tempdir().expect("a folder");
    fs::set_permissions(
        outside.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o777),
    )
    .expect("a folder for all");
    let mut names = BTreeSet::new();
    for thread in threads(process) {
        for (key, expected) in [
            ("Seccomp", "2"),
            ("NoNewPrivs", "1"),
            ("Seccomp_filters", "2"),
        ] {
            if let Some(found) = status(process, thread, key) {
                assert_eq!(found, expected, "{key} of thread {thread}");
            }
        }
        let name = within(process, thread, |thread| {
            // The way in is sound: what is allowed works.
            let id = thread.call(SYS_getpid, &[]);
            assert_eq!(id, Ok(i64::from(process)), "{}", thread.name);
            assert!(
                thread.open(stage.relay.config(), O_RDONLY).is_ok(),
                "{}",
                thread.name
            );
            for tried in [sockets(thread), turned(thread, socket), processes(thread)] {
                assert_all(thread, &tried, Errno::EPERM);
            }
            assert_eq!(clone3(thread), Err(Errno::ENOSYS), "{}", thread.name);
            let tried = files(thread, outside.path());
            assert_all(thread, &tried, Errno::EACCES);
            thread.name.clone()
        });
        names.extend(name);
    }
    // The first thread, those of the runtime, and at least one that a part started for itself.
    assert!(names.len() >= 3, "{names:?}");
    // And the relay goes on as if nothing had been.
    sender::send(
        stage.relay.smtp_address(),
        &[Message::new("ann@example.org", message::plain(2))],
    );
    assert_eq!(stage.relay.queue_list(&[]).len(), 2);
}

/// Promise 2 of the relay, as far as the mail process goes.
#[test]
fn no_thread_of_the_relay_can_make_a_socket() {
    let mut stage = Stage::new();
    stage.relay.start();
    assert_threads_confined(&stage);
    assert_eq!(stage.relay.stop(), 0);
}

#[test]
fn nor_can_one_of_a_relay_that_root_started_for_another_user() {
    if !is_root() {
        return;
    }
    let mut stage = Stage::new().sandbox("user", "nobody");
    stage.relay.open_folders();
    // Else it could not be read again: who changes the user changes whose these are.
    let key = stage.relay.folder().join("relay.key");
    for file in [stage.relay.config(), &key] {
        std::os::unix::fs::chown(file, Some(NOBODY), None).expect("the file can be given away");
    }
    stage.relay.start();
    assert_threads_confined(&stage);
    assert_eq!(stage.relay.stop(), 0);
}

#[test]
fn nor_can_one_of_a_relay_that_another_user_started() {
    if !is_root() {
        return;
    }
    let mut stage = Stage::new();
    stage.relay.run_as(NOBODY);
    stage.relay.start();
    assert_threads_confined(&stage);
    assert_eq!(stage.relay.stop(), 0);
}

/// Else all the refusals could come from anywhere.
#[test]
fn without_the_sandbox_the_same_attempts_succeed() {
    let mut stage = Stage::new().sandbox("enabled", false);
    stage.relay.start();
    let process = stage.relay.id();
    let tried = within(process, process.cast_signed(), |thread| {
        let mut tried = sockets(thread);
        tried.extend(files(thread, stage.relay.folder()));
        tried
    });
    let tried = tried.expect("the first thread");
    let allowed: Vec<_> = tried.iter().filter(|(_, answer)| answer.is_ok()).collect();
    for attempt in [
        "TCP",
        "TCP over IPv6",
        "UDP",
        "Unix",
        "read /etc/passwd",
        "write outside",
    ] {
        assert!(
            allowed.iter().any(|(name, _)| *name == attempt),
            "{attempt}: {tried:?}"
        );
    }
    assert_eq!(stage.status()["sandbox"]["state"], "off");
}

/// The puller needs to connect: to its relays and targets, and to nobody else.
#[test]
fn a_thread_of_the_puller_reaches_the_ports_of_its_settings_only() {
    let inside = Inside::smtp();
    let mut world = World::setup().target(&inside.target()).start();
    let relay_port = world.relay.odmr_address().port();
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("another server of this network");
    let other_port = other.local_addr().expect("its address").port();
    let config = world.puller.config().to_owned();
    world.send(&[Message::new("ann@example.org", message::plain(1))]);
    world.puller.start();
    wait_until("a message came through", || inside.messages().len() == 1);

    let process = world.puller.id().expect("a running puller");
    let outside = tempfile::tempdir().expect("a folder");
    for thread in threads(process) {
        let _ = within(process, thread, |thread| {
            assert!(thread.open(&config, O_RDONLY).is_ok(), "{}", thread.name);
            let mut connect = |port| {
                let [family, kind] = [AF_INET, SOCK_STREAM].map(|number| number as u64);
                let made = thread
                    .call(SYS_socket, &[family, kind, 0])
                    .expect("a socket");
                let address = loopback(thread, port);
                let connected = thread.call(SYS_connect, &[made.cast_unsigned(), address, 16]);
                let turned = turned_to_serve(thread, made.cast_unsigned());
                thread
                    .call(nix::libc::SYS_close, &[made.cast_unsigned()])
                    .expect("closed");
                (connected, turned)
            };
            let (connected, _) = connect(relay_port);
            assert_eq!(connected, Ok(0), "the relay's port");
            let (connected, turned) = connect(other_port);
            assert_eq!(connected, Err(Errno::EACCES), "another port");
            assert_all(thread, &turned, Errno::EPERM);
            let others = [
                ("MPTCP", thread.socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP)),
                ("SCTP", thread.socket(AF_INET, SOCK_STREAM, IPPROTO_SCTP)),
                ("raw IP", thread.socket(AF_INET, SOCK_RAW, 1)),
                ("ICMP", thread.socket(AF_INET6, SOCK_DGRAM, 58)),
                ("packets", thread.socket(AF_PACKET, SOCK_DGRAM, 0)),
                ("netlink", thread.socket(AF_NETLINK, SOCK_RAW, 0)),
                ("Unix", thread.socket(AF_UNIX, SOCK_STREAM, 0)),
            ];
            assert_all(thread, &others, Errno::EPERM);
            assert!(
                thread.socket(AF_INET, SOCK_DGRAM, 0).is_ok(),
                "name look-ups"
            );
            let tried = processes(thread);
            assert_all(thread, &tried, Errno::EPERM);
            let tried = files(thread, outside.path());
            let hidden = tried.into_iter().filter(|(attempt, _)| match *attempt {
                // Root may read the system's files for look-ups, others all of /etc that is for all.
                "read /etc/passwd" | "read /etc/shadow" => nix::unistd::geteuid().is_root(),
                _ => true,
            });
            assert_all(thread, &hidden.collect::<Vec<_>>(), Errno::EACCES);
        });
    }
    assert_eq!(world.puller.stop(), 0);
}
