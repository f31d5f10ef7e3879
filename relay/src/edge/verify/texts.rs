//! DNS for mail-auth: every name that it will ask for is looked up beforehand, through the only way to DNS that there is.
//!
//! mail-auth brings a resolver of its own, which could not open a socket here. It never gets to use it: whatever it asks
//! for is answered from what was prepared, and what was not prepared is a failed look-up.

use std::borrow::Borrow;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use mail_auth::common::parse::TxtRecordParser;
use mail_auth::common::verify::DomainKey;
use mail_auth::dmarc::Dmarc;
use mail_auth::hickory_resolver::proto::op::ResponseCode;
use mail_auth::{DnsError, DnssecStatus, Error, RecordSet, ResolverCache, Txt};
use tokio::task::JoinSet;

use super::seen::{Wanted, a_label};
use crate::names::{Answer, Names};

const DMARC: &str = "_dmarc.";
/// Names that are looked up for one message: keys, and the walks of its author and of those who may stand for him.
const NAMES_MAX: usize = 64;

/// Answers for one message.
#[derive(Clone, Default)]
pub(super) struct Texts {
    records: HashMap<Box<str>, Txt>,
    /// Nothing at all is known of the author's domain.
    pub(super) author_is_nowhere: bool,
}

impl Texts {
    /// Asks for all that a message leads to. `sender` is the domain that SPF is about.
    pub(super) async fn of(names: Names, wanted: Wanted, sender: Option<String>) -> Self {
        let mut texts = Self::default();
        let walk = wanted.author.as_deref().map(walk).unwrap_or_default();
        let first = wanted.keys.iter().cloned().chain(walk.iter().cloned());
        texts.ask(&names, first.collect()).await;
        let Some(author) = wanted.author else {
            return texts;
        };
        // Without a policy nobody's alignment matters.
        let policies = walk.iter().filter_map(|name| texts.policy(name));
        let policies: Vec<_> = policies.collect();
        if policies.is_empty() {
            return texts;
        }
        let may_stand_for = |domain: &String| *domain != author && share_a_label(domain, &author);
        let others = wanted
            .signers
            .into_iter()
            .chain(sender.map(|name| a_label(&name)));
        let others: BTreeSet<_> = others.filter(may_stand_for).collect();
        let second = others.iter().flat_map(|domain| self::walk(domain));
        let has_own = texts.policy(&walk[0]).is_some();
        if !has_own && policies.iter().any(|record| record.np != record.sp) {
            texts.author_is_nowhere = is_nowhere(&names, &author).await;
        }
        texts.ask(&names, second.collect()).await;
        texts
    }

    async fn ask(&mut self, names: &Names, wanted: BTreeSet<String>) {
        let mut asked = JoinSet::new();
        for name in wanted {
            if self.records.len() + asked.len() >= NAMES_MAX {
                break;
            }
            if !self.records.contains_key(name.as_str()) {
                let names = names.clone();
                asked.spawn(async move {
                    let answer = names.txt(&name).await;
                    (name, answer)
                });
            }
        }
        while let Some(answer) = asked.join_next().await {
            if let Ok((name, answer)) = answer {
                let record = record(&name, answer);
                self.records.insert(name.into(), record);
            }
        }
    }

    /// The policy at this name.
    fn policy(&self, name: &str) -> Option<Arc<Dmarc>> {
        match self.records.get(name) {
            Some(Txt::Dmarc(record)) => Some(Arc::clone(record)),
            _ => None,
        }
    }

    /// Whether the domain has a policy of its own.
    pub(super) fn has_policy(&self, domain: &str) -> bool {
        self.policy(&format!("{DMARC}{domain}.")).is_some()
    }
}

/// RFC 9091 §2.7: neither a host nor a place for mail.
async fn is_nowhere(names: &Names, domain: &str) -> bool {
    let (addresses, exchangers) = tokio::join!(names.addresses(domain), names.mx(domain));
    addresses == Answer::Absent && exchangers == Answer::Absent
}

