//! Files beside what is said of them; the documented example beside the code.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

const PIN: &str = "sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
const HEAD: &str = "hostname = \"mail.corp.example.com\"\n";
/// Lines 2 to 6; a line of the relay's follows.
const RELAY: &str = "[[relay]]\nname = \"mx1\"\naddress = \"mx1.example.net\"\naccount = \"corp\"\ndomains = [\"example.com\"]\n";
const SECRET: &str = "secret_file = \"s\"\n";
const HANDOVER: &str = "[handover]\n";
const TARGET: &str = "target = \"smtp://mail.example.com\"\n";

/// Loads a file; errors without the directory.
fn load(text: &str) -> Result<Loaded<PullerConfig>, String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("puller.toml");
    fs::write(&file, text).unwrap();
    let prefix = format!("{}/", directory.path().display());
    PullerConfig::load(&file).map_err(|errors| errors.to_string().replace(&prefix, ""))
}

fn relay_with(more: &str) -> Result<RelayConfig, String> {
    load(&format!("{HEAD}{RELAY}{SECRET}{more}\n{HANDOVER}{TARGET}"))
        .map(|loaded| loaded.config.relays[0].clone())
}

fn handover_with(more: &str) -> Result<HandoverConfig, String> {
    load(&format!("{HEAD}{RELAY}{SECRET}{HANDOVER}{more}\n")).map(|loaded| loaded.config.handover)
}

#[test]
fn every_mistake_in_a_relay_has_its_line() {
    for (more, expected) in [
        (
            "tls = \"optional\"",
            "puller.toml:8: tls: \"optional\" is not known; use \"implicit\", \"starttls\" or \"off\"",
        ),
        (
            "tls = \"off\"",
            "puller.toml:8: tls: \"off\" is for loopback only, and the address is mx1.example.net:366; use \"implicit\"",
        ),
        (
            "pin = \"x\"",
            "puller.toml:8: pin: \"x\" is not a pin: a pin is \"sha256/\" and 44 characters of base64",
        ),
        (
            &format!("pin = \"{PIN}\"\nca = \"ca.pem\""),
            "puller.toml:8: pin: stands beside ca; use one of them",
        ),
        (
            "certificate = \"c\"",
            "puller.toml:8: certificate: needs the key as well: key = \"…\"",
        ),
        (
            "key = \"k\"",
            "puller.toml:8: key: needs the certificate as well: certificate = \"…\"",
        ),
        (
            "weakest_mechanism = \"EXTERNAL\"",
            "puller.toml:8: weakest_mechanism: \"EXTERNAL\" needs certificate and key",
        ),
        (
            "mode = \"push\"",
            "puller.toml:8: mode: \"push\" is not known; use \"instant\" or \"poll\"",
        ),
        (
            "every = 5",
            "puller.toml:8: every: 5 is not a duration; use \"5d\" or \"36h\"",
        ),
        (
            "sessions = 0",
            "puller.toml:8: sessions: 0 is out of range; use 1 to 100",
        ),
        (
            "wait = \"0s\"",
            "puller.toml:8: wait: \"0s\" is out of range; use \"1s\" to \"1h\"",
        ),
        (
            "wait = \"61m\"",
            "puller.toml:8: wait: \"61m\" is out of range; use \"1s\" to \"1h\"",
        ),
        (
            "scret_file = \"s\"",
            "puller.toml:8: scret_file: is not a known key in [[relay]]; did you mean \"secret_file\"?",
        ),
        (
            "[[relay]]\nname = \"mx1\"\naddress = \"a.example\"\naccount = \"c\"\ndomains = [\"a.example\"]\nsecret_file = \"s\"",
            "puller.toml:9: name: \"mx1\" is already set at puller.toml:3",
        ),
        (
            "[[relay]]\nname = \"mx 2\"\naddress = \":366\"\naccount = \"\"\ndomains = [\"com\", \"b.example\", \"b.example\"]",
            "puller.toml:8: [[relay]]: has neither secret_file nor certificate and key: it could not log in\n\
             puller.toml:9: name: \"mx 2\" is not a name; use up to 64 letters, digits and . _ -\n\
             puller.toml:10: address: \":366\" is not a host and port: the host is neither a name nor an IP address\n\
             puller.toml:11: account: is empty\n\
             puller.toml:12: domains: \"com\" has one label only; ATRN takes two or more (RFC 2645)",
        ),
    ] {
        assert_eq!(relay_with(more).unwrap_err(), expected, "{more}");
    }
}

