//! Ctrl-C in a run of minutes: every program that was started ends, and the folder goes, as at the end of a run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

use anyhow::Result;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

use crate::party::in_memory;

/// What a shell shows for a program that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// Cleans up and ends on SIGINT and SIGTERM. By handlers, which programs that are started do not inherit: with the
/// signals blocked for a thread that waits for them, they could not be stopped by SIGTERM.
pub(crate) fn watch(folder: &Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let folder = folder.to_owned();
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        )
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        eprintln!("interrupted: stopping what was started");
        clean(&folder);
        exit(INTERRUPTED);
    });
    Ok(())
}

fn clean(folder: &Path) {
    for instance in entries(folder) {
        if instance.join("etc/main.cf").exists() {
            // Its master is nobody's child.
            let mut postfix = Command::new("/usr/sbin/postfix");
            postfix.arg("-c").arg(instance.join("etc")).arg("abort");
            postfix.output().ok();
        }
    }
    for thread in entries(Path::new("/proc/self/task")) {
        let children = fs::read_to_string(thread.join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|id| id.parse().ok()) {
            // Each was started in a group of its own, named after it.
            killpg(Pid::from_raw(child), Signal::SIGKILL).ok();
        }
    }
    fs::remove_dir_all(in_memory(folder)).ok();
    fs::remove_dir_all(folder).ok();
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}
