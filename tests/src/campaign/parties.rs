//! The programs of a campaign: a relay, and for each target a puller's daemon with two `[[relay]]` entries, one of them
//! in instant mode, each with several sessions while there is a backlog, and `pull` commands beside it, as from cron,
//! that share the daemon's journal.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use toml::{Table, Value};

use super::DOMAINS;
use super::ledger::Target;
use crate::process::{PATIENCE, Process, exit_code};
use crate::world::{PULLER, Puller, PullerSetup, RELAY, Relay, Tls};

/// Entries `[[relay]]` of a puller.
const RELAYS: u32 = 2;
/// Sessions of each while there is a backlog, in the order of [`Target::ALL`].
const SESSIONS: [u32; 2] = [4, 2];
/// Messages that a session may have at the target while the journal does not know of them: what it reads ahead.
const WINDOW: u32 = 64;
/// Lines of a log that a failure shows.
const LOG_LINES: usize = 30;
/// What a `pull` may end with when the relay dies under it: mail or none, unreachable, broken off.
const PULL_CODES: [i32; 3] = [0, 69, 75];
/// As a shell has it: by SIGKILL.
const KILLED: i32 = 128 + 9;

/// One program of a campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The daemon of the puller with this target.
    Daemon(Target),
    /// The `pull` command of the puller with this target.
    Pull(Target),
    /// The relay.
    Relay,
}

#[derive(Debug)]
pub(super) struct Parties {
    relay: Relay,
    pullers: [Puller; 2],
    running: Vec<(Who, Process)>,
    folder: PathBuf,
}

impl Who {
    /// All.
    pub const ALL: [Self; 5] = [
        Self::Relay,
        Self::Daemon(Target::Smtp),
        Self::Daemon(Target::Maildir),
        Self::Pull(Target::Smtp),
        Self::Pull(Target::Maildir),
    ];

    /// In tables and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Daemon(Target::Maildir) => "puller (Maildir)",
            Self::Daemon(Target::Smtp) => "puller (SMTP)",
            Self::Pull(Target::Maildir) => "pull command (Maildir)",
            Self::Pull(Target::Smtp) => "pull command (SMTP)",
            Self::Relay => "relay",
        }
    }

    /// The target of a puller.
    pub(super) fn target(self) -> Option<Target> {
        match self {
            Self::Daemon(target) | Self::Pull(target) => Some(target),
            Self::Relay => None,
        }
    }
}

impl Parties {
    /// Writes everybody's files. The puller with the SMTP target talks to the relay in the clear, so that its
    /// replies can be seen; the other one by STARTTLS.
    pub(super) fn set_up(folder: &Path, targets: [&str; 2]) -> Self {
        let domains = DOMAINS.map(str::to_owned);
        let mut relay = Relay::init(folder, &domains, Tls::Optional);
        relay.configure(|settings| {
            settings.set("smtp.max_connections_per_ip", 200);
        });
        let pullers = Target::ALL.map(|target| {
            let domain = DOMAINS[target.index()];
            relay.add_account(domain, &[domain.to_owned()]);
            let puller = PullerSetup::new(domain, &[domain], targets[target.index()])
                .setting("relay.every", "1s")
                .setting("relay.jitter", "0s")
                .setting("relay.sessions", i64::from(SESSIONS[target.index()]))
                .install(folder, &relay);
            puller.configure(|settings| twice(settings.table(), target, relay.pin()));
            puller
        });
        Self {
            relay,
            pullers,
            running: Vec::new(),
            folder: folder.to_owned(),
        }
    }

    pub(super) fn relay(&self) -> &Relay {
        &self.relay
    }

    /// Starts a program that does not run.
    pub(super) fn start(&mut self, who: Who) {
        if self.process(who).is_some() {
            return;
        }
        let (mut command, name) = self.command(who);
        let process = Process::start(name, &mut command, &self.log(who));
        self.running.push((who, process));
    }

    /// Starts a puller's daemon, or makes it try now: left alone it waits longer from failure to failure.
    pub(super) fn wake(&mut self, target: Target) {
        let who = Who::Daemon(target);
        if self.process(who).is_some() {
            // A reload, as by an admin who knows that the relay is back.
            self.pullers[target.index()].configure(|_| ());
        } else {
            self.start(who);
        }
    }

