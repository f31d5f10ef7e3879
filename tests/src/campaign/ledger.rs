//! Who was told what: each message that a sender got a `250` for, each copy that came out at the
//! corporate side, and what must not be between the two.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::mail::Mail;

/// Where the corporate side takes mail.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Target {
    /// A folder.
    Maildir,
    /// A mail server.
    Smtp,
}

/// Broken promises that are told one by one; the rest is only counted.
const TOLD_MAX: usize = 50;

/// What a killed puller had sent, the server may still be about to read for so long.
const READ_LATE: Duration = Duration::from_secs(5);

/// What the server took, the puller writes down at once: within this time also where it is traced, or stopped so that
/// accepts are watched alone. A kill that comes later is no excuse.
const WRITTEN_LATE: Duration = Duration::from_secs(30);

/// What holds for one target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Senders got a `250` for so many.
    pub acknowledged: u64,
    /// Of these, sent by `smtp-source`.
    pub acknowledged_to_smtp_source: u64,
    /// So many of all came out.
    pub delivered: u64,
    /// No `250`, and yet inside: the reply was lost in a kill, and a sender would send it again.
    pub delivered_unacknowledged: u64,
    /// No `250`, and nothing inside.
    pub refused: u64,
    /// Copies after the first that came though the puller had journaled the delivery. Must be none.
    pub duplicates_over_the_hop: u64,
    /// Copies after the first between whose predecessor and journal entry the puller was killed: what no
    /// protocol with an SMTP server can prevent.
    pub duplicates_at_the_target: u64,
    /// Copies after the first that nothing explains. Must be none.
    pub duplicates_unexplained: u64,
    /// Copies whose octets are not those that were sent. Must be none.
    pub changed: u64,
}

impl Counts {
    /// Acknowledged, and not there.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.acknowledged - self.delivered
    }
}

/// The book of a campaign; all of its parties write into it.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    state: Mutex<State>,
    /// What happened when, to be read beside the logs of the programs.
    chronicle: Option<File>,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<u64, Entry>,
    counts: [Counts; 2],
    kills: [Vec<Kill>; 2],
    /// Acknowledged and not there yet.
    outstanding: [usize; 2],
    violations: Vec<String>,
    violation_count: u64,
}

#[derive(Debug, Default)]
struct Entry {
    acknowledged: bool,
    /// Under way to a target, and when it came there last.
    places: [Option<Option<Instant>>; 2],
}

/// A puller was killed between these two instants; so many of its messages may be in doubt.
#[derive(Debug)]
struct Kill {
    from: Instant,
    to: Instant,
    in_doubt: u32,
}

/// One copy of a message, complete at a target.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copy<'a> {
    pub(super) target: Target,
    /// What the relay calls it, to be looked up in the logs.
    pub(super) queue_id: &'a str,
    pub(super) mail: Mail,
    pub(super) is_whole: bool,
    /// The puller's journal says that it has been there before.
    pub(super) is_journaled: bool,
    pub(super) at: Instant,
}

impl Target {
    /// Both, in the order of the tables.
    pub const ALL: [Self; 2] = [Self::Smtp, Self::Maildir];

    /// In tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Maildir => "Maildir",
            Self::Smtp => "SMTP",
        }
    }

    pub(super) fn index(self) -> usize {
        match self {
            Self::Smtp => 0,
            Self::Maildir => 1,
        }
    }
}

impl Ledger {
    /// One that writes down what happened when.
    pub(super) fn with_chronicle(path: &Path) -> io::Result<Self> {
        Ok(Self {
            chronicle: Some(File::create(path)?),
            ..Self::default()
        })
    }

    /// Writes down what happened.
    pub(super) fn note(&self, text: &str) {
        if let Some(mut file) = self.chronicle.as_ref() {
            // It helps to understand what went wrong, and is no part of the proof.
            writeln!(file, "{} {text}", Timestamp::now()).ok();
        }
    }

    /// A sender begins to send.
    pub(super) fn sent(&self, mail: Mail, targets: &[Target]) {
        let mut entry = Entry::default();
        for target in targets {
            entry.places[target.index()] = Some(None);
        }
        self.state().entries.insert(mail.number, entry);
    }

