//! What a relay sends as a report to somebody outside.

use std::sync::LazyLock;

use atrn_puller::fuzzing;
use atrn_shared::smtp::address::Domain;

use crate::reference::has_bare_line_end;

/// What passes the rule becomes a message of our own, in 7 bits, with nothing in it that could end a line or a field.
pub fn delivery_status(content: &[u8]) {
    let Some(rebuilt) = fuzzing::rebuilt_report(content, &ASKED) else {
        return;
    };
    assert!(!has_bare_line_end(&rebuilt) && rebuilt.ends_with(b"\r\n"));
    let is_fit =
        |octet: &u8| octet.is_ascii_graphic() || b" \t\r\n".contains(octet) || *octet > 127;
    assert!(rebuilt.iter().all(is_fit));
    let header = rebuilt
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .expect("a header section");
    assert!(rebuilt[..header].is_ascii());
    // It is a report itself, and has a boundary of its own each time.
    assert!(
        fuzzing::rebuilt_report(&rebuilt, &ASKED).is_some(),
        "our own reports pass"
    );
}

static ASKED: LazyLock<Vec<Domain>> =
    LazyLock::new(|| vec!["example.org".parse().expect("a domain")]);
