//! The sandbox, seen from inside: what each thread of the running programs may do, and what it may not, whoever started
//! them; and what becomes of a program whose kernel has none.

#[cfg(target_arch = "x86_64")]
mod attempts;
mod kernels;
mod privileges;
mod probe;
mod reloads;
#[cfg(target_arch = "x86_64")]
mod threads;

use std::path::Path;

use atrn_tests::process::Output;
use atrn_tests::world::{DOMAIN, Relay, Tls};
use nix::unistd::geteuid;
use tempfile::TempDir;

/// `nobody` of Debian, and of most others.
const NOBODY: u32 = 65_534;

/// A relay that is set up and not started. Dropped after it: its folder.
struct Stage {
    relay: Relay,
    _folder: TempDir,
}

impl Stage {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("atrn-").tempdir();
        let folder = folder.expect("a folder");
        let relay = Relay::init(folder.path(), &[DOMAIN.to_owned()], Tls::Implicit);
        Self {
            relay,
            _folder: folder,
        }
    }

    fn sandbox(self, key: &str, value: impl Into<toml::Value>) -> Self {
        self.relay.configure(|settings| {
            settings.set(&format!("sandbox.{key}"), value);
        });
        self
    }

    fn status(&self) -> serde_json::Value {
        self.relay.cli(&["status", "--json"]).expect_code(0).json()
    }
}

/// Becoming somebody else is for root. Elsewhere a test says that it is left out.
fn is_root() -> bool {
    let is_root = geteuid().is_root();
    if !is_root {
        let required = std::env::var("ATRN_REQUIRE_INTEROP").is_ok_and(|value| value == "1");
        assert!(!required, "this test is for root (ATRN_REQUIRE_INTEROP=1)");
        eprintln!("SKIPPED: only root can become another user");
    }
    is_root
}

/// The last line that a program said to people.
fn last_line(output: &Output) -> String {
    output.stderr.lines().last().unwrap_or_default().to_owned()
}

fn path_text(path: &Path) -> String {
    path.display().to_string()
}
