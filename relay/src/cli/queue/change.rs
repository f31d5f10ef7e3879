//! `queue hold`, `release`, `retry` and `remove`.

use atrn_relay::control::{Client, Reply, Request};
use atrn_relay::queue::{Action, Changed, Selection};
use atrn_shared::cli::{Destructive, Failure, confirm};
use clap::Args;
use jiff::Timestamp;

use super::select::Selected;
use super::unexpected;
use crate::cli::units::counted;
use crate::cli::{Call, client_failure};

/// Options of a change that can be undone.
#[derive(Args, Debug)]
pub(in crate::cli) struct Change {
    #[command(flatten)]
    selected: Selected,

    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Remove deliveries for good; nobody is told
///
/// Example: atrn-relay queue remove --sender spammer@ --dry-run
#[derive(Args, Debug)]
pub(in crate::cli) struct Remove {
    #[command(flatten)]
    selected: Selected,

    #[command(flatten)]
    destructive: Destructive,
}

/// An action and the words for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verb {
    action: Action,
    infinitive: &'static str,
    past: &'static str,
    /// Why a delivery is left alone.
    unsuitable: &'static str,
}

pub(super) const HOLD: Verb = Verb {
    action: Action::Hold,
    infinitive: "hold",
    past: "Held",
    unsuitable: "neither queued nor deferred",
};
pub(super) const RELEASE: Verb = Verb {
    action: Action::Release,
    infinitive: "release",
    past: "Released",
    unsuitable: "not held",
};
pub(super) const RETRY: Verb = Verb {
    action: Action::Retry,
    infinitive: "retry",
    past: "Made ready",
    unsuitable: "not deferred, failed or expired",
};
const REMOVE: Verb = Verb {
    action: Action::Remove,
    infinitive: "remove",
    past: "Removed",
    unsuitable: "gone already",
};

impl Change {
    pub(super) fn run(self, call: &Call, client: &mut Client, verb: &Verb) -> Result<(), Failure> {
        let selection = self.selected.at(Timestamp::now())?;
        finish(
            call,
            verb,
            &ask(client, verb, selection, self.dry_run)?,
            self.dry_run,
        )
    }
}

impl Remove {
    pub(super) fn run(self, call: &Call, client: &mut Client) -> Result<(), Failure> {
        let selection = self.selected.at(Timestamp::now())?;
        let found = ask(client, &REMOVE, selection.clone(), true)?;
        if self.destructive.dry_run {
            return finish(call, &REMOVE, &found, true);
        }
        if found.changed > 0 {
            let question = format!(
                "Remove {} for good?",
                counted(found.changed, "delivery", "deliveries")
            );
            if !confirm(&question, self.destructive)? {
                return Err(Failure::failed("nothing was changed"));
            }
        }
        finish(
            call,
            &REMOVE,
            &ask(client, &REMOVE, selection, false)?,
            false,
        )
    }
}

fn ask(
    client: &mut Client,
    verb: &Verb,
    selection: Selection,
    dry_run: bool,
) -> Result<Changed, Failure> {
    let request = Request::Change {
        action: verb.action,
        selection,
        dry_run,
    };
    match client.ask_one(&request).map_err(client_failure)? {
        Reply::Changed(changed) => Ok(changed),
        other => Err(unexpected(&other)),
    }
}

fn finish(call: &Call, verb: &Verb, changed: &Changed, dry_run: bool) -> Result<(), Failure> {
    call.output
        .show(changed, |changed| describe(verb, changed, dry_run))?;
    if changed.unknown.is_empty() {
        return Ok(());
    }
    let unknown = changed
        .unknown
        .iter()
        .map(|id| format!("{id} is not in the queue"));
    Err(Failure::failed(unknown.collect::<Vec<_>>().join("\n")))
}

fn describe(verb: &Verb, changed: &Changed, dry_run: bool) -> String {
    let number = counted(changed.changed, "delivery", "deliveries");
    let mut text = if dry_run {
        format!("Would {} {number}.", verb.infinitive)
    } else {
        format!("{} {number}.", verb.past)
    };
    if changed.leased > 0 {
        text += &format!(" Left alone: {} with a puller just now.", changed.leased);
    }
    if changed.unsuitable > 0 {
        text += &format!(" Left alone: {} {}.", changed.unsuitable, verb.unsuitable);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_and_what_was_not() {
        let some = Changed {
            changed: 3,
            leased: 1,
            unsuitable: 2,
            unknown: Vec::new(),
        };
        let one = Changed {
            changed: 1,
            ..Changed::default()
        };
        for (verb, changed, dry_run, expected) in [
            (HOLD, &one, false, "Held 1 delivery."),
            (REMOVE, &one, true, "Would remove 1 delivery."),
            (
                RELEASE,
                &some,
                false,
                "Released 3 deliveries. Left alone: 1 with a puller just now. Left alone: 2 not held.",
            ),
            (
                RETRY,
                &Changed::default(),
                false,
                "Made ready 0 deliveries.",
            ),
        ] {
            assert_eq!(describe(&verb, changed, dry_run), expected);
        }
    }
}
