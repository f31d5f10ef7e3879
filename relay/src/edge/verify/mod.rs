//! Who sent a message: SPF, DKIM, DMARC and ARC, and the field at its top that says so.
//!
//! A message is verified while it comes, and nothing of it is read twice: [`Forged`] takes out what claims to be our own
//! verdict, `seen` keeps the header section and hashes the body, DNS is asked meanwhile ([`Sender`] from the first recipient on, `texts`
//! from the end of the header section on), and `examine` judges all of it once the message is whole. What becomes of the
//! message then is decided in `policy`, and written down by `results`.

mod examine;
mod findings;
mod forged;
pub(crate) mod fuzzing;
mod policy;
mod results;
mod seen;
mod sender;
#[cfg(test)]
mod tests;
mod texts;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use atrn_shared::smtp::address::Domain;
use atrn_shared::smtp::reply::Reply;
use mail_auth::MessageAuthenticator;
use mail_auth::hickory_resolver::TokioResolver;
use mail_auth::hickory_resolver::config::{ResolveHosts, ResolverConfig};
use mail_auth::hickory_resolver::net::runtime::TokioRuntimeProvider;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use self::findings::{Findings, Judged, Result8601};
use self::forged::Forged;
use self::seen::Seen;
use self::texts::Texts;
use crate::config::Authentication;
use crate::names::{Names, Verdict};

pub(super) use self::sender::Sender;

/// How long a message that is whole may wait for the answers of DNS.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Verifies for all sessions. Clones are handles of the same one.
#[derive(Clone)]
pub(crate) struct Verifier(Arc<Parts>);

struct Parts {
    names: Names,
    /// Its resolver knows no name server and is never used.
    authenticator: MessageAuthenticator,
    /// Signatures cost processor time: so many messages at once.
    processors: Semaphore,
}

/// What is known of a message on its way in.
pub(super) struct Verification {
    forged: Forged,
    /// Pieces of the header section that stay.
    kept: Vec<u8>,
    /// `None`: nobody is asked.
    inquiry: Option<Inquiry>,
}

/// What is kept of a message, and asked about it.
struct Inquiry {
    verifier: Verifier,
    names: Names,
    seen: Seen,
    section: Section,
    /// The domain that SPF is about, if it is one.
    sender: Option<String>,
}

/// How far the header section is.
enum Section {
    Comes,
    Asked(AbortOnDropHandle<Texts>),
}

/// What was found, and what follows.
pub(super) struct Verified {
    findings: Option<Findings>,
    /// Fields that claimed to be ours and were left out.
    pub(super) forged: usize,
}

impl Verifier {
    /// A verifier that asks `names`.
    pub(crate) fn new(names: Names) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self(Arc::new(Parts {
            names,
            authenticator: authenticator(),
            processors: Semaphore::new(processors),
        }))
    }

    /// Whether anybody can be asked.
    pub(super) fn is_off(&self) -> bool {
        self.0.names.is_off()
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

/// mail-auth insists on a resolver. This one has nobody to ask, reads no file and trusts no certificate.
fn authenticator() -> MessageAuthenticator {
    let nobody = ResolverConfig::from_parts(None, Vec::new(), Vec::new());
    let mut builder = TokioResolver::builder_with_config(nobody, TokioRuntimeProvider::default())
        .with_tls_config(trusts_nobody());
    builder.options_mut().use_hosts_file = ResolveHosts::Never;
    builder.options_mut().cache_size = 0;
    let resolver = builder.build();
    MessageAuthenticator(resolver.expect("a resolver without name servers needs nothing"))
}

fn trusts_nobody() -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has the default versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth()
}

impl Verification {
    /// Content comes next.
    pub(super) fn new(hostname: &Domain) -> Self {
        Self {
            forged: Forged::new(hostname.clone()),
            kept: Vec::new(),
            inquiry: None,
        }
    }

    /// It is to be verified.
    pub(super) fn ask(&mut self, verifier: &Verifier, sender: &Sender) {
        self.inquiry = Some(Inquiry {
            verifier: verifier.clone(),
            names: sender.names().clone(),
            seen: Seen::new(),
            section: Section::Comes,
            sender: sender.domain(),
        });
    }

