//! PLAIN (RFC 4616): `[authzid] NUL authcid NUL passwd`. Offered and used inside TLS only; that is the caller's to see to.

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::{
    Failure, Unpreparable, prepare,
    server::{Credentials, ServerStep, verifier_of},
};

/// The whole of the server's part: one message, checked against the SCRAM verifier. Runs PBKDF2.
pub(super) fn check(message: &[u8], credentials: &dyn Credentials) -> ServerStep {
    let Some(Message {
        authorization,
        user,
        secret,
    }) = Message::parse(message)
    else {
        return ServerStep::failure(None, Failure::Malformed);
    };
    if authorization.is_some_and(|other| *other != *user) {
        return ServerStep::failure(Some(user), Failure::Impersonation);
    }
    let found = match verifier_of(&user, credentials) {
        Ok(found) => found,
        Err(step) => return step,
    };
    // The decoy is verified too: the cost of an unknown user is that of a known one.
    let proven = found.verifier.verify(&secret);
    match (found.known, proven) {
        (true, true) => ServerStep::Success(user),
        (true, false) => ServerStep::failure(Some(user), Failure::WrongSecret),
        (false, _) => ServerStep::failure(Some(user), Failure::UnknownUser),
    }
}

/// The user that a message names, prepared as for the check.
pub(super) fn user(message: &[u8]) -> Option<String> {
    Message::parse(message).map(|message| message.user)
}

struct Message {
    /// Nobody acts for somebody else here, so it is the user's own name or none.
    authorization: Option<Zeroizing<String>>,
    user: String,
    secret: Zeroizing<String>,
}

impl Message {
    /// RFC 4616 §2: the server prepares the parts with SASLprep, and neither user nor secret is empty.
    fn parse(message: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(message).ok()?.split('\0');
        let (authorization, user, secret) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let authorization = match authorization {
            "" => None,
            other => Some(prepare(other).ok()?),
        };
        let (user, secret) = (prepare(user).ok()?.to_string(), prepare(secret).ok()?);
        Some(Self {
            authorization,
            user,
            secret,
        })
    }
}

/// The client's only message, both parts prepared (RFC 4616 §2).
pub(super) fn message(user: &str, secret: &SecretString) -> Result<Vec<u8>, Unpreparable> {
    let (user, secret) = (prepare(user)?, prepare(secret.expose_secret())?);
    Ok([b"\0", user.as_bytes(), b"\0", secret.as_bytes()].concat())
}
