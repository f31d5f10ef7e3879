//! Files beside what is said of them; the documented example beside the code.

use std::fs;

use super::*;

const PIN: &str = "sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
/// Eight lines of a file that is right, and that others are appended to.
const BASE: &str = "hostname = \"mx1.example.net\"\n[tls]\ncertificate = \"c\"\nkey = \"k\"\n\
                    [[domain]]\nname = \"example.com\"\n\n\n";

/// A configuration out of its text, for tests of what is decided by it.
pub(crate) fn config(text: &str) -> RelayConfig {
    load(&format!(
        "{text}\n[tls]\ncertificate = \"x\"\nkey = \"y\"\n"
    ))
    .unwrap()
    .config
}

/// Loads a file; errors and warnings without the directory.
fn load(text: &str) -> Result<Loaded<RelayConfig>, String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("relay.toml");
    fs::write(&file, text).unwrap();
    let prefix = format!("{}/", directory.path().display());
    RelayConfig::load(&file).map_err(|errors| errors.to_string().replace(&prefix, ""))
}

fn warnings(text: &str) -> Vec<String> {
    let loaded = load(text).unwrap();
    let place = loaded.files[0].parent().unwrap().display().to_string();
    let shown = loaded.notes.warnings.iter().map(ToString::to_string);
    shown
        .map(|line| line.replace(&format!("{place}/"), ""))
        .collect()
}

#[test]
fn every_mistake_has_its_line() {
    for (more, expected) in MISTAKES {
        assert_eq!(
            load(&format!("{BASE}{more}\n")).unwrap_err(),
            *expected,
            "{more}"
        );
    }
}

#[test]
fn what_must_be_there() {
    assert_eq!(
        load("[smtp]\n").unwrap_err(),
        "relay.toml:1: [tls] is missing: pullers need a certificate to trust; `atrn-relay init` makes one\n\
         relay.toml:1: hostname is missing"
    );
    assert_eq!(
        load("hostname = \"mx1.example.net\"\n[tls]\n").unwrap_err(),
        "relay.toml:2: [tls]: certificate is missing\nrelay.toml:2: [tls]: key is missing"
    );
    let without_tls =
        "hostname = \"h\"\n[odmr]\ntls = \"off\"\nlisten = [\"127.0.0.1:0\", \"127.0.0.1:0\"]\n";
    assert!(load(without_tls).unwrap().config.tls.is_none());
}

#[test]
fn a_wait_for_mail_can_be_shorter_or_off() {
    let wait = |text: &str| load(&format!("{BASE}{text}")).unwrap().config.odmr.max_wait;
    for (value, expected) in [
        ("1s", Some(1)),
        ("4m", Some(240)),
        ("1d", Some(86_400)),
        ("0s", None),
        ("off", None),
    ] {
        let expected = expected.map(Duration::from_secs);
        assert_eq!(wait(&format!("[odmr]\nmax_wait = \"{value}\"")), expected);
    }
    assert_eq!(wait("[odmr]"), Some(Duration::from_secs(240)));
}

/// R4422-1.
#[test]
fn a_name_or_a_certificate_stands_for_one_account() {
    let account = |name: &str| {
        format!(
            "[[account]]\nname = \"{name}\"\ndomains = [\"example.com\"]\ncertificate_pins = [\"{PIN}\"]\n"
        )
    };
    assert_eq!(
        load(&format!("{BASE}{}{}", account("a"), account("b"))).unwrap_err(),
        format!("relay.toml:14: certificate_pins: \"{PIN}\" is already set at relay.toml:10")
    );
    let twice = format!("{BASE}{}{}", account("a"), account("a"));
    assert!(
        load(&twice)
            .unwrap_err()
            .contains("relay.toml:14: name: \"a\" is already set at relay.toml:10")
    );
}

