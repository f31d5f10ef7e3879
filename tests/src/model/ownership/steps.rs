//! What the parties do by themselves.

use std::fmt;

use super::super::explorer::{Kind, Move};
use super::state::{Message, NOBODY, Phase, Sender, Sending, Stage, State, Transaction, Verdict};
use super::{Mutation, Ownership, RECIPIENTS_MAX};

/// A step for people: who, about what, and what.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// The session, where there are several.
    pub session: Option<usize>,
    /// The message, where it is about one.
    pub message: Option<usize>,
    /// What happens.
    pub what: &'static str,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(session) = self.session {
            write!(f, "session {session}, ")?;
        }
        if let Some(message) = self.message {
            write!(f, "message {message}: ")?;
        }
        f.write_str(self.what)
    }
}

pub(super) type Moves = Vec<Move<Ownership>>;

/// Adds what comes of a step.
pub(super) fn add(moves: &mut Moves, kind: Kind, step: Step, next: State) {
    moves.push(Move { step, kind, next });
}

/// The sender, and the edge up to the queue.
pub(super) fn sender(model: &Ownership, state: &State, moves: &mut Moves) {
    let Some(recipients) = model.mails.get(usize::from(state.sender.mail)) else {
        return;
    };
    let mut next = *state;
    let what = match state.sender.phase {
        Sending::Sent => {
            let free = state
                .messages
                .iter()
                .position(|message| message.stage == Stage::Unused);
            let at = free.expect("there is a place for each mail and each repetition");
            next.messages[at] = Message::new((1 << recipients) - 1);
            next.sender.message = u8::try_from(at).ok();
            next.sender.phase = match model.has(Mutation::AcceptBeforeCommit) {
                true => Sending::Answered,
                false => Sending::Waiting,
            };
            "the relay has all of it in memory"
        }
        Sending::Waiting => return,
        Sending::Answered => {
            if let Some(at) = state.sender.message {
                next.messages[usize::from(at)].acknowledged = true;
            }
            next.sender = Sender {
                mail: state.sender.mail + 1,
                ..Sender::default()
            };
            "the sender reads 250"
        }
    };
    let message = next
        .sender
        .message
        .or(state.sender.message)
        .map(usize::from);
    add(
        moves,
        Kind::Normal,
        Step {
            session: None,
            message,
            what,
        },
        next,
    );
}

/// The queue: commit, the clock, claims; and what it reads from pullers.
pub(super) fn relay(model: &Ownership, state: &State, moves: &mut Moves) {
    commit(model, state, moves);
    let waits = |at: &usize| {
        let message = &state.messages[*at];
        message.stage == Stage::Stored && message.left != NOBODY && !state.is_leased(*at)
    };
    let is_deferred = |at: &usize| state.messages[*at].deferred;
    for at in (0..state.messages.len()).filter(waits).filter(is_deferred) {
        let mut next = *state;
        next.messages[at].deferred = false;
        let step = Step {
            session: None,
            message: Some(at),
            what: "its time has come",
        };
        add(moves, Kind::Normal, step, next);
    }
    // Claims go in the order of arrival.
    let mut ready = (0..state.messages.len())
        .filter(waits)
        .filter(|at| !is_deferred(at));
    if let Some(first) = ready.next() {
        claim(model, state, first, moves);
    }
    for session in 0..model.sessions.len() {
        read_answer(model, state, session, moves);
    }
}

/// One transaction takes all that waits: acceptances and settlements.
fn commit(model: &Ownership, state: &State, moves: &mut Moves) {
    let mut next = *state;
    for message in &mut next.messages {
        if message.stage == Stage::Pending {
            message.stage = Stage::Stored;
        }
        message.settle(model);
    }
    if state.sender.phase == Sending::Waiting {
        next.sender.phase = Sending::Answered;
    }
    if next != *state {
        let step = Step {
            session: None,
            message: None,
            what: "the queue commits",
        };
        add(moves, Kind::Normal, step, next);
    }
}

fn claim(model: &Ownership, state: &State, at: usize, moves: &mut Moves) {
    let message = &state.messages[at];
    for session in 0..model.sessions.len() {
        let Some(number) = room(model, state, session) else {
            continue;
        };
        let mut next = *state;
        let mut verdicts = [Verdict::Absent; RECIPIENTS_MAX];
        for (recipient, verdict) in verdicts.iter_mut().enumerate() {
            if message.left & 1 << recipient != 0 {
                *verdict = Verdict::Unasked;
            }
        }
        next.transactions[number] = Transaction {
            phase: Phase::Offered,
            linked: true,
            message: u8::try_from(at).expect("there are few messages"),
            number: message.number,
            verdicts,
            unjournaled: false,
        };
        if model.has(Mutation::SettleBeforeAnswer) {
            next.messages[at].settling = Some([Verdict::Taken; RECIPIENTS_MAX]);
        }
        let what = "the relay claims it and sends MAIL, RCPT and content";
        add(
            moves,
            Kind::Normal,
            Step {
                session: Some(session),
                message: Some(at),
                what,
            },
            next,
        );
    }
}

