//! Everything that the daemon runs by, loaded as one: the configuration and what it names.
//!
//! Either all of it is good or none of it is used. So a reload that fails leaves the running daemon as it was.

use std::path::Path;

use atrn_shared::config::{ConfigErrors, Notes, Problem, WatchedFiles};
use atrn_shared::sasl::DecoyKey;
use atrn_shared::tls::{ClientCertificates, Identity, ServerTls};
use tracing::{info, warn};

use crate::accounts::Accounts;
use crate::config::{AccountConfig, DomainConfig, RelayConfig, TlsFiles};

/// The settings in force. Kept in a [`Live`](atrn_shared::config::Live); a session keeps the snapshot that it began with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The configuration.
    pub config: RelayConfig,
    /// Accounts with their secrets.
    pub accounts: Accounts,
    /// TLS of the two listeners; `None` only where `odmr.tls` is off and no certificate is named.
    pub tls: Option<ListenerTls>,
    /// Warnings, and what differs from the defaults.
    pub notes: Notes,
    watched: WatchedFiles,
}

/// TLS of the two listeners, under the same certificate.
#[derive(Clone, Debug)]
pub struct ListenerTls {
    /// The Internet side: clients are not asked for a certificate.
    pub edge: ServerTls,
    /// The pullers' side: they may show one (AUTH EXTERNAL).
    pub provider: ServerTls,
    /// The certificate itself.
    pub identity: Identity,
}

impl Settings {
    /// Loads the configuration and every file that it names.
    ///
    /// # Errors
    /// Every problem.
    pub fn load(path: &Path, decoy_key: DecoyKey) -> Result<Self, ConfigErrors> {
        let loaded = RelayConfig::load(path)?;
        let config = loaded.config;
        let accounts = Accounts::load(&config.accounts, decoy_key);
        let tls = config.tls.as_ref().map(load_tls).transpose();
        let (accounts, tls) = match (accounts, tls) {
            (Ok(accounts), Ok(tls)) => (accounts, tls),
            (accounts, tls) => {
                let errors = [accounts.err(), tls.err()];
                let problems = errors
                    .iter()
                    .flatten()
                    .flat_map(|errors| errors.problems().to_vec());
                return Err(ConfigErrors::new(problems.collect()));
            }
        };
        let watched = WatchedFiles {
            main: path.to_path_buf(),
            named: config.named_files(),
        };
        Ok(Self {
            config,
            accounts,
            tls,
            notes: loaded.notes,
            watched,
        })
    }

    /// What to watch for changes.
    #[must_use]
    pub fn watched_files(&self) -> WatchedFiles {
        self.watched.clone()
    }

    /// Logs what changes from these settings to new ones, and what must wait for a restart.
    pub fn log_changes(&self, new: &Self) {
        let domains = difference(&self.config.domains, &new.config.domains, |domain| {
            domain.name.as_str()
        });
        let accounts = difference(&self.config.accounts, &new.config.accounts, |account| {
            &account.name
        });
        let certificate = self.tls.as_ref().map(|tls| tls.identity.leaf())
            != new.tls.as_ref().map(|tls| tls.identity.leaf());
        info!(domains, accounts, certificate, "configuration reloaded");
        new.notes.log_warnings();
        for key in self.config.needs_restart(&new.config) {
            warn!(key, "changed, but takes effect at the next start only");
        }
    }
}

fn load_tls(files: &TlsFiles) -> Result<ListenerTls, ConfigErrors> {
    let problem = |text: String| ConfigErrors::from(Problem::with_key(&files.place, "tls", text));
    let identity = Identity::load(&files.certificate, &files.key)
        .map_err(|error| problem(error.to_string()))?;
    let server = |certificates| {
        ServerTls::new(&identity, certificates).map_err(|error| problem(error.to_string()))
    };
    Ok(ListenerTls {
        edge: server(ClientCertificates::Ignored)?,
        provider: server(ClientCertificates::Requested)?,
        identity,
    })
}

/// `+added ~changed -removed`, by name.
fn difference<T: Unplaced>(old: &[T], new: &[T], name: impl Fn(&T) -> &str) -> String {
    let find =
        |items: &'_ [T], wanted: &T| items.iter().position(|item| name(item) == name(wanted));
    let mut words = Vec::new();
    for item in new {
        match find(old, item) {
            None => words.push(format!("+{}", name(item))),
            Some(index) if !old[index].equals(item) => words.push(format!("~{}", name(item))),
            Some(_) => {}
        }
    }
    words.extend(
        old.iter()
            .filter(|item| find(new, item).is_none())
            .map(|item| format!("-{}", name(item))),
    );
    words.join(" ")
}

/// Equality but for the line in the file, which shifts when another is edited above.
trait Unplaced {
    fn equals(&self, other: &Self) -> bool;
}

impl Unplaced for DomainConfig {
    fn equals(&self, other: &Self) -> bool {
        *self
            == Self {
                place: self.place.clone(),
                ..other.clone()
            }
    }
}

impl Unplaced for AccountConfig {
    fn equals(&self, other: &Self) -> bool {
        *self
            == Self {
                place: self.place.clone(),
                ..other.clone()
            }
    }
}
