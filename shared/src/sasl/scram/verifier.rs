//! What a server keeps instead of a secret (RFC 5802 §3).

use std::{fmt, num::NonZeroU32, str::FromStr};

use aws_lc_rs::pbkdf2;
use zeroize::Zeroizing;

use super::{ITERATIONS_MAX, ITERATIONS_MIN, KEY_OCTETS, Key, hashed, keyed};
use crate::sasl::{Unpreparable, base64, equal_in_constant_time, prepare};

/// Octets of the salts that we make.
pub(in crate::sasl) const SALT_OCTETS: usize = 16;

const PREFIX: &str = "SCRAM-SHA-256$";

/// Enough to check a proof or a secret with, and too little to prove anything to anybody else.
///
/// Printed and parsed in the form that PostgreSQL and others use: `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramVerifier {
    iterations: u32,
    salt: Vec<u8>,
    stored_key: Key,
    server_key: Key,
}

impl ScramVerifier {
    /// Rounds of PBKDF2 in new verifiers: the rule of thumb of RFC 7677 §4. It costs a server a few milliseconds for PLAIN and nothing
    /// for SCRAM, where the client pays. More would buy little: `account add` makes secrets that no dictionary holds, and every round is
    /// also a round that anybody who reaches the port can make the relay do.
    pub const ITERATIONS_DEFAULT: u32 = 15_000;

    /// The verifier of a secret. Runs PBKDF2.
    ///
    /// # Errors
    /// The secret is empty or has characters that SASLprep prohibits.
    pub fn derive(secret: &str, salt: &[u8; SALT_OCTETS]) -> Result<Self, Unpreparable> {
        Self::derive_with(secret, salt, Self::ITERATIONS_DEFAULT)
    }

    pub(super) fn derive_with(
        secret: &str,
        salt: &[u8],
        iterations: u32,
    ) -> Result<Self, Unpreparable> {
        let keys = Keys::derive(&prepare(secret)?, salt, iterations);
        let stored_key = hashed(keys.client_key.as_slice());
        Ok(Self {
            iterations,
            salt: salt.to_vec(),
            stored_key,
            server_key: *keys.server_key,
        })
    }

    /// A verifier of given keys, with our own number of iterations.
    pub(in crate::sasl) fn from_keys(salt: &[u8], stored_key: Key, server_key: Key) -> Self {
        Self {
            iterations: Self::ITERATIONS_DEFAULT,
            salt: salt.to_vec(),
            stored_key,
            server_key,
        }
    }

    /// Whether this is the secret. Runs PBKDF2.
    #[must_use]
    pub fn verify(&self, secret: &str) -> bool {
        let Ok(secret) = prepare(secret) else {
            return false;
        };
        let keys = Keys::derive(&secret, &self.salt, self.iterations);
        self.is_client_key(&keys.client_key)
    }

    /// Whether it has the rounds and the length of salt of those that are made here, and of the decoys that stand for users
    /// which do not exist. A server tells both to whoever asks (RFC 5802 §5.1).
    #[must_use]
    pub fn is_usual(&self) -> bool {
        self.iterations == Self::ITERATIONS_DEFAULT && self.salt.len() == SALT_OCTETS
    }

    pub(super) fn is_client_key(&self, client_key: &Key) -> bool {
        equal_in_constant_time(&hashed(client_key), &self.stored_key)
    }

    pub(super) const fn iterations(&self) -> u32 {
        self.iterations
    }

    pub(super) fn salt(&self) -> &[u8] {
        &self.salt
    }

    pub(super) const fn stored_key(&self) -> &Key {
        &self.stored_key
    }

    pub(super) const fn server_key(&self) -> &Key {
        &self.server_key
    }
}

impl fmt::Display for ScramVerifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (salt, stored, server) = (
            base64::encode(&self.salt),
            base64::encode(&self.stored_key),
            base64::encode(&self.server_key),
        );
        write!(
            formatter,
            "{PREFIX}{}:{salt}${stored}:{server}",
            self.iterations
        )
    }
}

impl fmt::Debug for ScramVerifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The server key lets its holder pose as this server, and the stored key can be searched for weak secrets.
        write!(
            formatter,
            "ScramVerifier({} iterations, …)",
            self.iterations
        )
    }
}

/// A text is not a verifier. It says nothing of the text, which is a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidVerifier {
    /// The number of iterations is out of bounds.
    #[error("a SCRAM verifier needs {ITERATIONS_MIN} to {ITERATIONS_MAX} iterations")]
    Iterations,
    /// Any other fault of form.
    #[error(
        "not a SCRAM verifier (SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>, the last three in base64)"
    )]
    Syntax,
}

impl FromStr for ScramVerifier {
    type Err = InvalidVerifier;

    fn from_str(text: &str) -> Result<Self, InvalidVerifier> {
        use InvalidVerifier::Syntax;

        let (parameters, keys) = text
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('$'))
            .ok_or(Syntax)?;
        let (iterations, salt) = parameters.split_once(':').ok_or(Syntax)?;
        let (stored_key, server_key) = keys.split_once(':').ok_or(Syntax)?;
        if !iterations.bytes().all(|octet| octet.is_ascii_digit()) {
            return Err(Syntax);
        }
        let iterations = iterations.parse().map_err(|_| Syntax)?;
        if !(ITERATIONS_MIN..=ITERATIONS_MAX).contains(&iterations) {
            return Err(InvalidVerifier::Iterations);
        }
        let salt = base64::decode(salt.as_bytes())
            .filter(|salt| !salt.is_empty())
            .ok_or(Syntax)?;
        let key = |text: &str| {
            base64::decode(text.as_bytes())
                .and_then(|octets| Key::try_from(octets).ok())
                .ok_or(Syntax)
        };
        Ok(Self {
            iterations,
            salt,
            stored_key: key(stored_key)?,
            server_key: key(server_key)?,
        })
    }
}

/// What a secret is turned into (RFC 5802 §3).
#[derive(Clone)]
pub(super) struct Keys {
    pub(super) client_key: Zeroizing<Key>,
    pub(super) server_key: Zeroizing<Key>,
}

impl Keys {
    /// `Hi(secret, salt, iterations)` and the two keys below it. The secret is already prepared.
    pub(super) fn derive(secret: &str, salt: &[u8], iterations: u32) -> Self {
        let iterations = NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN);
        let mut salted = Zeroizing::new([0; KEY_OCTETS]);
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            iterations,
            salt,
            secret.as_bytes(),
            salted.as_mut_slice(),
        );
        Self {
            client_key: Zeroizing::new(keyed(salted.as_slice(), b"Client Key")),
            server_key: Zeroizing::new(keyed(salted.as_slice(), b"Server Key")),
        }
    }
}
