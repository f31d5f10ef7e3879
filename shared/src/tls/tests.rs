//! Handshakes in memory: who is trusted, who is refused, and what both ends then know of each other.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{ClientConnection, ServerConfig, ServerConnection};
use rustls_pki_types::ServerName;
use rustls_pki_types::pem::PemObject;
use tempfile::TempDir;

use super::*;
use crate::sasl::ChannelBinding;

const NAME: &str = "mx1.example.net";

/// A directory with a CA, a server's certificate from it, and a self-signed client's.
struct Files {
    directory: TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        files.write("ca.pem", &ca.pem());
        let key = KeyPair::generate().unwrap();
        let server = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
        files.write("server.pem", &server.signed_by(&key, &ca).unwrap().pem());
        files.write("server.key", &key.serialize_pem());
        let client = rcgen::generate_simple_self_signed(vec!["puller".to_owned()]).unwrap();
        files.write("client.pem", &client.cert.pem());
        files.write("client.key", &client.signing_key.serialize_pem());
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn server(&self) -> Identity {
        Identity::load(&self.path("server.pem"), &self.path("server.key")).unwrap()
    }

    fn client(&self) -> Identity {
        Identity::load(&self.path("client.pem"), &self.path("client.key")).unwrap()
    }

    fn load_error(&self, certificate: &str, key: &str) -> String {
        let error = Identity::load(&self.path(certificate), &self.path(key)).unwrap_err();
        error
            .to_string()
            .replace(&format!("{}/", self.directory.path().display()), "")
    }
}

/// Both ends of a finished handshake, or the client's error.
fn handshake(
    server: &ServerConfig,
    client: &ClientTls,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let name = ServerName::try_from(NAME).unwrap();
    let mut client = ClientConnection::new(client.config(), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server.clone())).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut octets = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut octets).unwrap();
        }
        server.read_tls(&mut octets.as_slice()).unwrap();
        let server_outcome = server.process_new_packets();
        let mut octets = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut octets).unwrap();
        }
        client.read_tls(&mut octets.as_slice()).unwrap();
        client.process_new_packets()?;
        server_outcome?;
    }
    Ok((client, server))
}

fn server(files: &Files, certificates: ClientCertificates) -> ServerTls {
    ServerTls::new(&files.server(), certificates).unwrap()
}

#[test]
fn a_server_is_trusted_for_its_pin_or_its_ca_and_for_nothing_else() {
    let files = Files::new();
    let server = server(&files, ClientCertificates::Ignored);
    let stranger = files.client().pin();
    for (trust, expected) in [
        (Trust::Pin(vec![server.pin()]), Ok(())),
        (Trust::Pin(vec![stranger, server.pin()]), Ok(())),
        (Trust::Ca(files.path("ca.pem")), Ok(())),
        (Trust::Anyone, Ok(())),
        (
            Trust::Pin(vec![stranger]),
            Err(format!(
                "the server's key has pin {}, which is not the one expected",
                server.pin()
            )),
        ),
        (
            Trust::Ca(files.path("client.pem")),
            Err("invalid peer certificate: UnknownIssuer".to_owned()),
        ),
        (
            Trust::Platform,
            Err("invalid peer certificate: UnknownIssuer".to_owned()),
        ),
    ] {
        let client = match ClientTls::new(&trust, None, Alpn::Smtp) {
            Ok(client) => client,
            // A system without any roots cannot even try.
            Err(error) if trust == Trust::Platform => {
                assert!(error.to_string().contains("No CA certificates"), "{error}");
                continue;
            }
            Err(error) => panic!("{trust:?}: {error}"),
        };
        let outcome = handshake(&server.config(), &client).map(drop);
        let outcome = outcome
            .map_err(|error| trust_failure(&io::Error::other(error)).expect("a matter of trust"));
        assert_eq!(outcome, expected, "{trust:?}");
    }
}

#[test]
fn a_ca_vouches_for_one_name() {
    let files = Files::new();
    let client = ClientTls::new(&Trust::Ca(files.path("ca.pem")), None, Alpn::None).unwrap();
    let other = ServerName::try_from("mx2.example.net").unwrap();
    let mut client = ClientConnection::new(client.config(), other).unwrap();
    let server = server(&files, ClientCertificates::Ignored);
    let mut server = ServerConnection::new(server.config()).unwrap();
    let mut octets = Vec::new();
    client.write_tls(&mut octets).unwrap();
    server.read_tls(&mut octets.as_slice()).unwrap();
    server.process_new_packets().unwrap();
    let mut octets = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut octets).unwrap();
    }
    client.read_tls(&mut octets.as_slice()).unwrap();
    let error = client.process_new_packets().unwrap_err();
    assert!(error.to_string().contains("not valid for name"), "{error}");
}

