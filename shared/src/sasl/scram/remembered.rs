//! Keys that need not be derived again.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::verifier::Keys;

/// The keys that one secret gave with the last salt: a server that keeps its salt is answered without PBKDF2 (RFC 5802
/// §5.1 lets a client keep them). They are worth as much as the secret at that server, and are kept as it is: in memory,
/// and with those credentials only. Clones share them.
#[derive(Clone, Default)]
pub struct RememberedKeys(Arc<Mutex<Option<Remembered>>>);

struct Remembered {
    salt: Vec<u8>,
    iterations: u32,
    keys: Keys,
}

impl RememberedKeys {
    /// The keys of a secret that is already prepared, always the same one. Runs PBKDF2 where they are not known yet.
    pub(super) fn keys(&self, secret: &str, salt: &[u8], iterations: u32) -> Keys {
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*remembered
            && known.salt == salt
            && known.iterations == iterations
        {
            return known.keys.clone();
        }
        let keys = Keys::derive(secret, salt, iterations);
        *remembered = Some(Remembered {
            salt: salt.to_vec(),
            iterations,
            keys: keys.clone(),
        });
        keys
    }
}

impl fmt::Debug for RememberedKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("RememberedKeys(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_salt_needs_no_work_and_another_one_is_no_mistake() {
        let remembered = RememberedKeys::default();
        let shared = remembered.clone();
        for (salt, iterations) in [
            (b"salt", 4096),
            (b"salt", 4096),
            (b"SALT", 4096),
            (b"salt", 4096),
            (b"salt", 4097),
        ] {
            let keys = remembered.keys("secret", salt, iterations);
            let expected = Keys::derive("secret", salt, iterations);
            assert_eq!(keys.client_key, expected.client_key);
            assert_eq!(keys.server_key, expected.server_key);
            // What is known is taken as it is: another secret would not be looked at.
            let known = shared.keys("another", salt, iterations);
            assert_eq!(known.client_key, expected.client_key);
        }
        assert_eq!(format!("{remembered:?}"), "RememberedKeys(…)");
    }
}
