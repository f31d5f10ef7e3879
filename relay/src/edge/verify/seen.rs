//! What of a message must be kept while it passes, so that it can be verified once it is whole.
//!
//! A signature covers the header section, which is small and kept, and a hash of the body, which is computed on the way:
//! a message of any size is verified without being read a second time.

use std::collections::BTreeSet;

use aws_lc_rs::digest::{Context, SHA256};
use mail_auth::AuthenticatedMessage;
use mail_auth::common::crypto::{Algorithm, HashAlgorithm, HashContext};
use mail_auth::common::verify::VerifySignature;
use mail_auth::dkim::canonicalize::BodyHasher;
use mail_auth::dkim::{Canonicalization, Signature};

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
    hashes: Vec<(Canonicalization, BodyHasher<Context>)>,
    fits: bool,
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
    /// SHA-256 of the body, by the ways in which it was canonicalised.
    pub(super) hashes: Vec<(Canonicalization, Vec<u8>)>,
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
        let Some(Read { message, .. }) = read(&self.section) else {
            return Wanted::default();
        };
        let forms = message
            .body_hashes
            .iter()
            .filter(|(_, algorithm, length, _)| {
                *algorithm == HashAlgorithm::Sha256 && *length == 0
            });
        let hasher = |form| BodyHasher::new(Context::new(&SHA256), form, 0);
        self.hashes = forms.map(|(form, ..)| (*form, hasher(*form))).collect();
        Wanted::of(&message)
    }

    /// A piece of the body.
    pub(super) fn body(&mut self, part: &[u8]) {
        for (_, hasher) in &mut self.hashes {
            hasher.write(part);
        }
    }

    pub(super) fn finish(self) -> Evidence {
        let hashes = self.hashes.into_iter().map(|(form, hasher)| {
            let (context, _) = hasher.finish();
            (form, context.complete().as_ref().to_vec())
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

/// A header section that was read, within bounds on the work that it can make.
pub(super) struct Read<'x> {
    pub(super) message: AuthenticatedMessage<'x>,
    /// Signatures that are not looked at, and why.
    pub(super) unseen: Vec<(Signature, &'static str)>,
}

/// `None`: it has no fields, or too many.
pub(super) fn read(section: &[u8]) -> Option<Read<'_>> {
    let mut message = AuthenticatedMessage::parse(section)?;
    if message.headers.len() > FIELDS_MAX {
        return None;
    }
    let mut unseen = Vec::new();
    let mut seen = Vec::new();
    for signature in std::mem::take(&mut message.dkim_headers) {
        let refused = (seen.len() + unseen.len() >= SIGNATURES_MAX)
            .then_some("there are too many signatures")
            .or_else(|| weakness(signature.header.a, &signature.header.h));
        match refused {
            Some(_) if unseen.len() >= SIGNATURES_MAX => {}
            Some(reason) => unseen.push((signature.header, reason)),
            None => seen.push(signature),
        }
    }
    for signature in &mut seen {
        // Neither reports nor signatures on behalf of others are looked up.
        signature.header.r = false;
        signature.header.atps = None;
    }
    message.dkim_headers = seen;
    // Each is a line of what is said at the top.
    message.errors.truncate(SIGNATURES_MAX);
    let sets = &message.ams_headers;
    let is_weak = |a, h: &[String]| weakness(a, h).is_some();
    if message.as_headers.len() > ARC_SETS_MAX
        || sets.iter().any(|set| is_weak(set.header.a, &set.header.h))
        || message
            .as_headers
            .iter()
            .any(|seal| is_weak(seal.header.a, &[]))
    {
        message.has_arc_errors = true;
        message.ams_headers.clear();
        message.as_headers.clear();
    }
    Some(Read { message, unseen })
}

/// Why a signature is not looked at.
fn weakness(algorithm: Algorithm, fields: &[String]) -> Option<&'static str> {
    match algorithm {
        // RFC 8301 §3.1.
        Algorithm::RsaSha1 => Some("SHA-1 proves nothing"),
        _ => (fields.len() > SIGNED_FIELDS_MAX).then_some("it covers too many fields"),
    }
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
    if message.from.iter().any(|address| is_ambiguous(address)) {
        return Err(Unauthored::Several);
    }
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

/// Whether others may read another address out of it.
fn is_ambiguous(address: &str) -> bool {
    let (local_part, domain) = address.rsplit_once('@').unwrap_or((address, ""));
    let is_quoted =
        local_part.len() > 1 && local_part.starts_with('"') && local_part.ends_with('"');
    let splits = |text: &str| {
        text.contains(|letter: char| "@,;:<>".contains(letter) || letter.is_whitespace())
    };
    (!is_quoted && splits(local_part)) || splits(domain)
}

pub(super) fn a_label(domain: &str) -> String {
    mail_auth::common::to_a_label(domain).into_owned()
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
            &signed("simple/relaxed"),
            "\r\n",
        ]
        .concat();
        for body in bodies {
            let whole = [section.as_bytes(), body].concat();
            let expected = AuthenticatedMessage::parse(&whole).unwrap().body_hashes;
            assert_eq!(expected.len(), 2);
            for size in 1..=body.len().max(1) {
                let mut seen = Seen::new();
                seen.section(section.as_bytes());
                let wanted = seen.end_section();
                assert_eq!(wanted.author.as_deref(), Some("b.example"));
                assert_eq!(wanted.keys.len(), 1);
                body.chunks(size).for_each(|part| seen.body(part));
                let evidence = seen.finish();
                for (form, _, _, hash) in &expected {
                    let found = (*form, hash.clone());
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
        let found = read(section.as_bytes()).unwrap();
        assert_eq!(
            (found.message.dkim_headers.len(), found.unseen.len()),
            (0, 1)
        );

        let section = format!("From: a@b.example\r\n{}\r\n", "a: b\r\n".repeat(FIELDS_MAX));
        assert!(read(section.as_bytes()).is_none());

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
            (
                "From: A <a@b.example, c@d.example>\r\n",
                Err(Unauthored::Several),
            ),
            ("From: \"a, b\"@b.example\r\n", Ok("b.example")),
            ("From: nobody\r\n", Err(Unauthored::None)),
            (
                "From: a@b.example\r\nno field\r\nFrom: c@d.example\r\n",
                Err(Unauthored::Broken),
            ),
            ("Subject: x\r\n", Err(Unauthored::None)),
        ] {
            let section = format!("{fields}\r\n");
            let message = read(section.as_bytes()).unwrap().message;
            assert_eq!(author(&message), expected.map(str::to_owned), "{fields}");
        }
    }
}
