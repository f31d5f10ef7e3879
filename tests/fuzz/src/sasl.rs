//! The steps of every mechanism, both sides.

use std::sync::LazyLock;

use atrn_shared::sasl::{
    ChannelBinding, Client, ClientContext, ClientCredentials, ClientSettings, Credentials,
    DecoyKey, Fresh, Mechanism, RememberedKeys, ScramVerifier, Server, ServerContext, ServerStep,
    Unavailable,
};
use secrecy::SecretString;

use crate::case::Case;

/// The one account that there is.
pub(crate) const USER: &str = "corp";

/// Accounts that answer without PBKDF2: what is fuzzed is what stands around it.
pub(crate) struct Accounts {
    /// PLAIN is judged by PBKDF2 alone, so nobody can be asked about it.
    pub(crate) is_plain: bool,
}

static DECOY_KEY: LazyLock<DecoyKey> = LazyLock::new(|| DecoyKey::new(&[7; 32]));

static VERIFIER: LazyLock<ScramVerifier> = LazyLock::new(|| {
    let key = "A".repeat(43);
    format!("SCRAM-SHA-256$4096:QSXCR+Q6sek8bf92${key}=:{key}=")
        .parse()
        .expect("a verifier")
});

impl Credentials for Accounts {
    fn scram_verifier(&self, user: &str) -> Result<Option<ScramVerifier>, Unavailable> {
        if self.is_plain || user == "later" {
            return Err(Unavailable);
        }
        Ok((user == USER).then(|| VERIFIER.clone()))
    }

    fn cram_md5_secret(&self, user: &str) -> Result<Option<SecretString>, Unavailable> {
        Ok((user == USER).then(|| "secret".into()))
    }

    fn account_of_certificate(&self, pin: &str) -> Result<Option<String>, Unavailable> {
        Ok((pin == PIN).then(|| USER.to_owned()))
    }

    fn decoy_key(&self) -> &DecoyKey {
        &DECOY_KEY
    }
}

/// The certificate of [`USER`].
pub(crate) const PIN: &str = "sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

pub(crate) fn fresh() -> Fresh {
    Fresh {
        nonce: [9; 18],
        unix_seconds: 1_767_323_045,
    }
}

/// Each flight is a response. Nobody becomes an account without its proof, and nothing follows a verdict.
pub fn sasl_server(data: &[u8]) {
    let Some(case) = Case::read(data) else {
        return;
    };
    let mechanism = Mechanism::ALL[usize::from(case.options() & 7) % Mechanism::ALL.len()];
    let context = ServerContext {
        hostname: "relay.example".into(),
        certificate_pin: case.option(3).then(|| PIN.to_owned()),
        channel_bindings: vec![ChannelBinding::TlsExporter(vec![5; 32])],
        plus_offered: case.option(4),
    };
    let accounts = Accounts {
        is_plain: mechanism == Mechanism::Plain,
    };
    let mut server = Server::start(mechanism, context, fresh());
    let mut is_over = false;
    for response in case.flights().take(5) {
        match server.step(response, &accounts) {
            ServerStep::Challenge(challenge) => {
                assert!(!is_over && !challenge.is_empty());
                // What goes out is one line of base64, of text that could be a line itself.
                assert!(challenge.iter().all(|octet| !octet.is_ascii_control()));
            }
            ServerStep::Success(account) => {
                // The stored key of SCRAM has no secret, and nobody guesses an HMAC.
                assert!(!is_over && mechanism == Mechanism::External && account == USER);
                is_over = true;
            }
            ServerStep::Failure { .. } | ServerStep::Unavailable => is_over = true,
        }
    }
}

/// Each flight is a challenge. A server is believed only after its own proof, and an exchange that failed stays so.
pub fn sasl_client(data: &[u8]) {
    let Some(case) = Case::read(data) else {
        return;
    };
    let mechanism = Mechanism::ALL[usize::from(case.options() & 7) % Mechanism::ALL.len()];
    let is_bound = mechanism == Mechanism::ScramSha256Plus || case.option(4);
    let context = ClientContext {
        tls: true,
        channel_binding: is_bound.then(|| ChannelBinding::TlsExporter(vec![5; 32])),
        nonce: [9; 18],
    };
    let Ok(mut client) = Client::choose(&[mechanism], &SETTINGS, &context) else {
        return;
    };
    let is_scram = matches!(
        mechanism,
        Mechanism::ScramSha256 | Mechanism::ScramSha256Plus
    );
    let mut failed = false;
    for challenge in case.flights().take(4) {
        if is_scram && would_derive_keys(challenge) {
            return;
        }
        let was_over = failed || client.may_succeed();
        match client.step(challenge) {
            Ok(response) => {
                assert!(!was_over, "a challenge after the end was answered");
                let cram = mechanism == Mechanism::CramMd5;
                assert!(cram || response.iter().all(|octet| !octet.is_ascii_control()));
            }
            Err(_) => failed = true,
        }
        // A server signature is an HMAC: nobody guesses one.
        assert!(
            !(is_scram && client.may_succeed()),
            "a server is believed without its proof"
        );
    }
}

/// Any other salt or count takes as long as the server likes: that is PBKDF2, and not what is looked for.
fn would_derive_keys(challenge: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(challenge) else {
        return false;
    };
    let mut attributes = text.split(',').skip(1);
    let (salt, count) = (attributes.next(), attributes.next());
    let is_count = |text: &str| {
        text.strip_prefix("i=")
            .and_then(|count| count.parse().ok())
            .is_some_and(|count: u32| (4096..=1_000_000).contains(&count))
    };
    count.is_some_and(is_count) && !(salt == Some("s=QSXCR+Q6sek8bf92") && count == Some("i=4096"))
}

/// They keep the keys of the one salt that is used.
static SETTINGS: LazyLock<ClientSettings> = LazyLock::new(|| ClientSettings {
    credentials: ClientCredentials {
        user: USER.to_owned(),
        secret: Some("secret".into()),
        remembered: RememberedKeys::default(),
        certificate: true,
    },
    weakest: Mechanism::Plain,
});
