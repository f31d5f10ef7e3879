//! `check`: every mistake that can be found beforehand.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use atrn_relay::accounts::{Accounts, decoy_key};
use atrn_relay::config::RelayConfig;
use atrn_relay::control::{Client, DomainStatus, Status};
use atrn_shared::cli::{ExitCode, Failure, Output};
use atrn_shared::config::{ConfigErrors, Loaded, reason};
use atrn_shared::tls::Identity;
use clap::Args;
use jiff::{Timestamp, ToSpan};
use nix::unistd::{AccessFlags, access};
use serde::Serialize;

use super::units::{counted, moment, since};
use super::{Call, open, status};

mod accounts;
mod sandbox;

/// Look for mistakes: configuration, secrets, certificate, permissions, ports, queue
///
/// Every problem is printed, one a line. Exits with 78 if the configuration or what it names is wrong, with 1
/// for anything else. Changes nothing, and may be run beside the running relay.
///
/// With --sandbox it puts the sandbox of the settings around itself instead, tries from inside what a captured relay
/// would try, and prints what the kernel said to each: 0 if all of it was refused.
///
/// Example: atrn-relay check
#[derive(Args, Debug)]
pub(super) struct CheckCommand {
    /// Try the sandbox from inside.
    #[arg(long)]
    sandbox: bool,
}

/// Whether something is in order.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// It works, and may surprise.
    Warning,
    /// The relay does not start, or not as it should.
    Problem,
}

/// What one look found.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    result: Verdict,
    text: String,
    #[serde(skip)]
    code: ExitCode,
}

#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl CheckCommand {
    pub(super) fn run(self, call: &Call) -> Result<(), Failure> {
        if self.sandbox {
            return sandbox::run(call);
        }
        let mut findings = Findings::default();
        match RelayConfig::load(&call.config_path) {
            Err(errors) => findings.config_problems("configuration", &errors),
            Ok(loaded) => findings.look(&loaded, &call.config_path),
        }
        findings.show(call.output)
    }
}

impl Findings {
    fn look(&mut self, loaded: &Loaded<RelayConfig>, main: &Path) {
        let config = &loaded.config;
        self.configuration(loaded);
        self.accounts(config);
        self.secrets(config);
        self.certificate(config, Timestamp::now());
        self.data_dir(&config.data_dir);
        self.sandbox(config, main);
        match Client::daemon(&config.data_dir) {
            Err(error) => self.problem("queue", error.to_string()),
            Ok(Some(mut daemon)) => match status::ask(&mut daemon) {
                Ok(status) => self.running(config, &status),
                Err(failure) => self.problem("queue", failure.text),
            },
            Ok(None) => {
                // Before the queue, for which root takes the place of its owner, who may bind less.
                self.ports(config);
                self.queue(config);
            }
        }
    }

    fn configuration(&mut self, loaded: &Loaded<RelayConfig>) {
        let config = &loaded.config;
        self.ok(
            "configuration",
            format!(
                "{}, {} in {}",
                counted(config.domains.len() as u64, "domain", "domains"),
                counted(config.accounts.len() as u64, "account", "accounts"),
                counted(loaded.files.len() as u64, "file", "files"),
            ),
        );
        for warning in &loaded.notes.warnings {
            self.warning("configuration", warning.to_string());
        }
        for file in &loaded.files {
            if fs::metadata(file).is_ok_and(|metadata| metadata.mode() & 0o022 != 0) {
                let path = file.display();
                self.warning(
                    "permissions",
                    format!("{path} can be changed by others; run: chmod go-w {path}"),
                );
            }
        }
        for domain in &config.domains {
            if !config
                .accounts
                .iter()
                .any(|account| account.domains.contains(&domain.name))
            {
                self.warning(
                    "accounts",
                    format!(
                        "{}: no account can pull the mail of {}",
                        domain.place, domain.name
                    ),
                );
            }
        }
    }

    fn secrets(&mut self, config: &RelayConfig) {
        let Ok(decoy_key) = decoy_key() else {
            return self.problem("secrets", "the system gives no random numbers".to_owned());
        };
        match Accounts::load(&config.accounts, decoy_key) {
            Err(errors) => self.config_problems("secrets", &errors),
            Ok(_) => self.ok("secrets", "readable by the relay only".to_owned()),
        }
    }

