//! The walls around threads of the test process: what they refuse, and what still works.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind::PermissionDenied;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use tempfile::TempDir;

use super::*;

/// Runs in a thread of its own, which takes its walls with it when it ends.
fn confined<T: Send + 'static>(rules: Rules, inside: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = thread::spawn(move || {
        let standing = confine_thread(Enforcement::Required, &rules).unwrap();
        assert_eq!(standing.state, State::Enforced);
        inside()
    });
    thread.join().unwrap()
}

#[test]
fn everything_that_is_tried_is_refused() {
    let (inside, outside) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let probe = Probe::prepare(outside.path());
    let rules = Rules {
        write: vec![inside.path().to_owned()],
        ..Rules::default()
    };
    for attempt in confined(rules, move || probe.attempts()) {
        assert!(attempt.refused, "{attempt:?}");
    }
}

/// Else a list of refusals would show nothing.
#[test]
fn without_walls_the_attempts_are_no_refusals() {
    let outside = TempDir::new().unwrap();
    let attempts = Probe::prepare(outside.path()).attempts();
    let written = format!("write in {}", outside.path().display());
    for name in [
        "TCP over IPv4",
        "UDP over IPv4",
        "a Unix socket",
        "connect a TCP socket from before",
        "send with TCP Fast Open",
        "bind a port",
        "listen",
        "receive a descriptor",
        "start another program",
        "fork",
        &written,
    ] {
        let attempt = attempts.iter().find(|attempt| attempt.attempt == name);
        assert!(!attempt.unwrap().refused, "{attempt:?}");
    }
}

#[test]
fn files_are_those_of_the_rules() {
    let (read, write, other) = (
        TempDir::new().unwrap(),
        TempDir::new().unwrap(),
        TempDir::new().unwrap(),
    );
    for folder in [&read, &write, &other] {
        fs::write(folder.path().join("file"), "text").unwrap();
    }
    let rules = Rules {
        read: vec![read.path().to_owned(), "/does/not/exist".into()],
        write: vec![write.path().to_owned()],
        ..Rules::default()
    };
    confined(rules, move || {
        let denied = |result: std::io::Result<()>| {
            assert_eq!(result.unwrap_err().kind(), PermissionDenied);
        };
        let content = |folder: &Path| fs::read_to_string(folder.join("file")).map(drop);
        let change = |folder: &Path| fs::write(folder.join("file"), "new");
        content(read.path()).unwrap();
        denied(change(read.path()));
        denied(content(other.path()));
        denied(change(other.path()));
        denied(fs::rename(
            write.path().join("file"),
            other.path().join("moved"),
        ));
        change(write.path()).unwrap();
        let below = write.path().join("below");
        fs::create_dir(&below).unwrap();
        fs::rename(write.path().join("file"), below.join("file")).unwrap();
        fs::remove_dir_all(below).unwrap();
        // What is a file to others must not become a way to them.
        denied(std::os::unix::fs::symlink(
            "/etc",
            write.path().join("link"),
        ));
    });
}

#[test]
fn tcp_reaches_the_ports_of_the_rules_only() {
    let servers = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [allowed, other] = [&servers[0], &servers[1]].map(|server| server.local_addr().unwrap());
    let rules = Rules {
        connect: BTreeSet::from([allowed.port()]),
        sockets: BTreeSet::from([SocketKind::Tcp]),
        ..Rules::default()
    };
    confined(rules, move || {
        TcpStream::connect(allowed).unwrap();
        let kind = |result: std::io::Result<()>| result.map_err(|error| error.kind());
        for refused in [
            TcpStream::connect(other).map(drop),
            TcpListener::bind("127.0.0.1:0").map(drop),
            UdpSocket::bind("127.0.0.1:0").map(drop),
            UnixStream::connect("/run/any").map(drop),
        ] {
            assert_eq!(kind(refused), Err(PermissionDenied));
        }
        // A runtime wakes itself up by one.
        UnixStream::pair().unwrap();
    });
}

#[test]
fn udp_and_unix_sockets_are_for_who_asks_for_them() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("socket");
    let _listener = UnixListener::bind(&path).unwrap();
    let rules = |kinds: &[SocketKind]| Rules {
        sockets: kinds.iter().copied().collect(),
        ..Rules::default()
    };
    let udp = || UdpSocket::bind("127.0.0.1:0").is_ok();
    assert!(confined(rules(&[SocketKind::UdpBound]), udp));
    assert!(!confined(rules(&[SocketKind::Udp]), udp));
    let unix = move || UnixStream::connect(path).is_ok();
    assert!(confined(rules(&[SocketKind::Unix]), unix.clone()));
    assert!(!confined(rules(&[SocketKind::Tcp, SocketKind::Udp]), unix));
    let tcp = || TcpStream::connect("127.0.0.1:1").unwrap_err().kind();
    assert_eq!(confined(rules(&[SocketKind::Unix]), tcp), PermissionDenied);
}

#[test]
fn threads_are_started_inside_and_none_is_left_outside() {
    let sum = confined(Rules::default(), || {
        let threads = (0..3).map(|number| thread::spawn(move || number));
        let threads: Vec<_> = threads.collect();
        let ended = threads.into_iter().map(|thread| thread.join().unwrap());
        let is_refused = thread::spawn(|| UdpSocket::bind("127.0.0.1:0").is_err());
        assert!(is_refused.join().unwrap());
        ended.sum::<i32>()
    });
    assert_eq!(sum, 3);
    // The test process has more than one.
    let refused = confine(Enforcement::Required, &Rules::default()).unwrap_err();
    assert!(matches!(refused, SandboxError::Threads(2..)), "{refused}");
    let off = confine(Enforcement::Off, &Rules::default()).unwrap();
    assert_eq!((off.state, off.landlock_abi), (State::Off, None));
}

/// A certificate that a tool renews is another file behind the same links.
#[test]
fn links_are_followed_to_every_directory_on_the_way() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["live", "archive", "etc"] {
        fs::create_dir(path(name)).unwrap();
    }
    fs::write(path("archive/one.pem"), "").unwrap();
    let link = |to: &str, at: &str| std::os::unix::fs::symlink(to, path(at)).unwrap();
    link("../archive/one.pem", "live/cert.pem");
    link(path("live/cert.pem").to_str().unwrap(), "etc/relay.crt");
    let found = directories_of(&path("etc/relay.crt"));
    let real: BTreeSet<_> = found
        .iter()
        .map(|path| path.canonicalize().unwrap())
        .collect();
    let expected = ["archive", "etc", "live"].map(|name| path(name).canonicalize().unwrap());
    assert_eq!(real, BTreeSet::from(expected));
    link("loop", "loop");
    assert_eq!(directories_of(&path("loop")).len(), 1);
    assert_eq!(
        directories_of(Path::new("relay.crt")),
        BTreeSet::from([".".into()])
    );
}
