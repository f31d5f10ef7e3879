//! Single calls of the relay that fail: in the log, in the database, in the spool; while mail comes and while it goes.

use atrn_tests::faults::{Fault, Row, Trace};
use atrn_tests::process::wait_until;

use super::stage::{LARGE, SMALL, Stage, codes, offer};

const TAKES_AGAIN: &str = "the next message is taken; the refused one is not in the queue";

/// Mail comes in while the log, the database or the listener fails.
pub(crate) fn edge() -> Vec<Row> {
    let mut stage = Stage::new("relay-edge");
    for (call, error) in [
        ("pwrite64", "EIO"),
        ("pwrite64", "ENOSPC"),
        ("pwrite64", "EDQUOT"),
        ("fdatasync", "EIO"),
        ("fdatasync", "ENOSPC"),
        ("fdatasync,openat", "EIO"),
    ] {
        log_fails(&mut stage, call, error);
    }
    log_begins_anew(&mut stage);
    group_fails_whole(&mut stage);
    log_begins_anew_at_start(&mut stage);
    for (call, error) in [
        ("pwrite64", "EIO"),
        ("pwrite64", "ENOSPC"),
        ("fdatasync", "EIO"),
    ] {
        checkpoint_fails(&mut stage, call, error);
    }
    for error in ["EMFILE", "ENFILE", "ENOBUFS"] {
        accept_fails(&mut stage, error);
    }
    stage.end()
}

/// Large mail comes in while its file or the file's folder fails.
pub(crate) fn spool() -> Vec<Row> {
    let mut stage = Stage::new("relay-spool");
    for error in ["EIO", "ENOSPC", "EMFILE"] {
        create_fails(&mut stage, error);
    }
    for (call, error) in [
        ("write", "EIO"),
        ("write", "ENOSPC"),
        ("write", "EDQUOT"),
        ("fdatasync", "EIO"),
        ("fdatasync", "ENOSPC"),
    ] {
        file_fails(&mut stage, call, error);
    }
    // The thread that makes the file opens its folder next, and nothing else of the relay is synced by `fsync`.
    for (call, when, error) in [
        ("openat", "2", "EIO"),
        ("fsync", "1", "EIO"),
        ("fsync", "1", "ENOSPC"),
    ] {
        folder_fails(&mut stage, call, when, error);
    }
    log_fails_under_a_file(&mut stage);
    stage.end()
}

/// Mail goes out while what became of it cannot be written, or its file cannot be read or removed.
pub(crate) fn drain() -> Vec<Row> {
    let mut stage = Stage::new("relay-drain");
    for (call, error) in [
        ("pwrite64", "EIO"),
        ("pwrite64", "ENOSPC"),
        ("fdatasync", "EIO"),
    ] {
        settlement_fails(&mut stage, call, error);
    }
    reading_fails(&mut stage);
    removal_fails(&mut stage);
    stage.end()
}

fn log_fails(stage: &mut Stage, call: &str, error: &str) {
    let mut sender = stage.connect();
    let (queued, mark) = (stage.queued(), stage.mark());
    let fault = Fault::new(call, error).at(&stage.log_file());
    let injected = fault.inject(stage.world.relay.id());
    let reply = stage.send(&mut sender, SMALL);
    assert_eq!(reply, stage.send(&mut sender, SMALL), "again the same");
    assert!(injected.end().hits() > 0, "{call} {error}: not hit");
    stage.assert_logged(&mark, "cannot hold a message");
    stage.send_taken(&mut sender, SMALL);
    assert_eq!(stage.queued(), queued + 1, "{call} {error}");
    stage.row("queue: log", call, error, &codes(&reply), TAKES_AGAIN);
}

