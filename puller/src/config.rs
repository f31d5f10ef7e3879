//! The puller's settings as types that are valid by construction, and their defaults.
//!
//! Reading a file is [`atrn_shared::config`]'s. What the settings name (secrets, certificates) is loaded by
//! [`RelayConfig::credentials`] and its like, so that a command for one relay does not need the secrets of all.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use atrn_shared::config::{self, Address, ConfigErrors, Loaded, Place, Problem};
use atrn_shared::log::LogConfig;
use atrn_shared::sandbox::SandboxConfig;
use atrn_shared::sasl::{Mechanism, RememberedKeys};
use atrn_shared::secret::Secret;
use atrn_shared::smtp::address::Domain;
use atrn_shared::tls::{Alpn, ClientTls, Identity, Trust};
use serde::Serialize;

mod read;
#[cfg(test)]
mod tests;

/// Where the main file is unless `-c` names another.
pub const DEFAULT_PATH: &str = "/etc/atrn-puller/puller.toml";
/// Where the journal is unless the file says otherwise.
pub const DATA_DIR_DEFAULT: &str = "/var/lib/atrn-puller";

/// All settings of the puller.
#[derive(Clone, Debug, PartialEq)]
pub struct PullerConfig {
    /// Name in banner, EHLO and `Received`.
    pub hostname: Domain,
    /// `journal.db`, and what `status` shows.
    pub data_dir: PathBuf,
    /// In the order of the files; never empty.
    pub relays: Vec<RelayConfig>,
    /// What a relay may do to us.
    pub limits: Limits,
    /// Where mail goes.
    pub handover: HandoverConfig,
    /// Where reports (DSNs) to senders outside go; `None`: nowhere.
    pub reports: Option<ReportsConfig>,
    /// The operational log.
    pub log: LogConfig,
    /// What the process gives up at its start (`[sandbox]`).
    pub sandbox: SandboxConfig,
}

/// A `[[relay]]` to pull from.
#[derive(Clone, Debug, PartialEq)]
pub struct RelayConfig {
    /// How commands, logs and status call it.
    pub name: String,
    /// Where its ODMR listener is.
    pub address: Address,
    /// How TLS is used.
    pub tls: RelayTls,
    /// How the relay proves who it is. Not asked where TLS is off.
    pub trust: Trust,
    /// The user name of AUTH.
    pub account: String,
    /// The account's secret.
    pub secret_file: Option<PathBuf>,
    /// Certificate and key of EXTERNAL.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// No weaker mechanism is ever used, whatever the relay offers (R5802-1).
    pub weakest_mechanism: Mechanism,
    /// What ATRN names (R2645-17), and the only domains that mail is taken for.
    pub domains: Vec<Domain>,
    /// When to pull.
    pub mode: Mode,
    /// Between two pulls.
    pub every: Duration,
    /// Up to so much is added to it at random, so that many pullers do not come at once.
    pub jitter: Duration,
    /// The longest silence of the relay that instant mode asks for.
    pub wait: Duration,
    /// Reversed sessions side by side while there is a backlog.
    pub sessions: usize,
    /// Where it is configured.
    pub place: Place,
}

/// TLS towards a relay.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RelayTls {
    /// From the first octet (RFC 8314).
    Implicit,
    /// By STARTTLS, or not at all.
    StartTls,
    /// None; to loopback only.
    Off,
}

/// When to pull.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The connection stays, and mail comes as it arrives at the relay. Polls where the relay cannot do this.
    Instant,
    /// On a clock.
    Poll,
}

impl Mode {
    /// As it is written in the file.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Instant => "instant",
            Self::Poll => "poll",
        }
    }
}

/// The `[limits]` table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Octets of content.
    pub max_message_size: u64,
    /// Of one transaction.
    pub max_recipients: usize,
    /// Refusals that are the relay's own fault, in a session.
    pub max_errors: usize,
    /// Commands in a row that bring no message.
    pub max_commands: usize,
    /// For each reply, each command and each block of content.
    pub reply_timeout: Duration,
    /// For all that we wait for the relay in one transaction.
    pub transaction_timeout: Duration,
    /// A session that goes on and on is begun anew after so long, between two messages.
    pub session_timeout: Duration,
}

impl Limits {
    /// How long the reply to ATRN may take: ten minutes at least (RFC 2645 §5.2.1).
    #[must_use]
    pub fn atrn_timeout(&self) -> Duration {
        self.reply_timeout.max(minutes(10))
    }
}

