//! The server's side of every mechanism, and what it asks of whoever keeps the accounts.

use std::fmt;

use aws_lc_rs::hmac;
use secrecy::SecretString;

use super::{
    ChannelBinding, Mechanism, Nonce, ScramVerifier, base64, cram_md5, external, plain,
    scram::{self, Channel, SALT_OCTETS},
};

/// What the server knows of accounts.
///
/// A user that does not exist, or may not use the mechanism, is `None`: the mechanism then goes on with a decoy, so that neither words
/// nor time tell the two apart. A disabled account does authenticate (ATRN refuses it).
pub trait Credentials {
    /// The verifier of a user for SCRAM and PLAIN.
    ///
    /// # Errors
    /// The store cannot be asked now; the peer is told to come back (`454`, RFC 4954 §6).
    fn scram_verifier(&self, user: &str) -> Result<Option<ScramVerifier>, Unavailable>;

    /// The secret of a user that may use CRAM-MD5.
    ///
    /// # Errors
    /// As for [`Self::scram_verifier`].
    fn cram_md5_secret(&self, user: &str) -> Result<Option<SecretString>, Unavailable>;

    /// The one account with which this certificate (by SPKI pin, `sha256/…`) is registered.
    ///
    /// # Errors
    /// As for [`Self::scram_verifier`].
    fn account_of_certificate(&self, pin: &str) -> Result<Option<String>, Unavailable>;

    /// Makes up the users that do not exist: one key as long as the process lives.
    fn decoy_key(&self) -> &DecoyKey;
}

/// The store of accounts cannot be asked now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store of accounts is not available")]
pub struct Unavailable;

/// What a server's exchange depends on besides the peer's messages.
#[derive(Clone, Debug)]
pub struct ServerContext {
    /// Our name, in CRAM-MD5's challenge.
    pub hostname: String,
    /// SPKI pin of the client certificate proven in this TLS session.
    pub certificate_pin: Option<String>,
    /// The bindings that this connection has; a client chooses one by name.
    pub channel_bindings: Vec<ChannelBinding>,
    /// Whether SCRAM-SHA-256-PLUS was offered, so that a client that was told otherwise is noticed (RFC 5802 §6).
    pub plus_offered: bool,
}

/// Randomness and time for one exchange.
#[derive(Clone, Debug)]
pub struct Fresh {
    /// From a cryptographic source, never used before.
    pub nonce: Nonce,
    /// Time of the challenge; it need only be roughly right.
    pub unix_seconds: u64,
}

/// Why authentication failed: for logs and the audit, never for the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// SCRAM: the channel is not the one the client sees, or the offer of `-PLUS` was removed on the way: a man in the middle.
    ChannelBinding,
    /// Asked to act as somebody else.
    Impersonation,
    /// Not a message of this mechanism.
    Malformed,
    /// EXTERNAL without a certificate, or with one that no account has.
    NoCertificate,
    /// No such user, or not by this mechanism.
    UnknownUser,
    /// The secret is not the user's.
    WrongSecret,
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::ChannelBinding => "channel binding mismatch",
            Self::Impersonation => "other authorisation identity",
            Self::Malformed => "malformed message",
            Self::NoCertificate => "no registered certificate",
            Self::UnknownUser => "unknown user",
            Self::WrongSecret => "wrong secret",
        })
    }
}

/// What a message led to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum ServerStep {
    /// Send this and wait for the response. SCRAM's last message goes this way too: SMTP carries no data with success (RFC 4954 §4).
    Challenge(Vec<u8>),
    /// The peer is this account.
    Success(String),
    /// The peer is refused. User and reason are for the log: every failure looks the same outside.
    Failure {
        /// The user that was tried, if the message got so far.
        user: Option<String>,
        /// Why.
        reason: Failure,
    },
    /// Accounts cannot be looked up now.
    Unavailable,
}

impl ServerStep {
    pub(super) const fn failure(user: Option<String>, reason: Failure) -> Self {
        Self::Failure { user, reason }
    }
}

/// The server's side of one exchange.
#[derive(Debug)]
pub struct Server {
    context: ServerContext,
    state: State,
}

#[derive(Debug)]
enum State {
    External,
    Plain,
    CramMd5Start(Fresh),
    CramMd5(String),
    Scram(scram::Server),
    /// A verdict was given; there is nothing more to say.
    Over,
}

