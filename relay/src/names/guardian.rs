//! The guardian: the parent of the resolver child, which starts it again when it ended. The mail process may start nothing.
//!
//! It takes nothing from anybody: neither the network nor the socket is read here. It holds the other end of the socket only to pass
//! it on, and to say what happened. Each child is the program afresh, with another layout of its memory, so that one that was
//! crashed teaches nothing about the next.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use atrn_shared::sandbox::{Account, Enforcement, drop_privileges};
use nix::sys::prctl::{set_name, set_pdeathsig};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Gid, Uid};

use super::protocol::{Frame, News, write_frame};
use crate::config::Transport;

/// The first wait before a child is started again; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest wait.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A child that lived so long was no failure of its start.
const HEALTHY: Duration = Duration::from_secs(60);
/// The hidden command that both processes are.
const COMMAND: &str = "resolver";

/// What both processes are started with. It goes through their arguments: they read no file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// The name servers.
    pub servers: Vec<SocketAddr>,
    /// How they are asked.
    pub transport: Transport,
    /// How long an answer may take.
    pub limit: Duration,
    /// What the child is held to.
    pub confinement: Confinement,
}

/// What the child is held to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Confinement {
    /// How much is insisted on.
    pub enforcement: Enforcement,
    /// Who to become.
    pub account: Option<Account>,
}

/// Which of the two a process is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Role {
    Guardian,
    Child,
}

/// How the child tells why it ended, by its exit code.
pub(super) mod ending {
    /// The mail process is gone.
    pub(in super::super) const NO_PARENT: u8 = 0;
    /// It could not be confined, and said so.
    pub(in super::super) const REFUSED: u8 = 3;
}

/// The guardian's life: children, one after the other, until the mail process is gone.
///
/// # Errors
/// What the system refused.
fn guard(settings: &Settings) -> io::Result<ExitCode> {
    // Before anything of our own is open.
    close_inherited()?;
    let socket = socket()?;
    let tell = |news| {
        // Whoever should hear it may be gone, or slow: it is for the log.
        let _ = socket.send(&write_frame(&Frame::News(news)));
    };
    if let Err(reason) = settle(settings) {
        tell(News::Refused(reason));
        return Ok(ExitCode::from(ending::REFUSED));
    }
    let mut pause = PAUSE_MIN;
    loop {
        let began = Instant::now();
        let ended = start(Role::Child, settings, socket.as_fd().try_clone_to_owned()?)
            .and_then(|mut child| child.wait());
        let reason = match ended {
            Ok(status) if is_final(status) => return Ok(ExitCode::SUCCESS),
            Ok(status) => describe(status),
            Err(error) => error.to_string(),
        };
        tell(News::Ended(reason));
        pause = if began.elapsed() > HEALTHY {
            PAUSE_MIN
        } else {
            pause
        };
        thread::sleep(pause);
        pause = PAUSE_MAX.min(pause * 2);
    }
}

/// Gives up what the relay had and a resolver needs not, and ties its life to the relay's.
fn settle(settings: &Settings) -> Result<(), String> {
    // It ends with the mail process, not with the signals that a terminal or a service manager sends to all of a group:
    // the last messages may need names.
    let mut signals = SigSet::empty();
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ] {
        signals.add(signal);
    }
    signals
        .thread_block()
        .map_err(|error| format!("blocking signals: {error}"))?;
    if settings.confinement.enforcement != Enforcement::Off {
        let account = settings.confinement.account.or_else(nobody);
        drop_privileges(account).map_err(|error| error.to_string())?;
    }
    name_process(c"atrn-guardian")?;
    die_with_parent()
}

/// A resolver that is left root could do what root can to the files of others.
fn nobody() -> Option<Account> {
    const NOBODY: u32 = 65_534;
    Account::own().uid.is_root().then(|| Account {
        uid: Uid::from_raw(NOBODY),
        gid: Gid::from_raw(NOBODY),
    })
}

/// What the relay's own parent left open to the relay is none of ours. Our own is marked to close at each start.
fn close_inherited() -> io::Result<()> {
    let open: Vec<i32> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > 2) {
        // The one of the directory is closed already.
        let _ = nix::unistd::close(descriptor);
    }
    Ok(())
}

/// Kernel's names have 15 characters.
pub(super) fn name_process(name: &std::ffi::CStr) -> Result<(), String> {
    set_name(name).map_err(|error| format!("naming the process: {error}"))
}

/// Set last: a change of the user takes it back.
pub(super) fn die_with_parent() -> Result<(), String> {
    set_pdeathsig(Signal::SIGKILL).map_err(|error| format!("dying with the parent: {error}"))
}

