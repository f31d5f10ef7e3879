//! DNS messages, as far as a server with a table needs them (RFC 1035 §4).

use std::net::IpAddr;

/// What goes into a datagram; more is sent over TCP.
pub(super) const UDP_OCTETS_MAX: usize = 1_232;

const A: u16 = 1;
const CNAME: u16 = 5;
const SOA: u16 = 6;
const PTR: u16 = 12;
const MX: u16 = 15;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const INTERNET: u16 = 1;

/// A type of records.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Kind(pub(super) u16);

/// What a record says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Data {
    Address(IpAddr),
    Alias(String),
    Mx(u16, String),
    Pointer(String),
    Text(Vec<u8>),
}

impl Data {
    pub(super) fn kind(&self) -> Kind {
        Kind(match self {
            Self::Address(IpAddr::V4(_)) => A,
            Self::Address(IpAddr::V6(_)) => AAAA,
            Self::Alias(_) => CNAME,
            Self::Mx(..) => MX,
            Self::Pointer(_) => PTR,
            Self::Text(_) => TXT,
        })
    }

    pub(super) fn alias(&self) -> Option<String> {
        match self {
            Self::Alias(target) => Some(target.clone()),
            _ => None,
        }
    }

    fn octets(&self) -> Vec<u8> {
        match self {
            Self::Address(IpAddr::V4(address)) => address.octets().to_vec(),
            Self::Address(IpAddr::V6(address)) => address.octets().to_vec(),
            Self::Alias(name) | Self::Pointer(name) => name_octets(name),
            Self::Mx(preference, exchange) => {
                let mut octets = preference.to_be_bytes().to_vec();
                octets.extend(name_octets(exchange));
                octets
            }
            Self::Text(text) => {
                let strings = text.chunks(255);
                let octets = strings.flat_map(|string| {
                    let length = u8::try_from(string.len()).unwrap_or(u8::MAX);
                    [&[length], string].concat()
                });
                octets.collect()
            }
        }
    }
}

/// A question.
#[derive(Debug)]
pub(super) struct Asked {
    id: [u8; 2],
    /// Name, type and class, as they came.
    question: Vec<u8>,
    pub(super) name: String,
    pub(super) kind: u16,
}

impl Asked {
    /// One question of a message; anything else is no question.
    pub(super) fn parse(message: &[u8]) -> Option<Self> {
        let id = [*message.first()?, *message.get(1)?];
        let mut labels = Vec::new();
        let mut at = 12;
        loop {
            let length = usize::from(*message.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            let label = message.get(at..at + length)?;
            labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
            at += length;
        }
        let kind = u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]);
        Some(Self {
            id,
            question: message.get(12..at + 4)?.to_vec(),
            name: labels.join("."),
            kind,
        })
    }

    /// Records; without any, that there are none of this type, or no such name.
    pub(super) fn answer(&self, records: &[(String, Data)], exists: bool, ttl: u32) -> Vec<u8> {
        let code = if exists || !records.is_empty() { 0 } else { 3 };
        let authorities = u16::from(records.is_empty());
        let count = u16::try_from(records.len()).unwrap_or(u16::MAX);
        let mut message = self.head(code, count, authorities, 0);
        for (name, data) in records {
            record(&mut message, name, data.kind().0, ttl, &data.octets());
        }
        if records.is_empty() {
            // How long that is so (RFC 2308 §3).
            let mut data = name_octets("ns.example");
            data.extend(name_octets("hostmaster.example"));
            let numbers = [1, 3_600, 600, 86_400, ttl];
            data.extend(numbers.iter().flat_map(|number: &u32| number.to_be_bytes()));
            record(&mut message, "", SOA, ttl, &data);
        }
        message
    }

    /// No answer but a code.
    pub(super) fn refusal(&self, code: u8) -> Vec<u8> {
        self.head(code, 0, 0, 0)
    }

    /// Ask again, over TCP.
    pub(super) fn truncated(&self) -> Vec<u8> {
        self.head(0, 0, 0, 0x02)
    }

    /// An answer by its head, and octets in place of its records.
    pub(super) fn garbage(&self) -> Vec<u8> {
        let mut message = self.head(0, 3, 0, 0);
        message.extend([0xff; 40]);
        message
    }

    /// An answer with the right number to a question that nobody asked.
    pub(super) fn about_another(&self) -> Vec<u8> {
        let mut question = name_octets("stranger.example");
        question.extend(A.to_be_bytes());
        question.extend(INTERNET.to_be_bytes());
        let other = Self {
            id: self.id,
            question,
            name: "stranger.example".to_owned(),
            kind: A,
        };
        let stranger = Data::Address([192, 0, 2, 66].into());
        other.answer(&[(other.name.clone(), stranger)], true, 300)
    }

    fn head(&self, code: u8, answers: u16, authorities: u16, flag: u8) -> Vec<u8> {
        let mut message = self.id.to_vec();
        // An answer, to a question that wanted recursion, which is available.
        message.extend([0x81 | flag, 0x80 | code, 0, 1]);
        message.extend(answers.to_be_bytes());
        message.extend(authorities.to_be_bytes());
        message.extend([0, 0]);
        message.extend(&self.question);
        message
    }
}

fn record(message: &mut Vec<u8>, name: &str, kind: u16, ttl: u32, data: &[u8]) {
    message.extend(name_octets(name));
    message.extend(kind.to_be_bytes());
    message.extend(INTERNET.to_be_bytes());
    message.extend(ttl.to_be_bytes());
    let length = u16::try_from(data.len()).unwrap_or(u16::MAX);
    message.extend(length.to_be_bytes());
    message.extend(data);
}

fn name_octets(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|label| !label.is_empty());
    let mut octets: Vec<u8> = labels
        .flat_map(|label| {
            let length = u8::try_from(label.len()).unwrap_or(u8::MAX);
            [&[length], label.as_bytes()].concat()
        })
        .collect();
    octets.push(0);
    octets
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: &[u8] =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04Host\x07example\x00\x00\x01\x00\x01";

    #[test]
    fn a_question_is_read_and_answered() {
        let asked = Asked::parse(QUESTION).unwrap();
        assert_eq!((asked.name.as_str(), asked.kind), ("host.example", A));
        let address = Data::Address([192, 0, 2, 1].into());
        let answer = asked.answer(&[("host.example".to_owned(), address)], true, 300);
        let expected = [
            b"\x12\x34\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00",
            &QUESTION[12..],
            b"\x04host\x07example\x00\x00\x01\x00\x01\x00\x00\x01\x2c\x00\x04\xc0\x00\x02\x01",
        ];
        assert_eq!(answer, expected.concat());
        assert_eq!(asked.answer(&[], false, 300)[3], 0x83);
        assert_eq!(asked.answer(&[], true, 300)[3], 0x80);
        for length in 0..QUESTION.len() {
            assert!(Asked::parse(&QUESTION[..length]).is_none(), "{length}");
        }
    }
}