impl Server {
    /// An exchange that waits for the initial response (an empty one for CRAM-MD5, where the server begins).
    #[must_use]
    pub fn start(mechanism: Mechanism, context: ServerContext, fresh: Fresh) -> Self {
        let state = match mechanism {
            Mechanism::External => State::External,
            Mechanism::ScramSha256Plus => State::Scram(scram::Server::new(
                Channel::Bound,
                base64::encode_unpadded(&fresh.nonce),
            )),
            Mechanism::ScramSha256 => State::Scram(scram::Server::new(
                Channel::Unbound,
                base64::encode_unpadded(&fresh.nonce),
            )),
            Mechanism::CramMd5 => State::CramMd5Start(fresh),
            Mechanism::Plain => State::Plain,
        };
        Self { context, state }
    }

    /// The user that the first message of an exchange names; none where it names none, or does not by itself.
    #[must_use]
    pub fn first_user(mechanism: Mechanism, response: &[u8]) -> Option<String> {
        match mechanism {
            Mechanism::External | Mechanism::CramMd5 => None,
            Mechanism::Plain => plain::user(response),
            Mechanism::ScramSha256 | Mechanism::ScramSha256Plus => scram::first_user(response),
        }
    }

    /// The user that the exchange is about once this message has come.
    #[must_use]
    pub fn user(&self, response: &[u8]) -> Option<String> {
        match &self.state {
            State::Plain => plain::user(response),
            State::CramMd5(_) => cram_md5::user(response),
            State::Scram(exchange) => exchange.user(response),
            State::External | State::CramMd5Start(_) | State::Over => None,
        }
    }

    /// Takes the peer's message. PLAIN runs PBKDF2 here: call it off the runtime.
    pub fn step(&mut self, response: &[u8], credentials: &dyn Credentials) -> ServerStep {
        let state = std::mem::replace(&mut self.state, State::Over);
        match state {
            State::External => external::check(response, &self.context, credentials),
            State::Plain => plain::check(response, credentials),
            State::CramMd5Start(fresh) if response.is_empty() => {
                let challenge = cram_md5::challenge(&self.context, &fresh);
                self.state = State::CramMd5(challenge.clone());
                ServerStep::Challenge(challenge.into_bytes())
            }
            State::CramMd5Start(_) | State::Over => ServerStep::failure(None, Failure::Malformed),
            State::CramMd5(challenge) => cram_md5::check(response, &challenge, credentials),
            State::Scram(mut exchange) => {
                let step = exchange.step(response, &self.context, credentials);
                if matches!(step, ServerStep::Challenge(_)) {
                    self.state = State::Scram(exchange);
                }
                step
            }
        }
    }
}

/// A verifier to check against, and whether its user exists.
pub(super) struct Found {
    pub(super) verifier: ScramVerifier,
    pub(super) known: bool,
}

/// The verifier of the user, or a decoy. The decoy is made in either case, so that the way here takes the same time.
pub(super) fn verifier_of(user: &str, credentials: &dyn Credentials) -> Result<Found, ServerStep> {
    let decoy = credentials.decoy_key().verifier(user);
    match credentials.scram_verifier(user) {
        Err(Unavailable) => Err(ServerStep::Unavailable),
        Ok(Some(verifier)) => Ok(Found {
            verifier,
            known: true,
        }),
        Ok(None) => Ok(Found {
            verifier: decoy,
            known: false,
        }),
    }
}

/// The key under which users that do not exist get salts and secrets: the same user the same ones as long as the process lives, as
/// with a real user, and nobody outside can tell which kind it is.
#[derive(Clone)]
pub struct DecoyKey(hmac::Key);

impl DecoyKey {
    /// A key of fresh randomness, made once a process.
    #[must_use]
    pub fn new(random: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, random))
    }

    /// A verifier that no secret fits, with the shape and the cost of those that `account add` makes.
    fn verifier(&self, user: &str) -> ScramVerifier {
        let salt = self.derive("salt", user);
        ScramVerifier::from_keys(
            &salt.as_ref()[..SALT_OCTETS],
            self.octets("stored key", user),
            self.octets("server key", user),
        )
    }

    pub(super) fn secret(&self, user: &str) -> SecretString {
        base64::encode(self.derive("secret", user).as_ref()).into()
    }

    fn octets(&self, purpose: &str, user: &str) -> [u8; 32] {
        let mut octets = [0; 32];
        octets.copy_from_slice(self.derive(purpose, user).as_ref());
        octets
    }

    fn derive(&self, purpose: &str, user: &str) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(purpose.as_bytes());
        context.update(b"\0");
        context.update(user.as_bytes());
        context.sign()
    }
}

impl fmt::Debug for DecoyKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("DecoyKey(…)")
    }
}
