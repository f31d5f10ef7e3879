//! The configuration loaders: any text is read, or has problems, each with its line.

use std::path::Path;

use atrn_puller::config::PullerConfig;
use atrn_relay::config::RelayConfig;
use atrn_shared::config::{ConfigErrors, Configuration, read_text};

/// The relay's file.
pub fn relay_config(data: &[u8]) {
    read::<RelayConfig>(data);
}

/// The puller's file.
pub fn puller_config(data: &[u8]) {
    read::<PullerConfig>(data);
}

fn read<C: Configuration>(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Err(errors) = read_text::<C>(Path::new("/nowhere/atrn.toml"), text) {
        check(&errors);
    }
}

fn check(errors: &ConfigErrors) {
    assert!(!errors.problems().is_empty());
    for problem in errors.problems() {
        let line = problem.to_string();
        assert!(line.starts_with("/nowhere/atrn.toml:"), "{line:?}");
        assert!(!line.contains('\n'), "{line:?}");
    }
}
