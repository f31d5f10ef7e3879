//! How the keys of a file become the puller's settings: units, bounds, and what must go together.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use atrn_shared::config::{Address, Complaint, Configuration, Section, Value};
use atrn_shared::log::LogConfig;
use atrn_shared::sandbox::SandboxConfig;
use atrn_shared::sasl::Mechanism;
use atrn_shared::smtp::address::Domain;
use atrn_shared::tls::{SpkiPin, Trust};

use super::{
    CONNECTIONS_DEFAULT, DATA_DIR_DEFAULT, EVERY_DEFAULT, HandoverConfig, HandoverTls,
    JITTER_DEFAULT, Limits, Login, Mode, PullerConfig, REPORTS_PER_HOUR_DEFAULT, RelayConfig,
    RelayTls, ReportsConfig, SESSIONS_DEFAULT, Target, WAIT_DEFAULT, minutes,
};

impl Configuration for PullerConfig {
    fn read(root: &Section<'_>) -> Option<Self> {
        let hostname = root.required("hostname", domain);
        let data_dir = root.or("data_dir", PathBuf::from(DATA_DIR_DEFAULT), Value::path);
        let limits = Limits::read(&root.section("limits"));
        let log = LogConfig::read(&root.section("log"));
        let sandbox = SandboxConfig::read(&root.section("sandbox"));
        let relays = read_relays(root);
        let handover = root.section("handover");
        let handover = if handover.is_present() {
            read_handover(&handover, Role::Corporate)
        } else {
            root.problem_here("[handover] is missing: say where mail goes, such as target = \"smtp://mail.example.com\"");
            None
        };
        let reports = read_reports(root);
        read_directories(root);
        Some(Self {
            hostname: hostname?,
            data_dir,
            relays,
            limits,
            handover: handover?,
            reports,
            log,
            sandbox,
        })
    }
}

impl Limits {
    fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let recipients = |value: Value<'_>| {
            value
                .integer(&(100..=100_000))
                .map(|number| number as usize)
        };
        Self {
            max_message_size: section.or("max_message_size", default.max_message_size, |value| {
                value.size(&SIZES)
            }),
            max_recipients: section.or("max_recipients", default.max_recipients, recipients),
            max_errors: section.or("max_errors", default.max_errors, |value| {
                value.integer(&(1..=1_000)).map(|number| number as usize)
            }),
            max_commands: section.or("max_commands", default.max_commands, |value| {
                value
                    .integer(&(1_000..=1_000_000))
                    .map(|number| number as usize)
            }),
            reply_timeout: section.or("reply_timeout", default.reply_timeout, |value| {
                value.duration(&TIMEOUTS)
            }),
            transaction_timeout: section.or(
                "transaction_timeout",
                default.transaction_timeout,
                |value| value.duration(&TIMEOUTS),
            ),
            session_timeout: section.or("session_timeout", default.session_timeout, |value| {
                value.duration(&SESSIONS)
            }),
        }
    }
}

fn read_relays(root: &Section<'_>) -> Vec<RelayConfig> {
    let sections = root.sections("relay");
    if sections.is_empty() {
        root.problem_here("[[relay]] is missing: there is nothing to pull from");
    }
    let relays: Vec<_> = sections.iter().filter_map(read_relay).collect();
    root.note_duplicates(
        "name",
        relays
            .iter()
            .map(|relay| (relay.name.as_str(), relay.place.clone())),
    );
    relays
}

