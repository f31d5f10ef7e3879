//! What a power loss leaves of acknowledged mail: a short version of `cargo powerloss`, and the proof that the model
//! sees each sync that is missing.

use std::path::Path;
use std::sync::OnceLock;

use atrn_tests::power::{AfterLoss, Cuts, Ledger, Recording, Verdict, fast_folder, puller, relay};
use atrn_tests::software::Software;

const CUTS: usize = 400;
const SEED: u64 = 1;

/// Recorded once for all tests of this file; `None` where strace is missing, which was said then.
fn relay() -> Option<&'static (Recording, relay::Promises)> {
    static RECORDED: OnceLock<Option<(Recording, relay::Promises)>> = OnceLock::new();
    let record = || {
        let strace = Software::Strace.find()?;
        let notes = tempfile::tempdir().expect("a folder");
        let size = relay::Size {
            messages: 4,
            kills: 1,
        };
        Some(relay::record(&strace, notes.path(), SEED, size))
    };
    RECORDED.get_or_init(record).as_ref()
}

fn puller() -> Option<&'static (Recording, puller::Promises)> {
    static RECORDED: OnceLock<Option<(Recording, puller::Promises)>> = OnceLock::new();
    let record = || {
        let strace = Software::Strace.find()?;
        let notes = tempfile::tempdir().expect("a folder");
        let size = puller::Size {
            messages: 3,
            kills: 4,
        };
        Some(puller::record(&strace, notes.path(), SEED, size))
    };
    RECORDED.get_or_init(record).as_ref()
}

fn cuts(after_loss: AfterLoss) -> Cuts {
    Cuts {
        count: CUTS,
        seed: SEED,
        folder: fast_folder(),
        after_loss,
    }
}

#[track_caller]
fn nothing_is_lost(verdict: &Verdict) {
    let losses: Vec<String> = verdict.losses.iter().map(ToString::to_string).collect();
    assert!(losses.is_empty(), "{}", losses.join("\n"));
    assert_eq!(verdict.images, CUTS);
}

/// The same luck for a program that forgets some of its syncs.
#[track_caller]
fn is_missed(
    what: &str,
    recording: &Recording,
    ledger: &impl Ledger,
    forgotten: impl Fn(&str) -> bool,
) {
    let name = |path: &Path| path.to_string_lossy().into_owned();
    let synced = recording.disk.synced().any(|path| forgotten(&name(path)));
    assert!(synced, "{what} is never synced");
    let disk = recording.disk.without_syncs(|path| forgotten(&name(path)));
    let verdict = cuts(AfterLoss::Stop).try_out(&disk, ledger);
    assert!(
        !verdict.losses.is_empty(),
        "nobody misses the sync of {what}"
    );
    for loss in verdict.losses {
        // As it should be: the image is of no interest.
        std::fs::remove_dir_all(loss.image).ok();
    }
}

// covers: R5321-15
#[test]
fn acknowledged_mail_survives_a_power_loss_of_the_relay() {
    if let Some((recording, promises)) = relay() {
        nothing_is_lost(&cuts(AfterLoss::Continue).try_out(&recording.disk, promises));
    }
}

// covers: R5321-15, R-DUP
#[test]
fn what_the_puller_took_survives_a_power_loss() {
    if let Some((recording, promises)) = puller() {
        nothing_is_lost(&cuts(AfterLoss::Continue).try_out(&recording.disk, promises));
    }
}

#[test]
fn the_model_misses_every_sync_that_the_relay_forgets() {
    let Some((recording, promises)) = relay() else {
        return;
    };
    let in_spool = |path: &str| path.starts_with("data/spool/");
    let is_content = |path: &str| in_spool(path) && path.matches('/').count() == 3;
    is_missed(
        "the folder of the data directory",
        recording,
        promises,
        str::is_empty,
    );
    is_missed("the data directory", recording, promises, |path| {
        path == "data"
    });
    is_missed("the folder of content files", recording, promises, |path| {
        path == "data/spool"
    });
    is_missed("a name of a content file", recording, promises, |path| {
        in_spool(path) && !is_content(path)
    });
    is_missed("a content file", recording, promises, is_content);
    is_missed("the log of the database", recording, promises, |path| {
        path == "data/queue.db-wal"
    });
    is_missed("the database", recording, promises, |path| {
        path == "data/queue.db"
    });
}

#[test]
fn the_model_misses_every_sync_that_the_puller_forgets() {
    let Some((recording, promises)) = puller() else {
        return;
    };
    is_missed("the folder of both", recording, promises, str::is_empty);
    is_missed("the data directory", recording, promises, |path| {
        path == "data"
    });
    is_missed("the Maildir", recording, promises, |path| path == "mail");
    is_missed("a name in the Maildir", recording, promises, |path| {
        path == "mail/new"
    });
    is_missed("a message", recording, promises, |path| {
        path.starts_with("mail/tmp/")
    });
    is_missed("the log of the journal", recording, promises, |path| {
        path == "data/journal.db-wal"
    });
    is_missed("the journal", recording, promises, |path| {
        path == "data/journal.db"
    });
}
