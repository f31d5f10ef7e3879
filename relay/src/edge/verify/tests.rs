//! Signed messages through all of it but the network.

use mail_auth::arc::ArcSealer;
use mail_auth::common::crypto::{Ed25519Key, RsaKey, Sha256, SigningKey};
use mail_auth::common::headers::HeaderWriter as _;
use mail_auth::dkim::{Canonicalization, DkimSigner};
use mail_auth::{ArcOutput, AuthenticatedMessage, AuthenticationResults};
use rcgen::PublicKeyData as _;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::*;
use crate::names::{Answer, SpfAnswer, SpfIdentity, SpfResult, Trouble};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const MESSAGE: &str = "From: Alice <alice@author.example>\r\nTo: bob@b.example\r\nSubject: x\r\n\r\nHello  there \r\n\r\n\r\n";
const KEY: &str = "s._domainkey.author.example.";

/// A key pair, and the record that publishes it.
struct Signer {
    key: Ed25519Key,
    record: String,
}

impl Signer {
    fn new() -> Self {
        let key = Ed25519Key::from_pkcs8_der(&Ed25519Key::generate_pkcs8().unwrap()).unwrap();
        let record = format!(
            "v=DKIM1; k=ed25519; p={}",
            STANDARD.encode(key.public_key())
        );
        Self { key, record }
    }

    fn sign(self, message: &str, domain: &str) -> (String, String) {
        (
            signed(self.key, message, domain, Canonicalization::Relaxed),
            self.record,
        )
    }
}

fn signed(
    key: impl SigningKey,
    message: &str,
    domain: &str,
    canonicalization: Canonicalization,
) -> String {
    let signature = DkimSigner::from_key(key)
        .domain(domain)
        .selector("s")
        .headers(["From", "Subject"])
        .header_canonicalization(canonicalization)
        .body_canonicalization(canonicalization)
        .sign(message.as_bytes())
        .unwrap();
    signature.to_header() + message
}

fn found(text: &str) -> Answer<Vec<Vec<u8>>> {
    Answer::Found(vec![text.as_bytes().to_vec()])
}

fn trouble() -> Answer<Vec<Vec<u8>>> {
    Answer::Trouble(Trouble::Servers)
}

fn spf(result: SpfResult, domain: &str) -> SpfAnswer {
    SpfAnswer {
        result,
        domain: domain.into(),
        identity: SpfIdentity::MailFrom,
    }
}

/// No domain has a policy but what is said.
fn nobody_else() -> Texts {
    let names = [
        "_dmarc.author.example.",
        "_dmarc.list.author.example.",
        "_dmarc.example.",
    ];
    let names = names.into_iter();
    names.fold(Texts::default(), |texts, name| {
        texts.with(name, Answer::Absent)
    })
}

/// The field above a message that comes in pieces of this size, without its beginning.
fn results_of(message: &str, size: usize, texts: &Texts, spf: &SpfAnswer) -> String {
    let mut seen = Seen::new();
    let mut forged = Forged::new(Domain::parse("mx.example").unwrap());
    let mut is_open = true;
    for part in message.as_bytes().chunks(size) {
        let body = forged.pass(part, &mut Vec::new());
        seen.section(&part[..part.len() - body.len()]);
        if forged.is_over() {
            if std::mem::take(&mut is_open) {
                seen.end_section();
            }
            seen.body(body);
        }
    }
    let evidence = seen.finish();
    let client = "192.0.2.1".parse().unwrap();
    let findings = examine::examine(&authenticator(), &evidence, texts, spf.clone(), client);
    let field = results::header("mx.example", &findings, None);
    let field = field.replace("\r\n\t ", " ").replace("\r\n\t", " ");
    let beginning = "Authentication-Results: mx.example; spf=";
    let rest = field.strip_prefix(beginning).unwrap();
    let (_, rest) = rest.split_once("; ").unwrap();
    // A signature begins differently each time.
    let mut words: Vec<_> = rest.trim_end().split(' ').collect();
    words.retain(|word| !word.starts_with("header.b="));
    words.join(" ").replace("header.s=s;", "header.s=s")
}

