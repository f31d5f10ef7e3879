//! What the mail process and the resolver child say to each other: a question a frame, an answer a frame.
//!
//! Pure functions from octets to values and back. The mail process takes the child for hostile: it may have been captured by
//! what a name server sent it. So every frame is read with limits, nothing in it sets the size of anything before it is
//! there, and a frame that is not exactly right is no frame at all. The socket keeps the boundaries of frames.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Octets of a question.
pub const QUESTION_OCTETS_MAX: usize = 2_048;
/// Octets of an answer.
pub const ANSWER_OCTETS_MAX: usize = 65_536;
/// Records of an answer; what a name server sends beyond is left out.
pub const RECORDS_MAX: usize = 64;
/// Octets of a domain name as text (RFC 1035 §3.1).
pub const NAME_OCTETS_MAX: usize = 253;
/// Octets of the mailbox in a question of SPF (RFC 5321 §4.5.3.1.3), and of any other text.
const TEXT_OCTETS_MAX: usize = 512;

/// What is asked.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Question {
    /// The names of an address (PTR).
    Pointers(IpAddr),
    /// The addresses of a name (A and AAAA).
    Addresses(Name),
    /// The mail exchangers of a name.
    Mx(Name),
    /// The texts of a name.
    Txt(Name),
    /// Whether a host may send for a domain.
    Spf(SpfQuestion),
}

/// A name that can be asked for: printable ASCII without blanks, in lower case, without the last dot. Underscores are
/// good here, unlike in the name of a host.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Name(Box<str>);

impl Name {
    /// Reads a name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let is_name =
            !text.is_empty() && text.len() <= NAME_OCTETS_MAX && text.split('.').all(is_label);
        is_name.then(|| Self(text.to_ascii_lowercase().into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_label(label: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'\\';
    (1..=63).contains(&label.len()) && label.bytes().all(is_plain)
}

/// What SPF is asked about (RFC 7208 §4.1).
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct SpfQuestion {
    /// The client.
    pub address: IpAddr,
    /// What it called itself.
    pub hello: String,
    /// The mailbox of MAIL FROM; empty for the null reverse-path.
    pub sender: String,
    /// Who asks, for explanations.
    pub hostname: String,
}

/// What SPF says (RFC 7208 §2.6).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SpfResult {
    /// No record.
    None,
    /// The domain says nothing of this client.
    Neutral,
    /// It may send.
    Pass,
    /// It may not.
    Fail,
    /// It probably may not.
    SoftFail,
    /// Nobody could be asked.
    TempError,
    /// The record is broken.
    PermError,
}

/// SPF's answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SpfAnswer {
    /// The result for [`Self::domain`].
    pub result: SpfResult,
    /// The domain that was checked.
    pub domain: String,
    /// What of the envelope it was taken from.
    pub identity: SpfIdentity,
}

/// Which name SPF has checked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SpfIdentity {
    /// HELO or EHLO.
    Hello,
    /// MAIL FROM.
    MailFrom,
}

/// A mail exchanger.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mx {
    /// Lower goes first.
    pub preference: u16,
    /// Its name; empty for the root, which says that the domain takes no mail (RFC 7505).
    pub exchange: String,
}

/// What was found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Records {
    /// To [`Question::Pointers`].
    Pointers(Vec<String>),
    /// To [`Question::Addresses`].
    Addresses(Vec<IpAddr>),
    /// To [`Question::Mx`], by preference.
    Mx(Vec<Mx>),
    /// To [`Question::Txt`]: the strings of a record joined.
    Txt(Vec<Vec<u8>>),
    /// To [`Question::Spf`].
    Spf(SpfAnswer),
}

/// What the child sends.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Frame {
    /// The answer to the question with this number.
    Answer(u64, Reply),
    /// What happened to the child. Number 0 is no question's.
    News(News),
}

/// An answer, and for how many seconds it is good.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reply {
    /// What was found out.
    pub outcome: Outcome,
    /// Seconds.
    pub ttl: u32,
}

/// What was found out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// These records.
    Found(Records),
    /// That there are none.
    Absent,
    /// Nothing: the servers cannot, or said nonsense.
    ServersFailed,
    /// Nothing, in the time that there was.
    TimedOut,
}

/// What happens to the child.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum News {
    /// It answers from now on, confined so.
    Ready(String),
    /// It cannot start.
    Refused(String),
    /// It ended, and is started again.
    Ended(String),
}

/// A question as a frame.
#[must_use]
pub fn write_question(id: u64, question: &Question) -> Vec<u8> {
    let mut frame = Writer::new(id);
    match question {
        Question::Pointers(address) => frame.octet(POINTERS).address(*address),
        Question::Addresses(name) => frame.octet(ADDRESSES).text(name.as_str()),
        Question::Mx(name) => frame.octet(MX).text(name.as_str()),
        Question::Txt(name) => frame.octet(TXT).text(name.as_str()),
        Question::Spf(question) => frame
            .octet(SPF)
            .address(question.address)
            .text(&question.hello)
            .text(&question.sender)
            .text(&question.hostname),
    };
    frame.0
}

