//! Who owns a message: the sender, the edge and the queue of the relay, two pullers, the corporate server.
//!
//! The model has what the promise "nothing lost, nothing twice" rests on and leaves out the rest:
//!
//! * the sender repeats mail for which he saw no 250, and each time it is a new message;
//! * the queue has a durable part and a part in memory: what waits for its commit, leases, settlements under way;
//! * a session has a window of messages under way: each goes out in one flight, ahead of the answers to those before it,
//!   the puller hands several over side by side, and answers go back in their order;
//! * each message on the wire can be lost with its connection, on one side first or on both. What the puller does
//!   behind a lost connection goes on, as in the program;
//! * the journal keeps which recipients of a delivery id were taken, and an id that one session has in hand waits in
//!   the others;
//! * the corporate server takes or refuses each recipient and each content as it likes.
//!
//! Every party can crash at every step. Faults and refusals are limited in number, so that all states can be looked
//! at. [`Mutation`]s are mistakes that a programmer could make: each must be found.

mod faults;
mod state;
mod steps;

pub use self::state::{Message, Phase, Sender, Sending, Stage, State, Transaction, Verdict};
pub use self::steps::Step;

use std::ops::Range;

use super::explorer::{Model, Move};

/// Mail that the sender has, at most.
pub const MAILS_MAX: usize = 3;
/// Faults, at most.
pub const FAULTS_MAX: u8 = 3;
/// Recipients of a mail, at most.
pub const RECIPIENTS_MAX: usize = 2;
/// Messages under way in the sessions of all pullers, at most.
pub const TRANSACTIONS_MAX: usize = 4;

/// What is modelled.
#[derive(Clone, Debug)]
pub struct Ownership {
    /// How many recipients each mail has.
    pub mails: Vec<usize>,
    /// Which puller process each session belongs to.
    pub sessions: Vec<usize>,
    /// Messages that a session may have under way.
    pub window: usize,
    /// Losses and crashes, in all.
    pub faults: u8,
    /// Recipients and contents that the corporate server refuses, in all.
    pub refusals: u8,
    /// The mistake in it, if there is one.
    pub mutation: Option<Mutation>,
}

/// Mistakes. Each breaks a promise.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mutation {
    /// The sender is answered before the queue's commit.
    AcceptBeforeCommit,
    /// The relay is answered before the journal's commit.
    AnswerBeforeJournal,
    /// The puller answers a message of a window before those that came before it.
    AnswerOutOfOrder,
    /// The puller takes the journal's commit of one message of a window for that of the others.
    CommitTakenForOthers,
    /// Another session may begin an id that one has in hand.
    InProgressNotExcluded,
    /// MAIL is answered 258 for a delivery that was taken in part.
    KnownInPartIsKnown,
    /// What is left of a delivery that was taken in part goes on under a new id. The older one may still be under way
    /// on a connection that the relay has given up, and what the journal then knows of it says nothing of the new one.
    NewIdForTheRest,
    /// Each puller has a journal of its own.
    SeparateJournals,
    /// The relay settles what it has sent, before it has read the answer.
    SettleBeforeAnswer,
    /// The relay takes an answer for that to the message that it has sent last.
    SettleNewest,
    /// The puller awaits and writes down no more than the oldest of a window when the relay is gone.
    WindowForgottenOnLoss,
}

impl Ownership {
    fn has(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// Places for messages that are under way.
    fn transactions(&self) -> usize {
        self.sessions.len() * self.window
    }

    /// The session of such a place.
    fn session(&self, number: usize) -> usize {
        number / self.window
    }

    /// The places of a session, in the order of the wire.
    fn window(&self, session: usize) -> Range<usize> {
        session * self.window..(session + 1) * self.window
    }

    /// The puller of such a place.
    fn puller(&self, number: usize) -> usize {
        self.sessions[self.session(number)]
    }

    /// Which journal is written there.
    fn journal(&self, number: usize) -> usize {
        match self.has(Mutation::SeparateJournals) {
            true => self.puller(number),
            false => 0,
        }
    }
}

impl Model for Ownership {
    type State = State;
    type Step = Step;

    fn start(&self) -> State {
        State::start(self.faults, self.refusals)
    }

    fn moves(&self, state: &State, moves: &mut Vec<Move<Self>>) {
        steps::sender(self, state, moves);
        steps::relay(self, state, moves);
        for number in 0..self.transactions() {
            steps::puller(self, state, number, moves);
        }
        if state.faults_left > 0 {
            faults::all(self, state, moves);
        }
        for taken in moves {
            taken.next.forget(self);
        }
    }

    fn wrong(&self, state: &State) -> Option<String> {
        if let Some(broken) = state.broken {
            return Some(broken.to_owned());
        }
        let lost = (0..state.messages.len()).find(|at| state.is_lost(*at))?;
        Some(format!(
            "lost: a recipient of message {lost}, which was acknowledged"
        ))
    }

    fn is_done(&self, state: &State) -> bool {
        let sent = usize::from(state.sender.mail) == self.mails.len();
        let idle = state
            .transactions
            .iter()
            .all(|transaction| transaction.phase == Phase::Idle);
        let messages = state.messages.iter();
        sent && idle
            && messages
                .into_iter()
                .all(|message| matches!(message.stage, Stage::Over | Stage::Unused))
    }
}
