//! A certificate chain and its key: what this end shows to the other.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{SpkiPin, provider};
use crate::secret::{SecretError, check_permissions};

/// Why a certificate and key are of no use. Names the file.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The certificate file could not be read.
    #[error("cannot read {}: {}", path.display(), crate::config::reason(source))]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The key file could not be read, or others can read it as well.
    #[error(transparent)]
    Key(#[from] SecretError),
    /// The two do not belong together.
    #[error("the key in {} is not that of the certificate in {}", key.display(), certificate.display())]
    Mismatch {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
    },
    /// It can be read but holds something else.
    #[error("{} holds no {what} in PEM form that can be used", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        what: &'static str,
    },
}

/// A certificate chain, its private key, and what one wants to know of them.
#[derive(Clone, Debug)]
pub struct Identity {
    pub(super) certified_key: Arc<CertifiedKey>,
    pin: SpkiPin,
    names: Vec<String>,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl Identity {
    /// Loads the chain (leaf first) and the key from PEM files. The key must be readable by its owner only.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, IdentityError> {
        let pem = fs::read(certificate).map_err(|source| IdentityError::Certificate {
            path: certificate.to_path_buf(),
            source,
        })?;
        check_permissions(key)?;
        let key_pem = fs::read(key).map_err(|source| SecretError::Unreadable {
            path: key.to_path_buf(),
            source,
        })?;
        Self::from_pem(&pem, &key_pem).map_err(|fault| match fault {
            Fault::Certificate => IdentityError::Unusable {
                path: certificate.to_path_buf(),
                what: "certificate",
            },
            Fault::Key => IdentityError::Unusable {
                path: key.to_path_buf(),
                what: "private key",
            },
            Fault::Mismatch => IdentityError::Mismatch {
                certificate: certificate.to_path_buf(),
                key: key.to_path_buf(),
            },
        })
    }

    fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, Fault> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
        let chain = chain
            .ok()
            .filter(|chain| !chain.is_empty())
            .ok_or(Fault::Certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| Fault::Key)?;
        let key = provider()
            .key_provider
            .load_private_key(key)
            .map_err(|_| Fault::Key)?;
        let pin = SpkiPin::of_certificate(&chain[0]).map_err(|_| Fault::Certificate)?;
        let (_, leaf) = X509Certificate::from_der(&chain[0]).map_err(|_| Fault::Certificate)?;
        let names = names(&leaf);
        let [not_before, not_after] = [leaf.validity().not_before, leaf.validity().not_after]
            .map(|time| Timestamp::from_second(time.timestamp()).map_err(|_| Fault::Certificate));
        let (not_before, not_after) = (not_before?, not_after?);
        let certified_key = CertifiedKey::new(chain.clone(), key);
        match certified_key.keys_match() {
            // A key that cannot tell is an exotic one; the handshake will.
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
                Ok(Self {
                    certified_key: Arc::new(certified_key),
                    pin,
                    names,
                    not_before,
                    not_after,
                })
            }
            Err(rustls::Error::InconsistentKeys(_)) => Err(Fault::Mismatch),
            Err(_) => Err(Fault::Certificate),
        }
    }

    /// A certificate shown by somebody who has not got its key.
    #[cfg(test)]
    pub(super) fn with_foreign_key(certificate: &Self, key: &Self) -> Self {
        let chain = certificate.certified_key.cert.clone();
        let forged = CertifiedKey::new(chain, Arc::clone(&key.certified_key.key));
        Self {
            certified_key: Arc::new(forged),
            ..certificate.clone()
        }
    }

    /// The pin that the other side registers.
    #[must_use]
    pub fn pin(&self) -> SpkiPin {
        self.pin
    }

    /// The host names of the certificate.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// When the certificate becomes valid.
    #[must_use]
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// When the certificate expires.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// The certificate itself.
    #[must_use]
    pub fn leaf(&self) -> &CertificateDer<'static> {
        &self.certified_key.cert[0]
    }
}

enum Fault {
    Certificate,
    Key,
    Mismatch,
}

fn names(leaf: &X509Certificate<'_>) -> Vec<String> {
    let extension = leaf.subject_alternative_name().ok().flatten();
    let names = extension
        .iter()
        .flat_map(|extension| &extension.value.general_names);
    let dns = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    });
    dns.collect()
}
