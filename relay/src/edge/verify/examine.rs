//! DKIM, ARC and DMARC of one message, by mail-auth, from what was kept and looked up. It asks nobody and waits for
//! nothing; what it costs is processor time.

use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mail_auth::common::crypto::HashAlgorithm;
use mail_auth::dkim::{self, DkimError};
use mail_auth::dmarc::Policy as AuthPolicy;
use mail_auth::dmarc::verify::DmarcParameters;
use mail_auth::{
    AuthenticatedMessage, DkimOutput, DkimResult, DmarcOutput, DmarcResult, DnsError, Error,
    MessageAuthenticator, Parameters, SpfOutput,
};

use super::findings::{Dmarc, Findings, Judged, Policy, Result8601, Signature};
use super::seen::{self, Evidence, Read, Unauthored};
use super::texts::{Everywhere, Texts};
use crate::names::{SpfAnswer, SpfResult};

/// Octets of a signature that tell it from others (RFC 6008 §4).
const BEGINNING_OCTETS: usize = 6;

/// Verifies all that a message claims.
pub(super) fn examine(
    authenticator: &MessageAuthenticator,
    evidence: &Evidence,
    texts: &Texts,
    spf: SpfAnswer,
    client: IpAddr,
) -> Findings {
    let read = evidence.fits.then(|| seen::read(&evidence.section));
    let Some(Read {
        mut message,
        unseen,
    }) = read.flatten()
    else {
        return without_section(evidence, spf, client);
    };
    for (form, algorithm, _, hash) in &mut message.body_hashes {
        let of_body = evidence.hashes.iter().find(|(other, _)| other == form);
        let of_body = of_body.filter(|_| *algorithm == HashAlgorithm::Sha256);
        // One that was not computed matches nothing.
        *hash = of_body.map_or_else(Vec::new, |(_, octets)| octets.clone());
    }
    let dkim = at_once(authenticator.verify_dkim(Parameters::new(&message).with_txt_cache(texts)));
    let dkim = dkim.unwrap_or_default();
    let unseen = unseen.iter().map(|(signature, reason)| {
        described(Some(signature), Judged::because(Result8601::Policy, reason))
    });
    Findings {
        dkim: dkim.iter().map(signature).chain(unseen).collect(),
        dmarc: dmarc(authenticator, &message, texts, &dkim, &spf),
        arc: arc(authenticator, &message, texts),
        spf,
        client,
    }
}

/// There are no fields, or too much of them.
fn without_section(evidence: &Evidence, spf: SpfAnswer, client: IpAddr) -> Findings {
    let has_none = evidence.fits && AuthenticatedMessage::parse(&evidence.section).is_none();
    let judged = match has_none {
        true => Judged::because(Result8601::PermError, unauthored(Unauthored::None)),
        false => Judged::because(Result8601::Policy, "the header section is too large"),
    };
    unexamined(judged, spf, client)
}

/// Nothing but SPF is known.
pub(super) fn unexamined(judged: Judged, spf: SpfAnswer, client: IpAddr) -> Findings {
    Findings {
        spf,
        dkim: Vec::new(),
        dmarc: Dmarc {
            judged,
            author: None,
            policy: None,
        },
        arc: None,
        client,
    }
}

/// Everything that is asked for is there, so that nothing ever waits.
fn at_once<F: Future>(future: F) -> Option<F::Output> {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).as_mut().poll(&mut context) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

fn signature(output: &DkimOutput<'_>) -> Signature {
    described(output.signature(), judged(output.result()))
}

fn described(signature: Option<&dkim::Signature>, judged: Judged) -> Signature {
    let text = |field: fn(&dkim::Signature) -> &String| {
        signature.map_or_else(String::new, |signature| field(signature).clone())
    };
    let beginning = signature.map_or(&[][..], |signature| &signature.b);
    let length = beginning.len().min(BEGINNING_OCTETS);
    Signature {
        judged,
        domain: text(|signature| &signature.d),
        selector: text(|signature| &signature.s),
        beginning: STANDARD.encode(&beginning[..length]),
    }
}

fn judged(result: &DkimResult) -> Judged {
    let (result, error) = match result {
        DkimResult::Pass => return Judged::plain(Result8601::Pass),
        DkimResult::None => return Judged::plain(Result8601::None),
        DkimResult::Neutral(error) => (Result8601::Neutral, error),
        DkimResult::Fail(error) => (Result8601::Fail, error),
        DkimResult::PermError(error) => (Result8601::PermError, error),
        DkimResult::TempError(error) => (Result8601::TempError, error),
    };
    Judged::because(result, reason(error))
}

