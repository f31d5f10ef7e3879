//! The files that the command line keeps in `conf.d`: `domain-NAME.toml`, `account-NAME.toml`, `account-NAME.secret`.
//!
//! Each is replaced in one step (written aside, synced, renamed), so that the daemon, which may read at any
//! moment, sees the old file or the new one. A file that a person wrote is never touched.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use atrn_shared::config::{Place, show_duration, show_size, sole_table};
use atrn_shared::sandbox::Account;
use atrn_shared::secret::Secret;
use atrn_shared::smtp::address::Domain;

use crate::config::RelayConfig;

/// Why a file was not changed.
#[derive(Debug, thiserror::Error)]
pub enum FragmentError {
    /// A person wrote it.
    #[error("{what} stands in {place}, which was written by hand; change it there")]
    ByHand {
        /// The account or domain.
        what: String,
        /// Where it stands.
        place: Place,
    },
    /// The domain is there already.
    #[error("domain {name} exists already, in {place}")]
    DomainExists {
        /// The domain.
        name: Domain,
        /// Where it stands.
        place: Place,
    },
    /// The domain is not there.
    #[error("there is no domain {0}")]
    DomainUnknown(Domain),
    /// Accounts still pull the domain.
    #[error("domain {name} belongs to account {account}; change or remove the account first")]
    DomainInUse {
        /// The domain.
        name: Domain,
        /// One of its accounts.
        account: String,
    },
    /// The system refused.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// The directory beside the main file.
#[derive(Clone, Debug)]
pub struct Fragments {
    directory: PathBuf,
    data_dir: PathBuf,
    account: Option<Account>,
}

/// What a domain is made of; what is `None` has its default.
#[derive(Clone, Debug)]
pub struct NewDomain {
    /// Its name.
    pub name: Domain,
    /// How long mail waits.
    pub hold_for: Option<Duration>,
    /// Octets held.
    pub max_queue_size: Option<u64>,
    /// Messages held.
    pub max_queue_messages: Option<u32>,
}

impl Fragments {
    /// Those of a main file. Secrets are made over to the user that the daemon runs as, for an admin may well be root: the one
    /// of the settings (`account`), or the owner of `data_dir`.
    #[must_use]
    pub fn beside(main: &Path, data_dir: &Path, account: Option<Account>) -> Self {
        let directory = main
            .parent()
            .map_or_else(|| PathBuf::from("conf.d"), |parent| parent.join("conf.d"));
        Self {
            directory,
            data_dir: data_dir.to_path_buf(),
            account: account.filter(|_| Account::own().uid.is_root()),
        }
    }

    /// Writes a domain; returns its file.
    ///
    /// # Errors
    /// [`FragmentError`].
    pub fn add_domain(
        &self,
        config: &RelayConfig,
        new: &NewDomain,
    ) -> Result<PathBuf, FragmentError> {
        if let Some(domain) = config.domain(&new.name) {
            return Err(FragmentError::DomainExists {
                name: new.name.clone(),
                place: domain.place.clone(),
            });
        }
        let mut text = format!("[[domain]]\nname = \"{}\"\n", new.name);
        if let Some(hold_for) = new.hold_for {
            text += &format!("hold_for = \"{}\"\n", show_duration(hold_for));
        }
        if let Some(size) = new.max_queue_size {
            text += &format!("max_queue_size = \"{}\"\n", show_size(size));
        }
        if let Some(messages) = new.max_queue_messages {
            text += &format!("max_queue_messages = {messages}\n");
        }
        let path = self.path(&domain_file_name(&new.name));
        self.replace(&path, &format!("{DOMAIN_HEAD}{text}"), Readers::Everybody)?;
        Ok(path)
    }

    /// Removes a domain. Its queue stays.
    ///
    /// # Errors
    /// [`FragmentError`]; also while an account still names it.
    pub fn remove_domain(&self, config: &RelayConfig, name: &Domain) -> Result<(), FragmentError> {
        self.remove(&self.removable_domain(config, name)?)
    }

