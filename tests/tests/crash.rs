//! The short crash campaign: about a hundred kills of both programs under load. The long one is `cargo campaign`.

use std::path::{Path, PathBuf};

use atrn_tests::campaign::boundary::{Boundary, Side};
use atrn_tests::campaign::{Options, Who, can_trace, run};
use atrn_tests::software::Software;

/// The program with the tracer in it.
fn tracer() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_campaign"))
}

/// A process that traces another is all that boundaries need; some systems forbid even that.
fn boundaries_can_be_hit(tracer: &Path) -> bool {
    if can_trace(tracer) {
        return true;
    }
    let required = std::env::var("ATRN_REQUIRE_INTEROP").is_ok_and(|value| value == "1");
    assert!(
        !required,
        "ptrace is required (ATRN_REQUIRE_INTEROP=1): run as root, or set kernel.yama.ptrace_scope=0"
    );
    eprintln!("SKIPPED: kills at boundaries; this system does not allow ptrace");
    false
}

// covers: OWN-1, OWN-2, OWN-3, OWN-4, OWN-5, OWN-6, R-DUP, R5321-15
#[test]
fn acknowledged_mail_survives_a_hundred_kills_and_crosses_the_hop_once() {
    let tracer = tracer();
    let traced = boundaries_can_be_hit(&tracer);
    let options = Options {
        kills: 100,
        time_max: None,
        seed: fastrand::u64(..1_000_000_000),
        senders: 20,
        smtp_source: Software::SmtpSource.find(),
        parent: std::env::temp_dir(),
        keep: false,
        tracer,
    };
    let report = run(&options, |_| {}).expect("a campaign that comes to its end");
    // Shown when it fails, and with --nocapture.
    println!("{report}");
    assert!(report.is_good(), "the report above says what was broken");
    assert!(report.kills.moments >= options.kills);
    for counts in report.counts {
        assert!(counts.acknowledged > 100, "there was mail under way");
    }
    for who in [Who::Relay, Who::ALL[1], Who::ALL[2]] {
        assert!(report.kills.of(who) > 0, "{} was killed", who.name());
    }
    if traced {
        for boundary in Boundary::ALL {
            for side in Side::ALL {
                let name = boundary.name();
                assert!(report.kills.at(boundary, side) > 0, "{side} {name}");
            }
        }
    }
}