/// The socket that both processes are started with, in place of an input.
pub(super) fn socket() -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::from(io::stdin().as_fd().try_clone_to_owned()?);
    // Nobody is at the other end of a terminal, a file or a pipe.
    socket.local_addr()?;
    Ok(socket)
}

/// Starts the program once more. Nothing of the environment goes along, and nothing that it says goes anywhere but into frames.
pub(super) fn start(
    role: Role,
    settings: &Settings,
    socket: OwnedFd,
) -> io::Result<std::process::Child> {
    // The program that runs, also when its file was replaced.
    Command::new("/proc/self/exe")
        .arg0("atrn-relay")
        .arg(COMMAND)
        .args(settings.arguments(role))
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(socket))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

fn is_final(status: ExitStatus) -> bool {
    let codes = [ending::NO_PARENT, ending::REFUSED].map(i32::from);
    status.code().is_some_and(|code| codes.contains(&code))
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no reason".to_owned(),
    }
}

impl Settings {
    /// What [`Self::parse`] reads.
    fn arguments(&self, role: Role) -> Vec<String> {
        let role = match role {
            Role::Guardian => "guardian",
            Role::Child => "child",
        };
        let enforcement = match self.confinement.enforcement {
            Enforcement::Required => "required",
            Enforcement::BestEffort => "best-effort",
            Enforcement::Off => "off",
        };
        let account = self.confinement.account.map(|account| account.to_string());
        let mut arguments = vec![
            role.to_owned(),
            self.transport.name().to_owned(),
            self.limit.as_millis().to_string(),
            enforcement.to_owned(),
            account.unwrap_or_else(|| "same".to_owned()),
        ];
        arguments.extend(self.servers.iter().map(ToString::to_string));
        arguments
    }

    /// Reads what a process was started with.
    fn parse(arguments: &[String]) -> Option<(Role, Self)> {
        let [role, transport, limit, enforcement, account, servers @ ..] = arguments else {
            return None;
        };
        let role = match role.as_str() {
            "guardian" => Role::Guardian,
            "child" => Role::Child,
            _ => return None,
        };
        let transports = [Transport::Tcp, Transport::Udp];
        let enforcement = match enforcement.as_str() {
            "required" => Enforcement::Required,
            "best-effort" => Enforcement::BestEffort,
            "off" => Enforcement::Off,
            _ => return None,
        };
        let settings = Self {
            servers: servers
                .iter()
                .map(|text| text.parse().ok())
                .collect::<Option<_>>()?,
            transport: transports
                .into_iter()
                .find(|each| each.name() == transport)?,
            limit: Duration::from_millis(limit.parse().ok()?),
            confinement: Confinement {
                enforcement,
                account: match account.as_str() {
                    "same" => None,
                    numbers => Some(parse_account(numbers)?),
                },
            },
        };
        Some((role, settings))
    }
}

fn parse_account(text: &str) -> Option<Account> {
    let (uid, gid) = text.split_once(':')?;
    Some(Account {
        uid: Uid::from_raw(uid.parse().ok()?),
        gid: Gid::from_raw(gid.parse().ok()?),
    })
}

/// What a process was started as, by the arguments of the hidden command.
///
/// # Errors
/// Why it can not be that: nobody else is to start it.
pub fn run(arguments: &[String]) -> io::Result<ExitCode> {
    let wrong = || io::Error::other("this is started by `atrn-relay run`, and of no use by itself");
    match Settings::parse(arguments).ok_or_else(wrong)? {
        (Role::Guardian, settings) => guard(&settings),
        (Role::Child, settings) => super::child::resolve(&settings),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_is_started_with_can_be_read() {
        let account = Account {
            uid: Uid::from_raw(7),
            gid: Gid::from_raw(8),
        };
        for (role, transport, enforcement, account) in [
            (Role::Guardian, Transport::Tcp, Enforcement::Required, None),
            (
                Role::Child,
                Transport::Udp,
                Enforcement::BestEffort,
                Some(account),
            ),
            (Role::Child, Transport::Tcp, Enforcement::Off, Some(account)),
        ] {
            let settings = Settings {
                servers: vec![
                    "192.0.2.1:53".parse().unwrap(),
                    "[2001:db8::1]:5353".parse().unwrap(),
                ],
                transport,
                limit: Duration::from_millis(4_999),
                confinement: Confinement {
                    enforcement,
                    account,
                },
            };
            let arguments = settings.arguments(role);
            assert_eq!(Settings::parse(&arguments), Some((role, settings)));
            assert_eq!(Settings::parse(&arguments[..4]), None);
        }
    }
}
