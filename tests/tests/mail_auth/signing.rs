//! Signed messages, by keys that are made for one test.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mail_auth::arc::ArcSealer;
use mail_auth::common::crypto::{Ed25519Key, RsaKey, Sha256};
use mail_auth::common::headers::HeaderWriter as _;
use mail_auth::dkim::DkimSigner;
use mail_auth::{ArcOutput, AuthenticatedMessage, AuthenticationResults};
use rcgen::{KeyPair, PKCS_RSA_SHA256, PublicKeyData as _};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use atrn_tests::dns::Dns;

const FIELDS: [&str; 3] = ["From", "To", "Subject"];
const SELECTOR: &str = "s1";

/// A key of Ed25519.
pub(crate) struct Key(Vec<u8>);

impl Key {
    pub(crate) fn new() -> Self {
        Self(Ed25519Key::generate_pkcs8().expect("a key"))
    }

    fn pair(&self) -> Ed25519Key {
        Ed25519Key::from_pkcs8_der(&self.0).expect("the key again")
    }

    /// Publishes it for a domain.
    pub(crate) fn publish(&self, dns: &Dns, domain: &str) {
        let public = STANDARD.encode(self.pair().public_key());
        publish(dns, domain, &format!("v=DKIM1; k=ed25519; p={public}"));
    }

    /// The message with a signature of the domain above.
    pub(crate) fn sign(&self, domain: &str, message: &str) -> String {
        let signature = DkimSigner::from_key(self.pair())
            .domain(domain)
            .selector(SELECTOR)
            .headers(FIELDS)
            .sign(message.as_bytes())
            .expect("a signature");
        signature.to_header() + message
    }

    /// The message with the first set of a chain above.
    pub(crate) fn seal(&self, domain: &str, message: &str) -> String {
        let parsed = AuthenticatedMessage::parse(message.as_bytes()).expect("a message");
        let results = AuthenticationResults::new(domain);
        let sealer = ArcSealer::from_key(self.pair())
            .domain(domain)
            .selector(SELECTOR)
            .headers(FIELDS);
        let set = sealer.seal(&parsed, &results, &ArcOutput::default());
        set.expect("a set").to_header() + message
    }
}

/// Signs with RSA, and publishes the key.
pub(crate) fn sign_by_rsa(dns: &Dns, domain: &str, message: &str) -> String {
    let pair = KeyPair::generate_for(&PKCS_RSA_SHA256).expect("a key");
    let public = STANDARD.encode(pair.subject_public_key_info());
    publish(dns, domain, &format!("v=DKIM1; p={public}"));
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()));
    let key = RsaKey::<Sha256>::from_key_der(key).expect("the key again");
    let signature = DkimSigner::from_key(key)
        .domain(domain)
        .selector(SELECTOR)
        .headers(FIELDS)
        .sign(message.as_bytes())
        .expect("a signature");
    signature.to_header() + message
}

/// Where the key of a domain is.
pub(crate) fn key_name(domain: &str) -> String {
    format!("{SELECTOR}._domainkey.{domain}")
}

fn publish(dns: &Dns, domain: &str, record: &str) {
    dns.txt(&key_name(domain), record);
}

/// A message of an author.
pub(crate) fn message(author: &str) -> String {
    format!("From: Alice <{author}>\r\nTo: user@example.org\r\nSubject: x\r\n\r\nHello there\r\n")
}
