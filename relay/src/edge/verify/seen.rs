//! What of a message must be kept while it passes, so that it can be verified once it is whole.
//!
//! A signature covers the header section, which is small and kept, and a hash of the body, which is computed on the way:
//! a message of any size is verified without being read a second time.

use std::collections::BTreeSet;

use aws_lc_rs::digest::{self, Context};
use mail_auth::AuthenticatedMessage;
use mail_auth::common::crypto::{HashAlgorithm, HashContext};
use mail_auth::common::verify::VerifySignature;
use mail_auth::dkim::Canonicalization;
use mail_auth::dkim::canonicalize::BodyHasher;

/// Octets of a header section that is verified. Each message on its way may hold so much.
pub(super) const SECTION_OCTETS_MAX: usize = 128 * 1024;
/// Signatures of one message that are looked at: those on top, which were put there last.
pub(super) const SIGNATURES_MAX: usize = 8;
/// ARC sets of one message (RFC 8617 §4.2.1 allows 50); each may need a key of its own.
pub(super) const ARC_SETS_MAX: usize = 20;
/// Fields that one signature may list: every one of them is searched for in the whole section.
const SIGNED_FIELDS_MAX: usize = 256;
/// Fields of a header section that is searched.
const FIELDS_MAX: usize = 2_000;

/// A message as it passes.
pub(super) struct Seen {
    section: Vec<u8>,
    hashes: Vec<BodyHash>,
    fits: bool,
}

struct BodyHash {
    canonicalization: Canonicalization,
    algorithm: HashAlgorithm,
    hasher: BodyHasher<Context>,
}

/// Names that the signatures and the author of a message lead to.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Wanted {
    /// Where keys are.
    pub(super) keys: BTreeSet<String>,
    /// The one domain of the author.
    pub(super) author: Option<String>,
    /// Domains that signed.
    pub(super) signers: BTreeSet<String>,
}

/// What is left of a message that has passed.
pub(super) struct Evidence {
    pub(super) section: Vec<u8>,
    pub(super) hashes: Vec<(Canonicalization, HashAlgorithm, Vec<u8>)>,
    /// The header section was small enough to be kept.
    pub(super) fits: bool,
}

impl Seen {
    pub(super) fn new() -> Self {
        Self {
            section: Vec::new(),
            hashes: Vec::new(),
            fits: true,
        }
    }

    /// A piece of the header section, as the client sent it.
    pub(super) fn section(&mut self, part: &[u8]) {
        self.fits &= self.section.len() + part.len() <= SECTION_OCTETS_MAX;
        if self.fits {
            self.section.extend_from_slice(part);
        } else {
            self.section = Vec::new();
        }
    }

    /// Octets that are kept.
    pub(super) fn octets(&self) -> usize {
        self.section.capacity()
    }

    /// The header section is whole: what has to be asked, while the body still comes.
    pub(super) fn end_section(&mut self) -> Wanted {
        let Some(message) = parse(&self.section) else {
            return Wanted::default();
        };
        self.hashes = message
            .body_hashes
            .iter()
            .map(|(canonicalization, algorithm, length, _)| BodyHash {
                canonicalization: *canonicalization,
                algorithm: *algorithm,
                hasher: BodyHasher::new(context(*algorithm), *canonicalization, *length),
            })
            .collect();
        Wanted::of(&message)
    }

    /// A piece of the body.
    pub(super) fn body(&mut self, part: &[u8]) {
        for hash in &mut self.hashes {
            hash.hasher.write(part);
        }
    }

    pub(super) fn finish(self) -> Evidence {
        let hashes = self.hashes.into_iter().map(|hash| {
            let (context, _) = hash.hasher.finish();
            let octets = context.complete().as_ref().to_vec();
            (hash.canonicalization, hash.algorithm, octets)
        });
        Evidence {
            section: self.section,
            hashes: hashes.collect(),
            fits: self.fits,
        }
    }
}

