//! `init`: the first configuration.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use atrn_shared::cli::{Common, Failure};
use atrn_shared::config::Address;
use atrn_shared::odmr::PORT;
use atrn_shared::smtp::address::Domain;
use atrn_shared::tls::SpkiPin;
use clap::Args;
use serde::Serialize;

use crate::config::PullerConfig;

/// Write a first configuration, and an empty file for the account's secret
///
/// Example: atrn-puller init --dir /etc/atrn-puller --relay mx1.example.net --pin sha256/… --account corp
/// --domain example.com --handover smtp://mail.example.com
#[derive(Args, Debug)]
pub(super) struct InitCommand {
    /// The directory of puller.toml; that of --config unless it is named.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// The name that this puller gives itself.
    #[arg(long, value_name = "NAME", value_parser = Domain::parse)]
    hostname: Option<Domain>,

    /// The relay's ODMR listener.
    #[arg(long, value_name = "HOST:PORT", default_value = "mx1.example.net:366", value_parser = parse_relay)]
    relay: Address,

    /// The relay's pin, as `atrn-relay init` prints it; without it the system's roots are trusted.
    #[arg(long, value_name = "PIN")]
    pin: Option<SpkiPin>,

    /// The account at the relay.
    #[arg(long, value_name = "NAME", default_value = "corp")]
    account: String,

    /// A domain to pull; may be given several times.
    #[arg(long, value_name = "DOMAIN", value_parser = Domain::parse)]
    domain: Vec<Domain>,

    /// Where mail goes: smtp:// smtps:// lmtp:// lmtp+unix:/path maildir:/path
    #[arg(long, value_name = "TARGET", default_value = "smtp://localhost:25")]
    handover: String,

    /// Where the journal is, and what `status` shows; with --dir it is `data` beside puller.toml unless it is named.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// What was made.
#[derive(Serialize)]
struct Made {
    config: PathBuf,
    hostname: String,
    secret_file: PathBuf,
}

/// As the lines name it that `atrn-relay account add` prints for this side.
const SECRET_FILE: &str = "mx1.secret";

fn parse_relay(text: &str) -> Result<Address, String> {
    Address::parse(text, PORT)
}

impl InitCommand {
    pub(super) fn run(&self, common: &Common) -> Result<(), Failure> {
        let config = match &self.dir {
            Some(folder) => folder.join("puller.toml"),
            None => common.config(),
        };
        let folder = config.parent().map(Path::to_path_buf).unwrap_or_default();
        let made = Made {
            hostname: self.hostname().to_string(),
            secret_file: folder.join(SECRET_FILE),
            config,
        };
        let failed = |path: &Path, error: io::Error| {
            Failure::failed(format!("cannot write {}: {error}", path.display()))
        };
        fs::create_dir_all(&folder).map_err(|error| failed(&folder, error))?;
        if made.config.exists() {
            let text = format!(
                "{} is there already; remove it, or name another --dir",
                made.config.display()
            );
            return Err(Failure::failed(text));
        }
        write_new(&made.config, &self.text(&made)).map_err(|error| failed(&made.config, error))?;
        // What was written must be what `run` can read; a value that is wrong is named and the file taken back.
        if let Err(errors) = PullerConfig::load(&made.config) {
            let _ = fs::remove_file(&made.config);
            return Err(errors.into());
        }
        if !made.secret_file.exists() {
            write_new(&made.secret_file, "").map_err(|error| failed(&made.secret_file, error))?;
        }
        common.output().show(&made, next_steps)
    }

    /// The system's own name, where nothing else is said and it is one that SMTP can use.
    fn hostname(&self) -> Domain {
        let system = || {
            nix::unistd::gethostname()
                .ok()
                .and_then(|name| Domain::parse(&name.to_string_lossy()).ok())
        };
        let fallback = || Domain::parse("puller.localdomain").ok();
        self.hostname
            .clone()
            .or_else(system)
            .or_else(fallback)
            .unwrap_or_else(|| self.domains()[0].clone())
    }

    fn domains(&self) -> Vec<Domain> {
        if self.domain.is_empty() {
            Domain::parse("example.com").into_iter().collect()
        } else {
            self.domain.clone()
        }
    }

    /// All in one directory, where one is named; `None`: the default.
    fn data_dir(&self) -> Option<&Path> {
        let beside = self.dir.as_ref().map(|_| Path::new("data"));
        self.data_dir.as_deref().or(beside)
    }

    fn text(&self, made: &Made) -> String {
        let quote = |text: &str| toml_string(text);
        let domains: Vec<_> = self
            .domains()
            .iter()
            .map(|domain| quote(domain.as_str()))
            .collect();
        let mut text = String::new();
        // Writing into memory can not fail.
        let _ = writeln!(
            text,
            "# atrn-puller: every key is explained in docs/configuration.md.\n"
        );
        let _ = writeln!(text, "hostname = {}", quote(&made.hostname));
        if let Some(data_dir) = self.data_dir() {
            let _ = writeln!(text, "data_dir = {}", quote(&data_dir.to_string_lossy()));
        }
        let _ = writeln!(
            text,
            "\n[[relay]]\nname = \"mx1\"\naddress = {}",
            quote(&self.relay.to_string())
        );
        match &self.pin {
            Some(pin) => {
                let _ = writeln!(text, "pin = {}", quote(&pin.to_string()));
            }
            None => {
                text += "# pin = \"sha256/…\"                # as `atrn-relay init` prints it; without it the system's roots are trusted\n"
            }
        }
        let _ = writeln!(
            text,
            "account = {}\nsecret_file = {}",
            quote(&self.account),
            quote(SECRET_FILE)
        );
        let _ = writeln!(
            text,
            "domains = [{}]\nmode = \"instant\"  # mail comes as it arrives; \"poll\" asks for it every 5 minutes",
            domains.join(", ")
        );
        let _ = writeln!(text, "\n[handover]\ntarget = {}", quote(&self.handover));
        text
    }
}

/// A basic string of TOML.
fn toml_string(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(control));
            }
            other => quoted.push(other),
        }
    }
    quoted + "\""
}

/// Readable by its owner only, and never over a file that is there.
fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())
}

fn next_steps(made: &Made) -> String {
    let (config, secret) = (made.config.display(), made.secret_file.display());
    format!(
        "wrote {config}\n\nnext:\n  put the account's secret, which `atrn-relay account add` printed, into {secret}\n  \
         atrn-puller -c {config} check\n  atrn-puller -c {config} run"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_quoted() {
        for (text, expected) in [
            ("a", r#""a""#),
            (r#"a"b\"#, r#""a\"b\\""#),
            ("a\nb", r#""a\u000ab""#),
            ("ö", "\"ö\""),
        ] {
            assert_eq!(toml_string(text), expected);
        }
    }
}