#[test]
fn every_mistake_in_a_target_has_its_line() {
    let smtp = "target = \"smtp://mail.example.com\"";
    let known = "use smtp://HOST:PORT, smtps://HOST:PORT, lmtp://HOST:PORT, lmtp+unix:/PATH or maildir:/PATH";
    for (more, expected) in [
        ("", "puller.toml:8: [handover]: target is missing".to_owned()),
        ("target = \"mail.example.com\"", format!("puller.toml:9: target: \"mail.example.com\" is not a target; {known}")),
        ("target = \"http://a.example\"", format!("puller.toml:9: target: \"http://a.example\" is not a target; {known}")),
        (
            "target = \"smtp://\"",
            "puller.toml:9: target: \"smtp://\" is not a target: the host is neither a name nor an IP address".to_owned(),
        ),
        (
            "target = \"smtp://user:hunter2@mail.example.com\"",
            "puller.toml:9: target: has a user name in it; use username and password_file".to_owned(),
        ),
        (
            "target = \"lmtp://mail.example.com:25\"",
            "puller.toml:9: target: LMTP must not be spoken on port 25 (RFC 2033 §5); use smtp:// or another port".to_owned(),
        ),
        ("target = \"maildir:\"", "puller.toml:9: target: \"maildir:\" names no path".to_owned()),
        (
            "target = \"maildir:/m\"\ntls = \"required\"",
            "puller.toml:10: tls: means nothing to a target without a network: maildir:/m".to_owned(),
        ),
        (
            &format!("{smtp}\nusername = \"u\""),
            "puller.toml:10: username: a password is sent only to a server that proves who it is; use tls = \"required\"\n\
             puller.toml:10: username: needs password_file as well"
                .to_owned(),
        ),
        (
            &format!("{smtp}\ntls = \"opportunistic\"\npin = \"{PIN}\""),
            "puller.toml:10: tls: must be \"required\" where a pin or ca is named".to_owned(),
        ),
        (
            "target = \"smtps://mail.example.com\"\ntls = \"off\"",
            "puller.toml:10: tls: cannot be \"off\" for smtps://".to_owned(),
        ),
        (
            &format!("{smtp}\n[reports]\ntarget = \"maildir:/m\""),
            "puller.toml:11: target: is no smart host; use smtp:// or smtps://".to_owned(),
        ),
        (
            &format!("{smtp}\n[[directory]]\ndomain = \"example.com\"\nsource = \"/etc/passwd\""),
            "puller.toml:12: source: \"/etc/passwd\" is not a source; use file:/PATH, command:… or ldaps://HOST/…".to_owned(),
        ),
    ] {
        assert_eq!(handover_with(more).unwrap_err(), expected, "{more}");
    }
}

#[test]
fn what_must_be_there() {
    assert_eq!(
        load("[limits]\n").unwrap_err(),
        "puller.toml:1: [[relay]] is missing: there is nothing to pull from\n\
         puller.toml:1: [handover] is missing: say where mail goes, such as target = \"smtp://mail.example.com\"\n\
         puller.toml:1: hostname is missing"
    );
}

#[test]
fn targets_print_as_they_are_written() {
    for (text, printed) in [
        ("smtp://mail.example.com", "smtp://mail.example.com:25"),
        ("smtp://127.0.0.1:2525/", "smtp://127.0.0.1:2525"),
        ("smtps://[2001:db8::1]", "smtps://[2001:db8::1]:465"),
        ("lmtp://localhost", "lmtp://localhost:24"),
        ("lmtp+unix:/run/lmtp", "lmtp+unix:/run/lmtp"),
        ("maildir:/var/mail/x", "maildir:/var/mail/x"),
    ] {
        assert_eq!(
            handover_with(&format!("target = \"{text}\""))
                .unwrap()
                .target
                .to_string(),
            printed
        );
    }
    let Target::Maildir(relative) = handover_with("target = \"maildir:m\"").unwrap().target else {
        panic!("a Maildir")
    };
    assert!(relative.is_absolute() && relative.ends_with("m"));
}

#[test]
fn tls_towards_a_target() {
    let smtp = "target = \"smtp://mail.example.com\"";
    let smtps = "target = \"smtps://mail.example.com\"";
    let pin = format!("pin = \"{PIN}\"");
    let pinned = Trust::Pin(vec![PIN.parse().unwrap()]);
    for (more, expected) in [
        (smtp.to_owned(), HandoverTls::Opportunistic),
        (smtps.to_owned(), HandoverTls::Required(Trust::Platform)),
        (
            format!("{smtps}\ntls = \"opportunistic\""),
            HandoverTls::Opportunistic,
        ),
        (format!("{smtp}\ntls = \"off\""), HandoverTls::Off),
        (
            format!("{smtp}\ntls = \"required\""),
            HandoverTls::Required(Trust::Platform),
        ),
        (
            format!("{smtp}\n{pin}"),
            HandoverTls::Required(pinned.clone()),
        ),
        (format!("{smtps}\n{pin}"), HandoverTls::Required(pinned)),
        ("target = \"maildir:/m\"".to_owned(), HandoverTls::Off),
    ] {
        assert_eq!(handover_with(&more).unwrap().tls, expected, "{more}");
    }
    let login = "username = \"u\"\npassword_file = \"p\"";
    assert!(
        handover_with(&format!("{smtp}\ntls = \"required\"\n{login}"))
            .unwrap()
            .login
            .is_some()
    );
    assert!(
        handover_with(&format!("target = \"smtp://127.0.0.1:25\"\n{login}"))
            .unwrap()
            .login
            .is_some()
    );
}

