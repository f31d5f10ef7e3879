//! A certificate's public key by its hash: `sha256/BASE64`, as in HPKP (RFC 7469 §2.4) and curl.
//!
//! A pin outlives the certificate: renewing it with the same key keeps the pin.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Why a text or a certificate gives no pin.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PinError {
    /// Not a certificate.
    #[error("not a certificate")]
    Certificate,
    /// Not of the form `sha256/` and 44 characters of base64.
    #[error("a pin is \"sha256/\" and 44 characters of base64")]
    Form,
}

/// SHA-256 over the SubjectPublicKeyInfo of a certificate.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SpkiPin([u8; 32]);

impl SpkiPin {
    /// The pin of a certificate.
    ///
    /// # Errors
    /// [`PinError::Certificate`] when it cannot be parsed.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self, PinError> {
        let (_, certificate) =
            X509Certificate::from_der(certificate).map_err(|_| PinError::Certificate)?;
        let hash = digest::digest(&digest::SHA256, certificate.public_key().raw);
        hash.as_ref()
            .try_into()
            .map(Self)
            .map_err(|_| PinError::Certificate)
    }
}

impl FromStr for SpkiPin {
    type Err = PinError;

    fn from_str(text: &str) -> Result<Self, PinError> {
        let bytes = STANDARD.decode(text.strip_prefix("sha256/").ok_or(PinError::Form)?);
        bytes
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or(PinError::Form)
    }
}

impl fmt::Display for SpkiPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256/{}", STANDARD.encode(self.0))
    }
}

impl fmt::Debug for SpkiPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
