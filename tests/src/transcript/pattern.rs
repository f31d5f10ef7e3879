//! Placeholders: what a line of a script matches, and what it says when the script speaks.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::peer::{cram_md5, plain};

/// Words that were seen or said, and the account.
#[derive(Debug)]
pub(super) struct Words {
    account: String,
    secret: String,
    bound: HashMap<String, String>,
}

impl Words {
    pub(super) fn new(account: &str, secret: &str) -> Self {
        Self {
            account: account.to_owned(),
            secret: secret.to_owned(),
            bound: HashMap::new(),
        }
    }

    /// The octets that the script says for this text.
    pub(super) fn say(&mut self, text: &str) -> Vec<u8> {
        let mut said = String::new();
        let mut rest = text;
        while let Some((before, name, after)) = placeholder(rest) {
            said.push_str(before);
            said.push_str(&self.word(name));
            rest = after;
        }
        said.push_str(rest);
        // Where nothing must stand, nothing is said.
        unescape(
            &said
                .replace(" …", " text")
                .replace("=…", "=1000")
                .replace('…', ""),
        )
    }

    /// Whether a line is what the text asks for; binds the words of its placeholders.
    pub(super) fn matches(&mut self, text: &str, line: &str) -> bool {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, name, after)) = placeholder(rest) {
            literal(before, &mut pieces);
            match self.computed(name) {
                Some(word) => pieces.push(Piece::Literal(word)),
                None => pieces.push(Piece::Word(name.to_owned())),
            }
            rest = after;
        }
        literal(rest, &mut pieces);
        let mut found = Vec::new();
        if !matches(&pieces, line, &mut found) {
            return false;
        }
        self.bound.extend(found);
        true
    }

    fn word(&mut self, name: &str) -> String {
        if let Some(word) = self.computed(name) {
            return word;
        }
        let word = match name {
            "challenge" => BASE64.encode("<1896.697170952@relay.example.net>"),
            _ => name.to_owned(),
        };
        self.bound.insert(name.to_owned(), word.clone());
        word
    }

    fn computed(&self, name: &str) -> Option<String> {
        match name {
            "plain" => Some(plain(&self.account, &self.secret)),
            "cram-md5" => {
                let challenge = self.bound.get("challenge")?;
                Some(cram_md5(challenge, &self.account, &self.secret))
            }
            "account" => Some(self.account.clone()),
            _ => self.bound.get(name).cloned(),
        }
    }
}

enum Piece {
    Any,
    Literal(String),
    Word(String),
}

fn literal(text: &str, pieces: &mut Vec<Piece>) {
    for (number, part) in text.split('…').enumerate() {
        if number > 0 {
            pieces.push(Piece::Any);
        }
        if !part.is_empty() {
            pieces.push(Piece::Literal(part.to_owned()));
        }
    }
}

fn matches(pieces: &[Piece], line: &str, found: &mut Vec<(String, String)>) -> bool {
    let Some((first, rest)) = pieces.split_first() else {
        return line.is_empty();
    };
    let ends = line.char_indices().map(|(at, _)| at).chain([line.len()]);
    match first {
        Piece::Literal(text) => line
            .strip_prefix(text.as_str())
            .is_some_and(|after| matches(rest, after, found)),
        Piece::Any => ends
            .into_iter()
            .any(|end| matches(rest, &line[end..], found)),
        Piece::Word(name) => {
            let length = line.find(' ').unwrap_or(line.len());
            let candidates: Vec<usize> = ends.filter(|&end| end > 0 && end <= length).collect();
            // The longest first: `{word}` at the end takes the whole word.
            candidates.into_iter().rev().any(|end| {
                let before = found.len();
                found.push((name.clone(), line[..end].to_owned()));
                let fits = matches(rest, &line[end..], found);
                if !fits {
                    found.truncate(before);
                }
                fits
            })
        }
    }
}

/// The text before the first placeholder, its name, and the text behind it.
fn placeholder(text: &str) -> Option<(&str, &str, &str)> {
    let begin = text.find('{')?;
    let end = begin + text[begin..].find('}')?;
    Some((&text[..begin], &text[begin + 1..end], &text[end + 1..]))
}

/// Escapes to octets.
fn unescape(text: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'\\' {
            octets.push(first);
            continue;
        }
        let Some((&kind, after)) = rest.split_first() else {
            break;
        };
        rest = after;
        match kind {
            b'r' => octets.push(b'\r'),
            b'n' => octets.push(b'\n'),
            b't' => octets.push(b'\t'),
            b'0' => octets.push(0),
            b'x' => {
                let hex = rest
                    .get(..2)
                    .and_then(|hex| std::str::from_utf8(hex).ok())
                    .unwrap_or("");
                octets.push(u8::from_str_radix(hex, 16).expect("\\xNN"));
                rest = &rest[2..];
            }
            other => octets.push(other),
        }
    }
    octets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_match_and_bind() {
        let mut words = Words::new("corp", "secret");
        assert!(words.matches("450 4.7.1 …", "450 4.7.1 not yours"));
        assert!(!words.matches("450 4.7.1 …", "453 4.7.0 nothing"));
        assert!(words.matches("MAIL FROM:<{from}>…", "MAIL FROM:<a@b.example> SIZE=1"));
        assert!(words.matches("x {from} y", "x a@b.example y"));
        assert!(!words.matches("x {from} y", "x c@b.example y"));
        assert!(words.matches("334 {challenge}", "334 PDE+"));
        assert_eq!(words.say("{challenge}"), b"PDE+");
    }

    #[test]
    fn the_example_of_the_rfc_is_computed_both_ways() {
        // RFC 2195 §2.
        let mut words = Words::new("tim", "tanstaaftanstaaf");
        let challenge = "PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+";
        assert!(words.matches("334 {challenge}", &format!("334 {challenge}")));
        let response = "dGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw";
        assert_eq!(words.say("{cram-md5}"), response.as_bytes());
        assert!(words.matches("{cram-md5}", response));
        assert!(!words.matches("{cram-md5}", "dGlt"));
    }

    #[test]
    fn escapes_are_octets() {
        assert_eq!(Words::new("", "").say(r"a\r\n\0\x80\\b"), b"a\r\n\0\x80\\b");
    }
}