impl Wanted {
    fn of(message: &AuthenticatedMessage<'_>) -> Self {
        let dkim = message
            .dkim_headers
            .iter()
            .map(|signature| &signature.header);
        let arc = message
            .ams_headers
            .iter()
            .map(|signature| &signature.header);
        let seals = message.as_headers.iter().map(|seal| &seal.header);
        Self {
            keys: dkim
                .clone()
                .map(VerifySignature::domain_key)
                .chain(arc.map(VerifySignature::domain_key))
                .chain(seals.map(VerifySignature::domain_key))
                .map(|key| key.to_lowercase())
                .collect(),
            author: author(message).ok(),
            signers: dkim.map(|signature| a_label(&signature.d)).collect(),
        }
    }
}

/// Reads a header section, within bounds on the work that it can make.
pub(super) fn parse(section: &[u8]) -> Option<AuthenticatedMessage<'_>> {
    let mut message = AuthenticatedMessage::parse(section)?;
    if message.headers.len() > FIELDS_MAX {
        return None;
    }
    message.dkim_headers.truncate(SIGNATURES_MAX);
    let is_short = |fields: &[String]| fields.len() <= SIGNED_FIELDS_MAX;
    message
        .dkim_headers
        .retain(|signature| is_short(&signature.header.h));
    for signature in &mut message.dkim_headers {
        // Neither reports nor signatures on behalf of others are looked up.
        signature.header.r = false;
        signature.header.atps = None;
    }
    let are_short = message
        .ams_headers
        .iter()
        .all(|set| is_short(&set.header.h));
    if message.as_headers.len() > ARC_SETS_MAX || !are_short {
        message.has_arc_errors = true;
        message.ams_headers.clear();
        message.as_headers.clear();
    }
    let used: Vec<_> = message
        .dkim_headers
        .iter()
        .map(|signature| (signature.header.cb, HashAlgorithm::from(signature.header.a)))
        .chain(
            message
                .ams_headers
                .iter()
                .map(|set| (set.header.cb, HashAlgorithm::from(set.header.a))),
        )
        .collect();
    message
        .body_hashes
        .retain(|(canonicalization, algorithm, ..)| {
            used.contains(&(*canonicalization, *algorithm))
        });
    Some(message)
}

/// Why a message has no one author domain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Unauthored {
    /// No mailbox with a domain in `From`.
    None,
    /// Several domains, or several such fields: what a reader shows may be another than what was verified.
    Several,
    /// A line that is no field: readers disagree on where the header section ends.
    Broken,
}

/// The domain that DMARC is about (RFC 7489 §6.6.1).
pub(super) fn author(message: &AuthenticatedMessage<'_>) -> Result<String, Unauthored> {
    if (message.body_offset as usize) < message.raw_message.len() {
        return Err(Unauthored::Broken);
    }
    let is_from = |name: &[u8]| name.trim_ascii().eq_ignore_ascii_case(b"from");
    let fields = message.headers.iter().filter(|(name, _)| is_from(name));
    let domains: BTreeSet<_> = message
        .from
        .iter()
        .filter_map(|address| Some(a_label(address.rsplit_once('@')?.1)))
        .collect();
    match (fields.count(), domains.len()) {
        (0, _) | (_, 0) => Err(Unauthored::None),
        (1, 1) => domains.into_iter().next().ok_or(Unauthored::None),
        _ => Err(Unauthored::Several),
    }
}

pub(super) fn a_label(domain: &str) -> String {
    mail_auth::common::to_a_label(domain).into_owned()
}