/// Frames behind those that failed would be lost with them in a power failure, whatever a later sync says.
fn log_begins_anew(stage: &mut Stage) {
    let mut sender = stage.connect();
    stage.send_taken(&mut sender, SMALL);
    let (log, database) = (stage.log_file(), stage.database());
    let fault = Fault::new("fdatasync", "EIO")
        .when("1")
        .at(&log)
        .at(&database);
    let fault = fault.also_show(&["pwrite64", "ftruncate"]);
    let injected = fault.inject(stage.world.relay.id());
    let reply = stage.send(&mut sender, SMALL);
    stage.send_taken(&mut sender, SMALL);
    let trace = injected.end();
    let calls = trace.calls();
    let failed = calls.iter().rposition(|call| call.failed);
    let after = &calls[failed.expect("a sync that failed") + 1..];
    let truncated = after
        .iter()
        .position(|call| call.name == "ftruncate" && call.is_on(&log));
    let written = after
        .iter()
        .position(|call| call.name == "pwrite64" && call.is_on(&log));
    assert!(
        truncated.is_some() && truncated < written,
        "nothing is written behind what failed: {calls:#?}"
    );
    let begin = written.map(|at| after[at].arguments);
    assert!(
        begin.is_some_and(|arguments| arguments.ends_with(", 32, 0")),
        "the log begins with its header: {calls:#?}"
    );
    stage.row(
        "queue: log",
        "fdatasync, once,",
        "EIO",
        &codes(&reply),
        "the log is written into the database, synced and begun anew before the next `250`",
    );
}

/// Killed before the log could be begun anew, the relay begins it anew when it starts: what it finds there is in the
/// memory of the kernel, and perhaps nowhere else.
fn log_begins_anew_at_start(stage: &mut Stage) {
    let mut sender = stage.connect();
    stage.send_taken(&mut sender, SMALL);
    let salt = stage.log_salt();
    let fault = Fault::new("fdatasync,ftruncate", "EIO").at(&stage.log_file());
    let injected = fault.inject(stage.world.relay.id());
    let reply = stage.send(&mut sender, SMALL);
    assert_eq!(stage.log_salt(), salt, "it could not be begun anew");
    stage.world.relay.kill();
    drop(injected);
    stage.world.relay.start();
    let mut sender = stage.connect();
    assert_ne!(stage.log_salt(), salt);
    stage.send_taken(&mut sender, SMALL);
    stage.row(
        "queue: log, and SIGKILL",
        "fdatasync",
        "EIO",
        &codes(&reply),
        "the next start writes the log into the database, syncs it and begins it anew; the refused message may arrive, \
         once",
    );
}

/// Everybody in the group of a failed commit is refused, not only who came first.
fn group_fails_whole(stage: &mut Stage) {
    const SENDERS: usize = 8;
    let mut groups = 0;
    let queued = stage.queued();
    while groups == 0 {
        let mark = stage.mark();
        // The first sync takes its time, and the others gather behind it. The sync that begins the log anew does not
        // fail, so the next commit is theirs; and that fails too.
        let fault = Fault::new("fdatasync", "EIO").delayed("200ms");
        let fault = fault.when("1+2").at(&stage.log_file());
        let injected = fault.inject(stage.world.relay.id());
        let senders: Vec<_> = (0..SENDERS)
            .map(|number| {
                let message = stage.ledger.message(&format!("group {number}"), SMALL);
                let mut sender = stage.connect();
                std::thread::spawn(move || {
                    let reply = offer(sender.peer(), &message);
                    (message, reply)
                })
            })
            .collect();
        for sender in senders {
            let (message, reply) = sender.join().expect("a sender");
            assert!(reply.starts_with("451 4.3.0 "), "{reply}");
            stage.ledger.note(&message, &reply);
        }
        assert!(injected.end().hits() > 0);
        let log = stage.world.relay.log();
        let failed = mark.since(&log).lines();
        let failed = failed.filter(|line| line.contains("the queue cannot be written"));
        let operations = failed.filter_map(|line| line.rsplit_once("operations="));
        groups = operations.filter(|(_, number)| *number != "1").count();
    }
    assert_eq!(stage.queued(), queued);
    let mut sender = stage.connect();
    stage.send_taken(&mut sender, SMALL);
    stage.row(
        "queue: log, several sessions in one commit",
        "fdatasync",
        "EIO",
        "`451 4.3.0` to each",
        TAKES_AGAIN,
    );
}