#[test]
fn what_has_no_effect_is_said() {
    for (more, expected) in [
        ("", vec![]),
        ("[sandbox]\nenabled = false", vec![]),
        ("[sandbox]\nenabled = true", vec![]),
        ("[metrics]\nlisten = \"127.0.0.1:9366\"", vec![]),
        ("[transaction_log]\npath = \"logs\"\nformat = \"json\"\nrotate = \"100MB\"", Vec::new()),
        ("[limits]\nexempt = [\"192.0.2.1\"]", vec![]),
        ("[dns]\nservers = [\"192.0.2.1:53\"]", vec![]),
        ("[smtp]\nproxy_protocol = [\"192.0.2.0/24\"]", vec![]),
        (
            "[smtp]\nproxy_protocol = [\"192.0.2.0/24\", \"::/0\"]",
            vec!["relay.toml:10: proxy_protocol: \"::/0\" lets everybody say which address he comes from; name the proxies only".to_owned()],
        ),
        ("reports = \"sender\"", vec![]),
        (
            "recipients = \"pushed\"",
            vec!["relay.toml:9: recipients: not available in this version: every recipient is accepted".to_owned()],
        ),
        (
            "[odmr]\ntls = \"optional\"",
            vec!["relay.toml:10: tls: \"optional\" lets pullers log in and take mail without encryption".to_owned()],
        ),
        (
            &format!("[[account]]\nname = \"a\"\ndomains = [\"gone.example\"]\ncertificate_pins = [\"{PIN}\"]"),
            vec![
                "relay.toml:11: domains: \"gone.example\" is not a configured domain: no new mail is accepted for it"
                    .to_owned(),
            ],
        ),
    ] {
        assert_eq!(warnings(&format!("{BASE}{more}\n")), expected, "{more}");
    }
    assert!(warnings(&format!("dns = \"off\"\n{BASE}")).is_empty());
    let wants_names = "authentication = \"enforce\"\n[smtp]\ndnsbl = [\"zen.example.org\"]\n";
    assert!(warnings(&format!("{BASE}{wants_names}")).is_empty());
    assert_eq!(
        warnings(&format!("dns = \"off\"\n{BASE}{wants_names}")),
        [
            "relay.toml:12: dnsbl: has no effect: dns is \"off\"",
            "relay.toml:10: authentication: has no effect: dns is \"off\"",
        ]
    );
}

#[test]
fn domains_are_found_by_name_whatever_their_order() {
    let text = format!(
        "{BASE}[[domain]]\nname = \"b.example\"\n[[domain]]\nname = \"a.example\"\nhold_for = \"1d\"\n"
    );
    let config = load(&text).unwrap().config;
    let find = |name: &str| {
        config
            .domain(&Domain::parse(name).unwrap())
            .map(|domain| domain.hold_for)
    };
    assert_eq!(find("a.example"), Some(Duration::from_secs(86_400)));
    assert_eq!(find("example.com"), Some(HOLD_FOR_DEFAULT));
    assert_eq!(find("sub.example.com"), None);
}

#[test]
fn a_restart_is_asked_for_where_it_is_needed() {
    let old = load(BASE).unwrap().config;
    let new = load(&format!(
        "data_dir = \"/d\"\n{BASE}[smtp]\nlisten = [\"[::]:26\"]\nmax_errors = 3\n\
         [metrics]\nlisten = \"[::1]:9366\"\n"
    ))
    .unwrap()
    .config;
    assert_eq!(
        old.needs_restart(&new),
        ["data_dir", "smtp.listen", "metrics.listen"]
    );
}

