//! The newcomer's first command: it shows every step, ends well, and leaves nothing behind.

use std::path::Path;
use std::process::Command;

use atrn_tests::process::{Output, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn quickstart(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quickstart"));
    command
        .arg("--no-build")
        .args(arguments)
        .env("TMPDIR", folder);
    Output::of(&mut command).expect_code(0)
}

/// Programs that run with a configuration in this folder.
fn running(folder: &Path) -> usize {
    let needle = folder.display().to_string();
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    processes
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .filter(|line| String::from_utf8_lossy(line).contains(&needle))
        .count()
}

#[test]
fn quickstart_shows_every_step_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let output = quickstart(folder.path(), &[]).stdout;
    for step in [
        "queued",
        "== The puller connects out",
        "plain text: 158 octets identical",
        "8-bit UTF-8: ",
        "lines with leading dots: ",
        "an attachment of 5 MB: ",
        "The queue is empty.",
    ] {
        assert!(output.contains(step), "{step} is missing:\n{output}");
    }
    assert_eq!(running(folder.path()), 0);
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .flatten()
        .filter(|entry| {
            !entry
                .file_name()
                .to_string_lossy()
                .starts_with("atrn-test-ports")
        })
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn quickstart_that_keeps_says_how_to_stop() {
    let folder = tempfile::tempdir().unwrap();
    let output = quickstart(folder.path(), &["--keep"]).stdout;
    let stop = output
        .lines()
        .find_map(|line| line.trim().strip_prefix("kill "))
        .expect(&output);
    let (ids, remove) = stop.split_once("; rm -r ").expect(stop);
    let ids: Vec<i32> = ids
        .split(' ')
        .map(|id| id.parse().expect("a process id"))
        .collect();
    assert_eq!(running(folder.path()), 2, "{output}");
    assert!(Path::new(remove).exists());
    for id in ids {
        kill(Pid::from_raw(id), Signal::SIGTERM).expect("a process of ours");
    }
    wait_until("both end", || running(folder.path()) == 0);
}