fn read_relay(section: &Section<'_>) -> Option<RelayConfig> {
    let name = section.required("name", name);
    let address = section.required("address", |value| {
        value.parsed("a host and port", |text| Address::parse(text, ODMR_PORT))
    });
    let tls = section.or("tls", RelayTls::Implicit, |value| value.word(&RELAY_TLS));
    let trust = read_trust(section);
    let account = section.required("account", |value| match value.text()? {
        "" => Err("is empty".into()),
        text => Ok(text.to_owned()),
    });
    let secret_file = section.optional("secret_file", Value::path);
    let certificate = read_certificate(section);
    let domains = section.required_list("domains", remote_domain);
    let schedule = read_schedule(section);
    let sessions = section.or("sessions", SESSIONS_DEFAULT, |value| {
        value.integer(&(1..=100)).map(|number| number as usize)
    });
    let weakest_mechanism = read_weakest_mechanism(section, tls);
    if let Some(address) = &address
        && tls == RelayTls::Off
        && !address.is_loopback()
    {
        section.problem(
            "tls",
            &format!(
                "\"off\" is for loopback only, and the address is {address}; use \"implicit\""
            ),
        );
    }
    if tls == RelayTls::Off && certificate.is_some() {
        section.problem("certificate", "needs TLS, and tls is \"off\"");
    }
    section.note_repeated("domains", domains.as_deref().unwrap_or_default());
    Some(RelayConfig {
        name: name?,
        address: address?,
        tls,
        trust: trust.unwrap_or(Trust::Platform),
        account: account?,
        secret_file,
        certificate,
        weakest_mechanism,
        domains: domains?,
        mode: schedule.mode,
        every: schedule.every,
        jitter: schedule.jitter,
        wait: schedule.wait,
        sessions,
        place: section.place("name"),
    })
}

struct Schedule {
    mode: Mode,
    every: Duration,
    jitter: Duration,
    wait: Duration,
}

fn read_schedule(section: &Section<'_>) -> Schedule {
    let mode = section.or("mode", Mode::Instant, |value| value.word(&MODES));
    let every = section.or("every", EVERY_DEFAULT, |value| value.duration(&INTERVALS));
    let jitter = section.or("jitter", JITTER_DEFAULT, |value| {
        value.duration(&(Duration::ZERO..=*INTERVALS.end()))
    });
    let wait = section.or("wait", WAIT_DEFAULT, |value| value.duration(&WAITS));
    if section.has("wait") && mode == Mode::Poll {
        section.warn(
            "wait",
            "means nothing where mode is \"poll\"; use mode = \"instant\"",
        );
    }
    Schedule {
        mode,
        every,
        jitter,
        wait,
    }
}

/// At most one way to prove who the server is. `None`: none is named, or a problem was noted.
fn read_trust(section: &Section<'_>) -> Option<Trust> {
    let pins = section.optional("pin", |value| value.parsed("a pin", str::parse::<SpkiPin>));
    let ca = section.optional("ca", Value::path);
    if section.has("pin") && section.has("ca") {
        section.problem("pin", "stands beside ca; use one of them");
    }
    pins.map(|pin| Trust::Pin(vec![pin]))
        .or_else(|| ca.map(Trust::Ca))
}

fn read_certificate(section: &Section<'_>) -> Option<(PathBuf, PathBuf)> {
    let certificate = section.optional("certificate", Value::path);
    let key = section.optional("key", Value::path);
    match (section.has("certificate"), section.has("key")) {
        (true, false) => section.problem("certificate", "needs the key as well: key = \"…\""),
        (false, true) => {
            section.problem("key", "needs the certificate as well: certificate = \"…\"")
        }
        (false, false) if !section.has("secret_file") => {
            section.problem_here(
                "has neither secret_file nor certificate and key: it could not log in",
            );
        }
        _ => {}
    }
    certificate.zip(key)
}

/// Unless a weaker one is allowed by name, nothing is used that would show the secret to the relay (PLAIN), or
/// that a recording of the session lets one guess at (CRAM-MD5).
fn read_weakest_mechanism(section: &Section<'_>, tls: RelayTls) -> Mechanism {
    let words = Mechanism::ALL.map(|mechanism| (mechanism.name(), mechanism));
    let weakest = section.or("weakest_mechanism", Mechanism::ScramSha256, |value| {
        value.word(&words)
    });
    match weakest {
        Mechanism::Plain if tls == RelayTls::Off => {
            section.problem(
                "weakest_mechanism",
                "\"PLAIN\" needs TLS, and tls is \"off\"",
            );
        }
        Mechanism::External if !section.has("certificate") => {
            section.problem(
                "weakest_mechanism",
                "\"EXTERNAL\" needs certificate and key",
            );
        }
        _ => {}
    }
    weakest
}

