//! `account`: who may pull.

use std::path::PathBuf;

use atrn_relay::accounts::{self, AccountError, CramMd5, NewAccount, State};
use atrn_relay::config::{AccountConfig, OdmrTls, RelayConfig};
use atrn_relay::fragments::Fragments;
use atrn_relay::guessable::is_guessable;
use atrn_shared::cli::{Destructive, ExitCode, Failure, Output, Table, confirm};
use atrn_shared::secret::Secret;
use atrn_shared::smtp::address::Domain;
use atrn_shared::tls::{Identity, SpkiPin};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::apply::{Applied, apply};
use super::{Call, units};

/// The accounts of pullers
#[derive(Debug, Subcommand)]
pub(super) enum AccountCommand {
    Add(Add),
    List(List),
    Rotate(Rotate),
    /// Refuse an account's pulls, for now; its mail is held meanwhile
    ///
    /// Example: atrn-relay account disable corp
    Disable(Named),
    /// Let a disabled account pull again
    ///
    /// Example: atrn-relay account enable corp
    Enable(Named),
    Remove(Remove),
}

/// Add an account, and print its new secret once, with the lines for puller.toml
///
/// Only a verifier of the secret is kept here, so it cannot be shown again; `account rotate` makes another.
///
/// Example: atrn-relay account add corp --domain example.com --domain example.org
#[derive(Args, Debug)]
pub(super) struct Add {
    /// The account's name.
    name: String,

    /// Whose mail it may pull; may be repeated.
    #[arg(long = "domain", value_name = "DOMAIN", value_parser = units::remote_domain, required = true)]
    domains: Vec<Domain>,

    /// Let it log in by CRAM-MD5 too, for which the secret itself is kept here, in a file of its own.
    #[arg(long, conflicts_with = "no_secret")]
    cram_md5: bool,

    /// The pin of a client certificate that it may log in with (sha256/…); may be repeated.
    #[arg(long = "pin", value_name = "PIN")]
    pins: Vec<SpkiPin>,

    /// Take the secret from a file's one line instead of making one.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,

    /// No secret: it logs in by certificate only.
    #[arg(long, requires = "pins", conflicts_with = "secret_file")]
    no_secret: bool,

    /// Send every line in a TLS record of its own, as fetchmail with `ssl` needs.
    #[arg(long)]
    line_records: bool,

    /// Take a name that attackers try first (admin, test, info …) all the same.
    #[arg(long)]
    force: bool,
}

/// List the accounts and how they log in
#[derive(Args, Debug)]
pub(super) struct List {}

/// Give an account a new secret, and print it once; the old one is void at once
///
/// Example: atrn-relay account rotate corp
#[derive(Args, Debug)]
pub(super) struct Rotate {
    /// The account.
    name: String,

    /// Take the secret from a file's one line instead of making one.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(super) struct Named {
    /// The account.
    name: String,
}

/// Remove an account; the mail of its domains stays
///
/// Example: atrn-relay account remove corp
#[derive(Args, Debug)]
pub(super) struct Remove {
    /// The account.
    name: String,

    #[command(flatten)]
    destructive: Destructive,
}

/// What `add` and `rotate` print as JSON.
#[derive(Serialize)]
struct Made<'m> {
    account: &'m str,
    domains: &'m [Domain],
    /// Null where it was given, not made.
    secret: Option<&'m str>,
    puller_toml: &'m str,
    applied: Applied,
}

/// What other changes print as JSON.
#[derive(Serialize)]
struct Changed<'c> {
    account: &'c str,
    change: &'static str,
    applied: Applied,
}

/// A line of the list.
#[derive(Serialize)]
struct Shown<'s> {
    account: &'s str,
    domains: &'s [Domain],
    login: Vec<&'static str>,
    certificate_pins: Vec<String>,
    disabled: bool,
    place: String,
}

/// The two ends of one change.
struct Files<'f> {
    call: &'f Call,
    config: &'f RelayConfig,
    fragments: Fragments,
}

impl AccountCommand {
    pub(super) fn run(self, call: &Call) -> Result<(), Failure> {
        let config = &call.config()?;
        let fragments = call.fragments(config)?;
        let files = Files {
            call,
            config,
            fragments,
        };
        match self {
            Self::Add(command) => command.run(&files),
            Self::List(List {}) => list(call, config),
            Self::Rotate(command) => command.run(&files),
            Self::Disable(command) => command.run(&files, State::Disabled),
            Self::Enable(command) => command.run(&files, State::Enabled),
            Self::Remove(command) => command.run(&files),
        }
    }
}

/// A secret, and whether it was made here and so must be shown.
struct Chosen {
    secret: Option<Secret>,
    made: bool,
}