    /// The sender has read the final `250`.
    pub(super) fn acknowledged(&self, mail: Mail) {
        let state = &mut *self.state();
        let Some(entry) = state.entries.get_mut(&mail.number) else {
            return;
        };
        entry.acknowledged = true;
        for (place, outstanding) in entry.places.iter().zip(&mut state.outstanding) {
            *outstanding += usize::from(*place == Some(None));
        }
    }

    /// A copy has come out.
    pub(super) fn arrived(&self, copy: Copy<'_>) {
        let state = &mut *self.state();
        let index = copy.target.index();
        let (number, queue_id) = (copy.mail.number, copy.queue_id);
        let entry = state.entries.get_mut(&number);
        let Some((acknowledged, place)) =
            entry.and_then(|entry| Some((entry.acknowledged, entry.places[index].as_mut()?)))
        else {
            let target = copy.target.name();
            state.violation(format!(
                "message {number} ({queue_id}) came to {target}, where nobody sent it"
            ));
            return;
        };
        let before = place.replace(copy.at);
        if let Some(before) = before {
            let (age, target) = (copy.at - before, copy.target.name());
            let text = format!("another copy of {number} ({queue_id}) at {target} after {age:?}");
            self.note(&text);
        }
        state.outstanding[index] -= usize::from(acknowledged && before.is_none());
        if !copy.is_whole {
            state.counts[index].changed += 1;
            state.violation(format!(
                "message {number} ({queue_id}) was changed on the way"
            ));
        }
        // Even the first copy: what is in the journal was taken before.
        if copy.is_journaled {
            state.counts[index].duplicates_over_the_hop += 1;
            state.violation(format!(
                "message {number} ({queue_id}) came over the hop again: the puller has it in its journal"
            ));
        } else if let Some(before) = before {
            state.second(copy, before);
        }
    }

    /// A puller was killed, some time between two instants.
    pub(super) fn puller_killed(&self, target: Target, from: Instant, in_doubt: u32) {
        let kill = Kill {
            from,
            to: Instant::now(),
            in_doubt,
        };
        self.state().kills[target.index()].push(kill);
    }

    /// Something that must not be, of another kind.
    pub(super) fn violation(&self, text: String) {
        self.state().violation(text);
    }

    /// Acknowledged deliveries that have not come out yet.
    pub(super) fn outstanding(&self, target: Target) -> usize {
        self.state().outstanding[target.index()]
    }

    /// How it stands now.
    pub(super) fn counts(&self, target: Target) -> Counts {
        let state = self.state();
        let mut counts = state.counts[target.index()];
        for (&number, entry) in &state.entries {
            let Some(arrived) = entry.places[target.index()] else {
                continue;
            };
            match (entry.acknowledged, arrived.is_some()) {
                (true, true) => counts.delivered += 1,
                (false, true) => counts.delivered_unacknowledged += 1,
                (false, false) => counts.refused += 1,
                (true, false) => {}
            }
            counts.acknowledged += u64::from(entry.acknowledged);
            let is_foreign = Mail::is_foreign(number);
            counts.acknowledged_to_smtp_source += u64::from(entry.acknowledged && is_foreign);
        }
        counts
    }

    /// The numbers of what was acknowledged and did not come out: the first ones.
    pub(super) fn missing(&self, target: Target) -> Vec<u64> {
        let state = self.state();
        let missing = state
            .entries
            .iter()
            .filter(|(_, entry)| entry.acknowledged && entry.places[target.index()] == Some(None));
        let mut numbers: Vec<u64> = missing.map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        numbers.truncate(TOLD_MAX);
        numbers
    }