    /// Waits until the relay's listeners answer.
    pub(super) fn wait_for_relay(&mut self) -> Result<()> {
        let addresses = [self.relay.smtp_address(), self.relay.odmr_address()];
        let end = Instant::now() + PATIENCE;
        loop {
            if addresses
                .iter()
                .all(|address| TcpStream::connect(address).is_ok())
            {
                return Ok(());
            }
            let process = self.process(Who::Relay).context("the relay is not there")?;
            if !process.is_running() {
                bail!("the relay does not start:\n{}", self.last_words(Who::Relay));
            }
            if Instant::now() > end {
                bail!(
                    "the relay does not answer:\n{}",
                    self.last_words(Who::Relay)
                );
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The process of a running program.
    pub(super) fn process(&mut self, who: Who) -> Option<&mut Process> {
        let found = self.running.iter_mut().find(|(name, _)| *name == who);
        found.map(|(_, process)| process)
    }

    /// Kills it, if it runs. True when it did.
    pub(super) fn kill(&mut self, who: Who) -> bool {
        self.take(who).is_some()
    }

    /// Ends it as an admin does; its exit code.
    pub(super) fn stop(&mut self, who: Who) -> Option<i32> {
        let mut process = self.take(who)?;
        process.signal(Signal::SIGTERM);
        Some(exit_code(process.wait()))
    }

    /// Signals every puller, as far as it runs.
    pub(super) fn signal_pullers(&self, signal: Signal) {
        for (who, process) in &self.running {
            if who.target().is_some() {
                process.signal(signal);
            }
        }
    }

    /// Programs that have ended by themselves are taken away; what is wrong with that is told. Not the one that
    /// a trap is set for.
    pub(super) fn reap(&mut self, trapped: Option<Who>) -> Vec<String> {
        let others = self
            .running
            .iter_mut()
            .filter(|(who, _)| Some(*who) != trapped);
        let ended: Vec<Who> = others
            .filter_map(|(who, process)| (!process.is_running()).then_some(*who))
            .collect();
        let mut complaints = Vec::new();
        for who in ended {
            let Some(mut process) = self.take(who) else {
                continue;
            };
            let code = exit_code(process.wait());
            let may_end = matches!(who, Who::Pull(_)) && PULL_CODES.contains(&code);
            if !may_end {
                let (name, words) = (who.name(), self.last_words(who));
                complaints.push(format!("{name} ended by itself with {code}:\n{words}"));
            }
        }
        complaints
    }

    /// Takes a program away that a signal has killed; whether there is one.
    pub(super) fn take_killed(&mut self, who: Who) -> bool {
        let process = self.running.iter_mut().find(|(name, _)| *name == who);
        let was_killed = process.is_some_and(|(_, process)| {
            !process.is_running() && exit_code(process.wait()) == KILLED
        });
        was_killed && self.take(who).is_some()
    }

    fn take(&mut self, who: Who) -> Option<Process> {
        let position = self.running.iter().position(|(name, _)| *name == who)?;
        Some(self.running.swap_remove(position).1)
    }

    fn command(&self, who: Who) -> (Command, &'static str) {
        let (mut command, name, word) = match who {
            Who::Relay => (self.relay.command(), RELAY, "run"),
            Who::Daemon(target) => (self.pullers[target.index()].command(), PULLER, "run"),
            Who::Pull(target) => (self.pullers[target.index()].command(), PULLER, "pull"),
        };
        command.arg(word);
        (command, name)
    }

    fn log(&self, who: Who) -> PathBuf {
        let name = who.name().replace(['(', ')'], "").replace(' ', "-");
        self.folder.join(name).with_extension("log")
    }

    fn last_words(&self, who: Who) -> String {
        let log = crate::process::read_lossy(&self.log(who));
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

/// Makes a puller's only relay two: each pulls by itself, and both share the journal.
fn twice(settings: &mut Table, target: Target, pin: &str) {
    let Some(Value::Array(relays)) = settings.get_mut("relay") else {
        return;
    };
    let Some(Value::Table(first)) = relays.first_mut() else {
        return;
    };
    if target == Target::Maildir {
        first.insert("tls".to_owned(), "starttls".into());
        first.insert("pin".to_owned(), pin.into());
    }
    let mut second = first.clone();
    second.insert("name".to_owned(), "mx2".into());
    second.insert("mode".to_owned(), "instant".into());
    // So that a kill finds its sessions before and behind the turn.
    second.insert("wait".to_owned(), "2s".into());
    relays.push(Value::Table(second));
}

/// Messages that may be in doubt when a puller's process is killed.
pub(super) fn in_doubt(target: Target) -> u32 {
    RELAYS * SESSIONS[target.index()] * WINDOW
}

/// A puller's `data_dir`, as [`PullerSetup`] makes it for the first and the second of a folder.
pub(super) fn data_folder(folder: &Path, target: Target) -> PathBuf {
    let number = target.index() + 1;
    folder.join(format!("puller-{number}")).join("data")
}
