//! What a power loss leaves of acknowledged mail: a short version of `cargo powerloss`, and the proof that the model
//! would see a sync that is missing.

use atrn_tests::power::{AfterLoss, Cuts, fast_folder, puller, relay};
use atrn_tests::software::Software;

fn cuts(count: usize) -> Cuts {
    Cuts {
        count,
        seed: 1,
        folder: fast_folder(),
        after_loss: AfterLoss::Continue,
    }
}

#[test]
fn acknowledged_mail_survives_a_power_loss_of_the_relay() {
    let Some(strace) = Software::Strace.find() else {
        return;
    };
    let notes = tempfile::tempdir().unwrap().keep();
    let size = relay::Size {
        messages: 4,
        kills: 1,
    };
    let begun = std::time::Instant::now();
    let (recording, promises) = relay::record(&strace, &notes, 1, size);
    eprintln!(
        "recorded in {:?}, {} moments",
        begun.elapsed(),
        recording.disk.moments().len()
    );
    let verdict = cuts(400).try_out(&recording.disk, &promises);
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
}

#[test]
fn what_the_puller_said_that_it_has_survives_a_power_loss() {
    let Some(strace) = Software::Strace.find() else {
        return;
    };
    let notes = tempfile::tempdir().unwrap().keep();
    let size = puller::Size {
        messages: 4,
        kills: 4,
    };
    let begun = std::time::Instant::now();
    let (recording, promises) = puller::record(&strace, &notes, 1, size);
    eprintln!(
        "recorded in {:?}, {} moments",
        begun.elapsed(),
        recording.disk.moments().len()
    );
    let verdict = cuts(400).try_out(&recording.disk, &promises);
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
}
