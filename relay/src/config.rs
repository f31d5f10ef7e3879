//! The relay's settings as types that are valid by construction, and their defaults.
//!
//! Reading a file is [`atrn_shared::config`]'s; what the settings name (certificates, secrets) is loaded by
//! `Settings`, so that commands which only look at the queue need none of it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use atrn_shared::config::{
    self, Complaint, ConfigErrors, Configuration, Loaded, Place, Section, Value,
};
use atrn_shared::log::LogConfig;
use atrn_shared::sasl::{Mechanism, ScramVerifier};
use atrn_shared::smtp::address::Domain;
use atrn_shared::tls::SpkiPin;
use ipnet::IpNet;

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
    /// The operational log.
    pub log: LogConfig,
    /// Sorted by name; look them up with [`Self::domain`].
    pub domains: Vec<DomainConfig>,
    /// In the order of the files.
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
    /// Whether to offer SMTPUTF8: only where every corporate server behind can take such mail.
    pub smtputf8: bool,
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
    /// What AUTH offers, as far as the connection and the accounts allow it (R2645-5: CRAM-MD5 can be left out).
    pub mechanisms: Vec<Mechanism>,
    /// An ATRN of the same account sooner than this after the last is refused with 450 (R2645-12); zero: never.
    pub min_interval: Duration,
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
    /// Which recipients exist.
    pub recipients: Recipients,
    /// Who is told of mail that cannot be delivered.
    pub reports: Reports,
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
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reports {
    /// Nobody.
    None,
    /// `postmaster` of the local domain.
    Postmaster,
    /// The sender, whoever that claims to be.
    Sender,
    /// The sender where SPF or DMARC passed, else the postmaster.
    VerifiedSender,
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
        self.accounts.iter().find(|account| account.name == name)
    }

    /// Keys whose new value waits for a restart: what is bound, opened or started once.
    #[must_use]
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        let table = [
            ("data_dir", self.data_dir != new.data_dir),
            ("smtp.listen", self.smtp.listen != new.smtp.listen),
            ("odmr.listen", self.odmr.listen != new.odmr.listen),
            ("log", self.log != new.log),
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
            smtputf8: true,
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
            max_connections: 200,
            mechanisms: Mechanism::ALL.to_vec(),
            min_interval: Duration::ZERO,
        }
    }
}

/// How long mail waits to be pulled (RFC 5321 §4.5.4.1 asks for four to five days at least).
pub const HOLD_FOR_DEFAULT: Duration = Duration::from_secs(5 * 86_400);
/// Octets held for a domain.
pub const MAX_QUEUE_SIZE_DEFAULT: u64 = 10_000_000_000;
/// Where the queue is unless the file says otherwise.
pub const DATA_DIR_DEFAULT: &str = "/var/lib/atrn-relay";

fn any_address(port: u16) -> Vec<SocketAddr> {
    use std::net::{Ipv4Addr, Ipv6Addr};
    vec![
        (Ipv4Addr::UNSPECIFIED, port).into(),
        (Ipv6Addr::UNSPECIFIED, port).into(),
    ]
}

impl Configuration for RelayConfig {
    fn read(root: &Section<'_>) -> Option<Self> {
        let hostname = root.required("hostname", domain);
        let data_dir = root.or("data_dir", PathBuf::from(DATA_DIR_DEFAULT), Value::path);
        let smtp = SmtpConfig::read(&root.section("smtp"));
        let odmr = OdmrConfig::read(&root.section("odmr"));
        let tls = read_tls(root, odmr.tls);
        let log = LogConfig::read(&root.section("log"));
        let domains = read_domains(root);
        let accounts = read_accounts(root, &domains);
        read_later_tables(root);
        Some(Self {
            hostname: hostname?,
            data_dir,
            smtp,
            odmr,
            tls,
            log,
            domains,
            accounts,
        })
    }
}

