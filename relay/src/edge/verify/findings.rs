//! What verification found of one message, in words of RFC 8601.

use std::net::IpAddr;

use crate::names::{SpfAnswer, SpfIdentity, SpfResult};

/// A result (RFC 8601 §2.7).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Result8601 {
    Fail,
    Neutral,
    None,
    Pass,
    PermError,
    /// Ours: it was not looked at.
    Policy,
    SoftFail,
    TempError,
}

impl Result8601 {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Neutral => "neutral",
            Self::None => "none",
            Self::Pass => "pass",
            Self::PermError => "permerror",
            Self::Policy => "policy",
            Self::SoftFail => "softfail",
            Self::TempError => "temperror",
        }
    }
}

impl From<SpfResult> for Result8601 {
    fn from(result: SpfResult) -> Self {
        match result {
            SpfResult::None => Self::None,
            SpfResult::Neutral => Self::Neutral,
            SpfResult::Pass => Self::Pass,
            SpfResult::Fail => Self::Fail,
            SpfResult::SoftFail => Self::SoftFail,
            SpfResult::TempError => Self::TempError,
            SpfResult::PermError => Self::PermError,
        }
    }
}

/// Everything that was found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Findings {
    pub(crate) spf: SpfAnswer,
    /// One for each signature that was looked at.
    pub(crate) dkim: Vec<Signature>,
    pub(crate) dmarc: Dmarc,
    /// `None`: the message has no ARC set.
    pub(crate) arc: Option<Judged>,
    pub(crate) client: IpAddr,
}

/// A result and why.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Judged {
    pub(crate) result: Result8601,
    pub(crate) reason: Option<&'static str>,
}

/// One DKIM signature.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Signature {
    pub(crate) judged: Judged,
    pub(crate) domain: String,
    pub(crate) selector: String,
    /// The beginning of the signature itself, which tells it from others (RFC 6008).
    pub(crate) beginning: String,
}

/// What the author's domain wants to become of the message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Dmarc {
    pub(crate) judged: Judged,
    /// `None`: there is no one author.
    pub(crate) author: Option<String>,
    /// `None`: the domain has no policy.
    pub(crate) policy: Option<Policy>,
}

/// `p=`
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Policy {
    None,
    Quarantine,
    Reject,
}

impl Judged {
    pub(super) const fn plain(result: Result8601) -> Self {
        Self {
            result,
            reason: None,
        }
    }

    pub(super) const fn because(result: Result8601, reason: &'static str) -> Self {
        Self {
            result,
            reason: Some(reason),
        }
    }
}

impl Policy {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Quarantine => "quarantine",
            Self::Reject => "reject",
        }
    }
}

impl Findings {
    /// Whether the domain of the reverse-path is proven: SPF passed for it, or DMARC did.
    pub(crate) fn prove(&self, domain: &str) -> bool {
        let by_spf = self.spf.identity == SpfIdentity::MailFrom
            && self.spf.result == SpfResult::Pass
            && is_same(&self.spf.domain, domain);
        let author = self.dmarc.author.as_deref();
        let by_dmarc = self.dmarc.judged.result == Result8601::Pass
            && author.is_some_and(|author| is_same(author, domain));
        by_spf || by_dmarc
    }
}

pub(super) fn is_same(left: &str, right: &str) -> bool {
    let plain = |name: &str| super::seen::a_label(name.trim_end_matches('.'));
    plain(left) == plain(right)
}
