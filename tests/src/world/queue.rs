//! What is in a relay's queue, as its command line shows it.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Relay;
use crate::process::wait_until;

impl Relay {
    /// What `status --json` shows.
    #[track_caller]
    #[must_use]
    pub fn status(&self) -> Value {
        self.cli(&["status", "--json"]).expect_code(0).json()
    }

    /// What `status --json` shows of an account.
    ///
    /// # Panics
    /// When there is no such account.
    #[track_caller]
    #[must_use]
    pub fn account_status(&self, name: &str) -> Value {
        let status = self.status();
        let accounts = status["accounts"].as_array().expect("accounts");
        let found = accounts.iter().find(|account| account["account"] == name);
        found.unwrap_or_else(|| panic!("no account {name}")).clone()
    }

    /// A line a delivery, oldest first: recipients, state, attempts that ended in a verdict.
    #[track_caller]
    #[must_use]
    pub fn queue_lines(&self) -> Vec<String> {
        self.queue_list(&[]).iter().map(line).collect()
    }

    /// Waits until the queue is as given.
    ///
    /// # Panics
    /// With what it is instead, when time is up.
    #[track_caller]
    pub fn wait_for_queue(&self, lines: &[&str]) {
        let mut seen = Vec::new();
        let as_given = || {
            seen = self.queue_lines();
            seen == lines
        };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_until("the queue", as_given);
        }));
        assert!(
            outcome.is_ok(),
            "the queue is {seen:#?}, and not {lines:#?}"
        );
    }

    /// Makes everything that waits for a time ready now, so that no test waits for a back-off.
    #[track_caller]
    pub fn retry_all(&self) {
        let _ = self.cli(&["queue", "retry", "--all"]).expect_code(0);
    }

    /// Files of content beside the database.
    #[must_use]
    pub fn spool_files(&self) -> usize {
        self.spool_paths().len()
    }

    /// The same, by their paths.
    #[must_use]
    pub fn spool_paths(&self) -> Vec<PathBuf> {
        fn files(folder: &Path) -> Vec<PathBuf> {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            entries
                .flat_map(|entry| match entry.path() {
                    path if path.is_dir() => files(&path),
                    path => vec![path],
                })
                .collect()
        }
        files(&self.data_folder().join("spool"))
    }
}

fn line(delivery: &Value) -> String {
    let recipients: Vec<&str> = delivery["recipients"]
        .as_array()
        .expect("recipients")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let state = delivery["state"].as_str().expect("a state");
    format!("{} {state} {}", recipients.join(","), delivery["attempts"])
}