    /// The file that goes when a domain is removed.
    ///
    /// # Errors
    /// Those of [`Self::remove_domain`] that can be foretold.
    pub fn removable_domain(
        &self,
        config: &RelayConfig,
        name: &Domain,
    ) -> Result<PathBuf, FragmentError> {
        let domain = config
            .domain(name)
            .ok_or_else(|| FragmentError::DomainUnknown(name.clone()))?;
        let path = self.path(&domain_file_name(name));
        check_is_ours(&format!("domain {name}"), "domain", &path, &domain.place)?;
        if let Some(account) = config
            .accounts
            .iter()
            .find(|account| account.domains.contains(name))
        {
            return Err(FragmentError::DomainInUse {
                name: name.clone(),
                account: account.name.clone(),
            });
        }
        Ok(path)
    }

    /// The file beside an account's that holds its secret for CRAM-MD5.
    #[must_use]
    pub fn secret_file_name(account: &str) -> String {
        format!("account-{account}.secret")
    }

    /// # Errors
    /// [`FragmentError::ByHand`] when the account stands in another file than ours, or not alone.
    pub fn check_account_is_ours(&self, name: &str, place: &Place) -> Result<(), FragmentError> {
        check_is_ours(
            &format!("account {name}"),
            "account",
            &self.path(&account_file_name(name)),
            place,
        )
    }

    /// Writes an account's table; returns its file.
    ///
    /// # Errors
    /// [`FragmentError::Write`].
    pub fn write_account(&self, name: &str, table: &str) -> Result<PathBuf, FragmentError> {
        let path = self.path(&account_file_name(name));
        self.replace(&path, &format!("{ACCOUNT_HEAD}{table}"), Readers::Daemon)?;
        Ok(path)
    }

    /// Writes an account's secret.
    ///
    /// # Errors
    /// [`FragmentError::Write`].
    pub fn write_secret(&self, name: &str, secret: &Secret) -> Result<(), FragmentError> {
        let path = self.path(&Self::secret_file_name(name));
        self.replace(&path, secret.expose(), Readers::Daemon)
    }

    /// Removes an account's files.
    ///
    /// # Errors
    /// [`FragmentError::Write`].
    pub fn remove_account(&self, name: &str) -> Result<(), FragmentError> {
        self.remove(&self.path(&account_file_name(name)))?;
        match self.remove(&self.path(&Self::secret_file_name(name))) {
            Err(FragmentError::Write { source, .. })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                Ok(())
            }
            other => other,
        }
    }

    fn daemon(&self) -> Option<(u32, u32)> {
        let owner = || fs::metadata(&self.data_dir).ok();
        match self.account {
            Some(Account { uid, gid }) => Some((uid.as_raw(), gid.as_raw())),
            None => owner().map(|data| (data.uid(), data.gid())),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn remove(&self, path: &Path) -> Result<(), FragmentError> {
        let removed = fs::remove_file(path).and_then(|()| sync(&self.directory));
        removed.map_err(|source| FragmentError::Write {
            path: path.to_path_buf(),
            source,
        })
    }

    fn replace(&self, path: &Path, text: &str, readers: Readers) -> Result<(), FragmentError> {
        let owner = match readers {
            Readers::Daemon => self.daemon(),
            Readers::Everybody => None,
        };
        let written = make_directory(&self.directory)
            .and_then(|()| replace_file(path, text, readers.mode(), owner));
        written.map_err(|source| FragmentError::Write {
            path: path.to_path_buf(),
            source,
        })
    }
}

/// Who may read a file.
#[derive(Clone, Copy)]
enum Readers {
    Daemon,
    Everybody,
}

impl Readers {
    fn mode(self) -> u32 {
        match self {
            Self::Daemon => 0o600,
            Self::Everybody => 0o644,
        }
    }
}

/// Makes a directory of configuration files where it is missing. Whatever root's umask is, the daemon has to get into it.
///
/// # Errors
/// What the system says.
pub fn make_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o755))
}

/// A hidden file beside it is written first; the loader passes those over.
fn replace_file(path: &Path, text: &str, mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&aside)?;
        // Whatever root's umask is, the daemon has to read it.
        file.set_permissions(Permissions::from_mode(mode))?;
        if let Some((uid, gid)) = owner.filter(|owner| {
            file.metadata()
                .is_ok_and(|own| (own.uid(), own.gid()) != *owner)
        }) {
            std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&aside, path)
    };
    let written = write();
    if written.is_err() {
        let _ = fs::remove_file(&aside);
    }
    written.and_then(|()| path.parent().map_or(Ok(()), sync))
}

