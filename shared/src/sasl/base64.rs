//! Base64 as SASL uses it (RFC 4648 §4): standard alphabet, padded, without line breaks, canonical, and nothing else.

use ::base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD},
};

/// The encoded form.
#[must_use]
pub fn encode(octets: &[u8]) -> String {
    STANDARD.encode(octets)
}

/// The encoded form without padding, for nonces: printable, and free of the comma that SCRAM forbids there.
pub(crate) fn encode_unpadded(octets: &[u8]) -> String {
    STANDARD_NO_PAD.encode(octets)
}

/// The octets, or `None` for anything but canonical base64 (wrong alphabet, length, padding or trailing bits).
#[must_use]
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_base64_is_decoded() {
        for (text, octets) in [
            ("", ""),
            ("AA==", "\0"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
        ] {
            assert_eq!(
                decode(text.as_bytes()).as_deref(),
                Some(octets.as_bytes()),
                "{text:?}"
            );
            assert_eq!(encode(octets.as_bytes()), text);
        }
        for text in [
            "=",
            "A",
            "AA",
            "AA=",
            "AB==",
            "Zm 9v",
            "Zm9v\r",
            "Zm9v=",
            "====",
            "Zm9-",
            "Zm9vYg==Zm9v",
            "\u{e9}",
        ] {
            assert_eq!(decode(text.as_bytes()), None, "{text:?}");
        }
    }
}
