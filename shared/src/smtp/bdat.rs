//! BDAT framing (RFC 3030): so many octets, exactly.

use super::data::Framed;
use super::line::Input;

/// Counts one chunk's octets.
#[derive(Debug)]
pub struct Chunk {
    left: u64,
    /// Whether the message ends with this chunk.
    pub last: bool,
}

impl Chunk {
    /// A chunk of `octets`.
    #[must_use]
    pub fn new(octets: u64, last: bool) -> Self {
        Self { left: octets, last }
    }

    /// Counts what stands at the front of the input.
    pub fn next(&mut self, input: &mut Input) -> Framed {
        if self.left == 0 {
            return Framed::End;
        }
        let waiting = input.bytes().len();
        if waiting == 0 {
            return Framed::NeedInput;
        }
        let count = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(waiting);
        self.left -= count as u64;
        Framed::Content(count)
    }
}

/// Appends `BDAT octets [LAST]`, behind which exactly that many octets must follow.
pub fn write_command(octets: u64, last: bool, output: &mut Vec<u8>) {
    let last = if last { " LAST" } else { "" };
    output.extend_from_slice(format!("BDAT {octets}{last}\r\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers: R3030-1
    #[test]
    fn a_chunk_takes_its_octets_and_no_more_in_any_split() {
        let octets = b"\r\n.\r\nabcNOOP\r\n";
        for piece in 1..=octets.len() {
            let mut input = Input::new();
            let mut chunk = Chunk::new(8, true);
            let mut parts = octets.chunks(piece);
            let mut content = Vec::new();
            loop {
                match chunk.next(&mut input) {
                    Framed::NeedInput => input.push(parts.next().unwrap()),
                    Framed::Content(count) => content.extend_from_slice(input.take(count)),
                    Framed::End => break,
                }
            }
            assert_eq!(content, b"\r\n.\r\nabc");
        }
    }

    #[test]
    fn an_empty_chunk_ends_at_once() {
        assert_eq!(Chunk::new(0, true).next(&mut Input::new()), Framed::End);
    }
}
