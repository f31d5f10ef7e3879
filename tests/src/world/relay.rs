//! The relay as a process, set up by its own command line.

use std::fs::Permissions;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{ACCOUNT, RELAY, RELAY_NAME, Settings, program};
use crate::certs;
use crate::peer::Peer;
use crate::ports::Port;
use crate::process::{Output, Process, exit_code, wait_until};

/// TLS on the ODMR listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// From the first octet.
    Implicit,
    /// None.
    Off,
    /// By STARTTLS or not at all.
    Optional,
    /// By STARTTLS.
    StartTls,
}

impl Tls {
    /// As the configuration files have it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Implicit => "implicit",
            Self::Off => "off",
            Self::Optional => "optional",
            Self::StartTls => "starttls",
        }
    }
}

/// The relay: its files, and its process while it runs.
#[derive(Debug)]
pub struct Relay {
    process: Option<Process>,
    environment: Vec<(String, String)>,
    program: PathBuf,
    user: Option<u32>,
    folder: PathBuf,
    config: PathBuf,
    tls: Tls,
    pin: String,
    smtp: Port,
    odmr: Port,
    secrets: Vec<(String, String)>,
}

impl Relay {
    /// Sets one up by `atrn-relay init`, on ports of its own.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn init(folder: &Path, domains: &[String], tls: Tls) -> Self {
        let folder = folder.join("relay");
        let mut command = Command::new(program(RELAY));
        command
            .args(["init", "--json", "--hostname", RELAY_NAME, "--dir"])
            .arg(&folder);
        for domain in domains {
            command.args(["--domain", domain]);
        }
        let made = Output::of(&mut command).expect_code(0).json();
        let text = |key: &str| made[key].as_str().expect(key).to_owned();
        let relay = Self {
            process: None,
            environment: Vec::new(),
            program: program(RELAY),
            user: None,
            config: PathBuf::from(text("config")),
            pin: text("pin"),
            tls,
            smtp: Port::reserve(),
            odmr: Port::reserve(),
            secrets: Vec::new(),
            folder,
        };
        relay.configure(|settings| {
            settings
                .set("data_dir", relay.data_folder().display().to_string())
                .set("smtp.listen", vec![relay.smtp_address().to_string()])
                .set("odmr.listen", vec![relay.odmr_address().to_string()])
                .set("odmr.tls", tls.word())
                // The tests ask no name server of the host.
                .set("dns", "off")
                // Everybody in the tests comes from there; tests of limits take it away.
                .set("limits.exempt", vec!["127.0.0.0/8", "::1"]);
        });
        relay
    }

    /// Changes the main configuration file, in one step.
    pub fn configure(&self, change: impl FnOnce(&mut Settings)) {
        let mut settings = Settings::read(&self.config);
        change(&mut settings);
        settings.write(&self.config);
    }

    /// Changes a setting of a domain, in the file that `atrn-relay` made for it.
    pub fn configure_domain(&self, domain: &str, key: &str, value: impl Into<toml::Value>) {
        let folder = self.config.parent().expect("a folder");
        let file = folder.join(format!("conf.d/domain-{domain}.toml"));
        Settings::edit(&file, |settings| {
            settings.set(&format!("domain.{key}"), value);
        });
    }

    /// Adds an account by `atrn-relay account add`, and keeps its secret for the puller.
    ///
    /// # Panics
    /// When that fails.
    pub fn add_account(&mut self, name: &str, domains: &[String]) {
        let mut arguments = vec!["account", "add", name, "--cram-md5", "--json"];
        for domain in domains {
            arguments.extend(["--domain", domain]);
        }
        let made = self.cli(&arguments).expect_code(0).json();
        let secret = made["secret"].as_str().expect("a secret").to_owned();
        self.secrets.push((name.to_owned(), secret));
    }

    /// Starts it, and waits until both listeners answer.
    ///
    /// # Panics
    /// With its log, when it does not come up.
    #[track_caller]
    pub fn start(&mut self) {
        let mut command = self.command();
        command.arg("run");
        let mut process = Process::start(RELAY, &mut command, &self.log_file());
        for address in [self.smtp_address(), self.odmr_address()] {
            process.wait_until("its listeners answer", || {
                std::net::TcpStream::connect(address).is_ok()
            });
        }
        self.process = Some(process);
    }

    /// Ends it by SIGTERM; returns its exit code.
    #[track_caller]
    pub fn stop(&mut self) -> i32 {
        let mut process = self.process.take().expect("a running relay");
        process.signal(Signal::SIGTERM);
        exit_code(process.wait())
    }

    /// Ends it by SIGKILL.
    pub fn kill(&mut self) {
        self.process.take();
    }

    /// Kills it and starts it again.
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill();
        self.start();
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.process
            .as_ref()
            .expect("a running relay")
            .signal(signal);
    }

    /// Stops every thread of it, and returns when they stand; it goes on at SIGCONT.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
        let tasks = format!("/proc/{}/task", self.id());
        let stands = |stat: &str| {
            stat.rsplit(") ")
                .next()
                .is_some_and(|rest| rest.starts_with('T'))
        };
        wait_until("every thread stands", || {
            let tasks = std::fs::read_dir(&tasks).expect("the threads of the relay");
            let stats = tasks
                .flatten()
                .map(|task| std::fs::read_to_string(task.path().join("stat")));
            stats.flatten().all(|stat| stands(&stat))
        });
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.as_ref().expect("a running relay").id()
    }

    /// The command, with its configuration.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(&self.config);
        command.envs(self.environment.iter().cloned());
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    /// Makes another user than root run it from now on, whose are its files. Only for root.
    ///
    /// # Panics
    /// When the files cannot be given away.
    pub fn run_as(&mut self, user: u32) {
        // The user may not look into the folder of the build.
        let program = self.folder.join(RELAY);
        std::fs::copy(&self.program, &program).expect("a copy of the program");
        self.program = program;
        self.user = Some(user);
        self.open_folders();
        give_away(&self.folder, user);
    }

    /// Lets other users into the folders above the relay's files.
    ///
    /// # Panics
    /// When that cannot be changed.
    pub fn open_folders(&self) {
        let above = self.folder.parent().expect("a folder above");
        for folder in [above, &self.folder] {
            let mode = Permissions::from_mode(0o755);
            std::fs::set_permissions(folder, mode).expect("a folder for all");
        }
    }

    /// Sets variables of its environment, from its next start on and for every command.
    pub fn set_environment(&mut self, variables: Vec<(String, String)>) {
        self.environment = variables;
    }

    /// Runs a command of its command line.
    #[track_caller]
    #[must_use]
    pub fn cli(&self, arguments: &[&str]) -> Output {
        Output::of(self.command().args(arguments))
    }

    /// What `queue list --json` shows, with these filters.
    #[track_caller]
    #[must_use]
    pub fn queue_list(&self, filters: &[&str]) -> Vec<Value> {
        let arguments = [&["queue", "list", "--json"], filters].concat();
        let listed = self.cli(&arguments).expect_code(0).json();
        listed
            .as_array()
            .expect("queue list --json prints an array")
            .clone()
    }

    /// Connects to the ODMR listener, with TLS where it wants it from the first octet, and reads
    /// the greeting.
    #[track_caller]
    #[must_use]
    pub fn odmr(&self) -> Peer {
        let mut peer = if self.tls == Tls::Implicit {
            Peer::connect_tls(self.odmr_address(), &certs::trusting_client())
        } else {
            Peer::connect(self.odmr_address())
        };
        peer.expect("220 ");
        peer
    }

    /// The same, from an address of 127.0.0.0/8; nothing is read yet.
    #[track_caller]
    #[must_use]
    pub fn odmr_from(&self, source: IpAddr) -> Peer {
        let mut peer = Peer::connect_from(source, self.odmr_address());
        if self.tls == Tls::Implicit {
            peer.start_tls_client(&certs::trusting_client());
        }
        peer
    }

    /// Past EHLO and AUTH PLAIN for the usual account.
    #[track_caller]
    #[must_use]
    pub fn odmr_authenticated(&self) -> Peer {
        let mut peer = self.odmr();
        peer.ehlo(super::PULLER_NAME);
        peer.auth_plain(ACCOUNT, self.secret(ACCOUNT));
        peer
    }

    /// Connects to the SMTP listener and reads the greeting.
    #[track_caller]
    #[must_use]
    pub fn smtp(&self) -> Peer {
        let mut peer = Peer::connect(self.smtp_address());
        peer.expect("220 ");
        peer
    }

    /// Where senders connect.
    #[must_use]
    pub fn smtp_address(&self) -> SocketAddr {
        self.smtp.address()
    }

    /// Where pullers connect.
    #[must_use]
    pub fn odmr_address(&self) -> SocketAddr {
        self.odmr.address()
    }

    /// The secret of an account.
    ///
    /// # Panics
    /// When there is no such account.
    #[must_use]
    pub fn secret(&self, account: &str) -> &str {
        let found = self.secrets.iter().find(|(name, _)| name == account);
        &found.unwrap_or_else(|| panic!("no account {account}")).1
    }

    /// The pin of its certificate.
    #[must_use]
    pub fn pin(&self) -> &str {
        &self.pin
    }

    /// TLS on its ODMR listener.
    #[must_use]
    pub fn tls(&self) -> Tls {
        self.tls
    }

    /// The folder of its configuration.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its main configuration file.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Its queue.
    #[must_use]
    pub fn data_folder(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// What it has logged, restarts included.
    #[must_use]
    pub fn log(&self) -> String {
        crate::process::read_lossy(&self.log_file())
    }

    fn log_file(&self) -> PathBuf {
        self.folder.with_extension("log")
    }
}

fn give_away(path: &Path, user: u32) {
    chown(path, Some(user), Some(user)).expect("the file can be given away");
    if path.is_dir() {
        let entries = std::fs::read_dir(path).expect("the folder can be read");
        entries
            .flatten()
            .for_each(|entry| give_away(&entry.path(), user));
    }
}