/// Whom a target stands for.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Role {
    Corporate,
    SmartHost,
}

fn read_handover(section: &Section<'_>, role: Role) -> Option<HandoverConfig> {
    let target = section.required("target", read_target);
    let trust = read_trust(section);
    let word = section.optional("tls", |value| value.word(&HANDOVER_TLS));
    let username = section.optional("username", |value| value.text().map(str::to_owned));
    let password_file = section.optional("password_file", Value::path);
    let connections = match role {
        Role::Corporate => section.or("connections", CONNECTIONS_DEFAULT, |value| {
            value.integer(&(1..=32)).map(|number| number as usize)
        }),
        // Reports are few.
        Role::SmartHost => 1,
    };
    if section.has("username") != section.has("password_file") {
        let (key, other) = if section.has("username") {
            ("username", "password_file")
        } else {
            ("password_file", "username")
        };
        section.problem(key, &format!("needs {other} as well"));
    }
    let target = target?;
    if role == Role::SmartHost && !matches!(target, Target::Smtp(_) | Target::Smtps(_)) {
        section.problem("target", "is no smart host; use smtp:// or smtps://");
    }
    let Some(address) = target.address() else {
        for key in ["tls", "pin", "ca", "username", "password_file"]
            .into_iter()
            .filter(|key| section.has(key))
        {
            section.problem(
                key,
                &format!("means nothing to a target without a network: {target}"),
            );
        }
        return Some(HandoverConfig {
            target,
            tls: HandoverTls::Off,
            login: None,
            connections,
        });
    };
    let tls = handover_tls(section, &target, word, trust);
    let verified = matches!(tls, HandoverTls::Required(_));
    if section.has("username") && !verified && !address.is_loopback() {
        section.problem(
            "username",
            "a password is sent only to a server that proves who it is; use tls = \"required\"",
        );
    }
    let login = username.zip(password_file);
    let login = login.map(|(username, password_file)| Login {
        username,
        password_file,
        place: section.place("password_file"),
    });
    Some(HandoverConfig {
        target,
        tls,
        login,
        connections,
    })
}

/// `smtps://` and a named pin or CA ask for a proof; else TLS is taken where it is offered.
fn handover_tls(
    section: &Section<'_>,
    target: &Target,
    word: Option<TlsWord>,
    trust: Option<Trust>,
) -> HandoverTls {
    let implicit = matches!(target, Target::Smtps(_));
    let default = if implicit || trust.is_some() {
        TlsWord::Required
    } else {
        TlsWord::Opportunistic
    };
    let word = word.unwrap_or(default);
    if word != TlsWord::Required && trust.is_some() {
        section.problem("tls", "must be \"required\" where a pin or ca is named");
    }
    if word == TlsWord::Off && implicit {
        section.problem("tls", "cannot be \"off\" for smtps://");
    }
    match word {
        TlsWord::Opportunistic => HandoverTls::Opportunistic,
        TlsWord::Required => HandoverTls::Required(trust.unwrap_or(Trust::Platform)),
        TlsWord::Off => HandoverTls::Off,
    }
}