/// Makes a change of the directory itself durable.
fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn check_is_ours(what: &str, key: &str, path: &Path, place: &Place) -> Result<(), FragmentError> {
    if place.file() == path && sole_table(path, key) {
        return Ok(());
    }
    Err(FragmentError::ByHand {
        what: what.to_owned(),
        place: place.clone(),
    })
}

fn domain_file_name(name: &Domain) -> String {
    format!("domain-{name}.toml")
}

fn account_file_name(name: &str) -> String {
    format!("account-{name}.toml")
}

const DOMAIN_HEAD: &str = "# Made by `atrn-relay domain add`. Settings may be changed by hand; `domain remove` deletes this file.\n";
const ACCOUNT_HEAD: &str = "# Kept by `atrn-relay account`, which writes this file anew at each change: comments of yours are lost.\n";

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn setup(more: &str) -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let main = directory.path().join("relay.toml");
        let base =
            "hostname = \"mx1.example.net\"\n[odmr]\ntls = \"off\"\nlisten = [\"127.0.0.1:0\"]\n";
        fs::write(&main, format!("{base}{more}")).unwrap();
        (directory, main)
    }

    fn new_domain(name: &str) -> NewDomain {
        NewDomain {
            name: Domain::parse(name).unwrap(),
            hold_for: Some(Duration::from_secs(90_000)),
            max_queue_size: Some(1 << 30),
            max_queue_messages: Some(7),
        }
    }

    #[test]
    fn a_domain_comes_and_goes() {
        let (directory, main) = setup("");
        let fragments = Fragments::beside(&main, directory.path(), None);
        let load = || RelayConfig::load(&main).unwrap().config;
        let new = new_domain("example.com");
        let file = fragments.add_domain(&load(), &new).unwrap();
        let config = load();
        let domain = config.domain(&new.name).unwrap();
        assert_eq!(
            (
                domain.hold_for,
                domain.max_queue_size,
                domain.max_queue_messages
            ),
            (Duration::from_secs(90_000), 1 << 30, 7)
        );
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o644
        );
        assert!(matches!(
            fragments.add_domain(&config, &new),
            Err(FragmentError::DomainExists { .. })
        ));
        fragments.remove_domain(&config, &new.name).unwrap();
        assert!(load().domains.is_empty());
        assert!(matches!(
            fragments.remove_domain(&load(), &new.name),
            Err(FragmentError::DomainUnknown(_))
        ));
        let left: Vec<_> = fs::read_dir(file.parent().unwrap()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn what_a_person_wrote_stays() {
        let (directory, main) = setup("[[domain]]\nname = \"hand.example\"\n");
        let fragments = Fragments::beside(&main, directory.path(), None);
        let load = || RelayConfig::load(&main).unwrap().config;
        let hand = Domain::parse("hand.example").unwrap();
        let error = fragments
            .remove_domain(&load(), &hand)
            .unwrap_err()
            .to_string();
        let place = format!("{}:6", main.display());
        assert_eq!(
            error,
            format!(
                "domain hand.example stands in {place}, which was written by hand; change it there"
            )
        );

        // A file of ours that a person added something to is a person's file.
        let ours = new_domain("ours.example");
        let file = fragments.add_domain(&load(), &ours).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        fs::write(
            &file,
            format!("{text}[[domain]]\nname = \"more.example\"\n"),
        )
        .unwrap();
        assert!(matches!(
            fragments.remove_domain(&load(), &ours.name),
            Err(FragmentError::ByHand { .. })
        ));
    }

    #[test]
    fn a_domain_in_use_stays() {
        let pin = "sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let (directory, main) = setup(&format!(
            "[[account]]\nname = \"corp\"\ndomains = [\"example.com\"]\ncertificate_pins = [\"{pin}\"]\n"
        ));
        let fragments = Fragments::beside(&main, directory.path(), None);
        let load = || RelayConfig::load(&main).unwrap().config;
        let new = new_domain("example.com");
        fragments.add_domain(&load(), &new).unwrap();
        let error = fragments
            .remove_domain(&load(), &new.name)
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "domain example.com belongs to account corp; change or remove the account first"
        );
    }

    #[test]
    fn secrets_are_for_the_daemon_only() {
        let (directory, main) = setup("");
        let fragments = Fragments::beside(&main, directory.path(), None);
        fragments
            .write_secret("corp", &Secret::new("x".to_owned()))
            .unwrap();
        let path = fragments.path(&Fragments::secret_file_name("corp"));
        assert_eq!(
            fs::metadata(path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
}