/// R8314-1: `smtp` or nothing.
#[test]
fn a_client_that_speaks_another_protocol_is_refused() {
    let files = Files::new();
    let server = server(&files, ClientCertificates::Ignored);
    let client = |alpn| ClientTls::new(&Trust::Anyone, None, alpn).unwrap();
    let (smtp, _) = handshake(&server.config(), &client(Alpn::Smtp)).unwrap();
    assert_eq!(smtp.alpn_protocol(), Some(&b"smtp"[..]));
    let (none, _) = handshake(&server.config(), &client(Alpn::None)).unwrap();
    assert_eq!(none.alpn_protocol(), None);

    let mut web = (*client(Alpn::None).config()).clone();
    web.alpn_protocols = vec![b"http/1.1".to_vec()];
    let web = ClientTls::of_config(web);
    let error = handshake(&server.config(), &web).unwrap_err();
    assert!(
        error.to_string().contains("NoApplicationProtocol"),
        "{error}"
    );
}

/// R4422-1: the pin that the relay sees is that of the key which the puller proved to have.
#[test]
fn a_client_is_known_by_its_certificate_where_one_is_asked_for() {
    let files = Files::new();
    let client =
        |identity: Option<&Identity>| ClientTls::new(&Trust::Anyone, identity, Alpn::Smtp).unwrap();
    for (certificates, identity, expected) in [
        (
            ClientCertificates::Requested,
            Some(files.client()),
            Some(files.client().pin()),
        ),
        (ClientCertificates::Requested, None, None),
        (ClientCertificates::Ignored, Some(files.client()), None),
    ] {
        let server = server(&files, certificates);
        let (_, connection) = handshake(&server.config(), &client(identity.as_ref())).unwrap();
        assert_eq!(peer_pin(&connection), expected);
    }
}

#[test]
fn a_certificate_without_its_key_proves_nothing() {
    let files = Files::new();
    // The pinned certificate with another key: what a thief of the public part could do.
    let thief = Identity::with_foreign_key(&files.server(), &files.client());
    let server = ServerTls::new(&thief, ClientCertificates::Ignored).unwrap();
    for trust in [Trust::Pin(vec![server.pin()]), Trust::Anyone] {
        let client = ClientTls::new(&trust, None, Alpn::None).unwrap();
        assert!(handshake(&server.config(), &client).is_err(), "{trust:?}");
    }
    let honest = self::server(&files, ClientCertificates::Requested);
    let client = ClientTls::new(&Trust::Anyone, Some(&thief), Alpn::None).unwrap();
    assert!(handshake(&honest.config(), &client).is_err());
}

/// R5802-1: both ends compute the same bindings, and another connection has others.
#[test]
fn channel_bindings_agree_at_both_ends_and_differ_between_connections() {
    let files = Files::new();
    let server = server(&files, ClientCertificates::Ignored);
    let client = ClientTls::new(&Trust::Anyone, None, Alpn::None).unwrap();
    let bindings = || {
        let (client, connection) = handshake(&server.config(), &client).unwrap();
        let seen = client.peer_certificates().unwrap()[0].clone();
        let ours = channel_bindings(&connection, Some(server.certificate()));
        assert_eq!(channel_bindings(&client, Some(&seen)), ours);
        ours
    };
    let (first, second) = (bindings(), bindings());
    assert!(matches!(&first[0], ChannelBinding::TlsExporter(data) if data.len() == 32));
    assert!(first[0] != second[0]);
    // ECDSA with SHA-256: the hash of the certificate, the same for every connection.
    assert_eq!(first[1], second[1]);
    let hash = digest(&SHA256, server.certificate()).as_ref().to_vec();
    assert!(first[1] == ChannelBinding::TlsServerEndPoint(hash));
}

