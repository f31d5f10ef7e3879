//! Every state that the protocol of ownership can come to: nothing lost, nothing twice, nothing stuck. And each
//! mistake that is planted in it is found.
//!
//! `-- --nocapture` shows how many states there were. `ATRN_MODEL_FAULTS=1` adds as many faults to each search,
//! which is for a release build and a few gigabytes: the number of states grows about tenfold with each.

use std::time::Instant;

use atrn_tests::model::explorer::{CounterExample, explore};
use atrn_tests::model::ownership::{FAULTS_MAX, Mutation, Ownership};

/// A model that has outgrown this is no test any more.
const STATES_MAX: usize = 3_000_000;
const STATES_MAX_ON_REQUEST: usize = 60_000_000;

/// One process with one session.
const ONE_PULLER: [usize; 1] = [0];
/// Two processes with one journal, a session each.
const TWO_PULLERS: [usize; 2] = [0, 1];
/// Two processes with one journal, two sessions each.
const TWO_PULLERS_TWICE: [usize; 4] = [0, 0, 1, 1];

fn model(mails: &[usize], sessions: &[usize], faults: u8, refusals: u8) -> Ownership {
    Ownership {
        mails: mails.to_vec(),
        sessions: sessions.to_vec(),
        window: 1,
        faults,
        refusals,
        mutation: None,
    }
}

/// Looks at all states, and gives their number.
fn search(name: &str, mut model: Ownership) -> usize {
    let more = std::env::var("ATRN_MODEL_FAULTS").ok();
    let states_max = more.as_ref().map_or(STATES_MAX, |_| STATES_MAX_ON_REQUEST);
    let more: u8 = more.map_or(0, |more| {
        more.parse().expect("ATRN_MODEL_FAULTS is a number")
    });
    model.faults = (model.faults + more).min(FAULTS_MAX);
    let began = Instant::now();
    match explore(&model, states_max) {
        Ok(explored) => {
            let faults = model.faults;
            println!(
                "{name}, {faults} faults: {explored}, {:.1?}",
                began.elapsed()
            );
            assert!(explored.ends > 0);
            explored.states
        }
        Err(found) => panic!("{name}: {found}"),
    }
}

// covers: OWN-1, OWN-2, OWN-3, OWN-4, OWN-5, OWN-6, OWN-9, R-DUP
#[test]
fn three_mails_and_two_pullers() {
    let states = search("three mails", model(&[1, 2, 1], &TWO_PULLERS, 1, 1));
    assert!(
        states > 500_000,
        "the model has lost most of its states: {states}"
    );
}

// covers: OWN-4, OWN-5, OWN-6, R-DUP
#[test]
fn faults_upon_faults() {
    search("one mail", model(&[2], &TWO_PULLERS, 2, 1));
}

// covers: OWN-4, OWN-5, R-DUP
#[test]
fn four_sessions_of_two_pullers() {
    search("four sessions", model(&[2], &TWO_PULLERS_TWICE, 1, 2));
}

/// A session may have two messages under way.
fn window(mails: &[usize], sessions: &[usize], faults: u8, refusals: u8) -> Ownership {
    Ownership {
        window: 2,
        ..model(mails, sessions, faults, refusals)
    }
}

// covers: OWN-4, OWN-5, OWN-6, R-DUP
#[test]
fn two_messages_under_way() {
    let states = search("a window of two", window(&[1, 2, 1], &ONE_PULLER, 1, 1));
    assert!(states > 100_000, "the window has lost its states: {states}");
}

// covers: OWN-4, OWN-5, OWN-6, R-DUP
#[test]
fn faults_upon_faults_with_two_messages_under_way() {
    search("a window of two", window(&[1, 2], &ONE_PULLER, 2, 1));
}

// covers: OWN-4, OWN-5, OWN-6, R-DUP
#[test]
fn two_messages_under_way_in_each_of_two_pullers() {
    search("two windows of two", window(&[1, 1], &TWO_PULLERS, 1, 1));
}

/// The way to what a planted mistake breaks.
fn found(mutation: Mutation) -> CounterExample {
    found_in(mutation, model(&[2], &TWO_PULLERS, 2, 1))
}

/// The same for a mistake with two messages under way.
fn found_in_window(mutation: Mutation) -> CounterExample {
    found_in(mutation, window(&[1, 1], &ONE_PULLER, 1, 1))
}

fn found_in(mutation: Mutation, model: Ownership) -> CounterExample {
    let model = Ownership {
        mutation: Some(mutation),
        ..model
    };
    let found = explore(&model, STATES_MAX).expect_err("the mistake is found");
    println!("{mutation:?}: {found}");
    found
}

#[track_caller]
fn loses(found: &CounterExample) {
    assert!(found.wrong.starts_with("lost"), "{found}");
}

#[track_caller]
fn delivers_twice(found: &CounterExample) {
    assert!(found.wrong.starts_with("twice"), "{found}");
}

// covers: R5321-15
#[test]
fn a_250_before_the_commit_is_found() {
    loses(&found(Mutation::AcceptBeforeCommit));
}

// covers: OWN-6
#[test]
fn a_settlement_before_the_250_is_found() {
    loses(&found(Mutation::SettleBeforeAnswer));
}

// covers: R-DUP
#[test]
fn a_258_to_mail_for_what_was_taken_in_part_is_found() {
    loses(&found(Mutation::KnownInPartIsKnown));
}

// covers: R-DUP
#[test]
fn a_250_before_the_journal_is_found() {
    delivers_twice(&found(Mutation::AnswerBeforeJournal));
}

// covers: R-DUP
#[test]
fn separate_journals_are_found() {
    delivers_twice(&found(Mutation::SeparateJournals));
}

// covers: R-DUP
#[test]
fn an_id_in_two_hands_is_found() {
    delivers_twice(&found(Mutation::InProgressNotExcluded));
}

// covers: R-DUP
#[test]
fn a_new_id_for_the_rest_is_found() {
    delivers_twice(&found(Mutation::NewIdForTheRest));
}

// covers: OWN-6
#[test]
fn an_answer_out_of_its_turn_is_found() {
    loses(&found_in_window(Mutation::AnswerOutOfOrder));
}

// covers: OWN-6
#[test]
fn a_settlement_of_another_message_is_found() {
    loses(&found_in_window(Mutation::SettleNewest));
}

// covers: R-DUP
#[test]
fn a_commit_that_is_taken_for_that_of_others_is_found() {
    delivers_twice(&found_in_window(Mutation::CommitTakenForOthers));
}

// covers: OWN-4, R-DUP
#[test]
fn a_window_that_is_forgotten_with_its_link_is_found() {
    delivers_twice(&found_in_window(Mutation::WindowForgottenOnLoss));
}