    /// Takes the next piece, and gives what is to be stored of it: the first part is what stays of the header section.
    pub(super) fn pass<'v>(&'v mut self, part: &'v [u8]) -> [&'v [u8]; 2] {
        self.kept.clear();
        let body = self.forged.pass(part, &mut self.kept);
        if let Some(inquiry) = &mut self.inquiry {
            let (section, _) = part.split_at(part.len() - body.len());
            if !section.is_empty() {
                inquiry.seen.section(section);
            }
            if self.forged.is_over() {
                inquiry.end_section();
                inquiry.seen.body(body);
            }
        }
        [&self.kept, body]
    }

    /// Octets of the message that are kept beside what is stored.
    pub(super) fn octets_kept(&self) -> usize {
        let inquiry = self.inquiry.as_ref();
        inquiry.map_or(0, |inquiry| inquiry.seen.octets())
    }

    /// The content is over: what was held back of it.
    pub(super) fn finish(&mut self) -> &[u8] {
        self.kept.clear();
        self.forged.finish(&mut self.kept);
        if let Some(inquiry) = &mut self.inquiry {
            inquiry.end_section();
        }
        &self.kept
    }

    /// What was found. `sender` has the answer of SPF.
    pub(super) async fn verified(self, sender: Option<&mut Sender>, client: IpAddr) -> Verified {
        let forged = self.forged.removed();
        let (Some(inquiry), Some(sender)) = (self.inquiry, sender) else {
            return Verified {
                findings: None,
                forged,
            };
        };
        let until = Instant::now() + WAIT_MAX;
        let spf = sender.spf(until).await;
        let texts = match inquiry.section {
            Section::Asked(asked) => timeout_at(until, asked).await,
            Section::Comes => Ok(Ok(Texts::default())),
        };
        // Without an answer in time every look-up has failed.
        let texts = texts.ok().and_then(Result::ok).unwrap_or_default();
        let Verifier(parts) = inquiry.verifier;
        let evidence = inquiry.seen.finish();
        let failed = Judged::because(Result8601::TempError, "it was not examined");
        let without = examine::unexamined(failed, spf.clone(), client);
        let examined = async {
            let _processor = parts.processors.acquire().await.ok()?;
            let shared = Arc::clone(&parts);
            let examined = spawn_blocking(move || {
                examine::examine(&shared.authenticator, &evidence, &texts, spf, client)
            });
            examined.await.ok()
        };
        Verified {
            findings: Some(examined.await.unwrap_or(without)),
            forged,
        }
    }
}

impl Inquiry {
    /// The header section is whole: asks for what it leads to, once.
    fn end_section(&mut self) {
        if matches!(self.section, Section::Comes) {
            let wanted = self.seen.end_section();
            let names = self.names.clone();
            let asked = tokio::spawn(Texts::of(names, wanted, self.sender.take()));
            self.section = Section::Asked(AbortOnDropHandle::new(asked));
        }
    }
}

impl Verified {
    /// Whether the message is taken.
    ///
    /// # Errors
    /// The refusal.
    pub(super) fn decide(&self, authentication: Authentication) -> Result<(), Reply> {
        match &self.findings {
            Some(findings) => policy::decide(authentication, findings),
            None => Ok(()),
        }
    }

    /// Whether this domain is proven to have sent it.
    pub(super) fn proves(&self, domain: &str) -> bool {
        let findings = self.findings.as_ref();
        findings.is_some_and(|findings| findings.prove(domain))
    }

    /// The field that says what was found; empty when nobody was asked.
    pub(super) fn header(&self, hostname: &Domain, iprev: Option<Iprev>) -> String {
        let findings = self.findings.as_ref();
        findings.map_or_else(String::new, |findings| {
            results::header(hostname.as_str(), findings, iprev.map(Iprev::judged))
        })
    }

    /// In a few words, for the log.
    pub(super) fn summary(&self) -> Option<String> {
        let findings = self.findings.as_ref()?;
        let dkim: Vec<_> = findings
            .dkim
            .iter()
            .map(|signature| signature.judged.result.word())
            .collect();
        let spf = Result8601::from(findings.spf.result).word();
        let dmarc = findings.dmarc.judged.result.word();
        let dkim = if dkim.is_empty() {
            "none".to_owned()
        } else {
            dkim.join(",")
        };
        Some(format!("spf={spf} dkim={dkim} dmarc={dmarc}"))
    }
}

/// Whether the names of the client's address lead back to it (RFC 8601 §2.7.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Iprev {
    /// One does.
    Confirmed,
    /// None of them does.
    Contradicted,
    /// It has no name.
    Nameless,
    /// Nobody could say.
    Trouble,
}

impl Iprev {
    /// What the names of a client say of its address alone; `None`: nobody was asked.
    pub(super) fn of(verdict: &Verdict) -> Option<Self> {
        match verdict {
            Verdict::NotAsked => None,
            Verdict::Verified(_) | Verdict::Unverified(Some(_)) => Some(Self::Confirmed),
            Verdict::Unverified(None) => Some(Self::Contradicted),
            Verdict::Nameless => Some(Self::Nameless),
            Verdict::Failed => Some(Self::Trouble),
        }
    }

    fn judged(self) -> Judged {
        Judged::plain(match self {
            Self::Confirmed => Result8601::Pass,
            Self::Contradicted => Result8601::Fail,
            Self::Nameless => Result8601::PermError,
            Self::Trouble => Result8601::TempError,
        })
    }
}

#[cfg(test)]
mod iprev_tests {
    use super::*;

    // covers: R8601-1
    #[test]
    fn only_an_answer_is_held_against_an_address() {
        let name = || Domain::parse("mail.example").unwrap();
        for (verdict, expected) in [
            (Verdict::NotAsked, None),
            (Verdict::Verified(name()), Some("pass")),
            (Verdict::Unverified(Some(name())), Some("pass")),
            (Verdict::Unverified(None), Some("fail")),
            (Verdict::Nameless, Some("permerror")),
            (Verdict::Failed, Some("temperror")),
        ] {
            let result = Iprev::of(&verdict).map(|iprev| iprev.judged().result.word());
            assert_eq!(result, expected, "{verdict:?}");
        }
    }
}