impl SmtpConfig {
    fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let number = |key, default: usize, range: RangeInclusive<u32>| {
            section.or(key, default, |value| {
                value.integer(&range).map(|number| number as usize)
            })
        };
        let config = Self {
            listen: read_listen(section, default.listen),
            max_message_size: section.or("max_message_size", default.max_message_size, |value| {
                value.size(&SIZES)
            }),
            // RFC 5321 §4.5.3.1.8.
            max_recipients: number("max_recipients", default.max_recipients, 100..=10_000),
            max_connections: number("max_connections", default.max_connections, 1..=100_000),
            max_connections_per_ip: number(
                "max_connections_per_ip",
                default.max_connections_per_ip,
                1..=100_000,
            ),
            max_errors: number("max_errors", default.max_errors, 1..=1_000),
            // RFC 5321 §6.3 wants 100; R5321-18 sets the floor.
            max_received: number("max_received", default.max_received, 30..=1_000),
            command_timeout: section.or("command_timeout", default.command_timeout, |value| {
                value.duration(&TIMEOUTS)
            }),
            data_timeout: section.or("data_timeout", default.data_timeout, |value| {
                value.duration(&TIMEOUTS)
            }),
            smtputf8: section.or("smtputf8", default.smtputf8, Value::boolean),
        };
        let proxies = section.list_or("proxy_protocol", Vec::new(), network);
        if !proxies.is_empty() {
            section.warn("proxy_protocol", NOT_AVAILABLE);
        }
        config
    }
}

impl OdmrConfig {
    fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let connections =
            |value: Value<'_>| value.integer(&(1..=100_000)).map(|number| number as usize);
        let intervals = Duration::ZERO..=Duration::from_secs(86_400);
        let config = Self {
            listen: read_listen(section, default.listen),
            tls: section.or("tls", default.tls, |value| value.word(&ODMR_TLS)),
            allow_from: section.list_or("allow_from", default.allow_from, network),
            command_timeout: section.or("command_timeout", default.command_timeout, |value| {
                value.duration(&TIMEOUTS)
            }),
            max_connections: section.or("max_connections", default.max_connections, connections),
            mechanisms: section.list_or("mechanisms", default.mechanisms, mechanism),
            min_interval: section.or("min_interval", default.min_interval, |value| {
                value.duration(&intervals)
            }),
        };
        if config.tls == OdmrTls::Off
            && let Some(open) = config
                .listen
                .iter()
                .find(|address| !address.ip().is_loopback())
        {
            section.problem(
                "tls",
                &format!("\"off\" is for loopback only, and listen has {open}; use \"implicit\""),
            );
        }
        if config.mechanisms.is_empty() {
            section.problem("mechanisms", "is empty; without AUTH nobody can pull");
        }
        if config.tls == OdmrTls::Optional {
            section.warn(
                "tls",
                "\"optional\" lets pullers log in and take mail without encryption",
            );
        }
        config
    }
}

/// Two listeners cannot have one address; port 0 is another port each time.
fn read_listen(section: &Section<'_>, default: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let listen = section.list_or("listen", default, Value::socket_address);
    if listen.is_empty() {
        section.problem("listen", "is empty; name an address");
    }
    let fixed: Vec<_> = listen
        .iter()
        .filter(|address| address.port() != 0)
        .collect();
    section.note_repeated("listen", &fixed);
    listen
}

fn read_tls(root: &Section<'_>, odmr: OdmrTls) -> Option<TlsFiles> {
    let section = root.section("tls");
    if section.is_present() {
        let certificate = section.required("certificate", Value::path);
        let key = section.required("key", Value::path);
        return Some(TlsFiles {
            certificate: certificate?,
            key: key?,
            place: section.place("certificate"),
        });
    }
    if odmr != OdmrTls::Off {
        root.problem_here(
            "[tls] is missing: pullers need a certificate to trust; `atrn-relay init` makes one",
        );
    }
    None
}

fn read_domains(root: &Section<'_>) -> Vec<DomainConfig> {
    let sections = root.sections("domain");
    let mut domains: Vec<_> = sections.iter().filter_map(read_domain).collect();
    root.note_duplicates(
        "name",
        domains
            .iter()
            .map(|domain| (domain.name.as_str(), domain.place.clone())),
    );
    domains.sort_by(|left, right| left.name.cmp(&right.name));
    domains
}

