//! The relay's settings as types that are valid by construction, and their defaults.
//!
//! Reading a file is [`atrn_shared::config`]'s; what the settings name (certificates, secrets) is loaded by
//! `Settings`, so that commands which only look at the queue need none of it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use atrn_shared::config::{self, ConfigErrors, Loaded, Place};
use atrn_shared::log::LogConfig;
use atrn_shared::sandbox::SandboxConfig;
use atrn_shared::sasl::{Mechanism, ScramVerifier};
use atrn_shared::smtp::address::Domain;
use atrn_shared::tls::SpkiPin;
use ipnet::IpNet;

mod authentication;
mod dns;
mod limits;
mod read;
#[cfg(test)]
pub(crate) mod tests;
mod transaction_log;

pub use authentication::Authentication;
pub use dns::{DnsConfig, Transport};
pub use limits::LimitsConfig;
pub use transaction_log::{Rotate, TransactionLogConfig};

/// Where the main file is unless `-c` names another.
pub const DEFAULT_PATH: &str = "/etc/atrn-relay/relay.toml";

/// All settings of the relay.
#[derive(Clone, Debug, PartialEq)]
pub struct RelayConfig {
    /// Name in banner, EHLO and `Received`.
    pub hostname: Domain,
    /// `queue.db`, `spool/`, `control.sock`.
    pub data_dir: PathBuf,
    /// The Internet side.
    pub smtp: SmtpConfig,
    /// The pullers' side.
    pub odmr: OdmrConfig,
    /// Certificate and key. `None` only where `odmr.tls` is off; the edge then offers no STARTTLS.
    pub tls: Option<TlsFiles>,
    /// What an address may do, and all of them together.
    pub limits: LimitsConfig,
    /// Who is asked for names; `None`: nobody (`dns = "off"`).
    pub dns: Option<DnsConfig>,
    /// The operational log.
    pub log: LogConfig,
    /// Every connection from open to close (`[transaction_log]`).
    pub transaction_log: TransactionLogConfig,
    /// What the process gives up at its start (`[sandbox]`).
    pub sandbox: SandboxConfig,
    /// Where figures are served over HTTP (`[metrics]`); `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// Sorted by name; look them up with [`Self::domain`].
    pub domains: Vec<DomainConfig>,
    /// Sorted by name; look them up with [`Self::account`].
    pub accounts: Vec<AccountConfig>,
}

/// The `[smtp]` table.
#[derive(Clone, Debug, PartialEq)]
pub struct SmtpConfig {
    /// Where to listen; port 0 takes any free one.
    pub listen: Vec<SocketAddr>,
    /// Octets of content.
    pub max_message_size: u64,
    /// Of one transaction; RFC 5321 §4.5.3.1.8 wants 100 at least.
    pub max_recipients: usize,
    /// Connections at a time.
    pub max_connections: usize,
    /// Of these, from one address.
    pub max_connections_per_ip: usize,
    /// Refused commands before 421.
    pub max_errors: usize,
    /// `Received` lines of a message that is not in a loop.
    pub max_received: usize,
    /// Silence between commands.
    pub command_timeout: Duration,
    /// Silence within content.
    pub data_timeout: Duration,
    /// Lists of hosts (DNSBL) whose mail is not taken.
    pub dnsbl: Vec<Domain>,
    /// Whether to offer SMTPUTF8: only where every corporate server behind can take such mail.
    pub smtputf8: bool,
    /// How long a sender that nobody knows has to wait; none: not at all.
    pub greylist: Option<Duration>,
    /// Networks of load balancers, whose connections begin with a PROXY header.
    pub proxy_protocol: Vec<IpNet>,
}