/// Reads a question.
#[must_use]
pub fn read_question(frame: &[u8]) -> Option<(u64, Question)> {
    let mut frame = Reader::new(frame, QUESTION_OCTETS_MAX)?;
    let id = frame.number()?;
    let question = match frame.octet()? {
        POINTERS => Question::Pointers(frame.address()?),
        ADDRESSES => Question::Addresses(frame.name()?),
        MX => Question::Mx(frame.name()?),
        TXT => Question::Txt(frame.name()?),
        SPF => Question::Spf(SpfQuestion {
            address: frame.address()?,
            hello: frame.text(TEXT_OCTETS_MAX)?,
            sender: frame.text(TEXT_OCTETS_MAX)?,
            hostname: frame.text(TEXT_OCTETS_MAX)?,
        }),
        _ => return None,
    };
    frame.end()?;
    Some((id, question))
}

/// What the child says, as a frame. Records beyond [`RECORDS_MAX`], and what does not fit, are left out.
#[must_use]
pub fn write_frame(frame: &Frame) -> Vec<u8> {
    match frame {
        Frame::Answer(id, reply) => write_reply(*id, reply),
        Frame::News(news) => {
            let (kind, text) = match news {
                News::Ready(text) => (READY, text),
                News::Refused(text) => (REFUSED, text),
                News::Ended(text) => (ENDED, text),
            };
            let mut frame = Writer::new(0);
            frame.octet(kind).text(text);
            frame.0
        }
    }
}

/// Reads what the child says.
#[must_use]
pub fn read_frame(frame: &[u8]) -> Option<Frame> {
    let mut frame = Reader::new(frame, ANSWER_OCTETS_MAX)?;
    let id = frame.number()?;
    let kind = frame.octet()?;
    let read = if id == 0 {
        let text = frame.text(TEXT_OCTETS_MAX)?;
        Frame::News(match kind {
            READY => News::Ready(text),
            REFUSED => News::Refused(text),
            ENDED => News::Ended(text),
            _ => return None,
        })
    } else {
        let ttl = u32::try_from(frame.number()?).ok()?;
        let outcome = match kind {
            ABSENT => Outcome::Absent,
            SERVERS_FAILED => Outcome::ServersFailed,
            TIMED_OUT => Outcome::TimedOut,
            kind => Outcome::Found(read_records(kind, &mut frame)?),
        };
        Frame::Answer(id, Reply { outcome, ttl })
    };
    frame.end()?;
    Some(read)
}

fn write_reply(id: u64, Reply { outcome, ttl }: &Reply) -> Vec<u8> {
    let mut frame = Writer::new(id);
    let kind = match outcome {
        Outcome::Found(Records::Pointers(_)) => POINTERS,
        Outcome::Found(Records::Addresses(_)) => ADDRESSES,
        Outcome::Found(Records::Mx(_)) => MX,
        Outcome::Found(Records::Txt(_)) => TXT,
        Outcome::Found(Records::Spf(_)) => SPF,
        Outcome::Absent => ABSENT,
        Outcome::ServersFailed => SERVERS_FAILED,
        Outcome::TimedOut => TIMED_OUT,
    };
    frame.octet(kind).number(u64::from(*ttl));
    match outcome {
        Outcome::Found(Records::Pointers(names)) => {
            frame.list(names, |frame, name| {
                frame.text(name);
            });
        }
        Outcome::Found(Records::Addresses(addresses)) => {
            frame.list(addresses, |frame, address| {
                frame.address(*address);
            });
        }
        Outcome::Found(Records::Mx(exchangers)) => frame.list(exchangers, |frame, mx| {
            frame
                .octets(&mx.preference.to_be_bytes())
                .text(&mx.exchange);
        }),
        Outcome::Found(Records::Txt(texts)) => {
            frame.list(texts, |frame, text| {
                frame.long(text);
            });
        }
        Outcome::Found(Records::Spf(answer)) => {
            let identity = match answer.identity {
                SpfIdentity::Hello => 0,
                SpfIdentity::MailFrom => 1,
            };
            let result = SPF_RESULTS.iter().position(|each| *each == answer.result);
            let result = result.and_then(|index| u8::try_from(index).ok());
            frame
                .octet(result.unwrap_or_default())
                .octet(identity)
                .text(&answer.domain);
        }
        _ => {}
    }
    frame.0
}

