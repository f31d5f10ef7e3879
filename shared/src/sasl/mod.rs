//! SASL (RFC 4422) as steps without I/O, both sides, a file a mechanism.
//!
//! A [`Server`] and a [`Client`] take the octets of a response or a challenge and give the octets of the next one. Base64,
//! the `AUTH` command and its replies belong to [`crate::odmr`]; randomness and time are arguments. A step is a pure function of
//! `Send` values because some of them run PBKDF2 (milliseconds), which has no place on a runtime worker.

pub mod base64;
mod client;
mod cram_md5;
mod external;
mod plain;
mod scram;
mod server;

use std::fmt;

use aws_lc_rs::constant_time;
use zeroize::Zeroizing;

pub use client::{Client, ClientContext, ClientCredentials, ClientError, ClientSettings};
pub use scram::{InvalidVerifier, RememberedKeys, ScramVerifier};
pub use server::{
    Credentials, DecoyKey, Failure, Fresh, Server, ServerContext, ServerStep, Unavailable,
};

/// Octets of randomness in a nonce: 144 bits, which are 24 characters of base64 without padding (RFC 5802 §5.1, RFC 2195 §2).
pub const NONCE_OCTETS: usize = 18;

/// Randomness for one exchange; never used twice.
pub type Nonce = [u8; NONCE_OCTETS];

/// The mechanisms both programs speak, strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mechanism {
    /// The client certificate of this TLS session (RFC 4422 appendix A).
    External,
    /// SCRAM-SHA-256 bound to the TLS channel (RFC 7677, RFC 9266).
    ScramSha256Plus,
    /// SCRAM-SHA-256 (RFC 7677).
    ScramSha256,
    /// CRAM-MD5 (RFC 2195), which RFC 2645 §5.1 requires to exist.
    CramMd5,
    /// The secret itself (RFC 4616).
    Plain,
}

impl Mechanism {
    /// All of them, strongest first.
    pub const ALL: [Self; 5] = [
        Self::External,
        Self::ScramSha256Plus,
        Self::ScramSha256,
        Self::CramMd5,
        Self::Plain,
    ];

    /// The name in the registry of IANA, as `AUTH` lists it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::External => "EXTERNAL",
            Self::ScramSha256Plus => "SCRAM-SHA-256-PLUS",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::CramMd5 => "CRAM-MD5",
            Self::Plain => "PLAIN",
        }
    }

    /// The mechanism of that name, in any case (RFC 4954 §4 compares without case).
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|mechanism| mechanism.name().eq_ignore_ascii_case(name))
    }

    /// Whether the client speaks first. Only CRAM-MD5 begins with the server, so it takes no initial response.
    #[must_use]
    pub const fn is_client_first(self) -> bool {
        !matches!(self, Self::CramMd5)
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What ties a SCRAM exchange to the TLS connection that it runs in (RFC 5929, RFC 9266).
#[derive(Clone, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Keying material exported with `EXPORTER-Channel-Binding`; TLS 1.3 (RFC 9266).
    TlsExporter(Vec<u8>),
    /// Hash of the server's certificate (RFC 5929 §4).
    TlsServerEndPoint(Vec<u8>),
}

impl ChannelBinding {
    /// The unique prefix by which a SCRAM client names the type.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::TlsExporter(_) => "tls-exporter",
            Self::TlsServerEndPoint(_) => "tls-server-end-point",
        }
    }

    /// The binding data.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        match self {
            Self::TlsExporter(data) | Self::TlsServerEndPoint(data) => data,
        }
    }
}

impl fmt::Debug for ChannelBinding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Exported keying material is a secret of the connection.
        write!(formatter, "ChannelBinding({})", self.name())
    }
}

/// A string has characters that SASLprep (RFC 4013) prohibits, or is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("empty, or has characters that SASLprep (RFC 4013) prohibits")]
pub struct Unpreparable;

/// SASLprep of a user name or secret, so that two spellings of the same characters are the same octets.
fn prepare(text: &str) -> Result<Zeroizing<String>, Unpreparable> {
    let prepared = stringprep::saslprep(text).map_err(|_| Unpreparable)?;
    if prepared.is_empty() {
        return Err(Unpreparable);
    }
    Ok(Zeroizing::new(prepared.into_owned()))
}

/// Equality that takes the same time wherever the first difference is.
fn equal_in_constant_time(left: &[u8], right: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(left, right).is_ok()
}

#[cfg(test)]
pub(crate) mod tests;
