//! The messages of SCRAM (RFC 5802 §7), parsed. Nothing here knows a secret.

use crate::sasl::base64;

/// `gs2-cbind-flag` (RFC 5802 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BindingFlag<'a> {
    /// `n`: the client has no channel binding.
    Unsupported,
    /// `y`: the client has it and believes that the server has not.
    NotOffered,
    /// `p=name`: it is used.
    Used(&'a str),
}

/// `client-first-message`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ClientFirst<'a> {
    /// With both commas: it is repeated in the client's final message.
    pub(super) gs2_header: &'a str,
    pub(super) flag: BindingFlag<'a>,
    pub(super) authorization: Option<String>,
    /// All that follows the header; part of what is signed.
    pub(super) bare: &'a str,
    pub(super) user: String,
    pub(super) nonce: &'a str,
}

impl<'a> ClientFirst<'a> {
    pub(super) fn parse(message: &'a [u8]) -> Option<Self> {
        let text = text(message)?;
        let (flag, rest) = text.split_once(',')?;
        let (authorization, bare) = rest.split_once(',')?;
        let gs2_header = &text[..text.len() - bare.len()];
        let flag = match flag {
            "n" => BindingFlag::Unsupported,
            "y" => BindingFlag::NotOffered,
            _ => BindingFlag::Used(
                flag.strip_prefix("p=")
                    .filter(|name| is_binding_name(name))?,
            ),
        };
        let authorization = match authorization {
            "" => None,
            _ => Some(unescape(authorization.strip_prefix("a=")?)?),
        };
        // A mandatory extension (`m=`) where the user is due is one that we do not know: not a match, so refused.
        let mut attributes = bare.split(',');
        let user = unescape(attributes.next()?.strip_prefix("n=")?)?;
        let nonce = attributes
            .next()?
            .strip_prefix("r=")
            .filter(|nonce| is_nonce(nonce))?;
        attributes.all(is_extension).then_some(Self {
            gs2_header,
            flag,
            authorization,
            bare,
            user,
            nonce,
        })
    }
}

/// `server-first-message`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ServerFirst<'a> {
    pub(super) nonce: &'a str,
    pub(super) salt: Vec<u8>,
    /// `None` is a number too large for us: well-formed all the same.
    pub(super) iterations: Option<u32>,
}

impl<'a> ServerFirst<'a> {
    pub(super) fn parse(message: &'a [u8]) -> Option<Self> {
        let mut attributes = text(message)?.split(',');
        let nonce = attributes
            .next()?
            .strip_prefix("r=")
            .filter(|nonce| is_nonce(nonce))?;
        let salt = base64::decode(attributes.next()?.strip_prefix("s=")?.as_bytes())
            .filter(|salt| !salt.is_empty())?;
        let iterations = attributes
            .next()?
            .strip_prefix("i=")
            .filter(|number| is_positive_number(number))?;
        attributes.all(is_extension).then(|| Self {
            nonce,
            salt,
            iterations: iterations.parse().ok(),
        })
    }
}

/// `client-final-message`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ClientFinal<'a> {
    /// GS2 header and channel binding data.
    pub(super) binding: Vec<u8>,
    pub(super) nonce: &'a str,
    /// All before `,p=`; part of what is signed.
    pub(super) without_proof: &'a str,
    pub(super) proof: Vec<u8>,
}

impl<'a> ClientFinal<'a> {
    pub(super) fn parse(message: &'a [u8]) -> Option<Self> {
        let (without_proof, proof) = text(message)?.rsplit_once(",p=")?;
        let proof = base64::decode(proof.as_bytes())?;
        let mut attributes = without_proof.split(',');
        let binding = base64::decode(attributes.next()?.strip_prefix("c=")?.as_bytes())?;
        let nonce = attributes
            .next()?
            .strip_prefix("r=")
            .filter(|nonce| is_nonce(nonce))?;
        attributes.all(is_extension).then_some(Self {
            binding,
            nonce,
            without_proof,
            proof,
        })
    }
}

/// `server-final-message`: the signature; a `server-error` and anything else is `None`.
pub(super) fn parse_server_final(message: &[u8]) -> Option<Vec<u8>> {
    let mut attributes = text(message)?.split(',');
    let signature = base64::decode(attributes.next()?.strip_prefix("v=")?.as_bytes())?;
    attributes.all(is_extension).then_some(signature)
}

/// `saslname`: a comma and an equals sign are written `=2C` and `=3D`.
pub(super) fn escape(name: &str) -> String {
    name.replace('=', "=3D").replace(',', "=2C")
}

fn unescape(name: &str) -> Option<String> {
    let mut parts = name.split('=');
    let mut plain = parts.next()?.to_owned();
    for part in parts {
        let (sign, rest) = part
            .strip_prefix("2C")
            .map(|rest| (',', rest))
            .or_else(|| part.strip_prefix("3D").map(|rest| ('=', rest)))?;
        plain.push(sign);
        plain.push_str(rest);
    }
    (!plain.is_empty()).then_some(plain)
}

/// Every value is UTF-8 without NUL.
fn text(message: &[u8]) -> Option<&str> {
    std::str::from_utf8(message)
        .ok()
        .filter(|text| !text.contains('\0'))
}

/// `nonce = "r=" c-nonce [s-nonce]`: printable ASCII; the comma is gone by then.
fn is_nonce(nonce: &str) -> bool {
    !nonce.is_empty() && nonce.bytes().all(|octet| octet.is_ascii_graphic())
}

/// `cb-name = 1*(ALPHA / DIGIT / "." / "-")`.
fn is_binding_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b'-'))
}

/// `posit-number`: no leading zero.
fn is_positive_number(number: &str) -> bool {
    number.bytes().all(|octet| octet.is_ascii_digit())
        && matches!(number.bytes().next(), Some(b'1'..=b'9'))
}

/// `attr-val`, an optional extension, which is ignored. A mandatory one (`m=`) must not be (RFC 5802 §5.1).
fn is_extension(attribute: &str) -> bool {
    let mut octets = attribute.bytes();
    octets
        .next()
        .is_some_and(|name| name.is_ascii_alphabetic() && name != b'm')
        && octets.next() == Some(b'=')
        && octets.next().is_some()
}