fn read_records(kind: u8, frame: &mut Reader<'_>) -> Option<Records> {
    let records = match kind {
        POINTERS => Records::Pointers(frame.list(|frame| frame.text(NAME_OCTETS_MAX))?),
        ADDRESSES => Records::Addresses(frame.list(Reader::address)?),
        MX => Records::Mx(frame.list(|frame| {
            let preference = u16::from_be_bytes([frame.octet()?, frame.octet()?]);
            let exchange = frame.text(NAME_OCTETS_MAX)?;
            Some(Mx {
                preference,
                exchange,
            })
        })?),
        TXT => Records::Txt(frame.list(Reader::long)?),
        SPF => Records::Spf(SpfAnswer {
            result: *SPF_RESULTS.get(usize::from(frame.octet()?))?,
            identity: match frame.octet()? {
                0 => SpfIdentity::Hello,
                1 => SpfIdentity::MailFrom,
                _ => return None,
            },
            domain: frame.text(TEXT_OCTETS_MAX)?,
        }),
        _ => return None,
    };
    Some(records)
}

/// Appends to a frame.
struct Writer(Vec<u8>);

impl Writer {
    fn new(id: u64) -> Self {
        let mut writer = Self(Vec::with_capacity(64));
        writer.number(id);
        writer
    }

    fn octets(&mut self, octets: &[u8]) -> &mut Self {
        self.0.extend(octets);
        self
    }

    fn octet(&mut self, octet: u8) -> &mut Self {
        self.octets(&[octet])
    }

    fn number(&mut self, number: u64) -> &mut Self {
        self.octets(&number.to_be_bytes())
    }

    fn address(&mut self, address: IpAddr) -> &mut Self {
        match address {
            IpAddr::V4(address) => self.octet(4).octets(&address.octets()),
            IpAddr::V6(address) => self.octet(6).octets(&address.octets()),
        }
    }

    /// What is longer than any text may be is cut, which the reader of a question refuses to take for the whole.
    fn text(&mut self, text: &str) -> &mut Self {
        let text = &text[..text.floor_char_boundary(TEXT_OCTETS_MAX)];
        self.long(text.as_bytes())
    }

    fn long(&mut self, octets: &[u8]) -> &mut Self {
        let length = u16::try_from(octets.len()).unwrap_or(u16::MAX);
        self.octets(&length.to_be_bytes());
        self.octets(&octets[..usize::from(length)])
    }

    /// As many as may be, and fit.
    fn list<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) {
        let count_at = self.0.len();
        self.octet(0);
        for item in items.iter().take(RECORDS_MAX) {
            let before = self.0.len();
            write(self, item);
            if self.0.len() > ANSWER_OCTETS_MAX {
                self.0.truncate(before);
                break;
            }
            self.0[count_at] += 1;
        }
    }
}

/// Takes a frame apart.
struct Reader<'f>(&'f [u8]);

impl<'f> Reader<'f> {
    fn new(frame: &'f [u8], octets_max: usize) -> Option<Self> {
        (frame.len() <= octets_max).then_some(Self(frame))
    }

    fn octets(&mut self, length: usize) -> Option<&'f [u8]> {
        let (octets, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(octets)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.octets(N)?.try_into().ok()
    }

    fn octet(&mut self) -> Option<u8> {
        self.array().map(|[octet]| octet)
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn address(&mut self) -> Option<IpAddr> {
        match self.octet()? {
            4 => self.array().map(|octets| Ipv4Addr::from(octets).into()),
            6 => self.array().map(|octets| Ipv6Addr::from(octets).into()),
            _ => None,
        }
    }

    fn text(&mut self, octets_max: usize) -> Option<String> {
        let octets = self.long()?;
        (octets.len() <= octets_max).then_some(())?;
        String::from_utf8(octets).ok()
    }

    fn name(&mut self) -> Option<Name> {
        Name::parse(&self.text(NAME_OCTETS_MAX)?)
    }

    fn long(&mut self) -> Option<Vec<u8>> {
        let length = u16::from_be_bytes(self.array()?);
        self.octets(usize::from(length)).map(<[u8]>::to_vec)
    }

    fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = usize::from(self.octet()?);
        if count > RECORDS_MAX {
            return None;
        }
        (0..count).map(|_| read(self)).collect()
    }

