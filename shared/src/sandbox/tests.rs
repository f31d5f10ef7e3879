//! The walls around threads of the test process: what they refuse, and what still works.

use std::fs;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
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

fn refused(attempts: &[Attempt]) -> Vec<String> {
    let refused = attempts.iter().filter(|attempt| attempt.refused);
    refused.map(|attempt| attempt.attempt.clone()).collect()
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
    let refused = refused(&attempts);
    for attempt in [
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
        "load a kernel module",
        &format!("write in {}", outside.path().display()),
    ] {
        assert!(
            attempts.iter().any(|one| one.attempt == attempt),
            "{attempt}"
        );
        let by_rights = attempt == "load a kernel module" && !nix::unistd::geteuid().is_root();
        assert!(
            by_rights || !refused.contains(&attempt.to_owned()),
            "{attempts:?}"
        );
    }
}
