//! How the keys of a file become the relay's settings: units, bounds, and what must go together.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use atrn_shared::config::{Complaint, Configuration, Section, Value};
use atrn_shared::log::LogConfig;
use atrn_shared::odmr::WAIT_MAX;
use atrn_shared::sandbox::SandboxConfig;
use atrn_shared::sasl::Mechanism;
use atrn_shared::smtp::address::Domain;
use atrn_shared::tls::SpkiPin;
use ipnet::IpNet;

use super::{
    AccountConfig, Authentication, DATA_DIR_DEFAULT, DnsConfig, DomainConfig, HOLD_FOR_DEFAULT,
    KEEP_FAILED_DEFAULT, LimitsConfig, MAX_QUEUE_MESSAGES_DEFAULT, MAX_QUEUE_SIZE_DEFAULT,
    OdmrConfig, OdmrTls, Recipients, RelayConfig, Reports, SmtpConfig, TlsFiles,
    TransactionLogConfig, is_account_name,
};

impl Configuration for RelayConfig {
    fn read(root: &Section<'_>) -> Option<Self> {
        let hostname = root.required("hostname", domain);
        let data_dir = root.or("data_dir", PathBuf::from(DATA_DIR_DEFAULT), Value::path);
        let dns = DnsConfig::read(root);
        let smtp = SmtpConfig::read(&root.section("smtp"), dns.as_ref());
        let odmr = OdmrConfig::read(&root.section("odmr"));
        let tls = read_tls(root, odmr.tls);
        let limits = LimitsConfig::read(root);
        let log = LogConfig::read(&root.section("log"));
        let transaction_log = TransactionLogConfig::read(root);
        let sandbox = SandboxConfig::read(&root.section("sandbox"));
        let metrics = read_metrics(root);
        let domains = read_domains(root, dns.as_ref());
        let accounts = read_accounts(root, &domains);
        Some(Self {
            hostname: hostname?,
            data_dir,
            smtp,
            odmr,
            tls,
            limits,
            dns,
            log,
            transaction_log,
            sandbox,
            metrics,
            domains,
            accounts,
        })
    }
}

