//! Accounts: who a puller is, what it may prove that with, and the commands that add, change and remove one.
//!
//! The mathematics of authentication belongs to [`atrn_shared::sasl`], the files to [`crate::fragments`].

use std::collections::HashMap;
use std::path::PathBuf;

use atrn_shared::config::{ConfigErrors, Problem};
use atrn_shared::sasl::{Credentials, DecoyKey, ScramVerifier, Unavailable};
use atrn_shared::secret::Secret;
use atrn_shared::smtp::address::Domain;
use atrn_shared::tls::SpkiPin;
use aws_lc_rs::rand;
use secrecy::SecretString;

use crate::config::{AccountConfig, RelayConfig, is_account_name};
use crate::fragments::{FragmentError, Fragments};

/// An account with its secret for CRAM-MD5, where it has one.
#[derive(Clone, Debug)]
pub struct Account {
    /// Its settings.
    pub config: AccountConfig,
    cram_md5_secret: Option<Secret>,
}

/// All accounts, found by name and by certificate.
#[derive(Clone, Debug)]
pub struct Accounts {
    by_name: HashMap<String, Account>,
    name_by_pin: HashMap<String, String>,
    decoy_key: DecoyKey,
}

impl Accounts {
    /// Reads the secrets that the accounts name. The decoy key is made once a process, by [`decoy_key`].
    ///
    /// # Errors
    /// Every secrets file that is of no use.
    pub fn load(configs: &[AccountConfig], decoy_key: DecoyKey) -> Result<Self, ConfigErrors> {
        let mut accounts = Self {
            by_name: HashMap::new(),
            name_by_pin: HashMap::new(),
            decoy_key,
        };
        let mut problems = Vec::new();
        for config in configs {
            let secret = config
                .cram_md5_secret_file
                .as_deref()
                .map(Secret::from_file)
                .transpose();
            let cram_md5_secret = secret.unwrap_or_else(|error| {
                problems.push(Problem::with_key(
                    &config.place,
                    "cram_md5_secret_file",
                    error.to_string(),
                ));
                None
            });
            for pin in &config.certificate_pins {
                accounts
                    .name_by_pin
                    .insert(pin.to_string(), config.name.clone());
            }
            accounts.by_name.insert(
                config.name.clone(),
                Account {
                    config: config.clone(),
                    cram_md5_secret,
                },
            );
        }
        if problems.is_empty() {
            Ok(accounts)
        } else {
            Err(ConfigErrors::new(problems))
        }
    }

    /// Takes the key of an earlier run for users that do not exist; without one, that of this process stays.
    pub fn keep_decoys(&mut self, key: Option<&[u8; 32]>) {
        if let Some(key) = key {
            self.decoy_key = DecoyKey::new(key);
        }
    }

    /// An account by its exact name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Account> {
        self.by_name.get(name)
    }

    /// Whether any account has a secret for CRAM-MD5, without which offering it would be idle.
    #[must_use]
    pub fn any_cram_md5(&self) -> bool {
        self.by_name
            .values()
            .any(|account| account.cram_md5_secret.is_some())
    }
}

/// The files are read when they change, so that the answer is always at hand.
impl Credentials for Accounts {
    fn scram_verifier(&self, user: &str) -> Result<Option<ScramVerifier>, Unavailable> {
        Ok(self
            .find(user)
            .and_then(|account| account.config.scram_sha_256.clone()))
    }

    fn cram_md5_secret(&self, user: &str) -> Result<Option<SecretString>, Unavailable> {
        Ok(self
            .find(user)
            .and_then(|account| account.cram_md5_secret.clone())
            .map(Into::into))
    }

    fn account_of_certificate(&self, pin: &str) -> Result<Option<String>, Unavailable> {
        Ok(self.name_by_pin.get(pin).cloned())
    }

    fn decoy_key(&self) -> &DecoyKey {
        &self.decoy_key
    }
}

/// The key of made-up users. It outlives a reload: a user whose salt changes at one is known not to exist.
///
/// # Errors
/// [`AccountError::Random`].
pub fn decoy_key() -> Result<DecoyKey, AccountError> {
    let mut random = [0; 32];
    rand::fill(&mut random).map_err(|_| AccountError::Random)?;
    Ok(DecoyKey::new(&random))
}

