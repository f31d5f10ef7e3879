//! EXTERNAL (RFC 4422 appendix A): the identity is the client certificate of this TLS session, known by its SPKI pin.

use super::{
    Failure,
    server::{Credentials, ServerContext, ServerStep},
};

/// The whole of the server's part. The message is the authorisation identity: empty, or the account itself.
pub(super) fn check(
    message: &[u8],
    context: &ServerContext,
    credentials: &dyn Credentials,
) -> ServerStep {
    let Ok(authzid) = std::str::from_utf8(message) else {
        return ServerStep::failure(None, Failure::Malformed);
    };
    if authzid.contains('\0') {
        return ServerStep::failure(None, Failure::Malformed);
    }
    let tried = (!authzid.is_empty()).then(|| authzid.to_owned());
    let Some(pin) = &context.certificate_pin else {
        return ServerStep::failure(tried, Failure::NoCertificate);
    };
    match credentials.account_of_certificate(pin) {
        Err(_) => ServerStep::Unavailable,
        Ok(None) => ServerStep::failure(tried, Failure::NoCertificate),
        Ok(Some(account)) if authzid.is_empty() || authzid == account => {
            ServerStep::Success(account)
        }
        Ok(Some(_)) => ServerStep::failure(tried, Failure::Impersonation),
    }
}