fn read_domain(section: &Section<'_>) -> Option<DomainConfig> {
    let name = section.required("name", remote_domain);
    let hold_for = section.or("hold_for", HOLD_FOR_DEFAULT, |value| {
        value.duration(&HOLD_TIMES)
    });
    let max_queue_size = section.or("max_queue_size", MAX_QUEUE_SIZE_DEFAULT, |value| {
        value.size(&(0..=u64::MAX))
    });
    let recipients = section.or("recipients", Recipients::Any, |value| {
        value.word(&RECIPIENTS)
    });
    let reports = section.or("reports", Reports::VerifiedSender, |value| {
        value.word(&REPORTS)
    });
    if section.has("max_queue_size") {
        section.warn("max_queue_size", NOT_AVAILABLE);
    }
    if recipients != Recipients::Any {
        section.warn(
            "recipients",
            "not available in this version: every recipient is accepted",
        );
    }
    if section.has("reports") && reports != Reports::None {
        section.warn(
            "reports",
            "not available in this version: mail that is refused for good stays failed and visible",
        );
    }
    Some(DomainConfig {
        name: name?,
        hold_for,
        max_queue_size,
        recipients,
        reports,
        place: section.place("name"),
    })
}

fn read_accounts(root: &Section<'_>, domains: &[DomainConfig]) -> Vec<AccountConfig> {
    let sections = root.sections("account");
    let accounts: Vec<_> = sections
        .iter()
        .filter_map(|section| read_account(section, domains))
        .collect();
    root.note_duplicates(
        "name",
        accounts
            .iter()
            .map(|account| (account.name.as_str(), account.place.clone())),
    );
    // R4422-1: a certificate stands for exactly one account.
    let pins: Vec<_> = accounts
        .iter()
        .flat_map(|account| {
            account
                .certificate_pins
                .iter()
                .map(|pin| (pin.to_string(), account.place.clone()))
        })
        .collect();
    root.note_duplicates(
        "certificate_pins",
        pins.iter()
            .map(|(pin, place)| (pin.as_str(), place.clone())),
    );
    accounts
}

fn read_account(section: &Section<'_>, known: &[DomainConfig]) -> Option<AccountConfig> {
    let name = section.required("name", account_name);
    let domains = section.required_list("domains", domain);
    // A verifier is a secret of sorts: the message does not repeat it.
    let scram_sha_256 = section.optional("scram_sha_256", |value| {
        value.text()?.parse().map_err(|_| {
            Complaint::from("is not a verifier; make one with `atrn-relay account rotate`")
        })
    });
    let cram_md5_secret_file = section.optional("cram_md5_secret_file", Value::path);
    let certificate_pins = section.list_or("certificate_pins", Vec::new(), pin);
    let disabled = section.or("disabled", false, Value::boolean);
    let line_records = section.or("line_records", false, Value::boolean);
    let ways = ["scram_sha_256", "cram_md5_secret_file", "certificate_pins"];
    if !ways.iter().any(|key| section.has(key)) {
        section.problem_here("has none of scram_sha_256, certificate_pins and cram_md5_secret_file: it could not log in");
    }
    let domains = domains?;
    section.note_repeated("domains", &domains);
    for domain in &domains {
        if known
            .binary_search_by(|each| each.name.cmp(domain))
            .is_err()
        {
            section.warn(
                "domains",
                &format!("\"{domain}\" is not a configured domain: no new mail is accepted for it"),
            );
        }
    }
    Some(AccountConfig {
        name: name?,
        domains,
        scram_sha_256,
        cram_md5_secret_file,
        certificate_pins,
        disabled,
        line_records,
        place: section.place("name"),
    })
}

