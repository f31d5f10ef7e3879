//! What goes wrong: connections that are lost with what is on them, and crashes.
//!
//! A crash is over in one step: a party that is down and one that does nothing are alike. A connection ends for
//! both sides at once, or for one side first while what it has sent still arrives.

use super::super::explorer::Kind;
use super::state::{Phase, Sending, Stage, State, Transaction, Verdict};
use super::steps::{Moves, Step, add};
use super::{Mutation, Ownership};

/// Every fault that can strike now.
pub(super) fn all(model: &Ownership, state: &State, moves: &mut Moves) {
    let mut faults = Faults {
        model,
        state,
        moves,
    };
    if usize::from(state.sender.mail) < model.mails.len() {
        // Where only the content is lost, nothing has happened but that he sends it again.
        faults.add(
            None,
            "the sender crashes, or loses his connection: he sends it again",
            send_again,
        );
    }
    faults.relay();
    for session in 0..model.sessions.len() {
        faults.links(model, session);
    }
    for number in 0..model.transactions() {
        faults.target(number);
    }
    let busy = |puller: &usize| {
        let mut own = transactions_of(model, *puller);
        own.any(|number| state.transactions[number].phase != Phase::Idle)
    };
    for puller in model.sessions.iter().copied().filter(busy) {
        let first = transactions_of(model, puller).next();
        faults.add(first, "its puller crashes", |next| {
            for number in transactions_of(model, puller) {
                crash(next, number);
            }
        });
    }
    faults.add(None, "the corporate server crashes", |next| {
        for number in 0..model.transactions() {
            lose_target(next, number);
        }
    });
}

fn transactions_of(model: &Ownership, puller: usize) -> impl Iterator<Item = usize> {
    (0..model.transactions()).filter(move |number| model.puller(*number) == puller)
}

struct Faults<'a> {
    model: &'a Ownership,
    state: &'a State,
    moves: &'a mut Moves,
}

impl Faults<'_> {
    fn add(&mut self, number: Option<usize>, what: &'static str, strike: impl FnOnce(&mut State)) {
        let mut next = *self.state;
        strike(&mut next);
        if next == *self.state {
            return;
        }
        next.faults_left -= 1;
        let step = Step {
            session: number.map(|number| self.model.session(number)),
            message: number.map(|number| usize::from(self.state.transactions[number].message)),
            what,
        };
        add(self.moves, Kind::Fault, step, next);
    }

    /// The relay crashes: what is in memory is gone. What it had sent may still arrive at each puller, or not: of a
    /// window what was sent first.
    fn relay(&mut self) {
        let model = self.model;
        let sessions = model.sessions.len();
        let mut arrive = vec![0; sessions];
        loop {
            self.add(None, "the relay crashes", |next| {
                for message in &mut next.messages {
                    message.settling = None;
                    if message.stage == Stage::Pending {
                        message.stage = Stage::Gone;
                    }
                }
                send_again(next);
                for (session, arrive) in arrive.iter().enumerate() {
                    cut_behind(model, next, session, *arrive);
                }
            });
            // The next of all combinations.
            let can_grow = |session: &usize| arrive[*session] < self.on_the_wire(*session);
            let Some(session) = (0..sessions).find(can_grow) else {
                return;
            };
            arrive[session] += 1;
            arrive[..session].fill(0);
        }
    }

    fn links(&mut self, model: &Ownership, session: usize) {
        let first = session * model.window;
        if !self.state.transactions[first].linked {
            return;
        }
        for arrive in 0..=self.on_the_wire(session) {
            let what = match arrive {
                0 => "the connection of relay and puller is lost with what is on it",
                _ => "the relay loses the connection; what it has sent still arrives",
            };
            self.add(Some(first), what, |next| {
                cut_behind(model, next, session, arrive);
            });
        }
    }

    /// How many of a session's messages may arrive or not.
    fn on_the_wire(&self, session: usize) -> usize {
        let window = self.model.window(session);
        let window = &self.state.transactions[window];
        window
            .iter()
            .filter(|transaction| before_content(transaction))
            .count()
    }

    fn target(&mut self, number: usize) {
        let what = "the connection to the corporate server is lost";
        self.add(Some(number), what, |next| lose_target(next, number));
    }
}

/// A session is lost to the relay. Of what the puller has not asked for yet, so many still arrive.
fn cut_behind(model: &Ownership, state: &mut State, session: usize, mut arrive: usize) {
    for number in model.window(session) {
        let transaction = &mut state.transactions[number];
        if before_content(transaction) && arrive > 0 {
            arrive -= 1;
            transaction.linked = false;
        } else if model.has(Mutation::WindowForgottenOnLoss) && number % model.window > 0 {
            transaction.end();
        } else {
            cut(transaction);
        }
    }
}

/// Without a 250 the mail stays the sender's.
fn send_again(state: &mut State) {
    state.sender.phase = Sending::Sent;
    state.sender.message = None;
}

/// Whether the transaction ends when the relay's stream does (OWN-2, OWN-3).
fn before_content(transaction: &Transaction) -> bool {
    matches!(
        transaction.phase,
        Phase::Offered | Phase::Begun | Phase::Asked
    )
}

/// The relay is gone. What the corporate server has in whole is waited for and journaled all the same (OWN-4).
fn cut(transaction: &mut Transaction) {
    match transaction.phase {
        Phase::Idle => {}
        Phase::Content | Phase::Inside | Phase::Journaling => transaction.linked = false,
        Phase::Judged | Phase::Answered | Phase::Late if transaction.unjournaled => {
            transaction.linked = false;
            transaction.phase = Phase::Late;
        }
        _ => transaction.end(),
    }
}

fn crash(state: &mut State, number: usize) {
    excuse(state, number);
    state.transactions[number].end();
}

/// Without the corporate server's word the relay hears 451: the message may be inside or not.
fn lose_target(state: &mut State, number: usize) {
    let phase = state.transactions[number].phase;
    if matches!(
        phase,
        Phase::Begun | Phase::Asked | Phase::Content | Phase::Inside
    ) {
        excuse(state, number);
        let transaction = &mut state.transactions[number];
        transaction.turn(&[Verdict::Accepted, Verdict::Unasked], Verdict::Deferred);
        transaction.answer();
    }
}

/// The one window that cannot be closed: the corporate server has the message, and the journal does not know.
fn excuse(state: &mut State, number: usize) {
    let transaction = state.transactions[number];
    if !matches!(transaction.phase, Phase::Inside | Phase::Journaling) {
        return;
    }
    let taken = transaction.mask(|verdict| verdict == Verdict::Accepted);
    let message = &mut state.messages[usize::from(transaction.message)];
    for (recipient, may_take) in message.may_take.iter_mut().enumerate() {
        *may_take += u8::from(taken & 1 << recipient != 0);
    }
}