impl SmtpConfig {
    fn read(section: &Section<'_>, dns: Option<&DnsConfig>) -> Self {
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
            max_received: number("max_received", default.max_received, 30..=100),
            command_timeout: section.or("command_timeout", default.command_timeout, |value| {
                value.duration(&TIMEOUTS)
            }),
            data_timeout: section.or("data_timeout", default.data_timeout, |value| {
                value.duration(&TIMEOUTS)
            }),
            dnsbl: section.list_or("dnsbl", default.dnsbl, dnsbl),
            smtputf8: section.or("smtputf8", default.smtputf8, Value::boolean),
            greylist: section.or("greylist", default.greylist, greylist),
            proxy_protocol: section.list_or("proxy_protocol", default.proxy_protocol, network),
        };
        section.note_repeated("dnsbl", &config.dnsbl);
        if dns.is_none() && !config.dnsbl.is_empty() {
            section.warn("dnsbl", WITHOUT_DNS);
        }
        let everybody = config
            .proxy_protocol
            .iter()
            .find(|net| net.prefix_len() == 0);
        if let Some(everybody) = everybody {
            section.warn(
                "proxy_protocol",
                &format!("\"{everybody}\" lets everybody say which address he comes from; name the proxies only"),
            );
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
            max_unauthenticated_per_ip: section.or(
                "max_unauthenticated_per_ip",
                default.max_unauthenticated_per_ip,
                connections,
            ),
            max_connections_per_account: section.or(
                "max_connections_per_account",
                default.max_connections_per_account,
                connections,
            ),
            mechanisms: section.list_or("mechanisms", default.mechanisms, mechanism),
            min_interval: section.or("min_interval", default.min_interval, |value| {
                value.duration(&intervals)
            }),
            max_wait: section.or("max_wait", default.max_wait, max_wait),
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

fn read_domains(root: &Section<'_>, dns: Option<&DnsConfig>) -> Vec<DomainConfig> {
    let sections = root.sections("domain");
    let mut domains: Vec<_> = sections
        .iter()
        .filter_map(|section| read_domain(section, dns))
        .collect();
    root.note_duplicates(
        "name",
        domains
            .iter()
            .map(|domain| (domain.name.as_str(), domain.place.clone())),
    );
    domains.sort_by(|left, right| left.name.cmp(&right.name));
    domains
}

fn read_domain(section: &Section<'_>, dns: Option<&DnsConfig>) -> Option<DomainConfig> {
    let name = section.required("name", remote_domain);
    let hold_for = section.or("hold_for", HOLD_FOR_DEFAULT, |value| {
        value.duration(&HOLD_TIMES)
    });
    let max_queue_size = section.or("max_queue_size", MAX_QUEUE_SIZE_DEFAULT, |value| {
        value.size(&(0..=u64::MAX))
    });
    let max_queue_messages =
        section.or("max_queue_messages", MAX_QUEUE_MESSAGES_DEFAULT, |value| {
            value.integer(&(1..=u32::MAX)).map(u64::from)
        });
    let recipients = section.or("recipients", Recipients::Any, |value| {
        value.word(&RECIPIENTS)
    });
    let reports = section.or("reports", Reports::default(), |value| {
        value.word(&Reports::ALL.map(|reports| (reports.name(), reports)))
    });
    let authentication = section.or("authentication", Authentication::default(), |value| {
        value.word(&Authentication::WORDS)
    });
    let keep_failed = section.or("keep_failed", KEEP_FAILED_DEFAULT, |value| {
        value.duration(&HOLD_TIMES)
    });
    if dns.is_none() && authentication == Authentication::Enforce {
        section.warn("authentication", WITHOUT_DNS);
    }
    if recipients != Recipients::Any {
        section.warn(
            "recipients",
            "not available in this version: every recipient is accepted",
        );
    }
    Some(DomainConfig {
        name: name?,
        hold_for,
        max_queue_size,
        max_queue_messages,
        recipients,
        reports,
        authentication,
        keep_failed,
        place: section.place("name"),
    })
}

fn read_accounts(root: &Section<'_>, domains: &[DomainConfig]) -> Vec<AccountConfig> {
    let sections = root.sections("account");
    let mut accounts: Vec<_> = sections
        .iter()
        .filter_map(|section| read_account(section, domains))
        .collect();
    root.note_duplicates(
        "name",
        accounts
            .iter()
            .map(|account| (account.name.as_str(), account.place.clone())),
    );
    accounts.sort_by(|left, right| left.name.cmp(&right.name));
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

/// Off where the table is absent: who writes it wants to be told where.
fn read_metrics(root: &Section<'_>) -> Option<SocketAddr> {
    let section = root.section("metrics");
    if section.is_present() {
        section.required("listen", Value::socket_address)
    } else {
        section.optional("listen", Value::socket_address)
    }
}

fn domain(value: Value<'_>) -> Result<Domain, Complaint> {
    value.parsed("a domain name", Domain::parse)
}

/// A list has a name of two labels or more, also where it is one's own.
fn dnsbl(value: Value<'_>) -> Result<Domain, Complaint> {
    let name = domain(value)?;
    if name.labels() < 2 {
        return Err(format!("{value} has one label only; use the whole name of the list").into());
    }
    Ok(name)
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

pub(super) fn network(value: Value<'_>) -> Result<IpNet, Complaint> {
    let text = value.text()?;
    let network = text
        .parse()
        .ok()
        .or_else(|| text.parse().ok().map(|address: IpAddr| address.into()));
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

/// `false`, or how long to wait.
fn greylist(value: Value<'_>) -> Result<Option<Duration>, Complaint> {
    match value.boolean() {
        Ok(false) => Ok(None),
        Ok(true) => Err("true is no time to wait; use \"1m\"".into()),
        Err(_) => value.duration(&GREYLIST_WAITS).map(Some),
    }
}

/// `"off"`, or no time at all: XWAIT is not offered.
fn max_wait(value: Value<'_>) -> Result<Option<Duration>, Complaint> {
    let is_none = value.duration(&(Duration::ZERO..=Duration::ZERO)).is_ok();
    if is_none || value.text().is_ok_and(|text| text == "off") {
        return Ok(None);
    }
    value
        .duration(&(Duration::from_secs(1)..=WAIT_MAX))
        .map(Some)
}

fn mechanism(value: Value<'_>) -> Result<Mechanism, Complaint> {
    let words = Mechanism::ALL.map(|mechanism| (mechanism.name(), mechanism));
    value.word(&words)
}

fn pin(value: Value<'_>) -> Result<SpkiPin, Complaint> {
    value.parsed("a pin", str::parse)
}

/// RFC 5321 §4.5.3.1.7 wants 64 KiB at least.
const SIZES: RangeInclusive<u64> = 65_536..=100_000_000_000;
/// What a warning says of a setting that asks for names.
const WITHOUT_DNS: &str = "has no effect: dns is \"off\"";
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);
/// A sender that comes back after days does not come back.
const GREYLIST_WAITS: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(86_400);
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
