//! Values that do not print themselves: passwords and shared secrets, wiped from memory when dropped.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

/// Why a secrets file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Nothing in it.
    #[error("{} is empty", .0.display())]
    Empty(PathBuf),
    /// More than one line, or octets that are no text: surely the wrong file.
    #[error("{} is not one line of text", .0.display())]
    NotOneLine(PathBuf),
    /// Others than its owner could have read it already.
    #[error("{path} is readable by others; run: chmod 600 {path}", path = .0.display())]
    ReadableByOthers(PathBuf),
    /// It could not be read.
    #[error("cannot read {}: {}", path.display(), crate::config::reason(source))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// A password or a shared secret.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Takes a secret in.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(SecretString::from(text))
    }

    /// Makes one of 256 random bits, in letters that need no quoting anywhere.
    ///
    /// # Panics
    /// When the system has no random numbers, without which nothing here is safe.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        rand::fill(bytes.as_mut_slice()).expect("the system gives random numbers");
        Self::new(URL_SAFE_NO_PAD.encode(bytes.as_slice()))
    }

    /// Reads the one line of a file that nobody but its owner may read.
    ///
    /// # Errors
    /// [`SecretError`], which names the file and never what is in it.
    pub fn from_file(path: &Path) -> Result<Self, SecretError> {
        let unreadable = |source| SecretError::Unreadable {
            path: path.to_path_buf(),
            source,
        };
        let file = File::open(path).map_err(unreadable)?;
        // The open file is asked, not the path, so that what is checked is what is read.
        let metadata = file.metadata().map_err(unreadable)?;
        if metadata.permissions().mode() & OTHERS != 0 {
            return Err(SecretError::ReadableByOthers(path.to_path_buf()));
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_OCTETS_MAX));
        file.take(FILE_OCTETS_MAX as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(unreadable)?;
        let not_one_line = || SecretError::NotOneLine(path.to_path_buf());
        let text = std::str::from_utf8(&bytes).map_err(|_| not_one_line())?;
        let line = text
            .strip_suffix('\n')
            .map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
        match line {
            "" => Err(SecretError::Empty(path.to_path_buf())),
            line if bytes.len() > FILE_OCTETS_MAX || line.contains(char::is_control) => {
                Err(not_one_line())
            }
            line => Ok(Self(SecretString::from(line))),
        }
    }

    /// The value itself, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl From<Secret> for SecretString {
    fn from(secret: Secret) -> Self {
        secret.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Says whether a file that holds secrets (a private key) can be read by others than its owner.
///
/// # Errors
/// [`SecretError::ReadableByOthers`], or [`SecretError::Unreadable`].
pub fn check_permissions(path: &Path) -> Result<(), SecretError> {
    let metadata = fs::metadata(path).map_err(|source| SecretError::Unreadable {
        path: path.to_path_buf(),
        source,
    })?;
    if metadata.permissions().mode() & OTHERS == 0 {
        Ok(())
    } else {
        Err(SecretError::ReadableByOthers(path.to_path_buf()))
    }
}

/// Group and world: no bit of theirs may be set.
const OTHERS: u32 = 0o077;
/// Longer than any secret, shorter than any file named by mistake.
const FILE_OCTETS_MAX: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &[u8], mode: u32) -> Result<Secret, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let shown = path.display().to_string();
        Secret::from_file(&path).map_err(|error| error.to_string().replace(&shown, "s"))
    }

    #[test]
    fn one_line_is_read() {
        for content in ["pass word", "pass word\n", "pass word\r\n"] {
            assert_eq!(
                read(content.as_bytes(), 0o600).unwrap().expose(),
                "pass word"
            );
        }
    }

    #[test]
    fn other_files_are_refused() {
        let long = [b'x'; FILE_OCTETS_MAX + 1];
        for (content, mode, expected) in [
            (&b""[..], 0o600, "s is empty"),
            (b"\n", 0o600, "s is empty"),
            (b"a\nb\n", 0o600, "s is not one line of text"),
            (b"a\0b", 0o600, "s is not one line of text"),
            (b"\xff\xfe", 0o600, "s is not one line of text"),
            (&long, 0o600, "s is not one line of text"),
            (
                b"secret",
                0o640,
                "s is readable by others; run: chmod 600 s",
            ),
            (
                b"secret",
                0o604,
                "s is readable by others; run: chmod 600 s",
            ),
        ] {
            assert_eq!(read(content, mode).unwrap_err(), expected);
        }
        let missing = Secret::from_file(Path::new("/nonexistent/s")).unwrap_err();
        assert_eq!(
            missing.to_string(),
            "cannot read /nonexistent/s: No such file or directory"
        );
    }

    #[test]
    fn a_secret_does_not_print_itself() {
        assert_eq!(
            format!("{:?}", Secret::new("hunter2".to_owned())),
            "Secret(…)"
        );
    }

    #[test]
    fn random_secrets_differ_and_need_no_quoting() {
        let (one, other) = (Secret::random(), Secret::random());
        assert_ne!(one.expose(), other.expose());
        assert_eq!(one.expose().len(), 43);
        assert!(
            one.expose()
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        );
    }
}
