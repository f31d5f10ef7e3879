//! The puller: its files, one pull at a time, or the daemon.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use toml::{Table, Value};

use super::{PULLER, PULLER_NAME, Relay, Settings, Tls, program};
use crate::certs::write_private;
use crate::process::{Output, Process, exit_code};

/// What a puller is set up with.
#[derive(Debug)]
#[must_use]
pub struct PullerSetup {
    account: String,
    domains: Vec<String>,
    target: String,
    settings: Vec<(String, Value)>,
}

impl PullerSetup {
    /// For an account, its domains, and a hand-over target.
    pub fn new(account: &str, domains: &[&str], target: &str) -> Self {
        Self {
            account: account.to_owned(),
            domains: domains.iter().map(|&domain| domain.to_owned()).collect(),
            target: target.to_owned(),
            settings: Vec::new(),
        }
    }

    /// More settings, by their paths.
    pub fn settings(mut self, settings: Vec<(String, Value)>) -> Self {
        self.settings.extend(settings);
        self
    }

    /// One more setting.
    pub fn setting(mut self, path: &str, value: impl Into<Value>) -> Self {
        self.settings.push((path.to_owned(), value.into()));
        self
    }

    /// Writes its files for a real relay.
    #[must_use]
    pub fn install(self, folder: &Path, relay: &Relay) -> Puller {
        let secret = relay.secret(&self.account).to_owned();
        let address = relay.odmr_address().to_string();
        let tls = match relay.tls() {
            // A puller has no word for "perhaps".
            Tls::Optional => Tls::Off,
            tls => tls,
        };
        self.install_for(folder, &address, tls, Some(relay.pin()), &secret)
    }

    /// Writes its files for a relay that a test plays.
    ///
    /// # Panics
    /// When they cannot be written.
    #[must_use]
    pub fn install_for(
        self,
        folder: &Path,
        address: &str,
        tls: Tls,
        pin: Option<&str>,
        secret: &str,
    ) -> Puller {
        let folder = unused_folder(folder);
        write_private(&folder.join("relay.secret"), secret);
        let mut relay = Table::new();
        relay.insert("name".to_owned(), "mx1".into());
        relay.insert("address".to_owned(), address.into());
        relay.insert("tls".to_owned(), tls.word().into());
        if let Some(pin) = pin.filter(|_| tls != Tls::Off) {
            relay.insert("pin".to_owned(), pin.into());
        }
        relay.insert("account".to_owned(), self.account.into());
        relay.insert("secret_file".to_owned(), "relay.secret".into());
        relay.insert("domains".to_owned(), self.domains.into());
        relay.insert("mode".to_owned(), "poll".into());

        let mut settings = Settings::default();
        settings
            .set("hostname", PULLER_NAME)
            .set("data_dir", folder.join("data").display().to_string())
            .set("handover.target", self.target)
            .set("relay", Value::Array(vec![Value::Table(relay)]));
        settings.set_all(&self.settings);
        let config = folder.join("puller.toml");
        settings.write(&config);
        Puller {
            process: None,
            environment: Vec::new(),
            program: program(PULLER),
            folder,
            config,
        }
    }
}

/// A puller: its files, and its process while the daemon runs.
#[derive(Debug)]
pub struct Puller {
    process: Option<Process>,
    program: PathBuf,
    environment: Vec<(String, String)>,
    folder: PathBuf,
    config: PathBuf,
}

impl Puller {
    /// One pull, as from cron.
    #[track_caller]
    #[must_use]
    pub fn pull(&self) -> Output {
        self.pull_within(Duration::from_secs(120))
    }

    /// One pull of much mail.
    #[track_caller]
    #[must_use]
    pub fn pull_within(&self, limit: Duration) -> Output {
        Output::within(self.command().arg("pull"), limit)
    }

    /// One pull that the test does not wait for: with [`Puller::pulled`] it does.
    #[track_caller]
    pub fn begin_pull(&mut self) {
        self.process = Some(Process::start(
            PULLER,
            self.command().arg("pull"),
            &self.log_file(),
        ));
    }

    /// The exit code of the pull that was begun.
    #[track_caller]
    pub fn pulled(&mut self) -> i32 {
        exit_code(self.process.take().expect("a pull that was begun").wait())
    }

    /// Starts the daemon.
    #[track_caller]
    pub fn start(&mut self) {
        self.process = Some(Process::start(
            PULLER,
            self.command().arg("run"),
            &self.log_file(),
        ));
    }

    /// Ends the daemon by SIGTERM; returns its exit code.
    #[track_caller]
    pub fn stop(&mut self) -> i32 {
        let mut process = self.process.take().expect("a running puller");
        process.signal(Signal::SIGTERM);
        exit_code(process.wait())
    }

    /// Ends it by SIGKILL.
    pub fn kill(&mut self) {
        self.process.take();
    }

    /// The process id of the daemon, while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Changes its configuration, in one step.
    pub fn configure(&self, change: impl FnOnce(&mut Settings)) {
        let mut settings = Settings::read(&self.config);
        change(&mut settings);
        settings.write(&self.config);
    }

    /// Runs another build of the program, to compare with.
    pub fn set_program(&mut self, program: PathBuf) {
        self.program = program;
    }

    /// Hands mail over somewhere else.
    pub fn set_target(&self, target: &str) {
        self.configure(|settings| {
            settings.set("handover.target", target);
        });
    }

    /// Runs a command of its command line.
    #[track_caller]
    #[must_use]
    pub fn cli(&self, arguments: &[&str]) -> Output {
        Output::of(self.command().args(arguments))
    }

    /// The command, with its configuration.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(&self.config);
        command.envs(self.environment.iter().cloned());
        command
    }

    /// Sets variables of its environment, from its next start on and for every command.
    pub fn set_environment(&mut self, variables: Vec<(String, String)>) {
        self.environment = variables;
    }

    /// The folder of its configuration.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its configuration file.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// What the daemon, or a pull that was begun, has logged.
    #[must_use]
    pub fn log(&self) -> String {
        crate::process::read_lossy(&self.log_file())
    }

    fn log_file(&self) -> PathBuf {
        self.folder.with_extension("log")
    }
}

/// `puller-1`, `puller-2`, …: a world may have several.
fn unused_folder(parent: &Path) -> PathBuf {
    let mut number = 1;
    loop {
        let folder = parent.join(format!("puller-{number}"));
        if std::fs::create_dir(&folder).is_ok() {
            return folder;
        }
        assert!(number < 1000, "{} cannot be written", parent.display());
        number += 1;
    }
}