    /// What was broken, and how often in all.
    pub(super) fn violations(&self) -> (Vec<String>, u64) {
        let state = self.state();
        (state.violations.clone(), state.violation_count)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A copy that the journal does not know came after another.
    fn second(&mut self, copy: Copy<'_>, before: Instant) {
        let index = copy.target.index();
        let explanation = self.kills[index].iter_mut().find(|kill| {
            kill.to + READ_LATE >= before
                && kill.from <= before + WRITTEN_LATE
                && kill.from <= copy.at
                && kill.in_doubt > 0
        });
        match explanation {
            // A file that has its name is there: writing it again needs no permission of the target.
            Some(kill) if copy.target == Target::Smtp => {
                kill.in_doubt -= 1;
                self.counts[index].duplicates_at_the_target += 1;
            }
            _ => {
                self.counts[index].duplicates_unexplained += 1;
                let (number, queue_id) = (copy.mail.number, copy.queue_id);
                let target = copy.target.name();
                let text = format!("message {number} ({queue_id}) is twice at {target}");
                self.violation(text);
            }
        }
    }

    fn violation(&mut self, text: String) {
        self.violation_count += 1;
        if self.violations.len() < TOLD_MAX {
            self.violations.push(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIL: Mail = Mail {
        number: 1,
        octets: 10,
    };

    fn sent() -> Ledger {
        let ledger = Ledger::default();
        ledger.sent(MAIL, &Target::ALL);
        ledger.acknowledged(MAIL);
        ledger
    }

    fn copy(target: Target) -> Copy<'static> {
        Copy {
            target,
            queue_id: "1M7ZX5RDH00",
            mail: MAIL,
            is_whole: true,
            is_journaled: false,
            at: Instant::now(),
        }
    }

    #[test]
    fn what_got_a_250_and_does_not_arrive_is_lost() {
        let ledger = sent();
        assert_eq!(ledger.counts(Target::Smtp).lost(), 1);
        assert_eq!(ledger.missing(Target::Smtp), [1]);
        ledger.arrived(copy(Target::Smtp));
        assert_eq!(ledger.counts(Target::Smtp).lost(), 0);
        assert_eq!(ledger.outstanding(Target::Maildir), 1);
        assert_eq!(ledger.violations().1, 0);
    }

    #[test]
    fn a_copy_that_the_journal_knows_is_a_duplicate_over_the_hop() {
        let ledger = sent();
        ledger.arrived(copy(Target::Smtp));
        ledger.arrived(Copy {
            is_journaled: true,
            ..copy(Target::Smtp)
        });
        assert_eq!(ledger.counts(Target::Smtp).duplicates_over_the_hop, 1);
        assert_eq!(ledger.violations().1, 1);
    }

    #[test]
    fn a_kill_between_two_copies_explains_the_second_once() {
        let ledger = sent();
        let from = Instant::now();
        ledger.arrived(copy(Target::Smtp));
        ledger.puller_killed(Target::Smtp, from, 1);
        ledger.arrived(copy(Target::Smtp));
        assert_eq!(ledger.violations().1, 0);
        ledger.arrived(copy(Target::Smtp));
        let counts = ledger.counts(Target::Smtp);
        assert_eq!(
            (
                counts.duplicates_at_the_target,
                counts.duplicates_unexplained
            ),
            (1, 1)
        );
        assert_eq!(ledger.violations().1, 1);
    }

    #[test]
    fn a_kill_long_before_the_first_copy_explains_nothing() {
        let ledger = sent();
        ledger.puller_killed(Target::Smtp, Instant::now(), 1);
        for _ in 0..2 {
            ledger.arrived(Copy {
                at: Instant::now() + READ_LATE + Duration::from_secs(1),
                ..copy(Target::Smtp)
            });
        }
        assert_eq!(ledger.counts(Target::Smtp).duplicates_unexplained, 1);
    }

    #[test]
    fn a_kill_long_after_the_first_copy_explains_nothing() {
        let ledger = sent();
        let now = Instant::now();
        ledger.arrived(copy(Target::Smtp));
        let later = now + WRITTEN_LATE + Duration::from_secs(1);
        ledger.puller_killed(Target::Smtp, later, 1);
        ledger.arrived(Copy {
            at: later + Duration::from_secs(1),
            ..copy(Target::Smtp)
        });
        assert_eq!(ledger.counts(Target::Smtp).duplicates_unexplained, 1);
    }

    #[test]
    fn a_maildir_has_each_message_once_whatever_was_killed() {
        let ledger = sent();
        let from = Instant::now();
        ledger.arrived(copy(Target::Maildir));
        ledger.puller_killed(Target::Maildir, from, 1);
        ledger.arrived(copy(Target::Maildir));
        assert_eq!(ledger.counts(Target::Maildir).duplicates_unexplained, 1);
    }

    #[test]
    fn changed_octets_and_strangers_are_told() {
        let ledger = sent();
        ledger.arrived(Copy {
            is_whole: false,
            ..copy(Target::Smtp)
        });
        assert_eq!(ledger.counts(Target::Smtp).changed, 1);
        let other = Mail { number: 2, ..MAIL };
        ledger.arrived(Copy {
            mail: other,
            ..copy(Target::Smtp)
        });
        assert_eq!(ledger.violations().1, 2);
    }
}