#[track_caller]
fn assert_results(message: &str, texts: &Texts, spf: &SpfAnswer, expected: &str) {
    for size in [1, 13, 100_000] {
        assert_eq!(results_of(message, size, texts, spf), expected);
    }
}

#[tokio::test]
async fn a_signature_of_the_author_passes_and_so_does_its_policy() {
    let none = spf(SpfResult::None, "sender.example");
    let (message, record) = Signer::new().sign(MESSAGE, "author.example");
    let texts = nobody_else().with(KEY, found(&record));
    let signed = "dkim=pass header.d=author.example header.s=s dmarc=";
    assert_results(
        &message,
        &texts,
        &none,
        &format!("{signed}none header.from=author.example"),
    );
    for (policy, word) in [
        ("none", "none"),
        ("reject", "reject"),
        ("quarantine", "quarantine"),
    ] {
        let policy = format!("v=DMARC1; p={policy}");
        let texts = nobody_else()
            .with(KEY, found(&record))
            .with("_dmarc.author.example.", found(&policy));
        let expected = format!("{signed}pass header.from=author.example policy.dmarc={word}");
        assert_results(&message, &texts, &none, &expected);
    }
}

#[tokio::test]
async fn rsa_and_both_canonicalisations_pass_and_a_changed_body_does_not() {
    let none = spf(SpfResult::None, "sender.example");
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let record = format!(
        "v=DKIM1; p={}",
        STANDARD.encode(pair.subject_public_key_info())
    );
    let texts = nobody_else().with(KEY, found(&record));
    for canonicalization in [Canonicalization::Relaxed, Canonicalization::Simple] {
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()));
        let key = RsaKey::<Sha256>::from_key_der(der).unwrap();
        let message = signed(key, MESSAGE, "author.example", canonicalization);
        let dmarc = "dmarc=none header.from=author.example";
        let pass = format!("dkim=pass header.d=author.example header.s=s {dmarc}");
        assert_results(&message, &texts, &none, &pass);
        let changed = message.replace("Hello", "Hell");
        let fail = format!(
            "dkim=neutral reason=\"the body is not what was signed\" header.d=author.example header.s=s {dmarc}"
        );
        assert_results(&changed, &texts, &none, &fail);
        let changed = message.replace("Subject: x", "Subject: y");
        let fail = format!(
            "dkim=fail reason=\"the signature is not that of the key\" header.d=author.example header.s=s {dmarc}"
        );
        assert_results(&changed, &texts, &none, &fail);
    }
}

#[tokio::test]
async fn what_dns_does_not_say_is_no_failure_of_the_message() {
    let none = spf(SpfResult::None, "sender.example");
    let policy = || found("v=DMARC1; p=reject");
    let (message, record) = Signer::new().sign(MESSAGE, "author.example");
    let signed = "header.d=author.example header.s=s";
    let reject = "header.from=author.example policy.dmarc=reject";
    for (key, dmarc, spf, expected) in [
        // Nothing of either is known.
        (
            trouble(),
            policy(),
            &none,
            format!(
                "dkim=temperror reason=\"DNS did not answer\" {signed} dmarc=temperror reason=\"DNS did not answer\" {reject}"
            ),
        ),
        (
            found(&record),
            trouble(),
            &none,
            format!(
                "dkim=pass {signed} dmarc=temperror reason=\"DNS did not answer\" header.from=author.example"
            ),
        ),
        (
            Answer::Absent,
            policy(),
            &none,
            format!("dkim=permerror reason=\"there is no key\" {signed} dmarc=fail {reject}"),
        ),
        (
            found("v=DKIM1; p="),
            policy(),
            &none,
            format!("dkim=permerror reason=\"the key was revoked\" {signed} dmarc=fail {reject}"),
        ),
        // SPF would have let it in, if anybody could have said so.
        (
            Answer::Absent,
            policy(),
            &spf(SpfResult::TempError, "author.example"),
            format!(
                "dkim=permerror reason=\"there is no key\" {signed} dmarc=temperror reason=\"DNS did not answer\" {reject}"
            ),
        ),
        (
            Answer::Absent,
            policy(),
            &spf(SpfResult::TempError, "other.example"),
            format!("dkim=permerror reason=\"there is no key\" {signed} dmarc=fail {reject}"),
        ),
        (
            trouble(),
            policy(),
            &spf(SpfResult::Pass, "author.example"),
            format!("dkim=temperror reason=\"DNS did not answer\" {signed} dmarc=pass {reject}"),
        ),
    ] {
        let texts = nobody_else()
            .with(KEY, key)
            .with("_dmarc.author.example.", dmarc);
        assert_results(&message, &texts, spf, &expected);
    }
}

