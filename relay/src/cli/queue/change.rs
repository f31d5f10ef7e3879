//! `queue hold`, `release`, `retry`, `remove`, `bounce` and `expire`.

use atrn_relay::control::{Client, Ending, Reply, Request};
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

/// End deliveries as refused for good, with a report where one is due
///
/// They stay in the queue as failed, as if the server inside had refused them. Who is told is a matter of the
/// domain's setting `reports`, and of what the sender asked for.
///
/// Example: atrn-relay queue bounce 1JX2M40G0W5 --reason "This address moved to example.org"
#[derive(Args, Debug)]
pub(in crate::cli) struct Bounce {
    #[command(flatten)]
    selected: Selected,

    /// What the report says about it, in ASCII (default: "Returned by the administrator").
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: Option<String>,

    #[command(flatten)]
    destructive: Destructive,
}

/// End deliveries as if their time were over, with a report where one is due
///
/// Example: atrn-relay queue expire --domain example.com --older-than 3d
#[derive(Args, Debug)]
pub(in crate::cli) struct Expire {
    #[command(flatten)]
    selected: Selected,

    #[command(flatten)]
    destructive: Destructive,
}

/// What a command does to deliveries, and the words for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verb {
    change: Kind,
    infinitive: &'static str,
    past: &'static str,
    /// Why a delivery is left alone.
    unsuitable: &'static str,
}

/// What the relay is asked to do.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Action(Action),
    Ending(Ending),
}

pub(super) const HOLD: Verb = Verb {
    change: Kind::Action(Action::Hold),
    infinitive: "hold",
    past: "Held",
    unsuitable: "neither queued nor deferred",
};
pub(super) const RELEASE: Verb = Verb {
    change: Kind::Action(Action::Release),
    infinitive: "release",
    past: "Released",
    unsuitable: "not held",
};
pub(super) const RETRY: Verb = Verb {
    change: Kind::Action(Action::Retry),
    infinitive: "retry",
    past: "Made ready",
    unsuitable: "not deferred, failed or expired",
};
const REMOVE: Verb = Verb {
    change: Kind::Action(Action::Remove),
    infinitive: "remove",
    past: "Removed",
    unsuitable: "gone already",
};
const BOUNCE: Verb = Verb {
    change: Kind::Ending(Ending::Bounce),
    infinitive: "bounce",
    past: "Bounced",
    unsuitable: ENDED,
};
const EXPIRE: Verb = Verb {
    change: Kind::Ending(Ending::Expire),
    infinitive: "expire",
    past: "Expired",
    unsuitable: ENDED,
};
const ENDED: &str = "failed or expired already";

impl Change {
    pub(super) fn run(self, call: &Call, client: &mut Client, verb: &Verb) -> Result<(), Failure> {
        let request = Asking {
            verb,
            selection: self.selected.at(Timestamp::now())?,
            reason: None,
        };
        let changed = request.ask(client, self.dry_run)?;
        finish(call, verb, &changed, self.dry_run)
    }
}

impl Remove {
    pub(super) fn run(self, call: &Call, client: &mut Client) -> Result<(), Failure> {
        let request = Asking {
            verb: &REMOVE,
            selection: self.selected.at(Timestamp::now())?,
            reason: None,
        };
        request.confirmed(call, client, self.destructive)
    }
}

impl Bounce {
    pub(super) fn run(self, call: &Call, client: &mut Client) -> Result<(), Failure> {
        let request = Asking {
            verb: &BOUNCE,
            selection: self.selected.at(Timestamp::now())?,
            reason: self.reason,
        };
        request.confirmed(call, client, self.destructive)
    }
}

impl Expire {
    pub(super) fn run(self, call: &Call, client: &mut Client) -> Result<(), Failure> {
        let request = Asking {
            verb: &EXPIRE,
            selection: self.selected.at(Timestamp::now())?,
            reason: None,
        };
        request.confirmed(call, client, self.destructive)
    }
}

/// Goes into a line of SMTP and of a report.
fn reason(text: &str) -> Result<String, String> {
    let is_plain = text.bytes().all(|octet| (b' '..=b'~').contains(&octet));
    if is_plain && (1..=400).contains(&text.trim().len()) {
        return Ok(text.trim().to_owned());
    }
    Err("not one line of 1 to 400 printable ASCII characters".to_owned())
}

/// A change that is to be asked for.
struct Asking<'v> {
    verb: &'v Verb,
    selection: Selection,
    reason: Option<String>,
}

impl Asking<'_> {
    /// What cannot be undone is counted first, and then done if that is what was meant.
    fn confirmed(
        self,
        call: &Call,
        client: &mut Client,
        destructive: Destructive,
    ) -> Result<(), Failure> {
        let found = self.ask(client, true)?;
        if destructive.dry_run {
            return finish(call, self.verb, &found, true);
        }
        if found.changed > 0 {
            let number = counted(found.changed, "delivery", "deliveries");
            let mut words = self.verb.infinitive.to_owned();
            words[..1].make_ascii_uppercase();
            if !confirm(&format!("{words} {number} for good?"), destructive)? {
                return Err(Failure::failed("nothing was changed"));
            }
        }
        finish(call, self.verb, &self.ask(client, false)?, false)
    }

    fn ask(&self, client: &mut Client, dry_run: bool) -> Result<Changed, Failure> {
        let selection = self.selection.clone();
        let request = match self.verb.change {
            Kind::Action(action) => Request::Change {
                action,
                selection,
                dry_run,
            },
            Kind::Ending(ending) => Request::End {
                ending,
                reason: self.reason.clone(),
                selection,
                dry_run,
            },
        };
        match client.ask_one(&request).map_err(client_failure)? {
            Reply::Changed(changed) => Ok(changed),
            other => Err(unexpected(&other)),
        }
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
    fn a_reason_is_one_line() {
        assert_eq!(reason(" moved ").as_deref(), Ok("moved"));
        for bad in ["", " ", "a\nb", "gr\u{fc}n", &"x".repeat(401)] {
            assert!(reason(bad).is_err(), "{bad:?}");
        }
    }

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
                BOUNCE,
                &some,
                true,
                "Would bounce 3 deliveries. Left alone: 1 with a puller just now. \
                 Left alone: 2 failed or expired already.",
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
