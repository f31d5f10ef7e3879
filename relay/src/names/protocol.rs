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