#[tokio::test]
async fn dmarc_without_a_signature_is_by_spf() {
    let texts = nobody_else().with(
        "_dmarc.author.example.",
        found("v=DMARC1; p=reject; aspf=s"),
    );
    let relaxed = nobody_else().with("_dmarc.author.example.", found("v=DMARC1; p=quarantine"));
    for (texts, result, domain, expected) in [
        (&texts, SpfResult::Pass, "author.example", "pass"),
        (&texts, SpfResult::Pass, "list.author.example", "fail"),
        (&texts, SpfResult::Fail, "author.example", "fail"),
        (&relaxed, SpfResult::Pass, "list.author.example", "pass"),
        (&relaxed, SpfResult::SoftFail, "author.example", "fail"),
    ] {
        let found = results_of(MESSAGE, 7, texts, &spf(result, domain));
        let expected = format!("dkim=none; dmarc={expected} header.from=author.example");
        assert!(found.starts_with(&expected), "{found} {domain}");
    }
}

#[tokio::test]
async fn mail_without_one_author_has_no_policy() {
    let texts = nobody_else();
    let none = spf(SpfResult::None, "sender.example");
    for (from, reason) in [
        (
            "From: a@author.example\r\nFrom: b@other.example",
            "there are several authors",
        ),
        (
            "From: a@author.example, b@other.example",
            "there are several authors",
        ),
        ("From: nobody", "there is no author"),
        ("Subject: y", "there is no author"),
        (
            "From: a@author.example\r\nno field",
            "the header section is broken",
        ),
    ] {
        let message = MESSAGE.replace("From: Alice <alice@author.example>", from);
        let expected = format!("dkim=none; dmarc=permerror reason=\"{reason}\"");
        assert_results(&message, &texts, &none, &expected);
    }
    let expected = "dkim=none; dmarc=permerror reason=\"there is no author\"";
    assert_results("\r\nbody\r\n", &texts, &none, expected);
    let large = format!("X: {}\r\n{MESSAGE}", "x".repeat(seen::SECTION_OCTETS_MAX));
    let expected = "dkim=none; dmarc=policy reason=\"the header section is too large\"";
    assert_eq!(results_of(&large, 10_000, &texts, &none), expected);
}

/// The subdomains of a domain that has a policy for what does not exist.
#[tokio::test]
async fn a_policy_for_names_that_do_not_exist_is_for_them_only() {
    let none = spf(SpfResult::None, "sender.example");
    let message = MESSAGE.replace("author.example", "list.author.example");
    for (is_nowhere, record, expected) in [
        (true, "v=DMARC1; p=none; sp=quarantine; np=reject", "reject"),
        (
            false,
            "v=DMARC1; p=none; sp=quarantine; np=reject",
            "quarantine",
        ),
        (
            true,
            "v=DMARC1; p=none; sp=quarantine; np=reject; t=y",
            "quarantine",
        ),
        (true, "v=DMARC1; p=reject", "reject"),
    ] {
        let mut texts = nobody_else().with("_dmarc.author.example.", found(record));
        texts.author_is_nowhere = is_nowhere;
        let expected = format!(
            "dkim=none; dmarc=fail header.from=list.author.example policy.dmarc={expected}"
        );
        assert_results(&message, &texts, &none, &expected);
    }
}