/// What an account is made of.
#[derive(Clone, Debug)]
pub struct NewAccount {
    /// Its name.
    pub name: String,
    /// Whose mail it may pull; configured domains all.
    pub domains: Vec<Domain>,
    /// Its secret. `None` where it logs in by certificate only.
    pub secret: Option<Secret>,
    /// Whether it may use CRAM-MD5.
    pub cram_md5: CramMd5,
    /// Pins of its certificates.
    pub certificate_pins: Vec<SpkiPin>,
    /// Every line in a TLS record of its own, for fetchmail with `ssl`.
    pub line_records: bool,
}

/// Whether the secret itself is stored, as CRAM-MD5 needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CramMd5 {
    /// It is.
    Allowed,
    /// Only a verifier is stored.
    No,
}

/// Why a command on an account is refused.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// It is there already.
    #[error("account {0} exists already; use `account rotate` for a new secret")]
    Exists(String),
    /// The file cannot be written, or is not ours to write.
    #[error(transparent)]
    Fragment(#[from] FragmentError),
    /// Not an account's name.
    #[error(
        "{0:?} is not an account name; use up to 64 letters, digits and . _ @ + -, a letter or digit first"
    )]
    Name(String),
    /// It could not log in.
    #[error("account {0} needs a secret or a certificate pin")]
    NoCredentials(String),
    /// The system has no random numbers.
    #[error("the system gives no random numbers")]
    Random,
    /// The secret has characters that SASLprep prohibits.
    #[error("the secret is {0}")]
    Secret(#[from] atrn_shared::sasl::Unpreparable),
    /// There is no such account.
    #[error("there is no account {0}")]
    Unknown(String),
    /// There is no such domain.
    #[error("{0} is not a configured domain; run: atrn-relay domain add {0}")]
    UnknownDomain(Domain),
}

/// Makes an account and writes its files; returns the one that it stands in.
///
/// # Errors
/// [`AccountError`]; then nothing is changed.
pub fn add(
    fragments: &Fragments,
    config: &RelayConfig,
    new: NewAccount,
) -> Result<PathBuf, AccountError> {
    if !is_account_name(&new.name) {
        return Err(AccountError::Name(new.name));
    }
    if config.account(&new.name).is_some() {
        return Err(AccountError::Exists(new.name));
    }
    if new.secret.is_none() && new.certificate_pins.is_empty() {
        return Err(AccountError::NoCredentials(new.name));
    }
    if let Some(unknown) = new
        .domains
        .iter()
        .find(|name| config.domain(name).is_none())
    {
        return Err(AccountError::UnknownDomain(unknown.clone()));
    }
    let stored = Stored {
        verifier: new.secret.as_ref().map(verifier).transpose()?,
        domains: new.domains,
        certificate_pins: new.certificate_pins,
        cram_md5: new.cram_md5 == CramMd5::Allowed && new.secret.is_some(),
        disabled: false,
        line_records: new.line_records,
    };
    if let Some(secret) = new.secret.filter(|_| stored.cram_md5) {
        fragments.write_secret(&new.name, &secret)?;
    }
    Ok(fragments.write_account(&new.name, &stored.to_toml(&new.name))?)
}

/// Gives an account another secret.
///
/// # Errors
/// [`AccountError`]; then the old secret stays valid.
pub fn rotate(
    fragments: &Fragments,
    config: &RelayConfig,
    name: &str,
    secret: &Secret,
) -> Result<(), AccountError> {
    let mut stored = Stored::of(fragments, config, name)?;
    stored.verifier = Some(verifier(secret)?);
    if stored.cram_md5 {
        fragments.write_secret(name, secret)?;
    }
    fragments.write_account(name, &stored.to_toml(name))?;
    Ok(())
}

/// Disables or enables an account. Whether that changed anything.
///
/// # Errors
/// [`AccountError`].
pub fn set_state(
    fragments: &Fragments,
    config: &RelayConfig,
    name: &str,
    state: State,
) -> Result<bool, AccountError> {
    let mut stored = Stored::of(fragments, config, name)?;
    let disabled = state == State::Disabled;
    if stored.disabled == disabled {
        return Ok(false);
    }
    stored.disabled = disabled;
    fragments.write_account(name, &stored.to_toml(name))?;
    Ok(true)
}

/// Whether an account may pull.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// ATRN is refused.
    Disabled,
    /// It may.
    Enabled,
}

