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
        let watched = WatchedFiles::about_to_read(path);
        let loaded = RelayConfig::load(path)?;
        let config = loaded.config;
        let watched = watched.with_named(config.named_files());
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use atrn_shared::smtp::address::Domain;
    use tempfile::TempDir;

    use super::*;
    use crate::accounts::decoy_key;
    use crate::certificate::self_signed;

    const MAIN: &str =
        "hostname = \"mx1.example.net\"\n[tls]\ncertificate = \"relay.crt\"\nkey = \"relay.key\"\n";
    const DOMAIN: &str = "[[domain]]\nname = \"example.com\"\n";

    struct Setup {
        directory: TempDir,
    }

    impl Setup {
        fn new() -> Self {
            let setup = Self {
                directory: tempfile::tempdir().unwrap(),
            };
            setup.write("relay.toml", &format!("{MAIN}{DOMAIN}"));
            setup.renew_certificate();
            setup
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn write(&self, name: &str, text: &str) {
            let aside = self.path(".aside");
            fs::write(&aside, text).unwrap();
            fs::set_permissions(&aside, fs::Permissions::from_mode(0o600)).unwrap();
            fs::rename(aside, self.path(name)).unwrap();
        }

        fn renew_certificate(&self) {
            let made = self_signed(&Domain::parse("mx1.example.net").unwrap()).unwrap();
            self.write("relay.key", &made.key);
            self.write("relay.crt", &made.certificate);
        }

        fn load(&self) -> Result<Settings, String> {
            let prefix = format!("{}/", self.directory.path().display());
            let loaded = Settings::load(&self.path("relay.toml"), decoy_key().unwrap());
            loaded.map_err(|errors| errors.to_string().replace(&prefix, ""))
        }
    }

    #[test]
    fn files_that_are_named_and_of_no_use_are_all_said() {
        let setup = Setup::new();
        let account = "[[account]]\nname = \"corp\"\ndomains = [\"example.com\"]\ncram_md5_secret_file = \"corp.secret\"\n";
        setup.write("relay.toml", &format!("{MAIN}{DOMAIN}{account}"));
        fs::set_permissions(setup.path("relay.key"), fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(
            setup.load().unwrap_err(),
            "relay.toml:3: tls: relay.key is readable by others; run: chmod 600 relay.key\n\
             relay.toml:8: cram_md5_secret_file: cannot read corp.secret: No such file or directory"
        );
    }

    #[test]
    fn changes_are_named() {
        let setup = Setup::new();
        let old = setup.load().unwrap();
        setup.write(
            "relay.toml",
            &format!("\n{MAIN}{DOMAIN}[[domain]]\nname = \"b.example\"\n"),
        );
        let new = setup.load().unwrap();
        let name = |domain: &DomainConfig| domain.name.to_string();
        let names = |old: &Settings, new: &Settings| {
            difference(&old.config.domains, &new.config.domains, |domain| {
                domain.name.as_str()
            })
        };
        assert_eq!(
            new.config.domains.iter().map(name).collect::<Vec<_>>(),
            ["b.example", "example.com"]
        );
        assert_eq!(names(&old, &new), "+b.example");
        assert_eq!(names(&new, &old), "-b.example");
        setup.write("relay.toml", &format!("{MAIN}{DOMAIN}hold_for = \"1h\"\n"));
        assert_eq!(names(&old, &setup.load().unwrap()), "~example.com");
    }

    /// What a reload gets: all of the new settings, or the name of the broken file. Never a part.
    #[test]
    fn a_broken_file_is_named_and_a_mended_one_taken() {
        let setup = Setup::new();
        let first = setup.load().unwrap();
        fs::create_dir(setup.path("conf.d")).unwrap();
        setup.write(
            "conf.d/domain-b.example.toml",
            "[[domain]]\nname = \"b.example\"\n",
        );
        setup.write("conf.d/broken.toml", "[[domain]]\nname = 5\n");
        assert_eq!(
            setup.load().unwrap_err(),
            "conf.d/broken.toml:2: name: 5 is not a text; put it in quotes"
        );
        setup.write("conf.d/broken.toml", "[[domain]]\nname = \"c.example\"\n");
        assert_eq!(setup.load().unwrap().config.domains.len(), 3);

        let pin = |settings: &Settings| settings.tls.as_ref().unwrap().identity.pin();
        assert_eq!(pin(&setup.load().unwrap()), pin(&first));
        setup.renew_certificate();
        assert_ne!(pin(&setup.load().unwrap()), pin(&first));
    }
}