/// Every key is in the example, and every default that the example states is the code's.
#[test]
fn the_documented_example_is_true() {
    let example = include_str!("../../../docs/examples/relay.toml");
    assert!(load(example).unwrap().notes.warnings.is_empty());
    let uncommented: String = example
        .lines()
        .map(|line| {
            line.strip_prefix('#')
                .filter(|rest| rest.starts_with(char::is_alphabetic))
                .unwrap_or(line)
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    let stated = load(&uncommented).unwrap();
    // The example's own names are no defaults.
    assert_eq!(
        stated.notes.changed,
        [format!("account.certificate_pins = [\"{PIN}\"]")]
    );
    for known in &stated.notes.known {
        let key = known.path.rsplit('.').next().unwrap();
        let line = |start: String| example.lines().any(|line| line.starts_with(&start));
        let forms = [
            format!("{key} = "),
            format!("#{key} = "),
            format!("# {key} = "),
            format!("[{key}]"),
            format!("# [{key}]"),
            format!("[[{key}]]"),
        ];
        assert!(
            forms.into_iter().any(line),
            "{} is not in docs/examples/relay.toml",
            known.path
        );
    }
}

/// What is appended to [`BASE`], and what is said of it.
const MISTAKES: &[(&str, &str)] = &[
    (
        "[smtp]\ngreylist = true",
        "relay.toml:10: greylist: true is no time to wait; use \"1m\"",
    ),
    (
        "[limits]\nmemory = \"1KiB\"",
        "relay.toml:10: memory: \"1KiB\" is out of range; use \"1MiB\" to \"1TiB\"",
    ),
    (
        "hold_for = \"5x\"",
        "relay.toml:9: hold_for: \"5x\" is not a duration; use \"5d\" or \"36h\"",
    ),
    (
        "hold_four = \"5d\"",
        "relay.toml:9: hold_four: is not a known key in [[domain]]; did you mean \"hold_for\"?",
    ),
    (
        "keep_failed = \"0s\"",
        "relay.toml:9: keep_failed: \"0s\" is out of range; use \"1s\" to \"365d\"",
    ),
    (
        "reports = \"all\"",
        "relay.toml:9: reports: \"all\" is not known; use \"verified-sender\", \"sender\", \"postmaster\" or \"none\"",
    ),
    (
        "recipients = \"all\"",
        "relay.toml:9: recipients: \"all\" is not known; use \"any\", \"pushed\" or \"file\"",
    ),
    (
        "max_queue_size = \"1X\"",
        "relay.toml:9: max_queue_size: \"1X\" is not a size; use \"50MB\" or \"10GB\"",
    ),
    (
        "[[domain]]\nname = \"EXAMPLE.com\"",
        "relay.toml:10: name: \"example.com\" is already set at relay.toml:6",
    ),
    ("[[domain]]", "relay.toml:9: [[domain]]: name is missing"),
    (
        "[[domain]]\nname = \"com\"",
        "relay.toml:10: name: \"com\" has one label only; ATRN takes two or more (RFC 2645)",
    ),
    (
        "[[domain]]\nname = \"a b.example\"",
        "relay.toml:10: name: \"a b.example\" is not a domain name: not a valid address",
    ),
    (
        "[dns]\nservers = [\"192.0.2.1\"]",
        "relay.toml:10: servers: \"192.0.2.1\" is not an IP address and port; use \"0.0.0.0:25\" or \"[::]:25\"",
    ),
    (
        "[dns]\nservers = [\"192.0.2.1:0\", \"192.0.2.1:0\"]",
        "relay.toml:10: servers: \"192.0.2.1:0\" is listed twice\nrelay.toml:10: servers: has a name server with port 0; use 53",
    ),
    (
        "[dns]\ntimeout = \"6s\"",
        "relay.toml:10: timeout: \"6s\" is out of range; use \"100ms\" to \"5s\"",
    ),
    (
        "[dns]\ntransport = \"tls\"",
        "relay.toml:10: transport: \"tls\" is not known; use \"tcp\" or \"udp\"",
    ),
    (
        "[smtp]\ndnsbl = [\"a.example\", \"A.example\"]",
        "relay.toml:10: dnsbl: \"a.example\" is listed twice",
    ),
    (
        "[smtp]\ndnsbl = [\"zen\"]",
        "relay.toml:10: dnsbl: \"zen\" has one label only; use the whole name of the list",
    ),
    (
        "[smtp]\nmax_recipients = 99",
        "relay.toml:10: max_recipients: 99 is out of range; use 100 to 10000",
    ),
    (
        "[smtp]\nmax_received = 29",
        "relay.toml:10: max_received: 29 is out of range; use 30 to 100",
    ),
    (
        "[smtp]\nmax_message_size = \"1KB\"",
        "relay.toml:10: max_message_size: \"1KB\" is out of range; use \"64KiB\" to \"100GB\"",
    ),
    (
        "[smtp]\nlisten = [\"*:25\"]",
        "relay.toml:10: listen: \"*:25\" is not an IP address and port; use \"0.0.0.0:25\" or \"[::]:25\"",
    ),
    (
        "[smtp]\nlisten = [\"[::1]:25\", \"[::1]:25\"]",
        "relay.toml:10: listen: \"[::1]:25\" is listed twice",
    ),
    (
        "[smtp]\nlisten = []",
        "relay.toml:10: listen: is empty; name an address",
    ),
    (
        "[odmr]\ntls = \"off\"\nlisten = [\"127.0.0.1:366\", \"0.0.0.0:366\"]",
        "relay.toml:10: tls: \"off\" is for loopback only, and listen has 0.0.0.0:366; use \"implicit\"",
    ),
    (
        "[odmr]\nallow_from = [\"192.0.2.1/24\"]",
        "relay.toml:10: allow_from: \"192.0.2.1/24\" has bits set behind the prefix; use \"192.0.2.0/24\"",
    ),
    (
        "[odmr]\nallow_from = [\"lan\"]",
        "relay.toml:10: allow_from: \"lan\" is not a network; use \"192.0.2.0/24\", \"2001:db8::/32\" or an address",
    ),
    (
        "[odmr]\nmechanisms = [\"LOGIN\"]",
        "relay.toml:10: mechanisms: \"LOGIN\" is not known; use \"EXTERNAL\", \"SCRAM-SHA-256-PLUS\", \
             \"SCRAM-SHA-256\", \"CRAM-MD5\" or \"PLAIN\"",
    ),
    (
        "[odmr]\nmax_wait = \"500ms\"",
        "relay.toml:10: max_wait: \"500ms\" is out of range; use \"1s\" to \"1d\"",
    ),
    (
        "[odmr]\nmax_wait = \"2d\"",
        "relay.toml:10: max_wait: \"2d\" is out of range; use \"1s\" to \"1d\"",
    ),
    (
        "[odmr]\nmax_wait = \"never\"",
        "relay.toml:10: max_wait: \"never\" is not a duration; use \"5d\" or \"36h\"",
    ),
    (
        "[odmr]\nmechanisms = []",
        "relay.toml:10: mechanisms: is empty; without AUTH nobody can pull",
    ),
    (
        "[[account]]\nname = \"-x\"\ndomains = [\"example.com\"]\ncertificate_pins = []",
        "relay.toml:10: name: \"-x\" is not an account name; use up to 64 letters, digits and . _ @ + -, a letter or \
             digit first",
    ),
    (
        "[[account]]\nname = \"a\"\ndomains = [\"example.com\"]",
        "relay.toml:9: [[account]]: has none of scram_sha_256, certificate_pins and cram_md5_secret_file: it could \
             not log in",
    ),
    (
        "[[account]]\nname = \"a\"\ndomains = []\ncertificate_pins = []",
        "relay.toml:11: domains: is empty; name at least one",
    ),
    (
        "[[account]]\nname = \"a\"\ndomains = [\"example.com\"]\nscram_sha_256 = \"hunter2\"",
        "relay.toml:12: scram_sha_256: is not a verifier; make one with `atrn-relay account rotate`",
    ),
    (
        "[[account]]\nname = \"a\"\ndomains = [\"example.com\"]\ncertificate_pins = [\"sha256/x\"]",
        "relay.toml:12: certificate_pins: \"sha256/x\" is not a pin: a pin is \"sha256/\" and 44 characters of base64",
    ),
    ("[metrics]", "relay.toml:9: [metrics]: listen is missing"),
    (
        "[metrics]\nlisten = \"9366\"",
        "relay.toml:10: listen: \"9366\" is not an IP address and port; use \"0.0.0.0:25\" or \"[::]:25\"",
    ),
];