/// The place of the next message in a session's window, if there is one. A connection that the relay has given up gets
/// no more.
fn room(model: &Ownership, state: &State, session: usize) -> Option<usize> {
    let mut window = model.window(session);
    let is_idle = |number: &usize| state.transactions[*number].phase == Phase::Idle;
    let is_lost = |number: usize| !is_idle(&number) && !state.transactions[number].linked;
    match window.clone().any(is_lost) {
        true => None,
        false => window.find(is_idle),
    }
}

/// The first answer on the wire answers the first of the window.
fn read_answer(model: &Ownership, state: &State, session: usize, moves: &mut Moves) {
    let is_answered = |number: &usize| state.transactions[*number].phase == Phase::Answered;
    let Some(number) = model.window(session).find(is_answered) else {
        return;
    };
    let mut next = *state;
    let transaction = next.transactions[number];
    let at = settled(model, state, session, number);
    if !model.has(Mutation::SettleBeforeAnswer) {
        next.messages[at].settling = Some(transaction.verdicts);
    }
    match transaction.unjournaled {
        true => next.transactions[number].phase = Phase::Late,
        false => next.transactions[number].end(),
    }
    let step = Step {
        session: Some(session),
        message: Some(at),
        what: "the relay reads the answer",
    };
    add(moves, Kind::Normal, step, next);
}

/// Which message the relay takes an answer for.
fn settled(model: &Ownership, state: &State, session: usize, number: usize) -> usize {
    let awaits =
        |other: &usize| !matches!(state.transactions[*other].phase, Phase::Idle | Phase::Late);
    let mut window = model.window(session).filter(awaits);
    let taken_for = match model.has(Mutation::SettleNewest) {
        true => window.next_back(),
        false => window.next(),
    };
    usize::from(state.transactions[taken_for.unwrap_or(number)].message)
}

/// A message in a session of a puller, and the corporate server behind it.
pub(super) fn puller(model: &Ownership, state: &State, number: usize, moves: &mut Moves) {
    let mut turn = Turn {
        model,
        state,
        number,
        moves,
    };
    match state.transactions[number].phase {
        Phase::Idle => {}
        Phase::Offered => turn.begin(),
        Phase::Begun => turn.recipients(),
        Phase::Asked => {
            turn.step(
                "the whole content goes to the corporate server",
                |_, transaction| {
                    transaction.phase = Phase::Content;
                },
            );
        }
        Phase::Content => turn.content(),
        Phase::Inside => turn.read_250(),
        Phase::Journaling | Phase::Late => turn.journal(),
        Phase::Judged | Phase::Answered if turn.transaction().unjournaled => turn.journal(),
        Phase::Judged | Phase::Answered => {}
    }
}

/// What becomes of one message next.
struct Turn<'a> {
    model: &'a Ownership,
    state: &'a State,
    number: usize,
    moves: &'a mut Moves,
}

