//! Domains, mailboxes and paths (RFC 5321 §4.1.2, RFC 6531 §3.3): parse, print, normalise.
//!
//! A local-part is kept byte for byte, because only the final server knows what it means; a domain
//! is compared in its A-label, lower-case form, because only that form is one name for one host.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::limits::{DOMAIN_OCTETS, LOCAL_PART_OCTETS, PATH_OCTETS};

/// Why a text is no address. Each earns another reply.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AddressError {
    /// A valid Unicode name that strict IDNA2008 does not allow (no mapping is tried).
    #[error("a domain name that IDNA does not allow")]
    Idna,
    /// A source route (`@a,@b:user@c`), obsolete since RFC 2821.
    #[error("source routes are not accepted")]
    SourceRoute,
    /// Not of the grammar of RFC 5321 §4.1.2.
    #[error("not a valid address")]
    Syntax,
    /// Longer than RFC 5321 §4.5.3.1 allows.
    #[error("address too long")]
    TooLong,
}

/// A domain name: A-labels, lower case, no trailing dot; at least one label.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Domain(String);

impl Domain {
    /// Reads a name in any case, in A-label or U-label form.
    ///
    /// # Errors
    /// [`AddressError`] when it is no host name, too long, or not allowed by IDNA2008.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.is_ascii() {
            let name = text.to_ascii_lowercase();
            check_ascii_domain(&name)?;
            if name.split('.').any(|label| label.starts_with("xn--")) {
                check_a_labels(&name)?;
            }
            return Ok(Self(name));
        }
        // Strict: what mapping would change (full-width letters, soft hyphens, joiners, upper case
        // outside ASCII) is a look-alike, not another spelling (R6531-1).
        let (unicode, valid) = idna::domain_to_unicode(text);
        if valid.is_err() || !same_but_ascii_case(&unicode, text) {
            return Err(AddressError::Idna);
        }
        let ascii = idna::domain_to_ascii_strict(text).map_err(|_| AddressError::Idna)?;
        check_ascii_domain(&ascii)?;
        Ok(Self(ascii))
    }

    /// The normalised name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Labels of the name: ATRN takes two or more (RFC 2645 §5.2.1).
    #[must_use]
    pub fn labels(&self) -> usize {
        self.0.split('.').count()
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Domain {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Domain {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Domain {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        Self::parse(&text)
    }
}

impl From<Domain> for String {
    fn from(domain: Domain) -> Self {
        domain.0
    }
}

/// `local-part@domain` as it was written, with the domain's normalised form beside it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Mailbox {
    text: String,
    at: usize,
    /// `None` for an address literal such as `[192.0.2.1]`.
    domain: Option<Domain>,
}

impl Mailbox {
    /// Reads `local-part@domain` without brackets.
    ///
    /// # Errors
    /// [`AddressError`] when the text is not of that form.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.len() + 2 > PATH_OCTETS {
            return Err(AddressError::TooLong);
        }
        let at = local_part_length(text)?;
        if at > LOCAL_PART_OCTETS {
            return Err(AddressError::TooLong);
        }
        let domain = text[at..].strip_prefix('@').ok_or(AddressError::Syntax)?;
        let domain = if domain.starts_with('[') {
            check_literal(domain)?;
            None
        } else {
            Some(Domain::parse(domain)?)
        };
        Ok(Self {
            text: text.to_owned(),
            at,
            domain,
        })
    }

    /// The local-part as it was written, quoting included.
    #[must_use]
    pub fn local_part(&self) -> &str {
        &self.text[..self.at]
    }

    /// The normalised domain; `None` for an address literal.
    #[must_use]
    pub fn domain(&self) -> Option<&Domain> {
        self.domain.as_ref()
    }

    /// Whether the address as written needs no SMTPUTF8.
    #[must_use]
    pub fn is_ascii(&self) -> bool {
        self.text.is_ascii()
    }

    /// The address as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The argument of MAIL. [`fmt::Display`] prints it without brackets.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub enum ReversePath {
    /// `<>`: a report, or another message that must not be answered (RFC 5321 §4.5.5).
    #[default]
    Null,
    /// `<local-part@domain>`
    Mailbox(Mailbox),
}

