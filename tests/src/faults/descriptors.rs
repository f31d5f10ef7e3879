//! A running program that may open no more files.

use std::collections::HashSet;
use std::fs;
use std::process::Command;

use crate::process::Output;

/// A lowered limit on descriptors; dropped, the old one holds again.
#[derive(Debug)]
pub struct Descriptors {
    program: u32,
    before: String,
}

impl Descriptors {
    /// Leaves a program so many descriptors beside those that it has.
    ///
    /// # Panics
    /// When its limit cannot be changed.
    #[track_caller]
    #[must_use]
    pub fn leave(program: u32, spare: usize) -> Self {
        let own = fs::read_dir(format!("/proc/{program}/fd")).expect("its descriptors");
        let numbers = own
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse::<usize>().ok());
        let taken: HashSet<usize> = numbers.collect();
        // The limit is on the number of a new one, and the kernel gives the lowest that is free.
        let free = (0..).filter(|number| !taken.contains(number));
        let limit = free.take(spare + 1).last().unwrap_or_default();
        Self::limit(program, limit)
    }

    /// Leaves it none at all: also those that it closes are gone.
    #[track_caller]
    #[must_use]
    pub fn none(program: u32) -> Self {
        Self::limit(program, 0)
    }

    #[track_caller]
    fn limit(program: u32, limit: usize) -> Self {
        let before = prlimit(
            program,
            &["--raw", "--noheadings", "--output=SOFT", "--nofile"],
        );
        let lowered = Self {
            program,
            before: before.trim().to_owned(),
        };
        let _ = prlimit(program, &[&format!("--nofile={limit}:")]);
        lowered
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        let limit = format!("--nofile={}:", self.before);
        Command::new("prlimit")
            .args(["--pid", &self.program.to_string(), &limit])
            .status()
            .ok();
    }
}

#[track_caller]
fn prlimit(program: u32, arguments: &[&str]) -> String {
    let mut command = Command::new("prlimit");
    command
        .args(["--pid", &program.to_string()])
        .args(arguments);
    Output::of(&mut command).expect_code(0).stdout
}
