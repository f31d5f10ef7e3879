//! Framing of content both ways, and what content may hold, against references that look at one octet at a time.

use atrn_shared::smtp::bdat::{Chunk, write_command};
use atrn_shared::smtp::command::{self, Verb};
use atrn_shared::smtp::content::{ContentLimits, Fault, Inspector};
use atrn_shared::smtp::data::{Decoder, Encoder, Framed};
use atrn_shared::smtp::line::Input;

use crate::case::{Case, Cuts, pieces};
use crate::reference::LineReader;

/// DATA: what is decoded is what the reference decodes, and what is encoded comes out again, in whatever pieces.
pub fn data_framing(data: &[u8]) {
    let Some(case) = Case::read(data) else {
        return;
    };
    let mut reference = LineReader::new(case.octets, usize::MAX);
    let expected = reference.data();
    let (content, rest) = decode(case.octets, case.choices(0));
    match expected {
        Some(expected) => assert_eq!(
            (content, rest.as_deref()),
            (expected, Some(reference.rest()))
        ),
        None => assert_eq!(rest, None, "an end where none is"),
    }
    encode_and_decode(case);
}

/// The content, and what stands behind its end if that has come.
fn decode(octets: &[u8], choices: fastrand::Rng) -> (Vec<u8>, Option<Vec<u8>>) {
    let mut decoder = Decoder::default();
    let mut input = Input::new();
    let mut content = Vec::new();
    let mut taken = 0;
    for piece in pieces(octets, Cuts::Anywhere, choices) {
        input.push(piece);
        taken += piece.len();
        loop {
            match decoder.next(&mut input) {
                Framed::NeedInput => break,
                Framed::Content(count) => content.extend_from_slice(input.take(count)),
                Framed::End => {
                    let waiting = input.bytes().len();
                    return (content, Some(octets[taken - waiting..].to_vec()));
                }
            }
        }
        assert!(input.bytes().len() < 3, "content waits that could go on");
    }
    (content, None)
}

fn encode_and_decode(case: Case<'_>) {
    let mut wire = Vec::new();
    let mut encoder = Encoder::default();
    for piece in pieces(case.octets, Cuts::Anywhere, case.choices(1)) {
        encoder.content(piece, &mut wire);
    }
    encoder.end(&mut wire);
    let mut expected = case.octets.to_vec();
    if !(expected.is_empty() || expected.ends_with(b"\r\n")) {
        expected.extend_from_slice(b"\r\n");
    }
    assert_eq!(
        LineReader::new(&wire, usize::MAX).data(),
        Some(expected.clone())
    );
    assert_eq!(decode(&wire, case.choices(2)), (expected, Some(Vec::new())));
}

/// BDAT: its argument prints as it was read, and a chunk takes its octets and not one more.
pub fn bdat_framing(data: &[u8]) {
    let Some(case) = Case::read(data) else {
        return;
    };
    let (line, octets) = split_line(case.octets);
    let Some((Verb::Bdat, argument)) = command::split(line) else {
        return;
    };
    let Ok((count, last)) = command::parse_bdat(argument) else {
        return;
    };
    let mut printed = Vec::new();
    write_command(count, last, &mut printed);
    let printed = printed.strip_suffix(b"\r\n").expect("a command is a line");
    let again = command::split(printed).expect("a command that we print");
    assert_eq!(command::parse_bdat(again.1), Ok((count, last)));

    let mut chunk = Chunk::new(count, last);
    let mut input = Input::new();
    let mut content = Vec::new();
    let mut ended = false;
    for piece in pieces(octets, Cuts::Anywhere, case.choices(0)) {
        input.push(piece);
        while let Framed::Content(count) = chunk.next(&mut input) {
            content.extend_from_slice(input.take(count));
        }
        ended = matches!(chunk.next(&mut input), Framed::End);
        if ended {
            break;
        }
    }
    let wanted = usize::try_from(count).unwrap_or(usize::MAX);
    assert_eq!(content, octets[..wanted.min(octets.len())]);
    assert!(ended == (wanted <= octets.len()) || octets.is_empty());
}

fn split_line(octets: &[u8]) -> (&[u8], &[u8]) {
    let end = octets.windows(2).position(|pair| pair == b"\r\n");
    end.map_or((octets, &[]), |end| (&octets[..end], &octets[end + 2..]))
}

/// The first fault of content is the same in whatever pieces it comes, and the one that the reference finds.
pub fn content_inspector(data: &[u8]) {
    let Some(case) = Case::read(data) else {
        return;
    };
    let number = |bits: u8| usize::from(bits & 3);
    let limits = ContentLimits {
        octets: [u64::MAX, 200, 20, 3][number(case.options())],
        header_octets: [1 << 20, 100, 10, 2][number(case.options() >> 2)],
        received_fields: [100, 2, 1, 0][number(case.options() >> 4)],
    };
    let expected = inspect_slowly(case.octets, limits);
    for cuts in [Cuts::None, Cuts::Anywhere] {
        assert_eq!(inspect(case, limits, cuts), expected, "{cuts:?}");
    }
}

fn inspect(case: Case<'_>, limits: ContentLimits, cuts: Cuts) -> Result<bool, Fault> {
    let mut inspector = Inspector::new(limits);
    for piece in pieces(case.octets, cuts, case.choices(0)) {
        inspector.look(piece)?;
    }
    inspector.end()?;
    assert_eq!(inspector.octets(), case.octets.len() as u64);
    Ok(inspector.eight_bit())
}

/// The rules of `smtp::content`, one octet at a time: `Ok` tells whether any is 8-bit.
fn inspect_slowly(content: &[u8], limits: ContentLimits) -> Result<bool, Fault> {
    let (mut header_octets, mut in_header, mut fields) = (0, true, 0);
    let mut line = Vec::new();
    let mut at = 0;
    while at < content.len() {
        let octet = content[at];
        at += 1;
        // A limit is a limit, also where the next octet would be faulty itself.
        if at as u64 > limits.octets {
            return Err(Fault::TooLarge);
        }
        match (octet, content.get(at)) {
            (b'\r', Some(b'\n')) => {
                at += 1;
                if at as u64 > limits.octets {
                    return Err(Fault::TooLarge);
                }
                in_header &= !line.is_empty();
                header_octets += 2;
                line.clear();
            }
            (b'\r', Some(_)) if at as u64 == limits.octets => return Err(Fault::TooLarge),
            (b'\r' | b'\n', _) => return Err(Fault::BareLineEnd),
            _ => {
                line.push(octet);
                if !in_header {
                    continue;
                }
                header_octets += 1;
                if header_octets > limits.header_octets {
                    return Err(Fault::HeaderTooLong);
                }
                fields += usize::from(line.eq_ignore_ascii_case(b"received:"));
                if fields > limits.received_fields {
                    return Err(Fault::Loop);
                }
            }
        }
    }
    Ok(!content.is_ascii())
}
