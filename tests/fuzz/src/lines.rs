//! Command lines out of a stream, against a reference that looks at one octet at a time.

use atrn_shared::smtp::line::{Input, Line, Lines};

use crate::case::{Case, Cuts, pieces};
use crate::reference::{LineReader, ReferenceLine};

/// Longer lines cost time and find nothing more, so the limit is near.
const LIMIT: usize = 48;

#[derive(Debug, Eq, PartialEq)]
enum Seen {
    Text(Vec<u8>),
    Control,
    TooLong,
}

/// Whatever the pieces, the lines are those of the reference.
pub fn command_lines(data: &[u8]) {
    let Some(case) = Case::read(data) else {
        return;
    };
    let limit = if case.option(0) { 4096 } else { LIMIT };
    let expected = by_reference(case.octets, limit);
    let cuts = if case.option(1) {
        Cuts::Anywhere
    } else {
        Cuts::None
    };
    let mut lines = Lines::default();
    let mut input = Input::new();
    let mut seen = Vec::new();
    for piece in pieces(case.octets, cuts, case.choices(0)) {
        input.push(piece);
        loop {
            match lines.next(&mut input, limit) {
                Line::Incomplete => break,
                Line::Text(text) => seen.push(Seen::Text(text.to_vec())),
                Line::Control => seen.push(Seen::Control),
                Line::TooLong => seen.push(Seen::TooLong),
            }
        }
        assert!(input.bytes().len() <= limit, "an unfinished line grows");
    }
    assert_eq!(seen, expected);
}

fn by_reference(octets: &[u8], limit: usize) -> Vec<Seen> {
    let mut reader = LineReader::new(octets, limit);
    let mut lines = Vec::new();
    loop {
        match reader.next_line() {
            ReferenceLine::Text(text) => lines.push(Seen::Text(text)),
            ReferenceLine::Control => lines.push(Seen::Control),
            ReferenceLine::TooLong => lines.push(Seen::TooLong),
            ReferenceLine::End => return lines,
        }
    }
}