/// Tables that the file format has and this version does not act on. Their keys are checked all the same, so
/// that a file which is right now stays right.
fn read_later_tables(root: &Section<'_>) {
    let limits = root.section("limits");
    limits.list_or("exempt", Vec::new(), network);
    if root.is_text("dns") {
        // No look-ups are made yet, so that "off" is what happens.
        root.optional("dns", |value| value.word(&[("off", ())]));
    } else {
        let dns = root.section("dns");
        dns.list_or("servers", Vec::new(), Value::socket_address);
        if dns.is_present() {
            root.warn("dns", NOT_AVAILABLE);
        }
    }
    let transaction_log = root.section("transaction_log");
    transaction_log.optional("path", Value::path);
    transaction_log.optional("format", |value| value.word(&[("w3c", ()), ("json", ())]));
    transaction_log.list_or("fields", Vec::new(), |value| {
        value.text().map(str::to_owned)
    });
    transaction_log.optional("rotate", Value::text);
    transaction_log.optional("keep", |value| value.integer(&(0..=100_000)));
    let metrics = root.section("metrics");
    metrics.optional("listen", Value::socket_address);
    for (key, section) in [
        ("limits", &limits),
        ("transaction_log", &transaction_log),
        ("metrics", &metrics),
    ] {
        if section.is_present() {
            root.warn(key, NOT_AVAILABLE);
        }
    }
    let sandbox = root.section("sandbox");
    if sandbox.or("enabled", true, Value::boolean) && sandbox.is_present() {
        root.warn("sandbox", NOT_AVAILABLE);
    }
}

fn domain(value: Value<'_>) -> Result<Domain, Complaint> {
    value.parsed("a domain name", Domain::parse)
}

/// A domain that ATRN can name (R2645-7).
fn remote_domain(value: Value<'_>) -> Result<Domain, Complaint> {
    let name = domain(value)?;
    if name.labels() < 2 {
        return Err(
            format!("{value} has one label only; ATRN takes two or more (RFC 2645)").into(),
        );
    }
    Ok(name)
}

/// Goes into file names and log lines as it is.
fn account_name(value: Value<'_>) -> Result<String, Complaint> {
    let name = value.text()?;
    if is_account_name(name) {
        return Ok(name.to_owned());
    }
    Err(format!("{value} is not an account name; use up to 64 letters, digits and . _ @ + -, a letter or digit first").into())
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

fn network(value: Value<'_>) -> Result<IpNet, Complaint> {
    let text = value.text()?;
    let network = text.parse().ok().or_else(|| {
        text.parse()
            .ok()
            .map(|address: std::net::IpAddr| address.into())
    });
    let network: IpNet = network.ok_or_else(|| {
        format!("{value} is not a network; use \"192.0.2.0/24\", \"2001:db8::/32\" or an address")
    })?;
    if network.trunc() == network {
        return Ok(network);
    }
    Err(format!(
        "{value} has bits set behind the prefix; use \"{}\"",
        network.trunc()
    )
    .into())
}

fn mechanism(value: Value<'_>) -> Result<Mechanism, Complaint> {
    let words = Mechanism::ALL.map(|mechanism| (mechanism.name(), mechanism));
    value.word(&words)
}

fn pin(value: Value<'_>) -> Result<SpkiPin, Complaint> {
    value.parsed("a pin", str::parse)
}

const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

/// What a warning says of a setting whose effect does not exist yet.
const NOT_AVAILABLE: &str = "not available in this version, ignored";
/// RFC 5321 §4.5.3.1.7 wants 64 KiB at least.
const SIZES: RangeInclusive<u64> = 65_536..=100_000_000_000;
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);
const HOLD_TIMES: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(365 * 86_400);
const ODMR_TLS: [(&str, OdmrTls); 4] = [
    ("implicit", OdmrTls::Implicit),
    ("starttls", OdmrTls::StartTls),
    ("optional", OdmrTls::Optional),
    ("off", OdmrTls::Off),
];
const RECIPIENTS: [(&str, Recipients); 3] = [
    ("any", Recipients::Any),
    ("pushed", Recipients::Pushed),
    ("file", Recipients::File),
];
const REPORTS: [(&str, Reports); 4] = [
    ("verified-sender", Reports::VerifiedSender),
    ("sender", Reports::Sender),
    ("postmaster", Reports::Postmaster),
    ("none", Reports::None),
];

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A configuration out of its text, for tests of what is decided by it.
    pub(crate) fn config(text: &str) -> RelayConfig {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("relay.toml");
        std::fs::write(&path, format!("{text}\n[tls]\ncertificate = \"x\"\nkey = \"y\"\n")).unwrap();
        RelayConfig::load(&path).unwrap().config
    }
}