//! Faults of the system below the programs: what the peer is told, that the daemon goes on when the fault ends, and
//! that the ledger holds. Each place of a write, sync, rename, open and unlink is hit; the table in `docs/testing.md`
//! is what a run sees.

mod busy;
mod descriptors;
mod full;
mod puller;
mod relay;
mod stage;

use std::collections::BTreeMap;
use std::panic::resume_unwind;

use atrn_tests::conformance::root;
use atrn_tests::faults::{Page, Row};
use atrn_tests::software::Software;

/// A world with its part of the matrix.
type Part = (&'static str, fn() -> Vec<Row>);

const PARTS: [Part; 10] = [
    ("relay-edge", relay::edge),
    ("relay-spool", relay::spool),
    ("relay-drain", relay::drain),
    ("relay-busy", busy::relay),
    ("relay-full", full::relay),
    ("relay-descriptors", descriptors::relay),
    ("puller-file", puller::file),
    ("puller-folder", puller::folder),
    ("puller-journal", puller::journal),
    ("puller-busy", puller::busy),
];

/// All worlds run side by side, for most of the time is spent waiting. `ATRN_FAULTS=relay-spool` runs those alone
/// whose name contains that, and compares no table.
// covers: R5321-15, OWN-3, OWN-7a
#[test]
fn every_fault_is_answered_and_survived() {
    let needed = [Software::Strace, Software::Mount].map(Software::find);
    if needed.contains(&None) {
        return;
    }
    let only = std::env::var("ATRN_FAULTS").unwrap_or_default();
    let parts = PARTS.iter().filter(|(name, _)| name.contains(&only));
    let running: Vec<_> = parts
        .map(|&(name, run)| {
            let thread = std::thread::Builder::new().name(name.to_owned());
            (name, thread.spawn(run).expect("a thread"))
        })
        .collect();
    let mut rows = Vec::new();
    let mut failed = BTreeMap::new();
    for (name, thread) in running {
        match thread.join() {
            Ok(seen) => rows.extend(seen),
            Err(panic) => _ = failed.insert(name, panic),
        }
    }
    if let Some((name, panic)) = failed.pop_first() {
        eprintln!("failed: {name}, and {:?}", failed.keys());
        resume_unwind(panic);
    }
    for row in &rows {
        println!("{row}");
    }
    if only.is_empty() {
        compare(&rows);
    }
}

/// `ATRN_UPDATE_DOCS=1` writes the table.
fn compare(rows: &[Row]) {
    let path = root().join("docs/testing.md");
    let page = Page::read(&path).unwrap_or_else(|problem| panic!("{problem}"));
    let differences = page.differences(rows);
    if !differences.is_empty() && std::env::var("ATRN_UPDATE_DOCS").is_ok() {
        std::fs::write(&path, page.renewed(rows)).expect("the page is written");
        return;
    }
    assert!(
        differences.is_empty(),
        "docs/testing.md is not what was seen (ATRN_UPDATE_DOCS=1 renews it):\n{}",
        differences.join("\n")
    );
}