/// The `[handover]` table.
#[derive(Clone, Debug, PartialEq)]
pub struct HandoverConfig {
    /// Where mail goes.
    pub target: Target,
    /// TLS towards it.
    pub tls: HandoverTls,
    /// User name and the file with the password, for AUTH at the target.
    pub login: Option<Login>,
    /// Connections to the target that a session may have side by side.
    pub connections: usize,
}

/// A corporate mail server, or a smart host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    /// `smtp://host[:25]`
    Smtp(Address),
    /// `smtps://host[:465]`
    Smtps(Address),
    /// `lmtp://host[:24]`
    Lmtp(Address),
    /// `lmtp+unix:/path`
    LmtpUnix(PathBuf),
    /// `maildir:/path`
    Maildir(PathBuf),
}

/// TLS towards a target. Implicit for `smtps://`, else by STARTTLS.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum HandoverTls {
    /// Where the target offers it, and whoever it is.
    Opportunistic,
    /// Always, and the target proves who it is.
    Required(Trust),
    /// Never.
    Off,
}

/// A user name, and where the password is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Login {
    /// The user name.
    pub username: String,
    /// One line, readable by its owner only.
    pub password_file: PathBuf,
    place: Place,
}

/// The `[reports]` table.
#[derive(Clone, Debug, PartialEq)]
pub struct ReportsConfig {
    /// The smart host.
    pub handover: HandoverConfig,
    /// So many leave in an hour, of all that share the data directory; more are told to come later.
    pub max_per_hour: u32,
}

impl Target {
    /// Where to connect; `None` for those on this very host.
    #[must_use]
    pub fn address(&self) -> Option<&Address> {
        match self {
            Self::Smtp(address) | Self::Smtps(address) | Self::Lmtp(address) => Some(address),
            Self::LmtpUnix(_) | Self::Maildir(_) => None,
        }
    }
}

/// As it is written in the file.
impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Smtp(address) => write!(f, "smtp://{address}"),
            Self::Smtps(address) => write!(f, "smtps://{address}"),
            Self::Lmtp(address) => write!(f, "lmtp://{address}"),
            Self::LmtpUnix(path) => write!(f, "lmtp+unix:{}", path.display()),
            Self::Maildir(path) => write!(f, "maildir:{}", path.display()),
        }
    }
}

/// What a session needs to prove itself to a relay.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The account's secret.
    pub secret: Option<Secret>,
    /// What the relay's salt made of it: an empty poll then takes less than half of the time.
    pub remembered: RememberedKeys,
    /// The certificate of EXTERNAL.
    pub identity: Option<Identity>,
    /// TLS towards the relay; `None` where it is off.
    pub tls: Option<ClientTls>,
}

impl PullerConfig {
    /// Loads the main file and `conf.d/*.toml`.
    ///
    /// # Errors
    /// Every problem in any of them.
    pub fn load(path: &Path) -> Result<Loaded<Self>, ConfigErrors> {
        config::load(path)
    }

    /// The settings of a relay.
    #[must_use]
    pub fn relay(&self, name: &str) -> Option<&RelayConfig> {
        self.relays.iter().find(|relay| relay.name == name)
    }

    /// Keys whose new value waits for a restart.
    #[must_use]
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        let table = [
            ("data_dir", self.data_dir != new.data_dir),
            ("log", self.log != new.log),
            ("sandbox", self.sandbox != new.sandbox),
        ];
        table
            .into_iter()
            .filter(|(_, changed)| *changed)
            .map(|(key, _)| key)
            .collect()
    }

    /// Files besides the configuration itself whose change asks for a reload.
    #[must_use]
    pub fn named_files(&self) -> BTreeSet<PathBuf> {
        let mut files = BTreeSet::new();
        for relay in &self.relays {
            files.extend(relay.secret_file.clone());
            files.extend(
                relay
                    .certificate
                    .iter()
                    .flat_map(|(certificate, key)| [certificate.clone(), key.clone()]),
            );
            files.extend(ca_file(&relay.trust));
        }
        let handovers = [
            Some(&self.handover),
            self.reports.as_ref().map(|reports| &reports.handover),
        ];
        for handover in handovers.into_iter().flatten() {
            files.extend(
                handover
                    .login
                    .as_ref()
                    .map(|login| login.password_file.clone()),
            );
            if let HandoverTls::Required(trust) = &handover.tls {
                files.extend(ca_file(trust));
            }
        }
        files
    }

    /// Loads everything that any setting names, to find every problem before the first session does.
    ///
    /// # Errors
    /// Every problem.
    pub fn check_files(&self) -> Result<(), ConfigErrors> {
        let mut problems: Vec<Problem> = Vec::new();
        let mut note = |outcome: Result<(), ConfigErrors>| {
            if let Err(errors) = outcome {
                problems.extend_from_slice(errors.problems());
            }
        };
        for relay in &self.relays {
            note(relay.credentials().map(drop));
        }
        let reports = self.reports.as_ref().map(|reports| &reports.handover);
        for handover in [Some(&self.handover), reports].into_iter().flatten() {
            note(handover.client_tls().map(drop));
            note(handover.password().map(drop));
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(ConfigErrors::new(problems))
        }
    }
}

