//! TLS as this project uses it: rustls with aws-lc-rs, TLS 1.2 and later, certificates named by SPKI pins.
//!
//! Sockets and handshakes belong to `wire`; who a certificate stands for, to the accounts.

mod client;
mod identity;
mod pin;
mod server;

pub use client::{Alpn, ClientTls, PinMismatch, Trust, trust_failure};
pub use identity::{Identity, IdentityError};
pub use pin::{PinError, SpkiPin};
pub use server::{ClientCertificates, ServerTls};

use std::sync::{Arc, LazyLock};

use ::aws_lc_rs::digest::{SHA256, SHA384, SHA512, digest};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ConnectionCommon, ProtocolVersion, SideData};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::sasl::ChannelBinding;

/// The protocol name of ALPN, against attacks that speak SMTP to another kind of server (R8314-1).
const ALPN_SMTP: &[u8] = b"smtp";

/// The one provider. A process-wide default is never installed, so that no other crate can choose for us.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    Arc::clone(&PROVIDER)
}

/// What ties an authentication to this very TLS connection (RFC 5056), strongest first; each is there where it
/// is defined. The server passes its own certificate, the client the server's. `tls-exporter` (RFC 9266) is left to
/// TLS 1.3: in 1.2 it would need a guarantee of extended master secrets.
#[must_use]
pub fn channel_bindings<D: SideData>(
    connection: &ConnectionCommon<D>,
    server_certificate: Option<&CertificateDer<'_>>,
) -> Vec<ChannelBinding> {
    let exporter = (connection.protocol_version() == Some(ProtocolVersion::TLSv1_3))
        .then(|| {
            connection
                .export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b""))
                .ok()
        })
        .flatten()
        .map(|material| ChannelBinding::TlsExporter(material.to_vec()));
    let end_point = server_certificate
        .and_then(server_end_point)
        .map(ChannelBinding::TlsServerEndPoint);
    exporter.into_iter().chain(end_point).collect()
}

/// The pin of the certificate that the peer showed and proved to have the key of.
#[must_use]
pub fn peer_pin<D: SideData>(connection: &ConnectionCommon<D>) -> Option<SpkiPin> {
    connection
        .peer_certificates()?
        .first()
        .and_then(|certificate| SpkiPin::of_certificate(certificate).ok())
}

/// RFC 5929 §4.1: the hash of the certificate's own signature algorithm, with SHA-256 instead of MD5 and
/// SHA-1. None where that algorithm names no single hash (Ed25519): the binding is then undefined.
fn server_end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let algorithm = match parsed.signature_algorithm.algorithm.to_id_string().as_str() {
        // md5, sha1 and sha256 with RSA; ECDSA with SHA-1 and SHA-256.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2" => &SHA256,
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => &SHA384,
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => &SHA512,
        _ => return None,
    };
    Some(digest(algorithm, certificate).as_ref().to_vec())
}

#[cfg(test)]
mod tests;