impl ReversePath {
    /// Reads an address without brackets; the empty text is the null reverse-path.
    ///
    /// # Errors
    /// [`AddressError`] when the text is neither.
    pub fn from_address(text: &str) -> Result<Self, AddressError> {
        if text.is_empty() {
            return Ok(Self::Null);
        }
        Mailbox::parse(strip_source_route(text)?).map(Self::Mailbox)
    }

    /// Whether the path as written needs no SMTPUTF8.
    #[must_use]
    pub fn is_ascii(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Mailbox(mailbox) => mailbox.is_ascii(),
        }
    }
}

impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => Ok(()),
            Self::Mailbox(mailbox) => mailbox.fmt(f),
        }
    }
}

/// The argument of RCPT. [`fmt::Display`] prints it without brackets.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum ForwardPath {
    /// `<Postmaster>` without a domain (RFC 5321 §4.1.1.3).
    Postmaster,
    /// `<local-part@domain>`
    Mailbox(Mailbox),
}

impl ForwardPath {
    /// Reads an address without brackets.
    ///
    /// # Errors
    /// [`AddressError`] when it is neither a mailbox nor `Postmaster`; a source route is refused
    /// here, because to ignore it would deliver to somebody the sender did not name first (R5321-6).
    pub fn from_address(text: &str) -> Result<Self, AddressError> {
        if text.eq_ignore_ascii_case("postmaster") {
            return Ok(Self::Postmaster);
        }
        if text.starts_with('@') {
            return Err(AddressError::SourceRoute);
        }
        Mailbox::parse(text).map(Self::Mailbox)
    }

    /// The domain that the mail is for; `None` for `<Postmaster>` and for an address literal.
    #[must_use]
    pub fn domain(&self) -> Option<&Domain> {
        match self {
            Self::Postmaster => None,
            Self::Mailbox(mailbox) => mailbox.domain(),
        }
    }

    /// Whether the path as written needs no SMTPUTF8.
    #[must_use]
    pub fn is_ascii(&self) -> bool {
        match self {
            Self::Postmaster => true,
            Self::Mailbox(mailbox) => mailbox.is_ascii(),
        }
    }

    /// Whether this is a postmaster's address, with or without a domain, in any case (RFC 5321 §4.5.1).
    #[must_use]
    pub fn is_postmaster(&self) -> bool {
        match self {
            Self::Postmaster => true,
            Self::Mailbox(mailbox) => mailbox.local_part().eq_ignore_ascii_case("postmaster"),
        }
    }
}

impl fmt::Display for ForwardPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postmaster => f.write_str("Postmaster"),
            Self::Mailbox(mailbox) => mailbox.fmt(f),
        }
    }
}

/// Splits `<path> rest` at the closing bracket, which a quoted local-part may hide, and gives the
/// path without brackets. One space before the bracket is tolerated: many senders put it there.
pub(super) fn split_path(argument: &str) -> Result<(&str, &str), AddressError> {
    let argument = argument.strip_prefix(' ').unwrap_or(argument);
    let inner = argument.strip_prefix('<').ok_or(AddressError::Syntax)?;
    let mut quoted = false;
    let mut escaped = false;
    for (position, octet) in inner.bytes().enumerate() {
        match octet {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => {
                let rest = &inner[position + 1..];
                if !(rest.is_empty() || rest.starts_with(' ')) {
                    return Err(AddressError::Syntax);
                }
                return Ok((&inner[..position], rest));
            }
            _ => {}
        }
    }
    Err(AddressError::Syntax)
}

/// What may stand for a host after EHLO: a domain or an address literal, kept as text for the trace
/// header. Underscores are tolerated: hosts with such names exist, and nothing depends on the name.
///
/// # Errors
/// [`AddressError::Syntax`] for anything else.
pub fn check_host(text: &str) -> Result<(), AddressError> {
    if text.starts_with('[') {
        return check_literal(text);
    }
    let legal = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_');
    if text.is_empty() || text.len() > DOMAIN_OCTETS || !text.bytes().all(legal) {
        return Err(AddressError::Syntax);
    }
    Ok(())
}