/// Removes an account and its secret.
///
/// # Errors
/// [`AccountError`].
pub fn remove(fragments: &Fragments, config: &RelayConfig, name: &str) -> Result<(), AccountError> {
    Stored::of(fragments, config, name)?;
    Ok(fragments.remove_account(name)?)
}

fn verifier(secret: &Secret) -> Result<ScramVerifier, AccountError> {
    let mut salt = [0; 16];
    rand::fill(&mut salt).map_err(|_| AccountError::Random)?;
    Ok(ScramVerifier::derive(secret.expose(), &salt)?)
}

/// An account as its file has it.
struct Stored {
    domains: Vec<Domain>,
    verifier: Option<ScramVerifier>,
    cram_md5: bool,
    certificate_pins: Vec<SpkiPin>,
    disabled: bool,
    line_records: bool,
}

impl Stored {
    /// An account in a file of ours; one in a file written by hand is refused, with its place.
    fn of(fragments: &Fragments, config: &RelayConfig, name: &str) -> Result<Self, AccountError> {
        let account = config
            .account(name)
            .ok_or_else(|| AccountError::Unknown(name.to_owned()))?;
        fragments.check_account_is_ours(name, &account.place)?;
        Ok(Self {
            domains: account.domains.clone(),
            verifier: account.scram_sha_256.clone(),
            cram_md5: account.cram_md5_secret_file.is_some(),
            certificate_pins: account.certificate_pins.clone(),
            disabled: account.disabled,
            line_records: account.line_records,
        })
    }

