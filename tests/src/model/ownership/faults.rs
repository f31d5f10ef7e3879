//! What goes wrong: connections that are lost with what is on them, and crashes.
//!
//! A crash is over in one step: a party that is down and one that does nothing are alike. A connection ends for
//! both sides at once, or for one side first while what it has sent still arrives.

use super::super::explorer::Kind;
use super::Ownership;
use super::state::{Phase, Sending, Session, Stage, State, Verdict};
use super::steps::{Moves, Step, add};

/// Every fault that can strike now.
pub(super) fn all(model: &Ownership, state: &State, moves: &mut Moves) {
    let mut faults = Faults { state, moves };
    if usize::from(state.sender.mail) < model.mails.len() {
        // Where only the content is lost, nothing has happened but that he sends it again.
        faults.add(
            None,
            "the sender crashes, or loses his connection: he sends it again",
            send_again,
        );
    }
    faults.relay();
    for number in 0..model.sessions.len() {
        faults.links(number);
    }
    for puller in model
        .sessions
        .iter()
        .copied()
        .filter(|puller| puller_is_busy(model, state, *puller))
    {
        let of_puller = model
            .sessions
            .iter()
            .enumerate()
            .filter(|(_, owner)| **owner == puller);
        let sessions: Vec<usize> = of_puller.map(|(number, _)| number).collect();
        faults.add(sessions.first().copied(), "its puller crashes", |next| {
            for number in sessions {
                crash(next, number);
            }
        });
    }
    faults.add(None, "the corporate server crashes", |next| {
        for number in 0..model.sessions.len() {
            lose_target(next, number);
        }
    });
}

fn puller_is_busy(model: &Ownership, state: &State, puller: usize) -> bool {
    let sessions = state.sessions.iter().zip(&model.sessions);
    let mut own = sessions.filter(|(_, owner)| **owner == puller);
    own.any(|(session, _)| session.phase != Phase::Idle)
}

struct Faults<'a> {
    state: &'a State,
    moves: &'a mut Moves,
}

impl Faults<'_> {
    fn add(&mut self, session: Option<usize>, what: &'static str, strike: impl FnOnce(&mut State)) {
        let mut next = *self.state;
        strike(&mut next);
        if next == *self.state {
            return;
        }
        next.faults_left -= 1;
        let message = session.map(|number| usize::from(self.state.sessions[number].message));
        add(
            self.moves,
            Kind::Fault,
            Step {
                session,
                message,
                what,
            },
            next,
        );
    }

    /// The relay crashes: what is in memory is gone. What it had sent may still arrive at each puller, or not.
    fn relay(&mut self) {
        let undecided: Vec<usize> = (0..self.state.sessions.len())
            .filter(|number| before_content(&self.state.sessions[*number]))
            .collect();
        for arrives in 0..1_usize << undecided.len() {
            self.add(None, "the relay crashes", |next| {
                for message in &mut next.messages {
                    message.settling = None;
                    if message.stage == Stage::Pending {
                        message.stage = Stage::Gone;
                    }
                }
                send_again(next);
                for number in 0..next.sessions.len() {
                    let place = undecided.iter().position(|other| *other == number);
                    match place.is_some_and(|place| arrives & 1 << place != 0) {
                        true => next.sessions[number].linked = false,
                        false => cut(&mut next.sessions[number]),
                    }
                }
            });
        }
    }

    fn links(&mut self, number: usize) {
        let session = &self.state.sessions[number];
        if session.linked {
            self.add(
                Some(number),
                "the connection of relay and puller is lost with what is on it",
                |next| {
                    cut(&mut next.sessions[number]);
                },
            );
        }
        if session.linked && before_content(session) {
            let what = "the relay loses the connection; what it has sent still arrives";
            self.add(Some(number), what, |next| {
                next.sessions[number].linked = false
            });
        }
        self.add(
            Some(number),
            "the connection to the corporate server is lost",
            |next| {
                lose_target(next, number);
            },
        );
    }
}

/// Without a 250 the mail stays the sender's.
fn send_again(state: &mut State) {
    state.sender.phase = Sending::Sent;
    state.sender.message = None;
}

/// Whether the transaction ends when the relay's stream does (OWN-2, OWN-3).
fn before_content(session: &Session) -> bool {
    matches!(session.phase, Phase::Offered | Phase::Begun | Phase::Asked)
}

/// The relay is gone. What the corporate server has in whole is waited for and journaled all the same (OWN-4).
fn cut(session: &mut Session) {
    match session.phase {
        Phase::Idle => {}
        Phase::Content | Phase::Inside | Phase::Journaling => session.linked = false,
        Phase::Answered | Phase::Late if session.unjournaled => {
            session.linked = false;
            session.phase = Phase::Late;
        }
        _ => session.end(),
    }
}

fn crash(state: &mut State, number: usize) {
    excuse(state, number);
    state.sessions[number].end();
}

/// Without the corporate server's word the relay hears 451: the message may be inside or not.
fn lose_target(state: &mut State, number: usize) {
    let phase = state.sessions[number].phase;
    if matches!(
        phase,
        Phase::Begun | Phase::Asked | Phase::Content | Phase::Inside
    ) {
        excuse(state, number);
        let session = &mut state.sessions[number];
        session.turn(&[Verdict::Accepted, Verdict::Unasked], Verdict::Deferred);
        session.answer();
    }
}

/// The one window that cannot be closed: the corporate server has the message, and the journal does not know.
fn excuse(state: &mut State, number: usize) {
    let session = state.sessions[number];
    if !matches!(session.phase, Phase::Inside | Phase::Journaling) {
        return;
    }
    let taken = session.mask(|verdict| verdict == Verdict::Accepted);
    let message = &mut state.messages[usize::from(session.message)];
    for (recipient, may_take) in message.may_take.iter_mut().enumerate() {
        *may_take += u8::from(taken & 1 << recipient != 0);
    }
}
