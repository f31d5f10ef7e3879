//! The client's side of TLS: whom to trust.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use rustls_platform_verifier::Verifier;

use super::{ALPN_SMTP, Identity, SpkiPin, provider};

/// How a server proves who it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Trust {
    /// It need not: encryption against onlookers only (opportunistic, RFC 7435). Never for credentials.
    Anyone,
    /// A chain to one of the certificates in this PEM file, and the name.
    Ca(PathBuf),
    /// The key itself, by one of these pins. Names and dates then say nothing more.
    Pin(Vec<SpkiPin>),
    /// A chain to a root of this system, and the name.
    Platform,
}

/// Whether to name the protocol in the handshake.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Alpn {
    /// Not to servers that we do not know: some refuse every protocol but those of the web.
    None,
    /// `smtp`, which our relay understands (R8314-1).
    Smtp,
}

/// The client's settings.
#[derive(Clone, Debug)]
pub struct ClientTls(Arc<ClientConfig>);

impl ClientTls {
    /// Makes the settings: TLS 1.2 and later.
    ///
    /// # Errors
    /// What is wrong with the CA file or the system's roots.
    pub fn new(trust: &Trust, identity: Option<&Identity>, alpn: Alpn) -> Result<Self, Error> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?;
        let builder = builder
            .dangerous()
            .with_custom_certificate_verifier(verifier(trust)?);
        let mut config = match identity {
            Some(identity) => {
                let one = rustls::sign::SingleCertAndKey::from(Arc::clone(&identity.certified_key));
                builder.with_client_cert_resolver(Arc::new(one))
            }
            None => builder.with_no_client_auth(),
        };
        if alpn == Alpn::Smtp {
            config.alpn_protocols = vec![ALPN_SMTP.to_vec()];
        }
        Ok(Self(Arc::new(config)))
    }

    #[cfg(test)]
    pub(super) fn of_config(config: ClientConfig) -> Self {
        Self(Arc::new(config))
    }

    /// For a rustls or tokio-rustls connector.
    #[must_use]
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0)
    }
}

/// The server has another key than the one expected: it was replaced, or this is not the server.
#[derive(Debug, thiserror::Error)]
#[error("the server's key has pin {seen}, which is not the one expected")]
pub struct PinMismatch {
    /// The pin that the server showed.
    pub seen: SpkiPin,
}

/// What kept us from trusting the server, in one line; `None` when the error is of another kind.
#[must_use]
pub fn trust_failure(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        match error.downcast_ref::<Error>() {
            Some(Error::InvalidCertificate(rustls::CertificateError::Other(OtherError(other)))) => {
                return Some(other.to_string());
            }
            Some(error @ Error::InvalidCertificate(_)) => return Some(error.to_string()),
            // Errors of rustls travel inside of I/O errors, which hide them from `source`.
            _ => {
                let inner = error
                    .downcast_ref::<std::io::Error>()
                    .and_then(std::io::Error::get_ref);
                cause = inner.map(|inner| inner as _).or_else(|| error.source());
            }
        }
    }
    None
}

pub(super) fn verifier(trust: &Trust) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    Ok(match trust {
        Trust::Anyone => Arc::new(ByKey(None)),
        Trust::Pin(pins) => Arc::new(ByKey(Some(pins.clone()))),
        Trust::Platform => Arc::new(Verifier::new(provider())?),
        Trust::Ca(file) => {
            let unusable = || {
                Error::General(format!(
                    "{} holds no certificate in PEM form that can be used",
                    file.display()
                ))
            };
            let certificates: Result<Vec<_>, _> = match CertificateDer::pem_file_iter(file) {
                Ok(certificates) => certificates.collect(),
                Err(rustls_pki_types::pem::Error::Io(error)) => {
                    let reason = crate::config::reason(&error);
                    return Err(Error::General(format!(
                        "cannot read {}: {reason}",
                        file.display()
                    )));
                }
                Err(_) => return Err(unusable()),
            };
            let mut roots = RootCertStore::empty();
            for certificate in certificates.map_err(|_| unusable())? {
                roots.add(certificate).map_err(|_| unusable())?;
            }
            let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider());
            builder.build().map_err(|_| unusable())?
        }
    })
}

/// Looks at the key only. Without pins any key will do, but the server must have it.
#[derive(Debug)]
struct ByKey(Option<Vec<SpkiPin>>);

impl ServerCertVerifier for ByKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(pins) = &self.0 else {
            return Ok(ServerCertVerified::assertion());
        };
        let seen = SpkiPin::of_certificate(end_entity)
            .map_err(|_| rustls::CertificateError::BadEncoding)?;
        if pins.contains(&seen) {
            return Ok(ServerCertVerified::assertion());
        }
        let mismatch = OtherError(Arc::new(PinMismatch { seen }));
        Err(Error::InvalidCertificate(rustls::CertificateError::Other(
            mismatch,
        )))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &provider().signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
