//! Keys and certificates made on the spot, and the TLS settings of the harness's own ends.
//! No key file is kept in the tree.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use rcgen::{CertificateParams, KeyPair, PublicKeyData as _, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme, SupportedProtocolVersion,
};

/// A self-signed certificate and its key.
#[derive(Debug)]
pub struct Certificate {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Certificate {
    /// A certificate for the name, and for `localhost` and 127.0.0.1, where the tests live.
    #[must_use]
    pub fn for_name(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key pair");
        let names = vec![name.to_owned(), "localhost".to_owned()];
        let mut params = CertificateParams::new(names).expect("certificate names");
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        params.subject_alt_names.push(SanType::IpAddress(loopback));
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let certificate = params.self_signed(&key).expect("a self-signed certificate");
        Self { certificate, key }
    }

    /// The SPKI pin, in the form of the configuration files.
    #[must_use]
    pub fn pin(&self) -> String {
        let spki = self.key.subject_public_key_info();
        let digest = aws_lc_rs_digest(&spki);
        format!(
            "sha256/{}",
            base64::engine::general_purpose::STANDARD.encode(digest)
        )
    }

    /// The certificate as it is shown in a handshake.
    #[must_use]
    pub fn der(&self) -> &CertificateDer<'static> {
        self.certificate.der()
    }

    /// The certificate as PEM text.
    #[must_use]
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// Writes certificate and key as PEM; the key readable by its owner alone.
    pub fn write(&self, certificate: &Path, key: &Path) {
        std::fs::write(certificate, self.pem()).expect("the certificate is written");
        write_private(key, &self.key.serialize_pem());
    }

    /// Settings of a server that shows this certificate.
    #[must_use]
    pub fn server(&self) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).expect("a PKCS#8 key");
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("protocol versions")
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.der().clone()], key)
            .expect("a usable certificate");
        Arc::new(config)
    }

    /// Settings of a client that shows this certificate (SASL EXTERNAL) and checks nothing.
    #[must_use]
    pub fn client(&self) -> Arc<ClientConfig> {
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).expect("a PKCS#8 key");
        let config = unverified(rustls::ALL_VERSIONS)
            .with_client_auth_cert(vec![self.certificate.der().clone()], key)
            .expect("a usable certificate");
        Arc::new(config)
    }
}

/// Writes a file that only its owner may read.
pub fn write_private(path: &Path, text: &str) {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;

    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .expect("the file is opened");
    file.write_all(text.as_bytes())
        .expect("the file is written");
}

/// Settings of a client that checks nothing: the tests of verification use the real puller.
#[must_use]
pub fn trusting_client() -> Arc<ClientConfig> {
    Arc::new(unverified(rustls::ALL_VERSIONS).with_no_client_auth())
}

/// The same, offering one protocol by ALPN.
#[must_use]
pub fn trusting_client_with_alpn(protocol: &str) -> Arc<ClientConfig> {
    let mut config = unverified(rustls::ALL_VERSIONS).with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    Arc::new(config)
}

/// The same, restricted to one version of TLS.
#[must_use]
pub fn trusting_client_of(version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    Arc::new(unverified(&[version]).with_no_client_auth())
}

fn unverified(
    versions: &[&'static SupportedProtocolVersion],
) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("protocol versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(algorithms)))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn aws_lc_rs_digest(octets: &[u8]) -> Vec<u8> {
    use ::aws_lc_rs::digest::{SHA256, digest};
    digest(&SHA256, octets).as_ref().to_vec()
}

/// Takes any certificate, but checks that the peer holds its key.
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