/// Where the policy of a domain may be: its own name, and from eight labels on at once its last seven; then up, label
/// by label (RFC 9989 §4.10).
fn walk(domain: &str) -> Vec<String> {
    let labels: Vec<_> = domain
        .split('.')
        .filter(|label| !label.is_empty())
        .collect();
    if labels.len() < 2 {
        return Vec::new();
    }
    let mut names = Vec::new();
    let mut count = labels.len();
    while count > 0 {
        names.push(format!(
            "{DMARC}{}.",
            labels[labels.len() - count..].join(".")
        ));
        count = if count >= 8 { 7 } else { count - 1 };
    }
    names
}

fn share_a_label(left: &str, right: &str) -> bool {
    left.rsplit('.').next() == right.rsplit('.').next()
}

/// The record that is meant by those at a name.
fn record(name: &str, answer: Answer<Vec<Vec<u8>>>) -> Txt {
    let texts = match answer {
        Answer::Found(texts) => texts,
        Answer::Absent => return Txt::Error(absent()),
        Answer::Trouble(_) => return Txt::Error(trouble()),
    };
    if name.starts_with(DMARC) {
        let mut records = texts.iter().filter_map(|text| Dmarc::parse(text).ok());
        // Several policies are none (RFC 7489 §6.6.3).
        return match (records.next(), records.next()) {
            (Some(record), None) => record.into(),
            _ => Txt::Error(absent()),
        };
    }
    let mut key = Err(Error::Dns(DnsError::InvalidRecordType));
    for text in &texts {
        key = DomainKey::parse(text);
        if key.is_ok() {
            break;
        }
    }
    key.into()
}

fn absent() -> Error {
    Error::Dns(DnsError::RecordNotFound(ResponseCode::NXDomain))
}

fn trouble() -> Error {
    Error::Dns(DnsError::Resolver(String::new()))
}

impl ResolverCache<Box<str>, Txt> for Texts {
    fn get<Q>(&self, name: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let record = self.records.get(name).cloned();
        Some(record.unwrap_or_else(|| Txt::Error(trouble())))
    }

    fn remove<Q>(&self, _: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        None
    }

    fn insert(&self, _: Box<str>, _: Txt, _: Instant) {}
}

/// To mail-auth every name has an address: what becomes of names that do not exist is decided by
/// [`Texts::author_is_nowhere`].
pub(super) struct Everywhere;

impl ResolverCache<Box<str>, RecordSet<Ipv4Addr>> for Everywhere {
    fn get<Q>(&self, _: &Q) -> Option<RecordSet<Ipv4Addr>>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        Some(RecordSet {
            rrset: Arc::new([]),
            dnssec_status: DnssecStatus::Indeterminate,
        })
    }

    fn remove<Q>(&self, _: &Q) -> Option<RecordSet<Ipv4Addr>>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        None
    }

    fn insert(&self, _: Box<str>, _: RecordSet<Ipv4Addr>, _: Instant) {}
}

#[cfg(test)]
impl Texts {
    /// What a name server would have said.
    pub(super) fn with(mut self, name: &str, answer: Answer<Vec<Vec<u8>>>) -> Self {
        let record = record(name, answer);
        self.records.insert(name.into(), record);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_goes_up_and_skips_what_is_too_deep() {
        assert_eq!(walk("example"), [] as [&str; 0]);
        assert_eq!(
            walk("a.b.example"),
            [
                "_dmarc.a.b.example.",
                "_dmarc.b.example.",
                "_dmarc.example."
            ]
        );
        let deep = walk("a.b.c.d.e.f.g.h.i.example");
        assert_eq!(deep.len(), 8);
        assert_eq!(
            deep[..2],
            [
                "_dmarc.a.b.c.d.e.f.g.h.i.example.",
                "_dmarc.d.e.f.g.h.i.example."
            ]
        );
    }

    #[test]
    fn two_policies_are_none() {
        let policy = || b"v=DMARC1; p=reject".to_vec();
        let other = || b"something else".to_vec();
        for (texts, is_policy) in [
            (vec![policy()], true),
            (vec![other(), policy()], true),
            (vec![policy(), policy()], false),
            (vec![other()], false),
        ] {
            let texts = Texts::default().with("_dmarc.a.example.", Answer::Found(texts));
            assert_eq!(texts.has_policy("a.example"), is_policy);
        }
    }
}
