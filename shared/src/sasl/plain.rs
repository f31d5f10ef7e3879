//! PLAIN (RFC 4616): `[authzid] NUL authcid NUL passwd`. Offered and used inside TLS only; that is the caller's to see to.

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::{
    Failure, Unpreparable, prepare,
    server::{Credentials, ServerStep, verifier_of},
};

/// The whole of the server's part: one message, checked against the SCRAM verifier. Runs PBKDF2.
pub(super) fn check(message: &[u8], credentials: &dyn Credentials) -> ServerStep {
    let Some((user, secret)) = parse(message) else {
        return ServerStep::failure(None, Failure::Malformed);
    };
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

/// User and secret. An authorisation identity other than the user is refused: nobody acts for somebody else here.
fn parse(message: &[u8]) -> Option<(String, Zeroizing<String>)> {
    let mut parts = std::str::from_utf8(message).ok()?.split('\0');
    let (authzid, user, secret) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || (!authzid.is_empty() && authzid != user) {
        return None;
    }
    // RFC 4616 §2: the server prepares both with SASLprep; an empty one is refused.
    let user = prepare(user).ok()?;
    Some((user.to_string(), prepare(secret).ok()?))
}

/// The client's only message, both parts prepared (RFC 4616 §2).
pub(super) fn message(user: &str, secret: &SecretString) -> Result<Vec<u8>, Unpreparable> {
    let (user, secret) = (prepare(user)?, prepare(secret.expose_secret())?);
    Ok([b"\0", user.as_bytes(), b"\0", secret.as_bytes()].concat())
}
