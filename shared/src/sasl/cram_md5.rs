//! CRAM-MD5 (RFC 2195), which RFC 2645 §5.1 requires of every provider. It needs the secret itself at the server, so it is per
//! account and off by default; MD5 is used for nothing else.

use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use secrecy::{ExposeSecret, SecretString};

use super::{
    Failure, Fresh, equal_in_constant_time,
    server::{Credentials, ServerContext, ServerStep},
};

/// Hexadecimal digits of an MD5 digest.
const DIGEST_DIGITS: usize = 32;

/// `<random.time@host>`, RFC 2195 §2: never the same twice.
pub(super) fn challenge(context: &ServerContext, fresh: &Fresh) -> String {
    format!(
        "<{}.{}@{}>",
        hexadecimal(&fresh.nonce),
        fresh.unix_seconds,
        context.hostname
    )
}

/// The server's verdict on `user SP digest`.
pub(super) fn check(response: &[u8], challenge: &str, credentials: &dyn Credentials) -> ServerStep {
    let Some((user, digest)) = parse(response) else {
        return ServerStep::failure(None, Failure::Malformed);
    };
    let decoy = credentials.decoy_key().secret(user);
    let (secret, known) = match credentials.cram_md5_secret(user) {
        Err(_) => return ServerStep::Unavailable,
        Ok(Some(secret)) => (secret, true),
        Ok(None) => (decoy, false),
    };
    let proven = equal_in_constant_time(
        keyed_digest(&secret, challenge.as_bytes()).as_bytes(),
        digest.as_bytes(),
    );
    match (known, proven) {
        (true, true) => ServerStep::Success(user.to_owned()),
        (true, false) => ServerStep::failure(Some(user.to_owned()), Failure::WrongSecret),
        (false, _) => ServerStep::failure(Some(user.to_owned()), Failure::UnknownUser),
    }
}

/// The user that a response names.
pub(super) fn user(response: &[u8]) -> Option<String> {
    parse(response).map(|(user, _)| user.to_owned())
}

/// The digest has 32 lower-case digits; the user is all that stands before the last space (it may hold spaces itself).
fn parse(response: &[u8]) -> Option<(&str, &str)> {
    let (user, digest) = std::str::from_utf8(response).ok()?.rsplit_once(' ')?;
    let is_digest = digest.len() == DIGEST_DIGITS
        && digest
            .bytes()
            .all(|octet| matches!(octet, b'0'..=b'9' | b'a'..=b'f'));
    (is_digest && !user.is_empty() && !user.contains('\0')).then_some((user, digest))
}

/// The client's answer to a challenge.
pub(super) fn respond(user: &str, secret: &SecretString, challenge: &[u8]) -> String {
    format!("{user} {}", keyed_digest(secret, challenge))
}

fn keyed_digest(secret: &SecretString, challenge: &[u8]) -> String {
    let mut mac = Hmac::<Md5>::new_from_slice(secret.expose_secret().as_bytes())
        .expect("HMAC takes a key of any length");
    mac.update(challenge);
    hexadecimal(&mac.finalize().into_bytes())
}

fn hexadecimal(octets: &[u8]) -> String {
    use std::fmt::Write as _;

    octets.iter().fold(
        String::with_capacity(octets.len() * 2),
        |mut text, octet| {
            let _ = write!(text, "{octet:02x}");
            text
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers: R2195-1
    #[test]
    fn example_of_the_rfc() {
        let response = respond(
            "tim",
            &"tanstaaftanstaaf".into(),
            b"<1896.697170952@postoffice.reston.mci.net>",
        );
        assert_eq!(response, "tim b913a602c7eda7a495b4e6e7334d3890");
    }

    // covers: R2195-1
    #[test]
    fn malformed_responses_are_told_apart_from_wrong_ones() {
        let digest = "b913a602c7eda7a495b4e6e7334d3890";
        assert_eq!(
            parse(format!("tim {digest}").as_bytes()),
            Some(("tim", digest))
        );
        assert_eq!(
            parse(format!("two words {digest}").as_bytes()),
            Some(("two words", digest))
        );
        for response in [
            String::new(),
            "tim".into(),
            format!(" {digest}"),
            format!("tim {digest} "),
            format!("tim {}", digest.to_uppercase()),
            format!("tim {digest}0"),
            format!("tim {}", &digest[1..]),
            format!("t\0m {digest}"),
            format!("tim\0{digest}"),
        ] {
            assert_eq!(parse(response.as_bytes()), None, "{response:?}");
        }
        assert_eq!(
            parse(&[b"\xff ".as_slice(), digest.as_bytes()].concat()),
            None
        );
    }
}