/// The `[odmr]` table.
#[derive(Clone, Debug, PartialEq)]
pub struct OdmrConfig {
    /// Where to listen; port 0 takes any free one.
    pub listen: Vec<SocketAddr>,
    /// How TLS is used here.
    pub tls: OdmrTls,
    /// Networks that pullers may come from; empty means any.
    pub allow_from: Vec<IpNet>,
    /// Silence between commands; before AUTH at most [`Self::AUTH_TIMEOUT`].
    pub command_timeout: Duration,
    /// Connections at a time.
    pub max_connections: usize,
    /// Of these, from one address (IPv6: /64) and before AUTH.
    pub max_unauthenticated_per_ip: usize,
    /// Of these, of one account.
    pub max_connections_per_account: usize,
    /// What AUTH offers, as far as the connection and the accounts allow it (R2645-5: CRAM-MD5 can be left out).
    pub mechanisms: Vec<Mechanism>,
    /// An ATRN of the same account sooner than this after the last is refused with 450 (R2645-12); zero: never.
    pub min_interval: Duration,
    /// How long an ATRN may wait for mail, and an idle reversed session keep silent (XWAIT); none: it is not offered.
    pub max_wait: Option<Duration>,
}

impl OdmrConfig {
    /// A client that does not say who it is waits no longer than this (R5321-46).
    pub const AUTH_TIMEOUT: Duration = Duration::from_secs(60);
}

/// TLS on the ODMR listener.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OdmrTls {
    /// From the first octet (RFC 8314).
    Implicit,
    /// AUTH and ATRN only after STARTTLS.
    StartTls,
    /// STARTTLS is offered, AUTH and ATRN also without: for old customers with CRAM-MD5.
    Optional,
    /// None; on loopback only.
    Off,
}

/// The `[tls]` table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TlsFiles {
    /// PEM, leaf first.
    pub certificate: PathBuf,
    /// PEM, readable by its owner only.
    pub key: PathBuf,
    /// Where the table names them, for errors.
    pub place: Place,
}

/// A `[[domain]]`: mail for it is accepted and held.
#[derive(Clone, Debug, PartialEq)]
pub struct DomainConfig {
    /// The domain, compared exactly; subdomains are domains of their own.
    pub name: Domain,
    /// How long mail waits to be pulled before it expires.
    pub hold_for: Duration,
    /// Octets held for the domain before senders are told to come back.
    pub max_queue_size: u64,
    /// Messages held for the domain before senders are told to come back.
    pub max_queue_messages: u64,
    /// Which recipients exist.
    pub recipients: Recipients,
    /// Who is told of mail that cannot be delivered.
    pub reports: Reports,
    /// What becomes of mail that its sender's domain disowns.
    pub authentication: Authentication,
    /// How long mail that failed or expired stays to be looked at before it is removed.
    pub keep_failed: Duration,
    /// Where it is configured.
    pub place: Place,
}

/// How recipients of a domain are known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Recipients {
    /// They are not: all are accepted.
    Any,
    /// From a file at the relay.
    File,
    /// The puller pushes them.
    Pushed,
}

/// Who gets a report (DSN).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Reports {
    /// Nobody.
    None,
    /// `postmaster` of the local domain.
    Postmaster,
    /// The sender, whoever that claims to be.
    Sender,
    /// The sender where SPF or DMARC passed, else the postmaster.
    #[default]
    VerifiedSender,
}

impl Reports {
    /// In the order in which they are named to people.
    pub const ALL: [Self; 4] = [
        Self::VerifiedSender,
        Self::Sender,
        Self::Postmaster,
        Self::None,
    ];

    /// The word in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Postmaster => "postmaster",
            Self::Sender => "sender",
            Self::VerifiedSender => "verified-sender",
        }
    }
}

/// An `[[account]]`: a puller's identity.
#[derive(Clone, Debug, PartialEq)]
pub struct AccountConfig {
    /// The user name of AUTH.
    pub name: String,
    /// Whose mail it may pull.
    pub domains: Vec<Domain>,
    /// For SCRAM and PLAIN.
    pub scram_sha_256: Option<ScramVerifier>,
    /// For CRAM-MD5, which needs the secret itself: kept apart, in a file that only its owner may read.
    pub cram_md5_secret_file: Option<PathBuf>,
    /// For EXTERNAL.
    pub certificate_pins: Vec<SpkiPin>,
    /// Authenticates still, but is refused at ATRN.
    pub disabled: bool,
    /// Every line in a TLS record of its own, for fetchmail with `ssl`.
    pub line_records: bool,
    /// Where it is configured.
    pub place: Place,
}