#[tokio::test]
async fn a_chain_of_hands_holds_or_breaks() {
    let none = spf(SpfResult::None, "sender.example");
    let signer = Signer::new();
    let record = signer.record.clone();
    let results = AuthenticationResults::new("list.example");
    let parsed = AuthenticatedMessage::parse(MESSAGE.as_bytes()).unwrap();
    let sealer = ArcSealer::from_key(signer.key)
        .domain("list.example")
        .selector("a")
        .headers(["From", "Subject"]);
    let set = sealer
        .seal(&parsed, &results, &ArcOutput::default())
        .unwrap();
    let message = set.to_header() + MESSAGE;
    let key = "a._domainkey.list.example.";
    let texts = nobody_else().with(key, found(&record));
    let before = "dkim=none; dmarc=none header.from=author.example; arc=";
    let client = "smtp.remote-ip=192.0.2.1";
    assert_results(&message, &texts, &none, &format!("{before}pass {client}"));
    for (changed, reason) in [
        (
            message.replace("Hello", "Hell"),
            "the body is not what was signed",
        ),
        (
            message.replace("Subject: x", "Subject: y"),
            "the signature is not that of the key",
        ),
        (message.replace("ARC-Seal", "X-Seal"), "the chain is broken"),
    ] {
        let expected = format!("{before}fail reason=\"{reason}\" {client}");
        assert_results(&changed, &texts, &none, &expected);
    }
    let texts = nobody_else().with(key, trouble());
    let expected = format!("{before}temperror reason=\"DNS did not answer\" {client}");
    assert_results(&message, &texts, &none, &expected);
}

#[tokio::test]
async fn sha_1_proves_nothing() {
    let none = spf(SpfResult::None, "sender.example");
    let signature = "DKIM-Signature: v=1; a=rsa-sha1; c=simple/simple; d=author.example; s=s; h=From; bh=YWJj; b=YWJj\r\n";
    let texts = nobody_else().with("_dmarc.author.example.", found("v=DMARC1; p=none"));
    let expected = "dkim=policy reason=\"SHA-1 proves nothing\" header.d=author.example header.s=s \
                    dmarc=fail header.from=author.example policy.dmarc=none";
    assert_results(&format!("{signature}{MESSAGE}"), &texts, &none, expected);
}

#[test]
fn the_reverse_path_is_proven_by_spf_or_by_dmarc() {
    let client = "192.0.2.1".parse().unwrap();
    for (spf_result, spf_domain, dmarc, author, expected) in [
        (
            SpfResult::Pass,
            "sender.example",
            Result8601::None,
            None,
            true,
        ),
        (
            SpfResult::Pass,
            "Sender.EXAMPLE",
            Result8601::None,
            None,
            true,
        ),
        (
            SpfResult::Pass,
            "other.example",
            Result8601::None,
            None,
            false,
        ),
        (
            SpfResult::SoftFail,
            "sender.example",
            Result8601::None,
            None,
            false,
        ),
        (
            SpfResult::None,
            "sender.example",
            Result8601::Pass,
            Some("sender.example"),
            true,
        ),
        (
            SpfResult::None,
            "sender.example",
            Result8601::Pass,
            Some("author.example"),
            false,
        ),
        (
            SpfResult::None,
            "sender.example",
            Result8601::Fail,
            Some("sender.example"),
            false,
        ),
    ] {
        let mut findings =
            examine::unexamined(Judged::plain(dmarc), spf(spf_result, spf_domain), client);
        findings.dmarc.author = author.map(str::to_owned);
        assert_eq!(findings.prove("sender.example"), expected, "{findings:?}");
    }
    let mut hello = examine::unexamined(
        Judged::plain(Result8601::None),
        spf(SpfResult::Pass, "sender.example"),
        client,
    );
    hello.spf.identity = SpfIdentity::Hello;
    assert!(!hello.prove("sender.example"));
}
