//! Every dialogue of `transcripts/`, in every way that it can be played: against the machines in
//! memory, against the real relay, against the real puller; whole, and octet by octet.
//!
//! One of them alone: `ATRN_TRANSCRIPT=odmr/two-domains cargo test -p atrn-tests --test transcripts`.

use atrn_tests::transcript::{self, Against, Room, Transcript, play_all};

fn in_memory(transcript: &Transcript, who: Against) -> bool {
    transcript.is_against(who) && transcript::is_possible_in_memory(transcript)
}

#[test]
fn edge_against_the_machine() {
    let chosen = |transcript: &Transcript| in_memory(transcript, Against::Relay);
    play_all(
        &Transcript::all(Room::Edge),
        chosen,
        transcript::play_against_server,
    );
}

#[test]
fn edge_against_the_relay() {
    let chosen = |transcript: &Transcript| transcript.is_against(Against::Relay);
    play_all(
        &Transcript::all(Room::Edge),
        chosen,
        transcript::play_against_relay,
    );
}

#[test]
fn odmr_against_the_provider() {
    let chosen = |transcript: &Transcript| in_memory(transcript, Against::Relay);
    play_all(
        &Transcript::all(Room::Odmr),
        chosen,
        transcript::play_against_provider,
    );
}

#[test]
fn odmr_against_the_customer() {
    let chosen = |transcript: &Transcript| in_memory(transcript, Against::Puller);
    play_all(
        &Transcript::all(Room::Odmr),
        chosen,
        transcript::play_against_customer,
    );
}

#[test]
fn odmr_of_both_machines() {
    let chosen = |transcript: &Transcript| transcript.is_pair();
    play_all(&Transcript::all(Room::Odmr), chosen, transcript::play_pair);
}

#[test]
fn odmr_against_the_relay() {
    let chosen = |transcript: &Transcript| transcript.is_against(Against::Relay);
    play_all(
        &Transcript::all(Room::Odmr),
        chosen,
        transcript::play_against_relay,
    );
}

#[test]
fn odmr_against_the_puller() {
    let chosen = |transcript: &Transcript| transcript.is_against(Against::Puller);
    play_all(
        &Transcript::all(Room::Odmr),
        chosen,
        transcript::play_against_puller,
    );
}

#[test]
fn reversed_against_the_sending_machine() {
    let chosen = |transcript: &Transcript| in_memory(transcript, Against::Relay);
    play_all(
        &Transcript::all(Room::Reversed),
        chosen,
        transcript::play_against_provider,
    );
}

#[test]
fn reversed_against_the_receiving_machine() {
    let chosen = |transcript: &Transcript| in_memory(transcript, Against::Puller);
    play_all(
        &Transcript::all(Room::Reversed),
        chosen,
        transcript::play_against_customer,
    );
}

#[test]
fn reversed_against_the_relay() {
    let chosen = |transcript: &Transcript| transcript.is_against(Against::Relay);
    play_all(
        &Transcript::all(Room::Reversed),
        chosen,
        transcript::play_against_relay,
    );
}

#[test]
fn reversed_against_the_puller() {
    let chosen = |transcript: &Transcript| transcript.is_against(Against::Puller);
    play_all(
        &Transcript::all(Room::Reversed),
        chosen,
        transcript::play_against_puller,
    );
}
