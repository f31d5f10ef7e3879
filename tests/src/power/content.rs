//! Content that says which message it belongs to, and of which no two sectors are alike.

use fastrand::Rng;

use crate::message::with_subject;

/// The content of the message with this number, of about so many octets.
pub(super) fn numbered(number: usize, size: usize, chance: &mut Rng) -> Vec<u8> {
    let mut text = String::with_capacity(size + 64);
    while text.len() < size {
        let line = [chance.u64(..), chance.u64(..), chance.u64(..)];
        text.push_str(&format!(
            "{:016x}{:016x}{:016x}\r\n",
            line[0], line[1], line[2]
        ));
    }
    with_subject(&format!("number {number}"), text.as_bytes())
}

/// The number of a message, which its subject says. Reports have none.
pub(super) fn number(content: &[u8]) -> Option<usize> {
    const SUBJECT: &str = "Subject: number ";
    let mut header = content
        .split(|octet| *octet == b'\n')
        .take_while(|line| line.len() > 1);
    let digits = header.find_map(|line| std::str::from_utf8(line).ok()?.strip_prefix(SUBJECT))?;
    digits.trim_end().parse().ok()
}
