//! `init`: a first configuration and certificate.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use atrn_relay::certificate::self_signed;
use atrn_relay::config::{DATA_DIR_DEFAULT, RelayConfig};
use atrn_relay::fragments::{Fragments, NewDomain, make_directory};
use atrn_shared::cli::{ExitCode, Failure};
use atrn_shared::config::reason;
use atrn_shared::smtp::address::Domain;
use atrn_shared::tls::{Identity, SpkiPin};
use clap::Args;
use serde::Serialize;

use super::{Call, units};

/// Make a first configuration and a self-signed certificate, and print its pin
///
/// Nothing is overwritten. With --dir everything lives in that directory and listens on loopback, at ports
/// that need no root: for a try-out.
///
/// Example: atrn-relay init --dir ~/relay --hostname mx1.example.net --domain example.com
#[derive(Args, Debug)]
pub(super) struct InitCommand {
    /// Put configuration, certificate and queue here (default: beside --config, and /var/lib/atrn-relay).
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// The relay's name on the Internet (default: this host's).
    #[arg(long, value_name = "NAME", value_parser = Domain::parse)]
    hostname: Option<Domain>,

    /// Accept mail for this domain; may be repeated.
    #[arg(long = "domain", value_name = "DOMAIN", value_parser = units::remote_domain)]
    domains: Vec<Domain>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Made<'m> {
    hostname: &'m Domain,
    certificate: &'m Path,
    pin: String,
    config: &'m Path,
}

/// The files of a set-up.
struct Files {
    config: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl InitCommand {
    pub(super) fn run(self, call: &Call) -> Result<(), Failure> {
        let hostname = self.hostname.clone().map_or_else(own_name, Ok)?;
        let files = self.files(call)?;
        let pin = make(&files, &hostname, &self.text(&hostname))?;
        add_domains(&files.config, &self.domains)?;
        let made = Made {
            hostname: &hostname,
            certificate: &files.certificate,
            pin: pin.to_string(),
            config: &files.config,
        };
        let call = Call {
            config_path: files.config.clone(),
            ..*call
        };
        call.output.show(&made, |made| {
            let key = files.key.display().to_string();
            describe(made, &key, &self.domains, &call.again())
        })
    }

    fn files(&self, call: &Call) -> Result<Files, Failure> {
        let config = match &self.dir {
            Some(dir) => dir.join("relay.toml"),
            None => call.config_path.clone(),
        };
        // What is printed is for other commands, which may be run elsewhere.
        let config = std::path::absolute(&config).map_err(|error| cannot_write(&config, &error))?;
        Ok(Files {
            certificate: config.with_file_name("relay.crt"),
            key: config.with_file_name("relay.key"),
            config,
        })
    }

    /// Only what one is likely to change; all else has a default, which the documentation lists.
    fn text(&self, hostname: &Domain) -> String {
        let (data_dir, smtp, odmr) = if self.dir.is_some() {
            ("data", "\"127.0.0.1:2525\"", "\"127.0.0.1:2366\"")
        } else {
            (
                DATA_DIR_DEFAULT,
                "\"0.0.0.0:25\", \"[::]:25\"",
                "\"0.0.0.0:366\", \"[::]:366\"",
            )
        };
        format!(
            r#"# Made by `atrn-relay init`. Every other setting has a default; docs/configuration.md lists them all.
# Domains and accounts: `atrn-relay domain add`, `atrn-relay account add` (they write conf.d/ beside this file).
# The running relay takes changes over by itself; `atrn-relay check` finds mistakes beforehand.

hostname = "{hostname}"  # in the banner, EHLO and Received
data_dir = "{data_dir}"  # the queue

[smtp]  # senders on the Internet
listen = [{smtp}]

[odmr]  # pullers
listen = [{odmr}]

[tls]  # paths are relative to this file; pullers know the certificate by its pin
certificate = "relay.crt"
key = "relay.key"
"#
        )
    }
}

/// The name that the system has for itself, if it can stand in a banner.
fn own_name() -> Result<Domain, Failure> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    let domain = Domain::parse(name).ok();
    domain.filter(|domain| domain.labels() > 1).ok_or_else(|| {
        Failure::new(
            ExitCode::Usage,
            format!("this host calls itself {name:?}, which is no full name; use --hostname mx1.example.net"),
        )
    })
}

/// Writes all files, or none: what was made before something failed is taken away again.
fn make(files: &Files, hostname: &Domain, text: &str) -> Result<SpkiPin, Failure> {
    let all = [&files.config, &files.certificate, &files.key];
    if let Some(existing) = all.into_iter().find(|path| path.exists()) {
        return Err(Failure::failed(format!(
            "{} exists already; nothing was changed; choose another --dir or move it away",
            existing.display()
        )));
    }
    let made = self_signed(hostname)
        .map_err(|error| Failure::failed(format!("cannot make a certificate: {error}")))?;
    let contents = [
        (&files.key, made.key.as_str(), 0o600),
        (&files.certificate, made.certificate.as_str(), 0o644),
        // Last: where it is, a set-up is complete.
        (&files.config, text, 0o644),
    ];
    let mut written = Vec::new();
    for (path, content, mode) in contents {
        if let Err(error) = write_new(path, content, mode) {
            for path in written {
                let _ = fs::remove_file(path);
            }
            return Err(cannot_write(path, &error));
        }
        written.push(path);
    }
    let identity = Identity::load(&files.certificate, &files.key);
    identity
        .map(|identity| identity.pin())
        .map_err(|error| Failure::failed(error.to_string()))
}

fn write_new(path: &Path, content: &str, mode: u32) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        make_directory(directory)?;
    }
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(mode).open(path)?;
    // Whatever root's umask is, the relay's user has to read them.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(content.as_bytes())?;
    file.sync_all()
}

fn add_domains(config_path: &Path, domains: &[Domain]) -> Result<(), Failure> {
    for name in domains {
        let config = RelayConfig::load(config_path)?.config;
        if config.domain(name).is_some() {
            continue;
        }
        let new = NewDomain {
            name: name.clone(),
            hold_for: None,
            max_queue_size: None,
            max_queue_messages: None,
        };
        Fragments::beside(config_path, &config.data_dir, None)
            .add_domain(&config, &new)
            .map_err(|error| Failure::from_error(ExitCode::Failed, &error))?;
    }
    Ok(())
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!(
        "cannot write {}: {}",
        path.display(),
        reason(error)
    ))
}

fn describe(made: &Made<'_>, key: &str, domains: &[Domain], again: &str) -> String {
    let mut text = format!(
        "Made  {}\n      {}  (self-signed, for {})\n      {key}  (keep it secret)\n\n\
         Pin, for puller.toml:\n  {}\n\nNext:\n",
        made.config.display(),
        made.certificate.display(),
        made.hostname,
        made.pin,
    );
    let domain = domains.first().map_or("example.com", Domain::as_str);
    if domains.is_empty() {
        text += &format!("  {again} domain add {domain}\n");
    }
    text +=
        &format!("  {again} account add corp --domain {domain}\n  {again} check\n  {again} run\n");
    text
}