fn context(algorithm: HashAlgorithm) -> Context {
    Context::new(match algorithm {
        HashAlgorithm::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
        HashAlgorithm::Sha256 => &digest::SHA256,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNATURE: &str =
        "DKIM-Signature: v=1; a=rsa-sha256; c=CANON; d=d.example; s=s; h=From; bh=YWJj; b=YWJj\r\n";

    fn signed(canonicalization: &str) -> String {
        SIGNATURE.replace("CANON", canonicalization)
    }

    /// Every way to canonicalise gives what the whole message gives, whatever the pieces.
    #[test]
    fn hashes_are_those_of_the_whole() {
        let bodies: [&[u8]; 6] = [
            b"",
            b"\r\n",
            b"text",
            b"text \t with  blanks \r\n\r\n\r\n",
            b"\r\n\r\n a\r\n\r\n b \r\n \r\n",
            b"line\r\n.dots\r\n..\r\n\tend\r\n",
        ];
        let section = [
            "From: a@b.example\r\n",
            &signed("relaxed/relaxed"),
            &signed("relaxed/simple"),
            &signed("simple/relaxed").replace("sha256", "sha1"),
            &signed("simple/simple").replace("sha256", "sha1"),
            "\r\n",
        ]
        .concat();
        for body in bodies {
            let whole = [section.as_bytes(), body].concat();
            let expected = AuthenticatedMessage::parse(&whole).unwrap().body_hashes;
            assert_eq!(expected.len(), 4);
            for size in 1..=body.len().max(1) {
                let mut seen = Seen::new();
                seen.section(section.as_bytes());
                let wanted = seen.end_section();
                assert_eq!(wanted.author.as_deref(), Some("b.example"));
                assert_eq!(wanted.keys.len(), 1);
                body.chunks(size).for_each(|part| seen.body(part));
                let evidence = seen.finish();
                for (canonicalization, algorithm, _, hash) in &expected {
                    let found = (*canonicalization, *algorithm, hash.clone());
                    assert!(evidence.hashes.contains(&found), "{body:?} {size}");
                }
            }
        }
    }

    #[test]
    fn what_a_message_can_ask_for_is_bounded() {
        let many: String = (0..50)
            .map(|number| signed("simple/simple").replace("s=s", &format!("s=s{number}")))
            .collect();
        let section = format!("From: a@b.example\r\n{many}\r\n");
        let mut seen = Seen::new();
        seen.section(section.as_bytes());
        assert_eq!(seen.end_section().keys.len(), SIGNATURES_MAX);

        let long = signed("simple/simple").replace("h=From", &format!("h={}", "a:".repeat(300)));
        let section = format!("From: a@b.example\r\n{long}\r\n");
        assert_eq!(parse(section.as_bytes()).unwrap().dkim_headers.len(), 0);

        let section = format!("From: a@b.example\r\n{}\r\n", "a: b\r\n".repeat(FIELDS_MAX));
        assert!(parse(section.as_bytes()).is_none());

        let mut seen = Seen::new();
        seen.section(&vec![b'a'; SECTION_OCTETS_MAX]);
        seen.section(b"b");
        assert_eq!(seen.end_section(), Wanted::default());
        let evidence = seen.finish();
        assert_eq!((evidence.section.len(), evidence.fits), (0, false));
    }

    #[test]
    fn there_is_one_author_or_none() {
        for (fields, expected) in [
            ("From: A <a@B.example>\r\n", Ok("b.example")),
            (
                "From: a@b\u{fc}cher.example\r\n",
                Ok("xn--bcher-kva.example"),
            ),
            ("From: a@b.example, c@b.example\r\n", Ok("b.example")),
            (
                "From: a@b.example, c@d.example\r\n",
                Err(Unauthored::Several),
            ),
            (
                "From: a@b.example\r\nFrom: a@b.example\r\n",
                Err(Unauthored::Several),
            ),
            (
                "From: a@b.example\r\nfrom : c@d.example\r\n",
                Err(Unauthored::Several),
            ),
            ("From: nobody\r\n", Err(Unauthored::None)),
            (
                "From: a@b.example\r\nno field\r\nFrom: c@d.example\r\n",
                Err(Unauthored::Broken),
            ),
            ("Subject: x\r\n", Err(Unauthored::None)),
        ] {
            let section = format!("{fields}\r\n");
            let message = parse(section.as_bytes()).unwrap();
            assert_eq!(author(&message), expected.map(str::to_owned), "{fields}");
        }
    }
}