/// Length of the local-part at the start of `text`: a dot-string or a quoted string.
fn local_part_length(text: &str) -> Result<usize, AddressError> {
    if text.starts_with('"') {
        return quoted_string_length(text);
    }
    let end = text.find('@').ok_or(AddressError::Syntax)?;
    let is_atom = |atom: &str| !atom.is_empty() && atom.chars().all(is_atext);
    if text[..end].split('.').all(is_atom) {
        Ok(end)
    } else {
        Err(AddressError::Syntax)
    }
}

fn quoted_string_length(text: &str) -> Result<usize, AddressError> {
    let mut characters = text.char_indices().skip(1);
    while let Some((position, character)) = characters.next() {
        match character {
            '"' => return Ok(position + 1),
            '\\' => match characters.next() {
                Some((_, escaped)) if (' '..='~').contains(&escaped) => {}
                _ => return Err(AddressError::Syntax),
            },
            ' '..='~' => {}
            other if is_beyond_ascii(other) => {}
            _ => return Err(AddressError::Syntax),
        }
    }
    Err(AddressError::Syntax)
}

/// RFC 5321 `atext`, widened by RFC 6531 §3.3 to UTF-8.
fn is_atext(character: char) -> bool {
    character.is_ascii_alphanumeric()
        || "!#$%&'*+-/=?^_`{|}~".contains(character)
        || is_beyond_ascii(character)
}

/// `UTF8-non-ascii` of RFC 6531 §3.3, without what ends a line to somebody else (U+0085, U+2028, U+2029).
fn is_beyond_ascii(character: char) -> bool {
    let ends_line = matches!(character, '\u{2028}' | '\u{2029}');
    !character.is_ascii() && !character.is_control() && !ends_line
}

/// `@a,@b:user@c` → `user@c`: the route of a reverse-path is ignored (RFC 5321 §4.1.1.3).
fn strip_source_route(text: &str) -> Result<&str, AddressError> {
    if !text.starts_with('@') {
        return Ok(text);
    }
    let (route, mailbox) = text.split_once(':').ok_or(AddressError::Syntax)?;
    for hop in route.split(',') {
        Domain::parse(hop.strip_prefix('@').ok_or(AddressError::Syntax)?)?;
    }
    Ok(mailbox)
}

fn check_ascii_domain(name: &str) -> Result<(), AddressError> {
    if name.len() > DOMAIN_OCTETS {
        return Err(AddressError::TooLong);
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|octet| octet.is_ascii_alphanumeric() || octet == b'-')
    };
    if name.split('.').all(is_label) {
        Ok(())
    } else {
        Err(AddressError::Syntax)
    }
}

/// An A-label must be the one encoding of an allowed U-label: a second spelling of a name would
/// escape exact comparison.
fn check_a_labels(name: &str) -> Result<(), AddressError> {
    let (unicode, valid) = idna::domain_to_unicode(name);
    valid.map_err(|_| AddressError::Idna)?;
    match idna::domain_to_ascii_strict(&unicode) {
        Ok(again) if again == name => Ok(()),
        _ => Err(AddressError::Idna),
    }
}

fn same_but_ascii_case(left: &str, right: &str) -> bool {
    left.eq_ignore_ascii_case(right)
}