/// R5802-1: never weaker than configured, and by default nothing that shows the secret.
#[test]
fn what_a_relay_is_trusted_with() {
    let plain = relay_with("").unwrap();
    assert_eq!(
        (plain.tls, plain.trust, plain.weakest_mechanism),
        (RelayTls::Implicit, Trust::Platform, Mechanism::ScramSha256)
    );
    assert_eq!(plain.address.to_string(), "mx1.example.net:366");
    assert_eq!(
        relay_with("weakest_mechanism = \"PLAIN\"")
            .unwrap()
            .weakest_mechanism,
        Mechanism::Plain
    );
    assert_eq!(
        relay_with(&format!("pin = \"{PIN}\"")).unwrap().trust,
        Trust::Pin(vec![PIN.parse().unwrap()])
    );
    let Trust::Ca(file) = relay_with("ca = \"ca.pem\"").unwrap().trust else {
        panic!("a CA")
    };
    assert!(file.is_absolute() && file.ends_with("ca.pem"));
}

/// RFC 2645 §5.2.1.
#[test]
fn the_reply_to_atrn_may_take_ten_minutes_at_least() {
    for (reply, expected) in [(1, 10), (5, 10), (15, 15)] {
        let limits = Limits {
            reply_timeout: minutes(reply),
            ..Limits::default()
        };
        assert_eq!(limits.atrn_timeout(), minutes(expected));
    }
}

#[test]
fn files_that_are_of_no_use_are_named_all_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("puller.toml");
    let login =
        "tls = \"required\"\nca = \"ca.pem\"\nusername = \"u\"\npassword_file = \"password\"\n";
    fs::write(
        &file,
        format!("{HEAD}{RELAY}{SECRET}{HANDOVER}{TARGET}{login}"),
    )
    .unwrap();
    fs::write(directory.path().join("s"), "secret").unwrap();
    fs::set_permissions(
        directory.path().join("s"),
        fs::Permissions::from_mode(0o644),
    )
    .unwrap();
    let config = PullerConfig::load(&file).unwrap().config;
    let errors = config.check_files().unwrap_err().to_string();
    assert_eq!(
        errors.replace(&format!("{}/", directory.path().display()), ""),
        "handover: ca: cannot read ca.pem: No such file or directory\n\
         puller.toml:3: secret_file: s is readable by others; run: chmod 600 s\n\
         puller.toml:13: password_file: cannot read password: No such file or directory"
    );
    let named: Vec<_> = config
        .named_files()
        .iter()
        .map(|path| path.file_name().unwrap().to_owned())
        .collect();
    assert_eq!(named, ["ca.pem", "password", "s"]);
}

#[test]
fn what_has_no_effect_is_said() {
    let text = format!(
        "{HEAD}{RELAY}{SECRET}mode = \"poll\"\nwait = \"4m\"\n{HANDOVER}{TARGET}[reports]\ntarget = \"smtp://out.example.net:587\"\n\
         [[directory]]\ndomain = \"example.com\"\nsource = \"file:/r\"\n"
    );
    let warnings: Vec<_> = load(&text)
        .unwrap()
        .notes
        .warnings
        .iter()
        .map(ToString::to_string)
        .collect();
    let texts: Vec<_> = warnings
        .iter()
        .map(|line| line.split("puller.toml").nth(1).unwrap())
        .collect();
    assert_eq!(
        texts,
        [
            ":9: wait: means nothing where mode is \"poll\"; use mode = \"instant\"",
            ":14: directory: not available in this version, ignored",
        ]
    );
}

/// Every key is in the example, and every default that the example states is the code's.
#[test]
fn the_documented_example_is_true() {
    let example = include_str!("../../../docs/examples/puller.toml");
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
    assert!(
        stated.notes.changed.is_empty(),
        "{:?}",
        stated.notes.changed
    );
    for known in &stated.notes.known {
        let key = known.path.rsplit('.').next().unwrap();
        let line = |start: String| example.lines().any(|line| line.starts_with(&start));
        let forms = [
            "K = ", "#K = ", "# K = ", "[K]", "# [K]", "[[K]]", "# [[K]]",
        ];
        assert!(
            forms.iter().any(|form| line(form.replace('K', key))),
            "{} is not in docs/examples/puller.toml",
            known.path
        );
    }
}
