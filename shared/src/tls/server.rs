//! The server's side of TLS.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::server::ResolvesServerCert;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::{ALPN_SMTP, Identity, SpkiPin, provider};

/// Whether clients are asked for a certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClientCertificates {
    /// They are not: the Internet side.
    Ignored,
    /// They may show one, any, and then prove that they have its key. Its pin decides later whom it stands
    /// for (AUTH EXTERNAL), so an unknown one is no reason to refuse the handshake: the client may have a secret.
    Requested,
}

/// The server's settings under one certificate. A connection keeps the value that it began with; a replaced
/// certificate is a new value.
#[derive(Clone, Debug)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    certificate: CertificateDer<'static>,
    pin: SpkiPin,
}

impl ServerTls {
    /// Makes the settings: TLS 1.2 and later, ALPN `smtp` where the client offers any (R8314-1: rustls then
    /// refuses a client that offers others only).
    ///
    /// # Errors
    /// What rustls says, which it does of no identity that could be loaded.
    pub fn new(
        identity: &Identity,
        client_certificates: ClientCertificates,
    ) -> Result<Self, Error> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?;
        let builder = match client_certificates {
            ClientCertificates::Ignored => builder.with_no_client_auth(),
            ClientCertificates::Requested => {
                builder.with_client_cert_verifier(Arc::new(AnyCertificate))
            }
        };
        let one = OneCertificate(Arc::clone(&identity.certified_key));
        let mut config = builder.with_cert_resolver(Arc::new(one));
        config.alpn_protocols = vec![ALPN_SMTP.to_vec()];
        Ok(Self {
            config: Arc::new(config),
            certificate: identity.leaf().clone(),
            pin: identity.pin(),
        })
    }

    /// For a rustls or tokio-rustls acceptor.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// The certificate that clients see, for [`channel_bindings`](super::channel_bindings).
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Its pin.
    #[must_use]
    pub fn pin(&self) -> SpkiPin {
        self.pin
    }
}

/// Gives the same certificate whatever name the client asks for.
#[derive(Debug)]
struct OneCertificate(Arc<CertifiedKey>);

impl ResolvesServerCert for OneCertificate {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// Takes any certificate whose key the client proves to have.
#[derive(Debug)]
struct AnyCertificate;

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        // Without a pin it could stand for nobody.
        SpkiPin::of_certificate(end_entity).map_err(|_| rustls::CertificateError::BadEncoding)?;
        Ok(ClientCertVerified::assertion())
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
