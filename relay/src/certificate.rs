//! A certificate of our own making, for relays without one from a CA: pullers know it by its pin.

use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, date_time_ymd};

use atrn_shared::smtp::address::Domain;
use jiff::Zoned;

/// A certificate and its key, in PEM.
pub struct SelfSigned {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// Makes one. Valid for long: what a puller trusts is the pin, and a date would only break it one day.
///
/// # Errors
/// When the name cannot stand in a certificate.
pub fn self_signed(hostname: &Domain) -> Result<SelfSigned, rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new(vec![hostname.to_string()])?;
    params
        .distinguished_name
        .push(DnType::CommonName, hostname.as_str());
    let year = i32::from(Zoned::now().year());
    // From the year before, so that a clock that is behind on the other side does no harm.
    params.not_before = date_time_ymd(year - 1, 1, 1);
    params.not_after = date_time_ymd(year + YEARS_VALID, 1, 1);
    let certificate = params.self_signed(&key)?;
    Ok(SelfSigned {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

const YEARS_VALID: i32 = 20;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use atrn_shared::tls::Identity;
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn it_can_be_loaded_and_is_valid() {
        let made = self_signed(&Domain::parse("mx1.example.net").unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let [certificate, key] = ["c.pem", "k.pem"].map(|name| directory.path().join(name));
        fs::write(&certificate, &made.certificate).unwrap();
        fs::write(&key, &made.key).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let identity = Identity::load(&certificate, &key).unwrap();
        assert_eq!(identity.names(), ["mx1.example.net"]);
        let now = Timestamp::now();
        assert!(identity.not_before() < now && now < identity.not_after());
    }
}