impl Chosen {
    fn from(file: Option<&PathBuf>) -> Result<Self, Failure> {
        let (secret, made) = match file {
            Some(path) => (
                Secret::from_file(path).map_err(|error| Failure::failed(error.to_string()))?,
                false,
            ),
            None => (Secret::random(), true),
        };
        Ok(Self {
            secret: Some(secret),
            made,
        })
    }

    fn to_show(&self) -> Option<&str> {
        self.secret
            .as_ref()
            .filter(|_| self.made)
            .map(Secret::expose)
    }
}

impl Add {
    fn run(self, files: &Files<'_>) -> Result<(), Failure> {
        if is_guessable(&self.name) && !self.force {
            return Err(Failure::failed(format!(
                "{} is a name that attackers try first; choose another, or take it all the same with --force",
                self.name
            )));
        }
        let chosen = if self.no_secret {
            Chosen {
                secret: None,
                made: false,
            }
        } else {
            Chosen::from(self.secret_file.as_ref())?
        };
        let new = NewAccount {
            name: self.name.clone(),
            domains: self.domains.clone(),
            secret: chosen.secret.clone(),
            cram_md5: if self.cram_md5 {
                CramMd5::Allowed
            } else {
                CramMd5::No
            },
            certificate_pins: self.pins,
            line_records: self.line_records,
        };
        let file =
            accounts::add(&files.fragments, files.config, new).map_err(|error| failure(&error))?;
        // The file is ours, so what is wrong in it came from the command line: it does not stay.
        if let Err(errors) = RelayConfig::load(&files.call.config_path) {
            let _ = files.fragments.remove_account(&self.name);
            return Err(errors.into());
        }
        let first = format!("Added account {} in {}.", self.name, file.display());
        files.show_secret(&self.name, &self.domains, &chosen, &first)
    }
}

impl Rotate {
    fn run(self, files: &Files<'_>) -> Result<(), Failure> {
        let account = files.account(&self.name)?;
        let chosen = Chosen::from(self.secret_file.as_ref())?;
        if let Some(secret) = &chosen.secret {
            accounts::rotate(&files.fragments, files.config, &self.name, secret)
                .map_err(|error| failure(&error))?;
        }
        let first = format!(
            "Account {} has a new secret; the old one is void.",
            self.name
        );
        files.show_secret(&self.name, &account.domains, &chosen, &first)
    }
}

impl Named {
    fn run(self, files: &Files<'_>, state: State) -> Result<(), Failure> {
        let changed = accounts::set_state(&files.fragments, files.config, &self.name, state)
            .map_err(|error| failure(&error))?;
        let word = match state {
            State::Disabled => "disabled",
            State::Enabled => "enabled",
        };
        let was = if changed { "is" } else { "was already" };
        let applied = apply(&files.config.data_dir)?;
        let text = format!("Account {} {was} {word}.", self.name);
        files.show_change(&self.name, word, applied, &text)
    }
}

impl Remove {
    fn run(self, files: &Files<'_>) -> Result<(), Failure> {
        let name = &self.name;
        let account = files.account(name)?;
        files
            .fragments
            .check_account_is_ours(name, &account.place)
            .map_err(|error| failure(&error.into()))?;
        if self.destructive.dry_run {
            let text = format!("Would remove account {name}; the mail of its domains would stay.");
            return files.show_change(name, "removed", Applied::DryRun, &text);
        }
        let question = format!("Remove account {name}? The mail of its domains stays.");
        if !confirm(&question, self.destructive)? {
            return Err(Failure::failed("nothing was changed"));
        }
        accounts::remove(&files.fragments, files.config, name).map_err(|error| failure(&error))?;
        let applied = apply(&files.config.data_dir)?;
        let text = format!("Removed account {name}.");
        files.show_change(name, "removed", applied, &text)
    }
}

impl Files<'_> {
    fn account(&self, name: &str) -> Result<&AccountConfig, Failure> {
        let unknown = || failure(&AccountError::Unknown(name.to_owned()));
        self.config.account(name).ok_or_else(unknown)
    }

    /// The secret is printed whatever the daemon says: it could not be shown again.
    fn show_secret(
        &self,
        name: &str,
        domains: &[Domain],
        chosen: &Chosen,
        first: &str,
    ) -> Result<(), Failure> {
        let applied = apply(&self.config.data_dir);
        let puller_toml = puller_toml(self.config, name, domains, chosen.secret.is_some());
        let made = Made {
            account: name,
            domains,
            secret: chosen.to_show(),
            puller_toml: &puller_toml,
            applied: *applied.as_ref().unwrap_or(&Applied::Pending),
        };
        self.call.output.show(&made, |made| {
            let mut text = format!("{first}\n\n");
            if let Some(secret) = made.secret {
                text += &format!("Secret, shown this once:\n  {secret}\n\n");
            }
            text + "For puller.toml on the other side:\n\n" + made.puller_toml
        })?;
        self.tell(applied)
    }

    fn show_change(
        &self,
        account: &str,
        change: &'static str,
        applied: Applied,
        text: &str,
    ) -> Result<(), Failure> {
        let changed = Changed {
            account,
            change,
            applied,
        };
        self.call.output.show(&changed, |_| text.to_owned())?;
        self.tell(Ok(applied))
    }

    fn tell(&self, applied: Result<Applied, Failure>) -> Result<(), Failure> {
        let applied = applied?;
        if self.call.output == Output::Table {
            applied.tell();
        }
        Ok(())
    }
}

