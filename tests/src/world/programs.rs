//! Where the programs under test are: beside the test's own executable.

use std::path::PathBuf;

/// The relay's program.
pub const RELAY: &str = "atrn-relay";
/// The puller's program.
pub const PULLER: &str = "atrn-puller";

/// The path of a program of this workspace, of the same profile as the running test.
///
/// # Panics
/// When it has not been built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let mut folder = std::env::current_exe().expect("the path of the test");
    folder.pop();
    // Tests are in target/{profile}/deps, programs in target/{profile}.
    if folder.ends_with("deps") {
        folder.pop();
    }
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} is missing: build it with `cargo build --workspace` (`cargo test --workspace` does)",
        path.display()
    );
    path
}