fn read_target(value: Value<'_>) -> Result<Target, Complaint> {
    let text = value.text()?;
    let path = |path: &str| match path {
        "" => Err(Complaint::from(format!("{value} names no path"))),
        path => Ok(value.place().resolve(path)),
    };
    if let Some(rest) = text.strip_prefix("maildir:") {
        return path(rest).map(Target::Maildir);
    }
    if let Some(rest) = text.strip_prefix("lmtp+unix:") {
        return path(rest).map(Target::LmtpUnix);
    }
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let (make, port): (fn(Address) -> Target, _) = match scheme {
        "smtp" => (Target::Smtp, 25),
        "smtps" => (Target::Smtps, 465),
        "lmtp" => (Target::Lmtp, 24),
        _ => {
            let known = "smtp://HOST:PORT, smtps://HOST:PORT, lmtp://HOST:PORT, lmtp+unix:/PATH or maildir:/PATH";
            return Err(format!("{value} is not a target; use {known}").into());
        }
    };
    if rest.contains('@') {
        // The value is not repeated: it may hold a password.
        return Err("has a user name in it; use username and password_file".into());
    }
    let address = Address::parse(rest.strip_suffix('/').unwrap_or(rest), port)
        .map_err(|error| Complaint::from(format!("{value} is not a target: {error}")))?;
    if scheme == "lmtp" && address.port == 25 {
        return Err(
            "LMTP must not be spoken on port 25 (RFC 2033 §5); use smtp:// or another port".into(),
        );
    }
    Ok(make(address))
}

fn read_reports(root: &Section<'_>) -> Option<ReportsConfig> {
    let section = root.section("reports");
    let per_hour = section.or("max_per_hour", REPORTS_PER_HOUR_DEFAULT, |value| {
        value.integer(&(1..=1_000_000))
    });
    if !section.is_present() {
        return None;
    }
    let handover = read_handover(&section, Role::SmartHost)?;
    Some(ReportsConfig {
        handover,
        max_per_hour: per_hour,
    })
}

/// Recipient push: checked, and not acted on in this version.
fn read_directories(root: &Section<'_>) {
    for section in root.sections("directory") {
        section.required("domain", remote_domain);
        section.required("source", |value| {
            let text = value.text()?;
            let known = ["file:", "command:", "ldap://", "ldaps://"];
            if known
                .iter()
                .any(|scheme| text.starts_with(scheme) && text.len() > scheme.len())
            {
                return Ok(());
            }
            Err(
                format!("{value} is not a source; use file:/PATH, command:… or ldaps://HOST/…")
                    .into(),
            )
        });
        section.or("every", minutes(15), |value| value.duration(&INTERVALS));
    }
    if root.has("directory") {
        root.warn("directory", NOT_AVAILABLE);
    }
}

fn name(value: Value<'_>) -> Result<String, Complaint> {
    let text = value.text()?;
    let valid = !text.is_empty()
        && text.len() <= 64
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if valid {
        Ok(text.to_owned())
    } else {
        Err(format!("{value} is not a name; use up to 64 letters, digits and . _ -").into())
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

#[derive(Clone, Copy, Eq, PartialEq)]
enum TlsWord {
    Opportunistic,
    Required,
    Off,
}

/// Port of ODMR (RFC 2645 §8).
const ODMR_PORT: u16 = 366;
/// What a warning says of a setting whose effect does not exist yet.
const NOT_AVAILABLE: &str = "not available in this version, ignored";
const SIZES: RangeInclusive<u64> = 65_536..=100_000_000_000;
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);
const SESSIONS: RangeInclusive<Duration> =
    Duration::from_secs(60)..=Duration::from_secs(7 * 86_400);
const INTERVALS: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(7 * 86_400);
/// Sessions may be silent for so long; deadlines of ours that meet such a silence follow from it.
const WAITS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3_600);
const RELAY_TLS: [(&str, RelayTls); 3] = [
    ("implicit", RelayTls::Implicit),
    ("starttls", RelayTls::StartTls),
    ("off", RelayTls::Off),
];
const MODES: [(&str, Mode); 2] = [("instant", Mode::Instant), ("poll", Mode::Poll)];
const HANDOVER_TLS: [(&str, TlsWord); 3] = [
    ("opportunistic", TlsWord::Opportunistic),
    ("required", TlsWord::Required),
    ("off", TlsWord::Off),
];