fn ca_file(trust: &Trust) -> Option<PathBuf> {
    match trust {
        Trust::Ca(file) => Some(file.clone()),
        _ => None,
    }
}

impl RelayConfig {
    /// Loads secret, certificate and trust.
    ///
    /// # Errors
    /// Every problem with the files.
    pub fn credentials(&self) -> Result<Credentials, ConfigErrors> {
        let mut problems = Vec::new();
        let mut note =
            |key: &str, text: String| problems.push(Problem::with_key(&self.place, key, text));
        let secret = self
            .secret_file
            .as_deref()
            .map(Secret::from_file)
            .transpose();
        let secret = secret.unwrap_or_else(|error| {
            note("secret_file", error.to_string());
            None
        });
        let identity = self
            .certificate
            .as_ref()
            .map(|(certificate, key)| Identity::load(certificate, key))
            .transpose();
        let identity = identity.unwrap_or_else(|error| {
            note("certificate", error.to_string());
            None
        });
        let tls = match self.tls {
            RelayTls::Off => None,
            RelayTls::Implicit | RelayTls::StartTls => {
                ClientTls::new(&self.trust, identity.as_ref(), Alpn::Smtp)
                    .map_err(|error| note("ca", plain(&error)))
                    .ok()
            }
        };
        if problems.is_empty() {
            Ok(Credentials {
                secret,
                remembered: RememberedKeys::default(),
                identity,
                tls,
            })
        } else {
            Err(ConfigErrors::new(problems))
        }
    }
}

impl HandoverConfig {
    /// TLS settings towards the target; `None` where TLS is off.
    ///
    /// # Errors
    /// What is wrong with the CA file.
    pub fn client_tls(&self) -> Result<Option<ClientTls>, ConfigErrors> {
        let trust = match &self.tls {
            HandoverTls::Off => return Ok(None),
            HandoverTls::Opportunistic => &Trust::Anyone,
            HandoverTls::Required(trust) => trust,
        };
        let tls = ClientTls::new(trust, None, Alpn::None);
        tls.map(Some)
            .map_err(|error| Problem::new(format!("handover: ca: {}", plain(&error))).into())
    }

    /// The password of the login.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn password(&self) -> Result<Option<Secret>, ConfigErrors> {
        let Some(login) = &self.login else {
            return Ok(None);
        };
        let secret = Secret::from_file(&login.password_file);
        secret.map(Some).map_err(|error| {
            Problem::with_key(&login.place, "password_file", error.to_string()).into()
        })
    }
}

/// rustls begins its own messages with "unexpected error"; ours need no such warning.
fn plain(error: &impl std::fmt::Display) -> String {
    error
        .to_string()
        .trim_start_matches("unexpected error: ")
        .to_owned()
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message_size: 50_000_000,
            max_recipients: 1_000,
            max_errors: 20,
            max_commands: 10_000,
            reply_timeout: minutes(5),
            transaction_timeout: minutes(30),
            session_timeout: minutes(24 * 60),
        }
    }
}

/// Between two pulls.
pub const EVERY_DEFAULT: Duration = minutes(5);
/// Added to it at random.
pub const JITTER_DEFAULT: Duration = Duration::from_secs(30);
/// Firewalls and inspecting proxies that forget a silent connection do so after five minutes or more.
pub const WAIT_DEFAULT: Duration = minutes(4);
/// Reversed sessions side by side.
pub const SESSIONS_DEFAULT: usize = 2;
/// Connections to the target, of one session.
pub const CONNECTIONS_DEFAULT: usize = 4;
/// Reports to outside senders in an hour.
pub const REPORTS_PER_HOUR_DEFAULT: u32 = 60;

const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}
