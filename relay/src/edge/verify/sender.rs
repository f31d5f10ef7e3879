//! What DNS says of the reverse-path, asked beside the dialogue: whether its domain takes mail at all, and SPF.

use std::net::IpAddr;
use std::time::Duration;

use atrn_shared::smtp::address::{Domain, ReversePath};
use atrn_shared::smtp::reply::Reply;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::policy;
use crate::names::{Answer, Mx, Names, SpfAnswer, SpfIdentity, SpfQuestion, SpfResult};

/// How long the reply to RCPT may wait for the exchangers of the sender's domain.
const EXCHANGERS_WAIT: Duration = Duration::from_secs(2);

/// The look-ups about the sender of one message.
pub(in super::super) struct Sender {
    names: Names,
    /// `None`: of the null reverse-path, or an address literal.
    domain: Option<Domain>,
    /// `None`: it was not asked yet.
    takes_no_mail: Option<bool>,
    question: SpfQuestion,
    spf: Option<AbortOnDropHandle<Answer<SpfAnswer>>>,
}

impl Sender {
    /// A transaction is opened. Nobody is asked before somebody may get the message.
    pub(in super::super) fn of(
        names: Names,
        reverse_path: &ReversePath,
        client: IpAddr,
        hello: &str,
        hostname: &str,
    ) -> Self {
        let domain = crate::edge::policy::sender(reverse_path).cloned();
        Self {
            takes_no_mail: None,
            question: SpfQuestion {
                address: client.to_canonical(),
                hello: hello.to_owned(),
                sender: domain
                    .as_ref()
                    .map_or_else(String::new, |domain| mailbox(reverse_path, domain)),
                hostname: hostname.to_owned(),
            },
            domain,
            names,
            spf: None,
        }
    }

    /// Somebody may get the message: asks for SPF and for the exchangers of the sender's domain, and says whether anybody
    /// could answer.
    ///
    /// # Errors
    /// The refusal for a domain that takes no mail (R7505-1). Trouble is no answer, and lets the message in.
    pub(in super::super) async fn admit(&mut self) -> Result<(), Reply> {
        if self.spf.is_none() {
            let (names, question) = (self.names.clone(), self.question.clone());
            let asked = tokio::spawn(async move { names.spf(question).await });
            self.spf = Some(AbortOnDropHandle::new(asked));
        }
        let takes_no_mail = match self.takes_no_mail {
            Some(known) => known,
            None => self.has_null_mx().await,
        };
        self.takes_no_mail = Some(takes_no_mail);
        match takes_no_mail {
            true => Err(policy::null_mx()),
            false => Ok(()),
        }
    }

    async fn has_null_mx(&self) -> bool {
        let Some(domain) = &self.domain else {
            return false;
        };
        let asked = timeout(EXCHANGERS_WAIT, self.names.mx(domain.as_str()));
        matches!(asked.await, Ok(Answer::Found(exchangers)) if is_null(&exchangers))
    }

    /// Asks on behalf of who brings the message.
    pub(super) fn names(&self) -> &Names {
        &self.names
    }

    /// The domain that SPF is about.
    pub(in super::super) fn domain(&self) -> Option<String> {
        let domain = self.domain.as_ref().map(Domain::to_string);
        domain.or_else(|| {
            Domain::parse(&self.question.hello)
                .ok()
                .map(|hello| hello.to_string())
        })
    }

    /// What SPF says, as far as it is known until then.
    pub(super) async fn spf(&mut self, until: Instant) -> SpfAnswer {
        let answer = match self.spf.take() {
            Some(asked) => timeout_at(until, asked).await.ok().and_then(Result::ok),
            None => None,
        };
        let result = match answer {
            Some(Answer::Found(answer)) => return answer,
            Some(Answer::Absent) => SpfResult::None,
            Some(Answer::Trouble(_)) | None => SpfResult::TempError,
        };
        SpfAnswer {
            result,
            domain: self.domain().unwrap_or_default(),
            identity: match self.domain {
                Some(_) => SpfIdentity::MailFrom,
                None => SpfIdentity::Hello,
            },
        }
    }
}

/// RFC 7505 §3: one record only, and it leads to the root.
fn is_null(exchangers: &[Mx]) -> bool {
    matches!(exchangers, [only] if only.exchange.trim_end_matches('.').is_empty())
}

/// The mailbox with its domain as DNS has it.
fn mailbox(reverse_path: &ReversePath, domain: &Domain) -> String {
    match reverse_path {
        ReversePath::Mailbox(mailbox) => format!("{}@{domain}", mailbox.local_part()),
        ReversePath::Null => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers: R7505-1
    #[test]
    fn a_null_mx_stands_alone_and_leads_nowhere() {
        let exchangers = |names: &[&str]| -> Vec<Mx> {
            let mx = |name: &&str| Mx {
                preference: 0,
                exchange: (*name).to_owned(),
            };
            names.iter().map(mx).collect()
        };
        for (names, expected) in [
            (&[""][..], true),
            (&["."], true),
            (&["mx.example"], false),
            (&["", "mx.example"], false),
            (&[], false),
        ] {
            assert_eq!(is_null(&exchangers(names)), expected, "{names:?}");
        }
    }
}