    /// Nothing in it needs escaping: names, domains, base64.
    fn to_toml(&self, name: &str) -> String {
        let list = |items: Vec<String>| format!("[{}]", items.join(", "));
        let quoted = |item: String| format!("\"{item}\"");
        let domains = self
            .domains
            .iter()
            .map(|domain| quoted(domain.to_string()))
            .collect();
        let mut text = format!(
            "[[account]]\nname = \"{name}\"\ndomains = {}\n",
            list(domains)
        );
        if let Some(verifier) = &self.verifier {
            text += &format!("scram_sha_256 = \"{verifier}\"\n");
        }
        if self.cram_md5 {
            text += &format!(
                "cram_md5_secret_file = \"{}\"\n",
                Fragments::secret_file_name(name)
            );
        }
        if !self.certificate_pins.is_empty() {
            let pins = self
                .certificate_pins
                .iter()
                .map(|pin| quoted(pin.to_string()))
                .collect();
            text += &format!("certificate_pins = {}\n", list(pins));
        }
        for (key, value) in [
            ("disabled", self.disabled),
            ("line_records", self.line_records),
        ] {
            if value {
                text += &format!("{key} = true\n");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    struct Setup {
        directory: TempDir,
    }

    impl Setup {
        fn new(more: &str) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let text = format!(
                "hostname = \"mx1.example.net\"\n[odmr]\ntls = \"off\"\nlisten = [\"127.0.0.1:0\"]\n\
                 [[domain]]\nname = \"example.com\"\n{more}"
            );
            fs::write(directory.path().join("relay.toml"), text).unwrap();
            Self { directory }
        }

        fn config(&self) -> RelayConfig {
            RelayConfig::load(&self.directory.path().join("relay.toml"))
                .unwrap()
                .config
        }

        fn fragments(&self) -> Fragments {
            Fragments::beside(
                &self.directory.path().join("relay.toml"),
                self.directory.path(),
                None,
            )
        }

        fn accounts(&self) -> Accounts {
            Accounts::load(&self.config().accounts, decoy_key().unwrap()).unwrap()
        }

        fn error(&self, result: Result<(), AccountError>) -> String {
            result
                .unwrap_err()
                .to_string()
                .replace(&self.directory.path().display().to_string(), "D")
        }
    }

    fn secret() -> Secret {
        Secret::new("open sesame".to_owned())
    }

    fn new_account(name: &str, cram_md5: CramMd5) -> NewAccount {
        NewAccount {
            name: name.to_owned(),
            domains: vec![Domain::parse("example.com").unwrap()],
            secret: Some(secret()),
            cram_md5,
            certificate_pins: vec![PIN.parse().unwrap()],
            line_records: true,
        }
    }

    const PIN: &str = "sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

    #[test]
    fn an_added_account_can_log_in_by_every_way_it_was_given() {
        let setup = Setup::new("");
        add(
            &setup.fragments(),
            &setup.config(),
            new_account("corp", CramMd5::Allowed),
        )
        .unwrap();
        let accounts = setup.accounts();
        assert!(
            accounts
                .scram_verifier("corp")
                .unwrap()
                .unwrap()
                .verify("open sesame")
        );
        assert!(accounts.cram_md5_secret("corp").unwrap().is_some());
        assert_eq!(
            accounts.account_of_certificate(PIN).unwrap().as_deref(),
            Some("corp")
        );
        assert!(accounts.find("corp").unwrap().config.line_records);
        assert!(accounts.any_cram_md5());
        assert!(accounts.scram_verifier("Corp").unwrap().is_none());
    }

    #[test]
    fn without_cram_md5_the_secret_is_stored_nowhere() {
        let setup = Setup::new("");
        let file = add(
            &setup.fragments(),
            &setup.config(),
            new_account("corp", CramMd5::No),
        )
        .unwrap();
        assert!(!fs::read_to_string(&file).unwrap().contains("sesame"));
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
        assert!(!setup.accounts().any_cram_md5());
    }

    #[test]
    fn a_rotated_account_takes_the_new_secret_only() {
        let setup = Setup::new("");
        add(
            &setup.fragments(),
            &setup.config(),
            new_account("corp", CramMd5::Allowed),
        )
        .unwrap();
        rotate(
            &setup.fragments(),
            &setup.config(),
            "corp",
            &Secret::new("other".to_owned()),
        )
        .unwrap();
        let accounts = setup.accounts();
        let verifier = accounts.scram_verifier("corp").unwrap().unwrap();
        assert!(verifier.verify("other") && !verifier.verify("open sesame"));
        assert_eq!(
            accounts
                .find("corp")
                .unwrap()
                .cram_md5_secret
                .as_ref()
                .unwrap()
                .expose(),
            "other"
        );
        assert_eq!(
            accounts.account_of_certificate(PIN).unwrap().as_deref(),
            Some("corp")
        );
    }

    #[test]
    fn disabled_enabled_removed() {
        let setup = Setup::new("");
        add(
            &setup.fragments(),
            &setup.config(),
            new_account("corp", CramMd5::Allowed),
        )
        .unwrap();
        for (state, changed, disabled) in [
            (State::Disabled, true, true),
            (State::Disabled, false, true),
            (State::Enabled, true, false),
        ] {
            assert_eq!(
                set_state(&setup.fragments(), &setup.config(), "corp", state).unwrap(),
                changed
            );
            assert_eq!(setup.config().account("corp").unwrap().disabled, disabled);
        }
        remove(&setup.fragments(), &setup.config(), "corp").unwrap();
        assert!(setup.config().accounts.is_empty());
        assert_eq!(
            fs::read_dir(setup.directory.path().join("conf.d"))
                .unwrap()
                .count(),
            0
        );
    }

    #[test]
    fn refused_with_a_clear_word() {
        let setup = Setup::new(&format!(
            "[[account]]\nname = \"hand\"\ndomains = [\"example.com\"]\ncertificate_pins = [\"{PIN}\"]\n"
        ));
        let (fragments, config) = (setup.fragments(), setup.config());
        let add = |account| setup.error(add(&fragments, &config, account).map(drop));
        assert_eq!(
            add(new_account("hand", CramMd5::No)),
            "account hand exists already; use `account rotate` for a new secret"
        );
        assert_eq!(
            add(new_account("../x", CramMd5::No)),
            "\"../x\" is not an account name; use up to 64 letters, digits and . _ @ + -, a letter or digit first"
        );
        let foreign = Domain::parse("example.org").unwrap();
        assert_eq!(
            add(NewAccount {
                domains: vec![foreign],
                ..new_account("a", CramMd5::No)
            }),
            "example.org is not a configured domain; run: atrn-relay domain add example.org"
        );
        assert_eq!(
            add(NewAccount {
                secret: None,
                certificate_pins: vec![],
                ..new_account("a", CramMd5::No)
            }),
            "account a needs a secret or a certificate pin"
        );
        let by_hand =
            "account hand stands in D/relay.toml:8, which was written by hand; change it there";
        assert_eq!(setup.error(remove(&fragments, &config, "hand")), by_hand);
        assert_eq!(
            setup.error(rotate(&fragments, &config, "hand", &secret())),
            by_hand
        );
        assert_eq!(
            setup.error(remove(&fragments, &config, "nobody")),
            "there is no account nobody"
        );
    }
}