impl RelayConfig {
    /// Loads the main file and `conf.d/*.toml`.
    ///
    /// # Errors
    /// Every problem in any of them.
    pub fn load(path: &Path) -> Result<Loaded<Self>, ConfigErrors> {
        config::load(path)
    }

    /// The settings of a domain, if it is ours.
    #[must_use]
    pub fn domain(&self, name: &Domain) -> Option<&DomainConfig> {
        let index = self
            .domains
            .binary_search_by(|domain| domain.name.cmp(name))
            .ok()?;
        Some(&self.domains[index])
    }

    /// The settings of an account.
    #[must_use]
    pub fn account(&self, name: &str) -> Option<&AccountConfig> {
        let index = self
            .accounts
            .binary_search_by(|account| account.name.as_str().cmp(name))
            .ok()?;
        Some(&self.accounts[index])
    }

    /// Keys whose new value waits for a restart: what is bound, opened or started once.
    #[must_use]
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        let table = [
            ("data_dir", self.data_dir != new.data_dir),
            ("smtp.listen", self.smtp.listen != new.smtp.listen),
            ("odmr.listen", self.odmr.listen != new.odmr.listen),
            (
                "dns",
                started(self.dns.as_ref()) != started(new.dns.as_ref()),
            ),
            ("log", self.log != new.log),
            (
                "transaction_log",
                self.transaction_log != new.transaction_log,
            ),
            ("metrics.listen", self.metrics != new.metrics),
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
        let tls = self
            .tls
            .iter()
            .flat_map(|tls| [tls.certificate.clone(), tls.key.clone()]);
        let secrets = self
            .accounts
            .iter()
            .filter_map(|account| account.cram_md5_secret_file.clone());
        tls.chain(secrets).collect()
    }
}

impl Default for SmtpConfig {
    fn default() -> Self {
        Self {
            listen: any_address(25),
            max_message_size: 50_000_000,
            max_recipients: 100,
            max_connections: 1_000,
            max_connections_per_ip: 20,
            max_errors: 20,
            max_received: 100,
            command_timeout: minutes(5),
            data_timeout: minutes(3),
            dnsbl: Vec::new(),
            smtputf8: true,
            greylist: None,
            proxy_protocol: Vec::new(),
        }
    }
}

impl Default for OdmrConfig {
    fn default() -> Self {
        Self {
            listen: any_address(366),
            tls: OdmrTls::Implicit,
            allow_from: Vec::new(),
            command_timeout: minutes(5),
            max_connections: 1_000,
            max_unauthenticated_per_ip: 20,
            max_connections_per_account: 100,
            mechanisms: Mechanism::ALL.to_vec(),
            min_interval: Duration::ZERO,
            max_wait: Some(minutes(4)),
        }
    }
}

/// How long mail waits to be pulled (RFC 5321 §4.5.4.1 asks for four to five days at least).
pub const HOLD_FOR_DEFAULT: Duration = Duration::from_secs(5 * 86_400);
/// How long mail that failed or expired is kept.
pub const KEEP_FAILED_DEFAULT: Duration = Duration::from_secs(30 * 86_400);
/// Octets held for a domain.
pub const MAX_QUEUE_SIZE_DEFAULT: u64 = 10_000_000_000;
/// Messages held for a domain.
pub const MAX_QUEUE_MESSAGES_DEFAULT: u64 = 1_000_000;
/// Where the queue is unless the file says otherwise.
pub const DATA_DIR_DEFAULT: &str = "/var/lib/atrn-relay";

/// What the resolver child was started with; the rest of the table takes effect at once.
fn started(dns: Option<&DnsConfig>) -> Option<DnsConfig> {
    let reverse = true;
    dns.map(|dns| DnsConfig {
        reverse,
        ..dns.clone()
    })
}

fn any_address(port: u16) -> Vec<SocketAddr> {
    use std::net::{Ipv4Addr, Ipv6Addr};
    vec![
        (Ipv4Addr::UNSPECIFIED, port).into(),
        (Ipv6Addr::UNSPECIFIED, port).into(),
    ]
}

/// Whether an account may be called so.
#[must_use]
pub fn is_account_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._@+-".contains(&byte))
}

const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}