/// RFC 9266 defines `tls-exporter` for TLS 1.3.
#[test]
fn tls_1_2_binds_to_the_certificate_only() {
    let files = Files::new();
    let server = server(&files, ClientCertificates::Ignored);
    let old = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(client::verifier(&Trust::Anyone).unwrap())
        .with_no_client_auth();
    let (_, connection) = handshake(&server.config(), &ClientTls::of_config(old)).unwrap();
    let bindings = channel_bindings(&connection, Some(server.certificate()));
    assert!(matches!(
        &bindings[..],
        [ChannelBinding::TlsServerEndPoint(_)]
    ));
}

#[test]
fn pins_survive_printing_and_match_openssl() {
    let certificate = CertificateDer::from_pem_slice(PINNED_CERTIFICATE.as_bytes()).unwrap();
    let pin = SpkiPin::of_certificate(&certificate).unwrap();
    assert_eq!(pin.to_string(), PINNED);
    assert_eq!(PINNED.parse(), Ok(pin));
    for text in [
        "",
        "sha256/",
        "sha1/AAAA",
        &PINNED[7..],
        &PINNED[..50],
        &format!("{PINNED}AAAA"),
    ] {
        assert_eq!(text.parse::<SpkiPin>(), Err(PinError::Form), "{text}");
    }
    assert_eq!(
        SpkiPin::of_certificate(&CertificateDer::from_slice(b"no")),
        Err(PinError::Certificate)
    );
}

#[test]
fn files_of_no_use_are_named() {
    let files = Files::new();
    files.write("empty.pem", "");
    files.write(
        "broken.key",
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    );
    fs::copy(files.path("server.key"), files.path("open.key")).unwrap();
    fs::set_permissions(files.path("open.key"), fs::Permissions::from_mode(0o644)).unwrap();
    for (certificate, key, expected) in [
        (
            "none.pem",
            "server.key",
            "cannot read none.pem: No such file or directory",
        ),
        (
            "server.pem",
            "none.key",
            "cannot read none.key: No such file or directory",
        ),
        (
            "empty.pem",
            "server.key",
            "empty.pem holds no certificate in PEM form that can be used",
        ),
        (
            "server.pem",
            "broken.key",
            "broken.key holds no private key in PEM form that can be used",
        ),
        (
            "server.pem",
            "client.key",
            "the key in client.key is not that of the certificate in server.pem",
        ),
        (
            "server.pem",
            "open.key",
            "open.key is readable by others; run: chmod 600 open.key",
        ),
    ] {
        assert_eq!(files.load_error(certificate, key), expected);
    }
    let missing = ClientTls::new(
        &Trust::Ca(Path::new("/nonexistent/ca.pem").to_path_buf()),
        None,
        Alpn::None,
    );
    let text = missing.unwrap_err().to_string();
    assert!(
        text.ends_with("cannot read /nonexistent/ca.pem: No such file or directory"),
        "{text}"
    );
    let empty = ClientTls::new(&Trust::Ca(files.path("empty.pem")), None, Alpn::None);
    assert!(
        empty
            .unwrap_err()
            .to_string()
            .ends_with("holds no certificate in PEM form that can be used")
    );
}

/// By `openssl x509 -pubkey -noout | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64`.
const PINNED: &str = "sha256/uYszje1h3t7kF61WlcFr8TsSwbUkeLgK+6MQNmaYq9M=";
const PINNED_CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIBeDCCAR+gAwIBAgIUTBP4YXnm/bCkfT/xEnDVjdulMVcwCgYIKoZIzj0EAwIw\n\
ETEPMA0GA1UEAwwGcGlubmVkMCAXDTI2MTEyMTE3NDkxMVoYDzIxMjYxMDI4MTc0\n\
OTExWjARMQ8wDQYDVQQDDAZwaW5uZWQwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC\n\
AAQc+xSgvCp6A8sQud64RkETm/re883sWKfKtG4uQE9CFBqqJ3HlVSIGY/umGE0t\n\
wxdQZeJKZ3MIwCPrlXbdaRjAo1MwUTAdBgNVHQ4EFgQUqneXBzzo/GwU3Kd1G/wT\n\
RpJeulAwHwYDVR0jBBgwFoAUqneXBzzo/GwU3Kd1G/wTRpJeulAwDwYDVR0TAQH/\n\
BAUwAwEB/zAKBggqhkjOPQQDAgNHADBEAiAFxQ9DxF730eGowmEexTkhkUrG4bvG\n\
4FzFcIN+WeHEYgIgY0hWMfl2/cOfySm08ac1ehr/i55Dc3fK9klEGlGIfPQ=\n\
-----END CERTIFICATE-----\n";