    fn certificate(&mut self, config: &RelayConfig, now: Timestamp) {
        let Some(files) = &config.tls else {
            return;
        };
        let identity = match Identity::load(&files.certificate, &files.key) {
            Ok(identity) => identity,
            Err(error) => {
                let text = format!("{}: tls: {error}", files.place);
                return self.add("certificate", Verdict::Problem, text, ExitCode::Config);
            }
        };
        let path = files.certificate.display();
        let (begins, ends) = (identity.not_before(), identity.not_after());
        let soon = now + (24 * WARN_DAYS).hours();
        if now < begins {
            self.problem(
                "certificate",
                format!("{path} is not valid before {}", moment(begins)),
            );
        } else if ends <= now {
            self.problem(
                "certificate",
                format!("{path} has expired on {}; renew it", moment(ends)),
            );
        } else if ends <= soon {
            self.warning(
                "certificate",
                format!("{path} expires in {}; renew it", since(now, ends)),
            );
        }
        let host = config.hostname.as_str();
        if !identity.names().iter().any(|name| covers(name, host)) {
            let names = identity.names().join(", ");
            self.warning(
                "certificate",
                format!("{path} is for {names}, not for {host}: pullers must know its pin"),
            );
        }
        self.ok(
            "certificate",
            format!("until {}, pin {}", moment(ends), identity.pin()),
        );
    }

    fn data_dir(&mut self, path: &Path) {
        let shown = path.display();
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return self.missing_data_dir(path);
            }
            Err(error) => return self.problem("data_dir", format!("{shown}: {}", reason(&error))),
        };
        if !metadata.is_dir() {
            return self.problem("data_dir", format!("{shown} is no directory"));
        }
        if access(path, AccessFlags::W_OK | AccessFlags::X_OK).is_err() {
            return self.problem(
                "data_dir",
                format!("{shown} is not writable; it should belong to the relay's user"),
            );
        }
        if metadata.mode() & 0o077 != 0 {
            self.warning(
                "data_dir",
                format!("{shown} is open to others; run: chmod 700 {shown}"),
            );
        }
        self.ok("data_dir", shown.to_string());
    }

    /// The relay makes it, if it may.
    fn missing_data_dir(&mut self, path: &Path) {
        let parent = path.ancestors().skip(1).find(|parent| parent.exists());
        let shown = path.display();
        match parent.map(|parent| access(parent, AccessFlags::W_OK | AccessFlags::X_OK)) {
            Some(Ok(())) => self.ok(
                "data_dir",
                format!("{shown} will be made at the first start"),
            ),
            _ => self.problem(
                "data_dir",
                format!("{shown} does not exist and cannot be made; make it, for the relay's user"),
            ),
        }
    }

    fn ports(&mut self, config: &RelayConfig) {
        let unavailable = atrn_relay::unavailable(config);
        if unavailable.is_empty() {
            self.ok("ports", "free".to_owned());
        }
        for error in unavailable {
            self.problem("ports", error.to_string());
        }
    }

    /// What nobody can send, and no clock ends.
    fn held(&mut self, status: &Status) {
        self.ok("queue", held(status));
        let forgotten = |domain: &&DomainStatus| !domain.configured && domain.total.messages > 0;
        for DomainStatus { total, .. } in status.domains.iter().filter(forgotten) {
            let number = counted(total.messages, "delivery", "deliveries");
            let domain = &total.domain;
            self.warning(
                "queue",
                format!(
                    "{domain} is not configured, so that its {number} will not expire; see `queue list --domain {domain}`"
                ),
            );
        }
    }

    fn running(&mut self, config: &RelayConfig, status: &Status) {
        self.held(status);
        let Some(activity) = &status.activity else {
            return;
        };
        if let Some(error) = &activity.configuration.error {
            self.problem(
                "relay",
                format!(
                    "the running relay refuses its files: {}",
                    error.replace('\n', "; ")
                ),
            );
        }
        let lists = [
            ("smtp.listen", &config.smtp.listen, &activity.listen.smtp),
            ("odmr.listen", &config.odmr.listen, &activity.listen.odmr),
        ];
        for (key, wanted, bound) in lists {
            for address in wanted
                .iter()
                .filter(|address| address.port() != 0 && !bound.contains(address))
            {
                self.problem(
                    "ports",
                    format!(
                        "{key}: the running relay does not listen on {address} yet; restart it"
                    ),
                );
            }
        }
        let pid = status.pid.unwrap_or_default();
        self.ok(
            "relay",
            format!(
                "running for {}, process {pid}",
                since(activity.started_at, Timestamp::now())
            ),
        );
    }

    fn queue(&mut self, config: &RelayConfig) {
        let asked = open(config.clone()).and_then(|mut client| status::ask(&mut client));
        match asked {
            Ok(status) => self.held(&status),
            Err(failure) => self.problem("queue", failure.text),
        }
    }

    fn config_problems(&mut self, check: &'static str, errors: &ConfigErrors) {
        for problem in errors.problems() {
            self.add(
                check,
                Verdict::Problem,
                problem.to_string(),
                ExitCode::Config,
            );
        }
    }

    fn problem(&mut self, check: &'static str, text: String) {
        self.add(check, Verdict::Problem, text, ExitCode::Failed);
    }

    fn warning(&mut self, check: &'static str, text: String) {
        self.add(check, Verdict::Warning, text, ExitCode::Success);
    }

    fn ok(&mut self, check: &'static str, text: String) {
        self.add(check, Verdict::Ok, text, ExitCode::Success);
    }

    fn add(&mut self, check: &'static str, result: Verdict, text: String, code: ExitCode) {
        let text = text.replace('\n', " ");
        self.0.push(Finding {
            check,
            result,
            text,
            code,
        });
    }

    /// What is in order goes to standard output, problems to standard error; as JSON, all to standard output.
    fn show(self, output: Output) -> Result<(), Failure> {
        output.show(&self.0, |findings| {
            let good = findings
                .iter()
                .filter(|finding| finding.result != Verdict::Problem);
            let lines = good.map(|finding| {
                let word = if finding.result == Verdict::Ok {
                    "ok"
                } else {
                    "warning"
                };
                format!("{word:<9}{:<15}{}", finding.check, finding.text)
            });
            lines.collect::<Vec<_>>().join("\n")
        })?;
        let problems: Vec<_> = self
            .0
            .iter()
            .filter(|finding| finding.result == Verdict::Problem)
            .collect();
        let Some(first) = problems.first() else {
            return Ok(());
        };
        let config = problems
            .iter()
            .find(|finding| finding.code == ExitCode::Config);
        let text = match output {
            Output::Json => String::new(),
            Output::Table => problems
                .iter()
                .map(|finding| finding.text.clone())
                .collect::<Vec<_>>()
                .join("\n"),
        };
        Err(Failure::new(config.unwrap_or(first).code, text))
    }
}