fn check_literal(text: &str) -> Result<(), AddressError> {
    let inner = text
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
        .ok_or(AddressError::Syntax)?;
    let valid = match inner.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => inner[5..].parse::<Ipv6Addr>().is_ok(),
        _ => inner.parse::<Ipv4Addr>().is_ok(),
    };
    if valid {
        Ok(())
    } else {
        Err(AddressError::Syntax)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers: R5321-6
    #[test]
    fn mailboxes_follow_the_grammar() {
        for good in [
            "user@example.com",
            "User.Name+tag@EXAMPLE.com",
            "\"quoted @ part\"@example.com",
            "\"a\\\"b\"@example.com",
            "user@[192.0.2.1]",
            "user@[IPv6:2001:db8::1]",
            "!#$%&'*+-/=?^_`{|}~@example.com",
            "grüße@bücher.example",
        ] {
            let mailbox = Mailbox::parse(good).unwrap();
            assert_eq!(mailbox.to_string(), good);
        }
        for bad in [
            "",
            "user",
            "@example.com",
            "user@",
            "a@b@c.example",
            ".user@example.com",
            "user.@example.com",
            "us..er@example.com",
            "user@example..com",
            "user@-example.com",
            "user@example.com.",
            "user (comment)@example.com",
            "user@[192.0.2.256]",
            "user@[x]",
            "\"open@example.com",
            "\"a\u{7}b\"@example.com",
            "a b@example.com",
            "a,b@example.com",
            "user@exa_mple.com",
            "a\u{0}b@example.com",
            "a\u{85}b@example.com",
            "a\u{2028}b@example.com",
            "\"a\u{2029}b\"@example.com",
        ] {
            assert!(Mailbox::parse(bad).is_err(), "{bad:?}");
        }
    }

    // covers: R5321-20
    #[test]
    fn lengths_of_rfc_5321_are_taken_and_no_more() {
        let local = "l".repeat(64);
        assert!(Mailbox::parse(&format!("{local}@example.com")).is_ok());
        assert_eq!(
            Mailbox::parse(&format!("{local}l@example.com")),
            Err(AddressError::TooLong)
        );
        let domain = format!(
            "{}.{}.{}.com",
            "a".repeat(63),
            "b".repeat(63),
            "c".repeat(50)
        );
        assert!(Mailbox::parse(&format!("{local}@{domain}")).is_ok());
        let long = vec!["d".repeat(63); 5].join(".");
        assert_eq!(Domain::parse(&long), Err(AddressError::TooLong));
    }

    // covers: R6531-1, R5321-8
    #[test]
    fn domains_compare_as_strict_a_labels() {
        let same = |left: &str, right: &str| {
            assert_eq!(Domain::parse(left).unwrap(), Domain::parse(right).unwrap());
        };
        same("EXAMPLE.com", "example.COM");
        same("bücher.example", "xn--bcher-kva.example");
        for look_alike in [
            "ｅxample.com",        // full-width e
            "exam\u{ad}ple.com",   // soft hyphen
            "exam\u{200d}ple.com", // zero-width joiner
            "example。com",        // ideographic full stop
            "BÜCHER.example",      // case outside ASCII is mapping
            "xn--.example",        // an A-label of nothing
            "xn--example-.com",
        ] {
            assert!(Domain::parse(look_alike).is_err(), "{look_alike}");
        }
    }

    #[test]
    fn paths_end_at_the_bracket_outside_quotes() {
        assert_eq!(
            split_path("<a@b.example> SIZE=1"),
            Ok(("a@b.example", " SIZE=1"))
        );
        assert_eq!(split_path(" <>"), Ok(("", "")));
        assert_eq!(split_path("<\">\"@b.example>"), Ok(("\">\"@b.example", "")));
        for bad in [
            "a@b.example",
            "<a@b.example",
            "<a@b.example>x",
            "  <a@b.example>",
        ] {
            assert_eq!(split_path(bad), Err(AddressError::Syntax), "{bad}");
        }
    }

    // covers: R5321-6
    #[test]
    fn source_routes_are_ignored_in_mail_and_refused_in_rcpt() {
        let path = ReversePath::from_address("@a.example,@b.example:user@c.example").unwrap();
        assert_eq!(path.to_string(), "user@c.example");
        assert_eq!(
            ForwardPath::from_address("@a.example:user@c.example"),
            Err(AddressError::SourceRoute)
        );
    }

    // covers: R5321-9
    #[test]
    fn postmaster_is_known_in_any_case() {
        assert_eq!(
            ForwardPath::from_address("pOstMaster"),
            Ok(ForwardPath::Postmaster)
        );
        assert!(
            ForwardPath::from_address("POSTMASTER@example.com")
                .unwrap()
                .is_postmaster()
        );
        assert!(
            !ForwardPath::from_address("post@example.com")
                .unwrap()
                .is_postmaster()
        );
    }
}