    /// What is left over makes the whole frame wrong.
    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

const POINTERS: u8 = 1;
const ADDRESSES: u8 = 2;
const MX: u8 = 3;
const TXT: u8 = 4;
const SPF: u8 = 5;
const ABSENT: u8 = 16;
const SERVERS_FAILED: u8 = 17;
const TIMED_OUT: u8 = 18;
const READY: u8 = 32;
const REFUSED: u8 = 33;
const ENDED: u8 = 34;

/// In the order of their numbers in a frame.
const SPF_RESULTS: [SpfResult; 7] = [
    SpfResult::None,
    SpfResult::Neutral,
    SpfResult::Pass,
    SpfResult::Fail,
    SpfResult::SoftFail,
    SpfResult::TempError,
    SpfResult::PermError,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn questions() -> Vec<Question> {
        vec![
            Question::Pointers("192.0.2.1".parse().unwrap()),
            Question::Pointers("2001:db8::1".parse().unwrap()),
            Question::Addresses(name("host.example")),
            Question::Mx(name("example")),
            Question::Txt(name("_dmarc.example")),
            Question::Spf(SpfQuestion {
                address: "192.0.2.1".parse().unwrap(),
                hello: "host.example".to_owned(),
                sender: String::new(),
                hostname: "mx.example".to_owned(),
            }),
        ]
    }

    fn frames() -> Vec<Frame> {
        let found = [
            Records::Pointers(vec!["host.example".to_owned(), String::new()]),
            Records::Addresses(vec!["192.0.2.1".parse().unwrap(), "::1".parse().unwrap()]),
            Records::Mx(vec![Mx {
                preference: 10,
                exchange: "mx.example".to_owned(),
            }]),
            Records::Txt(vec![vec![0xff; 300], Vec::new()]),
            Records::Spf(SpfAnswer {
                result: SpfResult::SoftFail,
                domain: "example".to_owned(),
                identity: SpfIdentity::MailFrom,
            }),
        ];
        let outcomes = found.into_iter().map(Outcome::Found).chain([
            Outcome::Absent,
            Outcome::ServersFailed,
            Outcome::TimedOut,
        ]);
        let news = [News::Ready, News::Refused, News::Ended].map(|news| news("why".to_owned()));
        outcomes
            .map(|outcome| Frame::Answer(7, Reply { outcome, ttl: 300 }))
            .chain(news.map(Frame::News))
            .collect()
    }

    #[test]
    fn what_is_written_can_be_read() {
        for question in questions() {
            let frame = write_question(9, &question);
            assert_eq!(read_question(&frame), Some((9, question)));
        }
        for frame in frames() {
            assert_eq!(read_frame(&write_frame(&frame)), Some(frame));
        }
    }

    #[test]
    fn a_frame_is_whole_or_nothing() {
        let whole = questions().into_iter().map(|each| write_question(9, &each));
        for frame in whole.collect::<Vec<_>>() {
            for length in 0..frame.len() {
                assert_eq!(read_question(&frame[..length]), None);
            }
            assert_eq!(read_question(&[&frame[..], &[0]].concat()), None);
        }
        for frame in frames().iter().map(write_frame) {
            for length in 0..frame.len() {
                assert_eq!(read_frame(&frame[..length]), None);
            }
            assert_eq!(read_frame(&[&frame[..], &[0]].concat()), None);
        }
    }

    #[test]
    fn sizes_are_bounded() {
        let many = Records::Txt(vec![vec![b'x'; 2_000]; 300]);
        let reply = |records| {
            let outcome = Outcome::Found(records);
            Frame::Answer(1, Reply { outcome, ttl: 1 })
        };
        let frame = write_frame(&reply(many));
        assert!(frame.len() <= ANSWER_OCTETS_MAX);
        let fitting = (ANSWER_OCTETS_MAX - 18) / 2_002;
        assert_eq!(
            read_frame(&frame),
            Some(reply(Records::Txt(vec![vec![b'x'; 2_000]; fitting])))
        );
        let many = Records::Addresses(vec![Ipv4Addr::LOCALHOST.into(); 300]);
        let frame = write_frame(&reply(many));
        let expected = Records::Addresses(vec![Ipv4Addr::LOCALHOST.into(); RECORDS_MAX]);
        assert_eq!(read_frame(&frame), Some(reply(expected)));
        // One that counts more than may be is none, whatever follows.
        let mut boasting = write_frame(&reply(Records::Addresses(Vec::new())));
        *boasting.last_mut().unwrap() = 65;
        boasting.extend([4, 127, 0, 0, 1].repeat(65));
        assert_eq!(read_frame(&boasting), None);
        assert_eq!(read_frame(&[0; ANSWER_OCTETS_MAX + 1]), None);
    }

    #[test]
    fn names_are_plain() {
        for (text, expected) in [
            ("Host.Example.", Some("host.example")),
            ("_dmarc.example", Some("_dmarc.example")),
            ("", None),
            (".", None),
            ("a..b", None),
            ("a b", None),
            ("b\u{fc}cher.example", None),
            ("a\\.b", None),
            ("a\n.b", None),
        ] {
            let name = Name::parse(text);
            assert_eq!(name.as_ref().map(Name::as_str), expected, "{text}");
        }
        assert!(Name::parse(&"a".repeat(64)).is_none());
        assert!(Name::parse(&["a"; 127].join(".")).is_some());
        assert!(Name::parse(&["a"; 128].join(".")).is_none());
    }
}