fn held(status: &Status) -> String {
    let messages = status
        .domains
        .iter()
        .map(|domain| domain.total.messages)
        .sum();
    counted(messages, "delivery held", "deliveries held")
}

/// Whether a name of a certificate is that of a host; a wildcard stands for one label (RFC 9525 §6.3).
fn covers(name: &str, host: &str) -> bool {
    match name.strip_prefix("*.") {
        Some(parent) => host
            .split_once('.')
            .is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(parent)),
        None => name.eq_ignore_ascii_case(host),
    }
}

/// Time to renew a certificate in.
const WARN_DAYS: i64 = 21;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_stands_for_one_label() {
        for (name, host, expected) in [
            ("mx1.example.net", "mx1.example.net", true),
            ("MX1.example.net", "mx1.example.net", true),
            ("*.example.net", "mx1.example.net", true),
            ("*.example.net", "a.mx1.example.net", false),
            ("*.example.net", "example.net", false),
            ("mx2.example.net", "mx1.example.net", false),
        ] {
            assert_eq!(covers(name, host), expected, "{name} {host}");
        }
    }

    #[test]
    fn the_exit_code_is_that_of_the_configuration_first() {
        let code = |codes: &[ExitCode]| {
            let mut findings = Findings::default();
            findings.ok("x", String::new());
            for code in codes {
                findings.add("x", Verdict::Problem, String::new(), *code);
            }
            findings
                .show(Output::Table)
                .map_or_else(|failure| failure.code, |()| ExitCode::Success)
        };
        assert_eq!(code(&[]), ExitCode::Success);
        assert_eq!(code(&[ExitCode::Failed]), ExitCode::Failed);
        assert_eq!(
            code(&[ExitCode::Failed, ExitCode::Config]),
            ExitCode::Config
        );
    }
}