/// The log keeps what could not be written into the database, and writes those pages again, not only syncs them.
fn checkpoint_fails(stage: &mut Stage, call: &str, error: &str) {
    let mut sender = stage.connect();
    let mark = stage.mark();
    // The keeper and, when it mends something, the writer: only the first call of each fails.
    let fault = Fault::new(call, error).when("1").at(&stage.database());
    let injected = fault
        .also_show(&["pwrite64", "fdatasync"])
        .inject(stage.world.relay.id());
    stage.send_taken(&mut sender, SMALL);
    stage.wait_for_log(&mark, "cannot write the log into the database");
    wait_until("the pages are written again and synced", || {
        rewritten(&injected.trace(), call)
    });
    assert!(injected.end().hits() > 0);
    stage.send_taken(&mut sender, SMALL);
    stage.row(
        "queue: database",
        call,
        error,
        "`250 2.0.0`",
        "the log keeps the message; the pages are written again and synced",
    );
}

/// Whether all pages written before a failed sync were written again before a sync that did not fail.
fn rewritten(trace: &Trace, call: &str) -> bool {
    let calls = trace.calls();
    let Some(failed) = calls.iter().position(|call| call.failed) else {
        return false;
    };
    let page = |arguments: &str| arguments.rsplit(", ").next().map(str::to_owned);
    let pages = |calls: &[atrn_tests::faults::Call<'_>]| -> Vec<Option<String>> {
        let writes = calls.iter().filter(|call| call.name == "pwrite64");
        writes.map(|call| page(call.arguments)).collect()
    };
    let before = match call {
        "fdatasync" => pages(&calls[..failed]),
        _ => pages(&calls[failed..=failed]),
    };
    let after = &calls[failed + 1..];
    let synced = after.iter().rposition(|call| call.name == "fdatasync");
    synced.is_some_and(|synced| {
        let again = pages(&after[..synced]);
        !before.is_empty() && before.iter().all(|page| again.contains(page))
    })
}

fn accept_fails(stage: &mut Stage, error: &str) {
    let mark = stage.mark();
    let injected = Fault::new("accept4", error).inject(stage.world.relay.id());
    let address = stage.world.relay.smtp_address();
    let waiting = std::net::TcpStream::connect(address).expect("the kernel takes it");
    stage.wait_for_log(&mark, "cannot accept connections");
    assert!(injected.end().hits() > 0);
    let stream = atrn_tests::stream::Stream::tcp(waiting).expect("a connection");
    let mut peer = atrn_tests::peer::Peer::over(stream);
    peer.expect("220 ");
    stage.row(
        "SMTP listener",
        "accept4",
        error,
        "none yet",
        "those that wait are greeted when it ends",
    );
}

fn create_fails(stage: &mut Stage, error: &str) {
    let mut sender = stage.connect();
    let (queued, mark) = (stage.queued(), stage.mark());
    // Nobody knows the name of a content file before it is there: every file that is opened fails.
    let injected = Fault::new("openat", error).inject(stage.world.relay.id());
    let reply = stage.send(&mut sender, LARGE);
    assert!(injected.end().hits() > 0, "openat {error}: not hit");
    stage.assert_logged(&mark, "cannot hold a message");
    stage.send_taken(&mut sender, LARGE);
    assert_eq!(stage.queued(), queued + 1);
    stage.row("spool: file", "openat", error, &codes(&reply), TAKES_AGAIN);
}

/// The folder that names the file fails, when the file was just made.
fn folder_fails(stage: &mut Stage, call: &str, when: &str, error: &str) {
    let mut sender = stage.connect();
    let (queued, mark) = (stage.queued(), stage.mark());
    let files = stage.world.relay.spool_files();
    let fault = Fault::new(call, error).when(when);
    let injected = fault.inject(stage.world.relay.id());
    let reply = stage.send(&mut sender, LARGE);
    assert!(injected.end().hits() > 0, "{call} {error}: not hit");
    stage.assert_logged(&mark, "cannot hold a message");
    wait_until("the file is removed", || {
        stage.world.relay.spool_files() == files
    });
    stage.send_taken(&mut sender, LARGE);
    assert_eq!(stage.queued(), queued + 1);
    stage.row("spool: folder", call, error, &codes(&reply), TAKES_AGAIN);
}