/// The lines that the other side needs. Nothing in them needs escaping: names, domains, base64.
fn puller_toml(
    config: &RelayConfig,
    account: &str,
    domains: &[Domain],
    has_secret: bool,
) -> String {
    let host = &config.hostname;
    let short = host.as_str().split('.').next().unwrap_or_default();
    let address = odmr_address(config);
    let tls = match config.odmr.tls {
        OdmrTls::Implicit => "implicit",
        OdmrTls::StartTls | OdmrTls::Optional => "starttls",
        OdmrTls::Off => "off",
    };
    let domains: Vec<_> = domains
        .iter()
        .map(|domain| format!("\"{domain}\""))
        .collect();
    let mut text =
        format!("[[relay]]\nname = \"{short}\"\naddress = \"{address}\"\ntls = \"{tls}\"\n");
    match (config.odmr.tls, pin(config)) {
        (OdmrTls::Off, _) => {}
        (_, Some(pin)) => text += &format!("pin = \"{pin}\"\n"),
        (_, None) => {
            text += "# pin: the relay's certificate cannot be read; see `atrn-relay check`\n"
        }
    }
    text += &format!("account = \"{account}\"\n");
    text += &if has_secret {
        format!("secret_file = \"{short}.secret\"  # the secret, alone in a file with mode 600\n")
    } else {
        format!(
            "certificate = \"{short}.crt\"  # the client certificate of the pin, and its key\nkey = \"{short}.key\"\n"
        )
    };
    text + &format!("domains = [{}]\n", domains.join(", "))
}

/// Where pullers connect: the relay's name, unless it listens on loopback only.
fn odmr_address(config: &RelayConfig) -> String {
    let listen = &config.odmr.listen;
    if let Some(first) = listen.first()
        && listen.iter().all(|address| address.ip().is_loopback())
    {
        return first.to_string();
    }
    let mut ports = listen.iter().map(|address| address.port());
    let port = ports.find(|port| *port != 0).unwrap_or(ODMR_PORT);
    format!("{}:{port}", config.hostname)
}

fn pin(config: &RelayConfig) -> Option<SpkiPin> {
    let files = config.tls.as_ref()?;
    Identity::load(&files.certificate, &files.key)
        .ok()
        .map(|identity| identity.pin())
}

fn list(call: &Call, config: &RelayConfig) -> Result<(), Failure> {
    let shown: Vec<_> = config.accounts.iter().map(Shown::of).collect();
    call.output.show(&shown, |shown| {
        if shown.is_empty() {
            let again = call.again();
            return format!("No accounts; add one: {again} account add corp --domain example.com");
        }
        let mut table = Table::new(&["account", "domains", "login", "state", "configured in"]);
        for account in shown {
            let names: Vec<_> = account.domains.iter().map(ToString::to_string).collect();
            table.row([
                account.account.to_owned(),
                names.join(" "),
                account.login.join(" "),
                if account.disabled {
                    "disabled"
                } else {
                    "enabled"
                }
                .to_owned(),
                account.place.clone(),
            ]);
        }
        table.to_string()
    })
}

impl<'s> Shown<'s> {
    fn of(account: &'s AccountConfig) -> Self {
        let ways = [
            (account.scram_sha_256.is_some(), "secret"),
            (account.cram_md5_secret_file.is_some(), "cram-md5"),
            (!account.certificate_pins.is_empty(), "certificate"),
        ];
        let login = ways.into_iter().filter(|(has, _)| *has).map(|(_, way)| way);
        Self {
            account: &account.name,
            domains: &account.domains,
            login: login.collect(),
            certificate_pins: account
                .certificate_pins
                .iter()
                .map(ToString::to_string)
                .collect(),
            disabled: account.disabled,
            place: account.place.to_string(),
        }
    }
}

fn failure(error: &AccountError) -> Failure {
    Failure::from_error(ExitCode::Failed, error)
}

/// RFC 2645 §3.
const ODMR_PORT: u16 = 366;