fn arc(
    authenticator: &MessageAuthenticator,
    message: &AuthenticatedMessage<'_>,
    texts: &Texts,
) -> Option<Judged> {
    let has_sets = !message.ams_headers.is_empty() || !message.as_headers.is_empty();
    if !has_sets && !message.has_arc_errors {
        return None;
    }
    let output = at_once(authenticator.verify_arc(Parameters::new(message).with_txt_cache(texts)));
    match output?.result() {
        // RFC 8617 §4.4 knows none, pass and fail.
        DkimResult::Neutral(error) => Some(Judged::because(Result8601::Fail, reason(error))),
        result => Some(judged(result)),
    }
}

fn dmarc(
    authenticator: &MessageAuthenticator,
    message: &AuthenticatedMessage<'_>,
    texts: &Texts,
    signatures: &[DkimOutput<'_>],
    spf: &SpfAnswer,
) -> Dmarc {
    let author = match seen::author(message) {
        Ok(author) => author,
        Err(unauthored) => {
            return Dmarc {
                judged: Judged::because(Result8601::PermError, self::unauthored(unauthored)),
                author: None,
                policy: None,
            };
        }
    };
    let output = SpfOutput::new(spf.domain.clone()).with_result(result_of(spf.result));
    let parameters = DmarcParameters::new(message, signatures, &spf.domain, &output);
    let parameters = Parameters::new(parameters)
        .with_txt_cache(texts)
        .with_ipv4_cache(&Everywhere);
    let output = at_once(authenticator.verify_dmarc(parameters)).unwrap_or_default();
    let judged = match output.result() {
        DmarcResult::Pass => Judged::plain(Result8601::Pass),
        DmarcResult::Fail(_) => Judged::plain(Result8601::Fail),
        DmarcResult::None => Judged::plain(Result8601::None),
        DmarcResult::TempError(error) => Judged::because(Result8601::TempError, reason(&error)),
        // A broken record is none (RFC 7489 §6.6.3).
        DmarcResult::PermError(_) => Judged::plain(Result8601::None),
    };
    Dmarc {
        policy: policy(&output, texts, &author),
        judged,
        author: Some(author),
    }
}

/// `p`, `sp` or `np`, whichever is meant.
fn policy(output: &DmarcOutput, texts: &Texts, author: &str) -> Option<Policy> {
    let record = output.dmarc_record()?;
    let is_nowhere = texts.author_is_nowhere && !texts.has_policy(author);
    let stated = match is_nowhere && record.p != AuthPolicy::Unspecified {
        true => record.np,
        false => return Some(plain(output.policy())),
    };
    // In test mode one step less is asked for (RFC 9989 §4.7).
    Some(match (plain(stated), record.t) {
        (Policy::Reject, true) => Policy::Quarantine,
        (Policy::Quarantine, true) => Policy::None,
        (policy, _) => policy,
    })
}

fn plain(policy: AuthPolicy) -> Policy {
    match policy {
        AuthPolicy::None | AuthPolicy::Unspecified => Policy::None,
        AuthPolicy::Quarantine => Policy::Quarantine,
        AuthPolicy::Reject => Policy::Reject,
    }
}

fn result_of(result: SpfResult) -> mail_auth::SpfResult {
    match result {
        SpfResult::None => mail_auth::SpfResult::None,
        SpfResult::Neutral => mail_auth::SpfResult::Neutral,
        SpfResult::Pass => mail_auth::SpfResult::Pass,
        SpfResult::Fail => mail_auth::SpfResult::Fail,
        SpfResult::SoftFail => mail_auth::SpfResult::SoftFail,
        SpfResult::TempError => mail_auth::SpfResult::TempError,
        SpfResult::PermError => mail_auth::SpfResult::PermError,
    }
}

fn unauthored(why: Unauthored) -> &'static str {
    match why {
        Unauthored::None => "there is no author",
        Unauthored::Several => "there are several authors",
        Unauthored::Broken => "the header section is broken",
    }
}

/// In our words: an error's own text may have words of the sender.
fn reason(error: &Error) -> &'static str {
    match error {
        Error::Dns(DnsError::Resolver(_)) => "DNS did not answer",
        Error::Dns(DnsError::RecordNotFound(_)) => "there is no key",
        Error::Dns(DnsError::InvalidRecordType) => "there is no usable key",
        Error::Dkim(DkimError::FailedBodyHashMatch) => "the body is not what was signed",
        Error::Dkim(DkimError::SignatureExpired) => "the signature has expired",
        Error::Dkim(DkimError::SignatureLength) => "the signature covers a part of the body",
        Error::Dkim(DkimError::RevokedPublicKey) => "the key was revoked",
        Error::Dkim(DkimError::FailedAuidMatch) => "it is not for this user",
        Error::Dkim(_) => "this kind of signature is not known",
        Error::Crypto(_) => "the signature is not that of the key",
        Error::Arc(mail_auth::arc::ArcError::FailedBodyHashMatch) => {
            "the body is not what was signed"
        }
        Error::Arc(_) => "the chain is broken",
        _ => "it cannot be read",
    }
}