impl Turn<'_> {
    fn transaction(&self) -> &Transaction {
        &self.state.transactions[self.number]
    }

    fn step(&mut self, what: &'static str, change: impl FnOnce(&mut State, &mut Transaction)) {
        let mut next = *self.state;
        let mut transaction = next.transactions[self.number];
        let step = Step {
            session: Some(self.model.session(self.number)),
            message: Some(usize::from(transaction.message)),
            what,
        };
        change(&mut next, &mut transaction);
        next.transactions[self.number] = transaction;
        add(self.moves, Kind::Normal, step, next);
    }

    /// MAIL: the journal decides.
    fn begin(&mut self) {
        let transaction = *self.transaction();
        let others = self.state.transactions.iter().enumerate();
        let mut others = others.filter(|(number, _)| *number != self.number);
        let in_hand = others.any(|(_, other)| other.has_in_hand(&transaction));
        if in_hand && !self.model.has(Mutation::InProgressNotExcluded) {
            // It may also just wait; then the other one goes on first.
            return self.step(
                "another session has the id in hand: 451",
                |_, transaction| {
                    transaction.turn(&[Verdict::Unasked], Verdict::Deferred);
                    transaction.answer();
                },
            );
        }
        let message = &self.state.messages[usize::from(transaction.message)];
        let journal = message.journals[self.model.journal(self.number)];
        let known = journal[usize::from(transaction.number)];
        let all = transaction.mask(|_| true);
        let is_known = match self.model.has(Mutation::KnownInPartIsKnown) {
            true => known != NOBODY,
            false => known == all,
        };
        if is_known {
            return self.step("the journal has the id: 258 to MAIL", |_, transaction| {
                transaction.turn(&[Verdict::Unasked], Verdict::Known);
                transaction.answer();
            });
        }
        self.step("the puller takes the id in hand", |_, transaction| {
            transaction.phase = Phase::Begun;
            for (recipient, verdict) in transaction.verdicts.iter_mut().enumerate() {
                if known & 1 << recipient != 0 {
                    *verdict = Verdict::Known;
                }
            }
        });
    }

    /// RCPT: each recipient who was not taken before is asked, and any answer can come.
    fn recipients(&mut self) {
        let choices = [Verdict::Accepted, Verdict::Deferred, Verdict::Refused];
        for first in choices {
            for second in choices {
                self.decide([first, second]);
            }
        }
    }

    fn decide(&mut self, choice: [Verdict; RECIPIENTS_MAX]) {
        let mut verdicts = self.transaction().verdicts;
        let mut refusals = 0;
        for (verdict, choice) in verdicts.iter_mut().zip(choice) {
            if *verdict == Verdict::Unasked {
                refusals += u8::from(choice != Verdict::Accepted);
                *verdict = choice;
            } else if choice != Verdict::Accepted {
                // Who is not asked is no choice.
                return;
            }
        }
        let Some(refusals_left) = self.state.refusals_left.checked_sub(refusals) else {
            return;
        };
        let what = match (verdicts.contains(&Verdict::Accepted), refusals) {
            (true, 0) => "the corporate server accepts each recipient",
            (true, _) => "the corporate server accepts one recipient and refuses the other",
            (false, _) => "the corporate server refuses each recipient",
        };
        self.step(what, |next, transaction| {
            next.refusals_left = refusals_left;
            transaction.verdicts = verdicts;
            match verdicts.contains(&Verdict::Accepted) {
                true => transaction.phase = Phase::Asked,
                false => transaction.answer(),
            }
        });
    }

    /// The end of the content: the corporate server takes it, or refuses.
    fn content(&mut self) {
        let journal = self.model.journal(self.number);
        self.step("the corporate server takes it", |next, transaction| {
            let taken = transaction.mask(|verdict| verdict == Verdict::Accepted);
            let message = &mut next.messages[usize::from(transaction.message)];
            transaction.phase = Phase::Inside;
            if message.journals[journal][usize::from(transaction.number)] & taken != NOBODY {
                next.broken = Some("twice: handed over what the journal holds");
            }
            for (recipient, may_take) in message.may_take.iter_mut().enumerate() {
                if taken & 1 << recipient != 0 {
                    match may_take.checked_sub(1) {
                        Some(left) => *may_take = left,
                        None => {
                            next.broken =
                                Some("twice: a recipient has it again, and no fault excuses it")
                        }
                    }
                }
            }
            message.inside |= taken;
        });
        if let Some(refusals_left) = self.state.refusals_left.checked_sub(1) {
            for verdict in [Verdict::Deferred, Verdict::Refused] {
                self.step(
                    "the corporate server refuses the content",
                    |next, transaction| {
                        next.refusals_left = refusals_left;
                        transaction.turn(&[Verdict::Accepted], verdict);
                        transaction.answer();
                    },
                );
            }
        }
    }

    fn read_250(&mut self) {
        if self.model.has(Mutation::AnswerBeforeJournal) {
            return self.step(
                "the puller answers 250, and the journal does not know",
                |_, transaction| {
                    transaction.turn(&[Verdict::Accepted], Verdict::Taken);
                    transaction.unjournaled = true;
                    transaction.phase = match transaction.linked {
                        true => Phase::Judged,
                        false => Phase::Late,
                    };
                },
            );
        }
        self.step(
            "the puller reads the corporate server's 250",
            |_, transaction| {
                transaction.phase = Phase::Journaling;
            },
        );
    }

    fn journal(&mut self) {
        let (model, number) = (self.model, self.number);
        let journal = model.journal(number);
        self.step("the journal commits", |next, transaction| {
            transaction.turn(&[Verdict::Accepted], Verdict::Taken);
            let taken = transaction.mask(|verdict| verdict == Verdict::Taken);
            let message = &mut next.messages[usize::from(transaction.message)];
            message.journals[journal][usize::from(transaction.number)] |= taken;
            match transaction.phase {
                Phase::Late => transaction.end(),
                _ => transaction.answer(),
            }
            transaction.unjournaled = false;
            if model.has(Mutation::CommitTakenForOthers) {
                answer_others(model, number, next);
            }
        });
    }
}

/// The commit of one is taken for that of its whole window.
fn answer_others(model: &Ownership, number: usize, next: &mut State) {
    let others = model.window(model.session(number));
    for other in others.filter(|other| *other != number) {
        let other = &mut next.transactions[other];
        if other.linked && matches!(other.phase, Phase::Inside | Phase::Journaling) {
            other.turn(&[Verdict::Accepted], Verdict::Taken);
            other.unjournaled = true;
            other.phase = Phase::Judged;
        }
    }
}