fn file_fails(stage: &mut Stage, call: &str, error: &str) {
    let mut sender = stage.connect();
    let (queued, mark) = (stage.queued(), stage.mark());
    let files = stage.world.relay.spool_files();
    let large = stage.begin_large(&mut sender);
    let injected = Fault::new(call, error)
        .at(&large.path)
        .inject(stage.world.relay.id());
    let reply = stage.end_large(&mut sender, &large);
    assert!(injected.end().hits() > 0, "{call} {error}: not hit");
    stage.assert_logged(&mark, "cannot hold a message");
    wait_until("the file is removed", || {
        stage.world.relay.spool_files() == files
    });
    stage.send_taken(&mut sender, LARGE);
    assert_eq!(stage.queued(), queued + 1);
    stage.row("spool: file", call, error, &codes(&reply), TAKES_AGAIN);
}

/// The file is whole and synced, and the commit that names it fails.
fn log_fails_under_a_file(stage: &mut Stage) {
    let mut sender = stage.connect();
    let files = stage.world.relay.spool_files();
    let fault = Fault::new("fdatasync", "EIO")
        .when("1")
        .at(&stage.log_file());
    let injected = fault.inject(stage.world.relay.id());
    let reply = stage.send(&mut sender, LARGE);
    assert!(injected.end().hits() > 0);
    wait_until("the file is removed", || {
        stage.world.relay.spool_files() == files
    });
    stage.send_taken(&mut sender, LARGE);
    stage.row(
        "queue: log, of a message in the spool",
        "fdatasync",
        "EIO",
        &codes(&reply),
        "its file is removed; the next message is taken",
    );
}

/// The mail is inside and the relay cannot write that down: it keeps the delivery to itself until it can.
fn settlement_fails(stage: &mut Stage, call: &str, error: &str) {
    let mut sender = stage.connect();
    stage.send_taken(&mut sender, SMALL);
    let (arrived, mark) = (stage.inside.messages().len(), stage.mark());
    let fault = Fault::new(call, error).at(&stage.log_file());
    let injected = fault.inject(stage.world.relay.id());
    let _ = stage.world.puller.pull();
    let _ = stage.world.puller.pull();
    assert_eq!(stage.inside.messages().len(), arrived + 1, "once inside");
    stage.assert_logged(&mark, "the queue could not be written");
    assert!(injected.end().hits() > 0, "{call} {error}: not hit");
    stage.world.relay.wait_for_queue(&[]);
    let _ = stage.world.puller.pull().expect_code(0);
    assert_eq!(stage.inside.messages().len(), arrived + 1, "once inside");
    stage.row(
        "queue: log, while mail goes out",
        call,
        error,
        "the puller's `250` stands",
        "the delivery is sent to nobody else, and removed when the fault ends",
    );
}

/// Content that ends in the middle is never ended as if it were whole.
fn reading_fails(stage: &mut Stage) {
    let mut sender = stage.connect();
    stage.send_taken(&mut sender, LARGE);
    let (arrived, mark) = (stage.inside.messages().len(), stage.mark());
    let paths = stage.world.relay.spool_paths();
    let path = paths.first().expect("a content file");
    let fault = Fault::new("read", "EIO").when("2+").at(path);
    let injected = fault.inject(stage.world.relay.id());
    let _ = stage.world.puller.pull();
    assert!(injected.end().hits() > 0, "read: not hit");
    stage.assert_logged(&mark, "cannot be read now");
    assert_eq!(stage.inside.messages().len(), arrived);
    stage.world.relay.retry_all();
    let _ = stage.world.puller.pull().expect_code(0);
    assert_eq!(stage.inside.messages().len(), arrived + 1);
    stage.row(
        "spool: file, while mail goes out",
        "read",
        "EIO",
        "the connection ends within the content",
        "deferred, and delivered whole by a later pull",
    );
}

fn removal_fails(stage: &mut Stage) {
    let mut sender = stage.connect();
    stage.send_taken(&mut sender, LARGE);
    let mark = stage.mark();
    let paths = stage.world.relay.spool_paths();
    let path = paths.first().expect("a content file");
    let injected = Fault::new("unlink", "EIO")
        .at(path)
        .inject(stage.world.relay.id());
    let _ = stage.world.puller.pull().expect_code(0);
    stage.wait_for_log(&mark, "cannot remove a content file");
    assert!(injected.end().hits() > 0);
    stage.world.relay.wait_for_queue(&[]);
    assert_eq!(stage.world.relay.spool_files(), 1);
    stage.row(
        "spool: file, after it went out",
        "unlink",
        "EIO",
        "`250 2.0.0`",
        "the file stays, and is swept at the next start",
    );
}
