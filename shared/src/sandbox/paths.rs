//! Where the files are that a confined process reads later.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use super::Account;

/// The directories that must be readable for a file to be read again after somebody replaced it: its own, and, behind
/// symbolic links, those of every file on the way.
///
/// Landlock allows what is below a directory, and looks at where a path ends. A renewed certificate is another file in the same directory,
/// or another target of the same link.
#[must_use]
pub fn directories_of(file: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut path = file.to_owned();
    // As many links as the kernel follows.
    for _ in 0..40 {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let target = fs::read_link(&path);
        found.insert(directory.clone());
        match target {
            Ok(target) => path = directory.join(target),
            Err(_) => break,
        }
    }
    found
}

/// Time zones: log lines and reports have the local time.
#[must_use]
pub fn time_zones() -> Vec<PathBuf> {
    let named = env::var_os("TZDIR").map(PathBuf::from);
    let known = ["/etc/localtime", "/etc/timezone", "/usr/share/zoneinfo"].map(PathBuf::from);
    known.into_iter().chain(named).collect()
}

/// What names are looked up by with the C library, besides its own parts ([`system_libraries`]).
///
/// Its files are replaced now and then, by others that are renamed over them. So a process that is not root, for which /etc has
/// nothing that is not for all to read, gets all of it. Root gets the files as they are, and must be started anew when they are replaced.
#[must_use]
pub fn resolver_files(account: Option<Account>) -> Vec<PathBuf> {
    let etc = Path::new("/etc");
    let account = account.unwrap_or_else(Account::own);
    let files = RESOLVER_FILES.map(|name| etc.join(name));
    // A link into /run is followed into its directory: what stands there is replaced all the time.
    let linked = files.iter().filter(|file| file.is_symlink());
    let linked = linked.flat_map(|file| directories_of(file));
    let linked: Vec<_> = linked.filter(|directory| directory != etc).collect();
    if account.uid.is_root() {
        return files.into_iter().chain(linked).collect();
    }
    [etc.to_owned()].into_iter().chain(linked).collect()
}

const RESOLVER_FILES: [&str; 7] = [
    "resolv.conf",
    "hosts",
    "host.conf",
    "nsswitch.conf",
    "gai.conf",
    "services",
    "ld.so.cache",
];

/// Parts of the C library that are loaded when they are first needed.
#[must_use]
pub fn system_libraries() -> Vec<PathBuf> {
    ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"]
        .map(PathBuf::from)
        .to_vec()
}

/// The certificates that the system trusts. Many are links into the other directories.
#[must_use]
pub fn trust_roots() -> Vec<PathBuf> {
    let named = ["SSL_CERT_FILE", "SSL_CERT_DIR"]
        .into_iter()
        .filter_map(env::var_os)
        .flat_map(|paths| env::split_paths(&paths).collect::<Vec<_>>());
    let known = [
        "/etc/ssl/certs",
        "/etc/ssl/cert.pem",
        "/etc/ssl/ca-bundle.pem",
        "/etc/pki",
        "/etc/ca-certificates",
        "/usr/share/ca-certificates",
        "/usr/local/share/ca-certificates",
        "/usr/share/pki",
        "/var/lib/ca-certificates",
    ];
    known.into_iter().map(PathBuf::from).chain(named).collect()
}
